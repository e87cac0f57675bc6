package trigger

import (
	"cmp"
	"slices"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/rowformat"
	"github.com/skeindb/skein/internal/triggerformat"
)

// emission is a call of skein_emit, and how many row changes there had been.
type emission struct {
	call
	at int
}

// rowChange is what ordering needs of a row change.
type rowChange struct {
	kind     rowformat.Kind
	old, new string // the row's name before and after, of table and key
	told     bool   // something that was sent is about it
}

// placed is an emission in its place.
type placed struct {
	emission
	change int // the row change that it is about; -1: none of this transaction
	place  int // it belongs behind the row change of this number
}

// rowName is what is equal for two keys of the same row.
func rowName(table string, key []base.Value) string {
	name := append([]byte(table), 0)
	for _, v := range key {
		name = rowformat.AppendValue(name, v)
	}
	return string(name)
}

// readChanges lists the row changes of a body.
func readChanges(rows []byte) ([]rowChange, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	r, err := rowformat.NewReader(rows)
	if err != nil {
		return nil, err
	}
	list := make([]rowChange, 0, r.Changes())
	for r.Next() {
		rec := r.Record()
		c := rowChange{kind: rec.Kind}
		switch rec.Kind {
		case rowformat.Insert, rowformat.Update, rowformat.Delete, rowformat.Move:
			if rec.Old != nil {
				c.old = rowName(rec.Table.Name, keyOf(rec.Table, rec.RowID, rec.Old))
			}
			if rec.New != nil {
				c.new = rowName(rec.Table.Name, keyOf(rec.Table, rec.NewRowID, rec.New))
			}
		}
		list = append(list, c)
	}
	return list, r.Err()
}

func keyOf(t *rowformat.Table, rowid int64, values []base.Value) []base.Value {
	if t.HasRowID() {
		return []base.Value{base.IntValue(rowid)}
	}
	key := make([]base.Value, len(t.Key))
	for i, k := range t.Key {
		key[i] = values[k]
	}
	return key
}

// fits says that a call is about a row change.
func (c *rowChange) fits(op, name string) bool {
	if op == triggerformat.Delete {
		return c.kind != rowformat.Insert && c.old == name
	}
	return c.kind != rowformat.Delete && c.new == name
}

// arrange puts what was sent into the order of the row changes. The engine
// fires a row's AFTER triggers in an order of its own, and what a trigger
// changes is told before the triggers that follow it: so a call is about the
// latest change of its row that was not told yet, as calls return.
func arrange(changes []rowChange, sent []emission) []placed {
	untold := make(map[string][]int) // changes by row, not told
	next := 0
	list := make([]placed, 0, len(sent))
	for _, e := range sent {
		for ; next < len(changes) && next < e.at; next++ {
			noteUntold(untold, changes, next)
		}
		p := placed{emission: e, change: -1, place: e.at - 1}
		if triggerformat.IsRow(e.op) {
			name := rowName(e.table, e.key)
			stack := untold[name]
			for i := len(stack) - 1; i >= 0; i-- {
				if changes[stack[i]].fits(e.op, name) {
					p.change, p.place = stack[i], stack[i]
					changes[stack[i]].told = true
					untold[name] = slices.Delete(stack, i, i+1)
					break
				}
			}
		}
		list = append(list, p)
	}
	slices.SortStableFunc(list, func(a, b placed) int { return cmp.Compare(a.place, b.place) })
	return list
}

func noteUntold(untold map[string][]int, changes []rowChange, i int) {
	c := &changes[i]
	if c.new != "" {
		untold[c.new] = append(untold[c.new], i)
	}
	if c.old != "" && c.old != c.new {
		untold[c.old] = append(untold[c.old], i)
	}
}

package trigger

import (
	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/rowformat"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/triggerformat"
)

// call is one call of skein_emit: a record to be sent.
type call struct {
	op, table string
	key       []base.Value
	columns   []triggerformat.Column
}

// whole says that the row is sent as it is, with all its columns.
func (c *call) whole() bool {
	return triggerformat.IsRow(c.op) && c.op != triggerformat.Delete && len(c.columns) == 0
}

// parse reads the arguments of a call: operation and table, then for a row its
// key, then columns as pairs of name and value.
func parse(args []base.Value, tableOf func(name string) (rowformat.Table, bool)) (c call, err error) {
	if len(args) < 2 || args[0].Kind != base.Text || args[1].Kind != base.Text {
		return c, badCall("the first arguments are an operation and a table, as text")
	}
	c.op, c.table = string(args[0].Bytes), string(args[1].Bytes)
	rest := args[2:]
	if triggerformat.IsRow(c.op) {
		if rest, err = c.takeKey(rest, tableOf); err != nil {
			return c, err
		}
	}
	if len(rest)%2 != 0 {
		return c, badCall("%s %s: columns are pairs of a name and a value, and one is left over", c.op, c.table)
	}
	for ; len(rest) > 0; rest = rest[2:] {
		if rest[0].Kind != base.Text {
			return c, badCall("%s %s: a column's name is text", c.op, c.table)
		}
		c.columns = append(c.columns, triggerformat.Column{Name: string(rest[0].Bytes), Value: rest[1]})
	}
	if c.op == triggerformat.Delete && len(c.columns) > 0 {
		return c, badCall("delete %s: a row that goes is named by its key alone", c.table)
	}
	return c, nil
}

func (c *call) takeKey(rest []base.Value, tableOf func(string) (rowformat.Table, bool)) ([]base.Value, error) {
	t, known := tableOf(c.table)
	if !known {
		return nil, badCall("%s: there is no table %q; for a message use an operation of your own", c.op, c.table)
	}
	c.table = t.Name
	n := max(1, len(t.Key))
	if len(rest) < n {
		return nil, badCall("%s %s: rows of this table are named by %d values", c.op, c.table, n)
	}
	if t.HasRowID() && rest[0].Kind != base.Integer {
		return nil, badCall("%s %s: rows of this table are named by their rowid, an integer", c.op, c.table)
	}
	c.key = rest[:n]
	return rest[n:], nil
}

func badCall(format string, args ...any) error {
	e := base.Errorf(base.KindInvalid, sqlite.EmitFunction+": "+format, args...)
	return e.WithHint("skein_emit('insert', 'table', key...) sends a row, and name-value pairs behind the key choose what of it; any other operation sends a message")
}

package trigger

import (
	"context"
	"slices"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/rowformat"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/triggerformat"
)

// Row is a row as it is chosen. Its key's values have names, and are not
// repeated in Columns unless the triggers do so.
type Row struct {
	Table   string
	KeyName []string
	Key     []base.Value
	// Keyed says that the key is columns; else it is a rowid that is none.
	Keyed   bool
	Columns []triggerformat.Column
}

// ReadChosen calls each for every row of conn of which something is chosen, by
// table. What is chosen its insert trigger says, which is run on every row.
func ReadChosen(ctx context.Context, conn *sqlite.Conn, wants func(table string) bool, each func(Row) error) error {
	objects, err := row.Objects(conn)
	if err != nil {
		return err
	}
	if !isSetUp(objects) {
		return base.Errorf(base.KindUnavailable, "the triggers that say what is sent have not been made yet").WithHint("try again in a moment")
	}
	sand, err := newSandbox(ctx)
	if err != nil {
		return err
	}
	defer sand.close()
	keys, keyed := make(map[string][]string), make(map[string]bool)
	var failed error
	choices := choicesOf(objects, func(table string) []string {
		var err error
		if keys[table], keyed[table], err = row.KeyNames(conn, table); failed == nil {
			failed = err
		}
		return keys[table]
	})
	if failed != nil {
		return failed
	}
	for _, o := range objects {
		c := choices[o.Name]
		if o.Kind != "table" || c == nil || !wants(o.Name) {
			continue
		}
		r := chosenReader{sandbox: sand, chosen: c, key: keys[o.Name], keyed: keyed[o.Name], each: each}
		if _, r.columns, err = row.ColumnNames(conn, o.Name); err != nil {
			return err
		}
		if err := row.ReadBodies(conn, o.Name, r.row); err != nil {
			return err
		}
	}
	return nil
}

// chosenReader turns the rows of one table into what is chosen of them.
type chosenReader struct {
	sandbox *sandbox
	chosen  *chosen
	key     []string
	keyed   bool
	columns []string
	reader  rowformat.Reader
	each    func(Row) error
}

func (r *chosenReader) row(body []byte) error {
	if err := r.reader.Reset(body); err != nil {
		return err
	}
	if !r.reader.Next() {
		return r.reader.Err()
	}
	rec := r.reader.Record()
	key := keyOf(rec.Table, rec.NewRowID, rec.New)
	if r.chosen.all {
		return r.each(r.whole(rec, key))
	}
	calls, err := r.sandbox.comes(&r.chosen.declared, *rec.Table, body)
	if err != nil {
		return err
	}
	for _, c := range calls {
		switch {
		case !triggerformat.IsRow(c.op) || c.op == triggerformat.Delete:
		case !c.whole():
			err = r.each(Row{Table: c.table, KeyName: r.key, Keyed: r.keyed, Key: c.key, Columns: c.columns})
		case rowName(c.table, c.key) == rowName(rec.Table.Name, key):
			err = r.each(r.whole(rec, key))
		default:
			err = base.Errorf(base.KindUnsupported, "the insert trigger of table %q sends another row than the one that came", c.table).
				WithHint("no partial replica can begin: what it is to hold of each row, the row must say")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *chosenReader) whole(rec *rowformat.Record, key []base.Value) Row {
	out := Row{Table: rec.Table.Name, KeyName: r.key, Keyed: r.keyed, Key: key}
	for i, name := range r.columns {
		if !slices.Contains(r.key, name) {
			out.Columns = append(out.Columns, triggerformat.Column{Name: name, Value: rec.New[i]})
		}
	}
	return out
}

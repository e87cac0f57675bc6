package row

import (
	"iter"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/rowformat"
	"github.com/skeindb/skein/internal/sqlite"
)

// Change is one change of a body, for people. Its slices are valid until the
// next one is yielded.
type Change struct {
	// Op is "insert", "update", "delete", "move" (an update that gives the row
	// another rowid), "schema", "sequence" or "statistics".
	Op    string
	Table string
	// Key names the row before the change: its rowid, or its primary key.
	Key []base.Value
	// Old and New are the row's values before and after, in the order of
	// ColumnNames; nil where there was no row.
	Old, New []base.Value
	// SQL is the statement of a schema change.
	SQL string

	// Definition is how the body describes the table; nil where there is none.
	Definition *rowformat.Table
	// NewRowID is the row's rowid after the change, in tables that have rowids.
	NewRowID int64
}

// Describe yields the changes of a body in order; an error ends it.
func Describe(body []byte) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		r, err := rowformat.NewReader(body)
		for err == nil && r.Next() {
			if !yield(describe(r.Record()), nil) {
				return
			}
		}
		if err == nil {
			err = r.Err()
		}
		if err != nil {
			yield(Change{}, err)
		}
	}
}

func describe(rec *rowformat.Record) Change {
	c := Change{Op: rec.Kind.String(), Old: rec.Old, New: rec.New, SQL: string(rec.SQL)}
	switch {
	case rec.Kind == rowformat.Sequence:
		c.Table, c.Key = sequenceTable, []base.Value{rec.Name}
		c.Old, c.New = sequenceValues(rec.Before), sequenceValues(rec.After)
	case rec.Table != nil:
		c.Table, c.Definition, c.NewRowID = rec.Table.Name, rec.Table, rec.NewRowID
		c.Key = recordKey(rec)
	}
	return c
}

func sequenceValues(rows []rowformat.SequenceRow) []base.Value {
	var values []base.Value
	for _, row := range rows {
		values = append(values, row.Value)
	}
	return values
}

// recordKey returns what names the record's row.
func recordKey(rec *rowformat.Record) []base.Value {
	if rec.Table.HasRowID() {
		return []base.Value{base.IntValue(rec.RowID)}
	}
	values := rec.Old
	if rec.Kind == rowformat.Insert {
		values = rec.New
	}
	var key []base.Value
	for _, k := range rec.Table.Key {
		key = append(key, values[k])
	}
	return key
}

// ColumnNames names the values of a table's changes as the schema stands now,
// and the rowid if it is a column; "" when it is not. Both are empty when
// there is no such table.
func ColumnNames(conn *sqlite.Conn, name string) (rowid string, columns []string, err error) {
	t, err := readTable(conn, name, "")
	if err != nil || t == nil {
		return "", nil, err
	}
	for _, c := range t.columns {
		columns = append(columns, c.name)
	}
	return t.alias, columns, nil
}

package row

import (
	"fmt"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/rowformat"
)

// sequence gives a name in sqlite_sequence exactly the recorded rows. What
// stands there before is of no account: the inserts of this body have moved it
// already, and not always as on the leader. A row of another name on a wanted
// rowid is such a trace, whose own record follows.
func (a *Applier) sequence(rec *rowformat.Record) error {
	if same, err := a.sequenceHolds(rec); err != nil || same {
		return diverged(err)
	}
	if err := a.conn.RunOwn("DELETE FROM main.sqlite_sequence WHERE name IS ?1", rec.Name); err != nil {
		return diverged(err)
	}
	for _, row := range rec.After {
		err := a.conn.RunOwn("INSERT OR REPLACE INTO main.sqlite_sequence(rowid, name, seq) VALUES(?1, ?2, ?3)",
			base.IntValue(row.RowID), rec.Name, row.Value)
		if err != nil {
			return diverged(err)
		}
	}
	return nil
}

// sequenceHolds says that the recorded rows are there already.
func (a *Applier) sequenceHolds(rec *rowformat.Record) (bool, error) {
	stmt, err := a.conn.PrepareOwn("SELECT rowid, seq FROM main.sqlite_sequence WHERE name IS ?1 ORDER BY rowid")
	if err != nil {
		return false, err
	}
	defer stmt.Close()
	if err := stmt.Bind(1, rec.Name); err != nil {
		return false, err
	}
	same := true
	for i := 0; ; i++ {
		row, err := stmt.Step()
		if err != nil || !row {
			return same && i == len(rec.After), err
		}
		same = same && i < len(rec.After) && stmt.Column(0).Int == rec.After[i].RowID && stmt.Column(1).Equal(rec.After[i].Value)
	}
}

// statistics replaces the content of a table of the query planner, making it
// first if ANALYZE was never run here.
func (a *Applier) statistics(rec *rowformat.Record) error {
	if err := a.conn.RunOwn("ANALYZE sqlite_schema"); err != nil {
		return err
	}
	a.forget()
	p, err := a.plan(rec.Table)
	if err != nil {
		return err
	}
	if err := a.conn.RunOwn("DELETE FROM " + p.quoted()); err != nil {
		return diverged(err)
	}
	for _, row := range rec.Rows {
		insert := rowformat.Record{Kind: rowformat.Insert, Table: rec.Table, NewRowID: row.RowID, New: row.Values}
		if err := a.row(&insert); err != nil {
			return err
		}
	}
	a.version, err = a.conn.SchemaVersion()
	return err
}

// describeKey names a record's row for an error.
func describeKey(rec *rowformat.Record) string {
	text := "key"
	if rec.Table.HasRowID() {
		text = "rowid"
	}
	for _, v := range recordKey(rec) {
		text += " " + Show(v)
	}
	return text
}

// Show writes a value for an error, cut to a readable length.
func Show(v base.Value) string {
	cut := v.Bytes[:min(len(v.Bytes), 64)]
	switch v.Kind {
	case base.Integer:
		return fmt.Sprint(v.Int)
	case base.Real:
		return fmt.Sprint(v.Float)
	case base.Text:
		return fmt.Sprintf("%q", cut)
	case base.Blob:
		return fmt.Sprintf("x'%x'", cut)
	}
	return "NULL"
}

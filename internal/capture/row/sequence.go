package row

import (
	"slices"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/rowformat"
	"github.com/skeindb/skein/internal/sqlite"
)

// sequenceRow is a row of sqlite_sequence. A client may have put any value
// into both columns, and any number of rows under a name.
type sequenceRow struct {
	name base.Value
	rowformat.SequenceRow
}

func (a sequenceRow) equal(b sequenceRow) bool {
	return a.RowID == b.RowID && a.name.Equal(b.name) && a.Value.Equal(b.Value)
}

func readSequences(conn *sqlite.Conn) ([]sequenceRow, error) {
	var rows []sequenceRow
	err := query(conn, "SELECT rowid, name, seq FROM main.sqlite_sequence ORDER BY rowid", func(row *sqlite.Stmt) {
		s := sequenceRow{name: clone(row.Column(1))}
		s.RowID, s.Value = row.Column(0).Int, clone(row.Column(2))
		rows = append(rows, s)
	})
	return rows, err
}

// recordSequences adds a record for every name whose numbering has changed, or
// in whose table rows came or went. The second is needed too: the engine counts
// rows that were ignored, and does not count those that a failing INSERT OR
// FAIL leaves behind, while on a follower every row counts; and undoing a
// delete counts as well.
func (r *Recorder) recordSequences(m Mark) error {
	now, err := readSequences(r.conn)
	if err != nil {
		return err
	}
	var names []base.Value
	for _, id := range r.buffer.Tables(nil, m.at, r.numbered) {
		names = appendName(names, base.TextValue(r.buffer.Table(id).Name))
	}
	changed := !slices.EqualFunc(r.known, now, sequenceRow.equal)
	if changed {
		names = appendDifferent(appendDifferent(names, r.known, now), now, r.known)
	}
	for _, name := range names {
		r.buffer.Sequence(name, under(r.known, name), under(now, name))
	}
	if changed {
		r.known = now
		r.state.sequences++
	}
	return nil
}

// numbered accepts inserts and deletes in tables with AUTOINCREMENT.
func (r *Recorder) numbered(id rowformat.TableID, k rowformat.Kind) bool {
	if k != rowformat.Insert && k != rowformat.Delete {
		return false
	}
	t := r.tables[r.buffer.Table(id).Name]
	return t == nil || t.autoincrement // A table dropped since may have been one.
}

func appendName(names []base.Value, name base.Value) []base.Value {
	if slices.ContainsFunc(names, name.Equal) {
		return names
	}
	return append(names, name)
}

// appendDifferent appends the names of those rows of a that b does not have.
func appendDifferent(names []base.Value, a, b []sequenceRow) []base.Value {
	for _, row := range a {
		if !slices.ContainsFunc(b, row.equal) {
			names = appendName(names, row.name)
		}
	}
	return names
}

func under(rows []sequenceRow, name base.Value) []rowformat.SequenceRow {
	var list []rowformat.SequenceRow
	for _, row := range rows {
		if row.name.Equal(name) {
			list = append(list, row.SequenceRow)
		}
	}
	return list
}

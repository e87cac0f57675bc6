package row

import (
	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/rowformat"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/sqlite"
)

// Statement is called after each statement that ran well, before its savepoint
// is released. It records those that change the schema. An error means that
// the statement must be rolled back: a change of it could not be captured, or,
// with KindUnsupported, the schema it makes cannot be replicated.
func (r *Recorder) Statement(info sqlite.Info, sql string) error {
	r.fail(r.settleAll())
	if r.Err() == nil && info.Kind == session.Schema {
		r.fail(r.schemaStatement(info, sql))
	}
	return r.complete()
}

func (r *Recorder) schemaStatement(info sqlite.Info, sql string) error {
	switch info.Tag {
	case "REINDEX":
		r.buffer.Schema(sql, r.schema.hash(), true)
	case "ANALYZE":
		r.statistics = true
	}
	version, err := r.conn.SchemaVersion()
	if err != nil || version == r.schema.version {
		return err // Nothing has changed: IF NOT EXISTS, or a temporary object.
	}
	old := r.schema
	if err := r.reloadTables(); err != nil {
		return err
	}
	hash := r.schema.hash()
	if hash == old.hash() {
		if info.Tag == "DROP TABLE" { // One of the planner's tables.
			r.buffer.Schema(sql, hash, false)
		}
		return nil
	}
	var created []object
	if info.Tag == "CREATE TABLE" {
		created = r.schema.created(old)
	}
	if len(created) == 1 && !created[0].virtual {
		return r.createdTable(created[0], hash)
	}
	if len(created) > 1 {
		r.unseen = "" // Shadow tables: creating the virtual table fills them everywhere.
	}
	r.buffer.Schema(sql, hash, false)
	return nil
}

// createdTable records a new table by the text that the schema holds, which is
// plain also for CREATE TABLE AS, and the rows that the latter put into it.
func (r *Recorder) createdTable(o object, hash uint64) error {
	r.buffer.Schema(o.sql, hash, false)
	t := r.tables[o.name]
	if !t.definition().HasRowID() {
		return nil // CREATE TABLE AS cannot make one.
	}
	return query(r.conn, t.selectRows(false), func(row *sqlite.Stmt) {
		r.buffer.BeginInsert(t.id, row.Column(0).Int)
		for i := range t.columns {
			r.buffer.Value(row.Column(i + 1))
		}
		r.buffer.End()
	})
}

// recordContents adds what is told by content rather than by change.
func (r *Recorder) recordContents(m Mark) error {
	if r.statistics {
		if err := r.recordStatistics(); err != nil {
			return err
		}
	}
	if r.sequences {
		return r.recordSequences(m)
	}
	return nil
}

// recordStatistics adds the whole content of the planner's tables. ANALYZE
// changes some of it behind the hook, and in an order of the engine's choice.
func (r *Recorder) recordStatistics() error {
	for _, o := range r.schema.objects {
		if o.kind != "table" || !hasPrefixFold(o.name, statPrefix) {
			continue
		}
		t := r.tables[o.name]
		var rows []rowformat.StatisticsRow
		err := query(r.conn, t.selectRows(false), func(row *sqlite.Stmt) {
			s := rowformat.StatisticsRow{RowID: row.Column(0).Int}
			for i := range t.columns {
				s.Values = append(s.Values, clone(row.Column(i+1)))
			}
			rows = append(rows, s)
		})
		if err != nil {
			return err
		}
		r.buffer.Statistics(t.id, rows)
	}
	r.statistics = false
	return nil
}

// clone copies the bytes of a value that the engine owns.
func clone(v base.Value) base.Value {
	v.Bytes = append([]byte(nil), v.Bytes...)
	return v
}

package row

import (
	"fmt"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/rowformat"
	"github.com/skeindb/skein/internal/sqlite"
)

// Mark is a place in what a Recorder has captured.
type Mark struct {
	at    rowformat.Mark
	state state
}

// state counts what a Recorder has learnt from the database; what it has
// learnt since a mark may be wrong after a ROLLBACK to it.
type state struct {
	schemas   int // schemas read
	sequences int // contents of sqlite_sequence that Take has read
}

// Recorder captures the changes that a writer connection makes. It owns the
// connection's pre-update hook and is used by the goroutine that uses the
// connection, which is the only writer of the file meanwhile.
//
// The order of calls: Mark after BEGIN or SAVEPOINT; run a statement;
// Statement, when it ran well; when anything failed, ROLLBACK (TO) and then
// Rewind to the mark. Take before COMMIT, and Mark before anything else is run:
// what changes between Take and Mark is in no body, and an error.
type Recorder struct {
	conn   *sqlite.Conn
	buffer rowformat.Buffer
	tables map[string]*table // nil for tables whose changes are not recorded as rows
	schema *schema
	last   *table // the table of the last change
	lookup string // its name

	virtual    bool          // there are virtual tables: some write only when a savepoint opens
	sequences  bool          // sqlite_sequence exists
	known      []sequenceRow // sqlite_sequence where the next body begins
	statistics bool          // statistics have changed since the last Take
	state      state

	// What a ROLLBACK has made doubtful and could not be read again yet: the
	// connection may have been interrupted. Mark and Rewind try again.
	doubtSchema, doubtSequences bool
	doubt                       error

	rewritten []rewritten // rows that blob I/O wrote to, not recorded yet

	unseen   string // a table that changed but was not in the schema
	unseenAt rowformat.Mark
	err      error
	errAt    rowformat.Mark
	taken    bool // Take was called after the last Mark
	takenAt  rowformat.Mark
}

// NewRecorder reads the schema and starts to capture.
func NewRecorder(conn *sqlite.Conn) (*Recorder, error) {
	r := &Recorder{conn: conn, tables: make(map[string]*table)}
	r.doubtSchema, r.doubtSequences = true, true
	if r.refresh(); r.doubt != nil {
		return nil, r.doubt
	}
	conn.OnPreUpdate(r.change)
	return r, nil
}

// SchemasRead rises whenever the schema may have changed, by a statement or by
// a ROLLBACK.
func (r *Recorder) SchemasRead() int { return r.state.schemas }

// Close stops capturing; the connection stays open.
func (r *Recorder) Close() { r.conn.OnPreUpdate(nil) }

// Mark returns the present place.
func (r *Recorder) Mark() Mark {
	r.refresh()
	r.fail(r.flushVirtual())
	r.fail(r.settleAll())
	if r.taken && r.buffer.Mark().After(r.takenAt) {
		r.fail(base.Errorf(base.KindInternal, "rows have changed after the transaction was taken"))
	}
	r.taken = false
	return Mark{at: r.buffer.Mark(), state: r.state}
}

// Rewind forgets what was captured after m, and a failure since then. It is
// called after the ROLLBACK or ROLLBACK TO that undid it, when no interrupt of
// the connection is pending.
func (r *Recorder) Rewind(m Mark) {
	if !m.at.After(r.errAt) {
		r.err = nil
	}
	if !m.at.After(r.unseenAt) {
		r.unseen = ""
	}
	r.taken, r.rewritten = false, nil
	r.buffer.Rewind(m.at)
	r.doubtSchema = r.doubtSchema || m.state.schemas != r.state.schemas
	r.doubtSequences = r.doubtSequences || m.state.sequences != r.state.sequences
	r.refresh()
}

// Since returns how many changes were captured after m. Take may add some.
func (r *Recorder) Since(m Mark) int { return r.buffer.Since(m.at) }

// Size returns the bytes that are held; it bounds a transaction.
func (r *Recorder) Size() int { return r.buffer.Size() }

// Err returns why a change could not be captured; Statement and Take return it
// too. The statement must then be rolled back.
func (r *Recorder) Err() error {
	if r.err == nil {
		return r.doubt
	}
	return r.err
}

// complete also refuses changes of a table that is not in the known schema.
func (r *Recorder) complete() error {
	if r.doubt != nil {
		return r.doubt
	}
	if r.err == nil && r.unseen != "" {
		return base.Errorf(base.KindInternal, "capture: table %q has changed but is not in the known schema", r.unseen)
	}
	return r.err
}

// Take returns the body of everything after m and the number of changes in it,
// and forgets them: the caller commits, or rolls back and calls Rewind(m). A
// body without changes is nil. The bytes are valid until the next Take.
func (r *Recorder) Take(m Mark) (body []byte, changes int, err error) {
	r.fail(r.flushVirtual())
	r.fail(r.settleAll())
	if r.doubt == nil {
		r.fail(r.checkSchema())
	}
	if r.err == nil && r.doubt == nil {
		r.fail(r.recordContents(m))
	}
	if err := r.complete(); err != nil {
		return nil, 0, err
	}
	if changes = r.buffer.Since(m.at); changes > 0 {
		body = r.buffer.Body(m.at)
	}
	r.buffer.Rewind(m.at)
	r.taken, r.takenAt = true, r.buffer.Mark()
	return body, changes, nil
}

func (r *Recorder) fail(err error) {
	if err != nil && r.err == nil {
		r.err, r.errAt = fmt.Errorf("capture: %w", err), r.buffer.Mark()
	}
}

// flushVirtual makes full-text tables write what they hold back: they do so
// when a savepoint opens, and otherwise not before COMMIT, which is too late.
func (r *Recorder) flushVirtual() error {
	if !r.virtual || !r.conn.InTransaction() {
		return nil
	}
	for _, sql := range [...]string{"SAVEPOINT _skein_flush", "RELEASE _skein_flush"} {
		stmt, err := r.conn.PrepareOwn(sql)
		if err != nil {
			return err
		}
		err = stmt.Run()
		stmt.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// refresh reads again what is in doubt.
func (r *Recorder) refresh() {
	var err error
	if r.doubtSchema {
		err = r.reloadTables()
		r.doubtSchema = err != nil
	}
	if err == nil && r.doubtSequences {
		err = r.reloadSequences()
		r.doubtSequences = err != nil
	}
	if r.doubt = nil; err != nil {
		r.doubt = fmt.Errorf("capture: %w", err)
	}
}

// reloadSequences reads sqlite_sequence, at a place where a body will begin.
func (r *Recorder) reloadSequences() (err error) {
	r.state.sequences++
	r.known = nil
	if r.sequences {
		r.known, err = readSequences(r.conn)
	}
	return err
}

func (r *Recorder) reloadTables() error {
	r.state.schemas++
	s, err := readSchema(r.conn)
	if err != nil {
		return err
	}
	empty := r.buffer.Since(rowformat.Mark{}) == 0
	if empty {
		r.buffer.ForgetTables()
	}
	tables := make(map[string]*table)
	for i := range s.objects {
		o := &s.objects[i]
		if o.kind != "table" || o.virtual || isOwn(o.name) {
			continue
		}
		t := r.tables[o.name]
		if t == nil || t.sql != o.sql {
			if t, err = readTable(r.conn, o.name, o.sql); err != nil {
				return err
			}
			t.id = r.buffer.Register(t.definition())
		} else if empty {
			t.id = r.buffer.Register(t.definition())
		}
		tables[o.name] = t
	}
	r.tables, r.schema, r.last, r.lookup = tables, s, nil, ""
	r.virtual, r.sequences = s.hasVirtual(), s.has(sequenceTable)
	return nil
}

// checkSchema makes sure that no schema change went unnoticed. Changes of our
// own tables need no record.
func (r *Recorder) checkSchema() error {
	version, err := r.conn.SchemaVersion()
	if err != nil || version == r.schema.version {
		return err
	}
	before := r.schema.hash()
	if err := r.reloadTables(); err != nil {
		return err
	}
	if r.schema.hash() != before {
		return base.Errorf(base.KindInternal, "the schema has changed by a statement that was not recorded")
	}
	return nil
}

// change is the pre-update hook.
func (r *Recorder) change(p sqlite.PreUpdate) {
	if p.Schema != "main" || r.err != nil || r.doubt != nil {
		return // A temporary table, VACUUM's copy, or no use.
	}
	t := r.last
	if p.Table != r.lookup || t == nil {
		if t = r.find(p.Table); t == nil {
			return
		}
	}
	if p.Count() != t.hookColumns {
		r.fail(base.Errorf(base.KindInternal, "table %q has %d columns, expected %d", p.Table, p.Count(), t.hookColumns))
		return
	}
	r.fail(r.record(t, &p))
}

// find returns the table whose changes are recorded as rows under a name.
func (r *Recorder) find(name string) *table {
	switch {
	case name == sequenceTable: // Take compares its content.
	case hasPrefixFold(name, statPrefix):
		r.statistics = true
	case isOwn(name):
	case r.tables[name] == nil:
		if r.unseen == "" {
			r.unseen, r.unseenAt = name, r.buffer.Mark()
		}
	default:
		r.last, r.lookup = r.tables[name], name
		return r.last
	}
	return nil
}

func (r *Recorder) record(t *table, p *sqlite.PreUpdate) (err error) {
	if p.Op == sqlite.Delete && p.BlobWrite() >= 0 {
		return r.noteBlobWrite(t, p)
	}
	if len(r.rewritten) > 0 {
		if err := r.settleBefore(t, p); err != nil {
			return err
		}
	}
	switch p.Op {
	case sqlite.Insert:
		r.buffer.BeginInsert(t.id, p.NewRowID)
		for i := 0; i < len(t.columns) && err == nil; i++ {
			err = r.value(p.New, t.columns[i].hook)
		}
	case sqlite.Delete:
		r.buffer.BeginDelete(t.id, p.OldRowID)
		for i := 0; i < len(t.columns) && err == nil; i++ {
			err = r.value(p.Old, t.columns[i].hook)
		}
	default:
		r.buffer.BeginUpdate(t.id, p.OldRowID, p.NewRowID)
		for i := 0; i < len(t.columns) && err == nil; i++ {
			err = r.pair(p, t.columns[i].hook)
		}
	}
	if err != nil {
		r.buffer.Abort()
		return fmt.Errorf("table %q: %w", t.name, err)
	}
	r.buffer.End()
	return nil
}

func (r *Recorder) value(read func(int) (base.Value, error), column int) error {
	v, err := read(column)
	if err == nil {
		r.buffer.Value(v)
	}
	return err
}

func (r *Recorder) pair(p *sqlite.PreUpdate, column int) error {
	before, err := p.Old(column)
	if err != nil {
		return err
	}
	r.buffer.Before(before) // The next call may reuse its bytes.
	after, err := p.New(column)
	if err != nil {
		return err
	}
	r.buffer.After(after)
	return nil
}

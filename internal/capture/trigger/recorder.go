package trigger

import (
	"context"
	"fmt"
	"slices"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/rowformat"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/triggerformat"
)

const (
	createChangesSQL = `CREATE TABLE IF NOT EXISTS ` + sqlite.ChangesTable + ` (
	id INTEGER PRIMARY KEY, after INTEGER NOT NULL, op TEXT NOT NULL, "table" TEXT NOT NULL, record BLOB NOT NULL)`
	addChangeSQL     = `INSERT INTO main.` + sqlite.ChangesTable + `(after, op, "table", record) VALUES(?1, ?2, ?3, ?4)`
	readChangesSQL   = `SELECT after, op, "table", record FROM main.` + sqlite.ChangesTable + ` ORDER BY id`
	removeChangesSQL = "DELETE FROM main." + sqlite.ChangesTable
)

// Recorder captures what a writer connection changes, and what triggers send.
// It is used as a row.Recorder is.
type Recorder struct {
	*row.Recorder
	ctx      context.Context
	conn     *sqlite.Conn
	called   bool // skein_emit has been called since the last Take
	schemas  int  // what choices and sandbox were made from
	choices  map[string]*chosen
	ordinary []string // tables that can have triggers, as of schemas
	sandbox  *sandbox
	body     []byte
}

// NewRecorder makes the table of changes where it is missing, and starts to
// capture.
func NewRecorder(ctx context.Context, conn *sqlite.Conn) (*Recorder, error) {
	if err := conn.Exec(createChangesSQL); err != nil {
		return nil, fmt.Errorf("make the table of changes: %w", err)
	}
	rows, err := row.NewRecorder(conn)
	if err != nil {
		return nil, err
	}
	r := &Recorder{Recorder: rows, ctx: ctx, conn: conn, schemas: -1, called: true}
	if err := r.refresh(); err != nil {
		rows.Close()
		return nil, err
	}
	conn.OnEmit(r.emitted)
	return r, nil
}

// Close stops capturing; the connection stays open.
func (r *Recorder) Close() {
	r.conn.OnEmit(nil)
	r.dropSandbox()
	r.Recorder.Close()
}

func (r *Recorder) dropSandbox() {
	if r.sandbox != nil {
		r.sandbox.close()
		r.sandbox = nil
	}
}

// emitted keeps a call until its transaction ends, or with it goes.
func (r *Recorder) emitted(args []base.Value) error {
	c, err := parse(args, r.Table)
	if err != nil {
		return err
	}
	r.called = true
	record := base.Value{Kind: base.Blob, Bytes: triggerformat.AppendContent(nil, c.key, c.columns)}
	return r.conn.RunOwn(addChangeSQL, base.IntValue(int64(r.Held())), base.TextValue(c.op), base.TextValue(c.table), record)
}

// Take returns the body of everything after m and the number of seqs that it
// takes, and forgets it, as row.Recorder.Take does.
func (r *Recorder) Take(m row.Mark) (body []byte, count int, err error) {
	before := r.Held() - r.Since(m)
	sent, err := r.emissions(before)
	if err != nil {
		return nil, 0, fmt.Errorf("capture: %w", err)
	}
	rows, changes, err := r.Recorder.Take(m)
	if err != nil || changes == 0 && len(sent) == 0 {
		return nil, 0, err
	}
	records, err := r.records(rows, sent)
	if err != nil {
		return nil, 0, fmt.Errorf("capture: %w", err)
	}
	r.body = triggerformat.Append(r.body[:0], rows, records)
	return r.body, changes + len(records), nil
}

// emissions takes what was sent out of the table, with the number of row
// changes since the mark that had been made before.
func (r *Recorder) emissions(before int) (list []emission, err error) {
	if !r.called {
		return nil, nil
	}
	for st, err := range r.conn.QueryOwn(readChangesSQL) {
		if err != nil {
			return nil, err
		}
		e := emission{at: int(st.Column(0).Int) - before}
		e.op, e.table = string(st.Column(1).Bytes), string(st.Column(2).Bytes)
		if e.key, e.columns, err = triggerformat.DecodeContent(slices.Clone(st.Column(3).Bytes)); err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	if len(list) > 0 {
		if err := r.conn.RunOwn(removeChangesSQL); err != nil {
			return nil, err
		}
	}
	r.called = false
	return list, nil
}

// Rewind forgets what was captured after m. What was sent has gone with the
// ROLLBACK; that of before may still be there.
func (r *Recorder) Rewind(m row.Mark) {
	r.Recorder.Rewind(m)
	r.called = true
}

// records turns what was sent into the records of the body, in order.
func (r *Recorder) records(rows []byte, sent []emission) ([]triggerformat.Sent, error) {
	if err := r.refresh(); err != nil {
		return nil, err
	}
	if len(sent) == 0 && len(r.choices) == 0 {
		return nil, nil
	}
	changes, err := readChanges(rows)
	if err != nil {
		return nil, err
	}
	list := arrange(changes, sent)
	unseen, err := r.unseen(rows, changes)
	if err != nil {
		return nil, err
	}
	out := make([]triggerformat.Sent, 0, len(list)+len(unseen))
	for _, p := range list {
		// What REPLACE has removed goes before what came instead.
		for len(unseen) > 0 && unseen[0].place <= p.place {
			out, unseen = append(out, explicit(&unseen[0].call)), unseen[1:]
		}
		s, err := r.record(&p)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	for i := range unseen {
		out = append(out, explicit(&unseen[i].call))
	}
	return out, nil
}

func explicit(c *call) triggerformat.Sent {
	return triggerformat.Sent{Op: c.op, Table: c.table, Key: c.key, Columns: c.columns}
}

// record is what a call has sent. A whole row that has not changed in this
// transaction is sent as it is now.
func (r *Recorder) record(p *placed) (triggerformat.Sent, error) {
	switch {
	case !p.whole():
		return explicit(&p.call), nil
	case p.change >= 0:
		return triggerformat.Sent{Change: p.change + 1}, nil
	}
	s := triggerformat.Sent{Op: p.op, Table: p.table, Key: p.key}
	columns, err := r.rowNow(&p.call)
	if columns == nil {
		s.Op = triggerformat.Delete
	}
	s.Columns = columns
	return s, err
}

// rowNow returns the columns of a row beside its key; nil when there is none.
func (r *Recorder) rowNow(c *call) ([]triggerformat.Column, error) {
	names, values, found, err := row.RowAt(r.conn, c.table, c.key)
	if err != nil || !found {
		return nil, err
	}
	columns := make([]triggerformat.Column, len(names))
	for i, name := range names {
		columns[i] = triggerformat.Column{Name: name, Value: values[i]}
	}
	return columns, nil
}

// unseen returns the rows that were taken away without their delete trigger
// having fired, because REPLACE did it, and that it would have taken back.
func (r *Recorder) unseen(rows []byte, changes []rowChange) (list []placed, err error) {
	if !slices.ContainsFunc(changes, func(c rowChange) bool { return c.kind == rowformat.Delete && !c.told }) {
		return nil, nil
	}
	reader, err := rowformat.NewReader(rows)
	if err != nil {
		return nil, err
	}
	for i := 0; reader.Next(); i++ {
		rec := reader.Record()
		if rec.Kind != rowformat.Delete || changes[i].told {
			continue
		}
		c := r.choices[rec.Table.Name]
		if c == nil || !c.takesBack {
			continue
		}
		calls, err := r.goes(c, rec)
		if err != nil {
			return nil, err
		}
		for _, each := range calls {
			if each.op == triggerformat.Delete {
				list = append(list, placed{emission: emission{call: each}, change: i, place: i})
			}
		}
	}
	return list, reader.Err()
}

// goes is what the triggers of a table say of a row that goes.
func (r *Recorder) goes(c *chosen, rec *rowformat.Record) ([]call, error) {
	key := keyOf(rec.Table, rec.RowID, rec.Old)
	for i := range key {
		key[i] = key[i].Clone()
	}
	if c.all { // Every row is sent, so that every row is taken back.
		return []call{{op: triggerformat.Delete, table: rec.Table.Name, key: key}}, nil
	}
	if r.sandbox == nil {
		var err error
		if r.sandbox, err = newSandbox(r.ctx); err != nil {
			return nil, err
		}
	}
	var b rowformat.Buffer
	b.BeginInsert(b.Register(*rec.Table), rec.RowID)
	for _, v := range rec.Old {
		b.Value(v)
	}
	b.End()
	calls, err := r.sandbox.goes(&c.declared, *rec.Table, b.Body(rowformat.Mark{}))
	return slices.Clone(calls), err
}

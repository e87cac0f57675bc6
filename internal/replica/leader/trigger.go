package leader

import (
	"context"
	"fmt"
	"slices"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/capture/trigger"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/rowformat"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/triggerformat"
)

// triggerRecorder catches in format trigger.
type triggerRecorder struct{ *trigger.Recorder }

func newTriggerRecorder(conn *sqlite.Conn) (recorder, error) {
	r, err := trigger.NewRecorder(context.Background(), conn) // Close ends what it opens.
	if err != nil {
		return nil, err
	}
	return triggerRecorder{r}, nil
}

func (r triggerRecorder) Mark() mark                                   { return mark{rows: r.Recorder.Mark()} }
func (r triggerRecorder) Rewind(m mark)                                { r.Recorder.Rewind(m.rows) }
func (r triggerRecorder) Before(*sqlite.Stmt, replica.Statement) error { return nil }
func (r triggerRecorder) After(st *sqlite.Stmt, s replica.Statement) error {
	return r.Statement(st.Info(), s.SQL)
}

func (r triggerRecorder) Take(m mark) (captured, error) {
	body, count, err := r.Recorder.Take(m.rows)
	return captured{kind: entry.Trigger, body: body, changes: count}, err
}

// preparer is a recorder that has something to make in the database before it
// can catch anything, once.
type preparer interface {
	NeedsSetUp() bool
	SetUp() error
}

// setUpFormat makes what the format needs, in an entry of its own. What can't be
// made is reported: nothing of it holds writes up, and it is tried again by the
// next leader.
func (w *writer) setUpFormat() error {
	p, prepares := w.recorder.(preparer)
	if !prepares || !p.NeedsSetUp() {
		return nil
	}
	if err := w.begin(); err != nil {
		return err
	}
	err := p.SetUp()
	end := w.end
	if err == nil {
		w.buffer = w.buffer[:0]
		end, err = w.appendEntry(end, w.batch, w.replica.env.Clock.Now().UnixNano(), &writeJob{})
	}
	if err == nil {
		w.pending.refused = true // Readers must see the new schema at once.
		err = w.commit(end)
	}
	if err != nil {
		w.rollback()
		w.replica.log.Error("the log format could not be set up in the database; nothing is sent to partial replicas", "format", w.format, "err", err)
		return fatalOnly(err)
	}
	w.publish(nil)
	return nil
}

// triggerApplier applies the row changes of an entry; what triggers have sent is
// for partial replicas and change streams.
type triggerApplier struct {
	simple
	applier *applier
}

func (t triggerApplier) connection(*entry.Entry) (*sqlite.Conn, error) { return t.applier.conn, nil }

func (t triggerApplier) apply(e *entry.Entry) error {
	rows, err := triggerRows(e)
	if err != nil {
		return err
	}
	return t.applier.applyRows(e, rows)
}

// triggerRows is the row body of an entry of kind trigger.
func triggerRows(e *entry.Entry) ([]byte, error) {
	body, err := triggerformat.Decode(e.Body)
	if err != nil {
		return nil, err
	}
	if body.Rows == nil {
		return noRows, nil
	}
	return body.Rows, nil
}

// noRows is the row body of a transaction that has only sent messages.
var noRows = new(rowformat.Buffer).Body(rowformat.Mark{})

// sentBy returns what the triggers of an entry have sent.
func sentBy(e *entry.Entry) ([]triggerformat.Sent, error) {
	if e.Kind != entry.Trigger {
		return nil, nil
	}
	body, err := triggerformat.Decode(e.Body)
	return body.Sent, err
}

// sent gives what was sent its names. Rows are the entry's row changes.
func (n *namer) sent(e *entry.Entry, s *triggerformat.Sent, rows []change) (change, error) {
	switch {
	case s.Change > 0:
		c := &rows[s.Change-1]
		if c.after == nil || c.table == "" {
			return change{}, base.Errorf(base.KindCorrupt, "entry %v sends row change %d, which leaves no row", e.Position(), s.Change)
		}
		op := triggerformat.Update
		if c.op == "insert" {
			op = triggerformat.Insert
		}
		return change{op: "sent " + op, sent: op, table: c.table, key: c.newKey, after: c.after, unnamed: c.unnamed}, nil
	case !triggerformat.IsRow(s.Op):
		return change{op: "message " + s.Op, message: s.Op, table: s.Table, after: sentColumns(s)}, nil
	}
	out := change{op: "sent " + s.Op, sent: s.Op, table: s.Table}
	columns, err := n.names.Named(s.Table)
	if err != nil {
		return out, err
	}
	if columns == nil || len(columns.RowName) != len(s.Key) {
		out.unnamed, out.key, out.after = true, numbered("key", s.Key), sentColumns(s)
		return out, nil
	}
	out.key = rowOf(columns.RowName, slices.Clone(s.Key))
	if s.Op != triggerformat.Delete {
		out.after = sentRow(out.key, len(columns.Key) > 0, sentColumns(s))
	}
	return out, nil
}

func sentColumns(s *triggerformat.Sent) changefeed.Row {
	row := make(changefeed.Row, len(s.Columns))
	for i, c := range s.Columns {
		row[i] = changefeed.Field{Name: c.Name, Value: c.Value.Clone()}
	}
	return row
}

// sentRow puts the key's columns in front of those that were sent with it.
func sentRow(key changefeed.Row, keyed bool, row changefeed.Row) changefeed.Row {
	if !keyed {
		return row
	}
	var all changefeed.Row
	for _, k := range key {
		if !slices.ContainsFunc(row, func(f changefeed.Field) bool { return f.Name == k.Name }) {
			all = append(all, k)
		}
	}
	return append(all, row...)
}

// keyAfter names a row after a change.
func keyAfter(columns *row.Columns, c *row.Change, after changefeed.Row) changefeed.Row {
	if after == nil {
		return nil
	}
	if len(columns.Key) == 0 {
		return rowOf(columns.RowName, []base.Value{base.IntValue(c.NewRowID)})
	}
	var key changefeed.Row
	for _, name := range columns.Key {
		for _, f := range after {
			if f.Name == name {
				key = append(key, f)
			}
		}
	}
	return key
}

// chosenOp is what a change is to who reads what is chosen.
func chosenOp(c *change) changefeed.Op {
	switch {
	case c.message != "":
		return changefeed.Message
	case c.sent == triggerformat.Insert:
		return changefeed.Create
	case c.sent == triggerformat.Update:
		return changefeed.Update
	case c.sent == triggerformat.Delete:
		return changefeed.Delete
	case c.op == "schema":
		return changefeed.Schema
	}
	return ""
}

// checkChosen says why there is no stream of what is chosen.
func (f *feed) checkChosen() error {
	name := f.replica.assignment().Policy.LogFormat
	if !f.request.Chosen || name == base.FormatTrigger {
		return nil
	}
	return base.Errorf(base.KindInvalid, "the log format of this database is %s, and what is sent is chosen in format trigger only", name).
		WithHint("skein db alter NAME --log-format trigger, or a stream of all changes")
}

// checkEntry refuses to pass over changes of which nobody has chosen anything.
func (f *feed) checkEntry(e *entry.Entry) error {
	switch e.Kind {
	case entry.Trigger, entry.EpochStart, entry.Format:
		return nil
	}
	if !f.request.Chosen {
		return nil
	}
	return base.Errorf(base.KindHistoryLost, "the changes of entry %v were made in log format %v, in which nothing is chosen", e.Position(), e.Kind).
		WithHint("begin anew, with a snapshot")
}

// sendChosen sends what is chosen of the rows of a copy.
func (f *feed) sendChosen(ctx context.Context, conn *sqlite.Conn, send func(*changefeed.Event) error) error {
	return trigger.ReadChosen(ctx, conn, f.request.Wants, func(r trigger.Row) error {
		values := make([]base.Value, len(r.Key))
		for i, v := range r.Key {
			values[i] = v.Clone()
		}
		key := rowOf(r.KeyName, values)
		columns := sentColumns(&triggerformat.Sent{Columns: r.Columns})
		return send(&changefeed.Event{Table: r.Table, Key: key, After: sentRow(key, r.Keyed, columns)})
	})
}

// describeSent counts what an entry of kind trigger holds, for people.
func describeSent(e *entry.Entry) (string, error) {
	body, err := triggerformat.Decode(e.Body)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d row changes, %d records sent by triggers", body.Changes, len(body.Sent)), nil
}

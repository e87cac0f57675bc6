package leader

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/entry"
)

// Feed sends the row changes of this replica's log to a sink, in order, until
// ctx is done or something makes it impossible to go on. Only what is safe by
// the policy is sent, so that nothing that was sent is undone by a failover. A
// heartbeat goes out whenever nothing else has for that long.
func (r *Replica) Feed(ctx context.Context, q changefeed.Request, heartbeat time.Duration, sink changefeed.Sink) error {
	if r.feeds.full() {
		return base.Errorf(base.KindBusy, "%d streams of changes are served by this replica already", maxFeeds).WithHint("ask another node")
	}
	n, err := newNamer(ctx, r)
	if err != nil {
		return err
	}
	defer n.close()
	f := &feed{replica: r, request: q, heartbeat: heartbeat, sink: sink, namer: n}
	defer r.feeds.leave(f)
	if err := f.begin(ctx); err != nil {
		return err
	}
	for {
		if err := f.step(ctx); err != nil {
			return err
		}
	}
}

// feed is one stream of changes. It is used by one goroutine, but for what
// consumer guards.
type feed struct {
	replica   *Replica
	request   changefeed.Request
	heartbeat time.Duration
	sink      changefeed.Sink
	namer     *namer
	consumer  consumer

	at     changefeed.Offset // behind what was sent or passed over
	buffer []byte
}

// begin finds the place to begin at, and sends the initial snapshot if one is
// asked for.
func (f *feed) begin(ctx context.Context) error {
	if err := f.checkChosen(); err != nil {
		return err
	}
	from := f.request.From
	if from != (changefeed.Offset{}) && from.Database != f.replica.options.Database {
		return base.Errorf(base.KindHistoryLost, "the offset is of another database, which had this name or another").
			WithHint("begin anew, with a snapshot")
	}
	if from != (changefeed.Offset{}) && !from.Snapshot {
		f.at = from
		f.enter(from.Position.Seq)
		return f.checkHistory()
	}
	if f.request.Now {
		at, err := f.replica.positionNow(ctx)
		f.passed(at)
		f.enter(at.Seq)
		return err
	}
	return f.snapshot(ctx)
}

// positionNow is where this replica stands, once that can't be lost any more.
func (r *Replica) positionNow(ctx context.Context) (base.Position, error) {
	if err := r.commitApplied(ctx); err != nil {
		return base.Position{}, err
	}
	db, _, release, err := r.useFileFor(ctx)
	if err != nil {
		return base.Position{}, err
	}
	defer release()
	at, err := positionOf(ctx, db)
	if err != nil {
		return at, err
	}
	return at, r.waitSafeFor(ctx, at)
}

// passed notes that everything up to a position, which is the end of an entry,
// was sent or is not wanted.
func (f *feed) passed(at base.Position) {
	f.at = changefeed.Offset{Database: f.replica.options.Database, Position: at, Entry: at.Seq + 1}
}

func (f *feed) enter(seq base.Seq) {
	f.consumer.name = f.request.Name
	f.consumer.at.Store(uint64(seq))
	f.replica.feeds.enter(f)
}

// checkHistory refuses to go on where a failover with loss has undone what was
// sent.
func (f *feed) checkHistory() error {
	if f.replica.Lineage(f.at.Position) {
		return nil
	}
	return base.Errorf(base.KindHistoryLost, "the stream has sent changes up to position %v, of which a failover with loss has undone some", f.at.Position).
		WithHint("begin anew, with a snapshot; skein orphans list shows what was undone")
}

// step sends what there is, or waits for more.
func (f *feed) step(ctx context.Context) error {
	safe := f.replica.safe.get()
	if safe < f.at.Entry || safe <= f.at.Position.Seq {
		return f.wait(ctx)
	}
	frames, _, _, err := f.replica.changes.ReadFrom(f.at.Entry, readBytes, f.buffer)
	if errors.Is(err, changelog.ErrEnd) {
		return f.wait(ctx) // The log was cut, and what is called safe is about to be, too.
	}
	if err != nil {
		return f.unreadable(err)
	}
	f.buffer = frames[:0]
	if err := f.checkHistory(); err != nil { // After the read: what it has found is of the history that counts now.
		return err
	}
	for len(frames) > 0 {
		e, n, err := entry.Decode(frames)
		if err != nil {
			return err
		}
		if e.Last() > safe {
			return f.awaitSafe(ctx, e.Position())
		}
		if err := f.entry(ctx, &e); err != nil {
			return err
		}
		frames = frames[n:]
	}
	return context.Cause(ctx)
}

// unreadable says why the log can't be read at the stream's place.
func (f *feed) unreadable(err error) error {
	switch {
	case errors.Is(err, changelog.ErrTrimmed):
		return base.Errorf(base.KindTrimmed, "the log on this node begins at %d; the changes from %d on, which this stream has not had, are no longer kept",
			f.replica.changes.Start(), f.at.Entry).
			WithHint("another node may still have them; else begin anew, with a snapshot. The database's retention_bytes says how much is kept")
	case errors.Is(err, changelog.ErrNotEntry):
		return base.Errorf(base.KindInvalid, "the offset names no place in the log: %w", err)
	case errors.Is(err, changelog.ErrClosed), errors.Is(err, changelog.ErrFailed):
		return base.Errorf(base.KindUnavailable, "the replica on this node is closing: %w", err).WithHint("go on at the same offset, at any node")
	}
	return err
}

// wait flushes, and returns when there may be more; it sends a heartbeat when
// that takes long.
func (f *feed) wait(ctx context.Context) error {
	return f.awaitSafe(ctx, base.Position{Seq: max(f.at.Entry, f.at.Position.Seq+1)})
}

var errBeat = errors.New("time for a heartbeat")

// awaitSafe waits until a position can no longer be lost, with heartbeats.
func (f *feed) awaitSafe(ctx context.Context, p base.Position) error {
	if err := f.sink.Flush(); err != nil {
		return err
	}
	waiting, cancel := f.replica.env.Clock.WithTimeout(ctx, f.heartbeat, errBeat)
	defer cancel()
	if err := f.replica.safe.wait(waiting, p.Seq); err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := f.checkHistory(); err != nil {
		return err
	}
	if waiting.Err() == nil {
		// The log was cut or replaced under the stream: look again, but not at
		// once for ever.
		return f.replica.env.Clock.Sleep(ctx, 10*time.Millisecond)
	}
	e := &changefeed.Event{Op: changefeed.Heartbeat, Position: f.at.Position, Offset: f.at}
	if err := f.sink.Send(e); err != nil {
		return err
	}
	return f.sink.Flush()
}

// entry sends the changes of one entry that were not sent yet.
func (f *feed) entry(ctx context.Context, e *entry.Entry) error {
	if err := f.checkEntry(e); err != nil {
		return err
	}
	if err := f.awaitNames(ctx, e); err != nil {
		return err
	}
	sent := f.at.Position.Seq
	order, tables := 0, make(map[string]int)
	err := f.namer.read(ctx, e, func(c change) error {
		op, row := f.operationOf(&c)
		if op == "" {
			return nil
		}
		out := &changefeed.Event{
			Op: op, Table: c.table, SQL: c.sql, Message: c.message, Key: c.key, Before: c.before, After: c.after,
			Position: base.Position{Epoch: e.Epoch, Seq: c.seq}, Time: e.Time, First: e.First,
		}
		if row {
			order++
			tables[c.table]++
			out.Order, out.TableOrder = order, tables[c.table]
		}
		if c.seq <= sent || row && !f.request.Wants(c.table) {
			return nil
		}
		if c.unnamed {
			return base.Errorf(base.KindUnsupported, "how table %q was declared at position %v is not known: the change was made before this version kept that", c.table, out.Position).
				WithHint("begin anew, with a snapshot")
		}
		out.Offset = changefeed.Offset{Database: f.replica.options.Database, Position: out.Position, Entry: e.First}
		if c.seq == e.Last() {
			out.Offset.Entry = c.seq + 1
		}
		return f.sink.Send(out)
	})
	if err != nil {
		return fmt.Errorf("changes of entry %v: %w", e.Position(), err)
	}
	f.passed(e.Position())
	f.consumer.at.Store(uint64(e.Last()))
	return nil
}

// awaitNames waits until this replica's file holds the names that an entry may
// need, and its rows: where it does not follow the one before, or does not hold
// its rows, they are read from there.
func (f *feed) awaitNames(ctx context.Context, e *entry.Entry) error {
	if f.namer.at == e.First-1 && !f.namer.stale && holdsRows(e) || f.replica.executed.get() >= e.Last() {
		return nil
	}
	if err := f.replica.commitApplied(ctx); err != nil {
		return err
	}
	return f.replica.executed.wait(ctx, e.Last())
}

// operationOf is what a change is in this stream, and whether it belongs to a
// table.
func (f *feed) operationOf(c *change) (op changefeed.Op, row bool) {
	if f.request.Chosen {
		op = chosenOp(c)
		return op, op != changefeed.Schema
	}
	if c.message != "" {
		return changefeed.Message, true
	}
	return operationOf(c.op)
}

// operationOf is what a recorded change is to a consumer, and whether it is
// one of a row; "" for what only replicas need.
func operationOf(op string) (_ changefeed.Op, row bool) {
	switch op {
	case "insert":
		return changefeed.Create, true
	case "update", "move":
		return changefeed.Update, true
	case "delete":
		return changefeed.Delete, true
	case "schema":
		return changefeed.Schema, false
	}
	return "", false
}

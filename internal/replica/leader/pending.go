package leader

import (
	"context"
	"fmt"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/leadership"
	"github.com/skeindb/skein/internal/replica"
)

// SQLite's commit can wait: the log is what makes a batch durable, and nobody
// sees the file between two reads. So batches share one SQLite transaction, and
// a page that several of them change is written once, until somebody reads.
const (
	pendingTime    = time.Second            // that a batch is in the log and not in the file
	pendingEntries = 65536                  // in one SQLite transaction
	pendingBytes   = 16 << 20               // of log in one SQLite transaction
	readsLately    = 100 * time.Millisecond // after a read, commits do not wait
	eagerTime      = 5 * time.Second        // that no commit waits after a transaction was lost
)

// pending is what SQLite's open transaction holds of batches that are in the
// log already, published and perhaps acknowledged.
type pending struct {
	entries int
	bytes   int
	since   time.Time // the first of them
	timer   env.Timer // fires when SQLite must commit; never when nothing is pending
	refused bool      // SQLite must commit with the batch that is being built
	eager   time.Time // until then nothing waits: a transaction was lost, and its batches executed twice
}

// mayWait says whether SQLite may commit the batch that ends at end later.
func (w *writer) mayWait(end base.Seq) bool {
	p := &w.pending
	now := w.replica.env.Clock.Now()
	if p.refused || now.Before(p.eager) || w.replica.readLately() || w.replica.executed.awaited() {
		return false
	}
	if p.entries+int(end-w.end) > pendingEntries || p.bytes+len(w.buffer) > pendingBytes {
		return false
	}
	if p.entries == 0 {
		p.since = now
		p.timer.Reset(pendingTime)
	} else if now.Sub(p.since) > pendingTime {
		return false
	}
	p.entries, p.bytes = p.entries+int(end-w.end), p.bytes+len(w.buffer)
	return true
}

// commitSQLite commits everything up to end.
func (w *writer) commitSQLite(end base.Seq) error {
	if err := setPosition(w.conn, base.Position{Epoch: w.epoch, Seq: end}); err != nil {
		return err
	}
	if err := w.conn.Commit(); err != nil {
		return err
	}
	w.nonePending()
	w.replica.executed.raise(end)
	return nil
}

func (w *writer) nonePending() {
	w.pending.timer.Stop()
	w.pending.entries, w.pending.bytes, w.pending.refused = 0, 0, false
}

// settle commits the batches that are pending. When SQLite can't, they are in
// the log all the same, and SQLite gets them from there.
func (w *writer) settle() error {
	if err := w.mend(); err != nil || w.pending.entries == 0 {
		return err
	}
	err := w.commitSQLite(w.end)
	if err == nil {
		return nil
	}
	w.replica.log.Warn("commit what is in the log; executing it again", "err", err)
	w.rollback()
	return w.failed
}

// leave closes the connection at the end of the epoch. What is safe is committed
// before; what is not may have to be undone, and is left to the log.
func (w *writer) leave() {
	if w.failed == nil { // Else the connection is closed.
		w.conn.SetInterrupt(context.Background())
	}
	if w.failed == nil && w.pending.entries > 0 && w.end <= w.replica.safe.get() {
		if err := w.commitSQLite(w.end); err != nil {
			w.replica.log.Warn("commit at the end of the epoch; it is done from the log", "err", err)
		}
	}
	w.conn.Close()
	if err := w.images.close(); err != nil {
		w.replica.log.Warn("close the pages as they were", "err", err)
	}
	w.pending.timer.Stop()
	w.replica.applied.Store(uint64(w.replica.executed.get()))
}

// mend tries again what could not be done when the connection was lost.
func (w *writer) mend() error {
	if w.failed != nil {
		w.failed = w.reopen()
	}
	return w.failed
}

// reopen replaces the connection after what it had open was rolled back, and
// brings the file to the end of the log. Not so after a failed sync: another one
// would prove nothing.
func (w *writer) reopen() error {
	if err := w.replica.endedBy(); err != nil {
		return err
	}
	w.pending.eager = w.replica.env.Clock.Now().Add(eagerTime)
	w.nonePending()
	w.conn.Close()                           // A broken one only says so again; another has nothing open.
	if err := w.images.close(); err != nil { // The applier uses the file meanwhile.
		return err
	}
	if err := w.replica.applyAll(context.Background()); err != nil {
		return fmt.Errorf("execute again what is in the log: %w", err)
	}
	if err := w.openConn(context.Background()); err != nil {
		return fmt.Errorf("open the write connection again: %w", err) // A full disk heals.
	}
	at, err := readPosition(w.conn)
	if err == nil && at.Seq != w.end {
		err = base.Errorf(base.KindInternal, "the database file is at %v after its connection was lost, and the log at %d", at, w.end)
	}
	return err
}

// readLately says that somebody reads this replica's file, as far as one can
// tell from the time since the last one has.
func (r *Replica) readLately() bool {
	last := r.lastRead.Load()
	return last != 0 && r.now().Sub(leadership.Instant(last)) < readsLately
}

// read says that somebody reads this replica's file, or waits for it.
func (r *Replica) read() bool {
	return r.readLately() || r.executed.awaited() || r.safe.awaited()
}

// commitApplied has SQLite commit what it has applied, and waits for that: a
// read sees everything that this replica has.
func (r *Replica) commitApplied(ctx context.Context) error {
	lately := r.readLately()
	r.lastRead.Store(int64(r.now()))
	if !lately {
		wake(r.looked)
	}
	applied := r.answered()
	if r.executed.get() >= applied {
		return nil
	}
	late := base.Errorf(base.KindStale, "SQLite did not commit what it has applied, up to %d, within %v", applied, replica.DefaultReadWait)
	waiting, cancel := r.env.Clock.WithTimeout(ctx, replica.DefaultReadWait, late)
	defer cancel()
	return r.executed.wait(waiting, applied)
}

// answered is what a read of this replica must see at least: what is applied
// and, on a leader, what it has published. The file may have fallen behind that:
// when SQLite lost a transaction and could not execute it again yet.
func (r *Replica) answered() base.Seq {
	applied := base.Seq(r.applied.Load())
	if lead, err := r.leading(); err == nil {
		applied = max(applied, lead.acks.publishedSeq().Seq)
	}
	return applied
}

// setExecuted says where SQLite's file stands after it was opened or undone.
func (r *Replica) setExecuted(seq base.Seq, why error) {
	r.applied.Store(uint64(seq))
	r.executed.cut(seq, why)
}

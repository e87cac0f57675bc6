package leader

import (
	"context"
	"fmt"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/sqlite"
)

const (
	maintainEvery  = 250 * time.Millisecond
	checkpointAt   = 64 << 20  // bytes of SQLite's WAL that start a checkpoint
	stopTheWriter  = 192 << 20 // bytes at which the rest is done with the writer held
	trimSlackBytes = 16 << 20  // of log beyond the cap that start a trim
	maxWALBytes    = 1 << 30   // at which reads that were begun long ago are ended
	oldRead        = time.Minute
	tidyRounds     = int(time.Minute / maintainEvery)
)

// keeper checkpoints SQLite and trims the log, off the commit path. quiet runs
// a function while nothing is being written.
type keeper struct {
	replica *Replica
	quiet   func(ctx context.Context, f func()) error
	durable base.Seq // what SQLite has on disk by itself: the log may go up to here
	end     base.Seq // of the log, in the last round
	rounds  int
}

func (k *keeper) run(ctx context.Context) error {
	for {
		if err := k.replica.env.Clock.Sleep(ctx, maintainEvery); err != nil {
			return nil
		}
		if err := k.step(ctx); err != nil {
			return err
		}
	}
}

func (k *keeper) step(ctx context.Context) error {
	if err := k.settle(); err != nil {
		return err
	}
	size, err := k.tidy()
	if err != nil {
		return err
	}
	excess := k.replica.changes.Bytes() - k.retention()
	if size < checkpointAt && excess < trimSlackBytes {
		return nil
	}
	if size > maxWALBytes {
		k.replica.endOldReads()
	}
	if err := k.checkpoint(ctx, size); err != nil {
		return err
	}
	return k.trim()
}

// settle syncs the log once more when nothing has been written for a while: it
// leaves a mark on disk that everything is there, so that damage to the last
// batches can be told from a torn tail.
func (k *keeper) settle() error {
	end := k.replica.changes.End().Seq
	quiet := end == k.end
	k.end = end
	if !quiet {
		return nil
	}
	if _, err := k.replica.changes.Sync(); err != nil {
		return fmt.Errorf("%w: %w", errFlush, err)
	}
	return nil
}

// tidy gives back what is not used any more, now and then, and returns the size
// of SQLite's WAL.
func (k *keeper) tidy() (size int64, err error) {
	file, err := k.replica.useFile()
	if err != nil {
		return 0, nil // It is being replaced; the next round finds the new one.
	}
	defer file.release()
	if k.rounds++; k.rounds%tidyRounds == 0 {
		file.db.TrimIdle()
		k.replica.expireSnapshot()
	}
	if size, err = file.db.WALSize(); err != nil {
		return 0, fmt.Errorf("size of SQLite's WAL: %w", err)
	}
	return size, nil
}

// endOldReads ends reads that keep SQLite's WAL from starting over.
func (r *Replica) endOldReads() {
	now := r.now()
	cause := base.Errorf(base.KindConflict, "the snapshot was held for more than %v while much was written", oldRead).
		WithHint("keep read transactions short, and run this one again")
	r.handle.expel(cause, func(t *readTx) bool { return now.Sub(t.opened) > oldRead })
}

func (k *keeper) retention() int64 {
	if b := k.replica.assignment().Policy.RetentionBytes; b > 0 {
		return b
	}
	return base.DefaultRetentionBytes
}

// checkpoint moves SQLite's WAL into its file. The log is flushed first, so
// that what only a WAL held is never on disk before the log has it.
func (k *keeper) checkpoint(ctx context.Context, size int64) error {
	if k.replica.changes.Flushed() < k.replica.executed.get() {
		if _, err := k.replica.changes.Sync(); err != nil {
			return fmt.Errorf("%w: %w", errFlush, err)
		}
	}
	err := k.copyWAL(ctx)
	if err == nil && size > stopTheWriter {
		// A writer that never pauses keeps the WAL from starting over: finish
		// the little that is left while it waits. The file is not held before
		// that: an import may be waiting for it in the writer.
		failure := make(chan error, 1)
		if err = k.quiet(ctx, func() { failure <- k.copyWAL(ctx) }); err == nil {
			err = <-failure
		}
	}
	if base.KindOf(err) == base.KindCorrupt {
		return err
	}
	if err != nil && ctx.Err() == nil {
		k.replica.log.Warn("checkpoint; it is tried again", "err", err)
	}
	return nil
}

// copyWAL copies what it can, and notes how far the file is on disk by itself
// when that was everything.
func (k *keeper) copyWAL(ctx context.Context) error {
	file, err := k.replica.useFile()
	if err != nil {
		return nil // It is being replaced.
	}
	defer file.release()
	executed := k.replica.executed.get()
	frames, done, err := file.db.Checkpoint(ctx, sqlite.CheckpointPassive)
	if err == nil && frames == done {
		k.durable = max(k.durable, executed)
	}
	return err
}

// trim drops log that neither SQLite nor a follower within the cap needs. What
// is not safe yet stays: it may have to be undone, and told.
func (k *keeper) trim() error {
	r := k.replica
	limit := k.retention()
	advice := changelog.Retain(r.changes.Segments(), limit, limit/2, min(k.durable, r.safe.get()), r.holders())
	if advice.Before <= r.changes.Start() {
		return nil
	}
	if err := r.changes.Trim(advice.Before); err != nil {
		return fmt.Errorf("trim the log before %d: %w", advice.Before, err)
	}
	return nil
}

// holders are the followers that a leader keeps its log for.
func (r *Replica) holders() []changelog.Holder {
	lead, err := r.leading()
	if err != nil {
		return nil
	}
	var list []changelog.Holder
	if at, ok := r.servedSnapshot(); ok {
		list = append(list, changelog.Holder{Has: at})
	}
	lead.acks.mu.Lock()
	defer lead.acks.mu.Unlock()
	for _, f := range lead.acks.mu.core.Status(r.now()).Followers {
		list = append(list, changelog.Holder{Node: f.Node, Has: f.Flushed})
	}
	return list
}

// checkpoints is the keeper of a leader.
func (l *leading) checkpoints(ctx context.Context) error {
	k := &keeper{replica: l.replica, quiet: l.quiet}
	return k.run(ctx)
}

// quiet runs f in the writer goroutine, between batches.
func (l *leading) quiet(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case l.writer.inbox <- job{quiet: func() { defer close(done); f() }}:
	case <-l.over:
		return l.replica.notLeader()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-done:
		return nil
	case <-l.over:
		return l.replica.notLeader()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

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
	checkpointAt   = 32 << 20 // bytes of SQLite's WAL that start a checkpoint
	trimSlackBytes = 16 << 20 // of log beyond the cap that start a trim
	maxWALBytes    = 1 << 30  // at which reads that were begun long ago are ended
	oldRead        = time.Minute
	tidyRounds     = int(time.Minute / maintainEvery)
)

// keeper checkpoints SQLite and trims the log, off the commit path. quiet runs
// a function while nothing is being written.
type keeper struct {
	replica *Replica
	quiet   func(ctx context.Context, f func()) error
	// restarts says that nobody else makes SQLite's WAL start over: it holds
	// frames that the applier has written.
	restarts bool
	durable  base.Seq // what SQLite has on disk by itself: the log may go up to here
	end      base.Seq // of the log, in the last round
	rounds   int
	bytes    int64     // of the log, in the last round
	at       time.Time // of the last round; zero before the first
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
	k.measure()
	size := k.tidy()
	excess := k.replica.changes.Bytes() - k.replica.retention()
	if size < k.replica.options.CheckpointBytes && excess < trimSlackBytes {
		return nil
	}
	if size > maxWALBytes {
		k.replica.endOldReads()
	}
	if err := k.checkpoint(ctx); err != nil {
		return err
	}
	return k.trim()
}

// measure notes how fast the log grows.
func (k *keeper) measure() {
	now, bytes := k.replica.env.Clock.Now(), k.replica.changes.Bytes()
	if !k.at.IsZero() && bytes >= k.bytes { // Else it was trimmed.
		k.replica.feeds.measure(bytes-k.bytes, now.Sub(k.at))
	}
	k.at, k.bytes = now, bytes
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

// tidy gives back what is not used any more, now and then, and returns how much
// of SQLite's WAL is to be copied.
func (k *keeper) tidy() (uncopied int64) {
	file, err := k.replica.useFile()
	if err != nil {
		return 0 // It is being replaced; the next round finds the new one.
	}
	defer file.release()
	if k.rounds++; k.rounds%tidyRounds == 0 {
		file.db.TrimIdle()
		k.replica.expireSnapshot()
	}
	return file.db.Uncopied()
}

// endOldReads ends reads that keep SQLite's WAL from starting over.
func (r *Replica) endOldReads() {
	now := r.now()
	cause := base.Errorf(base.KindConflict, "the snapshot was held for more than %v while much was written", oldRead).
		WithHint("keep read transactions short, and run this one again")
	r.handle.expel(cause, func(t *readTx) bool { return now.Sub(t.opened) > oldRead })
}

func (r *Replica) retention() int64 {
	if b := r.assignment().Policy.RetentionBytes; b > 0 {
		return b
	}
	return base.DefaultRetentionBytes
}

// checkpoint moves SQLite's WAL into its file. The log is flushed first, so
// that what only a WAL held is never on disk before the log has it.
func (k *keeper) checkpoint(ctx context.Context) error {
	if k.replica.changes.Flushed() < k.replica.executed.get() {
		if _, err := k.replica.changes.Sync(); err != nil {
			return fmt.Errorf("%w: %w", errFlush, err)
		}
	}
	err := k.copyAll(ctx)
	if err == nil && k.restarts && k.replica.base.Load() != nil {
		err = k.restart(ctx)
	}
	if fatal(err) {
		return err
	}
	if err != nil && ctx.Err() == nil {
		k.replica.log.Warn("checkpoint; it is tried again", "err", err)
	}
	return nil
}

// copyAll copies the WAL, so that it starts over: a WAL whose pages are used
// again costs less than one that grows. The bulk is copied beside the writer,
// which never pauses by itself; what it has committed meanwhile is copied beside
// it, too, and the little that is left then while it waits. A reader's snapshot
// may forbid to copy what is newer: then the writer is not held for it.
func (k *keeper) copyAll(ctx context.Context) error {
	frames, rest, err := k.copyWAL(ctx)
	if err != nil || rest == 0 || rest > frames/2 {
		return err
	}
	if err := k.quiet(ctx, func() {}); err != nil {
		return err
	}
	if _, rest, err = k.copyWAL(ctx); err != nil || rest == 0 {
		return err
	}
	failure := make(chan error, 1)
	err = k.quiet(ctx, func() {
		_, _, err := k.copyWAL(ctx)
		failure <- err
	})
	if err != nil {
		return err
	}
	return <-failure
}

// restart lets the WAL begin anew, if all of it is copied and nobody reads it:
// SQLite does so when it writes, and pages are written without it.
func (k *keeper) restart(ctx context.Context) error {
	failure := make(chan error, 1)
	err := k.quiet(ctx, func() {
		file, err := k.replica.useFile()
		if err == nil {
			_, _, err = file.db.Checkpoint(ctx, sqlite.CheckpointTruncate)
			file.release()
		}
		failure <- err
	})
	if err != nil {
		return err
	}
	if err := <-failure; base.KindOf(err) != base.KindBusy {
		return err
	}
	return nil // A reader needs what is in it; the next time, then.
}

// copyWAL copies what it can, and notes how far the file is on disk by itself
// when that was everything. It returns the frames of the WAL, and how many are
// not copied.
func (k *keeper) copyWAL(ctx context.Context) (frames, rest int, err error) {
	file, err := k.replica.useFile()
	if err != nil {
		return 0, 0, nil // It is being replaced.
	}
	defer file.release()
	executed := k.replica.executed.get()
	frames, done, err := file.db.Checkpoint(ctx, sqlite.CheckpointPassive)
	if err == nil && frames == done {
		k.durable = max(k.durable, executed)
	}
	return frames, frames - done, err
}

// trim drops log that neither SQLite nor a follower within the cap needs. What
// is not safe yet stays: it may have to be undone, and told.
func (k *keeper) trim() error {
	r := k.replica
	limit := k.replica.retention()
	advice := changelog.Retain(r.changes.Segments(), limit, limit/2, min(k.durable, r.safe.get()), r.holders())
	if advice.Before <= r.changes.Start() {
		return nil
	}
	if err := r.changes.Trim(advice.Before); err != nil {
		return fmt.Errorf("trim the log before %d: %w", advice.Before, err)
	}
	return nil
}

// holders are who the log is kept for: consumers of changes and, on a leader,
// its followers.
func (r *Replica) holders() []changelog.Holder {
	list := r.feeds.holders()
	lead, err := r.leading()
	if err != nil {
		return list
	}
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

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
	checkpointAt   = 8 << 20  // bytes of SQLite's WAL that start a checkpoint
	stopTheWriter  = 64 << 20 // bytes at which the rest is done with the writer held
	trimSlackBytes = 16 << 20 // of log beyond the cap that start a trim
)

// keeper checkpoints SQLite and trims the log, off the commit path. quiet runs
// a function while nothing is being written.
type keeper struct {
	replica *Replica
	quiet   func(ctx context.Context, f func()) error
	durable base.Seq // what SQLite has on disk by itself: the log may go up to here
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
	db, _, release, err := k.replica.useFile()
	if err != nil {
		return nil // It is being replaced; the next round finds the new one.
	}
	defer release()
	size, err := db.WALSize()
	if err != nil {
		return fmt.Errorf("size of SQLite's WAL: %w", err)
	}
	excess := k.replica.changes.Bytes() - k.retention()
	if size < checkpointAt && excess < trimSlackBytes {
		return nil
	}
	if err := k.checkpoint(ctx, db, size); err != nil {
		return err
	}
	return k.trim()
}

func (k *keeper) retention() int64 {
	if b := k.replica.assignment().Policy.RetentionBytes; b > 0 {
		return b
	}
	return base.DefaultRetentionBytes
}

// checkpoint moves SQLite's WAL into its file. The log is flushed first, so
// that what only a WAL held is never on disk before the log has it.
func (k *keeper) checkpoint(ctx context.Context, db *sqlite.Database, size int64) error {
	executed := k.replica.executed.get()
	if k.replica.changes.Flushed() < executed {
		if _, err := k.replica.changes.Sync(); err != nil {
			return fmt.Errorf("%w: %w", errFlush, err)
		}
	}
	frames, done, err := db.Checkpoint(ctx, sqlite.CheckpointPassive)
	if err == nil && size > stopTheWriter {
		// A writer that never pauses keeps the WAL from starting over: finish
		// the little that is left while it waits.
		err = k.quiet(ctx, func() {
			executed = k.replica.executed.get()
			frames, done, _ = db.Checkpoint(ctx, sqlite.CheckpointPassive)
		})
	}
	switch {
	case base.KindOf(err) == base.KindCorrupt:
		return err
	case err != nil:
		k.replica.log.Warn("checkpoint; it is tried again", "err", err)
	case frames == done:
		k.durable = max(k.durable, executed)
	}
	return nil
}

// trim drops log that neither SQLite nor a follower within the cap needs.
func (k *keeper) trim() error {
	r := k.replica
	limit := k.retention()
	advice := changelog.Retain(r.changes.Segments(), limit, limit/2, k.durable, r.holders())
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
	lead.acks.mu.Lock()
	defer lead.acks.mu.Unlock()
	var list []changelog.Holder
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
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

package leader

import (
	"context"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/leadership"
)

// Release hands the database over to target: no new write begins, those under
// way are finished and acknowledged, and when target has everything on disk
// this leadership ends. It returns the final position.
func (r *Replica) Release(ctx context.Context, epoch base.Epoch, target base.NodeID, within time.Duration) (base.Position, error) {
	l, err := r.leading()
	if err != nil {
		return base.Position{}, err
	}
	if l.epoch != epoch {
		return base.Position{}, base.Errorf(base.KindNotLeader, "switchover: epoch is %d, not %d", l.epoch, epoch)
	}
	if err := l.beginHandover(ctx, target, within); err != nil {
		return base.Position{}, err
	}
	r.log.Info("handing over", "epoch", epoch, "to", target)
	l.handing.Store(true)
	defer l.handing.Store(false)
	ended := l.holdWrites()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		l.drain(ctx)
	}()
	defer func() { <-drained }()
	select {
	case final := <-ended:
		return final, l.handedOver(final)
	case <-l.over:
		return base.Position{}, r.notLeader()
	case <-ctx.Done():
		aborted := false
		l.acks.update(func(core *leadership.Leader, _ leadership.Instant) { aborted = core.AbortHandover() })
		if aborted {
			l.resume(base.Position{})
		} else {
			// It has stopped already, and nobody is left to hear of it: the
			// supervisor is told that this epoch has no leader.
			l.cancel(errPartOver)
		}
		return base.Position{}, context.Cause(ctx)
	}
}

// beginHandover begins a switchover as soon as target follows, for which half
// the time is given: right after a change of leaders, one that follows well may
// only be about to connect. Writes go on meanwhile.
func (l *leading) beginHandover(ctx context.Context, target base.NodeID, within time.Duration) (err error) {
	until := l.replica.now().Add(within)
	timer := l.replica.env.Clock.NewTimer(within / 2)
	defer timer.Stop()
	for waiting := true; waiting; {
		changed := l.acks.changed.wait()
		if !l.acks.awaits(target) {
			break
		}
		select {
		case <-changed:
		case <-timer.C():
			waiting = false
		case <-l.over:
			return l.replica.notLeader()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	l.acks.update(func(core *leadership.Leader, now leadership.Instant) {
		err = core.BeginHandover(now, target, until)
	})
	return err
}

// handedOver ends this leadership after a release. The zero position says that
// the release has failed and the leader goes on.
func (l *leading) handedOver(final base.Position) error {
	if final == (base.Position{}) {
		return base.Errorf(base.KindTimeout, "switchover: the target did not catch up in time; the leader goes on")
	}
	l.cancel(errPartOver)
	return nil
}

// holdWrites keeps new writes waiting; the channel gets how it ended.
func (l *leading) holdWrites() <-chan base.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.draining = make(chan struct{})
	l.mu.released = make(chan base.Position, 1)
	return l.mu.released
}

// resume lets writes go on after a release has failed, or ends the release.
func (l *leading) resume(final base.Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.released == nil {
		return
	}
	l.mu.released <- final
	l.mu.released = nil
	if final == (base.Position{}) {
		close(l.mu.draining)
		l.mu.draining = nil
	}
}

// drain waits until the writer has finished what it had taken on, and tells
// the core where the log ends then.
func (l *leading) drain(ctx context.Context) {
	l.mu.Lock()
	resumed := l.mu.draining
	l.mu.Unlock()
	err := l.quiet(ctx, func() {
		last := l.writer.end
		l.acks.update(func(core *leadership.Leader, _ leadership.Instant) { core.Drained(last) })
		l.renewLease() // One that nobody needed may have lapsed, and is needed to end this leadership.
		wake(l.ticking)
		// The writer stays here, so that nothing is written, until it is clear
		// who writes next.
		select {
		case <-resumed:
		case <-l.ending:
		}
	})
	if err != nil {
		l.replica.log.Debug("drain for a switchover", "err", err)
	}
}

// obey does what the core wants done.
func (l *leading) obey(e leadership.Effect) {
	switch e.Kind {
	case leadership.Released:
		l.resume(base.Position{Epoch: l.epoch, Seq: e.Final})
	case leadership.HandoverFailed:
		l.resume(base.Position{})
	default:
		l.replica.events.Effect(l.epoch, e)
	}
}

// fenced ends a leadership that a later epoch has overtaken.
func (l *leading) fenced(by base.Epoch) {
	l.replica.log.Warn("a later epoch exists: stepping down", "epoch", l.epoch, "later", by)
	l.cancel(errPartOver)
}

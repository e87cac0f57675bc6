package leader

import (
	"context"
	"fmt"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/leadership"
)

func (r *Replica) vow() leadership.Vow {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.follower.Vow()
}

// keepVow makes the core's vow durable. Nothing that depends on it may happen
// before keepVow has returned nil.
func (r *Replica) keepVow() error {
	v := r.vow()
	return r.changeMeta(func(m *meta) { m.Promised, m.Led = max(m.Promised, v.Promised), max(m.Led, v.Led) })
}

// Promise answers an election: it stops whatever this replica does at lower
// epochs, makes the promise durable, flushes the log and says how far it
// reaches.
func (r *Replica) Promise(ctx context.Context, q leadership.PromiseRequest) (leadership.PromiseReply, error) {
	r.mu.Lock()
	reply := r.mu.follower.Promise(r.now(), q)
	lead := r.mu.leading
	r.mu.Unlock()
	if reply.Granted && !q.Probe {
		if lead != nil {
			lead.acks.depose(q.Epoch)
		}
		if err := r.keepVow(); err != nil {
			wake(r.assigned) // What it has promised in memory ends its part.
			return reply, fmt.Errorf("promise epoch %d: %w", q.Epoch, err)
		}
		if err := r.awaitPartOver(ctx, q.Epoch); err != nil {
			return reply, err
		}
	}
	reply.Fresh = r.unproven() && len(r.assignment().Replicas) > 1
	if !reply.Granted || reply.Fresh {
		return reply, nil
	}
	if _, err := r.changes.Sync(); err != nil {
		return reply, fmt.Errorf("flush the log for an election: %w", err)
	}
	reply.Position = r.changes.End()
	r.mu.Lock()
	defer r.mu.Unlock()
	reply.LeaderEnd = r.mu.leaderEnd
	if !r.mu.heardAt.IsZero() && !r.mu.levelAt.IsZero() {
		reply.Behind = max(0, r.mu.heardAt.Sub(r.mu.levelAt))
	}
	return reply, nil
}

// unproven says that this replica is no evidence of what was acknowledged.
func (r *Replica) unproven() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.meta.noEvidence()
}

// prove ends that, once the replica has all that its leader's log had when it
// began to follow, or when its own log is the database's.
func (r *Replica) prove() error {
	return r.changeMeta(func(m *meta) { m.Unproven = false })
}

func (a *acks) depose(epoch base.Epoch) {
	a.update(func(core *leadership.Leader, _ leadership.Instant) { core.Depose(epoch) })
}

// awaitPartOver waits until no part of an epoch below epoch is played.
func (r *Replica) awaitPartOver(ctx context.Context, epoch base.Epoch) error {
	wake(r.assigned)
	for {
		changed := r.partChanged.wait()
		r.mu.Lock()
		playing := r.mu.playing
		r.mu.Unlock()
		if playing == 0 || playing >= epoch {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("stop epoch %d: %w", playing, context.Cause(ctx))
		}
	}
}

// beginPart takes the assignment to play. One that the vow forbids is played
// as a rest, and counts as no part.
func (r *Replica) beginPart() (Assignment, part) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.mu.assignment
	p := part{epoch: a.Epoch, leader: a.Leader, promised: r.mu.follower.Vow().Promised}
	if p.promised <= a.Epoch {
		r.mu.playing = a.Epoch
	}
	return a, p
}

func (r *Replica) endPart() {
	r.mu.Lock()
	r.mu.playing = 0
	r.mu.follower.Unfollow()
	r.mu.Unlock()
	r.partChanged.signal()
}

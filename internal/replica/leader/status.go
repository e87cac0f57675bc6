package leader

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/leadership"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/sqlite"
)

// Leads implements replica.Replica. It is a hint of where to write, and no
// permission: each write asks for the lease itself.
func (r *Replica) Leads() bool {
	r.mu.Lock()
	lead := r.mu.leading
	r.mu.Unlock()
	return lead != nil && lead.acks.leaseLately()
}

// Status implements replica.Replica.
func (r *Replica) Status() replica.Status {
	r.mu.Lock()
	a, lead := r.mu.assignment, r.mu.leading
	s := replica.Status{
		Role: r.mu.role, Epoch: a.Epoch, Leader: a.Leader, Copied: r.mu.copied, CopyTotal: r.mu.copyTotal,
		Path: r.path(), Orphans: r.mu.orphans, OrphansAcknowledged: r.mu.orphansAck,
		Unproven: r.mu.meta.noEvidence(), Differences: r.mu.differences, Difference: r.mu.difference.text,
	}
	if r.mu.failure != nil {
		s.Error = r.mu.failure.Error()
	} else if r.mu.meta.Copying {
		s.Error = r.mu.meta.Reason
	}
	r.mu.Unlock()
	s.Age = r.age()
	s.Appended, s.Flushed = r.changes.End(), r.changes.Flushed()
	s.Safe = r.safe.get()
	applied := base.Seq(r.applied.Load())
	s.Applied = base.Position{Epoch: r.changes.EpochAt(applied), Seq: applied}
	s.LogStart, s.LogBytes = r.changes.Start(), r.changes.Bytes()
	s.FileBytes = r.fileBytes()
	if lead != nil {
		lead.describe(&s)
	}
	r.forecast(&s)
	return s
}

func (r *Replica) fileBytes() int64 {
	var n int64
	for _, suffix := range []string{"", "-wal"} {
		if st, err := r.env.FS.Stat(r.path() + suffix); err == nil {
			n += st.Size()
		}
	}
	return n
}

// describe adds what only the leader knows.
func (l *leading) describe(s *replica.Status) {
	a := l.acks
	a.mu.Lock()
	now := a.replica.now()
	core := a.mu.core.Status(now)
	s.LeaseLive = a.leaseLatelyLocked(now)
	end := a.mu.published.Seq
	a.mu.Unlock()
	s.Degraded = core.Degraded
	for _, f := range core.Followers {
		s.Followers = append(s.Followers, l.follower(f, end))
	}
	slices.SortFunc(s.Followers, func(x, y replica.Follower) int { return cmp.Compare(x.Node, y.Node) })
}

func (l *leading) follower(f leadership.FollowerStatus, end base.Seq) replica.Follower {
	out := replica.Follower{Node: f.Node, Attached: f.Attached, Received: f.Received, Flushed: f.Flushed, Applied: f.Applied}
	l.mu.Lock()
	s := l.mu.senders[f.Node]
	l.mu.Unlock()
	if f.Applied < end {
		out.Lag = f.Silence
		if s != nil {
			out.Lag = max(out.Lag, s.lag(l.replica.env.Clock.Now(), f.Applied))
		}
	}
	return out
}

// DegradedReason says why fewer copies count than the policy asks; empty when
// they don't.
func (r *Replica) DegradedReason() string {
	lead, err := r.leading()
	if err != nil {
		return ""
	}
	lead.acks.mu.Lock()
	defer lead.acks.mu.Unlock()
	return lead.acks.mu.core.Status(r.now()).Reason
}

// AwaitPolicy waits until this replica leads the epoch that it was assigned, and
// counts copies as the policy asks, or until ctx is done. What it returns then is
// the core's; ok is false when this replica does not lead. Once it was assigned
// to another it returns at once.
func (r *Replica) AwaitPolicy(ctx context.Context) (s leadership.Status, ok bool) {
	for {
		moved := r.leadChanged.wait()
		r.mu.Lock()
		a, lead := r.mu.assignment, r.mu.leading
		r.mu.Unlock()
		if a.Leader != r.options.Transport.Self() {
			return s, false
		}
		if ok = lead != nil && lead.epoch == a.Epoch; ok {
			moved = lead.acks.changed.wait()
			if s = lead.acks.status(); s.Stopped || s.Counting.Same(s.Wanted) {
				return s, !s.Stopped
			}
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return s, ok
		}
	}
}

// Verify checks log and file for damage, which a scrub does from time to time.
func (r *Replica) Verify(ctx context.Context) error {
	if err := r.changes.Verify(ctx); err != nil {
		return err
	}
	db, ctx, release, err := r.useFileFor(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := db.QuickCheck(ctx); err != nil {
		return err
	}
	return db.VirtualCheck(ctx)
}

// ContentHash is a hash of everything that users put into the database, and
// the position that it belongs to.
func (r *Replica) ContentHash(ctx context.Context) (hash string, at base.Position, err error) {
	at, err = r.withSnapshot(ctx, func(_ context.Context, shot *sqlite.Snapshot) (err error) {
		hash, err = shot.ContentHash()
		return err
	})
	return hash, at, err
}

// Leading says which epoch this replica leads, 0 when none, and whether it can
// serve now.
func (r *Replica) Leading() (epoch base.Epoch, active bool) {
	r.mu.Lock()
	l := r.mu.leading
	r.mu.Unlock()
	if l == nil {
		return 0, false
	}
	select {
	case <-l.ready:
		return l.epoch, l.acks.leaseLive()
	default:
		return l.epoch, false
	}
}

// Silence is how long ago this follower last heard its leader.
func (r *Replica) Silence() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	silence, any := r.mu.follower.Silence(r.now())
	if !any {
		return r.env.Clock.Now().Sub(r.started)
	}
	return silence
}

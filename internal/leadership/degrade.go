package leadership

import (
	"fmt"
	"slices"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/planted"
)

// joining is a change of the counting under way (rule 5). Until it is
// proposed it may be dropped; afterwards it binds until it is decided.
type joining struct {
	active   bool
	to       Counting // its revision is the one that it will have
	since    Instant
	proposed bool
	again    Instant // when to propose again
}

// shortage measures how long too few followers have counted.
type shortage struct {
	short bool
	since Instant // when short began

	// A write that waits: mark is a seq that was flushed here at markedAt and
	// is not safe yet. Zero: nothing waits.
	mark     base.Seq
	markedAt Instant

	// settled is a value of safe that is at least half a lease old: a follower
	// that has it keeps up.
	settled, next base.Seq
	nextAt        Instant
}

func (l *Leader) tickCounting(now Instant, out []Effect) []Effect {
	l.measure(now)
	if l.joining.active {
		return l.tickJoining(now, out)
	}
	if to := l.target(now); l.better(to) {
		return l.begin(now, to, out)
	}
	return l.tickDegrade(now, out)
}

// measure keeps the marks of shortage up to date.
func (l *Leader) measure(now Instant) {
	s := &l.shortage
	if s.mark != 0 && l.safe >= s.mark {
		s.mark = 0
	}
	if s.mark == 0 && l.flushed > l.safe {
		s.mark, s.markedAt = l.flushed, now
	}
	if now.Sub(s.nextAt) >= l.config.Lease/2 {
		s.settled, s.next, s.nextAt = s.next, l.safe, now
	}
	short := !l.satisfied(now, l.config.Counting)
	if short && !s.short {
		s.since = now
	}
	s.short = short
}

// present says that a follower is attached and acknowledges messages.
func (l *Leader) present(now Instant, f *follower) bool {
	return f != nil && f.attached && now.Sub(f.heard) <= l.config.Lease
}

// Awaits says that a node is a replica that should follow, and does not just
// now.
func (l *Leader) Awaits(now Instant, n base.NodeID) bool {
	return !l.stopped && n != l.config.Self && l.want.Has(n) && !l.present(now, l.follower(n))
}

// waited says that a write has waited for longer than the policy lets it.
func (l *Leader) waited(now Instant) bool {
	after := l.config.Policy.DegradeAfter
	return after > 0 && l.shortage.mark != 0 && now.Sub(l.shortage.markedAt) >= after
}

// satisfied says that enough of c are present for its copies and its lease,
// and none of the needed ones holds up a write for longer than allowed.
func (l *Leader) satisfied(now Instant, c Counting) bool {
	n := 0
	for _, node := range c.Replicas {
		f := l.follower(node)
		if node == l.config.Self || l.present(now, f) && (!l.waited(now) || f.at(l.config.Policy.Durability.When) >= l.shortage.mark) {
			n++
		}
	}
	return n >= max(c.Copies, c.Support)
}

// target is the best counting that the present, level followers allow: the
// wanted one, or that of the leader and those followers alone.
func (l *Leader) target(now Instant) Counting {
	floor := min(l.shortage.settled, l.safe)
	if l.waited(now) {
		floor = l.shortage.mark
	}
	var level []base.NodeID
	for _, node := range l.want.Replicas {
		f := l.follower(node)
		if node != l.config.Self && l.present(now, f) && f.at(l.config.Policy.Durability.When) >= floor {
			level = append(level, node)
		}
	}
	members := append(level, l.config.Self)
	slices.Sort(members)
	counted := len(level)
	if l.want.Has(l.config.Self) {
		counted++
	}
	if counted >= max(l.want.Copies, l.want.Support) {
		return l.want
	}
	n := len(members)
	return Counting{Replicas: members, Copies: min(l.want.Copies, n), Support: min(l.want.Support, n)}
}

// better says that going from the recorded counting to c adds safety, or is
// what was asked for.
func (l *Leader) better(c Counting) bool {
	have := l.config.Counting
	if c.Same(have) {
		return false
	}
	if c.Same(l.want) {
		return true
	}
	if have.Same(l.want) {
		return false
	}
	for _, n := range have.Replicas {
		if !c.Has(n) {
			return false
		}
	}
	return len(c.Replicas) > len(have.Replicas) && c.Copies >= have.Copies
}

// tickDegrade goes on with the followers that are there when those that the
// counting needs have been missing for as long as the policy allows. It also
// starts a change that was asked for and needs no new replica, such as from
// quorum to all: that is obeyed before it can be satisfied.
func (l *Leader) tickDegrade(now Instant, out []Effect) []Effect {
	after := l.config.Policy.DegradeAfter
	if after > 0 && l.shortage.short && (l.waited(now) || now.Sub(l.shortage.since) >= after) {
		if to := l.target(now); !to.Same(l.config.Counting) && l.safeUnder(to) >= l.safe {
			return l.begin(now, to, out)
		}
		return out
	}
	if !l.want.Same(l.config.Counting) && l.stricter() && !l.tried.Same(l.want) {
		return l.begin(now, l.want, out)
	}
	return out
}

// stricter says that the wanted counting asks more of the same replicas.
func (l *Leader) stricter() bool {
	return slices.Equal(l.want.Replicas, l.config.Counting.Replicas) && l.want.Copies >= l.config.Counting.Copies
}

func (l *Leader) begin(now Instant, to Counting, out []Effect) []Effect {
	to.Revision = l.config.Counting.Revision + 1
	if planted.Is(planted.DegradeByYourself) {
		l.config.Counting = to
	}
	l.joining = joining{active: true, to: to, since: now}
	return l.tickJoining(now, out)
}

// tickJoining proposes the new counting once it is ready, and again until it
// is decided; or drops one that does not get ready.
func (l *Leader) tickJoining(now Instant, out []Effect) []Effect {
	j := &l.joining
	switch {
	case j.proposed && now < j.again:
		return out
	case j.proposed, l.ready(j.to):
		j.proposed, j.again = true, now.Add(l.config.Lease/2)
		return append(out, Effect{Kind: ProposeCounting, Counting: j.to})
	case l.giveUp(now):
		l.tried = j.to
		l.joining = joining{}
	}
	return out
}

// ready says that to holds for all that was ever acknowledged in this
// database: that lies below the opening entry, or was declared safe here.
func (l *Leader) ready(to Counting) bool {
	return l.safeUnder(to) >= max(l.safe, l.config.Opening)
}

// giveUp says that a change that is not proposed yet should be dropped. One
// that an operator asked for blocks, as the policy says, for as long as a
// missing follower may.
func (l *Leader) giveUp(now Instant) bool {
	j := l.joining
	if j.to.Same(l.want) && l.stricter() {
		after := l.config.Policy.DegradeAfter
		return after > 0 && now.Sub(j.since) >= after
	}
	return now.Sub(j.since) >= l.config.Lease
}

// Status of a leader, for people.
type Status struct {
	Epoch base.Epoch
	Safe  base.Seq
	// Degraded: fewer copies count than the policy asks, and Reason says why.
	Degraded bool
	Reason   string
	Counting Counting // in force
	Wanted   Counting
	// Joining: writes wait for Wanted, too, which is on its way to be in force.
	Joining bool
	// Draining: a switchover has begun; admit no new write.
	Draining bool
	Stopped  bool
	// Fenced is the later epoch that stopped this leader, if one did.
	Fenced    base.Epoch
	Followers []FollowerStatus
}

// FollowerStatus is a follower as its leader sees it.
type FollowerStatus struct {
	Node                       base.NodeID
	Attached, Present          bool
	Received, Flushed, Applied base.Seq
	// Silence is how long ago it was last heard of.
	Silence time.Duration
}

// Status returns a snapshot.
func (l *Leader) Status(now Instant) Status {
	have := l.config.Counting
	s := Status{
		Epoch: l.config.Epoch, Safe: l.safe, Counting: have, Wanted: l.want,
		Degraded: have.Copies < l.want.Copies || have.Support < l.want.Support,
		Joining:  l.joining.active && l.joining.to.Same(l.want), Draining: l.handover.active, Stopped: l.stopped, Fenced: l.fenced,
	}
	for _, f := range l.followers {
		s.Followers = append(s.Followers, FollowerStatus{
			Node: f.node, Attached: f.attached, Present: l.present(now, f),
			Received: f.received, Flushed: f.flushed, Applied: f.applied, Silence: now.Sub(f.heard),
		})
	}
	if s.Degraded {
		s.Reason = l.reason()
	}
	return s
}

func (l *Leader) reason() string {
	var missing []base.NodeID
	for _, n := range l.want.Replicas {
		if !l.config.Counting.Has(n) {
			missing = append(missing, n)
		}
	}
	why := fmt.Sprintf("%d copies count where the policy asks for %d", l.config.Counting.Copies, l.want.Copies)
	if len(missing) > 0 {
		why += fmt.Sprintf("; not counted: %v", missing)
	}
	return why
}

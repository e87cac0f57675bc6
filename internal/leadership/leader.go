package leadership

import (
	"cmp"
	"slices"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/planted"
)

// Config is what a leader knows when it begins, and again at every change of
// its database's record (Reconfigure).
type Config struct {
	Self  base.NodeID
	Epoch base.Epoch
	// Opening is the seq of the leader's opening entry (rule 3).
	Opening base.Seq
	// Replicas and Policy as wanted; Counting as recorded. A zero Counting is
	// that which Replicas and Policy ask for.
	Replicas []base.NodeID
	Policy   base.Policy
	Counting Counting
	// Lease is the longest that a follower may be asked for, and the unit of all
	// other times; it is the same on all nodes. MinLease is the shortest. Zero:
	// DefaultLease, and a tenth of the lease.
	Lease, MinLease time.Duration
}

// marginOf a lease covers clocks that run unevenly.
func marginOf(lease time.Duration) time.Duration { return lease / 10 }

// DefaultLease is how long a leader may count on a follower's silence.
const DefaultLease = 2 * time.Second

// Ack is what a follower tells its leader.
type Ack struct {
	Epoch base.Epoch
	// Stamp of the newest message received that asked for a lease, echoed, and
	// the lease that was granted with it.
	Stamp                      Instant
	Lease                      time.Duration
	Received, Flushed, Applied base.Seq
	// Read: somebody reads the follower's copy, and wants to know at once what is
	// safe. It decides nothing here.
	Read bool
}

// Leader is the core of a replica that leads one epoch. It is made by
// NewLeader, used for one epoch and thrown away. It has no lock.
type Leader struct {
	config    Config
	want      Counting // what replicas and policy ask for
	safe      base.Seq // declared; never goes back
	flushed   base.Seq
	followers []*follower // sorted by node
	stopped   bool        // deposed or released
	fenced    base.Epoch  // the later epoch that stopped it, if one did

	joining  joining
	tried    Counting // a change that was dropped; not begun again unless it can be satisfied
	handover handover
	released base.Seq // the end of this epoch, once it is released
	shortage shortage
	stall    stall
}

type follower struct {
	node                       base.NodeID
	attached                   bool
	heard                      Instant // last Attach or Ack
	trips                      peak    // how long messages and their answers took
	until                      Instant // of the lease that it has granted
	received, flushed, applied base.Seq
}

func (f *follower) at(w base.When) base.Seq {
	switch w {
	case base.Received:
		return f.received
	case base.Applied:
		return f.applied
	}
	return f.flushed
}

// NewLeader begins an epoch. The vow (Follower.Lead) must be durable, and the
// record must name this node as the leader of config.Epoch.
func NewLeader(config Config, now Instant) *Leader {
	l := &Leader{}
	l.configure(config)
	l.shortage.since = now
	l.stall.since = now
	return l
}

func (l *Leader) configure(config Config) {
	if config.Lease <= 0 {
		config.Lease = DefaultLease
	}
	if config.MinLease <= 0 {
		config.MinLease = config.Lease / 10
	}
	l.want = Count(config.Replicas, config.Policy)
	if len(config.Counting.Replicas) == 0 {
		config.Counting = l.want
	}
	l.config = config
	l.followers = slices.DeleteFunc(l.followers, func(f *follower) bool { return !l.counts(f.node) })
}

// counts says whether a node matters to any counting, now or soon.
func (l *Leader) counts(n base.NodeID) bool {
	return l.want.Has(n) || l.config.Counting.Has(n) || (l.joining.active && l.joining.to.Has(n))
}

// Reconfigure takes over a newer state of the database's record. It reports
// false, and changes nothing, when the record has left this leader's epoch.
func (l *Leader) Reconfigure(now Instant, config Config) bool {
	if config.Epoch != l.config.Epoch || config.Self != l.config.Self {
		return false
	}
	config.Opening = l.config.Opening
	if len(config.Counting.Replicas) == 0 || config.Counting.Revision < l.config.Counting.Revision {
		config.Counting = l.config.Counting
	}
	decided, before := config.Counting.Revision > l.config.Counting.Revision, l.want
	l.configure(config)
	if !before.Same(l.want) {
		l.tried = Counting{}
	}
	if decided {
		l.joining = joining{}
		l.shortage.since = now
	}
	l.advance()
	return true
}

// LocalFlushed says how far the leader's own log is on disk.
func (l *Leader) LocalFlushed(seq base.Seq) {
	l.flushed = max(l.flushed, seq)
	l.advance()
}

// Attach says that a follower streams from this leader, its flushed log being
// a prefix of the leader's up to at. It reports false for a node that is no
// replica.
func (l *Leader) Attach(now Instant, from base.NodeID, at base.Seq) bool {
	if !l.counts(from) || from == l.config.Self {
		return false
	}
	f := l.follower(from)
	if f == nil {
		f = &follower{node: from, until: -Forever}
		l.followers = append(l.followers, f)
		slices.SortFunc(l.followers, func(a, b *follower) int { return cmp.Compare(a.node, b.node) })
	}
	f.attached, f.heard = true, now
	f.received, f.flushed, f.applied = at, at, min(f.applied, at)
	l.advance()
	return true
}

// Detach says that a follower's stream has ended. What is on its disk still
// counts; what was only in its memory does not.
func (l *Leader) Detach(now Instant, from base.NodeID) {
	if f := l.follower(from); f != nil {
		f.attached, f.heard = false, now
		f.received = f.flushed
	}
}

// Ack takes in a follower's acknowledgement.
func (l *Leader) Ack(now Instant, from base.NodeID, a Ack) {
	f := l.follower(from)
	if f == nil || !f.attached || a.Epoch != l.config.Epoch || a.Stamp > now {
		return
	}
	f.heard = now
	if a.Lease > 0 {
		granted := min(a.Lease, l.config.Lease)
		f.until = max(f.until, a.Stamp.Add(granted-marginOf(granted)))
		f.trips.add(now, now.Sub(a.Stamp), 5*l.config.Lease)
	}
	f.received = max(f.received, a.Received)
	f.flushed = max(f.flushed, a.Flushed)
	f.applied = max(f.applied, a.Applied)
	l.advance()
}

func (l *Leader) follower(n base.NodeID) *follower {
	for _, f := range l.followers {
		if f.node == n {
			return f
		}
	}
	return nil
}

// advance declares what has become safe. A stopped leader declares nothing:
// what was not safe when it stopped is for the next one to decide.
func (l *Leader) advance() {
	if l.stopped {
		return
	}
	s := l.safeUnder(l.config.Counting)
	if l.joining.active {
		s = min(s, l.safeUnder(l.joining.to))
	}
	if s >= l.config.Opening {
		l.safe = max(l.safe, s)
	}
}

// safeUnder is the highest seq that the leader's disk and Copies of c hold.
func (l *Leader) safeUnder(c Counting) base.Seq {
	held := make([]base.Seq, 0, len(c.Replicas))
	for _, n := range c.Replicas {
		held = append(held, l.held(n, l.config.Policy.Durability.When))
	}
	if planted.Is(planted.AckBeforeQuorum) {
		return l.flushed
	}
	return min(l.flushed, nth(held, c.Copies))
}

// held is how far a replica has come at a point; the leader is always taken
// at its disk.
func (l *Leader) held(n base.NodeID, w base.When) base.Seq {
	if n == l.config.Self {
		return l.flushed
	}
	if f := l.follower(n); f != nil {
		return f.at(w)
	}
	return 0
}

// nth returns the n-th greatest of values; the zero value when there are fewer.
func nth[T cmp.Ordered](values []T, n int) T {
	var none T
	if n < 1 || n > len(values) {
		return none
	}
	slices.Sort(values)
	return values[len(values)-n]
}

// Safe is the highest seq that may be acknowledged and shown under the
// database's policy; zero until the opening entry is safe. It never goes back.
func (l *Leader) Safe() base.Seq { return l.safe }

// Reached is the highest seq that has a durability, whatever the policy. The
// zero Durability is the policy's, and one that asks no more than the policy
// is reached when the policy is, degraded or not.
func (l *Leader) Reached(d base.Durability) base.Seq {
	if d.Level == "" {
		return l.safe
	}
	n, policy := len(l.want.Replicas), l.config.Policy.Durability
	held := make([]base.Seq, 0, n)
	for _, node := range l.want.Replicas {
		if node != l.config.Self {
			held = append(held, l.held(node, d.When))
		}
	}
	s := l.flushed
	if k := d.Level.Followers(n); k > 0 {
		s = min(s, nth(held, k))
	}
	if d.Level.Followers(n) <= policy.Level.Followers(n) && rank(d.When) <= rank(policy.When) {
		s = max(s, l.safe)
	}
	if s < l.config.Opening {
		return 0
	}
	return s
}

func rank(w base.When) int {
	switch w {
	case base.Received:
		return 0
	case base.Applied:
		return 2
	}
	return 1
}

// Copies says on how many replicas a seq is, the leader included.
type Copies struct{ Received, Flushed, Applied, Replicas int }

// ReachedBy counts the replicas that have a seq, for a reply such as "flushed
// on 2 of 3".
func (l *Leader) ReachedBy(seq base.Seq) Copies {
	c := Copies{Replicas: len(l.want.Replicas)}
	for _, n := range l.want.Replicas {
		if l.held(n, base.Received) >= seq {
			c.Received++
		}
		if l.held(n, base.Flushed) >= seq {
			c.Flushed++
		}
		if l.held(n, base.Applied) >= seq {
			c.Applied++
		}
	}
	return c
}

// LeaseUntil is the instant before which this leader may acknowledge and serve
// linearizable reads (rule 7). A read checks it after taking its snapshot.
func (l *Leader) LeaseUntil() Instant {
	if l.stopped {
		return -Forever
	}
	until := l.leaseUnder(l.config.Counting)
	if l.joining.active {
		until = min(until, l.leaseUnder(l.joining.to))
	}
	return until
}

func (l *Leader) leaseUnder(c Counting) Instant {
	until := make([]Instant, 0, len(c.Replicas))
	for _, n := range c.Replicas {
		f := l.follower(n)
		switch {
		case n == l.config.Self:
			until = append(until, Forever)
		case f != nil:
			until = append(until, f.until)
		default:
			until = append(until, -Forever)
		}
	}
	return nth(until, c.Support)
}

// AskLease is the lease to ask a follower for: short, so that nobody waits long
// for what is left of it, and long enough for answers as slow as the slowest of
// late to bring some of it. The first one is short, too: when its answer comes
// too late, it has told how long the next one must be.
func (l *Leader) AskLease(from base.NodeID) time.Duration {
	f := l.follower(from)
	if f == nil {
		return l.config.MinLease
	}
	return min(max(f.trips.value*5/2, l.config.MinLease), l.config.Lease)
}

// LeaseRunsOut says that asking a follower for a lease now would bring more than
// half of one. Who waits for the lease of others need not ask it again and again.
func (l *Leader) LeaseRunsOut(now Instant, from base.NodeID) bool {
	f := l.follower(from)
	return f == nil || f.until < now.Add(l.AskLease(from)/2)
}

// LeaseLive says whether LeaseUntil lies ahead.
func (l *Leader) LeaseLive(now Instant) bool {
	return !l.stopped && (now < l.LeaseUntil() || planted.Is(planted.ServePastLease))
}

// Acknowledge says whether a write that ends at seq may be acknowledged now at
// a durability (zero: the policy's). After a release everything up to its end
// may still be: the next leader has it.
func (l *Leader) Acknowledge(now Instant, seq base.Seq, d base.Durability) bool {
	if l.stopped {
		return seq <= l.released
	}
	return l.Reached(d) >= seq && l.LeaseLive(now)
}

// Depose stops this leader when a later epoch is promised or recorded. It
// reports whether the leader is stopped.
func (l *Leader) Depose(epoch base.Epoch) bool {
	if epoch > l.config.Epoch {
		l.stopped, l.fenced = true, max(l.fenced, epoch)
	}
	return l.stopped
}

// Stopped says whether the leader was deposed or has released its database.
func (l *Leader) Stopped() bool { return l.stopped }

// EffectKind says what a leader wants done.
type EffectKind uint8

// The effects.
const (
	// ProposeCounting: have the control plane record Counting if the epoch is
	// still this leader's and the recorded revision is Counting.Revision−1. It
	// is repeated until a Reconfigure shows a later revision.
	ProposeCounting EffectKind = iota + 1
	// Stalled: the lease has been gone for long; tell the supervisor, which
	// may find a replica that the others can reach.
	Stalled
	// Released: a switchover may go on. The leader has stopped; Final is on
	// the target's disk. Tell the supervisor.
	Released
	// HandoverFailed: the target was not level in time; take writes again.
	HandoverFailed
)

// String names the effect.
func (k EffectKind) String() string {
	switch k {
	case ProposeCounting:
		return "propose counting"
	case Stalled:
		return "stalled"
	case Released:
		return "released"
	case HandoverFailed:
		return "handover failed"
	}
	return "unknown effect"
}

// Effect is something that the shell is to do.
type Effect struct {
	Kind     EffectKind
	Counting Counting    // ProposeCounting
	Final    base.Seq    // Released: the last seq of this epoch
	Target   base.NodeID // Released, HandoverFailed
}

// Tick lets time pass: call it often (a tenth of the lease) and after anything
// that a handover waits for.
func (l *Leader) Tick(now Instant) []Effect {
	if l.stopped {
		return nil
	}
	l.advance()
	var out []Effect
	out = l.tickHandover(now, out)
	if l.stopped {
		return out
	}
	out = l.tickCounting(now, out)
	return l.tickStall(now, out)
}

// stall notices a leader whom its followers do not hear.
type stall struct {
	dead  bool
	since Instant
}

func (l *Leader) tickStall(now Instant, out []Effect) []Effect {
	if l.LeaseLive(now) {
		l.stall.dead = false
		return out
	}
	if !l.stall.dead {
		l.stall = stall{dead: true, since: now}
		return out
	}
	if now.Sub(l.stall.since) < 3*l.config.Lease+l.config.Policy.DegradeAfter {
		return out
	}
	l.stall.since = now
	return append(out, Effect{Kind: Stalled})
}

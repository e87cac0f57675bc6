package sim

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
)

// fault is something that goes wrong, or that an operator does.
type fault struct {
	name   string
	chance int // in percent, that a seed draws it
	nodes  int // the fewest that it makes sense with
	// begin does it and returns what undoes it after a while; nil when there is
	// nothing to undo.
	begin func(n *nemesis) (undo func())
}

// faults are in a fixed order, since seeds draw from it.
var faults = []fault{
	{"crash", 60, 1, (*nemesis).crash},
	{"kill", 60, 1, (*nemesis).killOne},
	{"pause", 50, 1, (*nemesis).pause},
	{"restart", 30, 1, (*nemesis).restart},
	{"blackout", 15, 1, (*nemesis).blackout},
	{"isolate", 60, 2, (*nemesis).isolate},
	{"split", 40, 3, (*nemesis).split},
	{"oneway", 50, 2, (*nemesis).oneWay},
	{"bridge", 30, 3, (*nemesis).bridge},
	{"loss", 50, 2, (*nemesis).loss},
	{"clog", 50, 2, (*nemesis).clog},
	{"slowdisk", 40, 1, (*nemesis).slowDisk},
	{"failsync", 30, 1, (*nemesis).failSync},
	{"full", 30, 1, (*nemesis).full},
	{"rot", 25, 3, (*nemesis).rot},
	{"skew", 30, 1, (*nemesis).skew},
	{"switchover", 40, 2, (*nemesis).switchover},
	{"alter", 25, 2, (*nemesis).alter},
	{"replace", 25, 3, (*nemesis).replace},
	{"join", 25, 1, (*nemesis).join},
	{"leave", 25, 4, (*nemesis).leave},
}

// nemesis does a plan's faults, one after the other or several at once. The
// run's goroutine owns it.
type nemesis struct {
	*world
	random *rand.Rand
	due    []undoing
	rotten *slot // the one node whose stored bytes may change, so that a quorum can heal it
	rotted bool  // it has happened
	moved  bool  // a node has been replaced: that uses up what redundancy there is
	lags   *rand.Rand
	late   lagging
	giving *rand.Rand // whether an operator gives up who is away
}

// undoing is the end of a fault.
type undoing struct {
	at   time.Duration
	name string
	undo func()
}

func newNemesis(w *world) *nemesis {
	n := &nemesis{world: w, random: stream(w.options.Seed, "faults"), lags: stream(w.options.Seed, "lag"), giving: stream(w.options.Seed, "giving up")}
	n.rotten = w.slots[n.random.IntN(len(w.slots))]
	return n
}

// rage does faults until the time is over, then undoes what is left.
func (n *nemesis) rage(until time.Duration) {
	next := n.later()
	for now := n.instants.since(); now < until; now = n.instants.since() {
		n.pass(min(next, until) - now)
		if n.instants.since() >= next {
			n.strike()
			next = n.later()
		}
	}
	n.undoDue(until + time.Hour)
	n.endLag()
}

// pass lets time go by, and undoes what is due meanwhile.
func (n *nemesis) pass(d time.Duration) {
	end := n.instants.since() + d
	for now := n.instants.since(); now < end; now = n.instants.since() {
		wake := min(end, now+mendEvery)
		for _, u := range n.due {
			wake = min(wake, u.at)
		}
		n.instants.sleep(wake - now)
		n.undoDue(n.instants.since())
		n.mend()
		n.lag()
	}
}

func (n *nemesis) later() time.Duration {
	return n.instants.since() + time.Duration(n.random.ExpFloat64()*float64(n.plan.every))
}

func (n *nemesis) undoDue(now time.Duration) {
	due := n.due
	n.due = nil
	for _, u := range due {
		if u.at > now {
			n.due = append(n.due, u)
			continue
		}
		n.trace.add("end of %s", u.name)
		u.undo()
	}
}

// strike does one of the plan's faults. All draws are made also for one that is
// switched off, so that the others stay as they were.
func (n *nemesis) strike() {
	kinds := len(faults)
	if n.options.Plain {
		kinds -= len(movements) // which are the last
	}
	choice, lasts := n.random.IntN(kinds), between(n.random, 100*time.Millisecond, 90*time.Second)
	outer := n.random
	n.random = rand.New(rand.NewPCG(outer.Uint64(), 1))
	defer func() { n.random = outer }()
	f, aimed := faults[choice], n.drills()
	if !aimed && !slices.Contains(n.plan.faults, f.name) {
		return
	}
	n.mu.Lock()
	n.counts.Faults++
	n.mu.Unlock()
	n.wakeClients()
	if aimed {
		n.drill()
	} else if undo := f.begin(n); undo != nil {
		n.due = append(n.due, undoing{n.instants.since() + lasts, f.name, undo})
	}
}

// database is the one that is struck.
func (n *nemesis) database() *database {
	if len(n.databases) == 1 {
		return n.databases[0]
	}
	return pick(n.random, n.databases...)
}

func (n *nemesis) members() []*slot {
	return slices.DeleteFunc(slices.Clone(n.slots), func(s *slot) bool { return s.gone })
}

func (n *nemesis) any() *slot {
	m := n.members()
	return m[n.random.IntN(len(m))]
}

// again starts a node that a fault has ended, unless another fault wants it.
func (n *nemesis) again(s *slot) func() {
	return func() {
		if s.life == nil && !s.gone {
			n.start(s)
		}
	}
}

func (n *nemesis) crash() func() {
	s := n.any()
	n.event("crash", s, "power lost")
	n.kill(s, true)
	n.giveUp(s)
	return n.again(s)
}

func (n *nemesis) killOne() func() {
	s := n.any()
	n.event("kill", s, "process killed")
	n.kill(s, false)
	n.giveUp(s)
	return n.again(s)
}

// giveUp has an operator, now and then, give a node up for dead that stays away.
func (n *nemesis) giveUp(s *slot) {
	patience := between(n.giving, time.Second, 20*time.Second)
	if n.giving.IntN(3) > 0 || n.options.Plain || n.plan.scenario != nil || n.plan.nodes < 3 {
		return
	}
	n.tasks.Go(func() {
		n.instants.sleep(patience)
		if others := n.others(s); n.running(s) == nil && n.ctx.Err() == nil && len(others) > 0 {
			_ = n.through(others[0], "give up "+s.name(), 10*time.Second, func(ctx context.Context, l *life) error { return l.node.MarkDead(ctx, s.id) })
		}
	})
}

func (n *nemesis) blackout() func() {
	n.event("blackout", nil, "power lost everywhere")
	all := n.members()
	for _, s := range all {
		n.silence(s)
	}
	for _, s := range all {
		n.kill(s, true)
	}
	return func() {
		for _, s := range all {
			n.again(s)()
		}
	}
}

func (n *nemesis) restart() func() {
	s := n.any()
	l := s.life
	if l == nil || n.running(s) == nil {
		return nil
	}
	n.event("restart", s, "stopped in order")
	n.stop(s)
	return n.again(s)
}

func (n *nemesis) pause() func() {
	s := n.any()
	l := n.running(s)
	if l == nil {
		return nil
	}
	n.event("pause", s, "frozen")
	l.gate.shut()
	n.net.Isolate(s.id)
	return func() {
		l.gate.release()
		n.net.Rejoin(s.id)
	}
}

// cut stops everything from some to others.
func (n *nemesis) cut(from, to []*slot) {
	for _, a := range from {
		for _, b := range to {
			if a != b {
				n.net.Cut(a.id, b.id)
			}
		}
	}
}

func (n *nemesis) heal(from, to []*slot) {
	for _, a := range from {
		for _, b := range to {
			if a != b {
				n.net.Heal(a.id, b.id)
			}
		}
	}
}

// part cuts two groups off each other, both ways.
func (n *nemesis) part(a, b []*slot) func() {
	n.cut(a, b)
	n.cut(b, a)
	return func() {
		n.heal(a, b)
		n.heal(b, a)
	}
}

func names(slots []*slot) string {
	var list []string
	for _, s := range slots {
		list = append(list, s.name())
	}
	return strings.Join(list, " ")
}

// exposed is any node; where a database may lose writes, often its leader: what
// it acknowledges while it is cut off is lost.
func (n *nemesis) exposed() *slot {
	s := n.any()
	for _, d := range n.databases {
		if !d.lossy() || n.random.IntN(2) == 0 {
			continue
		}
		if i := slices.IndexFunc(n.members(), func(s *slot) bool { return n.leads(d, s) }); i >= 0 {
			return n.members()[i]
		}
	}
	return s
}

func (n *nemesis) isolate() func() {
	s := n.exposed()
	rest := slices.DeleteFunc(n.members(), func(o *slot) bool { return o == s })
	n.event("isolate", s, "cut off from %s", names(rest))
	return n.part([]*slot{s}, rest)
}

func (n *nemesis) shuffled() []*slot {
	m := n.members()
	n.random.Shuffle(len(m), func(i, j int) { m[i], m[j] = m[j], m[i] })
	return m
}

func (n *nemesis) split() func() {
	m := n.shuffled()
	half := 1 + n.random.IntN(len(m)-1)
	n.event("split", nil, "%s | %s", names(m[:half]), names(m[half:]))
	return n.part(m[:half], m[half:])
}

func (n *nemesis) oneWay() func() {
	m := n.shuffled()
	from, to := m[:1], m[1:]
	if n.random.IntN(2) == 0 {
		to = m[1:2]
	}
	if n.random.IntN(2) == 0 {
		from, to = to, from
	}
	n.event("oneway", nil, "nothing from %s to %s", names(from), names(to))
	n.cut(from, to)
	return func() { n.heal(from, to) }
}

// bridge leaves one node that sees both halves.
func (n *nemesis) bridge() func() {
	m := n.shuffled()
	half := 1 + (len(m)-1)/2
	n.event("bridge", m[0], "%s | %s", names(m[1:half]), names(m[half:]))
	return n.part(m[1:half], m[half:])
}

// links runs f on some links, and returns what makes all of them calm again.
func (n *nemesis) links(f func(a, b *slot)) func() {
	m := n.members()
	var touched [][2]*slot
	all := n.random.IntN(2) == 0
	for _, a := range m {
		for _, b := range m {
			if a != b && (all || n.random.IntN(3) == 0) {
				touched = append(touched, [2]*slot{a, b})
				f(a, b)
			}
		}
	}
	return func() {
		for _, t := range touched {
			n.net.SetDelay(t[0].id, t[1].id, n.delayTo(t[1]))
			n.net.SetJitter(t[0].id, t[1].id, n.plan.jitter)
			n.net.SetLoss(t[0].id, t[1].id, 0)
		}
	}
}

func (n *nemesis) loss() func() {
	share := n.random.Float64()
	n.event("loss", nil, "%.0f %% of control messages are lost", share*100)
	return n.links(func(a, b *slot) { n.net.SetLoss(a.id, b.id, share) })
}

func (n *nemesis) clog() func() {
	delay := between(n.random, n.plan.lease/20, 2*n.plan.lease)
	n.event("clog", nil, "links take %v", delay)
	return n.links(func(a, b *slot) {
		n.net.SetDelay(a.id, b.id, delay/2)
		n.net.SetJitter(a.id, b.id, delay)
	})
}

func (n *nemesis) slowDisk() func() {
	s, by := n.any(), between(n.random, time.Millisecond, n.plan.lease)
	n.event("slowdisk", s, "syncs take %v longer", by)
	n.slowBy(s, by)
	return func() { n.slowBy(s, 0) }
}

func (n *nemesis) failSync() func() {
	s := n.any()
	if l := n.running(s); l != nil {
		n.event("failsync", s, "the next sync fails")
		l.disk.failSync()
	}
	return nil
}

func (n *nemesis) full() func() {
	s, room := n.any(), int64(n.random.IntN(64<<10))
	n.event("full", s, "%d bytes are free", room)
	s.disk.SetCapacity(s.disk.Used() + room)
	return func() { s.disk.SetCapacity(0) }
}

// rot flips bits of one file of the node that may rot.
func (n *nemesis) rot() func() {
	s := n.rotten
	if s.gone || n.moved {
		return nil
	}
	var candidates []string
	for _, name := range s.disk.Files() {
		if strings.Contains(name, "/db/") && (strings.HasSuffix(name, ".sqlite") || strings.Contains(name, "/log/segment-")) {
			candidates = append(candidates, name)
		}
	}
	if len(candidates) == 0 {
		return nil
	}
	name := candidates[n.random.IntN(len(candidates))]
	st, err := s.disk.Stat(name)
	if err != nil || st.Size() == 0 {
		return nil
	}
	at := n.random.Int64N(st.Size())
	n.event("rot", s, "%s at %d", name, at)
	n.rotted = true
	if err := s.disk.Damage(name, at, byte(1<<n.random.IntN(8))); err != nil {
		n.fail("rot: %v", err)
	}
	return nil
}

func (n *nemesis) skew() func() {
	s, by := n.any(), time.Duration((n.random.Float64()-0.5)*float64(2*time.Hour))
	n.event("skew", s, "its wall clock is off by %v", by)
	n.mu.Lock()
	defer n.mu.Unlock()
	s.skew = by
	return nil
}

// operator runs a call of an operator's through some node, in the background:
// it may take its time while faults go on.
func (n *nemesis) operator(what string, f func(ctx context.Context, l *life) error) {
	l := n.running(n.any())
	if l == nil {
		return
	}
	n.event(what, l.slot, "an operator asks")
	n.tasks.Go(func() { _ = n.through(l, what, 30*time.Second, f) }) // The trace tells its error.
}

// through makes an operator's call through a node.
func (n *nemesis) through(l *life, what string, patience time.Duration, f func(ctx context.Context, l *life) error) error {
	ctx, cancel := context.WithTimeout(n.ctx, n.instants.wait(patience))
	defer cancel()
	err := f(ctx, l)
	n.trace.add("%s through %s: %v", what, l.slot.name(), err)
	return err
}

func (n *nemesis) switchover() func() {
	target, d := n.any().id, n.database()
	n.operator("switchover", func(ctx context.Context, l *life) error {
		_, err := l.node.Switchover(ctx, d.name, target)
		return err
	})
	return nil
}

func (n *nemesis) alter() func() {
	d := n.database()
	p := d.policy
	if p.Durability.Level != base.Async {
		p.Durability.Level = pick(n.random, base.One, base.Quorum, base.All)
	}
	p.DegradeAfter = pick(n.random, 0, 5*time.Second)
	if !n.options.Plain && n.options.Format == "" {
		p.LogFormat = pick(n.random, base.LogFormats...)
	}
	n.operator("alter", func(ctx context.Context, l *life) error {
		db, err := l.node.Database(d.name)
		if err == nil {
			_, err = l.node.Propose(ctx, catalog.AlterDatabase{Database: db.ID, Policy: p})
		}
		return err
	})
	return nil
}

// replace wipes a node's disk for good: another joins, and the first is removed
// once that one has everything. When bits have flipped, maybe unnoticed so far,
// it is the node where they did: redundancy covers one disk.
func (n *nemesis) replace() func() {
	s := n.any()
	if n.rotted {
		s = n.rotten
	}
	if n.moved || s.id == 1 || !n.spare() {
		return nil
	}
	n.moved = true
	fresh := n.newcomer()
	n.event("replace", s, "by %s", fresh.name())
	n.start(fresh)
	n.mu.Lock()
	s.gone = true
	n.mu.Unlock()
	n.kill(s, false)
	n.tasks.Go(func() { n.remove(s) })
	return nil
}

// newcomer is a slot for a further node.
func (n *nemesis) newcomer() *slot {
	fresh := n.addSlot()
	for _, o := range n.members() {
		if o != fresh {
			n.calmLink(o, fresh)
			n.calmLink(fresh, o)
		}
	}
	return fresh
}

// most is how many nodes a cluster grows to.
const most = 6

// join has a further node join.
func (n *nemesis) join() func() {
	if len(n.members()) >= most {
		return nil
	}
	fresh := n.newcomer()
	n.event("join", fresh, "a further node")
	n.start(fresh)
	return nil
}

// leave stops a node in order and takes it out of the cluster for good, as long
// as three are left.
func (n *nemesis) leave() func() {
	s := n.any()
	if n.moved || s.id == 1 || len(n.members()) < 4 || !n.spare() {
		return nil
	}
	n.moved = true
	n.event("leave", s, "stopped in order, then removed")
	n.mu.Lock()
	s.gone = true
	n.mu.Unlock()
	n.stop(s)
	n.tasks.Go(func() { n.remove(s) })
	return nil
}

// spare says that the cluster can lose a node for good, as an operator would
// ask before he lets go of one: three vote, all of them run, and all replicas
// are counted.
func (n *nemesis) spare() bool {
	members := n.members()
	for _, s := range members {
		l := n.running(s)
		if l == nil {
			return false
		}
		for _, d := range n.databases {
			db, err := l.node.Database(d.name)
			if err != nil || len(l.node.Control().State().Voters()) < 3 || len(db.Counting.Replicas) < d.wanted(len(members)) {
				return false
			}
		}
	}
	return true
}

// remove takes a node out of the cluster, as soon as the cluster lets it.
func (n *nemesis) remove(s *slot) {
	for n.ctx.Err() == nil {
		for _, o := range n.others(s) {
			err := n.through(o, "remove "+s.name(), 10*time.Second, func(ctx context.Context, l *life) error { return l.node.Control().Remove(ctx, s.id, false) })
			if err == nil {
				return
			}
		}
		n.instants.sleep(5 * time.Second)
	}
}

func (n *nemesis) others(s *slot) []*life {
	n.mu.Lock()
	defer n.mu.Unlock()
	var up []*life
	for _, o := range n.slots {
		if o != s && o.life != nil && o.life.node != nil {
			up = append(up, o.life)
		}
	}
	return up
}

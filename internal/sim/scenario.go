package sim

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/skeindb/skein/internal/base"
)

// scenario aims a run at one kind of mistake. Its drills are faults at the
// moment and of the members that bring such a mistake out; its clients stand
// where it is seen.
type scenario struct {
	name   string
	chance int // in percent, that a seed draws it
	drill  func(n *nemesis)
}

// scenarios are in a fixed order, since seeds draw from it.
var scenarios = []scenario{
	{"cutoff", 5, (*nemesis).cutOff},
	{"longlease", 3, (*nemesis).longLease},
	{"afterack", 5, (*nemesis).afterAck},
	{"relapse", 5, (*nemesis).relapse},
	{"lagging", 5, (*nemesis).lagging},
	{deliver, 0, (*nemesis).fulfil}, // What runs with subscribers draw beside their own.
	{across, 0, (*nemesis).outrun},  // What several databases draw beside their own.
}

// NoScenario is the scenario of a run that has none.
const NoScenario = "none"

func scenarioNamed(name string) *scenario {
	for i := range scenarios {
		if scenarios[i].name == name {
			return &scenarios[i]
		}
	}
	return nil
}

// drawScenario returns the scenario of a run, nil for none.
func drawScenario(o Options) *scenario {
	if o.Scenario != "" || o.Plain {
		return scenarioNamed(o.Scenario)
	}
	n := stream(o.Seed, "scenario").IntN(100)
	for i := range scenarios {
		if n -= scenarios[i].chance; n < 0 {
			return &scenarios[i]
		}
	}
	return nil
}

// aim changes what was drawn to what a scenario needs: time enough between two
// faults to come right, and many short operations while a drill goes on.
func (p *plan) aim(r *rand.Rand, s *scenario) {
	p.scenario = s
	if s == nil {
		return
	}
	p.nodes = pick(r, 3, 3, 3, 3, 3, 5)
	p.lease = pick(r, time.Second, 2*time.Second, 5*time.Second)
	p.tick = p.lease / 15
	p.clients = p.nodes + 3
	p.think = between(r, 50*time.Millisecond, 300*time.Millisecond)
	p.burst, p.quiet = 3*time.Second, time.Minute
	p.every = between(r, 5*time.Second, 20*time.Second)
	p.register = 20 * time.Second
	p.databases[0].policy.DegradeAfter = pick(r, 0, time.Second, 5*time.Second)
}

// habit is how a client of a scenario works; the zero value: as chance has it.
type habit struct {
	aimed bool // it belongs to a scenario
	stays bool // with one node, whatever becomes of it, and only reads there
	// wanders: it goes from database to database and from node to node, with its
	// token.
	wanders bool
}

// habit of a client: a reader at each node, and three writers.
func (p plan) habit(number int) habit {
	return habit{aimed: p.scenario != nil, stays: p.scenario != nil && number <= p.nodes}
}

// levels are those that a client draws from.
func (c *client) levels() []string {
	switch {
	case c.habit.stays:
		return []string{"leader", "leader", "session"}
	case c.habit.wanders:
		return []string{"session", "session", "session", "leader"}
	}
	return levels
}

// timeout of a client's statements: those of a scenario come back soon.
func (c *client) timeout() string {
	if c.habit.aimed {
		return "3s"
	}
	return "20s"
}

// drilled says that a drill goes on, which clients of a scenario go through.
func (c *client) drilled() bool {
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	return c.world.focus.on
}

// suits says whether a client may work at a node, as far as the drill goes.
func (c *client) suits(s *slot) bool {
	if !c.habit.aimed {
		return true
	}
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	f := c.world.focus
	switch {
	case c.habit.stays:
		return s.id == base.NodeID(c.number)
	case f.slot == nil:
		return true
	case f.inside && c.number%2 == 0:
		return s == f.slot
	}
	return s != f.slot
}

// focus is what clients know of the drill that goes on.
type focus struct {
	on     bool
	slot   *slot // whom the drill is about; nil: nobody yet
	inside bool  // some clients write there nevertheless
}

// drills says that the fault which is due is the scenario's drill, as most are.
func (n *nemesis) drills() bool {
	s := n.plan.scenario
	return s != nil && n.random.IntN(4) > 0 && slices.Contains(n.plan.faults, s.name)
}

// drill runs the scenario's drill, which takes its time.
func (n *nemesis) drill() {
	n.look(focus{on: true})
	n.pass(500 * time.Millisecond)
	n.plan.scenario.drill(n)
	n.pass(time.Duration(n.random.Float64() * float64(5*time.Second)))
	n.look(focus{})
}

func (w *world) look(f focus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.focus = f
}

// leader is leaderOf the first database.
func (n *nemesis) leader() *slot { return n.leaderOf(n.databases[0]) }

// leaderOf is the slot of a database's leader as the latest record has it; nil
// when that node does not run.
func (n *nemesis) leaderOf(d *database) *slot {
	var epoch uint64
	var found *slot
	for _, s := range n.members() {
		l := n.running(s)
		if l == nil {
			continue
		}
		db, err := l.node.Database(d.name)
		if err != nil || uint64(db.Epoch) <= epoch {
			continue
		}
		epoch, found = uint64(db.Epoch), nil
		for _, o := range n.members() {
			if o.id == db.Leader && n.running(o) != nil {
				found = o
			}
		}
	}
	return found
}

// supervisor is the slot of the control plane's leader; nil: none is known.
func (n *nemesis) supervisor() *slot {
	for _, s := range n.members() {
		if l := n.running(s); l != nil && l.node.Control().IsLeader() {
			return s
		}
	}
	return nil
}

func (n *nemesis) without(out ...*slot) []*slot {
	return slices.DeleteFunc(n.shuffled(), func(s *slot) bool { return slices.Contains(out, s) })
}

// about draws a time around d.
func (n *nemesis) about(d time.Duration) time.Duration {
	return time.Duration((0.3 + 1.2*n.random.Float64()) * float64(d))
}

// acknowledged waits until a client is told that a write is done, in the database
// whose leader scenarios are about, and perhaps until others are.
func (n *nemesis) acknowledged() {
	n.mu.Lock()
	told := n.told
	n.mu.Unlock()
	limit := time.NewTimer(n.instants.wait(5 * time.Second))
	defer limit.Stop()
	select {
	case <-told:
	case <-limit.C:
	}
	// In an instant of its own: what a fault meets is then what a seed decides.
	later := time.Duration(1)
	if n.random.IntN(2) == 0 {
		later += time.Duration(n.random.Float64() * float64(n.plan.delay+n.plan.jitter))
	}
	n.instants.sleep(later)
}

// slowLinks makes what some send to others take longer, and returns what undoes
// it.
func (n *nemesis) slowLinks(from, to []*slot, by time.Duration) func() {
	for _, a := range from {
		for _, b := range to {
			if a != b {
				n.net.SetDelay(a.id, b.id, by)
			}
		}
	}
	return func() {
		for _, a := range from {
			for _, b := range to {
				if a != b {
					n.net.SetDelay(a.id, b.id, n.plan.delay)
				}
			}
		}
	}
}

// slowSyncs makes the disks of some slow, and returns what undoes it.
func (n *nemesis) slowSyncs(slots []*slot, by time.Duration) func() {
	set := func(d time.Duration) {
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, s := range slots {
			s.slow = d
		}
	}
	set(by)
	return func() { set(0) }
}

// back starts nodes that a drill has ended, as soon as what is left of them has
// come to rest.
func (n *nemesis) back(slots ...*slot) {
	n.instants.sleep(20 * time.Millisecond)
	for _, s := range slots {
		n.again(s)()
	}
}

// powerCut cuts the power of some at once.
func (n *nemesis) powerCut(slots ...*slot) {
	n.event("powercut", nil, "power lost: %s", names(slots))
	for _, s := range slots {
		n.silence(s)
	}
	for _, s := range slots {
		n.kill(s, true)
	}
}

// cutOff cuts the leader off while clients go on to ask it.
func (n *nemesis) cutOff() {
	kind := n.random.IntN(6)
	if s := n.supervisor(); kind < 2 && s != nil && s == n.leader() {
		n.handTo(n.without(s)[0])
	}
	l := n.leader()
	if l == nil {
		return
	}
	n.look(focus{on: true, slot: l, inside: n.random.IntN(3) == 0})
	hold := n.about(2*n.plan.lease + 4*time.Second)
	rest := n.without(l)
	switch kind {
	case 0, 1:
		n.cutPartly(l, rest, hold)
	case 2:
		n.event("cutoff", l, "nothing reaches it")
		n.cut(rest, []*slot{l})
		n.pass(hold)
		n.heal(rest, []*slot{l})
	case 3:
		n.freeze(l, hold)
	default:
		n.event("cutoff", l, "cut off from %s", names(rest))
		undo := n.part([]*slot{l}, rest)
		n.pass(hold)
		undo()
	}
}

// longLease cuts the leader off when its leases have become long, since answers
// were slow: they outlast the patience of the others. Answers get slow by and
// by, so that nobody takes anybody for lost before.
func (n *nemesis) longLease() {
	l := n.leader()
	if l == nil {
		return
	}
	calm := func() {}
	for step := range 3 {
		calm = n.slowLinks([]*slot{l}, n.without(l), time.Duration(step+1)*n.plan.lease*3/20)
		n.pass(n.plan.lease/5 + 500*time.Millisecond)
	}
	calm()
	n.pass(n.about(time.Second))
	if l = n.leader(); l == nil {
		return
	}
	n.look(focus{on: true, slot: l})
	n.cutBeyondLease(l, n.without(l))
}

// cutBeyondLease cuts a leader off for longer than its lease.
func (n *nemesis) cutBeyondLease(l *slot, rest []*slot) {
	n.event("cutoff", l, "cut off from %s", names(rest))
	undo := n.part([]*slot{l}, rest)
	n.pass(n.about(2*n.plan.lease + 2*time.Second))
	undo()
}

// backLater has a node that has failed come back when another may lead.
func (n *nemesis) backLater(l *slot) {
	n.pass(n.about(n.plan.lease + 2*time.Second))
	n.back(l)
}

// cutPartly cuts the leader off from one node only, that of the supervisor if
// it can, and from the others later.
func (n *nemesis) cutPartly(l *slot, rest []*slot, hold time.Duration) {
	one := rest[0]
	if s := n.supervisor(); s != nil && s != l {
		one = s
	}
	n.event("cutoff", l, "cut off from %s", one.name())
	undo := n.part([]*slot{l}, []*slot{one})
	n.pass(n.about(2 * n.plan.lease))
	if n.random.IntN(2) == 0 {
		n.event("cutoff", l, "cut off from %s", names(rest))
		undo = n.part([]*slot{l}, rest)
	}
	n.pass(hold)
	undo()
}

// freeze pauses the leader for longer than its lease; it then finds nobody.
func (n *nemesis) freeze(l *slot, hold time.Duration) {
	life := n.running(l)
	if life == nil {
		return
	}
	n.event("cutoff", l, "frozen and cut off")
	life.gate.shut()
	n.net.Isolate(l.id)
	n.pass(hold)
	life.gate.release()
	n.pass(2 * time.Second)
	n.net.Rejoin(l.id)
}

// afterAck takes the power of those that have just made an acknowledgement
// possible.
func (n *nemesis) afterAck() {
	l := n.leader()
	if l == nil {
		return
	}
	rest := n.without(l)
	var calm func()
	down := []*slot{l}
	switch n.random.IntN(8) {
	case 0: // The leader alone, when nobody has its latest entries.
		calm = n.slowLinks(down, rest, n.about(n.plan.lease/6))
	case 1: // The leader alone, when one has them and another lags.
		calm = n.holdUp(l, rest)
	default: // All, and the leader does not come back.
		calm = n.slowSyncs(rest, n.about(200*time.Millisecond))
		down = n.members()
	}
	n.pass(n.about(2 * time.Second))
	n.acknowledged()
	n.powerCut(down...)
	calm()
	n.back(rest...)
	n.pass(n.about(2*n.plan.lease + 4*time.Second))
	n.back(l)
	n.pass(2 * time.Second)
}

// holdUp lets one follower fall behind, that of the supervisor if it can: its
// answer is the first in an election.
func (n *nemesis) holdUp(l *slot, rest []*slot) func() {
	late := rest[0]
	if s := n.supervisor(); s != nil && s != l {
		late = s
	}
	n.event("lag", late, "what %s sends it takes long", l.name())
	return n.slowLinks([]*slot{l}, []*slot{late}, n.about(n.plan.lease/4))
}

// relapse lets nodes fail and come back at once, in the midst of elections.
func (n *nemesis) relapse() {
	if n.random.IntN(2) == 0 {
		n.forgetful()
		return
	}
	for range 1 + n.random.IntN(3) {
		l := n.leader()
		if l == nil {
			return
		}
		calm := n.slowSyncs([]*slot{l}, n.about(300*time.Millisecond))
		n.pass(n.about(time.Second))
		n.acknowledged()
		n.powerCut(l)
		calm()
		n.back(l)
		n.pass(n.about(n.plan.lease))
	}
}

// forgetful lets a follower that has helped to elect another leader fail, come
// back, and find only the old one.
func (n *nemesis) forgetful() {
	l, s := n.leader(), n.supervisor()
	if l == nil || s == nil {
		return
	}
	if l == s && !n.handTo(n.without(l)[0]) {
		return
	}
	if l, s = n.leader(), n.supervisor(); l == nil || s == nil || l == s {
		return
	}
	n.look(focus{on: true, slot: l, inside: true})
	n.event("forgetful", l, "cut off")
	undo := n.part([]*slot{l}, n.without(l))
	for end := n.instants.since() + 5*n.plan.lease; n.leader() == l && n.instants.since() < end; {
		n.instants.sleep(5 * time.Millisecond)
	}
	n.instants.sleep(time.Duration(n.random.Float64() * float64(50*time.Millisecond)))
	now := n.leader()
	if now != nil && now != l {
		voters := n.without(l, now)
		n.event("forgetful", l, "with %s, which fails and forgets %s", names(voters), now.name())
		n.powerCut(voters...)
		undo()
		undo = n.part([]*slot{now}, n.without(now))
		n.back(voters...)
		n.pass(n.about(2 * n.plan.lease))
	}
	undo()
	n.pass(2 * time.Second)
}

// handTo is hand of the first database.
func (n *nemesis) handTo(target *slot) bool { return n.hand(n.databases[0], target) }

// hand moves a database's leadership to a node; it says whether it did.
func (n *nemesis) hand(d *database, target *slot) bool {
	life := n.running(target)
	if life == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(n.ctx, n.instants.wait(10*time.Second))
	defer cancel()
	_, err := life.node.Switchover(ctx, d.name, target.id)
	n.trace.add("switchover to %s: %v", target.name(), err)
	return err == nil
}

// lagging asks for a switchover to a follower that is behind.
func (n *nemesis) lagging() {
	l := n.leader()
	if l == nil {
		return
	}
	rest := n.without(l)
	calm := n.slowLinks([]*slot{l}, rest[:1], n.about(n.plan.lease/4))
	n.event("lag", rest[0], "what %s sends it takes long", l.name())
	n.pass(n.about(3 * time.Second))
	n.acknowledged()
	n.handTo(rest[0])
	n.pass(n.about(time.Second))
	calm()
	n.pass(2 * time.Second)
}

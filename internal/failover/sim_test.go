package failover

import (
	"container/heap"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/leadership"
)

// The sim is a cluster with one database, over the pure cores: nodes with a
// log, a disk that loses what was not flushed, and an uneven clock; a network
// that delays, drops and cuts; a control plane that is only a record with
// compare-and-set; supervisors. It checks the promises after every event.
type sim struct {
	now     Instant
	lease   time.Duration
	policy  base.Policy
	record  Database
	records []Database // all that ever were
	nodes   []*simNode // by id, from 1
	cuts    map[[2]base.NodeID]bool
	rejects map[base.NodeID]bool // a firewall refuses connections to it, where it is cut off
	queue   eventQueue
	order   int
	lastAt  map[[2]base.NodeID]Instant
	delay   func() time.Duration
	flushes func(n *simNode) bool // does its disk write in this tick
	bug     string
	conns   int
	writes  int
	acked   map[int]bool // ids of acknowledged writes
	lost    map[int]bool // dropped by a lossy election, which says so
	leaders map[base.Epoch]base.NodeID
	story   strings.Builder
	broken  string // the first promise that was broken
	stats   simStats
	undone  int      // how often a log got shorter
	checked simState // what check has looked at
}

// simState is what the outcome of check depends on.
type simState struct {
	acked, lost, undone int
	live, leader        base.NodeID
}

type simStats struct{ elections, lossy, acked, switchovers, countings, checks int }

type simEntry struct {
	epoch base.Epoch
	id    int // 0: an opening entry
}

type simNode struct {
	id     base.NodeID
	up     bool
	frozen bool
	off    bool // the machine, not only the process, is gone
	rate   float64
	origin Instant
	held   []func() // what arrived while frozen

	vow     leadership.Vow // on disk
	log     []simEntry
	flushed int
	fresh   bool

	follower *leadership.Follower
	known    Database
	conn     *simConn // to the leader
	dialed   Instant
	stamp    leadership.Instant
	granted  time.Duration
	safe     base.Seq

	leader   *leadership.Leader
	epoch    base.Epoch // that leader leads or led
	left     Instant    // when it stopped
	conns    map[base.NodeID]*simConn
	pending  map[int]base.Seq
	release  base.NodeID // the supervisor that asked for a switchover
	stalled  bool
	supports *Supervisor
	reached  map[base.NodeID]Reach
}

type simConn struct {
	id   int
	peer base.NodeID
	next base.Seq // leader: to send
	live bool     // follower: plan start was executed
	last Instant  // follower: heard
}

type simEvent struct {
	at    Instant
	order int
	run   func()
}
type eventQueue []simEvent

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(simEvent)) }
func (q *eventQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}

const simTick = 50 * time.Millisecond

// newSim makes n replicas and some spare nodes.
func newSim(n, spare int, p base.Policy) *sim {
	s := &sim{
		lease: time.Second, policy: p, cuts: map[[2]base.NodeID]bool{}, rejects: map[base.NodeID]bool{}, lastAt: map[[2]base.NodeID]Instant{},
		delay:   func() time.Duration { return 5 * time.Millisecond },
		flushes: func(*simNode) bool { return true },
		acked:   map[int]bool{}, lost: map[int]bool{}, leaders: map[base.Epoch]base.NodeID{},
	}
	var replicas []base.NodeID
	for i := range n + spare {
		node := &simNode{id: base.NodeID(i + 1), rate: 1, origin: Instant(i) * 1e12}
		s.nodes = append(s.nodes, node)
		if i < n {
			replicas = append(replicas, node.id)
		}
	}
	counting := leadership.Count(replicas, p)
	counting.Revision = 1
	s.setRecord(Database{ID: 1, Replicas: replicas, Counting: counting, AllowLoss: p.AllowLoss})
	for _, node := range s.nodes {
		s.boot(node)
		s.after(simTick, func() { s.tick(node) })
	}
	return s
}

func (s *sim) node(id base.NodeID) *simNode { return s.nodes[id-1] }

// local is a node's clock.
func (s *sim) local(n *simNode) Instant { return n.origin + Instant(float64(s.now)*n.rate) }

func (s *sim) tell(format string, args ...any) {
	fmt.Fprintf(&s.story, "%7.3fs  %s\n", time.Duration(s.now).Seconds(), fmt.Sprintf(format, args...))
}

func (s *sim) fail(format string, args ...any) {
	if s.broken == "" {
		s.broken = fmt.Sprintf(format, args...)
		s.tell("BROKEN: %s", s.broken)
	}
}

func (s *sim) after(d time.Duration, f func()) { s.at(s.now.Add(d), f) }

func (s *sim) at(t Instant, f func()) {
	s.order++
	heap.Push(&s.queue, simEvent{t, s.order, f})
}

// run lets time pass.
func (s *sim) run(d time.Duration) {
	end := s.now.Add(d)
	for len(s.queue) > 0 && s.queue[0].at <= end && s.broken == "" {
		e := heap.Pop(&s.queue).(simEvent)
		s.now = e.at
		e.run()
		s.check()
	}
	if s.broken == "" {
		s.now = end
	}
}

// cut says whether messages from a get to b; node 0 is the control plane.
func (s *sim) cut(a, b base.NodeID) bool { return s.cuts[[2]base.NodeID{a, b}] }

// send delivers to a node, in order for each pair, unless it is cut off or
// down on arrival. A frozen node sees it when it wakes.
func (s *sim) send(from, to base.NodeID, f func(n *simNode)) {
	if s.cut(from, to) {
		return
	}
	pair := [2]base.NodeID{from, to}
	at := max(s.now.Add(s.delay()), s.lastAt[pair])
	if from == to {
		at = s.now
	}
	s.lastAt[pair] = at
	s.at(at, func() {
		n := s.node(to)
		switch {
		case !n.up || s.cut(from, to):
		case n.frozen:
			n.held = append(n.held, func() { f(n) })
		default:
			f(n)
			s.settle(n)
		}
	})
}

// control runs a command at the control plane.
func (s *sim) control(from base.NodeID, f func()) {
	if s.cut(from, 0) {
		return
	}
	s.after(s.delay(), func() {
		if !s.cut(from, 0) {
			f()
		}
	})
}

func (s *sim) setRecord(r Database) {
	s.record = r
	s.records = append(s.records, r)
}

func (s *sim) elect(e Elect) {
	stale := e.Revision != s.record.Counting.Revision && s.bug != "elect ignores revision"
	if e.Epoch != s.record.Epoch+1 || stale {
		return
	}
	r := s.record
	r.Epoch, r.Leader = e.Epoch, e.Leader
	if e.Counting != nil {
		r.Counting = *e.Counting
	}
	s.stats.elections++
	loss := ""
	if e.Lossy {
		s.stats.lossy++
		n := 0
		for id := range s.acked {
			if !s.lost[id] && !slices.Contains(s.ids(s.node(e.Leader)), id) {
				s.lost[id], n = true, n+1
			}
		}
		loss = fmt.Sprintf(", with a loss of %d", n)
	}
	s.tell("control: node %d is elected for epoch %d at %v (%s)%s", e.Leader, e.Epoch, e.Position, e.Reason, loss)
	s.setRecord(r)
}

func (s *sim) count(from base.NodeID, epoch base.Epoch, c leadership.Counting) {
	if s.record.Epoch != epoch || s.record.Leader != from || s.record.Counting.Revision+1 != c.Revision {
		return
	}
	r := s.record
	r.Counting = c
	s.stats.countings++
	s.tell("control: counting is now %d copies, support %d, of %s", c.Copies, c.Support, names(c.Replicas))
	s.setRecord(r)
}

func names(ids []base.NodeID) string {
	var out []string
	for _, n := range ids {
		out = append(out, fmt.Sprint(uint64(n)))
	}
	return strings.Join(out, " ")
}

func (s *sim) ids(n *simNode) []int {
	var out []int
	for _, e := range n.log {
		if e.id != 0 {
			out = append(out, e.id)
		}
	}
	return out
}

// check is what the whole package is for.
func (s *sim) check() {
	live := base.NodeID(0)
	for _, n := range s.nodes {
		if !s.serves(n) {
			continue
		}
		if live != 0 {
			s.fail("nodes %d and %d both hold a live lease", live, n.id)
		}
		live = n.id
	}
	state := simState{len(s.acked), len(s.lost), s.undone, live, s.record.Leader}
	if state == s.checked {
		return
	}
	s.checked = state
	s.stats.checks++
	if live != 0 {
		s.mustHoldAcked(s.node(live), "holds a live lease")
	}
	if s.record.Epoch > 0 {
		s.mustHoldAcked(s.node(s.record.Leader), "is the leader on record")
	}
}

func (s *sim) serves(n *simNode) bool {
	if !n.up || n.leader == nil {
		return false
	}
	if s.bug == "lease is not looked at" {
		return !n.leader.Stopped()
	}
	return n.leader.LeaseLive(s.local(n))
}

func (s *sim) mustHoldAcked(n *simNode, as string) {
	has := map[int]bool{}
	for _, e := range n.log {
		has[e.id] = true
	}
	for id := range s.acked {
		if !s.lost[id] && !has[id] && !n.fresh {
			s.fail("node %d %s, and write %d, which was acknowledged, is missing there", n.id, as, id)
			return
		}
	}
}

// checkLogs: entries of one epoch and seq are one entry, and so is all before.
func (s *sim) checkLogs() {
	for i, a := range s.nodes {
		for _, b := range s.nodes[:i] {
			part := int(leadership.Part(a.history(len(a.log)), b.history(len(b.log))).Seq)
			if !slices.Equal(a.log[:part], b.log[:part]) {
				s.fail("the logs of nodes %d and %d differ before %d", a.id, b.id, part)
			}
			for j := part; j < min(len(a.log), len(b.log)); j++ {
				if a.log[j].epoch == b.log[j].epoch {
					s.fail("nodes %d and %d have two entries %d/%d", a.id, b.id, a.log[j].epoch, j+1)
				}
			}
		}
	}
}

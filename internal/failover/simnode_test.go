package failover

import (
	"slices"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/leadership"
)

// history of the first n entries of a node's log.
func (n *simNode) history(upTo int) leadership.History {
	var h leadership.History
	for i, e := range n.log[:upTo] {
		if e.epoch != h.Last.Epoch {
			h.Starts = append(h.Starts, leadership.EpochStart{Epoch: e.epoch, Seq: base.Seq(i + 1)})
		}
		h.Last = base.Position{Epoch: e.epoch, Seq: base.Seq(i + 1)}
	}
	return h
}

func (n *simNode) running() bool { return n.up && !n.frozen }

func (s *sim) boot(n *simNode) {
	if s.bug == "resumes its epoch after a restart" {
		n.vow.Led = 0
	}
	n.up, n.off, n.frozen, n.held = true, false, false, nil
	n.follower = leadership.NewFollower(n.vow, s.lease, s.local(n))
	n.conn, n.leader, n.supports, n.stalled, n.release = nil, nil, nil, false, 0
	n.conns, n.pending = map[base.NodeID]*simConn{}, map[int]base.Seq{}
	n.known = Database{}
	n.safe, n.left = 0, s.now
}

// kill ends a process: what was not flushed is gone.
func (s *sim) kill(n *simNode) {
	n.up, n.frozen, n.held = false, false, nil
	n.log = n.log[:n.flushed]
	s.undone++
	n.leader, n.supports = nil, nil
}

func (s *sim) thaw(n *simNode) {
	n.frozen = false
	held := n.held
	n.held = nil
	for _, f := range held {
		f()
	}
	s.settle(n)
}

func (s *sim) flush(n *simNode) {
	if n.flushed == len(n.log) {
		return
	}
	n.flushed = len(n.log)
	if n.leader != nil {
		n.leader.LocalFlushed(base.Seq(n.flushed))
	} else {
		s.sendAck(n)
	}
}

// tick is a node's own time.
func (s *sim) tick(n *simNode) {
	s.after(simTick, func() { s.tick(n) })
	if !n.running() {
		return
	}
	if !s.cut(0, n.id) {
		r := s.record
		if s.now.Sub(n.left) < s.lease/2 && len(s.records) > 3 { // a restarted node catches up with old news first
			r = s.records[max(0, len(s.records)-3)]
		}
		s.learn(n, r)
	}
	if s.flushes(n) {
		s.flush(n)
	}
	if n.leader != nil && !n.leader.Stopped() {
		s.tickLeader(n)
	} else {
		s.tickFollower(n)
	}
	s.tickSupervisor(n)
	s.settle(n)
}

// learn takes in the control plane's record.
func (s *sim) learn(n *simNode, r Database) {
	if r.Epoch < n.known.Epoch || r.Epoch == n.known.Epoch && r.Counting.Revision < n.known.Counting.Revision {
		return
	}
	n.known = r
	if n.supports != nil {
		s.step(n, Record{r})
	}
	switch {
	case n.leader != nil && r.Epoch > n.epoch:
		n.leader.Depose(r.Epoch)
		n.leader, n.left = nil, s.now
	case n.leader != nil && r.Epoch == n.epoch:
		n.leader.Reconfigure(s.local(n), s.config(n, r))
	}
	if r.Leader == n.id && r.Epoch > 0 && n.leader == nil && !n.fresh {
		s.lead(n, r)
	}
}

func (s *sim) config(n *simNode, r Database) leadership.Config {
	return leadership.Config{
		Self: n.id, Epoch: r.Epoch, Replicas: r.Replicas, Policy: s.policy, Counting: r.Counting, Lease: s.lease, MinLease: s.lease / 5,
	}
}

func (s *sim) lead(n *simNode, r Database) {
	if n.follower.Lead(r.Epoch) != nil {
		return
	}
	n.vow = n.follower.Vow()
	n.conn, n.epoch = nil, r.Epoch
	n.conns, n.pending = map[base.NodeID]*simConn{}, map[int]base.Seq{}
	c := s.config(n, r)
	if s.bug != "no opening entry" {
		n.log = append(n.log, simEntry{epoch: r.Epoch})
		c.Opening = base.Seq(len(n.log))
	}
	n.leader = leadership.NewLeader(c, s.local(n))
	n.leader.LocalFlushed(base.Seq(n.flushed))
	s.tell("node %d leads epoch %d", n.id, r.Epoch)
	if other := s.leaders[r.Epoch]; other != 0 && (other != n.id || s.bug == "") {
		s.fail("node %d leads epoch %d, which node %d led before", n.id, r.Epoch, other)
	}
	s.leaders[r.Epoch] = n.id
}

func (s *sim) tickLeader(n *simNode) {
	if n.leader.Status(s.local(n)).Draining {
		n.leader.Drained(base.Seq(len(n.log)))
	}
	s.effects(n, n.leader.Tick(s.local(n)))
	for _, id := range n.known.Replicas {
		s.push(n, n.conns[id], true)
	}
	for _, id := range n.known.Counting.Replicas {
		if !slices.Contains(n.known.Replicas, id) {
			s.push(n, n.conns[id], true)
		}
	}
}

func (s *sim) effects(n *simNode, list []leadership.Effect) {
	for _, e := range list {
		switch e.Kind {
		case leadership.ProposeCounting:
			epoch := n.epoch
			if s.bug == "degrades without asking" {
				r := n.known
				r.Counting = e.Counting
				n.leader.Reconfigure(s.local(n), s.config(n, r))
			}
			s.control(n.id, func() { s.count(n.id, epoch, e.Counting) })
		case leadership.Stalled:
			n.stalled = true
		case leadership.Released:
			n.left = s.now
			s.tell("node %d releases epoch %d at %d for node %d", n.id, n.epoch, e.Final, e.Target)
			s.reply(n, ReleaseReply{
				Database: 1, Node: n.id, Epoch: n.epoch, Target: e.Target, Final: base.Position{Epoch: n.epoch, Seq: e.Final},
			})
		case leadership.HandoverFailed:
			s.tell("node %d leads on: node %d is not level in time", n.id, e.Target)
			s.reply(n, ReleaseReply{Database: 1, Node: n.id, Epoch: n.epoch, Target: e.Target, Refusal: "the target is not level"})
		}
	}
}

func (s *sim) reply(n *simNode, e ReleaseReply) {
	s.send(n.id, n.release, func(m *simNode) { s.step(m, e) })
}

// push sends a follower what it lacks, or a heartbeat.
func (s *sim) push(n *simNode, c *simConn, heartbeat bool) {
	if c == nil || n.leader == nil || n.leader.Stopped() {
		return
	}
	first, last := c.next, base.Seq(len(n.log))
	if last < first && !heartbeat {
		return
	}
	entries := slices.Clone(n.log[first-1 : last])
	epoch, stamp, safe, lease := n.epoch, s.local(n), n.leader.Safe(), n.leader.AskLease(c.peer)
	c.next = last + 1
	s.send(n.id, c.peer, func(m *simNode) { s.hearBatch(m, n.id, c.id, epoch, first, entries, stamp, safe, lease) })
}

func (s *sim) hearBatch(n *simNode, from base.NodeID, conn int, epoch base.Epoch, first base.Seq, entries []simEntry, stamp Instant, safe base.Seq, lease time.Duration) {
	if n.conn == nil || n.conn.id != conn {
		return
	}
	last := first + base.Seq(len(entries)) - 1
	switch v := n.follower.Accept(s.local(n), epoch, first, last, base.Seq(len(n.log)), lease); v {
	case leadership.Append:
		n.log = append(n.log, entries[base.Seq(len(n.log))+1-first:]...)
	case leadership.Duplicate:
	case leadership.StaleEpoch:
		promised := n.follower.Vow().Promised
		s.send(n.id, from, func(m *simNode) { s.refused(m, promised) })
		n.conn = nil
		return
	default:
		n.conn = nil
		return
	}
	n.conn.last, n.stamp, n.granted, n.safe = s.now, stamp, n.follower.Grant(lease), safe
	if s.flushes(n) {
		n.flushed = len(n.log)
	}
	s.sendAck(n)
}

func (s *sim) sendAck(n *simNode) {
	if n.conn == nil || !n.conn.live {
		return
	}
	c, a := n.conn, leadership.Ack{
		Epoch: n.follower.Following(), Stamp: n.stamp, Lease: n.granted, Received: base.Seq(len(n.log)),
		Flushed: base.Seq(n.flushed), Applied: min(base.Seq(n.flushed), n.safe),
	}
	s.send(n.id, c.peer, func(m *simNode) {
		if m.leader != nil && m.conns[n.id] != nil && m.conns[n.id].id == c.id {
			m.leader.Ack(s.local(m), n.id, a)
		}
	})
}

func (s *sim) refused(n *simNode, promised base.Epoch) {
	if n.leader != nil && n.leader.Depose(promised) {
		n.left = s.now
	}
}

func (s *sim) tickFollower(n *simNode) {
	r := n.known
	if r.Epoch == 0 {
		return
	}
	if r.Leader == n.id {
		s.sayAway(n)
		return
	}
	wanted := slices.Contains(r.Replicas, n.id) || r.Counting.Has(n.id)
	if !wanted || n.conn != nil && s.now.Sub(n.conn.last) < s.lease || s.now.Sub(n.dialed) < s.lease/4 {
		return
	}
	s.dial(n, r)
}

func (s *sim) sayAway(n *simNode) {
	why := ReasonRestarted
	if n.leader != nil {
		if s.now.Sub(n.left) < s.lease {
			return
		}
		why = ReasonFenced
	}
	s.away(n, why)
}

func (s *sim) away(n *simNode, why Reason) {
	for _, m := range s.nodes {
		if m.supports != nil {
			s.send(n.id, m.id, func(m *simNode) { s.step(m, Away{Database: 1, Node: n.id, Epoch: n.known.Epoch, Reason: why}) })
		}
	}
}

func (s *sim) dial(n *simNode, r Database) {
	s.conns++
	c := &simConn{id: s.conns, peer: r.Leader, last: s.now}
	n.conn, n.dialed = c, s.now
	n.follower.Unfollow()
	s.flush(n)
	q := leadership.FollowRequest{
		Database: 1, Epoch: r.Epoch, Promised: n.follower.Vow().Promised, History: n.history(n.flushed), LogStart: 1, Fresh: n.fresh,
	}
	s.send(n.id, r.Leader, func(m *simNode) { s.hearFollow(m, n, c.id, q) })
}

func (s *sim) hearFollow(n, from *simNode, conn int, q leadership.FollowRequest) {
	if n.leader == nil || n.leader.Stopped() {
		return
	}
	logStart := base.Seq(max(1, len(n.log)-20))
	p := leadership.PlanFollow(n.epoch, n.history(len(n.log)), logStart, q)
	var copied []simEntry
	switch p.Kind {
	case leadership.PlanFenced:
		s.refused(n, p.Epoch)
		return
	case leadership.PlanSnapshot:
		copied = slices.Clone(n.log[:n.flushed])
		n.leader.Detach(s.local(n), from.id)
		delete(n.conns, from.id)
	case leadership.PlanStart:
		if !n.leader.Attach(s.local(n), from.id, p.From-1) {
			return
		}
		n.conns[from.id] = &simConn{id: conn, peer: from.id, next: p.From}
	}
	s.send(n.id, from.id, func(m *simNode) { s.hearPlan(m, conn, p, copied) })
}

func (s *sim) hearPlan(n *simNode, conn int, p leadership.Plan, copied []simEntry) {
	if n.conn == nil || n.conn.id != conn {
		return
	}
	switch p.Kind {
	case leadership.PlanStart:
		if !n.follower.Follow(s.local(n), p.Epoch) {
			n.conn = nil
			return
		}
		n.vow = n.follower.Vow()
		n.conn.live = true
		return
	case leadership.PlanTruncate, leadership.PlanSnapshot:
		if !n.follower.Raise(p.Epoch) {
			break
		}
		n.vow = n.follower.Vow()
		if p.Kind == leadership.PlanTruncate {
			s.tell("node %d undoes %d entries after %v", n.id, len(n.log)-int(p.To.Seq), p.To)
			n.log = n.log[:p.To.Seq]
		} else {
			n.log, n.fresh = copied, false
		}
		n.flushed = len(n.log)
		s.undone++
		s.dial(n, n.known)
		return
	}
	n.conn = nil
}

// promise answers a supervisor.
func (s *sim) promise(n *simNode, sup base.NodeID, q leadership.PromiseRequest) {
	var r leadership.PromiseReply
	if s.bug == "promises are not kept" {
		r = leadership.PromiseReply{Database: 1, Epoch: q.Epoch, Granted: true, Probe: q.Probe, LeaseRemaining: n.follower.LeaseRemaining(s.local(n))}
	} else {
		r = n.follower.Promise(s.local(n), q)
	}
	if !q.Probe && r.Granted {
		n.vow = n.follower.Vow()
		if n.leader != nil && n.leader.Depose(r.Promised) {
			n.left = s.now
		}
	}
	r.Position, r.Fresh = n.history(len(n.log)).Last, n.fresh
	if s.bug != "answers before it flushes" {
		s.flush(n)
	}
	if s.bug == "lease is not waited for" {
		r.LeaseRemaining = 0
	}
	s.send(n.id, sup, func(m *simNode) { s.step(m, Answer{Node: n.id, Reply: r}) })
}

// settle gives the clients of a leader their answers. What a leader with a
// live lease holds for safe it may show, which is as good as acknowledging it.
func (s *sim) settle(n *simNode) {
	if !n.running() || n.leader == nil {
		return
	}
	if s.bug == "" || s.bug == "no opening entry" {
		for _, e := range n.log[:n.leader.Safe()] {
			if e.id != 0 && n.leader.LeaseLive(s.local(n)) {
				s.acked[e.id] = true
			}
		}
	}
	for id, seq := range n.pending {
		ok := n.leader.Acknowledge(s.local(n), seq, base.Durability{})
		switch s.bug {
		case "acknowledges before the quorum":
			ok = n.leader.LeaseLive(s.local(n)) && seq <= base.Seq(n.flushed)
		case "lease is not looked at":
			ok = !n.leader.Stopped() && n.leader.Safe() >= seq
		}
		if ok {
			s.acked[id] = true
			s.stats.acked++
			delete(n.pending, id)
		}
	}
}

// write sends one write to a node; false if it does not take it.
func (s *sim) write(n *simNode) bool {
	if !n.running() || n.leader == nil || n.leader.Stopped() || n.leader.Status(s.local(n)).Draining {
		return false
	}
	s.writes++
	n.log = append(n.log, simEntry{n.epoch, s.writes})
	n.pending[s.writes] = base.Seq(len(n.log))
	for _, m := range s.nodes {
		s.push(n, n.conns[m.id], false)
	}
	s.settle(n)
	s.check()
	return true
}

// supervise starts a supervisor on a node.
func (s *sim) supervise(n *simNode) {
	n.supports = New(Config{Self: n.id, Lease: s.lease}, s.local(n))
	n.reached = map[base.NodeID]Reach{}
	var list []Node
	for _, m := range s.nodes {
		list = append(list, Node{ID: m.id, Active: true})
	}
	s.step(n, Nodes{list})
	s.tellReach(n)
	s.step(n, Record{n.known})
}

func (s *sim) tickSupervisor(n *simNode) {
	if n.supports == nil {
		return
	}
	s.tellReach(n)
	s.step(n, Tick{})
}

func (s *sim) tellReach(n *simNode) {
	for _, m := range s.nodes {
		if r := s.reach(n, m); r != n.reached[m.id] {
			n.reached[m.id] = r
			s.step(n, NodeReach{m.id, r})
		}
	}
}

func (s *sim) reach(n, m *simNode) Reach {
	switch {
	case s.rejects[m.id] && s.cut(n.id, m.id):
		return Refused
	case s.cut(n.id, m.id) || s.cut(m.id, n.id) || m.off || m.frozen:
		return Lost
	case !m.up:
		return Refused
	}
	return Reached
}

// step gives an event to a node's supervisor and does what it says.
func (s *sim) step(n *simNode, e Event) {
	if n.supports == nil {
		return
	}
	for _, e := range n.supports.Step(s.local(n), e) {
		switch e := e.(type) {
		case Ask:
			s.send(n.id, e.Node, func(m *simNode) { s.promise(m, n.id, e.Request) })
		case Elect:
			s.control(n.id, func() { s.elect(e) })
		case AskRelease:
			s.send(n.id, e.Leader, func(m *simNode) { s.askRelease(m, n.id, e) })
		case SwitchoverEnded:
			s.stats.switchovers++
			if e.Refusal != "" {
				s.tell("supervisor %d: switchover failed: %s", n.id, e.Refusal)
			} else {
				s.tell("supervisor %d: node %d leads, as asked for", n.id, e.Leader)
			}
		}
	}
}

func (s *sim) askRelease(n *simNode, sup base.NodeID, e AskRelease) {
	refusal := "not the leader"
	n.release = sup
	if n.leader != nil && n.epoch == e.Epoch {
		err := n.leader.BeginHandover(s.local(n), e.Target, s.local(n).Add(e.Within))
		if err == nil {
			return
		}
		refusal = err.Error()
	}
	s.reply(n, ReleaseReply{Database: 1, Node: n.id, Epoch: e.Epoch, Target: e.Target, Refusal: refusal})
}

// settleStall tells supervisors of a stalled leader.
func (s *sim) settleStall() {
	for _, n := range s.nodes {
		if n.running() && n.stalled {
			n.stalled = false
			s.away(n, ReasonStalled)
		}
	}
}

func (s *sim) sleep(d time.Duration) {
	for d > 0 {
		step := min(d, simTick)
		s.run(step)
		s.settleStall()
		d -= step
	}
}

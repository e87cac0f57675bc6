package node

import (
	"context"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/failover"
	"github.com/skeindb/skein/internal/replica/stream"
)

const (
	supervisorInbox = 1024
	// switchoverLeases bounds a switchover, in leases.
	switchoverLeases = 20
	// handingOver is how many databases are handed over at once.
	handingOver = 8
)

// supervisor is the shell of package failover: it runs the elections of all
// databases while this node leads the control plane. Its core is owned by run.
type supervisor struct {
	node   *Node
	inbox  chan failover.Event
	before base.NodeID // led the control group last; run's

	mu struct {
		sync.Mutex // guards all below
		waiters    map[base.DatabaseID]chan failover.SwitchoverEnded
		elections  map[base.DatabaseID]failover.Progress
	}
}

func (s *supervisor) init(n *Node) {
	s.node, s.inbox = n, make(chan failover.Event, supervisorInbox)
	s.mu.waiters = make(map[base.DatabaseID]chan failover.SwitchoverEnded)
}

// post gives the core an event. One that finds the inbox full is dropped: every
// event but an operator's is repeated while it matters.
func (s *supervisor) post(e failover.Event) bool {
	select {
	case s.inbox <- e:
		return true
	default:
		return false
	}
}

// run supervises whenever this node leads the control plane.
func (s *supervisor) run() {
	c := s.node.control
	for s.node.ctx.Err() == nil {
		changed := c.LeaderChanged()
		if !c.IsLeader() {
			s.watchLeader(changed)
			continue
		}
		s.supervise()
	}
}

// supervise runs one core until this node's leadership of the control plane
// ends: not every move of the group ends it.
func (s *supervisor) supervise() {
	n := s.node
	ctx, cancel := context.WithCancel(n.ctx)
	defer cancel()
	defer s.endWaiters()
	defer s.show(nil)
	number, moved := n.control.Term(), n.control.LeaderChanged()
	over := func() bool { return ctx.Err() != nil || n.control.Term() != number || !n.control.IsLeader() }
	t := term{began: n.now(), before: s.before}
	core := failover.New(s.config(), n.now())
	step := func(e failover.Event) {
		for _, effect := range core.Step(n.now(), e) {
			s.do(ctx, effect)
		}
	}
	for !over() {
		changed := n.control.Changed()
		state := n.control.State()
		silent := s.feed(step, state, t)
		again := false
		for !again {
			if closed(changed) {
				break // The newest state comes before events that may be about it.
			}
			timer := n.env.Clock.NewTimer(max(time.Millisecond, min(silent, core.Next(n.now())).Sub(n.now())))
			select {
			case <-moved:
				moved, again = n.control.LeaderChanged(), true
			case <-ctx.Done():
				again = true
			case <-changed:
				again = true
			case e := <-s.inbox:
				if _, ok := e.(failover.NodeReach); ok {
					silent = s.listen(step, state, t)
				} else {
					step(e)
				}
			case <-timer.C():
				silent = s.listen(step, state, t)
				step(failover.Tick{})
			}
			timer.Stop()
			s.show(core)
		}
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// show lets others see what goes on.
func (s *supervisor) show(core *failover.Supervisor) {
	var now map[base.DatabaseID]failover.Progress
	if core != nil {
		for _, id := range core.Busy() {
			if now == nil {
				now = make(map[base.DatabaseID]failover.Progress)
			}
			now[id], _ = core.Progress(id)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.elections = now
}

// Elections are what this node, while it leads the control plane, does about
// databases whose leader is lost. The maps are not changed any more.
func (n *Node) Elections() map[base.DatabaseID]failover.Progress {
	n.supervisor.mu.Lock()
	defer n.supervisor.mu.Unlock()
	return n.supervisor.mu.elections
}

// config of the core: a silence was long before a node is called lost, so that
// little more is waited.
func (s *supervisor) config() failover.Config {
	lease := s.node.options.Lease
	return failover.Config{
		Self: s.node.identity.Node, Lease: lease,
		LostFor: time.Nanosecond, Patience: lease / 30, RetryMin: lease / 20, MinBetween: 3 * lease,
	}
}

func (n *Node) now() failover.Instant {
	return failover.Instant(n.env.Clock.Now().Sub(n.started))
}

// feed tells the core the whole state of the control plane; what it knows
// already changes nothing. It returns when the next node might be lost.
func (s *supervisor) feed(step func(failover.Event), state *catalog.State, t term) (silent failover.Instant) {
	leads := make(map[base.NodeID]int)
	for _, db := range state.Databases() {
		leads[db.Leader]++
	}
	var nodes []failover.Node
	for _, m := range state.Nodes() {
		nodes = append(nodes, failover.Node{ID: m.ID, Active: m.State == catalog.NodeIsActive, Load: leads[m.ID]})
	}
	step(failover.Nodes{Nodes: nodes})
	silent = s.listen(step, state, t)
	for _, db := range state.Databases() {
		if db.Dropped {
			step(failover.Forget{Database: db.ID})
			continue
		}
		step(failover.Record{Database: failover.Database{
			ID: db.ID, Epoch: db.Epoch, Leader: db.Leader, Replicas: db.Full(), Counting: db.Counting, AllowLoss: db.Policy.AllowLoss,
			MaxLag: db.Policy.MaxLag, Manual: db.Policy.Failover == base.FailoverManual,
		}})
	}
	return silent
}

// do starts what the core wants; the answer comes back as an event.
func (s *supervisor) do(ctx context.Context, e failover.Effect) {
	switch e := e.(type) {
	case failover.Ask:
		s.node.wg.Go(func() { s.ask(ctx, e) })
	case failover.Elect:
		if db, ok := s.node.control.State().Database(e.Database); ok && e.Reason == failover.ReasonSilent {
			s.node.heard.away(db.Leader, s.node.now()) // Enough of its followers do not hear it either.
		}
		s.node.wg.Go(func() { s.elect(ctx, e) })
	case failover.AskRelease:
		s.node.wg.Go(func() { s.askRelease(ctx, e) })
	case failover.SwitchoverEnded:
		s.answer(e)
	}
}

func (s *supervisor) ask(ctx context.Context, e failover.Ask) {
	b, err := s.node.call(ctx, e.Node, promiseMethod, stream.AppendPromiseRequest(nil, e.Request), 2*s.node.options.Lease)
	if err != nil {
		s.node.log.Debug("ask for a promise", "node", e.Node, "epoch", e.Request.Epoch, "err", err)
		return
	}
	reply, err := stream.DecodePromiseReply(b)
	if err != nil {
		s.node.log.Warn("answer to an election", "node", e.Node, "err", err)
		return
	}
	s.post(failover.Answer{Node: e.Node, Reply: reply})
}

func (s *supervisor) elect(ctx context.Context, e failover.Elect) {
	n := s.node
	n.log.Info("electing", "database", e.Database, "epoch", e.Epoch, "leader", e.Leader, "position", e.Position, "why", string(e.Reason), "lossy", e.Lossy)
	ctx, cancel := n.env.Clock.WithTimeout(ctx, 10*n.options.Lease, base.Errorf(base.KindTimeout, "no agreement on an election"))
	defer cancel()
	_, err := n.control.Propose(ctx, catalog.Command{Action: catalog.Elect{
		Database: e.Database, Epoch: e.Epoch, Leader: e.Leader, From: e.Position, Reason: string(e.Reason), Lossy: e.Lossy,
		Revision: e.Revision, Counting: e.Counting,
	}})
	if err != nil {
		n.log.Info("election not recorded", "database", e.Database, "epoch", e.Epoch, "err", err)
		s.post(failover.ElectRefused{Database: e.Database})
	}
}

func (s *supervisor) askRelease(ctx context.Context, e failover.AskRelease) {
	q := stream.ReleaseRequest{Database: e.Database, Epoch: e.Epoch, Target: e.Target, Within: e.Within}
	reply := failover.ReleaseReply{Database: e.Database, Node: e.Leader, Epoch: e.Epoch, Target: e.Target}
	b, err := s.node.call(ctx, e.Leader, releaseMethod, stream.AppendReleaseRequest(nil, q), e.Within+2*s.node.options.Lease)
	if err == nil {
		var p stream.ReleaseReply
		if p, err = stream.DecodeReleaseReply(b); err == nil {
			reply.Final, reply.Refusal = p.Final, p.Refusal
		}
	}
	if err != nil {
		reply.Refusal = err.Error()
	}
	s.post(reply)
}

// await registers for the end of a switchover, of which a database has one at a
// time: the core does not say whose has ended.
func (s *supervisor) await(db base.DatabaseID) (chan failover.SwitchoverEnded, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.waiters[db] != nil {
		return nil, base.Errorf(base.KindBusy, "a switchover of this database is under way")
	}
	c := make(chan failover.SwitchoverEnded, 1)
	s.mu.waiters[db] = c
	return c, nil
}

// forget ends what await began, if it has not ended yet.
func (s *supervisor) forget(db base.DatabaseID, c chan failover.SwitchoverEnded) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.waiters[db] == c {
		delete(s.mu.waiters, db)
	}
}

// answer tells the one who waits; the channel has room for it.
func (s *supervisor) answer(e failover.SwitchoverEnded) {
	s.mu.Lock()
	c := s.mu.waiters[e.Database]
	delete(s.mu.waiters, e.Database)
	s.mu.Unlock()
	if c != nil {
		c <- e
	}
}

// endWaiters answers those who wait when the supervisor moves to another node.
func (s *supervisor) endWaiters() {
	s.mu.Lock()
	waiters := s.mu.waiters
	s.mu.waiters = make(map[base.DatabaseID]chan failover.SwitchoverEnded)
	s.mu.Unlock()
	for db, c := range waiters {
		c <- failover.SwitchoverEnded{Database: db, Refusal: "the control plane's leader has changed; see skein status for who leads"}
	}
}

// switchover runs one on this node, which leads the control plane.
func (s *supervisor) switchover(ctx context.Context, db base.DatabaseID, target base.NodeID) (base.NodeID, error) {
	if target == 0 {
		if target = s.candidate(db); target == 0 {
			return 0, base.Errorf(base.KindUnavailable, "no other replica of the database can be reached")
		}
	}
	return s.wish(ctx, db, failover.Switchover{Database: db, Target: target})
}

// wish gives the core what an operator wants, and waits for how it ended.
func (s *supervisor) wish(ctx context.Context, db base.DatabaseID, e failover.Event) (base.NodeID, error) {
	within := switchoverLeases * s.node.options.Lease
	ctx, cancel := s.node.env.Clock.WithTimeout(ctx, within, base.Errorf(base.KindTimeout, "it did not end within %v; skein status shows how it stands", within).WithOutcome(base.Indeterminate))
	defer cancel()
	ended, err := s.await(db)
	if err != nil {
		return 0, err
	}
	defer s.forget(db, ended)
	if !s.post(e) {
		return 0, base.Errorf(base.KindBusy, "the supervisor has too much to do just now").WithHint("try again")
	}
	select {
	case e := <-ended:
		if e.Refusal != "" {
			return 0, base.Errorf(base.KindUnavailable, "%s", e.Refusal)
		}
		return e.Leader, nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

func (s *supervisor) obey(ctx context.Context, q switchoverRequest) (base.NodeID, error) {
	switch {
	case q.AcceptLoss:
		return s.wish(ctx, q.Database, failover.Force{Database: q.Database, Target: q.Target})
	case q.Lost:
		return s.wish(ctx, q.Database, failover.Decide{Database: q.Database, Target: q.Target})
	}
	return s.switchover(ctx, q.Database, q.Target)
}

// candidate picks a replica that can be reached and does not lead: the one that
// leads the fewest databases.
func (s *supervisor) candidate(id base.DatabaseID) base.NodeID {
	state := s.node.control.State()
	db, _ := state.Database(id)
	leads := make(map[base.NodeID]int)
	for _, d := range state.Databases() {
		leads[d.Leader]++
	}
	var best base.NodeID
	for _, r := range db.Full() {
		if r != db.Leader && s.node.Reachable(r) && (best == 0 || leads[r] < leads[best]) {
			best = r
		}
	}
	return best
}

// HandOver gives away what this node leads before it stops, for at most a few
// seconds; a failover would do the rest. Only its first call does anything.
func (n *Node) HandOver() { n.handing.Do(n.handOver) }

func (n *Node) handOver() {
	ctx, cancel := n.env.Clock.WithTimeout(n.ctx, 2*time.Second, base.Errorf(base.KindTimeout, "stopping"))
	defer cancel()
	var all sync.WaitGroup
	turn := make(chan struct{}, handingOver)
	for _, db := range n.control.State().Databases() {
		if db.Dropped || db.Leader != n.identity.Node || len(db.Replicas) < 2 || ctx.Err() != nil {
			continue
		}
		turn <- struct{}{}
		all.Go(func() {
			defer func() { <-turn }()
			if _, err := n.moveLeader(ctx, db, 0); err != nil {
				n.log.Info("could not hand over before stopping", "database", db.Name, "err", err)
			}
		})
	}
	all.Wait()
	if err := n.control.HandOver(ctx); err != nil && ctx.Err() == nil {
		n.log.Debug("hand over the control plane", "err", err)
	}
}

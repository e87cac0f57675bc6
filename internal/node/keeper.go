package node

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/failover"
	"github.com/skeindb/skein/internal/leadership"
	"github.com/skeindb/skein/internal/replica/leader"
	"github.com/skeindb/skein/internal/replica/stream"
	"github.com/skeindb/skein/internal/transport"
)

const (
	reopenMin = 500 * time.Millisecond
	reopenMax = 30 * time.Second
	// proposeWithin bounds how long agreement on a proposal is waited for.
	proposeWithin = 5 * time.Second
)

// keeper keeps one replica running: it opens it, runs it, opens it again after
// it has failed, and removes its files when the database is gone from here.
type keeper struct {
	node   *Node
	id     base.DatabaseID
	name   string
	dir    string
	cancel context.CancelCauseFunc
	done   chan struct{}
	going  bool // it has left this node; watchControl's
	// resting is since when this follower can't follow; watchControl's.
	resting time.Time
	// spared is when a replica was last asked to be taken away; watchControl's.
	spared time.Time

	// assigning is held while the replica is told an assignment, so that an
	// older one never comes after a newer one.
	assigning sync.Mutex
	mu        struct {
		sync.Mutex // guards all below
		assignment leader.Assignment
		replica    *leader.Replica
		failure    error
	}
}

func (n *Node) newKeeper(db catalog.Database) *keeper {
	return &keeper{
		node: n, id: db.ID, name: db.Name, done: make(chan struct{}),
		dir: fmt.Sprintf("%s/%s.%d", n.databaseDir(), db.Name, db.ID),
	}
}

func (k *keeper) assign(a leader.Assignment) {
	k.assigning.Lock()
	defer k.assigning.Unlock()
	k.mu.Lock()
	k.mu.assignment = a
	r := k.mu.replica
	k.mu.Unlock()
	if r != nil {
		r.Assign(a)
	}
}

// current returns the running replica, or why there is none.
func (k *keeper) current() (*leader.Replica, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.mu.replica != nil:
		return k.mu.replica, nil
	case k.mu.failure != nil:
		return nil, base.Errorf(base.KindUnavailable, "the replica of %s on node %s is not open: %w", k.name, k.node.Name(), k.mu.failure)
	}
	return nil, base.Errorf(base.KindUnavailable, "the replica of %s on node %s is not open yet", k.name, k.node.Name())
}

// run keeps the replica open until ctx is done.
func (k *keeper) run(ctx context.Context) {
	defer close(k.done)
	for pause := reopenMin; ; pause = min(2*pause, reopenMax) {
		started := k.node.env.Clock.Now()
		err := k.runOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		if k.node.env.Clock.Now().Sub(started) > reopenMax {
			pause = reopenMin
		}
		k.node.log.Error("replica stopped; opening it again", "database", k.name, "err", err, "in", pause)
		if k.node.env.Clock.Sleep(ctx, pause) != nil {
			return
		}
	}
}

func (k *keeper) runOnce(ctx context.Context) error {
	r, err := leader.Open(ctx, k.node.env, leader.Options{
		Dir: k.dir, Cluster: k.node.control.State().ClusterID(), Database: k.id, Name: k.name,
		Transport: k.node.transport, Lease: k.node.options.Lease,
		Events: leader.Events{Active: k.active, Effect: k.obey, NoRoom: k.noRoom},
		Memory: memory{k},
	})
	if err != nil {
		k.set(nil, err)
		return err
	}
	k.present(r)
	err = r.Run(ctx)
	k.set(nil, err)
	if err != nil && ctx.Err() != nil { // Else the caller says so.
		k.node.log.Warn("close a replica; what is missing in its file is in its log", "database", k.name, "err", err)
	}
	return err
}

// present shows a replica that has been opened, and tells it its assignment.
func (k *keeper) present(r *leader.Replica) {
	k.assigning.Lock()
	defer k.assigning.Unlock()
	k.mu.Lock()
	a := k.mu.assignment
	k.mu.replica, k.mu.failure = r, nil
	k.mu.Unlock()
	r.Assign(a)
}

func (k *keeper) set(r *leader.Replica, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.replica, k.mu.failure = r, err
}

func (k *keeper) active(epoch base.Epoch) {
	k.node.log.Info("serving as leader", "database", k.name, "epoch", epoch)
	k.node.wake()
}

// obey carries out what a leader's core wants of the control plane.
func (k *keeper) obey(epoch base.Epoch, e leadership.Effect) {
	switch e.Kind {
	case leadership.ProposeCounting:
		k.node.propose(catalog.SetCounting{Database: k.id, Epoch: epoch, Counting: e.Counting})
	case leadership.Stalled:
		k.node.tellSupervisor(k.id, epoch, failover.ReasonStalled)
	}
}

// noRoom asks for another leader, whose disk may have room.
func (k *keeper) noRoom(epoch base.Epoch) {
	k.node.tellSupervisor(k.id, epoch, failover.ReasonFull)
}

// propose has a command agreed on without waiting for it; its sender repeats it
// while it matters.
func (n *Node) propose(a catalog.Action) {
	n.wg.Go(func() {
		ctx, cancel := n.env.Clock.WithTimeout(n.ctx, proposeWithin, base.Errorf(base.KindTimeout, "no agreement within %v", proposeWithin))
		defer cancel()
		if _, err := n.control.Propose(ctx, catalog.Command{Action: a}); err != nil && n.ctx.Err() == nil {
			n.log.Debug("proposal", "err", err)
		}
	})
}

// checkAway tells the supervisor of a replica that is meant to lead an epoch
// and does not: it was restarted, or it has failed.
func (k *keeper) checkAway() {
	k.mu.Lock()
	a, r, failure := k.mu.assignment, k.mu.replica, k.mu.failure
	k.mu.Unlock()
	if a.Leader != k.node.identity.Node || a.Epoch == 0 {
		k.checkFenced(a, r)
		return
	}
	if failure != nil || (r != nil && r.Resting() == a.Epoch) {
		k.node.tellSupervisor(k.id, a.Epoch, failover.ReasonRestarted)
	}
}

// fencedLeases is for how many leases a follower waits for the election that it
// has promised something to.
const fencedLeases = 4

// checkFenced tells the supervisor of a follower that can't follow: it has
// promised a later epoch in an election that came to nothing, and the leader
// goes on without it. Only another election brings it back.
func (k *keeper) checkFenced(a leader.Assignment, r *leader.Replica) {
	now := k.node.env.Clock.Now()
	if a.Epoch == 0 || a.Leader == 0 || r == nil || r.Resting() != a.Epoch {
		k.resting = time.Time{}
		return
	}
	if k.resting.IsZero() {
		k.resting = now
	}
	if now.Sub(k.resting) > fencedLeases*k.node.options.Lease {
		k.node.tellSupervisor(k.id, a.Epoch, failover.ReasonFenced)
	}
}

// tellSupervisor reaches the supervisor on whichever node leads the control
// plane. Where that is not known, for instance for want of room for what the
// control plane writes, all are told: only a supervisor listens.
func (n *Node) tellSupervisor(db base.DatabaseID, epoch base.Epoch, why failover.Reason) {
	to := n.control.Leader()
	if to == n.identity.Node {
		n.supervisor.post(failover.Away{Database: db, Node: to, Epoch: epoch, Reason: why})
		return
	}
	msg := stream.AppendAway([]byte{toSupervisor}, stream.Away{Database: db, Epoch: epoch, Reason: string(why)})
	if to != 0 {
		n.transport.SendControl(to, msg)
		return
	}
	for _, peer := range n.control.State().Nodes() {
		if peer.ID != n.identity.Node {
			n.transport.SendControl(peer.ID, msg)
		}
	}
}

func (n *Node) wake() { wake(n.changed) }

// wake leaves a token for the loop that takes it, unless one is there.
func wake(tokens chan struct{}) {
	select {
	case tokens <- struct{}{}:
	default:
	}
}

// watchControl follows the control plane: it keeps the peers' addresses and the
// replicas on this node as the state says.
func (n *Node) watchControl() {
	defer n.stopKeepers()
	for {
		changed := n.control.Changed()
		state := n.control.State()
		n.reconcile(state)
		n.intake.raise(state.Applied())
		timer := n.env.Clock.NewTimer(n.options.Lease / 3)
		select {
		case <-n.ctx.Done():
			timer.Stop()
			return
		case <-changed:
		case <-n.changed:
		case <-timer.C():
		}
		timer.Stop()
	}
}

func (n *Node) stopKeepers() {
	n.mu.Lock()
	keepers := n.mu.keepers
	n.mu.keepers = nil
	n.mu.Unlock()
	for _, k := range keepers {
		k.cancel(base.Errorf(base.KindShutdown, "the node is stopping"))
	}
	for _, k := range keepers {
		<-k.done
	}
}

func (n *Node) reconcile(s *catalog.State) {
	if n.noteRemoval(s) {
		return
	}
	n.setPeers(s)
	for _, db := range s.Databases() {
		if n.belongs(db) {
			n.keep(db)
			n.spare(s, db)
		}
	}
	if n.confirmed.Load() {
		// Only a state read after it was confirmed is known to be new enough.
		s = n.control.State()
		n.dropOthers(s)
		if !n.swept {
			n.swept = true
			n.sweepReplicas(s)
		}
	}
}

// belongs says whether this node must have a replica: where it is placed, and
// as long as it is counted, even when it is placed no more.
func (n *Node) belongs(db catalog.Database) bool {
	return !db.Dropped && (db.HasReplica(n.identity.Node) || db.Counting.Has(n.identity.Node))
}

func (n *Node) keep(db catalog.Database) {
	k := n.keeperOf(db.ID)
	fresh := k == nil
	if fresh {
		k = n.newKeeper(db)
		n.mu.Lock()
		n.mu.keepers[db.ID] = k
		n.mu.Unlock()
	}
	if k.going {
		return // It comes again when its files are gone.
	}
	k.assign(leader.Assignment{
		Epoch: db.Epoch, Leader: db.Leader, Replicas: slices.Clone(db.Replicas), Policy: db.Policy, Counting: db.Counting,
		Lossy: db.LastElection.Lossy, Handed: failover.Reason(db.LastElection.Reason).HandedOver(),
	})
	if fresh {
		var ctx context.Context
		ctx, k.cancel = context.WithCancelCause(n.ctx)
		n.wg.Go(func() { k.run(ctx) })
	}
	k.checkAway()
}

// spare has a replica taken away, one after the other, where the policy asks for
// fewer and this node leads. While one is out of reach, whose node is not given up
// for dead, none is: it might be one of those that are left, and what it lacks would
// hold up writes.
func (n *Node) spare(s *catalog.State, db catalog.Database) {
	k := n.keeperOf(db.ID)
	now := n.env.Clock.Now()
	if db.Leader != n.identity.Node || k == nil || now.Sub(k.spared) < proposeWithin {
		return
	}
	awaited := slices.DeleteFunc(slices.Clone(db.Replicas), func(id base.NodeID) bool {
		m, _ := s.Node(id)
		return m.State == catalog.NodeDead
	})
	if gone, found := s.Surplus(db.ID); found && n.reachesAll(awaited) {
		k.spared = now
		left := slices.DeleteFunc(slices.Clone(db.Replicas), func(id base.NodeID) bool { return id == gone })
		n.propose(catalog.SetReplicas{Database: db.ID, Epoch: db.Epoch, Replicas: left})
	}
}

func (n *Node) reachesAll(ids []base.NodeID) bool {
	return !slices.ContainsFunc(ids, func(id base.NodeID) bool {
		return id != n.identity.Node && n.reach.get(id) != transport.Reached
	})
}

// dropOthers stops and removes the replicas that do not belong here any more.
func (n *Node) dropOthers(s *catalog.State) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, k := range n.mu.keepers {
		if !k.going && n.hasLeft(s, id) {
			k.going = true
			n.wg.Go(func() { n.drop(k) })
		}
	}
}

// drop stops a replica and removes its files. Other replicas do not wait.
func (n *Node) drop(k *keeper) {
	k.cancel(base.Errorf(base.KindNotFound, "database %s has left this node", k.name))
	<-k.done
	n.removeReplica(k.id, k.dir)
	n.mu.Lock()
	delete(n.mu.keepers, k.id)
	n.mu.Unlock()
	n.wake()
}

func (n *Node) keeperOf(id base.DatabaseID) *keeper {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.keepers[id]
}

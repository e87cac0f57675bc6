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
)

const (
	reopenMin = 500 * time.Millisecond
	reopenMax = 30 * time.Second
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

	mu struct {
		sync.Mutex // guards all below
		assignment leader.Assignment
		replica    *leader.Replica
		failure    error
	}
}

func (n *Node) newKeeper(db catalog.Database) *keeper {
	return &keeper{
		node: n, id: db.ID, name: db.Name, done: make(chan struct{}),
		dir: fmt.Sprintf("%s/db/%s.%d", n.options.Dir, db.Name, db.ID),
	}
}

func (k *keeper) assign(a leader.Assignment) {
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
	if k.mu.replica == nil {
		return nil, base.Errorf(base.KindUnavailable, "the replica of %s on node %s is not open: %v", k.name, k.node.Name(), k.mu.failure)
	}
	return k.mu.replica, nil
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
		k.node.log.Error("replica stopped; opening it again", "database", k.name, "err", err, "in", pause)
		if k.node.env.Clock.Now().Sub(started) > reopenMax {
			pause = reopenMin
		}
		if k.node.env.Clock.Sleep(ctx, pause) != nil {
			return
		}
	}
}

func (k *keeper) runOnce(ctx context.Context) error {
	r, err := leader.Open(ctx, k.node.env, leader.Options{
		Dir: k.dir, Cluster: k.node.control.State().ClusterID(), Database: k.id, Name: k.name,
		Transport: k.node.transport, Lease: k.node.options.Lease,
		Events: leader.Events{Active: k.active, Effect: k.obey},
	})
	if err != nil {
		k.set(nil, err)
		return err
	}
	k.mu.Lock()
	a := k.mu.assignment
	k.mu.replica, k.mu.failure = r, nil
	k.mu.Unlock()
	r.Assign(a)
	err = r.Run(ctx)
	k.set(nil, err)
	return err
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

// propose has a command agreed on without waiting for it; its sender repeats it
// while it matters.
func (n *Node) propose(a catalog.Action) {
	n.wg.Go(func() {
		ctx, cancel := n.env.Clock.WithTimeout(n.ctx, 5*time.Second, base.Errorf(base.KindTimeout, "no agreement within 5 s"))
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
		return
	}
	if failure != nil || (r != nil && r.Resting() == a.Epoch) {
		k.node.tellSupervisor(k.id, a.Epoch, failover.ReasonRestarted)
	}
}

// tellSupervisor reaches the supervisor on whichever node leads the control
// plane.
func (n *Node) tellSupervisor(db base.DatabaseID, epoch base.Epoch, why failover.Reason) {
	to := n.control.Leader()
	switch to {
	case 0:
	case n.identity.Node:
		n.supervisor.post(failover.Away{Database: db, Node: to, Epoch: epoch, Reason: why})
	default:
		msg := stream.AppendAway([]byte{toSupervisor}, stream.Away{Database: db, Epoch: epoch, Reason: string(why)})
		n.transport.SendControl(to, msg)
	}
}

func (n *Node) wake() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// watchControl follows the control plane: it keeps the peers' addresses and the
// replicas on this node as the state says.
func (n *Node) watchControl() {
	defer n.stopKeepers()
	for {
		changed := n.control.Changed()
		n.reconcile(n.control.State())
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
	for _, peer := range s.Nodes() {
		if peer.ID == n.identity.Node {
			continue
		}
		address := peer.PeerAddress
		if peer.State == catalog.NodeLeft {
			address = ""
		}
		n.transport.SetPeer(peer.ID, address)
	}
	for _, db := range s.Databases() {
		if n.belongs(db) {
			n.keep(db)
		}
	}
	n.dropOthers(s)
}

// belongs says whether this node must have a replica: where it is placed, and
// as long as it is counted, even when it is placed no more.
func (n *Node) belongs(db catalog.Database) bool {
	return !db.Dropped && (db.HasReplica(n.identity.Node) || db.Counting.Has(n.identity.Node))
}

func (n *Node) keep(db catalog.Database) {
	n.mu.Lock()
	k := n.mu.keepers[db.ID]
	fresh := k == nil
	if fresh {
		k = n.newKeeper(db)
		n.mu.keepers[db.ID] = k
	}
	n.mu.Unlock()
	k.assign(leader.Assignment{
		Epoch: db.Epoch, Leader: db.Leader, Replicas: slices.Clone(db.Replicas), Policy: db.Policy, Counting: db.Counting,
	})
	if fresh {
		var ctx context.Context
		ctx, k.cancel = context.WithCancelCause(n.ctx)
		n.wg.Go(func() { k.run(ctx) })
	}
	k.checkAway()
}

// dropOthers stops and removes the replicas that do not belong here any more.
func (n *Node) dropOthers(s *catalog.State) {
	n.mu.Lock()
	var gone []*keeper
	for id, k := range n.mu.keepers {
		db, ok := s.Database(id)
		if !ok || !n.belongs(db) {
			gone = append(gone, k)
			delete(n.mu.keepers, id)
		}
	}
	n.mu.Unlock()
	for _, k := range gone {
		k.cancel(base.Errorf(base.KindNotFound, "database %s has left this node", k.name))
		<-k.done
		n.log.Info("removing the replica of a database that has left this node", "database", k.name)
		if err := n.env.FS.RemoveAll(k.dir); err != nil {
			n.log.Warn("remove a replica's folder", "dir", k.dir, "err", err)
		}
	}
}

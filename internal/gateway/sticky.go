package gateway

import (
	"context"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
)

// errReplicaSilent ends what waits for a replica on a node that is silent.
var errReplicaSilent = base.Errorf(base.KindUnavailable, "the node answers no more")

// peer is another node that is asked for something, and how its silence shows.
type peer struct {
	node  base.NodeID
	alive func(context.Context) (_ context.Context, stop func())
}

func (g *Gateway) leaderOf(db Database) peer {
	return peer{db.Leader, func(ctx context.Context) (context.Context, func()) { return g.whileAlive(ctx, db) }}
}

func (g *Gateway) replicaAt(node base.NodeID) peer {
	return peer{node, func(ctx context.Context) (context.Context, func()) { return g.whileAnswering(ctx, node) }}
}

// silence is why an answer of a peer is not waited for any more, or nil.
func silence(ctx context.Context) error {
	if cause := context.Cause(ctx); cause == errLeaderSilent || cause == errReplicaSilent {
		return cause
	}
	return nil
}

// whileAnswering returns a context for work that waits for one node, whoever
// leads. It ends, with errReplicaSilent, when that has not answered for
// probeWait. stop must be called.
func (g *Gateway) whileAnswering(ctx context.Context, node base.NodeID) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for g.env.Clock.Sleep(ctx, probeEvery) == nil {
			if !g.answers(ctx, Database{Leader: node}, probeWait) {
				cancel(errReplicaSilent)
			}
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}

// atKept has the replica that the session keeps do something that changes
// nothing. One that keeps none yet takes this node's, or else a follower's, or
// else the leader's, the first that can do it, and keeps that. Another one in the
// place of one that is kept might be older: there is an error instead.
func (s *clientSession) atKept(db Database, f func(node base.NodeID) error) error {
	if s.kept != "" {
		for _, node := range db.Replicas {
			if s.gateway.directory.NodeName(node) != s.kept {
				continue
			}
			err := f(node)
			if err != nil && elsewhere(err) {
				err = lostReplica(s.kept, err)
			}
			return err
		}
		return lostReplica(s.kept, base.Errorf(base.KindUnavailable, "it has no replica of %s", db.Name))
	}
	var failure error = base.Errorf(base.KindUnavailable, "database %s has no replica", db.Name)
	for _, node := range s.nearest(db) {
		if failure = f(node); failure == nil {
			s.kept = s.gateway.directory.NodeName(node)
		}
		if failure == nil || !elsewhere(failure) {
			return failure
		}
	}
	return failure
}

// nearest is the order in which replicas are tried by who keeps none.
func (s *clientSession) nearest(db Database) []base.NodeID {
	self := s.gateway.directory.Self()
	var here, followers, leader []base.NodeID
	for _, node := range db.Replicas {
		switch node {
		case self:
			here = append(here, node)
		case db.Leader:
			leader = append(leader, node)
		default:
			followers = append(followers, node)
		}
	}
	return append(append(here, followers...), leader...)
}

func lostReplica(name string, err error) error {
	kind := base.KindUnavailable
	if base.KindOf(err) == base.KindStale {
		kind = base.KindStale
	}
	return base.Errorf(kind, "the replica on node %s, which this session keeps to, can't answer: %w", name, err).
		WithHint("try again, or SET skein.replica = '' to go on with another replica, which may be older than what was seen")
}

// readKept runs a read at the replica that the session keeps.
func (s *clientSession) readKept(ctx context.Context, db Database, q replica.ReadRequest, st replica.Statement) (rows session.Rows, err error) {
	err = s.atKept(db, func(node base.NodeID) error {
		if node == s.gateway.directory.Self() {
			r := s.gateway.local(db)
			if r == nil {
				return errNotOpen(db)
			}
			rows, err = peek(readHere(ctx, r, q, st))
			return err
		}
		rows, err = peek(s.gateway.openRemoteRead(ctx, s.gateway.replicaAt(node), db.ID, q, st))
		return err
	})
	return rows, err
}

// beginKept opens a snapshot at the replica that the session keeps.
func (s *clientSession) beginKept(ctx context.Context, db Database, q replica.ReadRequest) (tx replica.ReadTx, err error) {
	err = s.atKept(db, func(node base.NodeID) error {
		if node == s.gateway.directory.Self() {
			r := s.gateway.local(db)
			if r == nil {
				return errNotOpen(db)
			}
			tx, err = r.BeginRead(ctx, q)
			return err
		}
		remote, err := s.gateway.openTx(ctx, s.gateway.replicaAt(node), opening{database: db.ID, read: q}.encode())
		if err == nil {
			tx = &remoteReadTx{remote}
		}
		return err
	})
	return tx, err
}

func errNotOpen(db Database) error {
	return base.Errorf(base.KindUnavailable, "the replica of %s on this node is not open", db.Name)
}

package gateway

import (
	"context"
	"errors"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
)

// resolveWait bounds how long the fate of a write is asked for.
const resolveWait = 10 * time.Second

// newOperation names a write.
func (g *Gateway) newOperation() (op replica.OperationID) {
	g.env.Rand.Read(op[:])
	return op.Unnamed()
}

// sent is a named write on its way to the leader of a database's epoch, which
// alone may execute it.
type sent struct {
	database  Database
	operation replica.OperationID
	// since is a position that was safe before the write was sent: it was
	// executed after it, or not at all.
	since base.Seq
}

// name names a write that is about to be sent. known is what the session has
// seen of the database.
func (g *Gateway) name(db Database, op replica.OperationID, known base.Position) sent {
	s := sent{database: db, operation: op, since: known.Seq}
	if r := g.local(db); r != nil {
		s.since = max(s.since, r.Seen())
	}
	return s
}

// resolve finds out what has become of a write whose answer was lost. If it was
// kept its result is returned; if it was certainly not, an error that lets it
// be sent again; and if that can't be known the given error, which says that it
// is indeterminate.
func (g *Gateway) resolve(ctx context.Context, s sent, lost error) (session.Result, error) {
	ctx, cancel := g.env.Clock.WithTimeout(ctx, resolveWait, errors.New("the fate of the write is not known in time"))
	defer cancel()
	db := s.database
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		changed := g.directory.Changed()
		now, ok := g.directory.Database(db.Name)
		if !ok || now.ID != db.ID {
			return session.Result{}, lost
		}
		fate, err := g.askFate(ctx, now, s.operation, s.since)
		switch {
		case err == nil && fate.Found:
			return fate.Result, nil
		case err == nil && fate.Known && fate.Epoch > db.Epoch:
			return session.Result{}, base.Errorf(base.KindNotLeader, "the write was not kept by the leader that was lost")
		case err == nil && !fate.Known:
			return session.Result{}, lost
		}
		if g.pause(ctx, changed, wait) != nil {
			return session.Result{}, lost
		}
	}
}

// askFate asks the leader of now, which may be this node.
func (g *Gateway) askFate(ctx context.Context, now Database, op replica.OperationID, since base.Seq) (replica.Fate, error) {
	if now.Leader == 0 {
		return replica.Fate{}, base.Errorf(base.KindNoLeader, "no leader")
	}
	ctx, cancel := g.env.Clock.WithTimeout(ctx, time.Second, errors.New("no answer within a second"))
	defer cancel()
	if now.Leader == g.directory.Self() {
		r := g.local(now)
		if r == nil {
			return replica.Fate{}, base.Errorf(base.KindUnavailable, "the replica is not open")
		}
		return r.Fate(ctx, op, since)
	}
	b, err := g.transport.Call(ctx, now.Leader, writeMethod, encodeFate(now.ID, op, since))
	if err != nil {
		return replica.Fate{}, err
	}
	return decodeFateReply(b)
}

// serveFate answers a peer's askFate.
func (g *Gateway) serveFate(ctx context.Context, request []byte) ([]byte, error) {
	id, op, since, err := decodeFate(request)
	if err != nil {
		return nil, err
	}
	r, err := g.replicaOf(id)
	if err != nil {
		return nil, err
	}
	fate, err := r.Fate(ctx, op, since)
	if err != nil {
		return nil, err
	}
	return encodeFateReply(fate), nil
}

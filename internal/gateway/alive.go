package gateway

import (
	"context"
	"time"

	"github.com/skeindb/skein/internal/base"
)

const (
	// aliveWait is how long a leader that has handed over has to show that it
	// lives.
	aliveWait = 700 * time.Millisecond
	// lostWait is how long one that another has replaced, without its doing, has
	// for answers that are on their way.
	lostWait = 20 * time.Millisecond
	// probeEvery is how often one that nobody has replaced is asked for a sign of
	// life, and probeWait how long it has to give one: it may be busy, and where
	// no majority is left nobody can replace it.
	probeEvery = time.Second
	probeWait  = 2 * time.Second
)

// errLeaderSilent ends what waits for a leader that is silent. What was asked may
// have been done there.
var errLeaderSilent = base.Errorf(base.KindUnavailable, "the leader answers no more")

// errHolderSilent takes the writer back from a transaction whose client is
// connected to a node that can't be heard.
var errHolderSilent = base.Errorf(base.KindConflict, "the transaction was rolled back: the node that its client is connected to was not heard").
	WithHint("run the transaction again from its BEGIN")

// whileHeard returns a context for a transaction that a client of another node
// holds here. It ends, with errHolderSilent, when that node has twice not
// answered in aliveWait: a frozen or cut off one must not keep everybody's writes
// waiting for as long as a client may be idle. stop must be called.
func (g *Gateway) whileHeard(ctx context.Context, peer base.NodeID) (holder context.Context, stop func()) {
	holder, silence := context.WithCancelCause(context.WithoutCancel(ctx))
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for silent := 0; silent < 2; {
			if silent == 0 {
				_ = g.env.Clock.Sleep(ctx, aliveWait) // Its end is seen below.
			}
			heard := ctx.Err() == nil && g.answers(ctx, Database{Leader: peer}, aliveWait)
			switch {
			case ctx.Err() != nil:
				return
			case heard:
				silent = 0
			default:
				silent++
			}
		}
		silence(errHolderSilent)
	}()
	return holder, func() {
		cancel()
		<-done
		silence(nil)
	}
}

// whileAlive returns a context for work that waits for an answer of db's leader
// on another node. It ends, with errLeaderSilent, soon after another was elected
// in its place: a frozen process keeps its connections for as long as the network
// has patience, and the next leader knows what has become of all that the old one
// was asked. A leader that has handed over gives its answers still, and is waited
// for as long as it answers anything; so is one that nobody has replaced. stop
// must be called.
func (g *Gateway) whileAlive(ctx context.Context, db Database) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			switch handed, replaced := g.replaced(ctx, db); {
			case ctx.Err() != nil:
				return
			case replaced && !handed:
				_ = g.env.Clock.Sleep(ctx, lostWait) // Its end ends ctx's own.
				cancel(errLeaderSilent)
			case replaced && !g.answers(ctx, db, aliveWait), !replaced && !g.shows(ctx, db):
				cancel(errLeaderSilent)
			case replaced:
				_ = g.env.Clock.Sleep(ctx, aliveWait) // The loop's condition sees its end.
			}
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}

// shows says whether a leader gives a sign of life within probeWait, or is
// replaced before that.
func (g *Gateway) shows(ctx context.Context, db Database) bool {
	asking, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for asking.Err() == nil {
			if _, replaced := g.replaced(asking, db); replaced {
				cancel()
			}
		}
	}()
	alive := g.answers(asking, db, probeWait)
	cancel()
	<-watched
	return alive
}

// replaced waits until db has another epoch, for probeEvery at most. handed says
// that its leader has handed over.
func (g *Gateway) replaced(ctx context.Context, db Database) (handed, replaced bool) {
	timer := g.env.Clock.NewTimer(probeEvery)
	defer timer.Stop()
	for {
		changed := g.directory.Changed()
		if now, ok := g.directory.Database(db.Name); !ok || now.ID != db.ID || now.Epoch != db.Epoch {
			return ok && now.Epoch == db.Epoch+1 && now.Handed, true
		}
		select {
		case <-changed:
		case <-timer.C():
			return false, false
		case <-ctx.Done():
			return false, false
		}
	}
}

// answers says whether db's leader, or former leader, or who is named in its
// place, answers anything at all; true, too, when ctx ended first.
func (g *Gateway) answers(ctx context.Context, db Database, within time.Duration) bool {
	asking, cancel := g.env.Clock.WithTimeout(ctx, within, errLeaderSilent)
	defer cancel()
	// Nothing is asked: the refusal is the answer, and waits for nothing there.
	_, _ = g.transport.Call(asking, db.Leader, writeMethod, nil)
	return asking.Err() == nil || ctx.Err() != nil
}

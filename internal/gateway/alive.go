package gateway

import (
	"context"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
)

// aliveWait is how long a leader that was replaced has to show that it lives.
const aliveWait = 700 * time.Millisecond

// errLeaderSilent ends what waits for a leader that was replaced and is silent.
// What was asked may have been done there.
var errLeaderSilent = base.Errorf(base.KindUnavailable, "the leader answers no more, and another has taken its place")

// whileAlive returns a context for work that waits for an answer of db's leader
// on another node. It ends, with errLeaderSilent, once another leads and the old
// one answers nothing: a frozen process keeps its connections for as long as the
// network has patience, and nobody shall wait for that. A leader that was only
// replaced, by a switchover, gives its answers still. stop must be called.
func (g *Gateway) whileAlive(ctx context.Context, db Database) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if !g.replaced(ctx, db) {
			return
		}
		for ctx.Err() == nil {
			if !g.answers(ctx, db) && ctx.Err() == nil {
				cancel(errLeaderSilent)
			}
			_ = g.env.Clock.Sleep(ctx, aliveWait) // The loop's condition sees its end.
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}

// replaced waits until db has another epoch; false when ctx ended first.
func (g *Gateway) replaced(ctx context.Context, db Database) bool {
	for {
		changed := g.directory.Changed()
		if now, ok := g.directory.Database(db.Name); !ok || now.ID != db.ID || now.Epoch != db.Epoch {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// answers says whether db's former leader answers anything at all.
func (g *Gateway) answers(ctx context.Context, db Database) bool {
	ctx, cancel := g.env.Clock.WithTimeout(ctx, aliveWait, errLeaderSilent)
	defer cancel()
	_, _ = g.askFate(ctx, db, replica.OperationID{}, 0) // A refusal is an answer, too.
	return ctx.Err() == nil
}

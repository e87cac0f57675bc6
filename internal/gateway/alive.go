package gateway

import (
	"context"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
)

const (
	// aliveWait is how long a leader that has handed over has to show that it
	// lives.
	aliveWait = 700 * time.Millisecond
	// lostWait is how long one that another has replaced, without its doing, has
	// for answers that are on their way.
	lostWait = 20 * time.Millisecond
)

// errLeaderSilent ends what waits for a leader that was replaced and is silent.
// What was asked may have been done there.
var errLeaderSilent = base.Errorf(base.KindUnavailable, "the leader answers no more, and another has taken its place")

// whileAlive returns a context for work that waits for an answer of db's leader
// on another node. It ends, with errLeaderSilent, soon after another was elected
// in its place: a frozen process keeps its connections for as long as the network
// has patience, and the next leader knows what has become of all that the old one
// was asked. A leader that has handed over gives its answers still, and is waited
// for as long as it answers anything. stop must be called.
func (g *Gateway) whileAlive(ctx context.Context, db Database) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		handed, replaced := g.replaced(ctx, db)
		if !replaced {
			return
		}
		if !handed {
			_ = g.env.Clock.Sleep(ctx, lostWait) // Its end ends ctx's own.
			cancel(errLeaderSilent)
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

// replaced waits until db has another epoch; false when ctx ended first. handed
// says that its leader has handed over.
func (g *Gateway) replaced(ctx context.Context, db Database) (handed, replaced bool) {
	for {
		changed := g.directory.Changed()
		if now, ok := g.directory.Database(db.Name); !ok || now.ID != db.ID || now.Epoch != db.Epoch {
			return ok && now.Epoch == db.Epoch+1 && now.Handed, true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false, false
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

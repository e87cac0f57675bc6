package leader

import (
	"context"
	"time"

	"github.com/skeindb/skein/internal/env"
)

const (
	gatherFrom  = 6 // writes a batch from which on it is worth waiting for more
	gatherTime  = 1200 * time.Microsecond
	gatherPause = 100 * time.Microsecond // without another write, when most are there
)

// gather decides how long a batch waits for more writes. When batches have been
// large lately, the clients of the batch before have their answers and will be
// back at once, and one large batch costs all replicas far less than two small
// ones. What has come is executed meanwhile.
type gather struct {
	ctx    context.Context
	timer  env.Timer // stopped, but while the batch waits
	usual  float64   // how many writes a batch had lately
	waited bool      // this batch has; until then, until is not set
	until  time.Time
}

func (g *gather) begin(ctx context.Context) { g.ctx, g.waited = ctx, false }

// patience is how long a batch of size waits for another write, as of now.
func (g *gather) patience(size int, clock env.Clock) time.Duration {
	if g.usual < gatherFrom || float64(size) >= g.usual-0.5 {
		return 0
	}
	now := clock.Now()
	if !g.waited {
		g.waited, g.until = true, now.Add(gatherTime)
	}
	left := g.until.Sub(now)
	if float64(size) >= g.usual*3/4 {
		left = min(left, gatherPause)
	}
	return left
}

// grow adds a write that waits to the batch, if there is one or it is worth
// waiting for. A job of another sort ends the batch and is next.
func (w *writer) grow(jobs []*writeJob) []*writeJob {
	if len(jobs) < maxBatchWrites {
		if j, ok := w.another(len(jobs)); ok && j.write != nil {
			return append(jobs, j.write)
		} else if ok {
			w.next = &j
		}
	}
	w.gather.usual += (float64(len(jobs)) - w.gather.usual) / 8
	return jobs
}

func (w *writer) another(size int) (j job, ok bool) {
	select {
	case j = <-w.inbox:
		return j, true
	default:
	}
	g := &w.gather
	wait := g.patience(size, w.replica.env.Clock)
	if wait <= 0 {
		return j, false
	}
	if g.timer == nil {
		g.timer = w.replica.env.Clock.NewTimer(wait)
	} else {
		g.timer.Reset(wait)
	}
	defer g.timer.Stop()
	select {
	case j = <-w.inbox:
		return j, true
	case <-g.timer.C():
	case <-g.ctx.Done():
	}
	return j, false
}

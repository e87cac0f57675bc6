package sim

import (
	"context"
	"sync"
	"time"
	"unsafe"

	"github.com/skeindb/skein/internal/env"
)

// instants hands out wake-ups no two of which are at the same instant: what
// wakes at once runs in no order that a seed decides.
type instants struct {
	mu     sync.Mutex // guards what follows
	booked map[int64]bool
	limit  int // how many are remembered before those that have passed are forgotten
	began  time.Time
}

// fewBooked is the least of that limit.
const fewBooked = 1024

func newInstants() *instants {
	return &instants{booked: make(map[int64]bool), limit: fewBooked, began: time.Now()}
}

// since is the run's own time.
func (i *instants) since() time.Duration { return time.Since(i.began) }

// wait returns how long to wait for the first free instant that is d away.
func (i *instants) wait(d time.Duration) time.Duration {
	if d <= 0 {
		d = 1
	}
	now := int64(time.Since(i.began))
	at := now + int64(d)
	i.mu.Lock()
	defer i.mu.Unlock()
	for i.booked[at] {
		at++
	}
	i.booked[at] = true
	if len(i.booked) > i.limit {
		coming := make(map[int64]bool, fewBooked)
		for at := range i.booked {
			if at >= now {
				coming[at] = true
			}
		}
		i.booked, i.limit = coming, 4*len(coming)+fewBooked
	}
	return time.Duration(at - now)
}

// sleep waits for about d.
func (i *instants) sleep(d time.Duration) { time.Sleep(i.wait(d)) }

// clock is a node's clock. It runs faster or slower than the others', its wall
// time is off and may jump, and nothing of it fires while the node is paused.
type clock struct {
	instants *instants
	gate     *gate                // nil: never paused
	rate     float64              // nanoseconds of the node's a nanosecond; 0 means 1
	dead     func() bool          // nil: never
	wall     func() time.Duration // by how much the wall time is off; nil: right
}

// Now implements env.Clock. Virtual time has no monotonic reading; a node's
// clock must have one, since its wall time jumps.
func (c *clock) Now() time.Time {
	now := time.Now()
	elapsed := now.Sub(c.instants.began)
	if c.rate != 0 {
		elapsed = time.Duration(float64(elapsed) * c.rate)
	}
	wall := c.instants.began.Add(elapsed)
	if c.wall != nil {
		wall = wall.Add(c.wall())
	}
	return reading(wall, elapsed+time.Second)
}

// reading is a time with a monotonic reading, which package time offers no way
// to make: see the layout of time.Time there. Its wall reading then counts
// seconds since 1885 in 33 bits and nanoseconds in 30.
func reading(wall time.Time, monotonic time.Duration) (t time.Time) {
	const hasMonotonic, nanoBits, since1885 = 1 << 63, 30, 2682288000
	l := (*struct {
		wall uint64
		ext  int64
		loc  *time.Location
	})(unsafe.Pointer(&t))
	l.wall = hasMonotonic | uint64(wall.Unix()+since1885)<<nanoBits | uint64(wall.Nanosecond())
	l.ext = int64(monotonic)
	return t
}

// real turns a wait of the node's into one of the run's.
func (c *clock) real(d time.Duration) time.Duration {
	if c.rate != 0 {
		d = time.Duration(float64(d) / c.rate)
	}
	if c.dead != nil && c.dead() {
		return max(d, 1) // What is left of a killed process takes no instant from those that live.
	}
	return c.instants.wait(d)
}

func (c *clock) pass() {
	if c.gate != nil {
		c.gate.pass()
	}
}

// NewTimer implements env.Clock.
func (c *clock) NewTimer(d time.Duration) env.Timer {
	t := &timer{clock: c, c: make(chan time.Time, 1)}
	t.arm(d)
	return t
}

// timer is a Timer that does not fire while its node is paused.
type timer struct {
	clock *clock
	c     chan time.Time

	mu    sync.Mutex // guards what follows
	round int        // counts arms and stops; a round that was ended does not fire
	armed bool
	timer *time.Timer
}

// C implements env.Timer.
func (t *timer) C() <-chan time.Time { return t.c }

func (t *timer) arm(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.round++
	t.armed = true
	round := t.round
	t.timer = time.AfterFunc(t.clock.real(d), func() { t.fire(round) })
}

func (t *timer) fire(round int) {
	t.clock.pass()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.round != round {
		return
	}
	t.armed = false
	select {
	case t.c <- t.clock.Now():
	default:
	}
}

// Stop implements env.Timer.
func (t *timer) Stop() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.round++
	t.timer.Stop()
	select {
	case <-t.c: // As since Go 1.23: nothing stale is received after Stop.
		t.armed = true
	default:
	}
	was := t.armed
	t.armed = false
	return was
}

// Reset implements env.Timer.
func (t *timer) Reset(d time.Duration) bool {
	was := t.Stop()
	t.arm(d)
	return was
}

// AfterFunc implements env.Clock.
func (c *clock) AfterFunc(d time.Duration, f func()) env.Stopper {
	return time.AfterFunc(c.real(d), func() {
		c.pass()
		f()
	})
}

// Sleep implements env.Clock.
func (c *clock) Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(c.real(d))
	defer t.Stop()
	select {
	case <-t.C:
		c.pass()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// WithTimeout implements env.Clock.
func (c *clock) WithTimeout(ctx context.Context, d time.Duration, cause error) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, c.real(d), cause)
}

// gate holds a paused node's goroutines wherever they meet the outside world.
type gate struct {
	mu   sync.Mutex    // guards what follows
	open chan struct{} // nil while the node runs; closed when it goes on
}

func (g *gate) pass() {
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	if open != nil {
		<-open
	}
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open == nil {
		g.open = make(chan struct{})
	}
}

func (g *gate) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open != nil {
		close(g.open)
		g.open = nil
	}
}

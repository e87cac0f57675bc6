//go:build wrongclock

package main

import (
	"time"
	"unsafe"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
)

// clockOffset names a variable that sets a node's clock wrong by a duration of
// whole seconds, to show that nothing rests on clocks that agree.
const clockOffset = "SKEIN_TEST_CLOCK_OFFSET"

// wrongClock is a clock that shows a wrong time of day; its pace is right, as on
// a machine whose clock was set wrong.
type wrongClock struct {
	env.Clock
	seconds int64
}

// Now implements env.Clock. The time of day moves and the monotonic reading does
// not, which the library offers no way to say: Add moves both, and deadlines of
// sockets and contexts would be off by the offset. The upper 33 bits after the
// first of a Time with a monotonic reading count seconds, above 30 of nanoseconds.
func (c wrongClock) Now() time.Time {
	now := c.Clock.Now()
	wall := (*uint64)(unsafe.Pointer(&now))
	*wall += uint64(c.seconds) << 30 // Two's complement makes a negative offset borrow.
	return now
}

// setClock sets the clock of e wrong if a test asks for it, and says so.
func (a *app) setClock(e *env.Env) error {
	text := a.variable(clockOffset, "")
	if text == "" {
		return nil
	}
	offset, err := time.ParseDuration(text)
	if err != nil {
		return base.Errorf(base.KindInvalid, "variable %s: %q: want a duration", clockOffset, text)
	}
	e.Clock = wrongClock{e.Clock, int64(offset / time.Second)}
	e.Log.Warn("the clock is set wrong for a test", "variable", clockOffset, "offset", offset, "shows", e.Clock.Now())
	return nil
}

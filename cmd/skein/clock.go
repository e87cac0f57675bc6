package main

import (
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
)

// clockOffset is a variable for tests alone: it sets a node's clock wrong by a
// duration, to show that nothing rests on clocks that agree.
const clockOffset = "SKEIN_TEST_CLOCK_OFFSET"

// wrongClock is a clock that is wrong by an offset; its pace is right.
type wrongClock struct {
	env.Clock
	offset time.Duration
}

// Now implements env.Clock.
func (c wrongClock) Now() time.Time { return c.Clock.Now().Add(c.offset) }

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
	e.Log.Warn("the clock is set wrong for a test", "variable", clockOffset, "offset", offset)
	e.Clock = wrongClock{e.Clock, offset}
	return nil
}

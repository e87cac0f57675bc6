package mem_test

import (
	"context"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
)

// A node that was killed reaches nobody, even once another has its id, and what
// is left of it does that one no harm.
func TestKilledNodeIsReplacedAtOnce(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		old := s.nodes[1]
		s.network.Kill(two)
		if _, err := s.ping(t, time.Second); base.AsError(err).Outcome != base.NotDone {
			t.Errorf("a call to a node that was killed: %v", err)
		}
		s.Revive(1)
		if _, err := s.ping(t, time.Second); err != nil {
			t.Errorf("a call to its successor: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := old.Call(ctx, one, "ping", nil); err == nil {
			t.Error("the node that was killed still calls others")
		}
		old.Close()
		if _, err := s.ping(t, time.Second); err != nil {
			t.Errorf("after the end of what was left: %v", err)
		}
	})
}

// Jitter delays, and keeps the order.
func TestJitterKeepsTheOrder(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		s.network.SetDelay(one, two, time.Millisecond)
		s.network.SetJitter(one, two, 50*time.Millisecond)
		for i := range 20 {
			s.nodes[0].SendControl(two, []byte{byte(i)})
			time.Sleep(10 * time.Millisecond) // Else all wait for the first one when that is the latest.
		}
		time.Sleep(time.Second)
		spread := map[time.Duration]bool{}
		for i := range 20 {
			a := <-s.got
			if a.what != string([]byte{byte(i)}) {
				t.Fatalf("message %d is %q", i, a.what)
			}
			spread[a.at] = true
		}
		if len(spread) < 2 {
			t.Error("all arrived at once")
		}
	})
}

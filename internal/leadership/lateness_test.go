package leadership

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestLatenessOfADelayedMessage(t *testing.T) {
	var l Lateness
	const apart = -time.Hour // The receiver's clock began an hour later.
	send := func(at, takes time.Duration) time.Duration {
		return l.Of(Instant(0).Add(at+takes+apart), Instant(0).Add(at))
	}
	for _, m := range []struct{ at, takes, want time.Duration }{
		{0, 20, 0}, {100, 15, 0}, {200, 18, 3}, {300, 5000, 4985}, {400, 4900, 4885}, {5400, 15, 0},
	} {
		if got := send(m.at*time.Millisecond, m.takes*time.Millisecond); got != m.want*time.Millisecond {
			t.Errorf("sent at %d, took %d: %s late, want %d ms", m.at, m.takes, got, m.want)
		}
	}
	// Clocks that drift apart are followed.
	for s := range time.Duration(3600) {
		drift := s * 200 * time.Microsecond
		if late := send((10+s)*time.Second, 15*time.Millisecond+drift); late > 25*time.Millisecond {
			t.Fatalf("%s late after %d s of drift", late, s)
		}
	}
}

// A message is never said to be later than it is, nor earlier than the fastest
// of the last minute makes it.
func TestLatenessIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l Lateness
		apart := time.Duration(rapid.Int64Range(-1e15, 1e15).Draw(t, "apart"))
		var sent, arrived time.Duration
		type message struct{ arrived, takes time.Duration }
		var all []message
		for range rapid.IntRange(1, 60).Draw(t, "messages") {
			sent += time.Duration(rapid.Int64Range(0, 20e9).Draw(t, "pause"))
			arrived = max(arrived, sent+time.Duration(rapid.Int64Range(0, 5e9).Draw(t, "takes")))
			all = append(all, message{arrived, arrived - sent})
			got := l.Of(Instant(arrived+apart), Instant(sent))
			least := arrived - sent
			for _, m := range all {
				if arrived-m.arrived < latenessWindow {
					least = min(least, m.takes)
				}
			}
			if takes := arrived - sent; got < 0 || got > takes || got < takes-least {
				t.Fatalf("took %s, the fastest of a minute %s: %s late", takes, least, got)
			}
		}
	})
}

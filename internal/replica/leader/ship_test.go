package leader

import (
	"log/slog"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/replica/stream"
	"github.com/skeindb/skein/internal/transport"
)

// taking is a stream that takes what it is sent.
type taking struct{ transport.Stream }

func (taking) Send([]byte) error { return nil }

// A follower that nobody reads may be left untold for a moment after each thing
// that it was told, and not only after the first.
func TestPauseBeginsAnewWithEachMessage(t *testing.T) {
	r := &Replica{env: env.Real(slog.New(slog.DiscardHandler)), options: Options{Lease: time.Second}}
	s := &sender{leading: &leading{replica: r}, stream: taking{}, message: make([]byte, stream.BatchHeaderSize)}
	now := time.Now()
	r.safe.raise(1)
	if got := s.tellIn(now); got != tellPause {
		t.Errorf("told in %v, want %v", got, tellPause)
	}
	now = now.Add(tellPause)
	if got := s.tellIn(now); got > 0 {
		t.Errorf("told in %v after the pause", got)
	}
	if err := s.post(now, 1, 0, false); err != nil {
		t.Fatal(err)
	}
	r.safe.raise(2) // Before the sender has looked again.
	if got := s.tellIn(now); got != tellPause {
		t.Errorf("after a message: told in %v, want %v", got, tellPause)
	}
}

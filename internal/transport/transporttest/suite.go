// Package transporttest is the one set of tests that every transport must
// pass, so that what runs in memory behaves as what runs over the network.
package transporttest

import (
	"context"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/transport"
)

// Cluster is a few nodes that know each other.
type Cluster interface {
	// Node returns the transport of node i, as it is since its last start.
	Node(i int) transport.Transport
	// Address returns where node i listens.
	Address(i int) string
	// Kill ends node i.
	Kill(i int)
	// Revive starts node i again, with the same id and address.
	Revive(i int)
}

// Run runs f with a cluster of n nodes whose ids ID gives. setup is called for
// each transport before it starts. Run ends the cluster.
type Run func(t *testing.T, n int, setup func(i int, tr transport.Transport), f func(t *testing.T, c Cluster))

// ID returns the id of node i.
func ID(i int) base.NodeID { return base.NodeID(0x1111 * uint64(i+1)) }

// patience bounds every wait for something that must happen, on a machine that
// may be busy with other things.
const patience = time.Minute

// TestTransport runs the whole suite. Each test runs inside around, which may
// put it into a bubble of virtual time.
func TestTransport(t *testing.T, around func(*testing.T, func(*testing.T)), run Run) {
	groups := []struct {
		name string
		test func(*testing.T, Run)
	}{
		{"call", testCalls}, {"call failures", testCallFailures}, {"control", testControl}, {"stream", testStreams},
		{"stream failures", testStreamFailures}, {"file", testFiles}, {"reach", testReach}, {"close", testClose},
	}
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			around(t, func(t *testing.T) { g.test(t, run) })
		})
	}
}

// receive waits for a value with a bound.
func receive[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

// patiently returns a context with a deadline.
func patiently(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// wantError checks kind and outcome of an error.
func wantError(t *testing.T, err error, kind base.Kind, outcome base.Outcome) *base.Error {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s, %s", kind, outcome)
	}
	e := base.AsError(err)
	got := e.Outcome
	if got == "" {
		got = base.NotDone
	}
	if e.Kind != kind || got != outcome {
		t.Fatalf("got %s, %s (%v), want %s, %s", e.Kind, got, err, kind, outcome)
	}
	return e
}

// awaitReach waits until how a peer can be reached is r, and returns what was
// said before.
func awaitReach(t *testing.T, c <-chan transport.Reach, r transport.Reach) (before []transport.Reach) {
	t.Helper()
	for {
		got := receive(t, "reach "+string(r), c)
		if got == r {
			return before
		}
		before = append(before, got)
	}
}

// watchReach makes node 0 tell what it learns of node 1.
func watchReach(seen chan transport.Reach) func(int, transport.Transport) {
	return func(i int, tr transport.Transport) {
		if i != 0 {
			return
		}
		tr.OnReach(func(peer base.NodeID, r transport.Reach) {
			if peer == ID(1) {
				seen <- r
			}
		})
	}
}

// both runs two setups.
func both(a, b func(int, transport.Transport)) func(int, transport.Transport) {
	return func(i int, tr transport.Transport) { a(i, tr); b(i, tr) }
}

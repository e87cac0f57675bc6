package control

import (
	"context"
	"io"
	"log/slog"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/env"
)

// silence is a messenger that reaches nobody.
type silence struct{}

func (silence) Send(base.NodeID, []byte) {}

func (silence) Call(context.Context, base.NodeID, string, []byte) ([]byte, error) {
	return nil, base.Errorf(base.KindUnavailable, "nobody is there")
}

// leadingLoop returns the loop of a cluster of one, to be driven by hand.
func leadingLoop(t *testing.T) *loop {
	t.Helper()
	e := env.Real(slog.New(slog.NewTextHandler(io.Discard, nil)))
	c, err := Open(e, Options{Self: 1, Messenger: silence{}, Store: NewMemoryStore()})
	if err != nil {
		t.Fatal(err)
	}
	snapshot, err := c.foundation(7, catalog.Node{ID: 1, Name: "n1", PeerAddress: "n1:7000"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.loop.install(7, snapshot); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := c.loop.tick(); err != nil {
			t.Fatal(err)
		}
	}
	if !c.loop.leads() {
		t.Fatal("a node alone does not lead")
	}
	return c.loop
}

func (l *loop) proposeAction(t *testing.T, id byte, a catalog.Action) error {
	t.Helper()
	cmd := catalog.Command{ID: catalog.ID{id}, Action: a}
	data, err := cmd.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return l.propose(cmd, data)
}

// TestOneChangeOfTheGroupInABatch: the library would drop the second one
// without a word, and its proposer would wait for ever.
func TestOneChangeOfTheGroupInABatch(t *testing.T) {
	l := leadingLoop(t)
	add := func(id base.NodeID) catalog.Action {
		return catalog.AddNode{Node: catalog.Node{ID: id, Name: id.String(), PeerAddress: "host:1"}}
	}
	var first, second error
	err := l.take(func(l *loop) {
		first, second = l.proposeAction(t, 2, add(2)), l.proposeAction(t, 3, add(3))
	})
	if err != nil || first != nil || base.KindOf(second) != base.KindBusy {
		t.Fatalf("first %v, second %v, loop %v", first, second, err)
	}
	if err := l.take(func(l *loop) { second = l.proposeAction(t, 3, add(3)) }); err != nil || second != nil {
		t.Fatalf("in the next batch: %v, loop %v", second, err)
	}
	if n := len(l.state.Nodes()); n != 3 {
		t.Errorf("%d nodes", n)
	}
}

// TestAnswersComeAfterTheirEffects: whoever is answered finds what the answer
// is about in the published state.
func TestAnswersComeAfterTheirEffects(t *testing.T) {
	l := leadingLoop(t)
	applied := l.c.waiters.add(catalog.ID{2})
	asked := make(chan error, 1)
	err := l.take(func(l *loop) {
		l.replyLater(asked, l.proposeAction(t, 2, catalog.SetSetting{Setting: "a", Value: "b"}))
		if len(asked) != 0 || len(applied) != 0 {
			t.Error("answered before anything was done")
		}
	})
	if err != nil || <-asked != nil || (<-applied).Index == 0 {
		t.Fatalf("not answered; loop %v", err)
	}
	if l.c.State().Setting("a") != "b" {
		t.Error("answered before it was published")
	}
}

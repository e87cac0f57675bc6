package transporttest

import (
	"context"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/transport"
)

func testReach(t *testing.T, run Run) {
	seen := make(chan transport.Reach, 256)
	got := make(chan string, 16)
	setup := func(i int, tr transport.Transport) {
		tr.HandleControl(func(_ base.NodeID, msg []byte) {
			if i == 1 {
				got <- string(msg)
			}
		})
		tr.HandleCall("ping", func(context.Context, base.NodeID, []byte) ([]byte, error) { return nil, nil })
	}
	run(t, 2, both(setup, watchReach(seen)), func(t *testing.T, c Cluster) {
		if before := awaitReach(t, seen, transport.Reached); len(before) > 0 && before[0] == transport.Lost {
			t.Errorf("a peer that starts was %v", before)
		}
		c.Kill(1)
		if before := awaitReach(t, seen, transport.Refused); len(before) != 1 || before[0] != transport.Lost {
			t.Errorf("before a killed peer was refused it was %v, want lost", before)
		}
		c.Node(0).SendControl(ID(1), []byte("to nobody"))
		c.Revive(1)
		awaitReach(t, seen, transport.Reached)
		c.Node(0).SendControl(ID(1), []byte("welcome"))
		if msg := receive(t, "the first message to the revived peer", got); msg != "welcome" {
			t.Errorf("the revived peer got %q", msg)
		}
		if _, err := c.Node(0).Call(patiently(t), ID(1), "ping", nil); err != nil {
			t.Errorf("call of the revived peer: %v", err)
		}
		c.Node(0).SetPeer(ID(1), "")
		_, err := c.Node(0).Call(patiently(t), ID(1), "ping", nil)
		wantError(t, err, base.KindUnavailable, base.NotDone)
		c.Node(0).SetPeer(ID(1), c.Address(1))
		awaitReach(t, seen, transport.Reached)
		if _, err := c.Node(0).Call(patiently(t), ID(1), "ping", nil); err != nil {
			t.Errorf("call of a peer that is known again: %v", err)
		}
	})
}

func testClose(t *testing.T, run Run) {
	entered, leaving, release := make(chan struct{}, 8), make(chan struct{}, 8), make(chan struct{})
	setup := func(_ int, tr transport.Transport) {
		tr.HandleStream("stay", func(ctx context.Context, _ base.NodeID, _ []byte, _ transport.Stream) error {
			entered <- struct{}{}
			<-ctx.Done()
			leaving <- struct{}{}
			<-release
			return nil
		})
	}
	run(t, 2, setup, func(t *testing.T, c Cluster) {
		s := openStream(t, patiently(t), c, "stay", "")
		receive(t, "the handler to begin", entered)
		closed := make(chan error, 1)
		go func() { closed <- c.Node(1).Close() }()
		receive(t, "the handler to be told", leaving)
		select {
		case <-closed:
			t.Error("Close returned before the handler")
		case <-time.After(50 * time.Millisecond):
		}
		close(release)
		if err := receive(t, "Close to return", closed); err != nil {
			t.Errorf("close: %v", err)
		}
		if _, err := s.Recv(); err == nil {
			t.Error("a stream outlived the peer's transport")
		}
		node := c.Node(0)
		if err := node.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := node.Close(); err != nil {
			t.Errorf("close again: %v", err)
		}
		_, err := node.Call(patiently(t), ID(1), "any", nil)
		wantError(t, err, base.KindShutdown, base.NotDone)
		_, err = node.OpenStream(patiently(t), ID(1), "any", nil)
		wantError(t, err, base.KindShutdown, base.NotDone)
		_, _, err = node.FetchFile(patiently(t), ID(1), "any", 0)
		wantError(t, err, base.KindShutdown, base.NotDone)
		node.SendControl(ID(1), []byte("late"))
		node.SetPeer(ID(1), "elsewhere")
	})
}

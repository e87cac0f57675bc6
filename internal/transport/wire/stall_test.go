package wire

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/transport"
	"github.com/skeindb/skein/internal/transport/transporttest"
)

// callRig is a client, node 0, of a server that answers "now" at once and
// "later" when it is told to.
func callRig(t *testing.T) (r *rig, client, server *Transport, answer chan struct{}) {
	r, answer = newRig(t), make(chan struct{})
	server = r.node(1, nil, func(n *Transport) {
		n.HandleCall("now", func(context.Context, base.NodeID, []byte) ([]byte, error) { return []byte("now"), nil })
		n.HandleCall("later", func(ctx context.Context, _ base.NodeID, _ []byte) ([]byte, error) {
			select {
			case <-answer:
				return []byte("later"), nil
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		})
	})
	client = r.node(0, nil, nil)
	client.SetPeer(transporttest.ID(1), address(1))
	return r, client, server, answer
}

func ask(t *testing.T, client *Transport, method string, within time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	reply, err := client.Call(ctx, transporttest.ID(1), method, nil)
	if err == nil && string(reply) != method {
		t.Errorf("answer %q to %q", reply, method)
	}
	return err
}

// What is under way on a connection whose answers are held up gets them when they
// come; what begins meanwhile goes another way, and the old one is closed behind
// the last answer.
func TestMuteConnectionIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, client, server, answer := callRig(t)
		if err := ask(t, client, "now", time.Second); err != nil {
			t.Fatal(err)
		}
		before := openConnections(server)
		old := make(chan error, 1)
		go func() { old <- ask(t, client, "later", time.Hour) }()
		synctest.Wait()
		release := r.net.hold(false, false)
		time.Sleep(quietTime)
		if err := ask(t, client, "now", shortestCheck+time.Millisecond); base.KindOf(err) != base.KindTimeout {
			t.Errorf("on the mute connection: %v", err)
		}
		if err := ask(t, client, "now", shortestCheck); err != nil {
			t.Errorf("a connection was mute, and none was made beside it: %v", err)
		}
		close(answer)
		synctest.Wait()
		release()
		if err := <-old; err != nil {
			t.Errorf("what was under way: %v", err)
		}
		if err := ask(t, client, "now", time.Second); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if n := openConnections(server); n != before {
			t.Errorf("%d connections, and %d before one was replaced", n, before)
		}
		if len(r.log.lines) > 0 {
			t.Errorf("said %q", r.log.lines)
		}
	})
}

// A connection that the system is sending on again and again takes no more calls.
func TestStalledConnectionIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, client, _, _ := callRig(t)
		for range 3 {
			if err := ask(t, client, "now", time.Second); err != nil {
				t.Fatal(err)
			}
			r.net.hold(true, true)
			time.Sleep(quietTime)
		}
	})
}

// While another can't be made, a stalled connection may come to life.
func TestStalledConnectionComesToLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, client, _, _ := callRig(t)
		if err := ask(t, client, "now", time.Second); err != nil {
			t.Fatal(err)
		}
		release := r.net.hold(true, true)
		r.net.frozen.Store(true)
		time.Sleep(quietTime)
		done := make(chan error, 1)
		go func() { done <- ask(t, client, "now", time.Minute) }()
		time.Sleep(10 * shortestDial)
		r.net.frozen.Store(false)
		release()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A control connection that is stalled is made anew, and its peer is lost until
// then.
func TestStalledControlConnectionIsMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		heard := make(chan string, 16)
		r.node(1, nil, func(n *Transport) {
			n.HandleControl(func(_ base.NodeID, msg []byte) { heard <- string(msg) })
		})
		seen := make(chan transport.Reach, 16)
		client := r.node(0, nil, watchReach(seen))
		client.SetPeer(transporttest.ID(1), address(1))
		if got := <-seen; got != transport.Reached {
			t.Fatal(got)
		}
		r.net.hold(true, true)
		time.Sleep(quietTime)
		client.SendControl(transporttest.ID(1), []byte("dropped"))
		if got := <-seen; got != transport.Lost {
			t.Fatal(got)
		}
		if got := <-seen; got != transport.Reached {
			t.Fatal(got)
		}
		client.SendControl(transporttest.ID(1), []byte("heard"))
		if got := <-heard; got != "heard" {
			t.Errorf("heard %q", got)
		}
	})
}

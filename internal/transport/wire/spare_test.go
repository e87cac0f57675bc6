package wire

import (
	"context"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/transport"
	"github.com/skeindb/skein/internal/transport/transporttest"
)

func serveEchoes(n *Transport) { n.HandleStream("echo", serveEcho) }

// spareRig is a client, node 0, that knows a server, node 1.
func spareRig(t *testing.T) (r *rig, client, server *Transport) {
	r = newRig(t)
	server = r.node(1, nil, serveEchoes)
	client = r.node(0, directly, nil)
	client.SetPeer(transporttest.ID(1), address(1))
	return r, client, server
}

// wantEcho opens a stream that must work, and returns how many connections were
// made for it.
func wantEcho(t *testing.T, r *rig, client *Transport) int64 {
	t.Helper()
	before := r.net.dials.Load()
	s, err := client.OpenStream(t.Context(), transporttest.ID(1), "echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"first", "second"} {
		if err := s.Send([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if msg, err := s.Recv(); string(msg) != text || err != nil {
			t.Fatalf("echo %q, %v", msg, err)
		}
	}
	return r.net.dials.Load() - before
}

// rest lets a client make a spare, if it does not have one.
func rest() {
	time.Sleep(sparePause)
	synctest.Wait()
}

// A stream finds a connection that is ready, however long that has waited.
func TestStreamTakesTheSpare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, client, _ := spareRig(t)
		time.Sleep(24 * time.Hour)
		if n := r.net.dials.Load(); n != 2 {
			t.Errorf("%d connections to a peer that nobody uses, want the control connection and a spare", n)
		}
		for range 3 {
			if n := wantEcho(t, r, client); n != 0 {
				t.Errorf("dialed %d times although there was a spare", n)
			}
			if n := wantEcho(t, r, client); n != 1 {
				t.Errorf("dialed %d times for a second stream, want once", n)
			}
			rest()
		}
	})
}

// A spare that the peer has closed is noticed and replaced.
func TestBrokenSpareIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, client, _ := spareRig(t)
		rest()
		for range 3 {
			before := r.net.dials.Load()
			r.net.cutNewest()
			rest()
			if n := r.net.dials.Load() - before; n != 1 {
				t.Errorf("%d connections instead of one that broke", n)
			}
		}
		if n := wantEcho(t, r, client); n != 0 {
			t.Errorf("dialed %d times although there was a spare", n)
		}
	})
}

// A spare is of no use when the peer is not reached any more, and is made again
// when it is.
func TestSpareEndsWithTheControlConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, client, server := spareRig(t)
		rest()
		r.net.frozen.Store(true)
		time.Sleep(keepaliveTime + keepaliveTimeout)
		synctest.Wait()
		r.net.frozen.Store(false)
		if n := wantEcho(t, r, client); n == 0 {
			t.Error("a stream was opened on a spare of the time before the peer was lost")
		}
		time.Sleep(5 * time.Second)
		if n := wantEcho(t, r, client); n != 0 {
			t.Errorf("dialed %d times although the peer has been back for long", n)
		}
		server.Close()
		synctest.Wait()
		if _, err := client.OpenStream(t.Context(), transporttest.ID(1), "echo", nil); base.AsError(err).Outcome != base.NotDone {
			t.Errorf("a stream to a peer that is gone: %v", err)
		}
	})
}

// That a spare was not needed is no news to the peer.
func TestUnusedSpareIsNotReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, client, server := spareRig(t)
		rest()
		if n := openConnections(server); n != 2 {
			t.Fatalf("the server has %d connections, want 2", n)
		}
		client.Close()
		time.Sleep(time.Second)
		if n := openConnections(server); n != 0 || len(r.log.lines) != 0 {
			t.Errorf("the server has %d connections and says %q", n, r.log.lines)
		}
	})
}

func openConnections(t *Transport) int {
	t.door.mu.Lock()
	defer t.door.mu.Unlock()
	return t.door.open
}

// Many who want streams to a peer that does not answer do not all dial.
func TestDialsForStreamsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, client, _ := spareRig(t)
		synctest.Wait()
		before := r.net.dials.Load()
		r.net.frozen.Store(true)
		began := time.Now()
		var all sync.WaitGroup
		for range maxDirect {
			all.Go(func() {
				_, err := client.OpenStream(t.Context(), transporttest.ID(1), "echo", nil)
				wantRefused(t, err, base.KindUnavailable, "no connection in time")
			})
		}
		all.Wait()
		if n := r.net.dials.Load() - before; n > maxDialing {
			t.Errorf("dialed %d times at once", n)
		}
		if took := time.Since(began); took > dialTimeout {
			t.Errorf("the failure was known after %s", took)
		}
	})
}

// Those who try again and again to open streams to a peer that is gone dial as
// seldom as others do, and learn at once that it is back.
func TestRedialForStreamsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		client := r.node(0, directly, nil)
		client.SetPeer(transporttest.ID(1), address(1))
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				for ctx.Err() == nil {
					if _, err := client.OpenStream(ctx, transporttest.ID(1), "echo", nil); err == nil {
						t.Error("opened a stream to nobody")
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		all.Wait()
		const pauses = 100 // as TestRedialIsBounded counts them; after each, as many dial as may do so at once
		if n := r.net.dials.Load(); n > pauses*(1+maxDialing) {
			t.Errorf("dialed %d times in 30 s", n)
		}
		server := r.node(1, nil, serveEchoes)
		server.SetPeer(transporttest.ID(0), address(0)) // It says hello.
		synctest.Wait()
		wantEcho(t, r, client)
	})
}

// What was sent to a machine that is gone is given up by both ends.
func TestSilenceIsBounded(t *testing.T) {
	served := make(chan *servedDirect, 1)
	c := newCluster(t, 2, true, func(_ int, n transport.Transport) {
		n.HandleStream("echo", func(_ context.Context, _ base.NodeID, _ []byte, s transport.Stream) error {
			served <- s.(*servedDirect)
			_, err := s.Recv()
			return err
		})
	}, "echo")
	defer c.close()
	s, err := c.nodes[0].OpenStream(t.Context(), transporttest.ID(1), "echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	for end, raw := range map[string]any{
		"opened": s.(*openedDirect).conn.(*clientConn).raw, "served": (<-served).frames.conn.(*serverConn).raw,
	} {
		control, err := raw.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var limit int
		failure := control.Control(func(fd uintptr) {
			limit, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		})
		if got := time.Duration(limit) * time.Millisecond; failure != nil || err != nil || got != silenceLimit {
			t.Errorf("the end that is %s waits %v for what it has sent, want %v (%v, %v)", end, got, silenceLimit, failure, err)
		}
	}
}

// Of attempts that fail together one counts; one that succeeds ends the outage.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := outage{clock: testEnv().Clock, pauses: backoff{random: testEnv().Rand}}
		first, later := base.Errorf(base.KindUnavailable, "first"), base.Errorf(base.KindUnavailable, "later")
		o.note(first)
		for range 8 {
			o.note(later)
		}
		if err := o.stands(); err != first {
			t.Errorf("what stands is %v", err)
		}
		time.Sleep(firstPause)
		if err := o.stands(); err != nil {
			t.Errorf("after the pause there still stands %v", err)
		}
		o.note(later)
		time.Sleep(firstPause)
		if err := o.stands(); err != later {
			t.Errorf("the second pause is no longer than the first: %v", err)
		}
		o.note(nil)
		if err := o.stands(); err != nil {
			t.Errorf("after a success there still stands %v", err)
		}
	})
}

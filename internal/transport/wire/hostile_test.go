package wire

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/pki"
	"github.com/skeindb/skein/internal/transport"
	"github.com/skeindb/skein/internal/transport/transporttest"
)

func insecure(o *Options, _ *env.Env) {
	o.Insecure, o.ClusterID, o.ListenAddress = true, testCluster, "127.0.0.1:1"
}

func servePing(t *Transport) {
	t.HandleCall("ping", func(_ context.Context, from base.NodeID, _ []byte) ([]byte, error) {
		return []byte(from.String()), nil
	})
}

// ping calls node i and returns the error.
func ping(t *testing.T, from *Transport, i int) error {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := from.Call(ctx, transporttest.ID(i), "ping", nil)
	return err
}

// wantRefused checks that a call was not done for a reason.
func wantRefused(t *testing.T, err error, kind base.Kind, text string) {
	t.Helper()
	e := base.AsError(err)
	if err == nil || e.Kind != kind || e.Outcome != base.NotDone || !strings.Contains(e.Error(), text) {
		t.Errorf("got %v (kind %q, outcome %q), want kind %s with %q", err, e.Kind, e.Outcome, kind, text)
	}
}

// wantClosed waits until the other side has closed a connection.
func wantClosed(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, conn); err != nil && !strings.Contains(err.Error(), "closed") {
		t.Errorf("the connection ended with %v", err)
	}
}

func dialFake(t *testing.T, r *rig, to string) net.Conn {
	t.Helper()
	conn, err := r.net.Dial(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestGarbageIsRefusedAndLoggedOnce(t *testing.T) {
	for name, tune := range map[string]func(*Options, *env.Env){"TLS": nil, "insecure": insecure} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				node := r.node(1, tune, nil)
				for range 30 {
					conn := dialFake(t, r, node.options.ListenAddress)
					if _, err := conn.Write([]byte("SSH-2.0-OpenSSH_9.6 and more of that kind\r\n")); err != nil {
						t.Fatal(err)
					}
					wantClosed(t, conn)
				}
				if n := r.log.count("refused a connection"); n != 1 {
					t.Errorf("logged %d times: %q", n, r.log.lines)
				}
			})
		})
	}
}

// TestGarbageInsideTheProtocols gives the inner servers what they cannot read.
func TestGarbageInsideTheProtocols(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		node := r.node(1, insecure, servePing)
		for _, text := range []string{
			"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nthis is no frame of any kind",
			"PRI * HTTP/3.0\r\n\r\n",
			"GET / HTTP/1.1\r\n\r\n\r\n",
			"GET /file/x HTTP/1.1\r\nHost: x\r\nSkein-Hello: AAAA\r\n\r\n",
			"GET " + strings.Repeat("/x", 1<<16) + " HTTP/1.1\r\n",
		} {
			conn := dialFake(t, r, node.options.ListenAddress)
			go conn.Write([]byte(text))
			wantClosed(t, conn)
		}
		client := r.node(0, func(o *Options, e *env.Env) { insecure(o, e); o.ListenAddress = "127.0.0.1:2" }, nil)
		client.SetPeer(transporttest.ID(1), node.options.ListenAddress)
		if err := ping(t, client, 1); err != nil {
			t.Errorf("an honest call: %v", err)
		}
	})
}

// TestSilentConnectionsGiveWay opens more connections than may be unfinished
// and says nothing on them, or nothing after TLS.
func TestSilentConnectionsGiveWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		node := r.node(1, nil, servePing)
		var silent []net.Conn
		for range maxHandshakes + 50 {
			silent = append(silent, dialFake(t, r, address(1)))
		}
		client := r.node(0, nil, nil)
		client.SetPeer(transporttest.ID(1), address(1))
		if err := ping(t, client, 1); err != nil {
			t.Errorf("a call beside silent connections: %v", err)
		}
		began := time.Now()
		for i, conn := range silent {
			wantClosed(t, conn)
			if took := time.Since(began); i < 50 && took > 0 {
				t.Fatalf("the oldest connections gave way only after %s", took)
			}
		}
		if took := time.Since(began); took > handshakeTimeout {
			t.Errorf("silent connections lasted %s", took)
		}
		synctest.Wait()
		node.door.mu.Lock()
		defer node.door.mu.Unlock()
		if node.door.shaky.Len() != 0 || node.door.open > 4 {
			t.Errorf("%d handshakes, %d connections remain", node.door.shaky.Len(), node.door.open)
		}
	})
}

func TestNoHelloInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.node(1, nil, nil)
		id := identity(t, freshAuthority(), 0, time.Now(), 0)
		conn := tls.Client(dialFake(t, r, address(1)), id.TLSConfig(time.Now, 0, protocolRPC))
		if _, err := conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		wantClosed(t, conn)
		if took := time.Since(began); took > handshakeTimeout || r.log.count("no hello in time") != 1 {
			t.Errorf("closed after %s, log %q", took, r.log.lines)
		}
	})
}

// TestStrangersAreRefused has one case for each way in which a node can be the
// wrong one; the error of a call says which.
func TestStrangersAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		foreign, err := pki.NewCA(rand.Reader, time.Now(), 0xbad)
		if err != nil {
			t.Fatal(err)
		}
		expired := identity(t, freshAuthority(), 1, time.Now().Add(-2*time.Hour), time.Hour)
		slow := func(_ *Options, e *env.Env) { e.Clock = skewedClock{e.Clock, -90 * time.Minute} }
		cases := []struct {
			name           string
			client, server func(*Options, *env.Env)
			kind           base.Kind
			text           string
		}{
			{"server of another cluster", nil, func(o *Options, _ *env.Env) { o.TLS = identity(t, foreign, 1, time.Now(), 0) },
				base.KindWrongCluster, "not of this cluster"},
			{"expired server", nil, func(o *Options, e *env.Env) { o.TLS = expired; slow(o, e) },
				base.KindForbidden, "expired"},
			{"another node answers", nil, func(o *Options, _ *env.Env) {
				o.Self, o.TLS = transporttest.ID(7), identity(t, freshAuthority(), 7, time.Now(), 0)
			}, base.KindWrongCluster, "want node"},
			{"expired client that does not know", func(o *Options, e *env.Env) {
				o.TLS = identity(t, freshAuthority(), 0, time.Now().Add(-2*time.Hour), time.Hour)
				slow(o, e)
			}, func(o *Options, _ *env.Env) {
				o.TLS = identity(t, freshAuthority(), 1, time.Now().Add(-3*time.Hour), 0)
			}, base.KindWrongCluster, "refused this node's certificate"},
		}
		for _, c := range cases {
			r := newRig(t)
			server := r.node(1, c.server, servePing)
			client := r.node(0, c.client, nil)
			client.SetPeer(transporttest.ID(1), address(1))
			wantRefused(t, ping(t, client, 1), c.kind, c.text)
			if r.log.count("refused") == 0 && r.log.count("cannot work with a peer") != 1 {
				t.Errorf("%s: log %q", c.name, r.log.lines)
			}
			client.Close()
			server.Close()
		}
	})
}

// TestOwnExpiryIsNoticedBeforeDialing lets a certificate run out.
func TestOwnExpiryIsNoticedBeforeDialing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.node(1, nil, servePing)
		client := r.node(0, func(o *Options, _ *env.Env) {
			o.TLS = identity(t, freshAuthority(), 0, time.Now(), time.Hour)
		}, nil)
		time.Sleep(2 * time.Hour)
		client.SetPeer(transporttest.ID(1), address(1))
		wantRefused(t, ping(t, client, 1), base.KindForbidden, "expired")
		if n := r.net.dials.Load(); n != 0 {
			t.Errorf("dialed %d times", n)
		}
		if err := client.SetIdentity(identity(t, freshAuthority(), 0, time.Now(), 0)); err != nil {
			t.Fatal(err)
		}
		if err := ping(t, client, 1); err != nil {
			t.Errorf("after the renewal: %v", err)
		}
	})
}

func TestBootstrapWithoutTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		member := r.node(1, insecure, servePing)
		joining := r.node(0, func(o *Options, e *env.Env) {
			insecure(o, e)
			o.ClusterID, o.ListenAddress = 0, "127.0.0.1:2"
		}, servePing)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		from, reply, err := joining.CallAddress(ctx, member.options.ListenAddress, "ping", nil)
		if err != nil || from != transporttest.ID(1) || string(reply) != transporttest.ID(0).String() {
			t.Errorf("call by address: %s, %q, %v", from, reply, err)
		}
		joining.SetPeer(transporttest.ID(1), member.options.ListenAddress)
		wantRefused(t, ping(t, joining, 1), base.KindWrongCluster, "cluster")
		member.SetPeer(transporttest.ID(0), joining.options.ListenAddress)
		wantRefused(t, ping(t, member, 0), base.KindUnavailable, "has not joined")
		if err := joining.SetClusterID(testCluster); err != nil {
			t.Fatal(err)
		}
		if err := joining.SetClusterID(testCluster + 1); base.KindOf(err) != base.KindWrongCluster {
			t.Errorf("a second cluster: %v", err)
		}
		if err := ping(t, joining, 1); err != nil {
			t.Errorf("after joining: %v", err)
		}
		time.Sleep(longPause) // The member may still wait before it dials again.
		if err := ping(t, member, 0); err != nil {
			t.Errorf("the other way: %v", err)
		}
	})
}

// hostileChannel is a connection of a node that keeps to the protocol until
// hello, and then does what it wants.
func hostileChannel(t *testing.T, r *rig, c class) *channel {
	t.Helper()
	node := r.node(0, nil, nil)
	ch, err := node.dial(t.Context(), address(1), transporttest.ID(1), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ch.close)
	return ch
}

func TestProtocolIsEnforced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.node(1, nil, func(n *Transport) {
			servePing(n)
			n.HandleStream("echo", serveEcho)
			n.HandleControl(func(base.NodeID, []byte) {})
		})
		ch := hostileChannel(t, r, classBootstrap)
		try := func(method string, first any) error {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			s, err := ch.rpc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
			if err != nil {
				return err
			}
			_ = s.SendMsg(first) // Its failure shows in the answer.
			_ = s.CloseSend()
			if e, ok := answered(s.RecvMsg(new([]byte))); ok {
				return e
			}
			return nil
		}
		cases := []struct {
			method string
			first  any
			want   base.Kind
		}{
			{methodStream, addressed{name: "echo"}, base.KindForbidden},
			{methodControl, []byte("x"), base.KindWrongCluster},
			{methodCalls, []byte{}, base.KindInvalid},
			{methodCalls, []byte{1, 0, 0, 0, 0, 0, 0, 0, 200, 'x'}, base.KindInvalid},
			{methodHello, []byte("hello"), base.KindInvalid},
			{methodHello, hello{newest: 9, oldest: 9, class: classCall, cluster: testCluster, from: transporttest.ID(0),
				to: transporttest.ID(1)}.encode(), base.KindUnsupported},
			{methodHello, hello{newest: 1, oldest: 1, class: classCall, cluster: testCluster, from: transporttest.ID(3),
				to: transporttest.ID(1)}.encode(), base.KindWrongCluster},
		}
		for _, c := range cases {
			if err := try(c.method, c.first); base.KindOf(err) != c.want {
				t.Errorf("%s with %v: %v, want %s", c.method, c.first, err, c.want)
			}
		}
	})
}

// A hello of another protocol's class is refused.
func TestClassesAreOfTheirProtocol(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.node(1, nil, nil)
		client := r.node(0, nil, nil)
		client.SetPeer(transporttest.ID(1), address(1))
		for _, c := range []class{classFile, classDirect} {
			if _, err := client.dial(t.Context(), address(1), transporttest.ID(1), c); base.KindOf(err) != base.KindInvalid {
				t.Errorf("class %d over HTTP/2: %v", c, err)
			}
		}
		d, err := client.beginDownload(t.Context(), client.peer(transporttest.ID(1)))
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		_, err = d.request(client.newHello(classCall, transporttest.ID(1)), "f", 0)
		if base.KindOf(err) != base.KindInvalid {
			t.Errorf("class %d for a file: %v", classCall, err)
		}
	})
}

func TestOversizedMessagesAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.node(1, nil, func(n *Transport) {
			n.HandleStream("echo", serveEcho)
			n.HandleControl(func(base.NodeID, []byte) { t.Error("an oversized message was delivered") })
		})
		ch := hostileChannel(t, r, classControl)
		for _, c := range []struct {
			method string
			size   int
		}{{methodControl, transport.MaxControlMessage + 1}, {methodStream, transport.MaxMessage + 1000}} {
			s, err := ch.rpc.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, c.method,
				grpc.MaxCallSendMsgSize(64<<20))
			if err != nil {
				t.Fatal(err)
			}
			_ = s.SendMsg(make([]byte, c.size)) // It may fail when the peer hangs up first.
			err = s.RecvMsg(new([]byte))
			if e := fromStatus(t.Context(), "send", 1, err); e.Kind != base.KindTooLarge {
				t.Errorf("%s of %d bytes: %v", c.method, c.size, err)
			}
		}
	})
}

// TestSilentPeerIsLost freezes the network under a connection, and then under
// the attempts to make another.
func TestSilentPeerIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.node(1, nil, servePing)
		seen := make(chan transport.Reach, 64)
		client := r.node(0, nil, watchReach(seen))
		client.SetPeer(transporttest.ID(1), address(1))
		await(t, seen, transport.Reached)
		r.net.frozen.Store(true)
		began := time.Now()
		for range 10_000 { // A stuck peer must not block the sender.
			client.SendControl(transporttest.ID(1), make([]byte, 1000))
		}
		select {
		case got := <-seen:
			if took := time.Since(began); got != transport.Lost || took > keepaliveTime+keepaliveTimeout+time.Second {
				t.Errorf("a frozen peer was %s after %s", got, took)
			}
		case <-time.After(time.Minute):
			t.Fatal("a frozen peer was never lost")
		}
		wantRefused(t, ping(t, client, 1), base.KindUnavailable, "no connection in time")
		r.net.frozen.Store(false)
		await(t, seen, transport.Reached)
	})
}

// TestStuckDownloadEnds fetches a file and does not read it.
func TestStuckDownloadEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		closed := make(chan struct{})
		content := bytes.NewReader(make([]byte, 1<<20))
		r.node(1, nil, func(n *Transport) {
			n.HandleFile("f", func(context.Context, base.NodeID, string) (transport.ReadAtCloser, int64, error) {
				return closeTold{content, closed}, content.Size(), nil
			})
		})
		client := r.node(0, nil, nil)
		client.SetPeer(transporttest.ID(1), address(1))
		body, _, err := client.FetchFile(t.Context(), transporttest.ID(1), "f", 0)
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		select {
		case <-closed:
		case <-time.After(stallTimeout + time.Second):
			t.Error("the file is still open")
		}
		if _, err := io.ReadAll(body); err == nil {
			t.Error("a transfer that was given up looks complete")
		}
	})
}

type closeTold struct {
	io.ReaderAt
	closed chan struct{}
}

func (c closeTold) Close() error { close(c.closed); return nil }

// TestRedialIsBounded counts the dials to a peer that is gone, and times how
// soon its return is noticed.
func TestRedialIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		seen := make(chan transport.Reach, 64)
		client := r.node(0, nil, watchReach(seen))
		client.SetPeer(transporttest.ID(1), address(1))
		await(t, seen, transport.Refused)
		time.Sleep(30 * time.Second)
		if n := r.net.dials.Load(); n < 50 || n > 100 {
			t.Errorf("%d dials in 30 s", n)
		}
		r.node(1, nil, servePing)
		began := time.Now()
		await(t, seen, transport.Reached)
		if took := time.Since(began); took > longPause {
			t.Errorf("the return was noticed after %s", took)
		}
	})
}

// TestBreakIsProbedAtOnce: no time passes between a break and the knowledge
// that the process is gone.
func TestBreakIsProbedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		seen := make(chan transport.Reach, 64)
		client := r.node(0, nil, watchReach(seen))
		client.SetPeer(transporttest.ID(1), address(1))
		for range 3 {
			victim := r.node(1, nil, nil)
			await(t, seen, transport.Reached)
			time.Sleep(200 * time.Millisecond)
			began := time.Now()
			victim.Close()
			await(t, seen, transport.Refused)
			if took := time.Since(began); took > 0 {
				t.Errorf("noticed after %s", took)
			}
		}
	})
}

// TestPeerThatReturnsIsRedialedAtOnce: its own hello tells that it is back.
func TestPeerThatReturnsIsRedialedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		seen := make(chan transport.Reach, 64)
		client := r.node(0, nil, watchReach(seen))
		client.SetPeer(transporttest.ID(1), address(1))
		await(t, seen, transport.Refused)
		time.Sleep(30*time.Second + 7*time.Millisecond)
		returned := r.node(1, nil, servePing)
		returned.SetPeer(transporttest.ID(0), address(0))
		began := time.Now()
		await(t, seen, transport.Reached)
		if took := time.Since(began); took > 0 {
			t.Errorf("the return was noticed after %s", took)
		}
	})
}

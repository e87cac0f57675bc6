package wire

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/transport"
	"github.com/skeindb/skein/internal/transport/transporttest"
)

func directly(o *Options, _ *env.Env) { o.DirectServices = []string{"echo"} }

// Streams with a connection of their own are not without number: those that are
// too many share one, and work as well.
func TestDirectStreamsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.node(1, directly, func(n *Transport) { n.HandleStream("echo", serveEcho) })
		client := r.node(0, directly, nil)
		client.SetPeer(transporttest.ID(1), address(1))
		open := func(ctx context.Context) transport.Stream {
			s, err := client.OpenStream(ctx, transporttest.ID(1), "echo", nil)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		ctx, cancel := context.WithCancel(t.Context())
		direct := 0
		for range maxDirect + 3 {
			s := open(ctx)
			if _, ok := s.(*openedDirect); ok {
				direct++
			}
			if err := s.Send([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if msg, err := s.Recv(); string(msg) != "x" || err != nil {
				t.Fatalf("echo %q, %v", msg, err)
			}
		}
		if direct != maxDirect {
			t.Errorf("%d streams have connections of their own, want %d", direct, maxDirect)
		}
		cancel()
		synctest.Wait()
		if _, ok := open(t.Context()).(*openedDirect); !ok {
			t.Error("streams that have ended still count")
		}
	})
}

// What comes on a connection for a stream is not believed.
func TestDirectProtocolIsEnforced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		received := make(chan error, 8)
		r.node(1, directly, func(n *Transport) {
			n.HandleStream("echo", func(_ context.Context, _ base.NodeID, _ []byte, s transport.Stream) error {
				_, err := s.Recv()
				received <- err
				return err
			})
		})
		client := r.node(0, nil, nil)
		good := client.newHello(classDirect, transporttest.ID(1))
		other, stranger, damaged := good, good, good.encode()
		other.class, stranger.cluster = classCall, 4711
		damaged[20]++
		echo := addressed{name: "echo"}
		unknown := addressed{name: "unknown"}
		long := []byte{0, 0, 0, 2, byte(frameMessage)}
		for _, c := range []struct {
			name  string
			hello []byte
			then  []byte // frames
			want  base.Kind
		}{
			{"another class", other.encode(), nil, base.KindInvalid},
			{"another cluster", stranger.encode(), nil, base.KindWrongCluster},
			{"a damaged hello", damaged, nil, base.KindInvalid},
			{"an unknown service", good.encode(), frame(frameMessage, unknown.appendTo(nil)), base.KindUnsupported},
			{"no service", good.encode(), frame(frameEnd, nil), base.KindInvalid},
			{"a long header", good.encode(), long, base.KindInvalid},
			{"a long message", good.encode(), append(frame(frameMessage, echo.appendTo(nil)), long...), base.KindCanceled},
			{"an unknown frame", good.encode(), append(frame(frameMessage, echo.appendTo(nil)), frame(9, nil)...), base.KindInvalid},
		} {
			conn, _, err := client.connect(t.Context(), address(1), transporttest.ID(1), protocolStream)
			if err != nil {
				t.Fatal(err)
			}
			f := newFrames(conn)
			if _, err := conn.Write(append(c.hello, c.then...)); err != nil {
				t.Fatal(err)
			}
			kind, body, err := f.read(maxAnswer)
			if kind == frameMessage && err == nil { // The answer to a good hello.
				kind, body, err = f.read(maxAnswer)
			}
			if err != nil || kind != frameFailure {
				t.Errorf("%s: a frame of kind %d, %v", c.name, kind, err)
			} else if got := failed(body); base.KindOf(got) != c.want {
				t.Errorf("%s: %v, want %s", c.name, got, c.want)
			}
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				t.Errorf("%s: the connection goes on", c.name)
			}
			conn.Close()
		}
		for range 2 {
			if err := <-received; err == nil {
				t.Error("the handler was given what is no message")
			}
		}
	})
}

func frame(kind frameKind, body []byte) []byte {
	return append([]byte{byte(1 + len(body)), 0, 0, 0, byte(kind)}, body...)
}

// Who connects for a stream says hello in time.
func TestNoHelloForADirectStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.node(1, directly, nil)
		client := r.node(0, nil, nil)
		conn, _, err := client.connect(t.Context(), address(1), transporttest.ID(1), protocolStream)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		began := time.Now()
		if _, err := io.ReadAll(conn); time.Since(began) > handshakeTimeout+time.Second {
			t.Errorf("closed after %v, %v", time.Since(began), err)
		}
	})
}

// A stream that its opener gives up before it has begun is no failure of the
// peer's.
func TestDirectStreamThatIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.node(1, directly, func(n *Transport) { n.HandleStream("echo", serveEcho) })
		client := r.node(0, directly, nil)
		client.SetPeer(transporttest.ID(1), address(1))
		gaveUp := base.Errorf(base.KindShutdown, "the node is stopping")
		r.net.frozen.Store(true)
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(gaveUp) })
		if _, err := client.OpenStream(ctx, transporttest.ID(1), "echo", nil); base.KindOf(err) != base.KindShutdown {
			t.Errorf("given up: %v", err)
		}
		if n := r.log.count(gaveUp.Message); n > 0 {
			t.Errorf("the peer is blamed %d times", n)
		}
	})
}

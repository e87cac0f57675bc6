package wire

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/pki"
)

// The protocols, as named by ALPN.
const (
	protocolRPC    = "h2"
	protocolStream = "skein-stream/1"
	protocolFile   = "skein-file/1"
	protocolHTTP   = "http/1.1" // the same as protocolFile, for ordinary clients
)

// acceptAll admits connections until the listener is closed.
func (t *Transport) acceptAll(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			if t.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors, for example: that passes.
			t.refusals.report(l.Addr().String(), "cannot accept connections", err)
			if t.env.Clock.Sleep(t.ctx, 10*time.Millisecond) != nil {
				return
			}
			continue
		}
		t.admit(conn)
	}
}

func (t *Transport) admit(conn net.Conn) {
	h, evicted, ok := t.door.enter(conn)
	if evicted != nil {
		t.refusals.report(remote(evicted), "too many unfinished handshakes: dropped the oldest", nil)
	}
	if !ok {
		t.refusals.report(remote(conn), "too many connections: refused", nil)
		conn.Close()
		return
	}
	if !t.spawn(func() { t.greet(conn, h) }) {
		t.door.leave(h)
		conn.Close()
	}
}

// greet finishes the handshake and hands the connection to its server.
func (t *Transport) greet(conn net.Conn, h *handshake) {
	timer := t.env.Clock.AfterFunc(handshakeTimeout, func() { conn.Close() })
	accepted, protocol, err := t.identify(conn)
	timer.Stop()
	t.door.finish(h)
	if err != nil {
		t.refusals.report(remote(conn), "refused a connection", err)
		t.linger(conn)
		t.door.leave(h)
		return
	}
	accepted.onClose = func() { t.door.leave(h) }
	switch protocol {
	case protocolStream:
		t.serveDirect(accepted)
	case protocolRPC:
		accepted.expectHello(t.env.Clock, func() {
			t.refusals.report(remote(conn), "refused a connection", errors.New("no hello in time"))
		})
		t.rpcDoor.hand(accepted)
	default:
		t.webDoor.hand(accepted)
	}
}

// identify finds out who has connected and what for.
func (t *Transport) identify(conn net.Conn) (*serverConn, string, error) {
	id := t.identity.Load()
	if id == nil {
		return t.identifyInsecure(conn)
	}
	secure := tls.Server(conn, id.ServerTLSConfig(t.env.Clock.Now, protocolRPC, protocolStream, protocolFile, protocolHTTP))
	if err := secure.HandshakeContext(t.ctx); err != nil {
		return nil, "", fmt.Errorf("TLS handshake: %w", err)
	}
	state := secure.ConnectionState()
	node, err := pki.PeerOf(state)
	if err != nil {
		return nil, "", err
	}
	return &serverConn{Conn: secure, raw: conn, certified: node}, state.NegotiatedProtocol, nil
}

// identifyInsecure tells the protocols apart by their first bytes.
func (t *Transport) identifyInsecure(conn net.Conn) (*serverConn, string, error) {
	var start [4]byte
	if _, err := io.ReadFull(conn, start[:]); err != nil {
		return nil, "", fmt.Errorf("read the first bytes: %w", err)
	}
	accepted := &serverConn{Conn: conn, raw: conn, start: start[:]}
	switch string(start[:]) {
	case "PRI ":
		return accepted, protocolRPC, nil
	case helloMagic:
		return accepted, protocolStream, nil
	case "GET ":
		return accepted, protocolHTTP, nil
	}
	return nil, "", fmt.Errorf("a connection that starts with %q is of no protocol of ours", start[:])
}

// linger lets a peer read why it was refused: a close at once, with its bytes
// unread, would reset the connection and lose the answer.
func (t *Transport) linger(conn net.Conn) {
	const lingerBytes, lingerTime = 16 << 10, 200 * time.Millisecond
	timer := t.env.Clock.AfterFunc(lingerTime, func() { conn.Close() })
	stop := context.AfterFunc(t.ctx, func() { conn.Close() })
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // Whether it succeeds or not, the connection ends.
	}
	_, _ = io.CopyN(io.Discard, conn, lingerBytes)
	timer.Stop()
	stop()
	conn.Close()
}

func remote(conn net.Conn) string { return conn.RemoteAddr().String() }

// serverConn is an accepted connection: whom it is with, once that is known.
// gRPC carries it to handlers as the connection's AuthInfo.
type serverConn struct {
	net.Conn              // TLS, or the raw connection
	raw       net.Conn    // closed directly: closing TLS may wait for a stuck peer
	start     []byte      // read already; given again by Read
	certified base.NodeID // of the certificate; zero without TLS
	onClose   func()
	once      sync.Once
	timer     env.Stopper
	hello     atomic.Pointer[hello] // nil until the peer has said hello
}

// AuthType implements credentials.AuthInfo.
func (*serverConn) AuthType() string { return "skein" }

func (c *serverConn) expectHello(clock env.Clock, late func()) {
	c.timer = clock.AfterFunc(handshakeTimeout, func() {
		if c.hello.Load() == nil {
			late()
			c.raw.Close() // The server that has the connection notices.
		}
	})
}

// Read gives the bytes that were read to tell the protocol, then the rest.
func (c *serverConn) Read(b []byte) (int, error) {
	if len(c.start) > 0 {
		n := copy(b, c.start)
		c.start = c.start[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// Close ends the connection without waiting for the peer.
func (c *serverConn) Close() error {
	err := c.raw.Close()
	c.once.Do(func() {
		if c.timer != nil {
			c.timer.Stop()
		}
		if c.onClose != nil {
			c.onClose()
		}
	})
	return err
}

// door counts connections, and knows those whose handshake is unfinished,
// oldest first, so that slow ones cannot keep others out.
type door struct {
	mu    sync.Mutex // guards what follows
	open  int
	shaky list.List // of *handshake
}

type handshake struct {
	conn net.Conn
	at   *list.Element // nil once finished
}

func (d *door) enter(conn net.Conn) (h *handshake, evicted net.Conn, ok bool) {
	d.mu.Lock()
	if d.shaky.Len() >= maxHandshakes {
		oldest := d.shaky.Remove(d.shaky.Front()).(*handshake)
		oldest.at, evicted = nil, oldest.conn
	}
	if ok = d.open < maxConnections; ok {
		d.open++
		h = &handshake{conn: conn}
		h.at = d.shaky.PushBack(h)
	}
	d.mu.Unlock()
	if evicted != nil {
		evicted.Close()
	}
	return h, evicted, ok
}

func (d *door) finish(h *handshake) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h.at != nil {
		d.shaky.Remove(h.at)
		h.at = nil
	}
}

// leave is called once for every connection that has entered.
func (d *door) leave(h *handshake) {
	d.finish(h)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open--
}

func (d *door) closeAll() {
	d.mu.Lock()
	var conns []net.Conn
	for at := d.shaky.Front(); at != nil; at = at.Next() {
		conns = append(conns, at.Value.(*handshake).conn)
	}
	d.mu.Unlock()
	for _, conn := range conns {
		conn.Close()
	}
}

// handover is a listener whose connections come from the door.
type handover struct {
	conns   chan net.Conn
	done    chan struct{}
	once    sync.Once
	address net.Addr
}

func newHandover() *handover {
	return &handover{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (h *handover) hand(conn net.Conn) {
	select {
	case h.conns <- conn:
	case <-h.done:
		conn.Close()
	}
}

func (h *handover) shut() { h.once.Do(func() { close(h.done) }) }

// Accept implements net.Listener.
func (h *handover) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handover) Close() error { h.shut(); return nil }

// Addr implements net.Listener.
func (h *handover) Addr() net.Addr { return h.address }

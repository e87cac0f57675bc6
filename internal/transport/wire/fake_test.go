package wire

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/pki"
	"github.com/skeindb/skein/internal/transport"
	"github.com/skeindb/skein/internal/transport/transporttest"
)

// fakeNet is a network in memory, so that a test can run in virtual time.
type fakeNet struct {
	dials  atomic.Int64
	frozen atomic.Bool // what is written goes nowhere

	mu        sync.Mutex // guards what follows
	listeners map[string]*bufconn.Listener
	dialed    []*fakeConn
	accepted  []*fakeConn
}

// hold keeps back what is written to connections that there are, in one
// direction, until the function it returns is called. stalled says that the
// system of who writes knows.
func (n *fakeNet) hold(dialed, stalled bool) (release func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	held := slices.Clone(n.accepted)
	if dialed {
		held = slices.Clone(n.dialed)
	}
	for _, c := range held {
		c.mu.Lock()
		c.held, c.stalled = true, stalled
		c.mu.Unlock()
	}
	return func() {
		for _, c := range held {
			c.release()
		}
	}
}

// cutNewest breaks the connection that was dialed last.
func (n *fakeNet) cutNewest() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dialed[len(n.dialed)-1].Close()
}

func (n *fakeNet) Listen(_ context.Context, address string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners == nil {
		n.listeners = make(map[string]*bufconn.Listener)
	}
	n.listeners[address] = bufconn.Listen(64 << 10)
	return &fakeListener{n.listeners[address], n, address}, nil
}

func (n *fakeNet) Dial(ctx context.Context, address string) (net.Conn, error) {
	n.dials.Add(1)
	n.mu.Lock()
	l := n.listeners[address]
	n.mu.Unlock()
	if l == nil {
		return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	conn, err := l.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	c := &fakeConn{Conn: conn, net: n}
	n.dialed = append(n.dialed, c)
	return c, nil
}

type fakeListener struct {
	*bufconn.Listener
	net     *fakeNet
	address string
}

func (l *fakeListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &fakeConn{Conn: conn, net: l.net}
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.net.accepted = append(l.net.accepted, c)
	return c, nil
}

func (l *fakeListener) Close() error {
	l.net.mu.Lock()
	delete(l.net.listeners, l.address)
	l.net.mu.Unlock()
	return l.Listener.Close()
}

type fakeConn struct {
	net.Conn
	net *fakeNet

	mu      sync.Mutex // guards what follows
	held    bool
	stalled bool
	back    []byte // what is held back
}

func (c *fakeConn) Write(b []byte) (int, error) {
	if c.net.frozen.Load() {
		return len(b), nil
	}
	c.mu.Lock()
	if c.held {
		defer c.mu.Unlock()
		c.back = append(c.back, b...)
		return len(b), nil
	}
	c.mu.Unlock()
	return c.Conn.Write(b)
}

func (c *fakeConn) release() {
	c.mu.Lock()
	back := c.back
	c.held, c.stalled, c.back = false, false, nil
	c.mu.Unlock()
	_, _ = c.Conn.Write(back) // It may have been closed meanwhile.
}

// Stalled is what the system says of a connection over TCP.
func (c *fakeConn) Stalled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stalled
}

// journal is a log that a test reads.
type journal struct {
	mu    sync.Mutex // guards lines
	lines []string
}

func (j *journal) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (j *journal) WithAttrs([]slog.Attr) slog.Handler           { return j }
func (j *journal) WithGroup(string) slog.Handler                { return j }

func (j *journal) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
	return nil
}

// count returns how many lines contain a text.
func (j *journal) count(text string) (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, line := range j.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// skewedClock is a clock that is wrong by a constant.
type skewedClock struct {
	env.Clock
	by time.Duration
}

func (c skewedClock) Now() time.Time { return c.Clock.Now().Add(c.by) }

// rig is nodes on one fake network, to be used in a synctest bubble.
type rig struct {
	t   *testing.T
	net *fakeNet
	log *journal
}

func newRig(t *testing.T) *rig { return &rig{t: t, net: &fakeNet{}, log: &journal{}} }

func (r *rig) env() *env.Env {
	e := testEnv()
	e.Net, e.Log = r.net, slog.New(r.log)
	return e
}

func address(i int) string { return transporttest.ID(i).String() + ":1" }

// node makes, prepares and starts node i with TLS; tune may change its options
// and surroundings.
func (r *rig) node(i int, tune func(*Options, *env.Env), setup func(*Transport)) *Transport {
	r.t.Helper()
	o := Options{Self: transporttest.ID(i), ListenAddress: address(i)}
	e := r.env()
	if tune != nil {
		tune(&o, e)
	}
	if o.TLS == nil && !o.Insecure {
		o.TLS = identity(r.t, freshAuthority(), i, time.Now(), 0)
	}
	node, err := New(e, o)
	if err != nil {
		r.t.Fatal(err)
	}
	if setup != nil {
		setup(node)
	}
	if err := node.Start(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { node.Close() })
	return node
}

// freshAuthority is one whose certificates are valid in a bubble, where time
// begins in the year 2000.
var freshAuthority = sync.OnceValue(func() *pki.CA {
	ca, err := pki.NewCA(rand.Reader, time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), testCluster)
	if err != nil {
		panic(err)
	}
	return ca
})

// watchReach makes a node tell how its peers can be reached.
func watchReach(seen chan transport.Reach) func(*Transport) {
	return func(t *Transport) {
		t.OnReach(func(_ base.NodeID, r transport.Reach) { seen <- r })
	}
}

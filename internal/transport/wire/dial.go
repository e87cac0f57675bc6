package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/pki"
	"github.com/skeindb/skein/internal/transport"
)

// channel is one TCP connection to a peer that has said hello. It never
// reconnects: once gone is closed it is of no use.
type channel struct {
	peer base.NodeID
	rpc  *grpc.ClientConn
	conn *clientConn
	gone <-chan struct{}

	mu      sync.Mutex // guards what follows
	idle    []*caller  // call streams that wait for their next call
	running int        // requests, those of idle callers included
	retired bool       // another has taken its place: closed behind the last request

	checked atomic.Bool // it is being asked for a sign of life
}

// newStream begins a request.
func (c *channel) newStream(ctx context.Context, desc *grpc.StreamDesc, method string) (grpc.ClientStream, error) {
	c.mu.Lock()
	c.running++
	c.mu.Unlock()
	over := sync.OnceFunc(c.requestOver)
	s, err := c.rpc.NewStream(ctx, desc, method, grpc.OnFinish(func(error) { over() }))
	if err != nil {
		over()
	}
	return s, err
}

func (c *channel) requestOver() {
	c.mu.Lock()
	c.running--
	last := c.retired && c.running == 0
	c.mu.Unlock()
	if last {
		c.close()
	}
}

// retire closes the connection when what is under way on it has ended.
func (c *channel) retire() {
	c.mu.Lock()
	c.retired = true
	idle, last := c.idle, c.running == 0
	c.idle = nil
	c.mu.Unlock()
	for _, s := range idle {
		s.cancel()
	}
	if last {
		c.close()
	}
}

func (c *channel) close() {
	c.conn.Close()
	_ = c.rpc.Close() // It fails only when it is closed already.
}

func (c *channel) isGone() bool {
	select {
	case <-c.gone:
		return true
	default:
		return false
	}
}

// clientConn tells when gRPC, or anybody, has closed it, and remembers why.
type clientConn struct {
	net.Conn          // TLS, or the raw connection
	raw      net.Conn // closed directly: closing TLS may wait for a stuck peer
	gone     chan struct{}
	once     sync.Once
	failure  atomic.Pointer[error] // the first failure of Read
	clock    env.Clock
	mute     atomic.Bool // it gave no sign of life, until something is received
	made     time.Time
	lastRead atomic.Int64 // how long after made something was received last, in nanoseconds
}

func (c *clientConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.failure.CompareAndSwap(nil, &err)
	}
	c.lastRead.Store(int64(c.age()))
	if c.mute.Load() {
		c.mute.Store(false)
	}
	return n, err
}

func (c *clientConn) Close() error {
	err := c.raw.Close()
	c.once.Do(func() { close(c.gone) })
	return err
}

// connect makes a connection that is ready for a protocol, verified by TLS
// unless the transport is insecure. want zero accepts any node of the cluster.
// The node at the other end is returned as its certificate names it, zero
// without TLS.
func (t *Transport) connect(ctx context.Context, address string, want base.NodeID, protocol string) (*clientConn, base.NodeID, error) {
	id := t.identity.Load()
	if id != nil { // A certificate that has expired spares the peer a connection that it could only refuse.
		if err := id.Check(t.env.Clock.Now()); err != nil {
			return nil, 0, err
		}
	}
	raw, err := t.env.Net.Dial(ctx, address)
	if err != nil {
		return nil, 0, err
	}
	conn := &clientConn{Conn: raw, raw: raw, gone: make(chan struct{}), clock: t.env.Clock, made: t.env.Clock.Now()}
	if id == nil {
		return conn, 0, nil
	}
	secure := tls.Client(raw, id.TLSConfig(t.env.Clock.Now, want, protocol))
	if err := secure.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, 0, fmt.Errorf("TLS handshake with %s: %w", address, err)
	}
	conn.Conn = secure
	node, err := pki.PeerOf(secure.ConnectionState())
	if err != nil {
		raw.Close()
		return nil, 0, err
	}
	return conn, node, nil
}

// dial connects to a peer and says hello.
func (t *Transport) dial(ctx context.Context, address string, want base.NodeID, c class) (*channel, error) {
	ctx, cancel := t.env.Clock.WithTimeout(ctx, dialTimeout, errDialTimeout)
	defer cancel()
	conn, certified, err := t.connect(ctx, address, want, protocolRPC)
	if err != nil {
		return nil, causeOf(ctx, err)
	}
	rpc, err := newClientConn(conn, c)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("set up connection to %s: %w", address, err)
	}
	ch := &channel{rpc: rpc, conn: conn, gone: conn.gone}
	if ch.peer, err = t.sayHello(ctx, ch, c, want, certified); err != nil {
		ch.close()
		return nil, causeOf(ctx, err)
	}
	return ch, nil
}

var errDialTimeout = errors.New("no connection in time")

func causeOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func newClientConn(conn *clientConn, c class) (*grpc.ClientConn, error) {
	var used atomic.Bool
	dialOnce := func(context.Context, string) (net.Conn, error) {
		if used.Swap(true) {
			return nil, net.ErrClosed
		}
		return conn, nil
	}
	window, connWindow := int32(streamWindow), int32(connectionWindow)
	if c != classStream {
		window /= 4
	}
	return grpc.NewClient("passthrough:///peer",
		grpc.WithContextDialer(dialOnce),
		grpc.WithTransportCredentials(handedOver{}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{}),
			grpc.MaxCallRecvMsgSize(transport.MaxMessage+envelope), grpc.MaxCallSendMsgSize(transport.MaxMessage+envelope)),
		grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithWriteBufferSize(bufferSize), grpc.WithReadBufferSize(bufferSize),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true}),
		grpc.WithMaxHeaderListSize(64<<10),
		grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(), grpc.WithDisableHealthCheck(), grpc.WithIdleTimeout(0),
	)
}

// sayHello is the first request on a connection; it returns who answered.
func (t *Transport) sayHello(ctx context.Context, ch *channel, c class, want, certified base.NodeID) (base.NodeID, error) {
	greeting := t.newHello(c, want)
	var reply []byte
	if err := ch.rpc.Invoke(ctx, methodHello, greeting.encode(), &reply); err != nil {
		if e, ok := answered(err); ok {
			return 0, e
		}
		return 0, ch.conn.explain(err)
	}
	h, err := decodeHello(reply)
	if err != nil {
		return 0, err
	}
	if err := t.self().expect(h, want, certified); err != nil {
		return 0, err
	}
	return h.from, nil
}

// explain finds out whether the peer has refused our certificate: in TLS 1.3
// that shows only when the first answer is read.
func (c *clientConn) explain(err error) error {
	p := c.failure.Load()
	if p == nil {
		return err
	}
	if op, ok := errors.AsType[*net.OpError](*p); ok && op.Op == "remote error" {
		return base.Errorf(base.KindWrongCluster, "the peer refused this node's certificate: %w", *p).
			WithHint("both nodes' certificates must come from one authority, and both clocks must be right")
	}
	return *p
}

// reachOf says what the failure of a dial tells about the peer.
func reachOf(err error) transport.Reach {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return transport.Refused
	}
	return transport.Lost
}

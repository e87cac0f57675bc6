package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	grpcpeer "google.golang.org/grpc/peer"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/transport"
)

// The gRPC methods. Every message is raw bytes.
const (
	serviceName   = "skein.peer.v1.Peer"
	methodHello   = "/" + serviceName + "/Hello"
	methodCalls   = "/" + serviceName + "/Calls"
	methodStream  = "/" + serviceName + "/Stream"
	methodControl = "/" + serviceName + "/Control"
)

// Windows let a fast link be full; they bound what one stream that nobody
// reads may hold in memory. Keepalive finds a peer that has gone silent.
const (
	streamWindow     = 2 << 20
	connectionWindow = 32 << 20
	bufferSize       = 64 << 10
	envelope         = callHead + 1 + transport.MaxName // beside a message's body
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 3 * time.Second
)

func (t *Transport) newRPCServer() *grpc.Server {
	s := grpc.NewServer(
		grpc.Creds(handedOver{}),
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(transport.MaxMessage+envelope), grpc.MaxSendMsgSize(transport.MaxMessage+envelope),
		grpc.MaxConcurrentStreams(maxStreams), grpc.MaxHeaderListSize(16<<10),
		grpc.StaticStreamWindowSize(streamWindow), grpc.StaticConnWindowSize(connectionWindow),
		grpc.WriteBufferSize(bufferSize), grpc.ReadBufferSize(bufferSize),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime / 2, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
	)
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: serviceName,
		Methods: []grpc.MethodDesc{
			{MethodName: "Hello", Handler: unary(t.serveHello)},
		},
		Streams: []grpc.StreamDesc{
			{StreamName: "Calls", Handler: duplex(t.serveCalls), ClientStreams: true, ServerStreams: true},
			{StreamName: "Stream", Handler: duplex(t.serveStream), ClientStreams: true, ServerStreams: true},
			{StreamName: "Control", Handler: duplex(t.serveControl), ClientStreams: true, ServerStreams: true},
		},
	}, nil)
	return s
}

// handedOver are credentials for connections that have shown theirs before
// gRPC gets them.
type handedOver struct{}

func (handedOver) ClientHandshake(_ context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return conn, authenticated{}, nil
}

func (handedOver) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, ok := conn.(*serverConn)
	if !ok {
		return nil, nil, errors.New("connection did not come through the door")
	}
	return c, c, nil
}

func (handedOver) Info() credentials.ProtocolInfo            { return credentials.ProtocolInfo{} }
func (h handedOver) Clone() credentials.TransportCredentials { return h }
func (handedOver) OverrideServerName(string) error           { return nil }

type authenticated struct{}

func (authenticated) AuthType() string { return "skein" }

type unaryMethod = func(any, context.Context, func(any) error, grpc.UnaryServerInterceptor) (any, error)

func unary(serve func(context.Context, *serverConn, []byte) ([]byte, error)) unaryMethod {
	return func(_ any, ctx context.Context, receive func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var request []byte
		if err := receive(&request); err != nil {
			return nil, err
		}
		c, err := connOf(ctx)
		if err != nil {
			return nil, toStatus(err)
		}
		reply, err := serve(ctx, c, request)
		if err != nil {
			return nil, toStatus(err)
		}
		return reply, nil
	}
}

func duplex(serve func(*serverConn, grpc.ServerStream) error) grpc.StreamHandler {
	return func(_ any, s grpc.ServerStream) error {
		c, err := connOf(s.Context())
		if err == nil {
			err = serve(c, s)
		}
		return toStatus(err)
	}
}

func connOf(ctx context.Context) (*serverConn, error) {
	if p, ok := grpcpeer.FromContext(ctx); ok {
		if c, ok := p.AuthInfo.(*serverConn); ok {
			return c, nil
		}
	}
	return nil, errors.New("request without a connection")
}

var errNoHello = base.Errorf(base.KindWrongCluster, "the connection has not said hello")

// serveHello is the first request of every connection.
func (t *Transport) serveHello(_ context.Context, c *serverConn, request []byte) ([]byte, error) {
	h, err := decodeHello(request)
	if err == nil {
		err = t.self().accept(h, c.certified, classControl, classStream, classCall, classBootstrap)
	}
	if err != nil {
		t.refusals.report(remote(c), "refused a peer's hello", err)
		return nil, err
	}
	if !c.hello.CompareAndSwap(nil, &h) {
		return nil, base.Errorf(base.KindInvalid, "a connection says hello once")
	}
	if h.class != classBootstrap {
		t.retry(h.from) // Whoever reaches us can probably be reached.
	}
	answer := t.newHello(h.class, h.from)
	return answer.encode(), nil
}

func (t *Transport) newHello(c class, to base.NodeID) hello {
	return hello{
		newest: newestVersion, oldest: oldestVersion, class: c, cluster: t.cluster.Load(),
		from: t.options.Self, to: to, instance: t.instance, serial: t.serial.Add(1),
	}
}

func (t *Transport) serveStream(c *serverConn, s grpc.ServerStream) error {
	h := c.hello.Load()
	if h == nil {
		return errNoHello
	}
	if h.class == classBootstrap {
		return base.Errorf(base.KindForbidden, "a bootstrap connection carries calls only")
	}
	var first []byte
	if err := s.RecvMsg(&first); err != nil {
		return err
	}
	a, err := decodeAddressed(first)
	if err != nil {
		return base.Errorf(base.KindInvalid, "stream: %w", err)
	}
	handle, err := t.ForStream(t.options.Self, a.name)
	if err != nil {
		return err
	}
	write := func(kind frameKind, body []byte) error { return s.SendMsg(framed{kind, body}) }
	return handle(s.Context(), h.from, a.body, &servedStream{served{from: h.from, service: a.name, write: write}, s})
}

// serveControl receives the control messages of one connection.
func (t *Transport) serveControl(c *serverConn, s grpc.ServerStream) error {
	h := c.hello.Load()
	if h == nil || h.class != classControl {
		return errNoHello
	}
	release, err := t.inbound.claim(s.Context(), *h, c)
	if err != nil {
		return err
	}
	defer release()
	handle := t.ForControl()
	for {
		var msg []byte
		if err := s.RecvMsg(&msg); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := transport.CheckSize("control message", len(msg), transport.MaxControlMessage); err != nil {
			t.refusals.report(remote(c), "refused a control message", err)
			return err
		}
		if handle != nil {
			handle(h.from, msg)
		}
	}
}

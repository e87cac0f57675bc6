package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/pki"
	"github.com/skeindb/skein/internal/transport"
)

// Times and bounds of the network half.
const (
	dialTimeout      = 3 * time.Second  // connect, TLS and hello together
	handshakeTimeout = 5 * time.Second  // for a peer that has connected to finish TLS and hello
	stallTimeout     = 30 * time.Second // for a file transfer to make progress
	maxHandshakes    = 256              // unfinished at once; the oldest gives way
	maxConnections   = 4096             // accepted at once
	maxStreams       = 16384            // calls and streams at once on one connection
)

// Options of a Transport.
type Options struct {
	// Self is this node. Required.
	Self base.NodeID
	// ClusterID may be zero while a node without TLS has not joined; see
	// SetClusterID. With TLS the certificate names it.
	ClusterID uint64
	// ListenAddress is host:port for peers; port 0 picks a free one. Required.
	ListenAddress string
	// TLS is this node's certificate. Required unless Insecure.
	TLS *pki.Identity
	// Insecure runs without TLS. Only a loopback ListenAddress is accepted.
	Insecure bool
	// SessionServices are the stream services that belong to users' sessions:
	// their streams share connections with calls, not with log streams.
	SessionServices []string
	// DirectServices are the stream services whose small messages must be quick:
	// a stream has a connection of its own, as long as there are not too many.
	// That either end has left is noticed by who receives, or sends for a while:
	// both ends must go on doing so.
	DirectServices []string
}

func (o Options) validate() error {
	if o.Self == 0 || o.ListenAddress == "" {
		return base.Errorf(base.KindInvalid, "transport: needs a node id and an address to listen at")
	}
	if o.TLS != nil {
		return o.validateTLS()
	}
	if !o.Insecure {
		return base.Errorf(base.KindInvalid, "transport: has no certificate").
			WithHint("make one with \"skein cert node\", or allow insecure peers on loopback")
	}
	host, _, err := net.SplitHostPort(o.ListenAddress)
	if err != nil {
		return base.Errorf(base.KindInvalid, "transport: address %q: %w", o.ListenAddress, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return base.Errorf(base.KindForbidden, "transport: %s is not a loopback address; peers there need TLS", o.ListenAddress)
	}
	return nil
}

func (o Options) validateTLS() error {
	switch {
	case o.Insecure:
		return base.Errorf(base.KindInvalid, "transport: has a certificate and is told to be insecure")
	case o.TLS.Node() != o.Self:
		return base.Errorf(base.KindWrongCluster, "transport: the certificate is of node %s, this is node %s", o.TLS.Node(), o.Self)
	case o.ClusterID != 0 && o.ClusterID != o.TLS.ClusterID():
		return base.Errorf(base.KindWrongCluster, "transport: the certificate is of cluster %016x, this node of %016x",
			o.TLS.ClusterID(), o.ClusterID)
	}
	return nil
}

// Transport is transport.Transport and transport.Bootstrapper over the
// network. New makes it, Start runs it, Close ends it.
type Transport struct {
	transport.Handlers
	env      *env.Env
	options  Options
	session  map[string]bool // of Options.SessionServices
	direct   map[string]bool // of Options.DirectServices
	instance uint64
	serial   atomic.Uint64
	cluster  atomic.Uint64
	identity atomic.Pointer[pki.Identity] // nil when insecure
	refusals refusals
	inbound  inbound
	door     door

	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	tasks  sync.WaitGroup

	listener net.Listener // set by Start
	rpc      *grpc.Server
	rpcDoor  *handover
	web      *http.Server
	webDoor  *handover

	mu    sync.RWMutex // guards what follows
	state state
	peers map[base.NodeID]*peer
}

type state uint8

const (
	made state = iota
	running
	closed
)

var (
	_ transport.Transport    = (*Transport)(nil)
	_ transport.Bootstrapper = (*Transport)(nil)

	errClosed     = base.Errorf(base.KindShutdown, "the node is stopping")
	errNotRunning = base.Errorf(base.KindUnavailable, "the transport has not been started")
)

// New makes a transport that neither listens nor dials before Start.
func New(e *env.Env, o Options) (*Transport, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	t := &Transport{
		env: e, options: o, session: make(map[string]bool), direct: make(map[string]bool), instance: e.Rand.Uint64(), peers: make(map[base.NodeID]*peer),
	}
	for _, service := range o.SessionServices {
		t.session[service] = true
	}
	for _, service := range o.DirectServices {
		t.direct[service] = true
	}
	t.cluster.Store(o.ClusterID)
	if o.TLS != nil {
		t.identity.Store(o.TLS)
		t.cluster.Store(o.TLS.ClusterID())
	}
	t.refusals = refusals{clock: e.Clock, log: e.Log}
	t.ctx, t.cancel = context.WithCancelCause(context.Background())
	t.rpcDoor, t.webDoor = newHandover(), newHandover()
	t.rpc = t.newRPCServer()
	t.web = t.newWebServer()
	return t, nil
}

// Start listens, and connects to the peers that SetPeer has named. ctx bounds
// the start only.
func (t *Transport) Start(ctx context.Context) error {
	if id := t.identity.Load(); id != nil {
		if err := id.Check(t.env.Clock.Now()); err != nil {
			return err
		}
	}
	l, err := t.env.Net.Listen(ctx, t.options.ListenAddress)
	if err != nil {
		return fmt.Errorf("listen for peers at %s: %w", t.options.ListenAddress, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state != made {
		return errors.Join(base.Errorf(base.KindInvalid, "transport: started twice or after Close"), l.Close())
	}
	t.state, t.listener = running, l
	t.rpcDoor.address, t.webDoor.address = l.Addr(), l.Addr()
	t.tasks.Go(func() { t.acceptAll(l) })
	t.tasks.Go(func() { _ = t.rpc.Serve(t.rpcDoor) })
	t.tasks.Go(func() { _ = t.web.Serve(guardedDoor{t.webDoor, t.env.Clock}) })
	for _, p := range t.peers {
		p.start()
	}
	return nil
}

// Addr returns the address that Start listens at, or nil before.
func (t *Transport) Addr() net.Addr {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.listener == nil {
		return nil
	}
	return t.listener.Addr()
}

// Self returns this node's id.
func (t *Transport) Self() base.NodeID { return t.options.Self }

// ClusterID returns the cluster this node is in, zero while it has not joined.
func (t *Transport) ClusterID() uint64 { return t.cluster.Load() }

// SetClusterID tells a node without TLS which cluster it has joined.
func (t *Transport) SetClusterID(id uint64) error {
	if t.identity.Load() != nil && id != t.cluster.Load() {
		return base.Errorf(base.KindWrongCluster, "transport: the certificate is of cluster %016x, not of %016x", t.cluster.Load(), id)
	}
	if !t.cluster.CompareAndSwap(0, id) && t.cluster.Load() != id {
		return base.Errorf(base.KindWrongCluster, "transport: this node is of cluster %016x, not of %016x", t.cluster.Load(), id)
	}
	t.retryAll()
	return nil
}

// SetIdentity replaces the certificate by a renewed one. Connections that
// exist go on; new ones use it.
func (t *Transport) SetIdentity(id *pki.Identity) error {
	if t.options.TLS == nil || id.Node() != t.options.Self || id.ClusterID() != t.cluster.Load() {
		return base.Errorf(base.KindWrongCluster, "transport: the new certificate is of another node or cluster")
	}
	if err := id.Check(t.env.Clock.Now()); err != nil {
		return err
	}
	t.identity.Store(id)
	t.retryAll()
	return nil
}

func (t *Transport) self() self {
	return self{node: t.options.Self, cluster: t.cluster.Load(), instance: t.instance}
}

// spawn runs f as a task that Close waits for; false once Close has begun.
func (t *Transport) spawn(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state != running {
		return false
	}
	t.tasks.Go(f)
	return true
}

// Close implements transport.Transport. It must not be called by a handler.
func (t *Transport) Close() error {
	t.mu.Lock()
	was, l := t.state, t.listener
	t.state = closed
	t.mu.Unlock()
	t.cancel(errClosed)
	if was != running {
		return nil
	}
	err := l.Close()
	t.rpcDoor.shut()
	t.webDoor.shut()
	t.door.closeAll()
	t.rpc.Stop()
	err = errors.Join(err, t.web.Close())
	t.tasks.Wait()
	return err
}

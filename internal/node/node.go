package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/control"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/gateway"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/transport"
	"github.com/skeindb/skein/internal/transport/wire"
)

// Node is one running node.
type Node struct {
	env       *env.Env
	options   Options
	identity  Identity
	log       *slog.Logger
	started   time.Time
	transport transport.Transport
	network   *wire.Transport // nil when the transport was given
	control   *control.Control
	gateway   *gateway.Gateway

	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	reach      reachability
	supervisor supervisor
	changed    chan struct{} // wakes the follower of the control plane; one token

	handing sync.Once
	mu      struct {
		sync.Mutex // guards all below; never held over I/O
		keepers    map[base.DatabaseID]*keeper
		failure    error
	}
}

// Open opens the folder, starts listening and runs the node until Close. It
// does not wait for the cluster: see Ready.
func Open(ctx context.Context, e *env.Env, o Options) (*Node, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	id, err := settle(e, o)
	if err != nil {
		return nil, err
	}
	if o.Name == "" {
		o.Name = id.Node.String()
	}
	n := &Node{
		env: e, options: o, identity: id, log: e.Log, started: e.Clock.Now(),
		transport: o.Transport, changed: make(chan struct{}, 1),
	}
	n.mu.keepers = make(map[base.DatabaseID]*keeper)
	n.reach.init()
	n.supervisor.init(n)
	if err := n.build(); err != nil {
		return nil, err
	}
	n.ctx, n.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	if err := n.start(ctx); err != nil {
		n.cancel(err)
		n.wg.Wait()
		return nil, errors.Join(err, n.transport.Close(), n.control.Close())
	}
	return n, nil
}

// build makes the parts and connects them; nothing runs yet.
func (n *Node) build() error {
	if n.transport == nil {
		network, err := wire.New(n.env, wire.Options{
			Self: n.identity.Node, ClusterID: n.identity.Cluster, ListenAddress: n.options.PeerAddress,
			TLS: n.options.TLS, Insecure: n.options.TLS == nil, SessionServices: gateway.StreamServices(),
		})
		if err != nil {
			return err
		}
		n.transport, n.network = network, network
	}
	c, err := control.Open(n.env, control.Options{Dir: n.options.Dir, Self: n.identity.Node, VFS: n.env.VFS, Messenger: messenger{n.transport}})
	if err != nil {
		return err
	}
	n.control = c
	n.gateway = gateway.New(n.env, gateway.Options{Directory: directory{n}, Transport: n.transport})
	n.handle()
	return nil
}

// start listens, runs the control plane and founds or joins a cluster.
func (n *Node) start(ctx context.Context) error {
	if err := n.listen(ctx); err != nil {
		return err
	}
	n.wg.Go(func() {
		if err := n.control.Run(n.ctx); err != nil && n.ctx.Err() == nil {
			n.fail(fmt.Errorf("control plane: %w", err))
		}
	})
	n.wg.Go(n.watchControl)
	n.wg.Go(n.supervisor.run)
	n.wg.Go(n.enter)
	return nil
}

func (n *Node) listen(ctx context.Context) error {
	type starter interface{ Start(context.Context) error }
	if s, ok := n.transport.(starter); ok {
		if err := s.Start(ctx); err != nil {
			return fmt.Errorf("listen for other nodes on %s: %w", n.options.PeerAddress, err)
		}
	}
	if n.options.Advertise == "" {
		n.options.Advertise = n.options.PeerAddress
		if n.network != nil {
			n.options.Advertise = n.network.Addr().String()
		}
	}
	return nil
}

func (n *Node) self() catalog.Node {
	return catalog.Node{
		ID: n.identity.Node, Name: n.options.Name, PeerAddress: n.options.Advertise,
		PgAddress: n.options.PgAddress, HTTPAddress: n.options.HTTPAddress,
	}
}

// enter founds a cluster or joins one, if the folder belongs to none, and tells
// the cluster this node's addresses, if it does.
func (n *Node) enter() {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := n.enterOnce()
		if err == nil || n.ctx.Err() != nil {
			return
		}
		if k := base.KindOf(err); k == base.KindWrongCluster || k == base.KindForbidden || k == base.KindExists {
			n.fail(fmt.Errorf("enter the cluster: %w", err))
			return
		}
		n.log.Warn("entering the cluster; trying again", "err", err)
		if n.env.Clock.Sleep(n.ctx, pause) != nil {
			return
		}
	}
}

func (n *Node) enterOnce() error {
	ctx, cancel := n.env.Clock.WithTimeout(n.ctx, 10*time.Second, base.Errorf(base.KindTimeout, "no answer within 10 s"))
	defer cancel()
	if n.control.State().ClusterID() != 0 {
		if n.identity.Cluster == 0 { // The last life ended between joining and noting it.
			if err := n.remember(); err != nil {
				return err
			}
		}
		return n.refresh(ctx)
	}
	if n.identity.Cluster != 0 {
		return base.Errorf(base.KindWrongCluster, "the folder belongs to cluster %016x, and its control.db is gone", n.identity.Cluster).
			WithHint("take the folder away and let the node join again with an empty one")
	}
	if err := n.foundOrJoin(ctx); err != nil {
		return err
	}
	return n.remember()
}

func (n *Node) foundOrJoin(ctx context.Context) error {
	cluster := uint64(0)
	if n.options.TLS != nil {
		cluster = n.options.TLS.ClusterID()
	}
	if len(n.options.Join) == 0 {
		if cluster == 0 {
			cluster = n.env.Rand.Uint64() | 1
		}
		n.log.Info("founding a cluster", "cluster", fmt.Sprintf("%016x", cluster))
		return n.control.Bootstrap(ctx, cluster, n.self())
	}
	var failures error
	for _, address := range n.options.Join {
		err := n.control.Join(ctx, cluster, n.via(address), n.self())
		if err == nil {
			return nil
		}
		failures = errors.Join(failures, fmt.Errorf("join through %s: %w", address, err))
	}
	return failures
}

// via calls a node of which only the address is known.
func (n *Node) via(address string) control.Caller {
	return func(ctx context.Context, method string, request []byte) ([]byte, error) {
		b, ok := n.transport.(transport.Bootstrapper)
		if !ok {
			return nil, base.Errorf(base.KindInternal, "this transport can't call an address")
		}
		_, reply, err := b.CallAddress(ctx, address, method, request)
		return reply, err
	}
}

// remember writes down the cluster that this node now belongs to.
func (n *Node) remember() error {
	cluster := n.control.State().ClusterID()
	if n.network != nil {
		if err := n.network.SetClusterID(cluster); err != nil {
			return err
		}
	}
	n.log.Info("member of a cluster", "cluster", fmt.Sprintf("%016x", cluster), "node", n.identity.Node)
	return WriteIdentity(n.env.FS, n.options.Dir, Identity{Node: n.identity.Node, Cluster: cluster})
}

// refresh tells the cluster addresses that have changed since the last start.
func (n *Node) refresh(ctx context.Context) error {
	self := n.self()
	known, ok := n.control.State().Node(self.ID)
	if !ok || known.State == catalog.NodeLeft {
		return base.Errorf(base.KindForbidden, "this node was removed from its cluster").WithHint("let it join again with an empty folder")
	}
	if known.PeerAddress == self.PeerAddress && known.PgAddress == self.PgAddress && known.HTTPAddress == self.HTTPAddress {
		return nil
	}
	_, err := n.control.Propose(ctx, catalog.Command{Action: catalog.UpdateNode{
		Node: self.ID, PeerAddress: self.PeerAddress, PgAddress: self.PgAddress, HTTPAddress: self.HTTPAddress,
	}})
	return err
}

func (n *Node) fail(err error) {
	n.log.Error("the node can't go on", "err", err)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.failure = errors.Join(n.mu.failure, err)
}

// Failure is why the node can't serve until someone acts; nil if it can.
func (n *Node) Failure() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.failure
}

// ID returns the node's id; Name, Started and Dir what their names say.
func (n *Node) ID() base.NodeID           { return n.identity.Node }
func (n *Node) Name() string              { return n.options.Name }
func (n *Node) Started() time.Time        { return n.started }
func (n *Node) Dir() string               { return n.options.Dir }
func (n *Node) PeerAddress() string       { return n.options.Advertise }
func (n *Node) Control() *control.Control { return n.control }
func (n *Node) Gateway() session.Gateway  { return n.gateway }

// Reachable says how other nodes can be reached just now.
func (n *Node) Reachable(id base.NodeID) bool {
	return id == n.identity.Node || n.reach.get(id) == transport.Reached
}

// Close hands over what this node leads, as far as that goes quickly, and stops
// everything.
func (n *Node) Close() error {
	n.HandOver()
	n.cancel(base.Errorf(base.KindShutdown, "the node is stopping"))
	n.wg.Wait()
	return errors.Join(n.transport.Close(), n.control.Close())
}

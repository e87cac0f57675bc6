package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/control"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/gateway"
	"github.com/skeindb/skein/internal/replica/leader"
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

	lock   io.Closer // of the folder, when it is the node's own
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	// possessions are the replicas that this node has had.
	possessions possessions
	// confirmed says that the control plane's state is as new as this start.
	// The state that was read from disk may be older than what this node has
	// done in its last life: no file is removed because of it.
	confirmed  atomic.Bool
	outcast    atomic.Bool            // set once a peer has said that this node was removed
	addressed  map[base.NodeID]string // the addresses given to the transport; watchControl's
	swept      bool                   // watchControl's
	heard      heard
	reach      reachability
	intake     intake
	supervisor supervisor
	webhooks   webhooks
	changed    chan struct{} // wakes the follower of the control plane; one token
	broken     chan struct{} // closed when the control plane has failed

	handing sync.Once
	closing sync.Once
	closed  error // what Close returned; set in closing
	mu      struct {
		sync.Mutex // guards all below; never held over I/O
		keepers    map[base.DatabaseID]*keeper
		failure    error
		removed    bool // from the cluster, for good
		found      map[base.NodeID]found
	}
}

// Open opens the folder, starts listening and runs the node until Close. It
// does not wait for the cluster: see Ready.
func Open(ctx context.Context, e *env.Env, o Options) (*Node, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.Lock != nil {
		return open(ctx, e, o)
	}
	lock, err := LockFolder(e.FS, o.Dir)
	if err != nil {
		return nil, err
	}
	n, err := open(ctx, e, o)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	n.lock = lock
	return n, nil
}

func open(ctx context.Context, e *env.Env, o Options) (*Node, error) {
	id, err := settle(e, o)
	if err != nil {
		return nil, err
	}
	if o.Name == "" {
		o.Name = id.Node.String()
	}
	n := &Node{
		env: e, options: o, identity: id, log: e.Log, started: e.Clock.Now(),
		transport: o.Transport, changed: make(chan struct{}, 1), broken: make(chan struct{}),
	}
	if err := n.possessions.open(e, o.Dir); err != nil {
		return nil, err
	}
	n.mu.keepers = make(map[base.DatabaseID]*keeper)
	n.mu.found = make(map[base.NodeID]found)
	n.addressed = make(map[base.NodeID]string)
	n.heard.init(o.Lease)
	n.reach.init()
	n.intake.init()
	n.supervisor.init(n)
	n.webhooks.init(n)
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
			DirectServices: []string{leader.FollowService},
		})
		if err != nil {
			return err
		}
		n.transport, n.network = network, network
	}
	c, err := control.Open(n.env, control.Options{Dir: n.options.Dir, Self: n.identity.Node, VFS: n.env.VFS, Messenger: messenger{n.transport}, TickInterval: n.options.Tick})
	if err != nil {
		return errors.Join(withHint(err), n.transport.Close())
	}
	n.control = c
	if err := errors.Join(n.checkCluster(), n.sweep()); err != nil {
		return errors.Join(err, n.transport.Close(), c.Close())
	}
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
			close(n.broken)
		}
	})
	n.wg.Go(n.watchControl)
	n.wg.Go(n.supervisor.run)
	n.wg.Go(n.watchStanding)
	n.wg.Go(n.seek)
	n.webhooks.start(n.ctx)
	n.wg.Go(func() {
		n.enter()
		n.confirm()
	})
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
	pause := 100 * time.Millisecond
	for attempt := 0; ; attempt++ {
		err := n.enterOnce(attempt)
		if err == nil || n.ctx.Err() != nil {
			return
		}
		if hopeless(base.KindOf(err)) {
			n.fail(fmt.Errorf("enter the cluster: %w", err))
			return
		}
		n.log.Warn("entering the cluster; trying again", "err", err)
		if n.env.Clock.Sleep(n.ctx, pause) != nil {
			return
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// hopeless says that entering a cluster would fail again until someone acts.
func hopeless(k base.Kind) bool {
	switch k {
	case base.KindWrongCluster, base.KindForbidden, base.KindExists, base.KindInvalid, base.KindTooLarge, base.KindUnsupported, base.KindCorrupt:
		return true
	}
	return false
}

// confirm waits until the state of the control plane is as new as this start.
func (n *Node) confirm() {
	for n.ctx.Err() == nil && !n.isRemoved() {
		ctx, cancel := n.env.Clock.WithTimeout(n.ctx, 10*time.Second, base.Errorf(base.KindTimeout, "no answer within 10 s"))
		err := n.control.ReadIndex(ctx)
		cancel()
		if err == nil {
			if err := n.possessions.bound(n.control.State().NextDatabase()); err != nil {
				n.log.Warn("the list of replicas", "err", err)
			}
			n.confirmed.Store(true)
			n.wake()
			return
		}
		if n.env.Clock.Sleep(n.ctx, time.Second) != nil {
			return
		}
	}
}

func (n *Node) enterOnce(attempt int) error {
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
	if err := n.foundOrJoin(ctx, attempt); err != nil {
		return err
	}
	return n.remember()
}

// foundOrJoin makes one attempt. With several addresses to join each has its
// turn: one that does not answer must not keep the node from the others.
func (n *Node) foundOrJoin(ctx context.Context, attempt int) error {
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
	address := n.options.Join[attempt%len(n.options.Join)]
	if err := n.control.Join(ctx, cluster, n.via(address), n.self()); err != nil {
		return fmt.Errorf("join through %s: %w", address, err)
	}
	return nil
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
		return nil // Whoever watches the state sees it, too, and says so.
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

// Broken is closed when the node's control plane has failed: nothing but another
// start can mend that.
func (n *Node) Broken() <-chan struct{} { return n.broken }

// Failure is why the node can't serve until someone acts; nil if it can.
func (n *Node) Failure() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.failure
}

// ID, Name, Started and Dir say which node this is; PeerAddress is where others
// dial it. Control is its part of the control plane, Gateway what clients use.
func (n *Node) ID() base.NodeID           { return n.identity.Node }
func (n *Node) Name() string              { return n.options.Name }
func (n *Node) Started() time.Time        { return n.started }
func (n *Node) Dir() string               { return n.options.Dir }
func (n *Node) PeerAddress() string       { return n.options.Advertise }
func (n *Node) Control() *control.Control { return n.control }
func (n *Node) Gateway() session.Gateway  { return door{n.gateway, n} }

// SinceStart is the clock of what Elections tells.
func (n *Node) SinceStart() time.Duration { return time.Duration(n.now()) }

// Reachable says how other nodes can be reached just now.
func (n *Node) Reachable(id base.NodeID) bool {
	return id == n.identity.Node || n.reach.get(id) == transport.Reached
}

// Close hands over what this node leads, as far as that goes quickly, and stops
// everything. Further calls return what the first one did.
func (n *Node) Close() error {
	n.closing.Do(func() {
		n.HandOver()
		stopping := base.Errorf(base.KindShutdown, "the node is stopping")
		n.webhooks.stop(stopping) // Before the control plane, which keeps how far they are.
		n.cancel(stopping)
		n.wg.Wait()
		n.closed = errors.Join(n.transport.Close(), n.control.Close())
		if n.lock != nil {
			n.closed = errors.Join(n.closed, n.lock.Close())
		}
	})
	return n.closed
}

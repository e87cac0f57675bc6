package skein

import (
	"context"
	"log/slog"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/node"
	"github.com/skeindb/skein/internal/pki"
	"github.com/skeindb/skein/internal/session"
)

// The types that are shared with every other front end.
type (
	// Policy is how one database is replicated. Zero fields mean the defaults.
	Policy = base.Policy
	// Durability is what a commit waits for; the zero value is the database's.
	Durability = base.Durability
	// Level says how many followers must have a write.
	Level = base.Level
	// When says at what point a follower counts.
	When = base.When
	// Position is how far a database has come.
	Position = base.Position
	// Error is what every function here returns when something went wrong in
	// Skein; errors.AsType finds it.
	Error = base.Error
	// Kind classifies an Error.
	Kind = base.Kind
	// Outcome says what an Error means for the data.
	Outcome = base.Outcome
)

// The durability levels, and the points at which a follower counts.
const (
	Async  = base.Async
	One    = base.One
	Quorum = base.Quorum
	All    = base.All

	Received = base.Received
	Flushed  = base.Flushed
	Applied  = base.Applied
)

// The outcomes of an Error.
const (
	NotDone       = base.NotDone
	Done          = base.Done
	Indeterminate = base.Indeterminate
)

// The kinds of errors that programs most often tell apart; an Error's Kind may
// be any that the HTTP interface documents, under the same name.
const (
	KindInvalid       = base.KindInvalid
	KindSQL           = base.KindSQL
	KindForbidden     = base.KindForbidden
	KindNotFound      = base.KindNotFound
	KindExists        = base.KindExists
	KindNoLeader      = base.KindNoLeader
	KindConflict      = base.KindConflict
	KindTimeout       = base.KindTimeout
	KindCanceled      = base.KindCanceled
	KindBusy          = base.KindBusy
	KindTooLarge      = base.KindTooLarge
	KindIndeterminate = base.KindIndeterminate
	KindStale         = base.KindStale
	KindHistoryLost   = base.KindHistoryLost
	KindDiskFull      = base.KindDiskFull
	KindUnavailable   = base.KindUnavailable
	KindShutdown      = base.KindShutdown
)

// KindOf returns the kind of the first Error in err's chain, and "" for nil.
func KindOf(err error) Kind { return base.KindOf(err) }

// ParseDurability reads "LEVEL [received|flushed|applied]".
func ParseDurability(s string) (Durability, error) { return base.ParseDurability(s) }

// DefaultPolicy is a replica on every node and quorum durability.
func DefaultPolicy() Policy { return base.DefaultPolicy() }

// Options of a node. Only Dir must be set.
type Options struct {
	// Dir is the data folder; it is made when there is none. A folder belongs
	// to one node for ever.
	Dir string
	// Name of the node, for people. Empty: its id.
	Name string
	// PeerAddress is listened on for other nodes. Empty: a free port on
	// loopback; a node of several needs an address that stays.
	PeerAddress string
	// Advertise is the address that other nodes dial. Empty: the listener's.
	Advertise string
	// Join are the peer addresses of members of a cluster, tried in turn, when
	// Dir belongs to none yet. Empty: the node founds a cluster.
	Join []string
	// Certificates is a folder with ca.crt and node.pem, as `skein cert node`
	// makes them. Empty: no encryption between nodes, on loopback only.
	Certificates string
	// Logger gets what the node has to say. Nil: nobody does.
	Logger *slog.Logger
}

func (o *Options) validate() error {
	if o.Dir == "" {
		return base.Errorf(base.KindInvalid, "options: no data folder").WithHint("set Options.Dir")
	}
	if o.PeerAddress == "" {
		o.PeerAddress = "127.0.0.1:0"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Node is one running node of a cluster. Its methods may be called by many
// goroutines at once.
type Node struct {
	node *node.Node
}

// Open starts a node and waits until it is a member of a cluster, which it
// founds or joins when its folder is new. It runs until Close; ctx bounds the
// start alone. Whether a database can be used yet is up to its replicas:
// statements wait a bounded time for a leader.
func Open(ctx context.Context, o Options) (*Node, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	e := env.Real(o.Logger)
	identity, err := loadIdentity(e, o.Certificates)
	if err != nil {
		return nil, err
	}
	inner, err := node.Open(ctx, e, node.Options{
		Dir: o.Dir, Name: o.Name, PeerAddress: o.PeerAddress, Advertise: o.Advertise, Join: o.Join, TLS: identity,
	})
	if err != nil {
		return nil, err
	}
	n := &Node{node: inner}
	if err := n.awaitMembership(ctx, e.Clock); err != nil {
		n.Close() // Why it could not start says more than how it stopped.
		return nil, err
	}
	return n, nil
}

func loadIdentity(e *env.Env, dir string) (*pki.Identity, error) {
	if dir == "" {
		return nil, nil
	}
	identity, err := pki.LoadFiles(e.FS, dir)
	if err != nil {
		return nil, err
	}
	return identity, identity.Check(e.Clock.Now())
}

// awaitMembership waits until the node knows its cluster.
func (n *Node) awaitMembership(ctx context.Context, clock env.Clock) error {
	for {
		changed := n.node.Control().Changed()
		if err := n.node.Failure(); err != nil {
			return err
		}
		state := n.node.Control().State()
		if _, known := state.Node(n.node.ID()); known && state.ClusterID() != 0 {
			return nil
		}
		timer := clock.NewTimer(100 * time.Millisecond) // A failure announces itself to nobody.
		select {
		case <-changed:
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
			return base.Errorf(base.KindUnavailable, "the node did not become a member of a cluster: %w", context.Cause(ctx))
		}
		timer.Stop()
	}
}

// Close hands over what the node leads, as far as that goes quickly, and stops
// it. Close Sessions, Rows and transactions first.
func (n *Node) Close() error { return n.node.Close() }

// ID returns the node's id.
func (n *Node) ID() string { return n.node.ID().String() }

// PeerAddress is where other nodes reach this one: what they Join.
func (n *Node) PeerAddress() string { return n.node.PeerAddress() }

// Err says why the node can't serve until someone acts; nil if it can.
func (n *Node) Err() error { return n.node.Failure() }

// CreateDatabase makes a database and waits until it can be used, on every node
// that answers; those that do not within a second are told to the Logger. Zero
// fields of p mean the defaults. KindExists when there is one of that name.
func (n *Node) CreateDatabase(ctx context.Context, name string, p Policy) error {
	return n.node.CreateDatabase(ctx, name, withDefaults(p))
}

// withDefaults fills what a caller left out of a policy.
func withDefaults(p Policy) Policy {
	d := base.DefaultPolicy()
	if p.Model == "" {
		p.Model = d.Model
	}
	if p.LogFormat == "" {
		p.LogFormat = d.LogFormat
	}
	if p.Durability.Level == "" {
		p.Durability.Level = d.Durability.Level
	}
	if p.Durability.When == "" {
		p.Durability.When = d.Durability.When
	}
	if p.RetentionBytes == 0 {
		p.RetentionBytes = d.RetentionBytes
	}
	if p.TxIdleTimeout == 0 {
		p.TxIdleTimeout = d.TxIdleTimeout
	}
	if p.TxTotalTimeout == 0 {
		p.TxTotalTimeout = d.TxTotalTimeout
	}
	return p
}

// EnsureDatabase is CreateDatabase, or nothing when there is a database of that
// name, whatever its policy; either way it returns a DB.
func (n *Node) EnsureDatabase(ctx context.Context, name string, p Policy) (*DB, error) {
	if _, err := n.node.Database(name); err != nil {
		if err := n.CreateDatabase(ctx, name, p); err != nil && KindOf(err) != KindExists {
			return nil, err
		}
	}
	if err := n.node.AwaitKnown(ctx, name); err != nil { // Another node may have made it a moment ago.
		return nil, err
	}
	return n.Database(name), nil
}

// DropDatabase removes a database and its files from all nodes.
func (n *Node) DropDatabase(ctx context.Context, name string) error {
	return n.node.DropDatabase(ctx, name)
}

// Databases lists the names of the cluster's databases, sorted.
func (n *Node) Databases() []string { return n.node.Gateway().Databases() }

// Database returns a handle on a database. It does not look whether there is
// one: the first statement does. Get one handle and share it, since what its
// statements have seen counts for that handle.
func (n *Node) Database(name string) *DB {
	return &DB{node: n, name: name, seen: new(seen), idle: make(chan session.Session, maxIdle)}
}

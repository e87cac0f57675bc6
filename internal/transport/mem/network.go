// Package mem is package transport in memory, for tests and for simulation in
// virtual time: a Network joins any number of transports and can delay, lose,
// cut and refuse what passes between them.
//
// It owns every message on its way. Invariants: messages of one direction of
// one stream, and control messages of one sender to one receiver, arrive in
// order; every queue is bounded; time comes from env.Clock and chance from
// env.Rand only. The package must not import net or transport/wire.
package mem

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/transport"
)

// Options of a Network. The zero value means the defaults.
type Options struct {
	// Window is how many bytes of one direction of a stream may be on their
	// way before Send blocks; 0 means 256 KiB. One message of any size fits
	// into an empty window.
	Window int
	// BreakAfter is how long a link is cut before connections over it break
	// and the peer counts as lost; 0 means 13 s, as keepalive over the
	// network has it.
	BreakAfter time.Duration
	// DialTimeout bounds the wait for a connection to a lost peer; 0 means 3 s.
	DialTimeout time.Duration
}

func (o Options) withDefaults() Options {
	if o.Window == 0 {
		o.Window = 256 << 10
	}
	if o.BreakAfter == 0 {
		o.BreakAfter = 13 * time.Second
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = 3 * time.Second
	}
	return o
}

// Network joins transports. It is safe for concurrent use.
type Network struct {
	env     *env.Env
	options Options

	mu      sync.Mutex                 // guards what follows
	nodes   map[base.NodeID]*Transport // started and not closed
	down    map[base.NodeID]bool
	links   map[direction]*link
	conns   map[direction]*conn // by ordered pair: from is the smaller id
	changed chan struct{}       // closed and replaced whenever reachability changes
}

type direction struct{ from, to base.NodeID }

// ordered returns the direction that stands for a pair.
func ordered(a, b base.NodeID) direction { return direction{min(a, b), max(a, b)} }

// link is what happens to everything that goes one way between two nodes.
type link struct {
	delay time.Duration
	loss  float64
	cut   bool
	cuts  int // how often it was cut; tells one cut from the next
}

// conn is what two nodes have between them until something breaks it.
type conn struct {
	ctx      context.Context
	breakOff context.CancelCauseFunc
}

var (
	errRefused = errors.New("connection refused")
	errLost    = errors.New("no answer")
	errBroken  = errors.New("connection reset")
)

// NewNetwork makes a network without nodes, in which everything arrives at once.
func NewNetwork(e *env.Env, o Options) *Network {
	return &Network{
		env: e, options: o.withDefaults(), nodes: make(map[base.NodeID]*Transport), down: make(map[base.NodeID]bool),
		links: make(map[direction]*link), conns: make(map[direction]*conn), changed: make(chan struct{}),
	}
}

// SetDelay makes everything from one node to another take d.
func (n *Network) SetDelay(from, to base.NodeID, d time.Duration) {
	n.change(func() { n.link(from, to).delay = d })
}

// SetLoss makes a share of the control messages from one node to another get
// lost: 0 none, 1 all. Streams and calls lose nothing.
func (n *Network) SetLoss(from, to base.NodeID, share float64) {
	n.change(func() { n.link(from, to).loss = share })
}

// Cut stops everything from one node to another, but not the other way: control
// messages are lost, streams and calls stand still. When the cut has lasted
// Options.BreakAfter, what stands still breaks and both nodes lose each other.
func (n *Network) Cut(from, to base.NodeID) {
	n.change(func() {
		l := n.link(from, to)
		if l.cut {
			return
		}
		l.cut = true
		l.cuts++
		this := l.cuts
		n.env.Clock.AfterFunc(n.options.BreakAfter, func() {
			n.change(func() {
				if l.cut && l.cuts == this {
					n.breakConn(from, to, errLost)
				}
			})
		})
	})
}

// Heal undoes Cut.
func (n *Network) Heal(from, to base.NodeID) {
	n.change(func() { n.link(from, to).cut = false })
}

// Isolate cuts a node off from all others that have started, both ways.
func (n *Network) Isolate(id base.NodeID) {
	for _, other := range n.others(id) {
		n.Cut(id, other)
		n.Cut(other, id)
	}
}

// Rejoin undoes Isolate.
func (n *Network) Rejoin(id base.NodeID) {
	for _, other := range n.others(id) {
		n.Heal(id, other)
		n.Heal(other, id)
	}
}

// Down makes a node look like a process that is gone: its connections break
// and new ones are refused. Its transport runs on, alone.
func (n *Network) Down(id base.NodeID) {
	n.change(func() {
		n.down[id] = true
		n.breakAll(id)
	})
}

// Up undoes Down.
func (n *Network) Up(id base.NodeID) {
	n.change(func() { delete(n.down, id) })
}

func (n *Network) others(id base.NodeID) []base.NodeID {
	n.mu.Lock()
	defer n.mu.Unlock()
	var ids []base.NodeID
	for other := range n.nodes {
		if other != id {
			ids = append(ids, other)
		}
	}
	return ids
}

// change does something to the network and tells everybody who waits.
func (n *Network) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.changed)
	n.changed = make(chan struct{})
}

// link is called with the lock held.
func (n *Network) link(from, to base.NodeID) *link {
	d := direction{from, to}
	if n.links[d] == nil {
		n.links[d] = &link{}
	}
	return n.links[d]
}

// breakConn is called with the lock held.
func (n *Network) breakConn(a, b base.NodeID, cause error) {
	pair := ordered(a, b)
	if c := n.conns[pair]; c != nil {
		c.breakOff(cause)
		delete(n.conns, pair)
	}
}

// breakAll is called with the lock held.
func (n *Network) breakAll(id base.NodeID) {
	for pair, c := range n.conns {
		if pair.from == id || pair.to == id {
			c.breakOff(errBroken)
			delete(n.conns, pair)
		}
	}
}

// look returns how one direction is now, and a channel that is closed when
// that may have changed.
func (n *Network) look(from, to base.NodeID) (link, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := n.links[direction{from, to}]; l != nil {
		return *l, n.changed
	}
	return link{}, n.changed
}

// loses draws whether a control message gets lost.
func (n *Network) loses(share float64) bool {
	return share > 0 && float64(n.env.Rand.Uint64())/math.MaxUint64 < share
}

// way is how one node can reach another just now.
type way struct {
	reach   transport.Reach
	conn    *conn      // when reached
	target  *Transport // when reached
	changed <-chan struct{}
}

// way returns the connection between two nodes, new if there is none.
func (n *Network) way(from, to base.NodeID) way {
	n.mu.Lock()
	defer n.mu.Unlock()
	target := n.nodes[to]
	pair := ordered(from, to)
	switch {
	case n.nodes[from] == nil || n.down[from]:
		return way{reach: transport.Lost, changed: n.changed}
	case target == nil || n.down[to]:
		return way{reach: transport.Refused, changed: n.changed}
	case n.conns[pair] == nil && (n.link(from, to).cut || n.link(to, from).cut):
		return way{reach: transport.Lost, changed: n.changed}
	case n.conns[pair] == nil:
		c := &conn{}
		c.ctx, c.breakOff = context.WithCancelCause(context.Background())
		n.conns[pair] = c
	}
	return way{reach: transport.Reached, conn: n.conns[pair], target: target, changed: n.changed}
}

// resolve returns the node at an address.
func (n *Network) resolve(address string) (base.NodeID, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, t := range n.nodes {
		if t.address == address {
			return id, true
		}
	}
	return 0, false
}

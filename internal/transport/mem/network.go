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
	"cmp"
	"errors"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
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
	// Observe is told of everything that arrives, in order: a control message,
	// or one of a stream, call or file by the name of that. It must return
	// quickly. Nil: nobody is told.
	Observe func(from, to base.NodeID, name string, msg []byte)
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
	seed    uint64

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
	delay  time.Duration
	jitter time.Duration
	loss   float64
	random *draws
	cut    bool
	cuts   int // how often it was cut; tells one cut from the next
}

// conn is what two nodes have between them until something breaks it.
type conn struct {
	mu    sync.Mutex // guards what follows
	cause error      // why it broke; nil while it stands
	count uint64
	ends  map[uint64]func(cause error) // called when it breaks, in the order of their numbers
}

// broken returns why the connection is no more.
func (c *conn) broken() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// onBreak has f called once the connection breaks, at once if it is broken,
// unless it is stopped before. A context would call in no order.
func (c *conn) onBreak(f func(cause error)) (stop func()) {
	c.mu.Lock()
	cause := c.cause
	c.count++
	number := c.count
	if cause == nil {
		c.ends[number] = f
	}
	c.mu.Unlock()
	if cause != nil {
		f(cause)
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.ends, number)
	}
}

func (c *conn) breakOff(cause error) {
	c.mu.Lock()
	c.cause = cause
	ends := c.ends
	c.ends = nil
	c.mu.Unlock()
	for _, number := range slices.Sorted(maps.Keys(ends)) {
		ends[number](cause)
	}
}

var (
	errRefused = errors.New("connection refused")
	errLost    = errors.New("no answer")
	errBroken  = errors.New("connection reset")
)

// draws is a link's own source of chance: what one link draws does not move what
// another does, so that the order of messages at one instant does not matter.
type draws struct{ state atomic.Uint64 }

func newDraws(seed uint64) *draws {
	d := new(draws)
	d.state.Store(seed)
	return d
}

// next is SplitMix64.
func (d *draws) next() uint64 {
	z := d.state.Add(0x9e3779b97f4a7c15)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// NewNetwork makes a network without nodes, in which everything arrives at once.
func NewNetwork(e *env.Env, o Options) *Network {
	return &Network{
		env: e, options: o.withDefaults(), seed: e.Rand.Uint64(), nodes: make(map[base.NodeID]*Transport), down: make(map[base.NodeID]bool),
		links: make(map[direction]*link), conns: make(map[direction]*conn), changed: make(chan struct{}),
	}
}

// SetDelay makes everything from one node to another take d.
func (n *Network) SetDelay(from, to base.NodeID, d time.Duration) {
	n.change(func() { n.link(from, to).delay = d })
}

// SetJitter makes everything from one node to another take up to d longer, by
// chance. Streams, calls and control messages then overtake each other; within
// each the order stays.
func (n *Network) SetJitter(from, to base.NodeID, d time.Duration) {
	n.change(func() { n.link(from, to).jitter = d })
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

// Kill takes a node out of the network as the end of its process would: its
// connections break and new ones are refused until the node joins again. What
// is left of its transport reaches nobody, and is still to be closed.
func (n *Network) Kill(id base.NodeID) {
	n.change(func() {
		delete(n.nodes, id)
		n.breakAll(id)
	})
}

// others are in order, so that the same calls make the same history.
func (n *Network) others(id base.NodeID) []base.NodeID {
	n.mu.Lock()
	defer n.mu.Unlock()
	var ids []base.NodeID
	for other := range n.nodes {
		if other != id {
			ids = append(ids, other)
		}
	}
	slices.Sort(ids)
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
		n.links[d] = &link{random: newDraws(n.seed ^ uint64(from)<<32 ^ uint64(to))}
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
	var pairs []direction
	for pair := range n.conns {
		if pair.from == id || pair.to == id {
			pairs = append(pairs, pair)
		}
	}
	slices.SortFunc(pairs, func(a, b direction) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) })
	for _, pair := range pairs {
		n.breakConn(pair.from, pair.to, errBroken)
	}
}

// takes draws how long something takes on the link.
func (l link) takes(from *draws) time.Duration {
	if l.jitter <= 0 {
		return l.delay
	}
	return l.delay + time.Duration(from.next()%uint64(l.jitter))
}

// loses draws whether the link loses a control message.
func (l link) loses() bool {
	return l.loss > 0 && float64(l.random.next())/math.MaxUint64 < l.loss
}

// observe tells who wants to know that something has arrived.
func (n *Network) observe(from, to base.NodeID, name string, msg []byte) {
	if n.options.Observe != nil {
		n.options.Observe(from, to, name, msg)
	}
}

// look returns how one direction is now, and a channel that is closed when
// that may have changed.
func (n *Network) look(from, to base.NodeID) (link, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return *n.link(from, to), n.changed
}

// way is how one node can reach another just now.
type way struct {
	reach   transport.Reach
	conn    *conn      // when reached
	target  *Transport // when reached
	changed <-chan struct{}
}

// way returns the connection between two nodes, new if there is none.
func (n *Network) way(t *Transport, to base.NodeID) way {
	n.mu.Lock()
	defer n.mu.Unlock()
	from, target := t.id, n.nodes[to]
	pair := ordered(from, to)
	switch {
	case n.nodes[from] != t || n.down[from]:
		return way{reach: transport.Lost, changed: n.changed}
	case target == nil || n.down[to]:
		return way{reach: transport.Refused, changed: n.changed}
	case n.conns[pair] == nil && (n.link(from, to).cut || n.link(to, from).cut):
		return way{reach: transport.Lost, changed: n.changed}
	case n.conns[pair] == nil:
		n.conns[pair] = &conn{ends: make(map[uint64]func(error))}
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

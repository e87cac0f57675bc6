// Package controltest connects control planes in memory, over a network that
// can delay, lose, reorder and cut. It is for tests and owns no goroutine but
// those of its timers; time comes from the clock that it is given.
package controltest

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/control"
	"github.com/skeindb/skein/internal/env"
)

// Peer is what the network delivers to; *control.Control is one.
type Peer interface {
	Step(from base.NodeID, msg []byte)
	HandleCall(ctx context.Context, from base.NodeID, method string, request []byte) ([]byte, error)
}

// Network connects peers. The zero value is not usable; see New.
type Network struct {
	clock env.Clock

	mu     sync.Mutex // guards the fields below
	rand   *rand.Rand
	peers  map[base.NodeID]Peer
	sides  map[base.NodeID]int // of a partition
	delay  time.Duration
	jitter time.Duration
	loss   float64
	filter func(from, to base.NodeID, msg []byte) bool
}

// New returns a network without delay or loss; seed drives its choices.
func New(clock env.Clock, seed uint64) *Network {
	return &Network{
		clock: clock, rand: rand.New(rand.NewPCG(seed, 0)),
		peers: make(map[base.NodeID]Peer), sides: make(map[base.NodeID]int),
	}
}

// Attach connects a peer.
func (n *Network) Attach(id base.NodeID, p Peer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.peers[id] = p
}

// Detach disconnects a peer, as when its process is killed.
func (n *Network) Detach(id base.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.peers, id)
}

// Weather sets how long a message takes, delay and up to jitter more, and what
// share of messages is lost. Calls are not lost, as on a stream.
func (n *Network) Weather(delay, jitter time.Duration, loss float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.delay, n.jitter, n.loss = delay, jitter, loss
}

// Isolate puts each of the nodes on a side of its own; the rest stay together.
func (n *Network) Isolate(ids ...base.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, id := range ids {
		n.sides[id] = i + 1
	}
}

// Heal ends all partitions.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.sides)
}

// Filter sets a function that sees every message when it is sent, and says
// whether it goes on its way.
func (n *Network) Filter(f func(from, to base.NodeID, msg []byte) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.filter = f
}

// trip draws the fate of one message.
func (n *Network) trip() (time.Duration, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := n.delay
	if n.jitter > 0 {
		d += time.Duration(n.rand.Int64N(int64(n.jitter)))
	}
	return d, n.rand.Float64() >= n.loss
}

// reach returns the peer at the end of a link, or nil; cut says that a
// partition is the reason, so that not even a refusal comes back.
func (n *Network) reach(from, to base.NodeID) (p Peer, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sides[from] != n.sides[to] {
		return nil, true
	}
	return n.peers[to], false
}

// Messenger returns what a node sends through.
func (n *Network) Messenger(self base.NodeID) control.Messenger { return messenger{n, self} }

type messenger struct {
	net  *Network
	self base.NodeID
}

func (m messenger) Send(to base.NodeID, msg []byte) {
	m.net.mu.Lock()
	filter := m.net.filter
	m.net.mu.Unlock()
	if filter != nil && !filter(m.self, to, msg) {
		return
	}
	d, arrives := m.net.trip()
	if !arrives {
		return
	}
	m.net.clock.AfterFunc(d, func() {
		if p, _ := m.net.reach(m.self, to); p != nil {
			p.Step(m.self, msg)
		}
	})
}

func (m messenger) Call(ctx context.Context, to base.NodeID, method string, request []byte) ([]byte, error) {
	p, err := m.travel(ctx, to, base.NotDone)
	if err != nil {
		return nil, err
	}
	answer, err := p.HandleCall(ctx, m.self, method, request)
	if _, lost := m.travel(ctx, to, base.Indeterminate); lost != nil {
		return nil, lost
	}
	return answer, err
}

// travel waits for one way of a call; outcome is what a failure means.
func (m messenger) travel(ctx context.Context, to base.NodeID, outcome base.Outcome) (Peer, error) {
	d, _ := m.net.trip()
	if err := m.net.clock.Sleep(ctx, d); err != nil {
		return nil, base.Errorf(base.KindTimeout, "call: %w", err).WithOutcome(outcome)
	}
	p, cut := m.net.reach(m.self, to)
	if cut {
		<-ctx.Done()
		return nil, base.Errorf(base.KindTimeout, "call: %w", context.Cause(ctx)).WithOutcome(base.Indeterminate)
	}
	if p == nil {
		return nil, base.Errorf(base.KindUnavailable, "node %s refuses connections", to).WithOutcome(outcome)
	}
	return p, nil
}

package mem

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/transport"
)

// Transport is one node of a Network. Network.Join makes it, Start runs it,
// Close ends it.
type Transport struct {
	transport.Handlers
	network *Network
	id      base.NodeID
	address string
	ctx     context.Context // ends with Close
	cancel  context.CancelCauseFunc
	tasks   sync.WaitGroup

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

	errClosed = base.Errorf(base.KindShutdown, "the node is stopping")
)

// Join makes the transport of a node that is reached at an address. It can be
// reached once it is started. A node that was closed may join again.
func (n *Network) Join(id base.NodeID, address string) *Transport {
	t := &Transport{network: n, id: id, address: address, peers: make(map[base.NodeID]*peer)}
	t.ctx, t.cancel = context.WithCancelCause(context.Background())
	return t
}

// Start makes the node reachable and begins to watch its peers.
func (t *Transport) Start(context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state != made {
		return base.Errorf(base.KindInvalid, "transport: started twice or after Close")
	}
	var err error
	t.network.change(func() {
		if t.network.nodes[t.id] != nil {
			err = base.Errorf(base.KindExists, "transport: node %s runs already", t.id)
			return
		}
		t.network.nodes[t.id] = t
	})
	if err != nil {
		return err
	}
	t.state = running
	for _, id := range slices.Sorted(maps.Keys(t.peers)) {
		t.peers[id].start()
	}
	return nil
}

// Self implements transport.Transport.
func (t *Transport) Self() base.NodeID { return t.id }

// spawn runs f as a task that Close waits for; false if the node does not run.
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
	was := t.state
	t.state = closed
	t.mu.Unlock()
	t.cancel(errClosed)
	if was == running {
		t.network.change(func() {
			if t.network.nodes[t.id] == t { // Not one that was killed.
				delete(t.network.nodes, t.id)
				t.network.breakAll(t.id)
			}
		})
	}
	t.tasks.Wait()
	return nil
}

// SetPeer implements transport.Transport. A node is found by its id, whatever
// the address says.
func (t *Transport) SetPeer(id base.NodeID, address string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.peers[id]
	if t.state == closed || (old != nil && old.address == address) {
		return
	}
	if old != nil {
		old.cancel()
		delete(t.peers, id)
	}
	if address == "" {
		return
	}
	p := &peer{t: t, id: id, address: address, arrived: make(chan struct{}, 1)}
	p.ctx, p.cancel = context.WithCancel(t.ctx)
	t.peers[id] = p
	if t.state == running {
		p.start()
	}
}

func (t *Transport) peer(id base.NodeID) *peer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.peers[id]
}

// SendControl implements transport.Transport.
func (t *Transport) SendControl(to base.NodeID, msg []byte) {
	if len(msg) > transport.MaxControlMessage {
		t.network.env.Log.Error("a control message over the limit was dropped", "node", to, "bytes", len(msg))
		return
	}
	if p := t.peer(to); p != nil {
		p.send(msg)
	}
}

// peer is what a node knows of another: the way there and the control messages
// that are on it.
type peer struct {
	t       *Transport
	id      base.NodeID
	address string
	ctx     context.Context // ends when the peer is forgotten or the transport closes
	cancel  context.CancelFunc
	arrived chan struct{} // capacity one: a control message was queued

	mu    sync.Mutex // guards what follows
	queue []letter
	bytes int
}

// letter is a control message on its way.
type letter struct {
	at   time.Time
	conn *conn
	msg  []byte
}

// The bounds of what is on its way to one peer.
const (
	maxQueued      = 4096
	maxQueuedBytes = 8 << 20
)

// start runs the peer; the caller holds the transport's lock.
func (p *peer) start() {
	p.t.tasks.Go(p.watch)
	p.t.tasks.Go(p.deliver)
}

// watch reports how the peer can be reached, whenever that changes.
func (p *peer) watch() {
	var known way
	for p.ctx.Err() == nil {
		w := p.t.network.way(p.t, p.id)
		if known.reach == transport.Reached && w.conn != known.conn && w.reach != transport.Lost {
			p.report(transport.Lost) // The connection broke in between.
		}
		if w.reach != known.reach || w.conn != known.conn {
			p.report(w.reach)
		}
		known = w
		select {
		case <-w.changed:
		case <-p.ctx.Done():
		}
	}
}

func (p *peer) report(r transport.Reach) {
	if f := p.t.ForReach(); f != nil && p.ctx.Err() == nil {
		f(p.id, r)
	}
}

func (p *peer) send(msg []byte) {
	n := p.t.network
	w := n.way(p.t, p.id)
	l, _ := n.look(p.t.id, p.id)
	if w.reach != transport.Reached || l.cut || l.loses() {
		return
	}
	p.mu.Lock()
	ok := len(p.queue) < maxQueued && p.bytes+len(msg) <= maxQueuedBytes
	if ok {
		p.bytes += len(msg)
		p.queue = append(p.queue, letter{
			at: n.env.Clock.Now().Add(l.takes(l.random)), conn: w.conn, msg: append(make([]byte, 0, len(msg)), msg...),
		})
	}
	p.mu.Unlock()
	if ok {
		signal(p.arrived)
	}
}

// deliver hands control messages to the peer as they arrive.
func (p *peer) deliver() {
	for p.ctx.Err() == nil {
		one, ok := p.next()
		if !ok {
			select {
			case <-p.arrived:
			case <-p.ctx.Done():
			}
			continue
		}
		if d := one.at.Sub(p.t.network.env.Clock.Now()); d > 0 && p.t.network.env.Clock.Sleep(p.ctx, d) != nil {
			return
		}
		l, _ := p.t.network.look(p.t.id, p.id)
		w := p.t.network.way(p.t, p.id)
		if w.reach == transport.Reached && w.conn == one.conn && !l.cut {
			p.t.network.observe(p.t.id, p.id, "control", one.msg)
			w.target.takeControl(p.t.id, one.msg)
		}
	}
}

func (p *peer) next() (letter, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		p.queue = nil
		return letter{}, false
	}
	one := p.queue[0]
	p.queue[0] = letter{}
	p.queue = p.queue[1:]
	p.bytes -= len(one.msg)
	return one, true
}

// takeControl runs the handler as a task of this node, and waits for it.
func (t *Transport) takeControl(from base.NodeID, msg []byte) {
	handle := t.ForControl()
	t.mu.Lock()
	ok := t.state == running && handle != nil
	if ok {
		t.tasks.Add(1)
	}
	t.mu.Unlock()
	if ok {
		defer t.tasks.Done()
		handle(from, msg)
	}
}

package wire

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/transport"
)

// Redialing: at once after a connection breaks, then with growing pauses.
const (
	probePause = 100 * time.Millisecond // between breaks that are followed by a dial at once
	firstPause = 10 * time.Millisecond
	longPause  = 500 * time.Millisecond
	steadyTime = time.Second // a connection that lasts this long was a good one
)

// peer is one node at one address. Another address makes another peer.
type peer struct {
	t       *Transport
	id      base.NodeID
	address string
	ctx     context.Context // ends when the peer is forgotten or the transport closes
	cancel  context.CancelCauseFunc
	after   <-chan struct{} // the peer of the same id that this one replaces has stopped
	stopped chan struct{}
	queue   controlQueue
	kick    chan struct{} // capacity one: dial now
	links   map[class]*link
	direct  atomic.Int32 // streams with a connection of their own
	dials   patience
	dialing chan struct{} // holds one for each connection for a stream that is being made
	spare   chan frames   // given by keepSpare, if there is one at the moment
}

var errForgotten = base.Errorf(base.KindUnavailable, "its address has changed")

// SetPeer implements transport.Transport. To name the address that a peer has
// already makes the transport try it at once.
func (t *Transport) SetPeer(id base.NodeID, address string) {
	if p := t.peer(id); p != nil && p.address == address {
		p.retry()
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var after <-chan struct{}
	if old := t.peers[id]; old != nil {
		delete(t.peers, id)
		old.cancel(errForgotten)
		if t.state == running {
			after = old.stopped
		}
	}
	if address == "" || t.state == closed {
		return
	}
	p := t.newPeer(id, address, after)
	t.peers[id] = p
	if t.state == running {
		p.start()
	}
}

func (t *Transport) newPeer(id base.NodeID, address string, after <-chan struct{}) *peer {
	p := &peer{t: t, id: id, address: address, after: after,
		stopped: make(chan struct{}), kick: make(chan struct{}, 1)}
	p.ctx, p.cancel = context.WithCancelCause(t.ctx)
	p.queue.signal = make(chan struct{}, 1)
	p.dials.clock = t.env.Clock
	p.links = make(map[class]*link)
	for _, c := range []class{classStream, classCall} {
		p.links[c] = &link{peer: p, class: c, outage: outage{clock: t.env.Clock, pauses: backoff{random: t.env.Rand}}}
	}
	p.dialing, p.spare = make(chan struct{}, maxDialing), make(chan frames)
	return p
}

// start runs the peer; the caller holds the transport's lock.
func (p *peer) start() { p.t.tasks.Go(p.run) }

func (t *Transport) peer(id base.NodeID) *peer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.peers[id]
}

// retry makes the transport dial a peer now if it is not connected.
func (t *Transport) retry(id base.NodeID) {
	if p := t.peer(id); p != nil {
		p.retry()
	}
}

func (t *Transport) retryAll() {
	t.mu.RLock()
	all := slices.Collect(maps.Values(t.peers))
	t.mu.RUnlock()
	for _, p := range all {
		p.retry()
	}
}

func (p *peer) retry() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
	p.forgiveLinks()
}

// run keeps the control connection, which is also the probe.
func (p *peer) run() {
	defer close(p.stopped)
	if p.after != nil {
		<-p.after
	}
	var known transport.Reach
	report := func(r transport.Reach) {
		if r != known && p.ctx.Err() == nil {
			known = r
			p.t.reached(p.id, r)
		}
	}
	pauses := backoff{random: p.t.env.Rand}
	var probed time.Time // when a break was last followed by a dial at once
	for p.ctx.Err() == nil {
		connected, lasted := p.connectOnce(report)
		if lasted >= steadyTime {
			pauses.reset()
		}
		if now := p.t.env.Clock.Now(); connected && now.Sub(probed) >= probePause {
			probed = now
			continue // The answer tells whether the process is gone.
		}
		p.pause(pauses.next())
	}
}

// connectOnce dials, serves the connection until it is gone, and returns how
// long it lasted.
func (p *peer) connectOnce(report func(transport.Reach)) (connected bool, lasted time.Duration) {
	p.queue.open()
	defer p.queue.shut()
	ch, err := p.redial(classControl)
	if err != nil {
		p.failed(err)
		report(reachOf(err))
		return false, 0
	}
	began := p.t.env.Clock.Now()
	report(transport.Reached)
	p.forgiveLinks()
	ctx, cancel := context.WithCancel(p.ctx)
	var spares sync.WaitGroup
	spares.Go(func() { p.keepSpare(ctx) })
	defer spares.Wait()
	p.sendControl(ch)
	cancel()
	ch.close()
	report(transport.Lost)
	return true, p.t.env.Clock.Now().Sub(began)
}

// redial makes a connection of a class, for who will try it again.
func (p *peer) redial(c class) (*channel, error) {
	return dialWith(p.ctx, &p.dials, func(ctx context.Context) (*channel, error) {
		return p.t.dial(ctx, p.address, p.id, c)
	})
}

func (p *peer) failed(err error) {
	if p.ctx.Err() == nil && base.KindOf(err) != base.KindInternal {
		// Not merely unreachable: somebody has to put it right.
		p.t.refusals.report(p.address, "cannot work with a peer", err)
	}
}

// forgiveLinks lets the next use of a link dial at once.
func (p *peer) forgiveLinks() {
	for _, l := range p.links {
		l.outage.note(nil)
	}
}

func (p *peer) pause(d time.Duration) {
	timer := p.t.env.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
	case <-p.kick:
	case <-p.ctx.Done():
	}
}

func (t *Transport) reached(id base.NodeID, r transport.Reach) {
	if f := t.ForReach(); f != nil {
		f(id, r)
	}
}

// sendControl sends what is queued until the connection is gone, or stalls: what
// it holds up is old when it comes, and the group sends it again.
func (p *peer) sendControl(ch *channel) {
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	defer context.AfterFunc(ctx, ch.close)()
	desc := &grpc.StreamDesc{StreamName: "Control", ClientStreams: true, ServerStreams: true}
	s, err := ch.rpc.NewStream(ctx, desc, methodControl)
	for err == nil {
		var msg []byte
		if msg = p.queue.next(); msg != nil {
			if ch.conn.stalled() {
				return
			}
			err = s.SendMsg(msg)
			continue
		}
		select {
		case <-p.queue.signal:
		case <-ch.gone:
			return
		case <-ctx.Done():
			return
		}
	}
	if errors.Is(err, io.EOF) {
		err = s.RecvMsg(new([]byte)) // gRPC keeps the reason there.
	}
	if e, ok := answered(err); ok {
		p.t.refusals.report(p.address, "control messages are refused", e)
	}
}

// SendControl implements transport.Transport.
func (t *Transport) SendControl(to base.NodeID, msg []byte) {
	if len(msg) > transport.MaxControlMessage {
		t.env.Log.Error("a control message over the limit was dropped", "node", to, "bytes", len(msg))
		return
	}
	if p := t.peer(to); p != nil {
		p.queue.push(msg)
	}
}

// The bounds of what waits to be sent to one peer.
const (
	maxQueued      = 4096
	maxQueuedBytes = 8 << 20
)

// controlQueue holds control messages of one peer until they are sent. While
// it is shut, and when it is full, new messages are dropped.
type controlQueue struct {
	signal chan struct{} // capacity one: something has come

	mu     sync.Mutex // guards what follows
	isOpen bool
	queue  [][]byte
	bytes  int
}

func (q *controlQueue) push(msg []byte) {
	q.mu.Lock()
	ok := q.isOpen && len(q.queue) < maxQueued && q.bytes+len(msg) <= maxQueuedBytes
	if ok {
		q.queue = append(q.queue, append(make([]byte, 0, len(msg)), msg...))
		q.bytes += len(msg)
	}
	q.mu.Unlock()
	if ok {
		select {
		case q.signal <- struct{}{}:
		default:
		}
	}
}

// next returns the oldest message, or nil when there is none.
func (q *controlQueue) next() []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) == 0 {
		q.queue = nil
		return nil
	}
	msg := q.queue[0]
	q.queue[0] = nil
	q.queue = q.queue[1:]
	q.bytes -= len(msg)
	return msg
}

func (q *controlQueue) open() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.isOpen = true
}

// shut drops what is queued: it was meant for a connection that is gone.
func (q *controlQueue) shut() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.isOpen, q.queue, q.bytes = false, nil, 0
}

// backoff makes the pauses between dials: they double up to a cap.
type backoff struct {
	random env.Rand
	tries  int
}

func (b *backoff) reset() { b.tries = 0 }

func (b *backoff) next() time.Duration {
	d := min(firstPause<<min(b.tries, 10), longPause)
	b.tries++
	return d*3/4 + time.Duration(b.random.Uint64()%uint64(d/4))
}

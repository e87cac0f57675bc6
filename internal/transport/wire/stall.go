package wire

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skeindb/skein/internal/env"
)

// What TCP has sent in vain it sends again after pauses that double (RFC 6298,
// section 5.5), and what is sent later waits behind it: when a network is whole
// again, a connection may need as long to notice as the network was broken. A new
// connection has no such past.

// quietTime is how long nothing was received when it is worth asking the system
// about a connection; it sends nothing again earlier than that.
const quietTime = 200 * time.Millisecond

// age is how long ago the connection was made.
func (c *clientConn) age() time.Duration { return c.clock.Now().Sub(c.made) }

// quiet says that nothing was received for a while.
func (c *clientConn) quiet() bool {
	return c.age()-time.Duration(c.lastRead.Load()) >= quietTime
}

// stalled says that the peer's machine has left unanswered what was sent, and
// sent again by now, or the peer itself did when it was asked for a sign of life.
func (c *clientConn) stalled() bool {
	if !c.quiet() {
		return false
	}
	if c.mute.Load() {
		return true
	}
	if s, ok := c.raw.(interface{ Stalled() bool }); ok { // The twin of a test.
		return s.Stalled()
	}
	return resends(c.raw)
}

func resends(raw net.Conn) (yes bool) {
	onSocket(raw, func(fd int) {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		yes = err == nil && info.Unacked > 0 && info.Retransmits > 0
	})
	return yes
}

// onSocket calls f with a connection's socket, if it has one.
func onSocket(raw net.Conn, f func(fd int)) {
	c, ok := raw.(syscall.Conn)
	if !ok {
		return
	}
	if control, err := c.SyscallConn(); err == nil {
		_ = control.Control(func(fd uintptr) { f(int(fd)) })
	}
}

// check asks the peer for a sign of life on a connection that is quiet, for those
// who need it next: what the peer sends may be held up as well, which only its own
// machine knows.
func (l *link) check(ch *channel) {
	if ch.conn.quiet() && !ch.checked.Swap(true) && !l.peer.t.spawn(func() { l.greet(ch) }) {
		ch.checked.Store(false)
	}
}

// greet says hello once more. That is refused, and any answer will do.
func (l *link) greet(ch *channel) {
	p := l.peer
	ctx, cancel := p.t.env.Clock.WithTimeout(p.ctx, p.dials.shortest(), errMute)
	defer cancel()
	greeting := p.t.newHello(l.class, p.id)
	err := ch.rpc.Invoke(ctx, methodHello, greeting.encode(), new([]byte))
	ch.conn.mute.Store(err != nil && ctx.Err() != nil)
	ch.checked.Store(false)
}

var errMute = errors.New("no sign of life in time")

// shortestDial is the least time that a dial is given; a busy machine needs it.
const shortestDial = 150 * time.Millisecond

// shortestCheck is the same of a sign of life.
const shortestCheck = 60 * time.Millisecond

// patience is how long dials of one peer may take that are repeated until one
// works. The first packet of a dial is sent again after a whole second, so several
// short ones find a peer that comes back sooner than a long one: every fourth is
// longer.
type patience struct {
	clock env.Clock

	mu     sync.Mutex    // guards what follows
	usual  time.Duration // what the last dial took that worked; 0: none has
	failed int           // dials since then
}

// dialWith dials with the time that it may take.
func dialWith[T any](ctx context.Context, p *patience, dial func(context.Context) (T, error)) (T, error) {
	ctx, cancel := p.clock.WithTimeout(ctx, p.next(), errDialTimeout)
	defer cancel()
	began := p.clock.Now()
	made, err := dial(ctx)
	p.note(p.clock.Now().Sub(began), err)
	return made, err
}

func (p *patience) next() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.usual == 0 {
		return dialTimeout
	}
	return min(max(4*p.usual, shortestDial)<<min(p.failed/4, 8), dialTimeout)
}

// shortest is how long a sign of life may take: less than a dial.
func (p *patience) shortest() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return min(max(4*p.usual, shortestCheck), dialTimeout)
}

func (p *patience) note(took time.Duration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.failed++
		return
	}
	p.usual, p.failed = max(took, time.Microsecond), 0
}

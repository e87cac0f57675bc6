package mem

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
)

// pipe is one direction of a stream: messages on their way.
type pipe struct {
	network  *Network
	name     string
	random   *draws
	from, to base.NodeID
	readable chan struct{} // capacity one: something was put in
	writable chan struct{} // capacity one: something was taken out
	deaf     chan struct{} // closed when the reader has left
	leave    sync.Once

	mu    sync.Mutex // guards what follows
	items []item
	bytes int
	last  time.Time // when the newest item arrives
}

// item is a message, or the end of the direction: err, or io.EOF.
type item struct {
	at  time.Time
	msg []byte
	err error
}

func newPipe(n *Network, name string, from, to base.NodeID) *pipe {
	l, _ := n.look(from, to)
	return &pipe{network: n, name: name, random: newDraws(l.random.next()), from: from, to: to, readable: make(chan struct{}, 1),
		writable: make(chan struct{}, 1), deaf: make(chan struct{})}
}

// push sends a copy of msg, when the window has room.
func (p *pipe) push(ctx context.Context, msg []byte) error {
	msg = append(make([]byte, 0, len(msg)), msg...)
	for !p.put(item{msg: msg}) {
		select {
		case <-p.writable:
		case <-p.deaf:
		case <-ctx.Done():
		}
		if err := p.refuses(ctx); err != nil {
			return err
		}
	}
	return nil
}

// refuses says why nothing can be sent; the sender's own end comes first.
func (p *pipe) refuses(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case <-p.deaf:
		return io.ErrClosedPipe
	default:
		return nil
	}
}

// end says that nothing more comes; err nil means io.EOF.
func (p *pipe) end(err error) {
	if err == nil {
		err = io.EOF
	}
	p.put(item{err: err})
}

// put adds an item unless the window is full; ends always fit.
func (p *pipe) put(it item) bool {
	l, _ := p.network.look(p.from, p.to)
	at := p.network.env.Clock.Now().Add(l.takes(p.random))
	p.mu.Lock()
	if it.err == nil && p.bytes > 0 && p.bytes+len(it.msg) > p.network.options.Window {
		p.mu.Unlock()
		return false
	}
	if at.Before(p.last) {
		at = p.last // A link that has become faster does not reorder.
	}
	it.at, p.last = at, at
	p.items = append(p.items, it)
	p.bytes += len(it.msg) + 1 // Empty messages take room too.
	p.mu.Unlock()
	signal(p.readable)
	return true
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pop receives the next message once it has arrived. An end stays.
func (p *pipe) pop(ctx context.Context) ([]byte, error) {
	for {
		l, changed := p.network.look(p.from, p.to)
		it, wait, ok := p.take(l.cut)
		if ok {
			signal(p.writable)
			if it.err == nil {
				p.network.observe(p.from, p.to, p.name, it.msg)
			}
			return it.msg, it.err
		}
		if !l.cut {
			changed = nil
		}
		if err := p.wait(ctx, wait, changed); err != nil {
			return nil, err
		}
	}
}

// take removes the next item if it has arrived; wait is how long it still
// takes, negative when nothing is on its way.
func (p *pipe) take(cut bool) (it item, wait time.Duration, ok bool) {
	now := p.network.env.Clock.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.items) == 0 || cut {
		return item{}, -1, false
	}
	it = p.items[0]
	if wait = it.at.Sub(now); wait > 0 {
		return item{}, wait, false
	}
	if it.err == nil {
		p.items[0] = item{}
		p.items = p.items[1:]
		p.bytes -= len(it.msg) + 1
	}
	return it, 0, true
}

func (p *pipe) wait(ctx context.Context, d time.Duration, changed <-chan struct{}) error {
	var arrives <-chan time.Time
	if d > 0 {
		timer := p.network.env.Clock.NewTimer(d)
		defer timer.Stop()
		arrives = timer.C()
	}
	select {
	case <-arrives:
	case <-p.readable:
	case <-changed:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// abandon tells the writer that nobody reads any more.
func (p *pipe) abandon() { p.leave.Do(func() { close(p.deaf) }) }

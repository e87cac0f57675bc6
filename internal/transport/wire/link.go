package wire

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/transport"
)

// link is the connection of one class to one peer. It is made when it is first
// needed, and again when it is needed after it broke.
type link struct {
	peer  *peer
	class class

	mu      sync.Mutex // guards what follows
	channel *channel   // nil or live
	attempt *attempt   // nil or in progress

	outage outage
}

// attempt is one dial that everybody who needs the link waits for.
type attempt struct {
	beside  bool // of a connection that is stalled
	done    chan struct{}
	channel *channel // set before done is closed
	err     error
}

// get returns the live connection, and makes one if there is none. When an
// attempt has failed a moment ago, that failure is returned at once. Beside one
// that is stalled another is made, for as long as it does not come to life.
func (l *link) get(ctx context.Context) (*channel, error) {
	for {
		ch, a, err := l.look()
		if ch != nil || err != nil {
			return ch, err
		}
		select {
		case <-a.done:
			if a.err == nil || !a.beside {
				return a.channel, a.err
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// look returns the connection, or the attempt to be waited for.
func (l *link) look() (*channel, *attempt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	live := l.channel != nil && !l.channel.isGone()
	switch {
	case live && !l.channel.conn.stalled():
		l.check(l.channel)
		return l.channel, nil, nil
	case l.attempt != nil:
		return nil, l.attempt, nil
	}
	if err := l.outage.stands(); err != nil && !live {
		return nil, nil, err
	}
	a := &attempt{done: make(chan struct{}), beside: live}
	if !l.begin(a) {
		return nil, nil, errNotRunning
	}
	l.attempt = a
	return nil, a, nil
}

func (l *link) begin(a *attempt) bool {
	return l.peer.t.spawn(func() {
		p := l.peer
		if a.beside {
			a.channel, a.err = p.redial(l.class)
		} else {
			a.channel, a.err = p.t.dial(p.ctx, p.address, p.id, l.class)
		}
		if a.err != nil {
			p.failed(a.err)
		}
		l.finish(a)
		close(a.done)
		if a.err == nil {
			l.watch(a.channel)
		}
	})
}

func (l *link) finish(a *attempt) {
	replaces := a.err == nil || !a.beside // Else the other one stalls with reason, and that is all it says.
	if replaces {
		l.outage.note(a.err)
	}
	l.mu.Lock()
	old := l.channel
	l.attempt = nil
	if replaces {
		l.channel = a.channel
	}
	l.mu.Unlock()
	if replaces && old != nil {
		old.retire()
	}
}

// watch frees a connection when it is gone or no longer wanted.
func (l *link) watch(ch *channel) {
	select {
	case <-ch.gone:
	case <-l.peer.ctx.Done():
	}
	ch.close()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.channel == ch {
		l.channel = nil
	}
}

// outage remembers that a peer could not be reached a moment ago, so that not
// everybody who needs it dials.
type outage struct {
	clock env.Clock

	mu      sync.Mutex // guards what follows
	failure error      // of the last attempt; stands until retryAt
	retryAt time.Time
	pauses  backoff
}

// stands returns the failure that saves an attempt now, or nil.
func (o *outage) stands() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.clock.Now().Before(o.retryAt) {
		return o.failure
	}
	return nil
}

// note remembers how an attempt went. Of those that fail together the first
// counts.
func (o *outage) note(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.clock.Now()
	switch {
	case err == nil:
		o.failure = nil
		o.pauses.reset()
	case o.failure == nil || !now.Before(o.retryAt):
		o.failure, o.retryAt = err, now.Add(o.pauses.next())
	}
}

// reachLink returns a live connection of a class to a node. Its error says
// that nothing was delivered.
func (t *Transport) reachLink(ctx context.Context, op string, to base.NodeID, c class) (*channel, error) {
	p, err := t.knownPeer(op, to)
	if err != nil {
		return nil, err
	}
	ch, err := p.links[c].get(ctx)
	if err != nil {
		return nil, transport.NotDelivered(op, to, err)
	}
	return ch, nil
}

func (t *Transport) knownPeer(op string, id base.NodeID) (*peer, error) {
	if t.ctx.Err() != nil {
		return nil, transport.NotDelivered(op, id, errClosed)
	}
	p := t.peer(id)
	if p == nil {
		return nil, transport.NotDelivered(op, id, errUnknown)
	}
	return p, nil
}

var errUnknown = errors.New("its address is not known")

// OpenStream implements transport.Transport.
func (t *Transport) OpenStream(ctx context.Context, to base.NodeID, service string, header []byte) (transport.Stream, error) {
	op, a := "open stream "+service, addressed{name: service, body: header}
	if err := a.validate(op); err != nil {
		return nil, err
	}
	if t.direct[service] {
		p, err := t.knownPeer(op, to)
		if err != nil {
			return nil, err
		}
		if p.direct.Add(1) <= maxDirect {
			return t.openDirect(ctx, p, op, a)
		}
		p.direct.Add(-1)
	}
	c := classStream
	if t.session[service] {
		c = classCall
	}
	ch, err := t.reachLink(ctx, op, to, c)
	if err != nil {
		return nil, err
	}
	desc := &grpc.StreamDesc{StreamName: "Stream", ClientStreams: true, ServerStreams: true}
	s, err := ch.newStream(ctx, desc, methodStream)
	if err == nil {
		err = s.SendMsg(a)
	}
	if err != nil {
		return nil, fromStatus(ctx, op, to, err)
	}
	return &openedStream{ctx: ctx, stream: s, to: to, service: service}, nil
}

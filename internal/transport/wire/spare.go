package wire

import (
	"context"
	"time"

	"github.com/skeindb/skein/internal/base"
)

const (
	maxDialing = 8 // connections for streams to one peer that are being made
	// sparePause is the time before a spare is made: what has used the last one
	// is waited for by others, and must not share the CPUs with a handshake.
	sparePause = 100 * time.Millisecond
)

// takeDirect returns a connection to a peer that has said hello, for one stream:
// the spare, or a new one.
func (p *peer) takeDirect(ctx context.Context) (frames, error) {
	select {
	case f := <-p.spare:
		return f, nil
	default:
		return p.dialDirect(ctx)
	}
}

// keepSpare keeps one connection ready for the next direct stream. When a
// database's leader changes, writes wait for its followers, which would wait for
// handshakes. It ends with ctx, when the control connection breaks: whoever is
// not reached by that is not reached by a spare.
func (p *peer) keepSpare(ctx context.Context) {
	for len(p.t.direct) > 0 && p.t.env.Clock.Sleep(ctx, sparePause) == nil {
		f, err := dialWith(ctx, &p.dials, p.dialDirect)
		if err != nil {
			continue // Who needs a stream is told.
		}
		heard := make(chan struct{})
		f.heard = heard
		watch := func() {
			defer close(heard)
			_, _ = f.in.Peek(1) // What it has found out, the next reader finds out.
		}
		if !p.t.spawn(watch) {
			f.conn.Close()
			return
		}
		select {
		case p.spare <- f:
		case <-heard: // The peer does not want to keep it.
			f.conn.Close()
		case <-ctx.Done():
			f.conn.Close()
		}
	}
}

// dialDirect makes a connection for one stream, unless the peer could not be
// reached a moment ago.
func (p *peer) dialDirect(ctx context.Context) (frames, error) {
	select {
	case p.dialing <- struct{}{}:
		defer func() { <-p.dialing }()
	case <-ctx.Done():
		return frames{}, context.Cause(ctx)
	}
	link := p.links[classStream]
	if err := link.outage.stands(); err != nil {
		return frames{}, err
	}
	f, err := p.t.dialDirect(ctx, p.address, p.id)
	if err == nil || ctx.Err() == nil { // Else the caller has given up, and that says nothing of the peer.
		link.outage.note(err)
	}
	if err != nil && ctx.Err() == nil {
		p.failed(err)
	}
	return f, err
}

// dialDirect connects to a peer for one stream and says hello.
func (t *Transport) dialDirect(ctx context.Context, address string, want base.NodeID) (f frames, err error) {
	ctx, cancel := t.env.Clock.WithTimeout(ctx, dialTimeout, errDialTimeout)
	defer cancel()
	conn, certified, err := t.connect(ctx, address, want, protocolStream)
	if err != nil {
		return f, causeOf(ctx, err)
	}
	boundSilence(conn.raw)
	f = newFrames(conn)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err = t.helloDirect(&f, want, certified)
	if !stop() || err != nil {
		conn.Close()
		return f, causeOf(ctx, conn.explain(err))
	}
	return f, nil
}

func (t *Transport) helloDirect(f *frames, want, certified base.NodeID) error {
	greeting := t.newHello(classDirect, want)
	if _, err := f.conn.Write(greeting.encode()); err != nil {
		return err
	}
	kind, answer, err := f.read(maxAnswer)
	switch {
	case err != nil:
		return err
	case kind == frameFailure:
		return failed(answer)
	case kind != frameMessage:
		return errHello
	}
	h, err := decodeHello(answer)
	if err != nil {
		return err
	}
	return t.self().expect(h, want, certified)
}

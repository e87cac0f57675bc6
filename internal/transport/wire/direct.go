package wire

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/transport"
)

// A direct stream has a connection of its own. What is sent goes to the
// operating system in the sender's goroutine, and is read in the receiver's,
// where gRPC has goroutines of its own in between, each of which must be woken:
// that is most of what a small message costs, and a commit waits for it twice.
const (
	maxDirect    = 64 // to one peer; further streams share a connection
	directBuffer = 16 << 10
	// silenceLimit is how long a peer may leave unanswered what it was sent.
	silenceLimit = keepaliveTime + keepaliveTimeout
	lastWords    = 200 * time.Millisecond // for a peer to read how a stream has ended
)

// frames reads and writes the frames of a direct stream: a length, the kind,
// the body.
type frames struct {
	conn  net.Conn
	in    *bufio.Reader
	out   []byte          // reused
	heard <-chan struct{} // nil, or closed when who watches the connection, in keepSpare, has ended
}

const frameHead = 5

func newFrames(conn net.Conn) frames {
	return frames{conn: conn, in: bufio.NewReaderSize(conn, directBuffer)}
}

func (f *frames) write(kind frameKind, body []byte) error {
	f.out = binary.LittleEndian.AppendUint32(f.out[:0], uint32(1+len(body)))
	f.out = append(append(f.out, byte(kind)), body...)
	_, err := f.conn.Write(f.out)
	if cap(f.out) > shipBuffer {
		f.out = nil
	}
	return err
}

// shipBuffer is the most that a stream keeps for what it sends next.
const shipBuffer = 256 << 10

func (f *frames) read(limit int) (frameKind, []byte, error) {
	if f.heard != nil {
		<-f.heard
		f.heard = nil
	}
	var head [frameHead]byte
	if _, err := io.ReadFull(f.in, head[:]); err != nil {
		return 0, nil, err
	}
	length := int(binary.LittleEndian.Uint32(head[:])) - 1
	if length < 0 || length > limit {
		return 0, nil, base.Errorf(base.KindInvalid, "the peer sent a frame of %d bytes", length)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(f.in, body); err != nil {
		return 0, nil, err
	}
	return frameKind(head[4]), body, nil
}

// boundSilence ends a connection whose peer does not answer: what is sent to a
// machine that is gone would be tried again for a quarter of an hour.
func boundSilence(raw net.Conn) {
	onSocket(raw, func(fd int) {
		// Where the system has no such bound, its own, longer one holds.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silenceLimit/time.Millisecond))
	})
}

// openedDirect is the end of a direct stream that its opener holds.
type openedDirect struct {
	frames
	ctx     context.Context // the opener's
	to      base.NodeID
	service string
	ended   error  // what Recv returns from now on; only the receiving goroutine uses it
	close   func() // frees what the stream holds
}

// openDirect opens a direct stream; p.direct counts it already.
func (t *Transport) openDirect(ctx context.Context, p *peer, op string, a addressed) (transport.Stream, error) {
	f, err := p.takeDirect(ctx)
	if err != nil {
		p.direct.Add(-1)
		return nil, transport.NotDelivered(op, p.id, err)
	}
	s := &openedDirect{frames: f, ctx: ctx, to: p.id, service: a.name}
	free := sync.OnceFunc(func() { s.conn.Close(); p.direct.Add(-1) })
	forgotten := context.AfterFunc(p.ctx, free)
	canceled := context.AfterFunc(ctx, func() { free(); forgotten() })
	s.close = func() { free(); canceled(); forgotten() }
	if err := s.write(frameMessage, a.appendTo(nil)); err != nil {
		s.close()
		return nil, transport.Interrupted(ctx, op, p.id, err)
	}
	return s, nil
}

// failed is the error that a frame carries.
func failed(body []byte) error {
	e, err := decodeFailure(body)
	if err != nil {
		return err
	}
	return e
}

// Send implements transport.Stream.
func (s *openedDirect) Send(msg []byte) error {
	if err := transport.CheckSize("send "+s.service, len(msg), transport.MaxMessage); err != nil {
		return err
	}
	err := s.write(frameMessage, msg)
	if err == nil || s.ctx.Err() != nil {
		return s.broken("send ", err)
	}
	// The peer has ended the stream; Recv says why.
	return &base.Error{Kind: base.KindUnavailable, Op: "send " + s.service, Outcome: base.Indeterminate,
		Message: "node " + s.to.String() + " has ended the stream", Err: err}
}

func (s *openedDirect) broken(what string, err error) error {
	if err == nil {
		return nil
	}
	return transport.Interrupted(s.ctx, what+s.service, s.to, err)
}

// Recv implements transport.Stream.
func (s *openedDirect) Recv() ([]byte, error) {
	if s.ended != nil {
		return nil, s.ended
	}
	kind, body, err := s.read(transport.MaxMessage)
	if err == nil && kind == frameMessage {
		return body, nil
	}
	if err == nil && kind == frameEnd {
		s.ended = io.EOF // What is sent from now on is still received.
		return nil, io.EOF
	}
	s.close()
	switch {
	case err != nil:
		s.ended = s.broken("receive ", err)
	case kind == frameDone:
		s.ended = io.EOF
	case kind == frameFailure:
		s.ended = failed(body)
	default:
		s.ended = unexpected(kind)
	}
	return nil, s.ended
}

// CloseSend implements transport.Stream.
func (s *openedDirect) CloseSend() error { return s.broken("close ", s.write(frameEnd, nil)) }

// servedDirect is the end of a direct stream that a handler holds.
type servedDirect struct {
	served
	frames frames
	cancel context.CancelCauseFunc // ends the handler's context: the opener has left
	left   chan struct{}           // closed then, by the goroutine that receives
	eof    error                   // what Recv returns from now on; only the receiving goroutine uses it
}

// serveDirect serves the one stream of a connection, until its handler returns.
func (t *Transport) serveDirect(c *serverConn) {
	defer c.Close()
	defer context.AfterFunc(t.ctx, func() { c.Close() })()
	boundSilence(c.raw)
	s := &servedDirect{frames: newFrames(c), left: make(chan struct{})}
	s.write = s.frames.write
	h, err := t.welcome(c, &s.frames)
	if err == nil {
		s.from = h.from
		err = t.handleDirect(s)
	} else {
		t.refusals.report(remote(c), "refused a stream", err)
	}
	s.finish(t, c, err)
}

// welcome takes a peer's hello. What its stream is for may come much later.
func (t *Transport) welcome(c *serverConn, f *frames) (h hello, err error) {
	timer := t.env.Clock.AfterFunc(handshakeTimeout, func() { c.Close() })
	defer timer.Stop()
	var greeting [helloLength]byte
	if _, err := io.ReadFull(f.in, greeting[:]); err != nil {
		return h, err
	}
	if h, err = decodeHello(greeting[:]); err != nil {
		return h, err
	}
	if err := t.self().accept(h, c.certified, classDirect); err != nil {
		return h, err
	}
	t.retry(h.from) // Whoever reaches us can probably be reached.
	answer := t.newHello(h.class, h.from)
	return h, f.write(frameMessage, answer.encode())
}

func (t *Transport) handleDirect(s *servedDirect) error {
	kind, first, err := s.frames.read(1 + transport.MaxName + transport.MaxMessage)
	if err == nil && kind != frameMessage {
		err = errAddressed
	}
	if err != nil {
		return err
	}
	a, err := decodeAddressed(first)
	if err != nil {
		return err
	}
	s.service = a.name
	handle, err := t.ForStream(t.options.Self, a.name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(t.ctx)
	defer cancel(nil)
	s.cancel = cancel
	return handle(ctx, s.from, a.body, s)
}

// finish tells the opener how the stream has ended, and gives it a moment to
// read that before the connection is closed.
func (s *servedDirect) finish(t *Transport, c *serverConn, err error) {
	_ = c.raw.SetWriteDeadline(t.env.Clock.Now().Add(lastWords)) // What it fails with the write fails with, too.
	kind, body := frameDone, []byte(nil)
	if err != nil {
		kind, body = frameFailure, encodeFailure(err)
	}
	if s.write(kind, body) != nil {
		return
	}
	timer := t.env.Clock.NewTimer(lastWords)
	defer timer.Stop()
	select {
	case <-s.left:
	case <-timer.C():
	case <-t.ctx.Done():
	}
}

// Recv implements transport.Stream.
func (s *servedDirect) Recv() ([]byte, error) {
	if s.eof != nil {
		return nil, s.eof
	}
	kind, body, err := s.frames.read(transport.MaxMessage)
	switch {
	case err != nil:
		s.eof = s.gone(err)
		s.cancel(s.eof)
		close(s.left)
	case kind == frameMessage:
		return body, nil
	case kind == frameEnd:
		s.eof = io.EOF
	default:
		s.eof = unexpected(kind)
	}
	return nil, s.eof
}

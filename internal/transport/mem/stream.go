package mem

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/transport"
)

// end is one end of a stream.
type end struct {
	ctx     context.Context // of the opener, or of the handler
	conn    *conn
	in, out *pipe
	peer    base.NodeID
	name    string
	served  bool
	stopped bool // CloseSend was called; only the sending goroutine uses it
}

// Send implements transport.Stream.
func (e *end) Send(msg []byte) error {
	if e.stopped {
		return base.Errorf(base.KindInvalid, "send %s: the stream's sending side is closed", e.name)
	}
	if err := transport.CheckSize("send "+e.name, len(msg), transport.MaxMessage); err != nil {
		return err
	}
	ctx, cancel := e.life()
	defer cancel()
	err := e.out.refuses(ctx)
	if err == nil {
		err = e.out.push(ctx, msg)
	}
	if err != nil {
		return e.gone("send", err)
	}
	return nil
}

// Recv implements transport.Stream.
func (e *end) Recv() ([]byte, error) {
	ctx, cancel := e.life()
	defer cancel()
	if ctx.Err() != nil {
		return nil, e.gone("receive", context.Cause(ctx))
	}
	msg, err := e.in.pop(ctx)
	if err == nil || errors.Is(err, io.EOF) {
		return msg, err
	}
	if told, ok := errors.AsType[*answer](err); ok {
		return nil, told.error
	}
	return nil, e.gone("receive", err)
}

// CloseSend implements transport.Stream.
func (e *end) CloseSend() error {
	if !e.stopped {
		e.stopped = true
		e.out.end(nil)
	}
	return nil
}

// life ends with the end's own context or with the connection.
func (e *end) life() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(e.ctx)
	stop := e.conn.onBreak(cancel)
	return ctx, func() { stop(); cancel(nil) }
}

// gone explains a failure. A peer leaves because the opener's context or the
// connection has ended, and may be seen leaving before that has come to life's
// context: what was first is what is told.
func (e *end) gone(what string, cause error) error {
	left := errors.Is(cause, io.ErrClosedPipe)
	switch {
	case e.served:
		return &base.Error{Kind: base.KindCanceled, Op: e.name, Outcome: base.Indeterminate,
			Message: "node " + e.peer.String() + " has left the stream", Err: cause}
	case left && e.ctx.Err() != nil:
		cause = context.Cause(e.ctx)
	case left && e.conn.broken() != nil:
		cause = e.conn.broken()
	case left:
		return &base.Error{Kind: base.KindUnavailable, Op: what + " " + e.name, Outcome: base.Indeterminate,
			Message: "node " + e.peer.String() + " has ended the stream"}
	}
	return transport.Interrupted(e.ctx, what+" "+e.name, e.peer, cause)
}

// answer marks a handler's error on its way back.
type answer struct{ error *base.Error }

func (a *answer) Error() string { return a.error.Error() }

// connect waits, within bounds, for a connection.
func (t *Transport) connect(ctx context.Context, op string, to base.NodeID) (way, error) {
	if t.ctx.Err() != nil {
		return way{}, transport.NotDelivered(op, to, errClosed)
	}
	ctx, cancel := t.network.env.Clock.WithTimeout(ctx, t.network.options.DialTimeout, errLost)
	defer cancel()
	for {
		w := t.network.way(t, to)
		switch w.reach {
		case transport.Reached:
			return w, nil
		case transport.Refused:
			return way{}, transport.NotDelivered(op, to, errRefused)
		}
		select {
		case <-w.changed:
		case <-t.ctx.Done():
			return way{}, transport.NotDelivered(op, to, errClosed)
		case <-ctx.Done():
			return way{}, transport.NotDelivered(op, to, context.Cause(ctx))
		}
	}
}

// open starts serve on the peer, whose Recv gets first, and returns the
// opener's end.
func (t *Transport) open(ctx context.Context, op, name string, to base.NodeID, first []byte,
	serve func(target *Transport, ctx context.Context, e *end) error) (*end, error) {
	w, err := t.connect(ctx, op, to)
	if err != nil {
		return nil, err
	}
	there, back := newPipe(t.network, name, t.id, to), newPipe(t.network, name, to, t.id)
	handling, cancel := t.handlerContext(ctx, w.conn)
	opened := &end{ctx: ctx, conn: w.conn, in: back, out: there, peer: to, name: name}
	served := &end{ctx: handling, conn: w.conn, in: there, out: back, peer: t.id, name: name, served: true}
	there.put(item{msg: append([]byte(nil), first...)})
	stop := context.AfterFunc(ctx, cancel)
	started := w.target.spawn(func() {
		err := serve(w.target, handling, served)
		// Once the handler's context is done nobody waits for an answer: the
		// opener has left, or its deadline or the connection tells it.
		heard := handling.Err() == nil
		stop()
		cancel()
		there.abandon()
		switch {
		case heard && err != nil:
			back.end(&answer{transport.Answer(err)})
		case heard:
			back.end(nil)
		}
	})
	if !started {
		stop()
		cancel()
		return nil, transport.NotDelivered(op, to, errRefused)
	}
	return opened, nil
}

// handlerContext ends with the connection, and at the caller's deadline.
func (t *Transport) handlerContext(ctx context.Context, c *conn) (context.Context, context.CancelFunc) {
	handling, cancel := context.WithCancelCause(context.Background())
	stop := c.onBreak(cancel)
	end := func() { stop(); cancel(nil) }
	deadline, ok := ctx.Deadline()
	if !ok {
		return handling, end
	}
	clock := t.network.env.Clock
	bounded, release := clock.WithTimeout(handling, deadline.Sub(clock.Now()), context.DeadlineExceeded)
	return bounded, func() { end(); release() }
}

// OpenStream implements transport.Transport.
func (t *Transport) OpenStream(ctx context.Context, to base.NodeID, service string, header []byte) (transport.Stream, error) {
	op := "open stream " + service
	if err := transport.CheckOpening(op, service, header); err != nil {
		return nil, err
	}
	if t.peer(to) == nil {
		return nil, transport.NotDelivered(op, to, errUnknown)
	}
	e, err := t.open(ctx, op, service, to, header, func(target *Transport, ctx context.Context, e *end) error {
		header, err := e.Recv()
		if err != nil {
			return err
		}
		handle, err := target.ForStream(target.id, service)
		if err != nil {
			return err
		}
		return handle(ctx, e.peer, header, e)
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

var errUnknown = errors.New("its address is not known")

// Call implements transport.Transport.
func (t *Transport) Call(ctx context.Context, to base.NodeID, method string, request []byte) ([]byte, error) {
	if t.peer(to) == nil && t.ctx.Err() == nil {
		return nil, transport.NotDelivered("call "+method, to, errUnknown)
	}
	return t.call(ctx, to, method, request)
}

// CallAddress implements transport.Bootstrapper.
func (t *Transport) CallAddress(ctx context.Context, address, method string, request []byte) (base.NodeID, []byte, error) {
	to, ok := t.network.resolve(address)
	if !ok {
		e := transport.NotDelivered("call "+method, 0, errRefused)
		e.Message = "no node can be reached at " + address + ": " + errRefused.Error()
		return 0, nil, e
	}
	reply, err := t.call(ctx, to, method, request)
	return to, reply, err
}

func (t *Transport) call(ctx context.Context, to base.NodeID, method string, request []byte) ([]byte, error) {
	op := "call " + method
	if _, ok := ctx.Deadline(); !ok {
		return nil, base.Errorf(base.KindInvalid, "%s: has no deadline", op)
	}
	if err := transport.CheckOpening(op, method, request); err != nil {
		return nil, err
	}
	e, err := t.open(ctx, op, method, to, request, serveCall)
	if err != nil {
		return nil, err
	}
	return e.Recv()
}

func serveCall(target *Transport, ctx context.Context, e *end) error {
	request, err := e.Recv()
	if err != nil {
		return err
	}
	reply, err := target.ServeCall(ctx, target.id, e.peer, e.name, request)
	if err != nil {
		return err
	}
	return e.Send(reply)
}

// FetchFile implements transport.Transport.
func (t *Transport) FetchFile(ctx context.Context, from base.NodeID, name string, offset int64) (io.ReadCloser, int64, error) {
	op := "fetch " + name
	if offset < 0 || !fs.ValidPath(name) || len(name) > transport.MaxName {
		return nil, 0, base.Errorf(base.KindInvalid, "%s: bad name or offset %d", op, offset)
	}
	if t.peer(from) == nil {
		return nil, 0, transport.NotDelivered(op, from, errUnknown)
	}
	ctx, cancel := context.WithCancel(ctx)
	first := binary.LittleEndian.AppendUint64(nil, uint64(offset))
	e, err := t.open(ctx, op, name, from, first, serveFile)
	if err == nil {
		first, err = e.Recv()
	}
	if err != nil {
		cancel()
		return nil, 0, base.AsError(err).WithOutcome(base.NotDone)
	}
	return &download{end: e, cancel: cancel}, int64(binary.LittleEndian.Uint64(first)), nil
}

// serveFile sends the file's size, then its content from the offset.
func serveFile(target *Transport, ctx context.Context, e *end) error {
	first, err := e.Recv()
	if err != nil {
		return err
	}
	offset := int64(binary.LittleEndian.Uint64(first))
	open, err := target.ForFile(target.id, e.name)
	if err != nil {
		return err
	}
	f, size, err := open(ctx, e.peer, e.name)
	if err != nil {
		return err
	}
	defer f.Close() // It was only read.
	if offset > size {
		return base.Errorf(base.KindInvalid, "offset %d is after the file's end at %d", offset, size)
	}
	if err := e.Send(binary.LittleEndian.AppendUint64(nil, uint64(size))); err != nil {
		return err
	}
	content, chunk := io.NewSectionReader(f, offset, size-offset), make([]byte, 64<<10)
	for {
		n, err := content.Read(chunk)
		if n > 0 {
			if err := e.Send(chunk[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// download is a file on its way.
type download struct {
	end    *end
	cancel context.CancelFunc
	rest   []byte
}

// Read implements io.Reader.
func (d *download) Read(b []byte) (int, error) {
	for len(d.rest) == 0 {
		msg, err := d.end.Recv()
		if err != nil {
			return 0, err
		}
		d.rest = msg
	}
	n := copy(b, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

// Close implements io.Closer.
func (d *download) Close() error { d.cancel(); return nil }

package wire

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/transport"
)

// maxIdleCallers bounds the call streams that a connection keeps open between
// calls. More calls than that may run at once.
const maxIdleCallers = 32

// caller is a gRPC stream that carries one call after the other: that costs a
// quarter of what a gRPC request for each call would.
type caller struct {
	stream grpc.ClientStream
	cancel context.CancelFunc
}

// Call implements transport.Transport.
func (t *Transport) Call(ctx context.Context, to base.NodeID, method string, request []byte) ([]byte, error) {
	op, c, err := t.prepareCall(ctx, method, request)
	if err != nil {
		return nil, err
	}
	ch, err := t.reachLink(ctx, op, to, classCall)
	if err != nil {
		return nil, err
	}
	return ch.call(ctx, op, c)
}

// CallAddress implements transport.Bootstrapper.
func (t *Transport) CallAddress(ctx context.Context, address, method string, request []byte) (base.NodeID, []byte, error) {
	op, c, err := t.prepareCall(ctx, method, request)
	if err != nil {
		return 0, nil, err
	}
	dialing, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(t.ctx, func() { cancel(errClosed) })()
	ch, err := t.dial(dialing, address, 0, classBootstrap)
	if err != nil {
		e := transport.NotDelivered(op, 0, err)
		e.Message = "no node can be reached at " + address + ": " + err.Error()
		return 0, nil, e
	}
	defer ch.close()
	defer context.AfterFunc(t.ctx, ch.close)()
	reply, err := ch.call(ctx, op, c)
	return ch.peer, reply, err
}

func (t *Transport) prepareCall(ctx context.Context, method string, request []byte) (op string, c call, err error) {
	op, c.addressed = "call "+method, addressed{name: method, body: request}
	deadline, ok := ctx.Deadline()
	if !ok {
		return op, c, base.Errorf(base.KindInvalid, "%s: has no deadline", op)
	}
	c.patience = max(deadline.Sub(t.env.Clock.Now()), 0)
	return op, c, c.validate(op)
}

func (ch *channel) call(ctx context.Context, op string, c call) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, transport.NotDelivered(op, ch.peer, context.Cause(ctx))
	}
	s, err := ch.takeCaller(ctx)
	if err != nil {
		return nil, transport.NotDelivered(op, ch.peer, err)
	}
	stop := context.AfterFunc(ctx, s.cancel)
	frame, err := s.exchange(c)
	if inTime := stop(); !inTime || err != nil {
		s.cancel()
	} else {
		ch.returnCaller(s)
	}
	if err != nil {
		return nil, fromStatus(ctx, op, ch.peer, err)
	}
	return answerOf(op, frame)
}

func (s *caller) exchange(c call) (frame []byte, err error) {
	if err = s.stream.SendMsg(c); err == nil || errors.Is(err, io.EOF) {
		err = s.stream.RecvMsg(&frame) // After io.EOF, gRPC keeps the reason there.
	}
	return frame, err
}

// answerOf takes apart what came back from a handler.
func answerOf(op string, frame []byte) ([]byte, error) {
	if len(frame) > 0 && frameKind(frame[0]) == frameMessage {
		return frame[1:], nil
	}
	if len(frame) > 0 && frameKind(frame[0]) == frameFailure {
		if e, err := decodeFailure(frame[1:]); err == nil {
			return nil, e
		}
	}
	return nil, base.Errorf(base.KindInternal, "%s: the peer's answer makes no sense", op).WithOutcome(base.Indeterminate)
}

func (ch *channel) takeCaller(ctx context.Context) (*caller, error) {
	ch.mu.Lock()
	if n := len(ch.idle); n > 0 {
		s := ch.idle[n-1]
		ch.idle = ch.idle[:n-1]
		ch.mu.Unlock()
		return s, nil
	}
	ch.mu.Unlock()
	// The stream outlives the call; it ends with the connection at the latest.
	life, cancel := context.WithCancel(context.Background())
	defer context.AfterFunc(ctx, cancel)()
	desc := &grpc.StreamDesc{StreamName: "Calls", ClientStreams: true, ServerStreams: true}
	s, err := ch.newStream(life, desc, methodCalls)
	if err != nil {
		cancel()
		return nil, err
	}
	return &caller{stream: s, cancel: cancel}, nil
}

func (ch *channel) returnCaller(s *caller) {
	ch.mu.Lock()
	keep := len(ch.idle) < maxIdleCallers && !ch.retired
	if keep {
		ch.idle = append(ch.idle, s)
	}
	ch.mu.Unlock()
	if !keep {
		s.cancel()
	}
}

// serveCalls answers the calls of one stream, one after the other.
func (t *Transport) serveCalls(c *serverConn, s grpc.ServerStream) error {
	h := c.hello.Load()
	if h == nil {
		return errNoHello
	}
	for {
		var request []byte
		if err := s.RecvMsg(&request); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		asked, err := decodeCall(request)
		if err != nil {
			return base.Errorf(base.KindInvalid, "call: %w", err)
		}
		answer := framed{kind: frameMessage}
		if answer.body, err = t.serveCall(s.Context(), h.from, asked); err != nil {
			answer = framed{frameFailure, encodeFailure(err)}
		}
		if err := s.SendMsg(answer); err != nil {
			return err
		}
	}
}

func (t *Transport) serveCall(ctx context.Context, from base.NodeID, c call) ([]byte, error) {
	ctx, cancel := t.env.Clock.WithTimeout(ctx, c.patience, context.DeadlineExceeded)
	defer cancel()
	return t.ServeCall(ctx, t.options.Self, from, c.name, c.body)
}

package wire

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/transport"
)

// framed is a stream message after the first, or the answer to a call: a byte
// that says what it is, then its body.
type framed struct {
	kind frameKind
	body []byte
}

type frameKind byte

const (
	frameMessage frameKind = 0
	frameEnd     frameKind = 1 // the side that serves sends nothing more
	frameFailure frameKind = 2 // the answer to a call, or how a direct stream has ended, is an error
	frameDone    frameKind = 3 // a direct stream has ended, without one
)

// received takes a frame apart; io.EOF is the end.
func received(frame []byte) ([]byte, error) {
	if len(frame) == 0 {
		return nil, base.Errorf(base.KindInvalid, "the peer sent an empty frame")
	}
	switch frameKind(frame[0]) {
	case frameMessage:
		return frame[1:], nil
	case frameEnd:
		return nil, io.EOF
	}
	return nil, unexpected(frameKind(frame[0]))
}

// unexpected is the error of a frame that has no place where it was sent.
func unexpected(kind frameKind) error {
	return base.Errorf(base.KindInvalid, "the peer sent a frame of kind %d", kind)
}

// served is what the ends of streams that handlers hold have in common, whatever
// carries them: sending, and how a failure is explained.
type served struct {
	from    base.NodeID
	service string
	write   func(kind frameKind, body []byte) error
	ended   bool // CloseSend was called; only the sending goroutine uses it
}

// Send implements transport.Stream.
func (s *served) Send(msg []byte) error {
	if s.ended {
		return base.Errorf(base.KindInvalid, "send %s: the stream's sending side is closed", s.service)
	}
	if err := transport.CheckSize("send "+s.service, len(msg), transport.MaxMessage); err != nil {
		return err
	}
	return s.gone(s.write(frameMessage, msg))
}

// CloseSend implements transport.Stream.
func (s *served) CloseSend() error {
	if s.ended {
		return nil
	}
	s.ended = true
	return s.gone(s.write(frameEnd, nil))
}

// gone explains a failure: gRPC ends the stream's context alike when the
// opener has canceled and when the connection broke.
func (s *served) gone(err error) error {
	if err == nil {
		return nil
	}
	return &base.Error{Kind: base.KindCanceled, Op: s.service, Outcome: base.Indeterminate,
		Message: "node " + s.from.String() + " has left the stream", Err: err}
}

// servedStream is the end of a stream that a handler holds, carried by gRPC.
type servedStream struct {
	served
	stream grpc.ServerStream
}

func (s *servedStream) Recv() ([]byte, error) {
	var frame []byte
	if err := s.stream.RecvMsg(&frame); errors.Is(err, io.EOF) {
		return nil, io.EOF
	} else if err != nil {
		return nil, s.gone(err)
	}
	return received(frame)
}

// openedStream is the end of a stream that its opener holds.
type openedStream struct {
	ctx     context.Context // the opener's
	stream  grpc.ClientStream
	to      base.NodeID
	service string
	ended   bool // frameEnd has come; only the receiving goroutine uses it
}

func (s *openedStream) Send(msg []byte) error {
	if err := transport.CheckSize("send "+s.service, len(msg), transport.MaxMessage); err != nil {
		return err
	}
	err := s.stream.SendMsg(framed{frameMessage, msg})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF) && s.ctx.Err() == nil:
		// The peer has ended the stream; Recv says why.
		return &base.Error{Kind: base.KindUnavailable, Op: "send " + s.service, Outcome: base.Indeterminate,
			Message: "node " + s.to.String() + " has ended the stream"}
	}
	return fromStatus(s.ctx, "send "+s.service, s.to, err)
}

func (s *openedStream) Recv() ([]byte, error) {
	if s.ended {
		return nil, io.EOF
	}
	var frame []byte
	if err := s.stream.RecvMsg(&frame); errors.Is(err, io.EOF) {
		return nil, io.EOF
	} else if err != nil {
		return nil, fromStatus(s.ctx, "receive "+s.service, s.to, err)
	}
	msg, err := received(frame)
	s.ended = errors.Is(err, io.EOF)
	return msg, err
}

func (s *openedStream) CloseSend() error { return s.stream.CloseSend() }

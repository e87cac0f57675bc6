package wire

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/transport"
)

// toStatus makes a gRPC status that carries a handler's error whole.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	s, derr := status.New(codes.Aborted, "").WithDetails(wrapperspb.Bytes(encodeFailure(err)))
	if derr != nil {
		return status.Error(codes.Internal, "error cannot be encoded")
	}
	return s.Err()
}

// answered returns the error that the peer's handler gave, if err carries one.
func answered(err error) (*base.Error, bool) {
	s, ok := status.FromError(err)
	if !ok {
		return nil, false
	}
	for _, detail := range s.Details() {
		if b, ok := detail.(*wrapperspb.BytesValue); ok {
			if e, err := decodeFailure(b.GetValue()); err == nil {
				return e, true
			}
		}
	}
	return nil, false
}

// fromStatus turns what gRPC returned for a request that may have been
// delivered into what the caller is told.
func fromStatus(ctx context.Context, op string, to base.NodeID, err error) *base.Error {
	if e, ok := answered(err); ok {
		return e
	}
	if ctx.Err() != nil {
		return transport.Interrupted(ctx, op, to, err)
	}
	s, _ := status.FromError(err)
	e := transport.Interrupted(ctx, op, to, errors.New(s.Message()))
	switch s.Code() {
	case codes.DeadlineExceeded: // The peer's timer ran out before ours.
		e.Kind, e.Message = base.KindTimeout, "no answer from node "+to.String()+" in time"
	case codes.ResourceExhausted:
		e.Kind, e.Message = base.KindTooLarge, s.Message()
	}
	return e
}

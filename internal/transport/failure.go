package transport

import (
	"context"
	"errors"

	"github.com/skeindb/skein/internal/base"
)

// Answer turns a handler's error into what its caller is told: kind, message,
// outcome, hint, SQLSTATE and leader, without the cause, which stays on the
// handler's node. An error that is no *base.Error says nothing about what the
// handler had done, so its outcome is Indeterminate.
func Answer(err error) *base.Error {
	if e, ok := errors.AsType[*base.Error](err); ok {
		told := *e
		told.Err = nil
		switch {
		case error(e) != err:
			told.Op, told.Message = "", err.Error()
		case e.Message == "" && e.Err != nil:
			told.Message = e.Err.Error()
		}
		if told.Outcome == "" {
			told.Outcome = base.NotDone
		}
		return &told
	}
	kind := base.KindInternal
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		kind = base.KindTimeout
	case errors.Is(err, context.Canceled):
		kind = base.KindCanceled
	}
	return &base.Error{Kind: kind, Message: err.Error(), Outcome: base.Indeterminate}
}

// NotDelivered says that a peer was certainly never asked, and why. A cause
// that names its own kind, such as KindWrongCluster, keeps it.
func NotDelivered(op string, to base.NodeID, cause error) *base.Error {
	kind, hint := base.KindUnavailable, ""
	if e, ok := errors.AsType[*base.Error](cause); ok {
		kind, hint = e.Kind, e.Hint
	}
	return &base.Error{Kind: kind, Op: op, Message: "node " + to.String() + " cannot be reached: " + cause.Error(),
		Outcome: base.NotDone, Hint: hint, Err: cause}
}

// Interrupted says that a peer may or may not have done what it was asked:
// the wait ended with ctx, or the connection broke for the given cause.
func Interrupted(ctx context.Context, op string, to base.NodeID, cause error) *base.Error {
	e := &base.Error{Kind: base.KindUnavailable, Op: op, Outcome: base.Indeterminate, Err: cause}
	switch ctx.Err() {
	case context.DeadlineExceeded:
		e.Kind, e.Message = base.KindTimeout, "no answer from node "+to.String()+" in time"
	case context.Canceled:
		e.Kind, e.Message = base.KindCanceled, "canceled while waiting for node "+to.String()
	default:
		e.Message = "the connection to node " + to.String() + " broke: " + cause.Error()
	}
	return e
}

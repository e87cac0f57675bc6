package transporttest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/transport"
)

func testCalls(t *testing.T, run Run) {
	setup := func(i int, tr transport.Transport) {
		tr.HandleCall("echo", func(_ context.Context, from base.NodeID, request []byte) ([]byte, error) {
			return append([]byte(from.String()), request...), nil
		})
		tr.HandleCall("nothing", func(context.Context, base.NodeID, []byte) ([]byte, error) { return nil, nil })
		tr.HandleCall("big", func(_ context.Context, _ base.NodeID, request []byte) ([]byte, error) {
			return request, nil
		})
	}
	run(t, 2, setup, func(t *testing.T, c Cluster) {
		ctx := patiently(t)
		request := []byte("hello")
		reply, err := c.Node(0).Call(ctx, ID(1), "echo", request)
		if want := ID(0).String() + "hello"; err != nil || string(reply) != want {
			t.Errorf("echo: %q, %v; want %q", reply, err, want)
		}
		if reply, err = c.Node(1).Call(ctx, ID(0), "nothing", nil); err != nil || len(reply) != 0 {
			t.Errorf("nothing: %q, %v", reply, err)
		}
		large := bytes.Repeat([]byte("0123456789abcdef"), transport.MaxMessage/16)
		if reply, err = c.Node(0).Call(ctx, ID(1), "big", large); err != nil || !bytes.Equal(reply, large) {
			t.Errorf("a call of the largest size: %d bytes, %v", len(reply), err)
		}
		from, reply, err := c.Node(0).(transport.Bootstrapper).CallAddress(ctx, c.Address(1), "echo", request)
		if want := ID(0).String() + "hello"; err != nil || from != ID(1) || string(reply) != want {
			t.Errorf("call by address: %q of %s, %v", reply, from, err)
		}
	})
}

func failingSetup(entered chan<- struct{}, left chan<- error) func(int, transport.Transport) {
	return func(_ int, tr transport.Transport) {
		tr.HandleCall("refuse", func(context.Context, base.NodeID, []byte) ([]byte, error) {
			return nil, &base.Error{Kind: base.KindNotLeader, Op: "insert", Message: "ask another", Hint: "go there",
				Outcome: base.NotDone, SQLState: "25006", Leader: ID(7), Err: errors.New("secret")}
		})
		tr.HandleCall("done", func(context.Context, base.NodeID, []byte) ([]byte, error) {
			return nil, base.Errorf(base.KindDegraded, "too few").WithOutcome(base.Done)
		})
		tr.HandleCall("bug", func(context.Context, base.NodeID, []byte) ([]byte, error) {
			return nil, errors.New("something odd")
		})
		tr.HandleCall("long", func(context.Context, base.NodeID, []byte) ([]byte, error) {
			long := strings.Repeat("\x00", 1<<20)
			return nil, &base.Error{Kind: base.KindSQL, Op: long, Message: long, Hint: long, SQLState: long}
		})
		tr.HandleCall("much", func(context.Context, base.NodeID, []byte) ([]byte, error) {
			return make([]byte, transport.MaxMessage+1), nil
		})
		tr.HandleCall("hang", func(ctx context.Context, _ base.NodeID, _ []byte) ([]byte, error) {
			entered <- struct{}{}
			<-ctx.Done()
			left <- ctx.Err()
			return nil, ctx.Err()
		})
	}
}

func testCallFailures(t *testing.T, run Run) {
	entered, left := make(chan struct{}, 8), make(chan error, 8)
	seen := make(chan transport.Reach, 64)
	run(t, 2, both(failingSetup(entered, left), watchReach(seen)), func(t *testing.T, c Cluster) {
		awaitReach(t, seen, transport.Reached)
		checkAnswers(t, c)
		checkWaits(t, c, entered, left)
		checkBreak(t, c, entered)
		awaitReach(t, seen, transport.Refused)
		_, err := c.Node(0).Call(patiently(t), ID(1), "done", nil)
		wantError(t, err, base.KindUnavailable, base.NotDone)
		_, _, err = c.Node(0).(transport.Bootstrapper).CallAddress(patiently(t), c.Address(1), "done", nil)
		wantError(t, err, base.KindUnavailable, base.NotDone)
	})
}

func checkAnswers(t *testing.T, c Cluster) {
	call := func(method string, request []byte) error {
		_, err := c.Node(0).Call(patiently(t), ID(1), method, request)
		return err
	}
	e := wantError(t, call("refuse", nil), base.KindNotLeader, base.NotDone)
	want := base.Error{Kind: base.KindNotLeader, Op: "insert", Message: "ask another", Hint: "go there",
		Outcome: base.NotDone, SQLState: "25006", Leader: ID(7)}
	if *e != want {
		t.Errorf("an error came as %+v, want %+v", *e, want)
	}
	wantError(t, call("done", nil), base.KindDegraded, base.Done)
	wantError(t, call("bug", nil), base.KindInternal, base.Indeterminate)
	wantError(t, call("long", nil), base.KindSQL, base.NotDone)
	wantError(t, call("much", nil), base.KindTooLarge, base.Indeterminate)
	wantError(t, call("unknown", nil), base.KindUnsupported, base.NotDone)
	wantError(t, call("bug", make([]byte, transport.MaxMessage+1)), base.KindTooLarge, base.NotDone)
	wantError(t, call("", nil), base.KindInvalid, base.NotDone)
	_, err := c.Node(0).Call(context.Background(), ID(1), "done", nil)
	wantError(t, err, base.KindInvalid, base.NotDone)
	_, err = c.Node(0).Call(patiently(t), ID(5), "done", nil)
	wantError(t, err, base.KindUnavailable, base.NotDone)
}

// checkWaits ends waits by a deadline and by cancellation.
func checkWaits(t *testing.T, c Cluster, entered <-chan struct{}, left <-chan error) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := c.Node(0).Call(ctx, ID(1), "hang", nil)
	wantError(t, err, base.KindTimeout, base.Indeterminate)
	receive(t, "the handler to begin", entered)
	receive(t, "the handler to be told of the deadline", left)

	ctx, cancel = context.WithTimeout(t.Context(), patience)
	failed := make(chan error, 1)
	go func() {
		_, err := c.Node(0).Call(ctx, ID(1), "hang", nil)
		failed <- err
	}()
	receive(t, "the handler to begin", entered)
	cancel()
	wantError(t, receive(t, "the canceled call", failed), base.KindCanceled, base.Indeterminate)
	receive(t, "the handler to be told of the cancellation", left)
}

// checkBreak kills the peer in the middle of a call.
func checkBreak(t *testing.T, c Cluster, entered <-chan struct{}) {
	failed := make(chan error, 1)
	go func() {
		_, err := c.Node(0).Call(patiently(t), ID(1), "hang", nil)
		failed <- err
	}()
	receive(t, "the handler to begin", entered)
	c.Kill(1)
	err := receive(t, "the broken call", failed)
	if e := base.AsError(err); e.Outcome != base.Indeterminate {
		t.Errorf("a call that broke: %v with outcome %q", err, e.Outcome)
	}
}

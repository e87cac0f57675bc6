package transporttest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/transport"
)

func testControl(t *testing.T, run Run) {
	const count = 2000
	got := make(chan []byte, 2*count)
	release := make(chan struct{})
	seen := make(chan transport.Reach, 64)
	setup := func(i int, tr transport.Transport) {
		tr.HandleControl(func(from base.NodeID, msg []byte) {
			if string(msg) == "wait" {
				<-release
			}
			if i == 1 && from == ID(0) {
				got <- msg
			}
		})
	}
	run(t, 2, both(setup, watchReach(seen)), func(t *testing.T, c Cluster) {
		node := c.Node(0)
		awaitReach(t, seen, transport.Reached)
		msg := make([]byte, 8)
		for i := range count {
			binary.BigEndian.PutUint64(msg, uint64(i))
			node.SendControl(ID(1), msg) // The slice is ours again at once.
		}
		for i := range count {
			if n := binary.BigEndian.Uint64(receive(t, "a control message", got)); n != uint64(i) {
				t.Fatalf("message %d came as number %d", n, i)
			}
		}
		node.SendControl(ID(5), msg) // Nobody knows node 5.
		node.SendControl(ID(1), make([]byte, transport.MaxControlMessage+1))
		node.SendControl(ID(1), []byte("wait"))
		for range 100 {
			node.SendControl(ID(1), make([]byte, transport.MaxControlMessage)) // More than fits: must not block.
		}
		close(release)
		if msg := receive(t, "the message after one that was too large", got); string(msg) != "wait" {
			t.Errorf("got %d bytes, want what was sent last", len(msg))
		}
	})
}

func testStreams(t *testing.T, run Run) {
	setup := func(_ int, tr transport.Transport) {
		tr.HandleStream("echo", func(_ context.Context, from base.NodeID, header []byte, s transport.Stream) error {
			if err := s.Send(append([]byte(from.String()), header...)); err != nil {
				return err
			}
			return echo(s)
		})
		tr.HandleStream("speak first", func(_ context.Context, _ base.NodeID, _ []byte, s transport.Stream) error {
			if err := errors.Join(s.Send([]byte("all I say")), s.CloseSend()); err != nil {
				return err
			}
			if s.Send(nil) == nil {
				return errors.New("could send after CloseSend")
			}
			msg, err := s.Recv()
			if err != nil || string(msg) != "heard" {
				return errors.New("did not hear the opener")
			}
			return nil
		})
		tr.HandleStream("deaf", func(ctx context.Context, _ base.NodeID, _ []byte, _ transport.Stream) error {
			<-ctx.Done()
			return ctx.Err()
		})
	}
	run(t, 2, setup, func(t *testing.T, c Cluster) {
		checkEcho(t, c)
		checkSpeakFirst(t, c)
		checkStuck(t, c)
	})
}

func echo(s transport.Stream) error {
	for {
		msg, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(msg); err != nil {
			return err
		}
	}
}

func openStream(t *testing.T, ctx context.Context, c Cluster, service, header string) transport.Stream {
	t.Helper()
	s, err := c.Node(0).OpenStream(ctx, ID(1), service, []byte(header))
	if err != nil {
		t.Fatalf("open stream %q: %v", service, err)
	}
	return s
}

func checkEcho(t *testing.T, c Cluster) {
	s := openStream(t, patiently(t), c, "echo", "head")
	if msg, err := s.Recv(); err != nil || string(msg) != ID(0).String()+"head" {
		t.Fatalf("header: %q, %v", msg, err)
	}
	for _, size := range []int{0, 1, 1000, 1 << 20, transport.MaxMessage} {
		msg := bytes.Repeat([]byte{byte(size + 7)}, size)
		want := bytes.Clone(msg)
		if err := s.Send(msg); err != nil {
			t.Fatalf("send %d bytes: %v", size, err)
		}
		clear(msg) // The slice is ours again at once.
		if got, err := s.Recv(); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("echo of %d bytes: %d bytes, %v", size, len(got), err)
		}
	}
	wantError(t, s.Send(make([]byte, transport.MaxMessage+1)), base.KindTooLarge, base.NotDone)
	if err := s.CloseSend(); err != nil {
		t.Fatalf("close send: %v", err)
	}
	for range 2 {
		if msg, err := s.Recv(); !errors.Is(err, io.EOF) {
			t.Fatalf("after the end: %q, %v; want io.EOF", msg, err)
		}
	}
}

func checkSpeakFirst(t *testing.T, c Cluster) {
	s := openStream(t, patiently(t), c, "speak first", "")
	if msg, err := s.Recv(); err != nil || string(msg) != "all I say" {
		t.Fatalf("first message: %q, %v", msg, err)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Fatalf("after the peer's CloseSend: %v, want io.EOF", err)
	}
	if err := s.Send([]byte("heard")); err != nil {
		t.Fatalf("send after the peer's CloseSend: %v", err)
	}
}

// checkStuck fills streams that nobody reads and goes on with another one.
func checkStuck(t *testing.T, c Cluster) {
	ctx, cancel := context.WithCancel(t.Context())
	blocked := make(chan error, 20)
	sent := make(chan int, 1<<16)
	for range cap(blocked) {
		s := openStream(t, ctx, c, "deaf", "")
		go func() {
			for {
				if err := s.Send(make([]byte, 256<<10)); err != nil {
					blocked <- err
					return
				}
				sent <- 1
			}
		}()
	}
	s := openStream(t, patiently(t), c, "echo", "")
	for range 50 {
		err := s.Send([]byte("still here"))
		if _, rerr := s.Recv(); err != nil || rerr != nil {
			t.Fatalf("a stream beside stuck ones: %v, %v", err, rerr)
		}
	}
	cancel()
	for range cap(blocked) {
		wantError(t, receive(t, "a blocked Send to end", blocked), base.KindCanceled, base.Indeterminate)
	}
	if limit := cap(blocked) * 32; len(sent) > limit {
		t.Errorf("%d messages went to readers that read none: no backpressure", len(sent))
	}
}

func testStreamFailures(t *testing.T, run Run) {
	ended := make(chan error, 8)
	setup := func(_ int, tr transport.Transport) {
		tr.HandleStream("fail", func(_ context.Context, _ base.NodeID, _ []byte, s transport.Stream) error {
			if err := s.Send([]byte("before")); err != nil {
				return err
			}
			return base.Errorf(base.KindHistoryLost, "no such past").WithHint("start over")
		})
		tr.HandleStream("listen", func(ctx context.Context, _ base.NodeID, _ []byte, s transport.Stream) error {
			if err := s.Send([]byte("ready")); err != nil {
				return err
			}
			_, err := s.Recv()
			<-ctx.Done()
			ended <- err
			return err
		})
	}
	run(t, 2, setup, func(t *testing.T, c Cluster) {
		s := openStream(t, patiently(t), c, "fail", "")
		if msg, err := s.Recv(); err != nil || string(msg) != "before" {
			t.Fatalf("message before the failure: %q, %v", msg, err)
		}
		_, err := s.Recv()
		if e := wantError(t, err, base.KindHistoryLost, base.NotDone); e.Hint != "start over" {
			t.Errorf("hint %q", e.Hint)
		}
		checkSendAfterEnd(t, s)
		_, err = openStream(t, patiently(t), c, "unknown", "").Recv()
		wantError(t, err, base.KindUnsupported, base.NotDone)
		_, err = c.Node(0).OpenStream(patiently(t), ID(5), "fail", nil)
		wantError(t, err, base.KindUnavailable, base.NotDone)

		checkOpenerLeaves(t, c, ended)
		checkStreamBreaks(t, c, ended)
	})
}

// checkSendAfterEnd expects that a stream that the peer has ended takes
// nothing more, at the latest when its windows are full.
func checkSendAfterEnd(t *testing.T, s transport.Stream) {
	t.Helper()
	for range 100 {
		if err := s.Send(make([]byte, 1<<20)); err != nil {
			wantError(t, err, base.KindUnavailable, base.Indeterminate)
			return
		}
	}
	t.Error("a stream that has ended takes messages for ever")
}

func checkOpenerLeaves(t *testing.T, c Cluster, ended <-chan error) {
	ctx, cancel := context.WithCancel(t.Context())
	s := openStream(t, ctx, c, "listen", "")
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	_, err := s.Recv()
	wantError(t, err, base.KindCanceled, base.Indeterminate)
	wantError(t, receive(t, "the handler to end", ended), base.KindCanceled, base.Indeterminate)
}

func checkStreamBreaks(t *testing.T, c Cluster, ended <-chan error) {
	s := openStream(t, patiently(t), c, "listen", "")
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		_, err := s.Recv()
		failed <- err
	}()
	c.Kill(1)
	receive(t, "the handler to end", ended)
	err := receive(t, "the opener to notice", failed)
	if e := base.AsError(err); e.Outcome != base.Indeterminate {
		t.Errorf("a stream that broke: %v with outcome %q", err, e.Outcome)
	}
}

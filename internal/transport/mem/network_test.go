package mem_test

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/transport"
	"github.com/skeindb/skein/internal/transport/mem"
	"github.com/skeindb/skein/internal/transport/transporttest"
)

var (
	one = transporttest.ID(0)
	two = transporttest.ID(1)
)

// arrival is a control message or a change of reach, and when it came.
type arrival struct {
	what string
	at   time.Duration
}

// stage is two nodes in a bubble: what node 2 receives and what node 1 learns
// of it.
type stage struct {
	*cluster
	began time.Time
	got   chan arrival
	reach chan arrival
}

func onStage(t *testing.T, f func(t *testing.T, s *stage)) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{began: time.Now(), got: make(chan arrival, 10_000), reach: make(chan arrival, 100)}
		s.cluster = newCluster(t, 2, mem.Options{Window: 1000, BreakAfter: 5 * time.Second}, s.setup)
		defer s.close()
		for a := range s.reach { // Node 2 starts second, so that it may be refused at first.
			if a.what == string(transport.Reached) {
				break
			}
		}
		f(t, s)
	})
}

func (s *stage) setup(i int, tr transport.Transport) {
	tr.HandleCall("ping", func(context.Context, base.NodeID, []byte) ([]byte, error) { return []byte("pong"), nil })
	tr.HandleStream("sink", func(ctx context.Context, _ base.NodeID, _ []byte, _ transport.Stream) error {
		<-ctx.Done()
		return nil
	})
	tr.HandleStream("source", func(_ context.Context, _ base.NodeID, _ []byte, st transport.Stream) error {
		for i := range 5 {
			if err := st.Send([]byte{byte(i)}); err != nil {
				return err
			}
		}
		return nil
	})
	if i == 0 {
		tr.OnReach(func(_ base.NodeID, r transport.Reach) { s.reach <- arrival{string(r), time.Since(s.began)} })
		return
	}
	tr.HandleControl(func(_ base.NodeID, msg []byte) { s.got <- arrival{string(msg), time.Since(s.began)} })
}

// wantNext expects something to be there once all is quiet at the given time.
func (s *stage) wantNext(t *testing.T, c chan arrival, what string, at time.Duration) {
	t.Helper()
	synctest.Wait()
	select {
	case a := <-c:
		if a.what != what || a.at != at {
			t.Errorf("got %s at %s, want %s at %s", a.what, a.at, what, at)
		}
	default:
		t.Errorf("nothing came, want %s at %s", what, at)
	}
}

func (s *stage) wantNothing(t *testing.T, c chan arrival) {
	t.Helper()
	synctest.Wait()
	select {
	case a := <-c:
		t.Errorf("got %s at %s, want nothing", a.what, a.at)
	default:
	}
}

func (s *stage) ping(t *testing.T, patience time.Duration) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	began := time.Now()
	_, err := s.nodes[0].Call(ctx, two, "ping", nil)
	return time.Since(began), err
}

func TestDelayIsPerDirection(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		s.network.SetDelay(one, two, 30*time.Millisecond)
		s.network.SetDelay(two, one, 4*time.Millisecond)
		s.nodes[0].SendControl(two, []byte("slow"))
		s.network.SetDelay(one, two, 10*time.Millisecond)
		s.nodes[0].SendControl(two, []byte("faster"))
		time.Sleep(time.Second)
		s.wantNext(t, s.got, "slow", 30*time.Millisecond)
		s.wantNext(t, s.got, "faster", 30*time.Millisecond) // The order is kept.
		if took, err := s.ping(t, time.Second); took != 14*time.Millisecond || err != nil {
			t.Errorf("a call took %s, %v", took, err)
		}
	})
}

func TestLossTakesAShareOfControlMessagesOnly(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		s.network.SetLoss(one, two, 0.5)
		for range 2000 {
			s.nodes[0].SendControl(two, []byte("x"))
		}
		synctest.Wait()
		if n := len(s.got); n < 800 || n > 1200 {
			t.Errorf("%d of 2000 arrived", n)
		}
		s.network.SetLoss(one, two, 1)
		if _, err := s.ping(t, time.Second); err != nil {
			t.Errorf("a call: %v", err)
		}
	})
}

// TestCut tells the story of a link that is cut in one direction.
func TestCut(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		s.network.Cut(one, two)
		s.nodes[0].SendControl(two, []byte("into the void"))
		s.wantNothing(t, s.got)
		s.wantNothing(t, s.reach) // Nobody knows yet.
		_, err := s.ping(t, time.Second)
		if e := base.AsError(err); e.Kind != base.KindTimeout || e.Outcome != base.Indeterminate {
			t.Errorf("a call over a cut link: %v, %s", err, e.Outcome)
		}
		time.Sleep(4 * time.Second)
		s.wantNext(t, s.reach, "lost", 5*time.Second)
		took, err := s.ping(t, 20*time.Second)
		if e := base.AsError(err); e.Kind != base.KindUnavailable || e.Outcome != base.NotDone || took != 3*time.Second {
			t.Errorf("a call to a lost peer: %v, %s, after %s", err, e.Outcome, took)
		}
		s.network.Heal(one, two)
		s.wantNext(t, s.reach, "reached", 8*time.Second)
		s.nodes[0].SendControl(two, []byte("back"))
		s.wantNext(t, s.got, "back", 8*time.Second)
	})
}

func TestShortCutLosesOnlyControlMessages(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		s.network.SetDelay(two, one, time.Millisecond)
		st, err := s.nodes[0].OpenStream(t.Context(), two, "source", nil)
		if err != nil {
			t.Fatal(err)
		}
		s.network.Cut(two, one)
		time.AfterFunc(4*time.Second, func() { s.network.Heal(two, one) })
		for i := range 5 {
			if msg, err := st.Recv(); err != nil || msg[0] != byte(i) {
				t.Fatalf("message %d: %v, %v", i, msg, err)
			}
		}
		if _, err := st.Recv(); err != io.EOF {
			t.Errorf("the end: %v", err)
		}
		if took := time.Since(s.began); took != 4*time.Second {
			t.Errorf("the stream stood still until %s", took)
		}
		time.Sleep(time.Minute)
		s.wantNothing(t, s.reach)
	})
}

func TestDownAndUp(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		s.network.SetDelay(one, two, 10*time.Millisecond)
		s.nodes[0].SendControl(two, []byte("on its way"))
		s.network.Down(two)
		s.wantNext(t, s.reach, "lost", 0)
		s.wantNext(t, s.reach, "refused", 0)
		_, err := s.ping(t, time.Second)
		if e := base.AsError(err); e.Kind != base.KindUnavailable || e.Outcome != base.NotDone {
			t.Errorf("a call to a node that is down: %v, %s", err, e.Outcome)
		}
		s.network.Up(two)
		s.wantNext(t, s.reach, "reached", 0)
		time.Sleep(time.Second)
		s.wantNothing(t, s.got) // What was on its way is gone with the connection.
	})
}

func TestWindowHoldsTheSenderBack(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		st, err := s.nodes[0].OpenStream(t.Context(), two, "sink", nil)
		if err != nil {
			t.Fatal(err)
		}
		sent := make(chan struct{}, 100)
		go func() {
			for st.Send(make([]byte, 99)) == nil {
				sent <- struct{}{}
			}
		}()
		synctest.Wait()
		if n := len(sent); n != 10 {
			t.Errorf("%d messages of 100 bytes went into a window of 1000", n)
		}
		s.network.Isolate(one)
		time.Sleep(time.Minute)
		s.wantNext(t, s.reach, "lost", 5*time.Second) // The blocked Send has ended, or the bubble could not.
		s.network.Rejoin(one)
	})
}

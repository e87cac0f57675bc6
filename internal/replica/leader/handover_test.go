package leader_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
)

// release hands the database over in order and names the next leader.
func (c *cluster) release(target base.NodeID) {
	c.t.Helper()
	a := c.record()
	final, err := c.replica(a.Leader).Release(c.t.Context(), a.Epoch, target, 10*time.Second)
	if err != nil {
		c.t.Fatalf("release to %d: %v", target, err)
	}
	if p := c.promise(target); p.Position != final {
		c.t.Errorf("released at %v, and the target is at %v", final, p.Position)
	}
	c.appoint(target)
}

// A switchover under load loses no write, fails none but those that were
// certainly not done, and does none twice.
func TestSwitchoversLoseNothing(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE counter(id INTEGER PRIMARY KEY, n INTEGER)")
		for i := range 8 {
			c.write("INSERT INTO counter VALUES (?1, 0)", i)
		}
		stop := make(chan struct{})
		counts := make([]int, 8)
		var wg sync.WaitGroup
		for i := range counts {
			wg.Go(func() { counts[i] = c.countUp(i, stop) })
		}
		for round := range 6 {
			time.Sleep(100 * time.Millisecond)
			c.release(base.NodeID((round+1)%3 + 1))
		}
		time.Sleep(100 * time.Millisecond)
		close(stop)
		wg.Wait()
		c.same()
		for i, n := range counts {
			c.expect(1, fmt.Sprintf("SELECT n FROM counter WHERE id = %d", i), fmt.Sprint(n))
			if n == 0 {
				t.Errorf("counter %d was never written", i)
			}
		}
	})
}

// A switchover of a database that nobody writes does not wait for the heartbeat
// that renews the lease: whoever writes meanwhile waits with it.
func TestIdleSwitchoverIsQuick(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE t(x)")
		for round := range 6 {
			time.Sleep(time.Second + time.Duration(round)*7*time.Millisecond)
			a, target := c.record(), base.NodeID((round+1)%3+1)
			began := time.Now()
			if _, err := c.replica(a.Leader).Release(t.Context(), a.Epoch, target, 10*time.Second); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took > 5*time.Millisecond {
				t.Errorf("round %d: an idle database was released after %v", round, took)
			}
			c.appoint(target)
		}
	})
}

// countUp adds to a counter, again where it was certainly not done, and returns
// how often it was done.
func (c *cluster) countUp(id int, stop chan struct{}) (n int) {
	for {
		select {
		case <-stop:
			return n
		default:
		}
		time.Sleep(time.Millisecond) // Without it virtual time would stand still.
		_, err := c.try(c.record().Leader, request("UPDATE counter SET n = n + 1 WHERE id = ?1", id))
		switch e := base.AsError(cmpErr(err)); {
		case err == nil:
			n++
		case e.Kind == base.KindNotLeader || e.Kind == base.KindNoLeader:
			time.Sleep(5 * time.Millisecond)
		default:
			c.t.Errorf("a write in a switchover: %v (%s)", err, e.Kind)
			return n
		}
	}
}

// A target that does not catch up in time leaves everything as it was.
func TestASwitchoverThatFailsGoesBack(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		for _, target := range []base.NodeID{1, 9} {
			if _, err := c.replica(1).Release(t.Context(), 1, target, time.Second); base.KindOf(err) != base.KindInvalid {
				t.Errorf("to %d: %v", target, err)
			}
		}
		if _, err := c.replica(1).Release(t.Context(), 5, 2, time.Second); base.KindOf(err) != base.KindNotLeader {
			t.Errorf("of another epoch: %v", err)
		}
		if _, err := c.replica(2).Release(t.Context(), 1, 3, time.Second); base.KindOf(err) != base.KindNotLeader {
			t.Errorf("of a follower: %v", err)
		}
		c.net.SetDelay(1, 3, 1500*time.Millisecond)
		time.Sleep(2 * time.Second)
		c.write("INSERT INTO item VALUES (1)")
		failed := make(chan error)
		go func() {
			_, err := c.replica(1).Release(context.Background(), 1, 3, time.Second)
			failed <- err
		}()
		time.Sleep(100 * time.Millisecond)
		held := c.pending(1, request("INSERT INTO item VALUES (2)"))
		if err := <-failed; base.KindOf(err) != base.KindTimeout {
			t.Errorf("got %v", err)
		}
		if o := <-held; o.err != nil {
			t.Errorf("the write that was held back: %v", o.err)
		}
		// The supervisor may give up before the leader does.
		c.write("INSERT INTO item VALUES (3)")
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := c.replica(1).Release(ctx, 1, 3, time.Minute)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		c.write("INSERT INTO item VALUES (4)")
		c.net.SetDelay(1, 3, 0)
		time.Sleep(2 * time.Second)
		c.release(3)
		c.write("INSERT INTO item VALUES (5)")
		c.same()
	})
}

// A follower that is about to connect, as after a change of leaders, is waited
// for; one that stays away is not, and no write waits with it.
func TestASwitchoverWaitsForItsTarget(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		c.stop(3)
		_, err := c.replica(1).Release(t.Context(), 1, 3, time.Second)
		wantKind(t, err, base.KindUnavailable, base.NotDone)
		released := make(chan error)
		go func() {
			_, err := c.replica(1).Release(context.Background(), 1, 3, 4*time.Second)
			released <- err
		}()
		time.Sleep(time.Second)
		began := time.Now()
		c.write("INSERT INTO item VALUES (1)")
		if took := time.Since(began); took > 50*time.Millisecond {
			t.Errorf("a write waited %s for a node that is away", took)
		}
		c.open(3)
		if err := <-released; err != nil {
			t.Errorf("to a node that was about to connect: %v", err)
		}
		c.appoint(3)
		c.write("INSERT INTO item VALUES (2)")
		c.same()
	})
}

// An open transaction is waited for, as long as there is time.
func TestASwitchoverWaitsForATransaction(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		tx := c.begin(replica.BeginRequest{})
		say(t, tx, "INSERT INTO item VALUES (1)")
		done := make(chan bool)
		go func() {
			c.release(2)
			close(done)
		}()
		time.Sleep(time.Second)
		commit(t, tx)
		<-done
		c.write("INSERT INTO item VALUES (2)")
		c.same()
		c.expect(1, "SELECT count(*) FROM item", "2")
	})
}

// operation names a write.
func operation(n int) (id replica.OperationID) {
	copy(id[:], fmt.Sprintf("op-%07d", n))
	return id
}

// A write whose leader was killed is found at the next one or certainly absent,
// over many kills: what is done, once, is exactly what was found or answered.
func TestTheFateOfLostWritesIsKnown(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, op INTEGER)")
		seed := rand.New(rand.NewPCG(rand.Uint64(), 2))
		var lives sync.WaitGroup
		stop := make(chan struct{})
		var mu sync.Mutex // guards done
		done := make(map[int]bool)
		for client := range 6 {
			lives.Go(func() {
				for n := client * 10000; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					if c.once(n) {
						mu.Lock()
						done[n] = true
						mu.Unlock()
					}
					time.Sleep(3 * time.Millisecond)
				}
			})
		}
		for range 10 {
			time.Sleep(time.Duration(20+seed.IntN(80)) * time.Millisecond)
			gone := c.record().Leader
			if seed.IntN(3) == 0 { // Its last batches reach one follower, or none.
				for _, id := range c.ids() {
					if id != gone && seed.IntN(2) == 0 {
						c.mute(gone, id)
						defer c.heal(gone, id)
					}
				}
				time.Sleep(5 * time.Millisecond)
			}
			c.kill(gone)
			for _, id := range c.ids() {
				c.heal(gone, id)
			}
			c.elect(c.ids()...)
			c.open(gone)
			c.eventually("another serves", func() bool { _, ok := c.replica(c.record().Leader).Leading(); return ok })
		}
		close(stop)
		lives.Wait()
		c.same()
		if len(done) < 100 {
			t.Errorf("only %d writes were done", len(done))
		}
		c.expect(1, "SELECT count(*), count(DISTINCT op) FROM item", fmt.Sprintf("%d,%d", len(done), len(done)))
		for n := range done {
			if got := c.read(1, fmt.Sprintf("SELECT count(*) FROM item WHERE op = %d", n)); got != "1" {
				t.Errorf("operation %d was done %s times", n, got)
			}
		}
	})
}

// once does a write once, whatever becomes of leaders, and says whether it was
// done; a write that must not be repeated and may be lost fails the test.
func (c *cluster) once(n int) bool {
	for {
		a := c.record()
		m := c.running(a.Leader)
		if m == nil {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		q := request("INSERT INTO item(op) VALUES (?1)", n)
		q.Operation, q.Epoch = operation(n), a.Epoch
		since := c.seen()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		_, err := m.replica.Write(ctx, q)
		cancel()
		e := base.AsError(cmpErr(err))
		switch {
		case err == nil:
			return true
		case e.Outcome != base.Indeterminate:
			time.Sleep(5 * time.Millisecond)
			continue
		}
		found, known := c.fate(operation(n), since, a.Epoch)
		if !known {
			c.t.Errorf("operation %d: nobody knows: %v", n, err)
		}
		if found || !known {
			return found
		}
	}
}

func (c *cluster) running(id base.NodeID) *member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.members[id]
}

// seen is what is known to be safe anywhere; a leader that has just started may
// know of nothing.
func (c *cluster) seen() (at base.Seq) {
	for _, id := range c.ids() {
		if m := c.running(id); m != nil {
			at = max(at, m.replica.Seen())
		}
	}
	return at
}

// fate asks until a later epoch than that of the write has answered.
func (c *cluster) fate(op replica.OperationID, since base.Seq, epoch base.Epoch) (found, known bool) {
	for {
		if m := c.running(c.record().Leader); m != nil {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			f, err := m.replica.Fate(ctx, op, since)
			cancel()
			switch {
			case err == nil && f.Found:
				return true, true
			case err == nil && !f.Known:
				return false, false
			case err == nil && f.Epoch > epoch:
				return false, true
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// What a replica has forgotten it does not deny.
func TestAnUnknownFateIsSaid(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		q := request("INSERT INTO item VALUES (1)")
		q.Operation = operation(1)
		before := c.replica(1).Seen()
		res, err := c.try(1, q)
		if err != nil {
			t.Fatal(err)
		}
		c.level()
		if f, err := c.replica(1).Fate(t.Context(), operation(1), before); err != nil || !f.Found || f.Result.RowsAffected != 1 || f.Result.Position != res.Result.Position {
			t.Errorf("got %+v, %v", f, err)
		}
		if f, err := c.replica(1).Fate(t.Context(), operation(2), before); err != nil || f.Found || !f.Known {
			t.Errorf("got %+v, %v", f, err)
		}
		if _, err := c.replica(2).Fate(t.Context(), operation(1), before); base.KindOf(err) != base.KindNotLeader {
			t.Errorf("got %v", err)
		}
		// A restarted replica reads its log again.
		c.stop(2)
		c.open(2)
		c.level()
		c.promise(1)
		c.appoint(2)
		if f, err := c.replica(2).Fate(t.Context(), operation(1), before); err != nil || !f.Known || !f.Found {
			t.Errorf("got %+v, %v", f, err)
		}
		// One that was copied knows nothing of before the copy.
		c.damageLog(3)
		c.eventually("it is copied", func() bool { return c.copied(3) })
		c.level()
		c.promise(2)
		c.appoint(3)
		if f, err := c.replica(3).Fate(t.Context(), operation(1), before); err != nil || f.Known || f.Found {
			t.Errorf("got %+v, %v", f, err)
		}
		c.same()
	})
}

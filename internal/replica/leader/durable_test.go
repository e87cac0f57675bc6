package leader_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/leadership"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/replica/leader"
)

// pending starts a write and gives its outcome later.
func (c *cluster) pending(id base.NodeID, q replica.WriteRequest) chan outcome {
	done := make(chan outcome, 1)
	go func() {
		res, err := c.try(id, q)
		done <- outcome{res, err}
	}()
	return done
}

// still says that nothing has come for a while.
func still(t *testing.T, what string, done <-chan outcome) {
	t.Helper()
	select {
	case o := <-done:
		t.Errorf("%s: answered: %v, %v", what, o.res, o.err)
	case <-time.After(5 * time.Second):
	}
}

func with(q replica.WriteRequest, durability string) replica.WriteRequest {
	d, err := base.ParseDurability(durability)
	if err != nil {
		panic(err)
	}
	q.Durability = d
	return q
}

func TestNothingIsAcknowledgedBeforeEnoughFollowersHaveIt(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		c.mute(1, 2)
		c.mute(1, 3)
		quorum := c.pending(1, request("INSERT INTO item VALUES (1)"))
		all := c.pending(1, with(request("INSERT INTO item VALUES (2)"), "all"))
		still(t, "quorum without followers", quorum)
		c.heal(1, 2)
		o := <-quorum
		if o.err != nil || o.res.Result.Reached != "flushed on 2 of 3" {
			t.Errorf("got %+v, %v", o.res, o.err)
		}
		still(t, "all without one follower", all)
		c.heal(1, 3)
		if o := <-all; o.err != nil || o.res.Result.Reached != "flushed on 3 of 3" || o.res.Result.Asked.Level != base.All {
			t.Errorf("got %+v, %v", o.res, o.err)
		}
		c.same()
	})
}

// An isolated leader has no lease: it acknowledges nothing at all, however
// little is asked for. One that can be heard acknowledges what is asked for.
func TestAsyncIsPerTransaction(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		for _, id := range []base.NodeID{2, 3} {
			c.member(id).files.slow() // They are there, and flush nothing.
		}
		quorum := c.pending(1, request("INSERT INTO item VALUES (1)"))
		if o := <-c.pending(1, with(request("INSERT INTO item VALUES (2)"), "async")); o.err != nil || o.res.Result.Reached != "flushed on 1 of 3" {
			t.Errorf("got %+v, %v", o.res, o.err)
		}
		still := time.After(100 * time.Millisecond)
		select {
		case o := <-quorum:
			t.Errorf("quorum was answered: %+v, %v", o.res, o.err)
		case <-still:
		}
		for _, id := range []base.NodeID{2, 3} {
			c.member(id).files.fast()
		}
		if o := <-quorum; o.err != nil {
			t.Error(o.err)
		}
		c.same()
	})
}

// A read on the leader does not show what may yet be lost: it waits.
func TestNoReadShowsWhatIsNotSafe(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		c.mute(1, 2)
		c.mute(1, 3)
		write := c.pending(1, request("INSERT INTO item VALUES (1)"))
		time.Sleep(time.Second)
		began := time.Now()
		if got, err := c.query(1, replica.ReadRequest{}, "SELECT count(*) FROM item"); err == nil {
			t.Errorf("read %q before it was safe", got)
		} else if base.KindOf(err) != base.KindUnavailable || time.Since(began) > 11*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		if got, err := c.query(1, replica.ReadRequest{Linearizable: true}, "SELECT 1"); err == nil {
			t.Errorf("read %q without a lease", got)
		}
		c.expect(2, "SELECT count(*) FROM item", "0")
		done := make(chan string)
		go func() {
			got, _ := c.query(1, replica.ReadRequest{}, "SELECT count(*) FROM item")
			done <- got
		}()
		time.Sleep(time.Second)
		c.heal(1, 2)
		if got := <-done; got != "1" {
			t.Errorf("the read that waited got %q", got)
		}
		if o := <-write; o.err != nil {
			t.Error(o.err)
		}
	})
}

// A database that may degrade goes on without its followers, records that
// first, says so, and comes back.
func TestDegradingIsRecordedAndSaid(t *testing.T) {
	run(t, 3, func(p *base.Policy) { p.DegradeAfter = 2 * time.Second }, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		c.mu.Lock()
		c.mu.deaf = true
		c.mu.Unlock()
		c.stop(2)
		c.stop(3)
		write := c.pending(1, request("INSERT INTO item VALUES (1)"))
		still(t, "degraded before it was recorded", write)
		c.mu.Lock()
		proposed := slices.ContainsFunc(c.mu.effects, func(e leadership.Effect) bool { return e.Kind == leadership.ProposeCounting })
		c.mu.deaf = false
		c.mu.Unlock()
		if !proposed {
			t.Error("nothing was proposed")
		}
		if o := <-write; o.err != nil || !o.res.Result.Degraded || o.res.Result.Reached != "flushed on 1 of 3" {
			t.Errorf("got %+v, %v", o.res, o.err)
		}
		if s := c.replica(1).Status(); !s.Degraded || !strings.Contains(c.replica(1).DegradedReason(), "1 copies count where the policy asks for 2") {
			t.Errorf("degraded %v: %q", s.Degraded, c.replica(1).DegradedReason())
		}
		c.open(2)
		c.open(3)
		c.eventually("as many count as should", func() bool { return !c.replica(1).Status().Degraded })
		if res := c.write("INSERT INTO item VALUES (2)"); res.Degraded {
			t.Error("still degraded")
		}
		c.same()
	})
}

// The policy may come to count applied copies while followers follow: they then
// apply what is not safe yet, or nothing would be safe any more.
func TestThePolicyBeginsToCountAppliedCopies(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		o := <-c.pending(1, with(request("INSERT INTO item VALUES (1)"), "all applied"))
		if o.err != nil {
			t.Fatal(o.err)
		}
		c.expect(3, "SELECT count(*) FROM item", "1")
		c.change(func(a *leader.Assignment) { a.Policy.Durability.When = base.Applied })
		c.write("INSERT INTO item VALUES (2)")
		c.same()
	})
}

// A client that stops waiting is told that its write may stand.
func TestGivingUpOnFollowersIsIndeterminate(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		c.mute(1, 2)
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		_, err := c.replica(1).Write(ctx, request("INSERT INTO item VALUES (1)"))
		wantKind(t, err, base.KindTimeout, base.Indeterminate)
		c.heal(1, 2)
		c.same()
		c.expect(2, "SELECT count(*) FROM item", "1")
	})
}

// The bounds of a stale read hold on a leader that nobody hears, too.
func TestAnIsolatedLeaderTellsItsAge(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		bounded := replica.ReadRequest{MaxAge: 2 * time.Second}
		for _, id := range c.ids() {
			if got, err := c.query(id, bounded, "SELECT count(*) FROM item"); got != "0" {
				t.Errorf("node %d: %q, %v", id, got, err)
			}
		}
		c.mute(1, 2)
		c.mute(1, 3)
		time.Sleep(3 * time.Second)
		for _, id := range c.ids() {
			if _, err := c.query(id, bounded, "SELECT count(*) FROM item"); base.KindOf(err) != base.KindStale {
				t.Errorf("node %d: %v", id, err)
			}
			c.expect(id, "SELECT count(*) FROM item", "0")
		}
	})
}

// What was sent long ago and comes now makes nobody level: a follower that wakes
// up, or whose link does, is as old as what it has been told.
func TestLateHeartbeatsMakeNobodyLevel(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		time.Sleep(time.Second)
		c.net.SetDelay(1, 3, 5*time.Second)
		time.Sleep(4900 * time.Millisecond)
		c.write("INSERT INTO item VALUES (1)")
		time.Sleep(time.Second) // Node 3 hears what was said five seconds ago.
		bounded := replica.ReadRequest{MaxAge: time.Second}
		if got, err := c.query(3, bounded, "SELECT count(*) FROM item"); base.KindOf(err) != base.KindStale {
			t.Errorf("it reads %q, which is old: %v", got, err)
		}
		c.net.SetDelay(1, 3, 0)
		c.same()
		time.Sleep(time.Second)
		if got, err := c.query(3, bounded, "SELECT count(*) FROM item"); got != "1" {
			t.Errorf("level again, it reads %q, %v", got, err)
		}
	})
}

// A follower applies what its own log has on disk, however safe it is elsewhere:
// after a power cut its database must not be ahead of its log.
func TestAFollowerAppliesWhatItHasFlushed(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		c.member(3).files.slow()
		c.write("INSERT INTO item VALUES (1)")
		time.Sleep(100 * time.Millisecond)
		if s := c.replica(3).Status(); s.Appended.Seq <= s.Flushed {
			t.Errorf("appended %v, flushed %d", s.Appended, s.Flushed)
		}
		c.expect(2, "SELECT count(*) FROM item", "1")
		c.expect(3, "SELECT count(*) FROM item", "0")
		c.member(3).files.fast()
		c.same()
	})
}

// After a failover with loss the numbers of what was lost are used again: that
// they were safe once does not make them so.
func TestNumbersUsedAgainAreNotSafe(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, data BLOB)")
		c.level()
		c.stop(3)
		for range 24 {
			c.write("INSERT INTO item(data) VALUES (randomblob(262144))")
		}
		c.net.SetDelay(1, 3, 50*time.Millisecond)
		c.open(3)
		c.eventually("node 3 has some of it", func() bool { return c.replica(3).Status().Appended.Seq > 2 })
		c.mute(1, 3)
		c.mute(2, 3)
		at := c.replica(3).Status()
		if at.Appended.Seq >= at.Safe {
			t.Fatalf("node 3 is at %v, and %d is safe", at.Appended, at.Safe)
		}
		c.promise(3)
		c.name(3)
		c.eventually("it leads", func() bool { return c.replica(3).Status().Role == replica.RoleLeader })
		lost := c.pending(3, request("DELETE FROM item"))
		time.Sleep(time.Second)
		if got, err := c.query(3, replica.ReadRequest{}, "SELECT count(*) FROM item"); err == nil {
			t.Errorf("read %s before it was safe", got)
		}
		c.heal(1, 3)
		c.heal(2, 3)
		if o := <-lost; o.err != nil {
			t.Error(o.err)
		}
		c.same()
	})
}

// A client that has gone gets no answer, and whoever answers it is not held up.
func TestNobodyWaitsForAnAnswerThatIsGiven(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		c.mute(1, 2)
		c.mute(1, 3)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := c.replica(1).Write(ctx, request("INSERT INTO item VALUES (1)"))
		wantKind(t, err, base.KindTimeout, base.Indeterminate)
		c.elect(2, 3)
		c.heal(1, 2)
		c.heal(1, 3)
		c.same()
		c.expect(1, "SELECT count(*) FROM item", "0")
	})
}

// A replica that has stopped can still be asked about.
func TestAStoppedReplicaAnswers(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		m := c.member(1)
		c.stop(1)
		if s := m.replica.Status(); s.Appended.Seq != 2 {
			t.Errorf("got %+v", s)
		}
		for what, err := range map[string]error{
			"write":    second(m.replica.Write(t.Context(), request("INSERT INTO item VALUES (1)"))),
			"begin":    second(m.replica.BeginWrite(t.Context(), replica.BeginRequest{})),
			"read":     second(m.replica.BeginRead(t.Context(), replica.ReadRequest{})),
			"describe": second(m.replica.Describe(t.Context(), "SELECT 1")),
			"verify":   m.replica.Verify(t.Context()),
		} {
			if err == nil {
				t.Errorf("%s: no error", what)
			}
		}
	})
}

func second[T any](_ T, err error) error { return err }

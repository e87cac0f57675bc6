package leader_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/replica/leader"
)

// show writes an orphaned write as "1/7 update item (1): (a) -> (b)".
func show(o leader.Orphan) string {
	values := func(vs []base.Value) string {
		var words []string
		for _, v := range vs {
			words = append(words, word(v))
		}
		return "(" + strings.Join(words, ",") + ")"
	}
	return fmt.Sprintf("%d/%d %s %s %s: %s -> %s", o.Epoch, o.Seq, o.Operation, o.Table, values(o.Key), values(o.Old), values(o.New))
}

func (c *cluster) orphans(id base.NodeID) string {
	c.t.Helper()
	list, err := c.replica(id).Orphans(c.t.Context(), 1000)
	if err != nil {
		c.t.Fatal(err)
	}
	var lines []string
	for _, o := range list {
		lines = append([]string{show(o)}, lines...)
	}
	return strings.Join(lines, "\n")
}

// A leader that is cut off comes back as a follower without what it could not
// have acknowledged; its clients know, nobody has seen it, and it is told.
func TestADeposedLeaderUndoesItsTail(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT, data BLOB)")
		c.write("INSERT INTO item VALUES (1, 'one', NULL), (2, 'two', x'00ff'), (3, 'three', 1.5)")
		c.level()
		before := c.replica(1).Status().Appended.Seq
		c.mute(1, 2)
		c.mute(1, 3)
		insert := c.pending(1, request("INSERT INTO item VALUES (4, 'lost', NULL)"))
		time.Sleep(10 * time.Millisecond)
		update := c.pending(1, request("UPDATE item SET name = 'changed', data = x'01' WHERE id = 2"))
		time.Sleep(10 * time.Millisecond)
		remove := c.pending(1, request("DELETE FROM item WHERE id = 3"))
		time.Sleep(10 * time.Millisecond)
		reading := make(chan error)
		go func() {
			got, err := c.query(1, replica.ReadRequest{}, "SELECT count(*) FROM item")
			if err == nil {
				err = fmt.Errorf("read %s", got)
			}
			reading <- err
		}()
		time.Sleep(10 * time.Millisecond)
		if got := c.elect(2, 3); got == 1 {
			t.Fatal("the old leader was elected")
		}
		if err := <-reading; base.KindOf(err) == base.KindInternal {
			t.Errorf("the read that saw the tail: %v", err)
		}
		for what, done := range map[string]chan outcome{"insert": insert, "update": update, "delete": remove} {
			o := <-done
			if o.err == nil || base.AsError(o.err).Outcome != base.Indeterminate {
				t.Errorf("%s: %v", what, o.err)
			}
		}
		c.heal(1, 2)
		c.heal(1, 3)
		c.eventually("the next leader serves", func() bool { _, ok := c.replica(c.record().Leader).Leading(); return ok })
		c.write("INSERT INTO item VALUES (4, 'kept', NULL)")
		c.same()
		c.expect(1, "SELECT id, name FROM item", "1,one;2,two;3,three;4,kept")
		want := fmt.Sprintf("1/%d insert item (4): () -> (lost,NULL)\n1/%d update item (2): (two,\x00\xff) -> (changed,\x01)\n1/%d delete item (3): (three,1.5) -> ()",
			before+1, before+2, before+3)
		if got := c.orphans(1); got != want {
			t.Errorf("orphans:\n%s\nwant:\n%s", got, want)
		}
		if n := c.replica(1).Status().Orphans; n != 3 {
			t.Errorf("%d orphans are counted", n)
		}
		for _, id := range []base.NodeID{2, 3} {
			if got := c.orphans(id); got != "" {
				t.Errorf("node %d has orphans: %s", id, got)
			}
		}
		// They survive a restart, and one more cut does not repeat them.
		c.stop(1)
		c.open(1)
		if got := c.orphans(1); got != want {
			t.Errorf("orphans after a restart:\n%s", got)
		}
		c.same()
	})
}

// A killed leader finds its tail in its files and undoes it just so.
func TestAKilledLeaderUndoesItsTail(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT)")
		c.write("INSERT INTO item VALUES (1, 'one')")
		c.level()
		c.mute(1, 2)
		c.mute(1, 3)
		lost := c.pending(1, request("INSERT INTO item VALUES (2, 'lost')"))
		time.Sleep(100 * time.Millisecond)
		c.kill(1)
		<-lost
		c.elect(2, 3)
		c.heal(1, 2)
		c.heal(1, 3)
		c.eventually("the next leader serves", func() bool { _, ok := c.replica(c.record().Leader).Leading(); return ok })
		c.open(1)
		c.same()
		c.expect(1, "SELECT id FROM item", "1")
		if got := c.orphans(1); !strings.Contains(got, "item (2): () -> (lost)") {
			t.Errorf("orphans: %q", got)
		}
	})
}

// What can't be undone row by row is replaced by a copy.
func TestASchemaChangeInTheTailIsCopiedOver(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT)")
		c.level()
		c.mute(1, 2)
		c.mute(1, 3)
		a := c.pending(1, request("INSERT INTO item VALUES (2, 'lost')"))
		time.Sleep(10 * time.Millisecond)
		b := c.pending(1, request("ALTER TABLE item ADD COLUMN more"))
		time.Sleep(10 * time.Millisecond)
		c.elect(2, 3)
		<-a
		<-b
		c.heal(1, 2)
		c.heal(1, 3)
		c.eventually("the next leader serves", func() bool { _, ok := c.replica(c.record().Leader).Leading(); return ok })
		c.write("INSERT INTO item VALUES (3, 'kept')")
		c.same()
		if got := c.orphans(1); !strings.Contains(got, "item (2): () -> (lost)") || !strings.Contains(got, "ALTER TABLE") {
			t.Errorf("orphans: %q", got)
		}
		if s := c.replica(1).Status(); s.LogStart == 1 {
			t.Error("the replica was not copied")
		}
	})
}

// A follower that has received what was never safe undoes it as well; and the
// same cut again, after a crash in its middle, changes nothing.
func TestAnIdleReaderDoesNotHoldUpACut(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT)")
		c.level()
		c.mute(1, 2)
		c.mute(1, 3)
		lost := c.pending(1, request("INSERT INTO item VALUES (2, 'lost')"))
		time.Sleep(10 * time.Millisecond)
		tx, err := c.replica(1).BeginRead(t.Context(), replica.ReadRequest{})
		if err != nil {
			t.Fatal(err)
		}
		c.elect(2, 3)
		<-lost
		c.heal(1, 2)
		c.heal(1, 3)
		c.same()
		rows, err := tx.Query(t.Context(), statement("SELECT count(*) FROM item"))
		if err == nil {
			_, err = text(rows)
		}
		wantKind(t, err, base.KindUnavailable, base.NotDone)
		tx.Close()
		tx.Close()
	})
}

// A process that led an epoch does not lead it again: it rests, and says so.
func TestALeaderDoesNotLeadItsEpochTwice(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.kill(1)
		c.open(1)
		c.eventually("it rests", func() bool { return c.replica(1).Resting() == 1 })
		_, err := c.try(1, request("INSERT INTO item VALUES (1)"))
		wantKind(t, err, base.KindNoLeader, base.NotDone)
		c.appoint(1)
		c.write("INSERT INTO item VALUES (1)")
		c.expect(1, "SELECT count(*) FROM item", "1")
	})
}

// A follower's promise ends what it does for the old leader at once.
func TestAPromiseEndsTheOldEpoch(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		p := c.promise(2)
		if !p.Granted || p.Fresh || p.Position != c.replica(1).Status().Appended || p.LeaseRemaining <= 0 {
			t.Errorf("got %+v", p)
		}
		c.promise(3)
		lost := c.pending(1, request("INSERT INTO item VALUES (1)"))
		if o := <-lost; o.err == nil {
			t.Error("a write was acknowledged by a leader whose followers have promised")
		}
		if again := c.promise(2); !again.Granted || again.Position != p.Position {
			t.Errorf("asked again: %+v", again)
		}
		p1 := c.promise(1)
		if !p1.Granted || p1.Position.Seq < p.Position.Seq {
			t.Errorf("the leader's own: %+v", p1)
		}
		c.elect(1, 2, 3)
		c.same()
	})
}

// A replica that is being copied, or was and is not level yet, is no evidence of
// anything: what it had acknowledged may be missing in the copy.
func TestACopiedReplicaIsNoEvidenceBeforeItIsLevel(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		// A snapshot is made now, and kept.
		c.damageLog(3)
		c.eventually("node 3 was copied", func() bool {
			return c.replica(3).Status().Role == replica.RoleFollower && c.replica(3).Status().LogStart > 1
		})
		c.level()
		c.eventually("a copied replica that is level is evidence", func() bool { return !c.promiseProbe(3).Fresh })
		// Node 2 hears nothing more; node 3 alone confirms what follows.
		c.mute(1, 2)
		for i := range 20 {
			c.write("INSERT INTO item VALUES (?1)", i)
		}
		// Node 3 loses its log and is copied from the old snapshot; then the
		// leader goes before it has caught up.
		c.net.SetDelay(1, 3, 40*time.Millisecond)
		c.damageLog(3)
		c.eventually("the copy is in place", func() bool {
			s := c.replica(3).Status()
			return s.Role == replica.RoleFollower && s.LogStart > 1 && s.Error == ""
		})
		c.mute(1, 3)
		behind := c.replica(3).Status().Appended.Seq < c.replica(1).Status().Appended.Seq
		if p := c.promiseProbe(3); behind && !p.Fresh {
			t.Errorf("the copy is at %v, the leader at %v, and it counts as evidence", p.Position, c.replica(1).Status().Appended)
		}
		if !behind {
			t.Error("the replica was level too soon for this test")
		}
		c.heal(1, 3)
		c.heal(1, 2)
		c.same()
		c.eventually("it is evidence again", func() bool { return !c.promiseProbe(3).Fresh })
	})
}

// A leader that always has something to ship finds the time to say where its log
// ended when a follower came: only what has come as far is evidence again.
func TestACopiedReplicaIsEvidenceAgainWhileClientsWrite(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		for _, id := range []base.NodeID{2, 3} {
			c.net.SetDelay(1, id, time.Millisecond)
			c.net.SetDelay(id, 1, time.Millisecond)
		}
		written := make(chan int)
		go func() {
			for n := 0; ; n++ {
				select {
				case written <- n:
					return
				default:
				}
				if _, err := c.try(1, request("INSERT INTO item VALUES (?1)", n)); err != nil {
					t.Error(err)
				}
			}
		}()
		defer func() {
			if n := <-written; n < 10 {
				t.Errorf("the leader had nothing to ship: %d writes", n)
			}
		}()
		c.damageLog(3)
		c.eventually("the copy is in place", func() bool { return c.copied(3) })
		end := c.replica(1).Status().Appended.Seq
		c.eventually("it has what there was", func() bool { return c.replica(3).Status().Appended.Seq > end+10 })
		if c.promiseProbe(3).Fresh || c.replica(3).Status().Unproven {
			t.Error("it is no evidence")
		}
	})
}

// The tail is told also when the database file can't be used, and is copied.
func TestATailBesideADamagedFileIsTold(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT)")
		c.level()
		c.mute(1, 2)
		c.mute(1, 3)
		lost := c.pending(1, request("INSERT INTO item VALUES (2, 'lost')"))
		time.Sleep(100 * time.Millisecond)
		c.kill(1)
		<-lost
		c.damageFile(1)
		c.elect(2, 3)
		c.heal(1, 2)
		c.heal(1, 3)
		c.eventually("the next leader serves", func() bool { _, ok := c.replica(c.record().Leader).Leading(); return ok })
		c.write("INSERT INTO item VALUES (3, 'kept')")
		c.open(1)
		c.same()
		if got := c.orphans(1); !strings.Contains(got, "item (2): () -> (lost)") {
			t.Errorf("orphans: %q", got)
		}
		c.expect(1, "SELECT id FROM item", "3")
	})
}

// An old leader that is cut off has higher numbers than the new one, and they
// were safe when its policy was content with itself: they are no answer to who
// has seen the new one's.
func TestAHigherNumberOfAnOldEpochIsNoProof(t *testing.T) {
	run(t, 3, func(p *base.Policy) { p.Durability.Level = base.Async }, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		c.mute(1, 2)
		c.mute(1, 3)
		for i := range 20 {
			c.write("INSERT INTO item VALUES (?1)", i)
		}
		c.promise(2)
		c.promise(3)
		c.appoint(2)
		at := c.write("INSERT INTO item VALUES (100)").Position
		if old := c.replica(1).Status(); old.Applied.Seq <= at.Seq {
			t.Fatalf("the old leader is at %v, the new one at %v", old.Applied, at)
		}
		_, err := c.query(1, replica.ReadRequest{AtLeast: at}, "SELECT count(*) FROM item")
		wantKind(t, err, base.KindStale, base.NotDone)
		c.heal(1, 2)
		c.heal(1, 3)
		c.same()
		c.expect(1, "SELECT group_concat(id) FROM item", "100")
	})
}

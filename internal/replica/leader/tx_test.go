package leader_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/replica/leader"
)

func (c *cluster) begin(q replica.BeginRequest) replica.WriteTx {
	c.t.Helper()
	q.Guard = replica.GuardAdmin
	tx, err := c.replica(c.record().Leader).BeginWrite(c.t.Context(), q)
	if err != nil {
		c.t.Fatal(err)
	}
	return tx
}

// say runs a statement in a transaction and returns what it read.
func say(t *testing.T, tx replica.WriteTx, sql string, args ...any) string {
	t.Helper()
	rows, err := tx.Query(t.Context(), statement(sql, args...))
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	got, err := text(rows)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return got
}

func refused(t *testing.T, tx replica.WriteTx, sql string) error {
	t.Helper()
	_, err := tx.Query(t.Context(), statement(sql))
	if err == nil {
		t.Fatalf("%s: no error", sql)
	}
	return err
}

func commit(t *testing.T, tx replica.WriteTx) {
	t.Helper()
	if res, err := tx.Commit(t.Context(), base.Durability{}, replica.OperationID{}, ""); err != nil || res.Tag != "COMMIT" {
		t.Fatalf("commit: %+v, %v", res, err)
	}
}

// What the log gets is what the transaction did in the end: failed statements
// and savepoints that were rolled back leave nothing in it.
func TestSavepointsAndFailuresInATransaction(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, name UNIQUE)")
		tx := c.begin(replica.BeginRequest{})
		say(t, tx, "INSERT INTO item VALUES (1, 'one')")
		refused(t, tx, "INSERT INTO item VALUES (2, 'two'), (3, 'one')")
		say(t, tx, "SAVEPOINT a")
		say(t, tx, "INSERT INTO item VALUES (10, 'ten')")
		say(t, tx, "SAVEPOINT b")
		say(t, tx, "INSERT INTO item VALUES (11, 'eleven')")
		say(t, tx, "UPDATE item SET name = 'changed' WHERE id = 1")
		say(t, tx, "ROLLBACK TO b")
		say(t, tx, "INSERT INTO item VALUES (12, 'twelve')")
		say(t, tx, "RELEASE b")
		refused(t, tx, "ROLLBACK TO b")
		say(t, tx, "SAVEPOINT A")
		say(t, tx, "DELETE FROM item")
		say(t, tx, "ROLLBACK TO a")
		say(t, tx, "RELEASE a")
		say(t, tx, "ALTER TABLE item ADD COLUMN more DEFAULT 7")
		if got := say(t, tx, "SELECT id, name, more FROM item"); got != "1,one,7;10,ten,7;12,twelve,7" {
			t.Errorf("in the transaction: %s", got)
		}
		if got := say(t, tx, "INSERT INTO item VALUES (20, 'x', 1) RETURNING name"); got != "x" {
			t.Errorf("returned %s", got)
		}
		commit(t, tx)
		if _, err := tx.Query(t.Context(), statement("SELECT 1")); err == nil || tx.Alive() {
			t.Error("it lives after its commit")
		}
		c.same()
		c.expect(2, "SELECT id, name, more FROM item", "1,one,7;10,ten,7;12,twelve,7;20,x,1")
	})
}

// What can't be undone alone ends the transaction; nothing of it stays.
func TestAStatementThatEndsItsTransaction(t *testing.T) {
	for name, sql := range map[string]string{
		"or rollback":    "INSERT OR ROLLBACK INTO item VALUES (2, 'x'), (1000, 'again')",
		"or fail":        "INSERT OR FAIL INTO item VALUES (2, 'x'), (1000, 'again')",
		"engine panics":  "SELECT " + exhausting,
		"endless answer": "INSERT INTO item WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i+1 FROM n LIMIT 90) SELECT i, 'x' FROM n RETURNING zeroblob(1000000)",
		"too large":      "INSERT INTO item VALUES (2, zeroblob(17000000))",
	} {
		t.Run(name, func(t *testing.T) {
			run(t, 2, nil, func(t *testing.T, c *cluster) {
				c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, name)")
				c.write("INSERT INTO item VALUES (1000, 'first')")
				tx := c.begin(replica.BeginRequest{})
				say(t, tx, "INSERT INTO item VALUES (1, 'lost')")
				refused(t, tx, sql)
				if tx.Alive() {
					t.Error("the transaction lives")
				}
				if _, err := tx.Commit(t.Context(), base.Durability{}, replica.OperationID{}, ""); err == nil {
					t.Error("it was committed")
				}
				c.write("INSERT INTO item VALUES (3, 'after')")
				c.same()
				c.expect(2, "SELECT count(*) FROM item", "2")
			})
		})
	}
}

func TestAStaleSnapshotMustBeRunAgain(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		at := c.write("INSERT INTO item VALUES (1)").Position
		tx := c.begin(replica.BeginRequest{Snapshot: &at})
		say(t, tx, "INSERT INTO item VALUES (2)")
		commit(t, tx)
		_, err := c.replica(1).BeginWrite(t.Context(), replica.BeginRequest{Snapshot: &at, Guard: replica.GuardWrite})
		wantKind(t, err, base.KindConflict, base.NotDone)
		if e := base.AsError(cmpErr(err)); e.State() != "40001" {
			t.Errorf("state %s", e.State())
		}
		// The same number in another history is not the same state.
		now := c.replica(1).Status().Appended
		other := base.Position{Epoch: now.Epoch + 1, Seq: now.Seq}
		_, err = c.replica(1).BeginWrite(t.Context(), replica.BeginRequest{Snapshot: &other, Guard: replica.GuardWrite})
		wantKind(t, err, base.KindConflict, base.NotDone)
	})
}

// Timeouts give the writer back to those who wait.
func TestTimeoutsGiveTheWriterBack(t *testing.T) {
	run(t, 2, func(p *base.Policy) { p.TxIdleTimeout, p.TxTotalTimeout = 2*time.Second, 5*time.Second }, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		idle := c.begin(replica.BeginRequest{})
		say(t, idle, "INSERT INTO item VALUES (1)")
		began := time.Now()
		c.write("INSERT INTO item VALUES (2)")
		if waited := time.Since(began); waited < 1900*time.Millisecond || waited > 3*time.Second {
			t.Errorf("waited %v for an idle transaction", waited)
		}
		_, err := idle.Query(t.Context(), statement("SELECT 1"))
		wantKind(t, err, base.KindTimeout, base.NotDone)
		_, err = idle.Commit(t.Context(), base.Durability{}, replica.OperationID{}, "")
		wantKind(t, err, base.KindTimeout, base.NotDone)

		busy := c.begin(replica.BeginRequest{})
		began = time.Now()
		done := c.pending(1, request("INSERT INTO item VALUES (3)"))
		for err = nil; err == nil; {
			time.Sleep(time.Second)
			_, err = busy.Query(t.Context(), statement("INSERT INTO item DEFAULT VALUES"))
		}
		wantKind(t, err, base.KindTimeout, base.NotDone)
		if o := <-done; o.err != nil || time.Since(began) > 7*time.Second {
			t.Errorf("after %v: %v", time.Since(began), o.err)
		}
		busy.Rollback()
		c.same()
		c.expect(2, "SELECT group_concat(id) FROM item", "2,3")
	})
}

// A client that goes away while it waits for the writer leaves nothing behind.
func TestGivingUpWaitingForTheWriter(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		tx := c.begin(replica.BeginRequest{})
		say(t, tx, "INSERT INTO item VALUES (1)")
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := c.replica(1).BeginWrite(ctx, replica.BeginRequest{Guard: replica.GuardWrite})
		wantKind(t, err, base.KindTimeout, base.NotDone)
		_, err = c.replica(1).Write(ctx, request("INSERT INTO item VALUES (2)"))
		wantKind(t, err, base.KindTimeout, base.NotDone)
		tx.Rollback()
		began := time.Now()
		c.write("INSERT INTO item VALUES (3)")
		if time.Since(began) > time.Second {
			t.Errorf("waited %v for a transaction that nobody wants", time.Since(began))
		}
		c.same()
		c.expect(2, "SELECT group_concat(id) FROM item", "3")
	})
}

// The leader changes under a transaction: it was certainly not committed. Under
// its commit nobody knows.
func TestATransactionWhoseLeaderChanges(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		tx := c.begin(replica.BeginRequest{})
		say(t, tx, "INSERT INTO item VALUES (1)")
		c.mute(1, 2)
		c.mute(1, 3)
		c.elect(2, 3)
		time.Sleep(time.Second)
		_, err := tx.Query(t.Context(), statement("INSERT INTO item VALUES (2)"))
		wantKind(t, err, base.KindConflict, base.NotDone)
		_, err = tx.Commit(t.Context(), base.Durability{}, replica.OperationID{}, "")
		wantKind(t, err, base.KindConflict, base.NotDone)
		c.heal(1, 2)
		c.heal(1, 3)
		c.same()

		now := c.record().Leader
		tx = c.begin(replica.BeginRequest{})
		say(t, tx, "INSERT INTO item VALUES (3)")
		var others []base.NodeID
		for _, id := range c.ids() {
			if id != now {
				c.mute(now, id)
				others = append(others, id)
			}
		}
		answer := make(chan error)
		go func() {
			_, err := tx.Commit(context.Background(), base.Durability{}, replica.OperationID{}, "")
			answer <- err
		}()
		time.Sleep(100 * time.Millisecond)
		c.elect(others...)
		wantKind(t, <-answer, base.KindIndeterminate, base.Indeterminate)
		for _, id := range others {
			c.heal(now, id)
		}
		c.same()
		c.expect(1, "SELECT count(*) FROM item", "0")
	})
}

// A transaction may not see what is not safe for longer than it may last.
func TestATransactionOnUnsafeGround(t *testing.T) {
	run(t, 2, func(p *base.Policy) { p.TxTotalTimeout = 3 * time.Second }, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		c.mute(1, 2)
		held := c.pending(1, request("INSERT INTO item VALUES (1)"))
		time.Sleep(100 * time.Millisecond)
		tx := c.begin(replica.BeginRequest{})
		began := time.Now()
		_, err := tx.Query(t.Context(), statement("SELECT count(*) FROM item"))
		wantKind(t, err, base.KindTimeout, base.NotDone)
		if time.Since(began) > 4*time.Second {
			t.Errorf("waited %v", time.Since(began))
		}
		tx.Rollback()
		c.heal(1, 2)
		if o := <-held; o.err != nil {
			t.Error(o.err)
		}
	})
}

// Reads in the order of their tokens, at every level.
func TestReadsKeepWhatTheSessionHasSeen(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		for i := range 30 {
			at := c.write("INSERT INTO item VALUES (?1)", i).Position
			for _, id := range c.ids() {
				if got, err := c.query(id, replica.ReadRequest{AtLeast: at}, "SELECT count(*) FROM item"); got != fmt.Sprint(i+1) {
					t.Errorf("node %d after %v: %q, %v", id, at, got, err)
				}
			}
		}
		c.mute(1, 3)
		at := c.write("INSERT INTO item VALUES (1000)").Position
		began := time.Now()
		_, err := c.query(3, replica.ReadRequest{AtLeast: at}, "SELECT 1")
		wantKind(t, err, base.KindStale, base.NotDone)
		if waited := time.Since(began); waited < replica.DefaultReadWait || waited > replica.DefaultReadWait+time.Second {
			t.Errorf("waited %v", waited)
		}
		_, err = c.query(3, replica.ReadRequest{Heard: at}, "SELECT 1")
		wantKind(t, err, base.KindStale, base.NotDone)
		_, err = c.query(2, replica.ReadRequest{Linearizable: true}, "SELECT 1")
		wantKind(t, err, base.KindNotLeader, base.NotDone)
		if got, err := c.query(1, replica.ReadRequest{Linearizable: true, AtLeast: at}, "SELECT count(*) FROM item"); got != "31" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// A failover that loses writes makes tokens of them invalid, on every node and
// also where the numbers are reached again.
func TestLostHistoryIsSaid(t *testing.T) {
	run(t, 3, func(p *base.Policy) { p.Durability.Level = base.Async }, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		kept := c.replica(1).Status().Appended
		for _, id := range []base.NodeID{2, 3} {
			c.member(id).files.slow()
		}
		lost := c.write("INSERT INTO item VALUES (1)").Position
		if got, err := c.query(1, replica.ReadRequest{AtLeast: lost}, "SELECT count(*) FROM item"); got != "1" {
			t.Errorf("got %q, %v", got, err)
		}
		c.net.Down(1)
		for _, id := range []base.NodeID{2, 3} {
			c.member(id).files.fast()
		}
		for _, id := range []base.NodeID{2, 3} {
			c.stop(id) // What they had received and not flushed is gone with them.
		}
		c.cutLogs(kept.Seq, 2, 3)
		c.stop(1)
		c.change(func(a *leader.Assignment) { a.Epoch, a.Leader = a.Epoch+1, 2 })
		c.net.Up(1)
		for _, id := range []base.NodeID{1, 2, 3} {
			c.open(id)
		}
		c.eventually("node 2 serves", func() bool { _, ok := c.replica(2).Leading(); return ok })
		for i := range 5 {
			c.write("INSERT INTO item VALUES (?1)", 10+i)
		}
		c.same()
		for _, id := range c.ids() {
			_, err := c.query(id, replica.ReadRequest{AtLeast: lost}, "SELECT 1")
			wantKind(t, err, base.KindHistoryLost, base.NotDone)
			// What was only heard of is not waited for in vain: what came instead is.
			began := time.Now()
			heard := base.Position{Epoch: lost.Epoch, Seq: lost.Seq + 100} // The new history is shorter.
			if got, err := c.query(id, replica.ReadRequest{Heard: heard}, "SELECT count(*) FROM item"); got != "5" || time.Since(began) > time.Second {
				t.Errorf("node %d, having heard of %v: %q, %v after %v", id, heard, got, err, time.Since(began))
			}
			if !c.replica(id).Lineage(kept) || c.replica(id).Lineage(lost) {
				t.Errorf("node %d: lineage of %v %v, of %v %v", id, kept, c.replica(id).Lineage(kept), lost, c.replica(id).Lineage(lost))
			}
		}
		if got := c.orphans(1); !strings.Contains(got, "item (1)") {
			t.Errorf("orphans: %q", got)
		}
	})
}

package leader_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/sqlite"
)

// inFile is what the sqlite3 shell would find in a replica's file.
func (c *cluster) inFile(id base.NodeID, sql string) string {
	c.t.Helper()
	conn, err := sqlite.OpenConn(context.Background(), c.file(id), sqlite.ConnOptions{Role: sqlite.RoleReader})
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	st, err := conn.PrepareOwn(sql)
	if err != nil {
		c.t.Fatal(err)
	}
	defer st.Close()
	if _, err := st.Step(); err != nil {
		c.t.Fatal(err)
	}
	return word(st.Column(0))
}

// SQLite's commit waits for more while nobody reads. Whoever reads, at whatever
// level and replica, sees what was applied all the same.
func TestNobodySeesThatSQLiteCommitsLater(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		time.Sleep(time.Second) // Nobody has read for a while.
		for i := range 10 {
			c.write("INSERT INTO item VALUES (?1)", i)
		}
		c.level()
		for _, id := range c.ids() {
			const count = "SELECT count(*) FROM item"
			if got := c.inFile(id, count); got != "0" {
				t.Errorf("node %d: SQLite has committed %s rows before anyone asked", id, got)
			}
			if got, err := c.query(id, replica.ReadRequest{}, count); got != "10" || err != nil {
				t.Errorf("node %d: a read at level any sees %s rows, %v", id, got, err)
			}
			if got := c.inFile(id, count); got != "10" {
				t.Errorf("node %d: after a read the file holds %s rows", id, got)
			}
		}
		c.write("INSERT INTO item VALUES (10)")
		if got := c.inFile(1, "SELECT count(*) FROM item"); got != "11" {
			t.Errorf("while it is read the leader's file holds %s rows", got)
		}
	})
}

// A follower that is read is told at once what is safe; another with the next
// batch, or a little later.
func TestReadersAreToldWhatIsSafe(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		time.Sleep(1050 * time.Millisecond) // Nobody has read for a while, and no heartbeat is due.
		c.write("INSERT INTO item VALUES (0)")
		time.Sleep(12 * time.Millisecond)      // It has brought a lease: nobody is asked for one now.
		c.net.SetDelay(3, 1, time.Millisecond) // So node 2 has what is written before that is safe.
		last := c.write("INSERT INTO item VALUES (1)").Position.Seq
		synctest.Wait()
		if got := c.replica(2).Status().Safe; got >= last {
			t.Errorf("a follower that nobody reads was told at once that %d is safe", got)
		}
		time.Sleep(12 * time.Millisecond) // To be told, and to apply, takes 5 ms each.
		if got := c.replica(2).Status().Safe; got != last {
			t.Errorf("a follower that nobody reads was not told in time: %d is safe, it knows of %d", last, got)
		}
		c.expect(2, "SELECT count(*) FROM item", "2")
		for i := range 10 {
			time.Sleep(20 * time.Millisecond)
			last = c.write("INSERT INTO item VALUES (?1)", 2+i).Position.Seq
			synctest.Wait()
			if got := c.replica(2).Status().Safe; got != last {
				t.Errorf("a follower that is read: %d is safe, it knows of %d", last, got)
			}
			if got, err := c.query(2, replica.ReadRequest{}, "SELECT count(*) FROM item"); got != fmt.Sprint(3+i) || err != nil {
				t.Errorf("a follower that is read shows %s rows, %v", got, err)
			}
		}
	})
}

// A read that waits for what it has seen is not left waiting for the next batch.
func TestWhoWaitsIsTold(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		time.Sleep(time.Second)
		seen := c.write("INSERT INTO item VALUES (1)").Position
		began := time.Now()
		if got, err := c.query(2, replica.ReadRequest{AtLeast: seen}, "SELECT count(*) FROM item"); got != "1" || err != nil {
			t.Errorf("read %s, %v", got, err)
		}
		if took := time.Since(began); took > 2*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
}

// Without anyone who reads the file follows in a bounded time.
func TestSQLiteCommitsByItself(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		time.Sleep(time.Second)
		c.write("INSERT INTO item VALUES (1)")
		time.Sleep(1500 * time.Millisecond)
		for _, id := range c.ids() {
			if got := c.inFile(id, "SELECT count(*) FROM item"); got != "1" {
				t.Errorf("node %d: the file holds %s rows", id, got)
			}
		}
	})
}

// A write that undoes SQLite's transaction takes acknowledged ones with it that
// SQLite had not committed: they come back from the log.
func TestALostTransactionIsExecutedAgain(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT)")
		c.write("CREATE TABLE part(id INTEGER PRIMARY KEY, item REFERENCES item DEFERRABLE INITIALLY DEFERRED)")
		for i, bad := range []string{
			"INSERT OR ROLLBACK INTO item VALUES (1, 'again')",
			"INSERT INTO part VALUES (1, 4711)",
			"INSERT OR FAIL INTO item VALUES (9999, 'x'), (1, 'again')",
		} {
			time.Sleep(6 * time.Second) // Commits may wait again.
			for n := range 50 {
				c.write("INSERT INTO item VALUES (?1, 'good')", 100*i+n)
			}
			if got := c.inFile(1, "SELECT count(*) FROM item"); got != fmt.Sprint(50*i) {
				t.Fatalf("SQLite holds %s rows before %s", got, bad)
			}
			if _, err := c.try(1, request(bad)); base.KindOf(err) != base.KindSQL {
				t.Errorf("%s: %v", bad, err)
			}
			c.write("UPDATE item SET name = name || ?1 WHERE id >= ?2", i, 100*i)
		}
		c.same()
		c.expect(2, "SELECT count(*), group_concat(DISTINCT name) FROM item", "150,good0,good1,good2")
	})
}

// The log of a leader that ends may have to be undone; SQLite's file need not.
func TestATransactionIsOpenWhenTheLeaderEnds(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		time.Sleep(time.Second)
		for i := range 20 {
			c.write("INSERT INTO item VALUES (?1)", i)
		}
		gone := c.record().Leader
		c.kill(gone)
		c.elect(c.ids()...)
		c.open(gone)
		c.write("INSERT INTO item VALUES (100)")
		c.same()
		c.expect(gone, "SELECT count(*) FROM item", "21")
	})
}

// A follower that is read applies without pausing: what a read at level any
// shows there is as new as it can be.
func TestAReadFollowerIsNotLate(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		const newest = "SELECT max(id) FROM item"
		c.read(2, newest)
		time.Sleep(10 * time.Millisecond) // A pause that began before the first read ends.
		var longest time.Duration
		for i := range 50 {
			c.write("INSERT INTO item VALUES (?1)", i)
			acknowledged := time.Now()
			for c.read(2, newest) != fmt.Sprint(i) {
				if time.Since(acknowledged) > time.Second {
					t.Fatalf("row %d is not there after a second", i)
				}
				time.Sleep(100 * time.Microsecond)
			}
			longest = max(longest, time.Since(acknowledged))
		}
		if longest > time.Millisecond {
			t.Errorf("a row was seen %v after its acknowledgement", longest)
		}
	})
}

package leader_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/replica/leader"
)

// inStatements runs a test with log format statement.
func inStatements(t *testing.T, n int, f func(t *testing.T, c *cluster)) {
	run(t, n, func(p *base.Policy) { p.LogFormat = base.FormatStatement }, f)
}

// shown returns the entries of a node's log, which must be sound.
func (c *cluster) shown(id base.NodeID, q leader.LogQuery) []leader.LogEntry {
	c.t.Helper()
	var list []leader.LogEntry
	x, err := c.replica(id).ShowLog(c.t.Context(), q, func(e leader.LogEntry) error {
		list = append(list, e)
		return nil
	})
	if err != nil || x.Found > 0 {
		c.t.Fatalf("node %d: log: %v, %+v", id, err, x)
	}
	return list
}

// undisturbed checks that no statement did something else on a follower.
func (c *cluster) undisturbed() {
	c.t.Helper()
	for _, id := range c.ids() {
		if s := c.replica(id).Status(); s.Differences > 0 {
			c.t.Errorf("node %d: %d differences, the last: %s", id, s.Differences, s.Difference)
		}
	}
}

// TestStatementEqual runs statements that look outside in every way, and sees
// that the copies are equal and that the statements themselves were executed.
func TestStatementEqual(t *testing.T) {
	inStatements(t, 3, func(t *testing.T, c *cluster) {
		c.makeTables()
		c.work(workload{rand.New(rand.NewPCG(11, 12))}, 300)
		c.same()
		c.undisturbed()
		var replayed, rows int
		for _, e := range c.shown(2, leader.LogQuery{}) {
			if len(e.Statements) > 0 {
				replayed++
			}
			if e.Reason != "" {
				rows++
			}
			if len(e.Statements) > 0 && len(e.Changes) == 0 {
				t.Errorf("entry %v: the rows of %v are not kept", e.Position, e.Statements)
			}
		}
		if replayed < 150 || rows == 0 || rows > replayed {
			t.Errorf("%d entries were executed again and %d travelled as rows", replayed, rows)
		}
	})
}

// TestStatementTransaction checks interactive transactions: savepoints that are
// taken back, statements that fail, time and chance between them.
func TestStatementTransaction(t *testing.T) {
	inStatements(t, 3, func(t *testing.T, c *cluster) {
		c.makeTables()
		tx, err := c.replica(1).BeginWrite(t.Context(), replica.BeginRequest{Guard: replica.GuardAdmin})
		if err != nil {
			t.Fatal(err)
		}
		for _, sql := range []string{
			"INSERT INTO parent(name) VALUES ('a'), ('b')",
			"INSERT INTO parent(name) VALUES ('a')", // fails
			"SAVEPOINT one",
			"UPDATE parent SET name = name || '!'",
			"INSERT INTO audit VALUES ('gone', random(), 0)",
			"ROLLBACK TO one",
			"INSERT INTO child(parent, note) VALUES (1, 'n' || random()) RETURNING id, note",
			"RELEASE one",
			"SELECT randomblob(8)",
			"UPDATE parent SET name = name || changes() || ',' || last_insert_rowid() || ',' || total_changes()",
			"INSERT INTO audit VALUES (changes(), total_changes(), julianday('now'))",
		} {
			time.Sleep(7 * time.Millisecond)
			rows, err := tx.Query(t.Context(), statement(sql))
			if err == nil {
				_, err = text(rows)
			}
			if failed := err != nil; failed != (sql == "INSERT INTO parent(name) VALUES ('a')") {
				t.Fatalf("%s: %v", sql, err)
			}
		}
		if _, err := tx.Commit(t.Context(), base.Durability{}, replica.OperationID{}, ""); err != nil {
			t.Fatal(err)
		}
		c.same()
		c.undisturbed()
		list := c.shown(3, leader.LogQuery{})
		last := list[len(list)-1]
		if len(last.Statements) != 4 || last.Reason != "" {
			t.Errorf("the transaction is logged as %+v", last)
		}
		for i, want := range []string{"", "seed", "changes() 1", "total_changes()"} {
			if !strings.Contains(last.Statements[i].Outside, want) {
				t.Errorf("%s: from outside: %q, want %s", last.Statements[i].SQL, last.Statements[i].Outside, want)
			}
		}
	})
}

// TestStatementMixed checks what travels as rows, and why.
func TestStatementMixed(t *testing.T) {
	inStatements(t, 3, func(t *testing.T, c *cluster) {
		c.makeTables()
		for _, sql := range []string{
			"CREATE VIRTUAL TABLE ft USING fts5(t)",
			"CREATE VIEW some AS SELECT id FROM child LIMIT 2",
			"INSERT INTO parent(name) VALUES ('x'), ('y'), ('z')",
			"INSERT INTO child(parent) VALUES (1), (2), (3), (1)",
		} {
			c.write(sql)
		}
		for _, story := range []struct{ sql, reason string }{
			{"DELETE FROM child WHERE id IN (SELECT id FROM child LIMIT 1)", "LIMIT without ORDER BY"},
			{"UPDATE child SET note = 'v' WHERE id IN (SELECT id FROM some)", "LIMIT without ORDER BY in some"},
			{"INSERT INTO ft VALUES ('one two')", "table ft is virtual"},
			{"INSERT INTO audit VALUES (sqlite_version(), 1, 1)", "function sqlite_version()"},
			{"INSERT INTO audit VALUES (datetime('now'), 1, 1)", ""},
			{"CREATE TABLE dated(at TEXT CHECK (date(at) IS NOT NULL), n)", "schema"},
			{"INSERT INTO dated VALUES ('2020-01-01', 1)", ""},
			{"INSERT INTO audit VALUES (datetime('now'), 1, 1)", "function datetime()"},
			{"UPDATE child SET note = 'w' WHERE id IN (SELECT id FROM child ORDER BY id LIMIT 2)", ""},
			{"INSERT INTO audit VALUES ('plain', 1, 1)", ""},
			{"DROP TABLE dated", "schema"},
			{"INSERT INTO audit VALUES (datetime('now', 'localtime'), 1, 1)", "time zone"},
			{"INSERT INTO audit VALUES (date('2020-01-01', '+1 day'), 1, 1)", ""},
		} {
			at := c.write(story.sql).Position
			e := c.shown(1, leader.LogQuery{From: at.Seq, Limit: 1})[0]
			switch {
			case story.reason == "schema":
				if e.Kind != "row" || e.Reason != "" {
					t.Errorf("%s: %+v", story.sql, e)
				}
			case !strings.Contains(e.Reason, story.reason) || (e.Reason == "") != (story.reason == "") || (len(e.Statements) > 0) != (story.reason == ""):
				t.Errorf("%s: reason %q, statements %v", story.sql, e.Reason, e.Statements)
			}
		}
		if n := len(c.shown(2, leader.LogQuery{Mixed: true})); n != 6 {
			t.Errorf("%d entries are listed as travelling as rows", n)
		}
		c.same()
		c.undisturbed()
	})
}

// TestStatementHeals makes statements that can't be equal and are not known to be
// so: an id that the engine draws at random. The follower says so and takes the
// leader's rows.
func TestStatementHeals(t *testing.T) {
	inStatements(t, 3, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
		c.write("INSERT INTO t VALUES (9223372036854775807, 'last')")
		c.write("INSERT INTO t(v) VALUES ('drawn')")
		c.write("UPDATE t SET v = v || '!'")
		c.write("CREATE TABLE after(x)")
		c.write("INSERT INTO t(v) VALUES ('drawn too')")
		c.same()
		for _, id := range []base.NodeID{2, 3} {
			s := c.replica(id).Status()
			if s.Differences != 2 || !strings.Contains(s.Difference, "drawn too") || s.Role != replica.RoleFollower {
				t.Errorf("node %d: %d differences, %s, %s", id, s.Differences, s.Difference, s.Role)
			}
		}
		if s := c.replica(1).Status(); s.Differences != 0 {
			t.Errorf("the leader differs from itself: %s", s.Difference)
		}
		// One that takes over has to execute what it had not.
		c.stop(1)
		c.elect(2, 3)
		c.eventually("another serves", func() bool { _, ok := c.replica(c.record().Leader).Leading(); return ok })
		c.write("INSERT INTO t(v) VALUES ('again')")
		c.open(1)
		c.same()
	})
}

// TestStatementCopiedWhenRowsAreGone: what can't be healed by rows is copied.
func TestStatementCopiedWhenRowsAreGone(t *testing.T) {
	run(t, 3, func(p *base.Policy) {
		p.LogFormat = base.FormatStatement
		p.RetentionBytes = 20_000
	}, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
		c.write("INSERT INTO t VALUES (9223372036854775807, 'last')")
		c.level()
		c.isolate(3)
		c.write("INSERT INTO t(v) VALUES ('drawn')")
		for range 20 {
			c.write("UPDATE t SET v = hex(randomblob(4000))")
		}
		c.eventually("node 2 keeps the rows no more, either", func() bool {
			return c.replica(2).Status().Applied == c.replica(1).Status().Appended
		})
		c.rejoin(3)
		c.same()
		if s := c.replica(3).Status(); s.Differences == 0 || s.Copied == 0 {
			t.Errorf("%d differences, %d bytes copied", s.Differences, s.Copied)
		}
	})
}

// TestStatementFeed reads the changes of statements from all replicas.
func TestStatementFeed(t *testing.T) {
	inStatements(t, 3, func(t *testing.T, c *cluster) {
		c.makeTables()
		c.work(workload{rand.New(rand.NewPCG(21, 22))}, 60)
		c.level()
		var streams []string
		for _, id := range c.ids() {
			ctx, stop := context.WithCancel(t.Context())
			var b strings.Builder
			last := c.replica(id).Status().Appended.Seq
			err := c.replica(id).Feed(ctx, changefeed.Request{From: changefeed.Offset{Database: database, Entry: 1}}, time.Minute, eachEvent(func(e *changefeed.Event) {
				fmt.Fprintf(&b, "%v %s %s %v %v %v\n", e.Position, e.Op, e.Table, e.Key, e.Before, e.After)
				if e.Position.Seq >= last {
					stop()
				}
			}))
			stop()
			if err != nil && ctx.Err() == nil {
				t.Fatal(err)
			}
			streams = append(streams, b.String())
		}
		if strings.Count(streams[0], "\n") < 100 || streams[0] != streams[1] || streams[1] != streams[2] {
			t.Errorf("the streams of the replicas differ: %d, %d, %d bytes", len(streams[0]), len(streams[1]), len(streams[2]))
		}
	})
}

// eachEvent takes events.
type eachEvent func(e *changefeed.Event)

func (s eachEvent) Send(e *changefeed.Event) error { s(e); return nil }
func (s eachEvent) Flush() error                   { return nil }

// TestStatementOrphans undoes statements on a leader that was lost: what they had
// changed is known, whether SQLite had executed them for good or not.
func TestStatementOrphans(t *testing.T) {
	for _, read := range []bool{false, true} {
		t.Run(fmt.Sprintf("read=%v", read), func(t *testing.T) {
			inStatements(t, 3, func(t *testing.T, c *cluster) {
				c.write("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
				c.write("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
				c.level()
				c.isolate(1)
				q := request("UPDATE t SET v = 'orphan' || id || abs(random() % 1)")
				q.Durability = base.Durability{Level: base.Async, When: base.Flushed}
				if _, err := c.try(1, q); err != nil {
					t.Fatal(err)
				}
				if read {
					tx, err := c.replica(1).BeginRead(t.Context(), replica.ReadRequest{}) // SQLite commits for it.
					if err != nil {
						t.Fatal(err)
					}
					tx.Close()
				}
				c.elect(2, 3)
				c.eventually("another serves", func() bool { _, ok := c.replica(c.record().Leader).Leading(); return ok })
				c.rejoin(1)
				c.write("INSERT INTO t VALUES (3, 'c')")
				c.same()
				synctest.Wait()
				list, err := c.replica(1).Orphans(t.Context(), 10)
				if err != nil || len(list) != 2 {
					t.Fatalf("%d orphans, %v: %+v", len(list), err, list)
				}
				for _, o := range list {
					if o.Operation != "update" || !strings.HasPrefix(string(o.New[0].Bytes), "orphan") || len(o.Old) != 1 {
						t.Errorf("%+v", o)
					}
				}
				c.expect(1, "SELECT v FROM t ORDER BY id", "a;b;c")
			})
		})
	}
}

// TestStatementOrphansAsText: what statements have changed can't be learnt where
// entries of another kind come before them; then they are kept as SQL.
func TestStatementOrphansAsText(t *testing.T) {
	inStatements(t, 3, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
		c.write("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
		c.level()
		c.isolate(1)
		for _, q := range []replica.WriteRequest{
			request("UPDATE t SET v = 'rows' WHERE id IN (SELECT id FROM t LIMIT 1)"),
			request("UPDATE t SET v = ?1 || id", "orphan"),
		} {
			q.Durability = base.Durability{Level: base.Async, When: base.Flushed}
			if _, err := c.try(1, q); err != nil {
				t.Fatal(err)
			}
		}
		c.kill(1) // SQLite had not committed them.
		c.elect(2, 3)
		c.eventually("another serves", func() bool { _, ok := c.replica(c.record().Leader).Leading(); return ok })
		c.rejoin(1)
		c.open(1)
		c.write("INSERT INTO t VALUES (3, 'c')")
		c.same()
		list, err := c.replica(1).Orphans(t.Context(), 10)
		if err != nil || len(list) != 2 {
			t.Fatalf("%d orphans, %v: %+v", len(list), err, list)
		}
		for _, o := range list {
			switch o.Operation {
			case "update":
			case "statement":
				if got := string(o.New[0].Bytes); got != `UPDATE t SET v = ?1 || id -- ("orphan")` {
					t.Errorf("kept as %s", got)
				}
			default:
				t.Errorf("%+v", o)
			}
		}
		c.expect(1, "SELECT v FROM t ORDER BY id", "a;b;c")
	})
}

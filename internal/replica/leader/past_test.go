package leader_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/token"
)

// having is the past of a writer that has seen a position of another database.
func having(t *testing.T, db base.DatabaseID, p base.Position) token.Past {
	t.Helper()
	tok, err := token.Token{}.With(db, p)
	if err != nil {
		t.Fatal(err)
	}
	return tok.Past(database)
}

func (c *cluster) writeHaving(past token.Past, sql string, args ...any) {
	c.t.Helper()
	q := request(sql, args...)
	q.Past = past
	if _, err := c.try(c.record().Leader, q); err != nil {
		c.t.Fatalf("%s: %v", sql, err)
	}
}

// past is what a read at a node hears of.
func (c *cluster) past(id base.NodeID) string {
	c.t.Helper()
	tx, err := c.replica(id).BeginRead(c.t.Context(), replica.ReadRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	defer tx.Close()
	rows, err := tx.Query(c.t.Context(), statement("SELECT 1"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
	}
	return fmt.Sprint(rows.Result().Past.Entries())
}

func (c *cluster) expectPast(want string, ids ...base.NodeID) {
	c.t.Helper()
	for _, id := range ids {
		if got := c.past(id); got != want {
			c.t.Errorf("node %d has the past %s, want %s", id, got, want)
		}
	}
}

// What writers had seen elsewhere reaches every replica with what they wrote:
// by the log, out of a copy, from disk after a restart, and not before the write.
func TestThePastComesWithTheWrite(t *testing.T) {
	run(t, 3, func(p *base.Policy) { p.RetentionBytes = 1 << 20 }, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, data BLOB)")
		c.write("INSERT INTO item VALUES (1, NULL)")
		c.level()
		c.expectPast("[]", 1, 2, 3)
		c.stop(3)
		p := having(t, 9, base.Position{Epoch: 4, Seq: 50})
		c.writeHaving(p, "INSERT INTO item VALUES (2, NULL)")
		c.writeHaving(having(t, 9, base.Position{Epoch: 3, Seq: 70}), "INSERT INTO item VALUES (3, NULL)")
		c.writeHaving(having(t, 5, base.Position{Epoch: 1, Seq: 1}), "INSERT INTO item VALUES (4, NULL)")
		c.writeHaving(having(t, 8, base.Position{Epoch: 1, Seq: 1}), "INSERT INTO item SELECT 1, NULL WHERE false")
		c.level()
		c.expectPast("[{9 4/50} {5 1/1}]", 1, 2)
		c.fill(40)
		c.eventually("the log was trimmed", func() bool { return c.replica(1).Status().LogStart > 1 })
		c.open(3)
		c.eventually("node 3 was copied", func() bool { return c.copied(3) })
		c.same()
		c.stop(2)
		c.open(2)
		c.same()
		c.expectPast("[{9 4/50} {5 1/1}]", 1, 2, 3)
	})
}

// Pages and statements bring it as rows do.
func TestThePastComesInEveryFormat(t *testing.T) {
	for _, format := range []string{"wal", "statement"} {
		t.Run(format, func(t *testing.T) {
			run(t, 3, func(p *base.Policy) { p.LogFormat = format }, func(t *testing.T, c *cluster) {
				c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
				c.writeHaving(having(t, 9, base.Position{Epoch: 4, Seq: 50}), "INSERT INTO item VALUES (2)")
				c.level()
				c.expectPast("[{9 4/50}]", 1, 2, 3)
			})
		})
	}
}

// A statement that is rolled back with its batch, or fails beside others, brings
// nothing; what stands brings its own.
func TestOnlyWhatStandsBringsItsPast(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.write("INSERT INTO item VALUES (1)")
		var done []chan outcome
		for i, sql := range []string{"INSERT INTO item VALUES (2)", "INSERT OR ROLLBACK INTO item VALUES (1)", "INSERT INTO item VALUES (1)", "INSERT INTO item VALUES (3)"} {
			q := request(sql)
			q.Past = having(t, base.DatabaseID(10+i), base.Position{Epoch: 1, Seq: 1})
			done = append(done, c.pending(1, q))
		}
		for i, d := range done {
			if o := <-d; (o.err == nil) != (i == 0 || i == 3) {
				t.Errorf("write %d: %v", i, o.err)
			}
		}
		tx, err := c.replica(1).BeginWrite(t.Context(), replica.BeginRequest{Guard: replica.GuardAdmin})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Query(t.Context(), statement("INSERT INTO item VALUES (4)")); err != nil {
			t.Fatal(err)
		}
		r, err := tx.Commit(t.Context(), base.Durability{}, replica.OperationID{}, having(t, 14, base.Position{Epoch: 1, Seq: 1}))
		if err != nil {
			t.Fatal(err)
		}
		heard := map[base.DatabaseID]bool{}
		tok := token.Token{}.Hear(readPast(t, c))
		for db := base.DatabaseID(10); db < 15; db++ {
			heard[db] = tok.Heard(db) != base.Position{}
		}
		if want := (map[base.DatabaseID]bool{10: true, 11: false, 12: false, 13: true, 14: true}); fmt.Sprint(heard) != fmt.Sprint(want) {
			t.Errorf("heard of %v, want %v", heard, want)
		}
		if r.Past == "" {
			t.Error("a commit does not tell the past that it saw")
		}
	})
}

func readPast(t *testing.T, c *cluster) token.Past {
	t.Helper()
	tx, err := c.replica(1).BeginRead(t.Context(), replica.ReadRequest{})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	rows, err := tx.Query(t.Context(), statement("SELECT 1"))
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
	}
	return rows.Result().Past
}

// A leader that has the past of an undone tail in its file, and not in its log,
// sends it again with the next write that has it: the others never got it.
func TestAPastThatWasUndoneIsBroughtAgain(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT)")
		c.level()
		c.mute(1, 2)
		c.mute(1, 3)
		p := having(t, 9, base.Position{Epoch: 4, Seq: 50})
		q := request("INSERT INTO item VALUES (2, 'lost')")
		q.Past = p
		lost := c.pending(1, q)
		time.Sleep(10 * time.Millisecond)
		go c.query(1, replica.ReadRequest{}, "SELECT 1") // SQLite commits the tail.
		time.Sleep(10 * time.Millisecond)
		c.elect(2, 3)
		<-lost
		c.heal(1, 2)
		c.heal(1, 3)
		c.eventually("the next leader serves", func() bool { _, ok := c.replica(c.record().Leader).Leading(); return ok })
		c.same()
		c.expectPast("[]", 2, 3)
		c.appoint(1)
		c.writeHaving(p, "INSERT INTO item VALUES (3, 'again')")
		c.same()
		c.expectPast("[{9 4/50}]", 1, 2, 3)
	})
}

// A file of before there were pasts gets its column, and keeps its rows.
func TestAFileWithoutAPastIsBroughtUpToDate(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.write("INSERT INTO item VALUES (1)")
		c.expect(1, "SELECT id FROM item", "1")
		c.stop(1)
		conn, err := sqlite.OpenConn(context.Background(), c.file(1), sqlite.ConnOptions{Role: sqlite.RoleTool})
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Exec("ALTER TABLE _skein_position DROP COLUMN past"); err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		c.open(1)
		c.appoint(1)
		c.writeHaving(having(t, 9, base.Position{Epoch: 4, Seq: 50}), "INSERT INTO item VALUES (2)")
		c.expect(1, "SELECT id FROM item", "1;2")
		c.expectPast("[{9 4/50}]", 1)
	})
}

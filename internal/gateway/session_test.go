package gateway_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/replica/leader"
	"github.com/skeindb/skein/internal/session"
)

// Every node answers as any other does, with a replica or without one.
func TestEveryNodeServes(t *testing.T) {
	run(t, 4, 3, func(t *testing.T, c *cluster) {
		for id := range base.NodeID(4) {
			s := c.session(id + 1)
			s.do("CREATE TABLE IF NOT EXISTS item(id INTEGER PRIMARY KEY, name TEXT)")
			got, res, err := s.try("INSERT INTO item VALUES (?1, ?2) RETURNING name", base.IntValue(int64(id)), base.TextValue("x"))
			if got != "x" || err != nil || res.RowsAffected != 1 || res.Tag != "INSERT" {
				t.Errorf("node %d: %q, %+v, %v", id+1, got, res, err)
			}
			s.expect("SELECT count(*) FROM item", fmt.Sprint(int(id)+1))
			s.fails("INSERT INTO item VALUES (0, 'again')", base.KindSQL, "23505")
			s.fails("SELECT * FROM nowhere", base.KindSQL, "42P01")
			s.fails("SAVEPOINT a", base.KindSQL, "25P01")
			s.expect("SHOW skein.leader", "n1")
			s.expect("SHOW skein.node", fmt.Sprintf("n%d", id+1))
			s.Close()
		}
	})
}

// A large result crosses nodes in pieces; closing it early ends it there.
func TestRowsOfAnotherNode(t *testing.T) {
	run(t, 4, 3, func(t *testing.T, c *cluster) {
		s := c.session(4)
		defer s.Close()
		s.do("CREATE TABLE item(id INTEGER PRIMARY KEY, data)")
		s.do("INSERT INTO item WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 3000) SELECT i, hex(zeroblob(200)) FROM n")
		if got := s.do("SELECT id FROM item"); strings.Count(got, ";") != 2999 || !strings.HasSuffix(got, ";3000") {
			t.Errorf("%d rows", strings.Count(got, ";")+1)
		}
		rows, err := s.Query(t.Context(), "SELECT * FROM item", nil)
		if err != nil || !rows.Next() || !rows.Next() {
			t.Fatal(err)
		}
		s.expect("SELECT count(*) FROM item", "3000") // Closes the other.
		s.expect("SELECT NULL, '', 1.5, x''", "NULL,,,")
	})
}

func TestRightsAreLookedUpForEachStatement(t *testing.T) {
	run(t, 2, 2, func(t *testing.T, c *cluster) {
		c.session(1).do("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		_, err := c.node(2).gateway.Open(t.Context(), session.Options{User: "ann", Database: "shop"})
		if base.KindOf(err) != base.KindForbidden {
			t.Errorf("got %v", err)
		}
		_, err = c.node(2).gateway.Open(t.Context(), session.Options{User: "ann", Database: "none"})
		if base.KindOf(err) != base.KindNotFound {
			t.Errorf("got %v", err)
		}
		c.mu.guards["ann"] = replica.GuardRead
		inner, err := c.node(2).gateway.Open(t.Context(), session.Options{User: "ann", Database: "shop"})
		if err != nil {
			t.Fatal(err)
		}
		s := &client{t, inner}
		defer s.Close()
		s.fails("INSERT INTO item VALUES (1)", base.KindForbidden, "")
		c.mu.guards["ann"] = replica.GuardWrite
		s.do("INSERT INTO item VALUES (1)")
		s.do("BEGIN")
		s.do("INSERT INTO item VALUES (2)")
		delete(c.mu.guards, "ann")
		s.fails("INSERT INTO item VALUES (3)", base.KindForbidden, "")
		s.do("ROLLBACK")
		c.mu.guards["ann"] = replica.GuardWrite
		s.do("BEGIN")
		s.do("INSERT INTO item VALUES (2)")
		delete(c.mu.guards, "ann")
		s.fails("COMMIT", base.KindForbidden, "")
		c.mu.guards["ann"] = replica.GuardRead
		s.expect("SELECT count(*) FROM item", "1")
	})
}

// A session reads what it has written and never goes back, on any node; its
// token carries that to another session.
func TestTokensKeepTheOrder(t *testing.T) {
	run(t, 4, 3, func(t *testing.T, c *cluster) {
		a := c.session(2)
		defer a.Close()
		a.do("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.net.SetDelay(1, 3, 300*time.Millisecond) // Node 3 is always late.
		for i := range 10 {
			a.do("INSERT INTO item VALUES (?1)", base.IntValue(int64(i)))
			a.expect("SELECT count(*) FROM item", fmt.Sprint(i+1))
			token := a.do("SHOW skein.token")
			for _, id := range []base.NodeID{3, 4, 1} {
				b := c.session(id)
				b.do("SET skein.token = '" + token + "'")
				b.expect("SELECT count(*) FROM item", fmt.Sprint(i+1))
				b.Close()
			}
		}
		// What was seen in a transaction was seen, also if it was rolled back.
		b := c.session(1)
		defer b.Close()
		for _, sql := range []string{"SELECT count(*) FROM item", "INSERT INTO item VALUES (1000) RETURNING id"} {
			a.do("INSERT INTO item VALUES (NULL)")
			b.do("BEGIN")
			b.do(sql)
			b.do("ROLLBACK")
			late := c.session(3)
			late.do("SET skein.token = '" + b.do("SHOW skein.token") + "'")
			if got, want := late.do("SELECT count(*) FROM item"), a.do("SELECT count(*) FROM item"); got != want {
				t.Errorf("after %s: %s rows, then %s", sql, want, got)
			}
			late.Close()
		}
		d := c.session(3)
		defer d.Close()
		d.do("SET skein.read = 'any'")
		if d.do("SELECT count(*) FROM item") == a.do("SELECT count(*) FROM item") {
			t.Log("the late node was level")
		}
		d.do("SET skein.read = 'leader'")
		if got, want := d.do("SELECT count(*) FROM item"), a.do("SELECT count(*) FROM item"); got != want {
			t.Errorf("at the leader: %s, want %s", got, want)
		}
		d.do("SET skein.read = 'bounded(5s)'")
		d.do("SELECT count(*) FROM item")
	})
}

// A position that was read from somewhere else can be asked for.
func TestReadsAtAPosition(t *testing.T) {
	run(t, 3, 3, func(t *testing.T, c *cluster) {
		a, b := c.session(1), c.session(3)
		defer a.Close()
		defer b.Close()
		a.do("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.net.SetDelay(1, 3, 300*time.Millisecond) // Node 3 is always late.
		for i := range 5 {
			a.do("INSERT INTO item VALUES (?1)", base.IntValue(int64(i)))
			a.do("SELECT count(*) FROM item")
			position, _, _ := strings.Cut(strings.TrimPrefix(a.do("SHOW skein.last_read"), "position "), ",")
			b.do("SET skein.read = 'at(" + position + ")'")
			b.expect("SELECT count(*) FROM item", fmt.Sprint(i+1))
		}
		// No history has it, or will soon.
		b.do("SET skein.read = 'at(1/1000)'")
		b.fails("SELECT count(*) FROM item", base.KindStale, "")
		b.do("SET skein.read = 'at(0/1)'")
		b.do("SELECT count(*) FROM item")
	})
}

// A replica that is cut off hands reads over, or says that it is too old.
func TestAReplicaThatIsBehindHandsOver(t *testing.T) {
	run(t, 3, 3, func(t *testing.T, c *cluster) {
		a, b := c.session(1), c.session(3)
		defer a.Close()
		defer b.Close()
		a.do("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		// Node 3 hears node 1 no more as a follower, and reaches it as a gateway.
		n := c.node(3)
		n.stop()
		if err := <-n.done; err != nil {
			t.Fatal(err)
		}
		n.done <- nil
		a.do("INSERT INTO item VALUES (1)")
		b.do("SET skein.token = '" + a.do("SHOW skein.token") + "'")
		b.expect("SELECT count(*) FROM item", "1")
	})
}

// Transactions read a snapshot that holds nothing, and take the writer with
// their first write.
func TestTransactions(t *testing.T) {
	for id := range base.NodeID(4) {
		t.Run(fmt.Sprintf("through node %d", id+1), func(t *testing.T) {
			run(t, 4, 3, func(t *testing.T, c *cluster) {
				a, b := c.session(id+1), c.session(2)
				defer a.Close()
				defer b.Close()
				a.do("CREATE TABLE item(id INTEGER PRIMARY KEY, name UNIQUE)")
				c.level()
				a.do("BEGIN")
				a.expect("SELECT count(*) FROM item", "0")
				b.do("INSERT INTO item VALUES (1, 'b')") // Nobody holds the writer.
				a.expect("SELECT count(*) FROM item", "0")
				a.fails("INSERT INTO item VALUES (2, 'a')", base.KindConflict, "40001")
				if a.TxStatus() != session.TxFailed {
					t.Errorf("status %c", a.TxStatus())
				}
				a.fails("SELECT 1", base.KindSQL, "25P02")
				if _, res, err := a.try("COMMIT"); err != nil || res.Tag != "ROLLBACK" {
					t.Errorf("%+v, %v", res, err)
				}
				a.do("BEGIN")
				a.do("SAVEPOINT before")
				a.do("INSERT INTO item VALUES (2, 'a')")
				a.do("SAVEPOINT inner")
				a.fails("INSERT INTO item VALUES (3, 'a')", base.KindSQL, "23505")
				a.fails("SELECT 1", base.KindSQL, "25P02")
				a.do("ROLLBACK TO inner")
				a.expect("INSERT INTO item VALUES (4, 'c') RETURNING id", "4")
				a.expect("SELECT count(*) FROM item", "3")
				a.do("CREATE TABLE made(x)")
				a.do("INSERT INTO made VALUES (1)")
				a.expect("SELECT x FROM made", "1")
				if _, res, err := a.try("COMMIT"); err != nil || res.Tag != "COMMIT" || res.Reached == "" {
					t.Errorf("%+v, %v", res, err)
				}
				b.do("SET skein.token = '" + a.do("SHOW skein.token") + "'")
				b.expect("SELECT group_concat(name) FROM item", "b,a,c")
				// ROLLBACK TO a savepoint from before the first write undoes it.
				a.do("BEGIN")
				a.do("SAVEPOINT early")
				a.do("DELETE FROM item")
				a.do("ROLLBACK TO early")
				a.expect("SELECT count(*) FROM item", "3")
				a.do("COMMIT")
				// Closing a session gives the writer back.
				gone := c.session(id + 1)
				gone.do("BEGIN")
				gone.do("DELETE FROM item")
				gone.Close()
				began := time.Now()
				b.do("INSERT INTO item VALUES (5, 'd')")
				if time.Since(began) > time.Second {
					t.Errorf("waited %v for a session that was closed", time.Since(began))
				}
				b.expect("SELECT count(*) FROM item", "4")
			})
		})
	}
}

// A node that vanishes with an open transaction gives the writer back.
func TestANodeVanishesWithATransaction(t *testing.T) {
	run(t, 4, 3, func(t *testing.T, c *cluster) {
		a, b := c.session(4), c.session(2)
		defer b.Close()
		a.do("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		a.do("BEGIN")
		a.do("INSERT INTO item VALUES (1)")
		c.net.Down(4)
		began := time.Now()
		b.do("INSERT INTO item VALUES (2)")
		if time.Since(began) > time.Second {
			t.Errorf("waited %v", time.Since(began))
		}
		if _, _, err := a.try("INSERT INTO item VALUES (3)"); err == nil || base.AsError(err).Outcome == base.Indeterminate {
			t.Errorf("the transaction goes on: %v", err)
		}
		a.do("ROLLBACK")
		a.Close()
		b.expect("SELECT group_concat(id) FROM item", "2")
	})
}

// A node that is frozen or cut off with an open transaction keeps its connections
// for long. The writer is taken back all the same, long before an idle client's
// would be; one that is heard may be idle.
func TestASilentNodeHoldsATransaction(t *testing.T) {
	run(t, 4, 3, func(t *testing.T, c *cluster) {
		a, b := c.session(4), c.session(2)
		defer a.Close()
		defer b.Close()
		a.do("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		a.do("BEGIN")
		a.do("INSERT INTO item VALUES (1)")
		time.Sleep(6 * time.Second)
		a.do("COMMIT")
		a.do("BEGIN")
		a.do("INSERT INTO item VALUES (2)")
		c.net.Isolate(4)
		began := time.Now()
		b.do("INSERT INTO item VALUES (3)")
		if waited := time.Since(began); waited > 3*time.Second {
			t.Errorf("waited %v for a node that is cut off", waited)
		}
		c.net.Rejoin(4)
		a.fails("INSERT INTO item VALUES (4)", base.KindConflict, "40001")
		a.do("ROLLBACK")
		b.expect("SELECT group_concat(id) FROM item", "1,3")
	})
}

// Switchovers fail no statement of any session on any node, and none is done
// twice.
func TestSwitchoversFailNoStatement(t *testing.T) {
	run(t, 4, 3, func(t *testing.T, c *cluster) {
		c.session(1).do("CREATE TABLE counter(id INTEGER PRIMARY KEY, n)")
		stop := make(chan struct{})
		counts := make([]int, 8)
		var wg sync.WaitGroup
		for i := range counts {
			s := c.session(base.NodeID(i%4 + 1))
			s.do("INSERT INTO counter VALUES (?1, 0)", base.IntValue(int64(i)))
			wg.Go(func() {
				defer s.Close()
				for ; ; counts[i]++ {
					select {
					case <-stop:
						return
					default:
					}
					if _, _, err := s.try("UPDATE counter SET n = n + 1 WHERE id = ?1", base.IntValue(int64(i))); err != nil {
						t.Errorf("counter %d, write %d: %v", i, counts[i], err)
						return
					}
					if got, _, err := s.try("SELECT n FROM counter WHERE id = ?1", base.IntValue(int64(i))); err != nil || got != fmt.Sprint(counts[i]+1) {
						t.Errorf("counter %d after %d writes: %q, %v", i, counts[i]+1, got, err)
					}
					time.Sleep(2 * time.Millisecond)
				}
			})
		}
		for round := range 4 {
			time.Sleep(50 * time.Millisecond)
			c.release(base.NodeID((round+1)%3 + 1))
		}
		time.Sleep(50 * time.Millisecond)
		close(stop)
		wg.Wait()
		c.level()
		s := c.session(4)
		defer s.Close()
		for i, n := range counts {
			s.expect(fmt.Sprintf("SELECT n FROM counter WHERE id = %d", i), fmt.Sprint(n))
		}
	})
}

// The leader dies under writes through other nodes: each is kept once or, when
// it is not, said to have failed; its session hardly notices.
func TestALeaderDiesUnderWrites(t *testing.T) {
	run(t, 4, 3, func(t *testing.T, c *cluster) {
		c.session(1).do("CREATE TABLE item(id INTEGER PRIMARY KEY, who)")
		stop := make(chan struct{})
		counts := make([]int, 6)
		var wg sync.WaitGroup
		for i := range counts {
			s := c.session(4)
			wg.Go(func() {
				defer s.Close()
				for {
					select {
					case <-stop:
						return
					default:
					}
					tx := i%2 == 1
					if tx {
						s.do("BEGIN")
					}
					_, _, err := s.try("INSERT INTO item(who) VALUES (?1)", base.IntValue(int64(i)))
					if tx && err == nil {
						_, _, err = s.try("COMMIT")
					} else if tx {
						s.do("ROLLBACK")
					}
					switch e := base.AsError(cmpErr(err)); {
					case err == nil:
						counts[i]++
					case tx && e.Kind == base.KindConflict && e.Outcome != base.Indeterminate:
					default:
						t.Errorf("writer %d: %v (%s, %s)", i, err, e.Kind, e.Outcome)
					}
					time.Sleep(2 * time.Millisecond)
				}
			})
		}
		for range 5 {
			time.Sleep(70 * time.Millisecond)
			gone := c.record().Leader
			c.close(gone)
			c.elect()
			c.open(gone)
			c.level()
		}
		close(stop)
		wg.Wait()
		c.level()
		s := c.session(4)
		defer s.Close()
		for i, n := range counts {
			s.expect(fmt.Sprintf("SELECT count(*) FROM item WHERE who = %d", i), fmt.Sprint(n))
			if n < 5 {
				t.Errorf("writer %d wrote %d times", i, n)
			}
		}
	})
}

// Without a leader a statement waits a while, and is certainly not done.
func TestWithoutALeader(t *testing.T) {
	run(t, 2, 2, func(t *testing.T, c *cluster) {
		s := c.session(2)
		defer s.Close()
		s.do("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		c.change(func(a *leader.Assignment) { a.Leader = 0 })
		began := time.Now()
		_, _, err := s.try("INSERT INTO item VALUES (1)")
		if e := base.AsError(cmpErr(err)); e.Kind != base.KindNoLeader || e.Outcome == base.Indeterminate || time.Since(began) > 20*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		s.do("SET skein.read = 'any'")
		s.expect("SELECT count(*) FROM item", "0")
		var appointed sync.WaitGroup
		appointed.Go(func() {
			time.Sleep(2 * time.Second)
			c.appoint(1)
		})
		s.do("INSERT INTO item VALUES (2)")
		appointed.Wait()
		s.do("SET skein.statement_timeout = '1s'")
		c.change(func(a *leader.Assignment) { a.Leader = 0 })
		began = time.Now()
		if _, _, err := s.try("INSERT INTO item VALUES (3)"); err == nil || time.Since(began) > 2*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		c.appoint(2)
	})
}

// Cancel ends what runs, wherever it runs, and leaves the session usable.
func TestCancel(t *testing.T) {
	run(t, 4, 3, func(t *testing.T, c *cluster) {
		for _, id := range []base.NodeID{1, 2, 4} {
			s := c.session(id)
			s.do("CREATE TABLE IF NOT EXISTS item(id INTEGER PRIMARY KEY)")
			holder := c.session(1)
			holder.do("BEGIN")
			holder.do("INSERT INTO item VALUES (NULL)")
			failed := make(chan error)
			go func() {
				_, _, err := s.try("INSERT INTO item VALUES (77)")
				failed <- err
			}()
			time.Sleep(time.Second)
			s.Cancel()
			err := <-failed
			if e := base.AsError(cmpErr(err)); e.Kind != base.KindCanceled {
				t.Errorf("node %d: %v (%s)", id, err, e.Kind)
			}
			time.Sleep(10 * time.Millisecond) // The leader hears of it.
			holder.do("ROLLBACK")
			holder.Close()
			if got := s.do("SELECT count(*) FROM item WHERE id = 77"); got != "0" {
				t.Errorf("node %d: canceled with outcome %s, and it is there", id, base.AsError(cmpErr(err)).Outcome)
			}
			s.Close()
		}
	})
}

// Rows that rest are no statement that runs: neither Cancel nor the statement
// timeout ends them, in a transaction or outside one, here or elsewhere.
func TestRowsRest(t *testing.T) {
	run(t, 4, 3, func(t *testing.T, c *cluster) {
		c.session(1).do("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.session(1).do("INSERT INTO item WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 3000) SELECT i FROM n")
		c.level()
		for _, id := range []base.NodeID{1, 2, 4} {
			for _, begin := range []string{"ROLLBACK", "BEGIN"} {
				s := c.session(id)
				s.do("SET skein.statement_timeout = '1s'")
				s.do(begin)
				rows := s.restingRows("SELECT id FROM item")
				rows.Rest()
				time.Sleep(2 * time.Second)
				s.Cancel()
				rows.Wake()
				if n, err := count(rows); n != 2999 || err != nil {
					t.Errorf("node %d, %s: after a rest: %d rows, %v", id, begin, n, err)
				}
				rows = s.restingRows("SELECT id FROM item")
				rows.Rest()
				rows.Wake()
				time.Sleep(2 * time.Second)
				if n, err := count(rows); id != 4 && base.KindOf(err) != base.KindTimeout {
					t.Errorf("node %d, %s: without a rest: %d rows, %v", id, begin, n, err)
				}
				rows.Rest() // It is over.
				rows.Wake()
				s.Close()
			}
		}
	})
}

type restingRows interface {
	session.Rows
	session.Resting
}

// restingRows reads the first row.
func (s *client) restingRows(sql string) restingRows {
	rows, err := s.Query(s.t.Context(), sql, nil)
	if err != nil || !rows.Next() {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return rows.(restingRows)
}

func count(rows session.Rows) (n int, err error) {
	for rows.Next() {
		n++
	}
	return n, rows.Err()
}

// Settings that can be set and shown, and what is wrong with others.
func TestSettings(t *testing.T) {
	run(t, 1, 1, func(t *testing.T, c *cluster) {
		s := c.session(1)
		defer s.Close()
		s.expect("SHOW skein.reached", "nothing committed yet")
		s.do("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		s.expect("SHOW skein.reached", "flushed on 1 of 1")
		for name, values := range map[string][2]string{
			"skein.read":              {"bounded(1.5s)", "BOUNDED( 1500ms )"},
			"skein.durability":        {"all applied", "ALL applied"},
			"skein.Read":              {"at(2/88)", "AT( 2/88 )"},
			"skein.statement_timeout": {"2s", "2000"},
		} {
			before := s.do("SHOW " + name)
			s.do("SET " + name + " = '" + values[1] + "'")
			s.expect("SHOW "+name, values[0])
			s.do("RESET " + name)
			s.expect("SHOW "+name, before)
			if err := s.Set(name, "nonsense"); base.KindOf(err) != base.KindInvalid {
				t.Errorf("%s: %v", name, err)
			}
		}
		s.fails("SET skein.token = 'AAAA'", base.KindInvalid, "")
		s.fails("SET skein.none = 1", base.KindInvalid, "42704")
		s.fails("SHOW skein.none", base.KindInvalid, "42704")
		s.expect("SHOW skein.epoch", "1")
		s.expect("SHOW skein.database", "shop")
		for sql, kind := range map[string]session.StatementKind{
			"": session.Empty, " -- x\n": session.Empty, "BEGIN": session.Begin, "start transaction": session.Begin, "end": session.Commit,
			"ROLLBACK": session.Rollback, "ROLLBACK TO a": session.Savepoint, "SHOW skein.read": session.Setting,
			"SELECT 1": session.Read, "INSERT INTO item VALUES (1)": session.Write, "CREATE TABLE x(a)": session.Schema,
		} {
			if d, err := s.Describe(context.Background(), sql); err != nil || d.Kind != kind {
				t.Errorf("%q: %+v, %v", sql, d, err)
			}
		}
		rows, err := s.Schema(t.Context(), "SELECT name FROM sqlite_schema WHERE name = 'item'", nil)
		if err != nil || !rows.Next() || string(rows.Row()[0].Bytes) != "item" {
			t.Errorf("schema: %v", err)
		}
	})
}

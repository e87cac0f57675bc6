package leader_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/replica/leader"
)

func TestWritesReachEveryReplica(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT)")
		res := c.write("INSERT INTO item(name) VALUES ('a'), ('b')")
		if res.RowsAffected != 2 || res.LastInsertID != 2 || res.Asked.String() != "quorum" {
			t.Errorf("got %+v", res)
		}
		c.same()
		for _, id := range c.ids() {
			c.expect(id, "SELECT id, name FROM item", "1,a;2,b")
		}
	})
}

// outcome of one of many writes.
type outcome struct {
	res *replica.WriteResult
	err error
}

// together runs writes at once, so that they meet in group commits.
func (c *cluster) together(writes ...replica.WriteRequest) []outcome {
	out := make([]outcome, len(writes))
	var wg sync.WaitGroup
	for i, q := range writes {
		wg.Go(func() { out[i].res, out[i].err = c.try(c.record().Leader, q) })
	}
	wg.Wait()
	return out
}

func TestManyWritesAreAnsweredOnceEach(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT UNIQUE)")
		c.write("INSERT INTO item VALUES (1000, 'taken')")
		var writes []replica.WriteRequest
		for i := range 300 {
			name := fmt.Sprint(i)
			if i%10 == 3 {
				name = "taken"
			}
			writes = append(writes, request("INSERT INTO item(id, name) VALUES (?1, ?2) RETURNING id * 2, name", i, name))
		}
		seen := make(map[base.Seq]bool)
		for i, o := range c.together(writes...) {
			if i%10 == 3 {
				wantKind(t, o.err, base.KindSQL, base.NotDone)
				continue
			}
			if o.err != nil {
				t.Fatalf("write %d: %v", i, o.err)
			}
			p := o.res.Result.Position
			if p.Epoch != 1 || seen[p.Seq] {
				t.Errorf("write %d is at %v, as another is", i, p)
			}
			seen[p.Seq] = true
			if got := o.res.Rows[0]; got[0].Int != int64(2*i) || string(got[1].Bytes) != fmt.Sprint(i) {
				t.Errorf("write %d returned %v", i, got)
			}
			if o.res.Result.Reached == "" || o.res.Result.Reached == "flushed on 1 of 3" {
				t.Errorf("write %d: reached %q", i, o.res.Result.Reached)
			}
		}
		c.same()
		c.expect(2, "SELECT count(*), count(DISTINCT name) FROM item", "271,271")
	})
}

// exhausting needs more memory than a connection has, which makes the engine
// panic: the connection is lost.
var exhausting = "max(" + strings.Repeat("CAST(zeroblob(60000000) AS TEXT), ", 5) + "1) > 0"

// Whatever one write does to the transaction that it shares, the others stand.
func TestAWriteThatFailsHarmsNoOther(t *testing.T) {
	for name, bad := range map[string]replica.WriteRequest{
		"unique":         request("INSERT INTO item VALUES (1000, 'again')"),
		"or rollback":    request("INSERT OR ROLLBACK INTO item VALUES (1001, 'x'), (1000, 'again')"),
		"or fail":        request("INSERT OR FAIL INTO item VALUES (1001, 'x'), (1000, 'again')"),
		"raise rollback": request("INSERT INTO item VALUES (1002, 'raise')"),
		"deferred key":   request("INSERT INTO part VALUES (1, 4711)"),
		"engine panics":  request("INSERT INTO item SELECT 1001, 1 WHERE " + exhausting),
		"too large":      request("INSERT INTO item VALUES (1001, zeroblob(17000000))"),
		"too many rows":  {Statements: request("INSERT INTO item SELECT id + 5000, name FROM item RETURNING hex(zeroblob(1000))").Statements, Guard: replica.GuardAdmin, MaxResultBytes: 1500},
		"second of two": {Statements: []replica.Statement{statement("INSERT INTO item VALUES (1001, 'x')"),
			statement("INSERT INTO item VALUES (1000, 'again')")}, Guard: replica.GuardAdmin},
		"forbidden": {Statements: request("INSERT INTO item VALUES (1001, 'x')").Statements, Guard: replica.GuardRead},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, 2, nil, func(t *testing.T, c *cluster) {
				c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, name)")
				c.write("CREATE TABLE part(id INTEGER PRIMARY KEY, item REFERENCES item DEFERRABLE INITIALLY DEFERRED)")
				c.write("CREATE TRIGGER raise AFTER INSERT ON item WHEN new.name = 'raise' BEGIN SELECT RAISE(ROLLBACK, 'no'); END")
				c.write("INSERT INTO item VALUES (1000, 'first'), (2000, 'second')")
				var writes []replica.WriteRequest
				for i := range 20 {
					writes = append(writes, request("INSERT INTO item VALUES (?1, 'good')", i))
					if i == 3 || (i == 10 && name != "engine panics") {
						writes = append(writes, bad)
					}
				}
				for i, o := range c.together(writes...) {
					if (o.err != nil) != (writes[i].Statements[0].SQL == bad.Statements[0].SQL) {
						t.Errorf("%.60s: %v", writes[i].Statements[0].SQL, o.err)
					}
					if e := base.AsError(cmpErr(o.err)); o.err != nil && (e.Outcome == base.Indeterminate || e.Outcome == base.Done) {
						t.Errorf("%.60s: %v: %s", writes[i].Statements[0].SQL, o.err, e.Outcome)
					}
				}
				c.same()
				c.expect(2, "SELECT count(*), sum(id > 1000) FROM item", "22,1")
			})
		})
	}
}

// A deferred foreign key is found violated before the log has anything of it:
// the log is neither written nor cut.
func TestADeferredForeignKeyNeverReachesTheLog(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.write("CREATE TABLE part(id INTEGER PRIMARY KEY, item REFERENCES item DEFERRABLE INITIALLY DEFERRED)")
		c.level()
		time.Sleep(time.Second) // The log has its mark that all is there.
		before := c.member(1).files.logWrites.Load()
		var bad []replica.WriteRequest
		for i := range 50 {
			bad = append(bad, request("INSERT INTO part VALUES (?1, 4711)", i))
		}
		for _, o := range c.together(bad...) {
			wantKind(t, o.err, base.KindSQL, base.NotDone)
			if state := base.AsError(cmpErr(o.err)).State(); state != "23503" {
				t.Errorf("SQLSTATE %s", state)
			}
		}
		tx := c.begin(replica.BeginRequest{})
		say(t, tx, "INSERT INTO part VALUES (1, 4711)")
		_, err := tx.Commit(t.Context(), base.Durability{}, replica.OperationID{}, "")
		wantKind(t, err, base.KindSQL, base.NotDone)
		if n := c.member(1).files.logWrites.Load() - before; n != 0 {
			t.Errorf("the log was written to %d times", n)
		}
		// One that is mended before its end is fine.
		tx = c.begin(replica.BeginRequest{})
		say(t, tx, "INSERT INTO part VALUES (1, 4711)")
		say(t, tx, "INSERT INTO item VALUES (4711)")
		if _, err := tx.Commit(t.Context(), base.Durability{}, replica.OperationID{}, ""); err != nil {
			t.Error(err)
		}
		for i, o := range c.together(request("INSERT INTO part VALUES (2, 4711)"), request("INSERT INTO part VALUES (3, 7)")) {
			if (o.err != nil) != (i == 1) {
				t.Errorf("write %d: %v", i, o.err)
			}
		}
		c.same()
		c.expect(2, "SELECT id, item FROM part", "1,4711;2,4711")
	})
}

// A client can make a full-text index contradict its table; the leader goes on.
func TestASpoiltFullTextIndexStopsNobody(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE doc(id INTEGER PRIMARY KEY, body)")
		c.write("CREATE VIRTUAL TABLE words USING fts5(body, content=doc, content_rowid=id)")
		c.write("INSERT INTO doc VALUES (1, 'wild geese')")
		c.write("INSERT INTO words(words) VALUES ('rebuild')")
		c.write("DELETE FROM doc")
		_, err := c.try(1, request("INSERT INTO words(words, rank) VALUES ('integrity-check', 1)"))
		wantKind(t, err, base.KindSQL, base.NotDone)
		c.write("INSERT INTO doc VALUES (2, 'tame geese')")
		c.write("INSERT INTO words(words) VALUES ('rebuild')")
		c.same()
		c.expect(2, "SELECT rowid FROM words WHERE words MATCH 'geese'", "2")
		if epoch, ok := c.replica(1).Leading(); !ok || epoch != 1 {
			t.Errorf("leads: %v, in epoch %d", ok, epoch)
		}
		for id := range base.NodeID(2) {
			if err := c.replica(id + 1).Verify(t.Context()); err != nil {
				t.Errorf("replica %d: %v", id+1, err)
			}
		}
	})
}

func TestATransactionThatFitsNoMessageIsRefused(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, data BLOB)")
		_, err := c.try(1, request("INSERT INTO item VALUES (1, zeroblob(?1))", leader.MaxTransactionBytes))
		wantKind(t, err, base.KindTooLarge, base.NotDone)
		if e := base.AsError(cmpErr(err)); e.State() != "54000" || !strings.Contains(e.Hint, "split") {
			t.Errorf("%s, hint %q", e.State(), e.Hint)
		}
		// The largest that fits arrives.
		c.write("INSERT INTO item VALUES (1, zeroblob(?1))", leader.MaxTransactionBytes-200)
		c.same()
	})
}

// A client that gives up leaves the batch's other writes alone; it is told
// whether its own may stand.
func TestAnInterruptedWriteUndoesItselfAlone(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, name)")
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := c.replica(1).Write(gone, request("INSERT INTO item VALUES (1, 'canceled')")); base.KindOf(err) != base.KindCanceled {
			t.Errorf("got %v", err)
		}
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				ctx, cancel := context.WithCancel(context.Background())
				go func() {
					for range 1000 * (i + 1) { // Virtual time stands still while SQLite works.
						runtime.Gosched()
					}
					cancel()
				}()
				_, err := c.replica(1).Write(ctx, request("INSERT INTO item WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT NULL, i FROM n LIMIT 100000000"))
				wantKind(t, err, base.KindCanceled, base.NotDone)
			})
			wg.Go(func() {
				if _, err := c.try(1, request("INSERT INTO item VALUES (?1, 'good')", 100+i)); err != nil {
					t.Errorf("write %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		c.same()
		c.expect(2, "SELECT count(*), min(name) FROM item", "5,good")
	})
}

func TestSchemaChangesTravel(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT)")
		c.write("INSERT INTO item(name) VALUES ('a'), ('b')")
		c.write("ALTER TABLE item ADD COLUMN price REAL DEFAULT 1.5")
		c.write("CREATE INDEX by_name ON item(name)")
		c.write("CREATE TABLE old AS SELECT * FROM item")
		c.write("UPDATE item SET price = id * 10 WHERE name = 'b'")
		c.write("DROP TABLE old")
		c.write("CREATE VIRTUAL TABLE words USING fts5(body)")
		c.write("INSERT INTO words VALUES ('wild geese fly'), ('a leader changes')")
		c.same()
		c.expect(3, "SELECT id, price FROM item", "1,1.5;2,20")
		c.expect(2, "SELECT rowid FROM words WHERE words MATCH 'leader'", "2")
		for _, o := range c.together(request("CREATE TABLE twice(a)"), request("CREATE TABLE twice(a)"), request("INSERT INTO item(name) VALUES ('c')")) {
			if o.err != nil && base.KindOf(o.err) != base.KindSQL {
				t.Error(o.err)
			}
		}
		c.same()
		c.expect(3, "SELECT count(*) FROM item", "3")
	})
}

func TestAWriteElsewhereIsSentToTheLeader(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, c *cluster) {
		_, err := c.try(2, request("CREATE TABLE t(a)"))
		wantKind(t, err, base.KindNotLeader, base.NotDone)
		if e := base.AsError(cmpErr(err)); e.Leader != 1 {
			t.Errorf("sent to node %v", e.Leader)
		}
		q := request("CREATE TABLE t(a)")
		q.Epoch = 2
		_, err = c.try(1, q)
		wantKind(t, err, base.KindNotLeader, base.NotDone)
		q.Epoch = 1
		if _, err := c.try(1, q); err != nil {
			t.Error(err)
		}
	})
}

// More writes than the writer's queue holds are refused, not lost.
func TestAFullQueueRefuses(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		tx, err := c.replica(1).BeginWrite(t.Context(), replica.BeginRequest{Guard: replica.GuardWrite})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan []outcome)
		writes := make([]replica.WriteRequest, 4200)
		for i := range writes {
			writes[i] = request("INSERT INTO item VALUES (?1)", i)
		}
		go func() { done <- c.together(writes...) }()
		time.Sleep(time.Second)
		tx.Rollback()
		good := 0
		for _, o := range <-done {
			switch base.KindOf(o.err) {
			case "":
				good++
			case base.KindBusy:
			default:
				t.Error(o.err)
			}
		}
		if good == len(writes) {
			t.Error("no write was refused")
		}
		c.expect(1, "SELECT count(*) FROM item", fmt.Sprint(good))
	})
}

package leader_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/replica/leader"
)

// eachFormat runs a test in every log format that there is.
func eachFormat(t *testing.T, n int, policy func(*base.Policy), f func(t *testing.T, c *cluster)) {
	for _, format := range base.LogFormats {
		t.Run(format, func(t *testing.T) {
			run(t, n, func(p *base.Policy) {
				p.LogFormat = format
				if policy != nil {
					policy(p)
				}
			}, f)
		})
	}
}

// alterFormat changes the format of the running database.
func (c *cluster) alterFormat(format string) {
	c.change(func(a *leader.Assignment) { a.Policy.LogFormat = format })
}

// workload makes random statements for the tables of formatSchema.
type workload struct{ *rand.Rand }

var formatSchema = []string{
	"CREATE TABLE parent(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, at TEXT DEFAULT CURRENT_TIMESTAMP, dice INTEGER DEFAULT (random()))",
	"CREATE TABLE child(id INTEGER PRIMARY KEY, parent REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE, note TEXT, data BLOB DEFAULT (randomblob(9)))",
	"CREATE TABLE pair(a TEXT, b INTEGER, v REAL, PRIMARY KEY(b, a)) WITHOUT ROWID",
	"CREATE TABLE audit(what TEXT, n INTEGER, at REAL)",
	"CREATE INDEX child_note ON child(note)",
	"CREATE TRIGGER child_in AFTER INSERT ON child BEGIN INSERT INTO audit VALUES ('in', last_insert_rowid(), julianday('now')); UPDATE child SET note = coalesce(note, 'x') || changes() WHERE id = NEW.id; END",
	"CREATE TRIGGER child_out AFTER DELETE ON child BEGIN INSERT INTO audit VALUES ('out', OLD.id, random() % 100); DELETE FROM audit WHERE rowid < (SELECT max(rowid) FROM audit) - 50; END",
}

func (w workload) statement() string {
	n, m := w.IntN(40), w.IntN(1000)
	switch w.IntN(16) {
	case 0, 1, 2:
		return fmt.Sprintf("INSERT OR IGNORE INTO parent(name) VALUES ('p%d'), ('q%d')", n, m)
	case 3, 4:
		return fmt.Sprintf("INSERT INTO child(parent, note) SELECT id, 'n' || (abs(random()) %% 100) FROM parent WHERE id %% 7 = %d ORDER BY name", n%7)
	case 5:
		return fmt.Sprintf("INSERT INTO pair VALUES ('k%d', %d, %d.5) ON CONFLICT DO UPDATE SET v = v + excluded.v RETURNING *", n%5, m%20, m)
	case 6:
		return fmt.Sprintf("REPLACE INTO parent(id, name) VALUES (%d, 'r%d')", 1+n, n)
	case 7:
		return fmt.Sprintf("UPDATE parent SET name = name || '%d', dice = random() WHERE id %% 5 = %d", m, n%5)
	case 8:
		return fmt.Sprintf("DELETE FROM parent WHERE id %% 11 = %d", n%11)
	case 9:
		return fmt.Sprintf("UPDATE child SET data = randomblob(%d), note = datetime('now', '+%d days') WHERE id %% 4 = %d", n, n, n%4)
	case 10:
		return fmt.Sprintf("DELETE FROM child WHERE id IN (SELECT id FROM child LIMIT %d)", n%4)
	case 11:
		return fmt.Sprintf("UPDATE pair SET v = (SELECT count(*) FROM child), a = a || 'z' WHERE b < %d AND length(a) < 6", n%20)
	case 12:
		return fmt.Sprintf("INSERT INTO audit VALUES ('last', last_insert_rowid(), total_changes() + changes() * %d)", n)
	case 13:
		return fmt.Sprintf("UPDATE parent SET id = id + 1000 WHERE id = %d", n)
	case 14:
		return fmt.Sprintf("CREATE INDEX IF NOT EXISTS made%d ON pair(v)", n%3)
	}
	return fmt.Sprintf("INSERT OR REPLACE INTO child(id, parent, note) VALUES (%d, (SELECT min(id) FROM parent), NULL) RETURNING id", n)
}

// work sends n writes to the leader; failing statements are part of it.
func (c *cluster) work(w workload, n int) {
	c.t.Helper()
	for range n {
		q := request(w.statement())
		for w.IntN(3) == 0 {
			q.Statements = append(q.Statements, statement(w.statement()))
		}
		if _, err := c.try(c.record().Leader, q); err != nil && base.KindOf(err) != base.KindSQL {
			c.t.Fatalf("%v: %v", q.Statements, err)
		}
	}
}

func (c *cluster) makeTables() {
	c.t.Helper()
	for _, sql := range formatSchema {
		c.write(sql)
	}
}

// TestFormats runs random SQL in every format and compares all replicas.
func TestFormats(t *testing.T) {
	eachFormat(t, 3, nil, func(t *testing.T, c *cluster) {
		c.makeTables()
		for seed := range uint64(6) {
			c.work(workload{rand.New(rand.NewPCG(seed, 1))}, 60)
			c.same()
		}
	})
}

// TestFormatsSwitch changes the format while writes run and a transaction is open:
// every write is kept, in the order of the log, and no follower is copied.
func TestFormatsSwitch(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.makeTables()
		c.write("CREATE TABLE counted(n INTEGER PRIMARY KEY)")
		stop, done := make(chan struct{}), make(chan int)
		go func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					done <- n
					return
				default:
				}
				if _, err := c.try(1, request("INSERT INTO counted VALUES (?1)", n)); err != nil {
					t.Error(err)
				}
			}
		}()
		w := workload{rand.New(rand.NewPCG(7, 2))}
		switches := 3*len(base.LogFormats) + 1
		copies, overs := c.countCopies(), int64(0)
		for i := range switches {
			if base.LogFormats[i%len(base.LogFormats)] == base.FormatWAL {
				overs++
			}
			tx, err := c.replica(1).BeginWrite(t.Context(), replica.BeginRequest{Guard: replica.GuardAdmin})
			if err != nil {
				t.Fatal(err)
			}
			c.alterFormat(base.LogFormats[i%len(base.LogFormats)])
			if _, err := tx.Query(t.Context(), statement("INSERT INTO audit VALUES ('open', random(), julianday('now'))")); err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Commit(t.Context(), base.Durability{}, replica.OperationID{}, ""); err != nil {
				t.Fatal(err)
			}
			c.work(w, 30)
		}
		close(stop)
		n := <-done
		c.same()
		c.expect(3, "SELECT count(*), max(n) + 1 FROM counted", fmt.Sprintf("%d,%d", n, n))
		kinds := make(map[string]int)
		for _, e := range c.shown(1, leader.LogQuery{}) {
			kinds[e.Kind]++
		}
		if want := switches - 1; len(base.LogFormats) > 1 && kinds["format"] != want {
			t.Errorf("%d changes of the format in the log, want %d", kinds["format"], want)
		}
		for _, format := range base.LogFormats {
			if kinds[format] < 10 {
				t.Errorf("%d entries of kind %s", kinds[format], format)
			}
		}
		// Going over to pages is what followers copy the leader's file for, and nothing else.
		if n := copies.Load(); n > 2*overs {
			t.Errorf("%d copies for %d changes to pages", n, overs)
		}
	})
}

// TestFormatsNewFollower copies a database and goes on from its log.
func TestFormatsNewFollower(t *testing.T) {
	eachFormat(t, 3, nil, func(t *testing.T, c *cluster) {
		c.makeTables()
		w := workload{rand.New(rand.NewPCG(3, 3))}
		c.work(w, 80)
		c.change(func(a *leader.Assignment) {
			a.Replicas = append(a.Replicas, 4)
		})
		c.open(4)
		c.work(w, 80)
		c.same()
	})
}

// TestFormatsFailover loses a leader with a tail that nobody else has: the tail
// is undone when it comes back.
func TestFormatsFailover(t *testing.T) {
	eachFormat(t, 3, nil, func(t *testing.T, c *cluster) {
		c.makeTables()
		w := workload{rand.New(rand.NewPCG(5, 4))}
		c.work(w, 80)
		c.level()
		for round := range 3 {
			old := c.record().Leader
			c.isolate(old)
			tail := make(chan error, 1)
			go func() {
				var err error
				for range 20 {
					q := request(w.statement())
					q.Durability = base.Durability{Level: base.Async, When: base.Flushed}
					_, err = c.try(old, q)
				}
				tail <- err
			}()
			time.Sleep(20 * time.Millisecond)
			var others []base.NodeID
			for _, id := range c.ids() {
				if id != old {
					others = append(others, id)
				}
			}
			c.elect(others...)
			c.eventually("another serves", func() bool { _, ok := c.replica(c.record().Leader).Leading(); return ok })
			<-tail
			c.rejoin(old)
			c.work(workload{rand.New(rand.NewPCG(uint64(round), 5))}, 40)
			c.same()
		}
	})
}

// isolate cuts a node off from all others.
func (c *cluster) isolate(id base.NodeID) {
	for _, other := range c.ids() {
		if other != id {
			c.mute(id, other)
		}
	}
}

func (c *cluster) rejoin(id base.NodeID) {
	for _, other := range c.ids() {
		if other != id {
			c.heal(id, other)
		}
	}
}

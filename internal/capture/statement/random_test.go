package statement_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/capturetest"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/capture/statement"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/statementformat"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, path string, role sqlite.Role) *sqlite.Conn {
	t.Helper()
	c, err := sqlite.OpenConn(t.Context(), path, sqlite.ConnOptions{Role: role, TempInMemory: true})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// copies are a leader and a follower, which has two connections.
type copies struct {
	t        testing.TB
	leader   *sqlite.Conn
	recorder *statement.Recorder
	rows     *sqlite.Conn
	applier  *row.Applier
	replay   *sqlite.Conn
	replayer *statement.Replayer
	log      *capturetest.Log

	replayed, asRows, failed int
}

func newCopies(t testing.TB, seed uint64) *copies {
	dir := t.TempDir()
	c := &copies{t: t, log: &capturetest.Log{}}
	c.connect(dir, seed)
	c.rows = open(t, dir+"/follower.db", sqlite.RoleApplier)
	must(t, c.rows.Exec("PRAGMA journal_mode=WAL"))
	c.applier = row.NewApplier(c.rows)
	c.replay = open(t, dir+"/follower.db", sqlite.RoleWriter)
	var err error
	c.replayer, err = statement.NewReplayer(c.replay)
	must(t, err)
	return c
}

func (c *copies) connect(dir string, seed uint64) {
	c.leader = open(c.t, dir+"/leader.db", sqlite.RoleWriter)
	must(c.t, c.leader.Exec("PRAGMA journal_mode=WAL"))
	at := time.Unix(1_700_000_000, 0)
	now := func() time.Time { at = at.Add(987 * time.Millisecond); return at }
	var key [32]byte
	key[0] = byte(seed)
	var err error
	c.recorder, err = statement.NewRecorder(c.leader, now, rand.NewChaCha8(key))
	must(c.t, err)
}

// transaction runs statements on the leader, and on the follower what was caught.
func (c *copies) transaction(list ...string) {
	c.t.Helper()
	must(c.t, c.leader.BeginImmediate())
	whole := c.recorder.Mark()
	c.log.Add("BEGIN IMMEDIATE")
	for _, sql := range list {
		c.log.Add(sql)
		m := c.recorder.Mark()
		must(c.t, c.leader.Exec("SAVEPOINT one"))
		if err := c.statement(sql); err != nil {
			c.failed++
			c.log.Note(err.Error())
			if !c.leader.InTransaction() { // OR ROLLBACK
				c.recorder.Rewind(whole)
				return
			}
			must(c.t, c.leader.Exec("ROLLBACK TO one"))
			c.recorder.Rewind(m)
		}
		must(c.t, c.leader.Exec("RELEASE one"))
	}
	if c.leader.CheckForeignKeys() != nil {
		must(c.t, c.leader.Rollback())
		c.recorder.Rewind(whole)
		return
	}
	taken, err := c.recorder.Take(whole)
	must(c.t, err)
	must(c.t, c.leader.Commit())
	if taken.Changes > 0 {
		c.follow(taken)
	}
}

func (c *copies) statement(sql string) error {
	st, err := c.leader.Prepare(sql)
	if err != nil {
		return err
	}
	defer st.Close()
	c.recorder.Before(st)
	if err := st.Run(); err != nil {
		return err
	}
	return c.recorder.After(st, sql, nil)
}

func (c *copies) follow(taken statement.Taken) {
	c.t.Helper()
	rows := taken.Rows
	if taken.Body != nil {
		b, err := statementformat.Decode(taken.Body)
		must(c.t, err)
		if taken.Replayed {
			c.execute(b, taken)
			return
		}
		rows = b.Rows
	}
	c.asRows++
	must(c.t, c.rows.BeginImmediate())
	must(c.t, c.applier.Apply(rows))
	must(c.t, c.rows.Commit())
}

func (c *copies) execute(b *statementformat.Body, taken statement.Taken) {
	c.t.Helper()
	c.replayed++
	must(c.t, c.replay.BeginImmediate())
	must(c.t, c.replayer.Begun())
	rows, changes, err := c.replayer.Run(b)
	if err != nil || changes != taken.Changes || !bytes.Equal(rows, taken.Rows) {
		var list []string
		for _, s := range b.Statements {
			list = append(list, string(s.SQL))
		}
		c.t.Fatalf("%q: %v; %d changes, %d on the leader", list, err, changes, taken.Changes)
	}
	must(c.t, c.replay.Commit())
}

func (c *copies) compare() {
	c.t.Helper()
	leader, follower := capturetest.Dump(c.t, c.leader), capturetest.Dump(c.t, c.rows)
	if d := capturetest.Difference(leader, follower); d != "" {
		c.t.Fatalf("the copies differ:\n%s", d)
	}
}

// TestRandomHistories executes random SQL over all sorts of tables twice: nothing
// that is executed again may do something else.
func TestRandomHistories(t *testing.T) {
	var replayed, asRows, failed int
	n := capturetest.Histories(t, 40, func(t *testing.T, g *capturetest.Generator, log *capturetest.Log) {
		c := newCopies(t, g.Uint64())
		c.log = log
		for _, i := range g.Perm(len(capturetest.Families))[:3] {
			c.transaction(capturetest.Families[i]...)
		}
		for n := range 25 {
			g.Look(capturetest.Relations(t, c.leader))
			if len(g.Tables) == 0 {
				break
			}
			var list []string
			for range 1 + g.IntN(4) {
				list = append(list, g.Change())
			}
			if n%9 == 8 {
				list = []string{g.SchemaChange()}
			}
			c.transaction(list...)
		}
		c.compare()
		replayed, asRows, failed = replayed+c.replayed, asRows+c.asRows, failed+c.failed
	})
	t.Logf("%d transactions were executed again, %d applied as rows; %d statements failed", replayed, asRows, failed)
	if n >= 40 && (replayed < 200 || asRows < 100 || failed < 50) {
		t.Error("the histories do not try enough")
	}
}

// TestReplayerNotices executes statements on a follower that is not as its leader.
func TestReplayerNotices(t *testing.T) {
	c := newCopies(t, 1)
	c.transaction("CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE)")
	c.transaction("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
	must(t, c.rows.Exec("UPDATE t SET v = 'x' WHERE id = 1"))
	for _, sql := range []string{"UPDATE t SET v = v || '!'", "INSERT INTO t VALUES (7, 'x')"} {
		must(t, c.leader.BeginImmediate())
		m := c.recorder.Mark()
		must(t, c.statement(sql))
		taken, err := c.recorder.Take(m)
		must(t, err)
		must(t, c.leader.Commit())
		b, err := statementformat.Decode(taken.Body)
		must(t, err)
		must(t, c.replay.BeginImmediate())
		must(t, c.replayer.Begun())
		if _, _, err := c.replayer.Run(b); !errors.Is(err, statement.ErrDifferent) {
			t.Errorf("%s: %v", sql, err)
		}
		must(t, c.replay.Rollback())
	}
}

// TestFixedTime: the time is refused where SQLite refuses it, also when what asks
// for it was made in this format.
func TestFixedTime(t *testing.T) {
	dir := t.TempDir()
	c := &copies{t: t}
	c.connect(dir, 1)
	must(t, c.statement("CREATE TABLE t(at)"))
	must(t, c.statement("INSERT INTO t VALUES (1)"))
	if err := c.statement("CREATE INDEX now ON t(datetime('now'))"); base.KindOf(err) != base.KindSQL {
		t.Errorf("an index of the time: %v", err)
	}
	must(t, c.statement("CREATE INDEX day ON t(date(at))"))
	if !c.recorder.Stale() {
		t.Error("an index of a function of the clock was not noticed")
	}
	c.connect(dir, 2)
	if c.recorder.Stale() {
		t.Error("a recorder that was just opened is stale")
	}
	must(t, c.statement("INSERT INTO t VALUES ('2020-01-01')"))
	must(t, c.leader.Exec("DROP INDEX day"))
	if c.recorder.SchemasRead(); c.statement("DROP TABLE IF EXISTS other") != nil {
		t.Error("a statement failed")
	}
}

package row_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/sqlite"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, name string, role sqlite.Role) *sqlite.Conn {
	t.Helper()
	c, err := sqlite.OpenConn(context.Background(), name, sqlite.ConnOptions{Role: role})
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	must(t, c.Exec("PRAGMA synchronous=OFF; PRAGMA journal_mode=WAL"))
	return c
}

// pairOf is a leader whose writer is captured, and a follower's copy.
type pairOf struct {
	t        testing.TB
	leader   *sqlite.Conn
	recorder *row.Recorder
	follower *sqlite.Conn
	applier  *row.Applier
}

func newPair(t testing.TB) *pairOf {
	t.Helper()
	dir := t.TempDir()
	p := &pairOf{t: t, leader: open(t, filepath.Join(dir, "leader.db"), sqlite.RoleWriter),
		follower: open(t, filepath.Join(dir, "follower.db"), sqlite.RoleApplier)}
	var err error
	p.recorder, err = row.NewRecorder(p.leader)
	must(t, err)
	p.applier = row.NewApplier(p.follower)
	t.Cleanup(p.applier.Close)
	return p
}

// run runs a statement of a client in its savepoint, as a leader does. The mark
// may be set before the savepoint or in it.
func run(c *sqlite.Conn, r *row.Recorder, sql string, args ...base.Value) error {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	var m row.Mark
	if r != nil && len(sql)%2 == 0 {
		m = r.Mark()
	}
	must(c.Exec("SAVEPOINT statement"))
	if r != nil && len(sql)%2 == 1 {
		m = r.Mark()
	}
	err := step(c, r, sql, args)
	switch {
	case err == nil:
		must(c.Exec("RELEASE statement"))
	case c.InTransaction():
		must(c.Exec("ROLLBACK TO statement; RELEASE statement"))
	}
	if err != nil && r != nil {
		r.Rewind(m)
	}
	return err
}

func step(c *sqlite.Conn, r *row.Recorder, sql string, args []base.Value) error {
	c.SetGuard(sqlite.GuardAdmin | sqlite.AllowSavepoint)
	defer c.SetGuard(sqlite.GuardOwn)
	s, err := c.Prepare(sql)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.BindAll(args); err != nil {
		return err
	}
	if err := s.Run(); err != nil || r == nil {
		return err
	}
	return r.Statement(s.Info(), sql)
}

// transaction runs statements on the leader and applies them on the follower.
func (p *pairOf) transaction(statements ...string) []byte {
	p.t.Helper()
	must(p.t, p.leader.BeginImmediate())
	m := p.recorder.Mark()
	for _, sql := range statements {
		if err := run(p.leader, p.recorder, sql); err != nil {
			p.t.Fatalf("%s: %v", sql, err)
		}
	}
	body, _, err := p.recorder.Take(m)
	must(p.t, err)
	must(p.t, p.leader.Commit())
	if body == nil {
		return nil
	}
	must(p.t, p.follower.BeginImmediate())
	if err := p.applier.Apply(body); err != nil {
		p.t.Fatalf("%q: %v", statements, err)
	}
	must(p.t, p.follower.Commit())
	return append([]byte(nil), body...)
}

func TestSmoke(t *testing.T) {
	p := newPair(t)
	p.transaction("CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT, b UNIQUE)", "INSERT INTO t(b) VALUES('x'),('y')")
	p.transaction("INSERT OR IGNORE INTO t(b) VALUES('x'),('z')", "UPDATE t SET a=-a", "REPLACE INTO t VALUES(5,'y')")
	p.transaction("CREATE TABLE u AS SELECT * FROM t", "CREATE VIRTUAL TABLE f USING fts5(x)")
	p.transaction("INSERT INTO f VALUES('hello'),('world')", "ANALYZE")
	p.transaction("INSERT INTO f VALUES('more')", "DROP TABLE u")
}

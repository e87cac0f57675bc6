package sqlite_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/sqlite"
)

func TestErrorsCarryKindAndState(t *testing.T) {
	c := newConn(t, `CREATE TABLE p(id INTEGER PRIMARY KEY);
		CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE, n NOT NULL DEFAULT 1, c CHECK (c > 0), p REFERENCES p);
		INSERT INTO t(id, u) VALUES(1, 1); CREATE TABLE s(i INTEGER) STRICT; CREATE TABLE w(a PRIMARY KEY) WITHOUT ROWID; INSERT INTO w VALUES(1)`)
	for _, e := range []struct {
		sql   string
		kind  base.Kind
		state string
		text  string
	}{
		{"INSERT INTO t(u) VALUES(1)", base.KindSQL, "23505", "UNIQUE constraint failed: t.u"},
		{"INSERT INTO t(id) VALUES(1)", base.KindSQL, "23505", "UNIQUE constraint failed: t.id"},
		{"INSERT INTO w VALUES(1)", base.KindSQL, "23505", ""},
		{"INSERT INTO t(n) VALUES(NULL)", base.KindSQL, "23502", "NOT NULL constraint failed: t.n"},
		{"INSERT INTO t(c) VALUES(0)", base.KindSQL, "23514", "CHECK constraint failed"},
		{"INSERT INTO t(p) VALUES(9)", base.KindSQL, "23503", "FOREIGN KEY constraint failed"},
		{"INSERT INTO s VALUES('x')", base.KindSQL, "42804", "cannot store TEXT value in INTEGER column s.i"},
		{"INSERT INTO t(id) VALUES('x')", base.KindSQL, "42804", "datatype mismatch"},
		{"SELECT * FROM nix", base.KindSQL, "42P01", "no such table: nix"},
		{"SELECT nix FROM t", base.KindSQL, "42703", "no such column: nix"},
		{"INSERT INTO t(nix) VALUES(1)", base.KindSQL, "42703", ""},
		{"SELECT nix()", base.KindSQL, "42883", "no such function: nix"},
		{"SELECT abs(1, 2)", base.KindSQL, "42883", ""},
		{"SELECT id FROM t, p", base.KindSQL, "42702", ""},
		{"CREATE TABLE t(a)", base.KindSQL, "42P07", "table t already exists"},
		{"DROP INDEX nix", base.KindSQL, "42704", ""},
		{"SELEC 1", base.KindSQL, "42601", `syntax error (SQLite dialect): near "SELEC"`},
		{"SELECT (", base.KindSQL, "42601", "incomplete input"},
		{"SELECT 'x", base.KindSQL, "42601", "unrecognized token"},
		{"SELECT x'0'", base.KindSQL, "42601", "unrecognized token"},
		{"SELECT \"nix\" FROM p", base.KindSQL, "42703", ""},
		{"SELECT abs(-9223372036854775808)", base.KindSQL, "22003", "integer overflow"},
		{"SELECT json('{')", base.KindSQL, "22032", "malformed JSON"},
		{"INSERT INTO t VALUES(1)", base.KindSQL, "42000", "values"},
		{"ROLLBACK TO nix", base.KindSQL, "3B001", "no such savepoint: nix"},
		{"COMMIT", base.KindSQL, "25P01", ""},
		{"SELECT zeroblob(1000000000)", base.KindTooLarge, "54000", "string or blob too big"},
	} {
		err := orInternal(run(c, e.sql))
		got := base.AsError(err)
		if got.Kind != e.kind || got.State() != e.state || !strings.Contains(got.Message, e.text) {
			t.Errorf("%s\n\tgot %s %s %q, want %s %s %q", e.sql, got.Kind, got.State(), got.Message, e.kind, e.state, e.text)
		}
	}
}

func TestLimits(t *testing.T) {
	c := newConn(t, "CREATE TABLE t(a)")
	for name, sql := range map[string]string{
		"text":       "SELECT '" + strings.Repeat("x", 1<<20) + "'",
		"huge text":  "SELECT '" + strings.Repeat("x", 100<<20) + "'",
		"operators":  "SELECT 1" + strings.Repeat("+1", 1100),
		"not":        "SELECT " + strings.Repeat("NOT ", 100_000) + "1",
		"subqueries": "SELECT " + strings.Repeat("(SELECT ", 5000) + "1" + strings.Repeat(")", 5000),
		"compound":   "SELECT 1" + strings.Repeat(" UNION ALL SELECT 1", 501),
		"pattern":    "SELECT 'x' LIKE '" + strings.Repeat("%x", 600) + "'",
		"columns":    "SELECT 1" + strings.Repeat(",1", 2000),
		"arguments":  "SELECT max(1" + strings.Repeat(",1", 101) + ")",
		"parameters": "SELECT ?32767",
		"attach":     "ATTACH ':memory:' AS x",
	} {
		err := run(c, sql)
		if k := base.KindOf(err); k != base.KindTooLarge {
			t.Errorf("%s: got %s %v", name, k, err)
		}
	}
	// Just inside the limits everything works, on the engine's own stack.
	must(t, run(c, "SELECT 1"+strings.Repeat("+1", 198)))
	must(t, run(c, "SELECT 1"+strings.Repeat(" EXCEPT SELECT 1", 99)))
	must(t, run(c, "CREATE VIEW v0 AS SELECT 1 AS a"))
	if c.Broken() {
		t.Error("the connection is broken")
	}
}

func TestTriggerDepthIsBounded(t *testing.T) {
	c, err := sqlite.OpenConn(t.Context(), t.TempDir()+"/t.db", sqlite.ConnOptions{Limits: sqlite.Limits{TriggerDepth: 10}})
	must(t, err)
	defer c.Close()
	must(t, c.Exec("CREATE TABLE t(a); PRAGMA recursive_triggers=ON;"+
		"CREATE TRIGGER g AFTER INSERT ON t WHEN new.a > 0 BEGIN INSERT INTO t VALUES(new.a-1); END"))
	must(t, run(c, "INSERT INTO t VALUES(5)"))
	if err := run(c, "INSERT INTO t VALUES(20)"); base.KindOf(err) != base.KindTooLarge {
		t.Errorf("got %v", err)
	}
}

func TestBindAllCountsParameters(t *testing.T) {
	c := newConn(t, "")
	s, err := c.Prepare("SELECT ?1, ?3")
	must(t, err)
	defer s.Close()
	e := base.AsError(orInternal(s.BindAll(make([]base.Value, 1))))
	if e.Kind != base.KindInvalid || e.State() != "08P01" || e.Message != "1 parameter given, but the statement has 3 parameters" {
		t.Errorf("got %s %s %q", e.Kind, e.State(), e.Message)
	}
	if e := base.AsError(orInternal(s.Bind(4, base.Value{}))); e.State() != "08P01" {
		t.Errorf("got %v", e)
	}
}

func TestStatementInUseIsNotHandedOutTwice(t *testing.T) {
	c := newConn(t, "")
	a, err := c.Prepare("SELECT 1 UNION SELECT 2")
	must(t, err)
	b, err := c.Prepare("SELECT 1 UNION SELECT 2")
	must(t, err)
	if a == b {
		t.Fatal("the same statement twice")
	}
	if row, err := a.Step(); !row || err != nil {
		t.Fatal(row, err)
	}
	b.Close()
	a.Close()
	a.Close() // harmless
	d, err := c.Prepare("SELECT 1 UNION SELECT 2")
	must(t, err)
	defer d.Close()
	if d != b {
		t.Error("not from the cache")
	}
	if row, err := d.Step(); !row || err != nil || d.Column(0).Int != 1 {
		t.Error("a cached statement does not start at its first row")
	}
}

func TestLargeBindingsDoNotStayInTheCache(t *testing.T) {
	c := newConn(t, "")
	must(t, run(c, "SELECT length(?1)", base.BlobValue(make([]byte, 1<<20))))
	s, err := c.Prepare("SELECT length(?1)")
	must(t, err)
	defer s.Close()
	if _, err := s.Step(); err != nil || s.Column(0).Kind != base.Null {
		t.Errorf("the blob is still bound: %+v, %v", s.Column(0), err)
	}
}

func TestCacheIsBounded(t *testing.T) {
	c, err := sqlite.OpenConn(t.Context(), t.TempDir()+"/t.db", sqlite.ConnOptions{StatementCache: 3})
	must(t, err)
	defer c.Close()
	first, err := c.Prepare("SELECT 0")
	must(t, err)
	first.Close()
	for i := range 3 {
		must(t, run(c, fmt.Sprintf("SELECT %d + 1", i)))
	}
	again, err := c.Prepare("SELECT 0")
	must(t, err)
	defer again.Close()
	if first == again {
		t.Error("the least recently used statement is still there")
	}
}

// A statement that overflows the engine's stack costs its connection, and
// leaves neither locks nor half of a transaction behind.
func TestStackOverflowBreaksTheConnectionOnly(t *testing.T) {
	path := t.TempDir() + "/t.db"
	other := openConn(t, path, sqlite.RoleWriter)
	must(t, other.Exec("PRAGMA journal_mode=WAL; CREATE TABLE t(a)"))
	c, err := sqlite.OpenConn(t.Context(), path, sqlite.ConnOptions{Limits: sqlite.Limits{ExprDepth: 1000}})
	must(t, err)
	must(t, c.BeginImmediate())
	must(t, run(c, "INSERT INTO t VALUES(1)"))
	if err := run(c, "SELECT 1"+strings.Repeat("+1", 900)); base.KindOf(err) != base.KindTooLarge || !c.Broken() {
		t.Fatalf("got %v, broken: %v", err, c.Broken())
	}
	must(t, c.Close())
	must(t, other.BeginImmediate()) // the lock is free
	if n := count(t, other, "t"); n != 0 {
		t.Errorf("%d rows of the lost transaction", n)
	}
	must(t, other.Rollback())
}

// What Info says depends on triggers, so a statement of the cache does not
// outlive a change of the schema, made or undone.
func TestInfoFollowsTheSchema(t *testing.T) {
	c := newConn(t, "CREATE TABLE t(a); CREATE TABLE s(id INTEGER PRIMARY KEY AUTOINCREMENT)")
	info := func() sqlite.Info {
		s, err := c.Prepare("INSERT INTO t VALUES(1)")
		must(t, err)
		defer s.Close()
		return s.Info()
	}
	held, err := c.Prepare("INSERT INTO t VALUES(1)")
	must(t, err)
	must(t, c.BeginImmediate())
	if info().WritesSequence {
		t.Error("without a trigger")
	}
	must(t, run(c, "SAVEPOINT x"))
	must(t, run(c, "CREATE TRIGGER g AFTER INSERT ON t BEGIN UPDATE sqlite_sequence SET seq=seq+1; END"))
	held.Close()
	if !info().WritesSequence {
		t.Error("with a trigger")
	}
	must(t, run(c, "ROLLBACK TO x"))
	if info().WritesSequence {
		t.Error("the trigger is undone")
	}
	must(t, c.Exec("CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM sqlite_sequence; END"))
	if !info().WritesSequence {
		t.Error("with the second trigger")
	}
	must(t, c.Rollback())
	if info().WritesSequence {
		t.Error("the second trigger is undone")
	}
}

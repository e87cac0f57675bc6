package sqlite_test

import (
	"path/filepath"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/sqlite"
)

const guardSchema = `CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a); CREATE TABLE _skein_meta(k, v);
	INSERT INTO _skein_meta VALUES('secret', 1); CREATE VIEW v AS SELECT a FROM t; CREATE VIRTUAL TABLE ft USING fts5(x);
	CREATE TRIGGER sneaky AFTER INSERT ON t WHEN new.a = 'sneak' BEGIN DELETE FROM _skein_meta; END;
	CREATE VIEW sneaky_view AS SELECT * FROM _skein_meta;`

// refused lists statements and the kind of their refusal under GuardWrite.
var refused = []struct {
	sql  string
	kind base.Kind
}{
	{"SELECT * FROM _skein_meta", base.KindForbidden},
	{"SELECT (SELECT count(*) FROM \"_SKEIN_Meta\")", base.KindForbidden},
	{"SELECT * FROM sneaky_view", base.KindForbidden},
	{"INSERT INTO t(a) SELECT v FROM _skein_meta", base.KindForbidden},
	{"INSERT INTO t(a) VALUES('x')", base.KindForbidden}, // its trigger could write to ours
	{"UPDATE _skein_meta SET v=2", base.KindForbidden},
	{"DELETE FROM [_skein_meta]", base.KindForbidden},
	{"DROP TABLE _skein_meta", base.KindForbidden},
	{"CREATE TABLE _skein_new(a)", base.KindForbidden},
	{"CREATE VIEW _skein_new AS SELECT 1", base.KindForbidden},
	{"CREATE INDEX i ON _skein_meta(k)", base.KindForbidden},
	{"CREATE INDEX _skein_i ON t(a)", base.KindForbidden},
	{"CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM _skein_meta; END", base.KindForbidden},
	{"CREATE TRIGGER g AFTER INSERT ON _skein_meta BEGIN SELECT 1; END", base.KindForbidden},
	{"ALTER TABLE t RENAME TO _skein_t", base.KindForbidden},
	{"ALTER TABLE t RENAME TO '_skein_t'", base.KindForbidden},
	{"ALTER TABLE _skein_meta ADD COLUMN z", base.KindForbidden},
	{"ATTACH 'x.db' AS x", base.KindForbidden},
	{"DETACH main", base.KindForbidden},
	{"VACUUM", base.KindUnsupported},
	{" /* c */ vacuum INTO 'x.db'", base.KindUnsupported},
	{"EXPLAIN VACUUM", base.KindUnsupported},
	{"BEGIN", base.KindForbidden},
	{"COMMIT", base.KindForbidden},
	{"ROLLBACK", base.KindForbidden},
	{"SAVEPOINT x", base.KindForbidden},
	{"RELEASE x", base.KindForbidden},
	{"CREATE TEMP TABLE x(a)", base.KindUnsupported},
	{"CREATE TABLE temp.x(a)", base.KindUnsupported},
	{"CREATE TEMP VIEW x AS SELECT 1", base.KindUnsupported},
	{"CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END", base.KindUnsupported},
	{"CREATE VIRTUAL TABLE x USING generate_series", base.KindUnsupported},
	{"INSERT INTO ft_data VALUES(1, 2)", base.KindForbidden},
	{"INSERT INTO temp.sqlite_temp_schema VALUES(1,2,3,4,5)", base.KindForbidden},
	{"UPDATE sqlite_schema SET sql=''", base.KindForbidden},
	{"CREATE TABLE sqlite_x(a)", base.KindForbidden},
	{"PRAGMA journal_mode=DELETE", base.KindForbidden},
	{"PRAGMA foreign_keys=OFF", base.KindForbidden},
	{"PRAGMA user_version=5", base.KindForbidden},
	{"PRAGMA schema_version(5)", base.KindForbidden},
	{"PRAGMA writable_schema=ON", base.KindForbidden},
	{"PRAGMA query_only=OFF", base.KindForbidden},
	{"PRAGMA case_sensitive_like=ON", base.KindForbidden},
	{"PRAGMA cache_size=1000000", base.KindForbidden},
	{"PRAGMA wal_checkpoint", base.KindForbidden},
	{"PRAGMA optimize", base.KindForbidden},
	{"PRAGMA temp_store_directory='/x'", base.KindForbidden},
	{"SELECT sqlite_log(1, 'x')", base.KindForbidden},
	{"SELECT load_extension('x')", base.KindSQL}, // it is not even built in
	{"SELECT * FROM pragma_wal_checkpoint", base.KindSQL},
	{"SELECT 1; SELECT 2", base.KindInvalid},
	{"SELECT 1; DROP TABLE t", base.KindInvalid},
	{"SELECT 1\x00; DROP TABLE t", base.KindInvalid},
	{"", base.KindInvalid},
	{"-- nothing", base.KindInvalid},
}

var allowed = []string{
	"SELECT * FROM t;", "SELECT * FROM t; -- done", "SELECT '_skein_meta'", "SELECT name FROM sqlite_schema", "SELECT a FROM v",
	"WITH x AS (SELECT 1) SELECT * FROM x", "SELECT * FROM pragma_table_info('t')", "SELECT json_extract('{\"a\":1}', '$.a'), sin(1)",
	"SELECT 'abc' REGEXP 'b'", "SELECT * FROM ft WHERE ft MATCH 'x'", "SELECT bm25(ft), snippet(ft,0,'','','',3) FROM ft('x')",
	"PRAGMA table_info(t)", "PRAGMA table_list", "PRAGMA foreign_keys", "PRAGMA user_version", "PRAGMA quick_check", "PRAGMA integrity_check(3)",
	"EXPLAIN QUERY PLAN SELECT * FROM t",
}

var allowedWrites = []string{
	"DROP TRIGGER sneaky", "INSERT INTO t(a) VALUES(1)", "INSERT INTO t(a) SELECT a+1 FROM t WHERE true ON CONFLICT DO NOTHING", "UPDATE t SET a='_skein_x'", "DELETE FROM t",
	"REPLACE INTO t VALUES(1, 2)", "INSERT INTO ft VALUES('hello world')", "INSERT INTO ft(ft) VALUES('optimize')",
	"CREATE TABLE x(a TEXT PRIMARY KEY, b INT REFERENCES t(id), c INT AS (b+1) STORED) STRICT, WITHOUT ROWID",
	"CREATE TABLE y(a PRIMARY KEY, b REFERENCES t(id), c AS (a||'x') STORED)", "CREATE UNIQUE INDEX xi ON y(b)", "ALTER TABLE y ADD COLUMN d DEFAULT 1",
	"ALTER TABLE y RENAME COLUMN d TO e", "ALTER TABLE y DROP COLUMN e", "ALTER TABLE y RENAME TO z", "CREATE VIEW w AS SELECT * FROM z",
	"CREATE TRIGGER g AFTER INSERT ON z BEGIN UPDATE t SET a=a; END", "CREATE TABLE q AS SELECT * FROM t", "CREATE VIRTUAL TABLE r USING rtree(id, x0, x1)",
	"INSERT INTO r VALUES(1, 2, 3)", "ANALYZE", "REINDEX", "DROP INDEX xi", "DROP TRIGGER g", "DROP VIEW w", "DROP TABLE z", "DROP TABLE ft", "DROP TABLE r", "EXPLAIN DELETE FROM t",
	"DELETE FROM sqlite_sequence WHERE name='t'",
}

func TestGuardWriteRefuses(t *testing.T) {
	c := newConn(t, guardSchema)
	c.SetGuard(sqlite.GuardWrite)
	for _, r := range refused {
		err := run(c, r.sql)
		if base.KindOf(err) != r.kind {
			t.Errorf("%s\n\tgot %s %v, want %s", r.sql, base.KindOf(err), err, r.kind)
		}
		if s := base.AsError(orInternal(err)).State(); r.kind == base.KindForbidden && s != "42501" {
			t.Errorf("%s: state %s", r.sql, s)
		}
	}
	c.SetGuard(sqlite.GuardOwn)
	if n := count(t, c, "_skein_meta"); n != 1 {
		t.Errorf("our table has %d rows, want 1", n)
	}
}

func orInternal(err error) error {
	if err == nil {
		return base.Errorf(base.KindInternal, "no error")
	}
	return err
}

func TestGuardsAllow(t *testing.T) {
	c := newConn(t, guardSchema)
	for _, g := range []sqlite.Guard{sqlite.GuardRead, sqlite.GuardWrite, sqlite.GuardAdmin} {
		c.SetGuard(g)
		for _, sql := range allowed {
			if err := run(c, sql); err != nil {
				t.Errorf("guard %d: %s: %v", g, sql, err)
			}
		}
	}
	c.SetGuard(sqlite.GuardWrite)
	for _, sql := range allowedWrites {
		if err := run(c, sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

func TestGuardReadRefusesEveryWrite(t *testing.T) {
	c := newConn(t, guardSchema)
	c.SetGuard(sqlite.GuardRead)
	before := c.TotalChanges()
	for _, sql := range append([]string{"INSERT INTO t(a) VALUES(2)", "CREATE TABLE n(a)"}, allowedWrites...) {
		if err := run(c, sql); base.KindOf(err) != base.KindForbidden && base.KindOf(err) != base.KindSQL {
			t.Errorf("%s: got %v, want a refusal", sql, err)
		}
	}
	if d := c.TotalChanges() - before; d != 0 {
		t.Errorf("%d changes", d)
	}
}

// A virtual table may compile statements that write when it is first read.
func TestGuardReadReadsVirtualTables(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.db")
	must(t, openConn(t, path, sqlite.RoleWriter).Exec(`PRAGMA journal_mode=WAL; CREATE TABLE t(a);
		CREATE VIRTUAL TABLE box USING rtree(id, a, b); INSERT INTO box VALUES(1, 2, 3);
		CREATE VIRTUAL TABLE ft USING fts5(body); INSERT INTO ft VALUES('hello')`))
	reads := []string{"SELECT id FROM box WHERE a > 0", "WITH x AS (SELECT * FROM box) SELECT * FROM x", "SELECT * FROM ft WHERE ft MATCH 'hello'",
		"SELECT x.name FROM sqlite_schema AS m, pragma_table_xinfo(m.name) AS x"}
	writes := []string{"DELETE FROM box", "DELETE FROM box_node", "WITH x AS (SELECT id FROM box) DELETE FROM t WHERE a IN (SELECT id FROM x)",
		"INSERT INTO t SELECT id FROM box", "EXPLAIN DELETE FROM box_rowid", "UPDATE t SET a = 1 WHERE 0", "DELETE FROM ft"}
	for _, role := range []sqlite.Role{sqlite.RoleReader, sqlite.RoleWriter} {
		for _, sql := range reads {
			c := openConn(t, path, role)
			c.SetGuard(sqlite.GuardRead)
			must(t, run(c, sql))
		}
		for _, sql := range writes {
			c := openConn(t, path, role)
			c.SetGuard(sqlite.GuardRead)
			if err := run(c, sql); base.KindOf(err) != base.KindForbidden && base.KindOf(err) != base.KindSQL {
				t.Errorf("%s: got %v, want a refusal", sql, err)
			}
		}
	}
}

func TestReaderRoleCannotWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.db")
	must(t, openConn(t, path, sqlite.RoleWriter).Exec("PRAGMA journal_mode=WAL; CREATE TABLE t(a)"))
	c := openConn(t, path, sqlite.RoleReader)
	c.SetGuard(sqlite.GuardOwn)
	if err := run(c, "INSERT INTO t VALUES(1)"); base.AsError(orInternal(err)).State() != "25006" {
		t.Errorf("got %v", err)
	}
	if _, err := sqlite.OpenConn(t.Context(), filepath.Join(t.TempDir(), "none.db"), sqlite.ConnOptions{Role: sqlite.RoleReader}); err == nil {
		t.Error("a reader has made a file")
	}
}

func TestApplierWritesWhatArrived(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.db")
	w := openConn(t, path, sqlite.RoleWriter)
	must(t, w.Exec(`PRAGMA journal_mode=WAL; CREATE TABLE p(id INTEGER PRIMARY KEY AUTOINCREMENT);
		CREATE TABLE t(a CHECK (a > 0), p REFERENCES p); CREATE TABLE log(a);
		CREATE TRIGGER g AFTER INSERT ON t BEGIN INSERT INTO log VALUES(new.a); END; CREATE VIRTUAL TABLE ft USING fts5(x)`))
	for _, sql := range []string{"INSERT INTO t VALUES(-1, NULL)", "INSERT INTO t VALUES(1, 9)", "INSERT INTO ft_config VALUES('x', 1)"} {
		if err := run(w, sql); err == nil {
			t.Errorf("writer: %s: no error", sql)
		}
	}
	a := openConn(t, path, sqlite.RoleApplier)
	must(t, run(a, "INSERT INTO t VALUES(-1, 9)"))
	must(t, run(a, "INSERT INTO ft_config VALUES('x', 1)"))
	must(t, run(a, "INSERT INTO sqlite_sequence VALUES('p', 77)"))
	if n := count(t, a, "log"); n != 0 {
		t.Errorf("the trigger has fired %d times", n)
	}
}

// A client's trigger does not gain our rights when a statement of ours fires it.
func TestOurStatementDoesNotLendItsRights(t *testing.T) {
	c := newConn(t, guardSchema)
	if err := run(c, "INSERT INTO t(a) VALUES('sneak')"); base.KindOf(err) != base.KindForbidden {
		t.Errorf("got %v", err)
	}
	if n := count(t, c, "_skein_meta"); n != 1 {
		t.Errorf("our table has %d rows", n)
	}
}

// A statement keeps its guard when a schema change makes the engine compile it
// anew, whatever guard is set by then.
func TestGuardOutlivesRecompilation(t *testing.T) {
	c := newConn(t, "CREATE TABLE t(a); CREATE TABLE _skein_m(a); CREATE VIEW v AS SELECT * FROM t")
	own, err := c.Prepare("SELECT * FROM _skein_m")
	must(t, err)
	defer own.Close()
	c.SetGuard(sqlite.GuardRead)
	client, err := c.Prepare("SELECT * FROM v")
	must(t, err)
	defer client.Close()
	must(t, c.Exec("DROP VIEW v; CREATE VIEW v AS SELECT * FROM _skein_m"))
	if _, err := own.Step(); err != nil {
		t.Errorf("own statement: %v", err)
	}
	c.SetGuard(sqlite.GuardOwn)
	if _, err := client.Step(); base.KindOf(err) != base.KindForbidden {
		t.Errorf("client statement: %v", err)
	}
}

func TestCacheDoesNotMixGuards(t *testing.T) {
	c := newConn(t, "CREATE TABLE _skein_m(a)")
	must(t, run(c, "SELECT * FROM _skein_m"))
	c.SetGuard(sqlite.GuardRead)
	if err := run(c, "SELECT * FROM _skein_m"); base.KindOf(err) != base.KindForbidden {
		t.Errorf("got %v", err)
	}
}

func TestAllowSavepoint(t *testing.T) {
	c := newConn(t, "")
	must(t, c.Begin())
	c.SetGuard(sqlite.GuardWrite | sqlite.AllowSavepoint)
	must(t, run(c, "SAVEPOINT x"))
	must(t, run(c, "ROLLBACK TO x"))
	must(t, run(c, "RELEASE x"))
	if err := run(c, "SAVEPOINT _skein_x"); base.KindOf(err) != base.KindForbidden {
		t.Errorf("got %v", err)
	}
	if err := run(c, "COMMIT"); base.KindOf(err) != base.KindForbidden {
		t.Errorf("got %v", err)
	}
	must(t, c.Rollback())
}

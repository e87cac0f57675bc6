package row_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/capturetest"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/sqlite"
)

// same fails unless leader and follower are equal.
func (p *pairOf) same() {
	p.t.Helper()
	if d := capturetest.Difference(capturetest.Dump(p.t, p.leader), capturetest.Dump(p.t, p.follower)); d != "" {
		p.t.Errorf("the follower differs:\n%s", d)
	}
}

// ops lists what a body does, as "insert t, schema, ...".
func ops(t *testing.T, body []byte) string {
	t.Helper()
	var list []string
	for c, err := range row.Describe(body) {
		must(t, err)
		list = append(list, strings.TrimSpace(c.Op+" "+c.Table))
	}
	return strings.Join(list, ", ")
}

// TestStories pins what is recorded for statements whose effects the hook
// shows only in part, and that the follower comes out equal.
func TestStories(t *testing.T) {
	for _, s := range []struct {
		name   string
		before []string
		then   []string
		want   string
	}{
		{"no change", []string{"CREATE TABLE t(a)", "INSERT INTO t VALUES(1)"}, []string{"UPDATE t SET a=a", "CREATE TABLE IF NOT EXISTS t(a)"}, ""},
		{"negated keys", []string{"CREATE TABLE t(id INTEGER PRIMARY KEY)", "INSERT INTO t VALUES(1),(2)"}, []string{"UPDATE t SET id=-id"}, "move t, move t"},
		{"unique values move up", []string{"CREATE TABLE t(u UNIQUE)", "INSERT INTO t VALUES(3),(2),(1)"}, []string{"UPDATE t SET u=u+1"}, "update t, update t, update t"},
		{"replace of two rows", []string{"CREATE TABLE t(a INTEGER PRIMARY KEY, b UNIQUE)", "INSERT INTO t VALUES(1,'x'),(2,'y')"},
			[]string{"REPLACE INTO t VALUES(1,'y')"}, "delete t, delete t, insert t"},
		{"key in another case", []string{"CREATE TABLE t(k TEXT COLLATE NOCASE PRIMARY KEY, v) WITHOUT ROWID", "INSERT INTO t VALUES('a', 1)"},
			[]string{"UPDATE t SET k='A'"}, "update t"},
		{"key finer than its column", []string{"CREATE TABLE t(k TEXT COLLATE NOCASE, v, PRIMARY KEY(k COLLATE BINARY)) WITHOUT ROWID", "INSERT INTO t VALUES('a', 1),('A', 2)"},
			[]string{"UPDATE t SET v=3 WHERE k='a' COLLATE BINARY", "DELETE FROM t WHERE v=2"}, "update t, delete t"},
		{"create table as", []string{"CREATE TABLE t(a)", "INSERT INTO t VALUES(1),(2)"}, []string{"CREATE TABLE u AS SELECT a, random() AS b FROM t"}, "schema, insert u, insert u"},
		{"virtual table", nil, []string{"CREATE VIRTUAL TABLE f USING fts5(x)"}, "schema"},
		{"full text", []string{"CREATE VIRTUAL TABLE f USING fts5(x, content='', columnsize=0)"}, []string{"INSERT INTO f(rowid, x) VALUES(1, 'hello')"},
			"delete f_data, insert f_data, insert f_data, insert f_idx, delete f_data, insert f_data"},
		{"full-text setting", []string{"CREATE VIRTUAL TABLE f USING fts5(x)"}, []string{"INSERT INTO f(f, rank) VALUES('pgsz', 64)"}, "insert f_config, update f_data"},
		{"drop of a parent", []string{"CREATE TABLE p(id INTEGER PRIMARY KEY)", "CREATE TABLE c(x REFERENCES p ON DELETE CASCADE)", "INSERT INTO p VALUES(1)", "INSERT INTO c VALUES(1)"},
			[]string{"DROP TABLE p"}, "delete p, delete c, schema"},
		{"ignored row counts", []string{"CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, u UNIQUE)", "INSERT INTO t(u) VALUES(1)"},
			[]string{"INSERT OR IGNORE INTO t(u) VALUES(1)"}, "sequence sqlite_sequence"},
		{"sequence by hand", []string{"CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT)", "INSERT INTO t VALUES(5)"},
			[]string{"UPDATE sqlite_sequence SET seq=100"}, "sequence sqlite_sequence"},
		{"sequence taken back by hand", []string{"CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT)"},
			[]string{"INSERT INTO t VALUES(5)", "DELETE FROM sqlite_sequence"}, "insert t, sequence sqlite_sequence"},
		{"row above its sequence goes", []string{"CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT)", "INSERT INTO t VALUES(1)", "UPDATE t SET id=10"},
			[]string{"DELETE FROM t"}, "delete t, sequence sqlite_sequence"},
		{"sequences change places", []string{"CREATE TABLE a(id INTEGER PRIMARY KEY AUTOINCREMENT)", "CREATE TABLE b(id INTEGER PRIMARY KEY AUTOINCREMENT)"},
			[]string{"INSERT INTO a VALUES(1)", "INSERT INTO b VALUES(1)", "DELETE FROM sqlite_sequence", "INSERT INTO sqlite_sequence VALUES('b', 1),('a', 1)"},
			"insert a, insert b, sequence sqlite_sequence, sequence sqlite_sequence"},
		{"analyze", []string{"CREATE TABLE t(a, b)", "CREATE INDEX i ON t(a)", "INSERT INTO t VALUES(1, 2)"}, []string{"ANALYZE", "REINDEX"}, "schema, statistics sqlite_stat1, statistics sqlite_stat4"},
		{"statistics dropped", []string{"CREATE TABLE t(a)", "INSERT INTO t VALUES(1)", "ANALYZE"}, []string{"DROP TABLE sqlite_stat1"}, "schema"},
		{"drop column", []string{"CREATE TABLE t(a, b)", "INSERT INTO t VALUES(1, 2)"}, []string{"ALTER TABLE t DROP COLUMN a", "INSERT INTO t VALUES(3)"}, "schema, insert t"},
		{"added column", []string{"CREATE TABLE t(a)", "INSERT INTO t VALUES(1)"}, []string{"ALTER TABLE t ADD COLUMN b DEFAULT 'd'", "UPDATE t SET a=2", "DELETE FROM t"},
			"schema, update t, delete t"},
		{"constraint that would ignore", []string{"CREATE TABLE t(a UNIQUE ON CONFLICT IGNORE, b UNIQUE ON CONFLICT REPLACE)", "INSERT INTO t VALUES(1, 1)"},
			[]string{"INSERT INTO t VALUES(1, 2)", "INSERT INTO t VALUES(2, 1)"}, "delete t, insert t"},
	} {
		t.Run(s.name, func(t *testing.T) {
			p := newPair(t)
			p.t = t
			for _, sql := range s.before {
				p.transaction(sql)
			}
			before := capturetest.Dump(t, p.follower)
			body := p.transaction(s.then...)
			if body == nil {
				if s.want != "" {
					t.Errorf("recorded nothing, want %q", s.want)
				}
				return
			}
			if got := ops(t, body); got != s.want {
				t.Errorf("recorded %q, want %q", got, s.want)
			}
			p.same()
			must(t, p.follower.BeginImmediate())
			if err := p.applier.Undo(body); err != nil {
				if !errors.Is(err, row.ErrNotInvertible) || !strings.Contains(s.want, "schema") {
					t.Errorf("undo: %v", err)
				}
				before = capturetest.Dump(t, p.leader)
			}
			must(t, p.follower.Commit())
			if d := capturetest.Difference(before, capturetest.Dump(t, p.follower)); d != "" {
				t.Errorf("undone, it differs:\n%s", d)
			}
		})
	}
}

func TestUnnameableTableIsRefused(t *testing.T) {
	p := newPair(t)
	must(t, p.leader.BeginImmediate())
	m := p.recorder.Mark()
	err := run(p.leader, p.recorder, "CREATE TABLE t(rowid, oid, _ROWID_)")
	if base.KindOf(err) != base.KindUnsupported || !strings.Contains(err.Error(), `table "t" has columns named`) {
		t.Errorf("create: %v", err)
	}
	must(t, run(p.leader, p.recorder, "CREATE TABLE t(rowid, oid, _rowid_ INTEGER PRIMARY KEY)"))
	must(t, run(p.leader, p.recorder, "INSERT INTO t VALUES(1, 2, 3)"))
	body, changes, err := p.recorder.Take(m)
	must(t, err)
	if changes != 2 || ops(t, body) != "schema, insert t" {
		t.Errorf("%d changes: %s", changes, ops(t, body))
	}
}

func TestUnnoticedSchemaChangeIsAnError(t *testing.T) {
	p := newPair(t)
	p.transaction("CREATE TABLE t(a)")
	must(t, p.leader.BeginImmediate())
	m := p.recorder.Mark()
	must(t, p.leader.Exec("CREATE TABLE _skein_mine(a); INSERT INTO _skein_mine VALUES(1)"))
	if body, changes, err := p.recorder.Take(m); err != nil || body != nil || changes != 0 {
		t.Errorf("our own table: %d changes, %v", changes, err)
	}
	m = p.recorder.Mark()
	must(t, p.leader.Exec("CREATE TABLE u(a)"))
	if _, _, err := p.recorder.Take(m); err == nil {
		t.Error("a schema change that was not recorded is taken")
	}
	must(t, p.leader.Rollback())
	p.recorder.Rewind(m)
	p.transaction("INSERT INTO t VALUES(1)")
	p.same()
}

func TestChangeOfAnUnknownTableIsAnError(t *testing.T) {
	p := newPair(t)
	must(t, p.leader.BeginImmediate())
	m := p.recorder.Mark()
	must(t, p.leader.Exec("CREATE TABLE t(a)"))
	if err := run(p.leader, p.recorder, "INSERT INTO t VALUES(1)"); err == nil || !strings.Contains(err.Error(), `table "t"`) {
		t.Errorf("insert: %v", err)
	}
	must(t, p.leader.Rollback())
	p.recorder.Rewind(m)
	if p.recorder.Err() != nil {
		t.Error(p.recorder.Err())
	}
}

func TestChangesBetweenTakeAndMarkAreAnError(t *testing.T) {
	p := newPair(t)
	p.transaction("CREATE TABLE t(a)")
	must(t, p.leader.BeginImmediate())
	m := p.recorder.Mark()
	_, _, err := p.recorder.Take(m)
	must(t, err)
	must(t, p.leader.Exec("INSERT INTO t VALUES(1)"))
	must(t, p.leader.Commit())
	if p.recorder.Mark(); p.recorder.Err() == nil {
		t.Error("a change that is in no body goes unnoticed")
	}
}

// TestRewindWhileInterrupted rewinds past a schema change when nothing can be
// read: what is known then is in doubt, and must not be used until it is read.
func TestRewindWhileInterrupted(t *testing.T) {
	p := newPair(t)
	p.transaction("CREATE TABLE t(a)")
	must(t, p.leader.BeginImmediate())
	m := p.recorder.Mark()
	must(t, run(p.leader, p.recorder, "ALTER TABLE t ADD COLUMN b"))
	must(t, p.leader.Rollback())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p.leader.SetInterrupt(ctx)
	p.recorder.Rewind(m)
	if p.recorder.Err() == nil {
		t.Error("the doubt is not told")
	}
	p.leader.SetInterrupt(context.Background())
	p.transaction("INSERT INTO t VALUES(1)")
	p.same()
}

// TestFullTextHoldsBack rolls back to a savepoint that made a full-text table
// write what it held back from before.
func TestFullTextHoldsBack(t *testing.T) {
	p := newPair(t)
	p.transaction("CREATE VIRTUAL TABLE f USING fts5(x)")
	must(t, p.leader.BeginImmediate())
	begin := p.recorder.Mark()
	must(t, p.leader.Exec("INSERT INTO f VALUES('kept')"))
	m := p.recorder.Mark()
	must(t, p.leader.Exec("SAVEPOINT s; INSERT INTO f VALUES('undone'); ROLLBACK TO s"))
	p.recorder.Rewind(m)
	must(t, p.leader.Exec("INSERT INTO f VALUES('late')"))
	body, _, err := p.recorder.Take(begin)
	must(t, err)
	must(t, p.leader.Commit())
	p.recorder.Mark()
	must(t, p.recorder.Err())
	must(t, p.follower.BeginImmediate())
	must(t, p.applier.Apply(body))
	must(t, p.follower.Commit())
	p.same()
}

// TestRowIsRewrittenAndChanged changes a row that blob I/O has just written,
// before anyone could ask what it has become; both changes must be undone.
func TestRowIsRewrittenAndChanged(t *testing.T) {
	p := newPair(t)
	p.transaction("CREATE VIRTUAL TABLE f USING fts5(x)", "INSERT INTO f VALUES('first')")
	before := capturetest.Dump(t, p.follower)
	must(t, p.leader.BeginImmediate())
	m := p.recorder.Mark()
	must(t, p.leader.Exec("INSERT INTO f(f, rank) VALUES('pgsz', 64); INSERT INTO f VALUES('second')"))
	body, _, err := p.recorder.Take(m)
	must(t, err)
	must(t, p.leader.Commit())
	must(t, p.follower.BeginImmediate())
	must(t, p.applier.Apply(body))
	p.same()
	must(t, p.applier.Undo(body))
	must(t, p.follower.Commit())
	if d := capturetest.Difference(before, capturetest.Dump(t, p.follower)); d != "" {
		t.Errorf("undone, it differs:\n%s", d)
	}
}

// TestEntriesOfAGroup takes a body for each statement of one SQLite
// transaction, one of which fails.
func TestEntriesOfAGroup(t *testing.T) {
	p := newPair(t)
	p.transaction("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, u UNIQUE)")
	must(t, p.leader.BeginImmediate())
	var bodies [][]byte
	for _, sql := range []string{"INSERT INTO t(u) VALUES(1),(2)", "INSERT INTO t(u) VALUES(3),(1)", "UPDATE t SET u=u+10"} {
		m := p.recorder.Mark()
		if run(p.leader, p.recorder, sql) != nil {
			continue
		}
		body, _, err := p.recorder.Take(m)
		must(t, err)
		bodies = append(bodies, slices.Clone(body))
	}
	must(t, p.leader.Commit())
	if len(bodies) != 2 || ops(t, bodies[0]) != "insert t, insert t, sequence sqlite_sequence" || ops(t, bodies[1]) != "update t, update t" {
		t.Errorf("%d bodies", len(bodies))
	}
	must(t, p.follower.BeginImmediate())
	for _, body := range bodies {
		must(t, p.applier.Apply(body))
	}
	must(t, p.follower.Commit())
	p.same()
}

func TestDivergenceIsNamed(t *testing.T) {
	for name, s := range map[string]struct{ schema, harm, change, want string }{
		"update":           {"CREATE TABLE t(a INTEGER PRIMARY KEY, b)", "DELETE FROM t", "UPDATE t SET b=9", `update table "t", rowid 1`},
		"delete":           {"CREATE TABLE t(a TEXT, b, PRIMARY KEY(b, a)) WITHOUT ROWID", "DELETE FROM t", "DELETE FROM t", `delete table "t", key 2 "1"`},
		"insert":           {"CREATE TABLE t(a INTEGER PRIMARY KEY, b)", "INSERT INTO t VALUES(7, 7)", "INSERT INTO t VALUES(7, 8)", `insert table "t", rowid 7`},
		"unique":           {"CREATE TABLE t(a UNIQUE ON CONFLICT REPLACE, b)", "INSERT INTO t VALUES(3, 3)", "INSERT INTO t(rowid, a) VALUES(50, 3)", `insert table "t", rowid 50`},
		"update to unique": {"CREATE TABLE t(a UNIQUE ON CONFLICT REPLACE, b)", "INSERT INTO t VALUES(9, 9)", "UPDATE t SET a=9", `update table "t", rowid 1`},
		"shape":            {"CREATE TABLE t(a, b)", "ALTER TABLE t ADD COLUMN c", "DELETE FROM t", `table "t" has 3 columns`},
		"table":            {"CREATE TABLE t(a, b)", "DROP TABLE t", "DELETE FROM t", `no table "t"`},
		"schema":           {"CREATE TABLE t(a, b)", "CREATE INDEX i ON t(a)", "CREATE INDEX j ON t(a)", "the schema is another"},
		"ddl":              {"CREATE TABLE t(a, b)", "CREATE INDEX j ON t(b)", "CREATE INDEX j ON t(a)", "already exists"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			p.transaction(s.schema)
			p.transaction("INSERT INTO t VALUES(1, 2)")
			must(t, p.follower.Exec(s.harm))
			must(t, p.leader.BeginImmediate())
			m := p.recorder.Mark()
			must(t, run(p.leader, p.recorder, s.change))
			body, _, err := p.recorder.Take(m)
			must(t, err)
			must(t, p.leader.Commit())
			must(t, p.follower.BeginImmediate())
			err = p.applier.Apply(body)
			must(t, p.follower.Rollback())
			if !errors.Is(err, row.ErrDiverged) || !strings.Contains(err.Error(), s.want) {
				t.Errorf("got %v, want %q", err, s.want)
			}
		})
	}
}

func TestUndoRefusesBeforeItChangesAnything(t *testing.T) {
	p := newPair(t)
	p.transaction("CREATE TABLE t(a)")
	body := p.transaction("INSERT INTO t VALUES(1)", "CREATE INDEX i ON t(a)", "INSERT INTO t VALUES(2)")
	must(t, p.follower.BeginImmediate())
	if err := p.applier.Undo(body); !errors.Is(err, row.ErrNotInvertible) || !strings.Contains(err.Error(), "CREATE INDEX i") {
		t.Errorf("undo: %v", err)
	}
	must(t, p.follower.Commit())
	p.same()
}

func TestDescribe(t *testing.T) {
	p := newPair(t)
	p.transaction(`CREATE TABLE t(id INTEGER PRIMARY KEY, a, g AS (a) STORED, "b c")`)
	body := p.transaction("INSERT INTO t VALUES(7, 'x', NULL)", "UPDATE t SET a='y', id=8")
	var changes []row.Change
	for c, err := range row.Describe(body) {
		must(t, err)
		c.Key, c.Old, c.New = slices.Clone(c.Key), slices.Clone(c.Old), slices.Clone(c.New)
		changes = append(changes, c)
	}
	if len(changes) != 2 || changes[1].Op != "move" || changes[1].Key[0].Int != 7 ||
		string(changes[1].Old[0].Bytes) != "x" || string(changes[1].New[0].Bytes) != "y" || changes[1].New[1].Kind != base.Null {
		t.Errorf("described as %+v", changes)
	}
	id, columns, err := row.ColumnNames(p.follower, "t")
	if err != nil || id != "id" || !slices.Equal(columns, []string{"a", "b c"}) {
		t.Errorf("columns %q %q %v", id, columns, err)
	}
	for _, err := range row.Describe(body[:len(body)-1]) {
		if err != nil {
			return
		}
	}
	t.Error("a cut body is described to its end")
}

// TestSchemaRolledBackOnFollower lets a plan grow stale: the same schema
// version comes again with another schema.
func TestSchemaRolledBackOnFollower(t *testing.T) {
	p := newPair(t)
	first := p.transaction("CREATE TABLE t(a)", "INSERT INTO t VALUES(1)")
	other, err := sqlite.OpenConn(t.Context(), t.TempDir()+"/other.db", sqlite.ConnOptions{Role: sqlite.RoleApplier})
	must(t, err)
	defer func() { must(t, other.Close()) }()
	a := row.NewApplier(other)
	defer a.Close()
	must(t, other.BeginImmediate())
	must(t, a.Apply(first))
	must(t, other.Rollback())
	q := newPair(t)
	second := q.transaction("CREATE TABLE t(b, a)", "INSERT INTO t VALUES(1, 2)")
	must(t, a.Apply(second))
	if got := capturetest.Select(t, other, "SELECT a FROM t"); got[0][0].Int != 2 {
		t.Errorf("got %v", got)
	}
}

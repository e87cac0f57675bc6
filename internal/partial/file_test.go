package partial

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
)

func open(t *testing.T, path, database string) *File {
	t.Helper()
	f, err := Open(context.Background(), path, database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() }) // It may be closed already.
	return f
}

// event is one of seq, the last of its transaction or not.
func event(op changefeed.Op, seq base.Seq, last bool, table string, key, after changefeed.Row) *changefeed.Event {
	at := base.Position{Epoch: 1, Seq: seq}
	e := &changefeed.Event{Op: op, Table: table, Key: key, After: after, Position: at}
	e.Offset = changefeed.Offset{Database: 7, Position: at, Entry: 1}
	if op == changefeed.Read {
		e.Offset.Snapshot = !last
	}
	if last {
		e.Offset.Entry = seq + 1
	}
	return e
}

func fields(pairs ...any) (row changefeed.Row) {
	for i := 0; i < len(pairs); i += 2 {
		f := changefeed.Field{Name: pairs[i].(string)}
		switch v := pairs[i+1].(type) {
		case int:
			f.Value = base.IntValue(int64(v))
		case string:
			f.Value = base.TextValue(v)
		case base.Value:
			f.Value = v
		}
		row = append(row, f)
	}
	return row
}

func (f *File) mustApply(t *testing.T, events ...*changefeed.Event) {
	t.Helper()
	for _, e := range events {
		if err := f.Apply(e); err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
	}
}

// shows compares a query's rows, as they are outside of an open transaction.
func shows(t *testing.T, path, query, want string) {
	t.Helper()
	f := open(t, path, "shop")
	defer f.Close()
	rows, err := f.query(query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	var lines []string
	for _, row := range rows {
		var words []string
		for _, v := range row {
			if v.Kind == base.Integer {
				words = append(words, fmt.Sprint(v.Int))
			} else {
				words = append(words, string(v.Bytes))
			}
		}
		lines = append(lines, strings.Join(words, ","))
	}
	if got := strings.Join(lines, ";"); got != want {
		t.Errorf("%s: %q, want %q", query, got, want)
	}
}

// TestWholeTransactionsOnly: others see a copy when it is whole, then one
// transaction after the other, and what was broken off leaves no trace.
func TestWholeTransactionsOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "partial.db")
	f := open(t, path, "shop")
	if err := f.Begin(nil); err != nil {
		t.Fatal(err)
	}
	f.mustApply(t, event(changefeed.Read, 5, false, "t", fields("id", 1), fields("id", 1, "x", "one")))
	shows(t, path, "SELECT count(*) FROM sqlite_schema WHERE name = 't'", "0")
	f.mustApply(t, event(changefeed.Read, 5, true, "t", fields("id", 2), fields("id", 2, "x", "two")))
	shows(t, path, "SELECT * FROM t", "1,one;2,two")

	half := event(changefeed.Update, 6, false, "t", fields("id", 1), fields("id", 1, "x", "uno"))
	f.mustApply(t, half)
	shows(t, path, "SELECT * FROM t", "1,one;2,two")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f = open(t, path, "shop")
	if f.Position() != "1/5" || f.Offset() != event(changefeed.Update, 5, true, "", nil, nil).Offset.String() {
		t.Errorf("goes on at %s %s", f.Position(), f.Offset())
	}
	if err := f.Begin(nil); err != nil {
		t.Fatal(err)
	}
	f.mustApply(t, half, event(changefeed.Delete, 7, true, "t", fields("id", 2), nil))
	shows(t, path, "SELECT * FROM t", "1,uno")
}

// TestTables: what names a row and which columns it has may be anything.
func TestTables(t *testing.T) {
	path := filepath.Join(t.TempDir(), "partial.db")
	f := open(t, path, "shop")
	types := map[string]map[string]string{"q'\"": {"n": "INTEGER"}}
	if err := f.Begin(types); err != nil {
		t.Fatal(err)
	}
	blob := base.BlobValue(nil)
	f.mustApply(t,
		event(changefeed.Read, 1, false, "q'\"", fields("b", "x", "a", base.RealValue(1.5)), fields("b", "x", "a", base.RealValue(1.5), "n", 4)),
		event(changefeed.Read, 1, false, "plain", fields("rowid", 9), fields("v", "text", "z", blob)),
		event(changefeed.Read, 1, false, "taken", fields("_rowid_", 8), fields("rowid", "column")),
		event(changefeed.Read, 1, true, "none", fields("rowid", 3), nil),
		event(changefeed.Create, 2, false, "plain", fields("rowid", 9), fields("v", "other", "new", 5)),
		event(changefeed.Create, 2, false, "fresh", fields("id", 1), fields("id", 1)),
		event(changefeed.Delete, 2, false, "unknown", fields("id", 1), nil),
		event(changefeed.Message, 2, false, "plain", nil, fields("to", "all")),
		event(changefeed.Delete, 3, true, "taken", fields("_rowid_", 8), nil),
	)
	shows(t, path, `SELECT b, a = 1.5, n, typeof(n) FROM "q'"""`, "x,1,4,integer")
	shows(t, path, "SELECT rowid, v, z IS NULL, new FROM plain", "9,other,1,5")
	shows(t, path, "SELECT count(*) FROM taken UNION ALL SELECT rowid FROM none UNION ALL SELECT id FROM fresh", "0;3;1")
	shows(t, path, "SELECT sql LIKE '%WITHOUT ROWID%' FROM sqlite_schema WHERE name IN ('plain', 'fresh') ORDER BY name", "1;0")
}

// TestNewCopy: a change of what is chosen asks for a new copy, and what is there
// stays until that is whole.
func TestNewCopy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "partial.db")
	f := open(t, path, "shop")
	if err := f.Begin(nil); err != nil {
		t.Fatal(err)
	}
	f.mustApply(t, event(changefeed.Read, 1, true, "t", fields("id", 1), fields("id", 1, "secret", "x")))
	schema := func(seq base.Seq, sql string) *changefeed.Event {
		e := event(changefeed.Schema, seq, true, "", nil, nil)
		e.SQL = sql
		return e
	}
	f.mustApply(t, schema(2, "CREATE TABLE fresh(id)"), schema(3, `CREATE TRIGGER "skein_log_fresh_insert" AFTER INSERT ON fresh BEGIN SELECT 1; END`),
		schema(4, "CREATE INDEX i ON t(id)"), schema(5, "CREATE TRIGGER mine AFTER INSERT ON t BEGIN SELECT 1; END"), schema(6, "DROP TRIGGER mine"))
	for _, sql := range []string{
		`DROP TRIGGER "skein_log_t_insert"`, `CREATE TRIGGER "Skein_Log_t_insert" AFTER INSERT ON t BEGIN SELECT 1; END`,
		"ALTER TABLE t DROP COLUMN secret", "DROP TABLE t",
	} {
		if err := f.Apply(schema(7, sql)); !errors.Is(err, ErrNewCopy) {
			t.Errorf("%s: %v", sql, err)
		}
		if f.Offset() != "" {
			t.Errorf("%s: goes on at %s", sql, f.Offset())
		}
	}
	shows(t, path, "SELECT secret FROM t", "x")
	if err := f.Begin(nil); err != nil {
		t.Fatal(err)
	}
	f.mustApply(t, event(changefeed.Read, 8, false, "t", fields("id", 1), fields("id", 1)))
	shows(t, path, "SELECT secret FROM t", "x")
	f.mustApply(t, event(changefeed.Heartbeat, 8, true, "", nil, nil))
	shows(t, path, "SELECT * FROM t", "1")
}

func TestOpenRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "partial.db")
	f := open(t, path, "shop")
	if err := f.commit("x", "1/1"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), path, "other"); base.KindOf(err) != base.KindInvalid || !strings.Contains(err.Error(), `"shop"`) {
		t.Errorf("of another database: %v", err)
	}
	if err := f.conn.RunOwn("UPDATE _skein_follow SET version = 2"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), path, "shop"); base.KindOf(err) != base.KindUnsupported {
		t.Errorf("of a newer version: %v", err)
	}
	if err := f.conn.RunOwn("DROP TABLE _skein_follow"); err != nil {
		t.Fatal(err)
	}
	if err := f.conn.RunOwn("CREATE TABLE mine(x)"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), path, "shop"); base.KindOf(err) != base.KindInvalid || !strings.Contains(err.Error(), "no partial replica") {
		t.Errorf("a file with something else in it: %v", err)
	}
}

func TestAffinity(t *testing.T) {
	for declared, want := range map[string]string{
		"": "", "blob": "", "VARCHAR(10)": "TEXT", "BIGINT": "INTEGER", "double": "REAL", "DECIMAL(3)": "NUMERIC", "any": "NUMERIC",
	} {
		if got := Affinity(declared, false); got != want {
			t.Errorf("%q: %q, want %q", declared, got, want)
		}
	}
	if got := Affinity("ANY", true); got != "" {
		t.Errorf("ANY in a strict table: %q", got)
	}
}

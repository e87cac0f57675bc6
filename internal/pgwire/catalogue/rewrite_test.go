package catalogue

import (
	"context"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/skeindb/skein/internal/base"
)

// TestAnswers keeps what queries return, in testdata/answers.
func TestAnswers(t *testing.T) {
	f := newFixture(t)
	datadriven.RunTest(t, "testdata/answers", func(t *testing.T, d *datadriven.TestData) string {
		r, err := f.Query(context.Background(), f.client, d.Input, nil)
		if err != nil {
			return err.Error() + "\n"
		}
		var names []string
		for _, c := range r.Columns {
			names = append(names, c.Name)
		}
		return strings.Join(names, "|") + "\n" + f.run(t, d.Input) + "\n"
	})
}

func TestWants(t *testing.T) {
	for sql, want := range map[string]bool{
		"SELECT * FROM pg_class":                       true,
		"SELECT * FROM information_schema.tables":      true,
		"SELECT version()":                             true,
		"SELECT current_user, 1":                       true,
		"SELECT 'cheap'::pg_catalog.regclass":          true,
		"SELECT pg_backend_pid()":                      true,
		"SELECT now()":                                 true,
		"SELECT * FROM pg_mine":                        false,
		"SELECT version FROM t":                        false,
		"SELECT version() FROM t":                      false,
		"SELECT 'pg_class' FROM t -- pg_class":         false,
		"SELECT count(*), upper('now()')":              false,
		"UPDATE t SET a = 1":                           false,
		"SELECT a.current_user FROM a":                 false,
		"SELECT * FROM pgbench_accounts WHERE aid = 1": false,
	} {
		if Wants(sql) != want {
			t.Errorf("Wants(%q) = %v", sql, !want)
		}
	}
}

func TestTheLayoutFollowsTheSchema(t *testing.T) {
	f := newFixture(t)
	const names = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = 2200"
	before := f.run(t, names)
	if err := f.conn.Exec("CREATE TABLE more(a)"); err != nil {
		t.Fatal(err)
	}
	if after := f.run(t, names); after == before {
		t.Errorf("%s tables before and after CREATE TABLE", after)
	}
	f.client.InTransaction = true
	if err := f.conn.Exec("BEGIN; CREATE TABLE unsure(a)"); err != nil {
		t.Fatal(err)
	}
	f.run(t, names)
	inside := f.run(t, "SELECT relname FROM pg_class WHERE relname = 'unsure'")
	kept := len(f.kept)
	if err := f.conn.Exec("ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	f.client.InTransaction = false
	if outside := f.run(t, "SELECT relname FROM pg_class WHERE relname = 'unsure'"); inside != "unsure" || outside != "" || kept != 2 {
		t.Errorf("seen inside the transaction: %q, after it: %q; %d layouts kept", inside, outside, kept)
	}
	for range 3 * maxKept {
		if err := f.conn.Exec("CREATE TABLE IF NOT EXISTS x(a); DROP TABLE IF EXISTS more; CREATE TABLE more(a)"); err != nil {
			t.Fatal(err)
		}
		f.client.User += "x"
		f.run(t, names)
	}
	if len(f.kept) > maxKept {
		t.Errorf("%d layouts are kept", len(f.kept))
	}
	f.client.InTransaction = true
	f.run(t, names)
	for _, l := range f.kept {
		if l.users != 0 {
			t.Errorf("a layout has %d users and no query", l.users)
		}
	}
}

func TestParametersReachTheQuery(t *testing.T) {
	f := newFixture(t)
	if got := f.run(t, "SELECT relname FROM pg_class WHERE relname = $2 AND relkind = $1", base.TextValue("r"), base.TextValue("t")); got != "t" {
		t.Errorf("got %q", got)
	}
	_, params, err := f.Describe(context.Background(), f.client, "SELECT $2::text, $1 FROM pg_class")
	if err != nil || params != 2 {
		t.Error(params, err)
	}
}

func TestClientsCannotReachOutOfTheCatalogue(t *testing.T) {
	f := newFixture(t)
	for _, sql := range []string{
		"ATTACH DATABASE '/tmp/x' AS pg_catalog", "DELETE FROM pg_class", "CREATE TABLE pg_catalog.x(a)", "PRAGMA writable_schema = 1",
		"VACUUM INTO '/tmp/pg_class'", "SELECT load_extension('pg_catalog'), * FROM pg_class", "INSERT INTO pg_class(oid) VALUES (1)",
		"WITH a AS (SELECT 1) DELETE FROM pg_class",
	} {
		if _, err := f.Query(context.Background(), f.client, sql, nil); err == nil {
			t.Errorf("%s: no error", sql)
		}
	}
}

// Arguments that are needed more than once must not grow without bound.
func TestARewrittenQueryIsBounded(t *testing.T) {
	f := newFixture(t)
	for _, sql := range []string{
		"SELECT " + strings.Repeat("array_upper(", 150) + "'{a}', 1" + strings.Repeat(", 1)", 150) + " FROM pg_class",
		"SELECT oid" + strings.Repeat("::regclass", 100) + " FROM pg_class",
		"SELECT '" + strings.Repeat("x", maxSQL) + "' FROM pg_class",
	} {
		_, err := f.Query(context.Background(), f.client, sql, nil)
		if base.KindOf(err) != base.KindTooLarge {
			t.Errorf("%.40s...: %v", sql, err)
		}
	}
}

func FuzzRewrite(f *testing.F) {
	for _, r := range recognised {
		f.Add(r.query)
	}
	for _, s := range []string{"SELECT a::b[1]", "x = ANY(ARRAY[1])", "((((", "SELECT [", "a::::b", "ARRAY(SELECT", "E'\\", "trim(", "CAST(x AS regclass)",
		"FROM unnest(a) WITH ORDINALITY AS b(c, d)", "OPERATOR()", "::", "[1]", "(SELECT 1) AS o(n)", "trim()", "FROM generate_series(1,2) s(n)"} {
		f.Add(s)
	}
	client := newFixture(f).client
	f.Fuzz(func(t *testing.T, sql string) {
		r := rewriter{client: client}
		r.rewrite(sql)
		Wants(sql)
		nameColumns(sql, make([]Column, 3))
	})
}

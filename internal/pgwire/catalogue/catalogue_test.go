package catalogue

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/sqlite"
)

// reader is a session of which only the schema can be read.
type reader struct {
	session.Session
	conn *sqlite.Conn
}

func (r *reader) Database() string { return "main" }

func (r *reader) Schema(_ context.Context, sql string, args []base.Value) (session.Rows, error) {
	st, err := r.conn.PrepareOwn(sql)
	if err != nil {
		return nil, err
	}
	if err := st.BindAll(args); err != nil {
		return nil, err
	}
	return &rows{st: st}, nil
}

type rows struct {
	session.Rows
	st  *sqlite.Stmt
	row []base.Value
	err error
}

func (r *rows) Next() bool {
	more, err := r.st.Step()
	r.err = err
	r.row = r.st.AppendRow(r.row[:0])
	return more && err == nil
}

func (r *rows) Row() []base.Value { return r.row }
func (r *rows) Err() error        { return r.err }
func (r *rows) Close() error      { r.st.Close(); return nil }

type gateway struct{ session.Gateway }

func (gateway) Databases() []string { return []string{"main", "other"} }
func (gateway) Users() []string     { return []string{"alice", "bob"} }

type fixture struct {
	*Cache
	client Client
	conn   *sqlite.Conn
}

const library = `
CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT NOT NULL DEFAULT 'x', v REAL, CHECK (v > 0));
CREATE UNIQUE INDEX t_name ON t(name);
CREATE INDEX t_v ON t(v DESC, lower(name)) WHERE v > 1;
CREATE TABLE u(a INT, b VARCHAR(9), c NUMERIC(8,2), t_id INT REFERENCES t(id) ON DELETE SET NULL, ok BOOLEAN, PRIMARY KEY (a, b), UNIQUE (b));
CREATE VIEW vw AS SELECT id, name FROM t;
CREATE TABLE pgbench_accounts(aid INTEGER PRIMARY KEY, bid INT, abalance INT, filler CHAR(84));
CREATE VIEW broken AS SELECT * FROM gone;
CREATE VIRTUAL TABLE texts USING fts5(body);
CREATE TABLE _skein_meta(a);
CREATE TRIGGER tr INSTEAD OF UPDATE OF name ON vw BEGIN SELECT 1; END;
`

func newFixture(t testing.TB) *fixture {
	t.Helper()
	conn, err := sqlite.OpenConn(context.Background(), filepath.Join(t.TempDir(), "main.db"), sqlite.ConnOptions{Role: sqlite.RoleWriter})
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Exec(library); err != nil {
		t.Fatal(err)
	}
	c := NewCache(env.Real(slog.New(slog.DiscardHandler)))
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		conn.Close()
	})
	return &fixture{Cache: c, conn: conn, client: Client{
		Session: &reader{conn: conn}, Gateway: gateway{}, User: "alice", ProcessID: 77, Version: "15.0 (Skein)",
		Setting:  func(name string) (string, bool) { return "value of " + name, name != "nothing" },
		Settings: []string{"max_index_keys"},
	}}
}

// run returns the rows of a query, columns apart by "|".
func (f *fixture) run(t testing.TB, sql string, args ...base.Value) string {
	t.Helper()
	r, err := f.Query(context.Background(), f.client, sql, args)
	if err != nil {
		rw := rewriter{client: f.client}
		rewritten, _ := rw.rewrite(sql)
		t.Fatalf("%s\n rewritten: %s\n %v", sql, rewritten, err)
	}
	var lines []string
	for _, row := range r.Rows {
		var words []string
		for _, v := range row {
			words = append(words, v.AsText())
		}
		lines = append(lines, strings.Join(words, "|"))
	}
	return strings.Join(lines, "\n")
}

// TestQueriesOfClientsRun runs what PostgreSQL 15 was asked by psql, pgbench,
// SQLAlchemy and JDBC.
func TestQueriesOfClientsRun(t *testing.T) {
	f := newFixture(t)
	data, err := os.ReadFile("testdata/queries.txt")
	if err != nil {
		t.Fatal(err)
	}
	who := ""
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "-- "); ok {
			who = name
			continue
		}
		t.Run(who, func(t *testing.T) {
			if !Wants(line) {
				t.Fatalf("not taken for a catalog query: %s", line)
			}
			t.Log(line, "\n", f.run(t, line))
			if _, _, err := f.Describe(context.Background(), f.client, line); err != nil {
				t.Error(err)
			}
		})
	}
}

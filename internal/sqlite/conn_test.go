package sqlite_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/sqlite"
)

func openConn(t testing.TB, path string, role sqlite.Role) *sqlite.Conn {
	t.Helper()
	c, err := sqlite.OpenConn(context.Background(), path, sqlite.ConnOptions{Role: role})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

func newConn(t testing.TB, schema string) *sqlite.Conn {
	t.Helper()
	c := openConn(t, filepath.Join(t.TempDir(), "test.db"), sqlite.RoleWriter)
	must(t, c.Exec("PRAGMA journal_mode=WAL;"+schema))
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run prepares, binds and runs one statement under the connection's guard.
func run(c *sqlite.Conn, sql string, args ...base.Value) error {
	s, err := c.Prepare(sql)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.BindAll(args); err != nil {
		return err
	}
	return s.Run()
}

// rows runs a query and returns copies of its rows.
func rows(t testing.TB, c *sqlite.Conn, sql string, args ...base.Value) [][]base.Value {
	t.Helper()
	s, err := c.Prepare(sql)
	must(t, err)
	defer s.Close()
	must(t, s.BindAll(args))
	var all [][]base.Value
	for {
		row, err := s.Step()
		must(t, err)
		if !row {
			return all
		}
		values := s.AppendRow(nil)
		for i := range values {
			values[i].Bytes = append([]byte(nil), values[i].Bytes...)
		}
		all = append(all, values)
	}
}

func count(t testing.TB, c *sqlite.Conn, table string) int64 {
	t.Helper()
	return rows(t, c, "SELECT count(*) FROM "+table)[0][0].Int
}

func TestValuesKeepTheirStorageClass(t *testing.T) {
	c := newConn(t, "CREATE TABLE t(a)")
	values := []base.Value{
		{}, base.IntValue(0), base.IntValue(-1 << 63), base.RealValue(1), base.RealValue(-1e300),
		base.TextValue(""), base.TextValue("a\x00b"), base.TextValue("\xff\xfe"), {Kind: base.Text},
		base.BlobValue(nil), base.BlobValue([]byte{}), base.BlobValue([]byte{0, 255}),
	}
	for _, v := range values {
		must(t, run(c, "INSERT INTO t VALUES(?)", v))
	}
	for i, row := range rows(t, c, "SELECT a FROM t ORDER BY rowid") {
		if !row[0].Equal(values[i]) {
			t.Errorf("value %d: got %+v, want %+v", i, row[0], values[i])
		}
	}
}

func TestPreUpdate(t *testing.T) {
	c := newConn(t, "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b AS (a+1) VIRTUAL)")
	var ops []string
	c.OnPreUpdate(func(p sqlite.PreUpdate) {
		ops = append(ops, p.Op.String()+" "+p.Schema+"."+p.Table)
		if _, err := p.New(2); p.Op != sqlite.Delete && err != sqlite.ErrNoValue {
			t.Errorf("virtual column: %v", err)
		}
	})
	must(t, run(c, "INSERT INTO t VALUES(1, 'x')"))
	must(t, run(c, "UPDATE t SET a=?", base.TextValue("y")))
	must(t, run(c, "DELETE FROM t"))
	want := []string{"INSERT main.t", "UPDATE main.t", "DELETE main.t"}
	if len(ops) != 3 || ops[0] != want[0] || ops[1] != want[1] || ops[2] != want[2] {
		t.Errorf("got %q", ops)
	}
}

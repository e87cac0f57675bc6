package e2e

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/sqlite"
)

// A partial replica holds what is chosen, and nothing else; it goes on where it
// was, through a killed leader and a choice that changes.
func TestPartialReplicaFollows(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	c := startCluster(t, 3)
	n := c.nodes[0]
	file := filepath.Join(tempDir(t), "partial.db")
	conn := n.mustConnect("main")
	exec1(t, conn, "CREATE TABLE orders(id INTEGER PRIMARY KEY, region TEXT COLLATE NOCASE, total REAL, card BLOB)")
	exec1(t, conn, "CREATE TABLE pair(b TEXT, a INTEGER, v, PRIMARY KEY(b, a)) WITHOUT ROWID")
	exec1(t, conn, "CREATE TABLE plain(v, w UNIQUE)")
	if _, errs, err := run("", n.url(), "follow", "main", file, "--once"); err == nil || !strings.Contains(errs, "format trigger") {
		t.Fatalf("in format row: %v %s", err, errs)
	}
	if _, errs, err := run("", n.url(), "db", "replicate", "main"); err == nil || !strings.Contains(errs, "--log-format trigger") {
		t.Fatalf("in format row: %v %s", err, errs)
	}
	mustRun(t, n.url(), "db", "alter", "main", "--log-format", "trigger")
	exec1(t, conn, "INSERT INTO orders VALUES (1, 'eu', 10, x'0102'), (2, 'us', 20, NULL), (3, 'EU', 9007199254740993, x'')")
	exec1(t, conn, "INSERT INTO pair VALUES ('x', 1, 9223372036854775807), ('x', 2, -1e999)")
	exec1(t, conn, "INSERT INTO plain VALUES ('one', 1), ('two', 2)")
	follow := func() {
		t.Helper()
		mustRun(t, c.leader("main").url(), "follow", "main", file, "--once", "--heartbeat", "100ms")
	}
	holds := func(query, want string) {
		t.Helper()
		if got := readFile(t, file, query); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	follow()
	const orders = "SELECT group_concat(quote(id)||quote(region)||quote(total)||quote(card), ' ') FROM orders"
	holds(orders, "1'eu'10.0X'0102' 2'us'20.0NULL 3'EU'9007199254740992.0X''")
	holds("SELECT group_concat(quote(b)||quote(a)||quote(v), ' ') FROM pair", "'x'19223372036854775807 'x'2-9.0e+999")

	out := mustRun(t, n.url(), "db", "replicate", "main", "--table", "ORDERS", "--columns", "Region,total", "--where", "NEW.region = 'eu'")
	if !strings.Contains(out, "new copy") {
		t.Errorf("replicate says %q", out)
	}
	mustRun(t, n.url(), "db", "replicate", "main", "--table", "pair", "--none")
	if out := mustRun(t, n.url(), "db", "replicate", "main"); !strings.Contains(out, "skein_log_orders_delete") || strings.Contains(out, "skein_log_pair") {
		t.Errorf("what is chosen: %s", out)
	}
	for args, want := range map[string]string{
		"--table=nothing":                      "no table",
		"--table=orders --columns=x":           "no column",
		"--table=orders --where=region='eu'":   "NEW",
		"--table=orders --where=NEW.nothing=1": "nothing",
	} {
		if _, errs, err := run("", n.url(), append([]string{"db", "replicate", "main"}, strings.Fields(args)...)...); err == nil || !strings.Contains(errs, want) {
			t.Errorf("replicate %s: %v %s", args, err, errs)
		}
	}
	follow()
	const some = "SELECT group_concat(quote(id)||quote(region)||quote(total), ' ') FROM orders"
	holds(some, "1'eu'10.0 3'EU'9007199254740992.0")
	holds("SELECT count(*) FROM sqlite_schema WHERE name = 'pair' OR sql LIKE '%card%'", "0")

	old := c.leader("main")
	old.kill()
	conn = c.others(old)[0].mustConnect("main")
	exec1(t, conn, "UPDATE orders SET region = CASE id WHEN 1 THEN 'us' WHEN 2 THEN 'eu' ELSE region END, card = x'ff'")
	exec1(t, conn, "REPLACE INTO plain VALUES ('uno', 1)")
	exec1(t, conn, "UPDATE orders SET id = 30 WHERE id = 3")
	follow()
	holds(some, "2'eu'20.0 30'EU'9007199254740992.0")
	holds("SELECT group_concat(v||w, ' ') FROM (SELECT * FROM plain ORDER BY v)", "two2 uno1")
	if _, errs, err := run("", c.leader("main").url(), "follow", "other", file, "--once"); err == nil || !strings.Contains(errs, "of database") {
		t.Errorf("another database in the same file: %v %s", err, errs)
	}
	tail := start(t, "follow", c.leader("main").url(), "follow", "main", file, "--heartbeat", "100ms")
	exec1(t, conn, "INSERT INTO orders(id, region) VALUES (4, 'eu')")
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(readFile(t, file, some), "4'eu'NULL"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("a row does not come: %s\n%s", readFile(t, file, some), tail.output.String())
		}
	}
	tail.kill()
}

// readFile reads one value from a file that another process may write to.
func readFile(t *testing.T, path, query string) string {
	t.Helper()
	conn, err := sqlite.OpenConn(context.Background(), path, sqlite.ConnOptions{Role: sqlite.RoleReader})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	st, err := conn.PrepareOwn(query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer st.Close()
	if row, err := st.Step(); err != nil || !row {
		t.Fatalf("%s: %v", query, err)
	}
	v := st.Column(0)
	if v.Kind == 0 {
		return ""
	}
	if len(v.Bytes) == 0 {
		return strconv.FormatInt(v.Int, 10)
	}
	return string(v.Bytes)
}

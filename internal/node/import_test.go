package node_test

import (
	"bytes"
	"context"
	"os"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/sqlite"
)

func TestImportedFileIsOnEveryNode(t *testing.T) {
	c := newCluster(t, 3)
	path := t.TempDir() + "/shop.sqlite"
	conn, err := sqlite.OpenConn(context.Background(), path, sqlite.ConnOptions{Role: sqlite.RoleWriter})
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Exec("CREATE TABLE item(id INTEGER PRIMARY KEY, n TEXT); INSERT INTO item VALUES (1, 'a'), (7, 'b')"); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.nodes[1].CreateDatabaseFrom(context.Background(), "shop", base.DefaultPolicy(), bytes.NewReader(file), int64(len(file))); err != nil {
		t.Fatal(err)
	}
	s := c.session(2, "shop")
	query(t, s, "INSERT INTO item(n) VALUES ('c')")
	for i := range c.nodes {
		other := c.session(i, "shop")
		if err := other.Set("skein.token", query(t, s, "SHOW skein.token")); err != nil {
			t.Fatal(err)
		}
		if got := query(t, other, "SELECT group_concat(id || n) FROM item"); got != "1a,7b,8c" {
			t.Fatalf("node %d has %q", i+1, got)
		}
	}
}

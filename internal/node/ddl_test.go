package node_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/skeindb/skein/internal/base"
)

func TestNewTableIsSeenAtOnce(t *testing.T) {
	c := newCluster(t, 3)
	if err := c.nodes[0].CreateDatabase(context.Background(), "main", base.DefaultPolicy()); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		s := c.session(i%3, "main")
		query(t, s, fmt.Sprintf("CREATE TABLE t%d(a INTEGER PRIMARY KEY, b TEXT)", i))
		query(t, s, fmt.Sprintf("INSERT INTO t%d(b) VALUES (?1)", i), base.TextValue("x"))
		if got := query(t, s, fmt.Sprintf("SELECT count(*) FROM t%d", i)); got != "1" {
			t.Fatalf("count: %s", got)
		}
	}
}

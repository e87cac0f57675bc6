package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// What a command has done through one node is so on all others when it returns:
// a database can be used, its leader acknowledges as it was told, and one that
// was dropped is gone.
func TestCommandsAreInForceOnAllNodesWhenTheyReturn(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	c.whole("main")
	for round := range 9 {
		name, one := fmt.Sprintf("db%d", round), c.nodes[round%3]
		others := c.others(one)
		began := time.Now()
		mustRun(t, one.url(), "db", "create", name)
		created := time.Since(began)
		exec1(t, others[0].atOnce(name), "create table item(id integer primary key)")
		exec1(t, others[1].atOnce(name), "insert into item default values")
		conn := c.leader(name).atOnce(name)
		for i, d := range []string{"all", "async", "all"} {
			began = time.Now()
			mustRun(t, c.nodes[(round+i)%3].url(), "db", "alter", name, "--durability", d)
			t.Logf("create took %v, alter to %s %v", created, d, time.Since(began))
			if got := reached(t, conn, 20); d == "all" && got != "flushed on 3 of 3" || d == "async" && got != "flushed on 1 of 3" {
				t.Errorf("the least that a write has reached under %s: %s", d, got)
			}
		}
		mustRun(t, one.url(), "db", "drop", name, "--yes")
		for _, n := range others {
			if conn, err := n.connect(background(t), name); err == nil {
				conn.Close(context.Background())
				t.Errorf("%s is still on %s", name, n.name)
			} else if !strings.Contains(err.Error(), "does not exist") {
				t.Error(err)
			}
		}
	}
}

// atOnce connects without a second try.
func (n *node) atOnce(database string) *pgx.Conn {
	n.t.Helper()
	conn, err := n.connect(background(n.t), database)
	if err != nil {
		n.t.Fatalf("connect to %s: %v", n.name, err)
	}
	n.t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// reached is the least that some writes had reached when they were acknowledged.
func reached(t *testing.T, conn *pgx.Conn, writes int) string {
	t.Helper()
	least := ""
	for range writes {
		exec1(t, conn, "insert into item default values")
		if got := value(t, conn, "show skein.reached"); least == "" || got < least {
			least = got
		}
	}
	return least
}

package e2e

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// hosts is a connection string with every node.
func (c *cluster) hosts(attributes string) string {
	var list []string
	for _, n := range c.nodes {
		list = append(list, n.pg)
	}
	return fmt.Sprintf("postgres://someone@%s/main?sslmode=disable&connect_timeout=2&target_session_attrs=%s", strings.Join(list, ","), attributes)
}

// A client that names all nodes and asks for one that takes writes finds the
// leader, whoever it is, as it would find PostgreSQL's primary: pgx and psql.
func TestSeveralHostsFindTheLeader(t *testing.T) {
	full(t)
	tool(t, "psql")
	c := startCluster(t, 3)
	exec1(t, c.nodes[0].mustConnect("main"), ledgerTable)
	finds := func(attributes string, good func(n *node) bool) {
		t.Helper()
		eventually(t, patience, attributes, func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			conn, err := pgx.Connect(ctx, c.hosts(attributes))
			if err != nil {
				return err
			}
			defer conn.Close(ctx)
			name, err := tryValue(ctx, conn, "show skein.node")
			if err != nil {
				return err
			}
			if n := c.byName(name); !good(n) {
				return fmt.Errorf("%s is not what was asked for", name)
			}
			out, errs, err := runProgram("psql", "", nil, c.hosts(attributes), "-XAtc", "show skein.node")
			if err != nil {
				return fmt.Errorf("psql: %w: %s", err, errs)
			}
			if n := c.byName(strings.TrimSpace(out)); !good(n) {
				return fmt.Errorf("psql came to %s", out)
			}
			return nil
		})
	}
	for round := range 3 {
		leader := c.leader("main")
		finds("read-write", func(n *node) bool { return n == leader })
		finds("primary", func(n *node) bool { return n == leader })
		finds("read-only", func(n *node) bool { return n != leader })
		finds("standby", func(n *node) bool { return n != leader })
		switch round {
		case 0:
			leader.kill()
			finds("read-write", func(n *node) bool { return n != leader })
			leader.start()
			c.whole("main")
		case 1: // Frozen, it accepts connections and answers none; awake, it is no leader.
			leader.signal(syscall.SIGSTOP)
			finds("read-write", func(n *node) bool { return n != leader })
			leader.signal(syscall.SIGCONT)
			finds("read-write", func(n *node) bool { return n != leader })
			c.whole("main")
		}
	}
}

// A connection to a follower lives on when the leader dies, and when its own
// node becomes the leader: it goes on writing, keeps its settings and what it
// has prepared, and is told what its node is now.
func TestConnectionToAFollowerSurvivesLeaderChanges(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	leader := c.leader("main")
	n := c.others(leader)[0]
	conn := n.mustConnect("main")
	exec1(t, conn, ledgerTable)
	exec1(t, conn, "set application_name = 'patient'; set skein.report_token = on; set statement_timeout = '30s'")
	if _, err := conn.Prepare(background(t), "write", "insert into ledger(id, node) values($1, $2)"); err != nil {
		t.Fatal(err)
	}
	written := 0
	write := func() {
		t.Helper()
		written++
		exec1(t, conn, "write", written, n.name)
		if got := value(t, conn, "select count(*) from ledger"); got != fmt.Sprint(written) {
			t.Errorf("the session reads %s rows after it wrote %d", got, written)
		}
	}
	told := func(want string) {
		t.Helper()
		eventually(t, patience, "told in_hot_standby = "+want, func() error {
			exec1(t, conn, "select 1")
			if got := conn.PgConn().ParameterStatus("in_hot_standby"); got != want {
				return fmt.Errorf("it is %s", got)
			}
			return nil
		})
	}
	write()
	told("on")
	token := conn.PgConn().ParameterStatus("skein.token")
	leader.kill()
	write()
	if now := conn.PgConn().ParameterStatus("skein.token"); token == "" || now == token {
		t.Errorf("the token was %q and is %q", token, now)
	}
	leader.start()
	c.whole("main")
	if c.leader("main") != n {
		mustRun(t, n.url(), "switchover", "main", "--to", n.name)
	}
	write()
	told("off")
	mustRun(t, n.url(), "switchover", "main", "--to", c.others(n)[0].name)
	write()
	told("on")
	if got := value(t, conn, "show application_name"); got != "patient" {
		t.Errorf("application_name is %q", got)
	}
	if conn.IsClosed() {
		t.Error("the connection was closed")
	}
}

package e2e

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/httpapi"
)

// What a commit waits for can be chosen, is told, and is not claimed when it is
// not so.
func TestDurabilityIsAskedAndTold(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	leader := c.leader("main")
	conn := leader.mustConnect("main")
	exec1(t, conn, "create table t(id integer primary key)")
	id := 0
	insert := func() error {
		id++
		ctx, cancel := context.WithTimeout(background(t), 30*time.Second)
		defer cancel()
		_, err := conn.Exec(ctx, "insert into t values($1)", id)
		return err
	}
	for _, d := range []string{"async", "one received", "quorum flushed", "quorum applied", "all applied"} {
		exec1(t, conn, "set skein.durability = '"+d+"'")
		if err := insert(); err != nil {
			t.Errorf("%s: %v", d, err)
		}
		t.Logf("%s: reached %s", d, value(t, conn, "show skein.reached"))
	}
	if got := value(t, conn, "show skein.reached"); !strings.Contains(got, "3") {
		t.Errorf("after 'all applied': %q", got)
	}
	// With the followers frozen a quorum write ends with a clear word; an
	// asynchronous one returns while the lease lasts.
	for _, n := range c.others(leader) {
		n.signal(syscall.SIGSTOP)
	}
	exec1(t, conn, "set skein.durability = 'async'")
	began := time.Now()
	err := insert()
	t.Logf("async without followers: %v after %v; reached %s", err, time.Since(began).Round(time.Millisecond), value(t, conn, "show skein.reached"))
	exec1(t, conn, "set skein.durability = 'quorum'")
	exec1(t, conn, "set skein.statement_timeout = '1500ms'")
	began = time.Now()
	err = insert()
	wantState(t, "quorum without followers", err, "57014", "08007", "57P03")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("statement_timeout of 1.5 s ended after %v", took)
	}
	t.Logf("quorum without followers: %v", err)
	for _, n := range c.others(leader) {
		n.signal(syscall.SIGCONT)
	}
	c.whole("main")
	c.equal("main", 3)
}

// With degrade_after a dead follower that "all" waits for is left out after a
// while, visibly, and counted again when it is back.
func TestDegradesVisiblyAndRestores(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	mustRun(t, c.nodes[0].url(), "db", "alter", "main", "--durability", "all applied", "--degrade-after", "1s")
	leader := c.leader("main")
	conn := leader.mustConnect("main")
	exec1(t, conn, "create table t(id integer primary key)")
	dead := c.others(leader)[0]
	dead.kill()
	began := time.Now()
	exec1(t, conn, "insert into t values(1)")
	t.Logf("a write went on after %v; reached %s", time.Since(began).Round(time.Millisecond), value(t, conn, "show skein.reached"))
	eventually(t, patience, "an alert", func() error { return hasAlert(leader, httpapi.AlertDegraded, true) })
	if told := mustRun(t, leader.url(), "status"); !strings.Contains(told, "fewer copies") {
		t.Errorf("status does not tell:\n%s", told)
	}
	dead.start()
	eventually(t, patience, "the alert is gone", func() error { return hasAlert(leader, httpapi.AlertDegraded, false) })
	c.whole("main")
	exec1(t, conn, "insert into t values(2)")
	if got := value(t, conn, "show skein.reached"); !strings.Contains(got, "3") || strings.Contains(got, "degraded") {
		t.Errorf("after it is back: reached %q", got)
	}
	c.equal("main", 3)
}

func hasAlert(n *node, kind httpapi.AlertKind, want bool) error {
	s, err := n.status()
	if err != nil {
		return err
	}
	for _, a := range s.Alerts {
		if a.Kind == kind {
			if want {
				return nil
			}
			return fmt.Errorf("%s", a.Message)
		}
	}
	if want {
		return fmt.Errorf("alerts: %v", s.Alerts)
	}
	return nil
}

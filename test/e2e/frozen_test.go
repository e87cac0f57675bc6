package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/httpapi"
)

// A follower that is frozen for long under load holds up nobody for longer than
// a lease, and catches up when it wakes.
func TestFrozenFollowerCatchesUp(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	exec1(t, c.nodes[0].mustConnect("main"), ledgerTable)
	leader := c.leader("main")
	frozen := c.others(leader)[0]
	live := c.others(frozen)
	w := startWriters(t, "main", live...)
	w.progress(10)
	frozen.signal(syscall.SIGSTOP)
	time.Sleep(long(6*time.Second, time.Minute)) // The time is the test's subject.
	w.progress(10)
	frozen.signal(syscall.SIGCONT)
	began := time.Now()
	c.whole("main")
	eventually(t, patience, "the frozen follower has caught up", func() error {
		d, err := leader.database("main")
		if err != nil {
			return err
		}
		for _, r := range d.Replicas {
			if r.NodeName == frozen.name && (!r.Known || r.LagSeqs > 50) {
				return fmt.Errorf("%+v", r)
			}
		}
		return nil
	})
	t.Logf("level again %v after it woke", time.Since(began).Round(time.Millisecond))
	w.verify("main", c.nodes...)
	c.equal("main", 3)
	for _, l := range w.ledgers {
		if len(l.errs) > 0 || l.longest > 5*time.Second {
			t.Errorf("client of %s: longest %v, errors %v", l.node.name, l.longest, l.errs)
		}
		t.Logf("%s: %d acknowledged, longest %v", l.node.name, len(l.acked), l.longest.Round(time.Millisecond))
	}
}

// A frozen leader is replaced within seconds. When it wakes it acknowledges
// nothing of its old epoch, answers no read from its old state at level leader,
// and follows.
func TestFrozenLeaderIsReplacedAndFenced(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	exec1(t, c.nodes[0].mustConnect("main"), ledgerTable+"; create table state(v integer); insert into state values(0);")
	for round := range 3 {
		old := c.leader("main")
		live := c.others(old)
		w := startWritersAt(t, "main", int64(round)*10, c.nodes...)
		w.progress(10)
		atOld := old.mustConnect("main")
		exec1(t, atOld, "set skein.read = 'leader'")
		old.signal(syscall.SIGSTOP)
		began := time.Now()
		w.progress(3, live...)
		took := time.Since(began)
		if took > 8*time.Second {
			t.Errorf("writes went on only after %v", took)
		}
		exec1(t, live[0].mustConnect("main"), "update state set v = $1", round+1)
		// The write and the read wait in the frozen node's socket.
		wrote, read := make(chan error, 1), make(chan string, 1)
		atOld2 := make(chan error, 1)
		go func() {
			conn, err := old.connect(context.Background(), "main")
			if err == nil {
				defer conn.Close(context.Background())
				_, err = conn.Exec(context.Background(), "insert into ledger(id, node) values($1, 'late')", -1-round)
			}
			wrote <- err
		}()
		go func() {
			v, err := tryValue(context.Background(), atOld, "select v from state")
			read <- v
			atOld2 <- err
		}()
		time.Sleep(200 * time.Millisecond) // Lets both reach the socket; nothing depends on it.
		old.signal(syscall.SIGCONT)
		v, readErr, writeErr := <-read, <-atOld2, <-wrote
		if readErr == nil && v != fmt.Sprint(round+1) {
			t.Errorf("the old leader read %s at level leader; the new one had acknowledged %d", v, round+1)
		}
		t.Logf("round %d: replaced after %v; at the old one: read %q %v, write %v", round, took.Round(time.Millisecond), v, readErr, writeErr)
		c.whole("main")
		w.progress(3)
		w.verify("main", c.nodes...)
		c.equal("main", 3)
		if writeErr == nil {
			if got := live[0].mustConnect("main"); value(t, got, "select count(*) from ledger where id = $1", -1-round) != "1" {
				t.Error("a write that the woken leader acknowledged is lost")
			}
		}
		for _, l := range w.ledgers {
			if l.node != old && len(l.errs) > 0 {
				t.Errorf("a client of %s saw %v", l.node.name, l.errs[0])
			}
			if l.node == old {
				t.Logf("  the woken leader's own client: %d acknowledged, %d in doubt %v, longest %v", len(l.acked), len(l.doubtful), l.errs, l.longest.Round(time.Millisecond))
			}
		}
	}
}

// A node that joins a cluster with data gets a copy and the log from there, and
// becomes a replica like the others; one that is removed is gone; a machine
// whose folder was lost joins again under a new id.
func TestNodeJoinsLeavesAndComesBackEmpty(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	conn := c.nodes[0].mustConnect("main")
	exec1(t, conn, ledgerTable+"; create table bulk(id integer primary key, x blob); insert into bulk select value, randomblob(1000) from generate_series(1, 10000)")
	w := startWriters(t, "main", c.nodes...)
	w.progress(5)
	fourth := c.plan()
	began := time.Now()
	fourth.start()
	c.whole("main")
	t.Logf("a fourth node was a whole replica after %v", time.Since(began).Round(time.Millisecond))
	w.progress(5)
	if told := mustRun(t, c.nodes[0].url(), "status"); !strings.Contains(told, "n4") {
		t.Errorf("status does not show the new node:\n%s", told)
	}
	fourth.stop(t)
	mustRun(t, c.nodes[0].url(), "node", "remove", "n4", "--yes")
	c.nodes = c.nodes[:3]
	c.whole("main")
	if told := mustRun(t, c.nodes[0].url(), "node", "list"); strings.Contains(told, "n4") {
		t.Errorf("a removed node is still listed:\n%s", told)
	}
	// Its folder lets it in no more.
	fourth.start()
	eventually(t, patience, "the removed node says that it was removed", func() error {
		if said := fourth.output.String(); !strings.Contains(said, "removed") {
			return fmt.Errorf("%s", tail(said, 500))
		}
		return nil
	})
	fourth.kill()
	w.progress(5)

	// A lost disk: the node is removed and joins with an empty folder.
	lost := c.others(c.leader("main"))[0]
	lost.kill()
	list := mustRun(t, c.leader("main").url(), "node", "list", "--json")
	mustRun(t, c.leader("main").url(), "node", "remove", lost.name, "--yes")
	lost.dir += "-new"
	lost.certs += "-new"
	lost.join = nil
	for _, n := range c.others(lost) {
		lost.join = append(lost.join, n.peer)
	}
	mustRun(t, nil, "cert", "node", "--ca", c.dir+"/ca", "--out", lost.certs, "--host", "127.0.0.1")
	lost.start()
	c.whole("main")
	if id := nodeID(t, lost.certs); strings.Contains(list, id) {
		t.Errorf("the id %s came back", id)
	}
	w.progress(5)
	w.verify("main", c.nodes...)
	c.equal("main", 3)
}

// Others make up for a node that is given up for dead, so that the next failure
// stops nothing; when it is back it is a member as before.
func TestDeadNodeIsMadeUpFor(t *testing.T) {
	full(t)
	c := startCluster(t, 4)
	mustRun(t, c.nodes[0].url(), "db", "create", "small", "--replicas", "3")
	c.whole("main")
	exec1(t, c.nodes[0].mustConnect("small"), ledgerTable)
	var dead *node
	for _, n := range c.others(c.leader("small")) {
		if d, err := n.database("small"); err == nil && n != c.leader("main") && slices.ContainsFunc(d.Replicas, func(r httpapi.ReplicaStatus) bool { return r.NodeName == n.name }) {
			dead = n
		}
	}
	rest := c.others(dead)
	w := startWriters(t, "small", rest...)
	w.progress(5)
	if _, errs, err := run("", rest[0].url(), "node", "dead", dead.name); err == nil || !strings.Contains(errs, "stop its process first") {
		t.Errorf("a node that answers is dead: %v\n%s", err, errs)
	}
	dead.kill()
	mustRun(t, rest[0].url(), "node", "dead", dead.name)
	eventually(t, patience, "others have taken its place", func() error {
		s, err := rest[0].status()
		if err != nil {
			return err
		}
		d, err := rest[0].database("small")
		if err != nil {
			return err
		}
		replicas := 0
		for _, r := range d.Replicas {
			if r.NodeName != dead.name && r.Known && r.AgeSeconds < 1 {
				replicas++
			}
		}
		if len(d.Replicas) != 3 || replicas != 3 || len(s.Cluster.Voters) != 3 || slices.Contains(s.Cluster.Voters, nodeID(t, dead.certs)) {
			return fmt.Errorf("voters %v, replicas %+v", s.Cluster.Voters, d.Replicas)
		}
		return nil
	})
	if told := mustRun(t, rest[0].url(), "status"); !strings.Contains(told, dead.name+" is given up for dead") {
		t.Errorf("status does not say who is given up:\n%s", told)
	}
	second := c.leader("small")
	second.kill()
	left := slices.DeleteFunc(slices.Clone(rest), func(n *node) bool { return n == second })
	w.progress(5, left...)
	second.start()
	dead.start()
	c.whole("main")
	if told := mustRun(t, rest[0].url(), "node", "list"); strings.Contains(told, "dead") {
		t.Errorf("the node is back, and listed as\n%s", told)
	}
	w.verify("small", rest...)
}

// A folder that is simply emptied comes back under the same certificate only in
// words that say what to do.
func TestEmptiedFolderOfAMember(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	exec1(t, c.nodes[0].mustConnect("main"), "create table t(x); insert into t values(1);")
	c.equal("main", 3)
	n := c.others(c.leader("main"))[0]
	n.kill()
	if n == c.nodes[0] {
		n.join = []string{c.nodes[1].peer, c.nodes[2].peer}
	}
	n.dir += "-emptied"
	n.start()
	var said string
	eventually(t, patience, "the node says what is the matter, or is a member again", func() error {
		said = n.output.String()
		var local httpapi.LocalStatus
		if err := n.get("/v1/status/local", &local); err == nil && local.Ready.Ready {
			return nil
		}
		if n.running() && !strings.Contains(said, "level=ERROR") {
			return fmt.Errorf("%s", tail(said, 500))
		}
		return nil
	})
	for line := range strings.Lines(said) {
		if strings.Contains(line, "ERROR") || strings.Contains(line, "Hint") || strings.Contains(line, "Error") {
			t.Logf("%s", line)
		}
	}
	other := c.others(n)[0]
	if got := other.mustPsql("main", "select count(*) from t"); got != "1" {
		t.Errorf("the others have %s rows", got)
	}
	found, _ := filepath.Glob(n.dir + "/*")
	t.Logf("folder: %v", found)
}

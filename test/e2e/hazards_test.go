package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/skeindb/skein/internal/httpapi"
)

// An asynchronous leader dies with writes that it alone had acknowledged. They
// are listed when it comes back, can be written again and thrown away, and
// their ids are not given to anybody else.
func TestOrphansAreListedReplayedAndDiscarded(t *testing.T) {
	full(t)
	untilAlone(t, loseWrites)
}

// untilAlone repeats a story on new clusters until its leader has acknowledged two
// writes or more alone: on a busy machine its lease may be over before.
func untilAlone(t *testing.T, tell func(t *testing.T, c *cluster) (acknowledged int)) {
	t.Helper()
	for range 5 {
		c := startCluster(t, 3)
		if tell(t, c) >= 2 || t.Failed() {
			return
		}
		for _, n := range c.nodes {
			n.kill()
		}
	}
	t.Error("no leader acknowledged two writes alone")
}

func loseWrites(t *testing.T, c *cluster) (acknowledgedAlone int) {
	leader := c.leader("main")
	others := c.others(leader)
	url := others[0].url()
	mustRun(t, url, "db", "alter", "main", "--durability", "async", "--allow-loss")
	conn := leader.mustConnect("main")
	exec1(t, conn, "create table note(id integer primary key autoincrement, text text not null)")
	exec1(t, conn, "insert into note(text) values('kept')")
	c.whole("main")
	acknowledged := writeAlone(t, leader, others)
	if len(acknowledged) < 2 {
		return len(acknowledged)
	}
	leader.kill()
	for _, n := range others {
		n.kill()
		n.start()
	}
	next := ""
	eventually(t, patience, "another node leads", func() error {
		conn, err := others[0].connect(background(t), "main")
		if err != nil {
			return err
		}
		defer conn.Close(context.Background())
		return conn.QueryRow(background(t), "insert into note(text) values('later') returning cast(id as text)").Scan(&next)
	})
	leader.start()
	c.whole("main")
	var listed []httpapi.Orphan
	if err := json.Unmarshal([]byte(mustRun(t, url, "orphans", "list", "main", "--json")), &listed); err != nil {
		t.Fatal(err)
	}
	told := map[string]httpapi.Orphan{}
	for _, o := range listed {
		for _, f := range o.New {
			if o.Table == "note" && o.Acknowledged == "yes" && f.Name == "text" {
				told[string(f.Value.Bytes)] = o
			}
		}
	}
	lost := 0
	for id, text := range acknowledged {
		if id == next {
			t.Errorf("id %s of an acknowledged write was given again", id)
		}
		if _, ok := told[text]; ok {
			lost++
		} else if value(t, others[0].mustConnect("main"), "select count(*) from note where text = '"+text+"'") != "1" {
			t.Errorf("%q was acknowledged, and is neither there nor listed", text)
		}
	}
	t.Logf("%d acknowledged by the leader alone, %d lost and listed", len(acknowledged), lost)
	if lost < 2 {
		t.Fatalf("%d of %d were lost, want 2 or more", lost, len(acknowledged))
	}
	settleOrphans(t, c, others[0], told)
	return len(acknowledged)
}

// writeAlone kills the followers while several clients write to the leader, and
// returns what it acknowledges from then on until its lease is over, text by id.
func writeAlone(t *testing.T, leader *node, followers []*node) map[string]string {
	t.Helper()
	const clients = 8
	alone := &writtenAlone{acknowledged: map[string]string{}}
	var all sync.WaitGroup
	for i := range clients {
		conn := leader.mustConnect("main")
		all.Go(func() { alone.write(t, conn, i) })
	}
	eventually(t, patience, "writes, so that the lease is fresh", func() error {
		if n := alone.count.Load(); n < 20*clients {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	for _, n := range followers {
		n.signal(syscall.SIGKILL) // A frozen one would find the rest in its sockets.
	}
	alone.begun.Store(true)
	all.Wait()
	return alone.acknowledged
}

// writtenAlone is what a leader acknowledges that has no followers any more.
type writtenAlone struct {
	count atomic.Int64
	begun atomic.Bool

	mu           sync.Mutex // guards what follows
	acknowledged map[string]string
}

// write writes until a write fails.
func (w *writtenAlone) write(t *testing.T, conn *pgx.Conn, client int) {
	for i := 0; ; i++ {
		counts := w.begun.Load() // Before it is sent: else a follower may have it.
		ctx, cancel := context.WithTimeout(background(t), time.Second)
		text, id := fmt.Sprintf("alone %d.%d", client, i), ""
		err := conn.QueryRow(ctx, "insert into note(text) values($1) returning cast(id as text)", text).Scan(&id)
		cancel()
		if err != nil {
			t.Logf("write %s without followers: %v", text, err)
			return
		}
		w.count.Add(1)
		if counts {
			w.mu.Lock()
			w.acknowledged[id] = text
			w.mu.Unlock()
		}
	}
}

// settleOrphans writes one again, throws one away, then writes all others.
func settleOrphans(t *testing.T, c *cluster, n *node, told map[string]httpapi.Orphan) {
	t.Helper()
	var texts []string
	for text := range told {
		texts = append(texts, text)
	}
	at := func(text string) string { return fmt.Sprintf("%d/%d", told[text].Epoch, told[text].Seq) }
	t.Log(mustRun(t, n.url(), "orphans", "replay", "main", "--at", at(texts[0])))
	t.Log(mustRun(t, n.url(), "orphans", "discard", "main", "--at", at(texts[1])))
	t.Log(mustRun(t, n.url(), "orphans", "replay", "main", "--all"))
	conn := n.mustConnect("main")
	for _, text := range texts {
		want := "1"
		if text == texts[1] {
			want = "0"
		}
		if got := value(t, conn, "select count(*) from note where text = '"+text+"'"); got != want {
			t.Errorf("%q is there %s times, want %s", text, got, want)
		}
	}
	if left := mustRun(t, n.url(), "orphans", "list", "main"); !strings.Contains(left, "No write of main was undone.") {
		t.Errorf("still listed: %s", left)
	}
	c.equal("main", 3)
}

// A database whose failover is manual waits for a person, shows how its
// replicas stand, and goes on at a word without a loss.
func TestManualFailoverWaitsForAPerson(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	leader := c.leader("main")
	others := c.others(leader)
	url := others[0].url()
	mustRun(t, url, "db", "alter", "main", "--failover", "manual")
	exec1(t, leader.mustConnect("main"), ledgerTable)
	w := startWriters(t, "main", others...)
	w.progress(20)
	before, err := leader.database("main")
	if err != nil {
		t.Fatal(err)
	}
	epoch := before.Epoch
	leader.kill()
	eventually(t, patience, "the cluster asks for a decision", func() error {
		d, err := others[0].database("main")
		if err != nil {
			return err
		}
		if !d.Election.WaitsForOperator() {
			return errors.New("no election waits for an operator")
		}
		for _, n := range others {
			if !strings.Contains(mustRun(t, url, "status"), n.name) {
				return fmt.Errorf("%s does not answer yet", n.name)
			}
		}
		return nil
	})
	if d, err := others[0].database("main"); err != nil || d.Epoch != epoch {
		t.Errorf("epoch %v (%v), want still %d", d, err, epoch)
	}
	t.Log(mustRun(t, url, "status"))
	t.Log(mustRun(t, url, "failover", "main", "--to", others[1].name))
	w.progress(20)
	if got := c.leader("main"); got != others[1] {
		t.Errorf("%s leads, want %s", got.name, others[1].name)
	}
	leader.start()
	c.whole("main")
	w.verify("main", c.nodes...)
	c.equal("main", 3)
}

// With two of three replicas gone for good, the last one goes on only when it
// is told that a loss is accepted.
func TestFailoverWithLossNeedsAWord(t *testing.T) {
	full(t)
	c := startCluster(t, 5)
	mustRun(t, c.nodes[0].url(), "db", "create", "shop", "--replicas", "3")
	leader := c.leader("shop")
	d, err := leader.database("shop")
	if err != nil {
		t.Fatal(err)
	}
	var followers []*node
	for _, r := range d.Replicas {
		if r.Node != d.Leader {
			followers = append(followers, c.byName(r.NodeName))
		}
	}
	if len(followers) != 2 {
		t.Fatalf("%d followers, want 2", len(followers))
	}
	exec1(t, leader.mustConnect("shop"), "create table t(id integer primary key)")
	exec1(t, leader.mustConnect("shop"), "insert into t values(1)")
	leader.kill()
	followers[0].kill()
	last := followers[1]
	eventually(t, patience, "too few replicas answer", func() error {
		d, err := last.database("shop")
		if err == nil && (d.Election == nil || d.Election.Have >= d.Election.Need) {
			err = errors.New("no election lacks answers")
		}
		return err
	})
	if out, errs, err := run("", last.url(), "failover", "shop"); err == nil {
		t.Errorf("went on without a word about the loss: %s", out)
	} else {
		t.Logf("without --accept-loss: %s", errs)
	}
	t.Log(mustRun(t, last.url(), "failover", "shop", "--accept-loss"))
	conn := last.mustConnect("shop")
	if got := value(t, conn, "select count(*) from t"); got != "1" {
		t.Errorf("%s rows at the last replica, want 1: it had them all", got)
	}
	if d, err := last.database("shop"); err != nil || !d.Lossy {
		t.Errorf("status does not say that writes may be lost: %v", err)
	}
}

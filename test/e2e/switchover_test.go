package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Leadership moves round all nodes under load, and no client at any node sees
// an error.
func TestSwitchoverUnderLoad(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	exec1(t, c.nodes[0].mustConnect("main"), ledgerTable)
	w := startWriters(t, "main", c.nodes...)
	w.progress(20)
	epoch, seq := uint64(0), uint64(0)
	for i := range 6 {
		target := c.others(c.leader("main"))[i%2]
		began := time.Now()
		told := mustRun(t, c.nodes[i%3].url(), "switchover", "main", "--to", target.name)
		t.Logf("%s (%v)", strings.TrimSpace(told), time.Since(began).Round(time.Millisecond))
		w.progress(5)
		if got := c.leader("main"); got != target {
			t.Errorf("%s leads, want %s", got.name, target.name)
		}
		d, err := target.database("main")
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range d.Replicas {
			var e, s uint64
			if fmt.Sscanf(r.Appended, "%d/%d", &e, &s); r.Node == d.Leader && (e <= epoch || s <= seq) {
				t.Errorf("position went from %d/%d to %s", epoch, seq, r.Appended)
			} else if r.Node == d.Leader {
				epoch, seq = e, s
			}
		}
	}
	w.verify("main", c.nodes...)
	c.equal("main", 3)
	for _, l := range w.ledgers {
		if len(l.errs) > 0 {
			t.Errorf("a client of %s saw %d errors: %v", l.node.name, len(l.errs), l.errs[0])
		}
		t.Logf("%s: %d acknowledged, longest %v", l.node.name, len(l.acked), l.longest.Round(time.Millisecond))
	}
}

// A node that is stopped in order hands its leadership over first: clients of
// the other nodes see no error, and its own are told that it stops.
func TestStopInOrderHandsOver(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	exec1(t, c.nodes[0].mustConnect("main"), ledgerTable)
	w := startWriters(t, "main", c.nodes...)
	w.progress(20)
	for range 2 {
		old := c.leader("main")
		old.stop(t)
		w.progress(5, c.others(old)...)
		old.start()
		c.whole("main")
		w.progress(5)
	}
	w.verify("main", c.nodes...)
	c.equal("main", 3)
	for _, l := range w.ledgers {
		t.Logf("%s: %d acknowledged, %d in doubt %v, longest %v", l.node.name, len(l.acked), len(l.doubtful), l.errs, l.longest.Round(time.Millisecond))
		for _, err := range l.errs {
			if s := sqlState(err); s != "57P01" && s != "57P03" && !strings.Contains(err.Error(), "EOF") {
				t.Errorf("a client of %s saw: %v", l.node.name, err)
			}
		}
	}
}

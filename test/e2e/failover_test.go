package e2e

import (
	"testing"
	"time"
)

// The short run: a cluster starts, its leader is killed, and what was
// acknowledged is there.
func TestLeaderKilledNothingLost(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	c := startCluster(t, 3)
	exec1(t, c.nodes[0].mustConnect("main"), ledgerTable)
	w := startWriters(t, "main", c.nodes...)
	w.progress(20)
	old := c.leader("main")
	began := time.Now()
	old.kill()
	w.progress(5, c.others(old)...)
	t.Logf("writes went on at all other nodes %v after the kill", time.Since(began).Round(10*time.Millisecond))
	w.progress(20, c.others(old)...)
	old.start()
	c.whole("main")
	w.progress(5)
	w.verify("main", c.nodes...)
	c.equal("main", 3)
	for _, l := range w.ledgers {
		if l.node != old && len(l.errs) > 0 {
			t.Errorf("a client of %s, which lived, saw %d errors: %v", l.node.name, len(l.errs), l.errs[0])
		}
		t.Logf("%s: %d acknowledged, %d in doubt, the longest took %v", l.node.name, len(l.acked), len(l.doubtful), l.longest.Round(time.Millisecond))
	}
}

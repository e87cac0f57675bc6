package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skeindb/skein/test/process"
)

// bench is pgbench at work.
type bench struct {
	t    *testing.T
	node *node
	out  *process.Output
	cmd  *exec.Cmd
	end  chan error
}

const benchScript = `\set k random(1, 500)
insert into counters(k, n) values(:k, 1) on conflict(k) do update set n = n + 1;
select n from counters where k = :k;
`

// startBench runs pgbench against one node. It ends by itself after so long.
func startBench(t *testing.T, n *node, clients int, lasting time.Duration) *bench {
	t.Helper()
	program := tool(t, "pgbench")
	script := filepath.Join(tempDir(t), "script.sql")
	if err := os.WriteFile(script, []byte(benchScript), 0o600); err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(n.pg)
	b := &bench{t: t, node: n, out: &process.Output{}, end: make(chan error, 1)}
	b.cmd = exec.Command(program, "-h", host, "-p", port, "-U", "bench", "-n", "-M", "prepared", "-c", fmt.Sprint(clients), "-j", "1",
		"-T", fmt.Sprint(int(lasting.Seconds())), "-P", "1", "--verbose-errors", "-f", script, "main")
	b.cmd.Env = process.Environment()
	b.cmd.Stdout, b.cmd.Stderr = b.out, b.out
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { b.end <- b.cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = b.cmd.Process.Kill() // It may have ended.
		<-ended
	})
	return b
}

// done waits for the end and wants no failed transaction. It returns how many
// were processed.
func (b *bench) done() int {
	b.t.Helper()
	select {
	case err := <-b.end:
		if err != nil {
			b.t.Fatalf("pgbench at %s: %v\n%s", b.node.name, err, b.out)
		}
	case <-time.After(3 * time.Minute):
		b.t.Fatalf("pgbench at %s does not end\n%s", b.node.name, b.out)
	}
	text := b.out.String()
	if !strings.Contains(text, "number of failed transactions: 0 (") || strings.Contains(text, "aborted") {
		b.t.Errorf("pgbench at %s saw failed transactions:\n%s", b.node.name, text)
	}
	processed := 0
	for line := range strings.Lines(text) {
		if n, _ := fmt.Sscanf(line, "number of transactions actually processed: %d", &processed); n == 1 {
			break
		}
	}
	if processed == 0 {
		b.t.Errorf("pgbench at %s did nothing:\n%s", b.node.name, text)
	}
	return processed
}

// Clients of nodes that live see a pause and no error while one leader after
// another is killed; what any node acknowledged, also those that were killed,
// is on every replica exactly once.
func TestLeadersKilledInARow(t *testing.T) {
	full(t)
	tool(t, "psql")
	tool(t, "pgbench")
	c := startCluster(t, 3)
	c.nodes[0].mustPsql("main", ledgerTable+"; create table counters(k integer primary key, n integer not null);")
	for round := range 3 {
		old := c.leader("main")
		w := startWritersAt(t, "main", int64(round)*10, c.nodes...)
		before := c.nodes[round%3].mustPsql("main", "select coalesce(sum(n), 0) from counters")
		var benches []*bench
		for _, n := range c.others(old) {
			benches = append(benches, startBench(t, n, 8, 6*time.Second))
		}
		w.progress(10)
		began := time.Now()
		old.kill()
		w.progress(3, c.others(old)...)
		t.Logf("round %d: %s killed, writes went on after %v", round, old.name, time.Since(began).Round(time.Millisecond))
		processed := 0
		for _, b := range benches {
			processed += b.done()
		}
		if next := c.leader("main"); next == old {
			t.Errorf("%s still leads", old.name)
		}
		old.start()
		c.whole("main")
		w.progress(3)
		w.verify("main", c.nodes...)
		for _, l := range w.ledgers {
			if l.node != old && len(l.errs) > 0 {
				t.Errorf("a client of %s, which lived, saw: %v", l.node.name, l.errs[0])
			}
			t.Logf("  %s: %d acknowledged, %d in doubt, longest %v", l.node.name, len(l.acked), len(l.doubtful), l.longest.Round(time.Millisecond))
		}
		c.equal("main", 3)
		for _, n := range c.nodes {
			got := n.mustPsql("main", "set skein.read = 'leader'; select sum(n) - "+before+" from counters")
			if got != fmt.Sprint(processed) {
				t.Errorf("%s counts %s transactions, pgbench %d", n.name, got, processed)
			}
		}
		t.Logf("  pgbench: %d transactions, none failed", processed)
	}
}

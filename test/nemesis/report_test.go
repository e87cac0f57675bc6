package nemesis

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/check"
	"github.com/skeindb/skein/internal/check/timeline"
)

// judge has the checkers look at a run and keeps it if anything is wrong.
func (s scenario) judge(t *testing.T, seed uint64, c *cluster, r *recorder, trouble error) {
	t.Helper()
	h := &r.history
	v := check.All(h, check.Options{Unfinished: trouble != nil})
	for _, n := range c.nodes {
		if said := n.output.String(); strings.Contains(said, "panic:") || strings.Contains(said, "fatal error:") {
			t.Errorf("%s has panicked", n.name)
		}
	}
	t.Logf("%v, %d faults, %d leaders: %s", r.now().Round(time.Second), count(h, "leader", false), count(h, "leader", true), firstLine(v.Report(h)))
	gap, at := longestGap(h)
	t.Logf("the longest time without an acknowledged write was %v, from %v", gap.Round(time.Millisecond), at.Round(time.Millisecond))
	if len(s.lanes) == 1 && gap > maxGap {
		t.Errorf("no write was acknowledged for %v: one fault at a time is no reason", gap)
	}
	for i := range h.Ops {
		if o := &h.Ops[i]; !s.loses && strings.Contains(o.Error, historyLost) {
			t.Errorf("a session is told of a loss in a database that loses nothing: op %s", o)
		}
	}
	if trouble != nil {
		t.Error(trouble)
	}
	if !v.Good() {
		t.Errorf("the checkers found:\n%s", v.Report(h))
	}
	if v.Counted.Writes < 50 {
		t.Errorf("only %d writes were done: this run says nothing", v.Counted.Writes)
	}
	if !t.Failed() && !*keepFlag {
		return
	}
	dir, err := s.keep(seed, c, h, v, trouble)
	if err != nil {
		t.Errorf("the report could not be written: %v", err)
	}
	t.Logf("kept in %s: open timeline.html", dir)
}

func count(h *check.History, kind string, equal bool) (n int) {
	for _, e := range h.Events {
		if (e.Kind == kind) == equal && e.Kind != "heal" && e.Kind != "trouble" {
			n++
		}
	}
	return n
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// longestGap is the longest time without any acknowledged write, and its begin.
func longestGap(h *check.History) (longest, at time.Duration) {
	var ends []time.Duration
	for i := range h.Ops {
		if o := &h.Ops[i]; o.Done() && o.Writes() {
			ends = append(ends, o.Return)
		}
	}
	slices.Sort(ends)
	last := time.Duration(0)
	for _, end := range ends {
		if end-last > longest {
			longest, at = end-last, last
		}
		last = end
	}
	return longest, at
}

// maxGap is for scenarios of one fault at a time, which leave a majority but for
// moments: writes go on.
const maxGap = 15 * time.Second

// keep writes a run's folder.
func (s scenario) keep(seed uint64, c *cluster, h *check.History, v *check.Verdict, trouble error) (string, error) {
	root := *dirFlag
	if root == "" {
		root = os.TempDir()
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(root, fmt.Sprintf("skein-nemesis-%s-seed-%d-", s.name, seed))
	if err != nil {
		return "", err
	}
	report := v.Report(h)
	if trouble != nil {
		report = trouble.Error() + "\n\n" + report
	}
	var page strings.Builder
	if err := timeline.Write(&page, h, v, fmt.Sprintf("Scenario %s, seed %d", s.name, seed)); err != nil {
		return dir, err
	}
	files := map[string]string{"report.txt": report, "history.txt": h.String(), "timeline.html": page.String()}
	for _, n := range c.nodes {
		files[n.name+".log"] = n.output.String()
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return dir, err
		}
	}
	return dir, nil
}

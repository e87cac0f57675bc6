package failover

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/skeindb/skein/internal/base"
)

// TestStories runs testdata/stories: each file is a transcript of one thing
// that happens to a cluster, told by the sim.
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata/stories", func(t *testing.T, path string) {
		var s *sim
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "cluster" {
				s = storyCluster(t, d)
				return s.take()
			}
			var b strings.Builder
			for _, line := range append([]string{d.Cmd + argsOf(d)}, strings.Split(strings.TrimSpace(d.Input), "\n")...) {
				if line != "" {
					b.WriteString(s.tellCommand(t, strings.Fields(line)))
				}
			}
			s.checkLogs()
			if s.broken != "" {
				t.Errorf("%s: %s", d.Pos, s.broken)
			}
			return s.take() + b.String()
		})
	})
}

func (s *sim) take() string {
	out := s.story.String()
	s.story.Reset()
	return out
}

func argsOf(d *datadriven.TestData) string {
	out := ""
	for _, a := range d.CmdArgs {
		out += " " + a.String()
	}
	return out
}

func storyCluster(t *testing.T, d *datadriven.TestData) *sim {
	p := base.DefaultPolicy()
	n, spare, sup := 3, 0, 1
	d.MaybeScanArgs(t, "replicas", &n)
	d.MaybeScanArgs(t, "spare", &spare)
	d.MaybeScanArgs(t, "supervisor", &sup)
	var level, degrade string
	d.MaybeScanArgs(t, "level", &level)
	d.MaybeScanArgs(t, "degrade", &degrade)
	if level != "" {
		p.Durability.Level = base.Level(level)
	}
	if degrade != "" {
		p.DegradeAfter = duration(t, degrade)
	}
	p.AllowLoss = d.HasArg("loss")
	s := newSim(n, spare, p)
	s.supervise(s.node(base.NodeID(sup)))
	s.sleep(500 * time.Millisecond)
	return s
}

func duration(t *testing.T, s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (s *sim) arg(t *testing.T, w string) *simNode {
	i, err := strconv.Atoi(w)
	if err != nil || i < 1 || i > len(s.nodes) {
		t.Fatalf("no node %q", w)
	}
	return s.node(base.NodeID(i))
}

// tellCommand runs one command of a story.
func (s *sim) tellCommand(t *testing.T, w []string) string {
	switch w[0] {
	case "run":
		s.sleep(duration(t, w[1]))
	case "write":
		return s.storyWrite(t, w[1:])
	case "kill":
		s.kill(s.arg(t, w[1]))
	case "unplug":
		s.kill(s.arg(t, w[1]))
		s.arg(t, w[1]).off = true
	case "start":
		s.boot(s.arg(t, w[1]))
	case "freeze":
		s.arg(t, w[1]).frozen = true
	case "thaw":
		s.thaw(s.arg(t, w[1]))
		s.check()
	case "lose-log":
		n := s.arg(t, w[1])
		s.undone++
		n.log, n.flushed, n.fresh = nil, 0, true
	case "cut":
		s.storyCut(t, w[1:])
	case "reject":
		s.rejects[s.arg(t, w[1]).id] = true
	case "heal":
		s.heal()
	case "supervise":
		s.supervise(s.arg(t, w[1]))
	case "retire":
		s.arg(t, w[1]).supports = nil
	case "show":
		return s.show()
	default:
		return s.tellAdmin(t, w)
	}
	return ""
}

// tellAdmin runs what an operator would.
func (s *sim) tellAdmin(t *testing.T, w []string) string {
	switch w[0] {
	case "switchover":
		s.operator(Switchover{1, s.arg(t, w[1]).id})
	case "force":
		s.operator(Force{1, s.arg(t, w[1]).id})
	case "alter":
		s.policy.Durability.Level = base.Level(w[1])
	case "replicas":
		r := s.record
		r.Replicas = nil
		for _, a := range w[1:] {
			r.Replicas = append(r.Replicas, s.arg(t, a).id)
		}
		s.setRecord(r)
	default:
		t.Fatalf("unknown command %v", w)
	}
	return ""
}

func (s *sim) operator(e Event) {
	for _, n := range s.nodes {
		if n.supports != nil && n.running() {
			s.step(n, e)
		}
	}
}

// storyCut is "A B" (both ways) or "A > B"; 0 is the control plane.
func (s *sim) storyCut(t *testing.T, w []string) {
	a, _ := strconv.Atoi(w[0])
	b, err := strconv.Atoi(w[len(w)-1])
	if err != nil {
		t.Fatal(err)
	}
	s.cuts[[2]base.NodeID{base.NodeID(a), base.NodeID(b)}] = true
	if len(w) == 2 {
		s.cuts[[2]base.NodeID{base.NodeID(b), base.NodeID(a)}] = true
	}
}

func (s *sim) heal() {
	clear(s.cuts)
	clear(s.rejects)
}

// storyWrite writes N times at the leader, or at node M ("write 3 at 2").
func (s *sim) storyWrite(t *testing.T, w []string) string {
	n, _ := strconv.Atoi(w[0])
	var at *simNode
	if len(w) == 3 {
		at = s.arg(t, w[2])
	} else if s.record.Epoch > 0 {
		at = s.node(s.record.Leader)
	}
	first := s.writes + 1
	for range n {
		if at == nil || !s.write(at) {
			return "write: node does not lead\n"
		}
	}
	s.sleep(100 * time.Millisecond)
	got := 0
	for id := first; id <= s.writes; id++ {
		if s.acked[id] {
			got++
		}
	}
	return fmt.Sprintf("writes %d to %d at node %d: %d acknowledged\n", first, s.writes, at.id, got)
}

// show tells what every node has.
func (s *sim) show() string {
	var b strings.Builder
	r := s.record
	fmt.Fprintf(&b, "epoch %d, leader %d, replicas %s; %d copies, support %d, of %s\n",
		r.Epoch, r.Leader, names(r.Replicas), r.Counting.Copies, r.Counting.Support, names(r.Counting.Replicas))
	for _, n := range s.nodes {
		what := "follows"
		switch {
		case !n.up:
			what = "is down"
		case n.frozen:
			what = "is frozen"
		case n.leader != nil && !n.leader.Stopped():
			st := n.leader.Status(s.local(n))
			what = "leads, lease is gone"
			if n.leader.LeaseLive(s.local(n)) {
				what = "leads"
			}
			if st.Degraded {
				what += ", degraded"
			}
		}
		fmt.Fprintf(&b, "node %d %s at %v: %s\n", n.id, what, n.history(len(n.log)).Last, s.showLog(n))
	}
	var pending []int
	for id := 1; id <= s.writes; id++ {
		if !s.acked[id] {
			pending = append(pending, id)
		}
	}
	if len(pending) > 0 {
		fmt.Fprintf(&b, "never acknowledged: %v\n", pending)
	}
	if len(s.lost) > 0 {
		fmt.Fprintf(&b, "lost, and said so: %v\n", slices.Sorted(maps.Keys(s.lost)))
	}
	for _, n := range s.nodes {
		if n.supports == nil {
			continue
		}
		if p, ok := n.supports.Progress(1); ok && p.State != "idle" {
			fmt.Fprintf(&b, "supervisor %d: %s (%s), %d answers of %d, missing %s\n", n.id, p.State, p.Reason, p.Have, p.Need, names(p.Missing))
		}
	}
	return b.String()
}

func (s *sim) showLog(n *simNode) string {
	var b strings.Builder
	for i, e := range n.log {
		if i > 0 && e.epoch != n.log[i-1].epoch {
			b.WriteString("| ")
		}
		if e.id == 0 {
			b.WriteString("- ")
		} else {
			fmt.Fprintf(&b, "%d ", e.id)
		}
	}
	return strings.TrimSpace(b.String())
}

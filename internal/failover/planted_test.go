package failover

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
)

// TestPlantedBugs: each way of breaking the rules is noticed by random
// schedules.
func TestPlantedBugs(t *testing.T) {
	for _, bug := range []string{
		"acknowledges before the quorum",
		"lease is not waited for",
		"lease is not looked at",
		"resumes its epoch after a restart",
		"degrades without asking",
		"an empty disk answers",
	} {
		t.Run(bug, func(t *testing.T) {
			for seed := range uint64(300) {
				if s := chaos(rand.New(rand.NewPCG(seed, 3)).IntN, 150, bug); s.broken != "" {
					t.Logf("run %d: %s", seed, s.broken)
					return
				}
			}
			t.Errorf("nothing was noticed")
		})
	}
}

// TestRareBugs: those that random schedules seldom meet break a promise in one
// schedule each, which without the bug breaks none.
func TestRareBugs(t *testing.T) {
	for _, c := range []struct {
		bug string
		run func(t *testing.T, s *sim)
	}{
		{"promises are not kept", promiseBroken},
		{"no opening entry", noOpening},
		{"elect ignores revision", revisionIgnored},
		{"answers before it flushes", answerUnflushed},
	} {
		t.Run(c.bug, func(t *testing.T) {
			for _, bug := range []string{"", c.bug} {
				p := base.DefaultPolicy()
				if c.bug == "elect ignores revision" {
					p.DegradeAfter = time.Second
				}
				s := newSim(3, 1, p)
				s.bug = bug
				s.supervise(s.node(4))
				s.sleep(500 * time.Millisecond)
				c.run(t, s)
				if (s.broken == "") != (bug == "") {
					t.Errorf("with bug %q: broken is %q\n%s", bug, s.broken, s.story.String())
				}
			}
		})
	}
}

// until runs until something holds.
func (s *sim) until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 400 {
		if f() || s.broken != "" {
			return
		}
		s.sleep(simTick)
	}
	t.Fatalf("never: %s\n%s", what, s.story.String())
}

func (s *sim) cutBoth(a, b base.NodeID) {
	s.cuts[[2]base.NodeID{a, b}], s.cuts[[2]base.NodeID{b, a}] = true, true
}

// promiseBroken: only the supervisor believes that node 1 is gone. Node 3 has
// promised, and acknowledges what node 1 writes nevertheless.
func promiseBroken(t *testing.T, s *sim) {
	s.rejects[1] = true
	s.cutBoth(1, 4)
	s.sleep(200 * time.Millisecond)
	s.cutBoth(1, 2)
	s.write(s.node(1))
	s.until(t, "an election", func() bool { return s.record.Epoch == 2 })
	s.sleep(time.Second)
}

// noOpening: node 1's write of epoch 1 is spread in epoch 3, and node 2, who
// led epoch 2 alone, has the later epoch in its log.
func noOpening(t *testing.T, s *sim) {
	s.write(s.node(1))
	s.sleep(200 * time.Millisecond)
	s.cutBoth(1, 2)
	s.cutBoth(1, 3)
	s.write(s.node(1))
	s.sleep(100 * time.Millisecond)
	s.kill(s.node(1))
	s.until(t, "epoch 2", func() bool { return s.record.Epoch == 2 })
	s.cutBoth(2, 3)
	s.until(t, "node 2 writes", func() bool { return s.write(s.node(2)) })
	s.sleep(100 * time.Millisecond)
	s.kill(s.node(2))
	s.heal()
	s.boot(s.node(1))
	s.until(t, "epoch 3", func() bool { return s.record.Epoch == 3 })
	s.sleep(time.Second)
	if s.record.Leader != 1 || len(s.ids(s.node(3))) != 2 {
		t.Fatalf("node 3 does not follow node 1:\n%s%s", s.story.String(), s.show())
	}
	s.kill(s.node(1))
	s.boot(s.node(2))
	s.until(t, "epoch 4", func() bool { return s.record.Epoch == 4 })
	s.sleep(time.Second)
}

// revisionIgnored: an election is decided, and before it is recorded the old
// leader degrades, by agreement, to itself alone.
func revisionIgnored(t *testing.T, s *sim) {
	s.rejects[1] = true
	s.cutBoth(0, 4)
	s.cutBoth(1, 4)
	s.cutBoth(1, 2)
	s.cutBoth(1, 3)
	s.until(t, "node 1 degrades", func() bool { return s.record.Counting.Copies == 1 })
	s.sleep(100 * time.Millisecond)
	s.write(s.node(1))
	s.sleep(100 * time.Millisecond)
	if len(s.acked) != 1 {
		t.Fatalf("node 1 does not acknowledge alone:\n%s", s.show())
	}
	delete(s.cuts, [2]base.NodeID{4, 0})
	s.sleep(3 * time.Second)
}

// answerUnflushed: node 2 answers with an entry that it loses in a crash
// before it leads.
func answerUnflushed(t *testing.T, s *sim) {
	s.flushes = func(n *simNode) bool { return n.id != 2 }
	s.node(2).dialed = s.now.Add(time.Minute) // it flushes when it dials, too
	s.write(s.node(1))
	s.sleep(100 * time.Millisecond)
	s.kill(s.node(1))
	s.until(t, "an election", func() bool {
		s.run(10 * time.Millisecond)
		return s.record.Epoch == 2
	})
	s.flushes = func(*simNode) bool { return true }
	s.kill(s.node(2))
	s.node(2).dialed = s.now
	s.check()
	s.boot(s.node(2))
	s.sleep(2 * time.Second)
}

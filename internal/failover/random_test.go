package failover

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/leadership"
)

// chance is where a random schedule comes from: rapid, which shrinks, or a
// plain generator, which is fast.
type chance func(n int) int

// chaos runs a random schedule and returns the promise that it broke, if any.
func chaos(pick chance, steps int, bug string) *sim {
	p := base.DefaultPolicy()
	p.Durability.Level = []base.Level{base.Quorum, base.All, base.One, base.Async}[min(3, pick(10)/2)]
	p.AllowLoss = pick(3) == 0
	if pick(2) == 0 {
		p.DegradeAfter = time.Second
	}
	s := newSim(2+pick(4), pick(3), p)
	s.bug = bug
	s.delay = func() time.Duration { return time.Duration(pick(20)*pick(20)) * time.Millisecond }
	s.flushes = func(*simNode) bool { return pick(3) > 0 }
	for _, n := range s.nodes {
		n.rate = 1 + float64(pick(5)-2)/100
		n.follower = leadership.NewFollower(n.vow, s.lease, s.local(n))
	}
	s.supervise(s.nodes[pick(len(s.nodes))])
	s.sleep(600 * time.Millisecond)
	for range steps {
		s.chaosStep(pick)
		s.check()
		if s.broken != "" {
			break
		}
	}
	s.checkLogs()
	return s
}

func (s *sim) chaosStep(pick chance) {
	n := s.nodes[pick(len(s.nodes))]
	switch a := pick(100); {
	case a < 25:
		s.sleep(time.Duration(1+pick(8)+pick(2)*pick(60)) * 50 * time.Millisecond)
	case a < 45:
		s.chaosWrite(pick, n)
	case a < 51:
		s.chaosProcess(n)
	case a < 55:
		s.chaosFreeze(n)
	case a < 64:
		s.chaosCut(pick, n)
	case a < 82:
		s.chaosRepair(pick)
	case a < 87:
		s.chaosSupervisor(n)
	case a < 90:
		s.operator(Switchover{1, n.id})
	default:
		s.chaosAdmin(pick, n, a)
	}
}

// chaosCut cuts one way, both ways, or all ways of a node, often the leader.
func (s *sim) chaosCut(pick chance, n *simNode) {
	if s.record.Epoch > 0 && pick(2) == 0 {
		n = s.node(s.record.Leader)
	}
	both, all, other := pick(2) == 0, pick(2) == 0, base.NodeID(pick(len(s.nodes)+1))
	s.rejects[n.id] = pick(2) == 0
	for i := range base.NodeID(len(s.nodes) + 1) {
		if i == n.id || !all && i != other {
			continue
		}
		s.cuts[[2]base.NodeID{i, n.id}] = true
		if both {
			s.cuts[[2]base.NodeID{n.id, i}] = true
		}
	}
	s.tell("node %d is cut off: both ways %v, from all %v, from %d, rejecting %v", n.id, both, all, other, s.rejects[n.id])
}

// chaosRepair makes one thing whole, if it is broken.
func (s *sim) chaosRepair(pick chance) {
	if pick(3) == 0 {
		s.heal()
		return
	}
	for i, at := 0, pick(len(s.nodes)); i < len(s.nodes); i++ {
		switch n := s.nodes[(at+i)%len(s.nodes)]; {
		case !n.up:
			s.chaosProcess(n)
			return
		case n.frozen:
			s.chaosFreeze(n)
			return
		}
	}
}

func (s *sim) chaosWrite(pick chance, n *simNode) {
	for _, m := range s.nodes {
		if m.leader != nil && pick(3) > 0 {
			n = m
		}
	}
	for range 1 + pick(3) {
		s.write(n)
	}
}

func (s *sim) chaosProcess(n *simNode) {
	switch {
	case n.up:
		s.tell("node %d is killed", n.id)
		s.kill(n)
	default:
		s.tell("node %d starts", n.id)
		s.boot(n)
	}
}

func (s *sim) chaosFreeze(n *simNode) {
	switch {
	case n.frozen:
		s.tell("node %d wakes", n.id)
		s.thaw(n)
	case n.up:
		s.tell("node %d freezes", n.id)
		n.frozen = true
	}
}

// chaosSupervisor moves or adds a supervisor.
func (s *sim) chaosSupervisor(n *simNode) {
	if !n.running() {
		return
	}
	count := 0
	for _, m := range s.nodes {
		if m.supports != nil {
			count++
		}
	}
	if n.supports != nil && count > 1 {
		n.supports = nil
	} else if n.supports == nil && count < 2 {
		s.supervise(n)
	}
}

func (s *sim) chaosAdmin(pick chance, n *simNode, a int) {
	switch {
	case a < 91:
		s.policy.Durability.Level = []base.Level{base.Quorum, base.All, base.One}[pick(3)]
	case a < 93 && s.record.Epoch > 0:
		r := s.record
		if slices.Contains(r.Replicas, n.id) && len(r.Replicas) > 1 {
			r.Replicas = slices.DeleteFunc(slices.Clone(r.Replicas), func(id base.NodeID) bool { return id == n.id })
		} else if !slices.Contains(r.Replicas, n.id) {
			r.Replicas = append(slices.Clone(r.Replicas), n.id)
		}
		s.tell("replicas are to be %s", names(r.Replicas))
		s.setRecord(r)
	case a < 95:
		s.chaosLoseLog(n)
	case a < 97: // all is well for a while
		s.repairAll()
		s.sleep(3 * time.Second)
	default:
		s.chaosSpurious(pick, n)
	}
}

func (s *sim) repairAll() {
	s.heal()
	for _, m := range s.nodes {
		if !m.up {
			s.boot(m)
		}
		if m.frozen {
			s.thaw(m)
		}
	}
}

// recovers repairs everything and says whether the database takes writes again.
func (s *sim) recovers() bool {
	s.repairAll()
	for _, m := range s.nodes {
		m.supports = nil
	}
	s.supervise(s.nodes[0])
	for range 30 {
		s.sleep(time.Second)
		if l := s.record.Leader; l != 0 && s.write(s.node(l)) {
			id := s.writes
			s.sleep(time.Second)
			if s.acked[id] {
				return true
			}
		}
	}
	return false
}

// chaosLoseLog empties a dead node's log, where one loss must be survivable.
func (s *sim) chaosLoseLog(n *simNode) {
	for _, m := range s.nodes {
		if m.fresh {
			return
		}
	}
	if n.up || s.record.Counting.Copies < 2 || s.record.Counting.Revision == 0 {
		return
	}
	s.tell("node %d loses its log", n.id)
	s.undone++
	n.log, n.flushed, n.fresh = nil, 0, s.bug != "an empty disk answers"
}

// chaosSpurious tells a supervisor something that is not true.
func (s *sim) chaosSpurious(pick chance, n *simNode) {
	r := []Reach{Refused, Lost, Reached}[pick(3)]
	for _, m := range s.nodes {
		if m.supports != nil && m.running() && m != n {
			m.reached[n.id] = r
			s.step(m, NodeReach{n.id, r})
		}
	}
}

// TestChaos: whatever happens, one leader an epoch, one live lease, and
// nothing that was acknowledged is lost but by an election that says so.
func TestChaos(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gen := rapid.Uint64()
		// One draw seeds a stretch of the schedule: fast, and still shrinks in
		// the number of steps.
		rng := rand.New(rand.NewPCG(gen.Draw(t, "seed"), 1))
		steps := rapid.IntRange(1, 120).Draw(t, "steps")
		s := chaos(rng.IntN, steps, "")
		if s.broken != "" {
			t.Fatalf("%s\n%s", s.broken, s.story.String())
		}
	})
}

// TestChaosManySeeds runs more of the same, and says that it did something.
func TestChaosManySeeds(t *testing.T) {
	runs := 200
	if testing.Short() {
		runs = 50
	}
	var sum simStats
	for seed := range uint64(runs) {
		s := chaos(rand.New(rand.NewPCG(seed, 2)).IntN, 150, "")
		if s.broken != "" {
			t.Fatalf("seed %d: %s\n%s", seed, s.broken, s.story.String())
		}
		if !s.recovers() {
			t.Fatalf("seed %d: no write is taken when all is whole again: %s\n%s%s", seed, s.broken, s.story.String(), s.show())
		}
		sum.elections += s.stats.elections
		sum.lossy += s.stats.lossy
		sum.acked += s.stats.acked
		sum.switchovers += s.stats.switchovers
		sum.countings += s.stats.countings
		sum.checks += s.stats.checks
	}
	t.Logf("%d runs: %+v", runs, sum)
	if sum.elections < 4*runs || sum.acked < 10*runs || sum.countings < runs/4 || sum.lossy < runs/50 || sum.switchovers < runs/4 {
		t.Errorf("too little happened in %d runs: %+v", runs, sum)
	}
}

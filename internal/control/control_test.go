package control_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/control"
)

func TestClustersOfEachSizeAgree(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4, 5, 6} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.found(n)
				for _, m := range c.running() {
					c.create(m, fmt.Sprintf("by%d", m.id))
					if _, ok := m.State().DatabaseByName(fmt.Sprintf("by%d", m.id)); !ok {
						t.Errorf("node %d proposed and does not see the result", m.id)
					}
				}
				c.sameCatalog()
				s := c.leader().Status()
				if len(s.Voters) != wantVoters(n) || len(s.Voters)+len(s.Learners) != n || len(s.Followers) != n-1 {
					t.Errorf("group of %d nodes: %+v", n, s)
				}
			})
		})
	}
}

func TestKilledLeaderIsReplacedWithoutAHint(t *testing.T) {
	for _, n := range []int{3, 5} {
		for range 10 {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.found(n)
				old := c.leader()
				c.kill(old.id)
				took := c.eventually(600*time.Millisecond, func() error {
					if l := agreed(c.running()); l == 0 || l == old.id {
						return errNoLeader
					}
					return nil
				})
				t.Logf("%d nodes: %v", n, took)
			})
		}
	}
}

func TestSuspectedLeaderIsReplacedAtOnce(t *testing.T) {
	for _, n := range []int{3, 5} {
		for range 10 {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.found(n)
				old := c.leader()
				c.kill(old.id)
				for i, m := range c.running() {
					// The others learn of it at slightly different times.
					time.AfterFunc(time.Duration(len(c.nodes)-i)*2*time.Millisecond, func() { m.Suspect(old.id) })
				}
				took := c.eventually(80*time.Millisecond, func() error {
					if l := agreed(c.running()); l == 0 || l == old.id {
						return errNoLeader
					}
					return nil
				})
				t.Logf("%d nodes: %v", n, took)
			})
		}
	}
}

func TestFalseSuspicionLeavesTheLeader(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.found(3)
		leader, term := c.leader(), c.leader().Term()
		for _, m := range c.running() {
			if m != leader {
				m.Suspect(leader.id)
				break
			}
		}
		time.Sleep(2 * time.Second)
		if now := c.leader(); now != leader || now.Term() != term {
			t.Errorf("leader %d of term %d became %d of %d", leader.id, term, now.id, now.Term())
		}
	})
}

func TestElectionsSucceedOverLongLinks(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.tune = func(o *control.Options) { o.ElectionTicks, o.HeartbeatTicks = 50, 10 }
		c.found(3)
		c.net.Weather(100*time.Millisecond, 50*time.Millisecond, 0)
		old := c.leader()
		c.kill(old.id)
		for _, m := range c.running() {
			m.Suspect(old.id)
		}
		c.eventually(5*time.Second, func() error {
			if l := agreed(c.running()); l == 0 || l == old.id {
				return errNoLeader
			}
			return nil
		})
	})
}

func TestTwoNodesSayWhyThereIsNoLeader(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.found(2)
		c.kill(2)
		c.nodes[1].Suspect(2)
		c.eventually(2*time.Second, func() error {
			if c.nodes[1].Leader() != 0 {
				return fmt.Errorf("node 1 still believes in a leader")
			}
			return nil
		})
		_, err := c.nodes[1].propose(time.Second, catalog.SetSetting{Setting: "a", Value: "b"})
		e := base.AsError(err)
		if e.Kind != base.KindNoLeader || e.Outcome != base.NotDone {
			t.Errorf("kind %q, outcome %q: %v", e.Kind, e.Outcome, err)
		}
		for _, want := range []string{"2 of its 2 voters", "n2", "both must run"} {
			if !strings.Contains(e.Message, want) {
				t.Errorf("message %q does not say %q", e.Message, want)
			}
		}
		if err := c.nodes[1].ReadIndex(withLimit(t, time.Second)); base.KindOf(err) != base.KindNoLeader {
			t.Errorf("read: %v", err)
		}
		c.start(2)
		c.create(c.nodes[1], "again")
	})
}

func withLimit(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestIsolatedLeaderNeitherDecidesNorReads(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.found(3)
		old := c.leader()
		c.net.Isolate(old.id)
		_, err := old.propose(100*time.Millisecond, catalog.SetSetting{Setting: "cut", Value: "off"})
		if e := base.AsError(err); e.Kind != base.KindTimeout || e.Outcome != base.Indeterminate {
			t.Errorf("proposal of an isolated leader: kind %q, outcome %q: %v", e.Kind, e.Outcome, err)
		}
		if err := old.ReadIndex(withLimit(t, 100*time.Millisecond)); err == nil {
			t.Error("an isolated leader confirmed a read")
		}
		time.Sleep(time.Second)
		if old.IsLeader() {
			t.Error("an isolated leader still believes in itself")
		}
		var other *member
		for _, m := range c.running() {
			if m != old {
				other = m
			}
		}
		c.create(other, "meanwhile")
		c.net.Heal()
		if err := old.ReadIndex(withLimit(t, 2*time.Second)); err != nil {
			t.Fatalf("read after healing: %v", err)
		}
		if _, ok := old.State().DatabaseByName("meanwhile"); !ok {
			t.Error("a confirmed read misses what was decided before it")
		}
		c.sameCatalog()
		if old.State().Setting("cut") != "" {
			t.Error("a minority's proposal was decided")
		}
	})
}

func TestReadIndexSeesWhatWasDecidedElsewhere(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.found(4)
		c.net.Weather(time.Millisecond, 20*time.Millisecond, 0.2)
		for i := range 40 {
			name := fmt.Sprintf("d%d", i)
			c.create(c.nodes[base.NodeID(i%4+1)], name)
			reader := c.nodes[base.NodeID((i+1)%4+1)]
			if err := reader.ReadIndex(withLimit(t, 5*time.Second)); err != nil {
				t.Fatalf("read: %v", err)
			}
			if _, ok := reader.State().DatabaseByName(name); !ok {
				t.Errorf("node %d misses %s after ReadIndex", reader.id, name)
			}
		}
	})
}

// TestProposalsTakeEffectOnce retries proposals while leaders come and go and
// a fifth of the messages is lost. Each command adds a database: a second
// application would be refused, or would count.
func TestProposalsTakeEffectOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.found(3)
		c.net.Weather(time.Millisecond, 10*time.Millisecond, 0.2)
		stop := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				case <-time.After(700 * time.Millisecond):
				}
				if l := c.nodes[1].Leader(); l != 0 {
					c.net.Isolate(l)
					time.Sleep(400 * time.Millisecond)
					c.net.Heal()
				}
			}
		}()
		results := make(chan error)
		const proposers, each = 6, 10
		for p := range proposers {
			m := c.nodes[base.NodeID(p%3+1)]
			go func() { results <- createMany(m, p, each) }()
		}
		for range proposers {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		close(stop)
		<-done
		c.net.Weather(0, 0, 0)
		c.sameCatalog()
		s := c.nodes[1].State()
		if n := len(s.Databases()); n != proposers*each || int(s.NextDatabase()) != n+1 {
			t.Errorf("%d databases, next id %d; want %d", n, s.NextDatabase(), proposers*each)
		}
	})
}

func createMany(m *member, proposer, n int) error {
	for i := range n {
		a := catalog.CreateDatabase{Name: fmt.Sprintf("p%d_%d", proposer, i), Policy: base.DefaultPolicy()}
		r, err := m.propose(time.Minute, a)
		if err != nil {
			return fmt.Errorf("%s on node %d: %w", a.Name, m.id, err)
		}
		if db, ok := m.State().Database(r.Database); !ok || db.Name != a.Name {
			return fmt.Errorf("%s on node %d: result says database %d", a.Name, m.id, r.Database)
		}
	}
	return nil
}

func TestTheSameCommandIsAnsweredAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.found(3)
		cmd := catalog.Command{ID: catalog.ID{1}, Action: catalog.CreateDatabase{Name: "once", Policy: base.DefaultPolicy()}}
		first, err := c.nodes[1].Propose(t.Context(), cmd)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range c.running() {
			again, err := m.Propose(t.Context(), cmd)
			if err != nil || again != first {
				t.Errorf("node %d: %+v, %v; want %+v", m.id, again, err, first)
			}
		}
	})
}

func TestRefusalsAreErrorsOfTheirKind(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.found(3)
		c.create(c.nodes[1], "app")
		for _, m := range c.running() {
			_, err := m.propose(time.Second, catalog.CreateDatabase{Name: "app", Policy: base.DefaultPolicy()})
			if e := base.AsError(err); e.Kind != base.KindExists || e.Outcome != base.NotDone {
				t.Errorf("node %d: %v", m.id, err)
			}
		}
	})
}

func TestIdleNodeSaysSo(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.start(1)
		if _, err := m.propose(time.Second, catalog.SetSetting{Setting: "a", Value: "b"}); base.KindOf(err) != base.KindUnavailable {
			t.Errorf("propose: %v", err)
		}
		if err := m.ReadIndex(withLimit(t, time.Second)); base.KindOf(err) != base.KindUnavailable {
			t.Errorf("read: %v", err)
		}
		if s := m.Status(); s.Role != control.RoleIdle {
			t.Errorf("role %q", s.Role)
		}
	})
}

// slowStore takes its time to write.
type slowStore struct{ control.Store }

func (s slowStore) Save(b control.Batch) error {
	time.Sleep(slowSave)
	return s.Store.Save(b)
}

const slowSave = 10 * time.Millisecond

// A leader and its followers write an entry at the same time.
func TestADecisionTakesOneDisksTime(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.tune = func(o *control.Options) { o.Store = slowStore{o.Store} }
		c.found(3)
		began := time.Now()
		if _, err := c.leader().Propose(t.Context(), catalog.Command{Action: catalog.SetSetting{Setting: "a", Value: "b"}}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took >= 2*slowSave {
			t.Errorf("it took %v, and one disk takes %v", took, slowSave)
		}
	})
}

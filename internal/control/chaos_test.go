package control_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/control"
)

// chaos is a cluster to which random things happen, and what it has promised.
type chaos struct {
	*cluster
	rand *rand.Rand

	mu      sync.Mutex             // guards the fields below
	leaders map[uint64]base.NodeID // of each term
	done    map[string]base.DatabaseID
	notDone []string
	work    sync.WaitGroup
}

// TestChaos kills, restarts, isolates and suspects nodes of five at random
// while databases are created, then lets everything heal. What was confirmed
// is there, once; what was denied is not; no term had two leaders.
func TestChaos(t *testing.T) {
	confirmed := 0 // A single run may have no majority up most of the time.
	defer func() {
		if confirmed == 0 {
			t.Error("nothing was confirmed")
		}
	}()
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.tune = func(o *control.Options) { o.SnapshotEvery, o.KeepEntries = 10, 10 }
				x := &chaos{cluster: c, rand: rand.New(rand.NewPCG(seed, 1)), leaders: make(map[uint64]base.NodeID), done: make(map[string]base.DatabaseID)}
				c.net.Filter(x.observe)
				c.found(5)
				for i := range 120 {
					x.step(i)
					time.Sleep(time.Duration(x.rand.IntN(200)) * time.Millisecond)
				}
				x.heal()
				x.check()
				confirmed += len(x.done)
			})
		})
	}
}

// observe sees every message; only a leader appends and beats.
func (x *chaos) observe(from, _ base.NodeID, msg []byte) bool {
	m := control.OpenRaft(msg)
	if t := m.GetType(); m == nil || (t != raftpb.MsgApp && t != raftpb.MsgHeartbeat) {
		return true
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if old, ok := x.leaders[m.GetTerm()]; ok && old != from {
		x.t.Errorf("term %d has leaders %d and %d", m.GetTerm(), old, from)
	}
	x.leaders[m.GetTerm()] = from
	return true
}

func (x *chaos) step(i int) {
	id := base.NodeID(x.rand.IntN(5) + 1)
	m := x.nodes[id]
	switch x.rand.IntN(8) {
	case 0:
		if m.Control == nil {
			x.start(id)
		} else {
			x.kill(id)
		}
	case 1:
		x.net.Isolate(id, base.NodeID(x.rand.IntN(5)+1))
	case 2:
		x.net.Heal()
	case 3:
		for _, other := range x.running() {
			other.Suspect(id)
		}
	case 4:
		x.net.Weather(time.Millisecond, time.Duration(x.rand.IntN(30)+1)*time.Millisecond, x.rand.Float64()*0.3)
	default:
		if m.Control != nil {
			ctl, name := m.Control, fmt.Sprintf("d%d", i)
			x.work.Go(func() { x.create(ctl, name) })
		}
	}
}

func (x *chaos) create(c *control.Control, name string) {
	m := &member{Control: c}
	r, err := m.propose(2*time.Second, catalog.CreateDatabase{Name: name, Policy: base.DefaultPolicy()})
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case err == nil:
		x.done[name] = r.Database
	case base.AsError(err).Outcome == base.NotDone:
		x.notDone = append(x.notDone, name)
	}
}

func (x *chaos) heal() {
	x.work.Wait()
	x.net.Heal()
	x.net.Weather(time.Millisecond, 0, 0)
	for id := range base.NodeID(5) {
		if x.nodes[id+1].Control == nil {
			x.start(id + 1)
		}
	}
	x.cluster.create(x.leader(), "afterwards")
	x.sameCatalog()
}

func (x *chaos) check() {
	s := x.nodes[1].State()
	for name, id := range x.done {
		if db, ok := s.DatabaseByName(name); !ok || db.ID != id {
			x.t.Errorf("%s was confirmed as %d and is %d (%v)", name, id, db.ID, ok)
		}
	}
	for _, name := range x.notDone {
		if _, ok := s.DatabaseByName(name); ok {
			x.t.Errorf("%s was denied and exists", name)
		}
	}
	if err := s.Check(); err != nil {
		x.t.Error(err)
	}
	x.t.Logf("%d confirmed, %d denied, %d terms", len(x.done), len(x.notDone), len(x.leaders))
}

func TestLargeCatalogsReachAFollowerThatWasAway(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.tune = func(o *control.Options) { o.SnapshotEvery, o.KeepEntries = 50, 5 }
		c.found(3)
		c.kill(3)
		noise := rand.New(rand.NewPCG(1, 1))
		for i := range catalog.MaxSettings {
			var b strings.Builder
			for b.Len() < 4090 { // Nothing that could be compressed.
				b.WriteRune(rune(noise.IntN(90) + 0x23))
			}
			if _, err := c.nodes[1].propose(time.Second, catalog.SetSetting{Setting: fmt.Sprint(i), Value: b.String()}); err != nil {
				t.Fatal(err)
			}
		}
		c.start(3)
		c.sameCatalog()
	})
}

func TestCloseAndRunInEveryOrder(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		o := control.Options{Self: 1, Messenger: c.net.Messenger(1), Store: control.NewMemoryStore()}
		never, err := control.Open(c.env, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := never.Close(); err != nil {
			t.Error(err)
		}
		if err := never.Run(t.Context()); err == nil {
			t.Error("Run after Close")
		}
		m := c.start(2)
		synctest.Wait() // Run is running now.
		if err := m.Run(t.Context()); base.KindOf(err) != base.KindInvalid {
			t.Errorf("a second Run: %v", err)
		}
		m.stop()
		m.ran.Wait()
		if err := m.ReadIndex(withLimit(t, time.Second)); base.KindOf(err) != base.KindShutdown {
			t.Errorf("read after Run: %v", err)
		}
		if s := m.Status(); s.Role != control.RoleIdle {
			t.Errorf("status after Run: %+v", s)
		}
		for range 2 {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	good := control.Options{Self: 1, Messenger: nowhere{}, Store: control.NewMemoryStore()}
	for name, spoil := range map[string]func(*control.Options){
		"no id":           func(o *control.Options) { o.Self = 0 },
		"reserved id":     func(o *control.Options) { o.Self = ^base.NodeID(0) },
		"no messenger":    func(o *control.Options) { o.Messenger = nil },
		"no place":        func(o *control.Options) { o.Store = nil },
		"hasty elections": func(o *control.Options) { o.ElectionTicks = 2 },
		"no voters":       func(o *control.Options) { o.MaxVoters = -1 },
	} {
		o := good
		spoil(&o)
		if _, err := control.Open(quietEnv(), o); base.KindOf(err) != base.KindInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

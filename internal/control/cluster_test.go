package control_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/control"
	"github.com/skeindb/skein/internal/control/controltest"
	"github.com/skeindb/skein/internal/env"
)

const clusterID = 0x5ce1

// cluster is some control planes on one network, in a bubble.
type cluster struct {
	t     *testing.T
	env   *env.Env
	net   *controltest.Network
	nodes map[base.NodeID]*member
	tune  func(*control.Options)
}

// member is one node: its store outlives its process.
type member struct {
	*control.Control
	id    base.NodeID
	store control.Store
	stop  context.CancelFunc
	ran   sync.WaitGroup
	err   error // of Run
}

// inBubble runs a test in virtual time on an empty cluster.
func inBubble(t *testing.T, f func(t *testing.T, c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.close()
		f(t, c)
	})
}

func newCluster(t *testing.T) *cluster {
	out := io.Discard
	if os.Getenv("CONTROL_TEST_LOG") != "" {
		out = os.Stderr
	}
	e := env.Real(slog.New(slog.NewTextHandler(out, nil)))
	c := &cluster{t: t, env: e, net: controltest.New(e.Clock, 1), nodes: make(map[base.NodeID]*member)}
	c.net.Weather(500*time.Microsecond, 500*time.Microsecond, 0)
	return c
}

func (c *cluster) close() {
	for _, m := range c.nodes {
		c.kill(m.id)
	}
	time.Sleep(time.Second) // Let what is on the way arrive nowhere.
}

func describe(id base.NodeID) catalog.Node {
	return catalog.Node{ID: id, Name: fmt.Sprintf("n%d", id), PeerAddress: fmt.Sprintf("n%d:7000", id)}
}

// start starts a node, with its old store if it had one.
func (c *cluster) start(id base.NodeID) *member {
	c.t.Helper()
	m := c.nodes[id]
	if m == nil {
		m = &member{id: id, store: control.NewMemoryStore()}
		c.nodes[id] = m
	}
	o := control.Options{Self: id, Messenger: c.net.Messenger(id), Store: m.store}
	if c.tune != nil {
		c.tune(&o)
	}
	ctl, err := control.Open(c.env, o)
	if err != nil {
		c.t.Fatalf("open node %d: %v", id, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.Control, m.stop = ctl, cancel
	m.ran.Go(func() { m.err = ctl.Run(ctx) })
	c.net.Attach(id, ctl)
	return m
}

// kill stops a node's process; its store stays.
func (c *cluster) kill(id base.NodeID) {
	m := c.nodes[id]
	c.net.Detach(id)
	if m.Control == nil {
		return
	}
	m.stop()
	m.ran.Wait()
	if err := m.Close(); err != nil {
		c.t.Errorf("close node %d: %v", id, err)
	}
	m.Control = nil
}

// found starts nodes 1 to n as one cluster and waits until all are active.
func (c *cluster) found(n int) {
	c.t.Helper()
	first := c.start(1)
	if err := first.Bootstrap(c.t.Context(), clusterID, describe(1)); err != nil {
		c.t.Fatalf("bootstrap: %v", err)
	}
	for i := 2; i <= n; i++ {
		c.join(base.NodeID(i))
	}
	c.settle(n, wantVoters(n))
	c.leader()
}

func wantVoters(n int) int { return []int{0, 1, 2, 3, 3, 5, 5, 5}[n] }

func (c *cluster) join(id base.NodeID) *member {
	c.t.Helper()
	m := c.start(id)
	if err := m.Join(c.t.Context(), clusterID, m.Via(1), describe(id)); err != nil {
		c.t.Fatalf("join node %d: %v", id, err)
	}
	return m
}

// settle waits until every running node sees n active nodes and v voters.
func (c *cluster) settle(n, v int) {
	c.t.Helper()
	for _, m := range c.running() {
		c.eventually(5*time.Second, func() error {
			s := m.State()
			if a := count(s, catalog.NodeIsActive); a != n || len(s.Voters()) != v {
				return fmt.Errorf("node %d sees %d active nodes and voters %v; want %d and %d", m.id, a, s.Voters(), n, v)
			}
			return nil
		})
	}
}

func count(s *catalog.State, st catalog.NodeState) int {
	n := 0
	for _, node := range s.Nodes() {
		if node.State == st {
			n++
		}
	}
	return n
}

func (c *cluster) running() []*member {
	var out []*member
	for _, m := range c.nodes {
		if m.Control != nil {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b *member) int { return int(a.id) - int(b.id) })
	return out
}

// eventually waits in virtual time until ok returns nil, looking every
// millisecond, and returns how long that took.
func (c *cluster) eventually(limit time.Duration, ok func() error) time.Duration {
	c.t.Helper()
	begin := time.Now()
	for {
		err := ok()
		if err == nil {
			return time.Since(begin)
		}
		if time.Since(begin) > limit {
			c.t.Fatalf("not within %v: %v", limit, err)
		}
		time.Sleep(time.Millisecond)
	}
}

var errNoLeader = errors.New("no leader that all agree on")

// agreed returns the leader that the given nodes agree on, or 0.
func agreed(ms []*member) base.NodeID {
	leader := ms[0].Leader()
	for _, m := range ms {
		if m.Leader() != leader {
			return 0
		}
	}
	return leader
}

// leader waits for a leader that all running nodes agree on.
func (c *cluster) leader() *member {
	c.t.Helper()
	c.eventually(5*time.Second, func() error {
		if l := agreed(c.running()); l == 0 || c.nodes[l].Control == nil {
			return errNoLeader
		}
		return nil
	})
	return c.nodes[agreed(c.running())]
}

// propose has a node propose, within a time.
func (m *member) propose(limit time.Duration, a catalog.Action) (catalog.Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return m.Propose(ctx, catalog.Command{Action: a})
}

func (c *cluster) create(m *member, name string) {
	c.t.Helper()
	if _, err := m.propose(5*time.Second, catalog.CreateDatabase{Name: name, Policy: base.DefaultPolicy()}); err != nil {
		c.t.Fatalf("create database %s on node %d: %v", name, m.id, err)
	}
}

// sameCatalog waits until all running nodes have equal catalogs.
func (c *cluster) sameCatalog() {
	c.t.Helper()
	c.eventually(5*time.Second, func() error {
		ms := c.running()
		for _, m := range ms[1:] {
			if string(m.State().Encode()) != string(ms[0].State().Encode()) {
				return fmt.Errorf("catalogs of nodes %d and %d differ", ms[0].id, m.id)
			}
		}
		return nil
	})
}

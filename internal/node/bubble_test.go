package node_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/node"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/transport/mem"
)

// bubble is whole nodes on a network in memory, in virtual time.
type bubble struct {
	t     *testing.T
	net   *mem.Network
	root  string
	nodes map[base.NodeID]*node.Node
	hosts *hosts // outside of the cluster
	// messages counts all that have arrived.
	messages atomic.Int64
}

// inBubble runs a test on nodes 1 to n, which have all joined.
func inBubble(t *testing.T, n int, f func(t *testing.T, b *bubble)) {
	t.Helper()
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{t: t, root: root, nodes: make(map[base.NodeID]*node.Node), hosts: newHosts()}
		b.net = mem.NewNetwork(env.Real(logger()), mem.Options{Observe: func(base.NodeID, base.NodeID, string, []byte) { b.messages.Add(1) }})
		defer b.close()
		for id := range base.NodeID(n) {
			b.open(id + 1)
		}
		b.eventually("all nodes are active", b.joined)
		f(t, b)
	})
}

func (b *bubble) close() {
	for id := range b.nodes {
		b.stop(id)
	}
}

// joined says whether every node that runs knows that all of them are members,
// and that as many vote as should.
func (b *bubble) joined() bool {
	voters := min(len(b.nodes), 5)
	if voters > 2 && voters%2 == 0 {
		voters--
	}
	for _, n := range b.nodes {
		if len(n.Control().State().Voters()) != voters {
			return false
		}
		for id := range b.nodes {
			if m, _ := n.Control().State().Node(id); m.State != catalog.NodeIsActive {
				return false
			}
		}
	}
	return true
}

func (b *bubble) dir(id base.NodeID) string { return fmt.Sprintf("%s/%d", b.root, id) }

func (b *bubble) options(id base.NodeID) node.Options {
	address := fmt.Sprintf("node%d", id)
	o := node.Options{Dir: b.dir(id), Name: fmt.Sprintf("n%d", id), PeerAddress: address, Transport: b.net.Join(id, address)}
	if id != 1 {
		o.Join = []string{"node1"}
	}
	return o
}

func (b *bubble) open(id base.NodeID) *node.Node {
	b.t.Helper()
	return b.openWith(id, b.options(id))
}

func (b *bubble) openWith(id base.NodeID, o node.Options) *node.Node {
	b.t.Helper()
	e := env.Real(logger().With("node", o.Name))
	e.Net = b.hosts
	n, err := node.Open(b.t.Context(), e, o)
	if err != nil {
		b.t.Fatalf("open node %d: %v", id, err)
	}
	b.nodes[id] = n
	return n
}

// stop stops a node in order.
func (b *bubble) stop(id base.NodeID) {
	b.t.Helper()
	if err := b.nodes[id].Close(); err != nil {
		b.t.Errorf("close node %d: %v", id, err)
	}
	delete(b.nodes, id)
}

// kill makes a node go away without a word, and come to rest unseen.
func (b *bubble) kill(id base.NodeID) {
	b.t.Helper()
	b.net.Down(id)
	b.stop(id)
	b.net.Up(id)
}

func (b *bubble) eventually(what string, f func() bool) {
	b.t.Helper()
	for began := time.Now(); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 30*time.Second {
			b.t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func (b *bubble) create(on base.NodeID, name string, change func(*base.Policy)) {
	b.t.Helper()
	p := base.DefaultPolicy()
	if change != nil {
		change(&p)
	}
	if err := b.nodes[on].CreateDatabase(b.t.Context(), name, p); err != nil {
		b.t.Fatalf("create %s: %v", name, err)
	}
}

// record is a database as a node knows it.
func (b *bubble) record(on base.NodeID, name string) catalog.Database {
	db, _ := b.nodes[on].Control().State().DatabaseByName(name)
	return db
}

func (b *bubble) session(on base.NodeID, name string) session.Session {
	b.t.Helper()
	s, err := b.nodes[on].Gateway().Open(b.t.Context(), session.Options{Trusted: true, Database: name})
	if err != nil {
		b.t.Fatalf("session on node %d: %v", on, err)
	}
	return s
}

// sql runs a statement through a node's gateway.
func (b *bubble) sql(on base.NodeID, name, text string) string {
	b.t.Helper()
	s := b.session(on, name)
	defer s.Close()
	return query(b.t, s, text)
}

// strong reads through a node's gateway what is true now.
func (b *bubble) strong(on base.NodeID, name, text string) string {
	b.t.Helper()
	s := b.session(on, name)
	defer s.Close()
	if err := s.Set("skein.read", "leader"); err != nil {
		b.t.Fatal(err)
	}
	return query(b.t, s, text)
}

// leader waits until a database has a leader that serves, other than some.
func (b *bubble) leader(name string, not ...base.NodeID) base.NodeID {
	b.t.Helper()
	var leads base.NodeID
	b.eventually(name+" has a leader", func() bool {
		for id, n := range b.nodes {
			r, err := n.Replica(name)
			if err == nil && r.Status().Role == replica.RoleLeader && !slices.Contains(not, id) && b.record(id, name).Leader == id {
				leads = id
				return true
			}
		}
		return false
	})
	return leads
}

// others are the running nodes but one.
func (b *bubble) others(id base.NodeID) []base.NodeID {
	var ids []base.NodeID
	for other := range b.nodes {
		if other != id {
			ids = append(ids, other)
		}
	}
	slices.Sort(ids)
	return ids
}

// level waits until every replica of a database has everything and follows.
func (b *bubble) level(name string) {
	b.t.Helper()
	b.eventually("all replicas of "+name+" are level", func() bool {
		var end base.Position
		for id, n := range b.nodes {
			if !b.record(id, name).HasReplica(id) {
				continue
			}
			r, err := n.Replica(name)
			if err != nil {
				return false
			}
			st := r.Status()
			playing := st.Role == replica.RoleLeader || st.Role == replica.RoleFollower
			if end == (base.Position{}) {
				end = st.Applied
			}
			if !playing || st.Applied != end || st.Appended != end {
				return false
			}
		}
		return true
	})
}

func bounded(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

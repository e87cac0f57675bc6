package gateway_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/gateway"
	"github.com/skeindb/skein/internal/leadership"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/replica/leader"
	"github.com/skeindb/skein/internal/replica/stream"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/transport"
	"github.com/skeindb/skein/internal/transport/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const shop = base.DatabaseID(7)

// cluster is nodes with a gateway each, on a network in memory and in virtual
// time; the nodes with replicas of the one database are the first ones. The
// test is the control plane.
type cluster struct {
	t    *testing.T
	root string
	net  *mem.Network

	mu struct {
		sync.Mutex // guards all below
		nodes      map[base.NodeID]*node
		record     leader.Assignment
		changed    chan struct{}
		guards     map[string]replica.Guard
	}
}

// node is one running node; without a replica when it has none.
type node struct {
	cluster *cluster
	id      base.NodeID
	wire    *mem.Transport
	gateway *gateway.Gateway
	replica *leader.Replica
	stop    context.CancelFunc
	done    chan error
}

// run runs a test on nodes of which the first have replicas; node 1 leads.
func run(t *testing.T, nodes, replicas int, f func(t *testing.T, c *cluster)) {
	t.Helper()
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{t: t, root: root}
		c.net = mem.NewNetwork(env.Real(slog.New(slog.DiscardHandler)), mem.Options{})
		c.mu.nodes = make(map[base.NodeID]*node)
		c.mu.guards = make(map[string]replica.Guard)
		c.mu.changed = make(chan struct{})
		c.mu.record = leader.Assignment{Policy: base.DefaultPolicy()}
		for id := range base.NodeID(replicas) {
			c.mu.record.Replicas = append(c.mu.record.Replicas, id+1)
		}
		c.mu.record.Counting = leadership.Count(c.mu.record.Replicas, c.mu.record.Policy)
		for id := range base.NodeID(nodes) {
			c.open(id + 1)
		}
		defer func() {
			for id := range base.NodeID(nodes) {
				c.close(id + 1)
			}
		}()
		c.appoint(1)
		f(t, c)
	})
}

func (c *cluster) open(id base.NodeID) *node {
	c.t.Helper()
	n := &node{cluster: c, id: id, wire: c.net.Join(id, fmt.Sprintf("node%d", id)), done: make(chan error, 1)}
	e := env.Real(slog.New(slog.DiscardHandler))
	n.gateway = gateway.New(e, gateway.Options{Directory: n, Transport: n.wire})
	for _, r := range c.record().Replicas {
		if r == id {
			c.openReplica(e, n)
		}
	}
	for peer := range base.NodeID(6) {
		if peer != 0 && peer != id {
			n.wire.SetPeer(peer, fmt.Sprintf("node%d", peer))
		}
	}
	if err := n.wire.Start(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.mu.nodes[id] = n
	c.mu.Unlock()
	return n
}

func (c *cluster) openReplica(e *env.Env, n *node) {
	c.t.Helper()
	r, err := leader.Open(c.t.Context(), e, leader.Options{
		Dir: fmt.Sprintf("%s/%d", c.root, n.id), Cluster: 1, Database: shop, Name: "shop", Transport: n.wire,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	n.replica = r
	n.wire.HandleStream(leader.FollowService, func(ctx context.Context, from base.NodeID, header []byte, s transport.Stream) error {
		q, err := stream.DecodeFollow(header)
		if err != nil {
			return err
		}
		return r.ServeFollow(ctx, from, q, s)
	})
	n.wire.HandleStream(leader.SnapshotService, func(ctx context.Context, _ base.NodeID, _ []byte, s transport.Stream) error {
		return r.ServeSnapshot(ctx, s)
	})
	n.wire.HandleFile(leader.SnapshotFile, func(_ context.Context, _ base.NodeID, name string) (transport.ReadAtCloser, int64, error) {
		f, size, err := r.OpenSnapshot(filepath.Base(name))
		return f, size, err
	})
	var ctx context.Context
	ctx, n.stop = context.WithCancel(context.Background())
	r.Assign(c.record())
	go func() { n.done <- r.Run(ctx) }()
}

// close stops a node that runs: first it vanishes from the network.
func (c *cluster) close(id base.NodeID) {
	n := c.node(id)
	if n == nil {
		return
	}
	c.net.Down(id)
	if n.stop != nil {
		n.stop()
		if err := <-n.done; err != nil {
			c.t.Errorf("replica %d: %v", id, err)
		}
	}
	n.wire.Close()
	c.mu.Lock()
	delete(c.mu.nodes, id)
	c.mu.Unlock()
	c.net.Up(id)
}

func (c *cluster) node(id base.NodeID) *node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.nodes[id]
}

func (c *cluster) record() leader.Assignment {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.record
}

// change changes the record, as all nodes see it.
func (c *cluster) change(f func(*leader.Assignment)) {
	c.mu.Lock()
	f(&c.mu.record)
	a := c.mu.record
	close(c.mu.changed)
	c.mu.changed = make(chan struct{})
	var all []*node
	for _, n := range c.mu.nodes {
		all = append(all, n)
	}
	c.mu.Unlock()
	for _, n := range all {
		if n.replica != nil {
			n.replica.Assign(a)
		}
	}
}

// appoint makes a node the next leader and waits until it serves.
func (c *cluster) appoint(id base.NodeID) {
	c.t.Helper()
	c.change(func(a *leader.Assignment) { a.Epoch, a.Leader = a.Epoch+1, id })
	epoch := c.record().Epoch
	c.eventually("the leader serves", func() bool {
		e, ok := c.node(id).replica.Leading()
		return ok && e == epoch
	})
}

// elect lets the best of the replicas that run lead.
func (c *cluster) elect() base.NodeID {
	c.t.Helper()
	var best base.NodeID
	var at base.Position
	var wait time.Duration
	for _, id := range c.record().Replicas {
		n := c.node(id)
		if n == nil {
			continue
		}
		p, err := n.replica.Promise(c.t.Context(), leadership.PromiseRequest{Database: shop, Epoch: c.record().Epoch + 1})
		if err != nil || !p.Granted || p.Fresh {
			c.t.Logf("node %d: %+v, %v", id, p, err)
			continue
		}
		if wait = max(wait, p.LeaseRemaining); best == 0 || at.Less(p.Position) {
			best, at = id, p.Position
		}
	}
	time.Sleep(wait)
	c.appoint(best)
	return best
}

func (c *cluster) release(target base.NodeID) {
	c.t.Helper()
	a := c.record()
	if _, err := c.node(a.Leader).replica.Release(c.t.Context(), a.Epoch, target, 10*time.Second); err != nil {
		c.t.Fatal(err)
	}
	c.appoint(target)
}

func (c *cluster) eventually(what string, f func() bool) {
	c.t.Helper()
	for began := time.Now(); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 60*time.Second {
			c.t.Fatalf("not within 60 s: %s", what)
		}
	}
}

// level waits until all replicas have applied what the leader has now; it may be
// written to meanwhile.
func (c *cluster) level() {
	c.t.Helper()
	a := c.record()
	want := c.node(a.Leader).replica.Status().Appended
	c.eventually("all replicas are level", func() bool {
		for _, id := range a.Replicas {
			if n := c.node(id); n != nil && n.replica.Status().Applied.Less(want) {
				return false
			}
		}
		return true
	})
}

// The methods of gateway.Directory.
func (n *node) Self() base.NodeID                { return n.id }
func (n *node) NodeName(id base.NodeID) string   { return fmt.Sprintf("n%d", id) }
func (n *node) Names() []string                  { return []string{"shop"} }
func (n *node) Users() []string                  { return nil }
func (n *node) Credential(string) (string, bool) { return "", false }

func (n *node) Database(name string) (gateway.Database, bool) {
	a := n.cluster.record()
	return gateway.Database{ID: shop, Name: name, Policy: a.Policy, Epoch: a.Epoch, Leader: a.Leader, Replicas: a.Replicas}, name == "shop"
}

func (n *node) Replica(id base.DatabaseID) replica.Replica {
	if n.replica == nil || id != shop {
		return nil
	}
	return n.replica
}

func (n *node) Guard(user, _ string) (replica.Guard, bool) {
	n.cluster.mu.Lock()
	defer n.cluster.mu.Unlock()
	g, ok := n.cluster.mu.guards[user]
	return g, ok
}

func (n *node) Changed() <-chan struct{} {
	n.cluster.mu.Lock()
	defer n.cluster.mu.Unlock()
	return n.cluster.mu.changed
}

// client is a session with short words.
type client struct {
	t *testing.T
	session.Session
}

func (c *cluster) session(id base.NodeID) *client {
	c.t.Helper()
	s, err := c.node(id).gateway.Open(c.t.Context(), session.Options{Trusted: true, Database: "shop"})
	if err != nil {
		c.t.Fatal(err)
	}
	return &client{c.t, s}
}

// try runs a statement, for at most a minute; rows by ";", columns by ",".
func (s *client) try(sql string, args ...base.Value) (string, session.Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	rows, err := s.Query(ctx, sql, args)
	if err != nil {
		return "", session.Result{}, err
	}
	defer rows.Close()
	var lines []string
	for rows.Next() {
		var line []string
		for _, v := range rows.Row() {
			line = append(line, word(v))
		}
		lines = append(lines, strings.Join(line, ","))
	}
	return strings.Join(lines, ";"), rows.Result(), rows.Err()
}

func word(v base.Value) string {
	switch v.Kind {
	case base.Integer:
		return strconv.FormatInt(v.Int, 10)
	case base.Null:
		return "NULL"
	}
	return string(v.Bytes)
}

func (s *client) do(sql string, args ...base.Value) string {
	s.t.Helper()
	got, _, err := s.try(sql, args...)
	if err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return got
}

func (s *client) expect(sql, want string) {
	s.t.Helper()
	if got := s.do(sql); got != want {
		s.t.Errorf("%s: got %q, want %q", sql, got, want)
	}
}

func (s *client) fails(sql string, kind base.Kind, state string) {
	s.t.Helper()
	_, _, err := s.try(sql)
	if e := base.AsError(cmpErr(err)); e.Kind != kind || (state != "" && e.State() != state) {
		s.t.Errorf("%s: got %v (%s %s), want %s %s", sql, err, e.Kind, e.State(), kind, state)
	}
}

func cmpErr(err error) error {
	if err == nil {
		return base.Errorf(base.KindInternal, "no error")
	}
	return err
}

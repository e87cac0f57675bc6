package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/node"
	"github.com/skeindb/skein/internal/session"
)

// cluster is several nodes in this process, on real loopback connections.
type cluster struct {
	t     *testing.T
	nodes []*node.Node
	dirs  []string
	peers []string
}

func logger() *slog.Logger {
	level := slog.LevelError + 1 // What goes wrong in tests is meant to.
	if os.Getenv("SKEIN_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

func newCluster(t *testing.T, n int) *cluster {
	c := &cluster{t: t}
	for i := range n {
		c.dirs = append(c.dirs, t.TempDir())
		c.peers = append(c.peers, "127.0.0.1:0")
		c.nodes = append(c.nodes, nil)
		c.open(i)
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			if n != nil {
				n.Close()
			}
		}
	})
	for _, n := range c.nodes {
		c.eventually("all nodes are active", func() bool {
			active := 0
			for _, m := range n.Control().State().Nodes() {
				if m.State == "active" {
					active++
				}
			}
			return active == len(c.nodes)
		})
	}
	return c
}

func (c *cluster) open(i int) {
	c.t.Helper()
	o := node.Options{Dir: c.dirs[i], Name: fmt.Sprintf("n%d", i+1), PeerAddress: c.peers[i]}
	if i > 0 {
		o.Join = []string{c.peers[0]}
	}
	e := env.Real(logger().With("node", o.Name))
	n, err := node.Open(context.Background(), e, o)
	if err != nil {
		c.t.Fatalf("open node %d: %v", i+1, err)
	}
	c.nodes[i] = n
	c.peers[i] = n.PeerAddress()
}

func (c *cluster) eventually(what string, f func() bool) {
	c.t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-deadline:
			c.t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

func (c *cluster) session(i int, db string) session.Session {
	c.t.Helper()
	s, err := c.nodes[i].Gateway().Open(context.Background(), session.Options{Trusted: true, Database: db})
	if err != nil {
		c.t.Fatalf("open session: %v", err)
	}
	c.t.Cleanup(func() { s.Close() })
	return s
}

func query(t *testing.T, s session.Session, sql string, args ...base.Value) string {
	t.Helper()
	out, err := try(s, sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return out
}

func try(s session.Session, sql string, args ...base.Value) (string, error) {
	rows, err := s.Query(context.Background(), sql, args)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	var lines []string
	for rows.Next() {
		var cells []string
		for _, v := range rows.Row() {
			switch v.Kind {
			case base.Integer:
				cells = append(cells, fmt.Sprint(v.Int))
			case base.Real:
				cells = append(cells, fmt.Sprint(v.Float))
			case base.Null:
				cells = append(cells, "NULL")
			default:
				cells = append(cells, string(v.Bytes))
			}
		}
		lines = append(lines, strings.Join(cells, "|"))
	}
	return strings.Join(lines, "\n"), rows.Err()
}

func TestThreeNodesWriteAndRead(t *testing.T) {
	c := newCluster(t, 3)
	if err := c.nodes[1].CreateDatabase(context.Background(), "main", base.DefaultPolicy()); err != nil {
		t.Fatal(err)
	}
	for i := range c.nodes {
		s := c.session(i, "main")
		if i == 0 {
			query(t, s, "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT)")
		}
		query(t, s, "INSERT INTO t(b) VALUES (?1)", base.TextValue(fmt.Sprint("from ", i)))
		got := query(t, s, "SELECT count(*) FROM t")
		if got != fmt.Sprint(i+1) {
			t.Fatalf("node %d reads %s rows of its own writes, want %d", i+1, got, i+1)
		}
		t.Log(query(t, s, "SHOW skein.token"), query(t, s, "SHOW skein.reached"))
	}
}

// Nodes that all restart on other ports at once find each other again at the
// address that they are told to join, whoever starts first.
func TestAllMoveAtOnce(t *testing.T) {
	c := newCluster(t, 3)
	for i, n := range c.nodes {
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		c.nodes[i] = nil
	}
	// An address for the first, so that the others can be told before it starts;
	// on a host of its own, so that no other test takes the port meanwhile.
	l, err := net.Listen("tcp", "127.68.2.1:0")
	if err != nil {
		t.Fatal(err)
	}
	old := c.peers[0]
	c.peers = []string{l.Addr().String(), "127.0.0.1:0", "127.0.0.1:0"}
	if err := l.Close(); err != nil || old == c.peers[0] {
		t.Fatal(err, old)
	}
	for i := range slices.Backward(c.nodes) {
		c.open(i)
	}
	for _, n := range c.nodes {
		c.eventually("everyone knows where the others are", func() bool {
			for i, other := range c.nodes {
				if m, _ := n.Control().State().Node(other.ID()); m.PeerAddress != c.peers[i] || !n.Reachable(other.ID()) {
					return false
				}
			}
			return true
		})
	}
}

package mem_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/transport"
	"github.com/skeindb/skein/internal/transport/mem"
	"github.com/skeindb/skein/internal/transport/transporttest"
)

// TestConformance runs in virtual time: when a test waits in vain, it is over
// at once.
func TestConformance(t *testing.T) {
	transporttest.TestTransport(t, synctest.Test, run)
}

func run(t *testing.T, n int, setup func(int, transport.Transport), f func(*testing.T, transporttest.Cluster)) {
	c := newCluster(t, n, mem.Options{}, setup)
	defer c.close()
	f(t, c)
}

func testEnv() *env.Env { return env.Real(slog.New(slog.NewTextHandler(io.Discard, nil))) }

type cluster struct {
	t       *testing.T
	network *mem.Network
	setup   func(int, transport.Transport)
	nodes   []*mem.Transport
}

func newCluster(t *testing.T, n int, o mem.Options, setup func(int, transport.Transport)) *cluster {
	c := &cluster{t: t, network: mem.NewNetwork(testEnv(), o), setup: setup, nodes: make([]*mem.Transport, n)}
	for i := range n {
		c.Revive(i)
	}
	return c
}

func (c *cluster) Node(i int) transport.Transport { return c.nodes[i] }
func (c *cluster) Address(i int) string           { return fmt.Sprintf("node-%d", i) }
func (c *cluster) Kill(i int)                     { c.nodes[i].Close() }

func (c *cluster) Revive(i int) {
	node := c.network.Join(transporttest.ID(i), c.Address(i))
	if c.setup != nil {
		c.setup(i, node)
	}
	for j := range c.nodes {
		if j != i {
			node.SetPeer(transporttest.ID(j), c.Address(j))
		}
	}
	if err := node.Start(context.Background()); err != nil {
		c.t.Fatal(err)
	}
	c.nodes[i] = node
}

func (c *cluster) close() {
	for _, node := range c.nodes {
		node.Close()
	}
}

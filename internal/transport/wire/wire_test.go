package wire

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/pki"
	"github.com/skeindb/skein/internal/transport"
	"github.com/skeindb/skein/internal/transport/transporttest"
)

func TestMain(m *testing.M) {
	if address := os.Getenv(victimVariable); address != "" {
		beVictim(address)
		return
	}
	goleak.VerifyTestMain(m)
}

func TestConformance(t *testing.T) {
	around := func(t *testing.T, f func(*testing.T)) { f(t) }
	t.Run("TLS", func(t *testing.T) { transporttest.TestTransport(t, around, runner(true)) })
	t.Run("insecure", func(t *testing.T) { transporttest.TestTransport(t, around, runner(false)) })
	direct := []string{"echo", "speak first", "fail", "listen", "stay", "any", "unknown"}
	t.Run("direct streams", func(t *testing.T) { transporttest.TestTransport(t, around, runner(true, direct...)) })
	t.Run("insecure direct streams", func(t *testing.T) { transporttest.TestTransport(t, around, runner(false, direct...)) })
}

const testCluster = 0xc1c1c1c1c1c1c1c1

// authority is one for all tests: making keys takes time.
var authority = sync.OnceValue(func() *pki.CA { return newAuthority(testCluster) })

func newAuthority(cluster uint64) *pki.CA {
	ca, err := pki.NewCA(rand.Reader, time.Now(), cluster)
	if err != nil {
		panic(err)
	}
	return ca
}

func identity(t testing.TB, ca *pki.CA, node int, now time.Time, valid time.Duration) *pki.Identity {
	t.Helper()
	id, err := ca.IssueNode(rand.Reader, now, pki.NodeOptions{Node: transporttest.ID(node), Valid: valid})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func testEnv() *env.Env { return env.Real(slog.New(slog.NewTextHandler(io.Discard, nil))) }

// runner gives each test its own nodes on loopback.
func runner(secure bool, direct ...string) transporttest.Run {
	return func(t *testing.T, n int, setup func(int, transport.Transport), f func(*testing.T, transporttest.Cluster)) {
		defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
		c := newCluster(t, n, secure, setup, direct...)
		defer c.close()
		f(t, c)
	}
}

type cluster struct {
	t         testing.TB
	secure    bool
	direct    []string
	setup     func(int, transport.Transport)
	nodes     []*Transport
	addresses []string
}

func newCluster(t testing.TB, n int, secure bool, setup func(int, transport.Transport), direct ...string) *cluster {
	c := &cluster{t: t, secure: secure, direct: direct, setup: setup, nodes: make([]*Transport, n)}
	for range n {
		c.addresses = append(c.addresses, freeAddress(t))
	}
	for i := range n {
		c.Revive(i)
	}
	return c
}

// freeAddress picks a port that is free, and stays so: the host is of this
// process alone, and other tests that run meanwhile use others.
func freeAddress(t testing.TB) string {
	pid := os.Getpid()
	host := net.IPv4(127, byte(1+pid>>14&63), byte(pid>>7&127), byte(1+pid&127))
	l, err := net.Listen("tcp", net.JoinHostPort(host.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (c *cluster) options(i int) Options {
	o := Options{Self: transporttest.ID(i), ListenAddress: c.addresses[i], ClusterID: testCluster, Insecure: !c.secure,
		SessionServices: []string{"session"}, DirectServices: c.direct}
	if c.secure {
		o.TLS = identity(c.t, authority(), i, time.Now(), 0)
	}
	return o
}

func (c *cluster) Node(i int) transport.Transport { return c.nodes[i] }
func (c *cluster) Address(i int) string           { return c.addresses[i] }
func (c *cluster) Kill(i int)                     { c.nodes[i].Close() }

func (c *cluster) Revive(i int) {
	c.t.Helper()
	node, err := New(testEnv(), c.options(i))
	if err != nil {
		c.t.Fatal(err)
	}
	if c.setup != nil {
		c.setup(i, node)
	}
	for j := range c.nodes {
		if j != i {
			node.SetPeer(transporttest.ID(j), c.addresses[j])
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

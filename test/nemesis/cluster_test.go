package nemesis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/adminclient"
	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/test/netns"
	"github.com/skeindb/skein/test/process"
)

const (
	database = "main"
	pgPort   = "5441"
	httpPort = "8441"
	peerPort = "6441"
	// diskBytes is the size of each node's disk.
	diskBytes = 160 << 20
	// patience bounds every wait for what must happen.
	patience = 60 * time.Second
)

// node is one node's settings and its process, if there is one.
type node struct {
	t       *testing.T
	cluster *cluster
	index   int
	name    string
	dir     string // of its disk
	certs   string
	output  *process.Output
	client  *adminclient.Client

	mu      sync.Mutex // guards what follows
	process *process.Process
	down    bool          // on purpose: nobody starts it but who killed it
	offset  time.Duration // of its clock
}

// cluster is three nodes on a network of their own.
type cluster struct {
	t       *testing.T
	network *netns.Network
	nodes   []*node
}

// newCluster makes certificates and disks; no node runs yet.
func newCluster(t *testing.T, size int) *cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "skein-nemesis-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	network, err := netns.New(size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &cluster{t: t, network: network}
	c.command("cert", "ca", dir+"/ca")
	for i := range size {
		n := &node{t: t, cluster: c, index: i, name: fmt.Sprintf("n%d", i+1), output: &process.Output{}}
		n.dir, n.certs = filepath.Join(dir, n.name), filepath.Join(dir, n.name+"-certs")
		n.process = process.Ended(n.name)
		c.command("cert", "node", "--ca", dir+"/ca", "--out", n.certs, "--host", netns.Address(i))
		n.mountDisk()
		transport := &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return c.network.Dial(ctx, i, "127.0.0.1:"+httpPort)
			},
		}
		n.client, err = adminclient.New(adminclient.Options{
			URLs: []string{"http://127.0.0.1:" + httpPort}, HTTP: &http.Client{Transport: transport},
		})
		if err != nil {
			t.Fatal(err)
		}
		c.nodes = append(c.nodes, n)
	}
	return c
}

func (c *cluster) command(arguments ...string) {
	c.t.Helper()
	cmd := exec.Command(binary, arguments...)
	cmd.Env = process.Environment()
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("skein %s: %v\n%s", strings.Join(arguments, " "), err, out)
	}
}

func (n *node) mountDisk() {
	n.t.Helper()
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		n.t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", n.dir, "tmpfs", 0, fmt.Sprintf("size=%d", diskBytes)); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		n.kill()
		if err := syscall.Unmount(n.dir, syscall.MNT_DETACH); err != nil {
			n.t.Errorf("unmount %s: %v", n.dir, err)
		}
	})
}

// start starts the node's process, with its clock wrong by its offset.
func (n *node) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = false
	return n.startLocked()
}

// restartIfEnded is what whatever watches over a node does: one that ended by
// itself, for a full disk, is started again, and maybe again.
func (n *node) restartIfEnded() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.down {
		return nil
	}
	return n.startLocked()
}

func (n *node) startLocked() error {
	if n.process.Running() {
		return nil
	}
	arguments := []string{"serve", "--dir", n.dir + "/data", "--name", n.name, "--certs", n.certs, "--trust-loopback",
		"--pg", "127.0.0.1:" + pgPort, "--http", "127.0.0.1:" + httpPort, "--peer", netns.Address(n.index) + ":" + peerPort}
	if n.index > 0 {
		arguments = append(arguments, "--join", netns.Address(0)+":"+peerPort)
	}
	cmd := exec.Command(binary, arguments...)
	cmd.Env = process.Environment("SKEIN_TEST_CLOCK_OFFSET=" + n.offset.String())
	p, err := process.Start(cmd, process.Options{
		Name: n.name, Output: n.output, Enter: func() error { return n.cluster.network.Enter(n.index) },
	})
	if err == nil {
		n.process = p
	}
	return err
}

func (n *node) signal(s syscall.Signal) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.process.Signal(s)
}

// kill ends the node until start.
func (n *node) kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = true
	n.process.Kill()
}

// stop asks the process to end in order; one that does not is a failure.
func (n *node) stop() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = true
	n.process.Signal(syscall.SIGTERM)
	if !n.process.Wait(patience) {
		n.process.Kill()
		return fmt.Errorf("%s did not stop within %v", n.name, patience)
	}
	return n.process.Err()
}

// form starts all nodes and makes the database.
func (c *cluster) form(policy httpapi.PolicyPatch) {
	c.t.Helper()
	for _, n := range c.nodes {
		if err := n.start(); err != nil {
			c.t.Fatal(err)
		}
	}
	c.eventually("a cluster", func(ctx context.Context) error {
		s, err := c.nodes[0].client.Status(ctx)
		if err != nil {
			return err
		}
		members := 0
		for _, n := range s.Nodes {
			if n.State == httpapi.NodeMember && n.Reachable {
				members++
			}
		}
		if members < len(c.nodes) || len(s.Cluster.Voters) < len(c.nodes) {
			return fmt.Errorf("%d members answer, %d vote", members, len(s.Cluster.Voters))
		}
		return nil
	})
	retention := int64(16 << 20) // The disks are small.
	policy.RetentionBytes = &retention
	c.eventually("the database", func(ctx context.Context) error {
		err := c.nodes[0].client.CreateDatabase(ctx, database, policy)
		if base.KindOf(err) == base.KindExists {
			return nil
		}
		return err
	})
	c.eventually("a whole database", c.whole)
}

// eventually asks until the answer is nil, and fails at the deadline.
func (c *cluster) eventually(what string, ask func(context.Context) error) {
	c.t.Helper()
	if err := eventually(what, ask); err != nil {
		c.t.Fatal(err)
	}
}

func eventually(what string, ask func(context.Context) error) error {
	began := time.Now()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err := ask(ctx)
		cancel()
		if err == nil {
			return nil
		}
		if time.Since(began) > patience {
			return fmt.Errorf("%s: not within %v: %w", what, patience, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// whole is an error unless the database is led, and followed by all others.
func (c *cluster) whole(ctx context.Context) error {
	s, err := c.nodes[0].client.Status(ctx)
	if err != nil {
		return err
	}
	for _, d := range s.Databases {
		if d.Name != database {
			continue
		}
		leaders, followers := 0, 0
		for _, r := range d.Replicas {
			switch {
			case r.Epoch != d.Epoch || !r.Known:
			case r.Role == replica.RoleLeader && r.LeaseLive && r.Node == d.Leader:
				leaders++
			case r.Role == replica.RoleFollower:
				followers++
			}
		}
		if leaders != 1 || followers != len(c.nodes)-1 {
			return fmt.Errorf("in epoch %d, %d lead and %d follow", d.Epoch, leaders, followers)
		}
		return nil
	}
	return errors.New("no database")
}

// local is what a node says of its own replica; nothing if it does not answer
// at once.
func (n *node) local() *httpapi.LocalReplica {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	s, err := n.client.LocalStatus(ctx)
	if err != nil {
		return nil
	}
	for i := range s.Replicas {
		if s.Replicas[i].Database == database {
			return &s.Replicas[i]
		}
	}
	return nil
}

// leader is a node that leads, nil if none says so.
func (c *cluster) leader() *node {
	var found *node
	epoch := base.Epoch(0)
	for _, n := range c.nodes {
		if r := n.local(); r != nil && r.Role == replica.RoleLeader && r.LeaseLive && r.Epoch > epoch {
			found, epoch = n, r.Epoch
		}
	}
	return found
}

// others are all nodes but one.
func (c *cluster) others(but *node) []*node {
	var list []*node
	for _, n := range c.nodes {
		if n != but {
			list = append(list, n)
		}
	}
	return list
}

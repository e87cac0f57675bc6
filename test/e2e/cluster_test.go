package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/replica"
)

// cluster is some nodes with certificates of one authority.
type cluster struct {
	t     *testing.T
	dir   string
	nodes []*node
}

// node is one node's settings and its running process, if there is one.
type node struct {
	t              *testing.T
	name           string
	dir, certs     string
	pg, http, peer string
	join           []string
	trust          bool
	env            []string
	*child
}

// usedPorts keeps ports of this run apart. Ports are taken from below the range
// of outgoing connections, which could steal one while a node is down.
var usedPorts = map[int]bool{}

func freeAddress(t *testing.T) string {
	t.Helper()
	for range 1000 {
		port := 12000 + rand.IntN(20000)
		if usedPorts[port] {
			continue
		}
		address := fmt.Sprintf("127.0.0.1:%d", port)
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		l.Close()
		usedPorts[port] = true
		return address
	}
	t.Fatal("no free port")
	return ""
}

// tempDir is a folder that is removed after all processes of the test are gone:
// what was registered first is cleaned up last.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "skein-e2e-data-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove %s: %v", dir, err)
		}
	})
	return dir
}

// newCluster makes a folder and an authority; no node runs yet.
func newCluster(t *testing.T, size int) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: tempDir(t)}
	mustRun(t, nil, "cert", "ca", c.dir+"/ca")
	for range size {
		c.plan()
	}
	return c
}

// plan adds a node that joins through the first.
func (c *cluster) plan() *node {
	c.t.Helper()
	name := fmt.Sprintf("n%d", len(c.nodes)+1)
	n := &node{
		t: c.t, name: name, dir: filepath.Join(c.dir, name), certs: filepath.Join(c.dir, name+"-certs"), trust: true,
		pg: freeAddress(c.t), http: freeAddress(c.t), peer: freeAddress(c.t),
	}
	for _, other := range c.nodes {
		n.join = append(n.join, other.peer)
	}
	mustRun(c.t, nil, "cert", "node", "--ca", c.dir+"/ca", "--out", n.certs, "--host", "127.0.0.1")
	c.nodes = append(c.nodes, n)
	return n
}

// arguments of `skein serve`.
func (n *node) arguments() []string {
	args := []string{"serve", "--dir", n.dir, "--name", n.name, "--certs", n.certs, "--pg", n.pg, "--http", n.http, "--peer", n.peer}
	if len(n.join) > 0 {
		args = append(args, "--join", strings.Join(n.join, ","))
	}
	if n.trust {
		args = append(args, "--trust-loopback")
	}
	return args
}

func (n *node) start() {
	n.t.Helper()
	n.child = start(n.t, n.name, n.env, n.arguments()...)
}

// startCluster starts nodes and makes database main on all of them.
func startCluster(t *testing.T, size int) *cluster {
	t.Helper()
	c := newCluster(t, size)
	c.startAll()
	return c
}

func (c *cluster) startAll() {
	c.t.Helper()
	for _, n := range c.nodes {
		n.start()
	}
	c.whole("")
	mustRun(c.t, c.nodes[0].url(), "db", "create", "main")
	c.whole("main")
}

func (n *node) url() []string { return []string{"SKEIN_URL=http://" + n.http} }

// whole waits until every node is a member that answers, and the database, if
// one is named, is led and followed on all of them.
func (c *cluster) whole(database string) {
	c.t.Helper()
	eventually(c.t, patience, "a whole cluster", func() error {
		for _, n := range c.nodes {
			if n.child != nil && !n.running() {
				c.t.Fatalf("%s has ended: %v", n.name, n.Err())
			}
		}
		s, err := c.nodes[0].status()
		if err != nil {
			return err
		}
		reachable := 0
		for _, n := range s.Nodes {
			if n.Reachable && n.State == httpapi.NodeMember {
				reachable++
			}
		}
		if reachable < len(c.nodes) || s.Cluster.Leader == "" {
			return fmt.Errorf("%d of %d nodes answer, control leader %q", reachable, len(c.nodes), s.Cluster.Leader)
		}
		// A majority of an odd number survives what the test does next.
		if want := (len(c.nodes) - 1) | 1; len(s.Cluster.Voters) < want {
			return fmt.Errorf("%d of %d voters", len(s.Cluster.Voters), want)
		}
		if database == "" {
			return nil
		}
		return playing(s, database, len(c.nodes))
	})
}

// playing is an error unless a database is led and followed by n replicas.
func playing(s *httpapi.Status, database string, n int) error {
	for _, d := range s.Databases {
		if d.Name != database {
			continue
		}
		good, leads := 0, 0
		for _, r := range d.Replicas {
			if r.Known && r.Role == replica.RoleLeader && r.Node == d.Leader {
				leads++
			}
			if r.Known && (r.Role == replica.RoleLeader || r.Role == replica.RoleFollower) && r.Epoch == d.Epoch {
				good++
			}
		}
		if good == n && leads == 1 {
			return nil
		}
		return fmt.Errorf("%d of %d replicas play in epoch %d, %d lead", good, n, d.Epoch, leads)
	}
	return fmt.Errorf("no database %s", database)
}

var httpClient = &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// get asks a node over HTTP.
func (n *node) get(path string, into any) error {
	r, err := httpClient.Get("http://" + n.http + path)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", r.Status, body)
	}
	return json.Unmarshal(body, into)
}

func (n *node) status() (*httpapi.Status, error) {
	s := new(httpapi.Status)
	return s, n.get("/v1/status", s)
}

// database finds a database in the status that a node gathers.
func (n *node) database(name string) (*httpapi.DatabaseStatus, error) {
	s, err := n.status()
	if err != nil {
		return nil, err
	}
	for i := range s.Databases {
		if s.Databases[i].Name == name {
			return &s.Databases[i], nil
		}
	}
	return nil, fmt.Errorf("%s knows no database %s", n.name, name)
}

// leader waits for the running node that leads a database and says so itself.
func (c *cluster) leader(database string) *node {
	c.t.Helper()
	var found *node
	eventually(c.t, patience, "a leader of "+database, func() error {
		found = c.findLeader(database)
		if found == nil {
			return errors.New("nobody leads")
		}
		return nil
	})
	return found
}

// findLeader is nil when no running node says that it leads.
func (c *cluster) findLeader(database string) *node {
	for _, n := range c.nodes {
		if n.child == nil || !n.running() {
			continue
		}
		d, err := n.database(database)
		if err != nil {
			continue
		}
		for _, r := range d.Replicas {
			if r.Known && r.Role == replica.RoleLeader && r.Node == d.Leader && r.LeaseLive {
				return c.byName(r.NodeName)
			}
		}
	}
	return nil
}

func (c *cluster) byName(name string) *node {
	for _, n := range c.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

// others are all nodes but some.
func (c *cluster) others(but ...*node) []*node {
	var list []*node
next:
	for _, n := range c.nodes {
		for _, b := range but {
			if n == b {
				continue next
			}
		}
		list = append(list, n)
	}
	return list
}

// equal waits until all replicas have one hash at one position.
func (c *cluster) equal(database string, want int) {
	c.t.Helper()
	eventually(c.t, patience, "equal replicas of "+database, func() error {
		var report httpapi.HashReport
		if err := c.nodes[0].get("/v1/databases/"+database+"/hash", &report); err != nil {
			return err
		}
		if report.Verdict == httpapi.VerdictDifferent {
			c.t.Fatalf("replicas differ: %+v", report.Replicas)
		}
		if report.Verdict != httpapi.VerdictEqual || len(report.Replicas) != want {
			return fmt.Errorf("%s of %d: %+v", report.Verdict, len(report.Replicas), report.Replicas)
		}
		return nil
	})
}

// background is a context that ends with the test.
func background(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

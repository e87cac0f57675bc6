package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/skeindb/skein/internal/adminclient"
	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/pki"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/test/netns"
)

// database is the one that everything is measured on.
const database = "main"

// cluster is three Skein nodes with certificates, each a process of its own.
type cluster struct {
	dir     string
	command func(config string) *exec.Cmd
	nodes   []*node
	client  *adminclient.Client
	network *netns.Network      // nil: all on the loopback
	policy  httpapi.PolicyPatch // of the database, over the default
}

type node struct {
	cluster        *cluster
	index          int
	name           string
	id             base.NodeID
	dir            string
	pg, http, peer string
	process        *process // nil: not running, or not a process
}

func (n *node) certs() string  { return filepath.Join(n.dir, "certs") }
func (n *node) data() string   { return filepath.Join(n.dir, "data") }
func (n *node) config() string { return filepath.Join(n.dir, "skein.toml") }

// newCluster makes folders and certificates of n nodes; nothing runs yet. In a
// network each has an address and a loopback of its own.
func newCluster(dir string, n int, command func(config string) *exec.Cmd, network *netns.Network) (*cluster, error) {
	c := &cluster{dir: dir, command: command, network: network}
	e := env.Real(slog.New(slog.DiscardHandler))
	ca, err := pki.NewCA(e.Rand, e.Clock.Now(), e.Rand.Uint64())
	if err != nil {
		return nil, err
	}
	for i := range n {
		m := &node{cluster: c, index: i, name: fmt.Sprintf("n%d", i+1), id: base.NewNodeID(e.Rand)}
		m.dir = filepath.Join(dir, m.name)
		if err := os.MkdirAll(m.certs(), 0o700); err != nil {
			return nil, err
		}
		issued, err := ca.IssueNode(e.Rand, e.Clock.Now(), pki.NodeOptions{Node: m.id, Names: []string{"localhost", "127.0.0.1", netns.Address(i)}})
		if err != nil {
			return nil, err
		}
		if err := issued.Save(e.FS, m.certs()); err != nil {
			return nil, err
		}
		ports, err := freePorts(3)
		if err != nil {
			return nil, err
		}
		m.pg, m.http, m.peer = ports[0], ports[1], ports[2]
		if network != nil {
			m.peer = strings.Replace(m.peer, "127.0.0.1", netns.Address(i), 1)
		}
		c.nodes = append(c.nodes, m)
	}
	return c, nil
}

// startCluster starts three nodes with the database, for one part of a run.
// Whoever gets a cluster stops it.
func (b *bench) startCluster(ctx context.Context, part string, policy httpapi.PolicyPatch, network *netns.Network) (*cluster, error) {
	c, err := newCluster(filepath.Join(b.dir, "skein-"+part), 3, b.command, network)
	if err != nil {
		return nil, err
	}
	c.policy = policy
	say("starting three Skein nodes")
	if err = c.runAll(); err == nil {
		err = c.form(ctx)
	}
	if err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

// freePorts finds loopback addresses that nobody listens on just now.
func freePorts(n int) ([]string, error) {
	var addresses []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // Not before all are found, so that they differ.
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}

// run starts the process of one node.
func (c *cluster) run(n *node) error {
	join := ""
	if n != c.nodes[0] {
		join = c.nodes[0].peer
	}
	lines := []string{
		fmt.Sprintf("dir = %q", n.data()), fmt.Sprintf("name = %q", n.name), fmt.Sprintf("pg = %q", n.pg),
		fmt.Sprintf("http = %q", n.http), fmt.Sprintf("peer = %q", n.peer), fmt.Sprintf("certs = %q", n.certs()),
		fmt.Sprintf("join = [%q]", join), "trust_loopback = true", "",
	}
	if err := os.WriteFile(n.config(), []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		return err
	}
	cmd := c.command(n.config())
	if c.network != nil {
		cmd = exec.Command("ip", append([]string{"netns", "exec", c.network.Namespace(n.index)}, cmd.Args...)...)
	}
	p, err := start(cmd, filepath.Join(n.dir, "node.log"))
	n.process = p
	return err
}

// runAll starts every node that does not run.
func (c *cluster) runAll() error {
	for _, n := range c.nodes {
		if n.process == nil {
			if err := c.run(n); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *cluster) stop() {
	for _, n := range c.nodes {
		if n.process != nil {
			n.process.signal(syscall.SIGTERM)
		}
	}
	for _, n := range c.nodes {
		if n.process != nil {
			n.process.stop(syscall.SIGTERM)
			n.process = nil
		}
	}
	if c.client != nil {
		c.client.Close()
	}
}

func (c *cluster) pids() []int {
	var pids []int
	for _, n := range c.nodes {
		if n.process != nil {
			pids = append(pids, n.process.pid())
		}
	}
	return pids
}

// dial makes the client, which asks the nodes that are processes.
func (c *cluster) dial() (err error) {
	var urls []string
	for _, n := range c.nodes {
		if n.process != nil {
			urls = append(urls, "http://"+n.http)
		}
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return c.dialAddress(ctx, address) }}
	c.client, err = adminclient.New(adminclient.Options{URLs: urls, HTTP: &http.Client{Transport: transport}})
	return err
}

// form waits until all nodes are members, makes the database and waits until it
// has all its replicas.
func (c *cluster) form(ctx context.Context) error {
	if err := c.dial(); err != nil {
		return err
	}
	err := c.await(ctx, time.Minute, func(s *httpapi.Status) error {
		active := 0
		for _, n := range s.Nodes {
			if n.State == httpapi.NodeMember && (n.Reachable || c.embeds(n.ID)) {
				active++
			}
		}
		if active < len(c.nodes) {
			return fmt.Errorf("%d of %d nodes are active members", active, len(c.nodes))
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := c.client.CreateDatabase(ctx, database, c.policy); err != nil && base.KindOf(err) != base.KindExists {
		return fmt.Errorf("create database: %w", err)
	}
	return c.whole(ctx)
}

// whole waits until the database has a leader and every replica follows it, and
// every node votes on the control plane.
func (c *cluster) whole(ctx context.Context) error {
	return c.await(ctx, time.Minute, func(s *httpapi.Status) error {
		if n := len(s.Cluster.Voters); n < len(c.nodes) {
			return fmt.Errorf("%d of %d nodes vote", n, len(c.nodes))
		}
		for _, d := range s.Databases {
			if d.Name == database {
				return c.complete(d)
			}
		}
		return errors.New("the database is missing")
	})
}

// embeds says whether a node is part of this process: it then answers no
// questions about its status.
func (c *cluster) embeds(id string) bool {
	for _, n := range c.nodes {
		if n.id.String() == id {
			return n.process == nil
		}
	}
	return false
}

// complete says what a database still lacks.
func (c *cluster) complete(d httpapi.DatabaseStatus) error {
	if len(d.Replicas) != len(c.nodes) || d.Leader == "" {
		return fmt.Errorf("%d of %d replicas, leader %q", len(d.Replicas), len(c.nodes), d.Leader)
	}
	for _, r := range d.Replicas {
		if c.embeds(r.Node) {
			continue
		}
		switch {
		case !r.Known || r.Role != replica.RoleLeader && r.Role != replica.RoleFollower:
			return fmt.Errorf("the replica on %s is %s", r.NodeName, r.Role)
		case (r.Node == d.Leader) != (r.Role == replica.RoleLeader):
			return fmt.Errorf("%s is %s, and %s leads", r.NodeName, r.Role, d.Leader)
		case r.AppliedSeq == 0 || r.LagSeqs > 0:
			return fmt.Errorf("%s is %d changes behind", r.NodeName, r.LagSeqs)
		}
		attached := 0
		for _, f := range r.Followers {
			if f.Attached {
				attached++
			}
		}
		if r.Role == replica.RoleLeader && attached < len(c.nodes)-1 {
			return fmt.Errorf("%d of %d followers are attached", attached, len(c.nodes)-1)
		}
	}
	return nil
}

// moveTo makes a node lead the database. One that was cut off just before is
// not everybody's again at once: each connection has its own time to send the
// next packet.
func (c *cluster) moveTo(ctx context.Context, n *node) error {
	return c.await(ctx, 10*time.Second, func(*httpapi.Status) error {
		if d, err := c.status(ctx); err != nil || d.Leader == n.id.String() {
			return errors.Join(err, c.whole(ctx))
		}
		if _, err := c.client.Switchover(ctx, database, n.id); err != nil {
			return fmt.Errorf("switch over to %s: %w", n.name, err)
		}
		return c.whole(ctx)
	})
}

// await polls the status until ready finds nothing missing.
func (c *cluster) await(ctx context.Context, within time.Duration, ready func(*httpapi.Status) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	missing := errors.New("no node answers")
	for {
		s, err := c.client.Status(ctx)
		if err == nil {
			err = ready(s)
		}
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			missing = err
		}
		for _, n := range c.nodes {
			if n.process != nil && !n.process.alive() {
				return fmt.Errorf("%s has ended: %v\n%s", n.name, n.process.err, n.process.tail())
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %w", within, missing)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// status returns the database's.
func (c *cluster) status(ctx context.Context) (httpapi.DatabaseStatus, error) {
	s, err := c.client.Status(ctx)
	if err != nil {
		return httpapi.DatabaseStatus{}, err
	}
	for _, d := range s.Databases {
		if d.Name == database {
			return d, nil
		}
	}
	return httpapi.DatabaseStatus{}, errors.New("the database is missing")
}

// logged is the size of the leader's log, which nothing is trimmed from within
// a round.
func (c *cluster) logged(ctx context.Context) (int64, error) {
	d, err := c.status(ctx)
	for _, r := range d.Replicas {
		if r.Node == d.Leader {
			return r.LogBytes, err
		}
	}
	return 0, err
}

// leader returns the node that leads the database.
func (c *cluster) leader(ctx context.Context) (*node, error) {
	d, err := c.status(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range c.nodes {
		if n.id.String() == d.Leader {
			return n, nil
		}
	}
	return nil, errors.New("the database has no leader")
}

// dialAddress connects to an address that one of the nodes listens on.
func (c *cluster) dialAddress(ctx context.Context, address string) (net.Conn, error) {
	for i, n := range c.nodes {
		if c.network != nil && (n.pg == address || n.http == address) {
			return c.network.Dial(ctx, i, address)
		}
	}
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}

// connect opens a PostgreSQL connection to a node, without TLS as pgbench's.
func (n *node) connect(ctx context.Context) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig("postgres://bench@" + n.pg + "/" + database + "?sslmode=disable")
	if err != nil {
		return nil, err
	}
	config.DialFunc = func(ctx context.Context, _, address string) (net.Conn, error) {
		return n.cluster.dialAddress(ctx, address)
	}
	return pgx.ConnectConfig(ctx, config)
}

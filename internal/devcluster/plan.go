// Package devcluster is what `skein dev` does: a cluster of several nodes on
// one machine, each a process of its own, in one folder that is kept.
//
// It owns the folder's layout, the processes and what is told about them.
// Invariants: one run at a time uses a folder; no process outlives the run; a
// folder keeps the number of nodes and the ports that it was made with, since
// the nodes know each other by address.
//
// It must not import the engine: nodes are started as processes and asked over
// their HTTP API, as anyone could.
package devcluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
)

// Layout is what a folder keeps between runs.
type Layout struct {
	Nodes int `json:"nodes"`
	PG    int `json:"pg"`   // first of Nodes ports for PostgreSQL clients
	HTTP  int `json:"http"` // first of Nodes ports for HTTP
	Peer  int `json:"peer"` // first of Nodes ports between nodes
}

// DefaultLayout is that of a new folder.
var DefaultLayout = Layout{Nodes: 3, PG: 5441, HTTP: 8441, Peer: 6441}

// maxNodes bounds a cluster on one machine.
const maxNodes = 9

// layoutFile is in the cluster's folder.
const layoutFile = "dev.json"

// node is one node of the plan.
type node struct {
	index int
	name  string
	dir   string // of log, configuration and certificates; data is below it
	pg    string // addresses
	http  string
	peer  string
}

func (n node) data() string   { return filepath.Join(n.dir, "data") }
func (n node) certs() string  { return filepath.Join(n.dir, "certs") }
func (n node) config() string { return filepath.Join(n.dir, "skein.toml") }
func (n node) log() string    { return filepath.Join(n.dir, "node.log") }
func (n node) url() string    { return "http://" + n.http }

// validate says what is wrong with a layout.
func (l Layout) validate() error {
	if l.Nodes < 1 || l.Nodes > maxNodes {
		return base.Errorf(base.KindInvalid, "%d nodes: want 1 to %d", l.Nodes, maxNodes)
	}
	used := map[int]string{}
	for _, f := range l.families() {
		for port := f.first; port < f.first+l.Nodes; port++ {
			if port < 1 || port > 65535 {
				return base.Errorf(base.KindInvalid, "--%s %d: with %d nodes port %d is needed, and there is no such port", f.flag, f.first, l.Nodes, port)
			}
			if other, ok := used[port]; ok {
				return base.Errorf(base.KindInvalid, "port %d is needed for both --%s and --%s", port, other, f.flag)
			}
			used[port] = f.flag
		}
	}
	return nil
}

type family struct {
	flag  string
	first int
}

func (l Layout) families() []family {
	return []family{{"port", l.PG}, {"http", l.HTTP}, {"peer", l.Peer}}
}

func (l Layout) nodes(dir string) []node {
	nodes := make([]node, l.Nodes)
	for i := range nodes {
		name := fmt.Sprintf("n%d", i+1)
		nodes[i] = node{
			index: i, name: name, dir: filepath.Join(dir, name),
			pg: local(l.PG + i), http: local(l.HTTP + i), peer: local(l.Peer + i),
		}
	}
	return nodes
}

func local(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// Wish is what the command line asks for; zero fields ask for nothing.
type Wish Layout

// settle decides the layout of a folder: what it was made with, if it was, or
// else the wish over the defaults. A wish that contradicts the folder is
// refused.
func settle(made *Layout, wish Wish) (Layout, error) {
	if made == nil {
		l := DefaultLayout
		for _, f := range []struct {
			to   *int
			wish int
		}{{&l.Nodes, wish.Nodes}, {&l.PG, wish.PG}, {&l.HTTP, wish.HTTP}, {&l.Peer, wish.Peer}} {
			if f.wish != 0 {
				*f.to = f.wish
			}
		}
		return l, l.validate()
	}
	var against []string
	for _, f := range []struct {
		flag       string
		made, wish int
	}{{"nodes", made.Nodes, wish.Nodes}, {"port", made.PG, wish.PG}, {"http", made.HTTP, wish.HTTP}, {"peer", made.Peer, wish.Peer}} {
		if f.wish != 0 && f.wish != f.made {
			against = append(against, fmt.Sprintf("--%s %d", f.flag, f.made))
		}
	}
	if len(against) > 0 {
		return *made, base.Errorf(base.KindInvalid, "this folder was made with %s, which stays", strings.Join(against, " ")).
			WithHint("Leave the flags out to use it, or give another --dir for another cluster.")
	}
	return *made, made.validate()
}

// loadLayout reads what a folder was made with; nil when it is new.
func loadLayout(f env.FS, dir string) (*Layout, error) {
	data, err := f.ReadFile(filepath.Join(dir, layoutFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	l := new(Layout)
	if err := json.Unmarshal(data, l); err != nil {
		return nil, base.Errorf(base.KindInvalid, "%s: %v", filepath.Join(dir, layoutFile), err)
	}
	return l, nil
}

func saveLayout(f env.FS, dir string, l Layout) error {
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return env.WriteFile(f, dir, layoutFile, append(data, '\n'))
}

// configuration is the TOML of one node. join is empty for the node that
// founds the cluster.
func configuration(n node, join []string) string {
	quoted := make([]string, len(join))
	for i, address := range join {
		quoted[i] = quote(address)
	}
	return strings.Join([]string{
		"# Written by `skein dev` at every start.",
		"dir = " + quote(n.data()),
		"name = " + quote(n.name),
		"pg = " + quote(n.pg),
		"http = " + quote(n.http),
		"peer = " + quote(n.peer),
		"join = [" + strings.Join(quoted, ", ") + "]",
		"certs = " + quote(n.certs()),
		"trust_loopback = true",
		"",
	}, "\n")
}

// quote makes a TOML basic string.
func quote(s string) string {
	data, _ := json.Marshal(s) // TOML's escapes include all that JSON uses.
	return string(data)
}

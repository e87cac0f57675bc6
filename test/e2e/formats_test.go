package e2e

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/httpapi"
)

var formats = []string{"statement", "wal", "trigger", "row"}

// The format of the log changes while clients write through every node, and
// through a killed leader: no write is lost, twice, or an error. The log of every
// node shows the entries of all formats, and is sound.
func TestFormatsChangeUnderLoad(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	exec1(t, c.nodes[0].mustConnect("main"), ledgerTable)
	w := startWriters(t, "main", c.nodes...)
	w.progress(10)
	for _, format := range formats {
		mustRun(t, c.nodes[0].url(), "db", "alter", "main", "--log-format", format)
		w.progress(15)
	}
	for _, l := range w.ledgers {
		if err := l.lastError(); err != nil {
			t.Errorf("a change of the format failed a write through %s: %v", l.node.name, err)
		}
	}
	old := c.leader("main")
	old.kill()
	for _, format := range formats[:2] {
		mustRun(t, c.others(old)[0].url(), "db", "alter", "main", "--log-format", format)
		w.progress(5, c.others(old)...)
	}
	old.start()
	c.whole("main")
	w.progress(5)
	w.verify("main", c.nodes...)
	c.equal("main", 3)
	all := map[string]int{} // Replicas that were copied begin where their copy was made.
	for _, n := range c.nodes {
		kinds := map[string]int{}
		for _, e := range n.logOf("main") {
			kinds[e.Kind]++
			if e.Error != "" || len(e.Changes) == 0 && e.Operation != "" {
				t.Errorf("%s shows entry %s as %+v", n.name, e.Position, e)
			}
		}
		for _, kind := range append([]string{"epoch-start", "format"}, formats...) {
			all[kind] += kinds[kind]
		}
		if out := mustRun(t, n.url(), "log", "verify", "main"); !strings.Contains(out, "Everything is sound.") {
			t.Errorf("%s: %s", n.name, out)
		}
	}
	for kind, n := range all {
		if n == 0 {
			t.Errorf("no log shows an entry of kind %s: %v", kind, all)
		}
	}
}

// format changes the log's format, and waits until it counts and all replicas
// follow in it.
func (c *cluster) format(database, format string) {
	c.t.Helper()
	mustRun(c.t, c.nodes[0].url(), "db", "alter", database, "--log-format", format)
	eventually(c.t, patience, "log format "+format, func() error {
		counts := ""
		for _, e := range c.leader(database).logOf(database) {
			if e.Kind == "format" {
				counts = e.Note
			}
		}
		if !strings.Contains(counts, " is "+format+" ") {
			return errors.New("in the log: " + counts)
		}
		return nil
	})
	c.whole(database)
	c.equal(database, len(c.nodes))
}

// In every format what a client changed is told column by column, as it was and
// as it is, by the log and by the stream of changes.
func TestOldValuesOfEveryColumn(t *testing.T) {
	full(t)
	tool(t, "psql")
	c := startCluster(t, 3)
	c.nodes[0].mustPsql("main", "create table t(id integer primary key, a, b text, c blob); create table pair(x, y, v, primary key(x, y)) without rowid;")
	follower := c.others(c.leader("main"))[0]
	stories := []struct{ sql, log, change string }{
		{"insert into t values (1, 9007199254740993, 'kept', x'00ff')", `insert t  {"id":1}  new {"id":1,"a":{"int":"9007199254740993"},"b":"kept","c":{"blob":"AP8="}}`,
			`c t  {"id":1}  after {"id":1,"a":{"int":"9007199254740993"},"b":"kept","c":{"blob":"AP8="}}`},
		{"update t set a = 1.5 where id = 1", `update t  {"id":1}  old {"id":1,"a":{"int":"9007199254740993"},"b":"kept","c":{"blob":"AP8="}}  new {"id":1,"a":1.5,"b":"kept","c":{"blob":"AP8="}}`,
			`u t  {"id":1}  before {"id":1,"a":{"int":"9007199254740993"},"b":"kept","c":{"blob":"AP8="}}  after {"id":1,"a":1.5,"b":"kept","c":{"blob":"AP8="}}`},
		{"update t set id = 2, c = null where id = 1", `old {"id":1,"a":1.5,"b":"kept","c":{"blob":"AP8="}}  new {"id":2,"a":1.5,"b":"kept","c":null}`,
			`u t  {"id":1}  before {"id":1,"a":1.5,"b":"kept","c":{"blob":"AP8="}}  after {"id":2,"a":1.5,"b":"kept","c":null}`},
		{"insert into pair values (1, 'k', 'v')", `insert pair  {"x":1,"y":"k"}  new {"x":1,"y":"k","v":"v"}`, `c pair  {"x":1,"y":"k"}  after {"x":1,"y":"k","v":"v"}`},
		{"delete from pair", `delete pair  {"x":1,"y":"k"}  old {"x":1,"y":"k","v":"v"}`, `d pair  {"x":1,"y":"k"}  before {"x":1,"y":"k","v":"v"}`},
		{"delete from t", `delete t  {"id":2}  old {"id":2,"a":1.5,"b":"kept","c":null}`, `d t  {"id":2}  before {"id":2,"a":1.5,"b":"kept","c":null}`},
	}
	for _, format := range append(formats[:3:3], "row") {
		c.format("main", format)
		from := follower.position("main")
		tail := start(t, "tail", follower.url(), "cdc", "tail", "main", "--now", "--heartbeat", "100ms")
		follower.consumes("main")
		for _, s := range stories {
			follower.mustPsql("main", s.sql)
		}
		c.equal("main", 3)
		shown := mustRun(t, follower.url(), "log", "show", "main", "--from", from)
		for _, s := range stories {
			if !strings.Contains(shown, s.log) {
				t.Errorf("format %s: the log does not show %q", format, s.log)
			}
		}
		for _, s := range stories {
			tail.says(t, s.change)
		}
		tail.kill()
		if t.Failed() {
			t.Fatal(shown)
		}
	}
}

// position is how far a node's own replica has come.
func (n *node) position(database string) string {
	n.t.Helper()
	d, err := n.database(database)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, r := range d.Replicas {
		if r.NodeName == n.name {
			return r.Applied
		}
	}
	n.t.Fatalf("%s has no replica of %s", n.name, database)
	return ""
}

var errNobody = errors.New("nobody reads")

// consumes waits until somebody reads a node's stream of changes.
func (n *node) consumes(database string) {
	n.t.Helper()
	eventually(n.t, patience, "a consumer at "+n.name, func() error {
		d, err := n.database(database)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(d.Replicas, func(r httpapi.ReplicaStatus) bool { return r.NodeName == n.name && len(r.Consumers) > 0 }) {
			return errNobody
		}
		return nil
	})
}

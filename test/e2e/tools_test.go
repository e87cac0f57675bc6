package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/httpapi"
)

// The tools as a script uses them: SQL from a pipe, a snapshot that the plain
// shell opens, a status whose JSON has what it always had.
func TestToolsInScripts(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	env := c.nodes[1].url()
	out, errs, err := run("create table t(id integer primary key, v text);\ninsert into t(v) values('a;b'), ('c');\nselect id, v from t\n order by id;\n", env, "sql", "main")
	if err != nil || !strings.Contains(out, "a;b") {
		t.Errorf("sql from a pipe: %v\n%s%s", err, out, errs)
	}
	out, errs, err = run("select 1;\nselect nonsense;\nselect 3;\n", env, "sql", "main")
	if err == nil || strings.Contains(out, "3") || !strings.Contains(errs, "line 2") {
		t.Errorf("a script with an error: %v\n%s%s", err, out, errs)
	}
	t.Logf("a script with an error: %s", errs)
	checkSnapshot(t, env)
	checkStatus(t, c, env)
	// What does not work says what to do.
	for _, args := range [][]string{
		{"status", "--url", "http://127.0.0.1:1"}, {"db", "create", "main"}, {"sql", "nowhere"}, {"switchover", "main", "--to", "n9"},
		{"db", "create", "x", "--from", "/nowhere.db"}, {"node", "remove", "n2"}, {"db", "drop", "main"}, {"serve"}, {"nonsense"},
	} {
		out, errs, err := run("select 1;", env, args...)
		if err == nil || !strings.HasPrefix(errs, "Error: ") || strings.Contains(errs, "panic") {
			t.Errorf("%v: %v\n%s%s", args, err, out, errs)
		}
		t.Logf("skein %s\n%s", strings.Join(args, " "), errs)
	}
}

func checkSnapshot(t *testing.T, env []string) {
	t.Helper()
	file := filepath.Join(tempDir(t), "copy.sqlite")
	t.Logf("%s", mustRun(t, env, "snapshot", "main", file))
	shell := tool(t, "sqlite3")
	plain, errs, err := runProgram(shell, "pragma integrity_check; select count(*) from t;", nil, file)
	if err != nil || plain != "ok\n2\n" {
		t.Errorf("sqlite3 on the snapshot: %v %q %s", err, plain, errs)
	}
	if _, errs, err := run("", env, "snapshot", "main", file); err == nil || !strings.Contains(errs, "--force") {
		t.Errorf("a file that is there: %v %s", err, errs)
	}
	left, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func checkStatus(t *testing.T, c *cluster, env []string) {
	t.Helper()
	text := mustRun(t, env, "status", "--json")
	var s httpapi.Status
	if err := json.Unmarshal([]byte(text), &s); err != nil || len(s.Nodes) != 3 || len(s.Databases) != 1 || len(s.Databases[0].Replicas) != 3 || len(s.Alerts) != 0 {
		t.Errorf("status --json: %v\n%s", err, text)
	}
	var keys map[string]any
	if err := json.Unmarshal([]byte(text), &keys); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"cluster", "nodes", "databases", "alerts"} {
		if keys[key] == nil {
			t.Errorf("status --json has no %s", key)
		}
	}
	dead := c.others(c.leader("main"))[0]
	dead.kill()
	asked := c.others(dead)[0]
	eventually(t, patience, "an alert of a dead node", func() error { return hasAlert(asked, httpapi.AlertNodeUnreachable, true) })
	t.Logf("%s", mustRun(t, asked.url(), "status"))
	dead.start()
	c.whole("main")
}

// After a failover that lost what an asynchronous leader had told nobody, the
// lost rows are listed.
func TestLostTailIsListed(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	mustRun(t, c.nodes[0].url(), "db", "alter", "main", "--durability", "async", "--allow-loss")
	old := c.leader("main")
	conn := old.mustConnect("main")
	exec1(t, conn, "create table t(id integer primary key, v text)")
	exec1(t, conn, "insert into t values(1, 'kept')")
	c.equal("main", 3)
	live := c.others(old)
	// The followers are dead when the leader takes one write more, which it
	// acknowledges, within its lease, and takes into its grave.
	for _, n := range live {
		n.signal(syscall.SIGKILL)
	}
	_, err := conn.Exec(background(t), "insert into t values(2, 'lost')")
	old.kill()
	for _, n := range live {
		n.kill()
		n.start()
	}
	if err != nil {
		t.Logf("the last write: %v", err)
	}
	eventually(t, patience, "a new leader", func() error {
		_, err := live[0].psql("main", "insert into t values(3, 'after')")
		return err
	})
	old.start()
	c.whole("main")
	c.equal("main", 3)
	reader := live[0].mustConnect("main")
	rows := value(t, reader, "select group_concat(id, ',') from t")
	list := mustRun(t, live[1].url(), "orphans", "list", "main")
	t.Logf("rows %s\n%s", rows, list)
	if strings.Contains(rows, "2") {
		t.Skip("the write had reached a follower before it died; nothing was lost")
	}
	if !strings.Contains(list, "lost") {
		t.Errorf("the lost row is not listed:\n%s", list)
	}
	eventually(t, patience, "an alert of undone rows", func() error { return hasAlert(live[0], httpapi.AlertOrphans, true) })
}

// Clocks that are an hour apart change nothing that a user was promised.
func TestClocksAnHourApart(t *testing.T) {
	full(t)
	c := newCluster(t, 3)
	for i, offset := range []time.Duration{0, time.Hour, -time.Hour} {
		c.nodes[i].env = []string{"SKEIN_TEST_CLOCK_OFFSET=" + offset.String()}
	}
	c.startAll()
	exec1(t, c.nodes[0].mustConnect("main"), ledgerTable)
	w := startWriters(t, "main", c.nodes...)
	w.progress(10)
	old := c.leader("main")
	old.kill()
	w.progress(5, c.others(old)...)
	old.start()
	c.whole("main")
	w.progress(5)
	for _, n := range c.nodes {
		conn := n.mustConnect("main")
		exec1(t, conn, "set skein.read = 'bounded(5s)'")
		if value(t, conn, "select count(*) from ledger") == "0" {
			t.Errorf("a bounded read at %s sees nothing", n.name)
		}
		t.Logf("%s: %s", n.name, value(t, conn, "show skein.last_read"))
	}
	w.verify("main", c.nodes...)
	c.equal("main", 3)
	for _, n := range c.nodes {
		if !strings.Contains(n.output.String(), "SKEIN_TEST_CLOCK_OFFSET") && n != c.nodes[0] {
			t.Errorf("%s does not say that its clock is set off", n.name)
		}
	}
}

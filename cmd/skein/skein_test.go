package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/config"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/golden"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/httpapi/httpapitest"
	"github.com/skeindb/skein/internal/jsonvalue"
)

// world is an app in a test: a fake cluster, captured output, no terminal.
type world struct {
	t    *testing.T
	app  *app
	node *httpapitest.Node
	vars map[string]string
	out  bytes.Buffer
	err  bytes.Buffer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, node: httpapitest.NewNode(), vars: map[string]string{}}
	e := env.Real(slog.New(slog.DiscardHandler))
	api, err := httpapi.New(e, httpapi.Options{
		Node: w.node, Gateway: &httpapitest.Gateway{Node: w.node}, Registry: prometheus.NewRegistry(), TrustLoopback: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(api)
	t.Cleanup(s.Close)
	w.vars["SKEIN_URL"] = s.URL
	w.app = &app{
		in: strings.NewReader(""), out: &w.out, err: &w.err, env: e, signals: make(chan os.Signal, 2),
		lookupEnv: func(k string) (string, bool) { v, ok := w.vars[k]; return v, ok },
	}
	return w
}

// run runs a command line with an input and wants an exit status.
func (w *world) run(status int, input string, args ...string) string {
	w.t.Helper()
	w.out.Reset()
	w.err.Reset()
	w.app.in = strings.NewReader(input)
	w.app.url, w.app.user, w.app.password, w.app.json = "", "", "", false
	if got := w.app.run(w.t.Context(), args); got != status {
		w.t.Fatalf("skein %s: exit status %d, want %d\n%s%s", strings.Join(args, " "), got, status, &w.out, &w.err)
	}
	return w.out.String()
}

func TestStatus(t *testing.T) {
	w := newWorld(t)
	golden.Check(t, "testdata/status.txt", w.run(0, "", "status"))
	w.node.Members[2].Reachable, w.node.Members[2].Error = false, "connection refused"
	w.node.Databases[0].Leader = ""
	w.node.Alerts = []httpapi.Alert{
		{Severity: httpapi.Critical, Kind: httpapi.AlertNoLeader, Database: "main", Message: "main has no leader: it accepts no writes"},
		{Severity: httpapi.Warning, Kind: httpapi.AlertNodeUnreachable, Message: "n3 does not answer"},
	}
	golden.Check(t, "testdata/status-trouble.txt", w.run(0, "", "status"))
	if out := w.run(0, "", "status", "--json"); !strings.Contains(out, `"kind": "no_leader"`) {
		t.Errorf("JSON: %s", out)
	}
	w.app.outTerminal = true
	if out := w.run(0, "", "status"); !strings.Contains(out, "\x1b[31mcritical\x1b[0m") {
		t.Errorf("no colour on a terminal: %q", out)
	}
	w.vars["NO_COLOR"] = "1"
	if out := w.run(0, "", "status"); strings.Contains(out, "\x1b") {
		t.Errorf("colour against NO_COLOR: %q", out)
	}
}

func TestStatusWatch(t *testing.T) {
	w := newWorld(t)
	seen := make(chan struct{})
	w.app.out = writerFunc(func(p []byte) (int, error) {
		if w.out.Write(p); strings.Count(w.out.String(), "No alerts.") == 2 {
			close(seen)
			w.app.out = io.Discard
		}
		return len(p), nil
	})
	go func() { <-seen; w.app.signals <- os.Interrupt }()
	if status := w.app.run(t.Context(), []string{"status", "--watch", "--every", "100ms"}); status != 0 {
		t.Errorf("exit status %d: %s", status, &w.err)
	}
	if strings.Contains(w.out.String(), "\x1b") {
		t.Errorf("escapes without a terminal: %q", &w.out)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// The help of every command is a golden file, and has an example unless it
// only groups others.
func TestHelp(t *testing.T) {
	w := newWorld(t)
	var all strings.Builder
	var visit func(c *cobra.Command, path []string)
	visit = func(c *cobra.Command, path []string) {
		if c.Name() == "help" || c.Hidden {
			return
		}
		fmt.Fprintf(&all, "==== skein %s\n%s\n", strings.Join(path, " "), w.run(0, "", append(path, "--help")...))
		if len(c.Commands()) == 0 && c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			visit(sub, append(append([]string(nil), path...), sub.Name()))
		}
	}
	visit(w.app.root(), nil)
	golden.Check(t, "testdata/help.txt", all.String())
}

func TestUsageErrors(t *testing.T) {
	w := newWorld(t)
	for line, want := range map[string]string{
		"frobnicate":                      "unknown command",
		"db frobnicate":                   "unknown command",
		"db create":                       "NAME is missing",
		"db create a b":                   "unexpected argument \"b\"",
		"user grant ann":                  "RIGHT and DATABASE is missing",
		"status --frob":                   "unknown flag: --frob",
		"db alter main":                   "nothing to change",
		"cert node --ca x":                "required flag",
		"sql main --mode xml":             "want table, csv, line or json",
		"db create x --retention 5parsec": "want a size such as 64MiB",
	} {
		w.run(2, "", strings.Fields(line)...)
		if got := w.err.String(); !strings.HasPrefix(got, "Error: ") || !strings.Contains(got, want) || !strings.Contains(got, "--help`.") {
			t.Errorf("%s: %q", line, got)
		}
	}
	if len(w.node.Calls) > 0 {
		t.Errorf("a wrong command line reached the node: %v", w.node.Calls)
	}
}

func TestErrorsShowOutcomeAndHint(t *testing.T) {
	w := newWorld(t)
	w.node.Fail["DropDatabase"] = base.Errorf(base.KindIndeterminate, "the control leader went away").WithOutcome(base.Indeterminate).WithHint("Look again.")
	w.run(1, "", "db", "drop", "main", "--yes")
	want := "Error: the control leader went away\n  Outcome: indeterminate; it may have been done, or not\n  Hint: Look again.\n"
	if w.err.String() != want {
		t.Errorf("got %q, want %q", &w.err, want)
	}
}

func TestDatabaseCommands(t *testing.T) {
	w := newWorld(t)
	steps := []struct {
		want string
		args []string
	}{
		{"Database shop is made.\n", []string{"db", "create", "shop", "--durability", "one received", "--retention", "64MiB", "--degrade-after", "5s"}},
		{"DATABASE  LEADER  EPOCH  NODES     POLICY\nmain      n2      3      n1 n2 n3  on every node, durability quorum, log format row\nshop      n1      1      n1        on every node, durability one received, log format row, degrades after 5s\n", []string{"db", "list"}},
		{"Database shop: 2 replicas, durability one received, log format row, degrades after 5s, failover may lose writes.\n", []string{"db", "alter", "shop", "--replicas", "2", "--allow-loss"}},
		{"{\n  \"done\": true\n}\n", []string{"db", "drop", "shop", "--yes", "--json"}},
		{"n1 leads main now.\n", []string{"switchover", "main", "--to", "n1"}},
		{"n3 leads main now.\n", []string{"switchover", "main"}},
	}
	for _, s := range steps {
		if got := w.run(0, "", s.args...); got != s.want {
			t.Errorf("%v: got %q, want %q", s.args, got, s.want)
		}
	}
	if p := w.node.Databases; len(p) != 1 {
		t.Errorf("%d databases left", len(p))
	}
	w.run(1, "", "switchover", "main", "--to", "n9")
	w.run(1, "", "db", "create", "x", "--durability", "most")
}

// What is done and not in force everywhere is said, apart from the answer.
func TestNoticesAreShown(t *testing.T) {
	w := newWorld(t)
	w.node.Notice = "n3 has not heard of it yet"
	if got := w.run(0, "", "db", "alter", "main", "--durability", "all", "--json"); strings.Contains(got, "n3") {
		t.Errorf("in the answer: %s", got)
	}
	if want := "Done; n3 has not heard of it yet.\n"; w.err.String() != want {
		t.Errorf("got %q, want %q", &w.err, want)
	}
	w.node.Notice = ""
	w.run(0, "", "db", "alter", "main", "--durability", "all")
	if w.err.Len() > 0 {
		t.Errorf("without a notice: %q", &w.err)
	}
}

func TestDestructionIsConfirmed(t *testing.T) {
	w := newWorld(t)
	w.run(1, "main\n", "db", "drop", "main") // Not a terminal: nobody can be asked.
	if !strings.Contains(w.err.String(), "--yes") {
		t.Errorf("got %q", &w.err)
	}
	w.app.inTerminal = true
	w.run(1, "mian\n", "db", "drop", "main")
	if len(w.node.Databases) != 1 || !strings.Contains(w.err.String(), "not confirmed; nothing was changed") {
		t.Errorf("%d databases, %q", len(w.node.Databases), &w.err)
	}
	w.run(0, "main\n", "db", "drop", "main")
	w.run(0, "n3\n", "node", "remove", "n3")
	if len(w.node.Databases) != 0 || len(w.node.Members) != 2 {
		t.Errorf("%d databases, %d nodes", len(w.node.Databases), len(w.node.Members))
	}
}

func TestVerify(t *testing.T) {
	w := newWorld(t)
	hash := func(node, position, hash string) httpapi.ReplicaHash {
		return httpapi.ReplicaHash{NodeName: node, Position: position, Hash: hash}
	}
	w.node.Hashes = []httpapi.ReplicaHash{hash("n1", "3/9", "abc"), hash("n2", "3/9", "abc")}
	if got := w.run(0, "", "db", "verify", "main"); got != "REPLICA  POSITION  HASH\nn1       3/9       abc\nn2       3/9       abc\nAll replicas are equal.\n" {
		t.Errorf("got %q", got)
	}
	w.node.Hashes[1] = hash("n2", "3/10", "abc")
	w.run(1, "", "db", "verify", "main")
	if !strings.Contains(w.err.String(), "could be compared") {
		t.Errorf("got %q", &w.err)
	}
	w.node.Hashes[1] = hash("n2", "3/9", "xyz")
	w.run(1, "", "db", "verify", "main", "--json")
	if !strings.Contains(w.err.String(), "differ at the same position") || !strings.Contains(w.out.String(), `"verdict": "different"`) {
		t.Errorf("got %q, %q", &w.out, &w.err)
	}
}

func TestUserCommands(t *testing.T) {
	w := newWorld(t)
	w.run(0, "secret one\n", "user", "add", "ann")
	w.run(0, "", "user", "grant", "ann", "write", "main")
	w.run(0, "", "user", "grant", "ann", "read", "*")
	if got := w.run(0, "", "user", "list"); got != "USER  RIGHTS\nann   write on main, read on *\n" {
		t.Errorf("got %q", got)
	}
	w.run(1, "", "user", "grant", "ann", "own", "main")
	w.run(0, "", "user", "revoke", "ann", "*")
	if w.node.Passwords["ann"] != "secret one" {
		t.Errorf("password %q", w.node.Passwords["ann"])
	}
	w.run(1, "\n", "user", "password", "ann")
	w.app.inTerminal = true
	answers := []string{"a", "b", "new", "new"}
	w.app.readPassword = func() ([]byte, error) { p := answers[0]; answers = answers[1:]; return []byte(p), nil }
	w.run(1, "", "user", "password", "ann")
	if !strings.Contains(w.err.String(), "differ") {
		t.Errorf("got %q", &w.err)
	}
	w.run(0, "", "user", "password", "ann")
	if w.node.Passwords["ann"] != "new" || strings.Contains(w.out.String()+w.err.String(), "new\n") {
		t.Errorf("password %q, output %q %q", w.node.Passwords["ann"], &w.out, &w.err)
	}
	w.run(0, "", "user", "drop", "ann")
}

func TestNodeCommands(t *testing.T) {
	w := newWorld(t)
	golden.Check(t, "testdata/node-list.txt", w.run(0, "", "node", "list"))
	golden.Check(t, "testdata/node-join-local.txt", w.run(0, "", "node", "join"))
	for i := range w.node.Members {
		w.node.Members[i].PeerAddress = fmt.Sprintf("10.0.0.%d:6441", i+1)
	}
	golden.Check(t, "testdata/node-join-remote.txt", w.run(0, "", "node", "join", "--name", "it's", "--host", "db4.example"))
}

func TestOrphans(t *testing.T) {
	w := newWorld(t)
	if got := w.run(0, "", "orphans", "list", "main"); got != "No write of main was undone.\n" {
		t.Errorf("got %q", got)
	}
	w.node.Undone = []httpapi.Orphan{{
		Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Acknowledged: "yes", Epoch: 2, Seq: 7, Table: "t", Op: "update",
		Key: changefeed.Row{{Name: "id", Value: base.IntValue(1)}}, Old: changefeed.Row{{Name: "v", Value: base.TextValue("a")}}, New: changefeed.Row{{Name: "v", Value: base.TextValue("b")}},
	}}
	want := "WRITTEN                   ACKNOWLEDGED  EPOCH  SEQ  TABLE  OP      KEY       OLD        NEW\n2026-01-02 03:04:05.000Z  yes           2      7    t      update  {\"id\":1}  {\"v\":\"a\"}  {\"v\":\"b\"}\n"
	if got := w.run(0, "", "orphans", "list", "main"); got != want {
		t.Errorf("got %q", got)
	}
}

// sqliteFile makes a database file; wal leaves changes in a -wal beside it.
func sqliteFile(t *testing.T, path, sql string) {
	t.Helper()
	db, err := sqlite3.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Exec(sql); err != nil {
		t.Fatal(err)
	}
}

func TestCreateFromAFile(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	good := filepath.Join(dir, "good.db")
	sqliteFile(t, good, "CREATE TABLE t(x); INSERT INTO t VALUES (1)")
	if got := w.run(0, "", "db", "create", "copy", "--from", good); !strings.HasPrefix(got, "Database copy is made from "+good+" (8.0 KiB)") {
		t.Errorf("got %q", got)
	}
	if data, _ := os.ReadFile(good); !bytes.Equal(data, w.node.Imported) {
		t.Errorf("%d bytes arrived of %d", len(w.node.Imported), len(data))
	}
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	page, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	withWAL, withJournal := write("it's wal.db", string(page)), write("journal.db", string(page))
	write("it's wal.db-wal", "frames")
	write("journal.db-journal", "pages")
	for path, want := range map[string]string{
		filepath.Join(dir, "none.db"):                  "no such file",
		write("empty.db", ""):                          "is empty",
		write("text.db", strings.Repeat("hello ", 50)): "is no SQLite database",
		write("short.db", "SQLite format 3\x00"):       "is no SQLite database",
		write("cut.db", string(page[:5000])):           "is cut short",
		withWAL:                                        `it'\''s wal.db' 'PRAGMA wal_checkpoint(TRUNCATE);'`,
		withJournal:                                    "journal.db 'SELECT count(*) FROM sqlite_schema;'",
	} {
		w.run(1, "", "db", "create", "x", "--from", path)
		if !strings.Contains(w.err.String(), want) {
			t.Errorf("%s: got %q, want %q", path, &w.err, want)
		}
	}
	if n := len(w.node.Databases); n != 2 {
		t.Errorf("%d databases", n)
	}
}

// The command that a hint tells to run does what the hint says.
func TestTheCheckpointHintHelps(t *testing.T) {
	tool, err := exec.LookPath("sqlite3")
	if err != nil {
		t.Skip("the sqlite3 shell is not installed")
	}
	path := filepath.Join(t.TempDir(), "wal.db")
	db, err := sqlite3.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Exec("PRAGMA journal_mode=wal; CREATE TABLE t(x)"); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	w.run(1, "", "db", "create", "x", "--from", path)
	if out, err := exec.Command(tool, path, "PRAGMA wal_checkpoint(TRUNCATE);").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w.run(0, "", "db", "create", "x", "--from", path)
}

func TestSnapshot(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	source, target := filepath.Join(dir, "source.db"), filepath.Join(dir, "backup.db")
	sqliteFile(t, source, "PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES (42); PRAGMA wal_checkpoint(TRUNCATE)")
	var err error
	if w.node.File, err = os.ReadFile(source); err != nil {
		t.Fatal(err)
	}
	if got := w.run(0, "", "snapshot", "main", target); got != target+" holds database main at position 3/100 (8.0 KiB, checked).\n" {
		t.Errorf("got %q", got)
	}
	if data, err := os.ReadFile(target); err != nil || !bytes.Equal(data, w.node.File) {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	w.run(1, "", "snapshot", "main", target)
	if !strings.Contains(w.err.String(), "is there already") {
		t.Errorf("got %q", &w.err)
	}
	w.run(0, "", "snapshot", "main", target, "--force", "--json")
	if !regexp.MustCompile(`"position": "3/100"`).MatchString(w.out.String()) {
		t.Errorf("got %q", &w.out)
	}
	other := filepath.Join(dir, "other.db")
	for name, damage := range map[string]func([]byte) []byte{
		"no database": func([]byte) []byte { return bytes.Repeat([]byte("x"), 8192) },
		"half":        func(b []byte) []byte { return b[:4096] },
		"scrambled": func(b []byte) []byte {
			return append(append([]byte(nil), b[:4096]...), bytes.Repeat([]byte("\xff"), 4096)...)
		},
	} {
		whole := w.node.File
		w.node.File = damage(whole)
		w.run(1, "", "snapshot", "main", other)
		w.node.File = whole
		if _, err := os.Stat(other); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the file is there", name)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.part*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestCertificates(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	ca, certs := filepath.Join(dir, "ca"), filepath.Join(dir, "n1")
	if got := w.run(0, "", "cert", "ca", ca); !strings.Contains(got, "ca.key is secret") {
		t.Errorf("got %q", got)
	}
	w.run(1, "", "cert", "ca", ca) // Never overwritten.
	w.run(0, "", "cert", "node", "--ca", ca, "--out", certs, "--host", "db1", "--id", "a1")
	w.run(0, "", "cert", "server", "--ca", ca, "--out", certs, "--host", "db1")
	out := w.run(0, "", "cert", "show", certs)
	for _, want := range []string{"ca.crt", "node.pem", "server.pem"} {
		if !strings.Contains(out, want) {
			t.Errorf("%s is not shown: %s", want, out)
		}
	}
}

// fakeNode is a node that serve runs.
type fakeNode struct {
	done   chan struct{}
	err    error
	closed bool
}

func (n *fakeNode) Done() <-chan struct{} { return n.done }
func (n *fakeNode) Err() error            { return n.err }
func (n *fakeNode) Close() error          { n.closed = true; return nil }

func TestServe(t *testing.T) {
	w := newWorld(t)
	node := &fakeNode{done: make(chan struct{})}
	var got *config.Serve
	real := openNode
	defer func() { openNode = real }()
	openNode = func(_ context.Context, _ *env.Env, c *config.Serve) (runningNode, error) {
		got = c
		w.app.signals <- os.Interrupt
		return node, nil
	}
	file := filepath.Join(t.TempDir(), "skein.toml")
	if err := os.WriteFile(file, []byte("dir = \"/data/x\"\ninsecure = true\npg = \"127.0.0.1:1\"\nhttp = \"127.0.0.1:1\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.vars["SKEIN_CONFIG"], w.vars["SKEIN_PG"], w.vars["SKEIN_HTTP"] = file, "127.0.0.1:2", "127.0.0.1:2"
	w.run(0, "", "serve", "--pg", "127.0.0.1:3", "--log-format", "json")
	if got.Dir != "/data/x" || got.PG != "127.0.0.1:3" || got.HTTP != "127.0.0.1:2" || !node.closed {
		t.Errorf("settings %+v, closed %v", got, node.closed)
	}
	if !strings.Contains(w.err.String(), `"msg":"node serves"`) {
		t.Errorf("log %q", &w.err)
	}
	broken := &fakeNode{done: make(chan struct{}), err: base.Errorf(base.KindCorrupt, "the log is damaged")}
	close(broken.done)
	openNode = func(context.Context, *env.Env, *config.Serve) (runningNode, error) { return broken, nil }
	w.run(1, "", "serve")
	if !strings.Contains(w.err.String(), "Error: the log is damaged") || !broken.closed {
		t.Errorf("got %q", &w.err)
	}
	w.run(1, "", "serve", "--peer", "0.0.0.0:1")
	if !strings.Contains(w.err.String(), "insecure is for one machine") {
		t.Errorf("got %q", &w.err)
	}
}

func TestSQLFindsItsAddress(t *testing.T) {
	w := newWorld(t)
	w.node.Members[0].PGAddress = "0.0.0.0:5999"
	client, err := w.app.client()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if address, err := w.app.discover(t.Context(), client); err != nil || address != "127.0.0.1:5999" {
		t.Errorf("%s, %v", address, err)
	}
	w.vars["SKEIN_USER"], w.vars["SKEIN_PASSWORD"] = "a@b", "p:/w"
	c, err := w.app.connection("[::1]:5441", "my/db ü")
	if err != nil || c.Host != "::1" || c.Port != 5441 || c.Database != "my/db ü" || c.User != "a@b" || c.Password != "p:/w" {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := w.app.connection("5441", "x"); err == nil {
		t.Error("an address without a host is taken")
	}
}

func TestLog(t *testing.T) {
	w := newWorld(t)
	w.node.Log = []httpapi.LogEntry{
		{Position: "3/8", Epoch: 3, First: 7, Last: 8, Time: time.Unix(1, 5e6).UTC(), Kind: "row", Operation: "op-01", Safe: true, Changes: []httpapi.LogChange{
			{Seq: 7, Op: "schema", SQL: "CREATE TABLE t(a)"},
			{Seq: 8, Op: "update", Table: "t", Key: changefeed.Row{{Name: "rowid", Value: base.IntValue(1)}},
				Old: changefeed.Row{{Name: "a", Value: base.Value{}}}, New: changefeed.Row{{Name: "a", Value: base.RealValue(1)}}},
		}},
		{Position: "3/9", Time: time.Unix(2, 0).UTC(), Kind: "row", Error: "no sense"},
		{Position: "3/10", Time: time.Unix(3, 0).UTC(), Kind: "format", Note: "the log format is statement from here on", Safe: true},
		{Position: "3/12", Time: time.Unix(4, 0).UTC(), Kind: "statement", Safe: true, Statements: []httpapi.LogStatement{
			{SQL: "UPDATE t SET a = random() WHERE a > ?1", Args: []jsonvalue.Value{jsonvalue.Value(base.IntValue(5))}, Outside: "seed 0102"},
		}},
		{Position: "3/13", Time: time.Unix(5, 0).UTC(), Kind: "statement", Safe: true, Reason: "LIMIT without ORDER BY"},
	}
	w.node.LogReport = httpapi.LogReport{Database: "main", Sound: true, Segments: 1, Entries: 2, First: 7, End: "3/9"}
	golden.Check(t, "testdata/log.txt", w.run(0, "", "log", "show", "main", "--from", "3/7", "--table", "t"))
	if got := w.node.Calls[len(w.node.Calls)-1]; got != "ShowLogmain{7 0 [t] 0 false}" {
		t.Errorf("asked %s", got)
	}
	w.run(0, "", "log", "unsafe", "main", "--limit", "4")
	if got := w.node.Calls[len(w.node.Calls)-1]; got != "ShowLogmain{0 0 [] 4 true}" {
		t.Errorf("asked %s", got)
	}
	if got := w.run(0, "", "log", "show", "main", "--json"); strings.Count(got, "\n") != 5 || !strings.Contains(got, `"new":{"a":1.0}`) {
		t.Errorf("JSON: %s", got)
	}
	if got := w.run(0, "", "log", "verify", "main"); !strings.Contains(got, "Everything is sound.") {
		t.Errorf("got %s", got)
	}
	w.node.LogReport.Sound, w.node.LogReport.Found = false, 1
	w.node.LogReport.Faults = []httpapi.LogFault{{Segment: 4, Offset: 8200, After: "3/7", Reason: "rust"}}
	for _, verb := range []string{"show", "verify"} {
		if w.run(1, "", "log", verb, "main"); !strings.Contains(w.err.String(), "segment 4, byte 8200, after 3/7: rust") {
			t.Errorf("%s: %s", verb, &w.err)
		}
	}
	w.run(1, "", "log", "show", "main", "--from", "x")
	w.run(1, "", "log", "show", "main", "--dir", t.TempDir())
}

func TestVersion(t *testing.T) {
	w := newWorld(t)
	if got := w.run(0, "", "version"); !strings.HasPrefix(got, "skein "+version+" (go1.") {
		t.Errorf("got %q", got)
	}
	w.run(0, "", "version", "--json")
}

func TestDevKeepsSettingsFromItsNodes(t *testing.T) {
	got := withoutSettings([]string{"HOME=/h", "SKEIN_DIR=/d", "SKEIN_URL=x", "PATH=/p"})
	if fmt.Sprint(got) != "[HOME=/h PATH=/p]" {
		t.Errorf("got %v", got)
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "100": 100, "1K": 1024, "64MiB": 64 << 20, "2 GB": 2 << 30} {
		if got, err := parseBytes(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1.5G", "1X", "99999999999T"} {
		if n, err := parseBytes(text); err == nil {
			t.Errorf("%q: %d", text, n)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 3 << 30: "3.0 GiB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
	for s, want := range map[float64]string{0: "0s", 0.15: "150ms", 3.14159: "3.1s", 3725: "1h2m5s", 3600: "1h0m"} {
		if got := seconds(s); got != want {
			t.Errorf("%v: %s, want %s", s, got, want)
		}
	}
}

func TestCDCWebhooks(t *testing.T) {
	w := newWorld(t)
	if got := w.run(0, "", "cdc", "webhook", "list", "main"); got != "main has no webhooks.\n" {
		t.Errorf("got %q", got)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("hidden\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := w.run(0, "", "cdc", "webhook", "add", "main", "audit", "http://host/", "--table", "t"); !strings.HasPrefix(got, "The secret, which is not shown again: drawn\nWebhook audit is added.") {
		t.Errorf("got %q", got)
	}
	if got := w.run(0, "", "cdc", "webhook", "add", "main", "more", "http://host/", "--snapshot", "--secret-file", secret); strings.Contains(got, "secret") {
		t.Errorf("got %q", got)
	}
	if call := w.node.Calls[len(w.node.Calls)-1]; !strings.Contains(call, "snapshot") || !strings.Contains(call, "hidden") || strings.Contains(call, "\n") {
		t.Errorf("asked %q", call)
	}
	want := "NAME   URL           TABLES  DELIVERED TO  LAG  BY  LAST ERROR\n" +
		"audit  http://host/  t       1/7           3    n1  answered 500 (for 1m30s)\n" +
		"more   http://host/  all     1/7           3    n1  answered 500 (for 1m30s)\n"
	if got := w.run(0, "", "cdc", "webhook", "list", "main"); got != want {
		t.Errorf("got\n%s", got)
	}
	if got := w.run(0, "", "cdc", "webhook", "list", "main", "--json"); !strings.Contains(got, `"lag_seqs": 3`) {
		t.Errorf("got %s", got)
	}
	if got := w.run(0, "", "cdc", "webhook", "drop", "main", "audit"); got != "Webhook audit of main is dropped.\n" {
		t.Errorf("got %q", got)
	}
	w.run(1, "", "cdc", "webhook", "add", "main", "audit", "http://host/", "--secret-file", filepath.Join(t.TempDir(), "none"))
	w.run(2, "", "cdc", "webhook", "add", "main")
}

// TestCDCTail prints events, keeps the offset of the last one, and says when a
// stream can't go on.
func TestCDCTail(t *testing.T) {
	w := newWorld(t)
	at := func(seq base.Seq) changefeed.Offset {
		return changefeed.Offset{Database: 1, Position: base.Position{Epoch: 3, Seq: seq}, Entry: seq + 1}
	}
	row := changefeed.Row{{Name: "a", Value: base.RealValue(2)}}
	w.node.Events = []changefeed.Event{
		{Op: changefeed.Create, Table: "t", Key: row, After: row, Position: at(1).Position, Offset: at(1)},
		{Op: changefeed.Schema, SQL: "drop table t;", Position: at(2).Position, Offset: at(2)},
		{Op: changefeed.Heartbeat, Position: at(9).Position, Offset: at(9)},
	}
	w.node.Fail["Changes"] = base.Errorf(base.KindHistoryLost, "undone").WithHint("begin anew")
	file := filepath.Join(t.TempDir(), "offset")
	got := w.run(1, "", "cdc", "tail", "main", "--offset-file", file)
	if want := "3/1  c t  {\"a\":2.0}  after {\"a\":2.0}\n3/2  drop table t;\n"; got != want || !strings.Contains(w.err.String(), "begin anew") {
		t.Errorf("got %q, %s", got, &w.err)
	}
	if kept, err := os.ReadFile(file); err != nil || string(kept) != at(9).String()+"\n" {
		t.Errorf("kept %q, %v", kept, err)
	}
	w.node.Events = w.node.Events[:1]
	w.run(0, "", "cdc", "tail", "main", "--offset-file", file, "--limit", "1", "--json", "--table", "t")
	if call := w.node.Calls[len(w.node.Calls)-1]; !strings.Contains(call, at(9).String()) || !strings.Contains(call, "[t]") {
		t.Errorf("asked %s", call)
	}
	w.run(2, "", "cdc", "tail")
}

package e2e

import (
	"context"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/sqlite"
)

// outsideStory asks for everything that SQLite offers from outside: in
// statements, defaults, triggers and views. No two executions would do the same.
const outsideStory = `
create view lately as select datetime('now', '-1 hour') as since;
create table t(id integer primary key, chance default (random()), at default current_timestamp, day default current_date, a, b);
create table audit(id integer primary key autoincrement, what, at default (strftime('%Y-%m-%d %H:%M:%f', 'now')), chance);
create trigger tell after insert on t begin insert into audit(what, chance) values ('new ' || new.id, hex(randomblob(8)))\; end;
insert into t(a, b) values (randomblob(16), datetime('now'));
insert into t(a, b) select random(), julianday('now') from (values (1), (2), (3));
insert into t(id, a, b) values (abs(random() % 1000000) + 10, unixepoch('subsec'), (select since from lately));
update t set a = random() where id > 1;
insert into t(a, b) values (changes(), last_insert_rowid());
begin;
insert into t(a) values ('one'), ('two');
update t set b = changes() || ' ' || total_changes() || ' ' || random() where a = 'one';
delete from t where a = 'two';
insert into t(a, b) values (changes(), randomblob(4));
commit;
`

// logOf is what `skein log show` tells of a database, at one node.
func (n *node) logOf(args ...string) (list []httpapi.LogEntry) {
	n.t.Helper()
	for line := range strings.Lines(mustRun(n.t, n.url(), append([]string{"log", "show", "--json"}, args...)...)) {
		var e httpapi.LogEntry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			n.t.Fatalf("%v: %s", err, line)
		}
		list = append(list, e)
	}
	return list
}

// Statements travel with the leader's clock, chance and ids, whoever took them,
// and do the same on every node; those that can't are listed.
func TestStatementsDoTheSameEverywhere(t *testing.T) {
	full(t)
	tool(t, "psql")
	c := startCluster(t, 3)
	mustRun(t, c.nodes[0].url(), "db", "alter", "main", "--log-format", "statement")
	follower := c.others(c.leader("main"))[0]
	follower.mustPsql("main", outsideStory)
	exec1(t, follower.mustConnect("main"), "insert into t(a, b) values ($1, $2 || random())", 9223372036854775807, "text; 'quoted'")
	for _, sql := range []string{"delete from t where id in (select id from t limit 1)", "insert into t(a) values (sqlite_version())", "insert into t(a) values (datetime('now', 'localtime'))"} {
		follower.mustPsql("main", sql)
	}
	c.equal("main", 3)
	if got := follower.mustPsql("main", "select count(*), count(distinct chance) from audit"); got != "12|12" {
		t.Errorf("chance is the same in every row: %s", got)
	}
	executed := 0
	for _, e := range follower.logOf("main") {
		if e.Kind == "statement" && e.Reason == "" {
			executed++
			if len(e.Statements) == 0 || len(e.Changes) == 0 {
				t.Errorf("entry %s shows %d statements and %d rows", e.Position, len(e.Statements), len(e.Changes))
			}
		}
	}
	if executed != 7 {
		t.Errorf("%d entries were executed again, want 7", executed)
	}
	out := mustRun(t, follower.url(), "log", "show", "main")
	for _, part := range []string{"seed ", "at time 2", "changes() 1", "last_insert_rowid() ", `with ["9223372036854775807","text; 'quoted'"]`, "update t set a = random() where id > 1;"} {
		if !strings.Contains(out, part) {
			t.Errorf("log show lacks %q:\n%s", part, out)
		}
	}
	unsafe := mustRun(t, follower.url(), "log", "unsafe")
	for _, part := range []string{"main:", "LIMIT without ORDER BY", "sqlite_version()", "time zone", "delete t "} {
		if !strings.Contains(unsafe, part) {
			t.Errorf("log unsafe lacks %q:\n%s", part, unsafe)
		}
	}
	if n := strings.Count(unsafe, "as rows:"); n != 3 {
		t.Errorf("%d statements travelled as rows:\n%s", n, unsafe)
	}
	s, err := c.nodes[0].status()
	if err != nil || slices.ContainsFunc(s.Alerts, func(a httpapi.Alert) bool { return a.Kind == httpapi.AlertDifference }) {
		t.Errorf("alerts: %v, %+v", err, s.Alerts)
	}
	if out := mustRun(t, follower.url(), "log", "verify", "main"); !strings.Contains(out, "Everything is sound.") {
		t.Error(out)
	}
}

// databaseFile is a node's file of a database.
func (n *node) databaseFile(database string) string {
	n.t.Helper()
	files, err := filepath.Glob(n.dir + "/db/" + database + ".*/" + database + ".sqlite")
	if err != nil || len(files) != 1 {
		n.t.Fatalf("files of %s at %s: %v %v", database, n.name, files, err)
	}
	return files[0]
}

// A follower whose file was changed behind its back, checksums and all, notices
// at the first statement that does something else there, says so with the rows of
// both sides, and takes the leader's. One that was changed by a program that
// knows no checksums is copied before it serves.
func TestFollowerThatDiffersIsHealed(t *testing.T) {
	full(t)
	tool(t, "psql")
	shell := tool(t, "sqlite3")
	c := startCluster(t, 3)
	mustRun(t, c.nodes[0].url(), "db", "alter", "main", "--log-format", "statement")
	leader := c.leader("main")
	leader.mustPsql("main", "create table t(id integer primary key, v); insert into t values (1, 'one'), (2, 'two'), (3, 'three');")
	c.equal("main", 3)
	n := c.others(leader)[0]
	n.stop(t)
	edit(t, n.databaseFile("main"), "UPDATE t SET v = 'changed by hand' WHERE id = 2")
	n.start()
	c.whole("main")
	// Until it is applied the follower's file is another at the position of before.
	leader.mustPsql("main", "set skein.durability = 'all applied'; update t set v = v || '!' where id = 2")
	c.equal("main", 3)
	var alert string
	s, err := leader.status()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range s.Alerts {
		if a.Kind == httpapi.AlertDifference {
			alert = a.Message
		}
	}
	for _, part := range []string{n.name, `new ("changed by hand!")`, `new ("two!")`, "1 times"} {
		if !strings.Contains(alert, part) {
			t.Errorf("the alert lacks %q: %s", part, alert)
		}
	}
	if text := mustRun(t, leader.url(), "status"); !strings.Contains(text, alert) {
		t.Errorf("skein status:\n%s", text)
	}
	if log := n.output.String(); !strings.Contains(log, "changed by hand!") || !strings.Contains(log, "two!") {
		t.Errorf("the follower's log lacks the rows of both sides:\n%s", tail(log, 3000))
	}
	leader.mustPsql("main", "update t set v = v || '?'")
	c.equal("main", 3)

	n.stop(t)
	if out, errs, err := runProgram(shell, "UPDATE t SET v = 'by another program' WHERE id = 3;", nil, n.databaseFile("main")); err != nil {
		t.Fatal(out, errs, err)
	}
	n.start()
	c.whole("main")
	c.equal("main", 3)
	if got := n.mustPsql("main", "set skein.read = 'any'; select group_concat(v, ' ') from t"); got != "one? two!? three?" {
		t.Errorf("the copied file holds %s", got)
	}
}

// edit changes a file as no client could: what is written has its checksums.
func edit(t *testing.T, path, sql string) {
	t.Helper()
	conn, err := sqlite.OpenConn(context.Background(), path, sqlite.ConnOptions{Role: sqlite.RoleTool})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Exec(sql); err != nil {
		t.Fatal(err)
	}
}

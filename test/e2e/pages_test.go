package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// inPages is a cluster whose database main is in log format wal and holds some
// rows, with room between them.
func inPages(t *testing.T) (c *cluster, leader, follower *node) {
	t.Helper()
	c = startCluster(t, 3)
	c.nodes[0].mustPsql("main", `create table t(id integer primary key, v);
		insert into t select value, printf('%0200d', value) from generate_series(1, 500);`)
	c.format("main", "wal")
	leader = c.leader("main")
	return c, leader, c.others(leader)[0]
}

// identical compares the replicas of all nodes byte for byte, as the
// documentation says: by snapshots of one position.
func (c *cluster) identical(database string) {
	c.t.Helper()
	c.equal(database, len(c.nodes))
	dir := tempDir(c.t)
	var first []byte
	for _, n := range c.nodes {
		path := filepath.Join(dir, n.name)
		mustRun(c.t, n.url(), "snapshot", database, path)
		got, err := os.ReadFile(path)
		if err != nil {
			c.t.Fatal(err)
		}
		if first == nil {
			first = got
		}
		if !bytes.Equal(got, first) {
			c.t.Errorf("the file of %s (%d bytes) is not that of %s (%d bytes)", n.name, len(got), c.nodes[0].name, len(first))
		}
	}
}

// In log format wal followers are their leader byte for byte, through every kind
// of change, VACUUM, another leader and a node that was away; what they have on
// the disk is what their snapshots say.
func TestPagesMakeTheSameFile(t *testing.T) {
	full(t)
	tool(t, "psql")
	c, leader, follower := inPages(t)
	c.identical("main")
	conn := follower.mustConnect("main")
	for i := range 10 {
		exec1(t, conn, "update t set v = v || $1 where id % 10 = $2", fmt.Sprint(i), i)
	}
	follower.mustPsql("main", `create index i on t(v); delete from t where id between 100 and 400;
		begin; insert into t(v) values (randomblob(20000)); alter table t add column w default 7; update t set w = id where id < 50; commit;`)
	c.identical("main")
	before := follower.mustPsql("main", "pragma page_count")
	leader.mustPsql("main", "vacuum")
	c.identical("main")
	if after := follower.mustPsql("main", "pragma page_count"); len(after) > len(before) || after >= before && len(after) == len(before) {
		t.Errorf("VACUUM: %s pages are %s", before, after)
	}
	away := c.others(leader, follower)[0]
	away.kill()
	follower.mustPsql("main", "delete from t where id > 450; vacuum; insert into t(v) values ('while one was away')")
	away.start()
	c.whole("main")
	c.identical("main")
	leader.kill()
	next := c.leader("main")
	next.mustPsql("main", "insert into t(v) values ('by another leader'); vacuum;")
	leader.start()
	c.whole("main")
	c.identical("main")
	for _, n := range c.nodes {
		if out := mustRun(t, n.url(), "log", "verify", "main"); !strings.Contains(out, "sound") {
			t.Errorf("%s: %s", n.name, out)
		}
	}

	// And the files themselves, once what is in their -wal is in them.
	var files [][]byte
	for _, n := range c.nodes {
		n.kill()
		path := n.databaseFile("main")
		edit(t, path, "PRAGMA wal_checkpoint(TRUNCATE)")
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, b)
	}
	for i := range files {
		if !bytes.Equal(files[i], files[0]) {
			t.Errorf("the file on the disk of %s (%d bytes) is not that of %s (%d bytes): %s", c.nodes[i].name, len(files[i]), c.nodes[0].name, len(files[0]), firstDifference(files[i], files[0]))
		}
	}
}

// A reader on a follower keeps its snapshot while pages come, also those of a
// VACUUM and of a change of the schema; another one sees them at once.
func TestReadersKeepTheirSnapshotWhilePagesCome(t *testing.T) {
	full(t)
	tool(t, "psql")
	c, leader, follower := inPages(t)
	reader, other := follower.mustConnect("main"), follower.mustConnect("main")
	exec1(t, reader, "set skein.read = 'any'")
	c.equal("main", 3)
	ctx := background(t)
	tx, err := reader.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	look := func() string {
		var text string
		if err := tx.QueryRow(ctx, "select count(*) || ' ' || sum(length(v)) || ' ' || group_concat(v) from t").Scan(&text); err != nil {
			t.Fatal(err)
		}
		return text
	}
	before := look()
	for _, sql := range []string{"update t set v = 'new' || id", "delete from t where id > 100", "vacuum", "alter table t add column w", "insert into t(v) values ('last')"} {
		leader.mustPsql("main", sql)
		exec1(t, other, "set skein.token = '"+leader.mustPsql("main", "set skein.read = 'leader'; select 1 where 0; select count(*) from t where 0; show skein.token")[2:]+"'")
		exec1(t, other, "set skein.read = 'sticky'") // At this follower, and nowhere else.
		if got := value(t, other, "select count(*) from t"); got == "0" {
			t.Error("nothing is there")
		}
		if after := look(); after != before {
			t.Errorf("after %s the reader sees %.80s instead of %.80s", sql, after, before)
		}
	}
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if got := value(t, reader, "select count(w) || ' ' || count(*) || ' ' || max(v) from t"); got != "0 101 new99" {
		t.Errorf("after its transaction the reader sees %s", got)
	}
	c.identical("main")
}

// Pages fit only a file of the same kind: what can't be held is refused with the
// reason, and a replica whose file has other pages is copied, never converted.
func TestPagesNeedTheSameKindOfFile(t *testing.T) {
	full(t)
	tool(t, "psql")
	shell := tool(t, "sqlite3")
	c, leader, follower := inPages(t)
	dir := tempDir(t)
	foreign := func(name, setting string) string {
		path := filepath.Join(dir, name)
		if out, errs, err := runProgram(shell, setting+"; CREATE TABLE t(v); INSERT INTO t VALUES ('x');", nil, path); err != nil {
			t.Fatal(out, errs, err)
		}
		return path
	}
	if _, errs, err := run("", leader.url(), "db", "create", "wide", "--log-format", "wal", "--from", foreign("utf16", "PRAGMA encoding = 'UTF-16le'")); err == nil || !strings.Contains(errs, "UTF-16") {
		t.Errorf("a file in UTF-16: %v %s", err, errs)
	}
	mustRun(t, leader.url(), "db", "create", "big", "--log-format", "wal", "--from", foreign("big", "PRAGMA page_size = 16384"))
	c.whole("big")
	follower.mustPsql("big", "insert into t values ('y')")
	c.identical("big")
	for _, n := range c.nodes {
		if got := n.mustPsql("big", "set skein.read = 'any'; pragma page_size"); got != "16384" {
			t.Errorf("pages at %s have %s bytes", n.name, got)
		}
	}

	// The follower's file is made one of other pages while it is away.
	follower.stop(t)
	path := follower.databaseFile("main")
	if out, errs, err := runProgram(shell, "PRAGMA journal_mode = DELETE; PRAGMA page_size = 8192; VACUUM; PRAGMA journal_mode = WAL;", nil, path); err != nil {
		t.Fatal(out, errs, err)
	}
	leader.mustPsql("main", "insert into t(v) values ('meanwhile')")
	follower.start()
	c.whole("main")
	leader.mustPsql("main", "insert into t(v) values ('again')")
	c.identical("main")
	if got := follower.mustPsql("main", "set skein.read = 'any'; pragma page_size"); got != "4096" {
		t.Errorf("the follower's pages have %s bytes", got)
	}
	t.Logf("the follower said:\n%s", tail(follower.output.String(), 1500))
}

// firstDifference says where two files part.
func firstDifference(a, b []byte) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("page %d, byte %d: %x and %x", i/4096+1, i%4096, a[i:min(i+16, len(a))], b[i:min(i+16, len(b))])
		}
	}
	return "one is longer"
}

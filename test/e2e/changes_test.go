package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/httpapi"
)

// curlLines runs curl until it has printed so many lines that are not empty, and
// returns them.
func curlLines(t *testing.T, n int, args ...string) (lines []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(background(t), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool(t, "curl"), append([]string{"-sSN"}, args...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	scan := bufio.NewScanner(out)
	scan.Buffer(nil, 1<<20)
	for len(lines) < n && scan.Scan() {
		if scan.Text() != "" {
			lines = append(lines, scan.Text())
		}
	}
	cancel()
	_ = cmd.Wait() // It was killed.
	if len(lines) < n {
		t.Fatalf("curl %s printed %d of %d lines: %v\n%s", strings.Join(args, " "), len(lines), n, lines, errs.String())
	}
	return lines
}

func (n *node) changesURL(query string) string {
	return "http://" + n.http + "/v1/databases/main/changes?heartbeat=100ms&" + query
}

func changeOf(t *testing.T, line string) (e changefeed.Envelope) {
	t.Helper()
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	return e
}

// Streams over HTTP, as curl shows them: lines and server-sent events, a snapshot
// and then the stream, only some tables, and from where another left off.
func TestChangesOverHTTP(t *testing.T) {
	full(t)
	tool(t, "psql")
	c := startCluster(t, 3)
	n := c.nodes[0]
	n.mustPsql("main", "create table a(id integer primary key, v); create table b(v); create table hidden(v); insert into a values (1, 'one'), (2, x'00ff');")
	c.equal("main", 3)
	n.mustPsql("main", "insert into hidden values ('no')")
	c.equal("main", 3)
	at := c.nodes[1]
	lines := curlLines(t, 3, at.changesURL("table=A&table=b&consumer=curl"))
	first, second, beat := changeOf(t, lines[0]), changeOf(t, lines[1]), changeOf(t, lines[2])
	if first.Op != "r" || first.Source.Snapshot != "true" || second.Source.Snapshot != "last" || beat.Op != "heartbeat" {
		t.Fatalf("a snapshot, then the stream: %s", strings.Join(lines, "\n"))
	}
	n.mustPsql("main", "begin; insert into hidden values ('never'); update a set v = 'uno' where id = 1; delete from a where id = 2; insert into b values (1.0); commit;")
	c.equal("main", 3)
	lines = curlLines(t, 3, at.changesURL("table=A&table=b&offset="+second.Offset))
	for i, want := range []string{
		`"op":"u","key":{"id":1},"before":{"id":1,"v":"one"},"after":{"id":1,"v":"uno"},"source":{"connector":"skein","db":"main","table":"a",`,
		`"op":"d","key":{"id":2},"before":{"id":2,"v":{"blob":"AP8="}},"after":null,`,
		`"op":"c","key":{"rowid":1},"before":null,"after":{"v":1.0},`,
	} {
		e := changeOf(t, lines[i])
		if !strings.Contains(lines[i], want) {
			t.Errorf("line %d is %s\nwant %s", i, lines[i], want)
		}
		if e.ID != e.Source.LSN || e.Source.Snapshot != "false" || e.Source.TsMs == 0 || e.TsMs < e.Source.TsMs-1000 || e.Transaction == nil || e.Transaction.TotalOrder != i+2 {
			t.Errorf("line %d: %+v", i, e)
		}
	}
	// In the middle of a transaction, at another node, as a browser goes on.
	events := curlLines(t, 6, "-H", "Accept: text/event-stream", "-H", "Last-Event-ID: "+changeOf(t, lines[0]).Offset, c.nodes[2].changesURL("table=a&table=b"))
	if events[0] != "event: change" || events[1] != "id: "+changeOf(t, lines[1]).Offset || !strings.HasPrefix(events[2], "data: {") {
		t.Errorf("server-sent events: %s", strings.Join(events, "\n"))
	}
	for i := range 2 {
		e := changeOf(t, strings.TrimPrefix(events[3*i+2], "data: "))
		want := changeOf(t, lines[i+1])
		if e.ID != want.ID || e.Op != want.Op || fmt.Sprint(e.Before, e.After) != fmt.Sprint(want.Before, want.After) {
			t.Errorf("event %d is %+v, want %+v", i, e, want)
		}
	}
	// From now on: nothing that was there.
	if line := curlLines(t, 1, at.changesURL("from=now"))[0]; changeOf(t, line).Op != "heartbeat" {
		t.Errorf("from now on comes %s", line)
	}
	for query, want := range map[string]string{"offset=rubbish": "400", "from=never": "400", "heartbeat=1ns": "400"} {
		out, _, err := runProgram("curl", "", nil, "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://"+n.http+"/v1/databases/main/changes?"+query)
		if err != nil || out != want {
			t.Errorf("%s: %s %v, want %s", query, out, err, want)
		}
	}
}

// In log format wal streams of changes are as in the others: row by row with the
// old values, equal from every node, through VACUUM and a killed leader. Who goes
// on at all nodes also gets over the change of the format, for which followers
// are copied and lose their log.
func TestChangesOfPages(t *testing.T) {
	full(t)
	tool(t, "psql")
	c := startCluster(t, 3)
	leader := c.leader("main")
	followers := c.others(leader)
	leader.mustPsql("main", "create table t(id integer primary key, v); create table audit(what); insert into t values (1, 'one'), (2, 'two');"+
		"create trigger tell after update on t begin insert into audit values (old.v || ' ' || new.v)\\; end;")
	c.equal("main", 3)
	var urls []string
	for _, n := range append(followers, leader) {
		urls = append(urls, "http://"+n.http)
	}
	tail := start(t, "tail", nil, "cdc", "tail", "main", "--json", "--heartbeat", "100ms", "--url", strings.Join(urls, ","))
	tail.says(t, `"two"`)
	followers[0].consumes("main")
	leader.mustPsql("main", "insert into t values (3, 'in format row')")
	c.format("main", "wal")
	leader.mustPsql("main", `update t set v = v || '!'; vacuum; begin; delete from t where id = 1; insert into t values (4, 'four'); commit;
		alter table t add column w default 'w'; vacuum; update t set w = null where id = 4;`)
	tail.says(t, `"w":null`)
	c.equal("main", 3)
	leader.kill()
	next := c.leader("main")
	next.mustPsql("main", "replace into t values (4, 'by another leader', 1); vacuum;")
	leader.start()
	c.whole("main")
	leader.mustPsql("main", "insert into t values (5, 'last', x'')")
	tail.says(t, `"last"`)
	c.equal("main", 3)
	lines := strings.Split(strings.TrimSpace(tail.output.String()), "\n")
	var story, offsets []string
	seen := map[string]bool{}
	for _, line := range lines {
		if !strings.HasPrefix(line, "{") {
			continue
		}
		e := changeOf(t, line)
		if seen[e.ID] {
			t.Errorf("%s comes twice", e.ID)
		}
		seen[e.ID] = true
		story, offsets = append(story, plain(e)), append(offsets, e.Offset)
	}
	want := []string{"r t id=1,v=one", "r t id=2,v=two", "c t id=3,v=in format row",
		"u t id=1,v=one > id=1,v=one!", "c audit what=one one!", "u t id=2,v=two > id=2,v=two!", "c audit what=two two!",
		"u t id=3,v=in format row > id=3,v=in format row!", "c audit what=in format row in format row!",
		"d t id=1,v=one! > ", "c t id=4,v=four", "schema alter table t add column w default 'w'",
		"u t id=4,v=four,w=w > id=4,v=four,w=NULL", "c audit what=four four",
		"d t id=4,v=four,w=NULL > ", "c t id=4,v=by another leader,w=1", "c t id=5,v=last,w="}
	if !slices.Equal(story, want) {
		t.Errorf("the stream tells\n%s\nwant\n%s", strings.Join(story, "\n"), strings.Join(want, "\n"))
	}
	// From the first change in format wal on, every node tells the same.
	from := slices.Index(want, "c audit what=in format row in format row!")
	for _, n := range c.nodes {
		got := curlLines(t, len(want)-from-1, n.changesURL("offset="+offsets[from]))
		for i, line := range got {
			if text := plain(changeOf(t, line)); text != want[from+1+i] {
				t.Errorf("%s tells %s, want %s", n.name, text, want[from+1+i])
			}
		}
	}
}

// plain is an event for people.
func plain(e changefeed.Envelope) string {
	row := func(r changefeed.Row) string {
		var parts []string
		for _, f := range r {
			v := string(f.Value.Bytes)
			if f.Value.Kind == 0 {
				v = "NULL"
			} else if len(f.Value.Bytes) == 0 && f.Value.Int != 0 {
				v = strconv.FormatInt(f.Value.Int, 10)
			}
			parts = append(parts, f.Name+"="+v)
		}
		return strings.Join(parts, ",")
	}
	switch {
	case e.Op == "schema":
		return "schema " + strings.TrimSuffix(strings.ToLower(e.DDL), ";")
	case e.Before != nil:
		return e.Op + " " + e.Source.Table + " " + row(e.Before) + " > " + row(e.After)
	}
	return e.Op + e.Message + " " + e.Source.Table + " " + row(e.After)
}

// A consumer that reads too slowly, and a follower that is frozen, are told who
// they are and when they lose their place; then they do, and the log has kept no
// more than it may.
func TestSlowConsumersAreForecast(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	mustRun(t, c.nodes[0].url(), "db", "alter", "main", "--retention", "8MiB")
	leader := c.leader("main")
	frozen := c.others(leader)[0]
	conn := leader.mustConnect("main")
	exec1(t, conn, "create table t(id integer primary key, v)")
	slow, err := net.Dial("tcp", leader.http)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if err := slow.(*net.TCPConn).SetReadBuffer(128 << 10); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(slow, "GET /v1/databases/main/changes?from=now&consumer=sluggish HTTP/1.1\r\nHost: %s\r\n\r\n", leader.http)
	leader.consumes("main")
	frozen.signal(syscall.SIGSTOP)
	defer frozen.signal(syscall.SIGCONT)
	leaderStatus := func() httpapi.ReplicaStatus {
		var local httpapi.LocalStatus
		if err := leader.get("/v1/status/local", &local); err != nil {
			t.Fatal(err)
		}
		return local.Replicas[0].ReplicaStatus
	}
	forecast, followerForecast := false, false
	text, metrics := "", ""
	eventually(t, patience, "the consumer is forecast to be cut off, and is", func() error {
		exec1(t, conn, "insert into t(v) select hex(randomblob(100000)) from generate_series(1, 8)")
		s := leaderStatus()
		for _, f := range s.Followers {
			if f.CutOffSeconds > 0 && f.CutOffSeconds < 3600 && f.BehindBytes > 0 {
				followerForecast = true
			}
		}
		for _, one := range s.Consumers {
			if one.Name != "sluggish" {
				continue
			}
			if one.CutOffSeconds > 0 && one.BehindBytes > 0 && !forecast {
				forecast, text, metrics = true, mustRun(t, leader.url(), "status"), scrape(t, leader)
			}
			if one.CutOff {
				return nil
			}
		}
		return fmt.Errorf("%+v", s.Consumers)
	})
	if !forecast || !strings.Contains(text, "sluggish") || !strings.Contains(text, "if it reads no more") ||
		!strings.Contains(metrics, `skein_consumer_cut_off_seconds{consumer="sluggish",database="main"}`) {
		t.Errorf("forecast %v; status:\n%s", forecast, text)
	}
	if !followerForecast {
		t.Error("nothing says when the frozen follower is cut off")
	}
	if s := leaderStatus(); s.LogBytes > 40<<20 {
		t.Errorf("the log has %d bytes under a cap of 8 MiB", s.LogBytes)
	}
	// What was sent before is read; then the stream says why it ends.
	if err := slow.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	last := ""
	lines := bufio.NewScanner(slow)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		if strings.Contains(lines.Text(), `"error"`) {
			last = lines.Text()
			break
		}
	}
	if !strings.Contains(last, `"kind":"trimmed"`) || !strings.Contains(last, "begin anew") {
		t.Errorf("the stream ends with %.300s, %v", last, lines.Err())
	}
	frozen.signal(syscall.SIGCONT)
	c.whole("main")
	c.equal("main", 3) // Cut off, too: it was copied.
}

// scrape returns a node's metrics.
func scrape(t *testing.T, n *node) string {
	t.Helper()
	out, errs, err := runProgram(tool(t, "curl"), "", nil, "-sSf", "http://"+n.http+"/metrics")
	if err != nil {
		t.Fatal(errs, err)
	}
	return out
}

// An asynchronous leader sends changes that it alone has, and dies: an offset
// behind them is refused everywhere, by name, also at the leader when it is back;
// what was kept goes on. A snapshot begins anew.
func TestOffsetsOfLostHistoryAreRefused(t *testing.T) {
	full(t)
	untilAlone(t, loseChanges)
}

func loseChanges(t *testing.T, c *cluster) (acknowledgedAlone int) {
	leader := c.leader("main")
	others := c.others(leader)
	mustRun(t, others[0].url(), "db", "alter", "main", "--durability", "async", "--allow-loss")
	conn := leader.mustConnect("main")
	exec1(t, conn, "create table note(id integer primary key autoincrement, text text not null)")
	c.equal("main", 3)
	exec1(t, conn, "insert into note(text) values('kept')")
	c.equal("main", 3)
	offset := filepath.Join(tempDir(t), "offset")
	// Its second address is tried when the leader is gone.
	tail := start(t, "tail", nil, "cdc", "tail", "main", "--json", "--heartbeat", "100ms", "--offset-file", offset, "--url", "http://"+leader.http+",http://"+others[0].http)
	tail.says(t, `"kept"`)
	kept := changeOf(t, strings.TrimSpace(tail.output.String())).Offset
	acknowledged := writeAlone(t, leader, others)
	if len(acknowledged) < 2 {
		tail.kill()
		return len(acknowledged)
	}
	for _, text := range acknowledged {
		tail.says(t, `"`+text+`"`)
	}
	leader.kill()
	for _, n := range others {
		n.start()
	}
	eventually(t, patience, "another leads", func() error {
		_, err := others[0].psql("main", "insert into note(text) values ('later')")
		return err
	})
	const undone = "a failover with loss has undone some"
	if err := tail.wait(t, patience); err == nil || !strings.Contains(tail.output.String(), undone) || !strings.Contains(tail.output.String(), "begin anew, with a snapshot") {
		t.Errorf("the tail ends with %v: %s", err, tail.output.String())
	}
	leader.start()
	c.whole("main")
	c.equal("main", 3) // Its tail is undone: until then it can't know what was lost, and says so in the stream.
	file, err := os.ReadFile(offset)
	if err != nil {
		t.Fatal(err)
	}
	sent := strings.TrimSpace(string(file))
	for _, n := range c.nodes {
		out, _, err := runProgram(tool(t, "curl"), "", nil, "-sS", "-w", " %{http_code}", n.changesURL("offset="+sent))
		if err != nil || !strings.Contains(out, `"kind":"history_lost"`) || !strings.HasSuffix(out, " 409") {
			t.Errorf("%s, of an offset that is lost: %v %s", n.name, err, out)
		}
		if _, errs, err := run("", n.url(), "cdc", "tail", "main", "--offset-file", offset); err == nil || !strings.Contains(errs, undone) {
			t.Errorf("cdc tail at %s: %v %s", n.name, err, errs)
		}
		if lines := curlLines(t, 1, n.changesURL("table=note&offset="+kept)); !strings.Contains(lines[0], `"text":"`) || strings.Contains(lines[0], "kept") {
			t.Errorf("%s goes on behind what was kept with %s", n.name, lines[0])
		}
	}
	anew := mustRun(t, leader.url(), "cdc", "tail", "main", "--limit", "2")
	if !strings.Contains(anew, `"kept"`) {
		t.Errorf("a snapshot begins with %s", anew)
	}
	undoneWrites := mustRun(t, leader.url(), "orphans", "list", "main")
	for _, text := range acknowledged {
		if strings.Contains(undoneWrites, `"`+text+`"`) == (leader.mustPsql("main", "select count(*) from note where text = '"+text+"'") == "1") {
			t.Errorf("%q is neither listed as undone nor there, or both", text)
		}
	}
	return len(acknowledged)
}

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/test/process"
)

// answer is what a query over HTTP came to.
type answer struct {
	httpapi.QueryResult
	status         int
	kind           string // of an error
	token, replica string // headers
}

// text is the first value of the first row, as JSON.
func (a answer) text() string {
	if len(a.Rows) == 0 {
		return ""
	}
	b, err := json.Marshal(a.Rows[0][0])
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// query asks a node over HTTP, as a client that keeps its token in a header.
func (n *node) query(database, sql, level, token, replica string) answer {
	n.t.Helper()
	body, err := json.Marshal(map[string]string{"sql": sql, "read": level})
	if err != nil {
		n.t.Fatal(err)
	}
	r, err := http.NewRequest(http.MethodPost, "http://"+n.http+"/v1/databases/"+database+"/query", bytes.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	for name, v := range map[string]string{"Skein-Token": token, "Skein-Replica": replica} {
		if v != "" {
			r.Header.Set(name, v)
		}
	}
	response, err := httpClient.Do(r)
	if err != nil {
		n.t.Fatalf("%s at %s: %v", sql, n.name, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	a := answer{status: response.StatusCode, token: response.Header.Get("Skein-Token"), replica: response.Header.Get("Skein-Replica")}
	if a.status != http.StatusOK {
		var e struct{ Kind string }
		err = json.Unmarshal(text, &e)
		a.kind = e.Kind
	} else {
		err = json.Unmarshal(text, &a.QueryResult)
	}
	if err != nil {
		n.t.Fatalf("%s at %s: %v: %s", sql, n.name, err, text)
	}
	return a
}

// One token goes from HTTP to psql and back, from node to node, over killed
// leaders: what was written or read with it is never missed.
func TestOneTokenThroughEveryDoor(t *testing.T) {
	full(t)
	tool(t, "psql")
	c := startCluster(t, 3)
	c.nodes[0].mustPsql("main", "create table t(id integer primary key)")
	token, rows := c.nodes[0].query("main", "select count(*) from t", "leader", "", "").token, 0
	see := func(n *node) {
		t.Helper()
		a := n.query("main", "select count(*) from t", "", token, "")
		if a.text() != fmt.Sprint(rows) || a.token == "" || a.Position == "" {
			t.Fatalf("%s over HTTP: %s of %d rows, %d %s, %+v", n.name, a.text(), rows, a.status, a.kind, a.QueryResult)
		}
		out := n.mustPsql("main", "set skein.token = '"+token+"'; select count(*) from t; show skein.last_read; show skein.token;")
		lines := strings.Split(out, "\n")
		if len(lines) != 3 || lines[0] != fmt.Sprint(rows) || !strings.HasPrefix(lines[1], "position ") || !strings.Contains(lines[1], ", age ") {
			t.Fatalf("%s in psql: %q, want %d rows", n.name, out, rows)
		}
		token = lines[2]
	}
	write := func(n *node, byHTTP bool) {
		t.Helper()
		if byHTTP {
			a := n.query("main", "insert into t default values", "", token, "")
			if a.status != http.StatusOK {
				t.Fatalf("%s: %d %s", n.name, a.status, a.kind)
			}
			token = a.token
		} else {
			token = n.mustPsql("main", "set skein.token = '"+token+"'; insert into t default values; show skein.token")
		}
		rows++
	}
	for round := range 2 {
		for i := range 6 {
			write(c.nodes[i%3], i%2 == round)
			see(c.nodes[(i+1)%3])
			see(c.nodes[(i+2)%3])
		}
		old := c.leader("main")
		write(old, true)
		old.kill()
		for _, n := range c.others(old) {
			see(n)
			write(n, round == 0)
		}
		old.start()
		see(c.others(old)[0])
		c.whole("main")
		see(old)
	}
}

// holdBack keeps a node's replica of a database from taking anything in, as a
// program would that writes to the file, until the returned function is called.
func (n *node) holdBack(database string) (release func()) {
	n.t.Helper()
	cmd := exec.Command(tool(n.t, "sqlite3"), n.databaseFile(database))
	in, err := cmd.StdinPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	output := &process.Output{}
	p, err := process.Start(cmd, process.Options{Name: "sqlite3", Output: output})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(p.Kill)
	fmt.Fprintln(in, ".timeout 10000\nBEGIN IMMEDIATE;\nSELECT 'held';")
	eventually(n.t, patience, "the file is held", func() error {
		if !strings.Contains(output.String(), "held") {
			return fmt.Errorf("sqlite3 printed %q", output.String())
		}
		return nil
	})
	return p.Kill
}

// A replica that is behind waits a bounded time; then the leader answers; where
// that can't either, the read fails. An answer in one database is not seen before
// its question in another, which is late on the node that is asked; what is not
// promised is seen at level any.
func TestALateReplicaWaitsThenAsksThenErrs(t *testing.T) {
	full(t)
	tool(t, "psql")
	c := startCluster(t, 3)
	leader := c.leader("main")
	late := c.others(leader)[0]
	mustRun(t, leader.url(), "db", "create", "answers")
	c.whole("answers")
	leader.mustPsql("main", "create table question(text)")
	leader.mustPsql("answers", "create table answer(text)")
	c.equal("main", 3)
	c.equal("answers", 3)
	before := late.position("main")
	release := late.holdBack("main")
	leader.mustPsql("main", "insert into question values ('why?')")
	second := leader.query("main", "select text from question", "leader", "", "")
	if second.text() != `"why?"` {
		t.Fatalf("the second program reads %s", second.text())
	}
	written := leader.query("answers", "insert into answer values ('because')", "", second.token, "")

	// A third one, who has met neither.
	var third answer
	eventually(t, patience, "the answer is seen", func() error {
		if third = late.query("answers", "select text from answer", "", "", ""); third.text() != `"because"` {
			return fmt.Errorf("%s", third.text())
		}
		return nil
	})
	eventually(t, patience, "the replica is older than what is asked below", func() error {
		got := late.query("main", "select count(*) from question", "any", third.token, "")
		if got.text() != "0" {
			t.Fatalf("at level any, on a replica that is late: %s", got.text())
		}
		if got.AgeSeconds < 0.6 {
			return fmt.Errorf("its age is %v", got.AgeSeconds)
		}
		return nil
	})
	settings := []string{
		"skein.token = '" + third.token + "'", // Who has seen the answer.
		"skein.read = 'bounded(''500ms'')'", "skein.read = 'at(" + leader.position("main") + ")'",
	}
	began := time.Now()
	answers := make([]string, len(settings))
	var reading sync.WaitGroup
	for i, setting := range settings {
		reading.Go(func() {
			var err error
			if answers[i], err = late.psql("main", "set "+setting+"; select text from question;"); err != nil {
				answers[i] = err.Error()
			}
		})
	}
	reading.Wait()
	waited := time.Since(began)
	if waited < time.Second || waited > 5*time.Second {
		t.Errorf("they waited %v for their own replica", waited)
	}
	for i, setting := range settings {
		if answers[i] != "why?" {
			t.Errorf("with %s: %s", setting, answers[i])
		}
	}
	began = time.Now()
	if got := late.mustPsql("main", "set skein.read = leader; select text from question;"); got != "why?" || time.Since(began) > time.Second {
		t.Errorf("level leader: %s, after %v", got, time.Since(began))
	}
	if got := late.mustPsql("main", "set skein.read = 'at("+before+")'; select count(*) from question;"); got != "0" {
		t.Errorf("at a position that is there: %s", got)
	}
	if out := mustRun(t, leader.url(), "status"); !strings.Contains(out, " 1 ") {
		t.Errorf("status does not show that %s is a row change behind:\n%s", late.name, out)
	}

	leader.signal(syscall.SIGSTOP)
	for _, n := range c.others(leader, late) {
		n.signal(syscall.SIGSTOP)
	}
	began = time.Now()
	got := late.query("main", "select text from question", "", written.token, "")
	if got.status == http.StatusOK || got.kind != "stale" && got.kind != "no_leader" && got.kind != "unavailable" && got.kind != "timeout" {
		t.Errorf("with nobody to ask: %d %s %s", got.status, got.kind, got.text())
	}
	if took := time.Since(began); took > 14*time.Second {
		t.Errorf("it took %v", took)
	}
	t.Logf("it waited %v for its replica, and erred after %v: %s", waited, time.Since(began), got.kind)
	release()
	for _, n := range c.others(late) {
		n.signal(syscall.SIGCONT)
	}
	c.equal("main", 3)
}

// Who keeps to one replica needs no token, over psql and HTTP, through any node;
// when that replica is gone the read fails, and never goes back.
func TestKeepingToOneReplica(t *testing.T) {
	full(t)
	tool(t, "psql")
	c := startCluster(t, 3)
	leader := c.leader("main")
	kept, other := c.others(leader)[0], c.others(leader)[1]
	leader.mustPsql("main", "create table t(id integer primary key); insert into t values (1)")
	c.equal("main", 3)
	first := kept.query("main", "select count(*) from t", "sticky", "", "")
	if first.replica != kept.name || first.text() != "1" {
		t.Fatalf("kept to %q: %s", first.replica, first.text())
	}
	if got := other.query("main", "select count(*) from t", "sticky", "", first.replica); got.replica != kept.name || got.text() != "1" {
		t.Errorf("through another node: %q %s", got.replica, got.text())
	}
	if got := kept.mustPsql("main", "set skein.read = 'sticky'; select count(*) from t; show skein.replica"); got != "1\n"+kept.name {
		t.Errorf("psql keeps to %s", got)
	}
	kept.kill()
	if got := other.query("main", "select count(*) from t", "sticky", "", first.replica); got.kind != "unavailable" {
		t.Errorf("its replica is gone: %d %s %s", got.status, got.kind, got.text())
	}
	_, err := other.psql("main", "set skein.read = 'sticky'; set skein.replica = '"+kept.name+"'; select count(*) from t")
	if err == nil || !strings.Contains(err.Error(), "57P03") && !strings.Contains(err.Error(), "08") && !strings.Contains(err.Error(), "unavailable") {
		t.Errorf("psql: %v", err)
	}
	if got := other.query("main", "select count(*) from t", "sticky", "", ""); got.replica != other.name || got.text() != "1" {
		t.Errorf("without it: %q %s", got.replica, got.text())
	}
}

// How far a follower is behind is told in row changes, bytes and seconds, by
// status and by metrics, also of one that does not answer.
func TestLagIsToldInThreeUnits(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	leader := c.leader("main")
	frozen := c.others(leader)[0]
	conn := leader.mustConnect("main")
	exec1(t, conn, "create table t(id integer primary key, v)")
	c.equal("main", 3)
	id := ""
	if d, err := leader.database("main"); err == nil {
		for _, r := range d.Replicas {
			if r.NodeName == frozen.name {
				id = r.Node
			}
		}
	}
	frozen.signal(syscall.SIGSTOP)
	exec1(t, conn, "insert into t(v) select hex(randomblob(500)) from generate_series(1, 100)")
	metric := func(name string) float64 {
		t.Helper()
		prefix := name + `{database="main",node="` + id + `"} `
		for line := range strings.Lines(scrape(t, leader)) {
			if text, ok := strings.CutPrefix(strings.TrimSpace(line), prefix); ok {
				v, err := strconv.ParseFloat(text, 64)
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
		}
		t.Fatalf("no metric %s", prefix)
		return 0
	}
	eventually(t, patience, "the lag is told", func() error {
		seqs, bytes, seconds := metric("skein_follower_lag_seqs"), metric("skein_follower_lag_bytes"), metric("skein_follower_lag_seconds")
		if seqs < 100 || seqs > 101 || bytes < 100_000 || bytes > 150_000 || seconds < 0.5 {
			return fmt.Errorf("%v row changes, %v bytes, %v seconds", seqs, bytes, seconds)
		}
		return nil
	})
	out := mustRun(t, leader.url(), "status")
	if !strings.Contains(out, "Follower "+frozen.name+" lacks 10") || !strings.Contains(out, " KiB), for ") {
		t.Errorf("status:\n%s", out)
	}
	d, err := leader.database("main")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range d.Replicas {
		for _, f := range r.Followers {
			if f.Node == id && (f.LagBytes < 100_000 || f.LagSeconds < 0.5) {
				t.Errorf("status as JSON: %+v", f)
			}
		}
	}
	frozen.signal(syscall.SIGCONT)
	eventually(t, patience, "nothing is behind", func() error {
		if seqs, bytes, seconds := metric("skein_follower_lag_seqs"), metric("skein_follower_lag_bytes"), metric("skein_follower_lag_seconds"); seqs+bytes+seconds > 0 {
			return fmt.Errorf("%v row changes, %v bytes, %v seconds", seqs, bytes, seconds)
		}
		return nil
	})
}

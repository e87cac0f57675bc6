package e2e

import (
	"bufio"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/httpapi"
)

// A stream of changes that a script follows with `skein cdc tail` while leaders
// are killed: it holds every acknowledged write, in order, each once by its id.
func TestChangesThroughKilledLeaders(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	c := startCluster(t, 3)
	exec1(t, c.nodes[0].mustConnect("main"), ledgerTable)
	var urls []string
	for _, n := range c.nodes {
		urls = append(urls, "http://"+n.http)
	}
	offset := filepath.Join(tempDir(t), "offset")
	args := []string{"cdc", "tail", "main", "--json", "--heartbeat", "200ms", "--offset-file", offset, "--url", strings.Join(urls, ",")}
	tail := start(t, "tail", nil, args...)
	w := startWriters(t, "main", c.nodes...)
	w.progress(20)
	for range 2 {
		old := c.leader("main")
		old.kill()
		w.progress(10, c.others(old)...)
		old.start()
		c.whole("main")
		w.progress(10)
	}
	tail.kill() // And goes on where it was, in another process.
	w.progress(5)
	first := tail.output.String()
	tail = start(t, "tail", nil, args...)
	w.stop()
	want := map[int64]bool{}
	for _, l := range w.ledgers {
		for _, id := range l.acked {
			want[id] = true
		}
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		ids, missing := changesOf(t, first, tail.output.String()), 0
		for id := range want {
			if !ids[id] {
				missing++
			}
		}
		if missing == 0 {
			t.Logf("%d acknowledged writes are among %d rows of the stream", len(want), len(ids))
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d acknowledged writes are not in the stream\n%s", missing, len(want), tail.output.String())
		}
		time.Sleep(50 * time.Millisecond)
	}
	tail.kill()
	checkStream(t, c)
	checkLog(t, c)
}

// changesOf reads what tails have printed: ids of rows by their change, which
// must be the same when it comes twice.
func changesOf(t *testing.T, outputs ...string) map[int64]bool {
	t.Helper()
	rows, seen := map[int64]bool{}, map[string]string{}
	for _, output := range outputs {
		for _, line := range strings.Split(output, "\n") {
			var e changefeed.Envelope
			if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &e) != nil || e.After == nil {
				continue
			}
			after, _ := json.Marshal(e.After)
			if before, again := seen[e.ID]; again && before != string(after) {
				t.Errorf("change %s was %s and is %s", e.ID, before, after)
			}
			seen[e.ID] = string(after)
			for _, f := range e.After {
				if f.Name == "id" {
					rows[f.Value.Int] = true
				}
			}
		}
	}
	return rows
}

// checkStream reads server-sent events as a browser does.
func checkStream(t *testing.T, c *cluster) {
	t.Helper()
	for _, n := range c.nodes {
		req, err := http.NewRequest(http.MethodGet, "http://"+n.http+"/v1/databases/main/changes?from=now&heartbeat=100ms", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "text/event-stream")
		response, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(response.Body)
		beats := 0
		for beats < 2 && lines.Scan() {
			if lines.Text() == "event: heartbeat" {
				beats++
			}
		}
		response.Body.Close()
		if beats < 2 || response.Header.Get("Content-Type") != "text/event-stream" {
			t.Errorf("%s: %d heartbeats, %v", n.name, beats, response.Header)
		}
	}
}

// checkLog looks into the log of a running node and of one that was stopped,
// and finds a flipped byte.
func checkLog(t *testing.T, c *cluster) {
	t.Helper()
	n := c.others(c.leader("main"))[0]
	if out := mustRun(t, n.url(), "log", "show", "main", "--limit", "5"); !strings.Contains(strings.ToLower(out), "create table") {
		t.Errorf("log show: %s", out)
	}
	if out := mustRun(t, n.url(), "log", "verify", "main"); !strings.Contains(out, "Everything is sound.") {
		t.Errorf("log verify: %s", out)
	}
	if _, errs, err := run("", nil, "log", "verify", "main", "--dir", n.dir); err == nil || !strings.Contains(errs, "another process") {
		t.Errorf("the folder of a running node: %v %s", err, errs)
	}
	n.kill()
	out := mustRun(t, nil, "log", "show", "main", "--dir", n.dir, "--json")
	var entries []httpapi.LogEntry
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		var e httpapi.LogEntry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		entries = append(entries, e)
	}
	e := entries[len(entries)/2]
	segments, err := filepath.Glob(n.dir + "/db/main.*/log/segment-*")
	if err != nil || len(segments) == 0 {
		t.Fatalf("%v %v", segments, err)
	}
	f, err := os.OpenFile(segments[e.Segment-1], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	at := e.Offset + int64(e.Bytes) - 1
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
	if out, errs, err := run("", nil, "log", "verify", "main", "--dir", n.dir); err == nil || !strings.Contains(errs, "damaged in 1 places") {
		t.Errorf("a flipped byte: %v\n%s%s", err, out, errs)
	} else {
		t.Logf("%s", errs)
	}
}

package httpapi_test

import (
	"context"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/httpapi"
)

func someEvents() []changefeed.Event {
	row := changefeed.Row{
		{Name: "id", Value: base.IntValue(math.MaxInt64)}, {Name: "r", Value: base.RealValue(1)}, {Name: "b", Value: base.BlobValue([]byte{0, 255})}, {Name: "n"},
	}
	at := base.Position{Epoch: 3, Seq: 9}
	o := changefeed.Offset{Database: 1, Position: at, Entry: 8}
	return []changefeed.Event{
		{Op: changefeed.Read, Table: "t", Key: row[:1], After: row, Position: base.Position{Epoch: 3, Seq: 7}, Row: 1, Last: true, Offset: o},
		{Op: changefeed.Update, Table: "t", Key: row[:1], Before: row, After: row, Position: at, Time: 1_700_000_000_123_456_789, First: 8, Order: 2, TableOrder: 1, Offset: o},
		{Op: changefeed.Schema, SQL: "drop table t", Position: at, First: 9, Offset: o},
		{Op: changefeed.Heartbeat, Position: at, Offset: o},
	}
}

// TestChangesEnvelope has both forms of a stream, and how one ends that can't
// go on.
func TestChangesEnvelope(t *testing.T) {
	f := newFixture(t, nil)
	f.node.Events = someEvents()
	f.node.Fail["Changes"] = base.Errorf(base.KindTrimmed, "gone").WithHint("begin anew")
	row := `{"id":{"int":"9223372036854775807"},"r":1.0,"b":{"blob":"AP8="},"n":null}`
	w := f.do("GET", "/v1/databases/main/changes?table=t&table=u&from=now", "", header("Accept", "application/x-ndjson"))
	f.want(w, 200,
		`{"id":"3/7/r1","offset":"AQABAwkC`, `"op":"r","key":{"id":{"int":"9223372036854775807"}},"before":null,"after":`+row+`,"source":{"connector":"skein","db":"main","table":"t","ts_ms":0,"epoch":3,"seq":7,"lsn":"3/7","node":"`,
		`"snapshot":"last"}`, `{"id":"3/9",`, `"before":`+row+`,"after":`+row, `"ts_ms":1700000000123,"epoch":3,"seq":9`,
		`"transaction":{"id":"3/8","total_order":2,"data_collection_order":1}`, `"ddl":"drop table t"`, `"op":"heartbeat"`,
		`{"error":{"kind":"trimmed","message":"gone","outcome":"not done","hint":"begin anew","sqlstate":"58030"}}`)
	if lines := strings.Split(strings.TrimSpace(w.Body.String()), "\n"); len(lines) != 5 || w.Header().Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("%d lines, %v", len(lines), w.Header())
	}
	if call := f.node.Calls[len(f.node.Calls)-1]; !strings.Contains(call, "[t u]") || !strings.Contains(call, "true") {
		t.Errorf("asked %s", call)
	}
	w = f.do("GET", "/v1/databases/main/changes", "", header("Accept", "text/event-stream"))
	f.want(w, 200, "event: change\nid: AQABAwkC", "\nevent: schema\nid: ", "\nevent: heartbeat\nid: ", "\nevent: error\ndata: {\"error\":{\"kind\":\"trimmed\"")
}

// Webhooks are for administrators of the cluster alone: they make nodes connect
// to addresses of their author's choice.
func TestWebhookRoutes(t *testing.T) {
	f := newFixture(t, nil)
	const path = "/v1/databases/main/webhooks"
	f.want(f.do("GET", path, ""), 200, `[]`)
	f.want(f.do("POST", path, `{"name":"audit","url":"http://host/","tables":["t"]}`), 201, `{"name":"audit","secret":"drawn"}`)
	f.want(f.do("POST", path, `{"name":"audit","url":"http://host/","from":"then"}`), 400, `"kind":"invalid"`)
	w := f.do("GET", path, "")
	f.want(w, 200, `"name":"audit"`, `"tables":["t"]`, `"lag_seqs":3`, `"last_error":"answered 500"`)
	if strings.Contains(w.Body.String(), "drawn") {
		t.Error("the list tells the secret")
	}
	f.want(f.do("DELETE", path+"/audit", ""), 200, `"done":true`)
	want := "AddWebhook main audit http://host/ [t] now  DropWebhook main audit"
	var calls []string
	for _, c := range f.node.Calls {
		if strings.HasPrefix(c, "AddWebhook") || strings.HasPrefix(c, "DropWebhook") {
			calls = append(calls, c)
		}
	}
	if got := strings.Join(calls, " "); strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
		t.Errorf("asked %q", got)
	}
	for user, right := range map[string]httpapi.Right{"ann": httpapi.RightAdmin, "ben": httpapi.RightWrite} {
		f.node.Users[user] = []httpapi.Grant{{Database: "main", Right: right}}
		f.node.Passwords[user] = "secret"
		as := func(r *http.Request) {
			r.RemoteAddr = "192.0.2.1:9"
			r.Host = "localhost"
			r.SetBasicAuth(user, "secret")
		}
		f.want(f.do("POST", path, `{"name":"x","url":"http://host/"}`, as), 403, `"kind":"forbidden"`)
		f.want(f.do("GET", path, "", as), 403, `"kind":"forbidden"`)
		f.want(f.do("DELETE", path+"/audit", "", as), 403, `"kind":"forbidden"`)
	}
}

// TestChangesRefused sees what is refused before a stream begins.
func TestChangesRefused(t *testing.T) {
	f := newFixture(t, nil)
	for _, query := range []string{"offset=%00", "offset=AQABAwkD", "from=then", "heartbeat=1ms", "heartbeat=2h", "consumer=" + strings.Repeat("x", 101)} {
		f.want(f.do("GET", "/v1/databases/main/changes?"+query, ""), 400, `"kind":"invalid"`)
	}
	f.want(f.do("GET", "/v1/databases/main/changes", "", header("Last-Event-ID", "nonsense")), 400, `"kind":"invalid"`)
	f.node.Fail["Changes"] = base.Errorf(base.KindHistoryLost, "undone")
	f.want(f.do("GET", "/v1/databases/main/changes", ""), 409, `"kind":"history_lost"`)
	f.node.Fail["Changes"] = base.Errorf(base.KindTrimmed, "gone")
	f.want(f.do("GET", "/v1/databases/main/changes", ""), 410, `"kind":"trimmed"`)
	f.want(f.do("GET", "/v1/databases/main/changes", "", from("192.0.2.1:9", "localhost")), 401)
	// A client that goes is no error, and nothing is written for it.
	delete(f.node.Fail, "Changes")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	w := f.do("GET", "/v1/databases/main/changes", "", func(r *http.Request) { *r = *r.WithContext(ctx) })
	if w.Code != 200 || w.Body.Len() != 0 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

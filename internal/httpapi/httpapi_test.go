package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/httpapi/httpapitest"
	"github.com/skeindb/skein/internal/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is an API over fakes.
type fixture struct {
	t       *testing.T
	node    *httpapitest.Node
	gateway *httpapitest.Gateway
	api     *httpapi.API
}

func newFixture(t *testing.T, change func(*httpapi.Options)) *fixture {
	t.Helper()
	node := httpapitest.NewNode()
	f := &fixture{t: t, node: node, gateway: &httpapitest.Gateway{Node: node}}
	o := httpapi.Options{Node: node, Gateway: f.gateway, Registry: prometheus.NewRegistry(), TrustLoopback: true, Version: "1.2.3"}
	if change != nil {
		change(&o)
	}
	api, err := httpapi.New(env.Real(slog.New(slog.DiscardHandler)), o)
	if err != nil {
		t.Fatal(err)
	}
	f.api = api
	return f
}

// do sends a request from loopback; changes are applied to it first.
func (f *fixture) do(method, path, body string, changes ...func(*http.Request)) *httptest.ResponseRecorder {
	f.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.RemoteAddr, r.Host = "127.0.0.1:50000", "127.0.0.1:8441"
	for _, change := range changes {
		change(r)
	}
	w := httptest.NewRecorder()
	f.api.ServeHTTP(w, r)
	return w
}

func (f *fixture) want(w *httptest.ResponseRecorder, status int, contains ...string) {
	f.t.Helper()
	if w.Code != status {
		f.t.Fatalf("status %d, want %d: %s", w.Code, status, w.Body)
	}
	for _, s := range contains {
		if !strings.Contains(w.Body.String(), s) {
			f.t.Errorf("body lacks %q: %s", s, w.Body)
		}
	}
}

func as(user, password string) func(*http.Request) {
	return func(r *http.Request) { r.SetBasicAuth(user, password) }
}

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func from(remote, host string) func(*http.Request) {
	return func(r *http.Request) { r.RemoteAddr, r.Host = remote, host }
}

func TestEveryReadRoute(t *testing.T) {
	f := newFixture(t, nil)
	f.node.Hashes = []httpapi.ReplicaHash{{Node: "a1", Position: "3/100", Hash: "x"}, {Node: "b2", Position: "3/100", Hash: "x"}}
	for path, want := range map[string]string{
		"/":                          "skein 1.2.3",
		"/healthz":                   "ok",
		"/readyz":                    `{"ready":true,"reasons":[]}`,
		"/metrics":                   "skein_http_requests_running 1",
		"/v1/status":                 `"role":"leader"`,
		"/v1/status/local":           `"pg_address":"127.0.0.1:5441"`,
		"/v1/databases":              `"durability":"quorum"`,
		"/v1/databases/main/orphans": `[]`,
		"/v1/databases/main/hash":    `"verdict":"equal"`,
		"/v1/nodes":                  `"id":"00000000000000a1"`,
		"/v1/users":                  `[]`,
	} {
		f.want(f.do("GET", path, ""), 200, want)
	}
}

func TestReadyzTellsReasons(t *testing.T) {
	f := newFixture(t, nil)
	f.node.NotReady = []string{"database main has no leader"}
	f.want(f.do("GET", "/readyz", ""), 503, `{"ready":false,"reasons":["database main has no leader"]}`)
	f.want(f.do("GET", "/healthz", ""), 200, "ok")
}

func TestDatabaseLifeCycle(t *testing.T) {
	f := newFixture(t, nil)
	f.want(f.do("POST", "/v1/databases", `{"name":"shop","policy":{"durability":"all applied","degrade_after":"5s"}}`), 201)
	f.want(f.do("POST", "/v1/databases", `{"name":"shop"}`), 409, `"kind":"exists"`, `"outcome":"not done"`)
	f.want(f.do("PATCH", "/v1/databases/shop", `{"replicas":2}`), 200, `"replicas":2`, `"durability":"all applied"`, `"degrade_after":"5s"`)
	f.want(f.do("PATCH", "/v1/databases/shop", `{}`), 400, "names no field")
	f.want(f.do("PATCH", "/v1/databases/shop", `{"durability":"most"}`), 400, "unknown level")
	f.want(f.do("PATCH", "/v1/databases/shop", `{"replicaz":2}`), 400, "replicaz")
	f.want(f.do("POST", "/v1/databases", `{"name":"x","policy":{"model":"quorum"}}`), 501, `"kind":"unsupported"`)
	f.want(f.do("POST", "/v1/databases", `{"name":""}`), 400)
	f.want(f.do("POST", "/v1/databases/main/switchover", `{"to":"c3"}`), 200, `{"leader":"00000000000000c3"}`)
	f.want(f.do("POST", "/v1/databases/main/switchover", ""), 200, `"leader"`)
	f.want(f.do("POST", "/v1/databases/main/switchover", `{"to":"n3"}`), 400)
	f.want(f.do("DELETE", "/v1/databases/shop", ""), 200, `{"done":true}`)
	f.want(f.do("DELETE", "/v1/databases/shop", ""), 404, `"hint":"`)
	f.want(f.do("POST", "/v1/nodes/b2/dead", ""), 200)
	f.want(f.do("GET", "/v1/nodes", ""), 200, `"state":"dead"`)
	f.want(f.do("DELETE", "/v1/nodes/b2", ""), 200)
	f.want(f.do("DELETE", "/v1/nodes/zz", ""), 400)
}

func TestImport(t *testing.T) {
	f := newFixture(t, nil)
	f.want(f.do("POST", "/v1/databases/big/import?durability=one&replicas=2", "SQLite bytes"), 201)
	if string(f.node.Imported) != "SQLite bytes" {
		t.Errorf("imported %q", f.node.Imported)
	}
	if p := f.node.Databases[1].Policy; p.Replicas != 2 || p.Durability.Level != base.One {
		t.Errorf("policy %+v", p)
	}
	f.want(f.do("POST", "/v1/databases/none/import", ""), 400, "Content-Length")
	f.want(f.do("POST", "/v1/databases/none/import?replica=2", "x"), 400, "unknown parameter")
	f.want(f.do("POST", "/v1/databases/none/import?replicas=two", "x"), 400, "replicas=two")
	chunked := func(r *http.Request) { r.ContentLength = -1 }
	f.want(f.do("POST", "/v1/databases/none/import", "x", chunked), 400, "Content-Length")
}

func TestSnapshot(t *testing.T) {
	f := newFixture(t, nil)
	f.node.File = bytes.Repeat([]byte("page"), 100_000)
	w := f.do("GET", "/v1/databases/main/snapshot", "")
	f.want(w, 200)
	if !bytes.Equal(w.Body.Bytes(), f.node.File) || w.Header().Get("Content-Length") != "400000" || w.Header().Get("Skein-Position") != "3/100" {
		t.Errorf("%d bytes, headers %v", w.Body.Len(), w.Header())
	}
	f.want(f.do("GET", "/v1/databases/other/snapshot", ""), 404)
}

func TestErrorsKeepKindOutcomeAndHint(t *testing.T) {
	f := newFixture(t, nil)
	for kind, status := range map[base.Kind]int{
		base.KindNoLeader: 503, base.KindNotLeader: 421, base.KindBusy: 429, base.KindTooLarge: 413,
		base.KindDegraded: 503, base.KindDiskFull: 507, base.KindTimeout: 504, base.KindConflict: 409,
	} {
		e := base.Errorf(kind, "what happened").WithOutcome(base.Indeterminate).WithHint("what to do")
		e.Leader = httpapitest.N2
		f.node.Fail["Status"] = e
		w := f.do("GET", "/v1/status", "")
		f.want(w, status)
		var got httpapi.Error
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		want := httpapi.Error{Kind: kind, Message: "what happened", Outcome: base.Indeterminate, Hint: "what to do", SQLState: e.State(), Leader: "00000000000000b2"}
		if got != want {
			t.Errorf("%s: got %+v, want %+v", kind, got, want)
		}
	}
	f.node.Fail["Status"] = errors.New("plain")
	f.want(f.do("GET", "/v1/status", ""), 500, `"kind":"internal"`, "plain")
	f.want(f.do("GET", "/v1/nothing", ""), 404, "no such page")
	w := f.do("POST", "/v1/status", "")
	f.want(w, 400, "must be GET")
	if w.Header().Get("Allow") != "GET" {
		t.Errorf("Allow: %q", w.Header().Get("Allow"))
	}
}

func TestBodiesAreBounded(t *testing.T) {
	f := newFixture(t, func(o *httpapi.Options) { o.MaxQueryBody = 100 })
	f.want(f.do("POST", "/v1/databases/main/query", `{"sql":"`+strings.Repeat("x", 200)+`"}`), 413, `"kind":"too_large"`)
	f.want(f.do("POST", "/v1/databases", `{"name":"`+strings.Repeat("x", 2<<20)+`"}`), 413)
	f.want(f.do("POST", "/v1/databases/main/query", `{"sql":"x"} more`), 400, "goes on")
}

func TestPasswordsAndRights(t *testing.T) {
	f := newFixture(t, func(o *httpapi.Options) { o.TrustLoopback = false })
	f.node.Passwords = map[string]string{"root": "s3cret", "ann": "pässword", "eve": "x"}
	f.node.Users = map[string][]httpapi.Grant{
		"root": {{Database: "*", Right: httpapi.RightAdmin}},
		"ann":  {{Database: "main", Right: httpapi.RightWrite}},
		"eve":  {},
	}
	w := f.do("GET", "/v1/status", "")
	f.want(w, 401, `"kind":"unauthorized"`)
	if !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Basic ") {
		t.Errorf("WWW-Authenticate: %q", w.Header().Get("WWW-Authenticate"))
	}
	f.want(f.do("GET", "/v1/status", "", as("root", "wrong")), 401)
	f.want(f.do("GET", "/v1/status", "", as("nobody", "s3cret")), 401)
	f.want(f.do("GET", "/v1/status", "", as("root", "s3cret")), 200)
	f.want(f.do("GET", "/v1/status", "", as("root", "s3cret")), 200) // Remembered.
	f.want(f.do("GET", "/healthz", ""), 200)
	f.want(f.do("GET", "/readyz", ""), 200)

	f.want(f.do("GET", "/v1/databases", "", as("ann", "pässword")), 200, `"main"`)
	f.want(f.do("GET", "/v1/databases", "", as("eve", "x")), 200, `[]`)
	f.node.File = []byte("file")
	f.want(f.do("GET", "/v1/databases/main/snapshot", "", as("ann", "pässword")), 200)
	for _, c := range [][3]string{
		{"GET", "/v1/status", ""}, {"GET", "/v1/status/local", ""}, {"GET", "/metrics", ""}, {"GET", "/v1/nodes", ""},
		{"GET", "/v1/users", ""}, {"POST", "/v1/users", `{}`}, {"POST", "/v1/databases", `{}`},
		{"POST", "/v1/databases/x/import", "x"}, {"PATCH", "/v1/databases/main", `{}`}, {"DELETE", "/v1/databases/main", ""},
		{"POST", "/v1/databases/main/switchover", ""}, {"DELETE", "/v1/nodes/a1", ""}, {"POST", "/v1/nodes/a1/dead", ""}, {"DELETE", "/v1/users/eve", ""},
		{"PUT", "/v1/users/eve/password", `{}`}, {"PUT", "/v1/users/eve/grants/main", `{}`}, {"DELETE", "/v1/users/eve/grants/main", ""},
		{"GET", "/v1/databases/other/snapshot", ""}, {"GET", "/v1/databases/other/hash", ""}, {"GET", "/v1/databases/other/orphans", ""},
	} {
		f.want(f.do(c[0], c[1], c[2], as("ann", "pässword")), 403, "lacks the right")
	}
	f.want(f.do("PUT", "/v1/users/ann/password", `{"password":"new"}`, as("ann", "pässword")), 200)
	f.want(f.do("GET", "/v1/databases", "", as("ann", "pässword")), 401) // The old one is not remembered.
	f.want(f.do("GET", "/v1/databases", "", as("ann", "new")), 200)
}

func TestUsers(t *testing.T) {
	f := newFixture(t, nil)
	f.want(f.do("POST", "/v1/users", `{"name":"bob","password":"pw"}`), 201)
	f.want(f.do("POST", "/v1/users", `{"name":"bob"}`), 400)
	f.want(f.do("PUT", "/v1/users/bob/grants/*", `{"right":"read"}`), 200)
	f.want(f.do("PUT", "/v1/users/bob/grants/main", `{"right":"own"}`), 400, "want read, write or admin")
	f.want(f.do("GET", "/v1/users", ""), 200, `[{"name":"bob","grants":[{"database":"*","right":"read"}]}]`)
	f.want(f.do("DELETE", "/v1/users/bob/grants/*", ""), 200)
	f.want(f.do("DELETE", "/v1/users/bob", ""), 200)
	f.want(f.do("GET", "/v1/users", ""), 200, `[]`)
}

func TestTrustEndsAtLoopback(t *testing.T) {
	f := newFixture(t, nil)
	f.want(f.do("GET", "/v1/nodes", ""), 200)
	f.want(f.do("GET", "/v1/nodes", "", from("[::1]:50000", "localhost:8441")), 200)
	f.want(f.do("GET", "/v1/nodes", "", from("10.0.0.7:50000", "10.0.0.1:8441")), 401)
	for _, name := range []string{"X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"} {
		f.want(f.do("GET", "/v1/nodes", "", header(name, "10.0.0.7")), 401)
	}
}

func TestOtherSitesPagesAreRefused(t *testing.T) {
	f := newFixture(t, nil)
	const query = `{"sql":"delete from t"}`
	for _, host := range []string{"evil.example:8441", "evil.example", "127.0.0.1.evil.example:8441", "localhost.evil.example", "10.0.0.1:8441", ""} {
		f.want(f.do("POST", "/v1/databases/main/query", query, from("127.0.0.1:50000", host)), 403, "loopback")
		f.want(f.do("GET", "/metrics", "", from("127.0.0.1:50000", host)), 403)
	}
	for _, origin := range []string{"http://evil.example", "null", "http://127.0.0.1:3000", "https://localhost:8441"} {
		f.want(f.do("POST", "/v1/databases/main/query", query, header("Origin", origin)), 403, "refused")
		f.want(f.do("GET", "/v1/status", "", header("Origin", origin)), 403)
	}
	f.want(f.do("POST", "/v1/databases/main/query", query, header("Sec-Fetch-Site", "cross-site")), 403)
	if len(f.gateway.Seen) != 0 {
		t.Fatalf("a refused request reached the database: %q", f.gateway.Seen)
	}
	f.want(f.do("POST", "/v1/databases/main/query", query, header("Origin", "http://127.0.0.1:8441")), 200)
	for _, host := range []string{"localhost", "LOCALHOST:8441", "[::1]:8441", "127.9.9.9:1", "localhost."} {
		f.want(f.do("GET", "/v1/status", "", from("127.0.0.1:50000", host)), 200)
	}
}

// With passwords a browser may hold credentials, so Origin counts there too.
func TestOriginIsCheckedWithPasswords(t *testing.T) {
	f := newFixture(t, func(o *httpapi.Options) { o.TrustLoopback = false })
	f.node.Passwords["root"] = "pw"
	f.node.Users["root"] = []httpapi.Grant{{Database: "*", Right: httpapi.RightAdmin}}
	f.want(f.do("GET", "/v1/status", "", as("root", "pw"), from("10.0.0.7:1", "db.example")), 200)
	f.want(f.do("GET", "/v1/status", "", as("root", "pw"), from("10.0.0.7:1", "db.example"), header("Origin", "https://db.example")), 200)
	f.want(f.do("DELETE", "/v1/databases/main", "", as("root", "pw"), from("10.0.0.7:1", "db.example"), header("Origin", "https://evil.example")), 403)
}

func TestOpenMetrics(t *testing.T) {
	closed := newFixture(t, func(o *httpapi.Options) { o.TrustLoopback = false })
	closed.want(closed.do("GET", "/metrics", ""), 401)
	open := newFixture(t, func(o *httpapi.Options) { o.TrustLoopback, o.OpenMetrics = false, true })
	open.want(open.do("GET", "/healthz", ""), 200)
	open.want(open.do("GET", "/metrics", ""), 200, `skein_http_requests_total{route="GET /healthz",status="200"} 1`)
}

func TestQuery(t *testing.T) {
	f := newFixture(t, nil)
	f.gateway.Columns = []string{"a", "b"}
	f.gateway.Rows = [][]base.Value{{base.IntValue(1), base.TextValue("x")}, {base.IntValue(1 << 60), {}}}
	f.gateway.Result = session.Result{
		Tag: "INSERT", RowsAffected: 2, LastInsertID: 1 << 60, Position: base.Position{Epoch: 3, Seq: 9},
		Asked: base.Durability{Level: base.Quorum, When: base.Flushed}, Reached: "flushed on 2 of 3",
	}
	w := f.do("POST", "/v1/databases/main/query",
		`{"sql":"insert","args":[1,9223372036854775807,1.0,"é",null,true,{"blob":"AP8="}],"read":"leader","durability":"quorum"}`,
		header("Skein-Token", "tok"))
	f.want(w, 200, `{"columns":["a","b"],"rows":[[1,"x"],[{"int":"1152921504606846976"},null]],"rows_affected":2,`+
		`"last_insert_id":{"int":"1152921504606846976"},"tag":"INSERT","position":"3/9","age_seconds":0,"token":"tok+",`+
		`"asked":"quorum","reached":"flushed on 2 of 3","degraded":false}`)
	if got := w.Header().Get("Skein-Token"); got != "tok+" {
		t.Errorf("token header %q", got)
	}
	if got := w.Header().Values("Skein-Replica"); len(got) > 0 {
		t.Errorf("replica header %q", got)
	}
	want := []base.Value{base.IntValue(1), base.IntValue(9223372036854775807), base.RealValue(1), base.TextValue("é"), {}, base.IntValue(1), base.BlobValue([]byte{0, 255})}
	for i, v := range want {
		if !f.gateway.Args[i].Equal(v) {
			t.Errorf("argument %d: got %+v, want %+v", i, f.gateway.Args[i], v)
		}
	}
	seen := strings.Join(f.gateway.Seen, "|")
	if seen != `open main user="" trusted=true front=http|set skein.token=tok|set skein.read=leader|set skein.durability=quorum|query insert` {
		t.Errorf("session saw %s", seen)
	}
	if f.gateway.Closed != 1 {
		t.Errorf("%d sessions closed", f.gateway.Closed)
	}
}

func TestQueryErrors(t *testing.T) {
	f := newFixture(t, func(o *httpapi.Options) { o.MaxResult = 100 })
	f.want(f.do("POST", "/v1/databases/none/query", `{"sql":"select 1"}`), 404)
	f.want(f.do("POST", "/v1/databases/main/query", `{"sql":"begin"}`), 501, "cannot outlive", "rolled back")
	f.want(f.do("POST", "/v1/databases/main/query", `{"sql":"x","read":"nonsense"}`), 400)
	f.want(f.do("POST", "/v1/databases/main/query", `{"sql":"x","args":[99999999999999999999]}`), 400, "64 bits")
	f.want(f.do("POST", "/v1/databases/main/query", `{"sql":"x","args":[[1]]}`), 400, "arrays")
	f.want(f.do("POST", "/v1/databases/main/query", `{"sql":"x","args":[{"blob":"%"}]}`), 400, "base64")

	f.gateway.Rows = [][]base.Value{{base.BlobValue(make([]byte, 101))}}
	f.gateway.Kind = session.Read
	f.want(f.do("POST", "/v1/databases/main/query", `{"sql":"x"}`), 413, `"outcome":"not done"`, "LIMIT")
	f.gateway.Kind = session.Write
	f.want(f.do("POST", "/v1/databases/main/query", `{"sql":"x"}`), 413, `"outcome":"done"`)

	f.gateway.Err = base.Errorf(base.KindIndeterminate, "the leader went away").WithOutcome(base.Indeterminate)
	w := f.do("POST", "/v1/databases/main/query", `{"sql":"x"}`)
	f.want(w, 500, `"outcome":"indeterminate"`)
	if w.Header().Get("Skein-Token") == "" {
		t.Error("a failed statement gave no token")
	}
}

func TestAClientKeepsToAReplica(t *testing.T) {
	f := newFixture(t, nil)
	for _, w := range []*httptest.ResponseRecorder{
		f.do("POST", "/v1/databases/main/query", `{"sql":"x","read":"sticky"}`, header("Skein-Replica", "n2")),
		f.do("POST", "/v1/databases/main/query", `{"sql":"x","read":"sticky","replica":"n2"}`),
	} {
		if got := w.Header().Get("Skein-Replica"); got != "n2" {
			t.Errorf("replica header %q", got)
		}
	}
	if seen := strings.Join(f.gateway.Seen, "|"); strings.Count(seen, "set skein.read=sticky|set skein.replica=n2|query x") != 2 {
		t.Errorf("sessions saw %s", seen)
	}
}

// slowNode blocks in Status until its context ends.
type slowNode struct{ *httpapitest.Node }

func (s slowNode) Status(ctx context.Context) (*httpapi.Status, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestOperationsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(o *httpapi.Options) { o.Node = slowNode{o.Node.(*httpapitest.Node)} })
		started := time.Now()
		f.want(f.do("GET", "/v1/status", ""), 504, `"kind":"timeout"`, `"outcome":"indeterminate"`)
		if took := time.Since(started); took != 60*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestRequestsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(o *httpapi.Options) { o.Node, o.MaxRequests = slowNode{o.Node.(*httpapitest.Node)}, 1 })
		go f.do("GET", "/v1/status", "")
		synctest.Wait()
		f.want(f.do("GET", "/healthz", ""), 429, `"kind":"busy"`)
		time.Sleep(61 * time.Second)
		f.want(f.do("GET", "/healthz", ""), 200)
	})
}

func TestPanicsBecomeErrors(t *testing.T) {
	f := newFixture(t, func(o *httpapi.Options) { o.Node = panicking{o.Node.(*httpapitest.Node)} })
	f.want(f.do("GET", "/v1/status", ""), 500, `"kind":"internal"`, "boom")
	f.want(f.do("GET", "/healthz", ""), 200)
}

type panicking struct{ *httpapitest.Node }

func (panicking) Status(context.Context) (*httpapi.Status, error) { panic("boom") }

func TestServerClosesWithRunningRequests(t *testing.T) {
	node := httpapitest.NewNode()
	s, err := httpapi.Open(t.Context(), env.Real(slog.New(slog.DiscardHandler)), "127.0.0.1:0", httpapi.Options{
		Node: slowNode{node}, Gateway: &httpapitest.Gateway{Node: node}, Registry: prometheus.NewRegistry(), TrustLoopback: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
	buf := make([]byte, 4096)
	if _, err := conn.Read(buf); err != nil {
		t.Fatal(err)
	}
	answer := make(chan string, 1)
	go func() {
		rest, _ := io.ReadAll(conn)
		answer <- string(rest)
	}()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-answer; got != "" && !strings.Contains(got, `"kind":"shutdown"`) {
		t.Errorf("answer %q", got)
	}
	if err := s.Err(); err != nil {
		t.Error(err)
	}
}

func TestCompare(t *testing.T) {
	hash := func(position, hash, err string) httpapi.ReplicaHash {
		return httpapi.ReplicaHash{Position: position, Hash: hash, Error: err}
	}
	for _, c := range []struct {
		hashes []httpapi.ReplicaHash
		want   httpapi.Verdict
	}{
		{nil, httpapi.VerdictIncomplete},
		{[]httpapi.ReplicaHash{hash("1/1", "a", ""), hash("1/1", "a", "")}, httpapi.VerdictEqual},
		{[]httpapi.ReplicaHash{hash("1/1", "a", ""), hash("1/1", "b", "")}, httpapi.VerdictDifferent},
		{[]httpapi.ReplicaHash{hash("1/1", "a", ""), hash("1/2", "b", "")}, httpapi.VerdictIncomplete},
		{[]httpapi.ReplicaHash{hash("1/1", "a", ""), hash("", "", "unreachable")}, httpapi.VerdictIncomplete},
		{[]httpapi.ReplicaHash{hash("1/2", "c", ""), hash("1/1", "a", ""), hash("1/1", "b", "")}, httpapi.VerdictDifferent},
	} {
		if got := httpapi.Compare(c.hashes); got != c.want {
			t.Errorf("%v: got %s, want %s", c.hashes, got, c.want)
		}
	}
}

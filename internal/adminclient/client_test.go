package adminclient_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skeindb/skein/internal/adminclient"
	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/httpapi/httpapitest"
)

// serve starts a real front end over fakes.
func serve(t *testing.T) (*httpapitest.Node, *httpapitest.Gateway, string) {
	t.Helper()
	node := httpapitest.NewNode()
	gateway := &httpapitest.Gateway{Node: node}
	api, err := httpapi.New(env.Real(slog.New(slog.DiscardHandler)), httpapi.Options{
		Node: node, Gateway: gateway, Registry: prometheus.NewRegistry(), TrustLoopback: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(api)
	t.Cleanup(s.Close)
	return node, gateway, s.URL
}

func client(t *testing.T, urls ...string) *adminclient.Client {
	t.Helper()
	c, err := adminclient.New(adminclient.Options{URLs: urls})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func text(s string) *string { return &s }

func TestEveryCall(t *testing.T) {
	node, gateway, address := serve(t)
	c, ctx := client(t, address+"/"), t.Context()

	must(t, c.CreateDatabase(ctx, "a b/c", httpapi.PolicyPatch{Durability: text("one received")}))
	policy, err := c.AlterDatabase(ctx, "a b/c", httpapi.PolicyPatch{DegradeAfter: text("3s")})
	must(t, err)
	if policy.Durability.String() != "one received" || policy.DegradeAfter.Seconds() != 3 {
		t.Errorf("policy %+v", policy)
	}
	list, err := c.ListDatabases(ctx)
	must(t, err)
	if len(list) != 2 || list[1].Name != "a b/c" {
		t.Errorf("databases %+v", list)
	}
	must(t, c.DropDatabase(ctx, "a b/c"))

	replicas, loss, keep := 2, true, int64(77)
	file := strings.Repeat("x", 3<<20)
	must(t, c.ImportDatabase(ctx, "big", httpapi.PolicyPatch{Replicas: &replicas, AllowLoss: &loss, RetentionBytes: &keep, TxIdleTimeout: text("1m")},
		int64(len(file)), func() (io.Reader, error) { return strings.NewReader(file), nil }))
	if p := node.Databases[1].Policy; string(node.Imported) != file || p.Replicas != 2 || !p.AllowLoss || p.RetentionBytes != 77 || p.TxIdleTimeout.Minutes() != 1 {
		t.Errorf("imported %d bytes, policy %+v", len(node.Imported), p)
	}

	status, err := c.Status(ctx)
	must(t, err)
	if r := status.Databases[0].Replicas[2]; r.LagSeqs != 4 || r.NodeName != "n3" || r.Role != "follower" || r.AgeSeconds != 0.15 {
		t.Errorf("replica %+v", r)
	}
	local, err := c.LocalStatus(ctx)
	must(t, err)
	if local.Node.PGAddress != "127.0.0.1:5441" || local.Replicas[0].Database != "main" {
		t.Errorf("local %+v", local)
	}
	leader, err := c.Switchover(ctx, "main", httpapitest.N3)
	must(t, err)
	if leader != httpapitest.N3.String() {
		t.Errorf("leader %s", leader)
	}

	node.File = bytes.Repeat([]byte("0123456789"), 100_000)
	snapshot, err := c.Snapshot(ctx, "main")
	must(t, err)
	data, err := io.ReadAll(snapshot.Body)
	must(t, err)
	must(t, snapshot.Body.Close())
	if !bytes.Equal(data, node.File) || snapshot.Size != 1_000_000 || snapshot.Position != "3/100" {
		t.Errorf("snapshot of %d bytes, size %d at %s", len(data), snapshot.Size, snapshot.Position)
	}

	node.Undone = []httpapi.Orphan{{Epoch: 2, Seq: 9, Table: "t", Op: "insert", Key: changefeed.Row{{Name: "id", Value: base.IntValue(1)}}}}
	orphans, err := c.Orphans(ctx, "main")
	must(t, err)
	if len(orphans) != 1 || orphans[0].Key[0].Value.Int != 1 || orphans[0].Old != nil {
		t.Errorf("orphans %+v", orphans)
	}
	report, err := c.Hash(ctx, "main")
	must(t, err)
	if report.Verdict != httpapi.VerdictIncomplete {
		t.Errorf("verdict %s", report.Verdict)
	}
	gateway.Rows = [][]base.Value{{base.IntValue(1 << 62)}}
	result, err := c.Query(ctx, "main", httpapi.QueryRequest{SQL: "select 1", Token: "tok"})
	must(t, err)
	if result.Rows[0][0].Int != 1<<62 || result.Token != "tok+" {
		t.Errorf("result %+v", result)
	}

	must(t, c.CreateUser(ctx, "ann", "pw"))
	must(t, c.Grant(ctx, "ann", "*", httpapi.RightRead))
	must(t, c.SetPassword(ctx, "ann", "pw2"))
	users, err := c.ListUsers(ctx)
	must(t, err)
	if len(users) != 1 || users[0].Grants[0].Database != "*" || node.Passwords["ann"] != "pw2" {
		t.Errorf("users %+v", users)
	}
	must(t, c.Revoke(ctx, "ann", "*"))
	must(t, c.DropUser(ctx, "ann"))

	found, err := c.FindNode(ctx, "n2")
	must(t, err)
	if found.ID != httpapitest.N2.String() {
		t.Errorf("found %+v", found)
	}
	if _, err := c.FindNode(ctx, "n9"); base.KindOf(err) != base.KindNotFound {
		t.Errorf("unknown node: %v", err)
	}
	must(t, c.MarkDead(ctx, httpapitest.N2))
	if found, err := c.FindNode(ctx, "n2"); err != nil || found.State != httpapi.NodeDead {
		t.Errorf("marked as dead: %+v, %v", found, err)
	}
	must(t, c.RemoveNode(ctx, httpapitest.N2))
	if nodes, err := c.ListNodes(ctx); err != nil || len(nodes) != 2 {
		t.Errorf("nodes %+v, %v", nodes, err)
	}
}

func TestErrorsComeBackWhole(t *testing.T) {
	node, _, address := serve(t)
	node.Fail["Status"] = base.Errorf(base.KindDegraded, "one follower is gone").WithHint("wait").WithOutcome(base.Indeterminate)
	_, err := client(t, address).Status(t.Context())
	e, ok := errors.AsType[*base.Error](err)
	if !ok || e.Kind != base.KindDegraded || e.Message != "one follower is gone" || e.Hint != "wait" || e.Outcome != base.Indeterminate {
		t.Errorf("got %#v", err)
	}
}

// deadAddress refuses connections.
func deadAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return "http://" + l.Addr().String()
}

func TestNextNodeIsTriedWhenNothingWasDone(t *testing.T) {
	noLeader, _, first := serve(t)
	noLeader.Fail["CreateDatabase"] = base.Errorf(base.KindNoLeader, "no leader here")
	good, _, second := serve(t)
	must(t, client(t, deadAddress(t), first, second).CreateDatabase(t.Context(), "x", httpapi.PolicyPatch{}))
	if len(good.Databases) != 2 {
		t.Error("the database was not made at the node that could")
	}
}

func TestUnknownOutcomesAreNotRepeated(t *testing.T) {
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }))
	defer broken.Close()
	second, _, address := serve(t)
	c := client(t, broken.URL, address)
	err := c.CreateDatabase(t.Context(), "x", httpapi.PolicyPatch{})
	if e := base.AsError(err); e.Kind != base.KindUnavailable || e.Outcome != base.Indeterminate {
		t.Errorf("got %#v", err)
	}
	if len(second.Calls) != 0 {
		t.Errorf("a write that may have been done was sent again: %v", second.Calls)
	}
	if _, err := c.Status(t.Context()); err != nil { // Reads may be repeated.
		t.Error(err)
	}
	indeterminate, _, third := serve(t)
	indeterminate.Fail["DropDatabase"] = base.Errorf(base.KindNoLeader, "lost it").WithOutcome(base.Indeterminate)
	if err := client(t, third, address).DropDatabase(t.Context(), "main"); base.KindOf(err) != base.KindNoLeader || len(second.Databases) != 1 {
		t.Errorf("%v, databases left %d", err, len(second.Databases))
	}
}

func TestNothingListens(t *testing.T) {
	_, err := client(t, deadAddress(t)).Status(t.Context())
	if e := base.AsError(err); e.Kind != base.KindUnavailable || !strings.Contains(e.Message, "nothing listens there") || !strings.Contains(e.Hint, "skein dev") {
		t.Errorf("got %v", err)
	}
	_, err = client(t, deadAddress(t), deadAddress(t)).Status(t.Context())
	if strings.Count(err.Error(), "nothing listens there") != 2 {
		t.Errorf("got %v", err)
	}
}

func TestNotANode(t *testing.T) {
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	_, err := client(t, other.URL).Status(t.Context())
	if err == nil || !strings.Contains(err.Error(), "not as a skein node does") {
		t.Errorf("got %v", err)
	}
	for _, bad := range []string{"", "127.0.0.1:8441", "ftp://x", "http://"} {
		if _, err := adminclient.New(adminclient.Options{URLs: []string{bad}}); base.KindOf(err) != base.KindInvalid {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

package server_test

import (
	"context"
	"io"
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/config"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/server"
)

func open(t *testing.T, dir, name string, join ...string) *server.Server {
	t.Helper()
	s, err := server.Open(context.Background(), env.Real(slog.New(slog.DiscardHandler)), &config.Serve{
		Dir: dir, Name: name, PG: "127.0.0.1:0", HTTP: "127.0.0.1:0", Peer: "127.0.0.1:0", Join: join, Insecure: true, TrustLoopback: true,
	}, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 4000 {
		if f() {
			return
		}
		<-tick.C
	}
	t.Fatalf("not in time: %s", what)
}

func kinds(s *httpapi.Status) []httpapi.AlertKind {
	var list []httpapi.AlertKind
	for _, a := range s.Alerts {
		list = append(list, a.Kind)
	}
	return list
}

// gather reads the metrics whose names begin with skein, added up by name.
func gather(t *testing.T, s *server.Server) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(server.NewCollector(s.Node()))
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			values[f.GetName()] += m.GetGauge().GetValue()
		}
	}
	return values
}

func status(t *testing.T, s *server.Server) *httpapi.Status {
	t.Helper()
	began := time.Now()
	st, err := s.Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("the status took %v", took)
	}
	return st
}

func TestStatusAndMetricsOfTwoNodes(t *testing.T) {
	a := open(t, t.TempDir(), "a")
	eventually(t, "a founded a cluster", func() bool { return a.Ready(context.Background()).Ready })
	b := open(t, t.TempDir(), "b", a.Node().PeerAddress())
	eventually(t, "both vote", func() bool { return len(b.Node().Control().State().Voters()) == 2 })
	if err := b.CreateDatabase(context.Background(), "shop", base.DefaultPolicy()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing to complain of", func() bool { return len(kinds(status(t, a))) == 0 })
	for _, s := range []*server.Server{a, b} {
		st := status(t, s)
		if len(st.Nodes) != 2 || len(st.Databases) != 1 || len(st.Databases[0].Replicas) != 2 {
			t.Errorf("status: %+v", st)
		}
	}
	both := gather(t, a)
	for name, v := range gather(t, b) {
		both[name] += v
	}
	for name, want := range map[string]float64{"skein_control_leader": 1, "skein_replica_leads": 1, "skein_replica_serving": 2, "skein_peer_reachable": 2, "skein_node_failed": 0} {
		if both[name] != want {
			t.Errorf("%s is %v on both nodes together, want %v", name, both[name], want)
		}
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if err := b.Close(); err != nil {
		t.Error("the second time:", err)
	}
	eventually(t, "b is missed", func() bool { return slices.Contains(kinds(status(t, a)), httpapi.AlertNodeUnreachable) })
	gather(t, b) // A node that has stopped is no trouble either.
}

func TestSnapshotsForDownloadDoNotStay(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/download", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/download/old.sqlite", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, "a")
	if _, err := os.Stat(dir + "/download/old.sqlite"); err == nil {
		t.Error("a snapshot of an earlier life is still there")
	}
	eventually(t, "ready", func() bool { return s.Ready(context.Background()).Ready })
	if err := s.CreateDatabase(context.Background(), "shop", base.DefaultPolicy()); err != nil {
		t.Fatal(err)
	}
	body, size, _, err := s.Snapshot(context.Background(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, body); n != size || err != nil || n == 0 {
		t.Errorf("%d of %d bytes, %v", n, size, err)
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir + "/download"); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, _, _, err := s.Snapshot(context.Background(), "none"); base.KindOf(err) != base.KindNotFound {
		t.Errorf("of no database: %v", err)
	}
}

func TestUsersAndRights(t *testing.T) {
	ctx := context.Background()
	s := open(t, t.TempDir(), "a")
	eventually(t, "ready", func() bool { return s.Ready(ctx).Ready })
	if err := s.CreateDatabase(ctx, "shop", base.DefaultPolicy()); err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		do   func() error
		kind base.Kind
		want httpapi.Right
	}{
		{func() error { return s.CreateUser(ctx, "ada", "sesame") }, "", httpapi.RightNone},
		{func() error { return s.CreateUser(ctx, "ada", "sesame") }, base.KindExists, httpapi.RightNone},
		{func() error { return s.CreateUser(ctx, "bob", "") }, base.KindInvalid, httpapi.RightNone},
		{func() error { return s.Grant(ctx, "ada", "shop", httpapi.RightRead) }, "", httpapi.RightRead},
		{func() error { return s.Grant(ctx, "ada", "*", httpapi.RightAdmin) }, "", httpapi.RightAdmin},
		{func() error { return s.Revoke(ctx, "ada", "*") }, "", httpapi.RightRead},
		{func() error { return s.SetPassword(ctx, "nobody", "x") }, base.KindNotFound, httpapi.RightRead},
		{func() error { return s.DropUser(ctx, "ada") }, "", httpapi.RightNone},
	}
	for i, step := range steps {
		if err := step.do(); base.KindOf(err) != step.kind {
			t.Errorf("step %d: %v, want kind %q", i, err, step.kind)
		}
		if got := s.Right("ada", "shop"); got != step.want {
			t.Errorf("after step %d ada has right %q, want %q", i, got, step.want)
		}
	}
}

package server_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/session"
)

// What the node knows of its webhooks is in the list and in the metrics.
func TestWebhooksAreListedAndMeasured(t *testing.T) {
	ctx := context.Background()
	var refuses atomic.Bool
	destination := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refuses.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer destination.Close()
	s := open(t, t.TempDir(), "a")
	eventually(t, "a founded a cluster", func() bool { return s.Ready(ctx).Ready })
	if err := s.CreateDatabase(ctx, "shop", base.DefaultPolicy()); err != nil {
		t.Fatal(err)
	}
	client, err := s.Node().Gateway().Open(ctx, session.Options{Trusted: true, Database: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	exec := func(sql string) {
		t.Helper()
		rows, err := client.Query(ctx, sql, nil)
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		rows.Close()
	}
	list := func() httpapi.Webhook {
		t.Helper()
		hooks, err := s.ListWebhooks(ctx, "shop")
		if err != nil || len(hooks) != 1 {
			t.Fatalf("list: %+v, %v", hooks, err)
		}
		return hooks[0]
	}
	exec("CREATE TABLE t(x)")
	exec("INSERT INTO t VALUES (1), (2)")
	added, err := s.AddWebhook(ctx, "shop", httpapi.WebhookRequest{Name: "audit", URL: destination.URL, Tables: []string{"t"}, From: "snapshot"})
	if err != nil || added.Name != "audit" || len(added.Secret) != 64 {
		t.Fatalf("add: %+v, %v", added, err)
	}
	eventually(t, "the snapshot is delivered", func() bool { return list().Delivered == 2 })
	refuses.Store(true)
	exec("INSERT INTO t VALUES (3)")
	eventually(t, "a refusal is told of", func() bool { return list().Failures > 0 })
	w := list()
	if w.Name != "audit" || w.URL != destination.URL || w.Tables[0] != "t" || w.Node != "a" || w.Snapshot || w.LagSeqs != 1 || !strings.Contains(w.LastError, "503") || w.Position == "0/0" {
		t.Errorf("%+v", w)
	}
	answer, err := http.Get("http://" + s.HTTPAddr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"delivered%s 2", "lag_seqs%s 1", "failures%s ", "failing_seconds%s "} {
		if want = "skein_webhook_" + strings.Replace(want, "%s", `{database="shop",webhook="audit"}`, 1); !strings.Contains(string(text), want) {
			t.Errorf("the metrics have no %s", want)
		}
	}
	if err := s.DropWebhook(ctx, "shop", "audit"); err != nil {
		t.Fatal(err)
	}
	if hooks, err := s.ListWebhooks(ctx, "shop"); err != nil || len(hooks) != 0 {
		t.Errorf("after the drop: %+v, %v", hooks, err)
	}
}

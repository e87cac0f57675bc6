package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/server"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/webhook"
)

// destination is where webhooks deliver to. It refuses while it is told to, and
// keeps what it has taken by id, in the order in which that came first.
type destination struct {
	*httptest.Server
	t      *testing.T
	secret string

	mu      sync.Mutex // guards all below
	refuses bool
	refused int
	seen    map[string]bool
	order   []string // values of column x, or of op "r" with an r before them
}

func newDestination(t *testing.T) *destination {
	d := &destination{t: t, seen: make(map[string]bool)}
	d.Server = httptest.NewServer(d)
	t.Cleanup(d.Close)
	return d
}

func (d *destination) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // The sender has gone.
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.Header.Get(webhook.SignatureHeader) != webhook.Sign(d.secret, r.Header.Get(webhook.TimestampHeader), body) {
		d.t.Errorf("a delivery is not signed with the secret")
	}
	if d.refuses {
		d.refused++
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	for line := range strings.Lines(string(body)) {
		var c struct {
			ID, Op string
			After  map[string]any
		}
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			d.t.Errorf("%s: %v", line, err)
		}
		if !d.seen[c.ID] {
			d.seen[c.ID] = true
			d.order = append(d.order, strings.TrimPrefix(c.Op, "c")+fmt.Sprint(c.After["x"]))
		}
	}
}

func (d *destination) refuse(yes bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refuses = yes
}

func (d *destination) has() (order string, refused int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.order, " "), d.refused
}

func exec(t *testing.T, s *server.Server, sql string) {
	t.Helper()
	client, err := s.Node().Gateway().Open(context.Background(), session.Options{Trusted: true, Database: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	rows, err := client.Query(context.Background(), sql, nil)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	rows.Close()
}

func webhooksOf(t *testing.T, s *server.Server) []httpapi.Webhook {
	t.Helper()
	list, err := s.ListWebhooks(context.Background(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// Whoever leads delivers, and goes on where the leader before was; a destination
// that refuses holds everything back, is told of, and misses nothing.
func TestWebhooksFollowTheLeader(t *testing.T) {
	ctx := context.Background()
	a := open(t, t.TempDir(), "a")
	eventually(t, "a founded a cluster", func() bool { return a.Ready(ctx).Ready })
	b := open(t, t.TempDir(), "b", a.Node().PeerAddress())
	eventually(t, "both vote", func() bool { return len(b.Node().Control().State().Voters()) == 2 })
	if err := b.CreateDatabase(ctx, "shop", base.DefaultPolicy()); err != nil {
		t.Fatal(err)
	}
	exec(t, a, "CREATE TABLE t(x)")
	exec(t, a, "CREATE TABLE other(x)")
	exec(t, a, "INSERT INTO t VALUES (1), (2)")
	all, late := newDestination(t), newDestination(t)
	// Late comes first: what is acknowledged is on its way to the node that is asked.
	for i, d := range []*destination{late, all} {
		name := []string{"late", "all"}[i]
		q := httpapi.WebhookRequest{Name: name, URL: d.URL, Tables: []string{"t"}, From: []string{"now", "snapshot"}[i]}
		d.mu.Lock() // Nothing is checked before the secret is known.
		added, err := b.AddWebhook(ctx, "shop", q)
		d.secret = added.Secret
		d.mu.Unlock()
		if err != nil || len(added.Secret) != 64 {
			t.Fatalf("add %s: %+v, %v", name, added, err)
		}
	}
	exec(t, b, "INSERT INTO t VALUES (3)")
	exec(t, b, "INSERT INTO other VALUES (100)")
	wait := func(d *destination, want string) {
		t.Helper()
		eventually(t, "delivered is "+want, func() bool {
			order, _ := d.has()
			if len(order) > len(want) {
				t.Fatalf("delivered is %s, want %s", order, want)
			}
			return order == want
		})
	}
	wait(late, "3")
	eventually(t, "the snapshot came", func() bool { order, _ := all.has(); return strings.HasSuffix(order, "3") })
	if order, _ := all.has(); order != "r1 r2 3" && order != "r1 r2 r3" { // The last row may have been in time for the snapshot.
		t.Errorf("delivered %s", order)
	}
	late.refuse(true)
	exec(t, b, "INSERT INTO t VALUES (4)")
	eventually(t, "the refusals are told of", func() bool {
		for _, s := range []*server.Server{a, b} {
			for _, w := range webhooksOf(t, s) {
				if w.Name == "late" && (w.Node == "" || w.LagSeqs < 1 || !strings.Contains(w.LastError, "503") || w.Failures == 0) {
					return false
				}
			}
		}
		return true
	})
	leader := func() string { return webhooksOf(t, a)[0].Node }
	before := leader()
	if _, err := a.Switchover(ctx, "shop", 0); err != nil {
		t.Fatal(err)
	}
	exec(t, b, "INSERT INTO t VALUES (5)")
	late.refuse(false)
	wait(late, "3 4 5")
	eventually(t, "the other delivers", func() bool { now := leader(); return now != "" && now != before })
	eventually(t, "the offset is kept and nothing is left", func() bool {
		for _, w := range webhooksOf(t, b) {
			if w.LagSeqs != 0 || w.LastError != "" || w.Offset == "" || w.Snapshot {
				return false
			}
		}
		return true
	})
	if err := a.DropWebhook(ctx, "shop", "late"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "late is gone", func() bool { return len(webhooksOf(t, b)) == 1 })
	exec(t, b, "INSERT INTO t VALUES (6)")
	eventually(t, "all goes on", func() bool { order, _ := all.has(); return strings.HasSuffix(order, " 4 5 6") })
	if order, _ := late.has(); order != "3 4 5" {
		t.Errorf("the dropped webhook was delivered %s", order)
	}
}

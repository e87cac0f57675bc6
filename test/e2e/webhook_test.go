package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/webhook"
)

// hookServer takes deliveries, and refuses every fifth.
type hookServer struct {
	t *testing.T

	mu       sync.Mutex // guards all below
	secret   string
	requests int
	output   strings.Builder
}

func (s *hookServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // The sender was killed.
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.requests++; s.requests%5 == 0 {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	if s.secret != "" && r.Header.Get(webhook.SignatureHeader) != webhook.Sign(s.secret, r.Header.Get(webhook.TimestampHeader), body) {
		s.t.Error("a delivery is not signed with the secret that was told")
	}
	s.output.Write(body)
}

func (s *hookServer) ids(t *testing.T) map[int64]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return changesOf(t, s.output.String())
}

// A webhook while leaders are killed, whose destination fails at times: it is
// delivered every acknowledged write, and goes on behind what it was delivered.
func TestWebhookThroughKilledLeaders(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	c := startCluster(t, 3)
	exec1(t, c.nodes[0].mustConnect("main"), ledgerTable)
	hook := &hookServer{t: t}
	server := httptest.NewServer(hook)
	defer server.Close()
	w := startWriters(t, "main", c.nodes...)
	w.progress(20)
	var added httpapi.AddedWebhook
	if err := json.Unmarshal([]byte(mustRun(t, c.nodes[0].url(), "cdc", "webhook", "add", "main", "audit", server.URL, "--snapshot", "--json")), &added); err != nil {
		t.Fatal(err)
	}
	hook.mu.Lock()
	hook.secret = added.Secret
	hook.mu.Unlock()
	for range 2 {
		w.progress(10)
		old := c.leader("main")
		old.kill()
		w.progress(10, c.others(old)...)
		old.start()
		c.whole("main")
	}
	w.stop()
	want := map[int64]bool{}
	for _, l := range w.ledgers {
		for _, id := range l.acked {
			want[id] = true
		}
	}
	eventually(t, 30*time.Second, "every acknowledged write was delivered", func() error {
		got, missing := hook.ids(t), 0
		for id := range want {
			if !got[id] {
				missing++
			}
		}
		if missing > 0 {
			return fmt.Errorf("%d of %d are missing", missing, len(want))
		}
		return nil
	})
	for _, n := range c.nodes {
		eventually(t, 20*time.Second, n.name+" tells how it fares", func() error {
			var list []httpapi.Webhook
			if err := n.get("/v1/databases/main/webhooks", &list); err != nil {
				return err
			}
			if len(list) != 1 || list[0].LagSeqs != 0 || list[0].Node != c.leader("main").name || list[0].Offset == "" || list[0].Failures == 0 {
				return fmt.Errorf("listed is %+v", list)
			}
			return nil
		})
	}
	if text := mustRun(t, c.nodes[1].url(), "cdc", "webhook", "list", "main"); !strings.Contains(text, server.URL) || strings.Contains(text, added.Secret) {
		t.Errorf("listed:\n%s", text)
	}
	mustRun(t, c.nodes[2].url(), "cdc", "webhook", "drop", "main", "audit")
	if _, stderr, err := run("", c.nodes[0].url(), "cdc", "webhook", "add", "main", "x", "ftp://host/"); err == nil || !strings.Contains(stderr, "http://") {
		t.Errorf("an address that is none: %v, %s", err, stderr)
	}
}

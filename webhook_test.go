package skein_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skeindb/skein"
)

// signed says whether a delivery bears the signature of who knows the secret.
func signed(secret string, header http.Header, body []byte) bool {
	sum := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(sum, "%s.%s", header.Get("Skein-Timestamp"), body)
	return hmac.Equal([]byte(header.Get("Skein-Signature")), []byte("sha256="+hex.EncodeToString(sum.Sum(nil))))
}

// taken is a destination that keeps what was delivered.
type taken struct {
	t  *testing.T
	mu sync.Mutex // guards all below
	// refuse is how many deliveries are still refused.
	refuse int
	rows   []string // of each event: op, table and what x is
}

const webhookSecret = "only the two of us know it"

// ServeHTTP implements http.Handler.
func (d *taken) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // The sender has gone.
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !signed(webhookSecret, r.Header, body) {
		d.t.Error("a delivery is not signed with the secret")
	}
	if d.refuse > 0 {
		d.refuse--
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	for line := range strings.Lines(string(body)) {
		var c struct {
			Op     string
			After  map[string]any
			Source struct{ DB, Table string }
		}
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			d.t.Errorf("%s: %v", line, err)
		}
		d.rows = append(d.rows, fmt.Sprint(c.Op, " ", c.Source.DB, ".", c.Source.Table, " ", c.After["x"]))
	}
}

func (d *taken) all() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.rows, ", ")
}

// hookOf waits until the database's one webhook is as wanted.
func hookOf(t *testing.T, db *skein.DB, what string, wanted func(skein.Webhook) bool) {
	t.Helper()
	var list []skein.Webhook
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 4000 {
		var err error
		if list, err = db.Webhooks(context.Background()); err != nil || len(list) != 1 {
			t.Fatalf("webhooks: %+v, %v", list, err)
		}
		if wanted(list[0]) {
			return
		}
		<-tick.C
	}
	t.Fatalf("not in time: %s: %+v", what, list)
}

// A program that embeds a node has changes delivered as the binary does: signed,
// in order, each once over a stop and a start, whatever the destination answers.
func TestWebhooksOfAnEmbeddedNode(t *testing.T) {
	ctx := context.Background()
	d := &taken{t: t, refuse: 2}
	destination := httptest.NewServer(d)
	defer destination.Close()
	dir := t.TempDir()
	n := open(t, skein.Options{Dir: dir, Name: "n1"})
	db := database(t, n, "CREATE TABLE t(x)", "CREATE TABLE other(x)", "INSERT INTO t VALUES ('one')")
	o := skein.WebhookOptions{Name: "audit", URL: destination.URL, Tables: []string{"t"}, Snapshot: true, Secret: webhookSecret}
	if secret, err := db.AddWebhook(ctx, o); err != nil || secret != webhookSecret {
		t.Fatalf("add: %q, %v", secret, err)
	}
	if _, err := db.AddWebhook(ctx, o); skein.KindOf(err) != skein.KindExists {
		t.Errorf("twice: %v", err)
	}
	level := func(w skein.Webhook) bool { return w.Lag == 0 && !w.Snapshot && w.Node == "n1" && w.LastError == "" }
	hookOf(t, db, "the snapshot is delivered", level)
	exec(t, db, "INSERT INTO other VALUES ('nobody asked')")
	exec(t, db, "INSERT INTO t VALUES ('two')")
	hookOf(t, db, "the change is delivered", level)
	for _, x := range []string{"three", "four"} {
		if err := n.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
		n = open(t, skein.Options{Dir: dir, Name: "n1"})
		db = database(t, n, fmt.Sprintf("INSERT INTO t VALUES ('%s')", x))
		hookOf(t, db, x+" is delivered", func(w skein.Webhook) bool { return level(w) && w.Delivered > 0 })
	}
	if got, want := d.all(), "r main.t one, c main.t two, c main.t three, c main.t four"; got != want {
		t.Errorf("delivered %s\nwant      %s", got, want)
	}
	if err := db.DropWebhook(ctx, "audit"); err != nil {
		t.Fatal(err)
	}
	if list, err := db.Webhooks(ctx); err != nil || len(list) != 0 {
		t.Errorf("after the drop: %+v, %v", list, err)
	}
	if err := db.DropWebhook(ctx, "audit"); skein.KindOf(err) != skein.KindNotFound {
		t.Errorf("dropped twice: %v", err)
	}
	if _, err := n.Database("none").AddWebhook(ctx, o); skein.KindOf(err) != skein.KindNotFound {
		t.Errorf("of no database: %v", err)
	}
}

package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/node"
	"github.com/skeindb/skein/internal/webhook"
)

// hosts is a network in memory, on which webhooks deliver.
type hosts struct {
	mu        sync.Mutex // guards listeners
	listeners map[string]*listener
}

func newHosts() *hosts { return &hosts{listeners: make(map[string]*listener)} }

type listener struct {
	address string
	arrive  chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

// Listen implements env.Net.
func (h *hosts) Listen(_ context.Context, address string) (net.Listener, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := &listener{address: address, arrive: make(chan net.Conn), closed: make(chan struct{})}
	h.listeners[address] = l
	return l, nil
}

// Dial implements env.Net.
func (h *hosts) Dial(ctx context.Context, address string) (net.Conn, error) {
	h.mu.Lock()
	l := h.listeners[address]
	h.mu.Unlock()
	if l == nil {
		return nil, syscall.ECONNREFUSED
	}
	here, there := net.Pipe()
	select {
	case l.arrive <- there:
		return here, nil
	case <-l.closed:
		return nil, syscall.ECONNREFUSED
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.arrive:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: l.address, Net: "memory"} }

// destination is where webhooks deliver to. It refuses while it is told to, and
// keeps what it has taken by id, in the order in which that came first.
type destination struct {
	t   *testing.T
	url string

	mu      sync.Mutex // guards all below
	secret  string
	refuses bool
	seen    map[string]bool
	order   []string // values of column x, or of op "r" with an r before them
	again   int      // events that came more than once
}

// listens is a destination on a host of its own, until the test's end.
func (b *bubble) listens(host string) (d *destination, stop func()) {
	b.t.Helper()
	d = &destination{t: b.t, url: "http://" + host + "/in", seen: make(map[string]bool)}
	l, err := b.hosts.Listen(b.t.Context(), host+":80")
	if err != nil {
		b.t.Fatal(err)
	}
	s := &http.Server{Handler: d}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			b.t.Errorf("serve: %v", err)
		}
	})
	return d, func() {
		s.Close()
		serving.Wait()
	}
}

// ServeHTTP implements http.Handler.
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
		if d.seen[c.ID] {
			d.again++
			continue
		}
		d.seen[c.ID] = true
		d.order = append(d.order, strings.TrimPrefix(c.Op, "c")+fmt.Sprint(c.After["x"]))
	}
}

func (d *destination) refuse(yes bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refuses = yes
}

func (d *destination) has() (order string, again int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.order, " "), d.again
}

// addWebhook adds one that delivers the changes of table t to d.
func (b *bubble) addWebhook(on base.NodeID, d *destination, w node.NewWebhook) {
	b.t.Helper()
	d.mu.Lock() // Nothing is checked before the secret is known.
	defer d.mu.Unlock()
	w.URL, w.Tables = d.url, []string{"t"}
	var err error
	if d.secret, err = b.nodes[on].AddWebhook(b.t.Context(), "shop", w); err != nil || len(d.secret) != 64 {
		b.t.Fatalf("add %s: %q, %v", w.Name, d.secret, err)
	}
}

func (b *bubble) webhooks(on base.NodeID) []node.Webhook {
	b.t.Helper()
	list, err := b.nodes[on].Webhooks(b.t.Context(), "shop")
	if err != nil {
		b.t.Fatal(err)
	}
	return list
}

// delivered waits until a destination has exactly what is wanted.
func (b *bubble) delivered(d *destination, want string) {
	b.t.Helper()
	b.eventually("delivered is "+want, func() bool {
		order, _ := d.has()
		if len(order) > len(want) {
			b.t.Fatalf("delivered is %s, want %s", order, want)
		}
		return order == want
	})
}

// Whoever leads delivers, and goes on where the leader before was; a destination
// that refuses holds everything back, is told of, and misses nothing.
func TestWebhooksFollowTheLeader(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, b *bubble) {
		b.create(2, "shop", nil)
		b.sql(1, "shop", "CREATE TABLE t(x)")
		b.sql(1, "shop", "CREATE TABLE other(x)")
		b.sql(1, "shop", "INSERT INTO t VALUES (1), (2)")
		all, stopAll := b.listens("all")
		defer stopAll()
		late, stopLate := b.listens("late")
		defer stopLate()
		// Late comes first: what is acknowledged is on its way to the node that is asked.
		b.addWebhook(2, late, node.NewWebhook{Name: "late"})
		b.addWebhook(2, all, node.NewWebhook{Name: "all", Snapshot: true})
		b.sql(2, "shop", "INSERT INTO t VALUES (3)")
		b.sql(2, "shop", "INSERT INTO other VALUES (100)")
		b.delivered(late, "3")
		b.eventually("the snapshot came", func() bool { order, _ := all.has(); return strings.HasSuffix(order, "3") })
		if order, _ := all.has(); order != "r1 r2 3" && order != "r1 r2 r3" { // The last row may have been in time for the snapshot.
			t.Errorf("delivered %s", order)
		}
		late.refuse(true)
		b.sql(2, "shop", "INSERT INTO t VALUES (4)")
		for id := range b.nodes {
			b.eventually("the refusals are told of", func() bool {
				w := b.webhooks(id)[1]
				return w.Name == "late" && w.Node != "" && w.Lag >= 1 && strings.Contains(w.LastError, "503") && w.Failures > 0
			})
		}
		before := b.webhooks(1)[0].Node
		if _, err := b.nodes[1].Switchover(t.Context(), "shop", 0); err != nil {
			t.Fatal(err)
		}
		b.sql(2, "shop", "INSERT INTO t VALUES (5)")
		late.refuse(false)
		b.delivered(late, "3 4 5")
		b.eventually("the other delivers", func() bool { now := b.webhooks(1)[0].Node; return now != "" && now != before })
		b.eventually("the offset is kept and nothing is left", func() bool {
			for _, w := range b.webhooks(2) {
				if w.Lag != 0 || w.LastError != "" || w.Offset == "" || w.Snapshot {
					return false
				}
			}
			return true
		})
		if err := b.nodes[1].DropWebhook(t.Context(), "shop", "late"); err != nil {
			t.Fatal(err)
		}
		b.eventually("late is gone", func() bool { return len(b.webhooks(2)) == 1 })
		b.sql(2, "shop", "INSERT INTO t VALUES (6)")
		b.eventually("all goes on", func() bool { order, _ := all.has(); return strings.HasSuffix(order, " 4 5 6") })
		if order, _ := late.has(); order != "3 4 5" {
			t.Errorf("the dropped webhook was delivered %s", order)
		}
	})
}

// deliverers are the nodes that deliver to a webhook of shop.
func (b *bubble) deliverers() (names []string) {
	for _, n := range b.nodes {
		for _, d := range n.Deliveries("shop") {
			names = append(names, n.Name()+" "+d.Webhook)
		}
	}
	return names
}

// One node delivers to a webhook, also while leaders stop and come back.
func TestOneNodeDelivers(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, b *bubble) {
		b.create(1, "shop", nil)
		b.sql(1, "shop", "CREATE TABLE t(x)")
		d, stop := b.listens("audit")
		defer stop()
		b.addWebhook(1, d, node.NewWebhook{Name: "audit"})
		for round := range 3 {
			leads := b.leader("shop")
			b.sql(leads, "shop", fmt.Sprintf("INSERT INTO t VALUES (%d)", round))
			b.delivered(d, "0 1 2"[:2*round+1])
			b.eventually("the leader alone delivers", func() bool {
				return strings.Join(b.deliverers(), ", ") == b.nodes[leads].Name()+" audit"
			})
			b.stop(leads)
			b.open(leads)
			b.eventually("all nodes are active", b.joined)
		}
	})
}

// A node that is stopped in order has kept how far it is: nothing comes twice,
// although what was delivered is kept now and then only.
func TestAStopKeepsHowFarWebhooksAre(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, b *bubble) {
		b.create(1, "shop", nil)
		b.sql(1, "shop", "CREATE TABLE t(x)")
		d, stop := b.listens("audit")
		defer stop()
		b.addWebhook(1, d, node.NewWebhook{Name: "audit"})
		for _, want := range []string{"0", "0 1", "0 1 2", "0 1 2 3"} {
			b.sql(1, "shop", "INSERT INTO t SELECT count(*) FROM t")
			b.delivered(d, want)
			b.eventually("the answer has come", func() bool { return b.webhooks(1)[0].Lag == 0 })
			if len(want) == 3 {
				b.stop(1)
				b.open(1)
				b.leader("shop")
			}
		}
		if _, again := d.has(); again > 0 {
			t.Errorf("%d events came again", again)
		}
	})
}

// A node that was removed while nobody reached it delivers no more, although it
// was never told that another leads.
func TestARemovedNodeDeliversNothing(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, b *bubble) {
		b.create(1, "shop", nil)
		b.sql(1, "shop", "CREATE TABLE t(x)")
		d, stop := b.listens("audit")
		defer stop()
		b.addWebhook(1, d, node.NewWebhook{Name: "audit"})
		old := b.leader("shop")
		b.eventually("it delivers", func() bool { return len(b.nodes[old].Deliveries("shop")) == 1 })
		b.net.Isolate(old)
		now := b.leader("shop", old)
		if _, err := b.nodes[now].Propose(t.Context(), catalog.RemoveNode{Node: old}); err != nil {
			t.Fatal(err)
		}
		b.net.Rejoin(old)
		b.eventually("it knows that it was removed", func() bool { return b.nodes[old].Failure() != nil })
		b.eventually("the new leader alone delivers", func() bool {
			return strings.Join(b.deliverers(), ", ") == b.nodes[now].Name()+" audit"
		})
	})
}

// A receiver was told what a failover has undone, where that is allowed, and the
// offset that was kept last is older: the next leader does not go on as if nothing
// had happened.
func TestALossIsToldToWebhooks(t *testing.T) {
	inBubble(t, 5, func(t *testing.T, b *bubble) {
		b.create(1, "shop", func(p *base.Policy) {
			p.Replicas, p.Durability, p.AllowLoss = 3, base.Durability{Level: base.Async, When: base.Flushed}, true
		})
		old := b.leader("shop")
		b.sql(old, "shop", "CREATE TABLE t(x)")
		d, stop := b.listens("audit")
		defer stop()
		b.addWebhook(old, d, node.NewWebhook{Name: "audit"})
		b.sql(old, "shop", "INSERT INTO t VALUES (1)")
		b.delivered(d, "1")
		b.level("shop")
		for _, id := range b.others(old) {
			if b.record(old, "shop").HasReplica(id) {
				b.net.Cut(old, id)
				b.net.Cut(id, old)
			}
		}
		b.sql(old, "shop", "INSERT INTO t VALUES (2)")
		b.delivered(d, "1 2")
		b.kill(old)
		now := b.leader("shop", old)
		b.sql(now, "shop", "INSERT INTO t VALUES (3)")
		b.eventually("the loss is told", func() bool {
			w := b.webhooks(now)[0]
			return w.Node == b.nodes[now].Name() && strings.Contains(w.LastError, "history_lost")
		})
		if order, _ := d.has(); order != "1 2" {
			t.Errorf("it goes on with what is behind the loss: %s", order)
		}
	})
}

// A node without a replica adds a webhook, too: one that begins now has what is
// written afterwards, and nothing else.
func TestAWebhookAddedWithoutAReplica(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, b *bubble) {
		b.create(1, "shop", func(p *base.Policy) { p.Replicas, p.Durability = 1, base.Durability{Level: base.Async} })
		leads := b.leader("shop")
		away := b.others(leads)[0]
		b.eventually("one node has a replica", func() bool { return !b.record(away, "shop").HasReplica(away) })
		b.sql(leads, "shop", "CREATE TABLE t(x)")
		b.sql(leads, "shop", "INSERT INTO t VALUES ('before')")
		d, stop := b.listens("audit")
		defer stop()
		b.addWebhook(away, d, node.NewWebhook{Name: "audit"})
		b.sql(leads, "shop", "INSERT INTO t VALUES ('after')")
		b.delivered(d, "after")
		if w := b.webhooks(away)[0]; w.Node != b.nodes[leads].Name() {
			t.Errorf("seen from afar: %+v", w)
		}
	})
}

package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/planted"
	"github.com/skeindb/skein/internal/replica/leader"
	"github.com/skeindb/skein/internal/webhook"
)

// webhookPause is how long a delivery that somebody else has moved rests.
const webhookPause = time.Second

// webhooks runs a delivery for each webhook of the databases that this node
// leads.
type webhooks struct {
	node   *Node
	client *http.Client
	wakes  chan struct{} // one token
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when run has returned

	mu      sync.Mutex // guards running
	running map[webhookPart]*delivering
}

// webhookPart is what a delivery belongs to: one webhook, one leadership.
type webhookPart struct {
	webhook uint64
	epoch   base.Epoch
}

func (p webhookPart) compare(q webhookPart) int {
	return cmp.Or(cmp.Compare(p.webhook, q.webhook), cmp.Compare(p.epoch, q.epoch))
}

type delivering struct {
	hook     catalog.Webhook
	epoch    base.Epoch
	sent     base.Position // that the control plane keeps; the delivery's goroutine's
	database string
	delivery *webhook.Delivery
	cancel   context.CancelFunc
	done     chan struct{}
}

func (w *webhooks) init(n *Node) {
	w.node, w.client = n, webhook.NewClient(n.env)
	w.wakes, w.done = make(chan struct{}, 1), make(chan struct{})
	w.running = make(map[webhookPart]*delivering)
}

// start delivers until stop, or until ctx is done.
func (w *webhooks) start(ctx context.Context) {
	ctx, w.cancel = context.WithCancelCause(ctx)
	w.node.wg.Go(func() { w.run(ctx) })
}

// stop ends the deliveries, and returns when what they have delivered is kept,
// as far as that goes: it needs the control plane, which must still run.
func (w *webhooks) stop(cause error) {
	w.cancel(cause)
	<-w.done
}

// run keeps the deliveries as the control plane's state wants them, until ctx is
// done.
func (w *webhooks) run(ctx context.Context) {
	defer close(w.done)
	defer w.client.CloseIdleConnections()
	defer w.keepOnly(nil)
	for {
		changed := w.node.control.Changed()
		w.reconcile(ctx)
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-w.wakes:
		}
	}
}

// wake has run look at the state again although that has not changed.
func (w *webhooks) wake() { wake(w.wakes) }

// reconcile ends the deliveries that are not this node's any more, and begins
// those that are.
func (w *webhooks) reconcile(ctx context.Context) {
	state := w.node.control.State()
	wanted := make(map[webhookPart]catalog.Webhook)
	names := make(map[webhookPart]string)
	for _, hook := range state.Webhooks() {
		if db, ok := state.Database(hook.Database); ok && !db.Dropped && db.Leader == w.node.ID() && !w.node.isRemoved() {
			part := webhookPart{hook.Index, db.Epoch}
			wanted[part], names[part] = hook, db.Name
		}
	}
	w.keepOnly(wanted)
	for _, part := range slices.SortedFunc(maps.Keys(wanted), webhookPart.compare) {
		w.begin(ctx, part, wanted[part], names[part])
	}
}

// keepOnly ends and takes out the deliveries that are not wanted, and those that
// have ended by themselves.
func (w *webhooks) keepOnly(wanted map[webhookPart]catalog.Webhook) {
	w.mu.Lock()
	var over []*delivering
	for _, part := range w.parts() {
		d := w.running[part]
		_, keep := wanted[part]
		select {
		case <-d.done:
			keep = false
		default:
		}
		if !keep {
			over = append(over, d)
			delete(w.running, part)
		}
	}
	w.mu.Unlock()
	for _, d := range over {
		d.cancel()
	}
	for _, d := range over {
		<-d.done
	}
}

// parts are those of what runs, in order; w.mu is held.
func (w *webhooks) parts() []webhookPart {
	return slices.SortedFunc(maps.Keys(w.running), webhookPart.compare)
}

func (w *webhooks) begin(ctx context.Context, part webhookPart, hook catalog.Webhook, database string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running[part] != nil || ctx.Err() != nil {
		return
	}
	from, err := changefeed.ParseOffset(hook.Offset)
	if err != nil {
		w.node.log.Error("the offset of a webhook is not readable; drop it and add it again", "webhook", hook.Name, "err", err)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	d := &delivering{hook: hook, epoch: part.epoch, database: database, cancel: cancel, done: make(chan struct{})}
	d.delivery = webhook.New(w.node.env, webhook.Options{
		Hook: webhook.Hook{Database: database, Name: hook.Name, URL: hook.URL, Secret: hook.Secret, Tables: hook.Tables, From: from},
		Node: w.node.ID().String(), HTTP: w.client,
		Source: func(ctx context.Context, q changefeed.Request, heartbeat time.Duration, to changefeed.Sink) error {
			return w.source(ctx, hook, q, heartbeat, to)
		},
		Announce: func(ctx context.Context, to base.Position) error { return w.announce(ctx, d, to) },
		Save: func(ctx context.Context, from, to changefeed.Offset) error {
			advance := catalog.AdvanceWebhook{Webhook: hook.Index, From: from.String(), To: to.String()}
			_, err := w.node.control.Propose(ctx, catalog.Command{Action: advance})
			return err
		},
	})
	w.running[part] = d
	go w.deliver(ctx, d)
}

// source streams the changes of a database from this node's replica. It does not go
// on where a failover has lost what the receiver may have been told.
func (w *webhooks) source(ctx context.Context, hook catalog.Webhook, q changefeed.Request, heartbeat time.Duration, to changefeed.Sink) error {
	r, err := w.node.replicaFor(hook.Database)
	if err != nil {
		return err
	}
	if q.From == (changefeed.Offset{}) || q.From.Snapshot {
		return r.Feed(ctx, q, heartbeat, to) // It begins anew, and tells all the same.
	}
	return r.Feed(ctx, q, heartbeat, &historySink{to, r, hook.Sent})
}

// historySink ends a stream once the replica's history turns out to be without
// something that the receiver may have been told. A leader learns that with the
// start of its epoch, which may be in its log only when the stream has begun.
type historySink struct {
	changefeed.Sink
	replica *leader.Replica
	sent    base.Position
}

// Send implements changefeed.Sink.
func (s *historySink) Send(e *changefeed.Event) error {
	if s.replica.Lineage(s.sent) {
		return s.Sink.Send(e)
	}
	return base.Errorf(base.KindHistoryLost, "changes up to position %v may have been delivered, of which a failover with loss has undone some", s.sent).
		WithHint("drop the webhook and add it again, with a snapshot; skein orphans list shows what was undone")
}

// announce keeps how far a delivery is about to go, where a failover may lose what
// was delivered: the offset, which is kept now and then only, does not say.
func (w *webhooks) announce(ctx context.Context, d *delivering, to base.Position) error {
	db, ok := w.node.control.State().Database(d.hook.Database)
	if !ok || !db.Policy.AllowLoss || !d.sent.Less(to) || planted.Is(planted.SendUnannounced) {
		return nil
	}
	said := catalog.AnnounceWebhook{Webhook: d.hook.Index, Epoch: d.epoch, Sent: to}
	_, err := w.node.control.Propose(ctx, catalog.Command{Action: said})
	if err == nil {
		d.sent = to
	}
	return err
}

// deliver runs a delivery, and has run take it out when it has ended by itself.
func (w *webhooks) deliver(ctx context.Context, d *delivering) {
	defer w.wake()
	defer close(d.done)
	if err := d.delivery.Run(ctx); errors.Is(err, webhook.ErrMoved) {
		_ = w.node.env.Clock.Sleep(ctx, webhookPause) // Its end is the end of this.
	}
}

// Delivery is how one of a node's own deliveries to a webhook fares.
type Delivery struct {
	Database string
	Webhook  string // its name
	index    uint64

	At        base.Position // behind what was delivered
	Snapshot  bool          // it sends the initial snapshot
	Lag       int64         // row changes that are safe and not delivered; -1: unknown
	Delivered int64         // events, since this node delivers
	Failures  int64         // attempts that came to nothing, since then
	LastError string        // "" when the last attempt went well
	Failing   time.Duration // for how long attempts have failed; 0: they do not
}

// Deliveries are those of this node, for a database; "" is all.
func (n *Node) Deliveries(database string) []Delivery {
	n.webhooks.mu.Lock()
	var running []*delivering
	for _, part := range n.webhooks.parts() {
		d := n.webhooks.running[part]
		if database == "" || d.database == database {
			running = append(running, d)
		}
	}
	n.webhooks.mu.Unlock()
	list := make([]Delivery, 0, len(running))
	for _, d := range running {
		list = append(list, n.deliveryOf(d))
	}
	return list
}

func (n *Node) deliveryOf(d *delivering) Delivery {
	st := d.delivery.Status()
	out := Delivery{
		Database: d.database, Webhook: d.hook.Name, index: d.hook.Index, At: st.At, Snapshot: st.Snapshot, Lag: -1,
		Delivered: st.Delivered, Failures: st.Failures, LastError: st.LastError,
	}
	if here, err := n.replicaFor(d.hook.Database); err == nil {
		out.Lag = max(0, int64(here.Status().Safe)-int64(st.At.Seq))
	}
	if !st.FailingAt.IsZero() {
		out.Failing = n.env.Clock.Now().Sub(st.FailingAt)
	}
	return out
}

// deliveryReply is what a node tells another of one of its deliveries.
type deliveryReply struct {
	Index     uint64 `json:"index"`
	Position  string `json:"position"`
	Snapshot  bool   `json:"snapshot"`
	Lag       int64  `json:"lag"`
	Delivered int64  `json:"delivered"`
	Failures  int64  `json:"failures"`
	LastError string `json:"last_error"`
	Failing   int64  `json:"failing_seconds"`
}

// serveWebhooks tells of the deliveries for a database.
func (n *Node) serveWebhooks(_ context.Context, _ base.NodeID, request []byte) ([]byte, error) {
	list := []deliveryReply{}
	for _, d := range n.Deliveries(string(request)) {
		list = append(list, deliveryReply{
			Index: d.index, Position: d.At.String(), Snapshot: d.Snapshot, Lag: d.Lag, Delivered: d.Delivered,
			Failures: d.Failures, LastError: d.LastError, Failing: int64(d.Failing / time.Second),
		})
	}
	return json.Marshal(list)
}

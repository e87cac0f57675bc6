package server

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/webhook"
)

const (
	webhooksCall = "server.webhooks"
	// webhookPause is how often who leads is looked at, beside whenever the
	// control plane's state changes, and how long a delivery that somebody else
	// has moved rests.
	webhookPause = time.Second
	secretBytes  = 32
)

// webhooks runs a delivery for each webhook of the databases that this node
// leads.
type webhooks struct {
	server  *Server
	client  *http.Client
	mu      sync.Mutex // guards running
	running map[webhookPart]*delivering
}

// webhookPart is what a delivery belongs to: one webhook, one leadership.
type webhookPart struct {
	webhook uint64
	epoch   base.Epoch
}

type delivering struct {
	hook     catalog.Webhook
	database string
	delivery *webhook.Delivery
	cancel   context.CancelFunc
	done     chan struct{}
}

func newWebhooks(s *Server) *webhooks {
	return &webhooks{server: s, client: webhook.NewClient(), running: make(map[webhookPart]*delivering)}
}

// run keeps the deliveries as the control plane's state wants them, until ctx is
// done.
func (w *webhooks) run(ctx context.Context) {
	defer w.client.CloseIdleConnections()
	for {
		changed := w.server.node.Control().Changed()
		w.reconcile(ctx)
		timer := w.server.env.Clock.NewTimer(webhookPause)
		select {
		case <-ctx.Done():
			timer.Stop()
			w.keepOnly(nil)
			return
		case <-changed:
		case <-timer.C():
		}
		timer.Stop()
	}
}

// reconcile ends the deliveries that are not this node's any more, and begins
// those that are.
func (w *webhooks) reconcile(ctx context.Context) {
	state := w.server.node.Control().State()
	wanted := make(map[webhookPart]catalog.Webhook)
	names := make(map[webhookPart]string)
	for _, hook := range state.Webhooks() {
		if db, ok := state.Database(hook.Database); ok && !db.Dropped && db.Leader == w.server.node.ID() {
			part := webhookPart{hook.Index, db.Epoch}
			wanted[part], names[part] = hook, db.Name
		}
	}
	w.keepOnly(wanted)
	for part, hook := range wanted {
		w.begin(ctx, part, hook, names[part])
	}
}

// keepOnly ends and takes out the deliveries that are not wanted, and those that
// have ended by themselves.
func (w *webhooks) keepOnly(wanted map[webhookPart]catalog.Webhook) {
	w.mu.Lock()
	var over []*delivering
	for part, d := range w.running {
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

func (w *webhooks) begin(ctx context.Context, part webhookPart, hook catalog.Webhook, database string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running[part] != nil {
		return
	}
	from, err := changefeed.ParseOffset(hook.Offset)
	if err != nil {
		w.server.env.Log.Error("the offset of a webhook is not readable; drop it and add it again", "webhook", hook.Name, "err", err)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	d := &delivering{hook: hook, database: database, cancel: cancel, done: make(chan struct{})}
	d.delivery = webhook.New(w.server.env, webhook.Options{
		Hook: webhook.Hook{Database: database, Name: hook.Name, URL: hook.URL, Secret: hook.Secret, Tables: hook.Tables, From: from},
		Node: w.server.Self(), HTTP: w.client,
		Source: func(ctx context.Context, q changefeed.Request, heartbeat time.Duration, to changefeed.Sink) error {
			return w.server.Changes(ctx, database, q, heartbeat, to)
		},
		Save: func(ctx context.Context, from, to changefeed.Offset) error {
			advance := catalog.AdvanceWebhook{Webhook: hook.Index, From: from.String(), To: to.String()}
			_, err := w.server.node.Control().Propose(ctx, catalog.Command{Action: advance})
			return err
		},
	})
	w.running[part] = d
	go func() {
		defer close(d.done)
		if err := d.delivery.Run(ctx); errors.Is(err, webhook.ErrMoved) {
			_ = w.server.env.Clock.Sleep(ctx, webhookPause) // Its end is the end of this.
		}
	}()
}

// local is what this node knows of its deliveries for a database; "" is all.
func (w *webhooks) local(database string) []webhookReport {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []webhookReport
	for _, d := range w.running {
		if database == "" || d.database == database {
			list = append(list, w.report(d))
		}
	}
	return list
}

// webhookReport is what a node tells of one of its deliveries.
type webhookReport struct {
	Index    uint64 `json:"index"`
	Database string `json:"-"`
	Name     string `json:"-"`

	Position  string `json:"position"`
	Snapshot  bool   `json:"snapshot"`
	Lag       int64  `json:"lag"`
	Delivered int64  `json:"delivered"`
	Failures  int64  `json:"failures"`
	LastError string `json:"last_error"`
	Failing   int64  `json:"failing_seconds"`
}

func (w *webhooks) report(d *delivering) webhookReport {
	st := d.delivery.Status()
	r := webhookReport{
		Index: d.hook.Index, Database: d.database, Name: d.hook.Name, Position: st.At.String(), Snapshot: st.Snapshot, Lag: -1,
		Delivered: st.Delivered, Failures: st.Failures, LastError: st.LastError,
	}
	if here, err := w.server.node.Replica(d.database); err == nil {
		r.Lag = max(0, int64(here.Status().Safe)-int64(st.At.Seq))
	}
	if !st.FailingAt.IsZero() {
		r.Failing = int64(w.server.env.Clock.Now().Sub(st.FailingAt) / time.Second)
	}
	return r
}

// AddWebhook implements httpapi.Node.
func (s *Server) AddWebhook(ctx context.Context, database string, q httpapi.WebhookRequest) (httpapi.AddedWebhook, error) {
	added := httpapi.AddedWebhook{Name: q.Name, Secret: q.Secret}
	db, err := s.node.Database(database)
	if err != nil {
		return added, err
	}
	if added.Secret == "" {
		secret := make([]byte, secretBytes)
		if _, err := s.env.Rand.Read(secret); err != nil {
			return added, err
		}
		added.Secret = hex.EncodeToString(secret)
	}
	add := catalog.AddWebhook{Database: db.ID, Name: q.Name, URL: q.URL, Secret: added.Secret, Tables: q.Tables}
	if q.From == "now" {
		at, err := s.offsetNow(ctx, database)
		if err != nil {
			return added, err
		}
		add.Offset = at.String()
	}
	_, err = s.node.Propose(ctx, add)
	return added, err
}

// offsetNow is from where a stream goes on that has everything from now on, and
// nothing that was acknowledged before.
func (s *Server) offsetNow(ctx context.Context, database string) (changefeed.Offset, error) {
	var first firstOffset
	err := s.catchUp(ctx, database)
	if err != nil {
		return first.at, err
	}
	err = s.Changes(ctx, database, changefeed.Request{Now: true, Name: "webhook, about to begin"}, 10*time.Millisecond, &first)
	if errors.Is(err, errFirst) {
		return first.at, nil
	}
	return first.at, err
}

// catchUp waits until this node's replica has what its leader has now.
func (s *Server) catchUp(ctx context.Context, database string) error {
	r, err := s.node.Replica(database)
	if err != nil {
		return err
	}
	asks, err := s.node.Gateway().Open(ctx, session.Options{Trusted: true, Database: database, FrontEnd: "webhook"})
	if err != nil {
		return err
	}
	defer asks.Close()
	if err := asks.Set("skein.read", "leader"); err != nil {
		return err
	}
	rows, err := asks.Query(ctx, "SELECT 1", nil)
	if err != nil {
		return err
	}
	for rows.Next() {
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	tx, err := r.BeginRead(ctx, replica.ReadRequest{AtLeast: rows.Result().Position})
	if err != nil {
		return err
	}
	return tx.Close()
}

// firstOffset is a sink that ends with the first event, of which it keeps the
// offset.
type firstOffset struct{ at changefeed.Offset }

var errFirst = errors.New("the first event has come")

// Send implements changefeed.Sink.
func (f *firstOffset) Send(e *changefeed.Event) error {
	f.at = e.Offset
	return errFirst
}

// Flush implements changefeed.Sink.
func (f *firstOffset) Flush() error { return nil }

// DropWebhook implements httpapi.Node.
func (s *Server) DropWebhook(ctx context.Context, database, name string) error {
	db, err := s.node.Database(database)
	if err != nil {
		return err
	}
	_, err = s.node.Propose(ctx, catalog.DropWebhook{Database: db.ID, Name: name})
	return err
}

// ListWebhooks implements httpapi.Node.
func (s *Server) ListWebhooks(ctx context.Context, database string) ([]httpapi.Webhook, error) {
	db, err := s.node.Database(database)
	if err != nil {
		return nil, err
	}
	reports := make(map[uint64]webhookReport)
	deliverer := s.node.Name()
	for _, r := range s.webhooks.local(database) {
		reports[r.Index] = r
	}
	for _, a := range s.askAll(ctx, webhooksCall, []byte(database), askTimeout, func(m catalog.Node) bool { return m.ID == db.Leader }) {
		var list []webhookReport
		if a.err != nil || json.Unmarshal(a.reply, &list) != nil {
			continue // Its deliveries are listed as those of no node.
		}
		deliverer = a.node.Name
		for _, r := range list {
			reports[r.Index] = r
		}
	}
	list := []httpapi.Webhook{}
	for _, hook := range s.node.Control().State().Webhooks() {
		if hook.Database == db.ID {
			list = append(list, webhookOf(hook, reports, deliverer))
		}
	}
	return list, nil
}

func webhookOf(hook catalog.Webhook, reports map[uint64]webhookReport, deliverer string) httpapi.Webhook {
	kept, _ := changefeed.ParseOffset(hook.Offset) // An unreadable one is told by its deliverer's log.
	w := httpapi.Webhook{
		Name: hook.Name, URL: hook.URL, Tables: hook.Tables, Offset: hook.Offset, Position: kept.Position.String(), Snapshot: hook.Offset == "", LagSeqs: -1,
	}
	if r, ok := reports[hook.Index]; ok {
		w.Node, w.Position, w.Snapshot, w.LagSeqs, w.Delivered = deliverer, r.Position, r.Snapshot, r.Lag, r.Delivered
		w.Failures, w.LastError, w.FailingForSec = r.Failures, r.LastError, r.Failing
	}
	return w
}

var (
	webhookLag       = prometheus.NewDesc("skein_webhook_lag_seqs", "Row changes that are safe and that a webhook was not delivered.", []string{"database", "webhook"}, nil)
	webhookFailing   = prometheus.NewDesc("skein_webhook_failing_seconds", "For how long deliveries to a webhook have failed; 0: they do not.", []string{"database", "webhook"}, nil)
	webhookDelivered = prometheus.NewDesc("skein_webhook_delivered", "Events that a webhook was delivered, since this node delivers.", []string{"database", "webhook"}, nil)
	webhookFailures  = prometheus.NewDesc("skein_webhook_failures", "Attempts to deliver to a webhook that failed, since this node delivers.", []string{"database", "webhook"}, nil)
)

// Describe implements prometheus.Collector.
func (w *webhooks) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{webhookLag, webhookFailing, webhookDelivered, webhookFailures} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (w *webhooks) Collect(out chan<- prometheus.Metric) {
	for _, r := range w.local("") {
		show := func(d *prometheus.Desc, v int64) {
			out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), r.Database, r.Name)
		}
		show(webhookLag, r.Lag)
		show(webhookFailing, r.Failing)
		show(webhookDelivered, r.Delivered)
		show(webhookFailures, r.Failures)
	}
}

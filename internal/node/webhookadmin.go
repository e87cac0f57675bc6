package node

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
)

const (
	// webhooksMethod asks a node how its deliveries for a database fare.
	webhooksMethod = "node.webhooks"
	webhooksWait   = 2 * time.Second
	// offsetMethod asks a node from where a stream goes on that begins now.
	offsetMethod = "node.offset"
	offsetWait   = 10 * time.Second
	secretBytes  = 32
)

// NewWebhook says what a webhook is to deliver, and to where.
type NewWebhook struct {
	Name     string
	URL      string
	Tables   []string // none: all
	Snapshot bool     // every row first; else only changes from now on
	Secret   string   // signs what is delivered; "": one is drawn
}

// Webhook is a destination of a database's changes, and how its deliveries fare.
type Webhook struct {
	Name     string
	URL      string
	Tables   []string      // none: all
	Offset   string        // from where the next deliverer goes on; "": a snapshot comes first
	Position base.Position // behind the last change that was delivered, as far as is known
	Snapshot bool          // its initial snapshot is being delivered

	// Node is the name of the node that delivers; "" when none does, or it did not
	// answer: then what follows is not known.
	Node      string
	Lag       int64         // row changes that are safe and not delivered; -1: unknown
	Delivered int64         // events, since that node delivers
	Failures  int64         // attempts that came to nothing, since then
	LastError string        // "" when the last attempt went well
	Failing   time.Duration // for how long attempts have failed; 0: they do not
}

// AddWebhook has the changes of a database delivered to an HTTP address, and
// returns the secret that deliveries are signed with.
func (n *Node) AddWebhook(ctx context.Context, database string, w NewWebhook) (secret string, err error) {
	db, err := n.Database(database)
	if err != nil {
		return "", err
	}
	if w.Secret == "" {
		drawn := make([]byte, secretBytes)
		if _, err := n.env.Rand.Read(drawn); err != nil {
			return "", err
		}
		w.Secret = hex.EncodeToString(drawn)
	}
	add := catalog.AddWebhook{Database: db.ID, Name: w.Name, URL: w.URL, Secret: w.Secret, Tables: w.Tables}
	if !w.Snapshot {
		if add.Offset, err = n.offsetNow(ctx, db); err != nil {
			return "", err
		}
	}
	if _, err := n.Propose(ctx, add); err != nil {
		return "", err
	}
	return w.Secret, nil
}

// offsetNow is from where a stream goes on that has everything from now on, and
// nothing that was acknowledged before. A node without a replica asks the leader.
func (n *Node) offsetNow(ctx context.Context, db catalog.Database) (string, error) {
	if db.HasReplica(n.ID()) || db.Leader == 0 {
		at, err := n.offsetHere(ctx, db.Name)
		return at.String(), err
	}
	reply, err := n.call(ctx, db.Leader, offsetMethod, []byte(db.Name), offsetWait)
	return string(reply), err
}

// serveOffset is offsetNow for a node that has no replica.
func (n *Node) serveOffset(ctx context.Context, _ base.NodeID, request []byte) ([]byte, error) {
	at, err := n.offsetHere(ctx, string(request))
	return []byte(at.String()), err
}

// offsetHere is offsetNow on a node that has a replica.
func (n *Node) offsetHere(ctx context.Context, database string) (changefeed.Offset, error) {
	r, err := n.Replica(database)
	if err != nil {
		return changefeed.Offset{}, err
	}
	seen, err := n.leadersPosition(ctx, database)
	if err != nil {
		return changefeed.Offset{}, err
	}
	tx, err := r.BeginRead(ctx, replica.ReadRequest{AtLeast: seen}) // Waits until this replica has it, too.
	if err != nil {
		return changefeed.Offset{}, err
	}
	if err := tx.Close(); err != nil {
		return changefeed.Offset{}, err
	}
	var first firstOffset
	err = r.Feed(ctx, changefeed.Request{Now: true, Name: "webhook, about to begin"}, 10*time.Millisecond, &first)
	if errors.Is(err, errFirst) {
		err = nil
	}
	return first.at, err
}

// leadersPosition is what a database's leader has now.
func (n *Node) leadersPosition(ctx context.Context, database string) (base.Position, error) {
	s, err := n.Gateway().Open(ctx, session.Options{Trusted: true, Database: database, FrontEnd: "webhook"})
	if err != nil {
		return base.Position{}, err
	}
	defer s.Close()
	if err := s.Set("skein.read", "leader"); err != nil {
		return base.Position{}, err
	}
	rows, err := s.Query(ctx, "SELECT 1", nil)
	if err != nil {
		return base.Position{}, err
	}
	for rows.Next() {
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return base.Position{}, err
	}
	return rows.Result().Position, nil
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

// DropWebhook ends the deliveries to a webhook and forgets it.
func (n *Node) DropWebhook(ctx context.Context, database, name string) error {
	db, err := n.Database(database)
	if err != nil {
		return err
	}
	_, err = n.Propose(ctx, catalog.DropWebhook{Database: db.ID, Name: name})
	return err
}

// Webhooks lists those of a database by name.
func (n *Node) Webhooks(ctx context.Context, database string) ([]Webhook, error) {
	db, err := n.Database(database)
	if err != nil {
		return nil, err
	}
	var hooks []catalog.Webhook
	for _, hook := range n.control.State().Webhooks() {
		if hook.Database == db.ID {
			hooks = append(hooks, hook)
		}
	}
	list := make([]Webhook, 0, len(hooks))
	if len(hooks) == 0 {
		return list, nil
	}
	replies := n.askDeliverer(ctx, db)
	deliverer := (directory{n}).NodeName(db.Leader)
	for _, hook := range hooks {
		list = append(list, webhookOf(hook, replies, deliverer))
	}
	return list, nil
}

// askDeliverer asks the leader of a database how its deliveries fare, by the
// index of their webhooks. One that does not answer has none.
func (n *Node) askDeliverer(ctx context.Context, db catalog.Database) map[uint64]deliveryReply {
	byIndex := make(map[uint64]deliveryReply)
	if db.Leader == 0 {
		return byIndex
	}
	var list []deliveryReply
	answer, err := n.call(ctx, db.Leader, webhooksMethod, []byte(db.Name), webhooksWait)
	if err == nil {
		err = json.Unmarshal(answer, &list)
	}
	if err != nil {
		n.log.Debug("ask a leader for its deliveries", "database", db.Name, "err", err)
	}
	for _, r := range list {
		byIndex[r.Index] = r
	}
	return byIndex
}

func webhookOf(hook catalog.Webhook, replies map[uint64]deliveryReply, deliverer string) Webhook {
	kept, _ := changefeed.ParseOffset(hook.Offset) // An unreadable one is told by its deliverer's log.
	w := Webhook{
		Name: hook.Name, URL: hook.URL, Tables: hook.Tables, Offset: hook.Offset, Position: kept.Position, Snapshot: hook.Offset == "", Lag: -1,
	}
	r, ok := replies[hook.Index]
	if !ok {
		return w
	}
	if at, err := base.ParsePosition(r.Position); err == nil {
		w.Position = at
	}
	w.Node, w.Snapshot, w.Lag, w.Delivered = deliverer, r.Snapshot, r.Lag, r.Delivered
	w.Failures, w.LastError, w.Failing = r.Failures, r.LastError, time.Duration(r.Failing)*time.Second
	return w
}

package skein

import (
	"context"
	"time"

	"github.com/skeindb/skein/internal/node"
)

// WebhookOptions say what a webhook delivers, and to where. Name and URL must be
// set.
type WebhookOptions struct {
	// Name of the webhook among those of its database: up to 63 letters, digits,
	// _ . and -.
	Name string
	// URL is the address, http://HOST/... or https://HOST/..., that batches of
	// changes are posted to by whichever node leads the database.
	URL string
	// Tables limits what is delivered to the changes of some; none: all.
	Tables []string
	// Snapshot asks for every row that is there first. Otherwise only changes
	// from now on are delivered.
	Snapshot bool
	// Secret signs what is delivered; up to 256 bytes. Empty: one is drawn.
	Secret string
}

// Webhook is one of a database's webhooks, and how its deliveries fare.
type Webhook struct {
	Name     string
	URL      string
	Tables   []string // none: all
	Offset   string   // from where the next deliverer goes on; "": a snapshot comes first
	Position Position // behind the last change that was delivered, as far as is known
	Snapshot bool     // its initial snapshot is being delivered

	// Node is the name of the node that delivers; "" when none does, or it did not
	// answer: then what follows is not known.
	Node      string
	Lag       int64         // row changes that are safe and not delivered; -1: unknown
	Delivered int64         // events, since that node delivers
	Failures  int64         // attempts that came to nothing, since then
	LastError string        // "" when the last attempt went well
	Failing   time.Duration // for how long attempts have failed; 0: they do not
}

// AddWebhook has the changes of the database posted to an HTTP address, from now
// on and until DropWebhook, and returns the secret that each delivery is signed
// with; nothing else tells it. A body holds one change a line, in Debezium's
// envelope; an answer from 200 to 299 takes it. Its header Skein-Signature is
// "sha256=" and, in hexadecimal, the HMAC-SHA256 under the secret of the header
// Skein-Timestamp, a point and the body.
//
// Changes come in order and at least once: what comes again has the same id. A
// destination that fails is tried again for as long as the webhook exists.
// docs/cdc.md says all of it.
//
// KindExists when the database has a webhook of that name.
func (db *DB) AddWebhook(ctx context.Context, o WebhookOptions) (secret string, err error) {
	return db.node.node.AddWebhook(ctx, db.name, node.NewWebhook(o))
}

// DropWebhook ends the deliveries to a webhook and forgets it; KindNotFound when
// there is none of that name. A delivery that is under way may still arrive.
func (db *DB) DropWebhook(ctx context.Context, name string) error {
	return db.node.node.DropWebhook(ctx, db.name, name)
}

// Webhooks lists the database's webhooks by name, and asks the node that
// delivers how they fare.
func (db *DB) Webhooks(ctx context.Context) ([]Webhook, error) {
	hooks, err := db.node.node.Webhooks(ctx, db.name)
	if err != nil {
		return nil, err
	}
	list := make([]Webhook, 0, len(hooks))
	for _, w := range hooks {
		list = append(list, Webhook(w))
	}
	return list, nil
}

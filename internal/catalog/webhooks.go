package catalog

import (
	"cmp"
	"net/url"
	"regexp"
	"slices"

	"github.com/skeindb/skein/internal/base"
)

// Limits of webhooks. They are few, as each moves its offset here while it
// delivers.
const (
	MaxWebhooks      = 32 // in the cluster
	maxWebhookURL    = 2048
	maxWebhookSecret = 256
	maxWebhookTables = 64
	maxOffset        = 64 // bytes of text
)

// Webhook is a destination that a database's changes are delivered to.
type Webhook struct {
	// Index of the log at which it was added names it for ever.
	Index    uint64          `json:"index"`
	Database base.DatabaseID `json:"database"`
	Name     string          `json:"name"` // among those of its database
	URL      string          `json:"url"`
	Secret   string          `json:"secret"`           // signs what is delivered
	Tables   []string        `json:"tables,omitempty"` // nil: all
	// Offset behind the last change that was delivered; empty: a snapshot comes
	// first.
	Offset string `json:"offset,omitempty"`
	// Sent is how far what was delivered may go, beyond Offset: it is kept before
	// that is sent, and only where the database may lose writes.
	Sent base.Position `json:"sent,omitzero"`
}

// AddWebhook makes a webhook. Its secret is drawn outside.
type AddWebhook struct {
	Database base.DatabaseID `json:"database"`
	Name     string          `json:"name"`
	URL      string          `json:"url"`
	Secret   string          `json:"secret"`
	Tables   []string        `json:"tables,omitempty"`
	Offset   string          `json:"offset,omitempty"`
}

// DropWebhook drops a webhook.
type DropWebhook struct {
	Database base.DatabaseID `json:"database"`
	Name     string          `json:"name"`
}

// AdvanceWebhook moves the offset of the webhook with an index, if that is still
// where its deliverer believes: a former leader must not take it back.
type AdvanceWebhook struct {
	Webhook uint64 `json:"webhook"`
	From    string `json:"from"`
	To      string `json:"to"`
}

// AnnounceWebhook says how far what is about to be delivered goes, in an epoch: a
// leader of the next knows by that whether a receiver was told what is lost.
type AnnounceWebhook struct {
	Webhook uint64        `json:"webhook"`
	Epoch   base.Epoch    `json:"epoch"`
	Sent    base.Position `json:"sent"`
}

func (AddWebhook) verb() string      { return "add_webhook" }
func (DropWebhook) verb() string     { return "drop_webhook" }
func (AdvanceWebhook) verb() string  { return "advance_webhook" }
func (AnnounceWebhook) verb() string { return "announce_webhook" }

var webhookName = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,62}$`)

// Webhooks returns all webhooks by database and name.
func (s *State) Webhooks() []Webhook { return s.webhooks }

func compareWebhooks(a, b Webhook) int {
	return cmp.Or(cmp.Compare(a.Database, b.Database), cmp.Compare(a.Name, b.Name))
}

func (a AddWebhook) check() *base.Error {
	u, err := url.Parse(a.URL)
	switch {
	case !webhookName.MatchString(a.Name):
		return base.Errorf(base.KindInvalid, "webhook name %.80q: want up to 63 letters, digits, _ . and -", a.Name)
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" || len(a.URL) > maxWebhookURL:
		return base.Errorf(base.KindInvalid, "webhook address %.80q: want http://HOST/... or https://HOST/..., without a user, of at most %d bytes", a.URL, maxWebhookURL)
	case a.Secret == "" || len(a.Secret) > maxWebhookSecret:
		return base.Errorf(base.KindInvalid, "a webhook's secret has 1 to %d bytes", maxWebhookSecret)
	case len(a.Tables) > maxWebhookTables || slices.ContainsFunc(a.Tables, func(t string) bool { return t == "" || len(t) > maxText }):
		return base.Errorf(base.KindInvalid, "a webhook has at most %d tables, with names of 1 to %d bytes", maxWebhookTables, maxText)
	case len(a.Offset) > maxOffset:
		return base.Errorf(base.KindInvalid, "the offset is longer than %d bytes", maxOffset)
	}
	return nil
}

func (a AddWebhook) apply(d *draft) *base.Error {
	db, err := d.live(a.Database)
	if err != nil {
		return err
	}
	if err := a.check(); err != nil {
		return err
	}
	w := Webhook{Index: d.applied, Database: a.Database, Name: a.Name, URL: a.URL, Secret: a.Secret, Tables: slices.Clone(a.Tables), Offset: a.Offset}
	at, found := slices.BinarySearchFunc(d.webhooks, w, compareWebhooks)
	if found {
		return base.Errorf(base.KindExists, "database %q has a webhook %q already", db.Name, a.Name)
	}
	if len(d.webhooks) >= MaxWebhooks {
		return base.Errorf(base.KindTooLarge, "the cluster has %d webhooks, which is the limit", MaxWebhooks)
	}
	d.webhooks = slices.Insert(slices.Clone(d.webhooks), at, w)
	return nil
}

func (a DropWebhook) apply(d *draft) *base.Error {
	db, err := d.live(a.Database)
	if err != nil {
		return err
	}
	at, found := slices.BinarySearchFunc(d.webhooks, Webhook{Database: a.Database, Name: a.Name}, compareWebhooks)
	if !found {
		return base.Errorf(base.KindNotFound, "database %q has no webhook %.80q", db.Name, a.Name)
	}
	d.webhooks = slices.Delete(slices.Clone(d.webhooks), at, at+1)
	return nil
}

func (a AdvanceWebhook) apply(d *draft) *base.Error {
	at := slices.IndexFunc(d.webhooks, func(w Webhook) bool { return w.Index == a.Webhook })
	switch {
	case at < 0:
		return base.Errorf(base.KindNotFound, "the webhook was dropped")
	case d.webhooks[at].Offset != a.From:
		return base.Errorf(base.KindConflict, "another node delivers to webhook %q", d.webhooks[at].Name)
	case a.To == "" || len(a.To) > maxOffset:
		return base.Errorf(base.KindInvalid, "the offset has 1 to %d bytes", maxOffset)
	}
	d.webhooks = slices.Clone(d.webhooks)
	d.webhooks[at].Offset = a.To
	return nil
}

func (a AnnounceWebhook) apply(d *draft) *base.Error {
	at := slices.IndexFunc(d.webhooks, func(w Webhook) bool { return w.Index == a.Webhook })
	if at < 0 {
		return base.Errorf(base.KindNotFound, "the webhook was dropped")
	}
	if _, err := d.liveIn(d.webhooks[at].Database, a.Epoch); err != nil {
		return err
	}
	d.webhooks = slices.Clone(d.webhooks)
	d.webhooks[at].Sent = a.Sent
	return nil
}

// dropWebhooks drops those of a database that is dropped.
func (d *draft) dropWebhooks(db base.DatabaseID) {
	d.webhooks = slices.DeleteFunc(slices.Clone(d.webhooks), func(w Webhook) bool { return w.Database == db })
}

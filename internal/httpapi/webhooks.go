package httpapi

import (
	"net/http"
	"time"

	"github.com/skeindb/skein/internal/base"
)

// WebhookRequest is the body of POST /v1/databases/{name}/webhooks.
type WebhookRequest struct {
	Name   string   `json:"name"`
	URL    string   `json:"url"`
	Tables []string `json:"tables"` // none: all
	From   string   `json:"from"`   // "now" (default) or "snapshot"
	Secret string   `json:"secret"` // "": one is drawn
}

// AddedWebhook is the answer to it: the only one that tells the secret.
type AddedWebhook struct {
	Name   string `json:"name"`
	Secret string `json:"secret"`
}

// Webhook is a destination of changes, and how its deliveries fare.
type Webhook struct {
	Name     string   `json:"name"`
	URL      string   `json:"url"`
	Tables   []string `json:"tables,omitempty"` // none: all
	Offset   string   `json:"offset,omitempty"` // from where the next deliverer goes on; "": a snapshot comes first
	Position string   `json:"position"`         // behind the last change that was delivered, as far as is known
	Snapshot bool     `json:"snapshot"`         // its initial snapshot is being delivered

	// Node is the name of the node that delivers; "" when none does, or it did not
	// answer: then what follows is not known.
	Node          string `json:"node"`
	LagSeqs       int64  `json:"lag_seqs"`   // row changes that are safe and not delivered; -1: unknown
	Delivered     int64  `json:"delivered"`  // events, since this node delivers
	Failures      int64  `json:"failures"`   // attempts that came to nothing, since then
	LastError     string `json:"last_error"` // "" when the last attempt went well
	FailingForSec int64  `json:"failing_seconds"`
}

// addWebhook is for administrators of the cluster alone: a webhook makes nodes
// connect to an address of its author's choice, inside their network.
func (a *API) addWebhook(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := a.need(r.Context(), "*", RightAdmin); err != nil {
		return nil, err
	}
	var q WebhookRequest
	if err := readJSON(w, r, maxJSONBody, &q); err != nil {
		return nil, err
	}
	switch q.From {
	case "":
		q.From = "now"
	case "now", "snapshot":
	default:
		return nil, base.Errorf(base.KindInvalid, "from %q: want now or snapshot", q.From)
	}
	added, err := a.options.Node.AddWebhook(r.Context(), r.PathValue("name"), q)
	if err != nil {
		return nil, err
	}
	send(w, http.StatusCreated, added)
	return nil, nil
}

func (a *API) listWebhooks(_ http.ResponseWriter, r *http.Request) (any, error) {
	if err := a.need(r.Context(), "*", RightAdmin); err != nil {
		return nil, err
	}
	list, err := a.options.Node.ListWebhooks(r.Context(), r.PathValue("name"))
	if list == nil {
		list = []Webhook{}
	}
	return list, err
}

func (a *API) dropWebhook(_ http.ResponseWriter, r *http.Request) (any, error) {
	if err := a.need(r.Context(), "*", RightAdmin); err != nil {
		return nil, err
	}
	return done, a.options.Node.DropWebhook(r.Context(), r.PathValue("name"), r.PathValue("webhook"))
}

// Failing says for how long attempts have failed; 0: they do not.
func (w *Webhook) Failing() time.Duration { return time.Duration(w.FailingForSec) * time.Second }

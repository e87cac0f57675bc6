package catalog_test

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
)

func anyWebhookAction(r *rapid.T) catalog.Action {
	db := base.DatabaseID(rapid.Uint64Range(1, 4).Draw(r, "of"))
	name := rapid.SampledFrom([]string{"a", "b", "?"}).Draw(r, "hook")
	offsets := rapid.SampledFrom([]string{"", "1", "2"})
	switch rapid.IntRange(0, 4).Draw(r, "what") {
	case 0:
		return catalog.DropWebhook{Database: db, Name: name}
	case 2:
		sent := base.Position{Epoch: 1, Seq: base.Seq(rapid.IntRange(1, 9).Draw(r, "sent"))}
		return catalog.AnnounceWebhook{Webhook: rapid.Uint64Range(1, 60).Draw(r, "index"), Epoch: base.Epoch(rapid.IntRange(0, 2).Draw(r, "epoch")), Sent: sent}
	case 1:
		return catalog.AdvanceWebhook{Webhook: rapid.Uint64Range(1, 60).Draw(r, "index"), From: offsets.Draw(r, "from"), To: offsets.Draw(r, "to")}
	}
	return catalog.AddWebhook{Database: db, Name: name, URL: "http://host/", Secret: "s", Offset: offsets.Draw(r, "offset")}
}

// proposer applies one action after the other.
type proposer struct {
	t     *testing.T
	state *catalog.State
	index uint64
}

func (p *proposer) propose(a catalog.Action, want base.Kind) {
	p.t.Helper()
	p.index++
	var result catalog.Result
	p.state, result = p.state.Apply(p.index, catalog.Command{ID: catalog.ID{7, byte(p.index), byte(p.index >> 8)}, Action: a})
	if result.Kind != want {
		p.t.Errorf("%+v: %q (%s), want %q", a, result.Kind, result.Message, want)
	}
}

func withDatabase(t *testing.T) *proposer {
	p := &proposer{t: t, state: catalog.New()}
	p.propose(catalog.BootstrapCluster{ClusterID: 7, Node: catalog.Node{ID: 1, Name: "n1", PeerAddress: "host:1"}}, "")
	p.propose(catalog.NodeActive{Node: 1}, "")
	p.propose(catalog.CreateDatabase{Name: "shop", Policy: base.DefaultPolicy()}, "")
	return p
}

func hook(name string) catalog.AddWebhook {
	return catalog.AddWebhook{Database: 1, Name: name, URL: "https://host/in?x=1", Secret: "s"}
}

// Only who knows where a webhook stands moves it: a former leader can't take it
// back, nor one that delivers to a webhook of that name that was dropped.
func TestAWebhookIsMovedByWhoKnowsIt(t *testing.T) {
	p := withDatabase(t)
	p.propose(hook("audit"), "")
	p.propose(hook("audit"), base.KindExists)
	w := p.state.Webhooks()[0]
	p.propose(catalog.AdvanceWebhook{Webhook: w.Index, From: "", To: "1"}, "")
	p.propose(catalog.AdvanceWebhook{Webhook: w.Index, From: "1", To: "2"}, "")
	p.propose(catalog.AdvanceWebhook{Webhook: w.Index, From: "1", To: "3"}, base.KindConflict)
	sent := base.Position{Epoch: 1, Seq: 7}
	p.propose(catalog.AnnounceWebhook{Webhook: w.Index, Epoch: 9, Sent: sent}, base.KindConflict) // By who does not lead.
	p.propose(catalog.AnnounceWebhook{Webhook: w.Index, Sent: sent}, "")
	if got := p.state.Webhooks()[0].Sent; got != sent {
		t.Errorf("sent is %v", got)
	}
	if got := p.state.Webhooks()[0].Offset; got != "2" {
		t.Errorf("the offset is %q", got)
	}
	p.propose(catalog.DropWebhook{Database: 1, Name: "audit"}, "")
	p.propose(catalog.DropWebhook{Database: 1, Name: "audit"}, base.KindNotFound)
	p.propose(hook("audit"), "")
	p.propose(catalog.AdvanceWebhook{Webhook: w.Index, From: "", To: "1"}, base.KindNotFound)
	p.propose(catalog.AnnounceWebhook{Webhook: w.Index, Sent: sent}, base.KindNotFound)
	p.propose(catalog.DropDatabase{Database: 1}, "")
	if list := p.state.Webhooks(); len(list) != 0 {
		t.Errorf("a dropped database has webhooks %+v", list)
	}
	p.propose(hook("late"), base.KindNotFound)
}

func TestWebhooksAreChecked(t *testing.T) {
	p := withDatabase(t)
	for _, change := range []func(*catalog.AddWebhook){
		func(a *catalog.AddWebhook) { a.Name = "a/b" },
		func(a *catalog.AddWebhook) { a.URL = "file:///etc/passwd" },
		func(a *catalog.AddWebhook) { a.URL = "http://" },
		func(a *catalog.AddWebhook) { a.URL = "http://user:password@host/" },
		func(a *catalog.AddWebhook) { a.URL = "http://host/" + strings.Repeat("x", 2048) },
		func(a *catalog.AddWebhook) { a.Secret = "" },
		func(a *catalog.AddWebhook) { a.Tables = []string{""} },
		func(a *catalog.AddWebhook) { a.Offset = strings.Repeat("x", 65) },
	} {
		a := hook("audit")
		change(&a)
		p.propose(a, base.KindInvalid)
	}
	for i := range catalog.MaxWebhooks {
		p.propose(hook(fmt.Sprint("w", i)), "")
	}
	p.propose(hook("more"), base.KindTooLarge)
}

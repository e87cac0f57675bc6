package gateway

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/replica"
)

// oracle is a leader on this node that answers as it is told.
type oracle struct {
	Directory
	replica.Replica

	answers []replica.Fate
	asked   []base.Seq
}

func (o *oracle) Self() base.NodeID        { return 1 }
func (o *oracle) Changed() <-chan struct{} { return nil }
func (o *oracle) Seen() base.Seq           { return 100 }
func (o *oracle) Database(name string) (Database, bool) {
	return Database{ID: 7, Name: name, Leader: 1}, true
}

// directory gives the oracle as the only replica.
type directory struct{ *oracle }

func (d directory) Replica(base.DatabaseID) replica.Replica { return d.oracle }

func (o *oracle) Fate(_ context.Context, _ replica.OperationID, since base.Seq) (replica.Fate, error) {
	o.asked = append(o.asked, since)
	f := o.answers[min(len(o.asked), len(o.answers))-1]
	if f.Epoch == 0 {
		return f, errors.New("no answer")
	}
	return f, nil
}

// What is not found may still come in the epoch it was sent in; what nobody
// remembers may have been done.
func TestWhenAFateIsFinal(t *testing.T) {
	lost := (&base.Error{Kind: base.KindIndeterminate, Message: "lost"}).WithOutcome(base.Indeterminate)
	known := func(epoch base.Epoch) replica.Fate { return replica.Fate{Known: true, Epoch: epoch} }
	for name, c := range map[string]struct {
		answers []replica.Fate
		calls   int
		want    func(error) bool
	}{
		"absent in a later epoch":  {[]replica.Fate{{}, known(3), known(3), known(4)}, 4, retriable},
		"found in the same epoch":  {[]replica.Fate{known(3), {Known: true, Found: true, Epoch: 3}}, 2, func(err error) bool { return err == nil }},
		"forgotten":                {[]replica.Fate{known(3), {Epoch: 4}}, 2, func(err error) bool { return err == error(lost) }},
		"never more than this one": {[]replica.Fate{known(3)}, 0, func(err error) bool { return err == error(lost) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &oracle{answers: c.answers}
				g := &Gateway{env: env.Real(slog.New(slog.DiscardHandler)), directory: directory{o}}
				s := g.name(Database{ID: 7, Name: "shop", Epoch: 3, Leader: 1}, replica.OperationID{1}, base.Position{Epoch: 3, Seq: 40})
				_, err := g.resolve(t.Context(), s, lost)
				if !c.want(err) || (c.calls > 0 && len(o.asked) != c.calls) {
					t.Errorf("after %d questions: %v", len(o.asked), err)
				}
				for _, since := range o.asked {
					if since != 100 {
						t.Errorf("asked since %d", since)
					}
				}
			})
		})
	}
}

// Only what was certainly not done is done again, and only where it helps.
func TestWhatMayBeRepeated(t *testing.T) {
	for _, kind := range []base.Kind{base.KindNotLeader, base.KindNoLeader, base.KindUnavailable, base.KindShutdown} {
		e := base.Errorf(kind, "no")
		if !retriable(e) {
			t.Errorf("%s is not repeated", kind)
		}
		for _, o := range []base.Outcome{base.Indeterminate, base.Done} {
			if retriable(base.Errorf(kind, "no").WithOutcome(o)) {
				t.Errorf("%s is repeated although it is %s", kind, o)
			}
		}
	}
	for _, kind := range []base.Kind{base.KindSQL, base.KindConflict, base.KindIndeterminate, base.KindTimeout, base.KindCanceled, base.KindDiskFull} {
		if retriable(base.Errorf(kind, "no")) {
			t.Errorf("%s is repeated", kind)
		}
	}
}

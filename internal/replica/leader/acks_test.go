package leader

import (
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/leadership"
)

// A leadership is not over while somebody is being answered: a client that finds
// no answer then is told that nothing was done, and sends its write again.
func TestTheEndWaitsForAnswersOnTheirWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Replica{env: env.Real(slog.New(slog.DiscardHandler))}
		r.started = r.env.Clock.Now()
		a := &acks{replica: r, epoch: 1, start: 1, safeRose: func() {}, leaseWanted: func() {}}
		a.mu.core = leadership.NewLeader(leadership.Config{Self: 1, Epoch: 1, Opening: 1, Replicas: []base.NodeID{1}, Policy: base.DefaultPolicy()}, r.now())
		a.mu.queues = make(map[base.Durability][]group)
		release := make(chan struct{})
		var answer error
		answered, ended := false, false
		settle := func(_ string, _ bool, err error) {
			<-release
			answered, answer = true, err
		}
		a.publish(base.Position{Epoch: 1, Seq: 1}, 0, []group{{seq: 1, settle: []func(string, bool, error){settle}}})
		go a.locallyFlushed(1)
		synctest.Wait()
		go func() {
			a.end(errors.New("the leader changed"))
			ended = true
		}()
		synctest.Wait()
		if ended {
			t.Error("the end came before the answer")
		}
		close(release)
		synctest.Wait()
		if !answered || answer != nil || !ended {
			t.Errorf("answered %v (%v), ended %v", answered, answer, ended)
		}
	})
}

package sim_test

import (
	"testing"
	"time"

	"github.com/skeindb/skein/internal/sim"
)

// TestQuestionsAndAnswers wants clients that work in two databases to see what
// the promise is about: a question that they know of by an answer alone.
func TestQuestionsAndAnswers(t *testing.T) {
	if testing.Short() {
		t.Skip("the SQL engine is slow under the race detector")
	}
	r := sim.Run(t, sim.Options{Seed: 1, For: time.Minute, Scenario: "across"})
	expectGood(t, r)
	if r.Counts.Met == 0 {
		t.Error("nobody has seen a question after its answer, so that nothing was tried")
	}
}

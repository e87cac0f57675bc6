package sim_test

import (
	"testing"

	"github.com/skeindb/skein/internal/sim"
)

// TestLossIsReported runs seeds whose databases lose acknowledged writes, as they
// may: the checkers want each of them listed as undone, and counted.
func TestLossIsReported(t *testing.T) {
	if testing.Short() {
		t.Skip("the SQL engine is slow under the race detector")
	}
	lost := 0
	for _, seed := range []uint64{96023, 96060, 96070, 96073} {
		r := sim.Run(t, sim.Options{Seed: seed, Apart: true, Unheard: true})
		expectGood(t, r)
		lost += r.Counts.Lost
	}
	t.Logf("%d acknowledged writes were lost", lost)
	if lost == 0 {
		t.Error("nothing was lost, so that nothing is known of how it is reported")
	}
}

package sim_test

import (
	"testing"
	"time"

	"github.com/skeindb/skein/internal/check"
	"github.com/skeindb/skein/internal/sim"
)

// TestLevelsUnderLag is what each level of reads promises while followers lag:
// at level any each of the anomalies comes about, so that the checks are known to
// see them, and at the others none does.
func TestLevelsUnderLag(t *testing.T) {
	if testing.Short() {
		t.Skip("the SQL engine is slow under the race detector")
	}
	for _, level := range []string{"any", "bounded(1s)", "session", "leader"} {
		t.Run(level, func(t *testing.T) {
			seen, done := map[string]int{}, 0
			for seed := range uint64(4) {
				r := sim.Run(t, sim.Options{Seed: 2000 + seed, For: 2 * time.Minute, Lag: 3 * time.Second, Level: level})
				expectGood(t, r)
				for _, name := range check.Guarantees {
					seen[name] += r.Anomalies[name]
				}
				for _, reads := range r.Reads {
					if reads.Level != level {
						t.Errorf("seed %d read at level %s", r.Seed, reads.Level)
					}
					done += reads.Done
				}
			}
			t.Logf("%d reads; violated: %v", done, seen)
			if done < 500 {
				t.Errorf("%d reads in all", done)
			}
			for _, name := range check.Guarantees {
				if (seen[name] > 0) != (level == "any") {
					t.Errorf("%s was violated %d times", name, seen[name])
				}
			}
		})
	}
}

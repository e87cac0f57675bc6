package sim_test

import (
	"bufio"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/planted"
	"github.com/skeindb/skein/internal/sim"
)

func expectGood(t *testing.T, r *sim.Result) {
	t.Helper()
	if r.Good() {
		return
	}
	t.Errorf("seed %d, which drew %s\n%s\n%s", r.Seed, r.Plan, strings.Join(r.Last, "\n"), strings.Join(r.Failures, "\n"))
}

// TestSameSeedSameStory is what makes a failure worth having. A run that the
// machine has held up for more than 10 ms may go another way, as the runtime then
// lets another goroutine go first: that is allowed to happen, once in a while. Runs
// with a scenario, whose clients are many, are left out: most of them do.
func TestSameSeedSameStory(t *testing.T) {
	if testing.Short() {
		t.Skip("the SQL engine takes more than 10 ms a step under the race detector")
	}
	for seed := range uint64(3) {
		o := sim.Options{Seed: 100 + seed, For: 2 * time.Minute, Scenario: sim.NoScenario}
		last := sim.Run(t, o)
		expectGood(t, last)
		if last.Counts.Done == 0 || last.Counts.Elections == 0 {
			t.Errorf("seed %d: nothing happened: %+v", o.Seed, last.Counts)
		}
		same := false
		for attempt := 0; attempt < 4 && !same; attempt++ {
			r := sim.Run(t, o)
			if same = r.Hash == last.Hash && r.Events == last.Events; !same {
				t.Logf("seed %d: %016x with %d events, then %016x with %d", o.Seed, last.Hash, last.Events, r.Hash, r.Events)
			}
			last = r
		}
		if !same {
			t.Errorf("seed %d never tells the same story twice in a row", o.Seed)
		}
	}
}

func TestSomeSeeds(t *testing.T) {
	seeds := uint64(10)
	if testing.Short() {
		seeds = 1
	}
	for seed := range seeds {
		expectGood(t, sim.Run(t, sim.Options{Seed: 1000 + seed, For: 3 * time.Minute}))
	}
}

// TestScenarios runs one seed of each scenario that a planted bug names.
func TestScenarios(t *testing.T) {
	if testing.Short() {
		t.Skip("the SQL engine is slow under the race detector")
	}
	tried := make(map[string]bool)
	for _, bug := range planted.All {
		name := planted.Scenario(bug)
		if name == "" || tried[name] {
			continue
		}
		tried[name] = true
		t.Run(name, func(t *testing.T) {
			r := sim.Run(t, sim.Options{Seed: 1, For: time.Minute, Scenario: name})
			expectGood(t, r)
			if !slices.Contains(r.Faults, name) || r.Counts.Done == 0 {
				t.Errorf("no drill or nobody who works: faults %v, %+v", r.Faults, r.Counts)
			}
		})
	}
	if len(tried) != 7 {
		t.Errorf("%d scenarios are named by planted bugs, want all seven", len(tried))
	}
}

// TestSeedsThatFoundSomething runs what testdata/seeds lists.
func TestSeedsThatFoundSomething(t *testing.T) {
	if testing.Short() {
		t.Skip("the SQL engine is slow under the race detector")
	}
	f, err := os.Open("testdata/seeds")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || fields[0] == "#" {
			continue
		}
		seed, err := strconv.ParseUint(fields[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		length, err := time.ParseDuration(fields[1])
		if err != nil {
			t.Fatal(err)
		}
		o := sim.Options{Seed: seed, For: length, Plain: fields[2] == "plain", Apart: fields[2] == "apart", Unheard: fields[2] == "apart"}
		t.Run(fields[0], func(t *testing.T) { expectGood(t, sim.Run(t, o)) })
	}
}

package sim_test

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/sim"
)

func expectGood(t *testing.T, r *sim.Result) {
	t.Helper()
	if r.Good() {
		return
	}
	t.Errorf("seed %d, which drew %s\n%s\n%s", r.Seed, r.Plan, strings.Join(r.Last, "\n"), strings.Join(r.Failures, "\n"))
}

// TestSameSeedSameStory is what makes a failure worth having.
func TestSameSeedSameStory(t *testing.T) {
	for seed := range uint64(3) {
		o := sim.Options{Seed: 100 + seed, For: 2 * time.Minute}
		one, two := sim.Run(t, o), sim.Run(t, o)
		expectGood(t, one)
		if one.Hash != two.Hash || one.Events != two.Events {
			t.Errorf("seed %d: %016x with %d events, then %016x with %d", o.Seed, one.Hash, one.Events, two.Hash, two.Events)
		}
		if one.Counts.Done == 0 || one.Counts.Elections == 0 {
			t.Errorf("seed %d: nothing happened: %+v", o.Seed, one.Counts)
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
		t.Run(fields[0], func(t *testing.T) { expectGood(t, sim.Run(t, sim.Options{Seed: seed, For: length})) })
	}
}

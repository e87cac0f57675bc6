// Command skeinsim runs clusters of the real code in virtual time, from seeds.
//
//	go run ./cmd/skeinsim -seed 7 -for 10m
//	go run ./cmd/skeinsim -seeds 1..100
//
// A failure prints the seed, what it drew, what went wrong and the last events;
// then the faults that it does not need are switched off, one after the other.
// The exit status is 1 if a run was not good.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/check"
	"github.com/skeindb/skein/internal/sim"
)

type settings struct {
	seed    uint64
	seeds   string
	length  time.Duration
	model   string
	without string
	trace   string
	twice   bool
	shrink  bool
	quiet   bool
	plain   bool
	apart   bool
	unheard bool
	lag     time.Duration
	level   string
	format  string
	history string
	profile string
	planted string
	aim     string
	budget  int
	hunts   int
}

func main() {
	var s settings
	flag.Uint64Var(&s.seed, "seed", 1, "the seed to run")
	flag.StringVar(&s.seeds, "seeds", "", "the seeds to run, FROM..TO, instead of one")
	flag.DurationVar(&s.length, "for", sim.DefaultFor, "how long faults last, in virtual time")
	flag.StringVar(&s.model, "model", "leader", "the database's model")
	flag.StringVar(&s.without, "without", "", "faults that are not to happen, with commas between")
	flag.BoolVar(&s.plain, "plain", false, "one database that loses nothing, on every node, and nodes neither come nor go")
	flag.BoolVar(&s.apart, "apart", false, "no client works in two databases")
	flag.BoolVar(&s.unheard, "unheard", false, "nobody is told the changes: no webhooks, no streams")
	flag.DurationVar(&s.lag, "lag", 0, "how late one follower is, while clients go from node to node with their token")
	flag.StringVar(&s.level, "level", "", "what all clients read at: any, bounded(2s), session or leader")
	flag.StringVar(&s.format, "log-format", "", "every database's log format, instead of what the seed draws")
	flag.StringVar(&s.trace, "trace", "", "a file for every event of the run")
	flag.StringVar(&s.history, "history", "", "a file for what the clients saw")
	flag.BoolVar(&s.twice, "twice", false, "run each seed twice and compare what happened")
	flag.BoolVar(&s.shrink, "shrink", true, "switch off the faults that a failure does not need")
	flag.BoolVar(&s.quiet, "q", false, "print failures and the total only")
	flag.StringVar(&s.profile, "profile", "", "a file for a profile of the processor's time")
	flag.StringVar(&s.planted, "planted", "", "a bug to plant, or all one after the other: each must be caught (needs -tags planted)")
	flag.StringVar(&s.aim, "scenario", "", "what to aim runs at, or none; by default the seed draws it, and a planted bug has its own")
	flag.IntVar(&s.budget, "budget", 100, "how many runs a planted bug may take to be caught")
	flag.IntVar(&s.hunts, "hunts", 1, "how often each planted bug is hunted, from other seeds each time")
	testing.Init() // Virtual time comes from package testing.
	flag.Parse()
	inTest(func(t *testing.T) {
		if err := s.profiled(t); err != nil {
			fmt.Fprintln(os.Stderr, "skeinsim:", err)
			os.Exit(1)
		}
		os.Exit(0)
	})
}

// inTest runs f as a test, which virtual time needs. It does not return.
func inTest(f func(t *testing.T)) {
	all := func(string, string) (bool, error) { return true, nil }
	testing.Main(all, []testing.InternalTest{{Name: "skeinsim", F: f}}, nil, nil)
}

// total is what all runs together came to.
type total struct {
	runs, bad        int
	simulated, spent time.Duration
	events           int64
	counts           sim.Counts
}

func (s settings) profiled(t *testing.T) error {
	if s.profile == "" {
		return s.run(t)
	}
	f, err := os.Create(s.profile)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	return s.run(t)
}

func (s settings) run(t *testing.T) error {
	from, to := s.seed, s.seed
	if s.seeds != "" {
		var err error
		if from, to, err = parseRange(s.seeds); err != nil {
			return err
		}
	}
	if s.planted != "" {
		return s.hunt(t, from)
	}
	var sum total
	for seed := from; seed <= to; seed++ {
		if err := s.one(t, seed, &sum); err != nil {
			return err
		}
	}
	speed := sum.simulated.Seconds() / max(sum.spent.Seconds(), 1e-9)
	fmt.Printf("%d runs, %d bad: %.2f simulated hours in %v, %.0f simulated hours a core-hour; %d events, %d operations done, %d failed, %d unknown, %d faults, %d elections, %d writes lost where that is allowed, %d questions met by who knew of them by an answer, %d more lost where that is allowed, %d changes delivered, %d subscribers began anew\n",
		sum.runs, sum.bad, sum.simulated.Hours(), sum.spent.Round(time.Millisecond), speed, sum.events,
		sum.counts.Done, sum.counts.Failed, sum.counts.Unknown, sum.counts.Faults, sum.counts.Elections, sum.counts.Lost, sum.counts.Met, sum.counts.Gone, sum.counts.Delivered, sum.counts.Renewed)
	if sum.bad > 0 {
		return fmt.Errorf("%d of %d runs were not good", sum.bad, sum.runs)
	}
	return nil
}

func parseRange(text string) (from, to uint64, err error) {
	a, b, ok := strings.Cut(text, "..")
	if from, err = strconv.ParseUint(a, 10, 64); err == nil && ok {
		to, err = strconv.ParseUint(b, 10, 64)
	}
	if err != nil || !ok || to < from {
		return 0, 0, fmt.Errorf("seeds %q: want FROM..TO", text)
	}
	return from, to, nil
}

func (s settings) options(seed uint64) sim.Options {
	o := sim.Options{Seed: seed, For: s.length, Model: s.model, Plain: s.plain, Apart: s.apart, Unheard: s.unheard, Lag: s.lag, Level: s.level, Format: s.format, Scenario: s.aim}
	if s.without != "" {
		o.Without = strings.Split(s.without, ",")
	}
	return o
}

// one runs a seed and tells what came of it.
func (s settings) one(t *testing.T, seed uint64, sum *total) error {
	o := s.options(seed)
	r, spent, err := traced(t, o, s.trace)
	if err != nil {
		return err
	}
	if s.twice {
		second := s.trace
		if second != "" {
			second += ".2"
		}
		again, _, err := traced(t, o, second)
		if err != nil {
			return err
		}
		if again.Hash != r.Hash {
			r.Failures = append(r.Failures, fmt.Sprintf("two runs of the seed differ: %016x with %d events, %016x with %d", r.Hash, r.Events, again.Hash, again.Events))
		}
	}
	sum.add(r, spent)
	if s.history != "" {
		if err := writeHistories(s.history, r); err != nil {
			return err
		}
	}
	if !s.quiet || !r.Good() {
		fmt.Printf("seed %d: %v in %v, %d events, trace %016x, %d done, %d failed, %d unknown, %d faults, %d elections, %d lost\n", seed, r.Simulated.Round(time.Second),
			spent.Round(time.Millisecond), r.Events, r.Hash, r.Counts.Done, r.Counts.Failed, r.Counts.Unknown, r.Counts.Faults, r.Counts.Elections, r.Counts.Lost)
	}
	if s.lag > 0 {
		for _, reads := range r.Reads {
			fmt.Println(reads)
		}
		for _, name := range check.Guarantees {
			fmt.Printf("%s: violated %d times\n", name, r.Anomalies[name])
		}
	}
	if r.Good() {
		return nil
	}
	sum.bad++
	fmt.Printf("%s\nthe last events:\n  %s\n%s\nseed %d drew %s\n", strings.Repeat("-", 80), strings.Join(r.Last, "\n  "),
		strings.Repeat("-", 80), seed, r.Plan)
	for _, f := range r.Failures {
		fmt.Printf("FAILED: %s\n", f)
	}
	if s.shrink {
		return s.reduce(t, o, r)
	}
	return nil
}

// writeHistories writes what the clients saw: of the first database into the
// file of that name, of each other beside it.
func writeHistories(name string, r *sim.Result) error {
	for i, d := range r.Databases {
		file := name
		if i > 0 {
			file += "." + d.Name
		}
		if err := os.WriteFile(file, []byte(d.History.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// traced runs a seed and writes down what happened, if there is a file to.
func traced(t *testing.T, o sim.Options, name string) (*sim.Result, time.Duration, error) {
	if name == "" {
		return simulate(t, o)
	}
	f, err := os.Create(name)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	o.Trace = f
	return simulate(t, o)
}

// reduce switches off the faults that a failure does not need.
func (s settings) reduce(t *testing.T, o sim.Options, r *sim.Result) error {
	for _, name := range r.Faults {
		less := o
		less.Without = append(append([]string(nil), o.Without...), name)
		again, _, err := simulate(t, less)
		if err != nil {
			return err
		}
		if !again.Good() {
			o, r = less, again
		}
	}
	flags := ""
	if o.Plain {
		flags = " -plain"
	}
	if o.Apart {
		flags += " -apart"
	}
	if o.Unheard {
		flags += " -unheard"
	}
	if o.Scenario != "" {
		flags += " -scenario " + o.Scenario
	}
	fmt.Printf("what is left of it: go run ./cmd/skeinsim -seed %d -for %v%s -without %s\n  faults that it needs: %s\n  %s\n", o.Seed, o.For, flags,
		strings.Join(o.Without, ","), strings.Join(r.Faults, " "), strings.Join(r.Failures, "\n  "))
	return nil
}

func (t *total) add(r *sim.Result, spent time.Duration) {
	t.runs++
	t.simulated += r.Simulated
	t.spent += spent
	t.events += r.Events
	t.counts.Done += r.Counts.Done
	t.counts.Failed += r.Counts.Failed
	t.counts.Unknown += r.Counts.Unknown
	t.counts.Faults += r.Counts.Faults
	t.counts.Elections += r.Counts.Elections
	t.counts.Lost += r.Counts.Lost
	t.counts.Met += r.Counts.Met
	t.counts.Gone += r.Counts.Gone
	t.counts.Delivered += r.Counts.Delivered
	t.counts.Renewed += r.Counts.Renewed
}

// processorTime is what this process has used: others may be on the machine.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// simulate runs a seed.
func simulate(t *testing.T, o sim.Options) (*sim.Result, time.Duration, error) {
	var r *sim.Result
	began := processorTime()
	t.Run(fmt.Sprint("seed ", o.Seed), func(t *testing.T) { r = sim.Run(t, o) })
	spent := processorTime() - began
	if r == nil {
		return nil, 0, fmt.Errorf("seed %d: the run came to no end", o.Seed)
	}
	return r, spent, nil
}

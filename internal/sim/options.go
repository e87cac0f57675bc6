package sim

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/planted"
)

// Options of a run. Seed decides everything that the others leave open.
type Options struct {
	Seed uint64
	// For is how long faults come and go; the healed phase comes on top. 0
	// means DefaultFor.
	For time.Duration
	// Model of the database: "leader", which is also the default.
	Model string
	// Without names faults that the seed may have drawn and that do not happen.
	Without []string
	// Plain runs have one database, which loses nothing, on every node, and
	// nodes neither come nor go: a seed then draws what it drew before there was
	// more.
	Plain bool
	// Apart keeps each client to one database: a seed of several then draws what it
	// drew before some clients worked in two.
	Apart bool
	// Unheard runs have no webhooks and nobody who reads the changes: a seed then
	// draws what it drew before there were any.
	Unheard bool
	// Lag makes one follower at a time late by so much, and clients go from node
	// to node with their token. The run is then a plain one of three nodes.
	Lag time.Duration
	// Level is what all clients read at: any, bounded(age), session or leader.
	// Empty: each draws its own.
	Level string
	// Format of every database's log, also in plain runs. Empty: each draws its own,
	// and an alteration may change it; in plain runs it is row.
	Format string
	// Scenario is what the run is aimed at; NoScenario for nothing, "" for what
	// the seed draws, which for plain runs is nothing. Otherwise a run with a
	// scenario is as plain ones are.
	Scenario string
	// Planted is a bug that the run has, in a program that can have some.
	Planted planted.Bug
	// Trace gets every event as a line of text; nil: nothing does.
	Trace io.Writer
}

// DefaultFor is how long a run's faults last by default.
const DefaultFor = 10 * time.Minute

func (o *Options) validate() error {
	if o.For == 0 {
		o.For = DefaultFor
	}
	if o.Model == "" {
		o.Model = "leader"
	}
	if o.For < 0 || o.Lag < 0 {
		return base.Errorf(base.KindInvalid, "simulator: for %v, with a lag of %v", o.For, o.Lag)
	}
	if o.Level != "" && !aLevel(o.Level) {
		return base.Errorf(base.KindInvalid, "simulator: level %q: want any, bounded(2s), session or leader", o.Level)
	}
	o.Plain = o.Plain || o.Lag > 0
	if o.Format != "" && !slices.Contains(base.LogFormats, o.Format) {
		return base.Errorf(base.KindInvalid, "simulator: log format %q: want one of %s", o.Format, strings.Join(base.LogFormats, ", "))
	}
	if o.Model != "leader" {
		return base.Errorf(base.KindUnsupported, "simulator: model %q: only \"leader\" exists in this version", o.Model)
	}
	if o.Planted != "" && !planted.Possible {
		return base.Errorf(base.KindUnsupported, "simulator: this program can have no bug planted: build it with -tags planted")
	}
	if o.Scenario != "" && o.Scenario != NoScenario && scenarioNamed(o.Scenario) == nil {
		return base.Errorf(base.KindInvalid, "simulator: no scenario is called %q", o.Scenario)
	}
	for _, name := range o.Without {
		if scenarioNamed(name) == nil && !slices.ContainsFunc(faults, func(f fault) bool { return f.name == name }) {
			return base.Errorf(base.KindInvalid, "simulator: no fault is called %q", name)
		}
	}
	return nil
}

// plan is what a seed draws before a run begins.
type plan struct {
	nodes int
	lease time.Duration
	tick  time.Duration
	// databases are what clients work on, the first of them always.
	databases []databasePlan
	delay     time.Duration // of every link, one way
	jitter    time.Duration
	sync      time.Duration // of every disk, on average
	drift     float64       // at most, of every clock
	clients   int
	think     time.Duration // of a client between two operations, in a burst
	burst     time.Duration
	quiet     time.Duration // between two bursts
	every     time.Duration // a fault, on average
	faults    []string
	scenario  *scenario     // that the run is aimed at; nil: none
	register  time.Duration // how long clients use the same registers
	// subscribed says that somebody is told the changes of every database.
	subscribed bool
}

// stream is one of a seed's sources of chance: what one draws does not move
// what another does.
func stream(seed uint64, name string) *rand.Rand {
	number := uint64(14695981039346656037)
	for _, c := range []byte(name) {
		number = (number ^ uint64(c)) * 1099511628211
	}
	return rand.New(rand.NewPCG(seed, number))
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// between draws evenly on a scale of powers.
func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Float64()*r.Float64()*float64(most-least))
}

// draw makes the plan of a seed.
func draw(o Options) plan {
	r := stream(o.Seed, "plan")
	p := plan{
		nodes: pick(r, 3, 3, 3, 3, 5, 2, 4), lease: pick(r, 300*time.Millisecond, time.Second, 2*time.Second, 2*time.Second, 5*time.Second, 5*time.Second),
		delay: between(r, 50*time.Microsecond, 20*time.Millisecond), jitter: between(r, 10*time.Microsecond, 30*time.Millisecond),
		sync: between(r, 50*time.Microsecond, 10*time.Millisecond), drift: pick(r, 0, 1e-5, 2e-4, 5e-3),
		clients: 1 + r.IntN(5), think: between(r, 20*time.Millisecond, 3*time.Second),
		burst: between(r, 2*time.Second, 15*time.Second), quiet: between(r, 20*time.Second, 4*time.Minute),
		every: between(r, 4*time.Second, time.Minute), register: 2 * time.Minute,
	}
	p.tick = p.lease / 15 // as the defaults are to each other
	policy := base.DefaultPolicy()
	policy.Durability = base.Durability{Level: pick(r, base.Quorum, base.Quorum, base.Quorum, base.One, base.All), When: pick(r, base.Flushed, base.Flushed, base.Applied)}
	policy.DegradeAfter = pick(r, 0, 0, 5*time.Second)
	if r.IntN(4) == 0 {
		policy.RetentionBytes = 64 << 10
	}
	p.databases = []databasePlan{{name: "main", policy: policy}}
	p.aim(stream(o.Seed, "aim"), drawScenario(o))
	for _, f := range faults {
		if r.IntN(100) < f.chance && p.nodes >= f.nodes {
			p.faults = append(p.faults, f.name)
		}
	}
	if p.scenario != nil {
		p.faults = append(p.faults, p.scenario.name)
	}
	if o.Plain || p.scenario != nil {
		p.drop(movements...)
	} else {
		p.drawMore(stream(o.Seed, "databases"))
	}
	if o.Lag > 0 {
		p.drawLag()
	}
	if p.scenario == nil && len(p.databases) > 1 && acrossDrawn(o) {
		o.Scenario = across
		return draw(o)
	}
	p.drawAcross(o)
	p.drawFormats(o)
	p.drawSubscribers(o)
	p.drop(o.Without...)
	return p
}

// String returns the plan for a person.
func (p plan) String() string {
	var databases []string
	for _, d := range p.databases {
		databases = append(databases, d.String())
	}
	aimed := ""
	if p.scenario != nil {
		aimed = "scenario " + p.scenario.name + ", "
	}
	if p.subscribed {
		aimed += "changes are delivered, "
	}
	return aimed + fmt.Sprintf("%d nodes, lease %v, %s; links %v + %v, syncs %v, clocks %g; %d clients every %v for %v, then quiet for %v; every %v one of: %s",
		p.nodes, p.lease, strings.Join(databases, ", "), p.delay, p.jitter, p.sync, p.drift,
		p.clients, p.think, p.burst, p.quiet, p.every, strings.Join(p.faults, " "))
}

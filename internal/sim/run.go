package sim

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skeindb/skein/internal/check"
	"github.com/skeindb/skein/internal/planted"
	"github.com/skeindb/skein/internal/session"
)

// The bounds of the healed phase, in virtual time.
const (
	settleWithin = 3 * time.Minute // until all is well
	endWithin    = 3 * time.Minute // until nothing of the run is left
)

// shared is where the SQL engine keeps the memory that connections share. It
// is one for the process, since the engine knows its file systems for ever.
var shared = fmt.Sprintf("%s/skeinsim-%d", os.TempDir(), os.Getpid())

// Result of a run.
type Result struct {
	Seed      uint64
	Plan      string
	Faults    []string // that the seed had drawn
	Simulated time.Duration
	Hash      uint64 // of everything that happened
	Events    int64
	Counts    Counts
	Failures  []string
	Last      []string // events
	Databases []Judged
	Reads     []Reads // by database and level
	// Anomalies are how often a read saw what the guarantees of its session would
	// have kept from it, by their names: at level any that is no failure.
	Anomalies map[string]int
}

// Judged is a database of a run and what its clients saw.
type Judged struct {
	Name    string
	History *check.History

	ended bool // the replicas were level and have been read
}

// Good says that nothing has gone wrong.
func (r *Result) Good() bool { return len(r.Failures) == 0 }

// Run runs a seed. What goes wrong in the simulated cluster is in the result.
func Run(t *testing.T, o Options) *Result {
	t.Helper()
	if err := o.validate(); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(shared, 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(shared)
	defer seedChance(o.Seed)()
	defer alone()()
	planted.Plant(o.Planted)
	defer planted.Plant("")
	var r *Result
	synctest.Test(t, func(t *testing.T) { r = newWorld(o).play() })
	for _, d := range r.Databases {
		if d.ended {
			r.judge(d)
		}
	}
	r.judgeAcross()
	return r
}

// judge has the checkers look at what the clients of a database saw.
func (r *Result) judge(d Judged) {
	r.Reads = append(r.Reads, readsOf(d.History)...)
	for name, n := range check.Anomalies(d.History) {
		r.Anomalies[name] += n
	}
	v := check.All(d.History, check.Options{})
	r.Counts.Lost += v.Counted.Lost
	for _, f := range v.Findings {
		r.Failures = append(r.Failures, d.Name+": "+f.Report(d.History))
	}
	for _, u := range v.Undecided {
		r.Failures = append(r.Failures, d.Name+": undecided: "+u)
	}
}

// alone gives the run one processor, and no collection of garbage unless memory
// runs short: what is ready at one instant then runs in an order that the load
// of the machine does not change. It returns what undoes it.
func alone() func() {
	processors := runtime.GOMAXPROCS(1)
	percent, limit := debug.SetGCPercent(-1), debug.SetMemoryLimit(2<<30)
	return func() {
		runtime.GOMAXPROCS(processors)
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
		runtime.GC()
	}
}

// seedChance makes crypto/rand a seed's; libraries draw from it. It returns
// what undoes it.
func seedChance(seed uint64) func() {
	old := rand.Reader
	rand.Reader = &source{r: stream(seed, "libraries")}
	return func() { rand.Reader = old }
}

var _ io.Reader = (*source)(nil)

// play is the whole run.
func (w *world) play() *Result {
	w.trace.add("seed %d: %s", w.options.Seed, w.plan)
	for _, s := range w.slots {
		w.start(s)
	}
	if w.found() {
		working, stop := context.WithCancel(w.ctx)
		var clients sync.WaitGroup
		for i := range w.plan.clients {
			clients.Go(func() { w.newClient(i + 1).work(working) })
		}
		w.correspond(working, &clients)
		listening, quit := context.WithCancel(w.ctx)
		var listeners sync.WaitGroup
		w.subscribe(listening, &listeners)
		newNemesis(w).rage(w.instants.since() + w.options.For)
		w.heal()
		w.settle()
		stop()
		clients.Wait()
		w.arrive()
		quit()
		listeners.Wait()
		w.judge()
	}
	for _, s := range w.slots {
		w.net.Kill(s.id)
		w.end(s)
	}
	w.cancel()
	w.finish()
	r := &Result{
		Seed: w.options.Seed, Plan: w.plan.String(), Faults: w.plan.faults, Simulated: w.instants.since(),
		Counts: w.counts, Failures: w.failures, Last: w.trace.last(), Anomalies: make(map[string]int),
	}
	for _, d := range w.databases {
		r.Databases = append(r.Databases, Judged{Name: d.name, History: &d.history, ended: d.ended})
	}
	r.Hash, r.Events = w.trace.result()
	return r
}

// finish waits until nothing of the run is left.
func (w *world) finish() {
	done := make(chan struct{})
	go func() {
		w.tasks.Wait()
		close(done)
	}()
	limit := time.NewTimer(endWithin)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
		w.fail("something still runs %v after the end", endWithin)
		<-done
	}
}

// until waits for something that must come true.
func (w *world) until(what string, within time.Duration, f func() error) bool {
	end := w.instants.since() + within
	for {
		err := f()
		if err == nil {
			return true
		}
		if w.instants.since() > end {
			w.fail("not within %v: %s: %v", within, what, err)
			w.trace.stacks()
			return false
		}
		w.instants.sleep(200 * time.Millisecond)
		w.mend()
	}
}

// found waits for the cluster, and makes the database.
func (w *world) found() bool {
	joined := func() error {
		for _, s := range w.slots {
			l := w.running(s)
			if l == nil {
				return fmt.Errorf("%s does not run", s.name())
			}
			if n := len(l.node.Control().State().Nodes()); n != len(w.slots) {
				return fmt.Errorf("%s knows %d nodes", s.name(), n)
			}
		}
		return nil
	}
	if !w.until("all nodes are members", time.Minute, joined) {
		return false
	}
	for i, d := range w.databases {
		if err := w.create(d, i); err != nil {
			w.fail("create the database %s: %v", d.name, err)
			return false
		}
	}
	return true
}

// create makes a database with the tables of the clients. Leaders are spread
// over the nodes, as far as that is possible at once.
func (w *world) create(d *database, number int) error {
	ctx, cancel := context.WithTimeout(w.ctx, time.Minute)
	defer cancel()
	n := w.slots[0].life.node
	if err := n.CreateDatabase(ctx, d.name, d.policy); err != nil {
		return err
	}
	s, err := w.open(w.slots[0], d)
	if err != nil {
		return err
	}
	defer s.Close()
	for _, sql := range schema {
		if _, err := run(s, step{sql: sql}, nil); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	if number == 0 {
		return nil
	}
	db, err := n.Database(d.name)
	if err != nil {
		return err
	}
	_, err = n.Switchover(ctx, d.name, db.Replicas[number%len(db.Replicas)])
	w.trace.add("another leader for %s: %v", d.name, err)
	return nil
}

func (w *world) open(s *slot, d *database) (session.Session, error) {
	l := w.running(s)
	if l == nil {
		return nil, fmt.Errorf("%s does not run", s.name())
	}
	return l.node.Gateway().Open(w.ctx, session.Options{Trusted: true, Database: d.name, FrontEnd: "sim"})
}

// heal ends everything that is wrong.
func (w *world) heal() {
	w.trace.add("everything is healed")
	w.mu.Lock()
	w.calm = true
	for _, t := range w.destinations {
		t.mood = willing
	}
	w.mu.Unlock()
	for _, s := range w.slots {
		w.mu.Lock()
		s.slow = 0
		w.mu.Unlock()
		s.disk.SetCapacity(0)
		if s.gone {
			continue
		}
		if s.life == nil {
			w.start(s)
			continue
		}
		s.life.gate.release()
		s.disk.Inject(nil)
	}
	for _, a := range w.slots {
		for _, b := range w.slots {
			if a != b {
				w.calmLink(a, b)
			}
		}
	}
}

// settle waits until the cluster is whole and serves.
func (w *world) settle() {
	w.until("all replicas are level", settleWithin, w.level)
	w.until("a write succeeds", time.Minute, func() error {
		for _, d := range w.databases {
			for _, s := range w.slots {
				if s.gone {
					continue
				}
				if _, err := w.tryWrite(d, s); err != nil {
					return fmt.Errorf("in %s through %s: %w", d.name, s.name(), err)
				}
			}
		}
		return nil
	})
}

// tryWrite counts in a register that no client writes, and returns how far.
func (w *world) tryWrite(d *database, s *slot) (int64, error) {
	c, err := w.open(s, d)
	if err != nil {
		return 0, err
	}
	count := check.Act{Kind: check.Get}
	_, err = run(c, step{sql: "INSERT INTO register VALUES ('" + healed + "', 1) ON CONFLICT (k) DO UPDATE SET v = v + 1 RETURNING v"}, &count)
	_ = c.Close()
	if err == nil && len(count.Saw) != 1 {
		err = fmt.Errorf("it returned %d rows", len(count.Saw))
	}
	if err != nil {
		return 0, err
	}
	return count.Saw[0], nil
}

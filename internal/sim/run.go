package sim

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/check"
	"github.com/skeindb/skein/internal/planted"
	"github.com/skeindb/skein/internal/replica"
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
	History   *check.History

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
	if r.ended {
		v := check.All(r.History, check.Options{})
		for _, f := range v.Findings {
			r.Failures = append(r.Failures, f.Report(r.History))
		}
		for _, u := range v.Undecided {
			r.Failures = append(r.Failures, "undecided: "+u)
		}
	}
	return r
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
	ended := false
	for _, s := range w.slots {
		w.start(s)
	}
	if w.found() {
		working, stop := context.WithCancel(w.ctx)
		var clients sync.WaitGroup
		for i := range w.plan.clients {
			clients.Go(func() { w.newClient(i + 1).work(working) })
		}
		newNemesis(w).rage(w.instants.since() + w.options.For)
		w.heal()
		w.settle()
		stop()
		clients.Wait()
		ended = w.judge()
	}
	for _, s := range w.slots {
		w.net.Kill(s.id)
		w.end(s)
	}
	w.cancel()
	w.finish()
	r := &Result{
		Seed: w.options.Seed, Plan: w.plan.String(), Faults: w.plan.faults, Simulated: w.instants.since(),
		Counts: w.counts, Failures: w.failures, Last: w.trace.last(), History: &w.history, ended: ended,
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
	ctx, cancel := context.WithTimeout(w.ctx, time.Minute)
	defer cancel()
	if err := w.slots[0].life.node.CreateDatabase(ctx, database, w.plan.policy); err != nil {
		w.fail("create the database: %v", err)
		return false
	}
	s, err := w.open(w.slots[0])
	if err != nil {
		w.fail("open a session: %v", err)
		return false
	}
	defer s.Close()
	for _, sql := range schema {
		if _, err := run(s, step{sql: sql}, nil); err != nil {
			w.fail("%s: %v", sql, err)
			return false
		}
	}
	return true
}

func (w *world) open(s *slot) (session.Session, error) {
	l := w.running(s)
	if l == nil {
		return nil, fmt.Errorf("%s does not run", s.name())
	}
	return l.node.Gateway().Open(w.ctx, session.Options{Trusted: true, Database: database, FrontEnd: "sim"})
}

// heal ends everything that is wrong.
func (w *world) heal() {
	w.trace.add("everything is healed")
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
		for _, s := range w.slots {
			if s.gone {
				continue
			}
			c, err := w.open(s)
			if err != nil {
				return err
			}
			_, err = run(c, step{sql: "INSERT INTO register VALUES ('" + healed + "', 1) ON CONFLICT (k) DO UPDATE SET v = v + 1"}, nil)
			_ = c.Close()
			if err != nil {
				return fmt.Errorf("through %s: %w", s.name(), err)
			}
		}
		return nil
	})
}

// level says what keeps the replicas from being level.
func (w *world) level() error {
	var end base.Position
	leads := 0
	for _, s := range w.slots {
		if s.gone {
			continue
		}
		l := w.running(s)
		if l == nil {
			return fmt.Errorf("%s does not run", s.name())
		}
		if err := l.node.Failure(); err != nil {
			return fmt.Errorf("%s has failed: %w", s.name(), err)
		}
		r, err := l.node.Replica(database)
		if err != nil {
			return err
		}
		st := r.Status()
		if end == (base.Position{}) {
			end = st.Applied
		}
		if st.Role == replica.RoleLeader {
			leads++
		}
		if st.Role != replica.RoleLeader && st.Role != replica.RoleFollower || st.Error != "" || st.Applied != end || st.Appended != end {
			return fmt.Errorf("%s is %s at %s of %s, want %s: %s", s.name(), st.Role, st.Applied, st.Appended, end, st.Error)
		}
	}
	if leads != 1 {
		return fmt.Errorf("%d leaders", leads)
	}
	return nil
}

// judge reads what the replicas hold, for the checkers.
func (w *world) judge() bool {
	if !w.until("all replicas are level once the clients have stopped", settleWithin, w.level) {
		return false
	}
	for _, s := range w.slots {
		// A damaged page that nobody has read is met now, and healed.
		if !s.gone && !w.until("inspect "+s.name(), settleWithin, func() error { return errors.Join(w.level(), w.inspect(s)) }) {
			return false
		}
	}
	if err := w.lookUp(); err != nil {
		w.fail("read the registers: %v", err)
	}
	return true
}

// lookUp reads every register as it is when all is over.
func (w *world) lookUp() error {
	s := w.slots[0]
	for _, o := range w.slots {
		if !o.gone {
			s = o
		}
	}
	c, err := w.open(s)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Set("skein.read", "leader"); err != nil {
		return err
	}
	began := w.instants.since()
	w.instants.sleep(time.Millisecond)
	rows, err := c.Query(w.ctx, "SELECT k, v FROM register ORDER BY k", nil)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		key, value := string(rows.Row()[0].Bytes), rows.Row()[1].Int
		if key == healed {
			continue
		}
		id := w.history.Invoke(check.Op{Client: "end", Session: "end " + key, Node: s.name(), Level: "leader", Invoke: began})
		w.history.Return(id, w.instants.since(), check.Result{Outcome: base.Done, Acts: []check.Act{{Kind: check.Get, Key: key, Known: true, Saw: []int64{value}}}})
		began = w.instants.since()
		w.instants.sleep(time.Millisecond)
	}
	return rows.Err()
}

// healed is the register that no client writes.
const healed = "healed"

// inspect reads what a replica holds.
func (w *world) inspect(s *slot) error {
	l := w.running(s)
	if l == nil {
		return fmt.Errorf("it does not run")
	}
	r, err := l.node.Replica(database)
	if err != nil {
		return err
	}
	hash, at, err := r.ContentHash(w.ctx)
	if err != nil {
		return err
	}
	c, err := w.open(s)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Set("skein.read", "any"); err != nil {
		return err
	}
	rows, err := c.Query(w.ctx, "SELECT k, v FROM item ORDER BY id", nil)
	if err != nil {
		return err
	}
	defer rows.Close()
	lists := make(map[string][]int64)
	for rows.Next() {
		key := string(rows.Row()[0].Bytes)
		lists[key] = append(lists[key], rows.Row()[1].Int)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for i := range w.history.Ops {
		for _, a := range w.history.Ops[i].Acts {
			if _, known := lists[a.Key]; !known && (a.Kind == check.Append || a.Kind == check.Read) {
				lists[a.Key] = nil
			}
		}
	}
	w.history.Copies = append(w.history.Copies, check.Copy{Node: s.name(), Position: at, Hash: hash, At: w.instants.since(), Final: true})
	w.history.Final(s.name(), w.instants.since(), rows.Result().Position, lists)
	return nil
}

package sim

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/check"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/env/crashfs"
	"github.com/skeindb/skein/internal/node"
	"github.com/skeindb/skein/internal/transport/mem"
)

// world is a cluster and all that is around it.
type world struct {
	options  Options
	plan     plan
	instants *instants
	trace    *trace
	net      *mem.Network
	ctx      context.Context
	cancel   context.CancelFunc
	tasks    sync.WaitGroup // of clients, of nodes that start, and of what is left of killed ones

	databases []*database // the same all the time
	letters   letters

	slots  []*slot // owned by the goroutine of the run
	lives  int
	nextID base.NodeID

	mu       sync.Mutex // guards what follows, and each slot's life
	failures []string
	trouble  chan struct{} // closed at the next fault
	told     chan struct{} // closed when the next client is told that its write in the first database is done
	focus    focus
	counts   Counts

	calm         bool // all is healed, and nothing fails any more
	subscribers  []*subscriber
	destinations []*destination
}

// Counts says how much has happened in a run.
type Counts struct {
	Done, Failed, Unknown int // operations
	Faults, Elections     int
	Lost                  int // acknowledged writes that databases which allow it have lost, and reported
	Delivered             int // changes that subscribers were told, repeats included
	Renewed               int // subscribers that began anew, since the system could not go on
	Gone                  int // questions that were known of by an answer in another database, and lost where that is allowed
	Met                   int // questions that were seen by who knew of them by an answer in another database
}

// slot is where a node runs: its identity and its disk outlive its process.
type slot struct {
	id      base.NodeID
	address string
	disk    *crashfs.Disk
	random  *rand.Rand
	rate    float64
	skew    time.Duration // of its wall time
	slow    time.Duration // by how much its syncs are slower just now
	deaf    time.Duration // by how much it hears everything later just now
	life    *life         // nil: nothing runs
	wanted  bool          // it is to be running
	gone    bool          // it was removed from the cluster
	boots   int           // counts power cuts
}

// life is one process.
type life struct {
	slot   *slot
	number int
	prefix string
	gate   *gate
	disk   *disk
	died   chan struct{} // closed when it is killed or is to stop
	closed chan struct{} // closed when nothing of it is left
	join   []string
	dead   bool
	node   *node.Node // nil until it is open
}

// source is a source of chance that nodes may share.
type source struct {
	mu sync.Mutex // guards r
	r  *rand.Rand
}

// Uint64 implements env.Rand.
func (s *source) Uint64() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.r.Uint64()
}

// Read implements env.Rand.
func (s *source) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range p {
		p[i] = byte(s.r.Uint32())
	}
	return len(p), nil
}

func newWorld(o Options) *world {
	w := &world{options: o, plan: draw(o), instants: newInstants(), trouble: make(chan struct{}), told: make(chan struct{})}
	w.trace = newTrace(w.instants.since, o.Trace)
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.net = mem.NewNetwork(&env.Env{
		Clock: &clock{instants: w.instants}, Rand: &source{r: stream(o.Seed, "network")}, Log: slog.New(slog.DiscardHandler),
	}, mem.Options{Observe: w.trace.arrival})
	for _, p := range w.plan.databases {
		w.databases = append(w.databases, &database{databasePlan: p, leaders: make(map[base.Epoch]string)})
	}
	for range w.plan.nodes {
		w.addSlot()
	}
	w.calmLinks()
	return w
}

func (w *world) addSlot() *slot {
	w.nextID++
	random := stream(w.options.Seed, fmt.Sprint("node ", w.nextID))
	s := &slot{id: w.nextID, address: fmt.Sprintf("node%d", w.nextID), disk: crashfs.New(), random: random, wanted: true}
	s.rate = 1 + (2*random.Float64()-1)*w.plan.drift
	w.slots = append(w.slots, s)
	return s
}

// calmLinks gives every link what it has without a fault.
func (w *world) calmLinks() {
	for _, a := range w.slots {
		for _, b := range w.slots {
			if a != b {
				w.calmLink(a, b)
			}
		}
	}
}

// delayTo is the delay of the links to a slot without a fault.
func (w *world) delayTo(s *slot) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.plan.delay + s.deaf
}

func (w *world) calmLink(a, b *slot) {
	w.net.SetDelay(a.id, b.id, w.delayTo(b))
	w.net.SetJitter(a.id, b.id, w.plan.jitter)
	w.net.SetLoss(a.id, b.id, 0)
	w.net.Heal(a.id, b.id)
}

// wakeClients ends the quiet of clients that want to see a fault.
func (w *world) wakeClients() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.trouble)
	w.trouble = make(chan struct{})
}

func (w *world) nextTrouble() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.trouble
}

// fail notes that the run has gone wrong.
func (w *world) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.trace.add("FAILURE %s", text)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failures = append(w.failures, text)
}

// event notes something that was done to the cluster.
func (w *world) event(kind string, s *slot, format string, args ...any) {
	name := "-"
	if s != nil {
		name = s.name()
	}
	text := fmt.Sprintf(format, args...)
	w.trace.add("%s %s %s", kind, name, text)
	at := w.instants.since()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.databases {
		d.history.Events = append(d.history.Events, check.Event{From: at, Until: at, Kind: kind, Node: name, Text: text})
	}
}

func (s *slot) name() string { return fmt.Sprintf("n%d", s.id) }

// heard listens to a node's log for what the run has to know.
func (w *world) heard(name string, r slog.Record) {
	if r.Message != "serving as leader" {
		return
	}
	var epoch base.Epoch
	var d *database
	r.Attrs(func(a slog.Attr) bool {
		if e, ok := a.Value.Any().(base.Epoch); ok {
			epoch = e
		}
		if a.Key == "database" {
			d = w.called(a.Value.String())
		}
		return true
	})
	if d == nil {
		w.fail("%s leads a database that is not known", name)
		return
	}
	at := w.instants.since()
	w.mu.Lock()
	d.history.Claims = append(d.history.Claims, check.Claim{Node: name, Epoch: epoch, At: at, Text: r.Message})
	w.counts.Elections++
	other, taken := d.leaders[epoch]
	d.leaders[epoch] = name
	w.mu.Unlock()
	if taken && other != name {
		w.fail("epoch %d of %s has two leaders: %s and %s", epoch, d.name, other, name)
	}
}

// called returns the database of a name, nil if there is none.
func (w *world) called(name string) *database {
	for _, d := range w.databases {
		if d.name == name {
			return d
		}
	}
	return nil
}

// start makes a slot's node run, now or as soon as its disk lets it.
func (w *world) start(s *slot) {
	w.lives++
	l := &life{slot: s, number: w.lives, prefix: fmt.Sprintf("life%d", w.lives), gate: new(gate), died: make(chan struct{}), closed: make(chan struct{})}
	for _, other := range w.slots {
		if s.id != 1 && other != s && !other.gone {
			l.join = append(l.join, other.address)
		}
	}
	l.disk = &disk{Disk: s.disk, prefix: l.prefix, gate: l.gate, sleep: w.instants.sleep, latency: w.latency(s)}
	mount(l.prefix, l.disk)
	w.mu.Lock()
	s.life = l
	w.mu.Unlock()
	e := &env.Env{
		Clock: &clock{instants: w.instants, gate: l.gate, dead: func() bool { return w.isDead(l) }, rate: s.rate, wall: func() time.Duration {
			w.mu.Lock()
			defer w.mu.Unlock()
			return s.skew
		}},
		Serial: true, Rand: &source{r: stream(w.options.Seed, fmt.Sprint("life ", w.lives))}, FS: l.disk, Net: street{w, l}, VFS: engineFiles, Boot: fmt.Sprint(s.name(), " ", s.boots),
		Log: slog.New(&logs{trace: w.trace, node: fmt.Sprintf("%s.%d", s.name(), l.number), level: slog.LevelInfo, heard: func(r slog.Record) { w.heard(s.name(), r) }, dead: func() bool { return w.isDead(l) }}),
	}
	w.tasks.Go(func() { w.run(l, e) })
}

// latency draws how long syncs of a slot's disk take. Each file has its own
// source, so that the order of syncs at one instant does not matter.
func (w *world) latency(s *slot) func(name string) time.Duration {
	var mu sync.Mutex // guards files
	files := make(map[string]*rand.Rand)
	life := w.lives
	return func(name string) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		if files[name] == nil {
			files[name] = stream(w.options.Seed, fmt.Sprint("disk ", life, name))
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		return time.Duration(files[name].ExpFloat64()*float64(w.plan.sync)) + s.slow
	}
}

// run opens the node of a life, again and again if need be, and closes it when
// the life is over.
func (w *world) run(l *life, e *env.Env) {
	defer close(l.closed)
	defer unmount(l.prefix)
	for {
		n, err := node.Open(w.ctx, e, w.nodeOptions(l))
		if err == nil {
			w.serve(l, n)
			return
		}
		w.trace.add("%s.%d does not start: %v", l.slot.name(), l.number, err)
		timer := time.NewTimer(w.instants.wait(time.Second))
		select {
		case <-l.died:
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

func (w *world) serve(l *life, n *node.Node) {
	w.mu.Lock()
	if !l.dead {
		l.node = n
	}
	w.mu.Unlock()
	<-l.died
	_ = n.Close() // its world is gone; what it could not do, it could not do
}

func (w *world) nodeOptions(l *life) node.Options {
	s := l.slot
	return node.Options{
		Dir: "/" + l.prefix + "/data", Name: s.name(), PeerAddress: s.address, Transport: w.net.Join(s.id, s.address),
		Lease: w.plan.lease, Tick: w.plan.tick, Join: l.join,
	}
}

// end marks a life as over; what is left of it ends by itself.
func (w *world) end(s *slot) *life {
	w.mu.Lock()
	l := s.life
	s.life = nil
	if l != nil {
		l.dead = true
	}
	w.mu.Unlock()
	if l != nil {
		l.gate.release()
		close(l.died)
	}
	return l
}

// kill ends a node's process without a word; with the power also what its disk
// had not synced.
func (w *world) kill(s *slot, power bool) {
	if s.life == nil {
		return
	}
	w.silence(s)
	w.net.Kill(s.id)
	if power {
		s.boots++
		s.disk = s.disk.CrashClone(s.random.Uint64())
	} else {
		s.disk = s.disk.Clone()
	}
	w.end(s)
}

// silence has nothing heard any more of what runs in a slot.
func (w *world) silence(s *slot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.life != nil {
		s.life.dead = true
	}
}

// stop ends a node's process in order, and returns when it has ended.
func (w *world) stop(s *slot) {
	if l := w.end(s); l != nil {
		<-l.closed
	}
}

func (w *world) isDead(l *life) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return l.dead
}

// mendEvery is how soon a process that has given up is started again.
const mendEvery = 2 * time.Second

// mend starts nodes again whose control plane has failed: they ask for that.
func (w *world) mend() {
	for _, s := range w.slots {
		l := w.running(s)
		if l == nil {
			continue
		}
		select {
		case <-l.node.Broken():
			w.event("mend", s, "%v", l.node.Failure())
			w.kill(s, false)
			w.start(s)
		default:
		}
	}
}

// running returns the open node of a slot, nil if there is none.
func (w *world) running(s *slot) *life {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.life == nil || s.life.node == nil || s.life.dead {
		return nil
	}
	return s.life
}

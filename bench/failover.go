package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/test/netns"
)

const (
	failoverWriters = 8
	beforeEvent     = 200 * time.Millisecond // writers run before something happens to the leader
	afterGap        = 600 * time.Millisecond // and after writes go on
	settling        = 100 * time.Millisecond // in which a gap still belongs to what has happened
	longestWait     = 30 * time.Second       // for writes to go on at all
)

// event is what happens to a leader under load, and what is promised of it.
type event struct {
	name, what string
	// control: the leader of the database also leads the control group; else
	// another node does.
	control bool
	goalMS  float64 // of the gap between acknowledged writes, p99
	// happen does it; after undoes it, once writes have gone on.
	happen func(ctx context.Context, c *cluster, l *node) error
	after  func(c *cluster, l *node) error
	// all: writers on the leader, too. Elsewhere none could tell anything.
	all bool
	// cut: the nodes have a network that can be cut.
	cut bool
	// failovers is how many times the leader is to change.
	failovers base.Epoch
}

func (b *bench) events() []event {
	kill := func(_ context.Context, _ *cluster, l *node) error {
		l.process.kill()
		l.process = nil
		return nil
	}
	again := func(c *cluster, l *node) error { return c.run(l) }
	freeze := func(_ context.Context, _ *cluster, l *node) error { l.process.signal(syscall.SIGSTOP); return nil }
	wake := func(_ *cluster, l *node) error { l.process.signal(syscall.SIGCONT); return nil }
	cut := func(_ context.Context, c *cluster, l *node) error { return c.network.Isolate(l.index) }
	heal := func(c *cluster, _ *node) error { return c.network.Heal() }
	move := func(ctx context.Context, c *cluster, _ *node) error {
		_, err := c.client.Switchover(ctx, database, 0)
		return err
	}
	return []event{
		{name: "kill", what: "leader killed", goalMS: 100, happen: kill, after: again, failovers: 1},
		{name: "kill-control", what: "leader killed, led the control group", control: true, goalMS: 300, happen: kill, after: again, failovers: 1},
		{name: "freeze", what: "leader frozen", goalMS: 300, happen: freeze, after: wake, failovers: 1},
		{name: "freeze-control", what: "leader frozen, led the control group", control: true, goalMS: 600, happen: freeze, after: wake, failovers: 1},
		{name: "cut", what: "leader cut off", goalMS: 300, happen: cut, after: heal, cut: true, failovers: 1},
		{name: "cut-control", what: "leader cut off, led the control group", control: true, goalMS: 600, happen: cut, after: heal, cut: true, failovers: 1},
		{name: "switchover", what: "switchover under load", goalMS: 20, happen: move, all: true, failovers: 1},
		{name: "busy", what: fmt.Sprintf("all CPUs busy for %v", b.busy), happen: b.keepBusy, all: true},
	}
}

// keepBusy has twice as many processes as there are CPUs do nothing but count.
func (b *bench) keepBusy(ctx context.Context, _ *cluster, _ *node) error {
	ctx, cancel := context.WithTimeout(ctx, b.busy)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var all []*exec.Cmd
	for range 2 * runtime.NumCPU() {
		cmd := exec.CommandContext(ctx, self, "spin")
		if err = cmd.Start(); err != nil {
			break
		}
		all = append(all, cmd)
	}
	for _, cmd := range all {
		_ = cmd.Wait() // They end by being killed.
	}
	return err
}

// spin keeps one CPU busy until the process is killed.
func spin() {
	runtime.GOMAXPROCS(1)
	began := time.Now()
	for time.Since(began) < 24*time.Hour { // The kill comes long before.
	}
}

// failoverSums is what all events of one sort came to.
type failoverSums struct {
	Event         string    `json:"event"`
	What          string    `json:"what"`
	Runs          int       `json:"runs"`
	MedianMS      float64   `json:"median_ms"`
	P99MS         float64   `json:"p99_ms"`
	MaxMS         float64   `json:"max_ms"`
	GoalMS        float64   `json:"goal_ms"`
	GapsMS        []float64 `json:"gaps_ms"`
	CalmMS        float64   `json:"calm_max_ms"` // the longest gap when nothing happened
	Acknowledged  int       `json:"acknowledged"`
	Refused       int       `json:"refused"` // errors that say that nothing was done
	Indeterminate int       `json:"indeterminate"`
	Kept          int       `json:"indeterminate_kept"`
	Lost          int       `json:"lost"`
	Twice         int       `json:"twice"`
	Unknown       int       `json:"unknown"` // rows that nobody wrote
	False         int       `json:"false_failovers"`
	Replicas      int       `json:"replicas_verified"`
}

// failover lets each event happen again and again under writers.
func (b *bench) failover(ctx context.Context) error {
	for _, e := range b.events() {
		if b.kinds != "" && !strings.Contains(","+b.kinds+",", ","+e.name+",") {
			continue
		}
		if err := b.failoverOf(ctx, e); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	return nil
}

func (b *bench) failoverOf(ctx context.Context, e event) (err error) {
	var network *netns.Network
	if e.cut {
		if missing := netns.Available(); missing != nil {
			say("%s: left out: %v", e.name, missing)
			return nil
		}
		if network, err = netns.New(3); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, network.Close()) }()
	}
	c, err := b.startCluster(ctx, e.name, httpapi.PolicyPatch{}, network)
	if err != nil {
		return err
	}
	defer c.stop()
	conn, err := c.nodes[0].connect(ctx)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "CREATE TABLE writes(id integer NOT NULL)") // No key: a row written twice is there twice.
	if err := errors.Join(err, conn.Close(ctx)); err != nil {
		return err
	}
	books := make([]*book, failoverWriters)
	for i := range books {
		books[i] = &book{next: int64(i+1) * 1_000_000_000}
	}
	runs := b.failovers
	if e.failovers == 0 {
		runs = 1 // It takes as long as it takes.
	}
	sums := &failoverSums{Event: e.name, What: e.what, Runs: runs, GoalMS: e.goalMS}
	b.report.Failovers = append(b.report.Failovers, sums)
	for i := range runs {
		gap, err := b.runEvent(ctx, c, e, books, sums)
		if err != nil {
			return fmt.Errorf("run %d: %w", i+1, err)
		}
		sums.GapsMS = append(sums.GapsMS, float64(gap.Microseconds())/1000)
		say("%s %d of %d: no write was acknowledged for %.1f ms", e.name, i+1, runs, float64(gap.Microseconds())/1000)
	}
	sums.add(books)
	if err := verify(ctx, c, books, sums); err != nil {
		return err
	}
	say("%d acknowledged, %d lost, %d twice, %d refused, %d indeterminate of which %d were kept; %d false failovers; %d replicas are equal",
		sums.Acknowledged, sums.Lost, sums.Twice, sums.Refused, sums.Indeterminate, sums.Kept, sums.False, sums.Replicas)
	return nil
}

// book is one writer's: what it wrote and what it was told of it.
type book struct {
	next          int64
	acknowledged  []int64
	times         []time.Time // of the acknowledgements
	indeterminate []int64
	refused       int
}

// runEvent has the writers write, lets the event happen, and returns the
// longest time without an acknowledgement to any of them. At the end all nodes
// are whole again.
func (b *bench) runEvent(ctx context.Context, c *cluster, e event, books []*book, sums *failoverSums) (time.Duration, error) {
	l, epoch, err := c.prepare(ctx, e.control)
	if err != nil {
		return 0, err
	}
	var from []*node
	for _, n := range c.nodes {
		if n != l || e.all {
			from = append(from, n)
		}
	}
	writing, stop := context.WithCancel(ctx)
	defer stop()
	var last atomic.Int64 // time of the newest acknowledgement
	var wg sync.WaitGroup
	failures := make([]error, len(books))
	for i, k := range books {
		conn, err := from[i%len(from)].connect(ctx)
		if err != nil {
			stop()
			wg.Wait()
			return 0, err
		}
		wg.Go(func() {
			failures[i] = k.write(writing, conn, &last)
			conn.Close(context.Background())
		})
	}
	time.Sleep(beforeEvent)
	began := time.Now()
	err = e.happen(ctx, c, l)
	over := time.Now().Add(settling)
	if err == nil {
		err = awaitWrites(ctx, &last, began)
	}
	stop()
	wg.Wait()
	if err := errors.Join(append(failures, err)...); err != nil {
		return 0, err
	}
	gap := longestGap(books, began, over)
	sums.CalmMS = max(sums.CalmMS, float64(longestGap(books, over.Add(settling), time.Now()).Microseconds())/1000)
	if e.after != nil {
		if err := e.after(c, l); err != nil {
			return gap, err
		}
	}
	if err := c.whole(ctx); err != nil {
		return gap, err
	}
	d, err := c.status(ctx)
	sums.False += int(d.Epoch) - int(epoch+e.failovers)
	return gap, err
}

// prepare makes a node lead the database that leads the control group, or one
// that does not.
func (c *cluster) prepare(ctx context.Context, control bool) (*node, base.Epoch, error) {
	if err := c.whole(ctx); err != nil {
		return nil, 0, err
	}
	s, err := c.client.Status(ctx)
	if err != nil {
		return nil, 0, err
	}
	l, err := c.leader(ctx)
	if err != nil {
		return nil, 0, err
	}
	for _, n := range c.nodes {
		if leads := n.id.String() == s.Cluster.Leader; leads == control && (l.id.String() == s.Cluster.Leader) != control {
			l = n
		}
	}
	if err := c.moveTo(ctx, l); err != nil {
		return nil, 0, err
	}
	d, err := c.status(ctx)
	return l, d.Epoch, err
}

// awaitWrites waits until writes go on after an event, and a little longer.
func awaitWrites(ctx context.Context, last *atomic.Int64, began time.Time) error {
	deadline := began.Add(longestWait)
	// What was on its way may be acknowledged just after.
	quiet := began.Add(5 * time.Millisecond).UnixNano()
	for last.Load() < quiet {
		if time.Now().After(deadline) {
			return fmt.Errorf("no write was acknowledged in %v", longestWait)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(afterGap)
	return nil
}

// write inserts numbered rows until ctx is done. A number is tried again only
// when the error says that nothing was done.
func (k *book) write(ctx context.Context, conn *pgx.Conn, last *atomic.Int64) error {
	for ctx.Err() == nil {
		// Not under ctx: a statement that is given up is indeterminate.
		_, err := conn.Exec(context.Background(), "INSERT INTO writes(id) VALUES ($1)", k.next)
		now := time.Now()
		switch failure, told := errors.AsType[*pgconn.PgError](err); {
		case err == nil:
			k.acknowledged, k.times = append(k.acknowledged, k.next), append(k.times, now)
			last.Store(now.UnixNano())
			k.next++
		case told && strings.HasPrefix(failure.Detail, "not done"):
			k.refused++
			time.Sleep(time.Millisecond)
		case told && strings.HasPrefix(failure.Detail, "indeterminate"):
			k.indeterminate = append(k.indeterminate, k.next)
			k.next++
		default:
			return fmt.Errorf("writer: %w", err)
		}
	}
	return nil
}

// longestGap returns the longest time between acknowledgements, to whomever,
// that ends after one moment and begins before another.
func longestGap(books []*book, ends, begins time.Time) time.Duration {
	var all []time.Time
	for _, k := range books {
		at, _ := slices.BinarySearchFunc(k.times, ends, time.Time.Compare)
		all = append(all, k.times[max(0, at-1):]...)
	}
	slices.SortFunc(all, time.Time.Compare)
	var longest time.Duration
	for i := 1; i < len(all); i++ {
		if all[i].After(ends) && all[i-1].Before(begins) {
			longest = max(longest, all[i].Sub(all[i-1]))
		}
	}
	return longest
}

// add computes what all runs came to.
func (s *failoverSums) add(books []*book) {
	sorted := slices.Sorted(slices.Values(s.GapsMS))
	s.MedianMS, s.P99MS = middle(sorted), quantile(sorted, 0.99)
	if len(sorted) > 0 {
		s.MaxMS = sorted[len(sorted)-1]
	}
	for _, k := range books {
		s.Acknowledged += len(k.acknowledged)
		s.Indeterminate += len(k.indeterminate)
		s.Refused += k.refused
	}
}

// verify compares every replica with what the writers were told.
func verify(ctx context.Context, c *cluster, books []*book, s *failoverSums) error {
	if err := c.whole(ctx); err != nil {
		return err
	}
	hashes, err := c.client.Hash(ctx, database)
	if err != nil {
		return err
	}
	if hashes.Verdict != httpapi.VerdictEqual {
		return fmt.Errorf("the replicas' hashes are %s: %+v", hashes.Verdict, hashes.Replicas)
	}
	for _, n := range c.nodes {
		if err := verifyReplica(ctx, n, books, s); err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
		s.Replicas++
	}
	return nil
}

func verifyReplica(ctx context.Context, n *node, books []*book, s *failoverSums) error {
	counts, err := readWrites(ctx, n)
	if err != nil {
		return err
	}
	var lost, twice, kept int
	for _, k := range books {
		for _, id := range k.acknowledged {
			if counts[id] == 0 {
				lost++
			}
		}
		for _, id := range k.indeterminate {
			if counts[id] > 0 {
				kept++
			}
		}
		for _, id := range append(k.acknowledged, k.indeterminate...) {
			if counts[id] > 1 {
				twice++
			}
			delete(counts, id)
		}
	}
	s.Lost, s.Twice, s.Unknown, s.Kept = max(s.Lost, lost), max(s.Twice, twice), max(s.Unknown, len(counts)), kept
	return nil
}

// readWrites reads the table of one replica: how often each id is there.
func readWrites(ctx context.Context, n *node) (map[int64]int, error) {
	conn, err := n.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "SET skein.read = 'any'"); err != nil {
		return nil, err
	}
	list, err := conn.Query(ctx, "SELECT id FROM writes")
	if err != nil {
		return nil, err
	}
	defer list.Close()
	counts := make(map[int64]int)
	for list.Next() {
		var id int64
		if err := list.Scan(&id); err != nil {
			return nil, err
		}
		counts[id]++
	}
	return counts, list.Err()
}

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/skeindb/skein/internal/httpapi"
)

const (
	failoverWriters = 8
	beforeKill      = 300 * time.Millisecond // writers run before the leader is killed
	afterGap        = 700 * time.Millisecond // and after writes go on
	longestWait     = 30 * time.Second       // for writes to go on at all
)

// failoverSums is what all failovers came to.
type failoverSums struct {
	Runs          int       `json:"runs"`
	MedianMS      float64   `json:"median_ms"`
	P99MS         float64   `json:"p99_ms"`
	MaxMS         float64   `json:"max_ms"`
	GapsMS        []float64 `json:"gaps_ms"`
	Acknowledged  int       `json:"acknowledged"`
	Lost          int       `json:"lost"`
	Twice         int       `json:"twice"`
	Unknown       int       `json:"unknown"` // rows that nobody wrote
	Indeterminate int       `json:"indeterminate"`
	Kept          int       `json:"indeterminate_kept"`
	Replicas      int       `json:"replicas_verified"`
}

// failover kills the leader again and again under writers on the other two
// nodes.
func (b *bench) failover(ctx context.Context) error {
	c, err := newCluster(filepath.Join(b.dir, "skein-failover"), 3, b.command)
	if err != nil {
		return err
	}
	defer c.stop()
	say("starting three Skein nodes")
	if err := c.runAll(); err != nil {
		return err
	}
	if err := c.form(ctx); err != nil {
		return err
	}
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
	var gaps []time.Duration
	for i := range b.failovers {
		gap, err := killLeader(ctx, c, books)
		if err != nil {
			return fmt.Errorf("failover %d: %w", i+1, err)
		}
		gaps = append(gaps, gap)
		say("failover %d of %d: no write was acknowledged for %d ms", i+1, b.failovers, gap.Milliseconds())
	}
	sums := sumUp(gaps, books)
	b.report.Failover = sums
	if err := verify(ctx, c, books, sums); err != nil {
		return err
	}
	say("%d acknowledged, %d lost, %d twice, %d indeterminate of which %d were kept; %d replicas are equal",
		sums.Acknowledged, sums.Lost, sums.Twice, sums.Indeterminate, sums.Kept, sums.Replicas)
	return nil
}

// book is one writer's: what it wrote and what it was told of it.
type book struct {
	next          int64
	acknowledged  []int64
	times         []time.Time // of the acknowledgements
	indeterminate []int64
}

// killLeader has the writers write, kills the leader, and returns the longest
// time without an acknowledgement to any of them. At the end the killed node
// follows again.
func killLeader(ctx context.Context, c *cluster, books []*book) (time.Duration, error) {
	l, err := c.leader(ctx)
	if err != nil {
		return 0, err
	}
	var others []*node
	for _, n := range c.nodes {
		if n != l {
			others = append(others, n)
		}
	}
	writing, stop := context.WithCancel(ctx)
	defer stop()
	var last atomic.Int64 // time of the newest acknowledgement
	begin := time.Now()
	var wg sync.WaitGroup
	failures := make([]error, len(books))
	for i, k := range books {
		conn, err := others[i%len(others)].connect(ctx)
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
	time.Sleep(beforeKill)
	l.process.kill()
	l.process = nil
	killed := time.Now()
	err = awaitWrites(ctx, &last, killed)
	stop()
	wg.Wait()
	if err := errors.Join(append(failures, err)...); err != nil {
		return 0, err
	}
	gap := longestGap(books, begin)
	if err := c.run(l); err != nil {
		return gap, err
	}
	return gap, c.whole(ctx)
}

// awaitWrites waits until writes go on after a kill, and a little longer.
func awaitWrites(ctx context.Context, last *atomic.Int64, killed time.Time) error {
	deadline := killed.Add(longestWait)
	// What was on its way when the leader died may be acknowledged just after.
	quiet := killed.Add(5 * time.Millisecond).UnixNano()
	for last.Load() < quiet {
		if time.Now().After(deadline) {
			return fmt.Errorf("no write was acknowledged in %v after the leader was killed", longestWait)
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
// since begin.
func longestGap(books []*book, begin time.Time) time.Duration {
	var all []time.Time
	for _, k := range books {
		at, _ := slices.BinarySearchFunc(k.times, begin, time.Time.Compare)
		all = append(all, k.times[at:]...)
	}
	slices.SortFunc(all, time.Time.Compare)
	var longest time.Duration
	for i := 1; i < len(all); i++ {
		longest = max(longest, all[i].Sub(all[i-1]))
	}
	return longest
}

func sumUp(gaps []time.Duration, books []*book) *failoverSums {
	s := &failoverSums{Runs: len(gaps)}
	for _, g := range gaps {
		s.GapsMS = append(s.GapsMS, float64(g.Microseconds())/1000)
	}
	sorted := slices.Sorted(slices.Values(s.GapsMS))
	s.MedianMS, s.P99MS = middle(sorted), quantile(sorted, 0.99)
	if len(sorted) > 0 {
		s.MaxMS = sorted[len(sorted)-1]
	}
	for _, k := range books {
		s.Acknowledged += len(k.acknowledged)
		s.Indeterminate += len(k.indeterminate)
	}
	return s
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

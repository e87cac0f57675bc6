package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/skeindb/skein/internal/httpapi"
)

const (
	lagWriters  = 8
	lagRate     = 2_000 // transactions a second of all of them, which both systems sustain
	lagReaders  = 4
	readRepeats = 4 // of all rounds of reads: a difference of some percent is looked for
	catchUpWait = 30 * time.Second
	pointReads  = "point reads at a follower"
	newestMark  = "SELECT id FROM marks ORDER BY id DESC LIMIT 1"
)

// follows is a system with asynchronous followers.
type follows struct {
	name      string
	load      pgbench // at the leader
	leader    *pgx.Conn
	followers []*pgx.Conn
	next      int64 // number of the next row that a probe writes
}

// lagged is what one round, or all rounds of a system, found about how far
// followers are behind.
type lagged struct {
	System    string  `json:"system"`
	Writes    float64 `json:"writes_per_s"` // while the lag was measured
	Probes    int     `json:"probes"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	Max       float64 `json:"max_ms"`
	Poll      float64 `json:"poll_p50_ms"` // round trip of the read that looks
	FullSpeed float64 `json:"full_speed_tps"`
	CatchUp   float64 `json:"catch_up_ms"` // after that speed
}

// lag measures how far asynchronous followers are behind, and what a session's
// guarantees cost on a follower that is level.
func (b *bench) lag(ctx context.Context) error {
	if b.pg == "" {
		b.report.note("the part lag is left out: without -pg there is no pgbench to write at a given rate")
		return nil
	}
	async := "async"
	c, err := b.startCluster(ctx, "lag", httpapi.PolicyPatch{Durability: &async}, nil)
	if err != nil {
		return err
	}
	defer c.stop()
	skein, err := b.skeinFollows(ctx, c)
	if err != nil {
		return err
	}
	defer skein.close()
	pg, stop, err := b.postgresFollows(ctx)
	defer stop()
	if err != nil {
		return err
	}
	systems := []*follows{skein}
	if pg != nil {
		defer pg.close()
		systems = append(systems, pg)
	}
	if err := b.compareLags(ctx, systems); err != nil {
		return err
	}
	return b.compareReads(ctx, c)
}

func (f *follows) close() {
	for _, c := range append(f.followers, f.leader) {
		c.Close(context.Background())
	}
}

// skeinFollows fills the database and connects to all nodes; reads on followers
// take what is there.
func (b *bench) skeinFollows(ctx context.Context, c *cluster) (*follows, error) {
	if _, err := b.loadSkein(ctx, c); err != nil {
		return nil, err
	}
	l, err := c.leader(ctx)
	if err != nil {
		return nil, err
	}
	f := &follows{name: "skein", load: pgbench{address: l.pg, user: "bench", database: database}}
	if f.leader, err = l.connect(ctx); err != nil {
		return nil, err
	}
	for _, n := range c.nodes {
		if n == l {
			continue
		}
		conn, err := n.connect(ctx)
		if err != nil {
			return nil, err
		}
		f.followers = append(f.followers, conn)
		if _, err := conn.Exec(ctx, "SET skein.read = 'any'"); err != nil {
			return nil, err
		}
	}
	return f, f.prepare(ctx)
}

// postgresFollows is the same of PostgreSQL with two asynchronous standbys, or
// nil if there is none.
func (b *bench) postgresFollows(ctx context.Context) (f *follows, stop func(), err error) {
	pg, err := findPostgres(b.pg, filepath.Join(b.dir, "postgres-lag"), b.pgUser)
	if errors.Is(err, errNoPostgres) {
		b.report.note("PostgreSQL is skipped: %v", err)
		return nil, func() {}, nil
	}
	if err != nil {
		return nil, func() {}, err
	}
	pg.async = true
	say("starting PostgreSQL with two asynchronous standbys")
	if err := pg.open(ctx); err != nil {
		return nil, pg.close, fmt.Errorf("postgres: %w", err)
	}
	f = &follows{name: "postgres", load: pgbench{address: "127.0.0.1:" + pg.port, user: "postgres", database: "postgres"}}
	if f.leader, err = pg.connect(ctx, pg.port); err != nil {
		return nil, pg.close, err
	}
	for _, port := range pg.standbys {
		conn, err := pg.connect(ctx, port)
		if err != nil {
			return nil, pg.close, err
		}
		f.followers = append(f.followers, conn)
	}
	return f, pg.close, f.prepare(ctx)
}

// prepare makes the table that probes write to, and waits for it on followers.
func (f *follows) prepare(ctx context.Context) error {
	for _, sql := range []string{"CREATE TABLE marks(id integer PRIMARY KEY)", "INSERT INTO marks VALUES (0)"} {
		if _, err := f.leader.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	f.next = 1
	for _, c := range f.followers {
		began := time.Now()
		for {
			var id int64
			err := c.QueryRow(ctx, newestMark).Scan(&id)
			if err == nil {
				break
			}
			if time.Since(began) > catchUpWait {
				return fmt.Errorf("%s: the table is not on a follower after %v: %w", f.name, catchUpWait, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return nil
}

// compareLags alternates rounds of all systems.
func (b *bench) compareLags(ctx context.Context, systems []*follows) error {
	rounds := make(map[string][]lagged)
	for r := range b.rounds {
		for i := range systems {
			s := systems[i]
			if r%2 == 1 {
				s = systems[len(systems)-1-i]
			}
			m, err := b.lagRound(ctx, s)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			rounds[s.name] = append(rounds[s.name], m)
			say("visibility lag  %-9s %6.0f writes/s  %d probes  p50 %.3f ms  p99 %.3f ms  max %.3f ms  (a poll takes %.3f ms);  after %.0f/s caught up in %.1f ms",
				m.System, m.Writes, m.Probes, m.P50, m.P99, m.Max, m.Poll, m.FullSpeed, m.CatchUp)
		}
	}
	for _, s := range systems {
		b.report.Lags = append(b.report.Lags, medianLag(s.name, rounds[s.name]))
	}
	return nil
}

// lagRound measures one system once.
func (b *bench) lagRound(ctx context.Context, f *follows) (m lagged, err error) {
	m.System = f.name
	load := f.load
	load.bin, load.dir, load.clients, load.rate = b.pg, filepath.Join(b.dir, "pgbench"), lagWriters, lagRate
	load.length, load.sampling = b.length, 0.1
	probing, stop := context.WithCancel(ctx)
	var written speed
	failed := make(chan error, 1)
	go func() {
		defer stop()
		var err error
		written, err = load.run(ctx)
		failed <- err
	}()
	lags, polls, err := f.probe(probing)
	stop()
	if err := errors.Join(err, <-failed); err != nil {
		return m, err
	}
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	m.Writes, m.Probes, m.Poll = written.TPS, len(lags), ms(quantile(polls, 0.5))
	m.P50, m.P99, m.Max = ms(quantile(lags, 0.5)), ms(quantile(lags, 0.99)), ms(quantile(lags, 1))
	load.clients, load.rate = 64, 0
	full, err := load.run(ctx)
	if err != nil {
		return m, err
	}
	caughtUp, err := f.catchUp(ctx)
	m.FullSpeed, m.CatchUp = full.TPS, ms(caughtUp)
	return m, err
}

// probe writes numbered rows on the leader until ctx is done, and has a
// follower asked all the time for the newest. It returns, sorted, how long
// after its acknowledgement each was seen (0 if before), and how long asking
// takes.
func (f *follows) probe(ctx context.Context) (lags, polls []time.Duration, err error) {
	first := f.next
	var seen []time.Time
	var last atomic.Int64 // that was written; 0: more will be
	failed := make(chan error, 1)
	go func() {
		var err error
		seen, polls, err = watch(f.followers[0], first, &last)
		failed <- err
	}()
	acknowledged, err := f.write(ctx)
	last.Store(f.next - 1)
	if err := errors.Join(err, <-failed); err != nil {
		return nil, nil, err
	}
	for i, at := range acknowledged {
		lags = append(lags, max(0, seen[i].Sub(at)))
	}
	slices.Sort(lags)
	slices.Sort(polls)
	return lags, polls, nil
}

// write returns when each row was acknowledged.
func (f *follows) write(ctx context.Context) (acknowledged []time.Time, err error) {
	for ctx.Err() == nil {
		if _, err := f.leader.Exec(context.Background(), "INSERT INTO marks VALUES ($1)", f.next); err != nil {
			return nil, fmt.Errorf("probe: %w", err)
		}
		acknowledged = append(acknowledged, time.Now())
		f.next++
		time.Sleep(time.Millisecond + rand.N(2*time.Millisecond)) // In step with nothing.
	}
	return acknowledged, nil
}

// watch returns when each row from first on was seen, until the last one is.
func watch(c *pgx.Conn, first int64, last *atomic.Int64) (seen []time.Time, polls []time.Duration, err error) {
	newest, progress := first-1, time.Now()
	for end := last.Load(); end == 0 || newest < end; end = last.Load() {
		var id int64
		began := time.Now()
		if err := c.QueryRow(context.Background(), newestMark).Scan(&id); err != nil {
			return nil, nil, fmt.Errorf("poll: %w", err)
		}
		now := time.Now()
		polls = append(polls, now.Sub(began))
		for ; newest < id; newest++ {
			seen, progress = append(seen, now), now
		}
		if now.Sub(progress) > catchUpWait {
			return nil, nil, fmt.Errorf("row %d was not seen in %v", newest+1, catchUpWait)
		}
	}
	return seen, polls, nil
}

// catchUp returns how long it takes until all followers have what the leader
// has now: until each shows a row that is written now.
func (f *follows) catchUp(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if _, err := f.leader.Exec(ctx, "INSERT INTO marks VALUES ($1)", f.next); err != nil {
		return 0, fmt.Errorf("probe: %w", err)
	}
	f.next++
	var last atomic.Int64
	last.Store(f.next - 1)
	for _, c := range f.followers {
		if _, _, err := watch(c, f.next-1, &last); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}

// medianLag is the median of all rounds, and the largest of all maxima.
func medianLag(system string, rounds []lagged) lagged {
	m := lagged{System: system}
	of := func(field func(lagged) float64) float64 {
		var values []float64
		for _, r := range rounds {
			values = append(values, field(r))
		}
		slices.Sort(values)
		return middle(values)
	}
	for _, r := range rounds {
		m.Probes += r.Probes
		m.Max, m.CatchUp = max(m.Max, r.Max), max(m.CatchUp, r.CatchUp)
	}
	m.Writes = of(func(r lagged) float64 { return r.Writes })
	m.P50 = of(func(r lagged) float64 { return r.P50 })
	m.P99 = of(func(r lagged) float64 { return r.P99 })
	m.Poll = of(func(r lagged) float64 { return r.Poll })
	m.FullSpeed = of(func(r lagged) float64 { return r.FullSpeed })
	return m
}

// compareReads alternates rounds of the same reads at two levels on a follower
// that is level with its leader.
func (b *bench) compareReads(ctx context.Context, c *cluster) error {
	if err := c.whole(ctx); err != nil {
		return err
	}
	l, err := c.leader(ctx)
	if err != nil {
		return err
	}
	at := c.nodes[0]
	if at == l {
		at = c.nodes[1]
	}
	var systems []*target
	for _, level := range []string{"any", "session"} {
		systems = append(systems, &target{
			name: level, pids: func() []int { return []int{at.process.pid()} },
			run: func(ctx context.Context, clients int, length time.Duration) (speed, error) {
				return at.reads(ctx, level, clients, length)
			},
		})
	}
	for _, s := range systems {
		if _, err := s.run(ctx, lagReaders, b.short); err != nil {
			return err
		}
	}
	for range readRepeats {
		if err := b.alternate(systems, func(s *target) error { return b.round(ctx, pointReads, s, lagReaders, b.short) }); err != nil {
			return err
		}
	}
	return nil
}

// reads selects random rows at a level. Each session has written before, so
// that there is something that it must see.
func (n *node) reads(ctx context.Context, level string, clients int, length time.Duration) (speed, error) {
	var all []*pgx.Conn
	defer func() {
		for _, c := range all {
			c.Close(context.Background())
		}
	}()
	return drive(clients, length, func(i int) (func(int64, int64) error, error) {
		c, err := n.connect(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
		for _, sql := range []string{"SET skein.read = '" + level + "'", fmt.Sprintf("UPDATE accounts SET abalance = 0 WHERE aid = %d", i+1)} {
			if _, err := c.Exec(ctx, sql); err != nil {
				return nil, err
			}
		}
		return func(_, aid int64) error {
			var balance int64
			return c.QueryRow(ctx, "SELECT abalance FROM accounts WHERE aid = $1", aid).Scan(&balance)
		}, nil
	})
}

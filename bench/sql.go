package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/skeindb/skein/internal/httpapi"
)

// target is a system that pgbench, or the bench itself, puts load on.
type target struct {
	name string
	pids func() []int
	run  func(ctx context.Context, clients int, length time.Duration) (speed, error)
	// logged is how many bytes the leader has written to its log so far; may
	// be nil.
	logged func(ctx context.Context) (int64, error)
}

func (t *target) logBytes(ctx context.Context) (int64, error) {
	if t.logged == nil {
		return 0, nil
	}
	return t.logged(ctx)
}

// sql is workloads 1, 2 and 4, and the memory of an idle node.
func (b *bench) sql(ctx context.Context) error {
	c, err := b.startCluster(ctx, "sql", httpapi.PolicyPatch{}, nil)
	if err != nil {
		return err
	}
	defer c.stop()
	ready := time.Now()
	systems, stop, err := b.rivals(ctx)
	defer stop()
	if err != nil {
		return err
	}
	time.Sleep(b.idle - time.Since(ready))
	b.report.idle("empty", c)
	skein, err := b.loadSkein(ctx, c)
	if err != nil {
		return err
	}
	systems = append([]*target{skein}, systems...)
	if err := b.compare(ctx, c, systems); err != nil {
		return err
	}
	time.Sleep(b.idle)
	b.report.idle("after the load", c)
	return nil
}

// rivals starts what Skein is compared with; stop ends it, whatever is
// returned besides.
func (b *bench) rivals(ctx context.Context) (list []*target, stop func(), err error) {
	stop = func() {}
	pg, err := findPostgres(b.pg, filepath.Join(b.dir, "postgres"), b.pgUser)
	switch {
	case errors.Is(err, errNoPostgres):
		b.report.note("PostgreSQL is skipped: %v", err)
	case err != nil:
		return nil, stop, err
	default:
		say("starting PostgreSQL with two standbys")
		stop = pg.close
		if err := pg.open(ctx); err != nil {
			return nil, stop, fmt.Errorf("postgres: %w", err)
		}
		t := b.pgbenchTarget("postgres", "127.0.0.1:"+pg.port, "postgres", "postgres", pg.pids)
		t.logged = pg.logged
		list = append(list, t)
	}
	if b.rqlite == "" {
		return list, stop, nil
	}
	say("starting three rqlite nodes")
	rq := &rqlite{program: b.rqlite, dir: filepath.Join(b.dir, "rqlite")}
	before := stop
	stop = func() { before(); rq.close() }
	if err := rq.open(ctx); err != nil {
		return nil, stop, fmt.Errorf("rqlite: %w", err)
	}
	return append(list, &target{name: "rqlite", pids: rq.pids, run: rq.updates}), stop, nil
}

func (b *bench) pgbenchTarget(name, address, account, db string, pids func() []int) *target {
	p := pgbench{bin: b.pg, dir: filepath.Join(b.dir, "pgbench"), address: address, user: account, database: db}
	return &target{name: name, pids: pids, run: func(ctx context.Context, clients int, length time.Duration) (speed, error) {
		p.clients, p.length, p.sampling = clients, length, 1
		if clients > 1 {
			p.sampling = 0.1
		}
		return p.run(ctx)
	}}
}

// loadSkein fills the table and points pgbench at the leader.
func (b *bench) loadSkein(ctx context.Context, c *cluster) (*target, error) {
	l, err := c.leader(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := l.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	if err := load(ctx, conn); err != nil {
		return nil, err
	}
	t := b.pgbenchTarget("skein", l.pg, "bench", database, c.pids)
	if b.pg == "" {
		t.run = l.updates
	}
	t.logged = c.logged
	return t, nil
}

// compare runs the rounds: first those of one client, since what many clients
// leave to be tidied up would weigh on them.
func (b *bench) compare(ctx context.Context, c *cluster, systems []*target) error {
	for _, s := range systems {
		say("warming up %s", s.name)
		if _, err := s.run(ctx, 1, b.warmUp); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	err := b.alternate(systems, func(s *target) error {
		if s.name == "rqlite" {
			return nil // Only its rate is compared.
		}
		return b.round(ctx, "1 client", s, 1, b.short)
	})
	if err != nil {
		return err
	}
	for _, s := range systems {
		say("warming up %s", s.name)
		if _, err := s.run(ctx, 64, b.warmUp); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	stopProfiles, err := b.profileNodes("sql", c)
	if err != nil {
		return err
	}
	defer stopProfiles()
	return b.alternate(systems, func(s *target) error { return b.round(ctx, "64 clients", s, 64, b.length) })
}

// alternate calls round for each system in turn, in the opposite order every
// other time.
func (b *bench) alternate(systems []*target, round func(*target) error) error {
	for r := range b.rounds {
		for i := range systems {
			s := systems[i]
			if r%2 == 1 {
				s = systems[len(systems)-1-i]
			}
			if err := round(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// costs of a round beside its time.
type costs struct {
	usage
	disk int64 // bytes that the machine's disk was given
	log  int64 // bytes that the leader's log grew by
}

// round measures one system once.
func (b *bench) round(ctx context.Context, workload string, s *target, clients int, length time.Duration) error {
	before, err := usageOf(s.pids()...)
	if err != nil {
		return err
	}
	logged, err := s.logBytes(ctx)
	if err != nil {
		return err
	}
	written := sectorsWritten(b.dir)
	got, err := s.run(ctx, clients, length)
	if err != nil {
		return fmt.Errorf("%s, %s: %w", s.name, workload, err)
	}
	after, err := usageOf(s.pids()...)
	if err != nil {
		return err
	}
	written = sectorsWritten(b.dir) - written
	more, err := s.logBytes(ctx)
	if err != nil {
		return err
	}
	b.report.round(workload, s.name, got, costs{usage: after.minus(before), disk: written, log: more - logged})
	return nil
}

// profileNodes starts CPU profiles on the nodes; stop ends and collects them.
func (b *bench) profileNodes(name string, c *cluster) (stop func(), err error) {
	if b.profile == "" {
		return func() {}, nil
	}
	if err := os.MkdirAll(b.profile, 0o755); err != nil {
		return nil, err
	}
	for _, n := range c.nodes {
		if n.process != nil {
			n.process.signal(syscall.SIGUSR1)
		}
	}
	var once sync.Once
	return func() { once.Do(func() { b.collectProfiles(name, c) }) }, nil
}

func (b *bench) collectProfiles(name string, c *cluster) {
	leads := ""
	if l, err := c.leader(context.Background()); err == nil {
		leads = l.name
	}
	for _, n := range c.nodes {
		if n.process == nil {
			continue
		}
		n.process.signal(syscall.SIGUSR2)
		time.Sleep(500 * time.Millisecond) // It writes the file and says nothing.
		role := "follower"
		if n.name == leads {
			role = "leader"
		}
		to := filepath.Join(b.profile, fmt.Sprintf("%s-%s-%s.pprof", name, n.name, role))
		data, err := os.ReadFile(filepath.Join(n.dir, "skein.pprof"))
		if err == nil {
			err = os.WriteFile(to, data, 0o644)
		}
		if err != nil {
			say("no profile of %s: %v", n.name, err)
		}
	}
}

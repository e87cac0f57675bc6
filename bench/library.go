package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"time"

	"github.com/skeindb/skein"
)

// embedded is the node that this process embeds, as a member of a cluster whose
// other nodes are processes.
type embedded struct {
	cluster *cluster
	node    *skein.Node
	db      *skein.DB
}

// openLibrary embeds the first node of a new cluster in this process and makes
// it lead, or not.
func openLibrary(ctx context.Context, c *cluster, lead bool) (*embedded, error) {
	first := c.nodes[0]
	n, err := skein.Open(ctx, skein.Options{Dir: first.data(), Name: first.name, PeerAddress: first.peer, Certificates: first.certs()})
	if err != nil {
		return nil, err
	}
	l := &embedded{cluster: c, node: n}
	if err := l.form(ctx, lead); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *embedded) form(ctx context.Context, lead bool) error {
	for _, n := range l.cluster.nodes[1:] {
		if err := l.cluster.run(n); err != nil {
			return err
		}
	}
	if err := l.cluster.form(ctx); err != nil {
		return err
	}
	to := l.cluster.nodes[1]
	if lead {
		to = l.cluster.nodes[0]
	}
	if err := l.cluster.moveTo(ctx, to); err != nil {
		return err
	}
	l.db = l.node.Database(database)
	for _, sql := range tableSQL() {
		if _, err := l.db.Exec(ctx, sql); err != nil {
			return fmt.Errorf("load: %w", err)
		}
	}
	return nil
}

// updates has goroutines run the update for a time.
func (l *embedded) updates(ctx context.Context, goroutines int, length time.Duration) (speed, error) {
	return drive(goroutines, length, func(int) (func(int64, int64) error, error) {
		return func(delta, aid int64) error {
			_, err := l.db.Exec(ctx, updateSQL, delta, aid)
			return err
		}, nil
	})
}

func (l *embedded) close() {
	l.cluster.stop()
	l.node.Close()
}

// library is workload 3: no PostgreSQL protocol, the leader in this process.
func (b *bench) library(ctx context.Context) error {
	c, err := newCluster(filepath.Join(b.dir, "skein-library"), 3, b.command, nil)
	if err != nil {
		return err
	}
	say("embedding a leader, with two nodes beside it")
	l, err := openLibrary(ctx, c, true)
	if err != nil {
		return err
	}
	defer l.close()
	t := &target{name: "skein", run: l.updates, pids: func() []int { return []int{os.Getpid()} }} // The others are its children.
	for range b.rounds {
		if err := b.round(ctx, "library, 1 goroutine", t, 1, b.short/2); err != nil {
			return err
		}
	}
	say("warming up the library")
	if _, err := l.updates(ctx, 64, b.warmUp); err != nil {
		return err
	}
	stop, err := b.profileLibrary(c)
	if err != nil {
		return err
	}
	defer stop()
	for range b.rounds {
		if err := b.round(ctx, "library, 64 goroutines", t, 64, b.length); err != nil {
			return err
		}
	}
	return nil
}

// profileLibrary profiles this process, whose node leads, and the followers.
func (b *bench) profileLibrary(c *cluster) (stop func(), err error) {
	if b.profile == "" {
		return func() {}, nil
	}
	others, err := b.profileNodes("library", c)
	if err != nil {
		return nil, err
	}
	f, err := os.Create(filepath.Join(b.profile, "library-n1-leader.pprof"))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close()
		others()
	}, nil
}

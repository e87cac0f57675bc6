// Command bench measures what this project promises about its speed, on one
// machine in one run: three Skein nodes against PostgreSQL with two standbys, the
// Go library, what an idle node takes, how far followers are behind, and how long
// a failover keeps writers waiting. docs/performance.md explains every number.
//
//	go run ./bench -pg /usr/lib/postgresql/15/bin
//
// Rounds of the systems that are compared alternate, and ratios are those of
// medians, so that a machine that slows down slows down all of them. Servers
// run as processes of their own below -dir, which must be on a real disk, and
// are gone at the end.
//
// It uses clocks, files and processes directly: it measures the real ones.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// options of a run.
type options struct {
	pg, pgUser, rqlite string
	dir, out           string
	keep               bool
	only               string
	profile            string
	program            string
	failovers          int
	kinds              string
	busy               time.Duration
	rounds             int
	length             time.Duration // of a round of many clients
	short              time.Duration // of a round of one client
	idle               time.Duration
	warmUp             time.Duration // pgbench needs some just to connect
}

func parse(args []string) (*options, error) {
	o := &options{warmUp: 3 * time.Second}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.pg, "pg", "", "folder of PostgreSQL's programs; empty: nothing to compare with, and no pgbench")
	f.StringVar(&o.pgUser, "pg-user", "postgres", "account that PostgreSQL runs under when this runs as root")
	f.StringVar(&o.rqlite, "rqlite", "", "path of rqlited; empty: not compared")
	f.StringVar(&o.dir, "dir", "/var/tmp/skein-bench", "folder for the servers' data, on a real disk; emptied")
	f.StringVar(&o.out, "out", "bench/results", "folder for the results")
	f.BoolVar(&o.keep, "keep", false, "leave the servers' files")
	f.StringVar(&o.only, "only", "", "comma-separated parts: sql, library, lag, failover (default: all)")
	f.StringVar(&o.profile, "profile", "", "folder for CPU profiles of the nodes under workloads 1 and 3; slows them a little")
	f.StringVar(&o.program, "program", "", "path of the skein program; empty: it is built from the source")
	f.IntVar(&o.rounds, "rounds", 5, "rounds of each workload")
	f.DurationVar(&o.length, "length", 7*time.Second, "length of a round of many clients")
	f.DurationVar(&o.short, "short", 3*time.Second, "length of a round of one client")
	f.DurationVar(&o.idle, "idle", 10*time.Second, "how long a node does nothing before its memory is read")
	f.IntVar(&o.failovers, "failovers", 20, "how often each thing happens to a leader")
	f.StringVar(&o.kinds, "kinds", "", "comma-separated things that happen to leaders: kill, kill-control, freeze, freeze-control, cut, cut-control, switchover, busy (default: all)")
	f.DurationVar(&o.busy, "busy", time.Minute, "how long all CPUs are kept busy while nothing happens to the leader")
	quick := f.Bool("quick", false, "a rough picture in about two minutes")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if *quick {
		o.rounds, o.length, o.short, o.idle, o.failovers = 3, 2*time.Second, time.Second, 5*time.Second, min(o.failovers, 3)
		o.busy = min(o.busy, 5*time.Second)
		o.warmUp = 2 * time.Second
	}
	return o, nil
}

func (o *options) wants(part string) bool {
	return o.only == "" || strings.Contains(","+o.only+",", ","+part+",")
}

func main() {
	if len(os.Args) == 4 && os.Args[1] == "node" {
		fail(profiledNode(os.Args[2], os.Args[3]))
		return
	}
	if len(os.Args) == 2 && os.Args[1] == "spin" {
		spin()
	}
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	fail(err)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	fail(run(ctx, o))
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is a run.
type bench struct {
	*options
	binary string // the skein program
	report *report
}

func run(ctx context.Context, o *options) error {
	if err := os.RemoveAll(o.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return err
	}
	if !o.keep {
		defer os.RemoveAll(o.dir)
	}
	b := &bench{options: o, binary: filepath.Join(o.dir, "skein"), report: newReport(o.dir)}
	if err := b.build(ctx); err != nil {
		return err
	}
	var failures []error
	for _, part := range []struct {
		name string
		do   func(context.Context) error
	}{{"sql", b.sql}, {"library", b.library}, {"lag", b.lag}, {"failover", b.failover}} {
		if !o.wants(part.name) {
			continue
		}
		if err := part.do(ctx); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", part.name, err))
			b.report.note("the part %s failed: %v", part.name, err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	b.report.finish()
	return errors.Join(append(failures, b.report.save(o.out))...)
}

// build makes the program as users get it.
func (b *bench) build(ctx context.Context) error {
	if b.program != "" {
		b.binary = b.program
		return nil
	}
	say("building skein")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", b.binary, "github.com/skeindb/skein/cmd/skein")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	return nil
}

// command serves one node: the program itself or, for profiles, this one.
func (b *bench) command(config string) *exec.Cmd {
	if b.profile == "" {
		return exec.Command(b.binary, "serve", "--config", config)
	}
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	return exec.Command(self, "node", config, strings.TrimSuffix(config, "toml")+"pprof")
}

var began = time.Now()

func say(format string, args ...any) {
	fmt.Printf("%6.1fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
}

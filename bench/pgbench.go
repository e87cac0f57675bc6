package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// rows of the table that is updated.
const rows = 100_000

// tableSQL makes and fills the table; it is the same for every system.
func tableSQL() []string {
	blanks := strings.Repeat(" ", 84)
	return []string{
		"CREATE TABLE accounts(aid integer PRIMARY KEY, bid integer, abalance integer, filler char(84))",
		fmt.Sprintf("INSERT INTO accounts WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < %d)"+
			" SELECT i, i/1000+1, 0, '%s' FROM n", rows, blanks),
	}
}

// updateSQL is the one statement of workloads 1 to 4, in SQLite's form.
const updateSQL = "UPDATE accounts SET abalance = abalance + ?1 WHERE aid = ?2"

// script is updateSQL for pgbench.
const script = `\set aid random(1, 100000)
\set delta random(-5000, 5000)
UPDATE accounts SET abalance = abalance + :delta WHERE aid = :aid;
`

func load(ctx context.Context, c *pgx.Conn) error {
	for _, sql := range tableSQL() {
		if _, err := c.Exec(ctx, sql); err != nil {
			return fmt.Errorf("load: %w", err)
		}
	}
	return nil
}

// pgbench is one run of that program.
type pgbench struct {
	bin      string // folder of PostgreSQL's programs
	dir      string // for its script and log; emptied
	address  string
	user     string
	database string
	clients  int
	length   time.Duration
	rate     int     // transactions a second of all clients; 0: as fast as they can
	sampling float64 // of transactions whose latency is kept
}

// load of a run, as its client saw it.
type speed struct {
	TPS      float64
	P50, P99 time.Duration
	Count    int64 // transactions
}

var (
	tpsLine       = regexp.MustCompile(`(?m)^tps = ([0-9.]+) \(without`)
	processedLine = regexp.MustCompile(`(?m)^number of transactions actually processed: (\d+)`)
	failedLine    = regexp.MustCompile(`(?m)^number of failed transactions: (\d+)`)
)

func (p pgbench) run(ctx context.Context) (speed, error) {
	if err := errors.Join(os.RemoveAll(p.dir), os.MkdirAll(p.dir, 0o755)); err != nil {
		return speed{}, err
	}
	file := filepath.Join(p.dir, "update.sql")
	if err := os.WriteFile(file, []byte(script), 0o644); err != nil {
		return speed{}, err
	}
	host, port, err := net.SplitHostPort(p.address)
	if err != nil {
		return speed{}, err
	}
	seconds := max(1, int(p.length.Seconds()+0.5))
	args := []string{"-n", "-M", "prepared", "-c", strconv.Itoa(p.clients),
		"-j", strconv.Itoa(min(2, p.clients)), "-T", strconv.Itoa(seconds), "-f", file,
		"-l", "--log-prefix", filepath.Join(p.dir, "latency"), "--sampling-rate", fmt.Sprint(p.sampling),
		"-h", host, "-p", port, "-U", p.user}
	if p.rate > 0 {
		args = append(args, "-R", strconv.Itoa(p.rate))
	}
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, "pgbench"), append(args, p.database)...)
	cmd.Env = append(os.Environ(), "PGSSLMODE=disable")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return speed{}, fmt.Errorf("pgbench: %w\n%s", err, out)
	}
	if m := failedLine.FindSubmatch(out); m != nil && string(m[1]) != "0" {
		return speed{}, fmt.Errorf("pgbench: %s transactions failed\n%s", m[1], out)
	}
	tps, processed := tpsLine.FindSubmatch(out), processedLine.FindSubmatch(out)
	if tps == nil || processed == nil {
		return speed{}, fmt.Errorf("pgbench: its report is not understood\n%s", out)
	}
	var s speed
	s.TPS, _ = strconv.ParseFloat(string(tps[1]), 64)
	s.Count, _ = strconv.ParseInt(string(processed[1]), 10, 64)
	latencies, err := readLatencies(p.dir)
	s.P50, s.P99 = quantile(latencies, 0.5), quantile(latencies, 0.99)
	return s, err
}

// readLatencies reads pgbench's logs: a line a transaction, its third field in
// microseconds.
func readLatencies(dir string) ([]time.Duration, error) {
	names, err := filepath.Glob(filepath.Join(dir, "latency.*"))
	if err != nil {
		return nil, err
	}
	var all []time.Duration
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			if len(fields) < 3 {
				continue
			}
			if us, err := strconv.ParseInt(fields[2], 10, 64); err == nil {
				all = append(all, time.Duration(us)*time.Microsecond)
			}
		}
		if err := errors.Join(lines.Err(), f.Close()); err != nil {
			return nil, err
		}
	}
	slices.Sort(all)
	return all, nil
}

// quantile of a sorted list, by nearest rank: the smallest value that at least
// that part of all does not exceed.
func quantile[T any](sorted []T, q float64) (zero T) {
	if len(sorted) == 0 {
		return zero
	}
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

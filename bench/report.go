package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// report is everything that a run has found; it is also the form of the file.
type report struct {
	Date      time.Time       `json:"date"`
	Machine   machine         `json:"machine"`
	Notes     []string        `json:"notes,omitempty"`
	Rounds    []measured      `json:"rounds"`
	Medians   []measured      `json:"medians"`
	Lags      []lagged        `json:"lags,omitempty"`
	Idle      []idleNode      `json:"idle"`
	Failovers []*failoverSums `json:"failovers,omitempty"`
	Promises  []promise       `json:"promises"`
	LoadAfter string          `json:"load_after"`
}

type machine struct {
	CPUs       int    `json:"cpus"`
	Model      string `json:"model"`
	Kernel     string `json:"kernel"`
	Go         string `json:"go"`
	FileSystem string `json:"file_system"`
	FlushUS    int64  `json:"flush_us"` // median time of a 4 KiB write with fdatasync
	LoadBefore string `json:"load_before"`
}

// measured is one round, or the median of all rounds.
type measured struct {
	Workload string  `json:"workload"`
	System   string  `json:"system"`
	TPS      float64 `json:"tps"`
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms"`
	CPU      float64 `json:"cpu_us_per_tx"`
	Disk     float64 `json:"disk_bytes_per_tx"`
	Log      float64 `json:"log_bytes_per_tx"`
}

// idleNode is what nodes that do nothing take, the largest of them.
type idleNode struct {
	When string  `json:"when"`
	RSS  float64 `json:"rss_mib"`
	PSS  float64 `json:"pss_mib"`
	CPU  float64 `json:"cpu_percent"`
}

// promise is one line of the table.
type promise struct {
	What     string  `json:"what"`
	Measured float64 `json:"measured"`
	Unit     string  `json:"unit"`
	AtMost   bool    `json:"at_most"` // else at least
	Target   float64 `json:"target"`
	Kept     bool    `json:"kept"`
}

func newReport(dir string) *report {
	r := &report{Date: time.Now(), Machine: machine{
		CPUs: runtime.NumCPU(), Go: runtime.Version(), Model: cpuModel(), LoadBefore: loadAverage(),
	}}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		r.Machine.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) == nil {
		r.Machine.FileSystem = fmt.Sprintf("%#x", st.Type)
		if st.Type == unix.TMPFS_MAGIC {
			r.note("%s is in memory: flushes cost nothing there, and every number means little", dir)
		}
	}
	r.Machine.FlushUS = flushTime(dir).Microseconds()
	say("%d CPUs, flush %d µs, load %s", r.Machine.CPUs, r.Machine.FlushUS, r.Machine.LoadBefore)
	if load, err := strconv.ParseFloat(strings.Fields(r.Machine.LoadBefore)[0], 64); err == nil && load > 0.5 {
		r.note("the machine was not quiet: load %s before the run", r.Machine.LoadBefore)
	}
	return r
}

func (r *report) note(format string, args ...any) {
	n := fmt.Sprintf(format, args...)
	r.Notes = append(r.Notes, n)
	say("note: %s", n)
}

func (r *report) round(workload, system string, s speed, c costs) {
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	m := measured{
		Workload: workload, System: system, TPS: s.TPS, P50: ms(s.P50), P99: ms(s.P99),
		CPU:  float64(c.CPU.Microseconds()) / float64(max(1, s.Count)),
		Disk: float64(c.disk) / float64(max(1, s.Count)), Log: float64(c.log) / float64(max(1, s.Count)),
	}
	r.Rounds = append(r.Rounds, m)
	say("%-24s %-9s %8.0f/s  p50 %7.3f ms  p99 %7.3f ms  %6.0f µs CPU  %6.0f bytes to disk",
		workload, system, m.TPS, m.P50, m.P99, m.CPU, m.Disk)
}

// idle notes the memory of the largest node, and the CPU that all use while
// they do nothing.
func (r *report) idle(when string, c *cluster) {
	var largest memory
	for _, pid := range c.pids() {
		m := memoryOf(pid)
		largest.RSS, largest.PSS = max(largest.RSS, m.RSS), max(largest.PSS, m.PSS)
	}
	before, err := usageOf(c.pids()...)
	time.Sleep(2 * time.Second)
	after, err2 := usageOf(c.pids()...)
	n := idleNode{When: when, RSS: float64(largest.RSS) / (1 << 20), PSS: float64(largest.PSS) / (1 << 20)}
	if err == nil && err2 == nil {
		n.CPU = 100 * after.minus(before).CPU.Seconds() / 2 / float64(len(c.pids()))
	}
	r.Idle = append(r.Idle, n)
	say("idle node, %s: RSS %.1f MiB, PSS %.1f MiB, %.1f%% of a CPU", when, n.RSS, n.PSS, n.CPU)
}

// finish computes medians, judges the promises and prints the tables.
func (r *report) finish() {
	r.LoadAfter = loadAverage()
	for _, m := range r.Rounds {
		if !slices.ContainsFunc(r.Medians, func(n measured) bool { return n.Workload == m.Workload && n.System == m.System }) {
			r.Medians = append(r.Medians, r.median(m.Workload, m.System))
		}
	}
	r.judge()
	r.print()
}

func (r *report) median(workload, system string) measured {
	m := measured{Workload: workload, System: system}
	for _, f := range []func(*measured) *float64{
		func(m *measured) *float64 { return &m.TPS }, func(m *measured) *float64 { return &m.P50 },
		func(m *measured) *float64 { return &m.P99 }, func(m *measured) *float64 { return &m.CPU },
		func(m *measured) *float64 { return &m.Disk }, func(m *measured) *float64 { return &m.Log },
	} {
		var values []float64
		for i := range r.Rounds {
			if r.Rounds[i].Workload == workload && r.Rounds[i].System == system {
				values = append(values, *f(&r.Rounds[i]))
			}
		}
		slices.Sort(values)
		*f(&m) = middle(values)
	}
	return m
}

// middle is the median of a sorted list.
func middle(sorted []float64) float64 {
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func (r *report) find(workload, system string) (measured, bool) {
	for _, m := range r.Medians {
		if m.Workload == workload && m.System == system {
			return m, true
		}
	}
	return measured{}, false
}

// judge compares what was measured with what is promised.
func (r *report) judge() {
	many, ok := r.find("64 clients", "skein")
	if pg, found := r.find("64 clients", "postgres"); ok && found {
		r.promise("64 clients: transactions a second, Skein / PostgreSQL", many.TPS/pg.TPS, "x", false, 1.5)
		r.promise("64 clients: server CPU per transaction, Skein / PostgreSQL", many.CPU/pg.CPU, "x", true, 0.5)
	}
	one, ok1 := r.find("1 client", "skein")
	if pg, found := r.find("1 client", "postgres"); ok1 && found {
		r.promise("1 client: median latency, Skein / PostgreSQL", one.P50/pg.P50, "x", true, 1.2)
	}
	if l, found := r.find("library, 64 goroutines", "skein"); found {
		r.promise("library, 64 goroutines: transactions a second", l.TPS, "/s", false, 40_000)
	}
	if rq, found := r.find("64 clients", "rqlite"); ok && found {
		r.promise("64 clients: transactions a second, Skein / rqlite", many.TPS/rq.TPS, "x", false, 10)
	}
	r.judgeLags()
	for _, n := range r.Idle {
		if n.When == "empty" {
			r.promise("idle node: resident memory", n.RSS, "MiB", true, 60)
		}
	}
	for _, f := range r.Failovers {
		if f.GoalMS > 0 {
			r.promise(f.What+": longest gap between acknowledged writes, p99", f.P99MS, "ms", true, f.GoalMS)
		}
		if f.Event == "switchover" {
			r.promise(f.What+": errors at clients", float64(f.Refused+f.Indeterminate), "", true, 0)
		}
		r.promise(f.What+": acknowledged rows lost, twice or unknown", float64(f.Lost+f.Twice+f.Unknown), "", true, 0)
		r.promise(f.What+": false failovers", float64(f.False), "", true, 0)
	}
}

// judgeLags compares how far followers are behind with a goal, or with
// PostgreSQL's if those are further behind.
func (r *report) judgeLags() {
	var skein, pg lagged
	for _, l := range r.Lags {
		if l.System == "skein" {
			skein = l
		} else {
			pg = l
		}
	}
	if skein.Probes > 0 {
		r.promise("asynchronous follower: visibility lag, p50, or PostgreSQL's", skein.P50, "ms", true, max(0.5, pg.P50))
		r.promise("asynchronous follower: visibility lag, p99, or PostgreSQL's", skein.P99, "ms", true, max(2, pg.P99))
		r.promise("followers have all after 64 clients in", skein.CatchUp, "ms", true, 500)
	}
	lax, ok := r.find(pointReads, "any")
	if session, found := r.find(pointReads, "session"); ok && found {
		r.promise("reads at a follower: reads a second, any / session", lax.TPS/session.TPS, "x", true, 1.05)
		r.promise("reads at a follower: CPU a read, session / any", session.CPU/lax.CPU, "x", true, 1.05)
	}
}

func (r *report) promise(what string, got float64, unit string, atMost bool, target float64) {
	kept := got >= target
	if atMost {
		kept = got <= target
	}
	r.Promises = append(r.Promises, promise{what, got, unit, atMost, target, kept})
}

func (r *report) print() {
	fmt.Println()
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "medians\tsystem\ttx/s\tp50 ms\tp99 ms\tCPU µs/tx\tlog bytes/tx\tdisk bytes/tx\t")
	for _, m := range r.Medians {
		fmt.Fprintf(w, "%s\t%s\t%.0f\t%.3f\t%.3f\t%.0f\t%.0f\t%.0f\t\n", m.Workload, m.System, m.TPS, m.P50, m.P99, m.CPU, m.Log, m.Disk)
	}
	w.Flush()
	fmt.Println()
	r.printLags()
	w = tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "event\truns\tp50 ms\tp99 ms\tmax ms\tgoal ms\tmax ms when calm\tacknowledged\tlost\ttwice\tunknown\tindeterminate\trefused\tfalse failovers\t")
	for _, f := range r.Failovers {
		fmt.Fprintf(w, "%s\t%d\t%.1f\t%.1f\t%.1f\t%.0f\t%.1f\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", f.What, f.Runs, f.MedianMS, f.P99MS, f.MaxMS, f.GoalMS, f.CalmMS,
			f.Acknowledged, f.Lost, f.Twice, f.Unknown, f.Indeterminate, f.Refused, f.False)
	}
	w.Flush()
	fmt.Println()
	w = tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "PROMISE\tMEASURED\tTARGET\t\t")
	for _, p := range r.Promises {
		sign, verdict := "≥", "kept"
		if p.AtMost {
			sign = "≤"
		}
		if !p.Kept {
			verdict = "NOT KEPT"
		}
		fmt.Fprintf(w, "%s\t%s%s\t%s %s%s\t%s\t\n", p.What, number(p.Measured), p.Unit, sign, number(p.Target), p.Unit, verdict)
	}
	w.Flush()
	fmt.Println()
	for _, n := range r.Notes {
		fmt.Println("note:", n)
	}
}

func (r *report) printLags() {
	if len(r.Lags) == 0 {
		return
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "visibility lag\twrites/s\tprobes\tp50 ms\tp99 ms\tmax ms\tpoll p50 ms\tfull speed tx/s\tcaught up in at most ms\t")
	for _, l := range r.Lags {
		fmt.Fprintf(w, "%s\t%.0f\t%d\t%.3f\t%.3f\t%.3f\t%.3f\t%.0f\t%.1f\t\n", l.System, l.Writes, l.Probes, l.P50, l.P99, l.Max, l.Poll, l.FullSpeed, l.CatchUp)
	}
	w.Flush()
	fmt.Println()
}

func number(f float64) string {
	if f == float64(int64(f)) || f >= 100 {
		return strconv.FormatFloat(f, 'f', 0, 64)
	}
	return strconv.FormatFloat(f, 'f', 2, 64)
}

func (r *report) save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	name := filepath.Join(dir, r.Date.UTC().Format("20060102-150405")+".json")
	if err := os.WriteFile(name, append(b, '\n'), 0o644); err != nil {
		return err
	}
	say("written to %s", name)
	return nil
}

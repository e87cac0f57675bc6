package pgwire

import (
	"io"
	"net"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// BenchmarkPrepared measures what the server takes for Bind, Describe, Execute
// and Sync, as pgbench -M prepared sends them, on one loopback connection.
func BenchmarkPrepared(b *testing.B) {
	s := serveFake(b, &fake{}, Options{})
	r := s.login(b)
	r.Send(&pgproto3.Parse{Name: "P0", Query: "UPDATE pgbench_accounts SET abalance = abalance + $1 WHERE aid = $2"})
	r.Send(&pgproto3.Sync{})
	r.must(r.Flush())
	r.until('Z', 1)
	request := encoded(b, &pgproto3.Bind{PreparedStatement: "P0", Parameters: [][]byte{[]byte("-1234"), []byte("99999")}},
		&pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{}, &pgproto3.Sync{})
	answer := make([]byte, 5+5+14+6)
	b.ReportAllocs()
	for b.Loop() {
		exchange(b, r.Conn, request, answer)
	}
}

// BenchmarkSimple is the same for a simple query.
func BenchmarkSimple(b *testing.B) {
	s := serveFake(b, &fake{}, Options{})
	r := s.login(b)
	request := encoded(b, &pgproto3.Query{String: "UPDATE pgbench_accounts SET abalance = abalance + -1234 WHERE aid = 99999;"})
	answer := make([]byte, 14+6)
	b.ReportAllocs()
	for b.Loop() {
		exchange(b, r.Conn, request, answer)
	}
}

func exchange(b *testing.B, c net.Conn, request, answer []byte) {
	if _, err := c.Write(request); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadFull(c, answer); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRows measures what a row of two columns takes.
func BenchmarkRows(b *testing.B) {
	const rows = 10000
	s := serveFake(b, &fake{rows: rows}, Options{})
	r := s.login(b)
	size := 0
	{
		w := writer{}
		w.row(fakeRow, []column{{"id", 20}, {"name", 25}}, nil)
		size = len(w.buf) * rows
	}
	request := encoded(b, &pgproto3.Query{String: "SELECT"})
	answer := make([]byte, size+1+4+2+2*(4+2+4+2+4+2)+len("id")+1+len("name")+1+1+4+len("SELECT 10000")+1+6)
	b.ReportAllocs()
	for b.Loop() {
		exchange(b, r.Conn, request, answer)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*rows), "ns/row")
}

// BenchmarkPgbench runs the real client: 64 connections, prepared. It reports
// the processor time of this process for a transaction.
func BenchmarkPgbench(b *testing.B) {
	path, err := exec.LookPath("pgbench")
	if err != nil {
		b.Skip("pgbench is not installed")
	}
	s := serveFake(b, &fake{}, Options{})
	script := b.TempDir() + "/update.sql"
	if out, err := exec.Command("sh", "-c", `printf '%s\n' '\set aid random(1, 100000)' '\set d random(-5000, 5000)' 'UPDATE pgbench_accounts SET abalance = abalance + :d WHERE aid = :aid;' > `+script).CombinedOutput(); err != nil {
		b.Fatal(string(out))
	}
	for _, mode := range []string{"simple", "extended", "prepared"} {
		b.Run(mode, func(b *testing.B) {
			var before, after syscall.Rusage
			syscall.Getrusage(syscall.RUSAGE_SELF, &before)
			out, err := exec.Command(path, "-n", "-h", "127.0.0.1", "-p", strconv.Itoa(s.port), "-U", "alice", "-M", mode,
				"-c", "64", "-t", strconv.Itoa(max(b.N/64, 1)), "-f", script, "main").CombinedOutput()
			if err != nil {
				b.Fatal(string(out))
			}
			syscall.Getrusage(syscall.RUSAGE_SELF, &after)
			used := after.Utime.Nano() - before.Utime.Nano() + after.Stime.Nano() - before.Stime.Nano()
			b.ReportMetric(float64(used)/1e3/float64(b.N), "cpu-us/txn")
			for line := range strings.Lines(string(out)) {
				if rest, ok := strings.CutPrefix(line, "tps = "); ok {
					tps, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
					b.ReportMetric(tps, "tps")
				}
			}
		})
	}
}

// BenchmarkIdle reports what an idle connection holds.
func BenchmarkIdle(b *testing.B) {
	s := serveFake(b, &fake{}, Options{MaxConnections: 2000})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const n = 500
	for b.Loop() {
	}
	conns := make([]*raw, n)
	for i := range conns {
		conns[i] = s.login(b)
		conns[i].Frontend = nil
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapInuse+after.StackInuse-before.HeapInuse-before.StackInuse)/n/1024, "KiB/conn")
}

package row_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/sqlite"
)

const accounts = "CREATE TABLE pgbench_accounts(aid INTEGER PRIMARY KEY, bid INT, abalance INT, filler CHAR(84), note TEXT)"

// processorTime is what this process has used: on a shared machine it tells
// more than the clock.
func processorTime(b *testing.B) time.Duration {
	var u unix.Rusage
	must(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchmarkLeader runs n statements in transactions of 1000, captured or not.
func benchmarkLeader(b *testing.B, captured bool, sql string, fill bool, args func(int) []base.Value) {
	conn := open(b, b.TempDir()+"/leader.db", sqlite.RoleWriter)
	must(b, conn.Exec(accounts))
	if fill {
		must(b, conn.Exec("WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM n WHERE i<9999) INSERT INTO pgbench_accounts SELECT i, 1, 0, printf('%84s', ''), '' FROM n"))
	}
	var recorder *row.Recorder
	if captured {
		var err error
		recorder, err = row.NewRecorder(conn)
		must(b, err)
	}
	stmt, err := conn.Prepare(sql)
	must(b, err)
	defer stmt.Close()
	var size, rows int
	b.ReportAllocs()
	b.ResetTimer()
	start := processorTime(b)
	for i := 0; i < b.N; {
		must(b, conn.BeginImmediate())
		var m row.Mark
		if captured {
			m = recorder.Mark()
		}
		for n := 0; n < 1000 && i < b.N; n, i = n+1, i+1 {
			must(b, stmt.BindAll(args(i)))
			must(b, stmt.Run())
		}
		if captured {
			body, changes, err := recorder.Take(m)
			must(b, err)
			size, rows = size+len(body), rows+changes
		}
		must(b, conn.Commit())
	}
	b.ReportMetric(float64(processorTime(b)-start)/float64(b.N), "cpu-ns/row")
	b.ReportMetric(float64(size)/float64(max(rows, 1)), "B/row")
}

// BenchmarkCapture shows the cost of capture as the difference between the
// plain and the captured run.
func BenchmarkCapture(b *testing.B) {
	filler := base.TextValue(strings.Repeat(" ", 84))
	for _, captured := range []bool{false, true} {
		b.Run(fmt.Sprintf("insert/captured=%v", captured), func(b *testing.B) {
			benchmarkLeader(b, captured, "INSERT INTO pgbench_accounts VALUES(?1, ?2, ?3, ?4, '')", false, func(i int) []base.Value {
				return []base.Value{base.IntValue(int64(i)), base.IntValue(1), base.IntValue(0), filler}
			})
		})
		b.Run(fmt.Sprintf("update/captured=%v", captured), func(b *testing.B) {
			benchmarkLeader(b, captured, "UPDATE pgbench_accounts SET abalance=?2 WHERE aid=?1", true, func(i int) []base.Value {
				return []base.Value{base.IntValue(int64(i * 7919 % 10000)), base.IntValue(int64(i) + 1)}
			})
		})
	}
}

// BenchmarkApply applies updates in bodies of 100 and 1000, one transaction
// each.
func BenchmarkApply(b *testing.B) {
	for _, batch := range []int{100, 1000} {
		b.Run(fmt.Sprint(batch), func(b *testing.B) {
			p := newPair(b)
			p.transaction(accounts, "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM n WHERE i<9999) INSERT INTO pgbench_accounts SELECT i, 1, 0, printf('%84s', ''), '' FROM n")
			must(b, p.leader.BeginImmediate())
			var bodies [2][]byte // each undoes what the other does
			for i := range bodies {
				m := p.recorder.Mark()
				must(b, p.leader.Exec(fmt.Sprintf("UPDATE pgbench_accounts SET abalance=%d WHERE aid %% %d = 3", i+1, 10000/batch)))
				body, _, err := p.recorder.Take(m)
				must(b, err)
				bodies[i] = append([]byte(nil), body...)
			}
			must(b, p.leader.Commit())
			b.ReportAllocs()
			b.ResetTimer()
			start := processorTime(b)
			for i := 0; i < b.N; i += batch {
				must(b, p.follower.BeginImmediate())
				must(b, p.applier.Apply(bodies[i/batch%2]))
				must(b, p.follower.Commit())
			}
			b.ReportMetric(float64(processorTime(b)-start)/float64(b.N), "cpu-ns/row")
		})
	}
}

package sqlite_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/sqlite"
)

func fill(b testing.TB, c *sqlite.Conn, n int) {
	b.Helper()
	must(b, c.Exec(fmt.Sprintf("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<%d) INSERT INTO t SELECT i, i, 'some text of a row '||i FROM n", n)))
}

func benchConn(b *testing.B) *sqlite.Conn {
	c := newConn(b, "CREATE TABLE t(id INTEGER PRIMARY KEY, n, s)")
	fill(b, c, 10_000)
	return c
}

// updates changes b.N rows by key, 100 in a transaction.
func updates(b *testing.B, c *sqlite.Conn) {
	s, err := c.Prepare("UPDATE t SET n=?2 WHERE id=?1")
	must(b, err)
	defer s.Close()
	args := make([]base.Value, 2)
	b.ReportAllocs()
	b.ResetTimer()
	used := processorTime(b)
	for i := range b.N {
		if i%100 == 0 {
			must(b, c.BeginImmediate())
		}
		args[0], args[1] = base.IntValue(int64(i*7919%10_000+1)), base.IntValue(int64(i))
		must(b, s.BindAll(args))
		must(b, s.Run())
		if i%100 == 99 || i == b.N-1 {
			must(b, c.Commit())
		}
		if i%10_000 == 9_999 {
			_, _, err := c.Checkpoint(sqlite.CheckpointPassive)
			must(b, err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64(processorTime(b)-used)/float64(b.N), "cpu-ns/op")
}

// processorTime is what this process has used, which a busy machine changes
// less than the time of day.
func processorTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	must(tb, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkUpdateByKey(b *testing.B) { updates(b, benchConn(b)) }

// BenchmarkUpdateByKeyCaptured adds a hook that reads all old and new values.
func BenchmarkUpdateByKeyCaptured(b *testing.B) {
	c := benchConn(b)
	var sum int
	c.OnPreUpdate(func(p sqlite.PreUpdate) {
		for i := range p.Count() {
			o, _ := p.Old(i)
			n, _ := p.New(i)
			sum += len(o.Bytes) + len(n.Bytes)
		}
	})
	updates(b, c)
}

// BenchmarkUpdateByKeyEmptyHook adds a hook that reads nothing.
func BenchmarkUpdateByKeyEmptyHook(b *testing.B) {
	c := benchConn(b)
	c.OnPreUpdate(func(sqlite.PreUpdate) {})
	updates(b, c)
}

func BenchmarkOpenConn(b *testing.B) {
	path := filepath.Join(b.TempDir(), "t.db")
	first := openConn(b, path, sqlite.RoleWriter)
	must(b, first.Exec("PRAGMA journal_mode=WAL; CREATE TABLE t(a)"))
	b.ResetTimer()
	for range b.N {
		c, err := sqlite.OpenConn(context.Background(), path, sqlite.ConnOptions{Role: sqlite.RoleReader})
		must(b, err)
		must(b, c.Close())
	}
}

// residentKiB reads how much memory the process holds.
func residentKiB(tb testing.TB) int {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		tb.Skip("no /proc/self/status")
	}
	var kib int
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	_, err = fmt.Sscan(rest, &kib)
	must(tb, err)
	return kib
}

// BenchmarkConnMemory reports the resident memory of a connection that has
// just been opened, and of one that has filled its cache.
func BenchmarkConnMemory(b *testing.B) {
	path := filepath.Join(b.TempDir(), "t.db")
	first := openConn(b, path, sqlite.RoleWriter)
	must(b, first.Exec("PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, n, s)"))
	fill(b, first, 200_000)
	const conns = 20
	for range b.N {
		runtime.GC()
		before := residentKiB(b)
		var open []*sqlite.Conn
		for range conns {
			c, err := sqlite.OpenConn(context.Background(), path, sqlite.ConnOptions{Role: sqlite.RoleReader})
			must(b, err)
			rows(b, c, "SELECT * FROM t WHERE id=1")
			open = append(open, c)
		}
		runtime.GC()
		idle := residentKiB(b)
		for _, c := range open {
			rows(b, c, "SELECT count(*) FROM t WHERE s LIKE '%x%'")
		}
		runtime.GC()
		full := residentKiB(b)
		for _, c := range open {
			must(b, c.Close())
		}
		b.ReportMetric(float64(idle-before)/conns, "KiB/idle")
		b.ReportMetric(float64(full-before)/conns, "KiB/full")
	}
}

// BenchmarkPointSelect reads one row by key on a reader of the pool.
func BenchmarkPointSelect(b *testing.B) {
	d, w := newDatabase(b, sqlite.Options{}, "CREATE TABLE t(id INTEGER PRIMARY KEY, n, s)")
	fill(b, w, 10_000)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		args := make([]base.Value, 1)
		var row []base.Value
		for i := 0; p.Next(); i++ {
			r, err := d.Reader(context.Background())
			if err != nil {
				b.Error(err)
				return
			}
			s, err := r.Prepare("SELECT * FROM t WHERE id=?")
			if err != nil {
				b.Error(err)
				return
			}
			args[0] = base.IntValue(int64(i*7919%10_000 + 1))
			err = s.BindAll(args)
			if more, serr := s.Step(); err != nil || serr != nil || !more {
				b.Error(err, serr, more)
			}
			row = s.AppendRow(row[:0])
			s.Close()
			d.ReleaseReader(r)
		}
	})
}

// BenchmarkDescribe is a description that is remembered.
func BenchmarkDescribe(b *testing.B) {
	d, _ := newDatabase(b, sqlite.Options{}, "CREATE TABLE t(id INTEGER PRIMARY KEY, n, s)")
	b.ReportAllocs()
	for range b.N {
		_, _, err := d.Describe(context.Background(), "UPDATE t SET n=?2 WHERE id=?1", sqlite.GuardWrite)
		must(b, err)
	}
}

// BenchmarkContentHash hashes 100000 rows.
func BenchmarkContentHash(b *testing.B) {
	d, w := newDatabase(b, sqlite.Options{}, "CREATE TABLE t(id INTEGER PRIMARY KEY, n, s)")
	fill(b, w, 100_000)
	for b.Loop() {
		_, err := d.ContentHash(context.Background())
		must(b, err)
	}
}

// BenchmarkSnapshotTo copies 100000 rows.
func BenchmarkSnapshotTo(b *testing.B) {
	d, w := newDatabase(b, sqlite.Options{}, "CREATE TABLE t(id INTEGER PRIMARY KEY, n, s)")
	fill(b, w, 100_000)
	dir := b.TempDir()
	for i := 0; b.Loop(); i++ {
		must(b, d.SnapshotTo(context.Background(), fmt.Sprintf("%s/%d.db", dir, i), func(done, total int64) { b.SetBytes(total) }))
	}
}

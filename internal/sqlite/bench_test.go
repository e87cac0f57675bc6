package sqlite_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

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

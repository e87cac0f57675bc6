package changelog_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/env"
)

func benchLog(b *testing.B, cache int) (*changelog.Log, string) {
	path := b.TempDir() + "/log"
	l, _, err := changelog.Open(env.Real(slog.New(slog.DiscardHandler)), path, changelog.Options{TailCacheBytes: cache})
	must(b, err)
	return l, path
}

// BenchmarkCommit appends 10 KB and syncs, on the real disk.
func BenchmarkCommit(b *testing.B) {
	for _, size := range []int{200, 10_000, 100_000} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			l, _ := benchLog(b, 0)
			var took []time.Duration
			for b.Loop() {
				first := l.End().Seq + 1
				one, last := batchOf(1, first, 1, size)
				begin := time.Now()
				must(b, l.Append(one, first, last, 1))
				sync_(b, l)
				took = append(took, time.Since(begin))
				if l.Bytes() > 128<<20 {
					must(b, l.Trim(first))
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-p50")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
			b.ReportMetric(float64(took[len(took)-1].Microseconds()), "µs-max")
			must(b, l.Close())
		})
	}
}

// BenchmarkRawCommit is the floor: one write into a file that is there already,
// and fdatasync.
func BenchmarkRawCommit(b *testing.B) {
	fs := env.Real(slog.New(slog.DiscardHandler)).FS
	f, err := fs.OpenFile(b.TempDir()+"/raw", os.O_CREATE|os.O_RDWR, 0o600)
	must(b, err)
	_, err = f.WriteAt(make([]byte, 16<<20), 0)
	must(b, err)
	must(b, f.Sync())
	data := make([]byte, 10_000)
	var took []time.Duration
	for at := int64(0); b.Loop(); at = (at + int64(len(data))) % (15 << 20) {
		begin := time.Now()
		_, err := f.WriteAt(data, at)
		must(b, err)
		must(b, f.Sync())
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-p50")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
	must(b, f.Close())
}

// BenchmarkAppend appends beside a flusher, as a leader does.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{200, 10_000} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			l, _ := benchLog(b, 0)
			ctx, cancel := context.WithCancel(b.Context())
			var flusher sync.WaitGroup
			flusher.Go(func() {
				for seq := base.Seq(0); l.Wait(ctx, seq+1) == nil; {
					seq = sync_(b, l)
					if seq > 100_000 {
						must(b, l.Trim(seq-100_000))
					}
				}
			})
			b.SetBytes(int64(size))
			b.ReportAllocs()
			var worst time.Duration
			for b.Loop() {
				first := l.End().Seq + 1
				one, last := batchOf(1, first, 1, size)
				begin := time.Now()
				must(b, l.Append(one, first, last, 1))
				worst = max(worst, time.Since(begin))
			}
			b.ReportMetric(float64(worst.Microseconds()), "µs-max")
			cancel()
			flusher.Wait()
			must(b, l.Close())
		})
	}
}

// BenchmarkReadFrom reads a log of 64 MB in pieces of 256 KB, and opens it.
func BenchmarkReadFrom(b *testing.B) {
	for _, cache := range []int{-1, 128 << 20} {
		l, path := benchLog(b, cache)
		for l.Bytes() < 64<<20 {
			appendBatch(b, l, 1, 10, 1000)
		}
		name := map[int]string{-1: "file", 128 << 20: "memory"}[cache]
		b.Run(name, func(b *testing.B) {
			b.SetBytes(l.Bytes())
			var buf []byte
			for b.Loop() {
				for next := base.Seq(1); next <= l.End().Seq; {
					frames, _, last, err := l.ReadFrom(next, 256<<10, buf)
					must(b, err)
					buf = frames
					next = last + 1
				}
			}
		})
		size := l.Bytes()
		must(b, l.Close())
		b.Run(name+"/open", func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				l, _, err := changelog.Open(env.Real(slog.New(slog.DiscardHandler)), path, changelog.Options{})
				must(b, err)
				must(b, l.Close())
			}
		})
	}
}

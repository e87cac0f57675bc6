package changelog_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/env/crashfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAppendReadReopen(t *testing.T) {
	for _, cache := range []int{-1, 8 << 10, 1 << 20} {
		t.Run(fmt.Sprintf("cache %d", cache), func(t *testing.T) {
			d, o := newDisk(t), options()
			o.TailCacheBytes = cache
			l, r := open(t, d, o)
			if !r.Created || l.End() != (base.Position{}) || l.Start() != 1 {
				t.Fatalf("new log: %+v, ends at %v", r, l.End())
			}
			m := &model{}
			for i := range 60 {
				m.add(appendBatch(t, l, base.Epoch(1+i/20), 1+i%5, 50*i))
			}
			if l.Flushed() == l.End().Seq {
				t.Fatal("durable without a sync")
			}
			m.floor = sync_(t, l)
			must(t, m.holds(t, l))
			must(t, l.Verify(t.Context()))
			must(t, l.Close())
			l, r = open(t, d, o)
			if r.Rewritten || r.TornBytes != 0 || r.Created {
				t.Fatalf("after a clean close: %+v", r)
			}
			must(t, m.holds(t, l))
			if l.Flushed() != l.End().Seq {
				t.Fatalf("flushed %d of %v after open", l.Flushed(), l.End())
			}
			must(t, l.Close())
		})
	}
}

func TestReadEdges(t *testing.T) {
	for _, cache := range []int{-1, 1 << 20} {
		o := options()
		o.TailCacheBytes = cache
		l, _ := open(t, newDisk(t), o)
		_, _, _, err := l.ReadFrom(1, 100, nil)
		mustBe(t, err, changelog.ErrEnd)
		appendBatch(t, l, 1, 10, 100) // covers 1 to 11, the first two in one entry
		appendBatch(t, l, 1, 1, 9000)
		_, _, _, err = l.ReadFrom(2, 100, nil)
		mustBe(t, err, changelog.ErrNotEntry)
		_, _, _, err = l.ReadFrom(14, 100, nil)
		mustBe(t, err, changelog.ErrEnd)
		frames, first, last, err := l.ReadFrom(12, 1, nil)
		if err != nil || first != 12 || last != 13 || len(frames) < 9000 {
			t.Fatalf("an entry over maxBytes: %d to %d, %v", first, last, err)
		}
		_, first, last, err = l.ReadFrom(5, 300, nil)
		if err != nil || first != 5 || last != 6 {
			t.Fatalf("two of many: %d to %d, %v", first, last, err)
		}
		must(t, l.Close())
		_, _, _, err = l.ReadFrom(1, 100, nil)
		mustBe(t, err, changelog.ErrClosed)
	}
}

func TestAppendRefusesWhatDoesNotFollow(t *testing.T) {
	l, _ := open(t, newDisk(t), options())
	defer l.Close()
	appendBatch(t, l, 3, 2, 10) // 1 to 3
	good, _ := batchOf(3, 4, 2, 10)
	older, _ := batchOf(2, 4, 2, 10)
	mustBe(t, l.Append(good, 5, 6, 3), changelog.ErrNotNext)
	mustBe(t, l.Append(good, 4, 7, 3), changelog.ErrNotNext)
	mustBe(t, l.Append(good, 4, 6, 4), changelog.ErrNotNext)
	mustBe(t, l.Append(good[:len(good)-1], 4, 6, 3), changelog.ErrNotNext)
	mustBe(t, l.Append(nil, 4, 3, 3), changelog.ErrNotNext)
	mustBe(t, l.Append(older, 4, 6, 2), changelog.ErrNotNext)
	if l.End() != (base.Position{Epoch: 3, Seq: 3}) {
		t.Fatalf("ends at %v", l.End())
	}
	must(t, l.Append(good, 4, 6, 3))
}

// TestEpochsInOneAppend is what a follower does that was shipped the end of
// one epoch and the start of the next in one message.
func TestEpochsInOneAppend(t *testing.T) {
	d := newDisk(t)
	l, _ := open(t, d, options())
	one, last := batchOf(1, 1, 3, 10)
	two, last := batchOf(2, last+1, 2, 10)
	four, last := batchOf(4, last+1, 1, 10)
	all := bytes.Join([][]byte{one, two, four}, nil)
	must(t, l.Append(all, 1, last, 4))
	m := &model{floor: last}
	m.add(all)
	must(t, m.holds(t, l))
	must(t, l.Close())
	l, _ = open(t, d, options())
	must(t, m.holds(t, l))
	if l.EpochAt(4) != 1 || l.EpochAt(5) != 2 || l.EpochAt(7) != 2 || l.EpochAt(8) != 4 || l.EpochAt(10) != 0 {
		t.Fatalf("epochs start at %v", l.EpochStarts())
	}
	must(t, l.Close())
}

func TestLargeBatchGetsALargeSegment(t *testing.T) {
	d := newDisk(t)
	l, _ := open(t, d, options())
	m := &model{}
	m.add(appendBatch(t, l, 1, 2, 100))
	m.add(appendBatch(t, l, 1, 3, 300<<10)) // spans index points, entries over the read window
	m.add(appendBatch(t, l, 1, 2, 100))
	m.floor = sync_(t, l)
	must(t, m.holds(t, l))
	must(t, l.Close())
	l, _ = open(t, d, options())
	must(t, m.holds(t, l))
	must(t, l.Close())
}

func TestTrim(t *testing.T) {
	d := newDisk(t)
	l, _ := open(t, d, options())
	m := &model{}
	for range 40 {
		m.add(appendBatch(t, l, 1, 4, 1000))
	}
	m.floor = sync_(t, l)
	size, files := l.Bytes(), len(d.Files())
	must(t, l.Trim(100))
	if start := l.Start(); start <= 1 || start > 100 {
		t.Fatalf("starts at %d", start)
	}
	_, _, _, err := l.ReadFrom(1, 100, nil)
	mustBe(t, err, changelog.ErrTrimmed)
	if l.Bytes() >= size || len(d.Files()) >= files {
		t.Fatalf("%d of %d bytes, %d of %d files are left", l.Bytes(), size, len(d.Files()), files)
	}
	must(t, m.holds(t, l))
	must(t, l.Trim(1<<40))
	if n := len(l.Segments()); n != 1 {
		t.Fatalf("%d segments are left", n)
	}
	must(t, m.holds(t, l))
	for range 20 { // in recycled files
		m.add(appendBatch(t, l, 2, 4, 1000))
	}
	must(t, m.holds(t, l))
	must(t, l.Close())
	l, _ = open(t, d, options())
	must(t, m.holds(t, l))
	must(t, l.Close())
}

func TestTruncateAfter(t *testing.T) {
	for i, to := range []base.Seq{0, 2, 5, 7, 30, 99, 195, 197, 200} {
		d, o := newDisk(t), options()
		o.TailCacheBytes = []int{-1, 1 << 20}[i%2]
		l, _ := open(t, d, o)
		m := &model{}
		for i := range 40 {
			m.add(appendBatch(t, l, base.Epoch(1+i/10), 4, 1000)) // 5 seqs each
		}
		sync_(t, l)
		must(t, l.TruncateAfter(to))
		m.cut(to)
		m.floor = to
		must(t, m.holds(t, l))
		if l.Flushed() != to {
			t.Fatalf("flushed %d after a cut to %d", l.Flushed(), to)
		}
		for range 9 {
			m.add(appendBatch(t, l, 9, 3, 500))
		}
		m.floor = sync_(t, l)
		must(t, m.holds(t, l))
		d.Crash(uint64(to))
		l, _ = open(t, d, options())
		must(t, m.holds(t, l))
		must(t, l.Close())
	}
}

func TestTruncateEdges(t *testing.T) {
	l, _ := open(t, newDisk(t), options())
	defer l.Close()
	for range 30 {
		appendBatch(t, l, 1, 4, 1000)
	}
	must(t, l.Trim(60))
	mustBe(t, l.TruncateAfter(l.Start()-2), changelog.ErrTrimmed)
	mustBe(t, l.TruncateAfter(101), changelog.ErrNotEntry)
	must(t, l.TruncateAfter(l.Start()-1))
	if got := l.End(); got != (base.Position{Epoch: 1, Seq: l.Start() - 1}) {
		t.Fatalf("ends at %v, starts at %d", got, l.Start())
	}
	must(t, l.TruncateAfter(1000))
}

func TestReset(t *testing.T) {
	d := newDisk(t)
	l, _ := open(t, d, options())
	for range 30 {
		appendBatch(t, l, 1, 4, 1000)
	}
	pos := base.Position{Epoch: 8, Seq: 5000}
	if err := l.Reset(pos, nil); base.KindOf(err) != base.KindInvalid {
		t.Fatalf("reset without epochs: %v", err)
	}
	starts := []changelog.EpochStart{{Epoch: 1, First: 1}, {Epoch: 8, First: 4000}}
	must(t, l.Reset(pos, starts))
	m := &model{before: pos, old: starts, floor: pos.Seq}
	must(t, m.holds(t, l))
	if len(d.Files()) > 2 || l.Start() != 5001 || l.Flushed() != 5000 || l.EpochAt(4500) != 8 || l.EpochAt(3999) != 1 {
		t.Fatalf("files %v, start %d, flushed %d", d.Files(), l.Start(), l.Flushed())
	}
	m.add(appendBatch(t, l, 8, 4, 100))
	m.add(appendBatch(t, l, 9, 4, 100))
	m.floor = sync_(t, l)
	d.Crash(3)
	l, _ = open(t, d, options())
	must(t, m.holds(t, l))
	must(t, l.Close())
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := open(t, newDisk(t), options())
		got := make(chan error, 3)
		go func() { got <- l.Wait(t.Context(), 2) }()
		synctest.Wait()
		appendBatch(t, l, 1, 1, 10)
		must(t, <-got)
		must(t, l.Wait(t.Context(), 1))
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() { got <- l.Wait(ctx, 9) }()
		synctest.Wait()
		stop := errors.New("stop")
		cancel(stop)
		mustBe(t, <-got, stop)
		go func() { got <- l.Wait(t.Context(), 9) }()
		synctest.Wait()
		must(t, l.Close())
		mustBe(t, <-got, changelog.ErrClosed)
	})
}

// Whoever wants a sync while another one is under way, or has failed a moment
// ago, gets no success from a second sync of the same pages: it would find them
// clean.
func TestSyncThatOverlapsAFailedOneFails(t *testing.T) {
	large, _ := batchOf(1, 1, 1, changelog.MinSegmentBytes)
	for name, second := range map[string]func(*changelog.Log) error{
		"sync": func(l *changelog.Log) error { _, err := l.Sync(); return err },
		"an append that needs another segment": func(l *changelog.Log) error {
			frames, last := batchOf(1, l.End().Seq+1, 1, len(large))
			return l.Append(frames, last-1, last, 1)
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := newDisk(t)
			l, _ := open(t, d, options())
			appendBatch(t, l, 1, 3, 100)
			flushed := sync_(t, l)
			appendBatch(t, l, 1, 3, 100)
			segment, failing, again := "", true, 0
			d.Inject(func(c crashfs.Call) error {
				switch {
				case c.Op != crashfs.OpSync:
				case failing:
					segment, failing = c.Name, false
					time.Sleep(time.Second)
					return syscall.EIO
				case c.Name == segment:
					again++
				}
				return nil
			})
			first := make(chan error)
			go func() { _, err := l.Sync(); first <- err }()
			synctest.Wait()
			got := make(chan error)
			go func() { got <- second(l) }()
			synctest.Wait()
			mustBe(t, <-first, syscall.EIO)
			if err := <-got; !errors.Is(err, changelog.ErrFailed) || again > 0 || l.Flushed() != flushed {
				t.Errorf("%s: %v, after %d more syncs of the segment; flushed up to %d, and %d before", name, err, again, l.Flushed(), flushed)
			}
			mustBe(t, l.Close(), changelog.ErrFailed)
		})
	}
}

// Of two that want the same at once, one syncs.
func TestSyncsThatOverlapAreOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(t)
		l, _ := open(t, d, options())
		appendBatch(t, l, 1, 3, 100)
		syncs := 0
		d.Inject(func(c crashfs.Call) error {
			if c.Op == crashfs.OpSync {
				syncs++
				time.Sleep(time.Second)
			}
			return nil
		})
		got := make(chan base.Seq)
		for range 3 {
			go func() { seq, _ := l.Sync(); got <- seq }()
		}
		for range 3 {
			if seq := <-got; seq != l.End().Seq {
				t.Errorf("flushed up to %d of %d", seq, l.End().Seq)
			}
		}
		if syncs != 1 {
			t.Errorf("%d syncs", syncs)
		}
		must(t, l.Close())
	})
}

func TestFailedSyncIsFinal(t *testing.T) {
	d := newDisk(t)
	l, _ := open(t, d, options())
	m := &model{}
	m.add(appendBatch(t, l, 1, 3, 100))
	m.floor = sync_(t, l)
	m.add(appendBatch(t, l, 1, 3, 100))
	inject, _ := crashfs.FailNth(1, syscall.EIO, func(c crashfs.Call) bool { return c.Op == crashfs.OpSync })
	d.Inject(inject)
	_, err := l.Sync()
	mustBe(t, err, changelog.ErrFailed)
	mustBe(t, err, syscall.EIO)
	_, err = l.Sync()
	mustBe(t, err, changelog.ErrFailed)
	frames, last := batchOf(1, l.End().Seq+1, 1, 10)
	mustBe(t, l.Append(frames, last-1, last, 1), changelog.ErrFailed)
	mustBe(t, l.Wait(t.Context(), 100), changelog.ErrFailed)
	mustBe(t, l.Close(), changelog.ErrFailed)

	// The next process sees pages that look clean and are not on the disk. What
	// it calls durable must be.
	l, _ = open(t, d, options())
	m.floor = l.Flushed()
	for seed := range uint64(20) {
		after, _ := open(t, d.CrashClone(seed), options())
		must(t, m.holds(t, after))
		must(t, after.Close())
	}
	must(t, l.Close())
}

func TestDiskFullHeals(t *testing.T) {
	d := newDisk(t)
	l, _ := open(t, d, options())
	m := &model{}
	d.SetCapacity(d.Used() + 3*changelog.MinSegmentBytes + 5000)
	var err error
	for err == nil {
		first := l.End().Seq + 1
		frames, last := batchOf(1, first, 3, 900)
		if err = l.Append(frames, first, last, 1); err == nil {
			m.add(frames)
		}
	}
	if base.KindOf(err) != base.KindDiskFull || l.End() != m.end() {
		t.Fatalf("ends at %v, %v", l.End(), err)
	}
	m.floor = sync_(t, l)
	must(t, m.holds(t, l))
	must(t, l.Trim(l.End().Seq))
	for range 4 {
		m.add(appendBatch(t, l, 1, 3, 900))
	}
	must(t, m.holds(t, l))
	must(t, l.Close())
	l, _ = open(t, d, options())
	m.floor = m.end().Seq
	must(t, m.holds(t, l))
	must(t, l.Close())
}

// TestPartialAppendIsNotFound fails a write that has reached the disk but for
// bytes that were there already: only the undo keeps it from coming back.
func TestPartialAppendIsNotFound(t *testing.T) {
	for seed := range uint64(40) {
		d := newDisk(t)
		l, _ := open(t, d, options())
		m := &model{}
		m.add(appendBatch(t, l, 1, 1, 100))
		m.floor = sync_(t, l)
		inject, _ := crashfs.FailNth(1, syscall.ENOSPC, func(c crashfs.Call) bool { return c.Op == crashfs.OpWrite })
		d.Inject(inject)
		e := entry.Entry{Epoch: 1, First: 3, Count: 1, Kind: entry.Row, Body: make([]byte, 4000)}
		err := l.Append(entry.Append(nil, &e), 3, 3, 1)
		if base.KindOf(err) != base.KindDiskFull {
			t.Fatalf("append: %v", err)
		}
		d.Crash(seed)
		l, _ = open(t, d, options())
		must(t, m.holds(t, l))
		must(t, l.Close())
	}
}

func TestOtherLogsAreRefused(t *testing.T) {
	d := newDisk(t)
	l, _ := open(t, d, options())
	must(t, l.Close())
	for _, o := range []changelog.Options{{DatabaseID: 7, ClusterID: 8}, {DatabaseID: 8, ClusterID: 9}} {
		if _, _, err := changelog.Open(environment(d, 1), dir, o); base.KindOf(err) != base.KindWrongCluster {
			t.Fatalf("%+v: %v", o, err)
		}
	}
	must(t, changelog.Discard(environment(d, 1), dir))
	for seed := range uint64(20) {
		l, r := open(t, d.CrashClone(seed), changelog.Options{DatabaseID: 8, ClusterID: 9})
		if !r.Created {
			t.Fatalf("seed %d: the log is back", seed)
		}
		must(t, l.Close())
	}
}

// TestConcurrently runs the writer, the flusher, readers and a trimmer side by
// side; the race detector and the readers' checks are the judges.
func TestConcurrently(t *testing.T) {
	o := options()
	o.Foreground, o.TailCacheBytes = false, 4<<10
	l, _ := open(t, newDisk(t), o)
	const target = 2000
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var work sync.WaitGroup
	work.Go(func() { flush(ctx, t, l, target) })
	for range 2 {
		work.Go(func() { follow(ctx, t, l, target) })
	}
	for l.End().Seq < target {
		appendBatch(t, l, 1, 3, 100)
		if end := l.End().Seq; end%50 == 0 {
			if err := l.TruncateAfter(end - 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	work.Wait()
	must(t, l.Verify(ctx))
	must(t, l.Close())
}

func flush(ctx context.Context, t *testing.T, l *changelog.Log, target base.Seq) {
	for seq := base.Seq(0); seq < target; {
		if err := l.Wait(ctx, seq+1); err != nil {
			t.Error(err)
			return
		}
		var err error
		if seq, err = l.Sync(); err != nil {
			t.Error(err)
			return
		}
		if seq > 300 {
			if err := l.Trim(seq - 300); err != nil {
				t.Error(err)
			}
		}
	}
}

// follow reads to the end; a cut may take back what it has seen.
func follow(ctx context.Context, t *testing.T, l *changelog.Log, target base.Seq) {
	var buf []byte
	for next := base.Seq(1); next <= target; {
		if err := l.Wait(ctx, next); err != nil {
			t.Error(err)
			return
		}
		frames, first, last, err := l.ReadFrom(next, 2000, buf)
		switch {
		case errors.Is(err, changelog.ErrEnd):
			continue
		case errors.Is(err, changelog.ErrTrimmed), errors.Is(err, changelog.ErrNotEntry):
			next = max(next+1, l.Start())
			continue
		case err != nil:
			t.Error(err)
			return
		}
		span, err := entry.Scan(frames, nil)
		if err != nil || span.First != first || span.Last != last {
			t.Errorf("read %d: %+v, %v", next, span, err)
			return
		}
		next = last + 1
	}
}

// TestSyncAcrossACut cuts the log within a batch while a sync is under way: what
// was synced is not what is there afterwards, so it must not count.
func TestSyncAcrossACut(t *testing.T) {
	l, _, leave, done := syncing(t)
	must(t, l.TruncateAfter(6))
	appendBatch(t, l, 2, 3, 100)
	close(leave)
	if seq := <-done; seq != 6 || l.Flushed() != 6 {
		t.Fatalf("a sync from before the cut counts: %d, flushed %d", seq, l.Flushed())
	}
	must(t, l.Close())
}

// TestTakeBackDuringSync cuts a whole batch while a sync of it is under way. The
// cut is the last word, also after a crash, and what comes next is not synced.
func TestTakeBackDuringSync(t *testing.T) {
	l, d, leave, done := syncing(t)
	cut := make(chan error)
	go func() { cut <- l.TruncateAfter(4) }()
	for l.End().Seq != 4 {
		runtime.Gosched()
	}
	close(leave)
	if seq := <-done; seq > 4 {
		t.Errorf("a sync from before the cut reached %d", seq)
	}
	must(t, <-cut)
	appendBatch(t, l, 2, 3, 100)
	if l.Flushed() != 4 {
		t.Errorf("flushed %d", l.Flushed())
	}
	for seed := range uint64(20) {
		after, _ := open(t, d.CrashClone(seed), options())
		if end := after.End(); end != (base.Position{Epoch: 1, Seq: 4}) && end != (base.Position{Epoch: 2, Seq: 8}) {
			t.Errorf("a crash leaves a log that ends at %v", end)
		}
		must(t, after.Close())
	}
	must(t, l.Close())
}

// syncing returns a log from 1 to 8, in two batches, the second of which is
// being synced until leave is closed; done then gets what the sync has reached.
func syncing(t *testing.T) (l *changelog.Log, d *crashfs.Disk, leave chan struct{}, done chan base.Seq) {
	d = newDisk(t)
	l, _ = open(t, d, options())
	appendBatch(t, l, 1, 3, 100) // 1 to 4
	sync_(t, l)
	appendBatch(t, l, 1, 3, 100) // 5 to 8
	entered := make(chan struct{})
	leave, done = make(chan struct{}), make(chan base.Seq, 1)
	var first atomic.Bool
	d.Inject(func(c crashfs.Call) error {
		if c.Op == crashfs.OpSync && !first.Swap(true) {
			close(entered)
			<-leave
		}
		return nil
	})
	go func() {
		seq, err := l.Sync()
		if err != nil {
			t.Error(err)
		}
		done <- seq
	}()
	<-entered
	return l, d, leave, done
}

// TestTakeBackOnAFullDisk cuts the last batch where nothing more can be written,
// also the first batch of a segment and of an epoch; a mark forbids it.
func TestTakeBackOnAFullDisk(t *testing.T) {
	d := newDisk(t)
	l, _ := open(t, d, options())
	m := &model{}
	for i := range 60 {
		m.add(appendBatch(t, l, base.Epoch(1+i/20), 4, 1000))
		if i%3 == 0 {
			m.floor = sync_(t, l)
		}
		before := m.clone()
		m.add(appendBatch(t, l, base.Epoch(1+(i+1)/20), 3, 700))
		d.SetCapacity(1)
		must(t, l.TruncateAfter(before.end().Seq))
		d.SetCapacity(0)
		m = before
		m.floor = m.end().Seq
		must(t, m.holds(t, l))
		if l.Flushed() != m.floor {
			t.Fatalf("flushed %d after a cut to %d", l.Flushed(), m.floor)
		}
		after, _ := open(t, d.CrashClone(uint64(i)), options())
		must(t, m.holds(t, after))
		must(t, after.Close())
	}
	before := m.end().Seq
	appendBatch(t, l, 9, 4, 1000)
	sync_(t, l)
	sync_(t, l) // leaves a mark
	d.SetCapacity(1)
	if err := l.TruncateAfter(before); base.KindOf(err) != base.KindDiskFull {
		t.Errorf("a batch that a mark says is on disk was cut: %v", err)
	}
	d.SetCapacity(0)
	must(t, l.TruncateAfter(before))
	must(t, m.holds(t, l))
	must(t, l.Close())
}

// TestAppendDuringSync checks that a sync answers for what came before it only.
func TestAppendDuringSync(t *testing.T) {
	d := newDisk(t)
	l, _ := open(t, d, options())
	appendBatch(t, l, 1, 3, 100)
	d.Inject(func(c crashfs.Call) error {
		if c.Op == crashfs.OpSync {
			d.Inject(nil)
			appendBatch(t, l, 1, 3, 100)
		}
		return nil
	})
	if seq := sync_(t, l); seq != 4 || l.End().Seq != 8 {
		t.Fatalf("synced %d of %v", seq, l.End())
	}
	must(t, l.Close())
}

// TestReaderKeepsItsSegment trims away and recycles the segment that a read is
// at: the read must not see the file's next life.
func TestReaderKeepsItsSegment(t *testing.T) {
	d := newDisk(t)
	l, _ := open(t, d, options())
	first := appendBatch(t, l, 1, 4, 1000)
	for range 10 {
		appendBatch(t, l, 1, 4, 1000)
	}
	d.Inject(func(c crashfs.Call) error {
		if c.Op != crashfs.OpRead {
			return nil
		}
		d.Inject(nil)
		must(t, l.Trim(l.End().Seq))
		for range 10 {
			appendBatch(t, l, 1, 4, 1000)
		}
		return nil
	})
	frames, _, last, err := l.ReadFrom(1, len(first), nil)
	must(t, err)
	if last != 5 || !bytes.Equal(frames, first) || l.Start() == 1 {
		t.Fatalf("read up to %d, log starts at %d", last, l.Start())
	}
	must(t, l.Close())
}

// TestSegmentsAreMadeAhead checks that the append that needs a new segment
// finds one, and makes none itself.
func TestSegmentsAreMadeAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, o := newDisk(t), options()
		o.Foreground = false
		l, _ := open(t, d, o)
		for range 20 {
			first := l.End().Seq + 1
			frames, last := batchOf(1, first, 1, 2000)
			segments, calls := len(l.Segments()), 0
			d.Inject(func(c crashfs.Call) error {
				if c.Op == crashfs.OpAllocate && len(l.Segments()) == segments {
					calls++
				}
				return nil
			})
			must(t, l.Append(frames, first, last, 1))
			rotated := len(l.Segments()) > segments
			synctest.Wait() // the housekeeper is done
			if rotated && calls > 0 {
				t.Fatalf("the append that needed segment %d made it", segments+1)
			}
		}
		if files, segments := len(d.Files()), len(l.Segments()); segments < 4 || files != segments+1 {
			t.Fatalf("%d files for %d segments, which leaves no spare", files, segments)
		}
		must(t, l.Close())
		if files := d.Files(); len(files) < 4 || slices.ContainsFunc(files, func(f string) bool { return strings.Contains(f, "spare") }) {
			t.Fatalf("after close: %v", files)
		}
	})
}

package changelog_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/env/crashfs"
)

const dir = "/data/log"

// tester is what testing.TB and rapid.T have in common.
type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

// seeded is a source of randomness that gives the same numbers each time.
type seeded struct {
	mu sync.Mutex
	r  *rand.Rand
}

func (s *seeded) Uint64() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.r.Uint64()
}

func (s *seeded) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(s.Uint64())
	}
	return len(p), nil
}

func environment(fs env.FS, seed uint64) *env.Env {
	return &env.Env{FS: fs, Rand: &seeded{r: rand.New(rand.NewPCG(seed, 1))}, Log: slog.New(slog.DiscardHandler)}
}

// newDisk returns a disk with the directory that holds data folders.
func newDisk(t tester) *crashfs.Disk {
	d := crashfs.New()
	must(t, d.MkdirAll("/data", 0o700))
	must(t, d.SyncDir("/"))
	return d
}

func options() changelog.Options {
	return changelog.Options{
		DatabaseID: 7, ClusterID: 9, SegmentBytes: changelog.MinSegmentBytes, TailCacheBytes: -1, Foreground: true,
	}
}

var opens uint64

func open(t tester, d env.FS, o changelog.Options) (*changelog.Log, *changelog.Recovery) {
	t.Helper()
	opens++
	l, r, err := changelog.Open(environment(d, opens), dir, o)
	must(t, err)
	return l, r
}

func must(t tester, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustBe(t tester, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

// body is what an entry holds in these tests: its place in history, so that
// entries of two histories differ, and then as many bytes as asked.
func body(epoch base.Epoch, first base.Seq, size int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(epoch))
	b = binary.LittleEndian.AppendUint64(b, uint64(first))
	for len(b) < size {
		b = append(b, byte(len(b))*byte(first))
	}
	return b
}

// batchOf returns one batch of entries of one row each but for the first,
// which has two.
func batchOf(epoch base.Epoch, first base.Seq, entries, size int) (frames []byte, last base.Seq) {
	last = first - 1
	for i := range entries {
		e := entry.Entry{Epoch: epoch, First: last + 1, Count: 1, Time: int64(last), Kind: entry.Row, Body: body(epoch, last+1, size)}
		if i == 0 {
			e.Count = 2
		}
		frames = entry.Append(frames, &e)
		last = e.Last()
	}
	return frames, last
}

func appendBatch(t tester, l *changelog.Log, epoch base.Epoch, entries, size int) []byte {
	t.Helper()
	first := l.End().Seq + 1
	frames, last := batchOf(epoch, first, entries, size)
	must(t, l.Append(frames, first, last, epoch))
	return frames
}

func sync_(t tester, l *changelog.Log) base.Seq {
	t.Helper()
	seq, err := l.Sync()
	must(t, err)
	return seq
}

// readAll returns all frames from a sequence number to the end.
func readAll(t tester, l *changelog.Log, from base.Seq, maxBytes int) []byte {
	t.Helper()
	var all, buf []byte
	for next := from; next <= l.End().Seq; {
		frames, first, last, err := l.ReadFrom(next, maxBytes, buf)
		must(t, err)
		span, err := entry.Scan(frames, nil)
		must(t, err)
		if first != next || span.First != first || span.Last != last {
			t.Fatalf("read %d: said %d to %d, holds %d to %d", next, first, last, span.First, span.Last)
		}
		if len(frames) > maxBytes && span.Entries > 1 {
			t.Fatalf("read %d: %d entries in %d bytes, at most %d asked", next, span.Entries, len(frames), maxBytes)
		}
		all = append(all, frames...)
		next = last + 1
	}
	return all
}

// model is what a log ought to hold, entry by entry.
type model struct {
	before  base.Position // of the first entry
	old     []changelog.EpochStart
	entries []modelEntry
	floor   base.Seq // what must survive
}

type modelEntry struct {
	epoch       base.Epoch
	first, last base.Seq
	frame       []byte
}

func (m *model) clone() *model {
	c := *m
	c.entries = append([]modelEntry(nil), m.entries...)
	return &c
}

func (m *model) end() base.Position {
	if n := len(m.entries); n > 0 {
		return base.Position{Epoch: m.entries[n-1].epoch, Seq: m.entries[n-1].last}
	}
	return m.before
}

func (m *model) add(frames []byte) {
	_, err := entry.Scan(frames, func(e *entry.Entry, frame []byte) error {
		m.entries = append(m.entries, modelEntry{e.Epoch, e.First, e.Last(), bytes.Clone(frame)})
		return nil
	})
	if err != nil {
		panic(err)
	}
}

func (m *model) cut(seq base.Seq) {
	for len(m.entries) > 0 && m.end().Seq > seq {
		m.entries = m.entries[:len(m.entries)-1]
	}
	m.floor = min(m.floor, seq)
}

// starts returns the epochs up to a sequence number.
func (m *model) starts(end base.Seq) []changelog.EpochStart {
	var list []changelog.EpochStart
	list = append(list, m.old...)
	epoch := m.before.Epoch
	for _, e := range m.entries {
		if e.epoch > epoch && e.first <= end {
			list = append(list, changelog.EpochStart{Epoch: e.epoch, First: e.first})
			epoch = e.epoch
		}
	}
	return list
}

// holds says why a log does not hold what the model asks: a prefix of its
// entries that reaches at least up to the floor.
func (m *model) holds(t tester, l *changelog.Log) error {
	end := l.End()
	if end.Seq < m.floor || end.Seq > m.end().Seq {
		return fmt.Errorf("log ends at %v, want %d to %v", end, m.floor, m.end())
	}
	if end.Seq == m.before.Seq && end != m.before {
		return fmt.Errorf("log ends at %v, want %v", end, m.before)
	}
	var want []byte
	for _, e := range m.entries {
		if e.first >= l.Start() && e.last <= end.Seq {
			want = append(want, e.frame...)
		}
		if e.last == end.Seq && e.epoch != end.Epoch {
			return fmt.Errorf("log ends at %v, want epoch %d", end, e.epoch)
		}
	}
	if got := readAll(t, l, l.Start(), 3000); !bytes.Equal(got, want) {
		return fmt.Errorf("log from %d to %v holds %d bytes, or others than the %d expected", l.Start(), end, len(got), len(want))
	}
	if got, want := l.EpochStarts(), m.starts(end.Seq); fmt.Sprint(got) != fmt.Sprint(want) {
		return fmt.Errorf("epochs start at %v, want %v", got, want)
	}
	if end.Seq > 0 && l.EpochAt(end.Seq) != end.Epoch {
		return fmt.Errorf("epoch at the end %v is %d", end, l.EpochAt(end.Seq))
	}
	return nil
}

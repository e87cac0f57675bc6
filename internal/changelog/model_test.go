package changelog_test

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/env/crashfs"
)

// machine runs a log beside its model through random actions.
type machine struct {
	d     *crashfs.Disk
	o     changelog.Options
	l     *changelog.Log
	m     *model
	epoch base.Epoch
}

// TestAgainstModel holds the log against the model through random sequences
// of calls, restarts, crashes and full disks.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &machine{d: newDisk(t), o: options(), m: &model{}, epoch: 1}
		s.o.TailCacheBytes = rapid.SampledFrom([]int{-1, 3000, 1 << 20}).Draw(t, "cache")
		s.l, _ = open(t, s.d, s.o)
		t.Repeat(map[string]func(*rapid.T){
			"append": s.append, "append more": s.append, "sync": s.sync, "truncate": s.truncate, "trim": s.trim,
			"reset": s.reset, "reopen": s.reopen, "kill": s.kill, "crash": s.crash, "read": s.read, "verify": s.verify,
			"fill": s.fill, "": s.agree,
		})
		must(t, s.l.Close())
	})
}

func (s *machine) agree(t *rapid.T) {
	if s.l.End() != s.m.end() {
		t.Fatalf("log ends at %v, want %v", s.l.End(), s.m.end())
	}
	if s.l.Flushed() > s.l.End().Seq || s.l.Start() > s.l.End().Seq+1 {
		t.Fatalf("flushed %d, start %d, end %v", s.l.Flushed(), s.l.Start(), s.l.End())
	}
}

func (s *machine) append(t *rapid.T) {
	if rapid.IntRange(0, 5).Draw(t, "new epoch") == 0 {
		s.epoch++
	}
	entries := rapid.IntRange(1, 5).Draw(t, "entries")
	size := rapid.SampledFrom([]int{0, 10, 100, 1500, 9000}).Draw(t, "size")
	first := s.m.end().Seq + 1
	frames, last := batchOf(s.epoch, first, entries, size)
	err := s.l.Append(frames, first, last, s.epoch)
	if base.KindOf(err) == base.KindDiskFull {
		return
	}
	must(t, err)
	s.m.add(frames)
}

func (s *machine) sync(t *rapid.T) {
	if s.m.floor = sync_(t, s.l); s.m.floor != s.m.end().Seq {
		t.Fatalf("synced %d of %v", s.m.floor, s.m.end())
	}
}

func (s *machine) truncate(t *rapid.T) {
	seq := rapid.Uint64Range(uint64(s.m.before.Seq), uint64(s.m.end().Seq)).Draw(t, "seq")
	err := s.l.TruncateAfter(base.Seq(seq))
	switch {
	case errors.Is(err, changelog.ErrTrimmed):
		if base.Seq(seq)+1 >= s.l.Start() {
			t.Fatalf("cut to %d of a log that starts at %d: %v", seq, s.l.Start(), err)
		}
	case errors.Is(err, changelog.ErrNotEntry):
		for _, e := range s.m.entries {
			if e.last == base.Seq(seq) {
				t.Fatalf("cut to %d: %v", seq, err)
			}
		}
	case base.KindOf(err) == base.KindDiskFull:
	default:
		must(t, err)
		if base.Seq(seq) < s.m.end().Seq {
			s.m.cut(base.Seq(seq))
			s.m.floor = base.Seq(seq)
		}
		s.epoch++
	}
}

func (s *machine) trim(t *rapid.T) {
	before := base.Seq(rapid.Uint64Range(0, uint64(s.m.end().Seq)+5).Draw(t, "before"))
	start := s.l.Start()
	must(t, s.l.Trim(before))
	if s.l.Start() > max(start, before) {
		t.Fatalf("trim before %d: starts at %d", before, s.l.Start())
	}
}

func (s *machine) reset(t *rapid.T) {
	s.epoch++
	end := s.m.end()
	pos := base.Position{Epoch: s.epoch, Seq: end.Seq + base.Seq(rapid.IntRange(1, 50).Draw(t, "ahead"))}
	starts := append(s.m.starts(end.Seq), changelog.EpochStart{Epoch: pos.Epoch, First: pos.Seq})
	err := s.l.Reset(pos, starts)
	if base.KindOf(err) == base.KindDiskFull {
		return
	}
	must(t, err)
	s.m = &model{before: pos, old: starts, floor: pos.Seq}
}

// back opens the log again and takes over what it lost of what it may lose.
func (s *machine) back(t *rapid.T) {
	s.d.SetCapacity(0)
	s.l, _ = open(t, s.d, s.o)
	must(t, s.m.holds(t, s.l))
	s.m.cut(s.l.End().Seq)
	s.m.floor = s.l.End().Seq
	if s.l.Flushed() != s.l.End().Seq {
		t.Fatalf("flushed %d of %v", s.l.Flushed(), s.l.End())
	}
	s.epoch++
}

func (s *machine) reopen(t *rapid.T) {
	must(t, s.l.Close())
	s.m.floor = s.m.end().Seq
	s.back(t)
}

func (s *machine) kill(t *rapid.T) {
	s.d = s.d.Clone()
	s.m.floor = s.m.end().Seq
	s.back(t)
}

func (s *machine) crash(t *rapid.T) {
	s.d.Crash(rapid.Uint64().Draw(t, "seed"))
	s.back(t)
}

func (s *machine) fill(t *rapid.T) {
	s.d.SetCapacity(s.d.Used() + int64(rapid.IntRange(0, 40000).Draw(t, "room")))
}

func (s *machine) read(t *rapid.T) {
	if s.l.Start() > s.l.End().Seq {
		return
	}
	seq := base.Seq(rapid.Uint64Range(uint64(s.l.Start()), uint64(s.l.End().Seq)).Draw(t, "seq"))
	maxBytes := rapid.SampledFrom([]int{0, 100, 2000, 1 << 20}).Draw(t, "max")
	frames, first, last, err := s.l.ReadFrom(seq, maxBytes, nil)
	var want []byte
	for _, e := range s.m.entries {
		if e.first >= first && e.last <= last && err == nil {
			want = append(want, e.frame...)
		}
		if e.first == seq && err != nil {
			t.Fatalf("read %d: %v", seq, err)
		}
	}
	if err != nil && !errors.Is(err, changelog.ErrNotEntry) {
		t.Fatalf("read %d: %v", seq, err)
	}
	if !bytes.Equal(frames, want) {
		t.Fatalf("read %d to %d: wrong entries", first, last)
	}
}

func (s *machine) verify(t *rapid.T) {
	must(t, s.l.Verify(t.Context()))
	s.m.floor = min(s.m.floor, s.m.end().Seq)
	must(t, s.m.holds(t, s.l))
}

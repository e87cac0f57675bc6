package changelog_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/env/crashfs"
)

// story drives a log through a fixed sequence of calls and keeps beside it
// which logs a crash at this moment may leave.
type story struct {
	t       tester
	d       *crashfs.Disk
	l       *changelog.Log
	allowed []*model // any of them
	m       *model   // the first of allowed
	broken  bool     // the log has failed: opening it again is the next step
}

// during runs a call while also the logs that it may lead to are allowed.
// When it succeeds, only the last of them is.
func (s *story) during(call func() error, outcomes ...*model) {
	s.t.Helper()
	s.allowed = append([]*model{s.m}, outcomes...)
	err := call()
	switch {
	case err == nil:
		s.m = outcomes[len(outcomes)-1]
	case base.KindOf(err) == base.KindDiskFull:
	case errors.Is(err, changelog.ErrFailed):
		s.broken = true
		return
	default:
		s.t.Fatalf("unexpected error: %v", err)
	}
	s.allowed = []*model{s.m}
}

func (s *story) append(epoch base.Epoch, entries, size int) {
	s.t.Helper()
	if s.broken {
		return
	}
	first := s.m.end().Seq + 1
	frames, last := batchOf(epoch, first, entries, size)
	next := s.m.clone()
	next.add(frames)
	s.during(func() error { return s.l.Append(frames, first, last, epoch) }, next)
}

func (s *story) sync() {
	s.t.Helper()
	if s.broken {
		return
	}
	next := s.m.clone()
	s.during(func() error {
		seq, err := s.l.Sync()
		if err == nil && seq != s.m.end().Seq {
			s.t.Fatalf("sync reached %d of %v", seq, s.m.end())
		}
		next.floor = max(next.floor, seq)
		return err
	}, next)
}

// truncate cuts the last few entries.
func (s *story) truncate(entries int) {
	s.t.Helper()
	if s.broken {
		return
	}
	seq := s.m.before.Seq
	if keep := len(s.m.entries) - entries; keep > 0 {
		seq = s.m.entries[keep-1].last
	}
	seq = max(seq, s.l.Start()-1)
	between := s.m.clone()
	between.floor = min(between.floor, seq)
	after := s.m.clone()
	after.cut(seq)
	after.floor = min(seq, after.end().Seq)
	s.during(func() error { return s.l.TruncateAfter(seq) }, between, after)
}

func (s *story) reset(pos base.Position, starts []changelog.EpochStart) {
	s.t.Helper()
	if s.broken {
		return
	}
	after := &model{before: pos, old: starts, floor: pos.Seq}
	s.during(func() error { return s.l.Reset(pos, starts) }, after)
}

func (s *story) trim(before base.Seq) {
	s.t.Helper()
	if s.broken {
		return
	}
	s.during(func() error { return s.l.Trim(before) }, s.m)
}

// tell is the story. Sizes are such that segments are filled, begun, recycled
// and outgrown.
func (s *story) tell() {
	s.append(1, 3, 100)
	s.sync()
	s.append(1, 2, 2500)
	s.append(2, 2, 1500) // a new segment, unsynced batches in the old one
	s.append(2, 1, 20)
	s.sync()
	s.sync() // idle
	s.append(2, 4, 700)
	s.append(2, 4, 700)
	s.append(3, 1, 30<<10) // a segment of its own
	s.sync()
	s.append(3, 4, 700)
	s.trim(12)
	s.append(3, 2, 100)
	s.append(3, 2, 100)
	s.truncate(3) // within a batch
	s.append(4, 2, 100)
	s.sync()
	s.append(4, 5, 1000)
	s.append(4, 5, 1000)
	s.truncate(16) // over several segments
	s.append(5, 2, 400)
	s.append(5, 2, 400)
	s.sync()
	s.reset(base.Position{Epoch: 6, Seq: 1000}, []changelog.EpochStart{{Epoch: 1, First: 1}, {Epoch: 6, First: 900}})
	s.append(6, 3, 500)
	s.append(7, 3, 500)
	s.sync()
	s.append(7, 2, 100)
}

func newStory(t tester, o changelog.Options) *story {
	d := newDisk(t)
	m := &model{}
	s := &story{t: t, d: d, m: m, allowed: []*model{m}}
	s.l, _ = open(t, d, o)
	return s
}

// check opens the log on a disk that a crash has left and compares it with
// what is allowed; then it goes on with other entries, crashes again, and
// checks that nothing of the past has come back.
func (s *story) check(d *crashfs.Disk, what string, seed uint64) {
	s.t.Helper()
	l, _, err := changelog.Open(environment(d, seed+1000), dir, options())
	if err != nil {
		s.t.Fatalf("%s: %v", what, err)
	}
	var m *model
	var reasons []error
	for _, a := range s.allowed {
		reason := a.holds(s.t, l)
		if reason == nil {
			m = a.clone()
			break
		}
		reasons = append(reasons, reason)
	}
	if m == nil {
		s.t.Fatalf("%s: %v", what, reasons)
	}
	if l.Flushed() != l.End().Seq {
		s.t.Fatalf("%s: only %d of %v is durable after open", what, l.Flushed(), l.End())
	}
	files := slices.DeleteFunc(d.Files(), func(f string) bool { return !strings.Contains(f, "/segment-") })
	if len(files) != len(l.Segments()) {
		s.t.Fatalf("%s: files %v for %d segments", what, files, len(l.Segments()))
	}
	m.entries = slices.DeleteFunc(m.entries, func(e modelEntry) bool { return e.last > l.End().Seq })
	m.floor = l.End().Seq
	for i := range 3 { // as large as batches of the story
		m.add(appendBatch(s.t, l, 50, []int{2, 1, 3}[i], []int{100, 20, 100}[i]))
		if i == 1 {
			m.floor = sync_(s.t, l)
		}
	}
	d.Crash(seed + 1)
	l, _, err = changelog.Open(environment(d, seed+2000), dir, options())
	if err == nil {
		err = m.holds(s.t, l)
	}
	if err != nil {
		s.t.Fatalf("%s, then again: %v", what, err)
	}
	must(s.t, l.Close())
}

// TestCrashAtEveryCall takes, before every call that the story makes of the
// disk, a copy of the disk as a power cut would leave it now, several times,
// and as the death of the process would, and opens the log there.
func TestCrashAtEveryCall(t *testing.T) {
	seeds := uint64(6)
	if testing.Short() {
		seeds = 2
	}
	s := newStory(t, options())
	crashes := 0
	s.d.Inject(func(c crashfs.Call) error {
		if !c.Op.Changes() {
			return nil
		}
		what := fmt.Sprintf("call %d, %s %s", c.N, c.Op, c.Name)
		for seed := range seeds {
			seed += uint64(c.N) * 1000
			s.check(s.d.CrashClone(seed), fmt.Sprintf("%s, seed %d", what, seed), seed)
		}
		s.check(s.d.Clone(), what+", process killed", uint64(c.N))
		crashes++
		return nil
	})
	s.tell()
	s.d.Inject(nil)
	must(t, s.m.holds(t, s.l))
	must(t, s.l.Close())
	if crashes < 60 || s.broken {
		t.Fatalf("only %d crashes, broken %v", crashes, s.broken)
	}
}

// TestFailEveryCall fails each call of the story in turn, with a broken and
// with a full disk, lets the story go on as far as it can, and checks that a
// crash afterwards leaves what was promised.
func TestFailEveryCall(t *testing.T) {
	for _, cause := range []error{syscall.EIO, syscall.ENOSPC} {
		t.Run(cause.Error(), func(t *testing.T) {
			for n := 1; ; n++ {
				s := newStory(t, options())
				inject, fired := crashfs.FailNth(n, cause, func(c crashfs.Call) bool { return c.Op.Changes() })
				s.d.Inject(inject)
				s.tell()
				s.d.Inject(nil)
				what := fmt.Sprintf("call %d failed", n)
				if !s.broken {
					must(t, s.m.holds(t, s.l))
				}
				s.check(s.d.Clone(), what+", process killed", uint64(n))
				for seed := range uint64(3) {
					s.check(s.d.CrashClone(seed), fmt.Sprintf("%s, seed %d", what, seed), seed)
				}
				if err := s.l.Close(); err != nil && !s.broken {
					t.Fatalf("%s: close: %v", what, err)
				}
				if !fired.Load() {
					return
				}
			}
		})
	}
}

// TestFailEveryCallOfOpen fails each call of an Open that has a torn tail to
// repair; the next Open must find all that was promised.
func TestFailEveryCallOfOpen(t *testing.T) {
	s := newStory(t, options())
	s.tell()
	for seed := range uint64(8) {
		for n := 1; ; n++ {
			d := s.d.CrashClone(seed)
			inject, fired := crashfs.FailNth(n, syscall.EIO, nil)
			d.Inject(inject)
			l, _, err := changelog.Open(environment(d, 5), dir, options())
			if err == nil {
				err = l.Close()
			}
			if base.KindOf(err) == base.KindCorrupt {
				t.Fatalf("seed %d, call %d: %v", seed, n, err)
			}
			d.Inject(nil)
			s.check(d.CrashClone(seed+7), fmt.Sprintf("open, seed %d, call %d failed", seed, n), seed)
			if !fired.Load() {
				break
			}
		}
	}
}

// TestDamageIsNeverMistaken flips each byte of a log in turn, one that was
// closed and one that was not: Open finds every entry that a sync had covered,
// or refuses.
func TestDamageIsNeverMistaken(t *testing.T) {
	d := newDisk(t)
	l, _ := open(t, d, options())
	m := &model{}
	for range 6 {
		m.add(appendBatch(t, l, 1, 4, 500))
	}
	for range 3 { // small ones in the last segment, one sync each, then an unsynced one
		m.add(appendBatch(t, l, 2, 1, 40))
		m.floor = sync_(t, l)
	}
	m.add(appendBatch(t, l, 2, 1, 40))
	refused, kept := 0, 0
	for _, name := range d.Files() {
		data, err := d.ReadFile(name)
		must(t, err)
		for at := 0; at < len(data); at += 7 {
			hurt := d.Clone()
			must(t, hurt.Damage(name, int64(at), 1<<(at%8)))
			l, _, err := changelog.Open(environment(hurt, 1), dir, options())
			if err != nil {
				mustBe(t, err, changelog.ErrCorrupt)
				refused++
				continue
			}
			if err := m.holds(t, l); err != nil {
				t.Fatalf("%s, byte %d: %v", name, at, err)
			}
			kept++
			must(t, l.Close())
		}
	}
	if refused < 500 || kept < 500 {
		t.Fatalf("%d refused, %d kept", refused, kept)
	}
	must(t, l.Close())
}

// TestTornAndCorruptAreToldApart damages the last batch of a log: cut when it
// was never known to be on disk, refused when a mark says that it was.
func TestTornAndCorruptAreToldApart(t *testing.T) {
	for _, idle := range []bool{false, true} {
		d := newDisk(t)
		l, _ := open(t, d, options())
		appendBatch(t, l, 1, 1, 100)
		sync_(t, l)
		appendBatch(t, l, 1, 2, 100)
		if idle {
			sync_(t, l)
			sync_(t, l)
		}
		must(t, d.Damage(d.Files()[0], l.Bytes()-50, 0xff))
		mustBe(t, l.Verify(t.Context()), changelog.ErrCorrupt)
		_, _, _, err := l.ReadFrom(3, 1000, nil)
		mustBe(t, err, changelog.ErrCorrupt)
		_, r, err := changelog.Open(environment(d.Clone(), 1), dir, options())
		if idle {
			mustBe(t, err, changelog.ErrCorrupt)
			var c *changelog.Corruption
			if !errors.As(err, &c) || c.Good.Seq != 2 || c.Flushed != 5 || base.KindOf(err) != base.KindCorrupt {
				t.Fatalf("%v", err)
			}
			continue
		}
		must(t, err)
		if r.End.Seq != 2 || r.TornBytes == 0 || !r.Rewritten {
			t.Fatalf("%+v", r)
		}
	}
}

// TestDamageMovesTheStart damages a segment of a log in use: what is in it is
// never read again, the log says that it begins later, and goes on in another
// segment.
func TestDamageMovesTheStart(t *testing.T) {
	for _, old := range []bool{true, false} {
		d := newDisk(t)
		o := options()
		o.TailCacheBytes = -1
		l, _ := open(t, d, o)
		for len(l.Segments()) < 4 {
			appendBatch(t, l, 1, 4, 1000)
		}
		appendBatch(t, l, 1, 4, 1000)
		segments := l.Segments()
		damaged := segments[1]
		if !old {
			damaged = segments[3]
		}
		must(t, d.Damage(d.Files()[slices.Index(segments, damaged)], damaged.Bytes-50, 0xff))
		for range 2 {
			_, _, _, err := l.ReadFrom(damaged.First, 1<<20, nil)
			mustBe(t, err, changelog.ErrCorrupt)
		}
		if l.Start() != damaged.Last+1 {
			t.Errorf("starts at %d, and what is damaged ends at %d", l.Start(), damaged.Last)
		}
		_, _, _, err := l.ReadFrom(1, 1<<20, nil)
		mustBe(t, err, changelog.ErrCorrupt)
		end := l.End().Seq
		for range 2 {
			appendBatch(t, l, 1, 4, 1000)
		}
		readAll(t, l, max(l.Start(), end-5), 1<<20)
		readAll(t, l, l.Start(), 1<<20)
		must(t, l.Reset(base.Position{Epoch: 1, Seq: 900}, []changelog.EpochStart{{Epoch: 1, First: 1}}))
		if l.Start() != 901 {
			t.Errorf("starts at %d after a reset", l.Start())
		}
		must(t, l.Close())
		if l.Start() != 901 {
			t.Errorf("starts at %d when it is closed", l.Start())
		}
	}
}

// A flipped bit in its version does not make a segment one of a later program.
func TestADamagedVersionIsCorrupt(t *testing.T) {
	d := newDisk(t)
	l, _ := open(t, d, options())
	appendBatch(t, l, 1, 4, 1000)
	must(t, l.Close())
	must(t, d.Damage(d.Files()[0], 8, 2))
	_, _, err := changelog.Open(environment(d, 1), dir, options())
	mustBe(t, err, changelog.ErrCorrupt)
}

func TestMissingSegmentIsCorrupt(t *testing.T) {
	d := newDisk(t)
	l, _ := open(t, d, options())
	for range 30 {
		appendBatch(t, l, 1, 4, 1000)
	}
	must(t, l.Close())
	must(t, d.Remove(d.Files()[3]))
	_, _, err := changelog.Open(environment(d, 1), dir, options())
	mustBe(t, err, changelog.ErrCorrupt)
}

// TestFormerLifeOfAFile makes a log write the same sequence numbers into a
// file that has held them before, at the same places: what is left there of
// the former ones must not be taken for entries.
func TestFormerLifeOfAFile(t *testing.T) {
	d := newDisk(t)
	l, _ := open(t, d, options())
	fill := func(epoch base.Epoch, batches int) {
		for range batches {
			appendBatch(t, l, epoch, 2, 1000)
		}
	}
	fill(1, 12)
	second := l.Segments()[1]
	must(t, l.Trim(second.First))
	must(t, l.Close()) // without a spare, Reset keeps the oldest segment as one
	l, _ = open(t, d, options())
	must(t, l.Reset(base.Position{}, nil))
	for l.End().Seq < second.First {
		fill(1, 1)
	}
	m := &model{}
	m.add(readAll(t, l, 1, 1000))
	sync_(t, l)
	m.floor = m.end().Seq
	if got := l.Segments(); len(got) != 2 || got[1].First != second.First || got[1].Last >= second.Last {
		t.Fatalf("the second segment is %+v and was %+v", got, second)
	}
	l, _ = open(t, d.Clone(), options())
	must(t, m.holds(t, l))
	must(t, l.Close())
}

// TestTrimDuringACut trims, while a cut is under way, the segment that the cut
// is about to write anew.
func TestTrimDuringACut(t *testing.T) {
	d := newDisk(t)
	l, _ := open(t, d, options())
	m := &model{}
	for range 30 {
		m.add(appendBatch(t, l, 1, 4, 1000))
	}
	sync_(t, l)
	d.Inject(func(c crashfs.Call) error {
		if c.Op == crashfs.OpRename {
			d.Inject(nil)
			must(t, l.Trim(1000))
		}
		return nil
	})
	must(t, l.TruncateAfter(25))
	m.cut(25)
	m.add(appendBatch(t, l, 2, 4, 1000))
	m.floor = sync_(t, l)
	must(t, m.holds(t, l))
	d.Crash(1)
	l, _ = open(t, d, options())
	must(t, m.holds(t, l))
	must(t, l.Close())
}

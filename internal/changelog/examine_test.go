package changelog_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/env"
)

// look examines the log on a disk and returns the first seqs of the entries
// that were seen, and where they lie.
func look(t tester, d env.FS) (x *changelog.Examination, seen []base.Seq, places []changelog.Place) {
	t.Helper()
	x, err := changelog.Examine(context.Background(), d, dir, func(at changelog.Place, e *entry.Entry) error {
		seen, places = append(seen, e.First), append(places, at)
		return nil
	})
	must(t, err)
	return x, seen, places
}

// nine makes a closed log of nine entries in three batches, some of which the
// last segment holds.
func nine(t tester) (d env.FS, places []changelog.Place) {
	d = newDisk(t)
	l, _ := open(t, d, options())
	for range 3 {
		appendBatch(t, l, 2, 3, 100)
		sync_(t, l)
	}
	must(t, l.Close())
	x, seen, places := look(t, d)
	if x.Found != 0 || x.Torn != nil || x.Entries != 9 || x.First != 1 || x.End != (base.Position{Epoch: 2, Seq: 12}) || len(seen) != 9 {
		t.Fatalf("a sound log: %+v, %v", x, seen)
	}
	return d, places
}

// spoil changes one byte of a segment.
func spoil(t tester, d env.FS, segment uint64, at int64) {
	t.Helper()
	f, err := d.OpenFile(fmt.Sprintf("%s/segment-%016x", dir, segment), os.O_RDWR, 0)
	must(t, err)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	must(t, err)
	b[0] ^= 0x40
	_, err = f.WriteAt(b, at)
	must(t, err)
	must(t, f.Close())
}

// TestExamineGoesOnBehindDamage spoils one entry after another: the damage is
// named by its byte, and every other entry is still seen.
func TestExamineGoesOnBehindDamage(t *testing.T) {
	firsts := []base.Seq{1, 3, 4, 5, 7, 8, 9, 11, 12}
	for i := range 9 {
		d, places := nine(t)
		spoil(t, d, places[i].Segment, places[i].Offset+40) // In the body.
		x, seen, _ := look(t, d)
		if x.Found != 1 || x.Torn != nil || x.Faults[0].Offset != places[i].Offset || x.Faults[0].After.Seq != firsts[i]-1 && x.Faults[0].After.Seq != 0 {
			t.Errorf("entry %d, at %+v: %+v", i, places[i], x)
		}
		if want := slices.Delete(slices.Clone(firsts), i, i+1); !slices.Equal(seen, want) {
			t.Errorf("entry %d: saw %v, want %v", i, seen, want)
		}
		if x.End.Seq != 12 {
			t.Errorf("entry %d: the log ends at %v", i, x.End)
		}
	}
}

// TestExamineFindsAnyDamage spoils every byte that a checksum covers.
func TestExamineFindsAnyDamage(t *testing.T) {
	_, places := nine(t)
	end := places[8].Offset + int64(places[8].Bytes)
	for at := int64(0); at < end; at += 7 {
		if at >= 4096 && at < 8192 {
			continue // The marks, which are there to be torn.
		}
		d, _ := nine(t)
		name := fmt.Sprintf("%s/segment-%016x", dir, 1)
		before, err := d.ReadFile(name)
		must(t, err)
		if at > 8192 && before[at] == 0 && (at%8 != 0 || bytes.Count(before[at:at+4], []byte{0}) == 4) {
			continue // It may be padding.
		}
		spoil(t, d, 1, at)
		if x, _, _ := look(t, d); x.Found == 0 {
			t.Errorf("byte %d: %+v", at, x)
		}
	}
}

// TestExamineTellsTornFromDamaged cuts the end of a log that was never synced.
func TestExamineTellsTornFromDamaged(t *testing.T) {
	d := newDisk(t)
	l, _ := open(t, d, options())
	appendBatch(t, l, 1, 2, 100)
	sync_(t, l)
	appendBatch(t, l, 1, 2, 100)
	x, _, places := look(t, d)
	if x.Found != 0 || len(places) != 4 {
		t.Fatalf("%+v", x)
	}
	spoil(t, d, 1, places[3].Offset+40)
	x, seen, _ := look(t, d)
	if x.Found != 0 || x.Torn == nil || x.End.Seq < 3 || len(seen) != 3 {
		t.Errorf("a torn tail: %+v, saw %v", x, seen)
	}
	// While the log is open, everything in it must be there.
	x, err := l.Examine(context.Background(), nil)
	must(t, err)
	if x.Found != 1 || x.Torn != nil {
		t.Errorf("damage in an open log: %+v", x)
	}
	must(t, l.Close())
}

// TestExamineMissesASegment removes one in the middle.
func TestExamineMissesASegment(t *testing.T) {
	d := newDisk(t)
	l, _ := open(t, d, options())
	for range 30 {
		appendBatch(t, l, 1, 3, 2000)
		sync_(t, l)
	}
	must(t, l.Close())
	must(t, d.Remove(fmt.Sprintf("%s/segment-%016x", dir, 2)))
	x, _, _ := look(t, d)
	if x.Found != 1 || !strings.Contains(x.Faults[0].Reason, "segments 2 to 2 are missing") {
		t.Errorf("%+v", x)
	}
	if _, err := changelog.Examine(context.Background(), d, "/nowhere", nil); err == nil || !strings.Contains(err.Error(), fs.ErrNotExist.Error()) {
		t.Errorf("no folder: %v", err)
	}
}

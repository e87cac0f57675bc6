package changelog_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changelog"
)

// five segments of 100 bytes and 10 entries each: 1 to 10, ... 41 to 50.
func five() []changelog.SegmentInfo {
	var list []changelog.SegmentInfo
	for i := range 5 {
		list = append(list, changelog.SegmentInfo{First: base.Seq(10*i + 1), Last: base.Seq(10*i + 10), Bytes: 100})
	}
	return list
}

func TestRetain(t *testing.T) {
	has := func(seqs ...base.Seq) []changelog.Holder {
		var list []changelog.Holder
		for i, s := range seqs {
			list = append(list, changelog.Holder{Node: base.NodeID(i + 1), Has: s})
		}
		return list
	}
	for _, c := range []struct {
		name       string
		cap, spare int64
		applied    base.Seq
		holders    []changelog.Holder
		before     base.Seq
		cutOff     []bool
	}{
		{"nobody needs anything: the spare stays", 1000, 200, 50, has(50), 31, []bool{false}},
		{"no followers", 1000, 0, 50, nil, 41, nil},
		{"the slowest follower holds", 1000, 0, 50, has(50, 15), 11, []bool{false, false}},
		{"a follower at the edge", 1000, 0, 50, has(20), 21, []bool{false}},
		{"over the cap the slowest is cut off", 300, 0, 50, has(50, 5, 20), 21, []bool{false, true, false}},
		{"what is not applied stays, over the cap too", 100, 0, 12, has(50), 11, []bool{false}},
		{"the last segment stays", 1, 0, 50, has(0), 41, []bool{true}},
		{"a spare over the cap does not count", 200, 900, 50, has(50), 31, []bool{false}},
	} {
		got := changelog.Retain(five(), c.cap, c.spare, c.applied, c.holders)
		if got.Before != c.before {
			t.Errorf("%s: before %d, want %d", c.name, got.Before, c.before)
		}
		for i, f := range got.Followers {
			if f.CutOff != c.cutOff[i] || f.Node != base.NodeID(i+1) {
				t.Errorf("%s: %+v", c.name, f)
			}
		}
	}
	got := changelog.Retain(five(), 400, 0, 50, has(25)).Followers[0]
	if got.BehindBytes != 300 || got.LagBytes != 250 || got.RoomBytes != 100 {
		t.Errorf("outlook %+v", got)
	}
	empty := []changelog.SegmentInfo{{First: 1, Last: 10, Bytes: 100}, {First: 11, Last: 10, Bytes: 100}}
	if got := changelog.Retain(empty, 400, 0, 5, has(5)).Followers[0]; got.LagBytes != 50 {
		t.Errorf("nothing is in the last segment yet: %+v", got)
	}
	if got := changelog.Retain(nil, 1, 1, 1, nil); got.Before != 0 {
		t.Errorf("no segments: %+v", got)
	}
}

// TestRetainKeepsItsPromises checks, whatever the figures: what is not applied
// stays; no follower is cut off while the log is under its cap; the log is
// over its cap only by what must stay.
func TestRetainKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var segments []changelog.SegmentInfo
		var total int64
		next := base.Seq(rapid.IntRange(1, 50).Draw(t, "start"))
		for range rapid.IntRange(1, 12).Draw(t, "segments") {
			s := changelog.SegmentInfo{First: next, Bytes: int64(rapid.IntRange(1, 100).Draw(t, "bytes"))}
			s.Last = s.First + base.Seq(rapid.IntRange(1, 20).Draw(t, "entries")) - 1
			next, total = s.Last+1, total+s.Bytes
			segments = append(segments, s)
		}
		seq := rapid.IntRange(0, int(next)-1)
		applied := base.Seq(seq.Draw(t, "applied"))
		limit, spare := int64(rapid.IntRange(0, 800).Draw(t, "cap")), int64(rapid.IntRange(0, 800).Draw(t, "spare"))
		var holders []changelog.Holder
		for range rapid.IntRange(0, 4).Draw(t, "followers") {
			holders = append(holders, changelog.Holder{Node: 1, Has: base.Seq(seq.Draw(t, "has"))})
		}
		r := changelog.Retain(segments, limit, spare, applied, holders)
		if r.Before > max(applied+1, segments[0].First) {
			t.Fatalf("drops up to %d, applied %d", r.Before, applied)
		}
		for i, f := range r.Followers {
			if f.CutOff && holders[i].Has+1 >= segments[0].First && total <= limit {
				t.Fatalf("cut off at %d of %d bytes: %+v", total, limit, f)
			}
		}
		kept := 0
		for segments[kept].First < r.Before {
			kept++
		}
		if r.KeptBytes > limit && kept < len(segments)-1 && segments[kept].Last <= applied {
			t.Fatalf("%d bytes stay over a cap of %d: %+v", r.KeptBytes, limit, r)
		}
	})
}

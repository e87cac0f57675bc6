package changelog

import "github.com/skeindb/skein/internal/base"

// SegmentInfo describes a segment. First is Last+1 when it is empty.
type SegmentInfo struct {
	First, Last base.Seq
	Bytes       int64
}

// bytesAfter is about how many bytes are behind seq, which is before Last.
func (s SegmentInfo) bytesAfter(seq base.Seq) int64 {
	entries := s.Last - (s.First - 1)
	if entries == 0 {
		return 0
	}
	return int64(float64(s.Bytes) * float64(s.Last-max(seq, s.First-1)) / float64(entries))
}

// Holder is a follower that the log is retained for.
type Holder struct {
	Node base.NodeID
	// Has is the last sequence number that it has on disk.
	Has base.Seq
}

// Outlook of a follower: how far it is from having to copy a snapshot.
type Outlook struct {
	Node base.NodeID
	// BehindBytes of log it has yet to get, in whole segments.
	BehindBytes int64
	// LagBytes is about how much of these is behind what it has.
	LagBytes int64
	// RoomBytes may still be appended before it is cut off.
	RoomBytes int64
	// CutOff says that what it needs next is, or is about to be, gone.
	CutOff bool
}

// Retention is what Retain advises.
type Retention struct {
	// Before is what Trim is to be called with; nothing is dropped when it is
	// not behind the start of the log.
	Before    base.Seq
	KeptBytes int64
	Followers []Outlook // in the order of the holders
}

// Retain says which segments, oldest first, may be dropped. It is a pure
// function.
//
// A segment goes when no one needs it and spareBytes of log remain without it
// (kept for followers that are not known yet), or, whatever the followers
// need, while the log is larger than capBytes. The last segment stays, and so
// does everything after applied, which this replica itself has to have for
// its own restart.
func Retain(segments []SegmentInfo, capBytes, spareBytes int64, applied base.Seq, holders []Holder) Retention {
	var r Retention
	if len(segments) == 0 {
		return r
	}
	for _, s := range segments {
		r.KeptBytes += s.Bytes
	}
	needed := applied
	for _, h := range holders {
		needed = min(needed, h.Has)
	}
	r.Before = segments[0].First
	for _, s := range segments[:len(segments)-1] {
		free := s.Last <= needed && r.KeptBytes-s.Bytes >= min(spareBytes, capBytes)
		if s.Last > applied || (!free && r.KeptBytes <= capBytes) {
			break
		}
		r.KeptBytes -= s.Bytes
		r.Before = s.Last + 1
	}
	for _, h := range holders {
		r.Followers = append(r.Followers, outlook(segments, capBytes, r.Before, h))
	}
	return r
}

func outlook(segments []SegmentInfo, capBytes int64, before base.Seq, h Holder) Outlook {
	o := Outlook{Node: h.Node, CutOff: h.Has+1 < before}
	for _, s := range segments {
		if s.Last > h.Has {
			o.BehindBytes += s.Bytes
			o.LagBytes += s.bytesAfter(h.Has)
		}
	}
	if !o.CutOff {
		o.RoomBytes = max(0, capBytes-o.BehindBytes)
	}
	return o
}

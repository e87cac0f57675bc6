package changelog

import (
	"fmt"
	"slices"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/entry"
)

// TruncateAfter cuts every entry after seq, durably, for when histories have
// parted. What is to be kept of them must be read first. A crash meanwhile
// leaves any of the entries that were to go, in order; after the return none
// ever comes back. seq must be the last of an entry (ErrNotEntry) that is
// retained or just before the start (ErrTrimmed).
//
// The writer calls it. KindDiskFull: nothing was cut. The last batch alone can
// be cut on a full disk, as long as no mark says that it is on disk.
func (l *Log) TruncateAfter(seq base.Seq) error {
	if done, err := l.takeBack(seq); done || err != nil {
		return err
	}
	l.mu.Lock()
	if err := l.usable(); err != nil || seq >= l.end.Seq {
		l.mu.Unlock()
		return err
	}
	if start := l.segments[0].first(); seq+1 < start {
		l.mu.Unlock()
		return fmt.Errorf("%w: %d is before %d", ErrTrimmed, seq, start)
	}
	i := len(l.segments) - 1
	for l.segments[i].header.previous.Seq > seq {
		i--
	}
	s, later := l.segments[i], slices.Clone(l.segments[i+1:])
	l.cutting = s
	l.mu.Unlock()
	content, c, err := l.copySegment(s, seq)
	if err == nil {
		err = l.replace(s, later, content, c)
	}
	l.mu.Lock()
	l.cutting = nil
	l.mu.Unlock()
	return err
}

// takeBack cuts the last batch where it stands, if it is all that lies after
// seq, by making zeros of its header.
func (l *Log) takeBack(seq base.Seq) (done bool, err error) {
	l.mu.Lock()
	if err := l.usable(); err != nil || seq >= l.end.Seq {
		l.mu.Unlock()
		return false, err
	}
	s := l.active()
	batch := s.newest
	if batch.first != seq+1 || max(l.marked, l.marking) > seq || l.damagedTo >= s.first() {
		l.mu.Unlock()
		return false, nil
	}
	l.forget(s)
	l.cutting = s
	var unused chan struct{}
	if s.refs > 0 { // They may read the batch, or have begun to sync it.
		unused = make(chan struct{})
		l.unused = unused
	}
	l.mu.Unlock()
	if unused != nil {
		<-unused
	}
	_, err = s.file.WriteAt(make([]byte, batchHeaderBytes), batch.at)
	if err == nil {
		err = l.syncInTurn("cut log", s.file.Sync)
	}
	l.mu.Lock()
	l.cutting = nil
	if err == nil {
		l.flushed = max(l.flushed, l.end.Seq)
	}
	l.mu.Unlock()
	if err != nil {
		return true, l.fail("cut log", err)
	}
	return true, nil
}

// forget makes the log end before the last batch of s, for all who ask from
// now on. The caller holds l.mu.
func (l *Log) forget(s *segment) {
	b := s.newest
	s.used, s.last, s.index, s.newest = b.at, b.previous, s.index[:b.points:b.points], newest{}
	l.end = s.last
	l.flushed = min(l.flushed, s.last.Seq)
	l.starts = slices.DeleteFunc(slices.Clone(l.starts), func(e EpochStart) bool { return e.First > s.last.Seq })
	l.cache.clear()
	l.generation++
}

// copySegment returns the bytes of s up to seq, under a new salt, as a
// segment of its own, and what they say.
func (l *Log) copySegment(s *segment, seq base.Seq) ([]byte, *copied, error) {
	data := make([]byte, s.used)
	if err := readFull(s.file, data, 0); err != nil {
		return nil, nil, l.fail("read log segment", err)
	}
	c := &copied{header: *s.header}
	c.header.salt = l.env.Rand.Uint64()
	content, err := c.copy(s.header, data, seq)
	return content, c, err
}

// copied is a segment written anew.
type copied struct {
	header header
	last   base.Position
	index  []point
}

// copy returns the bytes of a segment with the same entries as in data up to
// seq. Everything in it is on disk once it has its name, and its mark says so.
func (c *copied) copy(old *header, data []byte, seq base.Seq) ([]byte, error) {
	out := c.header.encode(seq)
	c.last = old.previous
	for at := old.dataOffset(); c.last.Seq < seq; {
		b, err := decodeBatch(data[at:], old.salt)
		if err == nil {
			err = b.follows(c.last)
		}
		if err != nil {
			return nil, corrupt("copy log segment", &Corruption{Segment: old.number, Offset: at, Good: c.last, Reason: err.Error()})
		}
		frames := data[at+batchHeaderBytes:][:b.length]
		at = b.end(at)
		if b.last > seq {
			if frames, err = framesUpTo(frames, seq); err != nil {
				return nil, err
			}
			b.last, b.length = seq, len(frames)
		}
		if c.index, err = indexFrames(c.index, frames, b, int64(len(out)+batchHeaderBytes)); err != nil {
			return nil, corrupt("copy log segment", &Corruption{Segment: old.number, Offset: at, Good: c.last, Reason: err.Error()})
		}
		out = appendBatch(out, c.header.salt, b, frames)
		c.last = base.Position{Epoch: b.epoch, Seq: b.last}
	}
	return out, nil
}

// framesUpTo returns the frames before the end of the entry that ends at seq.
func framesUpTo(frames []byte, seq base.Seq) ([]byte, error) {
	for at := 0; at < len(frames); {
		e, n, err := entry.Peek(frames[at:])
		if err != nil {
			return nil, fmt.Errorf("entry before %d: %w", seq, err)
		}
		at += n
		if e.Last() == seq {
			return frames[:at], nil
		}
		if e.Last() > seq {
			break
		}
	}
	return nil, fmt.Errorf("%w: %d", ErrNotEntry, seq)
}

// replace puts the copy of a segment in its place, after it has removed the
// later ones, newest first: whatever a crash leaves is a log.
func (l *Log) replace(old *segment, later []*segment, content []byte, c *copied) error {
	sp, err := l.takeSpare(max(old.size, int64(len(content))))
	if err != nil {
		return l.fullOrFailed("cut log", err)
	}
	if err := l.stage(sp, content); err != nil {
		return err
	}
	for _, s := range slices.Backward(later) {
		if err := l.env.FS.Remove(l.path(segmentName(s.header.number))); err != nil {
			return l.fail("cut log", err)
		}
		if err := l.env.FS.SyncDir(l.dir); err != nil {
			return l.fail("cut log", err)
		}
	}
	s, err := l.adopt(sp, &c.header)
	if err != nil {
		return l.fail("cut log", err)
	}
	s.used, s.last, s.index = int64(len(content)), c.last, c.index
	for _, dropped := range l.swap(old, later, s) {
		l.release(dropped)
	}
	return nil
}

// swap makes the log end with the segment s, in the place of old and of those
// after it, and returns them to be released.
func (l *Log) swap(old *segment, later []*segment, s *segment) []*segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	gone := append([]*segment{old}, later...)
	for _, d := range gone {
		d.dropped = true
		d.refs++ // the caller's
	}
	kept := slices.DeleteFunc(slices.Clone(l.segments), func(d *segment) bool { return d.dropped })
	l.segments = append(kept, s)
	l.end, l.flushed, l.marked, l.marking = s.last, s.last.Seq, s.last.Seq, 0
	l.starts = slices.DeleteFunc(slices.Clone(l.starts), func(e EpochStart) bool { return e.First > s.last.Seq })
	l.damagedTo = min(l.damagedTo, s.last.Seq)
	l.cache.clear()
	l.generation++
	return gone
}

// Reset makes the log empty, to go on after pos, for when a snapshot was
// copied that ends there; starts are the epochs up to pos, the last of them
// pos's. A crash leaves the old log or the new one. The writer calls it.
//
// KindDiskFull: the old log stands.
func (l *Log) Reset(pos base.Position, starts []EpochStart) error {
	if err := checkStarts(pos, starts); err != nil {
		return err
	}
	l.mu.Lock()
	if err := l.usable(); err != nil {
		l.mu.Unlock()
		return err
	}
	h := l.nextHeader(pos, starts)
	h.base = true
	size := max(l.nextSize(0), h.dataOffset()+MinSegmentBytes/2)
	l.mu.Unlock()
	sp, err := l.takeSpare(size)
	if err != nil {
		return l.fullOrFailed("reset log", err)
	}
	s, err := l.install(sp, h, h.encode(pos.Seq))
	if err != nil {
		return err
	}
	l.restart(s, starts)
	l.wake()
	return nil
}

// restart makes the log consist of the segment s alone.
func (l *Log) restart(s *segment, starts []EpochStart) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop(len(l.segments))
	l.segments = []*segment{s}
	l.end, l.flushed, l.marked, l.marking = s.last, s.last.Seq, s.last.Seq, 0
	l.starts = slices.Clone(starts)
	l.damagedTo, l.damage = 0, nil
	l.cache.clear()
	l.generation++
	l.broadcast()
}

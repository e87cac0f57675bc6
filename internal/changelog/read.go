package changelog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/env"
)

// ReadFrom returns whole entries, without a gap, from the one that starts at
// seq: at least one, and no more than maxBytes of them unless the first alone
// is larger. They are written over buf, which may be nil and grows as needed:
// pass frames as the next buf.
//
// ErrEnd: seq is behind the end; ErrTrimmed: before the start; ErrNotEntry: no
// entry starts there; ErrCorrupt: the bytes on disk are damaged.
func (l *Log) ReadFrom(seq base.Seq, maxBytes int, buf []byte) (frames []byte, first, last base.Seq, err error) {
	var space [64]part
	maxBytes = min(max(maxBytes, 1), MaxBatchBytes)
	l.mu.Lock()
	if err := l.readable(seq); err != nil {
		l.mu.Unlock()
		return nil, 0, 0, err
	}
	if parts := l.cache.from(seq, maxBytes, space[:0]); len(parts) > 0 {
		l.mu.Unlock()
		frames, last, err = assemble(parts, seq, maxBytes, buf)
		return frames, seq, last, err
	}
	if seq <= l.damagedTo {
		err := l.damage
		l.mu.Unlock()
		return nil, 0, 0, err
	}
	i := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].last.Seq >= seq })
	s := l.segments[i]
	p := s.find(seq)
	r := reader{file: s.file, header: s.header, limit: s.used, seq: seq, maxBytes: maxBytes}
	s.refs++
	l.mu.Unlock()
	frames, last, err = r.read(p, buf)
	if err != nil && !errors.Is(err, ErrNotEntry) {
		l.noteDamage(s, err)
	}
	l.release(s)
	return frames, seq, last, err
}

// readable says why nothing can be read at seq. The caller holds l.mu.
func (l *Log) readable(seq base.Seq) error {
	if err := l.usable(); err != nil {
		return err
	}
	if start := l.segments[0].first(); seq < start {
		return fmt.Errorf("%w: %d is before %d", ErrTrimmed, seq, start)
	}
	if seq > l.end.Seq {
		return ErrEnd
	}
	return nil
}

// find returns the last index point at or before seq.
func (s *segment) find(seq base.Seq) point {
	i := sort.Search(len(s.index), func(i int) bool { return s.index[i].seq > seq })
	return s.index[i-1]
}

// reader collects entries from a segment's file.
type reader struct {
	file     env.File
	header   *header
	limit    int64 // of what is written
	seq      base.Seq
	maxBytes int

	window []byte // bytes of the file that begin at offset
	offset int64
	at     int   // where in window the next entry or envelope is
	end    int64 // where in the file the frames of the batch at hand end
	out    int   // the collected frames are window[:out]
	last   base.Seq
	before base.Position
}

// read collects entries from seq on; p is a point at or before it.
func (r *reader) read(p point, buf []byte) ([]byte, base.Seq, error) {
	r.window, r.offset, r.end = buf, p.offset, p.batchEnd
	if err := r.load(r.maxBytes + 2*indexEvery); err != nil {
		return nil, 0, err
	}
	for {
		more, err := r.step()
		if err != nil {
			return nil, 0, err
		}
		if !more {
			return r.window[:r.out], r.last, nil
		}
	}
}

// load reads a window of so many bytes that begins at r.at of the present
// one. Nothing must have been collected.
func (r *reader) load(size int) error {
	r.offset += int64(r.at)
	r.at = 0
	n := int(min(int64(size), r.limit-r.offset))
	r.window = slices.Grow(r.window[:0], n)[:n]
	return readFull(r.file, r.window, r.offset)
}

// readFull fills p from offset on.
func readFull(f io.ReaderAt, p []byte, offset int64) error {
	n, err := f.ReadAt(p, offset)
	if n == len(p) {
		return nil
	}
	return fmt.Errorf("read log segment at %d: %w", offset, err)
}

// step takes one entry or envelope and says whether there may be more.
func (r *reader) step() (bool, error) {
	here := r.offset + int64(r.at)
	if here == r.limit {
		return false, r.missing()
	}
	if here == r.end {
		return r.envelope(alignUp(here))
	}
	e, n, err := entry.Peek(r.window[r.at:])
	if err == nil && int64(n) > r.end-here {
		return false, r.corrupt("an entry goes past the end of its batch")
	}
	if errors.Is(err, entry.ErrShort) && int64(len(r.window)-r.at) >= min(entry.MaxOverhead, r.end-here) {
		return false, r.corrupt(err.Error())
	}
	if err != nil && !errors.Is(err, entry.ErrShort) {
		return false, r.corrupt(err.Error())
	}
	r.before = base.Position{Epoch: e.Epoch, Seq: e.First - 1}
	switch {
	case err == nil && e.Last() < r.seq:
		return r.skip(n)
	case err == nil && r.out == 0 && e.First != r.seq:
		return false, fmt.Errorf("%w: %d", ErrNotEntry, r.seq)
	case err != nil || r.at+n > len(r.window):
		if r.out > 0 {
			return false, nil
		}
		return true, r.load(max(n, entry.MaxOverhead))
	}
	return r.take(n)
}

// missing is what the end of what is written means: it is there only when
// something was collected, since seq is not behind the end of the log.
func (r *reader) missing() error {
	if r.out == 0 {
		return r.corrupt("entry is missing")
	}
	return nil
}

func alignUp(offset int64) int64 { return (offset + batchAlign - 1) / batchAlign * batchAlign }

// envelope goes to the first entry of the batch at an offset in the file.
func (r *reader) envelope(offset int64) (bool, error) {
	r.at = int(offset - r.offset)
	if offset >= r.limit {
		return false, r.missing()
	}
	if r.at+batchHeaderBytes > len(r.window) {
		if r.out > 0 {
			return false, nil
		}
		if err := r.load(r.maxBytes + indexEvery); err != nil {
			return false, err
		}
	}
	b, err := decodeBatch(r.window[r.at:], r.header.salt)
	if err != nil || b.end(offset) > r.limit {
		return false, r.corrupt(fmt.Sprintf("batch header: %v", err))
	}
	r.at += batchHeaderBytes
	r.end = offset + batchHeaderBytes + int64(b.length)
	return true, nil
}

// skip goes past an entry of n bytes that is not wanted.
func (r *reader) skip(n int) (bool, error) {
	r.at += n
	if r.at <= len(r.window) {
		return true, nil
	}
	return true, r.load(r.maxBytes + indexEvery)
}

// take verifies and collects the entry of n bytes that lies in the window.
func (r *reader) take(n int) (bool, error) {
	if r.out > 0 && r.out+n > r.maxBytes {
		return false, nil
	}
	e, _, err := entry.Decode(r.window[r.at:])
	if err != nil {
		return false, r.corrupt(err.Error())
	}
	r.last = e.Last()
	r.out += copy(r.window[r.out:], r.window[r.at:r.at+n])
	r.at += n
	return true, nil
}

func (r *reader) corrupt(reason string) error {
	return corrupt("read log", &Corruption{
		Segment: r.header.number, Offset: r.offset + int64(r.at), Good: r.before, Reason: reason,
	})
}

// Verify reads all of the log from disk and checks every checksum and that
// nothing is missing. It works beside appends, and costs the reading.
func (l *Log) Verify(ctx context.Context) error {
	var buf []byte
	for number := uint64(0); ; number++ {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		s, used, last, err := l.borrow(number)
		if s == nil || err != nil {
			return err
		}
		if buf, err = verifySegment(s, used, last, buf); err != nil {
			l.noteDamage(s, err)
		}
		l.release(s)
		if err != nil {
			return err
		}
		number = s.header.number
	}
}

// borrow returns the first segment from a number on, to be released, and how
// far it was written; nil when there is none.
func (l *Log) borrow(number uint64) (*segment, int64, base.Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return nil, 0, base.Position{}, err
	}
	for _, s := range l.segments {
		if s.header.number >= number {
			s.refs++
			return s, s.used, s.last, nil
		}
	}
	return nil, 0, base.Position{}, nil
}

func verifySegment(s *segment, used int64, last base.Position, buf []byte) ([]byte, error) {
	buf = slices.Grow(buf[:0], int(used))[:used]
	if err := readFull(s.file, buf, 0); err != nil {
		return buf, err
	}
	bad := &Corruption{Segment: s.header.number, Good: s.header.previous, Flushed: last.Seq}
	h, err := decodeHeader(buf)
	if err != nil || h.salt != s.header.salt || h.number != s.header.number || h.previous != s.header.previous {
		bad.Reason = fmt.Sprintf("header has changed: %v", err)
		return buf, corrupt("verify log", bad)
	}
	if got := scanSegment(h, buf); got.position != last || got.offset != used {
		bad.Offset, bad.Good, bad.Reason = got.offset, got.position, fmt.Sprint(got.bad)
		return buf, corrupt("verify log", bad)
	}
	return buf, nil
}

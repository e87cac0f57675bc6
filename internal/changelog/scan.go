package changelog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/entry"
)

// indexEvery is how far apart index points lie.
const indexEvery = 64 << 10

// point says where an entry's frame lies: the index holds one for about every
// indexEvery bytes.
type point struct {
	seq      base.Seq // the entry's first
	offset   int64    // of its frame
	batchEnd int64    // where the frames of its batch end
}

// scanned is what the batches of a segment say.
type scanned struct {
	position base.Position // after the last good batch
	offset   int64         // behind it
	starts   []EpochStart  // those that begin in this segment
	index    []point
	// flushed is the highest note of what is on disk, in marks and batches.
	flushed base.Seq
	// bad says what is wrong with the bytes at offset; errNoBatch when they
	// are no batch at all, which is how a segment ends.
	bad error
	// late is the end of the last bytes behind offset that this segment's
	// batches left there; 0 when there are none.
	late int64
}

// scanSegment reads the batches in the bytes of a segment, and looks behind
// the last good one for what later batches know. It is a pure function.
func scanSegment(h *header, data []byte) *scanned {
	s := &scanned{position: h.previous, offset: h.dataOffset()}
	s.flushed = max(h.previous.Seq, decodeMarks(data[h.size():h.dataOffset()], h.salt))
	for s.bad == nil {
		s.next(h, data)
	}
	s.resync(h, data)
	return s
}

// next takes in the batch at s.offset or says what is bad about it.
func (s *scanned) next(h *header, data []byte) {
	b, err := decodeBatch(data[min(s.offset, int64(len(data))):], h.salt)
	if err != nil {
		s.bad = err
		return
	}
	at := s.offset + batchHeaderBytes
	if s.bad = b.follows(s.position); s.bad != nil {
		return
	}
	if b.end(s.offset) > int64(len(data)) {
		s.bad = fmt.Errorf("batch of %d bytes goes past the end of the file", b.length)
		return
	}
	frames := data[at : at+int64(b.length)]
	if got := crc32.Checksum(frames, castagnoli); got != b.checksum {
		s.bad = fmt.Errorf("batch checksum is %08x, stored %08x", got, b.checksum)
		return
	}
	index, err := indexFrames(s.index, frames, b, at)
	if err != nil {
		s.bad = err
		return
	}
	s.index = index
	s.accept(b)
}

// accept moves behind a good batch.
func (s *scanned) accept(b batch) {
	if b.epoch > s.position.Epoch {
		s.starts = append(s.starts, EpochStart{b.epoch, b.first})
	}
	s.position = base.Position{Epoch: b.epoch, Seq: b.last}
	s.offset = b.end(s.offset)
	s.flushed = max(s.flushed, b.flushed)
}

// follows says why b is not what comes after p.
func (b *batch) follows(p base.Position) error {
	if b.first != p.Seq+1 || b.epoch < p.Epoch {
		return fmt.Errorf("batch %d/%d to %d follows %v", b.epoch, b.first, b.last, p)
	}
	return nil
}

// resync looks behind the last good batch for others of this segment. They
// may be there after a crash, since one sync covers several batches and its
// writes reach the disk in any order; what they know tells a torn tail from
// corruption.
func (s *scanned) resync(h *header, data []byte) {
	var salt [8]byte
	binary.LittleEndian.PutUint64(salt[:], h.salt)
	for at := s.offset; at < int64(len(data)); {
		i := bytes.Index(data[at:], salt[:])
		if i < 0 {
			return
		}
		at += int64(i)
		s.late = max(s.late, min(at+batchHeaderBytes, int64(len(data))))
		if b, err := decodeBatch(data[at:], h.salt); err == nil {
			s.flushed = max(s.flushed, b.flushed)
			s.late = max(s.late, min(b.end(at), int64(len(data))))
		}
		at++
	}
}

// indexFrames walks the frames of a batch, which begin at offset in the file,
// checks that they are what its header says, and adds index points. Entries'
// own checksums are left to who reads them.
func indexFrames(index []point, frames []byte, b batch, offset int64) ([]point, error) {
	next, end := b.first, offset+int64(len(frames))
	for at := 0; at < len(frames); {
		e, n, err := entry.Peek(frames[at:])
		if err == nil && n > len(frames)-at {
			err = entry.ErrShort
		}
		if err != nil {
			return index, fmt.Errorf("entry %d: %w", next, err)
		}
		if e.First != next || e.Count == 0 || e.Last() < next || e.Epoch != b.epoch {
			return index, fmt.Errorf("entry %d/%d to %d where %d/%d is due", e.Epoch, e.First, e.Last(), b.epoch, next)
		}
		here := offset + int64(at)
		if len(index) == 0 || here-index[len(index)-1].offset >= indexEvery {
			index = append(index, point{seq: next, offset: here, batchEnd: end})
		}
		next = e.Last() + 1
		at += n
	}
	if next != b.last+1 {
		return index, fmt.Errorf("batch ends at %d, its header says %d", next-1, b.last)
	}
	return index, nil
}

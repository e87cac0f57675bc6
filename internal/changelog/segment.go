package changelog

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/skeindb/skein/internal/base"
)

// The bytes of a segment, as docs/format/changelog.md describes them:
// a header, padded to whole pages; one page with two marks; batches.
const (
	formatVersion    = 1
	magic            = "skeinlog"
	pageBytes        = 4096
	headerFixedBytes = 80
	markBytes        = 32
	batchHeaderBytes = 56
	batchAlign       = 8
	flagBase         = 1 // the log begins with this segment; older ones are void

	maxHeaderBytes = (headerFixedBytes+16*MaxEpochStarts+pageBytes-1)/pageBytes*pageBytes + pageBytes
	// maxFileBytes bounds what is read into memory at once.
	maxFileBytes = MaxSegmentBytes + 2*MaxBatchBytes
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is the beginning of a segment.
type header struct {
	cluster  uint64
	database base.DatabaseID
	number   uint64
	// salt is drawn anew for each segment and opens each of its batches and
	// marks, so that bytes of a former life of the file are never taken for
	// this one's.
	salt     uint64
	previous base.Position // of the log before the segment
	base     bool
	starts   []EpochStart // all that lie before the segment
}

// size returns the header's length in the file.
func (h *header) size() int64 {
	n := int64(headerFixedBytes + 16*len(h.starts))
	return (n + pageBytes - 1) / pageBytes * pageBytes
}

// dataOffset returns where the first batch begins.
func (h *header) dataOffset() int64 { return h.size() + pageBytes }

// encode returns header and mark page, the latter with one mark at flushed.
func (h *header) encode(flushed base.Seq) []byte {
	b := make([]byte, h.dataOffset())
	le := binary.LittleEndian
	copy(b, magic)
	le.PutUint32(b[8:], formatVersion)
	le.PutUint32(b[16:], uint32(h.size()))
	if h.base {
		le.PutUint32(b[20:], flagBase)
	}
	le.PutUint64(b[24:], h.cluster)
	le.PutUint64(b[32:], uint64(h.database))
	le.PutUint64(b[40:], h.number)
	le.PutUint64(b[48:], h.salt)
	le.PutUint64(b[56:], uint64(h.previous.Epoch))
	le.PutUint64(b[64:], uint64(h.previous.Seq))
	le.PutUint32(b[72:], uint32(len(h.starts)))
	for i, s := range h.starts {
		le.PutUint64(b[headerFixedBytes+16*i:], uint64(s.Epoch))
		le.PutUint64(b[headerFixedBytes+16*i+8:], uint64(s.First))
	}
	le.PutUint32(b[12:], headerChecksum(b[:h.size()]))
	copy(b[h.size():], encodeMark(h.salt, flushed))
	return b
}

func headerChecksum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:12], castagnoli), castagnoli, b[16:])
}

// decodeHeader reads a header; what it returns has passed its checksum and is
// consistent in itself.
func decodeHeader(b []byte) (*header, error) {
	le := binary.LittleEndian
	if len(b) < 2*pageBytes || string(b[:8]) != magic {
		return nil, fmt.Errorf("not a log segment")
	}
	size, count := le.Uint32(b[16:]), le.Uint32(b[72:])
	if size < pageBytes || size%pageBytes != 0 || int64(size)+pageBytes > int64(len(b)) {
		return nil, fmt.Errorf("header of %d bytes", size)
	}
	if want, got := le.Uint32(b[12:]), headerChecksum(b[:size]); want != got {
		return nil, fmt.Errorf("header checksum is %08x, stored %08x", got, want)
	}
	// The checksum comes first: a flipped bit must not pass for a later version.
	if v := le.Uint32(b[8:]); v != formatVersion {
		return nil, base.Errorf(base.KindUnsupported, "log segment of version %d; this program knows %d", v, formatVersion)
	}
	if count > MaxEpochStarts {
		return nil, fmt.Errorf("header of %d bytes with %d epochs", size, count)
	}
	h := &header{
		cluster: le.Uint64(b[24:]), database: base.DatabaseID(le.Uint64(b[32:])),
		number: le.Uint64(b[40:]), salt: le.Uint64(b[48:]), base: le.Uint32(b[20:])&flagBase != 0,
		previous: base.Position{Epoch: base.Epoch(le.Uint64(b[56:])), Seq: base.Seq(le.Uint64(b[64:]))},
	}
	if int64(headerFixedBytes+16*count) > int64(size) {
		return nil, fmt.Errorf("header of %d bytes with %d epochs", size, count)
	}
	for i := range int(count) {
		at := headerFixedBytes + 16*i
		h.starts = append(h.starts, EpochStart{base.Epoch(le.Uint64(b[at:])), base.Seq(le.Uint64(b[at+8:]))})
	}
	if h.size() != int64(size) || checkStarts(h.previous, h.starts) != nil {
		return nil, fmt.Errorf("header contradicts itself")
	}
	return h, nil
}

// checkStarts says whether starts can be the epochs of a log that ends at pos.
func checkStarts(pos base.Position, starts []EpochStart) error {
	if len(starts) > MaxEpochStarts {
		return base.Errorf(base.KindInvalid, "%d epochs; at most %d fit", len(starts), MaxEpochStarts)
	}
	var last EpochStart
	for _, s := range starts {
		if s.Epoch <= last.Epoch || s.First <= last.First || s.First > pos.Seq {
			return base.Errorf(base.KindInvalid, "epoch %d starts at %d after epoch %d at %d in a log that ends at %v",
				s.Epoch, s.First, last.Epoch, last.First, pos)
		}
		last = s
	}
	if last.Epoch != pos.Epoch || (pos.Epoch == 0) != (pos.Seq == 0) {
		return base.Errorf(base.KindInvalid, "last epoch is %d in a log that ends at %v", last.Epoch, pos)
	}
	return nil
}

// encodeMark returns the note that everything up to flushed is on disk.
func encodeMark(salt uint64, flushed base.Seq) []byte {
	b := make([]byte, markBytes)
	binary.LittleEndian.PutUint64(b, salt)
	binary.LittleEndian.PutUint64(b[8:], uint64(flushed))
	binary.LittleEndian.PutUint32(b[28:], crc32.Checksum(b[:28], castagnoli))
	return b
}

// decodeMark returns 0 when b is no mark of this segment's.
func decodeMark(b []byte, salt uint64) base.Seq {
	if binary.LittleEndian.Uint64(b) != salt || binary.LittleEndian.Uint32(b[28:]) != crc32.Checksum(b[:28], castagnoli) {
		return 0
	}
	return base.Seq(binary.LittleEndian.Uint64(b[8:]))
}

// markOffset returns where in the mark page the n-th mark goes: two places in
// two sectors by turns, so that a torn mark leaves the one before.
func markOffset(n int) int64 { return int64(n%2) * (pageBytes / 2) }

// decodeMarks returns the highest mark of a mark page.
func decodeMarks(page []byte, salt uint64) base.Seq {
	return max(decodeMark(page[markOffset(0):], salt), decodeMark(page[markOffset(1):], salt))
}

// batch is the envelope of the entries of one Append.
type batch struct {
	length      int // of the frames
	checksum    uint32
	first, last base.Seq
	epoch       base.Epoch // of all entries
	flushed     base.Seq   // what was known to be on disk when this was written
}

// end returns where the next batch begins when this one is at offset.
func (b *batch) end(offset int64) int64 { return offset + batchBytes(b.length) }

// batchBytes returns what a batch with so many bytes of frames takes.
func batchBytes(frames int) int64 {
	return (int64(batchHeaderBytes+frames) + batchAlign - 1) / batchAlign * batchAlign
}

// appendBatch appends envelope, frames and padding to dst.
func appendBatch(dst []byte, salt uint64, b batch, frames []byte) []byte {
	start := len(dst)
	le := binary.LittleEndian
	dst = le.AppendUint64(dst, salt)
	dst = le.AppendUint32(dst, uint32(len(frames)))
	dst = le.AppendUint32(dst, crc32.Checksum(frames, castagnoli))
	dst = le.AppendUint64(dst, uint64(b.first))
	dst = le.AppendUint64(dst, uint64(b.last))
	dst = le.AppendUint64(dst, uint64(b.epoch))
	dst = le.AppendUint64(dst, uint64(b.flushed))
	dst = le.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
	dst = append(dst, 0, 0, 0, 0)
	dst = append(dst, frames...)
	for len(dst)-start < int(batchBytes(len(frames))) {
		dst = append(dst, 0)
	}
	return dst
}

// decodeBatch reads an envelope's header. It fails on anything but what
// appendBatch wrote under the same salt.
func decodeBatch(b []byte, salt uint64) (batch, error) {
	le := binary.LittleEndian
	if len(b) < batchHeaderBytes || le.Uint64(b) != salt {
		return batch{}, errNoBatch
	}
	if want, got := le.Uint32(b[48:]), crc32.Checksum(b[:48], castagnoli); want != got {
		return batch{}, fmt.Errorf("batch header checksum is %08x, stored %08x", got, want)
	}
	h := batch{
		length: int(le.Uint32(b[8:])), checksum: le.Uint32(b[12:]),
		first: base.Seq(le.Uint64(b[16:])), last: base.Seq(le.Uint64(b[24:])),
		epoch: base.Epoch(le.Uint64(b[32:])), flushed: base.Seq(le.Uint64(b[40:])),
	}
	if h.length == 0 || h.length > MaxBatchBytes || h.first == 0 || h.last < h.first || h.epoch == 0 || h.flushed >= h.first {
		return batch{}, fmt.Errorf("batch header contradicts itself")
	}
	return h, nil
}

var errNoBatch = fmt.Errorf("no batch of this segment")

// segmentName and spareName name the files of a log.
func segmentName(number uint64) string { return fmt.Sprintf("segment-%016x", number) }
func spareName(number uint64) string   { return fmt.Sprintf("spare-%016x", number) }

// parseSegmentName reads what segmentName wrote.
func parseSegmentName(name string) (uint64, bool) {
	var n uint64
	if _, err := fmt.Sscanf(name, "segment-%016x", &n); err != nil || n == 0 || segmentName(n) != name {
		return 0, false
	}
	return n, true
}

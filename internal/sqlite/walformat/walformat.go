// Package walformat is SQLite's -wal and the index that its connections share
// of it, as bytes: https://sqlite.org/walformat.html.
//
// It owns no file and no lock: who uses it holds SQLite's write lock. The index
// is in the byte order of the machine that the engine was built for, which is
// little-endian here, whatever the host is.
//
// It is a pure core: it must not import a clock, a file, a socket or the engine.
package walformat

import (
	"encoding/binary"
)

// Sizes of what the two files consist of.
const (
	HeaderSize      = 32 // of the -wal
	FrameHeaderSize = 24
	IndexSize       = 136 // of what precedes the first region's page numbers
	RegionSize      = 32 << 10
	BackfillOffset  = 96 // in the index: how many frames are in the database file

	magic        = 0x377f0682 // its lowest bit says that checksums are big-endian
	version      = 3007000
	headerCopy   = 48 // of the index header, which is there twice
	hashOffset   = RegionSize / 2
	hashSlots    = 8192
	hashFactor   = 383
	regionFrames = 4096
	firstFrames  = regionFrames - IndexSize/4
)

// Checksum is the running checksum of a -wal.
type Checksum [2]uint32

// Index is the header of the index: the state that readers begin with.
type Index struct {
	Change   uint32 // counts the commits
	Frames   uint32 // in the -wal that are committed
	Pages    uint32 // of the database
	PageSize int    // 0: no frame was written yet
	Last     Checksum
	Salt     [8]byte
	BigSums  bool // the checksums are of big-endian words
}

// add continues a checksum; len(b) is a multiple of eight.
func (x *Index) add(b []byte) {
	x.Last = sum(x.Last, b, x.BigSums)
}

func sum(c Checksum, b []byte, big bool) Checksum {
	s1, s2 := c[0], c[1]
	for ; len(b) >= 8; b = b[8:] {
		if big {
			s1 += binary.BigEndian.Uint32(b) + s2
			s2 += binary.BigEndian.Uint32(b[4:]) + s1
		} else {
			s1 += binary.LittleEndian.Uint32(b) + s2
			s2 += binary.LittleEndian.Uint32(b[4:]) + s1
		}
	}
	return Checksum{s1, s2}
}

// DecodeIndex reads the two copies of the index header at the start of b. It is
// false when they differ, or are not those of a -wal in use: another process is
// about to write them, or SQLite has yet to recover them.
func DecodeIndex(b []byte) (x Index, ok bool) {
	if len(b) < 2*headerCopy || string(b[:headerCopy]) != string(b[headerCopy:2*headerCopy]) {
		return x, false
	}
	le := binary.LittleEndian
	want := Checksum{le.Uint32(b[40:]), le.Uint32(b[44:])}
	if le.Uint32(b) != version || b[12] == 0 || sum(Checksum{}, b[:40], false) != want {
		return x, false
	}
	size := le.Uint16(b[14:])
	x = Index{
		Change: le.Uint32(b[8:]), Frames: le.Uint32(b[16:]), Pages: le.Uint32(b[20:]),
		PageSize: int(size&0xfe00) | int(size&1)<<16,
		Last:     Checksum{le.Uint32(b[24:]), le.Uint32(b[28:])}, Salt: [8]byte(b[32:40]), BigSums: b[13] != 0,
	}
	return x, true
}

// Encode returns one copy of the index header.
func (x *Index) Encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, headerCopy)
	le.PutUint32(b, version)
	le.PutUint32(b[8:], x.Change)
	b[12] = 1
	if x.BigSums {
		b[13] = 1
	}
	le.PutUint16(b[14:], uint16(x.PageSize&0xff00|x.PageSize>>16))
	le.PutUint32(b[16:], x.Frames)
	le.PutUint32(b[20:], x.Pages)
	le.PutUint32(b[24:], x.Last[0])
	le.PutUint32(b[28:], x.Last[1])
	copy(b[32:], x.Salt[:])
	c := sum(Checksum{}, b[:40], false)
	le.PutUint32(b[40:], c[0])
	le.PutUint32(b[44:], c[1])
	return b
}

// SecondCopy is where the second copy of the index header lies: a writer writes
// it first, and the first copy last.
const SecondCopy = headerCopy

// AppendHeader appends the header of a -wal that begins anew, and begins x's
// checksum with it. checkpoints counts how often the -wal has begun.
func AppendHeader(dst []byte, x *Index, checkpoints uint32) []byte {
	be := binary.BigEndian
	start := len(dst)
	x.BigSums = false
	dst = be.AppendUint32(dst, magic)
	dst = be.AppendUint32(dst, version)
	dst = be.AppendUint32(dst, uint32(x.PageSize))
	dst = be.AppendUint32(dst, checkpoints)
	dst = append(dst, x.Salt[:]...)
	x.Last = Checksum{}
	x.add(dst[start:])
	dst = be.AppendUint32(dst, x.Last[0])
	return be.AppendUint32(dst, x.Last[1])
}

// AppendFrame appends the next frame, which holds a page. commit is the size of
// the database in pages in the frame that ends a transaction, zero in others.
func AppendFrame(dst []byte, x *Index, page uint32, data []byte, commit uint32) []byte {
	be := binary.BigEndian
	start := len(dst)
	dst = be.AppendUint32(dst, page)
	dst = be.AppendUint32(dst, commit)
	x.add(dst[start:])
	x.add(data)
	dst = append(dst, x.Salt[:]...)
	dst = be.AppendUint32(dst, x.Last[0])
	dst = be.AppendUint32(dst, x.Last[1])
	x.Frames++
	return append(dst, data...)
}

// FrameOffset is where a frame, counted from one, begins in the -wal.
func FrameOffset(frame uint32, pageSize int) int64 {
	return HeaderSize + int64(frame-1)*int64(FrameHeaderSize+pageSize)
}

// Place returns the region of the index that a frame's entry lies in, and which
// entry of it it is, counted from one.
func Place(frame uint32) (region int, entry uint32) {
	if frame <= firstFrames {
		return 0, frame
	}
	frame -= firstFrames + 1
	return 1 + int(frame/regionFrames), frame%regionFrames + 1
}

// numbers are the page numbers in a region, by entry.
func numbers(number int, region []byte) []byte {
	if number == 0 {
		return region[IndexSize:hashOffset]
	}
	return region[:hashOffset]
}

// Page returns the page that an entry of a region names.
func Page(number int, region []byte, entry uint32) uint32 {
	return binary.LittleEndian.Uint32(numbers(number, region)[4*(entry-1):])
}

// Trim takes out of a region what lies behind its first entries: a writer that
// did not come to its end may have left that.
func Trim(number int, region []byte, entries uint32) {
	clear(numbers(number, region)[4*entries:])
	hash := region[hashOffset:]
	for i := 0; i < len(hash); i += 2 {
		if uint32(binary.LittleEndian.Uint16(hash[i:])) > entries {
			hash[i], hash[i+1] = 0, 0
		}
	}
}

// Insert puts the next entry into a region: it names page.
func Insert(number int, region []byte, entry, page uint32) {
	binary.LittleEndian.PutUint32(numbers(number, region)[4*(entry-1):], page)
	hash := region[hashOffset:]
	at := page * hashFactor % hashSlots
	for binary.LittleEndian.Uint16(hash[2*at:]) != 0 {
		at = (at + 1) % hashSlots
	}
	binary.LittleEndian.PutUint16(hash[2*at:], uint16(entry))
}

package entry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/skeindb/skein/internal/base"
)

// Version of the frame format that Append writes.
const Version = 1

// MaxSize bounds a whole frame, so that a reader knows what a length may be
// before it trusts one.
const MaxSize = 64 << 20

// MaxOverhead bounds what lies before a frame's past and body.
const MaxOverhead = fixedSize + 10 + 10 + 5 + 10 + operationSize

// MaxPast bounds an entry's past, in bytes.
const MaxPast = 4096

// MinSize is the smallest frame there is.
const MinSize = fixedSize + 4

const (
	fixedSize     = 11 // length, checksum, version, kind, flags
	operationSize = 16
	hasOperation  = 1 // flag: an operation id follows the varints
	hasPast       = 2 // flag: a length and a past come before the body
)

// The two ways in which bytes are not an entry.
var (
	// ErrShort says that the bytes so far may begin a frame: read on.
	ErrShort = errors.New("entry is not complete")
	// ErrCorrupt says that no bytes that follow can make this a frame.
	ErrCorrupt = errors.New("entry is corrupt")
)

// Kind says what the body of an entry is. Unknown kinds decode, so that a log
// can carry what only a newer replica can apply; who applies must refuse them.
type Kind uint8

// The kinds.
const (
	Row        Kind = 1 // packed row changes
	EpochStart Kind = 2 // first entry of an epoch; count 1, no body
	Statement  Kind = 3 // SQL with its parameters
	WAL        Kind = 4 // database pages
	Trigger    Kind = 5 // rows of a changes table
	Format     Kind = 6 // from here on the leader writes in another format; count 1, a FormatChange
)

// String returns the kind's name.
func (k Kind) String() string {
	switch k {
	case Row:
		return "row"
	case EpochStart:
		return "epoch-start"
	case Statement:
		return "statement"
	case WAL:
		return "wal"
	case Trigger:
		return "trigger"
	case Format:
		return "format"
	}
	return fmt.Sprintf("kind-%d", uint8(k))
}

// OperationID names a client's operation, so that a retry can be told from a
// new request.
type OperationID [operationSize]byte

// Entry is one committed transaction in a database's log.
type Entry struct {
	Epoch base.Epoch // of the leader that made it; at least 1
	First base.Seq   // at least 1
	Count uint32     // at least 1; the entry covers First to First+Count-1
	Time  int64      // the leader's wall clock, Unix nanoseconds; for people only
	Kind  Kind

	// Operation is the client's operation id, when HasOperation.
	Operation    OperationID
	HasOperation bool

	// Past is what the writer had seen of other databases, as package token
	// encodes it; empty when there is nothing new in that. After Decode it and
	// Body lie in the decoded bytes.
	Past []byte
	Body []byte
}

// Last returns the last sequence number that e covers.
func (e *Entry) Last() base.Seq { return e.First + base.Seq(e.Count) - 1 }

// Position returns where a log stands whose last entry is e.
func (e *Entry) Position() base.Position { return base.Position{Epoch: e.Epoch, Seq: e.Last()} }

// Check says why e can't be encoded: an error of kind KindTooLarge when its
// body is too big, of KindInternal when a field makes no sense.
func (e *Entry) Check() error {
	if n := Size(e); n > MaxSize {
		return base.Errorf(base.KindTooLarge, "transaction of %d bytes in the log; at most %d fit", n, MaxSize).
			WithHint("split the transaction into smaller ones")
	}
	if reason := e.invalid(); reason != "" {
		return base.Errorf(base.KindInternal, "entry %d/%d: %s", e.Epoch, e.First, reason)
	}
	return nil
}

// invalid holds the rules that both directions keep.
func (e *Entry) invalid() string {
	switch {
	case e.Epoch == 0:
		return "epoch is zero"
	case e.First == 0:
		return "first sequence number is zero"
	case e.Count == 0:
		return "covers no sequence number"
	case uint64(e.First) > math.MaxUint64-uint64(e.Count):
		return "sequence numbers overflow"
	case e.Kind == 0:
		return "kind is zero"
	case e.Kind == EpochStart && (e.Count != 1 || len(e.Body) != 0 || len(e.Past) != 0 || e.HasOperation):
		return "an epoch start has count 1, no operation, no past and no body"
	case e.Kind == Format && (e.Count != 1 || len(e.Past) != 0 || e.HasOperation):
		return "a change of the format has count 1, no operation and no past"
	case len(e.Past) > MaxPast:
		return "the past is too long"
	}
	return ""
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Size returns the length of e's frame.
func Size(e *Entry) int {
	n := fixedSize + uvarintSize(uint64(e.Epoch)) + uvarintSize(uint64(e.First)) +
		uvarintSize(uint64(e.Count)) + uvarintSize(zigzag(e.Time)) + len(e.Body)
	if e.HasOperation {
		n += operationSize
	}
	if len(e.Past) > 0 {
		n += uvarintSize(uint64(len(e.Past))) + len(e.Past)
	}
	return n
}

// Append appends e's frame to dst. It panics when Check refuses e: bytes that
// can't be read back must not reach a log.
func Append(dst []byte, e *Entry) []byte {
	if err := e.Check(); err != nil {
		panic(err)
	}
	start := len(dst)
	var flags byte
	if e.HasOperation {
		flags |= hasOperation
	}
	if len(e.Past) > 0 {
		flags |= hasPast
	}
	dst = binary.LittleEndian.AppendUint32(dst, uint32(Size(e)))
	dst = append(dst, 0, 0, 0, 0, Version, byte(e.Kind), flags)
	dst = binary.AppendUvarint(dst, uint64(e.Epoch))
	dst = binary.AppendUvarint(dst, uint64(e.First))
	dst = binary.AppendUvarint(dst, uint64(e.Count))
	dst = binary.AppendUvarint(dst, zigzag(e.Time))
	if e.HasOperation {
		dst = append(dst, e.Operation[:]...)
	}
	if len(e.Past) > 0 {
		dst = append(binary.AppendUvarint(dst, uint64(len(e.Past))), e.Past...)
	}
	dst = append(dst, e.Body...)
	binary.LittleEndian.PutUint32(dst[start+4:], checksum(dst[start:]))
	return dst
}

// checksum covers the whole frame but the checksum itself.
func checksum(frame []byte) uint32 {
	return crc32.Update(crc32.Checksum(frame[:4], castagnoli), castagnoli, frame[8:])
}

func zigzag(v int64) uint64   { return uint64(v)<<1 ^ uint64(v>>63) }
func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

func uvarintSize(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

package entry

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/skeindb/skein/internal/base"
)

// Decode reads the frame at the start of b and returns its length. The body is
// not copied: it lies in b. The error wraps ErrShort when b ends too early and
// ErrCorrupt when no longer b could help.
func Decode(b []byte) (e Entry, n int, err error) {
	n, err = frameSize(b)
	if err != nil {
		return Entry{}, 0, err
	}
	if len(b) < n {
		return Entry{}, 0, fmt.Errorf("%w: have %d of %d bytes", ErrShort, len(b), n)
	}
	frame := b[:n:n]
	if want, got := binary.LittleEndian.Uint32(frame[4:]), checksum(frame); want != got {
		return Entry{}, 0, fmt.Errorf("%w: checksum is %08x, stored %08x", ErrCorrupt, got, want)
	}
	at, err := e.decodeFields(frame, n)
	if err != nil {
		return Entry{}, 0, err
	}
	if e.Past, e.Body, err = splitPast(frame[at:], frame[10]&hasPast != 0); err != nil {
		return Entry{}, 0, err
	}
	if reason := e.invalid(); reason != "" {
		return Entry{}, 0, fmt.Errorf("%w: %s", ErrCorrupt, reason)
	}
	return e, n, nil
}

// splitPast reads what follows the fields of a whole frame.
func splitPast(b []byte, has bool) (past, body []byte, err error) {
	if !has {
		return nil, b, nil
	}
	var size uint64
	n, err := uvarint(b, &size, true)
	if err != nil {
		return nil, nil, err
	}
	if b = b[n:]; size == 0 || size > uint64(len(b)) {
		return nil, nil, fmt.Errorf("%w: a past of %d bytes", ErrCorrupt, size)
	}
	return b[:size:size], b[size:], nil
}

// Peek reads the fields of the frame at the start of b without past and body and
// without verifying its checksum; the body need not be there. It returns the
// frame's length. It is for walking over frames that have been verified.
func Peek(b []byte) (e Entry, n int, err error) {
	n, err = frameSize(b)
	if err != nil {
		return Entry{}, 0, err
	}
	if _, err = e.decodeFields(b[:min(len(b), n)], n); err != nil {
		return Entry{}, 0, err
	}
	return e, n, nil
}

// frameSize reads length and version, the two fields that nothing can be
// trusted without.
func frameSize(b []byte) (int, error) {
	if len(b) < 4 {
		return 0, fmt.Errorf("%w: have %d bytes", ErrShort, len(b))
	}
	n := binary.LittleEndian.Uint32(b)
	if n < MinSize || n > MaxSize {
		return 0, fmt.Errorf("%w: length %d", ErrCorrupt, n)
	}
	if len(b) < fixedSize {
		return 0, fmt.Errorf("%w: have %d bytes", ErrShort, len(b))
	}
	if b[8] != Version {
		return 0, fmt.Errorf("%w: version %d, want %d", ErrCorrupt, b[8], Version)
	}
	return int(n), nil
}

// decodeFields reads what lies between the fixed part and the past or the body
// of a frame of size bytes, of which b may hold only the beginning. It returns
// where that starts.
func (e *Entry) decodeFields(b []byte, size int) (int, error) {
	flags := b[10]
	if flags&^(hasOperation|hasPast) != 0 {
		return 0, fmt.Errorf("%w: unknown flags %02x", ErrCorrupt, flags)
	}
	var v [4]uint64
	at := fixedSize
	for i := range v {
		n, err := uvarint(b[at:], &v[i], len(b) == size)
		if err != nil {
			return 0, err
		}
		at += n
	}
	if v[2] > math.MaxUint32 {
		return 0, fmt.Errorf("%w: count %d", ErrCorrupt, v[2])
	}
	e.Kind, e.Epoch, e.First = Kind(b[9]), base.Epoch(v[0]), base.Seq(v[1])
	e.Count, e.Time = uint32(v[2]), unzigzag(v[3])
	if flags&hasOperation == 0 {
		return at, nil
	}
	if size < at+operationSize {
		return 0, fmt.Errorf("%w: no room for an operation id", ErrCorrupt)
	}
	if len(b) < at+operationSize {
		return 0, fmt.Errorf("%w: have %d bytes", ErrShort, len(b))
	}
	e.HasOperation = true
	copy(e.Operation[:], b[at:])
	return at + operationSize, nil
}

// uvarint reads a varint that is as short as can be: an entry has one encoding
// only. whole says that no byte of the frame follows b.
func uvarint(b []byte, v *uint64, whole bool) (int, error) {
	u, n := binary.Uvarint(b)
	switch {
	case n == 0 && !whole:
		return 0, fmt.Errorf("%w: ends within a number", ErrShort)
	case n <= 0 || n != uvarintSize(u):
		return 0, fmt.Errorf("%w: bad number", ErrCorrupt)
	}
	*v = u
	return n, nil
}

// Span says what a run of frames covers.
type Span struct {
	First, Last           base.Seq
	FirstEpoch, LastEpoch base.Epoch
	Entries               int
}

// Position returns where a log stands that ends with the span.
func (s Span) Position() base.Position { return base.Position{Epoch: s.LastEpoch, Seq: s.Last} }

// Scan verifies a run of whole frames as a follower must before it appends
// them: every checksum, no gap between entries, no epoch that goes back, no
// byte left over. visit, which may be nil, sees each entry and can stop.
func Scan(frames []byte, visit func(e *Entry, frame []byte) error) (Span, error) {
	var s Span
	for len(frames) > 0 {
		e, n, err := Decode(frames)
		if err != nil {
			return s, err
		}
		if s.Entries > 0 && (e.First != s.Last+1 || e.Epoch < s.LastEpoch) {
			return s, fmt.Errorf("%w: entry %d/%d after %d/%d", ErrCorrupt, e.Epoch, e.First, s.LastEpoch, s.Last)
		}
		if visit != nil {
			if err := visit(&e, frames[:n:n]); err != nil {
				return s, err
			}
		}
		if s.Entries == 0 {
			s.First, s.FirstEpoch = e.First, e.Epoch
		}
		s.Last, s.LastEpoch = e.Last(), e.Epoch
		s.Entries++
		frames = frames[n:]
	}
	return s, nil
}

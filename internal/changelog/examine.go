package changelog

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"slices"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/env"
)

// MaxFaults bounds the faults that an Examination lists; all are counted.
const MaxFaults = 1000

// Place says where the frame of an entry lies.
type Place struct {
	Segment uint64
	Offset  int64
	Bytes   int
}

// Fault is one place where the stored bytes are not a log.
type Fault struct {
	Segment uint64
	Offset  int64
	// After is the last entry before it that could be read.
	After  base.Position
	Reason string
}

// Examination is what a log's files were found to hold.
type Examination struct {
	Segments int
	Bytes    int64 // up to the end of what is written
	Entries  int
	First    base.Seq // of the first entry; 0 in an empty log
	End      base.Position
	Faults   []Fault // at most MaxFaults
	Found    int     // how many there are
	// Torn is the tail that a crash has left, if there is one: bytes that
	// were never known to be on disk, which the next Open cuts. It is no
	// damage.
	Torn *Fault
}

// ErrStop ends an examination early, without being an error of it.
var ErrStop = errors.New("stop")

// Visit sees an entry that has passed its checks. Any error but ErrStop is a
// fault of the entry, and the examination goes on.
type Visit func(at Place, e *entry.Entry) error

// Examine reads the files of a log that nobody has open, changing nothing, and
// goes on behind damage. An error says that the files could not be read at all.
func Examine(ctx context.Context, fs env.FS, dir string, visit Visit) (*Examination, error) {
	l := &Log{env: &env.Env{FS: fs}, dir: dir}
	names, err := fs.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("examine log: %w", err)
	}
	var numbers []uint64
	for _, e := range names {
		if n, ok := parseSegmentName(e.Name()); ok {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	x := &examiner{visit: visit}
	for i, n := range numbers {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if err := x.file(l, n, i == len(numbers)-1); err != nil {
			return x.end(err)
		}
	}
	return x.end(nil)
}

// Examine reads all of an open log from disk, beside appends, and goes on
// behind damage.
func (l *Log) Examine(ctx context.Context, visit Visit) (*Examination, error) {
	x := &examiner{visit: visit}
	for number := uint64(0); ; {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		s, used, _, err := l.borrow(number)
		if s == nil || err != nil {
			return x.end(err)
		}
		x.buffer = slices.Grow(x.buffer[:0], int(used))[:used]
		if err = readFull(s.file, x.buffer, 0); err == nil {
			err = x.segment(s.header.number, x.buffer, false)
		}
		number = s.header.number + 1
		l.release(s)
		if err != nil {
			return x.end(err)
		}
	}
}

// examiner walks over segments. It is a pure function of their bytes.
type examiner struct {
	report Examination
	visit  Visit
	buffer []byte

	number   uint64 // of the last segment
	position base.Position
	flushed  base.Seq // the highest note of what is on disk
	faults   []Fault  // of the segment at hand
}

func (x *examiner) end(err error) (*Examination, error) {
	if err != nil && !errors.Is(err, ErrStop) {
		return nil, err
	}
	x.report.End = x.position
	return &x.report, nil
}

func (x *examiner) file(l *Log, number uint64, last bool) error {
	f, err := l.env.FS.OpenFile(l.path(segmentName(number)), os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("examine log segment %d: %w", number, err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return fmt.Errorf("examine log segment %d: %w", number, err)
	}
	if size > maxFileBytes {
		x.fault(Fault{Segment: number, Reason: fmt.Sprintf("file of %d bytes", size)})
		x.settle(false)
		return nil
	}
	x.buffer = slices.Grow(x.buffer[:0], int(size))[:size]
	if err := readFull(f, x.buffer, 0); err != nil {
		return err
	}
	return x.segment(number, x.buffer, last)
}

func (x *examiner) fault(f Fault) {
	f.After = x.position
	x.faults = append(x.faults, f)
}

// settle adds the faults of a segment to the report; those behind what was
// known to be on disk at the end of the last segment are a torn tail.
func (x *examiner) settle(mayBeTorn bool) {
	if mayBeTorn && len(x.faults) > 0 && x.flushed <= x.faults[0].After.Seq {
		x.report.Torn = &x.faults[0]
		x.position = x.faults[0].After
		x.faults = nil
	}
	x.report.Found += len(x.faults)
	x.report.Faults = append(x.report.Faults, x.faults[:min(len(x.faults), MaxFaults-len(x.report.Faults))]...)
	x.faults = nil
}

// segment examines the bytes of one segment.
func (x *examiner) segment(number uint64, data []byte, last bool) error {
	x.report.Segments++
	h, err := decodeHeader(data)
	if err == nil && h.number != number {
		err = fmt.Errorf("header says that this is segment %d", h.number)
	}
	if err != nil {
		x.fault(Fault{Segment: number, Reason: "header: " + err.Error()})
		x.settle(false)
		x.number = number
		return nil
	}
	x.begin(h)
	x.flushed = max(x.flushed, h.previous.Seq, decodeMarks(data[h.size():h.dataOffset()], h.salt))
	at := h.dataOffset()
	for err == nil {
		next := x.batch(h, data, at, &err)
		if next < 0 {
			break
		}
		at = next
	}
	x.report.Bytes += at
	if err == nil && x.flushed > x.position.Seq {
		x.fault(Fault{Segment: number, Offset: at, Reason: fmt.Sprintf("entries up to %d were on disk, and are not there", x.flushed)})
	}
	x.settle(last)
	return err
}

// begin says whether a segment goes on where the one before it ended.
func (x *examiner) begin(h *header) {
	switch {
	case h.base || x.number == 0: // What lies before a base is void.
	case h.number != x.number+1:
		x.fault(Fault{Segment: h.number, Reason: fmt.Sprintf("segments %d to %d are missing", x.number+1, h.number-1)})
	case h.previous != x.position:
		x.fault(Fault{Segment: h.number, Reason: fmt.Sprintf("the segment goes on after %v, and the one before it ends at %v", h.previous, x.position)})
	}
	x.number, x.position = h.number, h.previous
}

// batch examines the batch at an offset and returns where the next may be; -1
// when there is none.
func (x *examiner) batch(h *header, data []byte, at int64, stop *error) int64 {
	b, err := decodeBatch(data[min(at, int64(len(data))):], h.salt)
	if err == nil && at+batchHeaderBytes+int64(b.length) > int64(len(data)) {
		err = fmt.Errorf("batch of %d bytes goes past the end of the file", b.length)
	}
	if err != nil {
		next := nextBatch(h.salt, data, at)
		if next >= 0 || !errors.Is(err, errNoBatch) {
			x.fault(Fault{Segment: h.number, Offset: at, Reason: "batch: " + err.Error()})
		}
		return next
	}
	x.flushed = max(x.flushed, b.flushed)
	if err := b.follows(x.position); err != nil {
		x.fault(Fault{Segment: h.number, Offset: at, Reason: err.Error()})
	}
	frames := data[at+batchHeaderBytes:][:b.length]
	before := len(x.faults)
	*stop = x.entries(h, b, frames, at+batchHeaderBytes)
	if sum := crc32.Checksum(frames, castagnoli); sum != b.checksum && len(x.faults) == before && *stop == nil {
		x.fault(Fault{Segment: h.number, Offset: at, Reason: fmt.Sprintf("batch checksum is %08x, stored %08x", sum, b.checksum)})
	}
	x.position = base.Position{Epoch: b.epoch, Seq: b.last}
	return min(b.end(at), int64(len(data)))
}

// nextBatch finds the next batch with a good header behind an offset.
func nextBatch(salt uint64, data []byte, at int64) int64 {
	var mark [8]byte
	binary.LittleEndian.PutUint64(mark[:], salt)
	for at++; at < int64(len(data)); at++ {
		i := bytes.Index(data[at:], mark[:])
		if i < 0 {
			return -1
		}
		at += int64(i)
		if _, err := decodeBatch(data[at:], salt); err == nil {
			return at
		}
	}
	return -1
}

// entries examines the frames of one batch, which begin at offset.
func (x *examiner) entries(h *header, b batch, frames []byte, offset int64) error {
	next := b.first
	for at := 0; at < len(frames); {
		here := Place{Segment: h.number, Offset: offset + int64(at)}
		e, n, err := entry.Decode(frames[at:])
		if err == nil && (e.First != next || e.Epoch != b.epoch || e.Last() > b.last) {
			err = fmt.Errorf("entry %d/%d to %d where %d/%d is due", e.Epoch, e.First, e.Last(), b.epoch, next)
		}
		if err != nil {
			x.fault(Fault{Segment: h.number, Offset: here.Offset, Reason: fmt.Sprintf("entry %d/%d: %v", b.epoch, next, err)})
			if n, next = pastDamage(frames[at:], b, next); n == 0 {
				return nil
			}
			at += n
			continue
		}
		here.Bytes = n
		if err := x.see(here, &e); err != nil {
			return err
		}
		next, at = e.Last()+1, at+n
	}
	if next != b.last+1 {
		x.fault(Fault{Segment: h.number, Offset: offset, Reason: fmt.Sprintf("the batch ends at %d, its header says %d", next-1, b.last)})
	}
	return nil
}

// pastDamage returns the length of a damaged frame, and what the next begins
// with, when what follows shows that its fields can be believed; 0 if not.
func pastDamage(frames []byte, b batch, next base.Seq) (int, base.Seq) {
	e, n, err := entry.Peek(frames)
	if err != nil || n > len(frames) || e.First != next || e.Last() > b.last {
		return 0, next
	}
	if n == len(frames) {
		return n, e.Last() + 1
	}
	if f, _, err := entry.Peek(frames[n:]); err != nil || f.First != e.Last()+1 {
		return 0, next
	}
	return n, e.Last() + 1
}

func (x *examiner) see(at Place, e *entry.Entry) error {
	x.position = base.Position{Epoch: e.Epoch, Seq: e.First - 1}
	if x.report.First == 0 {
		x.report.First = e.First
	}
	x.report.Entries++
	if x.visit != nil {
		err := x.visit(at, e)
		if errors.Is(err, ErrStop) {
			x.position = e.Position()
			return ErrStop
		}
		if err != nil {
			x.fault(Fault{Segment: at.Segment, Offset: at.Offset, Reason: fmt.Sprintf("entry %v: %v", e.Position(), err)})
		}
	}
	x.position = e.Position()
	return nil
}

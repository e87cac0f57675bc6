package rowformat

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/skeindb/skein/internal/base"
)

// The serial types are those of SQLite's record format: they name the storage
// class and the length of the content that follows. 10 and 11 are not used.
const (
	serialNull  = 0
	serialInt8  = 1
	serialInt16 = 2
	serialInt24 = 3
	serialInt32 = 4
	serialInt48 = 5
	serialInt64 = 6
	serialReal  = 7
	serialZero  = 8
	serialOne   = 9
	serialBlob  = 12 // and every even number above
	serialText  = 13 // and every odd number above
)

// integerSize is the number of content bytes of the serial types 0 to 9.
var integerSize = [10]int{0, 1, 2, 3, 4, 6, 8, 8, 0, 0}

// AppendValue appends v: its serial type, then its content.
func AppendValue(dst []byte, v base.Value) []byte {
	switch v.Kind {
	case base.Integer:
		return appendInteger(dst, v.Int)
	case base.Real:
		dst = append(dst, serialReal)
		return binary.BigEndian.AppendUint64(dst, math.Float64bits(v.Float))
	case base.Text:
		dst = binary.AppendUvarint(dst, serialText+2*uint64(len(v.Bytes)))
		return append(dst, v.Bytes...)
	case base.Blob:
		dst = binary.AppendUvarint(dst, serialBlob+2*uint64(len(v.Bytes)))
		return append(dst, v.Bytes...)
	}
	return append(dst, serialNull)
}

func appendInteger(dst []byte, v int64) []byte {
	switch {
	case v == 0:
		return append(dst, serialZero)
	case v == 1:
		return append(dst, serialOne)
	case v == int64(int8(v)):
		return append(dst, serialInt8, byte(v))
	case v == int64(int16(v)):
		return append(dst, serialInt16, byte(v>>8), byte(v))
	case v == v<<40>>40:
		return append(dst, serialInt24, byte(v>>16), byte(v>>8), byte(v))
	case v == int64(int32(v)):
		return binary.BigEndian.AppendUint32(append(dst, serialInt32), uint32(v))
	case v == v<<16>>16:
		dst = append(dst, serialInt48, byte(v>>40), byte(v>>32))
		return binary.BigEndian.AppendUint32(dst, uint32(v))
	}
	return binary.BigEndian.AppendUint64(append(dst, serialInt64), uint64(v))
}

// cursor reads forwards through a body. The first failure sticks: every later
// read returns zero values, so that callers check err once a record.
type cursor struct {
	data []byte
	pos  int
	err  error
}

func (c *cursor) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: at byte %d: %s", ErrCorrupt, c.pos, fmt.Sprintf(format, args...))
	}
}

func (c *cursor) left() int { return len(c.data) - c.pos }

func (c *cursor) byte() byte {
	if c.err != nil || c.pos >= len(c.data) {
		c.fail("a byte is missing")
		return 0
	}
	b := c.data[c.pos]
	c.pos++
	return b
}

func (c *cursor) uvarint() uint64 {
	if c.pos < len(c.data) && c.data[c.pos] < 0x80 && c.err == nil {
		c.pos++
		return uint64(c.data[c.pos-1])
	}
	return c.longUvarint()
}

func (c *cursor) longUvarint() uint64 {
	if c.err != nil {
		return 0
	}
	v, n := binary.Uvarint(c.data[c.pos:])
	if n <= 0 {
		c.fail("bad varint")
		return 0
	}
	c.pos += n
	return v
}

func (c *cursor) varint() int64 {
	u := c.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

// bytes returns the next n bytes of the body itself.
func (c *cursor) bytes(n uint64) []byte {
	if c.err != nil {
		return nil
	}
	if n > uint64(c.left()) {
		c.fail("%d bytes announced, %d left", n, c.left())
		return nil
	}
	p := c.data[c.pos : c.pos+int(n) : c.pos+int(n)]
	c.pos += int(n)
	return p
}

// value fills v in place: a Value is large enough for the copy to show.
func (c *cursor) value(v *base.Value) {
	serial := c.uvarint()
	switch {
	case serial >= serialBlob:
		kind := base.Blob - base.ValueKind(serial&1) // Text is odd.
		*v = base.Value{Kind: kind, Bytes: c.bytes((serial - serialBlob) / 2)}
	case serial == serialNull:
		*v = base.Value{}
	case serial == serialReal:
		*v = base.Value{Kind: base.Real, Float: math.Float64frombits(uint64(c.integer(8)))}
	case serial <= serialOne:
		*v = base.Value{Kind: base.Integer, Int: int64(serial & 1)}
		if size := integerSize[serial]; size > 0 {
			v.Int = c.integer(size)
		}
	default:
		c.fail("serial type %d does not exist", serial)
	}
}

// integer reads a big-endian two's complement integer of size bytes.
func (c *cursor) integer(size int) int64 {
	p := c.bytes(uint64(size))
	if p == nil {
		return 0
	}
	v := int64(int8(p[0]))
	for _, b := range p[1:] {
		v = v<<8 | int64(b)
	}
	return v
}

// ReadValue reads the value at the start of b, as AppendValue has written it, and
// returns how long it is. Its bytes lie in b.
func ReadValue(b []byte) (v base.Value, n int, err error) {
	c := cursor{data: b}
	c.value(&v)
	return v, c.pos, c.err
}

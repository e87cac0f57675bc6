package triggerformat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/rowformat"
)

// Version is the first byte of every body.
const Version = 1

// The two ways in which a body can't be read.
var (
	// ErrCorrupt says that a body is not well-formed.
	ErrCorrupt = errors.New("trigger body is corrupt")
	// ErrUnknown says that a newer program wrote it.
	ErrUnknown = errors.New("trigger body was written by a newer version")
)

// The kinds of records that were sent. The numbers are part of the format.
const (
	kindRow    = 1 // the row after a row change of this body
	kindRecord = 2 // op, table, key and columns
)

// The operations that are about rows. Every other one is a message, which means
// something to whoever reads it and is applied nowhere.
const (
	Insert = "insert"
	Update = "update"
	Delete = "delete"
)

// IsRow says that an operation is about a row of its table.
func IsRow(op string) bool { return op == Insert || op == Update || op == Delete }

// Column is a column of a record, or a part of a message.
type Column struct {
	Name  string
	Value base.Value
}

// Sent is a record that a trigger has sent.
type Sent struct {
	// Change is which row change of the body it refers to, from 1: the row as
	// it was after that change was sent whole. The rest is empty then.
	Change int

	Op    string
	Table string
	// Key names the row: its rowid, or its primary key in the key's order. It
	// is empty for messages.
	Key     []base.Value
	Columns []Column
}

// Body is a decoded body. It points into the bytes that it was decoded from.
type Body struct {
	Rows    []byte // nil when no row has changed
	Changes int    // row changes in Rows
	Sent    []Sent
}

// Count is the number of seqs that the body takes: one a row change, then one a
// record.
func (b *Body) Count() int { return b.Changes + len(b.Sent) }

// Append appends a body to dst.
func Append(dst, rows []byte, sent []Sent) []byte {
	dst = append(dst, Version)
	dst = appendBytes(dst, rows)
	dst = binary.AppendUvarint(dst, uint64(len(sent)))
	for i := range sent {
		dst = appendSent(dst, &sent[i])
	}
	return dst
}

func appendSent(dst []byte, s *Sent) []byte {
	if s.Change > 0 {
		return binary.AppendUvarint(append(dst, kindRow), uint64(s.Change-1))
	}
	dst = append(dst, kindRecord)
	dst = appendBytes(appendBytes(dst, []byte(s.Op)), []byte(s.Table))
	return AppendContent(dst, s.Key, s.Columns)
}

// AppendContent appends what a record says beside operation and table.
func AppendContent(dst []byte, key []base.Value, columns []Column) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(key)))
	for _, v := range key {
		dst = rowformat.AppendValue(dst, v)
	}
	dst = binary.AppendUvarint(dst, uint64(len(columns)))
	for _, c := range columns {
		dst = rowformat.AppendValue(appendBytes(dst, []byte(c.Name)), c.Value)
	}
	return dst
}

func appendBytes(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

// Decode reads a body.
func Decode(data []byte) (Body, error) {
	r := reader{data: data}
	if v := r.byte(); r.err == nil && v != Version {
		return Body{}, fmt.Errorf("%w: version %d, want %d", ErrUnknown, v, Version)
	}
	var b Body
	if rows := r.bytes(); r.err == nil && len(rows) > 0 {
		read, err := rowformat.NewReader(rows)
		if err != nil {
			return Body{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		b.Rows, b.Changes = rows, read.Changes()
	}
	n := r.number(2)
	for range n {
		b.Sent = append(b.Sent, r.sent(b.Changes))
	}
	if r.err == nil && len(r.data) > 0 {
		r.fail("%d bytes behind the last record", len(r.data))
	}
	if r.err == nil && b.Count() == 0 {
		r.fail("nothing in it")
	}
	if r.err != nil {
		return Body{}, r.err
	}
	return b, nil
}

// DecodeContent reads what AppendContent has written.
func DecodeContent(data []byte) (key []base.Value, columns []Column, err error) {
	r := reader{data: data}
	key, columns = r.content()
	if r.err == nil && len(r.data) > 0 {
		r.fail("%d bytes behind the last column", len(r.data))
	}
	return key, columns, r.err
}

// reader reads forwards. The first failure sticks.
type reader struct {
	data []byte
	err  error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
	}
}

func (r *reader) byte() byte {
	if r.err != nil || len(r.data) == 0 {
		r.fail("a byte is missing")
		return 0
	}
	b := r.data[0]
	r.data = r.data[1:]
	return b
}

// uvarint also refuses a number that is longer than it need be: a body has one
// encoding.
func (r *reader) uvarint() uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.data)
	if n <= 0 || n > 1 && r.data[n-1] == 0 {
		r.fail("bad number")
		return 0
	}
	r.data = r.data[n:]
	return v
}

// number reads how many things follow that take size bytes at the least.
func (r *reader) number(size int) int {
	n := r.uvarint()
	if n > uint64(len(r.data)/size) {
		r.fail("%d announced, %d bytes left", n, len(r.data))
		return 0
	}
	return int(n)
}

func (r *reader) bytes() []byte {
	n := r.number(1)
	b := r.data[:n:n]
	r.data = r.data[n:]
	return b
}

func (r *reader) value() base.Value {
	if r.err != nil {
		return base.Value{}
	}
	v, n, err := rowformat.ReadValue(r.data)
	if err != nil {
		r.err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		return base.Value{}
	}
	if !bytes.Equal(rowformat.AppendValue(nil, v), r.data[:n]) {
		r.fail("a value is longer than it need be")
	}
	r.data = r.data[n:]
	return v
}

func (r *reader) sent(changes int) (s Sent) {
	switch kind := r.byte(); kind {
	case kindRow:
		n := r.uvarint()
		if n >= uint64(changes) {
			r.fail("row change %d of %d", n, changes)
			return s
		}
		s.Change = int(n) + 1
	case kindRecord:
		s.Op, s.Table = string(r.bytes()), string(r.bytes())
		s.Key, s.Columns = r.content()
		if IsRow(s.Op) != (len(s.Key) > 0) {
			r.fail("operation %q with %d values in the key", s.Op, len(s.Key))
		}
	default:
		if r.err == nil {
			r.err = fmt.Errorf("%w: record kind %d", ErrUnknown, kind)
		}
	}
	return s
}

func (r *reader) content() (key []base.Value, columns []Column) {
	for range r.number(1) {
		key = append(key, r.value())
	}
	for range r.number(2) {
		columns = append(columns, Column{Name: string(r.bytes()), Value: r.value()})
	}
	return key, columns
}

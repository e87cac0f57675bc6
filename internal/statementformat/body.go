package statementformat

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/rowformat"
)

// Version is the first byte of every body.
const Version = 1

// ErrCorrupt says that a body is not well-formed.
var ErrCorrupt = errors.New("statement body is corrupt")

// ErrUnknown says that a newer program wrote a body.
var ErrUnknown = errors.New("statement body was written by a newer version")

// Hash tells row changes from others: the first half of their body's SHA-256.
type Hash [16]byte

// HashRows hashes a row body.
func HashRows(body []byte) (h Hash) {
	sum := sha256.Sum256(body)
	copy(h[:], sum[:])
	return h
}

// Seed is what a statement's random values are drawn from.
type Seed [16]byte

// Uses says what a statement took from outside itself.
type Uses uint8

// What a statement may take from outside.
const (
	UsesClock Uses = 1 << iota
	UsesSeed
	UsesLastRowID
	UsesChanges
	UsesTotalChanges

	usesAll = 1<<iota - 1
)

// Statement is SQL that is executed again. What it does not use is zero.
type Statement struct {
	SQL          []byte
	Args         []base.Value
	Uses         Uses
	Clock        int64 // milliseconds since 1970
	Seed         Seed
	LastRowID    int64 // that last_insert_rowid() was when it began
	Changes      int64 // that changes() was
	TotalChanges int64 // that total_changes() was
}

// Body is a transaction: statements, or rows with the reason why.
type Body struct {
	Statements []Statement
	Hash       Hash // of the row changes that they make
	Reason     string
	Rows       []byte // nil when there are statements
}

const (
	modeStatements = 1
	modeRows       = 2
)

// Append appends the bytes of b to dst.
func Append(dst []byte, b *Body) []byte {
	if b.Rows != nil {
		dst = appendBytes(append(dst, Version, modeRows), b.Reason)
		return append(dst, b.Rows...)
	}
	dst = append(dst, Version, modeStatements)
	dst = append(dst, b.Hash[:]...)
	dst = binary.AppendUvarint(dst, uint64(len(b.Statements)))
	for i := range b.Statements {
		dst = appendStatement(dst, &b.Statements[i])
	}
	return dst
}

func appendBytes[T string | []byte](dst []byte, b T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

func appendStatement(dst []byte, s *Statement) []byte {
	dst = appendBytes(append(dst, byte(s.Uses)), s.SQL)
	dst = binary.AppendUvarint(dst, uint64(len(s.Args)))
	for _, v := range s.Args {
		dst = rowformat.AppendValue(dst, v)
	}
	if s.Uses&UsesSeed != 0 {
		dst = append(dst, s.Seed[:]...)
	}
	for _, f := range s.numbers() {
		if s.Uses&f.use != 0 {
			dst = binary.AppendVarint(dst, *f.value)
		}
	}
	return dst
}

type number struct {
	use   Uses
	value *int64
}

func (s *Statement) numbers() [4]number {
	return [4]number{
		{UsesClock, &s.Clock}, {UsesLastRowID, &s.LastRowID}, {UsesChanges, &s.Changes}, {UsesTotalChanges, &s.TotalChanges},
	}
}

// Size is about how long a statement is in a body.
func (s *Statement) Size() int {
	n := len(s.SQL) + 48
	for _, v := range s.Args {
		n += len(v.Bytes) + 10
	}
	return n
}

// Decode reads a body; SQL, values and rows lie in it.
func Decode(body []byte) (*Body, error) {
	if len(body) < 2 {
		return nil, fmt.Errorf("%w: %d bytes", ErrCorrupt, len(body))
	}
	if body[0] != Version {
		return nil, fmt.Errorf("%w: version %d", ErrUnknown, body[0])
	}
	r := &reader{rest: body[2:]}
	out := &Body{}
	switch body[1] {
	case modeRows:
		out.Reason = string(r.bytes())
		out.Rows = r.rest
		if r.err == nil && len(out.Rows) == 0 {
			r.fail("no rows")
		}
	case modeStatements:
		copy(out.Hash[:], r.next(len(out.Hash)))
		out.Statements = r.statements()
		if r.err == nil && len(r.rest) > 0 {
			r.fail("%d bytes are left over", len(r.rest))
		}
	default:
		return nil, fmt.Errorf("%w: mode %d", ErrUnknown, body[1])
	}
	if r.err != nil {
		return nil, r.err
	}
	return out, nil
}

// reader reads forwards; the first failure sticks.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
	}
	r.rest = nil
}

func (r *reader) next(n int) []byte {
	if n < 0 || n > len(r.rest) {
		r.fail("%d bytes announced, %d left", n, len(r.rest))
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 || n > 1 && r.rest[n-1] == 0 {
		r.fail("bad number")
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) varint() int64 {
	u := r.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

// count reads a number of things that take at least one byte each.
func (r *reader) count() int {
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.fail("%d announced, %d bytes left", n, len(r.rest))
		return 0
	}
	return int(n)
}

func (r *reader) bytes() []byte { return r.next(r.count()) }

func (r *reader) statements() (list []Statement) {
	n := r.count()
	if n == 0 {
		r.fail("no statement")
	}
	for range n {
		list = append(list, r.statement())
		if r.err != nil {
			return nil
		}
	}
	return list
}

func (r *reader) statement() (s Statement) {
	if uses := r.next(1); len(uses) == 1 {
		s.Uses = Uses(uses[0])
	}
	if s.Uses&^usesAll != 0 {
		r.fail("unknown flags %02x", s.Uses)
	}
	s.SQL = r.bytes()
	for range r.count() {
		s.Args = append(s.Args, r.value())
		if r.err != nil {
			return s
		}
	}
	if s.Uses&UsesSeed != 0 {
		copy(s.Seed[:], r.next(len(s.Seed)))
	}
	for _, f := range s.numbers() {
		if s.Uses&f.use != 0 {
			*f.value = r.varint()
		}
	}
	return s
}

func (r *reader) value() base.Value {
	v, n, err := rowformat.ReadValue(r.rest)
	if err != nil {
		r.fail("%v", err)
		return v
	}
	if !bytes.Equal(rowformat.AppendValue(nil, v), r.rest[:n]) {
		r.fail("a value that is not as short as can be")
		return v
	}
	r.rest = r.rest[n:]
	return v
}

// Package pageformat is the body of a log entry of kind wal: the pages of the
// database file that one transaction has changed, as they are behind it.
// docs/format/pages.md describes the bytes.
//
// Invariants: a body that decodes has passed its checksum and makes sense as
// pages of one file; decoding never panics, whatever the bytes are, and
// allocates no more than MaxBytes for them.
//
// It is a pure core: it must not import a clock, a file, a socket or the engine.
package pageformat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"slices"

	"github.com/klauspost/compress/s2"
)

const rowless = 1 // flag

// Version of the format that Append writes.
const Version = 1

// MaxBytes bounds the pages of one entry, before they are compressed.
const MaxBytes = 256 << 20

// Bounds of SQLite's page sizes.
const (
	minPageSize = 512
	maxPageSize = 65536
)

// ErrCorrupt says that bytes are not a body.
var ErrCorrupt = errors.New("pages are corrupt")

// BaseID names the copy of a file that pages belong to: they make sense to a
// file only that was, page for page, the one that the transaction has changed.
type BaseID [16]byte

// Pages are pages of a file.
type Pages struct {
	Base     BaseID
	Rowless  bool // the transaction has changed no rows of a table of clients
	PageSize int
	Size     uint32   // of the database behind the transaction, in pages
	Numbers  []uint32 // ascending, at least one, from 1 to Size
	Data     []byte   // of the pages, one after another
}

// invalid holds the rules that both directions keep.
func (p *Pages) invalid() string {
	switch {
	case p.PageSize < minPageSize || p.PageSize > maxPageSize || p.PageSize&(p.PageSize-1) != 0:
		return fmt.Sprintf("page size %d", p.PageSize)
	case len(p.Numbers) == 0:
		return "no pages"
	case len(p.Numbers) > MaxBytes/p.PageSize:
		return fmt.Sprintf("%d pages", len(p.Numbers))
	case len(p.Data) != len(p.Numbers)*p.PageSize:
		return fmt.Sprintf("%d bytes for %d pages of %d", len(p.Data), len(p.Numbers), p.PageSize)
	case p.Numbers[len(p.Numbers)-1] > p.Size:
		return fmt.Sprintf("page %d of %d", p.Numbers[len(p.Numbers)-1], p.Size)
	}
	for i, number := range p.Numbers {
		if number == 0 || i > 0 && number <= p.Numbers[i-1] {
			return fmt.Sprintf("page %d out of order", number)
		}
	}
	return ""
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Append appends the body to dst. It panics when the pages make no sense: what
// can't be read back must not reach a log.
func Append(dst []byte, p *Pages) []byte {
	if reason := p.invalid(); reason != "" {
		panic("pageformat: " + reason)
	}
	dst = append(dst, Version)
	dst = append(dst, p.Base[:]...)
	flags := byte(0)
	if p.Rowless {
		flags = rowless
	}
	dst = append(dst, flags)
	dst = binary.AppendUvarint(dst, uint64(p.PageSize))
	dst = binary.AppendUvarint(dst, uint64(p.Size))
	dst = binary.AppendUvarint(dst, uint64(len(p.Numbers)))
	before := uint32(0)
	for _, number := range p.Numbers {
		dst = binary.AppendUvarint(dst, uint64(number-before))
		before = number
	}
	dst = binary.LittleEndian.AppendUint32(dst, crc32.Checksum(p.Data, castagnoli))
	return append(dst, s2.EncodeBetter(nil, p.Data)...)
}

// Base reads only the id of the base.
func Base(body []byte) (id BaseID, err error) {
	if len(body) < 1+len(id) {
		return id, fmt.Errorf("%w: %d bytes", ErrCorrupt, len(body))
	}
	if body[0] != Version {
		return id, fmt.Errorf("%w: version %d, want %d", ErrCorrupt, body[0], Version)
	}
	return BaseID(body[1:]), nil
}

// Decode reads a body.
func Decode(body []byte) (*Pages, error) {
	p := &Pages{}
	var err error
	if p.Base, err = Base(body); err != nil {
		return nil, err
	}
	rest := body[1+len(p.Base):]
	if len(rest) == 0 || rest[0]&^rowless != 0 {
		return nil, fmt.Errorf("%w: unknown flags", ErrCorrupt)
	}
	p.Rowless, rest = rest[0]&rowless != 0, rest[1:]
	if rest, err = p.decodeNumbers(rest); err != nil {
		return nil, err
	}
	if len(rest) < 4 {
		return nil, fmt.Errorf("%w: ends before its checksum", ErrCorrupt)
	}
	want := binary.LittleEndian.Uint32(rest)
	rest = rest[4:]
	if n, err := s2.DecodedLen(rest); err != nil || n != len(p.Numbers)*p.PageSize {
		return nil, fmt.Errorf("%w: %d bytes for %d pages of %d (%v)", ErrCorrupt, n, len(p.Numbers), p.PageSize, err)
	}
	if p.Data, err = s2.Decode(nil, rest); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if got := crc32.Checksum(p.Data, castagnoli); got != want {
		return nil, fmt.Errorf("%w: checksum is %08x, stored %08x", ErrCorrupt, got, want)
	}
	if reason := p.invalid(); reason != "" {
		return nil, fmt.Errorf("%w: %s", ErrCorrupt, reason)
	}
	return p, nil
}

// decodeNumbers reads what lies between the base and the checksum. What it
// allocates is bounded by MaxBytes, and by the bytes that are there.
func (p *Pages) decodeNumbers(b []byte) (rest []byte, err error) {
	var head [3]uint64
	for i, bound := range []uint64{maxPageSize, math.MaxUint32, MaxBytes / minPageSize} {
		if head[i], b, err = number(b, bound); err != nil {
			return nil, err
		}
	}
	p.PageSize, p.Size = int(head[0]), uint32(head[1])
	if head[2] > uint64(len(b)) || p.PageSize < minPageSize || head[2] > MaxBytes/head[0] {
		return nil, fmt.Errorf("%w: %d pages of %d bytes", ErrCorrupt, head[2], head[0])
	}
	p.Numbers = make([]uint32, head[2])
	before := uint64(0)
	for i := range p.Numbers {
		var more uint64
		if more, b, err = number(b, math.MaxUint32-before); err != nil {
			return nil, err
		}
		before += more
		p.Numbers[i] = uint32(before)
	}
	return b, nil
}

func number(b []byte, bound uint64) (uint64, []byte, error) {
	v, n := binary.Uvarint(b)
	if n <= 0 || v > bound {
		return 0, nil, fmt.Errorf("%w: bad number", ErrCorrupt)
	}
	return v, b[n:], nil
}

// IsRowless reads only whether a body is of a transaction that has changed no
// rows; false when it is no body.
func IsRowless(body []byte) bool {
	at := 1 + len(BaseID{})
	return len(body) > at && body[0] == Version && body[at]&rowless != 0
}

// Merge joins the pages as they were before each of several transactions to
// those that they were before all of them.
type Merge struct {
	first *Pages
	pages map[uint32][]byte
}

// AddOlderFirst adds the pages before the next transaction. Those that an older
// one has changed were as it says.
func (m *Merge) AddOlderFirst(p *Pages) {
	if m.first == nil {
		m.first, m.pages = p, make(map[uint32][]byte)
	}
	for i, number := range p.Numbers {
		if _, older := m.pages[number]; !older && number <= m.first.Size {
			m.pages[number] = p.Data[i*p.PageSize : (i+1)*p.PageSize]
		}
	}
}

// Pages returns what came of it.
func (m *Merge) Pages() *Pages {
	out := *m.first
	out.Numbers, out.Data = slices.Sorted(maps.Keys(m.pages)), nil
	for _, number := range out.Numbers {
		out.Data = append(out.Data, m.pages[number]...)
	}
	return &out
}

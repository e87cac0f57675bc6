package rowformat

import (
	"encoding/binary"
	"fmt"
	"iter"
	"slices"

	"github.com/skeindb/skein/internal/base"
)

// Reader walks over the records of one body.
type Reader struct {
	c       cursor
	tables  []Table
	changes int
	read    int
	first   int // where the first record begins
	record  Record
	old     []base.Value
	fresh   []base.Value
}

// NewReader reads the head of a body: version, counts and tables. The body
// must not change while the Reader or a Record of it is in use.
func NewReader(body []byte) (*Reader, error) {
	r := &Reader{}
	return r, r.Reset(body)
}

// Reset starts over on another body, reusing memory.
func (r *Reader) Reset(body []byte) error {
	r.c = cursor{data: body}
	r.read = 0
	r.tables = r.tables[:0]
	if v := r.c.byte(); r.c.err == nil && v != Version {
		return fmt.Errorf("%w: version %d, want %d", ErrUnknown, v, Version)
	}
	changes, tables := r.c.uvarint(), r.c.uvarint()
	// Every table and every record takes two bytes at the least.
	if changes > uint64(len(body)) || tables > uint64(len(body)) {
		r.c.fail("%d records of %d tables in %d bytes", changes, tables, len(body))
	}
	for range tables {
		if r.c.err != nil {
			break
		}
		r.tables = append(r.tables, r.table())
	}
	r.changes, r.first = int(changes), r.c.pos
	return r.c.err
}

func (r *Reader) table() Table {
	t := Table{Name: string(r.c.bytes(r.c.uvarint()))}
	columns, keys := r.c.uvarint(), r.c.uvarint()
	if columns > MaxColumns || keys > columns {
		r.c.fail("table %q: %d columns, %d in the key", t.Name, columns, keys)
		return t
	}
	t.Columns = int(columns)
	if r.c.err != nil || keys > uint64(r.c.left()) {
		r.c.fail("table %q: key is cut off", t.Name)
		return t
	}
	for range keys {
		k := r.c.uvarint()
		if k >= columns || slices.Contains(t.Key, int(k)) {
			r.c.fail("table %q: key column %d of %d", t.Name, k, columns)
		}
		t.Key = append(t.Key, int(k))
	}
	return t
}

// Changes returns the number of records: how many seqs the body takes.
func (r *Reader) Changes() int { return r.changes }

// Tables returns the tables the body names.
func (r *Reader) Tables() []Table { return r.tables }

// Next decodes the next record; false at the end or on a failure, see Err.
func (r *Reader) Next() bool {
	if r.c.err != nil {
		return false
	}
	if r.read == r.changes {
		if r.c.left() > 0 {
			r.c.fail("%d bytes after the last record", r.c.left())
		}
		return false
	}
	r.read++
	r.decode()
	return r.c.err == nil
}

// Record is the record Next decoded; valid until the next call of a method.
func (r *Reader) Record() *Record { return &r.record }

// Err returns why Next stopped early.
func (r *Reader) Err() error { return r.c.err }

// Backward yields the records last to first. The whole body is decoded before
// the first is yielded; when that fails, nothing is, and Err says why.
func (r *Reader) Backward() iter.Seq[*Record] {
	return func(yield func(*Record) bool) {
		r.c.pos, r.read = r.first, 0
		starts := make([]int, 0, min(r.changes, 1<<16))
		for pos := r.c.pos; r.Next(); pos = r.c.pos {
			starts = append(starts, pos)
		}
		for _, pos := range slices.Backward(starts) {
			if r.c.err != nil {
				return
			}
			r.c.pos = pos
			r.decode()
			if !yield(&r.record) {
				return
			}
		}
	}
}

func (r *Reader) decode() {
	kind := Kind(r.c.byte())
	r.record = Record{Kind: kind}
	switch kind {
	case Insert, Delete, Update, Move:
		r.row()
	case Schema:
		r.schema()
	case Sequence:
		r.sequence()
	case Statistics:
		r.statistics()
	default:
		if r.c.err == nil {
			r.c.err = fmt.Errorf("%w: record kind %d", ErrUnknown, kind)
		}
	}
}

func (r *Reader) tableRef() *Table {
	i := r.c.uvarint()
	if r.c.err != nil || i >= uint64(len(r.tables)) {
		r.c.fail("table %d of %d", i, len(r.tables))
		return nil
	}
	return &r.tables[i]
}

func (r *Reader) row() {
	rec := &r.record
	if rec.Table = r.tableRef(); rec.Table == nil {
		return
	}
	if rec.Table.HasRowID() {
		rec.RowID = r.c.varint()
		rec.NewRowID = rec.RowID
	}
	switch rec.Kind {
	case Insert:
		r.fresh = r.values(r.fresh, rec.Table.Columns)
		rec.New = r.fresh
	case Delete:
		r.old = r.values(r.old, rec.Table.Columns)
		rec.Old = r.old
	case Move:
		if !rec.Table.HasRowID() {
			r.c.fail("a move in table %q, which has no rowids", rec.Table.Name)
		}
		rec.NewRowID = r.c.varint()
		r.update()
	case Update:
		r.update()
	}
}

func (r *Reader) update() {
	rec, n := &r.record, r.record.Table.Columns
	rec.Changed = r.c.bytes(uint64(n+7) / 8)
	r.old = r.values(r.old, n)
	if r.c.err != nil {
		return
	}
	if n%8 != 0 && rec.Changed[n/8]>>(n%8) != 0 {
		r.c.fail("change bits beyond column %d", n)
		return
	}
	r.fresh = append(r.fresh[:0], r.old...)
	for i := range r.fresh {
		if rec.ColumnChanged(i) {
			r.c.value(&r.fresh[i])
		}
	}
	rec.Old, rec.New = r.old, r.fresh
}

// values reads n values. Each takes a byte at the least, which is compared
// before memory is taken.
func (r *Reader) values(dst []base.Value, n int) []base.Value {
	if r.c.err != nil || n > r.c.left() {
		r.c.fail("%d values announced, %d bytes left", n, r.c.left())
		return dst[:0]
	}
	dst = slices.Grow(dst[:0], n)[:n]
	for i := range dst {
		r.c.value(&dst[i])
	}
	return dst
}

func (r *Reader) schema() {
	flags := r.c.byte()
	hash := r.c.bytes(8)
	r.record.SQL = r.c.bytes(r.c.uvarint())
	if flags > 1 {
		r.c.fail("schema flags %#x", flags)
	}
	if r.c.err == nil {
		r.record.Inert, r.record.Hash = flags == 1, binary.BigEndian.Uint64(hash)
	}
}

func (r *Reader) sequence() {
	r.c.value(&r.record.Name)
	r.record.Before = r.sequenceRows()
	r.record.After = r.sequenceRows()
}

func (r *Reader) sequenceRows() []SequenceRow {
	n := r.c.uvarint()
	if n > uint64(r.c.left())/2 {
		r.c.fail("%d sequence rows announced, %d bytes left", n, r.c.left())
		return nil
	}
	var rows []SequenceRow
	for range n {
		row := SequenceRow{RowID: r.c.varint()}
		r.c.value(&row.Value)
		rows = append(rows, row)
	}
	return rows
}

func (r *Reader) statistics() {
	if r.record.Table = r.tableRef(); r.record.Table == nil {
		return
	}
	columns := r.record.Table.Columns
	if !r.record.Table.HasRowID() {
		r.c.fail("statistics table %q has no rowids", r.record.Table.Name)
	}
	n := r.c.uvarint()
	if n > uint64(r.c.left())/uint64(columns+1) {
		r.c.fail("%d rows announced, %d bytes left", n, r.c.left())
		return
	}
	for range n {
		if r.c.err != nil {
			return
		}
		row := StatisticsRow{RowID: r.c.varint()}
		row.Values = r.values(nil, columns)
		r.record.Rows = append(r.record.Rows, row)
	}
}

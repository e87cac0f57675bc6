package rowformat

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/skeindb/skein/internal/base"
)

// TableID is what a Buffer calls a registered table.
type TableID int32

const noTable TableID = -1

// entry is where a record lies in Buffer.data: its content after kind and
// table, up to the start of the next.
type entry struct {
	start int
	table TableID
	kind  Kind
}

// Mark is a place in a Buffer between two records.
type Mark struct {
	records int
	bytes   int
}

// Buffer collects records in order and builds bodies from them. Rows are added
// value by value, so that a caller need not hold them: BeginInsert,
// BeginDelete, BeginUpdate open a record, Value (or Before and After) give its
// columns, End closes it. The zero Buffer is ready. It allocates only to grow.
type Buffer struct {
	tables  []Table
	entries []entry
	data    []byte

	fresh   []byte // new values of the open update
	bitmap  int    // where in data the open update's bitmap is
	before  int    // where in data the last Before is
	column  int    // the next column of the open record
	changed bool   // the open record changes anything
	pairs   bool   // the open record is an update

	body  []byte // what Body returned last
	local []int32
	used  []TableID
}

// Register makes a table known. Records of a table that changed shape must be
// given under a new registration.
func (b *Buffer) Register(t Table) TableID {
	b.tables = append(b.tables, t)
	return TableID(len(b.tables) - 1)
}

// Table returns what was registered under id.
func (b *Buffer) Table(id TableID) *Table { return &b.tables[id] }

// ForgetTables drops every registration; there must be no records.
func (b *Buffer) ForgetTables() { b.tables = b.tables[:0] }

// Mark returns the present end.
func (b *Buffer) Mark() Mark { return Mark{len(b.entries), len(b.data)} }

// Rewind drops every record after m. A mark beyond the end drops nothing.
func (b *Buffer) Rewind(m Mark) {
	if m.records < len(b.entries) {
		b.entries, b.data = b.entries[:m.records], b.data[:m.bytes]
	}
}

// Since returns the number of records after m.
func (b *Buffer) Since(m Mark) int { return max(0, len(b.entries)-m.records) }

// Size returns the bytes held in records.
func (b *Buffer) Size() int { return len(b.data) }

func (b *Buffer) begin(k Kind, t TableID) {
	b.entries = append(b.entries, entry{start: len(b.data), table: t, kind: k})
	b.column, b.pairs, b.changed = 0, false, true
}

func (b *Buffer) beginRow(k Kind, t TableID, rowid int64) {
	b.begin(k, t)
	if b.tables[t].HasRowID() {
		b.data = binary.AppendVarint(b.data, rowid)
	}
}

// BeginInsert opens an Insert; rowid is ignored in tables without rowids.
func (b *Buffer) BeginInsert(t TableID, rowid int64) { b.beginRow(Insert, t, rowid) }

// BeginDelete opens a Delete.
func (b *Buffer) BeginDelete(t TableID, rowid int64) { b.beginRow(Delete, t, rowid) }

// BeginUpdate opens an Update, or a Move when the rowid changes.
func (b *Buffer) BeginUpdate(t TableID, from, to int64) {
	moved := b.tables[t].HasRowID() && from != to
	if moved {
		b.beginRow(Move, t, from)
		b.data = binary.AppendVarint(b.data, to)
	} else {
		b.beginRow(Update, t, from)
	}
	b.pairs, b.changed, b.bitmap, b.fresh = true, moved, len(b.data), b.fresh[:0]
	for range (b.tables[t].Columns + 7) / 8 {
		b.data = append(b.data, 0)
	}
}

// Value gives the next column of an Insert or Delete.
func (b *Buffer) Value(v base.Value) {
	b.data = AppendValue(b.data, v)
	b.column++
}

// Before gives the next column of an Update as it was; After must follow.
func (b *Buffer) Before(v base.Value) {
	b.before = len(b.data)
	b.data = AppendValue(b.data, v)
}

// After gives the same column as it will be. A value has one encoding, so that
// equal bytes are equal values.
func (b *Buffer) After(v base.Value) {
	start := len(b.fresh)
	b.fresh = AppendValue(b.fresh, v)
	if bytes.Equal(b.data[b.before:], b.fresh[start:]) {
		b.fresh = b.fresh[:start]
	} else {
		b.data[b.bitmap+b.column>>3] |= 1 << (b.column & 7)
		b.changed = true
	}
	b.column++
}

// End closes the open record. It returns false when the record was dropped: an
// update that changes nothing.
func (b *Buffer) End() bool {
	if !b.changed {
		b.Abort()
		return false
	}
	if b.pairs {
		b.data = append(b.data, b.fresh...)
	}
	return true
}

// Abort drops the open record.
func (b *Buffer) Abort() {
	last := len(b.entries) - 1
	b.data = b.data[:b.entries[last].start]
	b.entries = b.entries[:last]
}

// Schema adds a Schema record.
func (b *Buffer) Schema(sql string, hash uint64, inert bool) {
	b.begin(Schema, noTable)
	b.data = append(b.data, boolByte(inert))
	b.data = binary.BigEndian.AppendUint64(b.data, hash)
	b.data = binary.AppendUvarint(b.data, uint64(len(sql)))
	b.data = append(b.data, sql...)
}

func boolByte(set bool) byte {
	if set {
		return 1
	}
	return 0
}

// Sequence adds a Sequence record.
func (b *Buffer) Sequence(name base.Value, before, after []SequenceRow) {
	b.begin(Sequence, noTable)
	b.data = AppendValue(b.data, name)
	for _, rows := range [2][]SequenceRow{before, after} {
		b.data = binary.AppendUvarint(b.data, uint64(len(rows)))
		for _, r := range rows {
			b.data = AppendValue(binary.AppendVarint(b.data, r.RowID), r.Value)
		}
	}
}

// Statistics adds a Statistics record; every row has the table's columns.
func (b *Buffer) Statistics(t TableID, rows []StatisticsRow) {
	b.begin(Statistics, t)
	b.data = binary.AppendUvarint(b.data, uint64(len(rows)))
	for _, r := range rows {
		b.data = binary.AppendVarint(b.data, r.RowID)
		for _, v := range r.Values {
			b.data = AppendValue(b.data, v)
		}
	}
}

// Tables appends to dst the tables that records after m name and wanted
// accepts, each once, in order of their first such record.
func (b *Buffer) Tables(dst []TableID, m Mark, wanted func(TableID, Kind) bool) []TableID {
	for _, e := range b.entries[min(m.records, len(b.entries)):] {
		if e.table != noTable && wanted(e.table, e.kind) && !slices.Contains(dst, e.table) {
			dst = append(dst, e.table)
		}
	}
	return dst
}

// Body builds the finished body of the records after m, which stay in the
// Buffer. The bytes are valid until the next call of Body.
func (b *Buffer) Body(m Mark) []byte {
	entries := b.entries[min(m.records, len(b.entries)):]
	b.number(entries)
	out := append(b.body[:0], Version)
	out = binary.AppendUvarint(out, uint64(len(entries)))
	out = binary.AppendUvarint(out, uint64(len(b.used)))
	for _, id := range b.used {
		out = appendTable(out, &b.tables[id])
	}
	for i, e := range entries {
		end := len(b.data)
		if i+1 < len(entries) {
			end = entries[i+1].start
		}
		out = append(out, byte(e.kind))
		if e.table != noTable {
			out = binary.AppendUvarint(out, uint64(b.local[e.table]))
		}
		out = append(out, b.data[e.start:end]...)
	}
	for _, id := range b.used {
		b.local[id] = -1
	}
	b.body = out
	return out
}

// number fills used with the tables of entries in order of appearance, and
// local with the place of each in it. Between calls local is all -1.
func (b *Buffer) number(entries []entry) {
	b.used = b.used[:0]
	for len(b.local) < len(b.tables) {
		b.local = append(b.local, -1)
	}
	for _, e := range entries {
		if e.table != noTable && b.local[e.table] < 0 {
			b.local[e.table] = int32(len(b.used))
			b.used = append(b.used, e.table)
		}
	}
}

func appendTable(dst []byte, t *Table) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(t.Name)))
	dst = append(dst, t.Name...)
	dst = binary.AppendUvarint(dst, uint64(t.Columns))
	dst = binary.AppendUvarint(dst, uint64(len(t.Key)))
	for _, k := range t.Key {
		dst = binary.AppendUvarint(dst, uint64(k))
	}
	return dst
}

// After says that m lies behind n.
func (m Mark) After(n Mark) bool { return m.records > n.records }

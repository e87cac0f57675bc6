package rowformat

import (
	"errors"

	"github.com/skeindb/skein/internal/base"
)

// Version is the first byte of every body.
const Version = 1

// MaxColumns bounds the columns of a table; SQLite's own limit is 32767.
const MaxColumns = 32767

// ErrCorrupt says that a body is not well-formed.
var ErrCorrupt = errors.New("row body is corrupt")

// ErrUnknown says that a body is of a version, or holds a kind of record, that
// this program does not know: a newer program wrote it.
var ErrUnknown = errors.New("row body was written by a newer version")

// Kind of a record.
type Kind uint8

// The kinds of records. The numbers are part of the format.
const (
	Insert     Kind = 1 // a row came
	Update     Kind = 2 // a row changed under the same rowid, or in a table without rowids
	Delete     Kind = 3 // a row went
	Move       Kind = 4 // a row changed and got another rowid
	Schema     Kind = 5 // a statement that changes the schema, as text
	Sequence   Kind = 6 // what sqlite_sequence holds for one table name
	Statistics Kind = 7 // the whole content of a table of the query planner
)

// String returns the kind in lower case.
func (k Kind) String() string {
	names := [...]string{"", "insert", "update", "delete", "move", "schema", "sequence", "statistics"}
	if k == 0 || int(k) >= len(names) {
		return "unknown"
	}
	return names[k]
}

// Table describes, within one body, how the rows of a table are written.
type Table struct {
	Name string
	// Columns is the number of values of a row: every column but generated
	// ones and the INTEGER PRIMARY KEY, which is the rowid.
	Columns int
	// Key lists the values that are the primary key of a WITHOUT ROWID table,
	// in key order. It is empty for tables whose rows have a rowid.
	Key []int
}

// HasRowID says that rows are named by rowid.
func (t Table) HasRowID() bool { return len(t.Key) == 0 }

// SequenceRow is one row of sqlite_sequence under the record's table name.
type SequenceRow struct {
	RowID int64
	Value base.Value
}

// StatisticsRow is one row of a table of the query planner.
type StatisticsRow struct {
	RowID  int64
	Values []base.Value
}

// Record is one decoded record. Bytes of values point into the body, and the
// slices are reused: all of it is valid until the Reader moves.
type Record struct {
	Kind  Kind
	Table *Table // Insert, Update, Delete, Move, Statistics

	// RowID names the row before the change, NewRowID after it; both are the
	// row's one rowid but for Move, and 0 in tables without rowids.
	RowID, NewRowID int64
	// Old holds the row before, but for Insert; New the row after, but for
	// Delete, with the columns that did not change filled in.
	Old, New []base.Value
	// Changed has bit i%8 of byte i/8 set when column i changed (Update, Move).
	Changed []byte

	// SQL, Hash and Inert belong to Schema. Hash is of the schema after the
	// statement. Inert says that the statement changes nothing that undoing
	// would have to restore.
	SQL   []byte
	Hash  uint64
	Inert bool

	// Name, Before and After belong to Sequence.
	Name          base.Value
	Before, After []SequenceRow

	// Rows belongs to Statistics.
	Rows []StatisticsRow
}

// ColumnChanged says whether bit i of Changed is set.
func (r *Record) ColumnChanged(i int) bool { return r.Changed[i>>3]&(1<<(i&7)) != 0 }

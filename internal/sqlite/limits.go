package sqlite

import (
	"github.com/ncruces/go-sqlite3"

	"github.com/skeindb/skein/internal/base"
)

// Limits bound what one statement may ask of the engine. Zero means the
// default that the comment names.
type Limits struct {
	// SQLBytes is the length of a statement's text. 1 MiB.
	SQLBytes int
	// ValueBytes is the length of one text, blob or row. 64 MiB.
	ValueBytes int
	// Columns of a table, index, result or SET clause. 2000.
	Columns int
	// ExprDepth is the depth of an expression's tree. 200: the engine's stack
	// overflows, which costs the connection, from 200 to 400 on, depending on
	// the operators.
	ExprDepth int
	// CompoundSelect is the number of SELECTs in one compound. 100, for the
	// same reason.
	CompoundSelect int
	// ProgramOps is the length of a compiled statement. 1000000.
	ProgramOps int
	// FunctionArgs is the number of arguments of a function. 100.
	FunctionArgs int
	// LikePatternBytes is the length of a LIKE or GLOB pattern. 1 KiB.
	LikePatternBytes int
	// Variables is the highest parameter number. 32766.
	Variables int
	// TriggerDepth is how deep triggers may nest. 100.
	TriggerDepth int
	// MemoryMiB is the memory that one connection may use, cache included.
	// 256.
	MemoryMiB int
}

func (l Limits) withDefaults() Limits {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&l.SQLBytes, 1<<20)
	def(&l.ValueBytes, 64<<20)
	def(&l.Columns, 2000)
	def(&l.ExprDepth, 200)
	def(&l.CompoundSelect, 100)
	def(&l.ProgramOps, 1_000_000)
	def(&l.FunctionArgs, 100)
	def(&l.LikePatternBytes, 1<<10)
	def(&l.Variables, 32766)
	def(&l.TriggerDepth, 100)
	def(&l.MemoryMiB, 256)
	return l
}

func (l Limits) validate() error {
	for _, v := range []int{l.SQLBytes, l.ValueBytes, l.Columns, l.ExprDepth, l.CompoundSelect, l.ProgramOps,
		l.FunctionArgs, l.LikePatternBytes, l.Variables, l.TriggerDepth, l.MemoryMiB} {
		if v < 0 {
			return base.Errorf(base.KindInvalid, "limits: a limit must not be negative")
		}
	}
	if l.MemoryMiB > 4096 {
		return base.Errorf(base.KindInvalid, "limits: memory of a connection is %d MiB; at most 4096", l.MemoryMiB)
	}
	return nil
}

// apply sets the limits. Attached databases are off for every connection.
func (l Limits) apply(raw *sqlite3.Conn) {
	raw.Limit(sqlite3.LIMIT_SQL_LENGTH, l.SQLBytes)
	raw.Limit(sqlite3.LIMIT_LENGTH, l.ValueBytes)
	raw.Limit(sqlite3.LIMIT_COLUMN, l.Columns)
	raw.Limit(sqlite3.LIMIT_EXPR_DEPTH, l.ExprDepth)
	raw.Limit(sqlite3.LIMIT_COMPOUND_SELECT, l.CompoundSelect)
	raw.Limit(sqlite3.LIMIT_VDBE_OP, l.ProgramOps)
	raw.Limit(sqlite3.LIMIT_FUNCTION_ARG, l.FunctionArgs)
	raw.Limit(sqlite3.LIMIT_LIKE_PATTERN_LENGTH, l.LikePatternBytes)
	raw.Limit(sqlite3.LIMIT_VARIABLE_NUMBER, l.Variables)
	raw.Limit(sqlite3.LIMIT_TRIGGER_DEPTH, l.TriggerDepth)
	raw.Limit(sqlite3.LIMIT_ATTACHED, 0)
}

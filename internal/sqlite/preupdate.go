package sqlite

import (
	"errors"

	"github.com/ncruces/go-sqlite3"

	"github.com/skeindb/skein/internal/base"
)

// Op is what happens to a row.
type Op uint8

// The row operations.
const (
	Insert Op = iota + 1
	Update
	Delete
)

// String returns the operation's SQL keyword.
func (o Op) String() string {
	switch o {
	case Insert:
		return "INSERT"
	case Update:
		return "UPDATE"
	case Delete:
		return "DELETE"
	}
	return "unknown"
}

// ErrNoValue says that the hook cannot deliver a column: it is a VIRTUAL
// generated one, or its number is out of range.
var ErrNoValue = errors.New("column has no stored value")

// PreUpdate describes one row that is about to change. It is valid only while
// the hook runs, and so are the bytes of the values that it returns.
//
// The hook also fires for rows that are undone later by a failing statement or
// a ROLLBACK TO, and for tables of the "temp" schema; it does not fire for
// schema changes, rows of CREATE TABLE AS, and sqlite_sequence.
type PreUpdate struct {
	data    sqlite3.PreUpdateData
	damaged func(error)

	Op            Op
	Schema, Table string
	// OldRowID and NewRowID are zero for a WITHOUT ROWID table.
	OldRowID, NewRowID int64
}

// OnPreUpdate calls f before each row change of this connection; nil stops it.
// f must not use the connection.
func (c *Conn) OnPreUpdate(f func(PreUpdate)) {
	if f == nil {
		c.raw.PreUpdateHook(nil)
		return
	}
	c.raw.PreUpdateHook(func(d sqlite3.PreUpdateData) {
		p := PreUpdate{data: d, damaged: c.damaged, Schema: d.Schema, Table: d.Table, OldRowID: d.OldRowID, NewRowID: d.NewRowID}
		switch d.Op {
		case sqlite3.AUTH_INSERT:
			p.Op = Insert
		case sqlite3.AUTH_UPDATE:
			p.Op = Update
		default:
			p.Op = Delete
		}
		f(p)
	})
}

// Depth is 0 for a row changed by the statement itself, 1 for one changed by a
// trigger or a foreign key action of it, 2 for one below that, and so on.
func (p *PreUpdate) Depth() int { return p.data.Depth() }

// Count returns the number of columns, generated ones included.
func (p *PreUpdate) Count() int { return p.data.Count() }

// Old returns column i as it was before an update or delete. Its bytes belong
// to the engine and are valid until the next call of Old or New.
func (p *PreUpdate) Old(i int) (base.Value, error) {
	v, err := p.data.Old(i)
	if err != nil {
		return base.Value{}, p.failed(err)
	}
	return valueOf(v), nil
}

// New returns column i as it will be after an insert or update. Its bytes
// belong to the engine and are valid until the next call of Old or New.
func (p *PreUpdate) New(i int) (base.Value, error) {
	v, err := p.data.New(i)
	if err != nil {
		return base.Value{}, p.failed(err)
	}
	return valueOf(v), nil
}

func (p *PreUpdate) failed(err error) error {
	if errors.Is(err, sqlite3.RANGE) {
		return ErrNoValue
	}
	err = mapError(err, nil)
	tellDamage(p.damaged, err)
	return err
}

func valueOf(v sqlite3.Value) base.Value {
	switch v.Type() {
	case sqlite3.INTEGER:
		return base.Value{Kind: base.Integer, Int: v.Int64()}
	case sqlite3.FLOAT:
		return base.Value{Kind: base.Real, Float: v.Float()}
	case sqlite3.TEXT:
		return base.Value{Kind: base.Text, Bytes: v.RawText()}
	case sqlite3.BLOB:
		return base.Value{Kind: base.Blob, Bytes: v.RawBlob()}
	}
	return base.Value{}
}

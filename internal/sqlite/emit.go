package sqlite

import (
	"github.com/ncruces/go-sqlite3"

	"github.com/skeindb/skein/internal/base"
)

// EmitFunction is the SQL function by which a trigger, or a statement of a
// write transaction, hands a record to the log. Every connection knows it, so
// that triggers that call it are valid everywhere.
const EmitFunction = "skein_emit"

// ChangesTable is where such records are until their transaction ends. Clients
// may read it, and nothing else of what is ours.
const ChangesTable = ownPrefix + "changes"

// OnEmit calls f with the arguments of each call of EmitFunction; nil stops it,
// and calls then do nothing. f may run statements of ours on the connection.
// Its error fails the statement that called.
func (c *Conn) OnEmit(f func(args []base.Value) error) { c.emit = f }

func (c *Conn) registerEmit() error {
	return c.raw.CreateFunction(EmitFunction, -1, sqlite3.INNOCUOUS, func(ctx sqlite3.Context, args ...sqlite3.Value) {
		if err := c.emitted(args); err != nil {
			ctx.ResultError(err)
		}
	})
}

// emitted answers a call. Statements that f runs have a guard of their own, and
// give the caller its own back; the id of the last insert is the client's.
func (c *Conn) emitted(args []sqlite3.Value) error {
	if c.role == RoleReader {
		return base.Errorf(base.KindUnsupported, "%s works in triggers and in write transactions only", EmitFunction)
	}
	if c.emit == nil {
		return nil
	}
	values := make([]base.Value, len(args))
	for i, a := range args {
		values[i] = valueOf(a).Clone()
	}
	enforced, last := c.enforced, c.raw.LastInsertRowID()
	err := c.emit(values)
	c.raw.SetLastInsertRowID(last)
	c.enforced = enforced
	return err
}

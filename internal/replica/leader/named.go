package leader

import (
	"context"
	"fmt"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/sqlite"
)

// Writes that clients have named are remembered in the database itself, in the
// transaction of the write, on every replica: so a write under the same name is
// applied once, whoever leads, whatever was restarted or copied.
const (
	createOperationSQL = `CREATE TABLE IF NOT EXISTS _skein_operation (
	id BLOB PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, rows INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS _skein_operation_seq ON _skein_operation(seq)`
	findOperationSQL   = "SELECT epoch, seq, rows FROM _skein_operation WHERE id = ?1"
	noteOperationSQL   = "INSERT OR REPLACE INTO _skein_operation VALUES (?1, ?2, ?3, ?4)"
	undoOperationsSQL  = "DELETE FROM _skein_operation WHERE seq > ?1"
	pruneOperationsSQL = `DELETE FROM _skein_operation WHERE seq <=
	(SELECT seq FROM _skein_operation ORDER BY seq DESC LIMIT 1 OFFSET ?1)`

	// KeptOperations is of how many named writes the newest are remembered.
	KeptOperations = 100_000
	// pruneEvery is how many more there may be before the oldest are forgotten.
	pruneEvery = 1000
)

// named writes and finds named operations through one connection.
type named struct{ sincePruned int }

// note remembers an entry's operation, in the transaction that is open.
func (n *named) note(conn *sqlite.Conn, e *entry.Entry) error {
	if !e.HasOperation {
		return nil
	}
	id, rows := unpackOperation(e.Operation)
	if !id.Named() {
		return nil
	}
	at := e.Position()
	err := conn.RunOwn(noteOperationSQL, base.Value{Kind: base.Blob, Bytes: id[:]},
		base.IntValue(int64(at.Epoch)), base.IntValue(int64(at.Seq)), base.IntValue(rows))
	if err != nil {
		return fmt.Errorf("remember operation %v: %w", id, err)
	}
	if n.sincePruned++; n.sincePruned < pruneEvery {
		return nil
	}
	n.sincePruned = 0
	return conn.RunOwn(pruneOperationsSQL, base.IntValue(KeptOperations))
}

// findOperation looks a named operation up.
func findOperation(conn *sqlite.Conn, id replica.OperationID) (op operation, found bool, err error) {
	st, err := conn.PrepareOwn(findOperationSQL)
	if err != nil {
		return op, false, err
	}
	defer st.Close()
	if err := st.BindAll([]base.Value{{Kind: base.Blob, Bytes: id[:]}}); err != nil {
		return op, false, err
	}
	found, err = st.Step()
	if found {
		op.at = base.Position{Epoch: base.Epoch(st.Column(0).Int), Seq: base.Seq(st.Column(1).Int)}
		op.rows = st.Column(2).Int
	}
	return op, found, err
}

// findNamed looks a named operation up in this replica's file.
func (r *Replica) findNamed(ctx context.Context, id replica.OperationID) (op operation, found bool, err error) {
	err = r.readOwn(ctx, func(conn *sqlite.Conn) (err error) {
		op, found, err = findOperation(conn, id)
		return err
	})
	return op, found, err
}

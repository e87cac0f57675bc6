package leader

import (
	"context"
	"fmt"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
)

// A leader that was lost may have handed out AUTOINCREMENT ids that nobody else
// knows of. Its successor begins so far behind them that none is handed out
// twice, as far as one can tell: of a leader whose acknowledged writes are here
// only what was under way is missing; of one that ran ahead of its followers it
// may be much.
const (
	skipIDs      = 10_000
	skipIDsLossy = 1 << 20
	skipIDsSQL   = "UPDATE sqlite_sequence SET seq = seq + ?1 WHERE typeof(seq) = 'integer' AND seq < 9223372036854775807 - ?1"
)

// skipIDs raises the sequences of all tables, as a write of the new epoch.
func (w *writer) skipIDs(by int64) error {
	n, err := countWhere(w.conn, "name = 'sqlite_sequence'")
	if err != nil || n == 0 {
		return err
	}
	j := &writeJob{
		ctx: context.Background(), done: make(chan writeReply, 1),
		request: replica.WriteRequest{Statements: []replica.Statement{{SQL: skipIDsSQL, Args: []base.Value{base.IntValue(by)}}}, Guard: replica.GuardAdmin},
	}
	if err := w.commitBatch([]*writeJob{j}, false); err != nil {
		return err
	}
	if j.err != nil {
		return fmt.Errorf("skip the ids that a lost leader may have handed out: %w", j.err)
	}
	return nil
}

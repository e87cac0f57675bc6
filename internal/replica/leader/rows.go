package leader

import (
	"context"
	"fmt"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/pageformat"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/statementformat"
)

// Some entries do not hold the rows that they change. Every replica that
// executes such an entry keeps its row changes aside, in its own file and in the
// same transaction: they are what undoes the entry, and what change streams and
// lists of orphaned writes show.
const (
	createRowsSQL = "CREATE TABLE IF NOT EXISTS _skein_rows (seq INTEGER PRIMARY KEY, body BLOB NOT NULL)"
	countRowsSQL  = "SELECT count(*) FROM sqlite_schema WHERE name = '_skein_rows'"
	keepRowsSQL   = "INSERT OR REPLACE INTO _skein_rows VALUES (?1, ?2)"
	readRowsSQL   = "SELECT body FROM _skein_rows WHERE seq = ?1"
	undoRowsSQL   = "DELETE FROM _skein_rows WHERE seq > ?1"
	sizeRowsSQL   = "SELECT coalesce(sum(length(body)), 0) FROM _skein_rows"
	eachRowsSQL   = "SELECT seq, length(body) FROM _skein_rows ORDER BY seq"
	pruneRowsSQL  = "DELETE FROM _skein_rows WHERE seq <= ?1"
)

// makeRowsTable makes the table where it is missing.
func makeRowsTable(conn *sqlite.Conn) error {
	n, err := ownInteger(conn, countRowsSQL)
	if err != nil || n > 0 {
		return err
	}
	return conn.Exec(createRowsSQL)
}

// aside keeps rows aside through one connection, within a bound.
type aside struct {
	bytes int64 // held by the table, once known
	known bool
}

// keep keeps the row changes of an entry, in the transaction that is open, and
// forgets the oldest beyond limit bytes and those that the log has no more.
func (a *aside) keep(conn *sqlite.Conn, e *entry.Entry, body []byte, limit int64, logStart base.Seq) error {
	if !a.known {
		size, err := ownInteger(conn, sizeRowsSQL)
		if err != nil {
			return fmt.Errorf("keep rows aside: %w", err)
		}
		a.bytes, a.known = size, true
	}
	if err := conn.RunOwn(keepRowsSQL, base.IntValue(int64(e.First)), base.Value{Kind: base.Blob, Bytes: body}); err != nil {
		return fmt.Errorf("keep the rows of %v aside: %w", e.Position(), err)
	}
	if a.bytes += int64(len(body)); a.bytes <= limit {
		return nil
	}
	return a.prune(conn, limit, logStart)
}

// prune gives a quarter of the limit back, so that it is not needed each time.
func (a *aside) prune(conn *sqlite.Conn, limit int64, logStart base.Seq) error {
	var last int64
	for row, err := range conn.QueryOwn(eachRowsSQL) {
		if err != nil {
			return err
		}
		if a.bytes <= limit-limit/4 && base.Seq(row.Column(0).Int) >= logStart {
			break
		}
		last = row.Column(0).Int
		a.bytes -= row.Column(1).Int
	}
	return conn.RunOwn(pruneRowsSQL, base.IntValue(last))
}

// forget is for when what the connection has done was undone.
func (a *aside) forget() { a.known = false }

// keptRows returns the row changes that are kept of the entry that begins at first.
func keptRows(conn *sqlite.Conn, first base.Seq) (body []byte, found bool, err error) {
	st, err := conn.PrepareOwn(readRowsSQL)
	if err != nil {
		return nil, false, err
	}
	defer st.Close()
	if err := st.BindAll([]base.Value{base.IntValue(int64(first))}); err != nil {
		return nil, false, err
	}
	if found, err = st.Step(); found {
		body = st.Column(0).Clone().Bytes
	}
	return body, found, err
}

// rowless says that an entry changes no rows.
func rowless(e *entry.Entry) bool {
	switch e.Kind {
	case entry.EpochStart, entry.Format:
		return true
	}
	return e.Kind == entry.WAL && pageformat.IsRowless(e.Body)
}

// holdsRows says that an entry's rows are in itself.
func holdsRows(e *entry.Entry) bool {
	if e.Kind != entry.Statement {
		return e.Kind == entry.Row || e.Kind == entry.Trigger
	}
	b, err := statementformat.Decode(e.Body)
	return err == nil && b.Rows != nil
}

// rows reads the rows of an entry from this replica's file, unless it holds them.
func (r *Replica) rows(ctx context.Context, e *entry.Entry) (body []byte, found bool, err error) {
	if holdsRows(e) {
		return rowsOf(nil, e)
	}
	err = r.readOwn(ctx, func(conn *sqlite.Conn) (err error) {
		body, found, err = rowsOf(conn, e)
		return err
	})
	return body, found, err
}

// rowsOf returns an entry's changes as a row body: its own, or what is kept of
// it in the file. It is not found when it has none or they are not kept.
func rowsOf(conn *sqlite.Conn, e *entry.Entry) (body []byte, found bool, err error) {
	switch e.Kind {
	case entry.Row:
		return e.Body, true, nil
	case entry.Trigger:
		body, err = triggerRows(e)
		return body, err == nil, err
	case entry.EpochStart, entry.Format:
		return nil, false, nil
	}
	if e.Kind == entry.Statement {
		b, err := statementformat.Decode(e.Body)
		if err != nil {
			return nil, false, err
		}
		if b.Rows != nil {
			return b.Rows, true, nil
		}
	}
	return keptRows(conn, e.First)
}

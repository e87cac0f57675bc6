package leader

import (
	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/capture/statement"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/sqlite"
)

// recorder catches what clients' statements change, for one log format and one
// write connection. The order of calls is that of row.Recorder.
type recorder interface {
	// Mark is the place before a batch, a job, a savepoint or a statement.
	Mark() mark
	// Rewind follows the ROLLBACK that undid everything since the mark.
	Rewind(m mark)
	// Before is called when a client's statement is about to run.
	Before(st *sqlite.Stmt, s replica.Statement) error
	// After is called when it ran well; an error undoes it.
	After(st *sqlite.Stmt, s replica.Statement) error
	// Size is how many bytes are held; it bounds a transaction.
	Size() int
	// Err is why something could not be caught.
	Err() error
	// SchemasRead rises when the schema may have changed.
	SchemasRead() int
	// Take returns the transaction since a mark, before its entry is built.
	Take(m mark) (captured, error)
	// Close stops catching; the connection stays open.
	Close()
}

// mark is a place in what a recorder has caught.
type mark struct {
	rows       row.Mark
	statements statement.Mark
}

// captured is a transaction as its entry will hold it.
type captured struct {
	kind    entry.Kind
	body    []byte // valid until the next Take
	changes int    // of rows; 0: the log gets nothing
	// rows is the row body of the same changes, to be kept aside in the file; nil
	// when they can be read from body.
	rows []byte
}

// openRecorder begins to catch what a connection changes, in a format.
func openRecorder(e *env.Env, format string, conn *sqlite.Conn) (recorder, error) {
	switch format {
	case base.FormatRow:
		return newRowRecorder(conn)
	case base.FormatStatement:
		return newStatementRecorder(e, conn)
	case base.FormatWAL:
		return newPageRecorder(conn)
	case base.FormatTrigger:
		return newTriggerRecorder(conn)
	}
	return nil, base.Errorf(base.KindUnsupported, "log format %q is not available in this version", format)
}

// rowRecorder catches in format row.
type rowRecorder struct{ *row.Recorder }

func newRowRecorder(conn *sqlite.Conn) (recorder, error) {
	rows, err := row.NewRecorder(conn)
	if err != nil {
		return nil, err
	}
	return rowRecorder{rows}, nil
}

func (r rowRecorder) Mark() mark                                   { return mark{rows: r.Recorder.Mark()} }
func (r rowRecorder) Rewind(m mark)                                { r.Recorder.Rewind(m.rows) }
func (r rowRecorder) Before(*sqlite.Stmt, replica.Statement) error { return nil }
func (r rowRecorder) After(st *sqlite.Stmt, s replica.Statement) error {
	return r.Recorder.Statement(st.Info(), s.SQL)
}

func (r rowRecorder) Take(m mark) (captured, error) {
	body, changes, err := r.Recorder.Take(m.rows)
	return captured{kind: entry.Row, body: body, changes: changes}, err
}

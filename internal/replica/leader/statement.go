package leader

import (
	"errors"
	"fmt"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/statement"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/statementformat"
)

// statementRecorder catches in format statement.
type statementRecorder struct{ list *statement.Recorder }

func newStatementRecorder(e *env.Env, conn *sqlite.Conn) (recorder, error) {
	list, err := statement.NewRecorder(conn, e.Clock.Now, e.Rand)
	if err != nil {
		return nil, err
	}
	return statementRecorder{list}, nil
}

func (r statementRecorder) Mark() mark       { return mark{statements: r.list.Mark()} }
func (r statementRecorder) Rewind(m mark)    { r.list.Rewind(m.statements) }
func (r statementRecorder) Size() int        { return r.list.Size() }
func (r statementRecorder) Err() error       { return r.list.Err() }
func (r statementRecorder) SchemasRead() int { return r.list.SchemasRead() }
func (r statementRecorder) Close()           { r.list.Close() }
func (r statementRecorder) stale() bool      { return r.list.Stale() }

func (r statementRecorder) Before(st *sqlite.Stmt, _ replica.Statement) error {
	r.list.Before(st)
	return nil
}

func (r statementRecorder) After(st *sqlite.Stmt, s replica.Statement) error {
	return r.list.After(st, s.SQL, s.Args)
}

func (r statementRecorder) Take(m mark) (captured, error) {
	t, err := r.list.Take(m.statements)
	switch {
	case err != nil:
		return captured{}, err
	case t.Body == nil:
		return captured{kind: entry.Row, body: t.Rows, changes: t.Changes}, nil
	case t.Replayed:
		return captured{kind: entry.Statement, body: t.Body, changes: t.Changes, rows: t.Rows}, nil
	}
	return captured{kind: entry.Statement, body: t.Body, changes: t.Changes}, nil
}

// statementApplier executes statements again, and compares what they change with
// what they have changed on the leader.
type statementApplier struct {
	applier  *applier
	conn     *sqlite.Conn // nil until it is needed
	replayer *statement.Replayer
	first    base.Seq // of the entry that body is of
	body     *statementformat.Body
}

func (s *statementApplier) decode(e *entry.Entry) error {
	if s.body != nil && s.first == e.First {
		return nil
	}
	body, err := statementformat.Decode(e.Body)
	if err != nil {
		return err
	}
	s.first, s.body = e.First, body
	return nil
}

// connection is that of rows for what travels, or was fetched, as rows.
func (s *statementApplier) connection(e *entry.Entry) (*sqlite.Conn, error) {
	s.body = nil // It lies in a buffer that is reused.
	if err := s.decode(e); err != nil {
		return nil, err
	}
	if s.body.Rows != nil || s.applier.fetchedRows(e) != nil {
		return s.applier.conn, nil
	}
	if err := s.openConn(); err != nil {
		return nil, err
	}
	return s.conn, nil
}

func (s *statementApplier) openConn() error {
	if s.conn != nil {
		return nil
	}
	db := s.applier.replica.file()
	if db == nil {
		return s.applier.replica.unavailable()
	}
	conn, err := db.OpenBeside(s.applier.ctx, sqlite.RoleWriter)
	if err != nil {
		return fmt.Errorf("open a connection for statements: %w", err)
	}
	replayer, err := statement.NewReplayer(conn)
	if err != nil {
		return errors.Join(fmt.Errorf("prepare a connection for statements: %w", err), conn.Close())
	}
	s.conn, s.replayer = conn, replayer
	return nil
}

func (s *statementApplier) begun() error {
	if s.applier.open != s.conn {
		return nil
	}
	return s.replayer.Begun()
}

func (s *statementApplier) undone() {
	if s.replayer != nil {
		s.replayer.Undone()
	}
}

func (s *statementApplier) close() error { return s.conn.Close() }

func (s *statementApplier) apply(e *entry.Entry) error {
	a := s.applier
	if s.body.Rows != nil {
		return a.applyRows(e, s.body.Rows)
	}
	rows := a.fetchedRows(e)
	if rows != nil {
		if err := a.applyRows(e, rows); err != nil {
			return err
		}
	} else {
		var err error
		if rows, err = s.replay(e); err != nil {
			return err
		}
	}
	return a.aside.keep(a.open, e, rows, a.replica.retention(), a.replica.changes.Start())
}

// replay executes an entry's statements; a *difference says that they did
// something else than on the leader.
func (s *statementApplier) replay(e *entry.Entry) ([]byte, error) {
	rows, changes, err := s.replayer.Run(s.body)
	if err == nil && changes != int(e.Count) {
		err = statement.ErrDifferent
	}
	if errors.Is(err, statement.ErrDifferent) {
		return nil, newDifference(e, s.body, rows, err)
	}
	return rows, err
}

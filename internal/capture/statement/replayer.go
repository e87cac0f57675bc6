package statement

import (
	"errors"
	"fmt"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/statementformat"
)

// ErrDifferent says that statements did not run here as they did on the leader.
var ErrDifferent = errors.New("the statement does not do here what it did on the leader")

// Replayer executes statements as their leader did, through a connection with
// RoleWriter, inside the caller's transaction.
type Replayer struct {
	conn    *sqlite.Conn
	rows    *row.Recorder
	version int64 // of the file's content, as other connections have changed it
}

// NewReplayer prepares the connection, outside of a transaction.
func NewReplayer(conn *sqlite.Conn) (*Replayer, error) {
	if err := conn.FixOutside(true); err != nil {
		return nil, err
	}
	if err := conn.PrepareLeave(); err != nil {
		return nil, err
	}
	return &Replayer{conn: conn, version: -1}, nil
}

// Begun is called when a transaction has begun: other connections may have
// written meanwhile.
func (r *Replayer) Begun() error {
	version, err := r.conn.DataVersion()
	if err != nil || version == r.version && r.rows != nil {
		return err
	}
	if r.rows, err = row.NewRecorder(r.conn); err != nil {
		return err
	}
	r.version = version
	return nil
}

// Undone is called when the transaction was rolled back.
func (r *Replayer) Undone() { r.rows = nil }

// Run executes the statements of a body. It returns the rows that they changed,
// which are valid until the next call; ErrDifferent tells that they failed, or
// did something else. Then, and after any other error, the caller must roll back
// and call Begun again.
func (r *Replayer) Run(b *statementformat.Body) (rows []byte, changes int, err error) {
	m := r.rows.Mark()
	for i := range b.Statements {
		if err := r.statement(&b.Statements[i]); err != nil {
			r.rows = nil
			return nil, 0, fmt.Errorf("%s: %w", b.Statements[i].SQL, different(err))
		}
	}
	rows, changes, err = r.rows.Take(m)
	if err == nil && statementformat.HashRows(rows) != b.Hash {
		err = ErrDifferent
	}
	if err != nil {
		r.rows = nil
	}
	return rows, changes, err
}

// different marks an error of the SQL itself. Others, such as a full disk, say
// nothing of the data.
func different(err error) error {
	if base.KindOf(err) == base.KindSQL {
		return fmt.Errorf("%w: %w", ErrDifferent, err)
	}
	return err
}

func (r *Replayer) statement(s *statementformat.Statement) error {
	r.conn.SetGuard(sqlite.GuardAdmin)
	st, err := r.conn.Prepare(string(s.SQL))
	r.conn.SetGuard(sqlite.GuardOwn)
	if err != nil {
		return err
	}
	defer st.Close()
	if err := st.BindAll(s.Args); err != nil {
		return err
	}
	o := &sqlite.Outside{
		Clock: s.Clock, Seed: s.Seed, LastRowID: s.LastRowID, Changes: s.Changes, TotalChanges: s.TotalChanges,
		UsedLastRowID: s.Uses&statementformat.UsesLastRowID != 0, UsedChanges: s.Uses&statementformat.UsesChanges != 0,
	}
	if err := r.conn.Leave(o); err != nil {
		return err
	}
	r.conn.SetOutside(o)
	err = st.Run()
	r.conn.SetOutside(nil)
	if err != nil {
		return err
	}
	return r.rows.Statement(st.Info(), string(s.SQL))
}

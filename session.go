package skein

import (
	"context"
	"errors"
	"time"

	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/token"
)

// Result says what a statement did.
type Result struct {
	RowsAffected int64
	LastInsertID int64
	// Position that the statement read or wrote, and how old the database was
	// there.
	Position Position
	Age      time.Duration
	// Asked and Reached durability of a commit; Reached is for people, such as
	// "flushed on 2 of 3", and empty for reads.
	Asked   Durability
	Reached string
	// Degraded says that the policy let fewer followers count than it asks.
	Degraded bool

	past token.Past // of the database at Position
}

func resultOf(r session.Result) Result {
	return Result{
		RowsAffected: r.RowsAffected, LastInsertID: r.LastInsertID, Position: r.Position, Age: r.Age,
		Asked: r.Asked, Reached: r.Reached, Degraded: r.Degraded, past: r.Past,
	}
}

// execute runs a statement to its end.
func execute(ctx context.Context, s session.Session, sql string, args []any) (Result, error) {
	values, err := valuesOf(args)
	if err != nil {
		return Result{}, err
	}
	rows, err := s.Query(ctx, sql, values)
	if err != nil {
		return Result{}, err
	}
	for rows.Next() {
	}
	err = errors.Join(rows.Err(), rows.Close())
	return resultOf(rows.Result()), err
}

func query(ctx context.Context, s session.Session, sql string, args []any) (*Rows, error) {
	values, err := valuesOf(args)
	if err != nil {
		return nil, err
	}
	rows, err := s.Query(ctx, sql, values)
	if err != nil {
		return nil, err
	}
	return &Rows{inner: rows}, nil
}

// Session is one client's line of statements, for one goroutine at a time:
// what it has seen or written, it sees from then on.
type Session struct {
	inner session.Session
}

// Exec runs one statement and drops the rows it may return.
func (s *Session) Exec(ctx context.Context, sql string, args ...any) (Result, error) {
	return execute(ctx, s.inner, sql, args)
}

// Query runs one statement and returns its rows, which the next statement
// closes.
func (s *Session) Query(ctx context.Context, sql string, args ...any) (*Rows, error) {
	return query(ctx, s.inner, sql, args)
}

// QueryRow runs a statement of which one row is wanted.
func (s *Session) QueryRow(ctx context.Context, sql string, args ...any) *Row {
	rows, err := s.Query(ctx, sql, args...)
	return &Row{rows: rows, err: err}
}

// Begin opens a transaction in the session; see DB.Begin.
func (s *Session) Begin(ctx context.Context) (*Tx, error) { return begin(ctx, s.inner) }

// Set changes how the session's later statements run.
func (s *Session) Set(settings ...Setting) error {
	for _, set := range settings {
		if err := s.inner.Set(set.name, set.value); err != nil {
			return err
		}
	}
	return nil
}

// Token is what the session has seen; "" when it has seen nothing.
func (s *Session) Token() (string, error) { return s.inner.Show(context.Background(), "skein.token") }

// SetToken makes later reads show all that the token has seen, in place of what
// the session had seen before.
func (s *Session) SetToken(token string) error { return s.inner.Set("skein.token", token) }

// Close rolls back an open transaction and ends the session.
func (s *Session) Close() error { return s.inner.Close() }

// Tx is a transaction, for one goroutine at a time. When a statement fails only
// Rollback, or ROLLBACK TO a savepoint, leads on.
type Tx struct {
	inner session.Session
	ended func(Result) // gives the session back; may be nil
	over  bool
}

func begin(ctx context.Context, s session.Session) (*Tx, error) {
	if _, err := execute(ctx, s, "BEGIN", nil); err != nil {
		return nil, err
	}
	return &Tx{inner: s}, nil
}

var errTxOver = &Error{Kind: KindInvalid, Message: "the transaction has been committed or rolled back"}

// Exec runs one statement in the transaction and drops the rows it may return.
func (t *Tx) Exec(ctx context.Context, sql string, args ...any) (Result, error) {
	if t.over {
		return Result{}, errTxOver
	}
	return execute(ctx, t.inner, sql, args)
}

// Query runs one statement in the transaction and returns its rows, which the
// next statement closes.
func (t *Tx) Query(ctx context.Context, sql string, args ...any) (*Rows, error) {
	if t.over {
		return nil, errTxOver
	}
	return query(ctx, t.inner, sql, args)
}

// QueryRow runs a statement of which one row is wanted.
func (t *Tx) QueryRow(ctx context.Context, sql string, args ...any) *Row {
	rows, err := t.Query(ctx, sql, args...)
	return &Row{rows: rows, err: err}
}

// Commit commits; the transaction is over whatever it returns. The Result says
// how durable the commit is.
func (t *Tx) Commit(ctx context.Context) (Result, error) {
	if t.over {
		return Result{}, errTxOver
	}
	failed := t.inner.TxStatus() == session.TxFailed
	r, err := execute(ctx, t.inner, "COMMIT", nil)
	if err == nil && failed {
		err = &Error{Kind: KindInvalid, Message: "a statement of the transaction had failed; it was rolled back"}
	}
	t.finish(r)
	return r, err
}

// Rollback undoes the transaction; after its end it does nothing.
func (t *Tx) Rollback() error {
	if t.over {
		return nil
	}
	_, err := execute(context.Background(), t.inner, "ROLLBACK", nil)
	t.finish(Result{})
	return err
}

func (t *Tx) finish(r Result) {
	t.over = true
	if t.ended != nil {
		t.ended(r)
	}
}

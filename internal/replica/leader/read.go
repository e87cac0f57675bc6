package leader

import (
	"context"
	"fmt"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/sqlite"
)

// BeginRead implements replica.Replica.
func (r *Replica) BeginRead(ctx context.Context, q replica.ReadRequest) (replica.ReadTx, error) {
	if q.Linearizable {
		lead, err := r.leading()
		if err != nil {
			return nil, err
		}
		if err := lead.awaitLease(ctx); err != nil {
			return nil, err
		}
	}
	if err := r.awaitExecuted(ctx, q); err != nil {
		return nil, err
	}
	if age := r.age(); q.MaxAge > 0 && age > q.MaxAge {
		return nil, base.Errorf(base.KindStale, "this replica was level with its leader %v ago; the read allows %v", age.Round(time.Millisecond), q.MaxAge).
			WithHint("ask another node, or allow more")
	}
	tx, err := r.openRead(ctx, q)
	if err != nil {
		return nil, err
	}
	return tx, nil
}

// awaitExecuted waits, for a bounded time, until the replica has what the
// session has seen already.
func (r *Replica) awaitExecuted(ctx context.Context, q replica.ReadRequest) error {
	if r.executed.get() >= q.AtLeast.Seq {
		return nil
	}
	wait := q.Wait
	if wait == 0 {
		wait = replica.DefaultReadWait
	}
	stale := base.Errorf(base.KindStale, "this replica is at %d and did not reach %d, which the session has seen, within %v", r.executed.get(), q.AtLeast.Seq, wait).
		WithHint("ask the leader, or SET skein.read = 'any'")
	waiting, cancel := r.env.Clock.WithTimeout(ctx, wait, stale)
	defer cancel()
	return r.executed.wait(waiting, q.AtLeast.Seq)
}

func (r *Replica) openRead(ctx context.Context, q replica.ReadRequest) (*readTx, error) {
	file, generation, release, err := r.useFile()
	if err != nil {
		return nil, err
	}
	conn, err := file.Reader(ctx)
	if err != nil {
		release()
		return nil, err
	}
	t := &readTx{replica: r, conn: conn, generation: generation, age: r.age(), linearizable: q.Linearizable}
	t.close = func() { file.ReleaseReader(conn); release() }
	conn.SetGuard(sqlite.GuardOwn)
	if err = conn.Begin(); err == nil {
		t.position, err = readPosition(conn)
	}
	if err != nil {
		t.close()
		return nil, fmt.Errorf("open snapshot: %w", err)
	}
	conn.SetGuard(sqlite.GuardRead)
	return t, nil
}

// readPosition reads the position that is part of every snapshot.
func readPosition(conn *sqlite.Conn) (p base.Position, err error) {
	st, err := conn.PrepareOwn(readPositionSQL)
	if err != nil {
		return p, err
	}
	defer st.Close()
	more, err := st.Step()
	if err != nil || !more {
		return p, fmt.Errorf("read position: no row: %w", err)
	}
	return base.Position{Epoch: base.Epoch(st.Column(0).Int), Seq: base.Seq(st.Column(1).Int)}, nil
}

// readTx is a snapshot on a pooled connection.
type readTx struct {
	replica      *Replica
	conn         *sqlite.Conn
	position     base.Position
	generation   uint64
	age          time.Duration
	linearizable bool
	confirmed    bool // what it shows can no longer be lost
	open         *queryRows
	close        func()
}

func (t *readTx) Position() base.Position { return t.position }
func (t *readTx) Age() time.Duration      { return t.age }

// Query implements replica.ReadTx.
func (t *readTx) Query(ctx context.Context, s replica.Statement) (session.Rows, error) {
	if t.open != nil {
		t.open.Close()
	}
	t.conn.SetInterrupt(ctx)
	st, err := t.conn.Prepare(s.SQL)
	if err != nil {
		t.replica.damaged(err)
		return nil, err
	}
	if err := st.BindAll(s.Args); err != nil {
		st.Close()
		return nil, err
	}
	t.open = &queryRows{tx: t, ctx: ctx, stmt: st, columns: columnsOf(st)}
	t.open.result = session.Result{Tag: st.Info().Tag, Position: t.position, Age: t.age}
	return t.open, nil
}

// Close implements replica.ReadTx.
func (t *readTx) Close() error {
	if t.close == nil {
		return nil
	}
	if t.open != nil {
		t.open.Close()
	}
	t.close()
	t.close = nil
	return nil
}

// confirm waits until what the snapshot shows can no longer be lost, and checks
// that its history is still the database's.
func (t *readTx) confirm(ctx context.Context) error {
	if err := t.replica.waitSafe(ctx, t.position); err != nil {
		return err
	}
	if t.replica.generationNow() != t.generation {
		return historyGone()
	}
	if t.linearizable {
		lead, err := t.replica.leading()
		if err != nil {
			return err
		}
		return lead.awaitLease(ctx)
	}
	return nil
}

func historyGone() error {
	return base.Errorf(base.KindUnavailable, "a failover undid writes that this read had seen before they were safe").
		WithHint("run the statement again")
}

// waitSafe waits until p is as durable as the policy asks.
func (r *Replica) waitSafe(ctx context.Context, p base.Position) error {
	if r.safe.get() >= p.Seq {
		return nil
	}
	return r.safe.wait(ctx, p.Seq)
}

// awaitLease waits, while ctx lasts, until the lease lives.
func (l *leading) awaitLease(ctx context.Context) error {
	for {
		changed := l.acks.changed.wait()
		if l.acks.leaseLive() {
			select {
			case <-l.ready:
				return nil
			default:
			}
		}
		select {
		case <-changed:
		case <-l.ready:
			if l.acks.leaseLive() {
				return nil
			}
			select {
			case <-changed:
			case <-l.over:
				return l.replica.notLeader()
			case <-ctx.Done():
				return canceled(context.Cause(ctx))
			}
		case <-l.over:
			return l.replica.notLeader()
		case <-ctx.Done():
			return canceled(context.Cause(ctx))
		}
	}
}

// queryRows streams from a reader connection.
type queryRows struct {
	tx      *readTx
	ctx     context.Context
	stmt    *sqlite.Stmt
	columns []session.Column
	row     []base.Value
	result  session.Result
	err     error
	done    bool
}

func (q *queryRows) Columns() []session.Column { return q.columns }
func (q *queryRows) Row() []base.Value         { return q.row }
func (q *queryRows) Err() error                { return q.err }
func (q *queryRows) Result() session.Result    { return q.result }

// Next implements session.Rows. The first answer is held back until what the
// snapshot shows is safe.
func (q *queryRows) Next() bool {
	if q.done {
		return false
	}
	more, err := q.stmt.Step()
	if err == nil && !q.tx.confirmed {
		err = q.tx.confirm(q.ctx)
		q.tx.confirmed = err == nil
	}
	if err != nil || !more {
		q.tx.replica.damaged(err)
		q.err = err
		q.Close()
		return false
	}
	if q.row == nil {
		q.row = make([]base.Value, len(q.columns))
	}
	for i := range q.row {
		q.row[i] = q.stmt.Column(i)
	}
	q.result.RowsAffected++
	return true
}

// Close implements session.Rows.
func (q *queryRows) Close() error {
	if q.stmt != nil {
		q.stmt.Close()
		q.stmt = nil
	}
	q.done = true
	if q.tx.open == q {
		q.tx.open = nil
	}
	return nil
}

// heldRows is a result that is in memory already.
type heldRows struct {
	res *replica.WriteResult
	at  int
}

func newRows(res *replica.WriteResult) *heldRows { return &heldRows{res: res} }

func (h *heldRows) Columns() []session.Column { return h.res.Columns }
func (h *heldRows) Row() []base.Value         { return h.res.Rows[h.at-1] }
func (h *heldRows) Err() error                { return nil }
func (h *heldRows) Result() session.Result    { return h.res.Result }
func (h *heldRows) Close() error              { return nil }

func (h *heldRows) Next() bool {
	if h.at >= len(h.res.Rows) {
		return false
	}
	h.at++
	return true
}

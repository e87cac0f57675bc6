package leader

import (
	"cmp"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/leadership"
	"github.com/skeindb/skein/internal/planted"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/token"
)

// BeginRead implements replica.Replica.
func (r *Replica) BeginRead(ctx context.Context, q replica.ReadRequest) (replica.ReadTx, error) {
	if q.Linearizable {
		lead, err := r.awaitLead(ctx, 0)
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
// session has seen already, and until SQLite has committed what it has applied.
func (r *Replica) awaitExecuted(ctx context.Context, q replica.ReadRequest) error {
	if err := r.commitApplied(ctx); err != nil {
		return err
	}
	need := max(q.AtLeast.Seq, r.kept(q.Heard).Seq)
	if r.executed.get() >= need || planted.Is(planted.IgnoreToken) {
		return nil
	}
	wait := q.Wait
	if wait == 0 {
		wait = replica.DefaultReadWait
	}
	stale := base.Errorf(base.KindStale, "this replica is at %d and did not reach %d, which the session has seen or heard of, within %v", r.executed.get(), need, wait).
		WithHint("ask the leader, or SET skein.read = 'any'")
	waiting, cancel := r.env.Clock.WithTimeout(ctx, wait, stale)
	defer cancel()
	return r.executed.wait(waiting, need)
}

func (r *Replica) openRead(ctx context.Context, q replica.ReadRequest) (*readTx, error) {
	file, err := r.useFile()
	if err != nil {
		return nil, err
	}
	conn, err := file.db.Reader(ctx)
	if err != nil {
		file.release()
		return nil, err
	}
	t := &readTx{replica: r, conn: conn, generation: file.generation, age: r.age(), linearizable: q.Linearizable, opened: r.now()}
	t.close = func() { r.handle.leave(t); file.db.ReleaseReader(conn); file.release() }
	if err := t.begin(q); err != nil {
		t.close()
		return nil, fmt.Errorf("open snapshot: %w", err)
	}
	if !r.handle.enter(t) {
		t.close()
		return nil, errClosing()
	}
	return t, nil
}

// begin takes the snapshot and sees whether it holds what the session has seen:
// a higher number of another history is no proof of that.
func (t *readTx) begin(q replica.ReadRequest) (err error) {
	t.conn.SetGuard(sqlite.GuardOwn)
	if err = t.conn.Begin(); err == nil {
		t.position, err = readPosition(t.conn)
	}
	if err == nil {
		t.past, err = t.replica.pastOf(t.conn)
	}
	t.conn.SetGuard(sqlite.GuardRead)
	atLeast := q.AtLeast
	if heard := t.replica.kept(q.Heard); atLeast.Less(heard) && t.position.Less(heard) {
		atLeast = heard
	}
	switch {
	case err != nil:
		return err
	case planted.Is(planted.IgnoreToken):
		return nil
	case t.position.Less(atLeast):
		return base.Errorf(base.KindStale, "this replica is at %v, and the session has seen %v", t.position, atLeast).
			WithHint("ask the leader, or SET skein.read = 'any'")
	case t.position.Epoch != atLeast.Epoch && !t.replica.Lineage(atLeast):
		return base.Errorf(base.KindHistoryLost, "the session has seen position %v, which a failover with loss has undone", atLeast).
			WithHint("SET skein.token = '' goes on from what the database holds now; skein orphans list shows what was undone")
	}
	return nil
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
	past         token.Past // of the database at position
	generation   uint64
	age          time.Duration
	linearizable bool
	opened       leadership.Instant
	confirmed    bool // what it shows can no longer be lost
	open         *queryRows
	close        func() // gives everything back; called once

	// The session's goroutine and one that must end this read settle by state
	// which of them gives it back; row for row nothing is locked.
	state   atomic.Uint32
	gone    atomic.Pointer[error]                   // why it was ended
	running atomic.Pointer[context.CancelCauseFunc] // ends the statement that runs
}

// The states of a readTx.
const (
	readIdle   uint32 = iota
	readBusy          // rows are being read
	readClosed        // given back
)

// expel ends the read: at once when it is idle, at its next row when it is not.
func (t *readTx) expel(cause error) {
	t.gone.CompareAndSwap(nil, &cause)
	if cancel := t.running.Load(); cancel != nil {
		(*cancel)(cause)
	}
	t.finish()
}

// finish gives an idle read back, once.
func (t *readTx) finish() {
	if t.state.CompareAndSwap(readIdle, readClosed) {
		t.close()
	}
}

// rest is called when no rows are being read any more.
func (t *readTx) rest() {
	if t.state.CompareAndSwap(readBusy, readIdle) && t.gone.Load() != nil {
		t.finish()
	}
}

// ended is why the read was ended from outside; nil when it was not.
func (t *readTx) ended() error {
	if cause := t.gone.Load(); cause != nil {
		return *cause
	}
	return nil
}

func (t *readTx) Position() base.Position { return t.position }
func (t *readTx) Age() time.Duration      { return t.age }

// Query implements replica.ReadTx.
func (t *readTx) Query(ctx context.Context, s replica.Statement) (session.Rows, error) {
	if t.open != nil {
		t.open.Close()
	}
	if !t.state.CompareAndSwap(readIdle, readBusy) {
		return nil, cmp.Or(t.ended(), errClosing())
	}
	ctx, cancel := context.WithCancelCause(ctx)
	t.running.Store(&cancel)
	err := t.ended() // After the store: who ends the read sees cancel, or is seen here.
	if err == nil {
		err = t.start(ctx, cancel, s)
	}
	if err != nil {
		t.running.Store(nil)
		cancel(nil)
		t.rest()
		return nil, err
	}
	return t.open, nil
}

// start compiles the statement and makes its rows the open ones.
func (t *readTx) start(ctx context.Context, cancel context.CancelCauseFunc, s replica.Statement) error {
	t.conn.SetInterrupt(ctx)
	st, err := t.conn.Prepare(s.SQL)
	if err != nil {
		return err
	}
	if err := st.BindAll(s.Args); err != nil {
		st.Close()
		return err
	}
	t.open = &queryRows{tx: t, ctx: ctx, cancel: cancel, stmt: st, columns: st.Columns()}
	t.open.result = session.Result{Tag: st.Info().Tag, Position: t.position, Age: t.age, Past: t.past}
	return nil
}

// Close implements replica.ReadTx.
func (t *readTx) Close() error {
	if t.open != nil {
		t.open.Close()
	}
	t.finish()
	return nil
}

// confirm waits until what the snapshot shows can no longer be lost, and checks
// that its history is still the database's.
func (t *readTx) confirm(ctx context.Context) error {
	if err := t.replica.waitSafeFor(ctx, t.position); err != nil {
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

// safeWait bounds how long a read is held back for what it saw to become safe,
// and how long one waits for a lease.
const safeWait = 10 * time.Second

// waitSafeFor waits a bounded time until p is as durable as the policy asks.
func (r *Replica) waitSafeFor(ctx context.Context, p base.Position) error {
	if planted.Is(planted.ReadTooEarly) {
		return nil
	}
	if r.safe.get() >= p.Seq {
		return nil
	}
	late := base.Errorf(base.KindUnavailable, "too few followers confirm what the read has seen: position %v was not safe within %v", p, safeWait).
		WithHint("skein status shows which followers are missing; SET skein.read = 'any' on another node reads what was safe there")
	ctx, cancel := r.env.Clock.WithTimeout(ctx, safeWait, late)
	defer cancel()
	return r.waitSafe(ctx, p)
}

func historyGone() error {
	return base.Errorf(base.KindUnavailable, "a failover undid writes that this read had seen before they were safe").
		WithHint("run the statement again")
}

// waitSafe waits until p is as durable as the policy asks.
func (r *Replica) waitSafe(ctx context.Context, p base.Position) error {
	if planted.Is(planted.ReadTooEarly) {
		return nil
	}
	if r.safe.get() >= p.Seq {
		return nil
	}
	return r.safe.wait(ctx, p.Seq)
}

// awaitLease waits a bounded time until the lease lives.
func (l *leading) awaitLease(ctx context.Context) error {
	if planted.Is(planted.ReadWithoutLease) {
		return nil
	}
	if l.serves() {
		return nil
	}
	late := base.Errorf(base.KindNoLeader, "too few followers answer the leader of %s: it has had no lease for %v", l.replica.options.Name, safeWait).
		WithHint("skein status shows which followers are missing")
	ctx, cancel := l.replica.env.Clock.WithTimeout(ctx, safeWait, late)
	defer cancel()
	for {
		changed := l.acks.changed.wait()
		if l.serves() {
			return nil
		}
		l.renewLease()
		select {
		case <-changed:
		case <-l.over:
			return l.replica.notLeader()
		case <-ctx.Done():
			return canceled(context.Cause(ctx))
		}
	}
}

// serves says that the epoch's first entry is safe and that the lease lives.
func (l *leading) serves() bool {
	select {
	case <-l.ready:
		return l.acks.leaseLive()
	default:
		return false
	}
}

// queryRows streams from a reader connection.
type queryRows struct {
	tx      *readTx
	ctx     context.Context
	cancel  context.CancelCauseFunc
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
	if err := q.tx.ended(); err != nil {
		q.err = err
		q.Close()
		return false
	}
	more, err := q.stmt.Step()
	if err == nil && !q.tx.confirmed {
		err = q.tx.confirm(q.ctx)
		q.tx.confirmed = err == nil
	}
	if err != nil || !more {
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
	q.done = true
	if q.stmt == nil {
		return nil
	}
	q.stmt.Close()
	q.stmt = nil
	q.tx.open = nil
	q.tx.running.Store(nil)
	q.cancel(nil)
	q.tx.rest()
	return nil
}

package leader

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/sqltext"
	"github.com/skeindb/skein/internal/token"
)

// writeTx is an interactive transaction. The writer goroutine grants it the
// write connection and waits; the session's goroutine uses the connection
// under use.mu, so that a timeout takes it back only between statements.
type writeTx struct {
	replica  *Replica
	ctx      context.Context // of the session's BeginWrite call
	request  replica.BeginRequest
	granted  chan error    // buffered; one reply
	state    atomic.Uint32 // as of a write job
	finish   chan txEnd    // unbuffered: the writer goroutine receives
	finished chan struct{}
	deadline context.Context // ends at the total timeout

	conn     *sqlite.Conn
	recorder recorder
	begun    base.Position
	past     token.Past // of the database at begun

	use struct {
		sync.Mutex // held while a statement runs
		lastUse    time.Time
		over       error // set once: why the transaction is over
		marks      []savepoint
	}
}

// savepoint is a client's SAVEPOINT and what had been captured by then.
type savepoint struct {
	name string
	mark mark
}

// txEnd asks the writer goroutine to commit or roll back.
type txEnd struct {
	commit     bool
	durability base.Durability
	operation  replica.OperationID
	past       token.Past
	reply      chan writeReply // buffered
}

// BeginWrite implements replica.Replica.
func (r *Replica) BeginWrite(ctx context.Context, q replica.BeginRequest) (replica.WriteTx, error) {
	lead, err := r.awaitLead(ctx, q.Epoch)
	if err != nil {
		return nil, err
	}
	t := &writeTx{replica: r, ctx: ctx, request: q, granted: make(chan error, 1), finish: make(chan txEnd), finished: make(chan struct{})}
	if err := lead.submit(ctx, job{tx: t}); err != nil {
		return nil, err
	}
	select {
	case err := <-t.granted:
		return t.given(err)
	case <-lead.over:
	case <-ctx.Done():
		if t.state.CompareAndSwap(jobQueued, jobGivenUp) {
			return nil, canceled(context.Cause(ctx))
		}
		select {
		case err := <-t.granted:
			if err == nil {
				t.Rollback()
			}
			return nil, canceled(context.Cause(ctx))
		case <-lead.over:
		}
	}
	select {
	case err := <-t.granted:
		return t.given(err)
	default:
		return nil, r.notLeader()
	}
}

func (t *writeTx) given(err error) (replica.WriteTx, error) {
	if err != nil {
		return nil, err
	}
	return t, nil
}

// runTx grants the connection and serves until the transaction ends.
func (w *writer) runTx(ctx context.Context, t *writeTx) error {
	if !t.state.CompareAndSwap(jobQueued, jobStarted) {
		return nil // The session has given up waiting.
	}
	if err := w.grant(t); err != nil {
		w.noteLack(err)
		t.granted <- err
		return fatalOnly(err)
	}
	policy := w.replica.assignment().Policy
	idle, total := timeouts(policy)
	deadline, cancel := w.replica.env.Clock.WithTimeout(ctx, total, txTimeout("its total time of %v", total))
	defer cancel()
	t.deadline = deadline
	t.use.lastUse = w.replica.env.Clock.Now()
	t.granted <- nil
	defer close(t.finished)
	timer := w.replica.env.Clock.NewTimer(idle)
	defer timer.Stop()
	holder := t.holder()
	for {
		select {
		case end := <-t.finish:
			return w.endTx(t, end)
		case <-deadline.Done():
			cause := context.Cause(deadline)
			if ctx.Err() != nil {
				cause = leaderLeft()
			}
			w.takeBack(t, cause)
			return nil
		case <-holder.Done():
			w.takeBack(t, context.Cause(holder))
			return nil
		case <-timer.C():
			if left := t.idleLeft(w.replica.env.Clock, idle); left > 0 {
				timer.Reset(left)
				continue
			}
			w.takeBack(t, txTimeout("%v without a statement", idle))
			return nil
		}
	}
}

// holder ends when nobody can hold the transaction any more.
func (t *writeTx) holder() context.Context {
	if t.request.Holder != nil {
		return t.request.Holder
	}
	return context.Background()
}

func timeouts(p base.Policy) (idle, total time.Duration) {
	idle, total = p.TxIdleTimeout, p.TxTotalTimeout
	if idle == 0 {
		idle = base.DefaultTxIdleTimeout
	}
	if total == 0 {
		total = base.DefaultTxTotalTimeout
	}
	return idle, total
}

func txTimeout(format string, args ...any) error {
	e := base.Errorf(base.KindTimeout, "the transaction held the writer for "+format+" and was rolled back", args...).
		WithHint("other writes wait for an open transaction; keep it short, or raise the database's tx_idle_timeout or tx_total_timeout")
	e.SQLState = "25P03"
	return e
}

// leaderLeft is why a transaction ends with its leadership.
func leaderLeft() error {
	return base.Errorf(base.KindConflict, "the transaction was rolled back: the leader has changed").
		WithHint("run the transaction again from its BEGIN")
}

// idleLeft is how long the session may still stay silent; running counts as use.
func (t *writeTx) idleLeft(clock env.Clock, idle time.Duration) time.Duration {
	if !t.use.TryLock() {
		return idle
	}
	defer t.use.Unlock()
	return idle - clock.Now().Sub(t.use.lastUse)
}

func (w *writer) grant(t *writeTx) error {
	if err := context.Cause(t.ctx); err != nil {
		return canceled(err)
	}
	if err := w.adoptFormat(); err != nil {
		return err
	}
	at := base.Position{Epoch: w.epoch, Seq: w.end}
	if s := t.request.Snapshot; s != nil && *s != at {
		return base.Errorf(base.KindConflict, "the transaction read the database at %v, and it is at %v now: its reads are out of date", *s, at).
			WithHint("run the transaction again from its BEGIN")
	}
	if err := w.begin(); err != nil {
		return err
	}
	past, err := w.replica.pastOf(w.conn)
	if err != nil {
		w.rollback()
		return err
	}
	t.conn, t.recorder, t.begun, t.past = w.conn, w.recorder, at, past
	w.conn.SetGuard(guardOf(t.request.Guard) | sqlite.AllowSavepoint)
	return nil
}

// takeBack interrupts and rolls back on behalf of the policy.
func (w *writer) takeBack(t *writeTx, cause error) {
	t.use.Lock()
	defer t.use.Unlock()
	if t.use.over == nil {
		t.use.over = cause
	}
	w.releaseConn()
	w.rollback()
}

func (w *writer) releaseConn() {
	w.conn.SetGuard(sqlite.GuardOwn)
	w.conn.SetInterrupt(context.Background())
}

// endTx commits or rolls back in the writer goroutine.
func (w *writer) endTx(t *writeTx, end txEnd) error {
	w.releaseConn()
	j := &writeJob{request: replica.WriteRequest{Durability: end.durability, Operation: end.operation, Past: end.past}, done: end.reply}
	j.result.Result.Past = t.past
	j.result.Result.Tag = "COMMIT"
	if !end.commit || !w.conn.InTransaction() {
		w.rollback()
		j.result.Result.Tag = "ROLLBACK"
		j.result.Result.Position = t.begun
		end.reply <- writeReply{result: &j.result}
		return nil
	}
	if repeated, err := w.repeat(j); repeated || err != nil {
		w.rollback()
		if err != nil {
			end.reply <- writeReply{err: err}
			return nil
		}
		j.result.Result.Tag, j.result.Result.Past = "COMMIT", t.past
		j.result.Result.Position = t.begun
		w.publish([]*writeJob{j})
		return nil
	}
	w.buffer = w.buffer[:0]
	last, err := w.appendEntry(w.end, w.batch, w.replica.env.Clock.Now().UnixNano(), j)
	if err != nil {
		w.rollback()
		end.reply <- writeReply{err: err}
		return nil
	}
	j.result.Result.Position = base.Position{Epoch: w.epoch, Seq: last}
	w.pending.refused = true // The client's savepoints end with SQLite's transaction.
	return w.seal([]*writeJob{j}, last)
}

// Query implements replica.WriteTx.
func (t *writeTx) Query(ctx context.Context, s replica.Statement) (session.Rows, error) {
	res, err := t.run(ctx, s)
	if err != nil {
		return nil, err
	}
	// What the statement saw may include commits that are still on their way.
	if err := t.awaitSafe(ctx); err != nil {
		return nil, err
	}
	res.Result.Position, res.Result.Past = t.begun, t.past
	return session.HeldRows(res.Columns, res.Rows, res.Result), nil
}

// awaitSafe waits until what the transaction sees is safe, no longer than the
// transaction may last.
func (t *writeTx) awaitSafe(ctx context.Context) error {
	if t.replica.safe.get() >= t.begun.Seq {
		return nil
	}
	ctx, cancel := merge(ctx, t.deadline)
	defer cancel()
	if err := t.replica.waitSafe(ctx, t.begun); err != nil {
		return canceled(err)
	}
	return nil
}

func (t *writeTx) run(ctx context.Context, s replica.Statement) (*replica.WriteResult, error) {
	t.use.Lock()
	defer t.use.Unlock()
	if t.use.over != nil {
		return nil, t.use.over
	}
	defer func() { t.use.lastUse = t.replica.env.Clock.Now() }()
	ctx, cancel := merge(ctx, t.deadline)
	defer cancel()
	t.conn.SetInterrupt(ctx)
	res, err := t.statement(s)
	t.conn.SetInterrupt(context.Background())
	if t.conn.Broken() || !t.conn.InTransaction() {
		t.use.over = base.Errorf(base.KindSQL, "the transaction was rolled back by an earlier error")
		if err == nil {
			err = t.use.over
		}
	}
	return res, err
}

// merge returns ctx that also ends, with its cause, when other does.
func merge(ctx, other context.Context) (context.Context, context.CancelFunc) {
	merged, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(other, func() { cancel(context.Cause(other)) })
	return merged, func() { stop(); cancel(nil) }
}

// statement runs one statement inside a savepoint of ours, so that its failure
// undoes it alone, and keeps the captured rows in step with the client's own
// savepoints.
func (t *writeTx) statement(s replica.Statement) (*replica.WriteResult, error) {
	st, err := t.conn.Prepare(s.SQL)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	info := st.Info()
	mark := t.recorder.Mark()
	if info.Kind == session.Savepoint {
		return t.savepoint(st, s)
	}
	before := t.conn.TotalChanges()
	if err := t.recorder.Before(st, s); err != nil {
		return nil, err
	}
	res, err := execute(t.conn, st, s.Args, maxResultBytes)
	if err == nil {
		if err = t.captured(st, s); err != nil {
			t.use.over = err // Only a rollback is left.
		}
		return &res, err
	}
	// A statement that was left in the middle of its rows has made its changes;
	// they are counted when it is reset.
	st.Close()
	if t.conn.InTransaction() && t.conn.TotalChanges() != before {
		t.use.over = base.Errorf(base.KindSQL, "a statement with OR FAIL stopped in the middle of a transaction; it can only be rolled back").
			WithHint("use OR ABORT (the default) inside transactions")
	}
	t.recorder.Rewind(mark)
	return nil, err
}

// captured takes note of a statement that ran well.
func (t *writeTx) captured(st *sqlite.Stmt, s replica.Statement) error {
	if err := t.recorder.After(st, s); err != nil {
		return err
	}
	if n := t.recorder.Size(); n > MaxTransactionBytes {
		return tooLarge(n)
	}
	return t.recorder.Err()
}

// savepoint runs SAVEPOINT, RELEASE and ROLLBACK TO.
func (t *writeTx) savepoint(st *sqlite.Stmt, s replica.Statement) (*replica.WriteResult, error) {
	t.recorder.Mark() // Virtual tables write down what they hold back.
	res, err := execute(t.conn, st, s.Args, maxResultBytes)
	if err != nil {
		return nil, err
	}
	action, name := sqltext.ParseSavepoint(s.SQL)
	at := len(t.use.marks) - 1
	for at >= 0 && action != sqltext.SavepointNew && !strings.EqualFold(t.use.marks[at].name, name) {
		at--
	}
	switch {
	case action == sqltext.SavepointNew:
		t.use.marks = append(t.use.marks, savepoint{name: name, mark: t.recorder.Mark()})
	case at < 0: // SQLite has accepted a name that this book lacks: stay safe.
		t.use.over = base.Errorf(base.KindInternal, "savepoint %q is not in the transaction's book", name)
		return nil, t.use.over
	case action == sqltext.SavepointRelease:
		t.use.marks = t.use.marks[:at]
	case action == sqltext.SavepointBack:
		t.recorder.Rewind(t.use.marks[at].mark)
		t.use.marks = t.use.marks[:at+1]
	}
	return &res, nil
}

// Alive implements replica.WriteTx.
func (t *writeTx) Alive() bool {
	t.use.Lock()
	defer t.use.Unlock()
	return t.use.over == nil
}

// Commit implements replica.WriteTx.
func (t *writeTx) Commit(ctx context.Context, d base.Durability, op replica.OperationID, past token.Past) (session.Result, error) {
	t.use.Lock()
	over := t.use.over
	if over == nil {
		t.use.over = base.Errorf(base.KindInvalid, "the transaction is over")
	}
	t.use.Unlock()
	if over != nil {
		t.end(txEnd{reply: make(chan writeReply, 1)})
		return session.Result{}, over
	}
	end := txEnd{commit: true, durability: d, operation: op, past: past, reply: make(chan writeReply, 1)}
	if !t.end(end) {
		return session.Result{}, t.tookBack()
	}
	return t.replica.await(ctx, end.reply)
}

// tookBack is why the writer was gone when the session wanted to commit.
func (t *writeTx) tookBack() error {
	return base.Errorf(base.KindTimeout, "the transaction had been rolled back: its time was over or the leader changed").
		WithHint("run the transaction again from its BEGIN")
}

// end hands e to the writer goroutine; false when it has already moved on.
func (t *writeTx) end(e txEnd) bool {
	select {
	case t.finish <- e:
		return true
	case <-t.finished:
		return false
	}
}

// Rollback implements replica.WriteTx.
func (t *writeTx) Rollback() error {
	t.use.Lock()
	if t.use.over == nil {
		t.use.over = base.Errorf(base.KindInvalid, "the transaction is over")
	}
	t.use.Unlock()
	e := txEnd{reply: make(chan writeReply, 1)}
	if t.end(e) {
		<-e.reply
	}
	return nil
}

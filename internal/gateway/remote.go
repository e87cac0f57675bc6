package gateway

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/token"
	"github.com/skeindb/skein/internal/transport"
)

// The services that gateways offer each other.
const (
	writeMethod = "gateway.write"
	readService = "gateway.read"
	txService   = "gateway.tx"
)

// maxForwardBytes bounds a result that travels in one message.
const maxForwardBytes = 8 << 20

// writeAt has the leader of db execute an autocommit write, here or there. When
// its answer is lost with it, the next leader is asked what has become of the
// write. known is what the session has seen of the database.
func (g *Gateway) writeAt(ctx context.Context, db Database, q replica.WriteRequest, known base.Position) (*replica.WriteResult, error) {
	s := g.name(db, q.Operation, known)
	q.Epoch = db.Epoch
	res, err := g.execute(ctx, db, q)
	if err == nil || base.AsError(err).Outcome != base.Indeterminate || ctx.Err() != nil {
		return res, err
	}
	result, err := g.resolve(ctx, s, err)
	if err != nil {
		return nil, err
	}
	return &replica.WriteResult{Result: result}, nil
}

func notReady(db Database) error {
	return base.Errorf(base.KindUnavailable, "this node leads %s and its replica is not ready", db.Name)
}

func (g *Gateway) execute(ctx context.Context, db Database, q replica.WriteRequest) (*replica.WriteResult, error) {
	if db.Leader != g.directory.Self() {
		return g.sendWrite(ctx, db, q)
	}
	r := g.local(db)
	if r == nil {
		return nil, notReady(db)
	}
	return r.Write(ctx, q)
}

func (g *Gateway) sendWrite(ctx context.Context, db Database, q replica.WriteRequest) (*replica.WriteResult, error) {
	// The session's own limit ends ctx long before this; a call wants a deadline.
	ctx, cancel := g.env.Clock.WithTimeout(ctx, maxStatementTime, context.DeadlineExceeded)
	defer cancel()
	waiting, stop := g.whileAlive(ctx, db)
	b, err := g.transport.Call(waiting, db.Leader, writeMethod, encodeWrite(db.ID, q))
	stop()
	if err != nil {
		return nil, explainForward(err)
	}
	res, err := decodeResult(b)
	if err != nil { // It was executed, whatever it is that it says.
		return nil, explainForward(base.AsError(err).WithOutcome(base.Indeterminate))
	}
	return res, nil
}

// explainForward words a write whose fate is unknown for the client.
func explainForward(err error) error {
	e := base.AsError(err)
	if e.Outcome != base.Indeterminate || e.Kind == base.KindIndeterminate || e.Kind == base.KindTimeout || e.Kind == base.KindCanceled {
		return err
	}
	return (&base.Error{Kind: base.KindIndeterminate, Message: "the leader was lost before it answered: " + e.Error(), Err: err}).
		WithOutcome(base.Indeterminate).WithHint("the write may have been kept: read before writing again")
}

// readAtLeader runs a read at the leader and streams its rows from there.
func (g *Gateway) readAtLeader(ctx context.Context, name string, wait time.Duration, q replica.ReadRequest, st replica.Statement) (rows session.Rows, err error) {
	err = g.atLeaderWithin(ctx, name, wait, func(ctx context.Context, db Database) error {
		if db.Leader == g.directory.Self() {
			r := g.local(db)
			if r == nil {
				return notReady(db)
			}
			rows, err = peek(readHere(ctx, r, q, st))
			return err
		}
		rows, err = peek(g.openRemoteRead(ctx, g.leaderOf(db), db.ID, q, st))
		return err
	})
	return rows, err
}

func (g *Gateway) openRemoteRead(ctx context.Context, at peer, id base.DatabaseID, q replica.ReadRequest, st replica.Statement) (session.Rows, error) {
	ctx, end := context.WithCancelCause(ctx)
	ctx, stop := at.alive(ctx)
	cancel := func(cause error) {
		end(cause)
		stop()
	}
	s, err := g.transport.OpenStream(ctx, at.node, readService, encodeRead(id, q, st))
	if err != nil {
		cancel(err)
		return nil, err
	}
	r := &remoteRows{stream: s, cancel: cancel}
	if err := r.open(); err != nil {
		if silent := silence(ctx); silent != nil {
			err = silent // Nothing was read; another can be asked.
		}
		cancel(err)
		return nil, err
	}
	return r, nil
}

// remoteRows are the rows of a read that runs on another node.
type remoteRows struct {
	stream  transport.Stream
	cancel  context.CancelCauseFunc
	columns []session.Column
	rows    [][]base.Value
	row     []base.Value
	result  session.Result
	err     error
	over    bool
}

func (r *remoteRows) open() error {
	b, err := r.stream.Recv()
	if err != nil {
		return endOfStream(err)
	}
	r.columns, err = decodeColumns(b)
	return err
}

// endOfStream is an error for a stream that ended before its time, and on which
// nothing was asked that could have changed anything.
func endOfStream(err error) error {
	if err == io.EOF {
		return base.Errorf(base.KindUnavailable, "the other node ended the stream")
	}
	return harmless(err)
}

// harmless is the error of a request that changes nothing, whether or not it
// was received: it may be repeated.
func harmless(err error) error {
	if err == nil {
		return nil
	}
	e := *base.AsError(err)
	e.Outcome = base.NotDone
	return &e
}

func (r *remoteRows) Columns() []session.Column { return r.columns }
func (r *remoteRows) Row() []base.Value         { return r.row }
func (r *remoteRows) Err() error                { return r.err }
func (r *remoteRows) Result() session.Result    { return r.result }

// Next implements session.Rows.
func (r *remoteRows) Next() bool {
	for len(r.rows) == 0 {
		if r.over || !r.receive() {
			return false
		}
	}
	r.row, r.rows = r.rows[0], r.rows[1:]
	return true
}

// receive takes one message in; false at the end or on error.
func (r *remoteRows) receive() bool {
	b, err := r.stream.Recv()
	if err != nil {
		return r.finish(endOfStream(err))
	}
	if kind, _ := kindOf(b); kind == msgEnd {
		r.result, err = decodeEnd(b)
		return r.finish(err)
	}
	if r.rows, err = decodeRows(b); err != nil {
		return r.finish(err)
	}
	return true
}

func (r *remoteRows) finish(err error) bool {
	r.err, r.over = err, true
	r.cancel(nil)
	return false
}

// Close implements session.Rows.
func (r *remoteRows) Close() error {
	if !r.over {
		r.over = true
		r.cancel(nil)
	}
	return nil
}

// remoteTx is a transaction that runs on the leader: a WriteTx or a ReadTx of
// its replica, used through a stream, one message each way a statement.
type remoteTx struct {
	ctx      context.Context // of the stream
	stream   transport.Stream
	cancel   context.CancelCauseFunc
	position base.Position
	over     bool
}

var (
	_ replica.WriteTx = (*remoteTx)(nil)
	_ replica.ReadTx  = (*remoteReadTx)(nil)
)

// beginWriteAt takes the writer of the leader of db, here or there.
func (g *Gateway) beginWriteAt(ctx context.Context, db Database, q replica.BeginRequest) (replica.WriteTx, error) {
	if db.Leader == g.directory.Self() {
		r := g.local(db)
		if r == nil {
			return nil, notReady(db)
		}
		return r.BeginWrite(ctx, q)
	}
	tx, err := g.openTx(ctx, g.leaderOf(db), opening{database: db.ID, write: &q}.encode())
	if err != nil {
		return nil, err
	}
	return tx, nil
}

func (g *Gateway) beginReadAt(ctx context.Context, db Database, q replica.ReadRequest) (replica.ReadTx, error) {
	if db.Leader == g.directory.Self() {
		r := g.local(db)
		if r == nil {
			return nil, notReady(db)
		}
		return r.BeginRead(ctx, q)
	}
	tx, err := g.openTx(ctx, g.leaderOf(db), opening{database: db.ID, read: q}.encode())
	if err != nil {
		return nil, err
	}
	return &remoteReadTx{tx}, nil
}

// openTx opens the stream; it outlives ctx, which bounds the beginning only.
func (g *Gateway) openTx(ctx context.Context, at peer, header []byte) (*remoteTx, error) {
	lasting, end := context.WithCancelCause(context.WithoutCancel(ctx))
	lasting, forget := at.alive(lasting)
	cancel := func(cause error) {
		end(cause)
		forget()
	}
	stop := context.AfterFunc(ctx, func() { end(context.Cause(ctx)) })
	defer stop()
	s, err := g.transport.OpenStream(lasting, at.node, txService, header)
	if err != nil {
		cancel(err)
		return nil, err
	}
	t := &remoteTx{ctx: lasting, stream: s, cancel: cancel}
	b, err := s.Recv()
	if err == nil {
		t.position, err = decodeBegun(b)
	}
	if err != nil {
		cancel(err)
		switch {
		case ctx.Err() != nil:
			return nil, stopped(ctx)
		case silence(lasting) != nil:
			return nil, silence(lasting)
		}
		return nil, endOfStream(err)
	}
	return t, nil
}

// stopped is why ctx has ended, in the words of an error for a client.
func stopped(ctx context.Context) error {
	cause := context.Cause(ctx)
	if e, ok := errors.AsType[*base.Error](cause); ok {
		return e
	}
	if errors.Is(cause, context.DeadlineExceeded) {
		return base.Errorf(base.KindTimeout, "the statement's time ran out")
	}
	return base.Errorf(base.KindCanceled, "the statement was canceled")
}

// exchange sends one message and reads its answer. lost says that the stream
// broke, so that the leader may have got the message or not.
func (t *remoteTx) exchange(ctx context.Context, b []byte) (res *replica.WriteResult, lost bool, err error) {
	stop := context.AfterFunc(ctx, func() { t.cancel(context.Cause(ctx)) })
	defer stop()
	answer, err := t.ask(b)
	if err != nil {
		t.over = true
		switch {
		case ctx.Err() != nil:
			err = stopped(ctx)
		case silence(t.ctx) != nil:
			err = silence(t.ctx)
		}
		return nil, true, lostTx(err)
	}
	if kind, _ := kindOf(answer); kind == msgError {
		return nil, false, decodeError(answer)
	}
	if res, err = decodeResult(answer); err != nil {
		t.over = true
	}
	return res, err != nil, err
}

func (t *remoteTx) ask(b []byte) ([]byte, error) {
	if err := t.stream.Send(b); err != nil {
		return nil, err
	}
	return t.stream.Recv()
}

func errTxOver() error { return base.Errorf(base.KindInvalid, "the transaction is over") }

// lostTx is an open transaction whose leader is gone: it was never committed.
func lostTx(err error) error {
	if err == io.EOF {
		err = base.Errorf(base.KindUnavailable, "the leader ended the transaction")
	}
	e := *base.AsError(err)
	switch e.Kind {
	case base.KindUnavailable, base.KindInternal, base.KindNotLeader, base.KindNoLeader, base.KindShutdown:
		e.Kind, e.SQLState = base.KindConflict, "40001"
		e.Message = "the transaction was rolled back, since its leader was lost: " + e.Error()
		e.Hint = "run the transaction again from its BEGIN"
	}
	e.Outcome = base.NotDone
	return &e
}

// Query implements replica.WriteTx.
func (t *remoteTx) Query(ctx context.Context, s replica.Statement) (session.Rows, error) {
	if t.over {
		return nil, errTxOver()
	}
	res, _, err := t.exchange(ctx, encodeQuery(s))
	if err != nil {
		return nil, err
	}
	return held(res), nil
}

// Alive implements replica.WriteTx.
func (t *remoteTx) Alive() bool { return !t.over }

// Commit implements replica.WriteTx. A commit whose answer is lost may stand.
func (t *remoteTx) Commit(ctx context.Context, d base.Durability, op replica.OperationID, past token.Past) (session.Result, error) {
	if t.over {
		return session.Result{}, lostTx(errTxOver())
	}
	res, lost, err := t.exchange(ctx, encodeCommit(d, op, past))
	t.close()
	switch {
	case err == nil:
		return res.Result, nil
	case !lost:
		return session.Result{}, err
	}
	return session.Result{}, (&base.Error{Kind: base.KindIndeterminate, Message: "the leader was lost before it confirmed the commit", Err: err}).
		WithOutcome(base.Indeterminate).WithHint("the transaction may have been kept: read before running it again")
}

// Rollback implements replica.WriteTx. Ending the stream rolls back.
func (t *remoteTx) Rollback() error {
	t.close()
	return nil
}

func (t *remoteTx) close() {
	t.over = true
	t.cancel(nil)
}

// remoteReadTx is a snapshot on another node.
type remoteReadTx struct{ *remoteTx }

// Position implements replica.ReadTx.
func (t *remoteReadTx) Position() base.Position { return t.position }

// Age implements replica.ReadTx: the leader is never behind.
func (t *remoteReadTx) Age() time.Duration { return 0 }

// Close implements replica.ReadTx.
func (t *remoteReadTx) Close() error { return t.Rollback() }

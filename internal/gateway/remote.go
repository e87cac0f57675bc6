package gateway

import (
	"context"
	"io"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
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

// forwardWrite sends an autocommit write to the leader.
func (g *Gateway) forwardWrite(ctx context.Context, db Database, q replica.WriteRequest) (*replica.WriteResult, error) {
	res, err := g.sendWrite(ctx, db, q)
	if err == nil || base.AsError(err).Outcome != base.Indeterminate || ctx.Err() != nil {
		return res, err
	}
	result, err := g.resolve(ctx, db, q.Operation, err)
	if err != nil {
		return nil, err
	}
	return &replica.WriteResult{Result: result}, nil
}

func (g *Gateway) sendWrite(ctx context.Context, db Database, q replica.WriteRequest) (*replica.WriteResult, error) {
	e := newMessage(msgWrite)
	e.uint(uint64(db.ID))
	e.byte(byte(q.Guard))
	e.durability(q.Durability)
	e.operation(q.Operation)
	e.uint(uint64(len(q.Statements)))
	for _, s := range q.Statements {
		e.statement(s)
	}
	b, err := g.transport.Call(ctx, db.Leader, writeMethod, e.done())
	if err != nil {
		return nil, explainForward(err)
	}
	return decodeResult(b)
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
func (g *Gateway) readAtLeader(ctx context.Context, name string, q replica.ReadRequest, st replica.Statement) (rows session.Rows, err error) {
	err = g.atLeader(ctx, name, func(ctx context.Context, db Database) error {
		if db.Leader == g.directory.Self() {
			r := g.local(db)
			if r == nil {
				return base.Errorf(base.KindUnavailable, "this node leads %s and its replica is not ready", name)
			}
			rows, err = readHere(ctx, r, q, st)
			return err
		}
		rows, err = g.openRemoteRead(ctx, db, q, st)
		return err
	})
	return rows, err
}

func encodeReadRequest(e *encoder, q replica.ReadRequest) {
	e.position(q.AtLeast)
	e.bool(q.Linearizable)
	e.int(int64(q.MaxAge))
	e.byte(byte(q.Guard))
}

func decodeReadRequest(d *decoder) replica.ReadRequest {
	return replica.ReadRequest{AtLeast: d.position(), Linearizable: d.bool(), MaxAge: time.Duration(d.int()), Guard: replica.Guard(d.byte())}
}

func (g *Gateway) openRemoteRead(ctx context.Context, db Database, q replica.ReadRequest, st replica.Statement) (session.Rows, error) {
	e := newMessage(msgRead)
	e.uint(uint64(db.ID))
	encodeReadRequest(e, q)
	e.statement(st)
	ctx, cancel := context.WithCancelCause(ctx)
	s, err := g.transport.OpenStream(ctx, db.Leader, readService, e.done())
	if err != nil {
		cancel(err)
		return nil, err
	}
	r := &remoteRows{stream: s, cancel: cancel}
	if err := r.open(); err != nil {
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
	d, err := openMessage(b, msgColumns)
	if err != nil {
		return err
	}
	r.columns = d.columns()
	return d.end()
}

// endOfStream is an error for a stream that ended before its time.
func endOfStream(err error) error {
	if err == io.EOF {
		return base.Errorf(base.KindUnavailable, "the other node ended the read")
	}
	return err
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
	kind, err := kindOf(b)
	if err != nil {
		return r.finish(err)
	}
	d, err := openMessage(b, kind)
	switch {
	case err != nil:
		return r.finish(err)
	case kind == msgEnd:
		r.result = d.result()
		return r.finish(d.end())
	case kind != msgRows:
		return r.finish(base.Errorf(base.KindInvalid, "message of kind %d in a read", kind))
	}
	for n := d.count(); n > 0 && d.err == nil; n-- {
		r.rows = append(r.rows, d.values())
	}
	if err := d.end(); err != nil {
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
	gateway  *Gateway
	database Database
	stream   transport.Stream
	cancel   context.CancelCauseFunc
	position base.Position
	over     bool
}

var (
	_ replica.WriteTx = (*remoteTx)(nil)
	_ replica.ReadTx  = (*remoteReadTx)(nil)
)

func (g *Gateway) beginWriteAt(ctx context.Context, db Database, q replica.BeginRequest) (replica.WriteTx, error) {
	e := newMessage(msgBegin)
	e.uint(uint64(db.ID))
	e.bool(true)
	e.byte(byte(q.Guard))
	e.bool(q.Snapshot != nil)
	if q.Snapshot != nil {
		e.position(*q.Snapshot)
	}
	return g.openTx(ctx, db, e.done())
}

func (g *Gateway) beginReadAt(ctx context.Context, db Database, q replica.ReadRequest) (replica.ReadTx, error) {
	if r := g.local(db); r != nil && db.Leader == g.directory.Self() {
		return r.BeginRead(ctx, q)
	}
	e := newMessage(msgBegin)
	e.uint(uint64(db.ID))
	e.bool(false)
	encodeReadRequest(e, q)
	tx, err := g.openTx(ctx, db, e.done())
	if err != nil {
		return nil, err
	}
	return &remoteReadTx{tx}, nil
}

// openTx opens the stream; it outlives ctx, which bounds the beginning only.
func (g *Gateway) openTx(ctx context.Context, db Database, header []byte) (*remoteTx, error) {
	lasting, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	defer stop()
	s, err := g.transport.OpenStream(lasting, db.Leader, txService, header)
	if err != nil {
		cancel(err)
		return nil, err
	}
	t := &remoteTx{gateway: g, database: db, stream: s, cancel: cancel}
	b, err := s.Recv()
	if err == nil {
		var d *decoder
		if d, err = openMessage(b, msgBegun); err == nil {
			t.position = d.position()
			err = d.end()
		}
	}
	if err != nil {
		cancel(err)
		if ctx.Err() != nil {
			return nil, base.AsError(context.Cause(ctx))
		}
		return nil, endOfStream(err)
	}
	return t, nil
}

// exchange sends one message and reads its answer. sent says whether the
// leader may have got it.
func (t *remoteTx) exchange(ctx context.Context, b []byte) (res *replica.WriteResult, sent bool, err error) {
	if t.over {
		return nil, false, base.Errorf(base.KindInvalid, "the transaction is over")
	}
	stop := context.AfterFunc(ctx, func() { t.cancel(context.Cause(ctx)) })
	defer stop()
	if err := t.stream.Send(b); err != nil {
		t.over = true
		return nil, false, lostTx(err)
	}
	answer, err := t.stream.Recv()
	if err != nil {
		t.over = true
		if ctx.Err() != nil {
			err = base.AsError(context.Cause(ctx))
		}
		return nil, true, lostTx(err)
	}
	if kind, _ := kindOf(answer); kind == msgError {
		return nil, true, decodeError(answer)
	}
	res, err = decodeResult(answer)
	return res, true, err
}

// lostTx is an open transaction whose leader is gone: it was never committed.
func lostTx(err error) error {
	if err == io.EOF {
		err = base.Errorf(base.KindUnavailable, "the leader ended the transaction")
	}
	e := *base.AsError(err)
	if e.Kind == base.KindUnavailable || e.Kind == base.KindInternal {
		e.Kind, e.SQLState = base.KindConflict, "40001"
		e.Message = "the transaction was rolled back, since its leader was lost: " + e.Error()
		e.Hint = "run the transaction again from its BEGIN"
	}
	e.Outcome = base.NotDone
	return &e
}

// Query implements replica.WriteTx.
func (t *remoteTx) Query(ctx context.Context, s replica.Statement) (session.Rows, error) {
	e := newMessage(msgQuery)
	e.statement(s)
	res, _, err := t.exchange(ctx, e.done())
	if err != nil {
		return nil, err
	}
	return held(res), nil
}

// Alive implements replica.WriteTx.
func (t *remoteTx) Alive() bool { return !t.over }

// Commit implements replica.WriteTx. A commit whose answer is lost may stand.
func (t *remoteTx) Commit(ctx context.Context, d base.Durability, op replica.OperationID) (session.Result, error) {
	e := newMessage(msgCommit)
	e.durability(d)
	e.operation(op)
	lost := t.over
	res, sent, err := t.exchange(ctx, e.done())
	interrupted := t.over
	t.close()
	if err == nil {
		return res.Result, nil
	}
	if !sent || !interrupted || lost {
		if base.AsError(err).Outcome != base.Indeterminate {
			return session.Result{}, err
		}
	}
	err = (&base.Error{Kind: base.KindIndeterminate, Message: "the leader was lost before it confirmed the commit", Err: err}).
		WithOutcome(base.Indeterminate).WithHint("the transaction may have been kept: read before running it again")
	if ctx.Err() != nil {
		return session.Result{}, err
	}
	result, err := t.gateway.resolve(ctx, t.database, op, err)
	if err != nil && retriable(err) {
		err = lostTx(err) // It was certainly not kept.
	}
	return result, err
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

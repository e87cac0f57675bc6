package gateway

import (
	"context"
	"encoding/json"
	"io"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/token"
	"github.com/skeindb/skein/internal/transport"
)

// rowsPerMessage and bytesPerMessage bound a message of a forwarded read.
const (
	rowsPerMessage  = 256
	bytesPerMessage = 256 << 10
)

// replicaOf returns the local replica that a peer's message is for.
func (g *Gateway) replicaOf(id base.DatabaseID) (replica.Replica, error) {
	if r := g.directory.Replica(id); r != nil {
		return r, nil
	}
	return nil, base.Errorf(base.KindNotLeader, "database %d has no replica on this node", id)
}

// serveWrite executes a peer's autocommit write, if this node leads.
func (g *Gateway) serveWrite(ctx context.Context, _ base.NodeID, request []byte) ([]byte, error) {
	switch kind, _ := kindOf(request); kind {
	case msgDescribe:
		return g.serveDescribe(ctx, request)
	case msgFate:
		return g.serveFate(ctx, request)
	}
	id, q, err := decodeWrite(request)
	if err != nil {
		return nil, err
	}
	r, err := g.replicaOf(id)
	if err != nil {
		return nil, err
	}
	res, err := r.Write(ctx, q)
	if err != nil {
		return nil, err
	}
	return encodeResult(res), nil
}

// serveRead runs a peer's read and streams the rows.
func (g *Gateway) serveRead(ctx context.Context, _ base.NodeID, header []byte, s transport.Stream) error {
	id, q, st, err := decodeRead(header)
	if err != nil {
		return err
	}
	r, err := g.replicaOf(id)
	if err != nil {
		return err
	}
	rows, err := readHere(ctx, r, q, st)
	if err != nil {
		return err
	}
	defer rows.Close()
	if err := s.Send(encodeColumns(rows.Columns())); err != nil {
		return err
	}
	if err := sendRows(rows, s); err != nil {
		return err
	}
	return s.Send(encodeEnd(rows.Result()))
}

// sendRows sends rows in messages of bounded size until they end.
func sendRows(rows session.Rows, s transport.Stream) error {
	var body encoder
	n := 0
	flush := func() error {
		msg := encodeRows(n, body.b)
		body.b, n = body.b[:0], 0
		return s.Send(msg)
	}
	for rows.Next() {
		body.values(rows.Row())
		if n++; n >= rowsPerMessage || len(body.b) >= bytesPerMessage {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := rows.Err(); err != nil || n == 0 {
		return err
	}
	return flush()
}

// serveTx runs a peer's transaction until the peer ends it or its stream.
func (g *Gateway) serveTx(ctx context.Context, peer base.NodeID, header []byte, s transport.Stream) error {
	o, err := decodeOpening(header)
	if err != nil {
		return err
	}
	if o.write != nil {
		holder, stop := g.whileHeard(ctx, peer)
		defer stop()
		o.write.Holder = holder
	}
	tx, at, err := g.beginFor(ctx, o)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := s.Send(encodeBegun(at)); err != nil {
		return err
	}
	for {
		b, err := s.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		res, over, err := stepTx(ctx, tx, b)
		answer := encodeError(err)
		if err == nil {
			answer = encodeResult(res)
		}
		if err := s.Send(answer); err != nil || over {
			return err
		}
	}
}

// beginFor opens what the header asks for, as a WriteTx in either case.
func (g *Gateway) beginFor(ctx context.Context, o opening) (tx replica.WriteTx, at base.Position, err error) {
	r, err := g.replicaOf(o.database)
	if err != nil {
		return nil, at, err
	}
	if o.write != nil {
		tx, err = r.BeginWrite(ctx, *o.write)
		return tx, at, err
	}
	read, err := r.BeginRead(ctx, o.read)
	if err != nil {
		return nil, at, err
	}
	return readOnlyTx{read}, read.Position(), nil
}

// stepTx runs one message of a transaction stream.
func stepTx(ctx context.Context, tx replica.WriteTx, b []byte) (res *replica.WriteResult, over bool, err error) {
	switch kind, _ := kindOf(b); kind {
	case msgCommit:
		durability, op, past, err := decodeCommit(b)
		if err != nil {
			return nil, true, err
		}
		r, err := tx.Commit(ctx, durability, op, past)
		return &replica.WriteResult{Result: r}, true, err
	default:
		st, err := decodeQuery(b)
		if err != nil {
			return nil, true, err
		}
		res, err = collect(tx.Query(ctx, st))
		return res, !tx.Alive(), err
	}
}

// collect reads all rows into memory, up to what one message holds.
func collect(rows session.Rows, err error) (*replica.WriteResult, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	res := &replica.WriteResult{Columns: rows.Columns()}
	size := 0
	for rows.Next() {
		row := make([]base.Value, len(rows.Row()))
		for i, v := range rows.Row() {
			v.Bytes = append([]byte(nil), v.Bytes...)
			row[i] = v
			size += 16 + len(v.Bytes)
		}
		if size > maxForwardBytes {
			return nil, base.Errorf(base.KindTooLarge, "a result inside a transaction that runs on another node is larger than %d bytes", maxForwardBytes).
				WithHint("connect to the leader for it, or read it outside the transaction")
		}
		res.Rows = append(res.Rows, row)
	}
	res.Result = rows.Result()
	return res, rows.Err()
}

// readOnlyTx lets a snapshot be served as a transaction is.
type readOnlyTx struct{ replica.ReadTx }

func (t readOnlyTx) Alive() bool { return true }

func (t readOnlyTx) Commit(context.Context, base.Durability, replica.OperationID, token.Past) (session.Result, error) {
	return session.Result{Position: t.Position()}, nil
}

func (t readOnlyTx) Rollback() error { return t.Close() }

// serveDescribe compiles a statement for a peer whose own replica can't.
func (g *Gateway) serveDescribe(ctx context.Context, request []byte) ([]byte, error) {
	id, sql, err := decodeDescribe(request)
	if err != nil {
		return nil, err
	}
	r, err := g.replicaOf(id)
	if err != nil {
		return nil, err
	}
	desc, err := r.Describe(ctx, sql)
	if err != nil {
		return nil, err
	}
	return encodeDescription(desc), nil
}

// describeAtLeader asks the leader to compile a statement.
func (g *Gateway) describeAtLeader(ctx context.Context, db Database, sql string) (desc *session.Description, err error) {
	ctx, cancel := g.env.Clock.WithTimeout(ctx, leaderWait, base.Errorf(base.KindTimeout, "the leader of %s did not answer in %v", db.Name, leaderWait))
	defer cancel()
	err = g.atLeader(ctx, db.Name, func(ctx context.Context, db Database) error {
		if db.Leader == g.directory.Self() {
			r := g.local(db)
			if r == nil {
				return notReady(db)
			}
			desc, err = r.Describe(ctx, sql)
			return err
		}
		waiting, stop := g.whileAlive(ctx, db)
		b, err := g.transport.Call(waiting, db.Leader, writeMethod, encodeDescribe(db.ID, sql))
		stop()
		if err != nil {
			return harmless(err)
		}
		desc, err = decodeDescription(b)
		return err
	})
	return desc, err
}

// wireError is an error inside a transaction stream.
type wireError struct {
	Kind     base.Kind    `json:"kind"`
	Message  string       `json:"message"`
	Outcome  base.Outcome `json:"outcome,omitempty"`
	Hint     string       `json:"hint,omitempty"`
	SQLState string       `json:"sqlstate,omitempty"`
	Leader   base.NodeID  `json:"leader,omitempty"`
}

func encodeError(err error) []byte {
	if err == nil {
		return nil
	}
	e := base.AsError(err)
	b, jsonErr := json.Marshal(wireError{e.Kind, err.Error(), e.Outcome, e.Hint, e.SQLState, e.Leader})
	if jsonErr != nil {
		b = []byte(`{"kind":"internal"}`)
	}
	m := newMessage(msgError)
	m.bytes(b)
	return m.done()
}

func decodeError(b []byte) error {
	d, err := openMessage(b, msgError)
	if err != nil {
		return err
	}
	var w wireError
	if err := json.Unmarshal(d.bytes(), &w); err != nil || d.end() != nil {
		return base.Errorf(base.KindInvalid, "message: bad error")
	}
	return &base.Error{Kind: w.Kind, Message: w.Message, Outcome: w.Outcome, Hint: w.Hint, SQLState: w.SQLState, Leader: w.Leader}
}

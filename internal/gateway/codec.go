package gateway

import (
	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/token"
)

// Every message is written and read here, once each, so that both sides agree;
// a decoder reads the database's id first where there is one.

func encodeWrite(id base.DatabaseID, q replica.WriteRequest) []byte {
	e := newMessage(msgWrite)
	e.uint(uint64(id))
	e.byte(byte(q.Guard))
	e.durability(q.Durability)
	e.operation(q.Operation)
	e.uint(uint64(q.Epoch))
	e.uint(uint64(len(q.Statements)))
	for _, s := range q.Statements {
		e.statement(s)
	}
	e.past(q.Past)
	return e.done()
}

func decodeWrite(b []byte) (id base.DatabaseID, q replica.WriteRequest, err error) {
	d, err := openMessage(b, msgWrite)
	if err != nil {
		return id, q, err
	}
	id = base.DatabaseID(d.uint())
	q = replica.WriteRequest{
		Guard: d.guard(), Durability: d.durability(), Operation: d.operation(), Epoch: base.Epoch(d.uint()),
		MaxResultBytes: maxForwardBytes,
	}
	for n := d.count(); n > 0 && d.err == nil; n-- {
		q.Statements = append(q.Statements, d.statement())
	}
	q.Past = d.past()
	return id, q, d.end()
}

func (d *decoder) guard() replica.Guard {
	g := replica.Guard(d.byte())
	if g > replica.GuardAdmin {
		d.fail("guard")
	}
	return g
}

func (e *encoder) readRequest(q replica.ReadRequest) {
	e.position(q.AtLeast)
	e.bool(q.Linearizable)
	e.int(int64(q.MaxAge))
	e.byte(byte(q.Guard))
}

func (d *decoder) readRequest() replica.ReadRequest {
	return replica.ReadRequest{AtLeast: d.position(), Linearizable: d.bool(), MaxAge: d.duration(), Guard: d.guard()}
}

func encodeRead(id base.DatabaseID, q replica.ReadRequest, st replica.Statement) []byte {
	e := newMessage(msgRead)
	e.uint(uint64(id))
	e.readRequest(q)
	e.statement(st)
	e.heard(q.Heard)
	return e.done()
}

func decodeRead(b []byte) (id base.DatabaseID, q replica.ReadRequest, st replica.Statement, err error) {
	d, err := openMessage(b, msgRead)
	if err != nil {
		return id, q, st, err
	}
	id, q, st = base.DatabaseID(d.uint()), d.readRequest(), d.statement()
	q.Heard = d.heard()
	return id, q, st, d.end()
}

func encodeColumns(columns []session.Column) []byte {
	e := newMessage(msgColumns)
	e.columns(columns)
	return e.done()
}

func decodeColumns(b []byte) ([]session.Column, error) {
	d, err := openMessage(b, msgColumns)
	if err != nil {
		return nil, err
	}
	columns := d.columns()
	return columns, d.end()
}

// encodeRows makes a message of n rows that are encoded already.
func encodeRows(n int, rows []byte) []byte {
	e := newMessage(msgRows)
	e.uint(uint64(n))
	e.b = append(e.b, rows...)
	return e.done()
}

func decodeRows(b []byte) ([][]base.Value, error) {
	d, err := openMessage(b, msgRows)
	if err != nil {
		return nil, err
	}
	rows := d.rows()
	return rows, d.end()
}

func (d *decoder) rows() (rows [][]base.Value) {
	for n := d.count(); n > 0 && d.err == nil; n-- {
		rows = append(rows, d.values())
	}
	return rows
}

func encodeEnd(r session.Result) []byte {
	e := newMessage(msgEnd)
	e.result(r)
	e.past(r.Past)
	return e.done()
}

func decodeEnd(b []byte) (session.Result, error) {
	d, err := openMessage(b, msgEnd)
	if err != nil {
		return session.Result{}, err
	}
	r := d.result()
	r.Past = d.past()
	return r, d.end()
}

// opening is the header of a transaction stream: write is nil for one that only
// reads.
type opening struct {
	database base.DatabaseID
	write    *replica.BeginRequest
	read     replica.ReadRequest
}

func (o opening) encode() []byte {
	e := newMessage(msgBegin)
	e.uint(uint64(o.database))
	e.bool(o.write != nil)
	if o.write == nil {
		e.readRequest(o.read)
		e.heard(o.read.Heard)
		return e.done()
	}
	e.byte(byte(o.write.Guard))
	e.uint(uint64(o.write.Epoch))
	e.bool(o.write.Snapshot != nil)
	if o.write.Snapshot != nil {
		e.position(*o.write.Snapshot)
	}
	return e.done()
}

func decodeOpening(b []byte) (o opening, err error) {
	d, err := openMessage(b, msgBegin)
	if err != nil {
		return o, err
	}
	if o.database = base.DatabaseID(d.uint()); !d.bool() {
		o.read = d.readRequest()
		o.read.Heard = d.heard()
		return o, d.end()
	}
	o.write = &replica.BeginRequest{Guard: d.guard(), Epoch: base.Epoch(d.uint())}
	if d.bool() {
		p := d.position()
		o.write.Snapshot = &p
	}
	return o, d.end()
}

func encodeBegun(at base.Position) []byte {
	e := newMessage(msgBegun)
	e.position(at)
	return e.done()
}

func decodeBegun(b []byte) (base.Position, error) {
	d, err := openMessage(b, msgBegun)
	if err != nil {
		return base.Position{}, err
	}
	at := d.position()
	return at, d.end()
}

func encodeQuery(s replica.Statement) []byte {
	e := newMessage(msgQuery)
	e.statement(s)
	return e.done()
}

func decodeQuery(b []byte) (replica.Statement, error) {
	d, err := openMessage(b, msgQuery)
	if err != nil {
		return replica.Statement{}, err
	}
	s := d.statement()
	return s, d.end()
}

func encodeCommit(durability base.Durability, op replica.OperationID, past token.Past) []byte {
	e := newMessage(msgCommit)
	e.durability(durability)
	e.operation(op)
	e.past(past)
	return e.done()
}

func decodeCommit(b []byte) (durability base.Durability, op replica.OperationID, past token.Past, err error) {
	d, err := openMessage(b, msgCommit)
	if err != nil {
		return durability, op, past, err
	}
	durability, op, past = d.durability(), d.operation(), d.past()
	return durability, op, past, d.end()
}

func encodeDescribe(id base.DatabaseID, sql string) []byte {
	e := newMessage(msgDescribe)
	e.uint(uint64(id))
	e.string(sql)
	return e.done()
}

func decodeDescribe(b []byte) (id base.DatabaseID, sql string, err error) {
	d, err := openMessage(b, msgDescribe)
	if err != nil {
		return 0, "", err
	}
	id, sql = base.DatabaseID(d.uint()), d.string()
	return id, sql, d.end()
}

func encodeDescription(desc *session.Description) []byte {
	e := newMessage(msgDescription)
	e.byte(byte(desc.Kind))
	e.uint(uint64(desc.Params))
	e.string(desc.Tag)
	e.columns(desc.Columns)
	return e.done()
}

func decodeDescription(b []byte) (*session.Description, error) {
	d, err := openMessage(b, msgDescription)
	if err != nil {
		return nil, err
	}
	desc := &session.Description{Kind: session.StatementKind(d.byte())}
	params := d.uint()
	if params > maxValues {
		d.fail("parameters")
	}
	desc.Params, desc.Tag, desc.Columns = int(params), d.string(), d.columns()
	return desc, d.end()
}

func encodeFate(id base.DatabaseID, op replica.OperationID, since base.Seq) []byte {
	e := newMessage(msgFate)
	e.uint(uint64(id))
	e.operation(op)
	e.uint(uint64(since))
	return e.done()
}

func decodeFate(b []byte) (id base.DatabaseID, op replica.OperationID, since base.Seq, err error) {
	d, err := openMessage(b, msgFate)
	if err != nil {
		return id, op, since, err
	}
	id, op, since = base.DatabaseID(d.uint()), d.operation(), base.Seq(d.uint())
	return id, op, since, d.end()
}

func encodeFateReply(f replica.Fate) []byte {
	e := newMessage(msgFateReply)
	e.bool(f.Known)
	e.bool(f.Found)
	e.uint(uint64(f.Epoch))
	e.result(f.Result)
	return e.done()
}

func decodeFateReply(b []byte) (replica.Fate, error) {
	d, err := openMessage(b, msgFateReply)
	if err != nil {
		return replica.Fate{}, err
	}
	f := replica.Fate{Known: d.bool(), Found: d.bool(), Epoch: base.Epoch(d.uint()), Result: d.result()}
	return f, d.end()
}

// encodeResult makes a message of a whole result.
func encodeResult(res *replica.WriteResult) []byte {
	e := newMessage(msgResult)
	e.columns(res.Columns)
	e.uint(uint64(len(res.Rows)))
	for _, r := range res.Rows {
		e.values(r)
	}
	e.result(res.Result)
	e.past(res.Result.Past)
	return e.done()
}

func decodeResult(b []byte) (*replica.WriteResult, error) {
	d, err := openMessage(b, msgResult)
	if err != nil {
		return nil, err
	}
	res := &replica.WriteResult{Columns: d.columns(), Rows: d.rows(), Result: d.result()}
	res.Result.Past = d.past()
	return res, d.end()
}

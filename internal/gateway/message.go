package gateway

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/token"
)

// The messages between gateways are described in docs/format/forward.md: a
// version byte, a kind byte, the fields, and a CRC-32C of all before it.
const messageVersion = 1

type messageKind byte

const (
	msgWrite    messageKind = iota + 1 // Call: one autocommit write
	msgResult                          // a whole result in memory
	msgRead                            // header of a read stream
	msgColumns                         // read stream: the columns
	msgRows                            // read stream: some rows
	msgEnd                             // read stream: the result
	msgBegin                           // header of a transaction stream
	msgBegun                           // transaction stream: it has begun
	msgQuery                           // transaction stream: one statement
	msgCommit                          // transaction stream
	msgError                           // transaction stream: the statement failed
	msgDescribe                        // Call: describe a statement
	msgDescription
	msgFate // Call: what has become of an operation
	msgFateReply
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encoder builds a message.
type encoder struct{ b []byte }

func newMessage(k messageKind) *encoder { return &encoder{b: []byte{messageVersion, byte(k)}} }

func (e *encoder) uint(v uint64)   { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) int(v int64)     { e.b = binary.AppendVarint(e.b, v) }
func (e *encoder) byte(v byte)     { e.b = append(e.b, v) }
func (e *encoder) bytes(v []byte)  { e.uint(uint64(len(v))); e.b = append(e.b, v...) }
func (e *encoder) string(v string) { e.uint(uint64(len(v))); e.b = append(e.b, v...) }

func (e *encoder) bool(v bool) {
	if v {
		e.byte(1)
	} else {
		e.byte(0)
	}
}

// done returns the finished message.
func (e *encoder) done() []byte {
	return binary.LittleEndian.AppendUint32(e.b, crc32.Checksum(e.b, castagnoli))
}

func (e *encoder) value(v base.Value) {
	e.byte(byte(v.Kind))
	switch v.Kind {
	case base.Integer:
		e.int(v.Int)
	case base.Real:
		e.b = binary.LittleEndian.AppendUint64(e.b, math.Float64bits(v.Float))
	case base.Text, base.Blob:
		e.bytes(v.Bytes)
	}
}

func (e *encoder) values(vs []base.Value) {
	e.uint(uint64(len(vs)))
	for _, v := range vs {
		e.value(v)
	}
}

func (e *encoder) position(p base.Position) { e.uint(uint64(p.Epoch)); e.uint(uint64(p.Seq)) }

func (e *encoder) durability(d base.Durability) { e.string(string(d.Level)); e.string(string(d.When)) }

func (e *encoder) operation(op replica.OperationID) { e.b = append(e.b, op[:]...) }

func (e *encoder) statement(s replica.Statement) { e.string(s.SQL); e.values(s.Args) }

func (e *encoder) columns(cs []session.Column) {
	e.uint(uint64(len(cs)))
	for _, c := range cs {
		e.string(c.Name)
		e.string(c.DeclType)
		e.string(c.Table)
		e.string(c.Origin)
	}
}

func (e *encoder) result(r session.Result) {
	e.string(r.Tag)
	e.int(r.RowsAffected)
	e.int(r.LastInsertID)
	e.position(r.Position)
	e.int(int64(r.Age))
	e.durability(r.Asked)
	e.string(r.Reached)
	e.bool(r.Degraded)
}

// past and heard end a message, and are left out when there is nothing to say: so
// the messages of sessions that know one database are as they always were.
func (e *encoder) past(p token.Past) {
	if p != "" {
		e.string(string(p))
	}
}

func (e *encoder) heard(p base.Position) {
	if p != (base.Position{}) {
		e.position(p)
	}
}

// decoder reads a message. After the first mistake every read gives zero, and
// err says what was wrong.
type decoder struct {
	b   []byte
	err error
}

// openMessage checks version, kind and checksum.
func openMessage(b []byte, want messageKind) (*decoder, error) {
	kind, err := kindOf(b)
	if err != nil {
		return nil, err
	}
	if kind != want {
		return nil, base.Errorf(base.KindInvalid, "message of kind %d where %d belongs", kind, want)
	}
	return &decoder{b: b[2 : len(b)-4]}, nil
}

func kindOf(b []byte) (messageKind, error) {
	if len(b) < 6 {
		return 0, base.Errorf(base.KindInvalid, "message of %d bytes is too short", len(b))
	}
	if b[0] != messageVersion {
		return 0, base.Errorf(base.KindUnsupported, "message version %d: this node speaks version %d", b[0], messageVersion)
	}
	if crc32.Checksum(b[:len(b)-4], castagnoli) != binary.LittleEndian.Uint32(b[len(b)-4:]) {
		return 0, base.Errorf(base.KindInvalid, "message fails its checksum")
	}
	return messageKind(b[1]), nil
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = base.Errorf(base.KindInvalid, "message: bad %s", what)
	}
	d.b = nil
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail("number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail("byte")
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) bool() bool {
	v := d.byte()
	if v > 1 {
		d.fail("truth value")
	}
	return v == 1
}

func (d *decoder) bytes() []byte {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.fail("length")
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) string() string { return string(d.bytes()) }

// count reads the number of things that follow, each at least one byte long.
func (d *decoder) count() int {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.fail("count")
		return 0
	}
	return int(n)
}

func (d *decoder) value() (v base.Value) {
	switch v.Kind = base.ValueKind(d.byte()); v.Kind {
	case base.Null:
	case base.Integer:
		v.Int = d.int()
	case base.Real:
		if len(d.b) < 8 {
			d.fail("real")
			return v
		}
		v.Float = math.Float64frombits(binary.LittleEndian.Uint64(d.b))
		d.b = d.b[8:]
	case base.Text, base.Blob:
		v.Bytes = d.bytes()
	default:
		d.fail("value")
	}
	return v
}

// maxValues bounds the values of a row or statement, and the columns of a
// result: SQLite's own limits are not higher.
const maxValues = 1<<15 - 1

// width is the count of values or columns.
func (d *decoder) width() int {
	n := d.count()
	if n > maxValues {
		d.fail("count")
		return 0
	}
	return n
}

func (d *decoder) values() []base.Value {
	n := d.width()
	if n == 0 {
		return nil
	}
	vs := make([]base.Value, n)
	for i := range vs {
		vs[i] = d.value()
	}
	return vs
}

func (d *decoder) duration() time.Duration { return time.Duration(d.int()) }

func (d *decoder) position() base.Position {
	return base.Position{Epoch: base.Epoch(d.uint()), Seq: base.Seq(d.uint())}
}

func (d *decoder) durability() base.Durability {
	return base.Durability{Level: base.Level(d.string()), When: base.When(d.string())}
}

func (d *decoder) statement() replica.Statement {
	return replica.Statement{SQL: d.string(), Args: d.values()}
}

func (d *decoder) columns() []session.Column {
	n := d.width()
	if n == 0 {
		return nil
	}
	cs := make([]session.Column, n)
	for i := range cs {
		cs[i] = session.Column{Name: d.string(), DeclType: d.string(), Table: d.string(), Origin: d.string()}
	}
	return cs
}

func (d *decoder) result() session.Result {
	return session.Result{
		Tag: d.string(), RowsAffected: d.int(), LastInsertID: d.int(), Position: d.position(),
		Age: d.duration(), Asked: d.durability(), Reached: d.string(), Degraded: d.bool(),
	}
}

func (d *decoder) past() token.Past {
	if len(d.b) == 0 {
		return ""
	}
	p, err := token.ParsePast(d.bytes())
	if p == "" || err != nil {
		d.fail("past")
	}
	return p
}

func (d *decoder) heard() (p base.Position) {
	if len(d.b) == 0 {
		return p
	}
	if p = d.position(); p == (base.Position{}) {
		d.fail("position that was heard of")
	}
	return p
}

// end says whether the message was read whole and well.
func (d *decoder) end() error {
	if d.err == nil && len(d.b) > 0 {
		d.err = base.Errorf(base.KindInvalid, "message: %d bytes too many", len(d.b))
	}
	if d.err != nil {
		return fmt.Errorf("decode message: %w", d.err)
	}
	return nil
}

func (d *decoder) operation() (op replica.OperationID) {
	if len(d.b) < len(op) {
		d.fail("operation")
		return op
	}
	copy(op[:], d.b)
	d.b = d.b[len(op):]
	return op
}

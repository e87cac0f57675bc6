package gateway

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/golden"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/token"
)

// sample is one message and a function that reads any message of its kind and
// writes it again.
type sample struct {
	name  string
	bytes []byte
	again func(b []byte) ([]byte, error)
}

var (
	someValues = []base.Value{{}, base.IntValue(-300), base.RealValue(math.Inf(1)), base.TextValue("gänse"), base.BlobValue([]byte{0, 255})}
	someColumn = []session.Column{{Name: "id", DeclType: "INTEGER", Table: "item", Origin: "id"}, {Name: "count(*)"}}
	someOp     = replica.OperationID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	someResult = session.Result{
		Tag: "INSERT", RowsAffected: 2, LastInsertID: -1, Position: base.Position{Epoch: 3, Seq: 400}, Age: time.Second,
		Asked: base.Durability{Level: base.Quorum, When: base.Flushed}, Reached: "flushed on 2 of 3", Degraded: true,
	}
)

func samples() []sample {
	st := replica.Statement{SQL: "INSERT INTO item VALUES (?1, ?2, ?3, ?4, ?5)", Args: someValues}
	read := replica.ReadRequest{AtLeast: base.Position{Epoch: 3, Seq: 400}, Linearizable: true, MaxAge: 500 * time.Millisecond, Guard: replica.GuardWrite}
	at := base.Position{Epoch: 3, Seq: 399}
	heard := replica.ReadRequest{Heard: at}
	seen, _ := token.Token{}.With(9, at)
	somePast := seen.Past(7)
	var rows encoder
	rows.values(someValues)
	rows.values(nil)
	return []sample{
		{"write", encodeWrite(7, replica.WriteRequest{
			Guard: replica.GuardAdmin, Durability: base.Durability{Level: base.All, When: base.Applied}, Operation: someOp, Epoch: 3,
			Statements: []replica.Statement{st, {SQL: "DELETE FROM item"}},
		}), func(b []byte) ([]byte, error) {
			id, q, err := decodeWrite(b)
			return encodeWrite(id, q), err
		}},
		{"result", encodeResult(&replica.WriteResult{Columns: someColumn, Rows: [][]base.Value{someValues[:2], someValues[3:]}, Result: someResult}),
			func(b []byte) ([]byte, error) {
				r, err := decodeResult(b)
				if err != nil {
					return nil, err
				}
				return encodeResult(r), nil
			}},
		{"read", encodeRead(7, read, st), func(b []byte) ([]byte, error) {
			id, q, st, err := decodeRead(b)
			return encodeRead(id, q, st), err
		}},
		{"columns", encodeColumns(someColumn), func(b []byte) ([]byte, error) {
			c, err := decodeColumns(b)
			return encodeColumns(c), err
		}},
		{"rows", encodeRows(2, rows.b), func(b []byte) ([]byte, error) {
			list, err := decodeRows(b)
			var e encoder
			for _, r := range list {
				e.values(r)
			}
			return encodeRows(len(list), e.b), err
		}},
		{"end", encodeEnd(someResult), func(b []byte) ([]byte, error) {
			r, err := decodeEnd(b)
			return encodeEnd(r), err
		}},
		{"begin write", opening{database: 7, write: &replica.BeginRequest{Snapshot: &at, Guard: replica.GuardWrite, Epoch: 3}}.encode(), againOpening},
		{"begin read", opening{database: 7, read: read}.encode(), againOpening},
		{"begun", encodeBegun(at), func(b []byte) ([]byte, error) {
			p, err := decodeBegun(b)
			return encodeBegun(p), err
		}},
		{"query", encodeQuery(st), func(b []byte) ([]byte, error) {
			s, err := decodeQuery(b)
			return encodeQuery(s), err
		}},
		{"commit", encodeCommit(base.Durability{Level: base.Async}, someOp, ""), func(b []byte) ([]byte, error) {
			d, op, past, err := decodeCommit(b)
			return encodeCommit(d, op, past), err
		}},
		{"write with a past", encodeWrite(7, replica.WriteRequest{Operation: someOp, Statements: []replica.Statement{st}, Past: somePast}), func(b []byte) ([]byte, error) {
			id, q, err := decodeWrite(b)
			return encodeWrite(id, q), err
		}},
		{"read of what was heard", encodeRead(7, heard, st), func(b []byte) ([]byte, error) {
			id, q, st, err := decodeRead(b)
			return encodeRead(id, q, st), err
		}},
		{"begin read of what was heard", opening{database: 7, read: heard}.encode(), againOpening},
		{"end with a past", encodeEnd(session.Result{Tag: "SELECT", Position: at, Past: somePast}), func(b []byte) ([]byte, error) {
			r, err := decodeEnd(b)
			return encodeEnd(r), err
		}},
		{"result with a past", encodeResult(&replica.WriteResult{Result: session.Result{Tag: "INSERT", Position: at, Past: somePast}}), func(b []byte) ([]byte, error) {
			r, err := decodeResult(b)
			if err != nil {
				return nil, err
			}
			return encodeResult(r), nil
		}},
		{"commit with a past", encodeCommit(base.Durability{}, someOp, somePast), func(b []byte) ([]byte, error) {
			d, op, past, err := decodeCommit(b)
			return encodeCommit(d, op, past), err
		}},
		{"error", encodeError(&base.Error{Kind: base.KindConflict, Message: "stale", Outcome: base.NotDone, Hint: "again", SQLState: "40001", Leader: 5}), nil},
		{"describe", encodeDescribe(7, "SELECT 1"), func(b []byte) ([]byte, error) {
			id, sql, err := decodeDescribe(b)
			return encodeDescribe(id, sql), err
		}},
		{"description", encodeDescription(&session.Description{Kind: session.Read, Params: 2, Tag: "SELECT", Columns: someColumn}), func(b []byte) ([]byte, error) {
			d, err := decodeDescription(b)
			if err != nil {
				return nil, err
			}
			return encodeDescription(d), nil
		}},
		{"fate", encodeFate(7, someOp, 400), func(b []byte) ([]byte, error) {
			id, op, since, err := decodeFate(b)
			return encodeFate(id, op, since), err
		}},
		{"fate reply", encodeFateReply(replica.Fate{Known: true, Found: true, Epoch: 4, Result: someResult}), func(b []byte) ([]byte, error) {
			f, err := decodeFateReply(b)
			return encodeFateReply(f), err
		}},
	}
}

func againOpening(b []byte) ([]byte, error) {
	o, err := decodeOpening(b)
	return o.encode(), err
}

// The bytes of every message are fixed: nodes of two versions talk to each other.
func TestMessagesAreAsDescribed(t *testing.T) {
	var b strings.Builder
	for _, s := range samples() {
		fmt.Fprintf(&b, "%s\n%s\n", s.name, hex.EncodeToString(s.bytes))
		if s.again == nil {
			continue
		}
		again, err := s.again(s.bytes)
		if err != nil || !bytes.Equal(again, s.bytes) {
			t.Errorf("%s: read and written again it is %x, %v", s.name, again, err)
		}
	}
	golden.Check(t, "testdata/messages.golden", b.String())
}

func TestErrorsTravel(t *testing.T) {
	sent := &base.Error{Kind: base.KindConflict, Message: "stale", Outcome: base.Indeterminate, Hint: "again", SQLState: "40001", Leader: 5}
	if got := decodeError(encodeError(sent)); !reflect.DeepEqual(got, error(sent)) {
		t.Errorf("got %#v", got)
	}
}

// A damaged message is refused, whatever is damaged; so is another version's.
func TestDamagedMessagesAreRefused(t *testing.T) {
	for _, s := range samples() {
		if s.again == nil {
			s.again = func(b []byte) ([]byte, error) { return nil, decodeError(b) }
		}
		for i := range s.bytes {
			b := bytes.Clone(s.bytes)
			b[i] ^= 0x10
			if _, err := s.again(b); err == nil || (s.name == "error" && base.KindOf(err) == base.KindConflict) {
				t.Errorf("%s: byte %d flipped: read all the same", s.name, i)
			}
			if _, err := s.again(s.bytes[:i]); err == nil || (s.name == "error" && base.KindOf(err) == base.KindConflict) {
				t.Errorf("%s: cut after %d bytes: read all the same", s.name, i)
			}
		}
		next := (&encoder{b: append([]byte{messageVersion + 1}, s.bytes[1:len(s.bytes)-4]...)}).done()
		if _, err := s.again(next); base.KindOf(err) != base.KindUnsupported {
			t.Errorf("%s of the next version: %v", s.name, err)
		}
		long := (&encoder{b: append(bytes.Clone(s.bytes[:len(s.bytes)-4]), 0)}).done()
		if _, err := s.again(long); base.KindOf(err) != base.KindInvalid {
			t.Errorf("%s with a byte too many: %v", s.name, err)
		}
	}
}

// FuzzMessages reads bytes as each kind of message: whatever is taken is written
// again as it was read.
func FuzzMessages(f *testing.F) {
	for _, s := range samples() {
		f.Add(s.bytes[1 : len(s.bytes)-4])
	}
	f.Add([]byte{byte(msgRows), 255, 255, 255, 255, 15})
	f.Add([]byte{byte(msgColumns), 255, 255, 1, 0})
	f.Fuzz(func(t *testing.T, body []byte) {
		b := (&encoder{b: append([]byte{messageVersion}, body...)}).done()
		for _, s := range samples() {
			if s.again == nil {
				_ = decodeError(b)
				continue
			}
			again, err := s.again(b)
			if err != nil {
				continue
			}
			if twice, err := s.again(again); err != nil || !bytes.Equal(twice, again) {
				t.Errorf("%s: %x becomes %x: %v", s.name, again, twice, err)
			}
		}
	})
}

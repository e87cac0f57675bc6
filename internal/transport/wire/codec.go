package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"sync"
	"time"

	"google.golang.org/grpc/mem"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/transport"
)

// addressed is the first message of a call or stream: the method or service
// that it is for, and the request or header.
type addressed struct {
	name string
	body []byte
}

// appendTo writes a length byte, the name and the body.
func (a addressed) appendTo(b []byte) []byte {
	b = append(b, byte(len(a.name)))
	b = append(b, a.name...)
	return append(b, a.body...)
}

func (a addressed) validate(op string) error { return transport.CheckOpening(op, a.name, a.body) }

var errAddressed = base.Errorf(base.KindInvalid, "the first message names no method or service")

func decodeAddressed(b []byte) (addressed, error) {
	if len(b) < 1 || b[0] == 0 || len(b) < 1+int(b[0]) {
		return addressed{}, errAddressed
	}
	end := 1 + int(b[0])
	return addressed{name: string(b[1:end]), body: b[end:]}, nil
}

// call is a request: how long the caller waits, and what it asks.
type call struct {
	patience time.Duration
	addressed
}

// callHead is the length of what stands before an addressed message in a call.
const callHead = 8

func (c call) appendTo(b []byte) []byte {
	return c.addressed.appendTo(binary.LittleEndian.AppendUint64(b, uint64(c.patience)))
}

func decodeCall(b []byte) (call, error) {
	if len(b) < callHead {
		return call{}, errAddressed
	}
	patience := binary.LittleEndian.Uint64(b)
	if patience > math.MaxInt64 {
		return call{}, errAddressed
	}
	a, err := decodeAddressed(b[callHead:])
	return call{time.Duration(patience), a}, err
}

// codec hands bytes to gRPC as they are. It copies what is sent, since gRPC
// may read it after the send has returned.
type codec struct{}

func (codec) Name() string { return "skein" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case []byte:
		return mem.BufferSlice{mem.Copy(m, sendBuffers)}, nil
	case addressed:
		buffer := sendBuffers.Get(1 + len(m.name) + len(m.body))
		m.appendTo((*buffer)[:0])
		return mem.BufferSlice{mem.NewBuffer(buffer, sendBuffers)}, nil
	case call:
		buffer := sendBuffers.Get(callHead + 1 + len(m.name) + len(m.body))
		m.appendTo((*buffer)[:0])
		return mem.BufferSlice{mem.NewBuffer(buffer, sendBuffers)}, nil
	case framed:
		buffer := sendBuffers.Get(1 + len(m.body))
		(*buffer)[0] = byte(m.kind)
		copy((*buffer)[1:], m.body)
		return mem.BufferSlice{mem.NewBuffer(buffer, sendBuffers)}, nil
	}
	return nil, fmt.Errorf("message of type %T", v)
}

// bufferPool is a mem.BufferPool that does not clear what it hands out: gRPC's
// own clears a whole megabyte for a message of 64 KiB.
type bufferPool struct {
	classes [25]sync.Pool // of *[]byte; class i has a capacity of 1<<i
}

var sendBuffers = &bufferPool{}

// smallest is the class that gRPC is willing to return to a pool.
const smallest = 11

// Get implements mem.BufferPool.
func (p *bufferPool) Get(length int) *[]byte {
	class := max(bits.Len(uint(max(length, 1)-1)), smallest)
	if length <= 1<<(smallest-1) || class >= len(p.classes) {
		b := make([]byte, length)
		return &b
	}
	if b, ok := p.classes[class].Get().(*[]byte); ok {
		*b = (*b)[:length]
		return b
	}
	b := make([]byte, length, 1<<class)
	return &b
}

// Put implements mem.BufferPool.
func (p *bufferPool) Put(b *[]byte) {
	class := bits.Len(uint(cap(*b))) - 1
	if class >= smallest && class < len(p.classes) && cap(*b) == 1<<class {
		p.classes[class].Put(b)
	}
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	p, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("message of type %T", v)
	}
	*p = data.Materialize()
	return nil
}

// failure is an error on the wire.
type failure struct {
	Version  int    `json:"v"`
	Kind     string `json:"kind"`
	Op       string `json:"op,omitempty"`
	Message  string `json:"message,omitempty"`
	Outcome  string `json:"outcome,omitempty"`
	Hint     string `json:"hint,omitempty"`
	SQLState string `json:"sqlstate,omitempty"`
	Leader   string `json:"leader,omitempty"`
}

// maxFailureText bounds each text of an error on the wire, since all of them
// travel in a header and JSON may write a byte as six.
const maxFailureText = 1 << 10

func encodeFailure(err error) []byte {
	e := transport.Answer(err)
	f := failure{
		Version: 1, Kind: string(e.Kind), Op: cut(e.Op), Message: cut(e.Message),
		Outcome: string(e.Outcome), Hint: cut(e.Hint), SQLState: cut(e.SQLState),
	}
	if e.Leader != 0 {
		f.Leader = e.Leader.String()
	}
	b, err := json.Marshal(f)
	if err != nil {
		return nil // Strings always encode.
	}
	return b
}

func cut(s string) string { return s[:min(len(s), maxFailureText)] }

var errFailure = errors.New("not an error of a node")

// decodeFailure reads what encodeFailure wrote, of this or a later version: a
// later one only adds fields. An outcome that is not known counts as
// indeterminate.
func decodeFailure(b []byte) (*base.Error, error) {
	var f failure
	if err := json.Unmarshal(b, &f); err != nil || f.Version < 1 || f.Kind == "" {
		return nil, errFailure
	}
	e := &base.Error{Kind: base.Kind(f.Kind), Op: f.Op, Message: f.Message, Outcome: base.Outcome(f.Outcome),
		Hint: f.Hint, SQLState: f.SQLState}
	switch e.Outcome {
	case base.NotDone, base.Done:
	default:
		e.Outcome = base.Indeterminate
	}
	if f.Leader != "" {
		leader, err := base.ParseNodeID(f.Leader)
		if err != nil {
			return nil, errFailure
		}
		e.Leader = leader
	}
	return e, nil
}

package pgwire

import (
	"encoding/binary"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/skeindb/skein/internal/env"
)

const (
	// writeBuffer is what an idle connection keeps for what it will write.
	writeBuffer = 4 << 10
	// flushAt is when a long result is sent on; the buffer may outgrow it by
	// one row.
	flushAt = 8 << 10
)

// writer collects messages and sends them in few system calls. The first error
// stays; what is added after it is dropped.
type writer struct {
	dst     net.Conn
	clock   env.Clock
	timeout time.Duration
	buf     []byte
	err     error
	// due says that the client waits for what is in the buffer: it has asked
	// for an answer (Sync, Flush, a query) or must be told something.
	due bool
}

// send adds a message.
func (w *writer) send(m pgproto3.BackendMessage) {
	b, err := m.Encode(w.buf)
	if err != nil {
		w.fail(err)
		return
	}
	w.buf = b
}

// fail keeps the first error.
func (w *writer) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

// empty adds a message without a body.
func (w *writer) empty(kind byte) { w.buf = append(w.buf, kind, 0, 0, 0, 4) }

// begin starts a message and returns what end needs.
func (w *writer) begin(kind byte) int {
	w.buf = append(w.buf, kind, 0, 0, 0, 0)
	return len(w.buf) - 4
}

// end sets the length of the message that begin started.
func (w *writer) end(at int) {
	binary.BigEndian.PutUint32(w.buf[at:], uint32(len(w.buf)-at))
}

func (w *writer) int16(v int) { w.buf = binary.BigEndian.AppendUint16(w.buf, uint16(v)) }
func (w *writer) int32(v int) { w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(v)) }

// text adds a string with the zero byte that ends it.
func (w *writer) text(s string) { w.buf = append(append(w.buf, s...), 0) }

// ready adds ReadyForQuery; the client waits for it.
func (w *writer) ready(status byte) {
	w.buf = append(w.buf, 'Z', 0, 0, 0, 5, status)
	w.due = true
}

// spill sends the buffer on when it is full.
func (w *writer) spill() error {
	if len(w.buf) >= flushAt {
		return w.flush()
	}
	return w.err
}

// flushDue sends the buffer if the client waits for it.
func (w *writer) flushDue() error {
	if w.due {
		return w.flush()
	}
	return w.err
}

// flush sends everything in one write, within the time limit.
func (w *writer) flush() error {
	w.due = false
	if w.err == nil && len(w.buf) > 0 {
		w.fail(w.dst.SetWriteDeadline(w.clock.Now().Add(w.timeout)))
		if w.err == nil {
			_, err := w.dst.Write(w.buf)
			w.fail(err)
		}
	}
	if cap(w.buf) > 2*flushAt {
		w.buf = make([]byte, 0, writeBuffer)
	}
	w.buf = w.buf[:0]
	return w.err
}

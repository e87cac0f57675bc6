package pgwire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

const (
	// readBuffer is what an idle connection keeps for what it will read.
	readBuffer = 8 << 10
	// firstChunk is the most that a long message gets before any of it came.
	firstChunk = 64 << 10
	headerSize = 5
)

// errProtocol is what a client did that the protocol does not allow; the
// connection cannot go on.
var errProtocol = errors.New("protocol violation")

// tooLarge is a message over the limit. Its body has been skipped.
type tooLarge struct {
	kind          byte
	length, limit int
}

func (e *tooLarge) Error() string {
	return fmt.Sprintf("message of %d bytes is over the limit of %d", e.length, e.limit)
}

// reader cuts a client's bytes into messages. A message's body is valid until
// the next one is read. It holds readBuffer bytes; only a longer message takes
// more, in steps as it arrives, and gives it back.
type reader struct {
	src   io.Reader
	buf   []byte
	r, w  int // buf[r:w] has been read and not yet used
	limit int // of a message's body
	// beforeRead runs before the reader may block; it sends what is waiting.
	beforeRead func() error
}

// nextKind returns the type of the next message if its first byte is here.
func (r *reader) nextKind() (byte, bool) {
	if r.r < r.w {
		return r.buf[r.r], true
	}
	return 0, false
}

// message returns the next message. After *tooLarge the reader stands behind
// that message; every other error is final.
func (r *reader) message() (kind byte, body []byte, err error) {
	if err := r.fill(headerSize); err != nil {
		return 0, nil, err
	}
	kind = r.buf[r.r]
	length := int(int32(binary.BigEndian.Uint32(r.buf[r.r+1:]))) - 4
	if length < 0 {
		return 0, nil, fmt.Errorf("%w: message %q of length %d", errProtocol, kind, length+4)
	}
	r.r += headerSize
	if length > r.limit {
		if err := r.skip(length); err != nil {
			return 0, nil, err
		}
		return 0, nil, &tooLarge{kind: kind, length: length, limit: r.limit}
	}
	body, err = r.take(length)
	return kind, body, err
}

// startup returns the body of a message without a type, as connections begin.
func (r *reader) startup() ([]byte, error) {
	if err := r.fill(4); err != nil {
		return nil, err
	}
	length := int(int32(binary.BigEndian.Uint32(r.buf[r.r:]))) - 4
	if length < 4 || length > maxStartup {
		return nil, fmt.Errorf("%w: startup message of length %d", errProtocol, length+4)
	}
	r.r += 4
	return r.take(length)
}

// take returns the next n bytes.
func (r *reader) take(n int) ([]byte, error) {
	if n > len(r.buf) {
		return r.takeLong(n)
	}
	if err := r.fill(n); err != nil {
		return nil, unexpected(err)
	}
	b := r.buf[r.r : r.r+n : r.r+n]
	r.r += n
	return b, nil
}

// takeLong reads a message that does not fit the buffer. Memory grows with
// what arrived, not with what was announced.
func (r *reader) takeLong(n int) ([]byte, error) {
	big := make([]byte, 0, min(n, firstChunk))
	for len(big) < n {
		if r.r == r.w {
			if err := r.more(); err != nil {
				return nil, unexpected(err)
			}
		}
		k := min(n-len(big), r.w-r.r)
		if cap(big)-len(big) < k {
			big = slices.Grow(big, min(n-len(big), 2*cap(big)))
		}
		big = append(big, r.buf[r.r:r.r+k]...)
		r.r += k
	}
	return big, nil
}

func (r *reader) skip(n int) error {
	for n > 0 {
		if r.r == r.w {
			if err := r.more(); err != nil {
				return unexpected(err)
			}
		}
		k := min(n, r.w-r.r)
		r.r += k
		n -= k
	}
	return nil
}

// fill makes buf[r:w] hold at least n bytes; n must fit the buffer.
func (r *reader) fill(n int) error {
	if r.w-r.r >= n {
		return nil
	}
	if len(r.buf)-r.r < n {
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	for r.w-r.r < n {
		if err := r.more(); err != nil {
			if r.w > r.r {
				return unexpected(err)
			}
			return err
		}
	}
	return nil
}

// more reads once, after what is waiting has been sent.
func (r *reader) more() error {
	if r.r == r.w {
		r.r, r.w = 0, 0
	}
	if err := r.beforeRead(); err != nil {
		return err
	}
	n, err := r.src.Read(r.buf[r.w:])
	r.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

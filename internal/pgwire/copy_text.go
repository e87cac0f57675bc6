package pgwire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"github.com/skeindb/skein/internal/base"
)

// rowReader cuts the bytes of a COPY into rows. It is pure but for the reader
// below it.
type rowReader struct {
	in      *bufio.Reader
	o       copyOptions
	maximum int // bytes of a row
	line    int // of the row that was read last, from 1
	next    int // lines read
	ended   bool
}

func newRowReader(in io.Reader, o copyOptions, maximum int) *rowReader {
	return &rowReader{in: bufio.NewReaderSize(in, readBuffer), o: o, maximum: maximum}
}

// field is one value of a row; nil is NULL.
type field []byte

// read returns the next row's fields, which the caller owns, or io.EOF.
func (r *rowReader) read() ([]field, error) {
	if r.o.format == copyBinary {
		return r.readBinary()
	}
	row, err := r.row()
	if err != nil {
		return nil, err
	}
	if bytes.Equal(row, []byte(`\.`)) {
		r.ended = true
		return nil, io.EOF
	}
	if r.o.format == copyCSV {
		return r.splitCSV(row)
	}
	return r.splitText(row), nil
}

// row returns the next row without its line break. In CSV a line break inside
// quotes belongs to the row.
func (r *rowReader) row() ([]byte, error) {
	if r.ended {
		return nil, io.EOF
	}
	r.line = r.next + 1
	var row []byte
	open := false
	for {
		from := len(row)
		var err error
		if row, err = r.appendLine(row); err != nil {
			if err == io.EOF && len(row) > 0 && !open {
				return row, nil
			}
			if err == io.EOF && open {
				return nil, pgError("22P04", "unterminated CSV quoted field")
			}
			return nil, err
		}
		if r.o.format == copyCSV {
			open = r.opens(row[from:], open)
		}
		if !open {
			return bytes.TrimSuffix(row[:len(row)-1], []byte{'\r'}), nil
		}
	}
}

// appendLine appends a line with its break, or what is left before io.EOF.
func (r *rowReader) appendLine(row []byte) ([]byte, error) {
	for {
		part, err := r.in.ReadSlice('\n')
		row = append(row, part...)
		if len(row) > r.maximum {
			return nil, base.Errorf(base.KindTooLarge, "a row is over %d bytes", r.maximum)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err == nil {
			r.next++
		}
		return row, err
	}
}

// opens says whether a quoted field is open after a line.
func (r *rowReader) opens(line []byte, open bool) bool {
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case open && c == r.o.escape && r.o.escape != r.o.quote && i+1 < len(line):
			i++
		case c == r.o.quote:
			open = !open
		}
	}
	return open
}

// splitText splits at delimiters and undoes backslash escapes, in place.
func (r *rowReader) splitText(row []byte) []field {
	var fields []field
	for {
		end := textFieldEnd(row, r.o.delimiter)
		raw := row[:end:end]
		if string(raw) == r.o.null {
			fields = append(fields, nil)
		} else {
			fields = append(fields, unescape(raw))
		}
		if end == len(row) {
			return fields
		}
		row = row[end+1:]
	}
}

func textFieldEnd(row []byte, delimiter byte) int {
	for i := 0; i < len(row); i++ {
		switch row[i] {
		case '\\':
			i++
		case delimiter:
			return i
		}
	}
	return len(row)
}

// unescape undoes \n, \t, \ooo, \xhh and the like, in place.
func unescape(b []byte) []byte {
	if bytes.IndexByte(b, '\\') < 0 {
		return b
	}
	out := b[:0]
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' || i+1 == len(b) {
			out = append(out, b[i])
			continue
		}
		i++
		c := b[i]
		if k := bytes.IndexByte([]byte("bfnrtv"), c); k >= 0 {
			c = "\b\f\n\r\t\v"[k]
		} else if c >= '0' && c <= '7' {
			n := 0
			end := min(i+3, len(b))
			for ; i < end && b[i] >= '0' && b[i] <= '7'; i++ {
				n = n<<3 | int(b[i]-'0')
			}
			i--
			c = byte(n)
		} else if c == 'x' && i+1 < len(b) && hexDigit(b[i+1]) >= 0 {
			i++
			n := hexDigit(b[i])
			if i+1 < len(b) && hexDigit(b[i+1]) >= 0 {
				i++
				n = n<<4 | hexDigit(b[i])
			}
			c = byte(n)
		}
		out = append(out, c)
	}
	return out
}

func hexDigit(c byte) int { return bytes.IndexByte([]byte("0123456789abcdef"), lower(c)) }

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// splitCSV splits at delimiters outside quotes and takes the quotes off, in
// place. Only a field without quotes can be NULL.
func (r *rowReader) splitCSV(row []byte) ([]field, error) {
	var fields []field
	out := row[:0]
	start, quoted, open := 0, false, false
	end := func() {
		f := out[start:len(out):len(out)]
		if !quoted && string(f) == r.o.null {
			f = nil
		} else if f == nil {
			f = []byte{}
		}
		fields = append(fields, f)
		start, quoted = len(out), false
	}
	for i := 0; i < len(row); i++ {
		c := row[i]
		switch {
		case open && c == r.o.escape && i+1 < len(row) && (row[i+1] == r.o.quote || row[i+1] == r.o.escape):
			i++
			out = append(out, row[i])
		case c == r.o.quote:
			open, quoted = !open, true
		case c == r.o.delimiter && !open:
			end()
		default:
			out = append(out, c)
		}
	}
	if open {
		return nil, pgError("22P04", "unterminated CSV quoted field")
	}
	end()
	return fields, nil
}

// copySignature starts a COPY in binary format.
const copySignature = "PGCOPY\n\xff\r\n\x00"

// readHeader reads what comes before the first row.
func (r *rowReader) readHeader() error {
	head := make([]byte, len(copySignature)+8)
	if _, err := io.ReadFull(r.in, head); err != nil {
		return shortCopy(err)
	}
	if string(head[:len(copySignature)]) != copySignature {
		return pgError("22P04", "COPY file signature not recognized")
	}
	extension := int(int32(binary.BigEndian.Uint32(head[len(copySignature)+4:])))
	if extension < 0 || extension > r.maximum {
		return pgError("22P04", "invalid COPY file header")
	}
	if _, err := r.in.Discard(extension); err != nil {
		return shortCopy(err)
	}
	return nil
}

// shortCopy tells the end of the data from the end of the connection.
func shortCopy(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return pgError("22P04", "unexpected EOF in COPY data")
	}
	return err
}

func (r *rowReader) readBinary() ([]field, error) {
	if r.ended {
		return nil, io.EOF
	}
	if r.line == 0 {
		if err := r.readHeader(); err != nil {
			return nil, err
		}
	}
	r.line++
	var b [4]byte
	if _, err := io.ReadFull(r.in, b[:2]); err != nil {
		if err == io.EOF {
			r.ended = true
			return nil, io.EOF
		}
		return nil, shortCopy(err)
	}
	n := int(int16(binary.BigEndian.Uint16(b[:2])))
	if n == -1 {
		r.ended = true
		return nil, io.EOF
	}
	if n < 0 {
		return nil, pgError("22P04", "row field count is %d", n)
	}
	fields := make([]field, n)
	left := r.maximum
	for i := range fields {
		if _, err := io.ReadFull(r.in, b[:4]); err != nil {
			return nil, shortCopy(err)
		}
		size := int(int32(binary.BigEndian.Uint32(b[:4])))
		if size == -1 {
			continue
		}
		if left -= size; size < 0 || left < 0 {
			return nil, base.Errorf(base.KindTooLarge, "a row is over %d bytes", r.maximum)
		}
		var err error
		if fields[i], err = readField(r.in, size); err != nil {
			return nil, shortCopy(err)
		}
	}
	return fields, nil
}

// readField takes memory as the bytes arrive.
func readField(in io.Reader, size int) (field, error) {
	var b bytes.Buffer
	b.Grow(min(size, firstChunk))
	if _, err := io.CopyN(&b, in, int64(size)); err != nil {
		return nil, err
	}
	return append([]byte{}, b.Bytes()...), nil
}

// appendCopy writes one value of a row.
func (o *copyOptions) appendCopy(b []byte, v base.Value, typ uint32) []byte {
	if v.Kind == base.Null {
		return append(b, o.null...)
	}
	text := appendText(nil, v, typ)
	if o.format == copyCSV {
		return o.appendCSV(b, text)
	}
	for _, c := range text {
		switch k := bytes.IndexByte([]byte("\b\f\n\r\t\v\\"), c); {
		case k >= 0:
			b = append(b, '\\', "bfnrtv\\"[k])
		case c == o.delimiter:
			b = append(b, '\\', c)
		default:
			b = append(b, c)
		}
	}
	return b
}

func (o *copyOptions) appendCSV(b, text []byte) []byte {
	special := string([]byte{o.delimiter, o.quote, '\n', '\r'})
	if string(text) != o.null && !bytes.ContainsAny(text, special) && string(text) != `\.` {
		return append(b, text...)
	}
	b = append(b, o.quote)
	for _, c := range text {
		if c == o.quote || c == o.escape {
			b = append(b, o.escape)
		}
		b = append(b, c)
	}
	return append(b, o.quote)
}

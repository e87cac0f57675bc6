package pgwire

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/pgwire/oid"
)

// row adds a DataRow. formats holds none, one for all or one for each column.
func (w *writer) row(values []base.Value, columns []column, formats []int16) error {
	if len(values) != len(columns) {
		return changedResult()
	}
	return w.fields('D', values, columns, formats)
}

func changedResult() error {
	return pgError("0A000", "cached plan must not change result type").WithHint("prepare the statement again")
}

// copyFields adds a row of a COPY in binary format, which is laid out as a
// DataRow is.
func (w *writer) copyFields(values []base.Value, columns []column) error {
	return w.fields('d', values, columns, allBinary)
}

var allBinary = []int16{1}

// fields adds a message that is a row.
func (w *writer) fields(kind byte, values []base.Value, columns []column, formats []int16) error {
	start := w.begin(kind)
	w.int16(len(values))
	for i := range values {
		if values[i].Kind == base.Null {
			w.int32(-1)
			continue
		}
		at := len(w.buf)
		w.int32(0)
		var err error
		if formatOf(formats, i) == 1 {
			w.buf, err = appendBinary(w.buf, values[i], columns[i])
		} else {
			w.buf = appendText(w.buf, values[i], columns[i].oid)
		}
		if err != nil {
			w.buf = w.buf[:start-1]
			return err
		}
		binary.BigEndian.PutUint32(w.buf[at:], uint32(len(w.buf)-at-4))
	}
	w.end(start)
	return nil
}

func formatOf(formats []int16, i int) int16 {
	switch len(formats) {
	case 0:
		return 0
	case 1:
		return formats[0]
	}
	return formats[i]
}

// appendText writes a value as text. A value that is not of the column's type
// is written as what it is.
func appendText(b []byte, v base.Value, typ uint32) []byte {
	switch v.Kind {
	case base.Integer:
		if typ == oid.Bool && (v.Int == 0 || v.Int == 1) {
			return append(b, "ft"[v.Int])
		}
		return strconv.AppendInt(b, v.Int, 10)
	case base.Real:
		return appendReal(b, v.Float, typ)
	case base.Blob:
		return hex.AppendEncode(append(b, `\x`...), v.Bytes)
	case base.Text:
		return appendTextOf(b, v.Bytes, typ)
	}
	return b
}

// appendReal writes what float8out does; without a promised type ".0" keeps a
// real from looking like an integer, as in SQLite.
func appendReal(b []byte, f float64, typ uint32) []byte {
	switch {
	case math.IsInf(f, 1):
		return append(b, "Infinity"...)
	case math.IsInf(f, -1):
		return append(b, "-Infinity"...)
	}
	start := len(b)
	if a := math.Abs(f); a != 0 && (a < 1e-5 || a >= 1e15) && typ != oid.Numeric {
		return strconv.AppendFloat(b, f, 'e', -1, 64)
	}
	b = strconv.AppendFloat(b, f, 'f', -1, 64)
	if typ == 0 && !strings.Contains(string(b[start:]), ".") {
		b = append(b, ".0"...)
	}
	return b
}

func appendTextOf(b, text []byte, typ uint32) []byte {
	switch typ {
	case oid.Bool:
		if on, err := parseBool(string(text)); err == nil {
			return append(b, map[bool]byte{true: 't', false: 'f'}[on])
		}
	case oid.Bytea:
		return hex.AppendEncode(append(b, `\x`...), text)
	case oid.Timestamp, oid.TimestampTZ, oid.Date:
		if t, ok := parseTime(string(text)); ok {
			b = append(b, formatTime(t, typ)...)
			if typ == oid.TimestampTZ {
				b = append(b, "+00"...)
			}
			return b
		}
	}
	return append(b, text...)
}

// contradicts is the error for a value that the promised binary type cannot
// hold.
func contradicts(v base.Value, c column) error {
	return pgError("22P03", "column %q holds %s, which is not of its declared type %s", c.name, describeValue(v), typeName(c.oid)).
		WithHint("ask for the result in text format, CAST the column, or make the table STRICT")
}

func describeValue(v base.Value) string {
	switch v.Kind {
	case base.Integer:
		return "the integer " + strconv.FormatInt(v.Int, 10)
	case base.Real:
		return "the real " + strconv.FormatFloat(v.Float, 'g', -1, 64)
	case base.Text:
		return "the text " + strconv.Quote(shortened(v.Bytes))
	}
	return "a blob of " + strconv.Itoa(len(v.Bytes)) + " bytes"
}

// appendBinary writes a value in the binary format of the column's type.
func appendBinary(b []byte, v base.Value, c column) ([]byte, error) {
	switch c.oid {
	case oid.Int8:
		if v.Kind != base.Integer {
			return b, contradicts(v, c)
		}
		return binary.BigEndian.AppendUint64(b, uint64(v.Int)), nil
	case oid.Int4, oid.OID:
		if v.Kind != base.Integer || v.Int != int64(int32(v.Int)) && (c.oid != oid.OID || v.Int>>32 != 0) {
			return b, contradicts(v, c)
		}
		return binary.BigEndian.AppendUint32(b, uint32(v.Int)), nil
	case oid.Int2:
		if v.Kind != base.Integer || v.Int != int64(int16(v.Int)) {
			return b, contradicts(v, c)
		}
		return binary.BigEndian.AppendUint16(b, uint16(v.Int)), nil
	case oid.Float8:
		switch v.Kind {
		case base.Real:
			return binary.BigEndian.AppendUint64(b, math.Float64bits(v.Float)), nil
		case base.Integer:
			return binary.BigEndian.AppendUint64(b, math.Float64bits(float64(v.Int))), nil
		}
		return b, contradicts(v, c)
	case oid.Bytea:
		if v.Kind == base.Blob || v.Kind == base.Text {
			return append(b, v.Bytes...), nil
		}
		return appendText(b, v, 0), nil
	case oid.Bool, oid.Timestamp, oid.TimestampTZ, oid.Date, oid.Numeric, oid.UUID:
		return appendByText(b, v, c)
	case 0:
		if v.Kind == base.Blob {
			return append(b, v.Bytes...), nil
		}
	}
	return appendText(b, v, c.oid), nil // The binary format of text and json is the text.
}

// appendByText goes through the type's text form, which says whether the value
// is one of the type.
func appendByText(b []byte, v base.Value, c column) ([]byte, error) {
	if v.Kind == base.Blob || c.oid != oid.Numeric && c.oid != oid.Bool && v.Kind != base.Text {
		return b, contradicts(v, c)
	}
	text := appendText(nil, v, c.oid)
	if c.oid == oid.Bool {
		switch string(text) {
		case "t":
			return append(b, 1), nil
		case "f":
			return append(b, 0), nil
		}
		return b, contradicts(v, c)
	}
	out, err := recode(text, c.oid, pgtype.TextFormatCode, pgtype.BinaryFormatCode, b)
	if err != nil {
		return b, contradicts(v, c)
	}
	return out, nil
}

// rowDescription adds the columns of a result.
func (w *writer) rowDescription(columns []column, formats []int16) {
	start := w.begin('T')
	w.int16(len(columns))
	for i, c := range columns {
		w.text(clean(c.name))
		w.int32(0) // no table: clients would look it up and try to update it
		w.int16(0)
		w.int32(int(c.oid))
		w.int16(oid.Size(c.oid))
		w.int32(-1)
		w.int16(int(formatOf(formats, i)))
	}
	w.end(start)
}

// complete adds CommandComplete.
func (w *writer) complete(tag string, rows int64) {
	start := w.begin('C')
	w.buf = append(w.buf, tag...)
	switch tag {
	case "INSERT":
		w.buf = strconv.AppendInt(append(w.buf, " 0 "...), rows, 10)
	case "SELECT", "UPDATE", "DELETE", "COPY", "FETCH", "MOVE":
		w.buf = strconv.AppendInt(append(w.buf, ' '), rows, 10)
	}
	w.buf = append(w.buf, 0)
	w.end(start)
}

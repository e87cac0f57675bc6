package pgwire

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/pgwire/oid"
)

// decodeParam turns what a client has bound into a value. What is bound as
// text without a type stays text: SQLite converts it where it meets a column.
// Bytes of the result may be those of data.
func decodeParam(data []byte, typ uint32, format int16) (base.Value, error) {
	switch {
	case data == nil:
		return base.Value{}, nil
	case format == 0:
		return decodeText(data, typ)
	case format == 1:
		return decodeBinary(data, typ)
	}
	return base.Value{}, pgError("08P01", "unknown format code %d", format)
}

func badText(typ uint32, data []byte) error {
	return pgError("22P02", "invalid input syntax for type %s: %q", typeName(typ), shortened(data))
}

func badBinary(typ uint32, data []byte) error {
	return pgError("22P03", "incorrect binary data format of %d bytes for type %s", len(data), typeName(typ))
}

func shortened(b []byte) string {
	if len(b) > 60 {
		return string(b[:60]) + "..."
	}
	return string(b)
}

func typeName(typ uint32) string {
	if t, ok := defaultTypes.TypeForOID(typ); ok {
		return t.Name
	}
	return fmt.Sprintf("with oid %d", typ)
}

// defaultTypes is asked for types only, which any goroutine may do. What
// converts values remembers plans, and takes a map of its own from typeMaps.
var (
	defaultTypes = pgtype.NewMap()
	typeMaps     = sync.Pool{New: func() any { return pgtype.NewMap() }}
)

// recode turns one format of a type into the other.
func recode(data []byte, typ uint32, from, to int16, dst []byte) ([]byte, error) {
	m := typeMaps.Get().(*pgtype.Map)
	defer typeMaps.Put(m)
	t, ok := m.TypeForOID(typ)
	if !ok || !t.Codec.FormatSupported(from) || !t.Codec.FormatSupported(to) {
		return nil, errFormat
	}
	v, err := t.Codec.DecodeValue(m, typ, from, data)
	if err != nil {
		return nil, err
	}
	return m.Encode(typ, to, v, dst)
}

var errFormat = errors.New("format not supported")

func decodeText(data []byte, typ uint32) (base.Value, error) {
	switch typ {
	case oid.Int2, oid.Int4, oid.Int8, oid.OID:
		n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, intBits(typ))
		if err != nil {
			return base.Value{}, badText(typ, data)
		}
		return base.IntValue(n), nil
	case oid.Float4, oid.Float8:
		f, err := strconv.ParseFloat(strings.TrimSpace(string(data)), 64)
		if err != nil {
			return base.Value{}, badText(typ, data)
		}
		return realValue(f), nil
	case oid.Numeric:
		return numericValue(data)
	case oid.Bool:
		b, err := parseBool(strings.TrimSpace(string(data)))
		if err != nil {
			return base.Value{}, badText(typ, data)
		}
		return boolValue(b), nil
	case oid.Bytea:
		return byteaValue(data)
	case oid.Timestamp, oid.TimestampTZ, oid.Date:
		return timeText(data, typ), nil
	}
	return base.Value{Kind: base.Text, Bytes: data}, nil
}

func intBits(typ uint32) int {
	switch typ {
	case oid.Int2:
		return 16
	case oid.Int4:
		return 32
	}
	return 64
}

func boolValue(b bool) base.Value {
	if b {
		return base.IntValue(1)
	}
	return base.IntValue(0)
}

// realValue has no NaN: SQLite stores none, and takes it for NULL.
func realValue(f float64) base.Value {
	if math.IsNaN(f) {
		return base.Value{}
	}
	return base.RealValue(f)
}

// numericValue keeps every digit: what neither an integer nor a real can hold
// stays text.
func numericValue(data []byte) (base.Value, error) {
	s := strings.TrimSpace(string(data))
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return base.IntValue(n), nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || strings.ContainsAny(s, "xX_pP") {
		return base.Value{}, badText(oid.Numeric, data)
	}
	if digits(s) <= 15 || math.IsInf(f, 0) || math.IsNaN(f) {
		return realValue(f), nil
	}
	return base.TextValue(s), nil
}

// digits counts the significant digits of a decimal number.
func digits(s string) int {
	mantissa, _, _ := strings.Cut(strings.ToLower(s), "e")
	mantissa = strings.TrimLeft(mantissa, "+-0.")
	n := 0
	for _, c := range mantissa {
		if c >= '0' && c <= '9' {
			n++
		}
	}
	return n
}

// byteaValue reads \x00ff and the older form with \\ and \ooo.
func byteaValue(data []byte) (base.Value, error) {
	if len(data) >= 2 && data[0] == '\\' && data[1] == 'x' {
		out := make([]byte, hex.DecodedLen(len(data)-2))
		if _, err := hex.Decode(out, data[2:]); err != nil {
			return base.Value{}, badText(oid.Bytea, data)
		}
		return base.BlobValue(out), nil
	}
	out := make([]byte, 0, len(data))
	for i := 0; i < len(data); i++ {
		switch {
		case data[i] != '\\':
			out = append(out, data[i])
		case i+1 < len(data) && data[i+1] == '\\':
			out = append(out, '\\')
			i++
		case i+3 < len(data):
			n, err := strconv.ParseUint(string(data[i+1:i+4]), 8, 8)
			if err != nil {
				return base.Value{}, badText(oid.Bytea, data)
			}
			out = append(out, byte(n))
			i += 3
		default:
			return base.Value{}, badText(oid.Bytea, data)
		}
	}
	return base.BlobValue(out), nil
}

// timeText stores times as SQLite's functions write them, in UTC, so that both
// formats of the wire and datetime('now') compare. What is no time stays.
func timeText(data []byte, typ uint32) base.Value {
	t, ok := parseTime(string(data))
	if !ok {
		return base.Value{Kind: base.Text, Bytes: data}
	}
	return base.TextValue(formatTime(t, typ))
}

const (
	dateLayout = "2006-01-02"
	timeLayout = "2006-01-02 15:04:05.999999"
)

func formatTime(t time.Time, typ uint32) string {
	if typ == oid.Date {
		return t.Format(dateLayout)
	}
	return t.UTC().Format(timeLayout)
}

// timeLayouts are what SQLite's functions read and what drivers send. A
// fraction of a second is read after the seconds without being named.
var timeLayouts = []string{
	"2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04:05Z07:00", "2006-01-02T15:04:05Z07:00",
	"2006-01-02 15:04:05Z07", "2006-01-02 15:04", "2006-01-02T15:04", dateLayout,
}

func parseTime(s string) (time.Time, bool) {
	if len(s) < len(dateLayout) || len(s) > 40 || s[4] != '-' {
		return time.Time{}, false
	}
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

func decodeBinary(data []byte, typ uint32) (base.Value, error) {
	switch typ {
	case oid.Int2, oid.Int4, oid.Int8, oid.OID:
		return binaryInt(data, typ)
	case oid.Float4:
		if len(data) != 4 {
			return base.Value{}, badBinary(typ, data)
		}
		return realValue(float64(math.Float32frombits(binary.BigEndian.Uint32(data)))), nil
	case oid.Float8:
		if len(data) != 8 {
			return base.Value{}, badBinary(typ, data)
		}
		return realValue(math.Float64frombits(binary.BigEndian.Uint64(data))), nil
	case oid.Bool:
		if len(data) != 1 {
			return base.Value{}, badBinary(typ, data)
		}
		return boolValue(data[0] != 0), nil
	case oid.Text, oid.Varchar, oid.BPChar, oid.Name, oid.Unknown, oid.JSON, oid.Char:
		return base.Value{Kind: base.Text, Bytes: data}, nil
	case oid.JSONB:
		if len(data) < 1 || data[0] != 1 {
			return base.Value{}, badBinary(typ, data)
		}
		return base.Value{Kind: base.Text, Bytes: data[1:]}, nil
	case oid.Bytea, 0: // Drivers that bind bytes without a type mean bytes.
		return base.Value{Kind: base.Blob, Bytes: data}, nil
	}
	return binaryByText(data, typ)
}

func binaryInt(data []byte, typ uint32) (base.Value, error) {
	switch {
	case typ == oid.Int2 && len(data) == 2:
		return base.IntValue(int64(int16(binary.BigEndian.Uint16(data)))), nil
	case typ == oid.Int4 && len(data) == 4:
		return base.IntValue(int64(int32(binary.BigEndian.Uint32(data)))), nil
	case typ == oid.OID && len(data) == 4:
		return base.IntValue(int64(binary.BigEndian.Uint32(data))), nil
	case typ == oid.Int8 && len(data) == 8:
		return base.IntValue(int64(binary.BigEndian.Uint64(data))), nil
	}
	return base.Value{}, badBinary(typ, data)
}

// binaryByText reads the rarer types as their text form.
func binaryByText(data []byte, typ uint32) (base.Value, error) {
	text, err := recode(data, typ, pgtype.BinaryFormatCode, pgtype.TextFormatCode, nil)
	if err == errFormat {
		return base.Value{}, unsupported(fmt.Sprintf("binary parameters of type %s are not supported", typeName(typ)), "bind them as text")
	}
	if err != nil {
		return base.Value{}, badBinary(typ, data)
	}
	return decodeText(text, typ)
}

// Package jsonvalue is SQL values in JSON, without loss: what HTTP, change
// streams and logs that are shown all write, docs/http.md describes it.
//
// It owns the forms and nothing else. Invariants: what was written is read as
// the same value, bit for bit; a number is exact in every JSON reader.
//
// It is pure, and imports nothing of this module but base.
package jsonvalue

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/skeindb/skein/internal/base"
)

// maxExact is the largest integer that every JSON reader keeps exactly.
const maxExact = 1<<53 - 1

// Value is a base.Value in JSON, without loss:
//
//	NULL     null
//	INTEGER  a number without fraction or exponent, or {"int":"9223372036854775807"}
//	         beyond ±(2^53-1), where JavaScript would round it
//	REAL     a number with a fraction or exponent; {"real":"Infinity"} and "-Infinity"
//	TEXT     a string, or {"text":"base64"} when it is not valid UTF-8
//	BLOB     {"blob":"base64"}
//
// The same forms are read; true and false are read as 1 and 0, and an integer
// of any size within 64 bits is read exactly.
type Value base.Value

// MarshalJSON writes the form above.
func (v Value) MarshalJSON() ([]byte, error) { return Append(nil, base.Value(v)), nil }

// UnmarshalJSON reads the form above.
func (v *Value) UnmarshalJSON(data []byte) error {
	read, err := Parse(data)
	*v = Value(read)
	return err
}

// Append appends the JSON form of v.
func Append(to []byte, v base.Value) []byte {
	switch v.Kind {
	case base.Integer:
		if v.Int > maxExact || v.Int < -maxExact {
			to = append(to, `{"int":"`...)
			return append(strconv.AppendInt(to, v.Int, 10), `"}`...)
		}
		return strconv.AppendInt(to, v.Int, 10)
	case base.Real:
		return appendReal(to, v.Float)
	case base.Text:
		if utf8.Valid(v.Bytes) {
			quoted, _ := json.Marshal(string(v.Bytes)) // A string always marshals.
			return append(to, quoted...)
		}
		return appendBase64(to, "text", v.Bytes)
	case base.Blob:
		return appendBase64(to, "blob", v.Bytes)
	}
	return append(to, "null"...)
}

func appendReal(to []byte, f float64) []byte {
	switch {
	case math.IsNaN(f): // SQLite stores NaN as NULL.
		return append(to, "null"...)
	case math.IsInf(f, 1):
		return append(to, `{"real":"Infinity"}`...)
	case math.IsInf(f, -1):
		return append(to, `{"real":"-Infinity"}`...)
	}
	start := len(to)
	to = strconv.AppendFloat(to, f, 'g', -1, 64)
	if !bytes.ContainsAny(to[start:], ".e") {
		to = append(to, ".0"...) // Keeps 1.0 apart from 1.
	}
	return to
}

func appendBase64(to []byte, tag string, b []byte) []byte {
	to = append(to, `{"`+tag+`":"`...)
	return append(base64.StdEncoding.AppendEncode(to, b), `"}`...)
}

// Parse reads one JSON value.
func Parse(data []byte) (base.Value, error) {
	data = bytes.TrimSpace(data)
	if len(data) == 0 {
		return base.Value{}, Bad("empty")
	}
	switch data[0] {
	case 'n':
		return base.Value{}, nil
	case 't':
		return base.IntValue(1), nil
	case 'f':
		return base.IntValue(0), nil
	case '"':
		var s string
		if err := json.Unmarshal(data, &s); err != nil {
			return base.Value{}, Bad("%v", err)
		}
		return base.TextValue(s), nil
	case '{':
		return parseTagged(data)
	case '[':
		return base.Value{}, Bad("arrays are not SQL values; pass JSON as a string")
	}
	return parseNumber(string(data))
}

func parseNumber(s string) (base.Value, error) {
	if !bytes.ContainsAny([]byte(s), ".eE") {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return base.Value{}, Bad("%s does not fit in 64 bits", s)
		}
		return base.IntValue(n), nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return base.Value{}, Bad("%s is no number that a REAL can hold", s)
	}
	return base.RealValue(f), nil
}

func parseTagged(data []byte) (base.Value, error) {
	var tagged map[string]string
	if err := json.Unmarshal(data, &tagged); err != nil || len(tagged) != 1 {
		return base.Value{}, Bad(`an object must be one of {"int":"…"}, {"real":"…"}, {"text":"base64"}, {"blob":"base64"}`)
	}
	for tag, text := range tagged {
		switch tag {
		case "int":
			return parseNumber(text)
		case "real":
			f, err := strconv.ParseFloat(text, 64)
			if err != nil || math.IsNaN(f) {
				return base.Value{}, Bad("real %q", text)
			}
			return base.RealValue(f), nil
		case "text", "blob":
			b, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				return base.Value{}, Bad("%s: not base64", tag)
			}
			if tag == "text" {
				return base.Value{Kind: base.Text, Bytes: b}, nil
			}
			return base.BlobValue(b), nil
		default:
			return base.Value{}, Bad("unknown tag %q", tag)
		}
	}
	return base.Value{}, nil
}

// Bad is the error of a text that is no SQL value or no row of them.
func Bad(format string, args ...any) error {
	return base.Errorf(base.KindInvalid, "SQL value in JSON: "+format, args...)
}

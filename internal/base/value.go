package base

import (
	"bytes"
	"math"
	"strconv"
)

// ValueKind is one of SQLite's five storage classes.
type ValueKind uint8

// The storage classes. The zero Value is NULL.
const (
	Null ValueKind = iota
	Integer
	Real
	Text
	Blob
)

// Value is one SQLite value with its exact storage class. Text and blobs hold
// their bytes as they are; text need not be valid UTF-8.
type Value struct {
	Kind  ValueKind
	Int   int64   // Integer
	Float float64 // Real
	Bytes []byte  // Text and Blob; nil is empty
}

// IntValue, RealValue, TextValue and BlobValue make a Value of that class.
func IntValue(v int64) Value    { return Value{Kind: Integer, Int: v} }
func RealValue(v float64) Value { return Value{Kind: Real, Float: v} }
func TextValue(s string) Value  { return Value{Kind: Text, Bytes: []byte(s)} }
func BlobValue(b []byte) Value  { return Value{Kind: Blob, Bytes: b} }

// Clone returns a copy that the caller owns: the bytes of a value that comes
// from a statement or a message are valid for a while only.
func (v Value) Clone() Value {
	v.Bytes = bytes.Clone(v.Bytes)
	return v
}

// AsText returns a number in digits, and text and blobs as they are; NULL is
// empty.
func (v Value) AsText() string {
	switch v.Kind {
	case Integer:
		return strconv.FormatInt(v.Int, 10)
	case Real:
		return strconv.FormatFloat(v.Float, 'g', -1, 64)
	}
	return string(v.Bytes)
}

// Equal says whether two values are the same bit for bit: 1 is not 1.0, and
// -0.0 is not 0.0.
func (v Value) Equal(w Value) bool {
	if v.Kind != w.Kind {
		return false
	}
	switch v.Kind {
	case Integer:
		return v.Int == w.Int
	case Real:
		return math.Float64bits(v.Float) == math.Float64bits(w.Float)
	case Text, Blob:
		return bytes.Equal(v.Bytes, w.Bytes)
	}
	return true
}

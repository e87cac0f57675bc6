// Package oid names PostgreSQL's types by their object ids, and says which of
// them a declared type of SQLite is told as. It is pure and imports nothing of
// this module.
package oid

import "strings"

// The types that are told or understood. Their numbers are PostgreSQL's.
const (
	Bool        = 16
	Bytea       = 17
	Char        = 18 // one byte
	Name        = 19
	Int8        = 20
	Int2        = 21
	Int2Vector  = 22
	Int4        = 23
	RegProc     = 24
	Text        = 25
	OID         = 26
	OIDVector   = 30
	JSON        = 114
	NodeTree    = 194 // pg_node_tree
	Float4      = 700
	Float8      = 701
	Unknown     = 705
	BPChar      = 1042
	Varchar     = 1043
	Date        = 1082
	Time        = 1083
	Timestamp   = 1114
	TimestampTZ = 1184
	Numeric     = 1700
	UUID        = 2950
	JSONB       = 3802
)

// Size is what RowDescription and pg_type say of a type: its width, or -1.
func Size(oid uint32) int {
	switch oid {
	case Bool, Char:
		return 1
	case Int2:
		return 2
	case Int4, Float4, Date, OID, RegProc:
		return 4
	case Int8, Float8, Time, Timestamp, TimestampTZ:
		return 8
	case UUID:
		return 16
	case Name:
		return 64
	}
	return -1
}

// Declared returns the type that a column of a declared type is told as; 0
// where values may be of any type. Names that SQLite gives no meaning to come
// first, then its affinity rules.
func Declared(declared string) uint32 {
	d := strings.ToUpper(strings.TrimSpace(declared))
	name, _, _ := strings.Cut(d, "(")
	switch strings.TrimSpace(name) {
	case "", "ANY":
		return 0
	case "BOOL", "BOOLEAN":
		return Bool
	case "DATE":
		return Date
	case "TIMESTAMP", "DATETIME", "TIMESTAMP WITHOUT TIME ZONE":
		return Timestamp
	case "TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE":
		return TimestampTZ
	case "TIME", "INTERVAL":
		return Text
	case "JSON", "JSONB":
		return JSON
	case "UUID":
		return UUID
	case "BYTEA":
		return Bytea
	}
	return Affinity(d)
}

// Affinity follows section 3.1 of SQLite's "Datatypes"; declared is in
// capitals.
func Affinity(declared string) uint32 {
	has := func(s string) bool { return strings.Contains(declared, s) }
	switch {
	case has("INT"):
		return Int8
	case has("CHAR"), has("CLOB"), has("TEXT"):
		return Text
	case has("BLOB"):
		return Bytea
	case has("REAL"), has("FLOA"), has("DOUB"):
		return Float8
	}
	return Numeric
}

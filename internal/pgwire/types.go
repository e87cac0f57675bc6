package pgwire

import (
	"strings"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/pgwire/oid"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/sqltext"
)

// column is one result column as a client is told of it; type 0 says that
// values may be of any type.
type column struct {
	name string
	oid  uint32
}

// valueType is the type of one value: what an expression is told as once its
// first row is known.
func valueType(v base.Value) uint32 {
	switch v.Kind {
	case base.Integer:
		return oid.Int8
	case base.Real:
		return oid.Float8
	case base.Text:
		return oid.Text
	case base.Blob:
		return oid.Bytea
	}
	return 0
}

// engineColumns types the columns that a statement returns: by their declared
// type, or as a function whose result has one type only.
func engineColumns(sql string, described []session.Column) []column {
	if len(described) == 0 {
		return nil
	}
	columns := make([]column, len(described))
	untyped := false
	for i, d := range described {
		columns[i] = column{name: d.Name, oid: oid.Declared(d.DeclType)}
		untyped = untyped || columns[i].oid == 0 && d.Origin == ""
	}
	if !untyped {
		return columns
	}
	items := sqltext.SelectItems(sql)
	if len(items) != len(columns) {
		return columns
	}
	for i, d := range described {
		if columns[i].oid == 0 && d.Origin == "" {
			columns[i].oid = itemType(items[i])
		}
	}
	return columns
}

// functionTypes holds functions that return one type, or NULL, whatever they
// are given.
var functionTypes = map[string]uint32{
	"count": oid.Int8, "length": oid.Int8, "octet_length": oid.Int8, "instr": oid.Int8, "unicode": oid.Int8,
	"changes": oid.Int8, "total_changes": oid.Int8, "last_insert_rowid": oid.Int8, "random": oid.Int8, "unixepoch": oid.Int8,
	"json_array_length": oid.Int8, "json_valid": oid.Int8, "row_number": oid.Int8, "rank": oid.Int8, "dense_rank": oid.Int8, "ntile": oid.Int8,
	"avg": oid.Float8, "total": oid.Float8, "julianday": oid.Float8, "percent_rank": oid.Float8, "cume_dist": oid.Float8,
	"sqrt": oid.Float8, "pow": oid.Float8, "power": oid.Float8, "exp": oid.Float8, "ln": oid.Float8, "log10": oid.Float8, "round": oid.Float8,
	"lower": oid.Text, "upper": oid.Text, "trim": oid.Text, "ltrim": oid.Text, "rtrim": oid.Text, "replace": oid.Text, "typeof": oid.Text,
	"hex": oid.Text, "quote": oid.Text, "printf": oid.Text, "format": oid.Text, "group_concat": oid.Text, "string_agg": oid.Text,
	"strftime": oid.Text, "date": oid.Text, "time": oid.Text, "datetime": oid.Text, "sqlite_version": oid.Text, "char": oid.Text,
	"json": oid.Text, "json_object": oid.Text, "json_array": oid.Text, "json_group_array": oid.Text, "json_group_object": oid.Text,
	"json_quote": oid.Text, "json_type": oid.Text, "concat": oid.Text, "concat_ws": oid.Text, "sqlite_source_id": oid.Text,
	"pg_is_in_recovery": oid.Bool, "pg_table_is_visible": oid.Bool, "pg_function_is_visible": oid.Bool, "pg_type_is_visible": oid.Bool,
	"has_table_privilege": oid.Bool, "has_schema_privilege": oid.Bool, "has_database_privilege": oid.Bool, "now": oid.TimestampTZ,
	"randomblob": oid.Bytea, "zeroblob": oid.Bytea, "unhex": oid.Bytea,
}

// itemType types one item of a select list: a call of a known function, a CAST
// or a truth value, and nothing around it but an alias, FILTER or OVER.
func itemType(item string) uint32 {
	s := sqltext.Scanner{SQL: item}
	t, ok := s.Next()
	if !ok || t.Kind != sqltext.Word {
		return 0
	}
	name := strings.ToLower(t.Text(item))
	if (name == "true" || name == "false") && aliasOnly(s) {
		return oid.Bool
	}
	if !s.Op("(") {
		return 0
	}
	inside := s.At
	if !sqltext.SkipParens(&s) {
		return 0
	}
	body := item[inside : s.At-1]
	if !aliasOnly(s) {
		return 0
	}
	if name == "cast" {
		return castType(body)
	}
	return functionTypes[name]
}

// castType reads "value AS type".
func castType(body string) uint32 {
	declared := ""
	for _, t := range sqltext.Tokens(body) {
		if t.Is(body, "AS") {
			declared = body[t.End:]
		}
	}
	if affinity := oid.Affinity(strings.ToUpper(declared)); affinity != oid.Numeric {
		return affinity
	}
	return 0 // The value may be an integer or a real.
}

// aliasOnly says whether what is left of a select item cannot change its type.
func aliasOnly(s sqltext.Scanner) bool {
	for s.Word("FILTER") || s.Word("OVER") {
		if s.Op("(") {
			if !sqltext.SkipParens(&s) {
				return false
			}
		} else if t, ok := s.Next(); !ok || t.Kind != sqltext.Word {
			return false
		}
	}
	if s.End() {
		return true
	}
	s.Word("AS")
	t, ok := s.Next()
	return ok && (t.Kind == sqltext.Word || t.Kind == sqltext.Quoted || t.Kind == sqltext.String) && s.End()
}

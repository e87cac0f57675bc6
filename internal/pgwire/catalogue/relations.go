package catalogue

import (
	_ "embed"
	"strings"

	"github.com/skeindb/skein/internal/pgwire/oid"
)

// relationsText holds the relations of PostgreSQL 15, one a line: a name, then
// column:type for each column.
//
//go:embed relations.txt
var relationsText string

// relation is the definition of one relation of the catalogue.
type relation struct {
	name    string // as SQLite knows it
	columns []relationColumn
}

type relationColumn struct{ name, typ string }

const informationSchema = "information_schema"

// sqliteName is how a relation of the information schema is called in SQLite,
// which has no schemas of that kind.
func sqliteName(name string) string { return strings.Replace(name, ".", "_", 1) }

// relations by SQLite's name, and the names of their columns of type bool.
var relations, booleanColumns = parseRelations(relationsText)

func parseRelations(text string) (map[string]*relation, map[string]bool) {
	all, booleans := map[string]*relation{}, map[string]bool{}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		r := &relation{name: sqliteName(words[0])}
		for _, w := range words[1:] {
			name, typ, _ := strings.Cut(w, ":")
			r.columns = append(r.columns, relationColumn{name, typ})
			if typ == "bool" {
				booleans[name] = true
			}
		}
		all[r.name] = r
	}
	for _, r := range ownRelations {
		all[r.name] = r
	}
	return all, booleans
}

// ownRelations hold what PostgreSQL computes with functions: the text of a
// thing by its id. The rewriter puts subqueries in place of the calls; the
// names of the columns cannot be those of a query around them.
var ownRelations = []*relation{
	{"skein_name", []relationColumn{{"skein_kind", "text"}, {"skein_id", "oid"}, {"skein_part", "int4"}, {"skein_text", "text"}}},
}

// create returns the statement that makes the relation. A declared type starts
// with PostgreSQL's name; TEXT behind it gives the affinity.
func (r *relation) create() string {
	var b strings.Builder
	b.WriteString("CREATE TABLE " + r.name + "(")
	for i, c := range r.columns {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(`"` + c.name + `" "` + c.typ)
		switch c.typ {
		case "name", "text", "char", "varchar", "pg_node_tree", "regtype":
			b.WriteString(" TEXT")
		}
		b.WriteString(`"`)
	}
	if r == ownRelations[0] {
		// Without a rowid: oid would be one of its names, and hide that of a
		// query around the lookup.
		return b.String() + ", PRIMARY KEY (skein_kind, skein_id, skein_part)) WITHOUT ROWID"
	}
	return b.String() + ")"
}

// insert returns the statement that fills the relation.
func (r *relation) insert() string {
	return "INSERT INTO " + r.name + " VALUES (?" + strings.Repeat(", ?", len(r.columns)-1) + ")"
}

// basicType is a row of pg_type.
type basicType struct {
	oid, elem, array uint32
	name, format     string
	kind, category   string
}

// basicTypes are the types that columns are told as, and those that clients
// look up.
var basicTypes = []basicType{
	{oid: oid.Bool, array: 1000, name: "bool", format: "boolean", category: "B"},
	{oid: oid.Bytea, array: 1001, name: "bytea", format: "bytea", category: "U"},
	{oid: oid.Char, array: 1002, name: "char", format: `"char"`, category: "Z"},
	{oid: oid.Name, array: 1003, name: "name", format: "name", category: "S", elem: oid.Char},
	{oid: oid.Int8, array: 1016, name: "int8", format: "bigint", category: "N"},
	{oid: oid.Int2, array: 1005, name: "int2", format: "smallint", category: "N"},
	{oid: oid.Int2Vector, array: 1006, name: "int2vector", format: "int2vector", category: "A", elem: oid.Int2},
	{oid: oid.Int4, array: 1007, name: "int4", format: "integer", category: "N"},
	{oid: oid.RegProc, array: 1008, name: "regproc", format: "regproc", category: "N"},
	{oid: oid.Text, array: 1009, name: "text", format: "text", category: "S"},
	{oid: oid.OID, array: 1028, name: "oid", format: "oid", category: "N"},
	{oid: 28, array: 1011, name: "xid", format: "xid", category: "U"},
	{oid: oid.OIDVector, array: 1013, name: "oidvector", format: "oidvector", category: "A", elem: oid.OID},
	{oid: oid.JSON, array: 199, name: "json", format: "json", category: "U"},
	{oid: oid.NodeTree, name: "pg_node_tree", format: "pg_node_tree", category: "Z"},
	{oid: oid.Float4, array: 1021, name: "float4", format: "real", category: "N"},
	{oid: oid.Float8, array: 1022, name: "float8", format: "double precision", category: "N"},
	{oid: 1000, name: "_bool", format: "boolean[]", category: "A", elem: oid.Bool},
	{oid: 1003, name: "_name", format: "name[]", category: "A", elem: oid.Name},
	{oid: 1005, name: "_int2", format: "smallint[]", category: "A", elem: oid.Int2},
	{oid: 1007, name: "_int4", format: "integer[]", category: "A", elem: oid.Int4},
	{oid: 1009, name: "_text", format: "text[]", category: "A", elem: oid.Text},
	{oid: 1016, name: "_int8", format: "bigint[]", category: "A", elem: oid.Int8},
	{oid: 1028, name: "_oid", format: "oid[]", category: "A", elem: oid.OID},
	{oid: oid.BPChar, array: 1014, name: "bpchar", format: "character", category: "S"},
	{oid: oid.Varchar, array: 1015, name: "varchar", format: "character varying", category: "S"},
	{oid: oid.Date, array: 1182, name: "date", format: "date", category: "D"},
	{oid: oid.Time, array: 1183, name: "time", format: "time without time zone", category: "D"},
	{oid: oid.Timestamp, array: 1115, name: "timestamp", format: "timestamp without time zone", category: "D"},
	{oid: oid.TimestampTZ, array: 1185, name: "timestamptz", format: "timestamp with time zone", category: "D"},
	{oid: oid.Numeric, array: 1231, name: "numeric", format: "numeric", category: "N"},
	{oid: anyType, name: "any", format: "any", category: "P", kind: "p"},
	{oid: oid.UUID, array: 2951, name: "uuid", format: "uuid", category: "U"},
	{oid: oid.JSONB, array: 3807, name: "jsonb", format: "jsonb", category: "U"},
}

// anyType is what a column without a declared type is listed as.
const anyType = 2276

// typeByName finds the types of the relations' own columns.
var typeByName = func() map[string]uint32 {
	m := map[string]uint32{}
	for _, t := range basicTypes {
		m[t.name] = t.oid
	}
	return m
}()

// resultType is the type that a column of the catalogue is told as.
func resultType(declared string) uint32 {
	if declared == "" {
		return 0
	}
	name, _, _ := strings.Cut(declared, " ")
	if t, ok := typeByName[name]; ok && t != oid.NodeTree && t != oid.Int2Vector && t != oid.OIDVector && t != oid.RegProc && t != 28 {
		return t
	}
	return oid.Text
}

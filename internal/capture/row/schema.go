package row

import (
	"cmp"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/skeindb/skein/internal/sqlite"
)

// ownPrefix begins the names of our own tables, which are not replicated.
const ownPrefix = "_skein_"

// Names of the engine's own tables that are replicated by content.
const (
	sequenceTable = "sqlite_sequence"
	statPrefix    = "sqlite_stat"
)

// object is a row of sqlite_schema.
type object struct {
	kind, name, table, sql string
	virtual                bool
}

// schema is sqlite_schema as of one version, in the order it is stored.
type schema struct {
	version int64
	objects []object
}

func readSchema(conn *sqlite.Conn) (*schema, error) {
	version, err := conn.SchemaVersion()
	if err != nil {
		return nil, err
	}
	s := &schema{version: version}
	err = query(conn, "SELECT type, name, tbl_name, sql, rootpage FROM main.sqlite_schema ORDER BY rowid", func(row *sqlite.Stmt) {
		o := object{kind: text(row, 0), name: text(row, 1), table: text(row, 2), sql: text(row, 3)}
		o.virtual = o.kind == "table" && row.Column(4).Int == 0
		s.objects = append(s.objects, o)
	})
	return s, err
}

// query runs our own SQL and calls each for every row.
func query(conn *sqlite.Conn, sql string, each func(*sqlite.Stmt)) error {
	return queryUntil(conn, sql, func(row *sqlite.Stmt) bool { each(row); return true })
}

// queryUntil is query until more says that it wants no more.
func queryUntil(conn *sqlite.Conn, sql string, more func(*sqlite.Stmt) bool) error {
	for row, err := range conn.QueryOwn(sql) {
		if err != nil {
			return err
		}
		if !more(row) {
			return nil
		}
	}
	return nil
}

// text returns a copy of a text column.
func text(row *sqlite.Stmt, i int) string { return string(row.Column(i).Bytes) }

func isOwn(name string) bool { return hasPrefixFold(name, ownPrefix) }

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// internal says that the engine made the object by itself.
func (o *object) internal() bool { return hasPrefixFold(o.name, "sqlite_") }

// replicated lists the objects that clients made, sorted.
func (s *schema) replicated() []object {
	var list []object
	for _, o := range s.objects {
		if !isOwn(o.name) && !isOwn(o.table) && !o.internal() {
			list = append(list, o)
		}
	}
	slices.SortFunc(list, func(a, b object) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.name, b.name))
	})
	return list
}

// hash is equal on two copies with equal schemas. It is never 0.
func (s *schema) hash() uint64 {
	h := fnv.New64a()
	for _, o := range s.replicated() {
		for _, part := range [...]string{o.kind, o.name, o.table, o.sql} {
			_, _ = h.Write([]byte(part)) // it cannot fail
			_, _ = h.Write([]byte{0})
		}
	}
	return max(1, h.Sum64())
}

// created lists the tables of s that old does not have.
func (s *schema) created(old *schema) []object {
	had := make(map[string]bool, len(old.objects))
	for _, o := range old.objects {
		if o.kind == "table" {
			had[o.name] = true
		}
	}
	var list []object
	for _, o := range s.objects {
		if o.kind == "table" && !o.internal() && !isOwn(o.name) && !had[o.name] {
			list = append(list, o)
		}
	}
	return list
}

func (s *schema) has(name string) bool {
	return slices.ContainsFunc(s.objects, func(o object) bool { return o.kind == "table" && o.name == name })
}

func (s *schema) hasVirtual() bool {
	return slices.ContainsFunc(s.objects, func(o object) bool { return o.virtual })
}

package row_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/sqltext"
)

// select1 runs a query of ours and returns copies of its rows.
func select1(t testing.TB, c *sqlite.Conn, sql string) [][]base.Value {
	t.Helper()
	s, err := c.PrepareOwn(sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	defer s.Close()
	var rows [][]base.Value
	for {
		more, err := s.Step()
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		if !more {
			return rows
		}
		values := s.AppendRow(nil)
		for i := range values {
			values[i].Bytes = slices.Clone(values[i].Bytes)
		}
		rows = append(rows, values)
	}
}

// exact writes a value so that two differ whenever their texts do.
func exact(v base.Value) string {
	switch v.Kind {
	case base.Integer:
		return fmt.Sprint(v.Int)
	case base.Real:
		return fmt.Sprintf("%g/%016x", v.Float, math.Float64bits(v.Float))
	case base.Text:
		return fmt.Sprintf("%q", v.Bytes)
	case base.Blob:
		return fmt.Sprintf("x'%x'", v.Bytes)
	}
	return "NULL"
}

// relation is a table as the test sees it, found by other means than package
// row's.
type relation struct {
	name    string
	kind    string // table, shadow, virtual
	rowid   string // "" for WITHOUT ROWID
	columns []string
	all     []string // generated ones included
}

func relations(t testing.TB, c *sqlite.Conn) []relation {
	t.Helper()
	var list []relation
	for _, r := range select1(t, c, "SELECT name, type, wr FROM pragma_table_list WHERE schema='main' AND type<>'view' ORDER BY name") {
		rel := relation{name: string(r[0].Bytes), kind: string(r[1].Bytes)}
		if rel.name == "sqlite_schema" {
			continue
		}
		for _, x := range select1(t, c, "PRAGMA table_xinfo("+sqltext.QuoteName(rel.name)+")") {
			name := string(x[1].Bytes)
			rel.all = append(rel.all, name)
			if x[6].Int == 0 {
				rel.columns = append(rel.columns, name)
			}
		}
		if r[2].Int == 0 {
			for _, name := range []string{"oid", "_rowid_", "rowid"} {
				if !slices.ContainsFunc(rel.all, func(c string) bool { return strings.EqualFold(c, name) }) {
					rel.rowid = name
				}
			}
			if rel.rowid == "" {
				rel.rowid = "_rowid_" // the tests' one such table has it as its key
			}
		}
		list = append(list, rel)
	}
	return list
}

// dump writes the whole logical content: schema, rows with their rowids, in
// shadow tables, sqlite_sequence and statistics too.
func dump(t testing.TB, c *sqlite.Conn) []string {
	t.Helper()
	var out []string
	for _, r := range select1(t, c, "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY 1, 2") {
		out = append(out, fmt.Sprintf("%s %s %s %s", r[0].Bytes, r[1].Bytes, r[2].Bytes, r[3].Bytes))
	}
	for _, rel := range relations(t, c) {
		if rel.kind == "virtual" {
			continue
		}
		names := []string{"'-'"}
		if rel.rowid != "" {
			names[0] = rel.rowid
		}
		for _, c := range rel.all {
			names = append(names, sqltext.QuoteName(c))
		}
		var lines []string
		for _, r := range select1(t, c, "SELECT "+strings.Join(names, ",")+" FROM "+sqltext.QuoteName(rel.name)) {
			line := rel.name
			for _, v := range r {
				line += "|" + exact(v)
			}
			lines = append(lines, line)
		}
		slices.Sort(lines)
		out = append(out, lines...)
	}
	return out
}

// difference shows the lines that only one of two dumps has.
func difference(a, b []string) string {
	if slices.Equal(a, b) {
		return ""
	}
	var out []string
	only := func(mark string, x, y []string) {
		for _, l := range x {
			if !slices.Contains(y, l) {
				out = append(out, mark+" "+l[:min(len(l), 300)])
			}
		}
	}
	only("-", a, b)
	only("+", b, a)
	if len(out) == 0 {
		out = append(out, "same lines, another number of them")
	}
	return strings.Join(out[:min(len(out), 20)], "\n")
}

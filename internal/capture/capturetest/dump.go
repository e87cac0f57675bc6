// Package capturetest makes random SQL, runs histories of it and dumps databases,
// for the tests of what captures changes. It owns no connection; what a history
// does with its statements is the test's. Nothing but tests may import it.
package capturetest

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

// Select runs a query of ours and returns copies of its rows.
func Select(t testing.TB, c *sqlite.Conn, sql string) [][]base.Value {
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

// Exact writes a value so that two differ whenever their texts do.
func Exact(v base.Value) string {
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

// Relation is a table as a test sees it, found by other means than package
// row's.
type Relation struct {
	Name    string
	Kind    string // table, shadow, virtual
	RowID   string // "" for WITHOUT ROWID
	Columns []string
	All     []string // generated ones included
}

// Relations lists the tables, views left out.
func Relations(t testing.TB, c *sqlite.Conn) []Relation {
	t.Helper()
	var list []Relation
	for _, r := range Select(t, c, "SELECT name, type, wr FROM pragma_table_list WHERE schema='main' AND type<>'view' ORDER BY name") {
		rel := Relation{Name: string(r[0].Bytes), Kind: string(r[1].Bytes)}
		if rel.Name == "sqlite_schema" {
			continue
		}
		for _, x := range Select(t, c, "PRAGMA table_xinfo("+sqltext.QuoteName(rel.Name)+")") {
			name := string(x[1].Bytes)
			rel.All = append(rel.All, name)
			if x[6].Int == 0 {
				rel.Columns = append(rel.Columns, name)
			}
		}
		if r[2].Int == 0 {
			for _, name := range []string{"oid", "_rowid_", "rowid"} {
				if !slices.ContainsFunc(rel.All, func(c string) bool { return strings.EqualFold(c, name) }) {
					rel.RowID = name
				}
			}
			if rel.RowID == "" {
				rel.RowID = "_rowid_" // the tests' one such table has it as its key
			}
		}
		list = append(list, rel)
	}
	return list
}

// Dump writes the whole logical content: schema, rows with their rowids, in
// shadow tables, sqlite_sequence and statistics too.
func Dump(t testing.TB, c *sqlite.Conn) []string {
	t.Helper()
	var out []string
	for _, r := range Select(t, c, "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY 1, 2") {
		out = append(out, fmt.Sprintf("%s %s %s %s", r[0].Bytes, r[1].Bytes, r[2].Bytes, r[3].Bytes))
	}
	for _, rel := range Relations(t, c) {
		if rel.Kind == "virtual" {
			continue
		}
		names := []string{"'-'"}
		if rel.RowID != "" {
			names[0] = rel.RowID
		}
		for _, c := range rel.All {
			names = append(names, sqltext.QuoteName(c))
		}
		var lines []string
		for _, r := range Select(t, c, "SELECT "+strings.Join(names, ",")+" FROM "+sqltext.QuoteName(rel.Name)) {
			line := rel.Name
			for _, v := range r {
				line += "|" + Exact(v)
			}
			lines = append(lines, line)
		}
		slices.Sort(lines)
		out = append(out, lines...)
	}
	return out
}

// Difference shows the lines that only one of two dumps has.
func Difference(a, b []string) string {
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

package statement

import (
	"fmt"
	"strings"

	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/sqltext"
)

// facts are what must be known of a schema to judge statements.
type facts struct {
	virtual map[string]bool // tables of modules, and the tables they keep their content in
	loose   map[string]bool // triggers and views with a LIMIT and no ORDER BY
	// fixedTime says that no index, CHECK or generated column may ask for the
	// time: then the functions that do can be replaced.
	fixedTime bool
}

func readFacts(conn *sqlite.Conn) (*facts, error) {
	f := &facts{virtual: make(map[string]bool), loose: make(map[string]bool), fixedTime: true}
	for row, err := range conn.QueryOwn("SELECT type, name, sql FROM main.sqlite_schema WHERE sql IS NOT NULL") {
		if err != nil {
			return nil, fmt.Errorf("read the schema: %w", err)
		}
		f.note(text(row, 0), text(row, 1), text(row, 2))
	}
	for row, err := range conn.QueryOwn("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('virtual', 'shadow')") {
		if err != nil {
			return nil, fmt.Errorf("read the schema: %w", err)
		}
		f.virtual[strings.ToLower(text(row, 0))] = true
	}
	return f, nil
}

func text(row *sqlite.Stmt, i int) string { return string(row.Column(i).Bytes) }

func (f *facts) note(kind, name, sql string) {
	switch kind {
	case "trigger", "view":
		if limitWithoutOrder(sql) {
			f.loose[strings.ToLower(name)] = true
		}
	case "index":
		f.fixedTime = f.fixedTime && !asksClock(sql)
	case "table":
		f.fixedTime = f.fixedTime && !(checks(sql) && asksClock(sql))
	}
}

// asksClock says that SQL names a function that may ask for the time.
func asksClock(sql string) bool {
	for _, t := range sqltext.Tokens(sql) {
		if t.Kind == sqltext.Word && sqlite.AsksClock(strings.ToLower(t.Text(sql))) {
			return true
		}
	}
	return false
}

// checks says that a table's declaration has a CHECK or a generated column.
func checks(sql string) bool {
	for _, t := range sqltext.Tokens(sql) {
		if t.Is(sql, "CHECK") || t.Is(sql, "AS") {
			return true
		}
	}
	return false
}

// limitWithoutOrder says that some part of SQL takes a number of rows without
// saying which: a LIMIT that no ORDER BY of the same level goes before.
func limitWithoutOrder(sql string) bool {
	ordered := []bool{false} // by level of parentheses
	top := func() *bool { return &ordered[len(ordered)-1] }
	for _, t := range sqltext.Tokens(sql) {
		switch {
		case t.Op(sql, "("):
			ordered = append(ordered, false)
		case t.Op(sql, ")"):
			if len(ordered) > 1 {
				ordered = ordered[:len(ordered)-1]
			}
		case t.Kind == sqltext.Semicolon:
			*top() = false
		case t.Is(sql, "ORDER"):
			*top() = true
		case t.Is(sql, "LIMIT"):
			if !*top() {
				return true
			}
		}
	}
	return false
}

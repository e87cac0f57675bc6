package catalogue

import (
	"strings"

	"github.com/skeindb/skein/internal/sqltext"
)

func lower(s string) string { return strings.ToLower(s) }

// nameColumns gives the columns without an alias the names that PostgreSQL
// gives them: of the function, or of what is cast. SQLite takes the text.
func nameColumns(sql string, columns []Column) {
	items := sqltext.SelectItems(sql)
	if len(items) != len(columns) {
		return
	}
	for i := range columns {
		if !isName(columns[i].Name) && !aliased(items[i]) {
			columns[i].Name = itemName(items[i])
		}
	}
}

// aliased says whether a select item ends with a name of its own.
func aliased(item string) bool {
	tokens := sqltext.Tokens(item)
	if len(tokens) < 2 {
		return false
	}
	last, before := tokens[len(tokens)-1], tokens[len(tokens)-2]
	if before.Is(item, "AS") {
		return true
	}
	return last.Kind == sqltext.Quoted && item[last.Start] == '"' && !before.Op(item, ".") && before.Kind != sqltext.Illegal
}

func isName(s string) bool {
	for i := range len(s) {
		if !sqltext.IsIDChar(s[i]) || i == 0 && s[i] >= '0' && s[i] <= '9' {
			return false
		}
	}
	return s != ""
}

// itemName names a select item by how it starts.
func itemName(item string) string {
	s := sqltext.Scanner{SQL: item}
	name := ""
	for {
		t, ok := s.Next()
		switch {
		case ok && (t.Kind == sqltext.Word || t.Kind == sqltext.Quoted):
			name = node{kind: nWord, text: sqltext.Unquote(t.Text(item))}.word()
		default:
			if name == "" {
				return "?column?"
			}
			return name
		}
		if !s.Op(".") {
			next, more := s.Peek()
			if !more || next.Op(item, "(") || next.Kind == sqltext.Illegal || next.Kind == sqltext.Quoted || name == "case" || name == "array" {
				return name
			}
			return "?column?"
		}
	}
}

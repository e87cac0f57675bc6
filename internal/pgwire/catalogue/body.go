package catalogue

import (
	"strings"

	"github.com/skeindb/skein/internal/sqltext"
)

// body is the text of a CREATE TABLE, cut into its definitions: what no PRAGMA
// tells.
type body struct {
	sql   string
	parts [][]sqltext.Token // columns and constraints
	tail  []sqltext.Token   // options behind the closing parenthesis
}

func newBody(sql string) body {
	b := body{sql: sql}
	tokens := sqltext.Tokens(sql)
	depth, start := 0, 0
	for i, t := range tokens {
		switch {
		case t.Op(sql, "("):
			if depth++; depth == 1 {
				start = i + 1
			}
		case t.Op(sql, ")"):
			if depth--; depth == 0 {
				b.parts = append(b.parts, tokens[start:i])
				b.tail = tokens[i+1:]
				return b
			}
		case t.Op(sql, ",") && depth == 1:
			b.parts = append(b.parts, tokens[start:i])
			start = i + 1
		}
	}
	return b
}

// option says whether a word stands behind the definitions.
func (b body) option(word string) bool {
	for _, t := range b.tail {
		if t.Is(b.sql, word) {
			return true
		}
	}
	return false
}

// group returns the text of the parenthesised group that starts at token i.
func (b body) group(tokens []sqltext.Token, i int) string {
	if i >= len(tokens) || !tokens[i].Op(b.sql, "(") {
		return ""
	}
	s := sqltext.Scanner{SQL: b.sql, At: tokens[i].End}
	if !sqltext.SkipParens(&s) {
		return ""
	}
	return squeeze(b.sql[tokens[i].Start:s.At])
}

type check struct{ name, text string }

// checks returns the CHECK constraints in the order of their text.
func (b body) checks() []check {
	var out []check
	for _, part := range b.parts {
		depth := 0
		name := ""
		for i, t := range part {
			switch {
			case t.Op(b.sql, "("):
				depth++
			case t.Op(b.sql, ")"):
				depth--
			case depth > 0:
			case t.Is(b.sql, "CONSTRAINT") && i+1 < len(part):
				name = sqltext.Unquote(part[i+1].Text(b.sql))
			case t.Is(b.sql, "CHECK"):
				if text := b.group(part, i+1); text != "" {
					out = append(out, check{name, text})
				}
				name = ""
			}
		}
	}
	return out
}

// generated returns the expression of a generated column.
func (b body) generated(column string) string {
	for _, part := range b.parts {
		if len(part) == 0 || !strings.EqualFold(sqltext.Unquote(part[0].Text(b.sql)), column) {
			continue
		}
		for i, t := range part {
			if t.Is(b.sql, "AS") {
				text := b.group(part, i+1)
				return strings.TrimSuffix(strings.TrimPrefix(text, "("), ")")
			}
		}
	}
	return ""
}

// viewQuery returns what stands behind AS in a CREATE VIEW.
func viewQuery(sql string) string {
	s := sqltext.Scanner{SQL: sql}
	for {
		t, ok := s.Next()
		switch {
		case !ok:
			return ""
		case t.Op(sql, "("):
			sqltext.SkipParens(&s)
		case t.Is(sql, "AS"):
			return " " + strings.TrimSpace(sql[t.End:]) + ";"
		}
	}
}

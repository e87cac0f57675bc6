package sqltext

// SkipParens moves past the closing parenthesis that belongs to an opening one
// just read, and says whether there is one.
func SkipParens(s *Scanner) bool {
	for depth := 1; depth > 0; {
		t, ok := s.Next()
		if !ok {
			return false
		}
		switch {
		case t.Op(s.SQL, "("):
			depth++
		case t.Op(s.SQL, ")"):
			depth--
		}
	}
	return true
}

// SelectItems returns the texts between SELECT [DISTINCT | ALL] and FROM of a
// statement that starts with SELECT, or behind RETURNING in one that changes
// rows. It is nil for other statements, for compounds, and where a * stands
// for columns.
func SelectItems(sql string) []string {
	s := Scanner{SQL: sql}
	switch Keyword(sql) {
	case "SELECT":
		s.Next()
		if !s.Word("DISTINCT") {
			s.Word("ALL")
		}
	case "INSERT", "UPDATE", "DELETE", "REPLACE":
		if !skipToWord(&s, "RETURNING") {
			return nil
		}
	default:
		return nil
	}
	return items(s)
}

// skipToWord moves past a word outside parentheses.
func skipToWord(s *Scanner, word string) bool {
	for {
		t, ok := s.Next()
		switch {
		case !ok:
			return false
		case t.Is(s.SQL, word):
			return true
		case t.Op(s.SQL, "(") && !SkipParens(s):
			return false
		}
	}
}

func items(s Scanner) []string {
	if compound(s.SQL[s.At:]) {
		return nil
	}
	var out []string
	start, last := s.At, Token{}
	for {
		t, ok := s.Next()
		switch {
		case !ok, t.Kind == Semicolon, endsItems(s.SQL, t):
			return append(out, trim(s.SQL[start:t.Start]))
		case t.Op(s.SQL, ","):
			out = append(out, trim(s.SQL[start:t.Start]))
			start = t.End
		case t.Op(s.SQL, "*") && (last.End == 0 || last.Op(s.SQL, ",") || last.Op(s.SQL, ".")):
			return nil
		case t.Op(s.SQL, "(") && !SkipParens(&s):
			return nil
		}
		last = t
	}
}

func endsItems(sql string, t Token) bool {
	for _, w := range []string{"FROM", "WHERE", "ORDER", "LIMIT", "GROUP", "HAVING", "WINDOW"} {
		if t.Is(sql, w) {
			return true
		}
	}
	return false
}

// compound says whether a compound operator follows outside parentheses.
func compound(sql string) bool {
	for _, w := range []string{"UNION", "EXCEPT", "INTERSECT"} {
		s := Scanner{SQL: sql}
		if skipToWord(&s, w) {
			return true
		}
	}
	return false
}

package sqltext

import (
	"iter"
	"strings"
)

// Where First stands in a statement; the states of sqlite3_complete.
type completeness uint8

const (
	atStart   completeness = iota
	inNormal               // any statement but CREATE TRIGGER
	inExplain              // after EXPLAIN [QUERY PLAN]
	inCreate               // after CREATE [TEMP]
	inTrigger              // inside CREATE TRIGGER
	inBody                 // there, after a semicolon
	atEnd                  // there, after "; END"
)

// First cuts the first statement off sql. The statement comes without its
// semicolon and without space around it; it is empty only when it holds no
// token. Semicolons in strings, names, comments and the body of a CREATE
// TRIGGER do not end a statement.
func First(sql string) (statement, rest string) {
	s := Scanner{SQL: sql}
	state := atStart
	for {
		t, ok := s.Next()
		if !ok {
			return trim(sql), ""
		}
		if t.Kind == Semicolon && (state <= inCreate || state == atEnd) {
			return trim(sql[:t.Start]), sql[t.End:]
		}
		state = advance(state, sql, t)
	}
}

func advance(state completeness, sql string, t Token) completeness {
	switch state {
	case atStart:
		if t.Is(sql, "EXPLAIN") {
			return inExplain
		}
		if t.Is(sql, "CREATE") {
			return inCreate
		}
	case inExplain:
		if t.Is(sql, "QUERY") || t.Is(sql, "PLAN") {
			return inExplain
		}
		if t.Is(sql, "CREATE") {
			return inCreate
		}
	case inCreate:
		if t.Is(sql, "TEMP") || t.Is(sql, "TEMPORARY") {
			return inCreate
		}
		if t.Is(sql, "TRIGGER") {
			return inTrigger
		}
	case inTrigger, inBody, atEnd:
		return advanceTrigger(state, sql, t)
	}
	return inNormal
}

func advanceTrigger(state completeness, sql string, t Token) completeness {
	switch {
	case t.Kind == Semicolon:
		return inBody
	case state == inBody && t.Is(sql, "END"):
		return atEnd
	}
	return inTrigger
}

// Statements yields the statements of sql that are not empty, in order.
func Statements(sql string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for sql != "" {
			var one string
			one, sql = First(sql)
			if !Blank(one) && !yield(one) {
				return
			}
		}
	}
}

// Complete says whether sql ends a statement, as a shell needs to know: what
// follows its last semicolon is blank, and no string, comment or trigger is
// open.
func Complete(sql string) bool {
	for sql != "" {
		s := Scanner{SQL: sql}
		one, rest := First(sql)
		if rest == "" && !terminated(sql) {
			return Blank(one) && !openComment(s)
		}
		sql = rest
	}
	return true
}

// terminated says whether the one statement in sql ends with its semicolon.
func terminated(sql string) bool {
	s := Scanner{SQL: sql}
	state := atStart
	for {
		t, ok := s.Next()
		if !ok {
			return false
		}
		if t.Kind == Semicolon && (state <= inCreate || state == atEnd) {
			return true
		}
		state = advance(state, sql, t)
	}
}

func openComment(s Scanner) bool {
	for s.At < len(s.SQL) {
		t := Scan(s.SQL, s.At)
		s.At = t.End
		text := t.Text(s.SQL)
		if t.Kind == Comment && strings.HasPrefix(text, "/*") && (len(text) < 4 || !strings.HasSuffix(text, "*/")) {
			return true
		}
	}
	return false
}

// Blank says whether sql holds nothing but space, comments and semicolons.
func Blank(sql string) bool { return Scanner{SQL: sql}.End() }

// trim cuts off space, not comments: a comment may hold a hint for a reader.
func trim(sql string) string { return strings.Trim(sql, " \t\n\f\r") }

// Keyword returns the first bare word of sql in capitals, "" if sql starts
// with something else. It allocates nothing for the words that statements
// start with.
func Keyword(sql string) string {
	s := Scanner{SQL: sql}
	t, ok := s.Next()
	if !ok || t.Kind != Word {
		return ""
	}
	for _, w := range leading {
		if t.Is(sql, w) {
			return w
		}
	}
	return strings.ToUpper(t.Text(sql))
}

// leading holds the words that statements start with, the frequent first.
var leading = []string{
	"SELECT", "UPDATE", "INSERT", "DELETE", "BEGIN", "COMMIT", "END", "ROLLBACK", "WITH", "VALUES", "REPLACE",
	"SET", "SHOW", "CREATE", "DROP", "ALTER", "SAVEPOINT", "RELEASE", "START", "ABORT", "COPY", "EXPLAIN",
	"PRAGMA", "RESET", "DISCARD", "DEALLOCATE", "ANALYZE", "REINDEX", "VACUUM", "ATTACH", "DETACH",
}

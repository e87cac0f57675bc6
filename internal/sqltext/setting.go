package sqltext

import "strings"

// Verb of a Setting.
type Verb uint8

// The verbs.
const (
	VerbSet   Verb = iota + 1 // SET name TO value
	VerbShow                  // SHOW name
	VerbReset                 // RESET name, SET name TO DEFAULT
)

// Setting is a parsed SET, SHOW or RESET.
type Setting struct {
	Verb  Verb
	Name  string // lower case; "all" for SHOW ALL and RESET ALL
	Value string // unquoted; a list keeps its ", "
	Local bool   // SET LOCAL: until the end of the transaction
}

// ParseSetting reads SET, SHOW and RESET as PostgreSQL writes them:
//
//	SET [SESSION | LOCAL] name { TO | = } { value [, ...] | DEFAULT }
//	SET [SESSION | LOCAL] TIME ZONE { value | LOCAL | DEFAULT }
//	SET [LOCAL] TRANSACTION mode ...
//	SET SESSION CHARACTERISTICS AS TRANSACTION mode ...
//	SHOW name | SHOW ALL | SHOW TIME ZONE | SHOW TRANSACTION ISOLATION LEVEL
//	RESET name | RESET ALL
//
// The transaction forms set "transaction" and "session characteristics", with
// the modes as their value. False means that sql is something else, or is
// malformed.
func ParseSetting(sql string) (Setting, bool) {
	s := Scanner{SQL: sql}
	switch {
	case s.Word("SET"):
		return parseSet(s)
	case s.Word("SHOW"):
		name, ok := settingName(&s)
		if name == "transaction" && s.Word("ISOLATION") && s.Word("LEVEL") {
			name = "transaction_isolation"
		}
		return Setting{Verb: VerbShow, Name: name}, ok && s.End()
	case s.Word("RESET"):
		name, ok := settingName(&s)
		return Setting{Verb: VerbReset, Name: name}, ok && s.End()
	}
	return Setting{}, false
}

func parseSet(s Scanner) (Setting, bool) {
	out := Setting{Verb: VerbSet}
	if s.Word("SESSION") {
		if s.Word("CHARACTERISTICS") {
			ok := s.Word("AS") && s.Word("TRANSACTION")
			out.Name, out.Value = "session characteristics", rest(s)
			return out, ok
		}
	} else {
		out.Local = s.Word("LOCAL")
	}
	if s.Word("TRANSACTION") {
		out.Name, out.Value = "transaction", rest(s)
		return out, out.Value != ""
	}
	name, ok := settingName(&s)
	if !ok {
		return out, false
	}
	out.Name = name
	if name != "timezone" || !zoned(s.SQL) {
		if !s.Word("TO") && !s.Op("=") {
			return out, false
		}
	} else if !s.Word("TO") {
		s.Op("=")
	}
	if t, ok := s.Peek(); ok && t.Is(s.SQL, "DEFAULT") {
		out.Verb = VerbReset
		return out, true
	}
	out.Value, ok = settingValue(&s)
	return out, ok && s.End()
}

// zoned says whether the statement says TIME ZONE rather than timezone.
func zoned(sql string) bool {
	s := Scanner{SQL: sql}
	for range 3 {
		s.Next()
		if t, _ := s.Peek(); t.Is(sql, "TIME") {
			return true
		}
	}
	return false
}

// settingName reads name or prefix.name, in lower case.
func settingName(s *Scanner) (string, bool) {
	t, ok := s.Next()
	if !ok || t.Kind != Word && t.Kind != Quoted {
		return "", false
	}
	name := Unquote(t.Text(s.SQL))
	for s.Op(".") {
		t, ok = s.Next()
		if !ok || t.Kind != Word && t.Kind != Quoted {
			return "", false
		}
		name += "." + Unquote(t.Text(s.SQL))
	}
	name = strings.ToLower(name)
	if name == "time" && s.Word("ZONE") {
		name = "timezone"
	}
	return name, true
}

// settingValue reads value [, value ...] up to the end. Words that follow each
// other are one value, and so are a name and what stands in brackets behind
// it, so that SET x = quorum applied and SET x = bounded(5s) work unquoted.
func settingValue(s *Scanner) (string, bool) {
	var b strings.Builder
	glue, open := "", true // open: a value must follow
	for {
		t, ok := s.Next()
		if !ok || t.Kind == Semicolon {
			return b.String(), !open
		}
		text := t.Text(s.SQL)
		switch {
		case text == ",":
			glue, open = ", ", true
			continue
		case text == "(" || text == ")":
			glue = ""
		case text == "-" || text == "+":
			b.WriteString(glue + text)
			glue, open = "", true
			continue
		case t.Kind == Operator, t.Kind == Param, t.Kind == Illegal && !isDigit(text[0]):
			return "", false
		}
		b.WriteString(glue + Unquote(text))
		glue, open = " ", false
		if text == "(" {
			glue = ""
		}
	}
}

func rest(s Scanner) string {
	return strings.TrimRight(trim(s.SQL[s.At:]), "; \t\n\f\r")
}

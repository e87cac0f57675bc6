package sqltext

import "strings"

// Kind of a token.
type Kind uint8

// The kinds.
const (
	Space     Kind = iota // white space
	Comment               // -- to the end of the line, or /* */
	Word                  // a bare identifier or keyword
	Quoted                // "a", `a` or [a]
	String                // 'a'
	Blob                  // x'00'
	Number                // 1, 1.5e3, 0xff
	Param                 // ?, ?1, $1, :a, @a, #a
	Operator              // punctuation of one to three bytes
	Semicolon             // the end of a statement, outside a trigger's body
	Illegal               // what SQLite calls an unrecognized token
)

// Token is a piece of SQL: bytes Start to End of the text it came from.
type Token struct {
	Kind       Kind
	Start, End int
}

// Text returns the token's bytes.
func (t Token) Text(sql string) string { return sql[t.Start:t.End] }

// Is says whether t is the bare word w, without regard to case.
func (t Token) Is(sql, w string) bool {
	return t.Kind == Word && t.End-t.Start == len(w) && strings.EqualFold(sql[t.Start:t.End], w)
}

// Op says whether t is the operator op.
func (t Token) Op(sql, op string) bool {
	return t.Kind == Operator && sql[t.Start:t.End] == op
}

// Scanner reads the tokens of one text that carry meaning, in order.
type Scanner struct {
	SQL string
	At  int
}

// Next returns the next token that is neither space nor comment, and false at
// the end of the text.
func (s *Scanner) Next() (Token, bool) {
	for s.At < len(s.SQL) {
		t := Scan(s.SQL, s.At)
		s.At = t.End
		if t.Kind > Comment {
			return t, true
		}
	}
	return Token{Kind: Space, Start: len(s.SQL), End: len(s.SQL)}, false
}

// Peek returns what Next will return, without moving on.
func (s Scanner) Peek() (Token, bool) { return s.Next() }

// Word moves past the next token if it is the bare word w, and says so.
func (s *Scanner) Word(w string) bool {
	t, ok := s.Peek()
	if ok && t.Is(s.SQL, w) {
		s.At = t.End
		return true
	}
	return false
}

// Op moves past the next token if it is the operator op, and says so.
func (s *Scanner) Op(op string) bool {
	t, ok := s.Peek()
	if ok && t.Op(s.SQL, op) {
		s.At = t.End
		return true
	}
	return false
}

// End says whether nothing but space, comments and semicolons is left.
func (s Scanner) End() bool {
	for {
		t, ok := s.Next()
		if !ok {
			return true
		}
		if t.Kind != Semicolon {
			return false
		}
	}
}

// Tokens returns all tokens of sql that carry meaning.
func Tokens(sql string) []Token {
	s := Scanner{SQL: sql}
	out := make([]Token, 0, len(sql)/4+1)
	for {
		t, ok := s.Next()
		if !ok {
			return out
		}
		out = append(out, t)
	}
}

// Scan returns the token that starts at offset at, which must lie inside sql.
// A text's tokens cover it without gaps.
//
// It differs from SQLite in one point, on purpose: $1::type, which SQLite
// takes for one parameter with a name of its own, ends after the digits.
func Scan(sql string, at int) Token {
	kind, n := classify(sql[at:])
	return Token{Kind: kind, Start: at, End: at + n}
}

// classify returns kind and length of the token that z starts with.
func classify(z string) (Kind, int) {
	c := z[0]
	switch {
	case isSpace(c):
		return Space, run(z, 1, isSpace)
	case (c == 'x' || c == 'X') && peek(z, 1) == '\'':
		return blob(z)
	case c == 0xef && strings.HasPrefix(z, "\xef\xbb\xbf"):
		return Space, 3
	case isIDStart(c):
		return Word, run(z, 1, IsIDChar)
	case isDigit(c), c == '.' && isDigit(peek(z, 1)):
		return number(z)
	case c == '\'', c == '"', c == '`':
		return quoted(z)
	case c == '[':
		if i := strings.IndexByte(z, ']'); i >= 0 {
			return Quoted, i + 1
		}
		return Illegal, len(z)
	case c == '?':
		return Param, run(z, 1, isDigit)
	case c == '$', c == '@', c == '#', c == ':':
		return variable(z)
	case c == ';':
		return Semicolon, 1
	}
	return punctuation(z)
}

func punctuation(z string) (Kind, int) {
	switch c, d := z[0], peek(z, 1); c {
	case '-':
		if d == '-' {
			return Comment, lineEnd(z)
		}
		if d == '>' && peek(z, 2) == '>' {
			return Operator, 3
		}
		return Operator, pair(d == '>')
	case '/':
		if d == '*' && len(z) > 2 {
			return Comment, commentEnd(z)
		}
		return Operator, 1
	case '=':
		return Operator, pair(d == '=')
	case '<':
		return Operator, pair(d == '=' || d == '>' || d == '<')
	case '>':
		return Operator, pair(d == '=' || d == '>')
	case '|':
		return Operator, pair(d == '|')
	case '!':
		if d == '=' {
			return Operator, 2
		}
		return Illegal, 1
	case '(', ')', '+', '*', '%', ',', '&', '~', '.':
		return Operator, 1
	}
	return Illegal, 1
}

func pair(two bool) int {
	if two {
		return 2
	}
	return 1
}

func lineEnd(z string) int {
	if i := strings.IndexByte(z, '\n'); i >= 0 {
		return i
	}
	return len(z)
}

// commentEnd follows SQLite: a comment that is never closed ends with the text.
func commentEnd(z string) int {
	if i := strings.Index(z[2:], "*/"); i >= 0 {
		return i + 4
	}
	return len(z)
}

// quoted reads 'a', "a" or `a`; the quote is doubled inside.
func quoted(z string) (Kind, int) {
	q := z[0]
	for i := 1; i < len(z); i++ {
		if z[i] != q {
			continue
		}
		if peek(z, i+1) == q {
			i++
			continue
		}
		if q == '\'' {
			return String, i + 1
		}
		return Quoted, i + 1
	}
	return Illegal, len(z)
}

func blob(z string) (Kind, int) {
	i := run(z, 2, isHex)
	if peek(z, i) == '\'' && i%2 == 0 {
		return Blob, i + 1
	}
	for i < len(z) && z[i] != '\'' {
		i++
	}
	return Illegal, min(i+1, len(z))
}

func number(z string) (Kind, int) {
	var i int
	if z[0] == '0' && (peek(z, 1)|0x20) == 'x' && isHex(peek(z, 2)) {
		i = run(z, 3, func(c byte) bool { return isHex(c) || c == '_' })
	} else {
		i = decimal(z)
	}
	if end := run(z, i, IsIDChar); end > i {
		return Illegal, end
	}
	return Number, i
}

func decimal(z string) int {
	digits := func(c byte) bool { return isDigit(c) || c == '_' }
	i := run(z, 0, digits)
	if peek(z, i) == '.' {
		i = run(z, i+1, digits)
	}
	if (peek(z, i) | 0x20) == 'e' {
		d := peek(z, i+1)
		if isDigit(d) {
			return run(z, i+2, digits)
		}
		if (d == '+' || d == '-') && isDigit(peek(z, i+2)) {
			return run(z, i+3, digits)
		}
	}
	return i
}

// variable reads $a, @a, :a and #a, with SQLite's $a::b and $a(b) for Tcl.
func variable(z string) (Kind, int) {
	if n := run(z, 1, isDigit); z[0] == '$' && n > 1 && !IsIDChar(peek(z, n)) {
		return Param, n
	}
	name := 0
	i := 1
	for ; i < len(z); i++ {
		switch c := z[i]; {
		case IsIDChar(c):
			name++
			continue
		case c == '(' && name > 0:
			return tclIndex(z, i)
		case c == ':' && peek(z, i+1) == ':':
			i++
			continue
		}
		break
	}
	if name == 0 {
		return Illegal, min(i, len(z))
	}
	return Param, min(i, len(z))
}

func tclIndex(z string, i int) (Kind, int) {
	for i++; i < len(z) && !isSpace(z[i]) && z[i] != ')'; i++ {
	}
	if peek(z, i) == ')' {
		return Param, i + 1
	}
	return Illegal, i
}

// peek returns z[i], or 0 past the end.
func peek(z string, i int) byte {
	if i < len(z) {
		return z[i]
	}
	return 0
}

// run returns the end of the run of bytes that fit, from i on.
func run(z string, i int, fits func(byte) bool) int {
	for i < len(z) && fits(z[i]) {
		i++
	}
	return i
}

func isSpace(c byte) bool {
	return c == ' ' || c == '\t' || c == '\n' || c == '\f' || c == '\r'
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isHex(c byte) bool {
	return isDigit(c) || c|0x20 >= 'a' && c|0x20 <= 'f'
}

func isIDStart(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' || c >= 0x80
}

// IsIDChar says whether c may stand inside a bare identifier.
func IsIDChar(c byte) bool { return isIDStart(c) || isDigit(c) || c == '$' }

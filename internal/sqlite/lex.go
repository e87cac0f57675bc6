package sqlite

import "strings"

// A lexer cuts SQL text into tokens by the engine's lexical rules. It needs no
// grammar: it is used to find leading keywords, the end of a statement, and
// names.
type lexer struct {
	text string
	next int
}

type tokenKind uint8

const (
	endOfText tokenKind = iota
	word                // keyword or bare identifier
	quoted              // "x", `x`, [x] or 'x'; the engine accepts each as a name somewhere
	semicolon
	other // numbers, parameters, operators
)

type token struct {
	kind  tokenKind
	text  string
	start int
}

// scan returns the next token that is not white space or a comment. An
// unfinished comment or quote runs to the end of the text.
func (l *lexer) scan() token {
	l.skipSpace()
	start := l.next
	if start >= len(l.text) {
		return token{kind: endOfText, start: start}
	}
	kind := other
	switch b := l.text[start]; {
	case b == ';':
		kind = semicolon
		l.next++
	case b == '\'' || b == '"' || b == '`':
		kind = quoted
		l.skipQuoted(b)
	case b == '[':
		kind = quoted
		l.skipTo("]")
	case isWordByte(b) && !isDigit(b):
		kind = word
		l.skipWord()
	case isWordByte(b):
		l.skipWord()
	default:
		l.next++
	}
	return token{kind: kind, text: l.text[start:l.next], start: start}
}

func (l *lexer) skipSpace() {
	for l.next < len(l.text) {
		rest := l.text[l.next:]
		switch {
		case isSpace(rest[0]):
			l.next++
		case strings.HasPrefix(rest, "--"):
			l.skipTo("\n")
		case strings.HasPrefix(rest, "/*"):
			l.next += 2
			l.skipTo("*/")
		default:
			return
		}
	}
}

// skipTo moves behind the next mark, or to the end.
func (l *lexer) skipTo(mark string) {
	i := strings.Index(l.text[l.next:], mark)
	if i < 0 {
		l.next = len(l.text)
		return
	}
	l.next += i + len(mark)
}

func (l *lexer) skipQuoted(quote byte) {
	l.next++
	for l.next < len(l.text) {
		if l.text[l.next] != quote {
			l.next++
			continue
		}
		l.next++
		if l.next >= len(l.text) || l.text[l.next] != quote {
			return
		}
		l.next++
	}
}

func (l *lexer) skipWord() {
	for l.next < len(l.text) && isWordByte(l.text[l.next]) {
		l.next++
	}
}

func isSpace(b byte) bool {
	return b == ' ' || (b >= '\t' && b <= '\r')
}

func isDigit(b byte) bool { return b >= '0' && b <= '9' }

func isWordByte(b byte) bool {
	return b == '_' || b == '$' || b >= 0x80 || isDigit(b) || (b|0x20 >= 'a' && b|0x20 <= 'z')
}

// leadingWords returns the first n words of sql in capitals, as far as they
// follow each other directly.
func leadingWords(sql string, n int) []string {
	l := lexer{text: sql}
	words := make([]string, 0, n)
	for len(words) < n {
		t := l.scan()
		if t.kind == semicolon && len(words) == 0 {
			continue
		}
		if t.kind != word {
			break
		}
		words = append(words, strings.ToUpper(t.text))
	}
	return words
}

// isBlank says that sql holds only white space, comments and semicolons.
func isBlank(sql string) bool {
	l := lexer{text: sql}
	for {
		switch l.scan().kind {
		case endOfText:
			return true
		case semicolon:
		default:
			return false
		}
	}
}

// ownName returns the first name in sql that is reserved for our own objects.
func ownName(sql string) (string, bool) {
	if !strings.Contains(strings.ToLower(sql), ownPrefix) {
		return "", false
	}
	l := lexer{text: sql}
	for {
		t := l.scan()
		switch t.kind {
		case endOfText:
			return "", false
		case word, quoted:
			if name := strings.Trim(t.text, "'\"`[]"); isOwn(name) {
				return name, true
			}
		}
	}
}

// mayChangeSchema says that one of sql's statements may change the schema, or
// undo such a change.
func mayChangeSchema(sql string) bool {
	l := lexer{text: sql}
	for {
		t := l.scan()
		switch t.kind {
		case endOfText:
			return false
		case word:
			switch strings.ToUpper(t.text) {
			case "CREATE", "DROP", "ALTER", "ROLLBACK":
				return true
			}
		}
	}
}

package catalogue

import (
	"strconv"
	"strings"

	"github.com/skeindb/skein/internal/sqltext"
)

// nodeKind says what a node is.
type nodeKind uint8

const (
	nWord      nodeKind = iota // a bare name or keyword
	nQuoted                    // "a name"
	nLiteral                   // 'text', with SQL's quotes
	nNumber                    //
	nParam                     // ?1
	nOp                        // punctuation and operators
	nGroup                     // ( ... )
	nSubscript                 // [ ... ]
	nRaw                       // SQL that is final
)

// node is a token of a query, or what stands between two brackets.
type node struct {
	kind nodeKind
	text string // as written; not of groups
	kids []node
	glue bool // no space stood before it
}

// word is the node's name in lower case, "" if it is no bare word.
func (n node) word() string {
	if n.kind == nWord {
		return strings.ToLower(n.text)
	}
	return ""
}

// name is what a word or quoted name stands for.
func (n node) name() string {
	switch n.kind {
	case nWord:
		return strings.ToLower(n.text)
	case nQuoted:
		return sqltext.Unquote(n.text)
	}
	return ""
}

func (n node) op(text string) bool { return n.kind == nOp && n.text == text }

// maxSQL bounds what a query may become: a call's argument may be needed more
// than once, and calls stand within calls.
const maxSQL = 256 << 10

// tooLong is the panic of raw; rewriter.rewrite turns it into an error.
type tooLong struct{}

// raw makes a node of finished SQL.
func raw(parts ...string) node {
	n := node{kind: nRaw, text: strings.Join(parts, "")}
	if len(n.text) > maxSQL {
		panic(tooLong{})
	}
	return n
}

// parse reads a query by PostgreSQL's lexical rules, as far as they differ from
// SQLite's: ::, E”, !~, [n]. $1 becomes ?1.
func parse(sql string) []node {
	p := parser{sql: sql, tokens: castTokens(sql)}
	return p.sequence(false)
}

// castTokens takes casts of casts apart: SQLite reads the :a::b of ::a::b as
// one parameter.
func castTokens(sql string) []sqltext.Token {
	var out []sqltext.Token
	for _, t := range sqltext.Tokens(sql) {
		for t.Kind == sqltext.Param && sql[t.Start] == ':' {
			i := strings.Index(sql[t.Start:t.End], "::")
			if i < 0 {
				break
			}
			at := t.Start + i
			out = append(out, sqltext.Token{Kind: sqltext.Param, Start: t.Start, End: at},
				sqltext.Token{Kind: sqltext.Illegal, Start: at, End: at + 1})
			t.Start = at + 1
		}
		out = append(out, t)
	}
	return out
}

type parser struct {
	sql    string
	tokens []sqltext.Token
	at     int
	depth  int
}

// maxDepth bounds brackets within brackets; what is deeper stays unread, and
// the query fails as incomplete.
const maxDepth = 200

func (p *parser) sequence(inside bool) []node {
	var out []node
	for p.at < len(p.tokens) {
		t := p.tokens[p.at]
		text := t.Text(p.sql)
		p.at++
		glue := p.at > 1 && p.tokens[p.at-2].End == t.Start
		switch {
		case text == "(" && p.depth < maxDepth:
			p.depth++
			out = append(out, node{kind: nGroup, kids: p.sequence(true), glue: glue})
			p.depth--
		case text == ")" && inside:
			return out
		case t.Kind == sqltext.Semicolon:
			return out
		default:
			n := p.leaf(t, text)
			n.glue = glue
			out = append(out, n)
		}
	}
	return out
}

func (p *parser) leaf(t sqltext.Token, text string) node {
	switch t.Kind {
	case sqltext.Word:
		if strings.EqualFold(text, "E") && p.follows(t, sqltext.String) {
			s := p.tokens[p.at].Text(p.sql)
			p.at++
			return node{kind: nLiteral, text: sqltext.QuoteString(escapes(sqltext.Unquote(s)))}
		}
		return node{kind: nWord, text: text}
	case sqltext.Quoted:
		if text[0] == '[' {
			return node{kind: nSubscript, kids: parse(text[1 : len(text)-1])}
		}
		return node{kind: nQuoted, text: text}
	case sqltext.String:
		return node{kind: nLiteral, text: text}
	case sqltext.Number:
		return node{kind: nNumber, text: text}
	case sqltext.Param:
		return p.param(text)
	case sqltext.Illegal:
		if text == ":" || text == "!" {
			return p.operator(t, text)
		}
	}
	return p.operator(t, text)
}

// follows says whether the next token is of a kind and touches t.
func (p *parser) follows(t sqltext.Token, k sqltext.Kind) bool {
	return p.at < len(p.tokens) && p.tokens[p.at].Kind == k && p.tokens[p.at].Start == t.End
}

// param reads $1; and :type, the second half of ::type.
func (p *parser) param(text string) node {
	if n := sqltext.Dollar(text); n > 0 {
		return node{kind: nParam, text: "?" + strconv.Itoa(n)}
	}
	if text[0] == ':' {
		return node{kind: nWord, text: text[1:]}
	}
	return node{kind: nParam, text: text}
}

// operator joins what PostgreSQL reads as one operator.
func (p *parser) operator(t sqltext.Token, text string) node {
	if text == ":" {
		if p.at < len(p.tokens) && p.tokens[p.at].Start == t.End {
			next := p.tokens[p.at].Text(p.sql)
			if next == ":" {
				p.at++
				return node{kind: nOp, text: "::"}
			}
			if next[0] == ':' {
				return node{kind: nOp, text: "::"} // param takes the name
			}
		}
		return node{kind: nOp, text: ":"}
	}
	if text == "!" || text == "~" {
		for p.at < len(p.tokens) && p.tokens[p.at].Start == t.End {
			next := p.tokens[p.at].Text(p.sql)
			if next != "~" && next != "*" {
				break
			}
			text += next
			t = p.tokens[p.at]
			p.at++
		}
	}
	return node{kind: nOp, text: text}
}

// escapes undoes the backslashes of E”.
func escapes(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		if k := strings.IndexByte("bfnrt", s[i]); k >= 0 {
			b.WriteByte("\b\f\n\r\t"[k])
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// write turns nodes back into SQL.
func write(nodes []node) string {
	var b strings.Builder
	appendNodes(&b, nodes)
	return b.String()
}

func appendNodes(b *strings.Builder, nodes []node) {
	for i, n := range nodes {
		if i > 0 {
			b.WriteByte(' ')
		}
		switch n.kind {
		case nGroup:
			b.WriteByte('(')
			appendNodes(b, n.kids)
			b.WriteByte(')')
		case nSubscript:
			b.WriteByte('[')
			appendNodes(b, n.kids)
			b.WriteByte(']')
		default:
			b.WriteString(n.text)
		}
	}
}

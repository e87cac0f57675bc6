package catalogue

import (
	"slices"
	"strings"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/sqltext"
)

// rewriter turns a query of PostgreSQL's on its catalogue into one of
// SQLite's on the relations here. It knows no grammar: it works from the
// innermost brackets outwards, on what stands next to each other.
type rewriter struct {
	client Client
}

// rewrite returns a query in SQLite's dialect.
func (r *rewriter) rewrite(sql string) (out string, err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case tooLong:
			err = base.Errorf(base.KindTooLarge, "the catalog query is over %d bytes once it is rewritten", maxSQL)
		default:
			panic(p)
		}
	}()
	if len(sql) > maxSQL {
		panic(tooLong{})
	}
	if known, ok := recognise(sql); ok {
		return known, nil
	}
	return write(r.sequence(parse(sql), "")), nil
}

// sequence rewrites what stands between two brackets; before is the word in
// front of them.
func (r *rewriter) sequence(seq []node, before string) []node {
	seq = dropSchemas(seq)
	for i := range seq {
		if seq[i].kind == nGroup || seq[i].kind == nSubscript {
			word := ""
			if i > 0 {
				word = seq[i-1].word()
			}
			seq[i].kids = r.sequence(seq[i].kids, word)
		}
	}
	seq = operators(seq)
	seq = r.fromClauses(seq)
	seq = r.calls(seq)
	seq = r.postfix(seq)
	seq = quantified(seq)
	seq = truthValues(seq)
	if before != "cast" {
		seq = aliases(seq)
	}
	return seq
}

// dropSchemas takes pg_catalog. away and joins information_schema with what
// follows it.
func dropSchemas(seq []node) []node {
	out := seq[:0:0]
	for i := 0; i < len(seq); i++ {
		name := seq[i].name()
		qualifies := i+2 < len(seq) && seq[i+1].op(".") && (i == 0 || !seq[i-1].op("."))
		switch {
		case qualifies && name == "pg_catalog":
			i++
			continue
		case name == "tableoid" && (i == 0 || seq[i-1].word() != "as"):
			for len(out) > 1 && out[len(out)-1].op(".") {
				out = out[:len(out)-2]
			}
			out = append(out, raw("0"))
			continue
		case qualifies && name == informationSchema:
			out = append(out, node{kind: nWord, text: informationSchema + "_" + seq[i+2].name()})
			i += 2
			continue
		}
		out = append(out, seq[i])
	}
	return out
}

// operators turns pattern matching into REGEXP and LIKE, and drops collations.
func operators(seq []node) []node {
	var out []node
	for i := 0; i < len(seq); i++ {
		n := seq[i]
		if n.word() == "operator" && i+1 < len(seq) && seq[i+1].kind == nGroup && len(seq[i+1].kids) > 0 {
			n = seq[i+1].kids[len(seq[i+1].kids)-1]
			i++
		}
		if n.word() == "collate" && i+1 < len(seq) {
			i = skipName(seq, i+1)
			continue
		}
		if n.word() == "ilike" {
			n = node{kind: nOp, text: "~~*"}
		}
		match, ok := matches[n.text]
		if n.kind == nOp && ok {
			out = append(out, raw(match))
			continue
		}
		out = append(out, n)
		if likes(out) && i+1 < len(seq) && strings.Contains(seq[i+1].text, `\`) {
			i++
			out = append(out, seq[i], raw(`ESCAPE '\'`))
		}
	}
	return out
}

var matches = map[string]string{
	"~": "REGEXP", "!~": "NOT REGEXP", "~*": "REGEXP '(?i)' ||", "!~*": "NOT REGEXP '(?i)' ||",
	"~~": "LIKE", "!~~": "NOT LIKE", "~~*": "LIKE", "!~~*": "NOT LIKE",
}

// likes says whether a pattern comes next.
func likes(out []node) bool {
	last := out[len(out)-1]
	return last.word() == "like" || last.kind == nRaw && strings.HasSuffix(last.text, "LIKE")
}

// skipName returns the index of the last part of a qualified name.
func skipName(seq []node, i int) int {
	for i+2 < len(seq) && seq[i+1].op(".") {
		i += 2
	}
	return i
}

// postfix rewrites casts and subscripts, which stand behind what they are
// about.
func (r *rewriter) postfix(seq []node) []node {
	var out []node
	for i := 0; i < len(seq); i++ {
		n := seq[i]
		switch {
		case n.op("::") && len(out) > 0:
			at := operand(out)
			typ, end := typeName(seq, i+1)
			number := end+1 < len(seq) && seq[end].op("::") && isNumber(seq[end+1].name())
			out = append(out[:at], r.cast(slices.Clone(out[at:]), typ, number)...)
			i = end - 1
		case n.kind == nSubscript && len(out) > 0 && out[len(out)-1].word() == "array":
			out[len(out)-1] = arrayLiteral(n.kids)
		case n.kind == nSubscript && len(out) > 0:
			at := operand(out)
			out = append(out[:at], element(slices.Clone(out[at:]), n.kids))
		case n.kind == nGroup && len(out) > 0 && out[len(out)-1].word() == "array":
			out[len(out)-1] = arrayQuery(n.kids)
		case n.kind == nGroup && len(out) > 0 && out[len(out)-1].word() == "cast":
			out = r.castCall(out[:len(out)-1], n)
		default:
			out = append(out, n)
		}
	}
	return out
}

// operand returns where the operand starts that out ends with: a literal, a
// qualified name, a call, or something in brackets.
func operand(out []node) int {
	i := len(out) - 1
	if out[i].kind == nGroup && i > 0 && (out[i-1].kind == nQuoted || out[i-1].kind == nWord && !isKeyword(out[i-1].word())) {
		i--
	}
	if out[i].kind == nWord || out[i].kind == nQuoted {
		for i >= 2 && out[i-1].op(".") {
			i -= 2
		}
	}
	return i
}

// isKeyword says whether a word in front of a bracket is no function.
func isKeyword(word string) bool {
	switch word {
	case "in", "and", "or", "not", "select", "where", "on", "from", "join", "when", "then", "else", "case", "any", "all", "some",
		"as", "values", "exists", "union", "by", "having", "between", "like", "is", "using", "over", "filter", "distinct", "limit":
		return true
	}
	return false
}

// typeName reads a type from i on and returns where it ends.
func typeName(seq []node, i int) (string, int) {
	if i >= len(seq) {
		return "", i
	}
	typ := seq[i].name()
	i++
	for i+1 < len(seq) && seq[i].op(".") {
		typ = seq[i+1].name()
		i += 2
	}
	for i < len(seq) && (seq[i].word() == "varying" || seq[i].word() == "precision") {
		i++
	}
	if i < len(seq) && seq[i].kind == nGroup && seq[i].glue {
		i++
	}
	if i+2 < len(seq) && (seq[i].word() == "with" || seq[i].word() == "without") && seq[i+1].word() == "time" {
		i += 3
	}
	for i < len(seq) && seq[i].kind == nSubscript && len(seq[i].kids) == 0 {
		typ = "array"
		i++
	}
	return typ, i
}

func isNumber(typ string) bool {
	switch typ {
	case "oid", "int", "int2", "int4", "int8", "integer", "bigint", "smallint":
		return true
	}
	return false
}

// cast rewrites value::typ; asNumber says that the result is cast to a number
// again.
func (r *rewriter) cast(value []node, typ string, asNumber bool) []node {
	literal := len(value) == 1 && value[0].kind == nLiteral
	switch typ {
	case "regclass", "regtype", "regnamespace", "regrole":
		kind := map[string]string{"regclass": "class", "regtype": "type", "regnamespace": "namespace", "regrole": "role"}[typ]
		if literal {
			return []node{namedID(kind, sqltext.Unquote(value[0].text))}
		}
		if asNumber {
			return value
		}
		return []node{raw("coalesce(", lookup(kind, write(value)), ", CAST(", write(value), " AS TEXT))")}
	case "bool", "boolean":
		if literal {
			return []node{raw(truth(sqltext.Unquote(value[0].text)))}
		}
	}
	if isNumber(typ) && literal {
		return []node{raw("CAST(", value[0].text, " AS INTEGER)")}
	}
	return value
}

// castCall rewrites CAST(value AS type), as far as SQLite has no such type.
func (r *rewriter) castCall(out []node, group node) []node {
	for i := len(group.kids) - 1; i > 0; i-- {
		if group.kids[i].word() == "as" {
			typ, _ := typeName(group.kids, i+1)
			if !strings.HasPrefix(typ, "reg") && typ != "bool" && typ != "boolean" {
				break
			}
			return append(out, r.cast(group.kids[:i], typ, false)...)
		}
	}
	return append(out, node{kind: nWord, text: "CAST"}, group)
}

// namedID finds a thing's id by its name, or by its number as text.
func namedID(kind, name string) node {
	if name != "" && strings.Trim(name, "0123456789") == "" {
		return raw(name)
	}
	for _, schema := range []string{"pg_catalog.", "public.", informationSchema + "."} {
		name = strings.TrimPrefix(name, schema)
	}
	if kind == "type" {
		if id, ok := typeByName[name]; ok {
			return raw(itoa(id))
		}
	}
	return raw("(SELECT skein_id FROM skein_name WHERE skein_kind = '", kind, "' AND skein_part = 0 AND skein_text = ", sqltext.QuoteString(name), ")")
}

// lookup finds a thing's text by its id.
func lookup(kind, id string) string {
	return "(SELECT skein_text FROM skein_name WHERE skein_kind = '" + kind + "' AND skein_part = 0 AND skein_id = (" + id + "))"
}

func truth(s string) string {
	switch strings.ToLower(s) {
	case "t", "true", "yes", "on", "1":
		return "1"
	}
	return "0"
}

// Arrays are texts: '{a,b}', and 'a b' for the vectors of pg_index.

func isVector(expression []node) bool {
	for _, n := range expression {
		switch n.name() {
		case "indkey", "indoption", "indclass", "indcollation", "i_indoption", "proargtypes":
			return true
		}
	}
	return false
}

// elements is a JSON array of an array's elements, as texts.
func elements(array []node) string {
	separator := ","
	if isVector(array) {
		separator = " "
	}
	return `('["' || replace(trim(` + write(array) + `, '{}'), '` + separator + `', '","') || '"]')`
}

// element is array[n]. Vectors count from 0, arrays from 1.
func element(array, n []node) node {
	first := "1"
	if isVector(array) {
		first = "0"
	}
	return raw("json_extract(", elements(array), ", '$[' || ((", write(n), ") - ", first, ") || ']')")
}

// arrayLiteral is ARRAY[a, b].
func arrayLiteral(kids []node) node {
	parts := []string{"'{'"}
	for _, item := range split(kids) {
		parts = append(parts, "("+write(item)+")")
	}
	if len(parts) == 1 {
		return raw("'{}'")
	}
	return raw("(", parts[0], " || ", strings.Join(parts[1:], " || ',' || "), " || '}')")
}

// arrayQuery is ARRAY(SELECT ...).
func arrayQuery(kids []node) node {
	return raw("(WITH skein_list(skein_item) AS (", write(kids), ") SELECT '{' || coalesce(group_concat(skein_item, ','), '') || '}' FROM skein_list)")
}

// split cuts at commas.
func split(kids []node) [][]node {
	if len(kids) == 0 {
		return nil
	}
	var out [][]node
	start := 0
	for i, n := range kids {
		if n.op(",") {
			out = append(out, kids[start:i])
			start = i + 1
		}
	}
	return append(out, kids[start:])
}

// quantified turns = ANY (...) and <> ALL (...) into IN and NOT IN.
func quantified(seq []node) []node {
	var out []node
	for i := 0; i < len(seq); i++ {
		if i+2 < len(seq) && seq[i].kind == nOp && seq[i+2].kind == nGroup {
			word := seq[i+1].word()
			in := ""
			switch {
			case seq[i].text == "=" && (word == "any" || word == "some"):
				in = "IN"
			case (seq[i].text == "<>" || seq[i].text == "!=") && word == "all":
				in = "NOT IN"
			}
			if in != "" {
				out = append(out, raw(in, " (", members(seq[i+2].kids), ")"))
				i += 2
				continue
			}
		}
		out = append(out, seq[i])
	}
	return out
}

func members(kids []node) string {
	if len(kids) > 0 {
		switch kids[0].word() {
		case "select", "with", "values":
			return write(kids)
		}
	}
	return "SELECT value FROM json_each(" + elements(kids) + ")"
}

// truthValues turns column = 't' into column = 1.
func truthValues(seq []node) []node {
	for i := 1; i+1 < len(seq); i++ {
		if seq[i].kind != nOp || seq[i].text != "=" && seq[i].text != "<>" && seq[i].text != "!=" || seq[i+1].kind != nLiteral {
			continue
		}
		switch text := sqltext.Unquote(seq[i+1].text); text {
		case "t", "f", "true", "false":
			if booleanColumns[seq[i-1].name()] {
				seq[i+1] = raw(truth(text))
			}
		}
	}
	return seq
}

// aliases quotes names behind AS, which may be keywords of SQLite, in lower
// case as PostgreSQL folds them.
func aliases(seq []node) []node {
	for i := 1; i < len(seq); i++ {
		word := seq[i].word()
		if seq[i-1].word() != "as" || word == "" || word == "materialized" || word == "not" {
			continue
		}
		if i+1 < len(seq) && seq[i+1].kind == nGroup {
			continue
		}
		seq[i] = node{kind: nQuoted, text: sqltext.QuoteName(word)}
	}
	return seq
}

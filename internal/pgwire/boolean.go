package pgwire

import (
	"strconv"
	"strings"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/sqltext"
)

// Drivers write a truth value that has no type as t or f. SQLite keeps 1 and 0
// in a BOOLEAN column, and would keep a 't' as text, which is not true. So
// where such a parameter stands next to a BOOLEAN column's name, or in its
// place in an INSERT, it becomes 1 or 0.

// looksBoolean says whether a text is one that drivers write for a truth value.
func looksBoolean(b []byte) bool {
	switch string(b) {
	case "t", "f", "true", "false":
		return true
	}
	return false
}

// booleanArgument converts parameter i, from 0, if it meets a BOOLEAN column.
func (c *conn) booleanArgument(st *statement, i int, v base.Value) (base.Value, error) {
	if st.kind == kindDeclare {
		return c.booleanArgument(st.cursor.query, i, v)
	}
	if st.kind != kindEngine {
		return v, nil
	}
	if st.booleans == nil {
		columns, err := c.booleanColumns()
		if err != nil {
			return v, err
		}
		st.booleans = booleanParams(st.sql, len(st.params), columns)
	}
	if !st.booleans[i] {
		return v, nil
	}
	return boolValue(v.Bytes[0] == 't'), nil
}

// booleanColumn is one of a database's BOOLEAN columns, in lower case.
type booleanColumn struct {
	table, column string
	place         int // among the table's columns, from 0
}

func (c *conn) booleanColumns() ([]booleanColumn, error) {
	if err := c.park(); err != nil {
		return nil, err
	}
	rows, err := c.sess.Schema(c.ctx, `SELECT lower(m.name), lower(x.name), x.cid FROM sqlite_schema AS m, pragma_table_xinfo(m.name) AS x
		WHERE m.type IN ('table', 'view') AND lower(x.type) IN ('bool', 'boolean')`, nil)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []booleanColumn
	for rows.Next() {
		r := rows.Row()
		out = append(out, booleanColumn{string(r[0].Bytes), string(r[1].Bytes), int(r[2].Int)})
	}
	return out, rows.Err()
}

// booleanParams says which of a statement's n parameters meet such a column of
// a table that the statement mentions, and nothing else.
func booleanParams(sql string, n int, columns []booleanColumn) []bool {
	marks := make([]bool, n)
	tokens := sqltext.Tokens(sql)
	mentioned := map[string]bool{}
	for _, t := range tokens {
		if t.Kind == sqltext.Word || t.Kind == sqltext.Quoted {
			mentioned[strings.ToLower(sqltext.Unquote(t.Text(sql)))] = true
		}
	}
	b := booleanFinder{sql: sql, tokens: tokens, hits: make([]int, n), names: map[string]bool{}, places: map[string]map[int]bool{}}
	for _, c := range columns {
		if mentioned[c.table] {
			b.names[c.column] = true
			if b.places[c.table] == nil {
				b.places[c.table] = map[int]bool{}
			}
			b.places[c.table][c.place] = true
		}
	}
	if len(b.names) > 0 {
		b.besides()
		b.inserted()
	}
	for i := range tokens {
		if p := b.param(i); p >= 0 {
			b.hits[p]--
			marks[p] = true
		}
	}
	for p := range marks {
		marks[p] = marks[p] && b.hits[p] >= 0
	}
	return marks
}

type booleanFinder struct {
	sql    string
	tokens []sqltext.Token
	hits   []int // how often each parameter meets such a column
	names  map[string]bool
	places map[string]map[int]bool
}

func (b *booleanFinder) text(i int) string {
	if i < 0 || i >= len(b.tokens) {
		return ""
	}
	return b.tokens[i].Text(b.sql)
}

// param returns the number of the parameter that token i is, from 0, or -1.
func (b *booleanFinder) param(i int) int {
	text := b.text(i)
	if len(text) < 2 || text[0] != '?' {
		return -1
	}
	n, err := strconv.Atoi(text[1:])
	if err != nil || n < 1 || n > len(b.hits) {
		return -1
	}
	return n - 1
}

func (b *booleanFinder) named(i int) bool {
	return b.names[strings.ToLower(sqltext.Unquote(b.text(i)))]
}

// besides looks for column = ?n and ?n = column.
func (b *booleanFinder) besides() {
	compares := map[string]bool{"=": true, "==": true, "<>": true, "!=": true}
	for i := range b.tokens {
		p := b.param(i)
		if p < 0 {
			continue
		}
		last := i + 2 // the name, or the table that it is qualified by
		if b.text(i+3) == "." {
			last = i + 4
		}
		before := i - 1
		if strings.EqualFold(b.text(before), "NOT") {
			before--
		}
		if compares[b.text(i-1)] && b.named(i-2) || strings.EqualFold(b.text(before), "IS") && b.named(before-1) ||
			compares[b.text(i+1)] && b.named(last) {
			b.hits[p]++
		}
	}
}

// inserted looks for INSERT INTO table [(columns)] VALUES (...), (...).
func (b *booleanFinder) inserted() {
	i := 0
	for i < len(b.tokens) && !b.tokens[i].Is(b.sql, "INTO") {
		i++
	}
	i++
	if b.text(i+1) == "." {
		i += 2
	}
	places := b.places[strings.ToLower(sqltext.Unquote(b.text(i)))]
	if places == nil {
		return
	}
	i++
	if b.text(i) == "(" {
		places, i = b.listed(i + 1)
	}
	if i >= len(b.tokens) || !b.tokens[i].Is(b.sql, "VALUES") {
		return
	}
	b.tuples(i+1, places)
}

// listed reads a list of column names and returns where it ends.
func (b *booleanFinder) listed(i int) (places map[int]bool, end int) {
	places = map[int]bool{}
	for place := 0; i < len(b.tokens) && b.text(i) != ")"; i++ {
		if b.text(i) == "," {
			place++
		} else if b.named(i) {
			places[place] = true
		}
	}
	return places, i + 1
}

// tuples marks what stands alone in one of the places.
func (b *booleanFinder) tuples(i int, places map[int]bool) {
	depth, place := 0, 0
	for ; i < len(b.tokens); i++ {
		switch b.text(i) {
		case "(":
			if depth++; depth == 1 {
				place = 0
			}
		case ")":
			depth--
		case ",":
			if depth == 1 {
				place++
			}
		default:
			if depth == 0 {
				return
			}
			if p := b.param(i); p >= 0 && depth == 1 && places[place] {
				b.hits[p]++
			}
		}
	}
}

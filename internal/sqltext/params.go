package sqltext

import (
	"strconv"
	"strings"
)

// MaxParam is the highest parameter number that SQLite accepts.
const MaxParam = 32766

// NumberParams turns PostgreSQL's parameters $1, $2 into SQLite's ?1, ?2, and
// returns the highest number it saw. Only whole tokens change: strings, names,
// comments and $name stay. Text without $1 comes back as it is.
func NumberParams(sql string) (rewritten string, highest int) {
	if strings.IndexByte(sql, '$') < 0 {
		return sql, 0
	}
	var b []byte
	copied := 0
	for at := 0; at < len(sql); {
		t := Scan(sql, at)
		at = t.End
		n := Dollar(t.Text(sql))
		if t.Kind != Param || n == 0 {
			continue
		}
		highest = max(highest, n)
		b = append(append(b, sql[copied:t.Start]...), '?')
		copied = t.Start + 1
	}
	if copied == 0 {
		return sql, 0
	}
	return string(append(b, sql[copied:]...)), highest
}

// Dollar returns the number of a parameter written as $number, 0 for any other
// text and for numbers that SQLite does not accept.
func Dollar(text string) int {
	if len(text) < 2 || text[0] != '$' {
		return 0
	}
	n, err := strconv.ParseUint(text[1:], 10, 16)
	if err != nil || n > MaxParam {
		return 0
	}
	return int(n)
}

// Unquote returns what a String, Quoted or Word token stands for.
func Unquote(text string) string {
	if len(text) < 2 {
		return text
	}
	q := text[0]
	switch q {
	case '\'', '"', '`':
		if text[len(text)-1] == q {
			return strings.ReplaceAll(text[1:len(text)-1], string([]byte{q, q}), string(q))
		}
	case '[':
		return strings.TrimSuffix(text[1:], "]")
	}
	return text
}

// QuoteString writes s as an SQL string.
func QuoteString(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// QuoteName writes s as an SQL identifier.
func QuoteName(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

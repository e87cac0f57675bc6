package sqltext

import "strings"

// NamesCatalog says whether sql mentions PostgreSQL's catalog: the schemas
// pg_catalog and information_schema, or a name that starts with pg_ and that
// known accepts (in lower case; a nil known accepts every such name). Strings
// and comments do not count.
func NamesCatalog(sql string, known func(name string) bool) bool {
	if !mayNameCatalog(sql) {
		return false
	}
	s := Scanner{SQL: sql}
	for {
		t, ok := s.Next()
		if !ok {
			return false
		}
		text := t.Text(sql)
		switch {
		case t.Kind == Word, t.Kind == Quoted:
		case t.Kind == Param && text[0] == ':':
			text = text[1:] // the second half of ::pg_catalog.text
		default:
			continue
		}
		if catalogName(strings.ToLower(Unquote(text)), known) {
			return true
		}
	}
}

func catalogName(name string, known func(string) bool) bool {
	if name == "pg_catalog" || name == "information_schema" {
		return true
	}
	return strings.HasPrefix(name, "pg_") && (known == nil || known(name))
}

// mayNameCatalog is a cheap filter in front of the tokenizer: nearly every
// statement ends here.
func mayNameCatalog(sql string) bool {
	for i := 0; i+2 < len(sql); i++ {
		switch sql[i] | 0x20 {
		case 'p':
			if sql[i+1]|0x20 == 'g' && sql[i+2] == '_' {
				return true
			}
		case 'i':
			if len(sql)-i >= 18 && strings.EqualFold(sql[i:i+18], "information_schema") {
				return true
			}
		}
	}
	return false
}

package catalogue

import (
	"strconv"
	"strings"

	"github.com/skeindb/skein/internal/sqltext"
)

// recognised pairs queries that no rule can rewrite with what to run instead.
// Literals and numbers of the query may differ from the sample; {1} is the
// first of them, and so on.
var recognised = []struct{ query, instead string }{
	{ // pgbench, before a run: is the table partitioned?
		`select o.n, p.partstrat, pg_catalog.count(i.inhparent) from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on (n.oid = c.relnamespace)
		cross join lateral (select pg_catalog.array_position(pg_catalog.current_schemas(true), n.nspname)) as o(n)
		left join pg_catalog.pg_partitioned_table as p on (p.partrelid = c.oid) left join pg_catalog.pg_inherits as i on (c.oid = i.inhparent)
		where c.relname = 'pgbench_accounts' and o.n is not null group by 1, 2 order by 1 asc limit 1`,
		`SELECT 2 AS n, NULL AS partstrat, 0 AS count FROM pg_class WHERE relname = {1} AND relkind = 'r'`,
	},
	{ // SQLAlchemy 1.4: the columns of a primary key
		`SELECT a.attname FROM pg_attribute a JOIN ( SELECT unnest(ix.indkey) attnum, generate_subscripts(ix.indkey, 1) ord
		FROM pg_index ix WHERE ix.indrelid = 16384 AND ix.indisprimary ) k ON a.attnum=k.attnum WHERE a.attrelid = 16384 ORDER BY k.ord`,
		`SELECT a.attname FROM pg_index AS ix, json_each('[' || replace(ix.indkey, ' ', ',') || ']') AS k, pg_attribute AS a
		WHERE ix.indrelid = {2} AND ix.indisprimary AND a.attrelid = {3} AND a.attnum = k.value ORDER BY k.key`,
	},
	{ // JDBC: getPrimaryKeys
		`SELECT result.TABLE_CAT, result.TABLE_SCHEM, result.TABLE_NAME, result.COLUMN_NAME, result.KEY_SEQ, result.PK_NAME FROM
		(SELECT NULL AS TABLE_CAT, n.nspname AS TABLE_SCHEM, ct.relname AS TABLE_NAME, a.attname AS COLUMN_NAME,
		(information_schema._pg_expandarray(i.indkey)).n AS KEY_SEQ, ci.relname AS PK_NAME,
		information_schema._pg_expandarray(i.indkey) AS KEYS, a.attnum AS A_ATTNUM FROM pg_catalog.pg_class ct
		JOIN pg_catalog.pg_attribute a ON (ct.oid = a.attrelid) JOIN pg_catalog.pg_namespace n ON (ct.relnamespace = n.oid)
		JOIN pg_catalog.pg_index i ON ( a.attrelid = i.indrelid) JOIN pg_catalog.pg_class ci ON (ci.oid = i.indexrelid)
		WHERE true AND ct.relname = 't' AND i.indisprimary ) result where result.A_ATTNUM = (result.KEYS).x
		ORDER BY result.table_name, result.pk_name, result.key_seq`,
		`SELECT NULL AS table_cat, 'public' AS table_schem, ct.relname AS table_name, a.attname AS column_name, k.key + 1 AS key_seq, ci.relname AS pk_name
		FROM pg_class AS ct, pg_index AS i, json_each('[' || replace(i.indkey, ' ', ',') || ']') AS k, pg_attribute AS a, pg_class AS ci
		WHERE ct.relname = {1} AND i.indrelid = ct.oid AND i.indisprimary AND a.attrelid = ct.oid AND a.attnum = k.value AND ci.oid = i.indexrelid
		ORDER BY 3, 6, 5`,
	},
	{ // JDBC: getIndexInfo
		`SELECT tmp.TABLE_CAT, tmp.TABLE_SCHEM, tmp.TABLE_NAME, tmp.NON_UNIQUE, tmp.INDEX_QUALIFIER, tmp.INDEX_NAME, tmp.TYPE, tmp.ORDINAL_POSITION,
		trim(both '"' from pg_catalog.pg_get_indexdef(tmp.CI_OID, tmp.ORDINAL_POSITION, false)) AS COLUMN_NAME,
		CASE tmp.AM_NAME WHEN 'btree' THEN CASE tmp.I_INDOPTION[tmp.ORDINAL_POSITION - 1] & 1::smallint WHEN 1 THEN 'D' ELSE 'A' END ELSE NULL END AS ASC_OR_DESC,
		tmp.CARDINALITY, tmp.PAGES, tmp.FILTER_CONDITION FROM (SELECT NULL AS TABLE_CAT, n.nspname AS TABLE_SCHEM, ct.relname AS TABLE_NAME,
		NOT i.indisunique AS NON_UNIQUE, NULL AS INDEX_QUALIFIER, ci.relname AS INDEX_NAME,
		CASE i.indisclustered WHEN true THEN 1 ELSE CASE am.amname WHEN 'hash' THEN 2 ELSE 3 END END AS TYPE,
		(information_schema._pg_expandarray(i.indkey)).n AS ORDINAL_POSITION, ci.reltuples AS CARDINALITY, ci.relpages AS PAGES,
		pg_catalog.pg_get_expr(i.indpred, i.indrelid) AS FILTER_CONDITION, ci.oid AS CI_OID, i.indoption AS I_INDOPTION, am.amname AS AM_NAME
		FROM pg_catalog.pg_class ct JOIN pg_catalog.pg_namespace n ON (ct.relnamespace = n.oid) JOIN pg_catalog.pg_index i ON (ct.oid = i.indrelid)
		JOIN pg_catalog.pg_class ci ON (ci.oid = i.indexrelid) JOIN pg_catalog.pg_am am ON (ci.relam = am.oid) WHERE true AND ct.relname = 't') AS tmp
		ORDER BY NON_UNIQUE, TYPE, INDEX_NAME, ORDINAL_POSITION`,
		`SELECT NULL AS table_cat, 'public' AS table_schem, ct.relname AS table_name, CASE i.indisunique WHEN 1 THEN 'f' ELSE 't' END AS non_unique,
		NULL AS index_qualifier, ci.relname AS index_name, 3 AS type, k.key + 1 AS ordinal_position,
		(SELECT trim(skein_text, '"') FROM skein_name WHERE skein_kind = 'index' AND skein_id = ci.oid AND skein_part = k.key + 1) AS column_name,
		CASE WHEN json_extract('[' || replace(i.indoption, ' ', ',') || ']', '$[' || k.key || ']') & 1 THEN 'D' ELSE 'A' END AS asc_or_desc,
		ci.reltuples AS cardinality, ci.relpages AS pages, i.indpred AS filter_condition
		FROM pg_class AS ct, pg_index AS i, json_each('[' || replace(i.indkey, ' ', ',') || ']') AS k, pg_class AS ci
		WHERE ct.relname = {11} AND i.indrelid = ct.oid AND ci.oid = i.indexrelid ORDER BY 4, 7, 6, 8`,
	},
}

// recognisedByShape finds them by what is the same in all their uses.
var recognisedByShape = func() map[string]string {
	m := map[string]string{}
	for _, r := range recognised {
		s, _ := shape(r.query)
		m[s] = r.instead
	}
	return m
}()

// recognise returns what to run instead of a query, if it is one of them.
func recognise(sql string) (string, bool) {
	s, literals := shape(sql)
	instead, ok := recognisedByShape[s]
	if !ok {
		return "", false
	}
	var pairs []string
	for i, l := range literals {
		pairs = append(pairs, "{"+strconv.Itoa(i+1)+"}", l)
	}
	return strings.NewReplacer(pairs...).Replace(instead), true
}

// shape is a query with its literals taken out, and with its tokens apart by
// one space. Parameters count as literals.
func shape(sql string) (string, []string) {
	var b strings.Builder
	var literals []string
	for _, t := range sqltext.Tokens(sql) {
		text := t.Text(sql)
		switch t.Kind {
		case sqltext.String, sqltext.Number:
			literals = append(literals, text)
			text = "?"
		case sqltext.Param:
			if n := sqltext.Dollar(text); n > 0 {
				literals = append(literals, "?"+strconv.Itoa(n))
				text = "?"
			}
		case sqltext.Semicolon:
			continue
		}
		b.WriteString(strings.ToLower(text))
		b.WriteByte(' ')
	}
	return b.String(), literals
}

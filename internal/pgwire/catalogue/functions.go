package catalogue

import (
	"strconv"
	"strings"

	"github.com/skeindb/skein/internal/sqltext"
)

func itoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// templates hold SQLite's expression for a call of a PostgreSQL function. {0}
// and {1} are its arguments; a call with too few stays as it is.
var templates = map[string]string{
	"pg_table_is_visible": "1", "pg_function_is_visible": "1", "pg_type_is_visible": "1", "pg_operator_is_visible": "1",
	"pg_opclass_is_visible": "1", "pg_opfamily_is_visible": "1", "pg_collation_is_visible": "1", "pg_conversion_is_visible": "1",
	"pg_statistics_obj_is_visible": "1", "pg_ts_parser_is_visible": "1", "pg_ts_template_is_visible": "1", "pg_ts_config_is_visible": "1", "pg_ts_dict_is_visible": "1",
	"has_table_privilege": "1", "has_database_privilege": "1", "has_schema_privilege": "1", "has_column_privilege": "1",
	"has_any_column_privilege": "1", "has_function_privilege": "1", "has_sequence_privilege": "1", "has_tablespace_privilege": "1",
	"has_type_privilege": "1", "has_language_privilege": "1", "pg_has_role": "1",
	"row_security_active": "0", "pg_relation_is_publishable": "0", "pg_is_other_temp_schema": "0",
	"pg_my_temp_schema": "0", "pg_is_in_backup": "0", "pg_relation_is_updatable": "28", "pg_column_is_updatable": "1",

	"pg_get_userbyid":      lookup("role", "{0}"),
	"pg_get_constraintdef": lookup("constraint", "{0}"),
	"pg_get_triggerdef":    lookup("trigger", "{0}"),
	"pg_get_viewdef":       lookup("view", "{0}"),
	"pg_get_expr":          "({0})",
	"to_regclass":          "(SELECT skein_id FROM skein_name WHERE skein_kind = 'class' AND skein_part = 0 AND skein_text = ({0}))",
	"to_regtype":           "(SELECT oid FROM pg_type WHERE typname = ({0}))",
	"to_regnamespace":      "(SELECT oid FROM pg_namespace WHERE nspname = ({0}))",

	"pg_get_ruledef": "NULL", "pg_get_functiondef": "NULL", "pg_get_serial_sequence": "NULL", "pg_get_partkeydef": "NULL",
	"pg_get_partition_constraintdef": "NULL", "pg_get_statisticsobjdef": "NULL", "pg_get_statisticsobjdef_columns": "NULL",
	"pg_get_function_result": "''", "pg_get_function_arguments": "''", "pg_get_function_identity_arguments": "''",
	"pg_get_function_sqlbody": "NULL", "pg_get_replica_identity_index": "NULL",
	"obj_description": "NULL", "col_description": "NULL", "shobj_description": "NULL",
	"pg_relation_size": "NULL", "pg_total_relation_size": "NULL", "pg_table_size": "NULL", "pg_indexes_size": "NULL", "pg_database_size": "NULL",
	"pg_size_pretty": "({0})", "pg_tablespace_location": "''", "pg_stat_get_numscans": "0", "pg_relation_filenode": "NULL",
	"pg_relation_filepath": "NULL", "pg_sequence_last_value": "NULL", "pg_indexam_has_property": "NULL", "pg_index_column_has_property": "NULL",
	"inet_server_addr": "NULL", "inet_client_addr": "NULL", "inet_server_port": "NULL", "inet_client_port": "NULL",
	"pg_postmaster_start_time": "NULL", "pg_conf_load_time": "NULL", "pg_last_wal_receive_lsn": "NULL", "pg_last_wal_replay_lsn": "NULL",
	"txid_current": "1", "pg_current_xact_id": "1", "pg_advisory_unlock_all": "NULL", "pg_is_wal_replay_paused": "0",

	"pg_encoding_to_char": "'UTF8'", "pg_char_to_encoding": "6", "pg_client_encoding": "'UTF8'", "getdatabaseencoding": "'UTF8'",
	"array_to_string": "replace(trim(({0}), '{}'), ',', ({1}))",
	"array_upper":     "(CASE WHEN ({0}) IN ('', '{}') THEN NULL ELSE length({0}) - length(replace(({0}), ',', '')) + 1 END)",
	"array_length":    "(CASE WHEN ({0}) IN ('', '{}') THEN NULL ELSE length({0}) - length(replace(({0}), ',', '')) + 1 END)",
	"cardinality":     "(CASE WHEN ({0}) IN ('', '{}') THEN 0 ELSE length({0}) - length(replace(({0}), ',', '')) + 1 END)",
	"array_remove":    "({0})",
	"array_lower":     "(CASE WHEN ({0}) IN ('', '{}') THEN NULL ELSE 1 END)",
	"array_agg":       "('{' || group_concat({0}) || '}')",
	"quote_ident":     "({0})", "quote_literal": "quote({0})",
	"bool_and": "min({0})", "bool_or": "max({0})", "every": "min({0})", "greatest": "max({*})", "least": "min({*})",
	"json_build_object": "json_object({*})", "jsonb_build_object": "json_object({*})", "json_agg": "json_group_array({0})",
	"format_type": `(SELECT CASE WHEN ({1}) > 3 AND skein_id IN (1042, 1043) THEN skein_text || '(' || (({1}) - 4) || ')' ` +
		`WHEN ({1}) > 3 AND skein_id = 1700 THEN 'numeric(' || ((({1}) - 4) >> 16) || ',' || ((({1}) - 4) & 65535) || ')' ` +
		`ELSE skein_text END FROM skein_name WHERE skein_kind = 'type' AND skein_part = 0 AND skein_id = ({0}))`,
	"now":                   "strftime('%Y-%m-%d %H:%M:%f+00', 'now')",
	"clock_timestamp":       "strftime('%Y-%m-%d %H:%M:%f+00', 'now')",
	"statement_timestamp":   "strftime('%Y-%m-%d %H:%M:%f+00', 'now')",
	"transaction_timestamp": "strftime('%Y-%m-%d %H:%M:%f+00', 'now')",
}

// alone are functions that a query without FROM calls for their own sake; no
// built-in of SQLite is among them.
var alone = map[string]bool{
	"version": true, "current_schema": true, "current_schemas": true, "current_database": true, "current_setting": true,
	"now": true, "clock_timestamp": true, "statement_timestamp": true, "transaction_timestamp": true, "txid_current": true,
	"inet_server_addr": true, "inet_client_addr": true, "inet_server_port": true, "inet_client_port": true,
	"has_table_privilege": true, "has_database_privilege": true, "has_schema_privilege": true,
	"to_regclass": true, "to_regtype": true, "quote_ident": true, "obj_description": true, "format_type": true, "getdatabaseencoding": true,
}

// bare are functions without brackets.
var bare = map[string]bool{
	"current_user": true, "session_user": true, "current_role": true, "current_catalog": true, "current_schema": true,
}

// sets are functions that return rows; there are no arrays to unnest nor
// partitions to list.
var sets = map[string]bool{
	"unnest": true, "generate_series": true, "generate_subscripts": true, "pg_partition_ancestors": true, "pg_partition_tree": true,
	"pg_options_to_table": true, "aclexplode": true, "pg_get_keywords": true, "pg_get_publication_tables": true, "pg_show_all_settings": true,
	"pg_stat_get_activity": true, "pg_timezone_names": true, "pg_listening_channels": true,
}

// knownName says whether a name with pg_ in front is a relation or function
// here. What is not may be a table of the user's.
func knownName(name string) bool {
	_, relation := relations[name]
	_, function := templates[name]
	return relation || function || sets[name] || name == "pg_backend_pid" || name == "pg_is_in_recovery" || name == "pg_get_indexdef" || name == "pg_cancel_backend" ||
		name == "pg_terminate_backend" || name == "pg_sleep"
}

// Wants says whether a query is for the catalogue: it names relations or
// functions of PostgreSQL's, or calls such a function without any table.
func Wants(sql string) bool {
	if sqltext.NamesCatalog(sql, knownName) {
		return true
	}
	s := sqltext.Scanner{SQL: sql}
	found := false
	for {
		t, ok := s.Next()
		if !ok {
			return found
		}
		if t.Kind != sqltext.Word || found && !t.Is(sql, "FROM") {
			continue
		}
		if t.Is(sql, "FROM") {
			return false
		}
		word := strings.ToLower(t.Text(sql))
		next, _ := s.Peek()
		found = bare[word] && !next.Op(sql, ".") || alone[word] && next.Op(sql, "(")
	}
}

// calls rewrites calls of functions.
func (r *rewriter) calls(seq []node) []node {
	var out []node
	for i := 0; i < len(seq); i++ {
		n := seq[i]
		name := n.name()
		called := i+1 < len(seq) && seq[i+1].kind == nGroup
		qualified := i > 0 && seq[i-1].op(".") || i > 0 && seq[i-1].word() == "as"
		switch {
		case name == "" || qualified || n.kind == nQuoted && !called:
		case called:
			if call, ok := r.call(name, seq[i+1].kids); ok {
				out = append(out, call)
				i++
				continue
			}
		case bare[name] && (i+1 == len(seq) || !seq[i+1].op(".")):
			n, _ = r.call(name, nil)
		}
		out = append(out, n)
	}
	return out
}

func (r *rewriter) call(name string, kids []node) (node, bool) {
	args := split(kids)
	if len(args) == 0 && name == "trim" {
		return node{}, false
	}
	switch name {
	case "version":
		return raw(sqltext.QuoteString("PostgreSQL " + r.client.Version + ", SQLite dialect")), true
	case "current_database", "current_catalog":
		return raw(sqltext.QuoteString(r.client.Session.Database())), true
	case "current_user", "session_user", "current_role":
		return raw(sqltext.QuoteString(r.client.User)), true
	case "current_schema":
		return raw("'public'"), true
	case "current_schemas":
		if len(args) == 1 && (write(args[0]) == "true" || write(args[0]) == "TRUE") {
			return raw("'{pg_catalog,public}'"), true
		}
		return raw("'{public}'"), true
	case "pg_backend_pid":
		return raw(itoa(r.client.ProcessID)), true
	case "current_setting":
		return r.setting(args)
	case "pg_is_in_recovery":
		if r.client.Session.Leads() {
			return raw("0"), true
		}
		return raw("1"), true
	case "pg_get_indexdef":
		return indexDefinition(args)
	case "trim":
		return trimmed(kids)
	case "unnest", "generate_subscripts":
		return raw("NULL"), true
	case "pg_partition_ancestors", "generate_series":
		if len(args) > 0 {
			return raw("(", write(args[0]), ")"), true
		}
	}
	template, ok := templates[name]
	if !ok {
		return node{}, false
	}
	return expand(template, args)
}

// expand puts arguments into a template.
func expand(template string, args [][]node) (node, bool) {
	var pairs []string
	for i, a := range args {
		pairs = append(pairs, "{"+strconv.Itoa(i)+"}", write(a))
	}
	all := make([]string, len(args))
	for i, a := range args {
		all[i] = write(a)
	}
	for i := len(args); i < 3; i++ {
		if strings.Contains(template, "{"+strconv.Itoa(i)+"}") {
			return node{}, false
		}
	}
	pairs = append(pairs, "{*}", strings.Join(all, ", "))
	return raw(strings.NewReplacer(pairs...).Replace(template)), true
}

func (r *rewriter) setting(args [][]node) (node, bool) {
	if len(args) == 0 {
		return node{}, false
	}
	if len(args[0]) != 1 || args[0][0].kind != nLiteral {
		return raw("(SELECT setting FROM pg_settings WHERE name = (", write(args[0]), "))"), true
	}
	v, ok := r.client.Setting(strings.ToLower(sqltext.Unquote(args[0][0].text)))
	if !ok {
		return raw("NULL"), true
	}
	return raw(sqltext.QuoteString(v)), true
}

// trimmed rewrites trim(both 'x' from y).
func trimmed(kids []node) (node, bool) {
	name, ok := map[string]string{"both": "trim", "leading": "ltrim", "trailing": "rtrim"}[kids[0].word()]
	for i, n := range kids {
		if n.word() == "from" && ok {
			characters := write(kids[1:i])
			if i == 1 {
				characters = "' '"
			}
			return raw(name, "(", write(kids[i+1:]), ", ", characters, ")"), true
		}
	}
	return node{}, false
}

func indexDefinition(args [][]node) (node, bool) {
	part := "0"
	if len(args) > 1 {
		part = write(args[1])
	}
	if len(args) == 0 {
		return node{}, false
	}
	return raw("(SELECT skein_text FROM skein_name WHERE skein_kind = 'index' AND skein_id = (", write(args[0]), ") AND skein_part = (", part, "))"), true
}

// fromClauses rewrites what PostgreSQL allows in FROM and SQLite does not:
// functions that return rows, and names for columns behind an alias.
func (r *rewriter) fromClauses(seq []node) []node {
	var out []node
	from := false
	for i := 0; i < len(seq); i++ {
		n := seq[i]
		switch n.word() {
		case "from", "join":
			from = true
		case "select", "where", "on", "group", "order", "having", "limit", "union", "except", "intersect":
			from = false
		case "lateral":
			continue
		}
		if from && len(out) > 0 && startsSource(out[len(out)-1]) {
			if source, end, ok := r.source(seq, i); ok {
				out = append(out, source)
				i = end - 1
				continue
			}
		}
		out = append(out, n)
	}
	return out
}

func startsSource(n node) bool {
	return n.word() == "from" || n.word() == "join" || n.op(",")
}

// source rewrites one table of FROM, from i on, and returns where it ends.
func (r *rewriter) source(seq []node, i int) (node, int, bool) {
	name, group := seq[i].name(), i
	if seq[i].kind != nGroup {
		if group = i + 1; !sets[name] || group >= len(seq) || seq[group].kind != nGroup {
			return node{}, 0, false
		}
	}
	at := group + 1
	if at+1 < len(seq) && seq[at].word() == "with" && seq[at+1].word() == "ordinality" {
		at += 2
	}
	alias, columns, end := aliasOf(seq, at)
	if seq[i].kind == nGroup {
		if columns == nil {
			return node{}, 0, false
		}
		return raw("(WITH ", alias, "(", strings.Join(columns, ", "), ") AS (", write(seq[group].kids), ") SELECT * FROM ", alias, ") AS ", alias), end, true
	}
	if alias == "" {
		alias = sqltext.QuoteName(name)
	}
	if columns == nil {
		columns = []string{alias}
	}
	if args := split(seq[group].kids); name == "generate_series" && len(args) >= 2 {
		return series(write(args[0]), write(args[1]), columns[0], alias), end, true
	}
	nulls := "NULL AS " + strings.Join(columns, ", NULL AS ")
	return raw("(SELECT ", nulls, " WHERE 0) AS ", alias), end, true
}

func series(first, last, column, alias string) node {
	return raw("(WITH RECURSIVE skein_series(", column, ") AS (SELECT (", first, ") WHERE (", first, ") <= (", last, ") UNION ALL SELECT ",
		column, " + 1 FROM skein_series WHERE ", column, " < (", last, ")) SELECT ", column, " FROM skein_series) AS ", alias)
}

// aliasOf reads [AS] alias [(columns)].
func aliasOf(seq []node, i int) (alias string, columns []string, end int) {
	if i < len(seq) && seq[i].word() == "as" {
		i++
	}
	if i >= len(seq) || seq[i].name() == "" || endsSource(seq[i].word()) {
		return "", nil, i
	}
	alias = sqltext.QuoteName(seq[i].name())
	i++
	if i < len(seq) && seq[i].kind == nGroup {
		for _, c := range split(seq[i].kids) {
			if len(c) > 0 {
				columns = append(columns, sqltext.QuoteName(c[0].name()))
			}
		}
		i++
	}
	return alias, columns, i
}

func endsSource(word string) bool {
	switch word {
	case "where", "on", "join", "left", "right", "full", "inner", "cross", "natural", "outer", "group", "order", "having", "limit",
		"offset", "union", "except", "intersect", "using", "window", "fetch", "for":
		return true
	}
	return false
}

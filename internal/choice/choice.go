package choice

import (
	"slices"
	"strings"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/sqltext"
)

const (
	// Prefix begins the names of the triggers that say what is sent.
	Prefix = "skein_log_"
	// View lists them. That it is there says that they were made once.
	View = "skein_log"
	// ViewSQL makes it.
	ViewSQL = `CREATE VIEW skein_log AS SELECT tbl_name AS "table", name AS "trigger", sql FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'skein\_log\_%' ESCAPE '\'`
	// KeySQL lists the key's columns of the WITHOUT ROWID table ?1, in the key's
	// order; a column may come twice.
	KeySQL = `SELECT x.name FROM pragma_index_list(?1) AS i, pragma_index_xinfo(i.name) AS x
	WHERE i.origin = 'pk' AND x.key = 1 ORDER BY x.seqno`
	// RowIDSQL names the rowid of the table ?1: the column that is it, or else
	// the first name for it that no column has.
	RowIDSQL = `SELECT name FROM (
	SELECT 0 AS rank, name FROM pragma_table_xinfo(?1) WHERE pk > 0 AND NOT EXISTS (SELECT 1 FROM pragma_index_list(?1) WHERE origin = 'pk')
	UNION ALL SELECT r.rank, r.name FROM (SELECT 1 AS rank, 'rowid' AS name UNION ALL SELECT 2, '_rowid_' UNION ALL SELECT 3, 'oid') AS r
	WHERE NOT EXISTS (SELECT 1 FROM pragma_table_xinfo(?1) WHERE lower(name) = r.name)) ORDER BY rank LIMIT 1`
	// maxArguments is of a function call, as the engine is set up.
	maxArguments = 100
)

// Choice is what is sent of one table.
type Choice struct {
	Table string
	// Key lists the columns that name a row: the primary key of a WITHOUT ROWID
	// table in the key's order, else the one that is the rowid, or "rowid".
	Key []string
	// Columns that are sent beside the key; nil is the whole row.
	Columns []string
	// Where chooses rows: an expression of NEW.column; "" is all rows.
	Where string
}

// Trigger is one that a choice makes.
type Trigger struct{ Name, SQL string }

// Events are what triggers are made for, and end their names.
var Events = [...]string{"insert", "update", "delete"}

// TriggerName is the name of the trigger for a table and an event.
func TriggerName(table, event string) string { return Prefix + table + "_" + event }

// IsName says that a trigger of this name says what is sent of its table.
func IsName(name, table string) bool {
	return slices.ContainsFunc(Events[:], func(event string) bool { return strings.EqualFold(name, TriggerName(table, event)) })
}

// Check says why there can't be triggers for a choice.
func (c *Choice) Check() error {
	if len(c.Key) == 0 {
		return base.Errorf(base.KindInternal, "table %q has no key", c.Table)
	}
	if n := 2 + len(c.Key) + 2*len(c.Columns); n > maxArguments {
		return base.Errorf(base.KindUnsupported, "%d columns are too many for one trigger: %d fit", len(c.Columns), (maxArguments-2-len(c.Key))/2).
			WithHint("choose the whole row, or fewer columns")
	}
	if c.Where == "" {
		return nil
	}
	return checkWhere(c.Where)
}

// checkWhere refuses what would end the expression, and what would make a row's
// place depend on other rows: nobody would be told when those change.
func checkWhere(where string) error {
	depth, mentions := 0, false
	for _, t := range sqltext.Tokens(where) {
		switch {
		case t.Is(where, "SELECT"), t.Is(where, "VALUES"), t.Is(where, "WITH"):
			return base.Errorf(base.KindInvalid, "where %q: it must depend on the row alone, so that rows come and go when they change themselves", where)
		case t.Is(where, "OLD"):
			return base.Errorf(base.KindInvalid, "where %q: say it of NEW; what it means for a row that goes follows", where)
		case t.Is(where, "NEW"):
			mentions = true
		case t.Op(where, "("):
			depth++
		case t.Op(where, ")"):
			depth--
		}
		if depth < 0 || t.Kind == sqltext.Semicolon || t.Kind == sqltext.Param || t.Kind == sqltext.Illegal {
			return base.Errorf(base.KindInvalid, "where %q: not one expression", where)
		}
	}
	if depth != 0 || strings.Contains(where, "--") || strings.Contains(where, "/*") {
		return base.Errorf(base.KindInvalid, "where %q: not one expression", where)
	}
	if !mentions {
		return base.Errorf(base.KindInvalid, "where %q: it names no column of the row, such as NEW.id", where)
	}
	return nil
}

// Triggers returns the triggers for inserts, updates and deletes.
func (c *Choice) Triggers() []Trigger {
	when := func(condition string) string {
		if c.Where == "" {
			return ""
		}
		return " WHEN " + condition
	}
	is, was := "("+c.Where+")", "("+ofOld(c.Where)+")"
	return []Trigger{
		c.trigger("insert", when(is), c.emit("insert", "NEW")),
		c.trigger("update", when(was+" OR "+is), c.emit("delete", "OLD")+" WHERE "+c.leaves(was, is)+"; "+c.emit("update", "NEW")+c.stays(is)),
		c.trigger("delete", when(was), c.emit("delete", "OLD")),
	}
}

func (c *Choice) trigger(event, when, body string) Trigger {
	name := TriggerName(c.Table, event)
	return Trigger{Name: name, SQL: "CREATE TRIGGER " + sqltext.QuoteName(name) + " AFTER " + strings.ToUpper(event) +
		" ON " + sqltext.QuoteName(c.Table) + when + " BEGIN " + body + "; END"}
}

// leaves is the condition under which an update takes the row back from where
// it was: under the old key, or out of what is chosen.
func (c *Choice) leaves(was, is string) string {
	var parts []string
	for _, k := range c.Key {
		parts = append(parts, reference("OLD", k)+" COLLATE BINARY IS NOT "+reference("NEW", k))
	}
	moved := strings.Join(parts, " OR ")
	if c.Where == "" {
		return moved
	}
	return was + " IS TRUE AND (" + moved + " OR " + is + " IS NOT TRUE)"
}

func (c *Choice) stays(is string) string {
	if c.Where == "" {
		return ""
	}
	return " WHERE " + is + " IS TRUE"
}

// emit is the call that sends a row, or takes one back.
func (c *Choice) emit(op, row string) string {
	args := []string{sqltext.QuoteString(op), sqltext.QuoteString(c.Table)}
	for _, k := range c.Key {
		args = append(args, reference(row, k))
	}
	if op != "delete" {
		for _, name := range c.Columns {
			args = append(args, sqltext.QuoteString(name), reference(row, name))
		}
	}
	return "SELECT skein_emit(" + strings.Join(args, ", ") + ")"
}

// reference names a column, or the rowid, which is known in quotes too.
func reference(row, column string) string { return row + "." + sqltext.QuoteName(column) }

// ofOld turns a condition on NEW into the same on OLD.
func ofOld(where string) string {
	var b strings.Builder
	at := 0
	tokens := sqltext.Tokens(where)
	for i, t := range tokens {
		if t.Is(where, "NEW") && i+1 < len(tokens) && tokens[i+1].Op(where, ".") {
			b.WriteString(where[at:t.Start] + "OLD")
			at = t.End
		}
	}
	return b.String() + where[at:]
}

// Renamed returns a trigger of a table as it must be now that the table has
// another name: its own name and the name in its calls are text, which the
// engine does not know.
func Renamed(sql, from, to string) string {
	var b strings.Builder
	at, called := 0, false
	tokens := sqltext.Tokens(sql)
	for i, t := range tokens {
		text := t.Text(sql)
		replace := ""
		switch {
		case i == 2 && IsName(sqltext.Unquote(text), from): // CREATE TRIGGER name
			name := sqltext.Unquote(text)
			replace = sqltext.QuoteName(TriggerName(to, name[strings.LastIndexByte(name, '_')+1:]))
		case t.Is(sql, "skein_emit"):
			called = true
		case called && t.Kind == sqltext.String && tokens[i-1].Op(sql, ","):
			if called = false; text == sqltext.QuoteString(from) {
				replace = sqltext.QuoteString(to)
			}
		}
		if replace != "" {
			b.WriteString(sql[at:t.Start] + replace)
			at = t.End
		}
	}
	return b.String() + sql[at:]
}

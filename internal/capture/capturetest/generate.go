package capturetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/skeindb/skein/internal/sqltext"
)

// Families are the schemas that histories are made of. Each history takes some.
var Families = [][]string{
	{
		`CREATE TABLE acc(id INTEGER PRIMARY KEY, u UNIQUE, v, w REAL, x TEXT COLLATE NOCASE)`,
		`CREATE INDEX acc_expr ON acc(lower(x), v)`,
		`CREATE UNIQUE INDEX acc_part ON acc(v) WHERE w > 2`,
	},
	{
		`CREATE TABLE auto(id INTEGER PRIMARY KEY AUTOINCREMENT, u UNIQUE, v)`,
		`CREATE TABLE auto2(id INTEGER PRIMARY KEY AUTOINCREMENT, n NOT NULL)`,
	},
	{`CREATE TABLE nopk(a, b NUMERIC)`, `CREATE TABLE Onlyid(id INTEGER PRIMARY KEY)`},
	{`CREATE TABLE textpk(k TEXT PRIMARY KEY, v)`, `CREATE TABLE blobpk(k BLOB PRIMARY KEY, v INT)`},
	{
		`CREATE TABLE wr(x, k1 TEXT, g AS (x||'-') VIRTUAL, k2, v, PRIMARY KEY(k2, k1 COLLATE NOCASE)) WITHOUT ROWID`,
		`CREATE TABLE wr2(k TEXT COLLATE NOCASE, v UNIQUE, PRIMARY KEY(k COLLATE BINARY)) WITHOUT ROWID`,
		`CREATE TABLE wr3(k TEXT COLLATE NOCASE PRIMARY KEY, v REAL) WITHOUT ROWID`,
	},
	{`CREATE TABLE gen(a, g1 AS (a||'!') VIRTUAL, b, g2 AS (coalesce(b,0)||'?') STORED, c UNIQUE, d REAL)`, `CREATE INDEX gen_i ON gen(g1, g2)`},
	{`CREATE TABLE strict1(id INTEGER PRIMARY KEY, i INT, t TEXT, r REAL, b BLOB, a ANY) STRICT`},
	{
		`CREATE TABLE parent(id INTEGER PRIMARY KEY, code UNIQUE)`,
		`CREATE TABLE child(id INTEGER PRIMARY KEY, pid REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE, code REFERENCES parent(code) ON DELETE SET NULL ON UPDATE SET NULL)`,
		`CREATE TABLE grandchild(c REFERENCES child ON DELETE CASCADE ON UPDATE CASCADE, v)`,
	},
	{
		`CREATE TABLE src(id INTEGER PRIMARY KEY, a UNIQUE, b)`,
		`CREATE TABLE audit(n INTEGER PRIMARY KEY AUTOINCREMENT, what, was, now)`,
		`CREATE TRIGGER src_i AFTER INSERT ON src BEGIN INSERT INTO audit(what, now) VALUES('i', NEW.a); UPDATE src SET b=coalesce(b,'set') WHERE id=NEW.id; END`,
		`CREATE TRIGGER src_u BEFORE UPDATE OF a ON src BEGIN INSERT INTO audit(what, was, now) VALUES('u', OLD.a, NEW.a); DELETE FROM audit WHERE n < (SELECT max(n) FROM audit) - 5; END`,
		`CREATE TRIGGER src_d AFTER DELETE ON src WHEN OLD.a <> 3 BEGIN INSERT INTO audit(what, was) VALUES('d', OLD.a); SELECT RAISE(IGNORE) WHERE OLD.a = 4; END`,
		`CREATE VIEW src_v AS SELECT a, b FROM src`,
		`CREATE TRIGGER src_vi INSTEAD OF INSERT ON src_v BEGIN INSERT OR IGNORE INTO src(a, b) VALUES(NEW.a, NEW.b); END`,
	},
	{
		`CREATE TABLE "sel ect"("from" , "a ""q" UNIQUE, rowid, oid)`,
		`CREATE TABLE taken(rowid, oid UNIQUE, _rowid_ INTEGER PRIMARY KEY, v)`,
		`CREATE TABLE dpk(id INTEGER PRIMARY KEY DESC, v)`,
		`CREATE TABLE "Größe [x]"(ä TEXT UNIQUE, "group")`,
	},
	{`CREATE TABLE conf(a UNIQUE ON CONFLICT REPLACE, b UNIQUE ON CONFLICT IGNORE, c NOT NULL ON CONFLICT REPLACE DEFAULT 'x', d CHECK (d <> 3))`},
	{
		`CREATE VIRTUAL TABLE ft USING fts5(t, u)`,
		`CREATE TABLE doc(id INTEGER PRIMARY KEY, t)`,
		`CREATE VIRTUAL TABLE docft USING fts5(t, content='doc', content_rowid='id')`,
		`CREATE TRIGGER doc_i AFTER INSERT ON doc BEGIN INSERT INTO docft(rowid, t) VALUES(NEW.id, NEW.t); END`,
		`CREATE TRIGGER doc_d AFTER DELETE ON doc BEGIN INSERT INTO docft(docft, rowid, t) VALUES('delete', OLD.id, OLD.t); END`,
		`CREATE TRIGGER doc_u AFTER UPDATE ON doc BEGIN INSERT INTO docft(docft, rowid, t) VALUES('delete', OLD.id, OLD.t); INSERT INTO docft(rowid, t) VALUES(NEW.id, NEW.t); END`,
	},
	{`CREATE VIRTUAL TABLE rt USING rtree(id, x1, x2, +note)`},
}

// Generator makes SQL for whatever tables there are.
type Generator struct {
	*rand.Rand
	Tables []Relation // ordinary ones
	made   int        // names made up
	fts    bool
	rtree  bool
}

// Look learns which tables there are.
func (g *Generator) Look(all []Relation) {
	g.Tables, g.fts, g.rtree = nil, false, false
	for _, r := range all {
		g.fts = g.fts || r.Name == "ft"
		g.rtree = g.rtree || r.Name == "rt"
		if r.Kind == "table" && !strings.HasPrefix(r.Name, "sqlite_") {
			g.Tables = append(g.Tables, r)
		}
	}
}

func pick[T any](g *Generator, list []T) T { return list[g.IntN(len(list))] }

var oddValues = []string{
	"NULL", "-0.0", "1.0", "2.5", "1e300", "9e999", "-9e999", "9223372036854770000", "-9223372036854775808", "1234567890123",
	"x''", "x'00ff'", "x'61'", "''", "CAST(x'ff61' AS TEXT)", "'a'||char(0)||'b'", "'0x10'", "' 12 '", "'1e2'", "40000",
	"hex(zeroblob(700))", "zeroblob(9000)", "replace(hex(zeroblob(3000)),'0','ü')",
}

func (g *Generator) value() string {
	switch g.IntN(10) {
	case 0, 1, 2, 3, 4:
		return fmt.Sprint(g.IntN(16) - 4)
	case 5, 6, 7:
		return pick(g, []string{"'a'", "'A'", "'b'", "'B'", "'ab'", "'aB'", "'ab '", "'1'", "'ä'"})
	}
	return pick(g, oddValues)
}

func (g *Generator) table() Relation { return pick(g, g.Tables) }

func (g *Generator) column(r Relation) string { return sqltext.QuoteName(pick(g, r.Columns)) }

// key is a name for the row that can be compared, or any column.
func (g *Generator) key(r Relation) string {
	if r.RowID == "" || g.IntN(4) == 0 {
		return g.column(r)
	}
	return r.RowID
}

func (g *Generator) where(r Relation) string {
	switch g.IntN(6) {
	case 0:
		return ""
	case 1:
		return " WHERE " + g.column(r) + " = " + g.value()
	case 2:
		return " WHERE " + g.column(r) + " > " + g.value()
	case 3:
		return fmt.Sprintf(" WHERE %s IN (SELECT %s FROM %s ORDER BY 1 LIMIT %d)", g.key(r), g.key(r), sqltext.QuoteName(r.Name), 1+g.IntN(4))
	case 4:
		return " WHERE abs(" + g.key(r) + ") % 2 = " + fmt.Sprint(g.IntN(2))
	}
	return " WHERE " + g.column(r) + " IS NOT NULL"
}

func (g *Generator) or() string {
	return pick(g, []string{"", "", "", "", " OR REPLACE", " OR REPLACE", " OR IGNORE", " OR FAIL", " OR ABORT"})
}

func (g *Generator) insert(r Relation) string {
	names := make([]string, 0, len(r.Columns)+1)
	if r.RowID != "" && !slices.Contains(r.Columns, r.RowID) && g.IntN(3) == 0 {
		names = append(names, r.RowID)
	}
	for _, c := range r.Columns {
		if g.IntN(6) > 0 {
			names = append(names, sqltext.QuoteName(c))
		}
	}
	if len(names) == 0 {
		return "INSERT" + g.or() + " INTO " + sqltext.QuoteName(r.Name) + " DEFAULT VALUES"
	}
	var rows []string
	for range 1 + g.IntN(5) {
		var values []string
		for range names {
			values = append(values, g.value())
		}
		rows = append(rows, "("+strings.Join(values, ",")+")")
	}
	sql := " INTO " + sqltext.QuoteName(r.Name) + "(" + strings.Join(names, ",") + ") VALUES" + strings.Join(rows, ",")
	switch g.IntN(6) {
	case 0:
		return "INSERT" + sql + " ON CONFLICT DO NOTHING RETURNING *"
	case 1:
		c := g.column(r)
		return "INSERT" + sql + " ON CONFLICT DO UPDATE SET " + c + "=" + pick(g, []string{"excluded." + c, c + "+1", g.value()}) + " RETURNING " + c
	}
	return "INSERT" + g.or() + sql
}

func (g *Generator) expression(r Relation, c string) string {
	switch g.IntN(7) {
	case 0:
		return c
	case 1:
		return c + "+1"
	case 2:
		return "-" + c
	case 3:
		return "upper(" + c + ")"
	case 4:
		return g.column(r)
	}
	return g.value()
}

func (g *Generator) update(r Relation) string {
	var sets []string
	if r.RowID != "" && g.IntN(5) == 0 {
		sets = append(sets, r.RowID+"="+pick(g, []string{"-" + r.RowID, r.RowID + "+1", r.RowID + "-1", fmt.Sprint(g.IntN(12)), "100-" + r.RowID}))
	}
	for len(sets) == 0 || g.IntN(3) == 0 {
		c := g.column(r)
		sets = append(sets, c+"="+g.expression(r, c))
	}
	sql := "UPDATE" + g.or() + " " + sqltext.QuoteName(r.Name) + " SET " + strings.Join(sets, ",")
	if g.IntN(6) == 0 {
		s := g.table()
		c := g.column(r)
		return fmt.Sprintf("UPDATE%s %s SET %s=other.%s FROM (SELECT * FROM %s LIMIT 3) AS other WHERE %s.%s IS NOT other.%s", g.or(),
			sqltext.QuoteName(r.Name), c, g.column(s), sqltext.QuoteName(s.Name), sqltext.QuoteName(r.Name), c, g.column(s))
	}
	sql += g.where(r)
	if g.IntN(5) == 0 {
		sql += " RETURNING *"
	}
	return sql
}

// Change makes a statement that changes rows.
func (g *Generator) Change() string {
	switch n := g.IntN(20); {
	case n < 2 && g.fts:
		return pick(g, fullText)
	case n < 3 && g.rtree:
		return fmt.Sprintf(pick(g, spatial), g.IntN(6), g.IntN(9))
	case n == 4:
		return pick(g, sequences)
	case n == 5 && slices.ContainsFunc(g.Tables, func(r Relation) bool { return r.Name == "src" }):
		return fmt.Sprintf("INSERT INTO src_v VALUES(%s, %s)", g.value(), g.value())
	case n < 13:
		return g.insert(g.table())
	case n < 18:
		return g.update(g.table())
	}
	r := g.table()
	return "DELETE FROM " + sqltext.QuoteName(r.Name) + g.where(r)
}

var fullText = []string{
	"INSERT INTO ft VALUES('one two three', 'four'),('two', 'two')", "INSERT INTO ft(rowid, t) VALUES(7, 'seven')",
	"UPDATE ft SET t = t || ' more' WHERE ft MATCH 'two'", "DELETE FROM ft WHERE rowid % 3 = 0", "INSERT INTO ft(ft) VALUES('optimize')",
	"INSERT INTO ft(ft, rank) VALUES('merge', 4)", "INSERT INTO ft(ft, rank) VALUES('pgsz', 64)", "INSERT INTO ft(ft) VALUES('rebuild')",
	"INSERT INTO doc(t) VALUES('alpha beta'),('beta gamma')", "UPDATE doc SET t = t || ' delta' WHERE id % 2", "DELETE FROM doc WHERE id % 3 = 1",
	"INSERT INTO docft(docft) VALUES('rebuild')",
}

var spatial = []string{
	"INSERT OR REPLACE INTO rt VALUES(%[1]d, %[2]d, %[2]d + 1, 'n')", "INSERT INTO rt SELECT value, value, value+%[2]d, 'many' FROM json_each('[1,2,3,40,41,42,43,44,45,46,47]') WHERE value > %[1]d",
	"UPDATE rt SET x2 = x2 + %[2]d, note = 'u' WHERE id > %[1]d", "DELETE FROM rt WHERE id = %[1]d",
}

var sequences = []string{
	"UPDATE sqlite_sequence SET seq = seq + 10", "DELETE FROM sqlite_sequence WHERE name = 'auto'", "INSERT INTO sqlite_sequence VALUES('auto2', 50)",
	"UPDATE sqlite_sequence SET seq = 'x' WHERE name = 'nothing'", "DELETE FROM sqlite_sequence", "INSERT INTO sqlite_sequence VALUES(NULL, NULL),('other', 1.5)",
}

// SchemaChange makes a statement that changes the schema, or tries to.
func (g *Generator) SchemaChange() string {
	r := g.table()
	name := sqltext.QuoteName(r.Name)
	g.made++
	switch g.IntN(18) {
	case 0:
		return fmt.Sprintf("CREATE TABLE made%d(id INTEGER PRIMARY KEY AUTOINCREMENT, a UNIQUE, b DEFAULT 5)", g.made)
	case 1:
		return fmt.Sprintf("CREATE TABLE IF NOT EXISTS main.made%d AS SELECT *, 1 AS one FROM %s", g.IntN(9), name)
	case 2:
		return fmt.Sprintf("CREATE TABLE made%d(a, b, c, PRIMARY KEY(c, a)) WITHOUT ROWID", g.made)
	case 3:
		return "DROP TABLE " + pick(g, []string{name, "IF EXISTS made1", "IF EXISTS ft", "IF EXISTS parent", "IF EXISTS rt"})
	case 4:
		return fmt.Sprintf("ALTER TABLE %s ADD COLUMN added%d %s", name, g.made, pick(g, []string{"", "DEFAULT 7", "REAL DEFAULT 1", "TEXT NOT NULL DEFAULT 'n'", "AS (1+1)"}))
	case 5:
		return fmt.Sprintf("ALTER TABLE %s DROP COLUMN %s", name, g.column(r))
	case 6:
		return fmt.Sprintf("ALTER TABLE %s RENAME COLUMN %s TO renamed%d", name, g.column(r), g.made)
	case 7:
		return fmt.Sprintf("ALTER TABLE %s RENAME TO %s", name, pick(g, []string{fmt.Sprintf("moved%d", g.made), sqltext.QuoteName(strings.ToUpper(r.Name))}))
	case 8:
		return fmt.Sprintf("CREATE INDEX i%d ON %s(%s)", g.made, name, g.column(r))
	case 9:
		return fmt.Sprintf("CREATE UNIQUE INDEX IF NOT EXISTS i%d ON %s(%s) WHERE %s > 3", g.IntN(5), name, g.column(r), g.column(r))
	case 10:
		return fmt.Sprintf("DROP INDEX IF EXISTS i%d", g.IntN(6))
	case 11:
		return fmt.Sprintf("CREATE TRIGGER tr%d AFTER %s ON %s BEGIN UPDATE %s SET %s = %s; END", g.made, pick(g, []string{"INSERT", "DELETE"}), name, name, g.column(r), g.value())
	case 12:
		return fmt.Sprintf("DROP TRIGGER IF EXISTS tr%d", g.IntN(8))
	case 13:
		return "ANALYZE" + pick(g, []string{"", " " + name, " sqlite_schema"})
	case 14:
		return "REINDEX"
	case 15:
		return fmt.Sprintf("CREATE VIRTUAL TABLE IF NOT EXISTS made%d USING fts5(x)", g.IntN(9))
	case 16:
		return pick(g, []string{"ALTER TABLE ft RENAME TO ftx", "ALTER TABLE ftx RENAME TO ft", "ALTER TABLE rt RENAME TO rt2"})
	}
	return fmt.Sprintf("CREATE VIEW view%d AS SELECT * FROM %s", g.made, name)
}

package catalogue

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/pgwire/oid"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/sqltext"
)

// Object ids. Tables, views, indexes and triggers get theirs from their row in
// sqlite_schema; the rest are counted.
const (
	firstObject     = 16384
	firstRowidIndex = 500_000 // the index that an INTEGER PRIMARY KEY has in PostgreSQL
	firstConstraint = 1_000_000
	firstUser       = 10
	firstDatabase   = 5
	schemaCatalog   = 11
	schemaPublic    = 2200
	schemaInfo      = 13000
	amHeap          = 2
	amBTree         = 403
)

// facts are what the relations of one database are made from.
type facts struct {
	database  string
	databases []string
	users     []string
	tables    []*table // in the order of sqlite_schema
}

type table struct {
	oid         uint32
	name        string
	view        bool
	sql         string
	strict      bool
	rowid       bool
	columns     []*tableColumn
	indexes     []*index
	constraints []*constraint
	triggers    []*trigger
}

type tableColumn struct {
	number    int // from 1
	name      string
	declared  string
	typ       uint32
	typmod    int
	notNull   bool
	def       string // default, or what it is generated from
	hasDef    bool
	generated bool
	key       int  // place in the primary key, from 1
	rowid     bool // an INTEGER PRIMARY KEY
}

type index struct {
	oid     uint32
	name    string
	sql     string // "" for one that a constraint has made
	origin  string // c, u or pk
	unique  bool
	partial bool
	columns []indexColumn
}

type indexColumn struct {
	number int // of the table's column; 0 for an expression
	name   string
	desc   bool
}

type constraint struct {
	oid        uint32
	name       string
	kind       string // p, u, f or c
	definition string
	index      uint32
	columns    []int
	table      *table // that a foreign key points to; nil if it does not exist
	refColumns []int
	onUpdate   string
	onDelete   string
}

type trigger struct {
	oid  uint32
	name string
	sql  string
}

// schemaRow is a row of sqlite_schema.
type schemaRow struct {
	id             int64
	kind, name, on string
	sql            string
}

// readSchema reads sqlite_schema, without our own objects and the engine's.
func readSchema(ctx context.Context, s session.Session) ([]schemaRow, error) {
	var out []schemaRow
	err := each(ctx, s, `SELECT rowid, type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema ORDER BY rowid`, func(r []base.Value) {
		row := schemaRow{id: r[0].Int, kind: r[1].AsText(), name: r[2].AsText(), on: r[3].AsText(), sql: r[4].AsText()}
		if !hidden(row.on) && (!hidden(row.name) || row.kind == "index") {
			out = append(out, row)
		}
	})
	return out, err
}

// hidden says whether a table is not the user's.
func hidden(name string) bool {
	n := strings.ToLower(name)
	return strings.HasPrefix(n, "sqlite_") || strings.HasPrefix(n, "_skein_")
}

func each(ctx context.Context, s session.Session, sql string, f func([]base.Value), args ...base.Value) error {
	rows, err := s.Schema(ctx, sql, args)
	if err != nil {
		return err
	}
	for rows.Next() {
		f(rows.Row())
	}
	err = rows.Err()
	if closed := rows.Close(); err == nil {
		err = closed
	}
	return err
}

// fingerprint tells schemas apart, with the users and databases around them.
func fingerprint(rows []schemaRow, lists ...[]string) string {
	h := fnv.New128a()
	for _, r := range rows {
		fmt.Fprintf(h, "%d\x00%s\x00%s\x00%s\x00%s\x01", r.id, r.kind, r.name, r.on, r.sql)
	}
	for _, l := range lists {
		fmt.Fprintf(h, "%q\x02", l)
	}
	return string(h.Sum(nil))
}

// readFacts reads everything about the tables of a schema.
func readFacts(ctx context.Context, s session.Session, f *facts, rows []schemaRow) error {
	shadows := map[string]bool{}
	err := each(ctx, s, `SELECT name, type, wr, strict FROM pragma_table_list WHERE schema = 'main'`, func(r []base.Value) {
		if r[1].AsText() == "shadow" {
			shadows[r[0].AsText()] = true
		}
	})
	if err != nil {
		return err
	}
	byName := map[string]*table{}
	for _, r := range rows {
		if (r.kind == "table" || r.kind == "view") && !shadows[r.name] {
			t := &table{oid: firstObject + uint32(r.id), name: r.name, view: r.kind == "view", sql: r.sql, rowid: true}
			f.tables = append(f.tables, t)
			byName[strings.ToLower(r.name)] = t
		}
	}
	for _, t := range f.tables {
		if err := t.read(ctx, s); err != nil {
			return err
		}
	}
	attach(rows, byName)
	next := uint32(firstConstraint)
	for _, t := range f.tables {
		if err := t.readConstraints(ctx, s, byName, &next); err != nil {
			return err
		}
	}
	return nil
}

// attach gives the indexes' and triggers' rows to their tables.
func attach(rows []schemaRow, tables map[string]*table) {
	for _, r := range rows {
		t := tables[strings.ToLower(r.on)]
		if t == nil {
			continue
		}
		switch r.kind {
		case "trigger":
			t.triggers = append(t.triggers, &trigger{oid: firstObject + uint32(r.id), name: r.name, sql: r.sql})
		case "index":
			for _, i := range t.indexes {
				if i.name == r.name {
					i.oid, i.sql = firstObject+uint32(r.id), r.sql
				}
			}
		}
	}
}

// read reads a table's columns and indexes. A view that no longer compiles has
// no columns.
func (t *table) read(ctx context.Context, s session.Session) error {
	name := base.TextValue(t.name)
	err := each(ctx, s, `SELECT cid, name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?1)`, func(r []base.Value) {
		if r[6].Int == 1 {
			return // a hidden column of a virtual table
		}
		c := &tableColumn{
			number: int(r[0].Int) + 1, name: r[1].AsText(), declared: r[2].AsText(), notNull: r[3].Int != 0,
			def: r[4].AsText(), hasDef: r[4].Kind != base.Null, key: int(r[5].Int), generated: r[6].Int > 1,
		}
		c.typ, c.typmod = listedType(c.declared)
		t.columns = append(t.columns, c)
	}, name)
	if t.view {
		return nil
	}
	if err != nil {
		return err
	}
	t.options()
	t.generated()
	err = each(ctx, s, `SELECT l.name, l."unique", l.origin, l.partial, i.cid, i.name, i."desc" FROM pragma_index_list(?1) AS l, pragma_index_xinfo(l.name) AS i
		WHERE i.key ORDER BY l.seq DESC, i.seqno`, t.addIndexColumn, name)
	return err
}

func (t *table) addIndexColumn(r []base.Value) {
	var i *index
	if n := len(t.indexes); n > 0 && t.indexes[n-1].name == r[0].AsText() {
		i = t.indexes[n-1]
	} else {
		i = &index{name: r[0].AsText(), unique: r[1].Int != 0, origin: r[2].AsText(), partial: r[3].Int != 0}
		t.indexes = append(t.indexes, i)
	}
	c := indexColumn{number: int(r[4].Int) + 1, name: r[5].AsText(), desc: r[6].Int != 0}
	if r[4].Int < 0 {
		c.number = 0
	}
	i.columns = append(i.columns, c)
}

// options reads what stands behind the columns of a CREATE TABLE, and finds an
// INTEGER PRIMARY KEY.
func (t *table) options() {
	body := newBody(t.sql)
	t.strict, t.rowid = body.option("STRICT"), !body.option("WITHOUT")
	var key []*tableColumn
	for _, c := range t.columns {
		if c.key > 0 {
			key = append(key, c)
		}
		c.notNull = c.notNull || c.key > 0 && !t.rowid
	}
	if t.rowid && len(key) == 1 && strings.EqualFold(key[0].declared, "INTEGER") {
		key[0].rowid, key[0].notNull = true, true
	}
}

// generated finds the expressions of generated columns in the table's text.
func (t *table) generated() {
	body := newBody(t.sql)
	for _, c := range t.columns {
		if c.generated {
			c.def, c.hasDef = body.generated(c.name), true
		}
	}
}

func (t *table) column(name string) *tableColumn {
	for _, c := range t.columns {
		if strings.EqualFold(c.name, name) {
			return c
		}
	}
	return nil
}

// listedType is the type of a column in pg_attribute, with its modifier. It is
// the type on the wire, but for lengths, which only people look at.
func listedType(declared string) (typ uint32, typmod int) {
	typ = oid.Declared(declared)
	d := strings.ToUpper(declared)
	arguments := typeArguments(d)
	switch {
	case typ == 0:
		return anyType, -1
	case typ == oid.Text && len(arguments) == 1 && strings.Contains(d, "VAR"):
		return oid.Varchar, arguments[0] + 4
	case typ == oid.Text && len(arguments) == 1 && strings.HasPrefix(d, "CHAR"):
		return oid.BPChar, arguments[0] + 4
	case typ == oid.Numeric && len(arguments) == 2:
		return typ, arguments[0]<<16 + arguments[1] + 4
	case typ == oid.Numeric && len(arguments) == 1:
		return typ, arguments[0]<<16 + 4
	}
	return typ, -1
}

func typeArguments(declared string) []int {
	_, rest, ok := strings.Cut(declared, "(")
	rest, _, closed := strings.Cut(rest, ")")
	if !ok || !closed {
		return nil
	}
	var out []int
	for part := range strings.SplitSeq(rest, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil || n < 0 || n > 10_000_000 {
			return nil
		}
		out = append(out, n)
	}
	return out
}

// identify gives an id to the primary key of a table WITHOUT ROWID, which has
// no row in sqlite_schema.
func (t *table) identify() {
	for _, i := range t.indexes {
		if i.oid == 0 {
			i.oid = firstRowidIndex + t.oid - firstObject
		}
	}
}

// readConstraints makes primary keys, unique, foreign keys and checks.
func (t *table) readConstraints(ctx context.Context, s session.Session, tables map[string]*table, next *uint32) error {
	add := func(c *constraint) {
		c.oid = *next
		*next++
		t.constraints = append(t.constraints, c)
	}
	t.rowidKey()
	t.identify()
	for _, i := range t.indexes {
		if i.origin == "c" {
			continue
		}
		c := &constraint{kind: "u", index: i.oid}
		var names []string
		for _, col := range i.columns {
			c.columns = append(c.columns, col.number)
			names = append(names, col.name)
		}
		c.name, c.definition = t.name+"_"+strings.Join(names, "_")+"_key", "UNIQUE ("+nameList(names)+")"
		if i.origin == "pk" {
			c.kind, c.name, c.definition = "p", t.name+"_pkey", "PRIMARY KEY ("+nameList(names)+")"
		}
		i.name = c.name
		add(c)
	}
	if t.view {
		return nil
	}
	if err := t.foreignKeys(ctx, s, tables, add); err != nil {
		return err
	}
	for n, check := range newBody(t.sql).checks() {
		c := &constraint{kind: "c", name: check.name, definition: "CHECK " + check.text}
		if c.name == "" {
			c.name = t.name + "_check" + strings.TrimPrefix(strconv.Itoa(n), "0")
		}
		add(c)
	}
	return nil
}

// rowidKey makes the index that an INTEGER PRIMARY KEY would have.
func (t *table) rowidKey() {
	for _, c := range t.columns {
		if c.rowid {
			i := &index{oid: firstRowidIndex + t.oid - firstObject, name: t.name + "_pkey", origin: "pk", unique: true,
				columns: []indexColumn{{number: c.number, name: c.name}}}
			t.indexes = append([]*index{i}, t.indexes...)
		}
	}
}

func (t *table) foreignKeys(ctx context.Context, s session.Session, tables map[string]*table, add func(*constraint)) error {
	var keys []*constraint
	var from, to [][]string
	var targets []string
	last := int64(-1)
	err := each(ctx, s, `SELECT id, "table", "from", "to", on_update, on_delete FROM pragma_foreign_key_list(?1) ORDER BY id DESC, seq`, func(r []base.Value) {
		if r[0].Int != last {
			last = r[0].Int
			keys = append(keys, &constraint{kind: "f", onUpdate: r[4].AsText(), onDelete: r[5].AsText(), table: tables[strings.ToLower(r[1].AsText())]})
			from, to, targets = append(from, nil), append(to, nil), append(targets, r[1].AsText())
		}
		n := len(keys) - 1
		from[n] = append(from[n], r[2].AsText())
		if r[3].Kind != base.Null {
			to[n] = append(to[n], r[3].AsText())
		}
	}, base.TextValue(t.name))
	for n, c := range keys {
		c.finish(t, targets[n], from[n], to[n])
		add(c)
	}
	return err
}

// finish names a foreign key and writes its definition. Without columns it
// points to the primary key.
func (c *constraint) finish(t *table, target string, from, to []string) {
	if c.table != nil {
		if len(to) == 0 {
			to = c.table.keyNames()
		}
		for _, name := range to {
			if col := c.table.column(name); col != nil {
				c.refColumns = append(c.refColumns, col.number)
			}
		}
		c.index = c.table.indexOn(to)
	}
	for _, name := range from {
		if col := t.column(name); col != nil {
			c.columns = append(c.columns, col.number)
		}
	}
	c.name = t.name + "_" + strings.Join(from, "_") + "_fkey"
	c.definition = "FOREIGN KEY (" + nameList(from) + ") REFERENCES " + quoteIdent(target) + "(" + nameList(to) + ")"
	if c.onUpdate != "NO ACTION" {
		c.definition += " ON UPDATE " + c.onUpdate
	}
	if c.onDelete != "NO ACTION" {
		c.definition += " ON DELETE " + c.onDelete
	}
}

func (t *table) keyNames() []string {
	var key []*tableColumn
	for _, c := range t.columns {
		if c.key > 0 {
			key = append(key, c)
		}
	}
	slices.SortFunc(key, func(a, b *tableColumn) int { return a.key - b.key })
	var names []string
	for _, c := range key {
		names = append(names, c.name)
	}
	return names
}

// indexOn returns the unique index on these columns, 0 if there is none.
func (t *table) indexOn(names []string) uint32 {
	for _, i := range t.indexes {
		var have []string
		for _, c := range i.columns {
			have = append(have, c.name)
		}
		if i.unique && slices.EqualFunc(have, names, strings.EqualFold) {
			return i.oid
		}
	}
	return 0
}

// definition writes an index as pg_get_indexdef does.
func (i *index) definition(t *table) string {
	create := "CREATE INDEX "
	if i.unique {
		create = "CREATE UNIQUE INDEX "
	}
	create += quoteIdent(i.name) + " ON public." + quoteIdent(t.name) + " USING btree "
	if i.sql != "" {
		return create + indexTail(i.sql)
	}
	var names []string
	for _, c := range i.columns {
		names = append(names, c.name)
	}
	return create + "(" + nameList(names) + ")"
}

// indexTail returns the columns and the WHERE of a CREATE INDEX.
func indexTail(sql string) string {
	s := sqltext.Scanner{SQL: sql}
	for {
		t, ok := s.Next()
		if !ok {
			return ""
		}
		if t.Op(sql, "(") {
			return squeeze(sql[t.Start:])
		}
	}
}

// predicate returns the WHERE of a partial index.
func (i *index) predicate() string {
	s := sqltext.Scanner{SQL: i.sql}
	for {
		t, ok := s.Next()
		switch {
		case !ok:
			return ""
		case t.Op(i.sql, "("):
			sqltext.SkipParens(&s)
		case t.Is(i.sql, "WHERE"):
			return squeeze(i.sql[t.End:])
		}
	}
}

// squeeze puts sql on one line, outside strings and names.
func squeeze(sql string) string {
	var b strings.Builder
	for at := 0; at < len(sql); {
		t := sqltext.Scan(sql, at)
		at = t.End
		switch {
		case t.Kind > sqltext.Comment:
			b.WriteString(t.Text(sql))
		case b.Len() > 0 && !strings.HasSuffix(b.String(), " "):
			b.WriteByte(' ')
		}
	}
	return strings.TrimSpace(b.String())
}

func nameList(names []string) string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = quoteIdent(n)
	}
	return strings.Join(out, ", ")
}

// quoteIdent quotes a name where PostgreSQL would have to.
func quoteIdent(name string) string {
	for i := range len(name) {
		c := name[i]
		if c != '_' && (c < 'a' || c > 'z') && (i == 0 || c < '0' || c > '9') {
			return sqltext.QuoteName(name)
		}
	}
	if name == "" {
		return `""`
	}
	return name
}

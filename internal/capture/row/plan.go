package row

import (
	"strconv"
	"strings"

	"github.com/skeindb/skein/internal/rowformat"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/sqltext"
)

// maxStatements bounds the statements that an Applier keeps compiled.
const maxStatements = 512

// plan is a table with the statements that change its rows. A statement's
// conflict clause is ABORT, which overrides what the table's own constraints
// say: a conflict means that the copies differ.
type plan struct {
	*table
	definition     rowformat.Table
	insert, remove *sqlite.Stmt
	updates        map[string]*sqlite.Stmt // by kind and changed columns
	key            []byte                  // scratch
}

// where appends the comparisons that find one row, with parameters from n on.
func (t *table) where(b *strings.Builder, n int) {
	b.WriteString(" WHERE ")
	if t.rowid != "" {
		b.WriteString(t.rowid + "=?" + strconv.Itoa(n))
		return
	}
	for i, k := range t.terms {
		if i > 0 {
			b.WriteString(" AND ")
		}
		b.WriteString(sqltext.QuoteName(t.columns[k.value].name) + "=?" + strconv.Itoa(n+i) +
			" COLLATE " + sqltext.QuoteName(k.collation))
	}
}

func (t *table) insertSQL() string {
	var names []string
	if t.rowid != "" {
		names = append(names, t.rowid)
	}
	for _, c := range t.columns {
		names = append(names, sqltext.QuoteName(c.name))
	}
	marks := strings.Repeat(",?", len(names))[1:]
	return "INSERT OR ABORT INTO " + t.quoted() + "(" + strings.Join(names, ",") + ") VALUES(" + marks + ")"
}

func (t *table) deleteSQL() string {
	var b strings.Builder
	b.WriteString("DELETE FROM " + t.quoted())
	t.where(&b, 1)
	return b.String()
}

// updateSQL sets the changed columns, then the rowid if it moves; the key's
// parameters come last.
func (t *table) updateSQL(rec *rowformat.Record) string {
	var b strings.Builder
	n := 0
	set := func(name string) {
		if n++; n > 1 {
			b.WriteString(",")
		}
		b.WriteString(name + "=?" + strconv.Itoa(n))
	}
	b.WriteString("UPDATE OR ABORT " + t.quoted() + " SET ")
	for i, c := range t.columns {
		if rec.ColumnChanged(i) {
			set(sqltext.QuoteName(c.name))
		}
	}
	if rec.Kind == rowformat.Move {
		set(t.rowid)
	}
	t.where(&b, n+1)
	return b.String()
}

// statement returns *slot, compiling it first when there is none.
func (a *Applier) statement(slot **sqlite.Stmt, sql func() string) (*sqlite.Stmt, error) {
	if *slot != nil {
		return *slot, nil
	}
	stmt, err := a.conn.PrepareOwn(sql())
	if err != nil {
		return nil, err
	}
	a.compiled++
	*slot = stmt
	return stmt, nil
}

func (a *Applier) updateStatement(p *plan, rec *rowformat.Record) (*sqlite.Stmt, error) {
	p.key = append(append(p.key[:0], byte(rec.Kind)), rec.Changed...)
	if stmt := p.updates[string(p.key)]; stmt != nil {
		return stmt, nil
	}
	var stmt *sqlite.Stmt
	_, err := a.statement(&stmt, func() string { return p.updateSQL(rec) })
	if err == nil {
		p.updates[string(p.key)] = stmt
	}
	return stmt, err
}

// forget gives every statement back and drops what is known of tables.
func (a *Applier) forget() {
	for _, p := range a.plans {
		p.insert.Close()
		p.remove.Close()
		for _, s := range p.updates {
			s.Close()
		}
	}
	clear(a.plans)
	a.compiled = 0
}

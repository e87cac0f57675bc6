package trigger

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/choice"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/sqltext"
)

// chosen is a table with triggers that say what is sent of it.
type chosen struct {
	declared
	takesBack bool // it has a delete trigger
	all       bool // whole rows, all of them: as the triggers are made
}

// choicesOf reads the triggers that say what is sent out of a schema.
func choicesOf(objects []row.Object, keyOf func(table string) []string) map[string]*chosen {
	list := make(map[string]*chosen)
	made := make(map[string]int)
	for _, o := range objects {
		if o.Kind != "trigger" || !choice.IsName(o.Name, o.Table) {
			continue
		}
		c := list[o.Table]
		if c == nil {
			c = &chosen{declared: declared{name: o.Table}}
			list[o.Table] = c
		}
		c.triggers = append(c.triggers, o.SQL)
		c.takesBack = c.takesBack || strings.EqualFold(o.Name, choice.TriggerName(o.Table, "delete"))
		plain := choice.Choice{Table: o.Table, Key: keyOf(o.Table)}
		if slices.Contains(plain.Triggers(), choice.Trigger{Name: o.Name, SQL: o.SQL}) {
			made[o.Table]++
		}
	}
	for _, o := range objects {
		if c := list[o.Name]; c != nil && o.Kind == "table" {
			c.sql, c.all = o.SQL, made[o.Name] == len(choice.Events)
		}
	}
	return list
}

// refresh reads again what depends on the schema.
func (r *Recorder) refresh() (err error) {
	if r.schemas == r.SchemasRead() {
		return nil
	}
	r.dropSandbox()
	if r.ordinary, err = ordinaryTables(r.conn); err != nil {
		return err
	}
	r.choices = choicesOf(r.Objects(), r.KeyNames)
	r.schemas = r.SchemasRead()
	return nil
}

// ordinaryTables lists the tables that can have triggers: no virtual ones, nor
// the shadow tables below them.
func ordinaryTables(conn *sqlite.Conn) (names []string, err error) {
	rows := conn.QueryOwn(`SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'
		AND name NOT LIKE 'sqlite\_%' ESCAPE '\' AND name NOT LIKE '\_skein\_%' ESCAPE '\' ORDER BY name`)
	for row, err := range rows {
		if err != nil {
			return nil, err
		}
		names = append(names, string(row.Column(0).Bytes))
	}
	return names, nil
}

// NeedsSetUp says that the triggers have not been made yet in this database.
func (r *Recorder) NeedsSetUp() bool { return !isSetUp(r.Objects()) }

// SetUp makes the triggers for every table that has none, in the transaction
// that is open, which becomes an entry of its own.
func (r *Recorder) SetUp() error {
	if err := r.refresh(); err != nil {
		return err
	}
	for _, table := range r.ordinary {
		if r.choices[table] == nil {
			if err := r.makeTriggers(table); err != nil {
				return err
			}
		}
	}
	return r.define(choice.ViewSQL)
}

func isSetUp(objects []row.Object) bool {
	return slices.ContainsFunc(objects, func(o row.Object) bool { return o.Kind == "view" && strings.EqualFold(o.Name, choice.View) })
}

func (r *Recorder) makeTriggers(table string) error {
	c := choice.Choice{Table: table, Key: r.KeyNames(table)}
	if err := c.Check(); err != nil {
		return err
	}
	for _, t := range c.Triggers() {
		if err := r.define(t.SQL); err != nil {
			return err
		}
	}
	return nil
}

// define runs a schema statement of ours and records it.
func (r *Recorder) define(sql string) error {
	st, err := r.conn.PrepareOwn(sql)
	if err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	defer st.Close()
	if err := st.Run(); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return r.Recorder.Statement(st.Info(), sql)
}

// Statement is called after each statement that ran well, as
// row.Recorder.Statement is: a new table gets its triggers, and those of a
// table that has another name now are made anew.
func (r *Recorder) Statement(info sqlite.Info, sql string) error {
	if err := r.Recorder.Statement(info, sql); err != nil {
		return err
	}
	if info.Kind != session.Schema || info.Tag != "CREATE TABLE" && info.Tag != "ALTER TABLE" || r.schemas == r.SchemasRead() {
		return nil
	}
	before := r.ordinary
	if err := r.refresh(); err != nil {
		return err
	}
	if !isSetUp(r.Objects()) {
		return nil
	}
	come, gone := missing(r.ordinary, before), missing(before, r.ordinary)
	if len(come) != 1 {
		return nil
	}
	if info.Tag == "ALTER TABLE" && len(gone) == 1 {
		return r.rename(gone[0], come[0])
	}
	if info.Tag == "CREATE TABLE" {
		return errors.Join(r.makeTriggers(come[0]), r.sendAll(come[0]))
	}
	return nil
}

// sendAll sends the rows that CREATE TABLE AS has put into a table before it had
// triggers.
func (r *Recorder) sendAll(table string) error {
	args := []string{"'insert'", sqltext.QuoteString(table)}
	for _, k := range r.KeyNames(table) {
		args = append(args, sqltext.QuoteName(k))
	}
	return r.conn.RunOwn("SELECT " + sqlite.EmitFunction + "(" + strings.Join(args, ", ") + ") FROM main." + sqltext.QuoteName(table))
}

// missing lists what is in a and not in b.
func missing(a, b []string) (list []string) {
	for _, s := range a {
		if !slices.Contains(b, s) {
			list = append(list, s)
		}
	}
	return list
}

// rename makes the triggers of a table anew that has another name now.
func (r *Recorder) rename(from, to string) error {
	for _, o := range r.Objects() {
		if o.Kind != "trigger" || o.Table != to || !choice.IsName(o.Name, from) {
			continue
		}
		if err := r.define("DROP TRIGGER " + sqltext.QuoteName(o.Name)); err != nil {
			return err
		}
		if err := r.define(choice.Renamed(o.SQL, from, to)); err != nil {
			return err
		}
	}
	return nil
}

package pgwire

import (
	"bytes"
	"strings"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/pgwire/oid"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/sqltext"
)

// outcome is a statement that runs or has run.
type outcome struct {
	columns []column     // nil where they are known already
	rows    session.Rows // nil where there are none
	tag     string       // "" where the rows' result tells it
	held    bool         // the rows are open at the session
	count   int64        // of a COPY or MOVE
	from    *portal      // the cursor that a FETCH reads
}

// prepareOne prepares the one statement that a Parse message may hold.
func (c *conn) prepareOne(sql string, types []uint32) (*statement, error) {
	first, rest := sqltext.First(sql)
	if !sqltext.Blank(rest) {
		return nil, pgError("42601", "cannot insert multiple commands into a prepared statement")
	}
	return c.prepare(first, types)
}

// run carries out one statement.
func (c *conn) run(st *statement, args []base.Value) (outcome, error) {
	out := outcome{tag: st.tag}
	var err error
	switch st.kind {
	case kindEngine, kindRollbackTo, kindSavepoint:
		return c.runEngine(st, args)
	case kindFetch:
		return c.fetch(st)
	case kindCatalogue:
		return c.runCatalogue(st.sql, args)
	case kindBegin:
		err = c.begin(st)
	case kindCommit:
		out.tag, err = c.commit()
	case kindRollback:
		err = c.rollback()
	case kindSetting:
		err = c.applySetting(st.setting)
	case kindShow:
		out.rows, err = c.runShow(st.setting.Name)
		out.columns = st.columns
	case kindConfig:
		out.rows, err = c.runConfig(st.config, args)
		out.columns = st.config.columns()
	case kindDiscard:
		err = c.discard(st.name)
	case kindDeallocate:
		err = c.deallocate(st)
	case kindCopy:
		out.tag = "COPY"
		out.count, err = c.runCopy(st.copy)
	case kindDeclare:
		err = c.declare(st.cursor, args)
	case kindMove:
		out.count, err = c.move(st.cursor)
	case kindClose:
		err = c.closeCursor(st.cursor.name)
	case kindCloseAll:
		c.closePortals()
	case kindIgnore, kindEmpty:
	}
	return out, err
}

func (c *conn) runEngine(st *statement, args []base.Value) (outcome, error) {
	if err := c.park(); err != nil {
		return outcome{}, err
	}
	rows, err := c.sess.Query(c.ctx, st.sql, args)
	if err != nil {
		return outcome{}, err
	}
	out := outcome{rows: rows, held: true}
	if st.desc == nil {
		out.columns = engineColumns(st.sql, rows.Columns())
	}
	if st.kind == kindRollbackTo && c.block == blockFailed {
		c.block = blockOpen
	}
	if st.kind != kindEngine {
		c.keepBook(st.sql)
	}
	return out, nil
}

// query serves a simple query: any number of statements, as one transaction
// unless they say otherwise.
func (c *conn) query(body []byte) error {
	end := bytes.IndexByte(body, 0)
	if end < 0 || end != len(body)-1 {
		return malformed("Query")
	}
	c.unnamed = nil
	c.closePortal(&c.unnamedP)
	err := c.script(string(body[:end]))
	if c.out.err != nil {
		return c.out.err
	}
	if err != nil {
		if endsConnection(err) {
			return err
		}
		c.failStatement(err)
	}
	c.ready()
	return nil
}

func (c *conn) script(sql string) error {
	if sqltext.Blank(sql) {
		c.out.empty('I')
		return nil
	}
	for sql != "" {
		var one string
		one, sql = sqltext.First(sql)
		if sqltext.Blank(sql) {
			sql = ""
		}
		if sqltext.Blank(one) {
			continue
		}
		if err := c.simple(one, sql != ""); err != nil {
			return err
		}
	}
	return c.endImplicit()
}

// simple runs one statement of a simple query; more says that others follow.
func (c *conn) simple(sql string, more bool) error {
	st, err := classify(sql)
	if err != nil {
		return err
	}
	if st.kind == kindEngine && (c.readOnly || c.readOnlyByDefault()) {
		if st.desc, err = c.sess.Describe(c.ctx, st.sql); err != nil {
			return err
		}
		st.columns = engineColumns(st.sql, st.desc.Columns)
	}
	if err := c.mayRun(st); err != nil {
		return err
	}
	if more && st.joins() {
		if err := c.beginImplicit(); err != nil {
			return err
		}
	}
	p := portal{open: true, st: st, columns: st.columns}
	return c.simplePortal(&p)
}

func (c *conn) simplePortal(p *portal) error {
	if err := c.start(p); err != nil {
		return err
	}
	if p.rows != nil && len(p.columns) > 0 {
		p.typeByFirstRow()
		if p.st.kind == kindFetch {
			p.formats = c.binaryCursor(p.st.cursor.name)
		}
		c.out.rowDescription(p.columns, p.formats)
	}
	if _, err := c.sendRows(p, 0); err != nil {
		return err
	}
	return c.finish(p)
}

func (c *conn) runShow(name string) (session.Rows, error) {
	if name != "all" {
		v, err := c.show(c.ctx, name)
		return textRows([]string{v}), err
	}
	var rows [][]string
	for _, k := range knownSettings {
		v, err := c.show(c.ctx, strings.ToLower(k.name))
		if err != nil {
			return nil, err
		}
		rows = append(rows, []string{k.name, v, ""})
	}
	for _, name := range skeinSettings {
		if v, err := c.sess.Show(c.ctx, name); err == nil {
			rows = append(rows, []string{name, v, ""})
		}
	}
	return textRows(rows...), nil
}

// skeinSettings are those of the session that SHOW ALL lists.
var skeinSettings = []string{
	"skein.token", "skein.read", "skein.replica", "skein.durability", "skein.operation", "skein.outcome", "skein.reached", "skein.last_read", "skein.leader", "skein.node", "skein.statement_timeout",
}

func textRows(rows ...[]string) *memoryRows {
	m := &memoryRows{}
	for _, r := range rows {
		var values []base.Value
		for _, s := range r {
			values = append(values, base.TextValue(s))
		}
		m.values = append(m.values, values)
	}
	return m
}

// discard forgets what a connection has gathered.
func (c *conn) discard(what string) error {
	if what != "ALL" {
		return nil
	}
	if c.block != blockNone || c.implicit {
		return pgError("25001", "DISCARD ALL cannot run inside a transaction block")
	}
	c.closePortals()
	clear(c.statements)
	c.unnamed = nil
	return c.resetSettings()
}

func (c *conn) deallocate(st *statement) error {
	if st.name == "" {
		clear(c.statements)
		return nil
	}
	if _, ok := c.statements[st.name]; !ok {
		return pgError("26000", "prepared statement %q does not exist", st.name)
	}
	delete(c.statements, st.name)
	return nil
}

// configCall is SELECT set_config(name, value, local) or
// current_setting(name [, missing_ok]), which drivers send in place of SET.
type configCall struct {
	set   bool
	alias string
	args  []configArg
}

// configArg is a literal, or a parameter's number.
type configArg struct {
	text  string
	param int
}

func (call *configCall) params() int {
	n := 0
	for _, a := range call.args {
		n = max(n, a.param)
	}
	return n
}

func (call *configCall) columns() []column { return []column{{call.alias, oid.Text}} }

// parseConfigCall returns nil for every other statement.
func parseConfigCall(sql string) *configCall {
	s := sqltext.Scanner{SQL: sql}
	s.Next()
	if s.Word("pg_catalog") {
		s.Op(".")
	}
	call := &configCall{set: s.Word("set_config"), alias: "set_config"}
	if !call.set {
		if !s.Word("current_setting") {
			return nil
		}
		call.alias = "current_setting"
	}
	if !s.Op("(") {
		return nil
	}
	for {
		arg, ok := parseConfigArg(&s)
		if !ok {
			return nil
		}
		call.args = append(call.args, arg)
		if s.Op(")") {
			break
		}
		if !s.Op(",") {
			return nil
		}
	}
	if s.Word("AS") {
		t, _ := s.Next()
		call.alias = sqltext.Unquote(t.Text(sql))
	}
	if !s.End() || call.set && len(call.args) != 3 || !call.set && len(call.args) > 2 {
		return nil
	}
	return call
}

func parseConfigArg(s *sqltext.Scanner) (configArg, bool) {
	t, ok := s.Next()
	if !ok {
		return configArg{}, false
	}
	text := t.Text(s.SQL)
	switch t.Kind {
	case sqltext.Param:
		n := sqltext.Dollar(text)
		return configArg{param: n}, n > 0
	case sqltext.String, sqltext.Word, sqltext.Number:
		return configArg{text: sqltext.Unquote(text)}, true
	}
	return configArg{}, false
}

func (c *conn) runConfig(call *configCall, args []base.Value) (session.Rows, error) {
	texts := make([]string, len(call.args))
	for i, a := range call.args {
		texts[i] = a.text
		if a.param > 0 && a.param <= len(args) {
			texts[i] = string(appendText(nil, args[a.param-1], oid.Bool))
		}
	}
	name := strings.ToLower(texts[0])
	if call.set {
		local, err := parseBool(texts[2])
		if err != nil {
			return nil, err
		}
		set := sqltext.Setting{Verb: sqltext.VerbSet, Name: name, Value: texts[1], Local: local}
		if err := c.applySetting(set); err != nil {
			return nil, err
		}
	}
	v, err := c.show(c.ctx, name)
	if err != nil && !call.set && len(texts) == 2 && base.AsError(err).State() == "42704" {
		return &memoryRows{values: [][]base.Value{{{}}}}, nil
	}
	return textRows([]string{v}), err
}

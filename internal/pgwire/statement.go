package pgwire

import (
	"strings"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/pgwire/catalogue"
	"github.com/skeindb/skein/internal/pgwire/oid"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/sqltext"
)

// kind says who carries a statement out.
type kind uint8

const (
	kindEngine     kind = iota // the session
	kindCatalogue              // package catalogue
	kindBegin                  // BEGIN, START TRANSACTION
	kindCommit                 // COMMIT, END
	kindRollback               // ROLLBACK, ABORT
	kindRollbackTo             // ROLLBACK TO: the session, also in a failed block
	kindSetting                // SET, RESET
	kindShow                   // SHOW
	kindConfig                 // SELECT set_config(...), current_setting(...)
	kindDiscard                // DISCARD
	kindDeallocate             // DEALLOCATE
	kindCopy                   // COPY
	kindSavepoint              // SAVEPOINT, RELEASE: the session
	kindDeclare                // DECLARE
	kindFetch                  // FETCH
	kindMove                   // MOVE
	kindClose                  // CLOSE
	kindCloseAll               // CLOSE ALL
	kindIgnore                 // accepted without effect
	kindEmpty                  // no statement
)

// statement is one statement, prepared or about to run. It does not change
// once it is made, but for what is found when first needed.
type statement struct {
	kind     kind
	sql      string // as the session takes it
	tag      string // of what the front end carries out itself
	desc     *session.Description
	columns  []column
	params   []uint32 // types, 0 where neither client nor schema says
	booleans []bool   // parameters that meet a BOOLEAN column; found when first needed
	setting  sqltext.Setting
	config   *configCall
	copy     *copyCommand
	cursor   *cursorCommand
	name     string // DEALLOCATE, DISCARD
	readOnly bool   // BEGIN READ ONLY
}

// endsBlock says whether a failed transaction block still takes st.
func (st *statement) endsBlock() bool {
	switch st.kind {
	case kindCommit, kindRollback, kindRollbackTo, kindEmpty:
		return true
	}
	return false
}

// writes says whether st changes rows or schema.
func (st *statement) writes() bool {
	return st.desc != nil && (st.desc.Kind == session.Write || st.desc.Kind == session.Schema)
}

// joins says whether st opens the transaction of several statements that the
// client sent as one.
func (st *statement) joins() bool {
	switch st.kind {
	case kindEngine, kindCopy, kindSavepoint, kindDeclare:
		return true
	}
	return false
}

// classify recognises what one statement is. It does not look at the database.
func classify(sql string) (*statement, error) {
	if sqltext.Blank(sql) {
		return &statement{kind: kindEmpty}, nil
	}
	switch word := sqltext.Keyword(sql); word {
	case "UPDATE", "INSERT", "DELETE", "REPLACE":
		return engine(sql), nil
	case "SELECT", "WITH", "VALUES", "":
		return classifyQuery(sql)
	case "BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT":
		return classifyTransaction(word, sql)
	case "SET", "SHOW", "RESET":
		return classifySetting(word, sql)
	case "COPY":
		command, err := parseCopy(sql)
		return &statement{kind: kindCopy, copy: command}, err
	case "TABLE":
		return classifyTable(sql)
	default:
		return classifyOther(word, sql)
	}
}

func engine(sql string) *statement {
	sql, _ = sqltext.NumberParams(sql)
	return &statement{kind: kindEngine, sql: sql}
}

func classifyQuery(sql string) (*statement, error) {
	if call := parseConfigCall(sql); call != nil {
		return &statement{kind: kindConfig, config: call, tag: "SELECT"}, nil
	}
	if catalogue.Wants(sql) {
		return &statement{kind: kindCatalogue, sql: sql, tag: "SELECT"}, nil
	}
	return engine(sql), nil
}

// classifyTable reads PostgreSQL's TABLE name.
func classifyTable(sql string) (*statement, error) {
	s := sqltext.Scanner{SQL: sql}
	s.Word("TABLE")
	return classifyQuery("SELECT * FROM " + sql[s.At:])
}

// classifyTransaction turns PostgreSQL's forms into those of SQLite.
func classifyTransaction(word, sql string) (*statement, error) {
	s := sqltext.Scanner{SQL: sql}
	s.Next()
	if word == "START" && !s.Word("TRANSACTION") {
		return engine(sql), nil
	}
	switch word {
	case "BEGIN", "START":
		return classifyBegin(s)
	case "COMMIT", "END":
		return classifyEnd(s, kindCommit, "COMMIT")
	}
	before := s
	if !s.Word("WORK") {
		s.Word("TRANSACTION")
	}
	if s.Word("TO") {
		return &statement{kind: kindRollbackTo, sql: sql, tag: "ROLLBACK"}, nil
	}
	return classifyEnd(before, kindRollback, "ROLLBACK")
}

func classifyBegin(s sqltext.Scanner) (*statement, error) {
	st := &statement{kind: kindBegin, sql: "BEGIN", tag: "BEGIN"}
	for _, how := range []string{"DEFERRED", "IMMEDIATE", "EXCLUSIVE"} {
		if s.Word(how) {
			st.sql = "BEGIN " + how
		}
	}
	if !s.Word("WORK") {
		s.Word("TRANSACTION")
	}
	st.readOnly, _ = readOnlyMode(s.SQL[s.At:])
	for !s.End() {
		t, _ := s.Next()
		if !t.Op(s.SQL, ",") && !isMode(t.Text(s.SQL)) {
			return nil, pgError("42601", "syntax error at or near %q", t.Text(s.SQL))
		}
	}
	return st, nil
}

// isMode says whether a word can be part of a transaction's modes.
func isMode(word string) bool {
	switch strings.ToUpper(word) {
	case "ISOLATION", "LEVEL", "SERIALIZABLE", "REPEATABLE", "READ", "COMMITTED", "UNCOMMITTED", "WRITE", "ONLY", "NOT", "DEFERRABLE":
		return true
	}
	return false
}

func classifyEnd(s sqltext.Scanner, k kind, tag string) (*statement, error) {
	if s.Word("PREPARED") {
		return nil, unsupported("two-phase commit is not supported", "")
	}
	if !s.Word("WORK") {
		s.Word("TRANSACTION")
	}
	if s.Word("AND") {
		if !s.Word("NO") {
			return nil, unsupported("AND CHAIN is not supported", "send BEGIN after it")
		}
		s.Word("CHAIN")
	}
	if !s.End() {
		t, _ := s.Next()
		return nil, pgError("42601", "syntax error at or near %q", t.Text(s.SQL))
	}
	return &statement{kind: k, tag: tag}, nil
}

func classifySetting(word, sql string) (*statement, error) {
	set, ok := sqltext.ParseSetting(sql)
	if !ok {
		s := sqltext.Scanner{SQL: sql}
		s.Next()
		if s.Word("CONSTRAINTS") {
			return &statement{kind: kindIgnore, tag: "SET CONSTRAINTS"}, nil
		}
		return nil, pgError("42601", "syntax error in %s", word).WithHint("write SET name TO value, SHOW name or RESET name")
	}
	if set.Verb == sqltext.VerbShow {
		return &statement{kind: kindShow, setting: set, tag: "SHOW", columns: showColumns(set.Name)}, nil
	}
	return &statement{kind: kindSetting, setting: set, tag: word}, nil
}

// classifyOther knows what PostgreSQL's clients send and SQLite has no word for.
func classifyOther(word, sql string) (*statement, error) {
	s := sqltext.Scanner{SQL: sql}
	s.Next()
	switch word {
	case "DISCARD":
		t, _ := s.Next()
		what := strings.ToUpper(t.Text(sql))
		return &statement{kind: kindDiscard, name: what, tag: "DISCARD " + what}, nil
	case "DEALLOCATE":
		s.Word("PREPARE")
		t, _ := s.Next()
		if t.Is(sql, "ALL") {
			return &statement{kind: kindDeallocate, tag: "DEALLOCATE ALL"}, nil
		}
		return &statement{kind: kindDeallocate, name: foldName(t.Text(sql)), tag: "DEALLOCATE"}, nil
	case "SAVEPOINT", "RELEASE":
		return &statement{kind: kindSavepoint, sql: sql}, nil
	case "DECLARE":
		return classifyDeclare(s)
	case "FETCH":
		return classifyFetch(kindFetch, s)
	case "MOVE":
		return classifyFetch(kindMove, s)
	case "CLOSE":
		return classifyClose(s)
	case "UNLISTEN":
		return &statement{kind: kindIgnore, tag: word}, nil
	case "LISTEN", "NOTIFY":
		return nil, unsupported(word+" is not supported", "poll, or follow the change stream over HTTP")
	case "PREPARE", "EXECUTE":
		return nil, unsupported(word+" in SQL is not supported", "use the driver's prepared statements")
	case "LOCK", "GRANT", "REVOKE", "CALL", "DO", "TRUNCATE", "COMMENT", "SECURITY", "REASSIGN", "REFRESH", "IMPORT", "CLUSTER":
		return nil, unsupported(word+" is not a statement of SQLite", hintsInstead[word])
	}
	return engine(sql), nil
}

// hintsInstead says what to write for statements that SQLite does not have.
var hintsInstead = map[string]string{
	"TRUNCATE": "write DELETE FROM table",
	"LOCK":     "BEGIN IMMEDIATE takes the writer",
	"GRANT":    "rights are given with the administration commands",
	"REVOKE":   "rights are given with the administration commands",
}

func unsupported(message, hint string) *base.Error {
	return &base.Error{Kind: base.KindUnsupported, Message: message, Hint: hint}
}

// foldName reads a name as PostgreSQL does: bare ones in lower case.
func foldName(text string) string {
	if strings.HasPrefix(text, `"`) {
		return sqltext.Unquote(text)
	}
	return strings.ToLower(text)
}

func showColumns(name string) []column {
	if name == "all" {
		return []column{{"name", oid.Text}, {"setting", oid.Text}, {"description", oid.Text}}
	}
	if k, ok := findSetting(name); ok {
		name = k.name
	}
	return []column{{name, oid.Text}}
}

// prepare classifies sql and asks the session or the catalogue what it needs
// to know to describe it.
func (c *conn) prepare(sql string, types []uint32) (*statement, error) {
	st, err := classify(sql)
	if err != nil {
		return nil, err
	}
	if c.block == blockFailed && !st.endsBlock() {
		return nil, c.mayRun(st)
	}
	params, err := c.inspect(st)
	if err != nil {
		return nil, err
	}
	if len(types) > params && params == 0 && st.kind != kindEngine {
		types = nil
	}
	st.params = make([]uint32, max(params, len(types)))
	copy(st.params, types)
	if st.kind == kindDeclare {
		st.cursor.query.params = st.params
	}
	return st, nil
}

// inspect finds what is needed to describe st, and returns how many parameters
// it has.
func (c *conn) inspect(st *statement) (params int, err error) {
	switch st.kind {
	case kindEngine, kindRollbackTo, kindSavepoint:
		if st.desc, err = c.sess.Describe(c.ctx, st.sql); err != nil {
			return 0, err
		}
		params = st.desc.Params
		st.columns = engineColumns(st.sql, st.desc.Columns)
	case kindCatalogue:
		st.columns, params, err = c.describeCatalogue(st.sql)
	case kindConfig:
		params, st.columns = st.config.params(), st.config.columns()
	case kindDeclare:
		return c.inspect(st.cursor.query)
	case kindFetch:
		st.columns = c.fetchColumns(st)
	}
	return params, err
}

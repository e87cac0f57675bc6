package sqlite

import (
	"strings"

	"github.com/ncruces/go-sqlite3"

	"github.com/skeindb/skein/internal/base"
)

// ownPrefix marks our own objects. Names compare without regard to case.
const ownPrefix = "_skein_"

func isOwn(name string) bool {
	return len(name) >= len(ownPrefix) && strings.EqualFold(name[:len(ownPrefix)], ownPrefix)
}

// Guard says what the statements prepared under it may do.
type Guard uint8

// The guards. A client's guard may be combined with AllowSavepoint.
const (
	// GuardOwn is for our own SQL: everything is allowed, but for triggers of
	// others that would write to our tables.
	GuardOwn Guard = iota
	// GuardRead is for clients that may only read.
	GuardRead
	// GuardWrite is for clients that may change rows and schema.
	GuardWrite
	// GuardAdmin is GuardWrite; the difference is made above the engine.
	GuardAdmin

	// AllowVacuum lets VACUUM be prepared; Conn.Vacuum runs it.
	AllowVacuum Guard = 0x40
	// AllowSavepoint lets SAVEPOINT, RELEASE and ROLLBACK TO reach the engine.
	AllowSavepoint Guard = 0x80
)

func (g Guard) level() Guard { return g &^ (AllowSavepoint | AllowVacuum) }

// An action is one question of the engine's authorizer.
type action struct {
	code          sqlite3.AuthorizerActionCode
	third, fourth string
	schema        string
	inner         string // the trigger, view or subquery that asks, if one does
}

// changesRows says whether rows would be changed, not the schema.
func (a action) changesRows() bool {
	switch a.code {
	case sqlite3.AUTH_INSERT, sqlite3.AUTH_UPDATE, sqlite3.AUTH_DELETE:
		return true
	}
	return false
}

// check answers an action; nil allows it.
func (g Guard) check(a action) *base.Error {
	if g.level() == GuardOwn {
		return checkOwn(a)
	}
	switch a.code {
	case sqlite3.AUTH_SELECT, sqlite3.AUTH_RECURSIVE:
		return nil
	case sqlite3.AUTH_READ:
		return checkRead(a)
	case sqlite3.AUTH_FUNCTION:
		return checkFunction(a.fourth)
	case sqlite3.AUTH_PRAGMA:
		return checkPragma(strings.ToLower(a.third), a.fourth)
	case sqlite3.AUTH_TRANSACTION:
		return base.Errorf(base.KindForbidden, "%s: transactions are controlled by the session, not from within a statement", a.third)
	case sqlite3.AUTH_SAVEPOINT:
		return g.checkSavepoint(a)
	case sqlite3.AUTH_ATTACH, sqlite3.AUTH_DETACH:
		return base.Errorf(base.KindForbidden, "ATTACH and DETACH are not allowed: a session works on one database").
			WithHint("Open one session for each database.")
	}
	return g.checkChange(a)
}

// checkOwn keeps triggers that a client has made from writing to our tables
// with our rights.
func checkOwn(a action) *base.Error {
	switch a.code {
	case sqlite3.AUTH_INSERT, sqlite3.AUTH_UPDATE, sqlite3.AUTH_DELETE:
		if a.inner != "" && isOwn(a.third) && !isOwn(a.inner) {
			return reserved(a.third)
		}
	}
	return nil
}

func reserved(name string) *base.Error {
	return base.Errorf(base.KindForbidden, "%q: names that begin with %q are reserved", name, ownPrefix)
}

// checkRead also refuses the virtual tables that show raw pages or the
// statements of other sessions.
func checkRead(a action) *base.Error {
	if isOwn(a.third) && !strings.EqualFold(a.third, ChangesTable) {
		return reserved(a.third)
	}
	switch strings.ToLower(a.third) {
	case "sqlite_dbpage", "sqlite_stmt", "bytecode", "tables_used":
		return base.Errorf(base.KindForbidden, "table %q is not open to clients", a.third)
	}
	return nil
}

func checkFunction(name string) *base.Error {
	switch strings.ToLower(name) {
	case "load_extension", "fts3_tokenizer", "readfile", "writefile", "edit", "fsdir", "lsmode", "zipfile", "readblob", "writeblob", "sqlite_log":
		return base.Errorf(base.KindForbidden, "function %s is not open to clients", name)
	}
	return nil
}

func (g Guard) checkSavepoint(a action) *base.Error {
	if g&AllowSavepoint != 0 {
		if isOwn(a.fourth) {
			return reserved(a.fourth)
		}
		return nil
	}
	return base.Errorf(base.KindForbidden, "%s %s: savepoints are controlled by the session", a.third, a.fourth)
}

// checkChange answers what is left: changes of rows and of the schema.
func (g Guard) checkChange(a action) *base.Error {
	switch a.code {
	case sqlite3.AUTH_CREATE_TEMP_INDEX, sqlite3.AUTH_CREATE_TEMP_TABLE, sqlite3.AUTH_CREATE_TEMP_TRIGGER, sqlite3.AUTH_CREATE_TEMP_VIEW,
		sqlite3.AUTH_DROP_TEMP_INDEX, sqlite3.AUTH_DROP_TEMP_TABLE, sqlite3.AUTH_DROP_TEMP_TRIGGER, sqlite3.AUTH_DROP_TEMP_VIEW:
		return noTemp()
	}
	if (strings.EqualFold(a.schema, "temp") && a.third != "sqlite_temp_master") || // ALTER TABLE looks into that too
		(a.code == sqlite3.AUTH_ALTER_TABLE && strings.EqualFold(a.third, "temp")) {
		return noTemp()
	}
	if g.level() == GuardRead {
		return base.Errorf(base.KindForbidden, "this session may only read")
	}
	if a.code == sqlite3.AUTH_ANALYZE || a.code == sqlite3.AUTH_REINDEX {
		return nil // of everything, ours included
	}
	if isOwn(a.third) {
		return reserved(a.third)
	}
	if isOwn(a.fourth) && a.code != sqlite3.AUTH_UPDATE {
		return reserved(a.fourth)
	}
	if a.code == sqlite3.AUTH_CREATE_VTABLE {
		return checkModule(a.fourth)
	}
	return nil
}

func noTemp() *base.Error {
	return base.Errorf(base.KindUnsupported, "temporary tables, views and triggers are not supported: sessions share connections").
		WithHint("Use a common table expression, or an ordinary table that you drop afterwards.")
}

func checkModule(name string) *base.Error {
	switch strings.ToLower(name) {
	case "fts5", "fts5vocab", "rtree", "rtree_i32", "geopoly":
		return nil
	}
	return base.Errorf(base.KindUnsupported, "virtual tables of module %q are not supported", name).
		WithHint("Modules: fts5, fts5vocab, rtree, rtree_i32, geopoly.")
}

// pragmaUse says how a client may use a PRAGMA.
type pragmaUse uint8

const (
	pragmaBare     pragmaUse = iota + 1 // without an argument: with one it would change something
	pragmaArgument                      // with or without: the argument only selects
)

var clientPragmas = map[string]pragmaUse{
	"table_info": pragmaArgument, "table_xinfo": pragmaArgument, "table_list": pragmaArgument,
	"index_list": pragmaArgument, "index_info": pragmaArgument, "index_xinfo": pragmaArgument,
	"foreign_key_list": pragmaArgument, "foreign_key_check": pragmaArgument,
	"integrity_check": pragmaArgument, "quick_check": pragmaArgument,
	"collation_list": pragmaBare, "function_list": pragmaBare, "compile_options": pragmaBare,
	"database_list": pragmaBare, "page_count": pragmaBare, "page_size": pragmaBare, "freelist_count": pragmaBare,
	"encoding": pragmaBare, "user_version": pragmaBare, "application_id": pragmaBare, "schema_version": pragmaBare,
	"foreign_keys": pragmaBare,
	"data_version": pragmaBare, // full-text tables ask it themselves, under the guard of the statement
}

// pragmaHints say what to do instead of a PRAGMA that is often sent.
var pragmaHints = map[string]string{
	"foreign_keys":        "Foreign keys are always enforced; leave the PRAGMA out.",
	"journal_mode":        "The database is always in WAL mode; leave the PRAGMA out.",
	"synchronous":         "Durability is set with SET skein.durability.",
	"busy_timeout":        "Writers wait in a queue; leave the PRAGMA out.",
	"wal_checkpoint":      "Checkpoints run by themselves.",
	"case_sensitive_like": "Use GLOB, or a column or expression with a collation.",
	"user_version":        "Keep a version number in a table.",
	"application_id":      "Keep the identifier in a table.",
}

func checkPragma(name, argument string) *base.Error {
	use := clientPragmas[name]
	if use == pragmaArgument || (use == pragmaBare && argument == "") {
		return nil
	}
	verb := "is not allowed"
	if use == pragmaBare {
		verb = "may be read but not set"
	}
	err := base.Errorf(base.KindForbidden, "PRAGMA %s %s: sessions share connections and every replica must agree", name, verb)
	return err.WithHint("%s", pragmaHints[name])
}

// checkText answers what the authorizer is never asked: statements that it
// does not see, and names that it is not told.
func (g Guard) checkText(sql string, words []string) error {
	if g.level() == GuardOwn || len(words) == 0 {
		return nil
	}
	verb := words[0]
	if verb == "EXPLAIN" {
		verb = words[len(words)-1]
		for _, w := range words[1:] {
			if w != "QUERY" && w != "PLAN" {
				verb = w
				break
			}
		}
	}
	switch verb {
	case "VACUUM":
		if g&AllowVacuum != 0 && IsVacuum(sql) {
			return nil
		}
		return base.Errorf(base.KindUnsupported, "VACUUM is not supported here: it would rewrite one replica only").
			WithHint("Free pages are used again by later writes. In log format wal a plain VACUUM outside of transactions works.")
	case "CREATE", "DROP", "ALTER":
		if name, found := ownName(sql); found {
			return reserved(name)
		}
	}
	return nil
}

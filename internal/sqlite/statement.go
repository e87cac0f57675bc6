package sqlite

import (
	"strings"

	"github.com/ncruces/go-sqlite3"

	"github.com/skeindb/skein/internal/session"
)

// Info is what compiling a statement tells about it.
type Info struct {
	Kind session.StatementKind
	// Tag is the command tag: "SELECT", "INSERT", "CREATE TABLE", ...
	Tag string
	// Params is the highest parameter number.
	Params int
	// ReadOnly says that running it changes nothing in the file. EXPLAIN of a
	// write has Kind Read and is read-only.
	ReadOnly bool
	// Returns says that it has result columns.
	Returns bool
	// WritesSequence says that it, or a trigger of it, changes rows of
	// sqlite_sequence by name; the pre-update hook does not see those.
	WritesSequence bool
	// CreatesTableAs says that it is a CREATE TABLE AS SELECT, whose rows the
	// pre-update hook does not see.
	CreatesTableAs bool
	// Table is the table, view, index or trigger that is written, created,
	// altered or dropped; "" if there is none or more than one is meant.
	Table string
}

// Touches are the names that a statement uses, by itself or through triggers and
// views.
type Touches struct {
	Functions []string // in lower case; without those of columns' defaults
	Tables    []string // read or written, views included
	Programs  []string // triggers and views
}

// findings collects what the authorizer is asked while a statement compiles.
type findings struct {
	verb           string // first of INSERT, UPDATE, DELETE by the statement itself
	table          string
	object         string // created, altered or dropped
	createsTable   bool
	selects        bool
	writesSequence bool

	touches Touches
}

func noteName(list *[]string, name string) {
	if name != "" && !contains(*list, name) {
		*list = append(*list, name)
	}
}

func (f *findings) note(a action) {
	switch a.code {
	case sqlite3.AUTH_FUNCTION:
		noteName(&f.touches.Functions, strings.ToLower(a.fourth))
	case sqlite3.AUTH_READ, sqlite3.AUTH_INSERT, sqlite3.AUTH_UPDATE, sqlite3.AUTH_DELETE:
		noteName(&f.touches.Tables, a.third)
	}
	noteName(&f.touches.Programs, a.inner)
	switch a.code {
	case sqlite3.AUTH_INSERT:
		f.noteRow("INSERT", a)
	case sqlite3.AUTH_UPDATE:
		f.noteRow("UPDATE", a)
	case sqlite3.AUTH_DELETE:
		f.noteRow("DELETE", a)
	case sqlite3.AUTH_SELECT:
		f.selects = true
	case sqlite3.AUTH_CREATE_TABLE:
		f.createsTable = true
		f.noteObject(a.third)
	case sqlite3.AUTH_ALTER_TABLE:
		f.noteObject(a.fourth)
	case sqlite3.AUTH_CREATE_INDEX, sqlite3.AUTH_CREATE_TRIGGER, sqlite3.AUTH_CREATE_VIEW, sqlite3.AUTH_CREATE_VTABLE,
		sqlite3.AUTH_DROP_INDEX, sqlite3.AUTH_DROP_TABLE, sqlite3.AUTH_DROP_TRIGGER, sqlite3.AUTH_DROP_VIEW, sqlite3.AUTH_DROP_VTABLE,
		sqlite3.AUTH_REINDEX, sqlite3.AUTH_ANALYZE:
		f.noteObject(a.third)
	}
}

func (f *findings) noteRow(verb string, a action) {
	if a.third == "sqlite_sequence" {
		f.writesSequence = true
	}
	if a.inner == "" && f.verb == "" && !strings.EqualFold(a.third, "sqlite_master") {
		f.verb, f.table = verb, a.third
	}
}

func (f *findings) noteObject(name string) {
	if f.object == "" {
		f.object = name
	}
}

// classify joins the statement's leading words with what the compiler asked.
func classify(words []string, f findings) Info {
	info := verbInfo(words)
	switch {
	case info.Kind == session.Write || (info.Kind == session.Read && words[0] == "WITH" && f.verb != ""):
		info.Kind = session.Write
		info.Table = f.table
		info.WritesSequence = f.writesSequence
		if info.Tag == "WITH" {
			info.Tag = f.verb
		}
	case info.Kind == session.Schema:
		info.Table = f.object
		info.CreatesTableAs = f.createsTable && f.selects
	}
	if info.Tag == "WITH" {
		info.Tag = "SELECT"
	}
	return info
}

// verbInfo knows kind and tag by the leading words alone. WITH may still turn
// out to write.
func verbInfo(words []string) Info {
	if len(words) == 0 {
		return Info{Kind: session.Empty}
	}
	switch words[0] {
	case "SELECT", "VALUES":
		return Info{Kind: session.Read, Tag: "SELECT"}
	case "WITH", "EXPLAIN", "PRAGMA":
		return Info{Kind: session.Read, Tag: words[0]}
	case "INSERT", "REPLACE":
		return Info{Kind: session.Write, Tag: "INSERT"}
	case "UPDATE", "DELETE":
		return Info{Kind: session.Write, Tag: words[0]}
	case "CREATE", "DROP", "ALTER":
		return Info{Kind: session.Schema, Tag: schemaTag(words)}
	case "REINDEX", "ANALYZE", "VACUUM":
		return Info{Kind: session.Schema, Tag: words[0]}
	}
	return controlInfo(words)
}

// schemaTag returns "CREATE TABLE" for CREATE TEMP TABLE, CREATE VIRTUAL TABLE
// and so on.
func schemaTag(words []string) string {
	for _, w := range words[1:] {
		switch w {
		case "TABLE", "INDEX", "VIEW", "TRIGGER":
			return words[0] + " " + w
		}
	}
	return words[0]
}

// controlInfo knows the statements that never reach the engine from a client.
func controlInfo(words []string) Info {
	switch words[0] {
	case "BEGIN", "START":
		return Info{Kind: session.Begin, Tag: "BEGIN", ReadOnly: true}
	case "COMMIT", "END":
		return Info{Kind: session.Commit, Tag: "COMMIT", ReadOnly: true}
	case "ROLLBACK":
		if contains(words, "TO") {
			return Info{Kind: session.Savepoint, Tag: "ROLLBACK", ReadOnly: true}
		}
		return Info{Kind: session.Rollback, Tag: "ROLLBACK", ReadOnly: true}
	case "ABORT":
		return Info{Kind: session.Rollback, Tag: "ROLLBACK", ReadOnly: true}
	case "SAVEPOINT", "RELEASE":
		return Info{Kind: session.Savepoint, Tag: words[0], ReadOnly: true}
	case "SET", "SHOW", "RESET":
		return Info{Kind: session.Setting, Tag: words[0], ReadOnly: true}
	}
	return Info{Kind: session.Read, Tag: words[0]}
}

func contains(words []string, w string) bool {
	for _, x := range words {
		if x == w {
			return true
		}
	}
	return false
}

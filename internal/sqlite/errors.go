package sqlite

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"syscall"
	"unsafe"

	"github.com/ncruces/go-sqlite3"

	"github.com/skeindb/skein/internal/base"
)

// mapError turns an error of the engine into a *base.Error. ctx is the context
// whose end may have interrupted the statement; it may be nil.
func mapError(err error, ctx context.Context) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*base.Error](err); ok {
		return e
	}
	var extended sqlite3.ExtendedErrorCode
	if !errors.As(err, &extended) {
		return &base.Error{Kind: base.KindInternal, Message: err.Error(), Err: err}
	}
	e := &base.Error{Kind: base.KindInternal, Message: message(err, extended), Err: err}
	if noRoom(err, extended) || extended.Code() == sqlite3.FULL {
		e.Kind, e.Hint = base.KindDiskFull, "make room on the node's disk: in its data folder, or where it keeps temporary files"
		return e
	}
	switch code := extended.Code(); code {
	case sqlite3.INTERRUPT:
		return interrupted(err, ctx)
	case sqlite3.CONSTRAINT:
		e.Kind, e.SQLState = base.KindSQL, constraintState(extended)
	case sqlite3.ERROR:
		mapGeneric(e, err)
	default:
		mapCode(e, code, extended)
	}
	return e
}

// isFailedSync says that a sync has failed: what it was to bring to the disk may
// be gone, and looks clean to the next one.
func isFailedSync(err error) bool {
	var extended sqlite3.ExtendedErrorCode
	return errors.As(err, &extended) && (extended == sqlite3.IOERR_FSYNC || extended == sqlite3.IOERR_DIR_FSYNC)
}

// noRoom says that a call of the disk has failed for lack of room, whatever the
// engine makes of it: it has words for writes only. A sync that failed is a
// failed sync.
func noRoom(err error, extended sqlite3.ExtendedErrorCode) bool {
	switch extended {
	case sqlite3.IOERR_FSYNC, sqlite3.IOERR_DIR_FSYNC:
		return false
	case sqlite3.IOERR_SHMSIZE:
		// The index of the -wal could not grow. Its cause is a disk's that does
		// not name one: the driver has lost it by the time it reports.
		var cause syscall.Errno
		return !errors.As(err, &cause) || isNoRoom(cause)
	}
	return isNoRoom(err)
}

// message is the engine's text without its code's name.
func message(err error, code sqlite3.ExtendedErrorCode) string {
	text := err.Error()
	name := code.Error()
	if rest, ok := strings.CutPrefix(text, name+": "); ok && rest != "" {
		return rest
	}
	return strings.TrimPrefix(text, "sqlite3: ")
}

// interrupted says why a statement was interrupted: by the cause of the
// context, which may be a *base.Error of its own.
func interrupted(err error, ctx context.Context) error {
	var cause error
	if ctx != nil {
		cause = context.Cause(ctx)
	}
	if e, ok := errors.AsType[*base.Error](cause); ok {
		return e
	}
	if errors.Is(cause, context.DeadlineExceeded) {
		return &base.Error{Kind: base.KindTimeout, Message: "statement timed out", Err: cause}
	}
	if cause == nil {
		cause = err
	}
	return &base.Error{Kind: base.KindCanceled, Message: "statement was canceled", Err: cause}
}

func constraintState(code sqlite3.ExtendedErrorCode) string {
	switch code {
	case sqlite3.CONSTRAINT_UNIQUE, sqlite3.CONSTRAINT_PRIMARYKEY, sqlite3.CONSTRAINT_ROWID:
		return "23505"
	case sqlite3.CONSTRAINT_FOREIGNKEY:
		return "23503"
	case sqlite3.CONSTRAINT_NOTNULL:
		return "23502"
	case sqlite3.CONSTRAINT_CHECK:
		return "23514"
	case sqlite3.CONSTRAINT_DATATYPE:
		return "42804"
	}
	return "23000"
}

func mapCode(e *base.Error, code sqlite3.ErrorCode, extended sqlite3.ExtendedErrorCode) {
	switch code {
	case sqlite3.BUSY, sqlite3.LOCKED:
		e.Kind = base.KindBusy
		if extended == sqlite3.BUSY_SNAPSHOT {
			e.Kind = base.KindConflict
		}
	case sqlite3.CORRUPT, sqlite3.NOTADB:
		if extended == sqlite3.CORRUPT_VTAB {
			mapVirtual(e)
			return
		}
		e.Kind = base.KindCorrupt
	case sqlite3.TOOBIG:
		e.Kind, e.Hint = base.KindTooLarge, "The limits on statements and values are settings of the node."
	case sqlite3.READONLY:
		e.Kind, e.SQLState = base.KindForbidden, "25006"
	case sqlite3.IOERR:
		e.SQLState = "58030"
		if extended == sqlite3.IOERR_DATA {
			e.Kind, e.SQLState = base.KindCorrupt, ""
			e.Message = "a page of the database file fails its checksum"
		}
	case sqlite3.CANTOPEN:
		e.Kind, e.SQLState = base.KindUnavailable, "58030"
	case sqlite3.PERM:
		e.Kind = base.KindUnavailable
	case sqlite3.AUTH:
		e.Kind = base.KindForbidden
	case sqlite3.MISMATCH:
		e.Kind, e.SQLState = base.KindSQL, "42804"
	case sqlite3.RANGE:
		e.Kind, e.SQLState = base.KindInvalid, "08P01"
	case sqlite3.ABORT, sqlite3.SCHEMA:
		e.Kind, e.SQLState = base.KindConflict, "40001"
	}
}

// mapVirtual is for a full-text or R-tree index that contradicts itself or its
// table. The file is sound: it keeps what was written, and clients can write
// such a thing, for instance by changing a table beneath an index on it.
func mapVirtual(e *base.Error) {
	e.Kind, e.SQLState = base.KindSQL, "XX002"
	e.Message = "a full-text or R-tree index contradicts itself or its table"
	e.Hint = "The file is sound. Rebuild the index: INSERT INTO name(name) VALUES('rebuild') for full text; an R-tree must be filled anew."
}

// genericStates tell the engine's generic errors apart. The engine gives them
// one code, so the text decides; the tests pin the texts.
var genericStates = []struct {
	text  string
	kind  base.Kind
	state string
}{
	{"no such table", base.KindSQL, "42P01"},
	{"no such column", base.KindSQL, "42703"},
	{"has no column named", base.KindSQL, "42703"},
	{"no such function", base.KindSQL, "42883"},
	{"wrong number of arguments", base.KindSQL, "42883"},
	{"ambiguous column name", base.KindSQL, "42702"},
	{"duplicate column name", base.KindSQL, "42701"},
	{"already exists", base.KindSQL, "42P07"},
	{"there is already", base.KindSQL, "42P07"},
	{"already another", base.KindSQL, "42P07"},
	{"no such savepoint", base.KindSQL, "3B001"},
	{"no such vfs", base.KindInternal, ""},
	{"no such", base.KindSQL, "42704"},
	{"unknown database", base.KindSQL, "3F000"},
	{"within a transaction", base.KindSQL, "25001"},
	{"no transaction is active", base.KindSQL, "25P01"},
	{"integer overflow", base.KindSQL, "22003"},
	{"malformed JSON", base.KindSQL, "22032"},
	{"unsafe use of", base.KindForbidden, ""},
	{"prohibited in", base.KindSQL, "42P17"},
	{"may not be", base.KindForbidden, ""},
	{"reserved for internal use", base.KindForbidden, ""},
	{"not authorized", base.KindForbidden, ""},
	{"too large", base.KindTooLarge, ""},
	{"too many", base.KindTooLarge, ""},
	{"too big", base.KindTooLarge, ""},
	{"too deep", base.KindTooLarge, ""},
	{"too complex", base.KindTooLarge, ""},
	{"too much nesting", base.KindTooLarge, ""},
	{"stack overflow", base.KindTooLarge, ""},
	{"Recursion limit", base.KindTooLarge, ""},
	{"must be between ?1", base.KindTooLarge, ""},
	{"at most", base.KindTooLarge, ""},
	{"query aborted", base.KindCanceled, ""},
}

func mapGeneric(e *base.Error, err error) {
	e.Kind, e.SQLState = base.KindSQL, "42000"
	if isSyntaxError(e.Message) {
		e.SQLState = "42601"
		e.Message = "syntax error (SQLite dialect): " + strings.TrimSuffix(e.Message, ": syntax error")
		if sql, ok := errors.AsType[*sqlite3.Error](err); ok && sql.SQL() != "" {
			e.Hint = fmt.Sprintf("Statements are in SQLite's dialect. At: %s", shorten(sql.SQL(), 60))
		}
		return
	}
	for _, s := range genericStates {
		if strings.Contains(e.Message, s.text) {
			e.Kind, e.SQLState = s.kind, s.state
			return
		}
	}
}

func isSyntaxError(message string) bool {
	return strings.HasSuffix(message, "syntax error") || strings.Contains(message, "unrecognized token") ||
		message == "incomplete input"
}

// shorten cuts s to at most n bytes, not within a character.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n] + "..."
}

// IsFatal says that the error means the file or its disk can no longer be
// trusted: an I/O error (a failed sync among them) or a malformed file. The
// connection's owner stops instead of trying again.
func IsFatal(err error) bool {
	var extended sqlite3.ExtendedErrorCode
	if !errors.As(err, &extended) || extended == sqlite3.CORRUPT_VTAB || noRoom(err, extended) {
		return false
	}
	code := extended.Code()
	return code == sqlite3.IOERR || code == sqlite3.CORRUPT || code == sqlite3.NOTADB
}

// recovered turns a panic of the engine into an error. The engine panics when
// its memory runs out, when its stack of 64 KiB does, and when a malformed file
// makes it fault within its own memory; none of these reaches the memory of
// this process. The connection is not used again.
func (c *Conn) recovered(r any) error {
	e := &base.Error{Kind: base.KindInternal, Message: fmt.Sprintf("engine: %v", r)}
	if cause, ok := r.(error); ok {
		e.Err = cause
	}
	switch {
	case strings.Contains(e.Message, "out of memory"):
		e.Kind = base.KindTooLarge
		e.Message = "the statement needs more memory than a connection has"
		e.Hint = "The limit is a setting of the node."
	case c.found != nil: // compiling, which recurses as deeply as the text nests
		e.Kind = base.KindTooLarge
		e.Message = "the statement is nested too deeply"
	}
	c.found = nil
	c.broken = e
	return e
}

// abandon closes a connection on which the engine has panicked as the end of
// the process would: its files are closed and their locks released, and no
// code of the engine runs on memory in an unknown state.
func abandon(raw *sqlite3.Conn) error {
	// With its handle at zero the driver leaves the engine alone.
	handle := reflect.ValueOf(raw).Elem().FieldByName("handle")
	reflect.NewAt(handle.Type(), unsafe.Pointer(handle.UnsafeAddr())).Elem().SetZero()
	return raw.Close()
}

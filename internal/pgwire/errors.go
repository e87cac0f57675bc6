package pgwire

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/skeindb/skein/internal/base"
)

// pgError makes an error with one of PostgreSQL's codes.
func pgError(state, format string, args ...any) *base.Error {
	return &base.Error{Kind: base.KindInvalid, SQLState: state, Message: fmt.Sprintf(format, args...)}
}

// sendError tells the client of an error. FATAL ends the connection.
func (c *conn) sendError(severity string, e *base.Error) {
	c.out.send(&pgproto3.ErrorResponse{
		Severity: severity, SeverityUnlocalized: severity,
		Code: e.State(), Message: clean(e.Error()), Detail: clean(detail(e)), Hint: clean(hint(e)),
	})
	c.out.due = true
}

// notice tells the client of something that is no error.
func (c *conn) notice(severity, state, message, detail, hint string) {
	c.out.send(&pgproto3.NoticeResponse{
		Severity: severity, SeverityUnlocalized: severity, Code: state,
		Message: clean(message), Detail: clean(detail), Hint: clean(hint),
	})
}

// clean takes out the zero bytes that would end a field early.
func clean(s string) string { return strings.ReplaceAll(s, "\x00", "\ufffd") }

// detail says what an error means for the data. Where the statement itself was
// at fault nobody asks.
func detail(e *base.Error) string {
	switch e.Outcome {
	case base.Indeterminate:
		if e.Operation != "" {
			return "indeterminate: the change may have been made, or not; its operation is " + e.Operation
		}
		return "indeterminate: the change may have been made, or not"
	case base.Done:
		return "done: the change stands"
	case base.NotDone:
		return "not done: nothing was changed"
	}
	switch e.Kind {
	case base.KindSQL, base.KindInvalid, base.KindUnsupported, base.KindUnauthorized, base.KindNotFound, base.KindExists, base.KindShutdown:
		return ""
	}
	return "not done: nothing was changed"
}

// hint adds to an error of SQLite's parser what a PostgreSQL user needs to know.
func hint(e *base.Error) string {
	const cast = "the dialect is SQLite's: write CAST(value AS type) for value::type"
	switch m := e.Message; {
	case e.Kind != base.KindSQL:
	case strings.Contains(m, `unrecognized token: ":"`):
		return strings.TrimPrefix(e.Hint+"; "+cast, "; ")
	case strings.Contains(m, "incomplete input"):
		return "the statement ends too early; psql cuts CREATE TRIGGER at the semicolons of its body, unless they are written \\;"
	case e.Hint == "" && (strings.Contains(m, "syntax error") || strings.Contains(m, "unrecognized token") || strings.Contains(m, "no such function")):
		return "the wire protocol is PostgreSQL's, the SQL dialect is SQLite's"
	}
	return e.Hint
}

// failStatement tells of an error and does to the transaction what PostgreSQL
// would: one of ours is rolled back, the client's fails until it ends it.
func (c *conn) failStatement(err error) {
	c.sendError("ERROR", base.AsError(err))
	switch {
	case c.implicit:
		c.abandon()
	case c.block == blockOpen:
		c.block = blockFailed
	}
}

package base

import (
	"errors"
	"fmt"
	"strings"
)

// Kind classifies an error for programs. Kinds are part of the wire contract:
// they are never renamed, and each maps to one SQLSTATE and one HTTP status.
type Kind string

// The kinds. The comment says what the caller can rely on.
const (
	KindInvalid       Kind = "invalid"       // the request makes no sense; repeating it does not help
	KindSQL           Kind = "sql"           // SQLite refused the statement; SQLState says why
	KindUnauthorized  Kind = "unauthorized"  // unknown user or wrong password
	KindForbidden     Kind = "forbidden"     // known user, missing right, or a statement that would break replication
	KindNotFound      Kind = "not_found"     // no such database, node, user
	KindExists        Kind = "exists"        // it is there already
	KindNotLeader     Kind = "not_leader"    // not done; ask the leader
	KindNoLeader      Kind = "no_leader"     // not done; there is no leader just now, try again
	KindConflict      Kind = "conflict"      // not done; the transaction's snapshot is stale, run it again
	KindTimeout       Kind = "timeout"       // a wait ran out; see Outcome
	KindCanceled      Kind = "canceled"      // the client asked to stop; see Outcome
	KindBusy          Kind = "busy"          // a queue is full or a limit is reached; try again later
	KindTooLarge      Kind = "too_large"     // over a limit that the hint names
	KindIndeterminate Kind = "indeterminate" // the write may or may not have happened
	KindDegraded      Kind = "degraded"      // fewer replicas than the policy asks; refused
	KindStale         Kind = "stale"         // the replica could not come as far as the read asks in time
	KindHistoryLost   Kind = "history_lost"  // the token has seen writes that a failover with loss has dropped
	KindTrimmed       Kind = "trimmed"       // changes that a stream has not had are no longer in the log
	KindDiskFull      Kind = "disk_full"     // no room; nothing was changed
	KindCorrupt       Kind = "corrupt"       // stored bytes fail their checksum; the replica has stopped serving
	KindUnavailable   Kind = "unavailable"   // the replica is not ready: starting, copying, stopped
	KindUnsupported   Kind = "unsupported"   // a feature that this database does not have
	KindWrongCluster  Kind = "wrong_cluster" // the peer or data folder belongs to another cluster or node
	KindShutdown      Kind = "shutdown"      // the node is stopping
	KindInternal      Kind = "internal"      // a bug of ours
)

// Outcome says what an error means for the data.
type Outcome string

// The three outcomes.
const (
	NotDone       Outcome = "not done"      // nothing was changed
	Done          Outcome = "done"          // the change stands, and something after it failed
	Indeterminate Outcome = "indeterminate" // it may be either
)

// Error is what crosses a package or network edge towards a user.
type Error struct {
	Kind     Kind
	Op       string  // what was being done, e.g. "insert", "open segment 3"
	Message  string  // what happened, for a person
	Outcome  Outcome // what it means for the data; empty counts as NotDone
	Hint     string  // what to do next; may be empty
	SQLState string  // five characters; empty means that of the kind
	Leader   NodeID  // for KindNotLeader, who leads, when known
	// Operation names the write whose outcome is indeterminate, to ask with.
	Operation string
	Err       error // the cause; may be nil
}

// Errorf makes an *Error of a kind with a message.
func Errorf(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Message: err.Error(), Err: errors.Unwrap(err)}
}

// WithHint says what can be done about e, and returns it.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// WithOutcome says what e means for the data, and returns it.
func (e *Error) WithOutcome(o Outcome) *Error {
	e.Outcome = o
	return e
}

// Error returns "op: message"; hint and outcome are shown by the front ends.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Op != "" {
		b.WriteString(e.Op)
		b.WriteString(": ")
	}
	if e.Message == "" && e.Err != nil {
		b.WriteString(e.Err.Error())
	} else {
		b.WriteString(e.Message)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the first *Error in err's chain, KindInternal for
// any other error, and "" for nil.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return KindInternal
}

// AsError returns the first *Error in err's chain, or wraps err as internal.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Kind: KindInternal, Message: err.Error(), Err: err}
}

type codes struct {
	sqlState string
	http     int
}

var kindCodes = map[Kind]codes{
	KindInvalid:       {"22023", 400},
	KindSQL:           {"42601", 400},
	KindUnauthorized:  {"28P01", 401},
	KindForbidden:     {"42501", 403},
	KindNotFound:      {"3D000", 404},
	KindExists:        {"42P04", 409},
	KindNotLeader:     {"25006", 421},
	KindNoLeader:      {"57P03", 503},
	KindConflict:      {"40001", 409},
	KindTimeout:       {"57014", 504},
	KindCanceled:      {"57014", 499},
	KindBusy:          {"53300", 429},
	KindTooLarge:      {"54000", 413},
	KindIndeterminate: {"08007", 500},
	KindDegraded:      {"57P03", 503},
	KindStale:         {"57P03", 503},
	KindHistoryLost:   {"40001", 409},
	KindTrimmed:       {"58030", 410},
	KindDiskFull:      {"53100", 507},
	KindCorrupt:       {"XX001", 500},
	KindUnavailable:   {"57P03", 503},
	KindUnsupported:   {"0A000", 501},
	KindWrongCluster:  {"08004", 403},
	KindShutdown:      {"57P01", 503},
	KindInternal:      {"XX000", 500},
}

// State returns the SQLSTATE of e.
func (e *Error) State() string {
	if e.SQLState != "" {
		return e.SQLState
	}
	if c, ok := kindCodes[e.Kind]; ok {
		return c.sqlState
	}
	return "XX000"
}

// HTTPStatus returns the HTTP status of e.
func (e *Error) HTTPStatus() int {
	if c, ok := kindCodes[e.Kind]; ok {
		return c.http
	}
	return 500
}

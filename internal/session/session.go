// Package session is the narrow interface between front ends (pgwire, HTTP and
// the Go library) and the replicated database: one session runs one statement
// at a time, routes it to where it must run, and keeps the token of what its
// client has seen. Package gateway implements it.
//
// Front ends see this package and never the engine, so that no two of them can
// differ in meaning. It owns the contract and reads of results that are in
// memory; it is pure and imports base and token only.
package session

import (
	"context"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/token"
)

// Gateway opens sessions on one node.
type Gateway interface {
	// Open starts a session. Errors: KindNotFound (database), KindForbidden.
	Open(ctx context.Context, o Options) (Session, error)
	// Credential returns the stored SCRAM-SHA-256 credential of a user as
	// "SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey" (base64 parts).
	Credential(user string) (string, bool)
	// Databases lists names, sorted.
	Databases() []string
	// Users lists names, sorted.
	Users() []string
}

// Options of a session.
type Options struct {
	User       string // authenticated name; empty only where AuthNone is configured
	Trusted    bool   // no password was needed (loopback in dev): all rights
	Database   string
	FrontEnd   string // "pgwire", "http", "library"
	RemoteAddr string
}

// TxStatus is where a session stands.
type TxStatus byte

// The transaction states, with PostgreSQL's letters.
const (
	TxIdle   TxStatus = 'I'
	TxActive TxStatus = 'T'
	TxFailed TxStatus = 'E'
)

// Session is used by one goroutine at a time, but for Cancel.
type Session interface {
	// Describe compiles one statement without running it. The result is
	// shared: do not change it.
	Describe(ctx context.Context, sql string) (*Description, error)

	// Query runs exactly one statement of any kind, transaction control, SET
	// skein.* and SHOW skein.* included, with parameters ?1, ?2, ... Text
	// after the first statement is an error. A statement that writes has
	// been committed (outside a transaction) as durably as asked when Query
	// returns; one that reads is read through the Rows. The Rows must be
	// closed before the next Query unless Query was given WithHold.
	Query(ctx context.Context, sql string, args []base.Value) (Rows, error)

	TxStatus() TxStatus

	// Set and Show are SET name TO value and SHOW name for the skein.*
	// settings: skein.token, skein.read, skein.replica, skein.durability, skein.reached,
	// skein.last_read, skein.leader, skein.node, skein.statement_timeout.
	Set(name, value string) error
	Show(ctx context.Context, name string) (string, error)

	// Cancel interrupts the statement that runs now, if one does. It may be
	// called from any goroutine.
	Cancel()

	// Schema runs a read-only query on the catalog of this session's
	// database, on the local replica, in the session's transaction if it has
	// one. Front ends build their catalogs on it.
	Schema(ctx context.Context, sql string, args []base.Value) (Rows, error)

	Database() string
	// Leads says whether this node leads the database just now, so that
	// statements need not travel. It is cheap.
	Leads() bool
	// Close rolls back an open transaction and frees everything.
	Close() error
}

// StatementKind says what sort of statement one is.
type StatementKind uint8

// The kinds.
const (
	Empty     StatementKind = iota // only white space and comments
	Read                           // returns rows, changes nothing
	Write                          // INSERT, UPDATE, DELETE, REPLACE
	Schema                         // CREATE, DROP, ALTER, REINDEX, ANALYZE
	Begin                          // BEGIN, START TRANSACTION
	Commit                         // COMMIT, END
	Rollback                       // ROLLBACK (whole transaction)
	Savepoint                      // SAVEPOINT, RELEASE, ROLLBACK TO
	Setting                        // SET skein.*, SHOW skein.*
)

// Description is what is known of a statement before it runs.
type Description struct {
	Kind    StatementKind
	Params  int // highest parameter number
	Columns []Column
	Tag     string // "SELECT", "INSERT", "CREATE TABLE", ...
}

// Column of a result.
type Column struct {
	Name     string
	DeclType string // declared type of the origin column, "" for an expression
	Table    string // origin table, "" for an expression
	Origin   string // origin column
}

// Rows is a result being read.
type Rows interface {
	Columns() []Column
	// Next advances; false at the end or on error.
	Next() bool
	// Row is valid until the next call of Next.
	Row() []base.Value
	Err() error
	// Result is complete once Next has returned false.
	Result() Result
	Close() error
}

// Resting is implemented by Rows that may be left open for long. Between Rest
// and Wake their statement does not count as running: neither Cancel nor the
// statement timeout ends it, and the timeout begins anew.
type Resting interface {
	Rest()
	Wake()
}

// Result says what a statement did.
type Result struct {
	Tag          string // command tag without counts: "INSERT", "UPDATE", "SELECT", "BEGIN"
	RowsAffected int64
	LastInsertID int64
	// Position the statement read or wrote, and the database's age there.
	Position base.Position
	Age      time.Duration
	// Past is what the writers of everything up to there had seen of other
	// databases; the session keeps it in its token.
	Past token.Past
	// Asked and Reached durability of a commit; empty for reads.
	Asked   base.Durability
	Reached string // for example "flushed on 2 of 3"
	// Degraded says that the policy let fewer followers count than it asks.
	Degraded bool
}

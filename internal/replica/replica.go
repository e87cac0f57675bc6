// Package replica is the contract that every replication model's replica
// keeps towards the gateway: writes that are acknowledged as durably as asked,
// interactive transactions, and reads at a known position.
//
// The implementations live below it (replica/leader). It holds types only.
package replica

import (
	"context"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/token"
)

// Replica is one node's copy of one database. It is safe for concurrent use.
type Replica interface {
	// Write runs statements as one transaction of their own, in a group
	// commit with others, and returns when the asked durability is reached.
	// On a replica that does not lead: KindNotLeader, outcome NotDone, with
	// the leader if it is known, or KindNoLeader.
	Write(ctx context.Context, r WriteRequest) (*WriteResult, error)

	// BeginWrite takes the writer for an interactive transaction, in turn.
	// While it is held no other write runs; idle and total timeouts of the
	// policy bound that. KindConflict when r.Snapshot is given and the
	// database has moved on.
	BeginWrite(ctx context.Context, r BeginRequest) (WriteTx, error)

	// BeginRead opens a snapshot that holds at least r.AtLeast, waiting up to
	// r.Wait for it (KindStale after that, or when r.MaxAge is exceeded).
	BeginRead(ctx context.Context, r ReadRequest) (ReadTx, error)

	// Describe compiles one statement without running it.
	Describe(ctx context.Context, sql string) (*session.Description, error)

	// Leads says whether this replica leads with a live lease: whether a write
	// can be acknowledged here just now. It is cheap.
	Leads() bool

	// Lineage says whether p lies in this replica's history (true also for
	// positions it has not reached yet in its current epoch). A token whose
	// position does not has seen writes that a failover dropped.
	Lineage(p base.Position) bool

	// Fate tells what has become of an operation that was sent when its sender
	// knew the database at since. It waits until what it has found is safe.
	Fate(ctx context.Context, op OperationID, since base.Seq) (Fate, error)

	// Seen is a position that this replica has and that can no longer be lost:
	// what is sent from now on gets a higher one.
	Seen() base.Seq

	Status() Status
}

// Statement is SQL with parameters ?1, ?2, ...
type Statement struct {
	SQL  string
	Args []base.Value
}

// WriteRequest is one autocommit transaction.
type WriteRequest struct {
	Statements []Statement
	Durability base.Durability // zero: the policy's
	// Guard is what the user may do; enforced by the authorizer.
	Guard Guard
	// MaxResultBytes bounds what RETURNING may give back; 0 means 64 MiB.
	MaxResultBytes int
	// Operation names the write, so that its fate can be asked for when its
	// answer was lost. One that a client has named is not executed again: the
	// result is what is remembered of it.
	Operation OperationID
	// Epoch, when not zero, is the only one in which the write may be executed;
	// in another it is refused as KindNotLeader. Without it an operation that
	// was not found in a later epoch might still come.
	Epoch base.Epoch
	// Past is what the writer has seen of other databases. It stays with the
	// write: who sees that has heard of this.
	Past token.Past
}

// Fate is what has become of an operation.
type Fate struct {
	// Known: the replica leads, serves, and would know the operation if it had
	// been executed after the position that was asked with.
	Known bool
	// Found: it was executed; Result holds what is remembered of it.
	Found  bool
	Result session.Result
	// Epoch that the answer is good for: as long as it is the epoch in which
	// the operation was sent, one that was not found may still come.
	Epoch base.Epoch
}

// Guard is what a statement's author may do in this database.
type Guard uint8

// The guards, in rising order.
const (
	GuardRead Guard = iota
	GuardWrite
	GuardAdmin
)

// WriteResult is the outcome of the last statement of a WriteRequest.
type WriteResult struct {
	Columns []session.Column
	Rows    [][]base.Value
	Result  session.Result
}

// BeginRequest opens an interactive write transaction.
type BeginRequest struct {
	Snapshot *base.Position // what the session has already read at; nil: nothing yet
	Guard    Guard
	Epoch    base.Epoch // as in WriteRequest
	// Holder, if given, ends with its cause when who holds the transaction can't
	// be heard any more, and the writer is taken back.
	Holder context.Context
}

// WriteTx owns the writer until Commit or Rollback. It is used by one
// goroutine; when a timeout takes the writer back every method returns
// KindTimeout with outcome NotDone.
type WriteTx interface {
	// Query runs one statement, SAVEPOINT, RELEASE and ROLLBACK TO included.
	// A failing statement is undone alone; the transaction lives on, unless
	// Alive says otherwise.
	Query(ctx context.Context, s Statement) (session.Rows, error)
	Alive() bool
	// Commit's past is as in WriteRequest.
	Commit(ctx context.Context, d base.Durability, op OperationID, past token.Past) (session.Result, error)
	Rollback() error
}

// ReadRequest says what a read asks of a replica.
type ReadRequest struct {
	AtLeast base.Position
	// Heard is a position that the session has only heard of: one of the past of
	// something that it has seen. As AtLeast, but that what a failover has undone
	// is not waited for: the snapshot then holds what came in its place.
	Heard base.Position
	// Linearizable asks for the leader with a live lease: everything that was
	// acknowledged before this call is seen.
	Linearizable bool
	// MaxAge refuses a replica that last heard from its leader, or is behind
	// it, by more than this. 0: any age.
	MaxAge time.Duration
	// Wait bounds the wait for AtLeast. 0 means DefaultReadWait.
	Wait  time.Duration
	Guard Guard
}

// DefaultReadWait is how long a read waits for a replica to catch up.
const DefaultReadWait = 2 * time.Second

// ReadTx is a snapshot. It is used by one goroutine.
type ReadTx interface {
	Position() base.Position
	// Age of the snapshot: how long ago the replica was last known to be level
	// with the leader; 0 on the leader.
	Age() time.Duration
	// Query runs a statement that only reads. Its first row, or its end, is held
	// back until the position that the snapshot shows is safe by the policy.
	Query(ctx context.Context, s Statement) (session.Rows, error)
	Close() error
}

// Role of a replica.
type Role string

// The roles.
const (
	RoleLeader   Role = "leader"
	RoleFollower Role = "follower"
	RoleCopying  Role = "copying" // fetching a snapshot
	RoleStopped  Role = "stopped" // failed; see Status.Error
	RoleStarting Role = "starting"
)

// Status of one replica, for people and metrics.
type Status struct {
	Role      Role          `json:"role"`
	Epoch     base.Epoch    `json:"epoch"`
	Leader    base.NodeID   `json:"-"`
	LeaseLive bool          `json:"lease_live"`
	Appended  base.Position `json:"appended"`
	Flushed   base.Seq      `json:"flushed"`
	Safe      base.Seq      `json:"safe"`
	Applied   base.Position `json:"applied"`
	LogStart  base.Seq      `json:"log_start"`
	LogBytes  int64         `json:"log_bytes"`
	FileBytes int64         `json:"file_bytes"`
	Age       time.Duration `json:"age_ns"`
	Degraded  bool          `json:"degraded"`
	Copied    int64         `json:"copied_bytes"`
	CopyTotal int64         `json:"copy_total_bytes"`
	Orphans   int64         `json:"orphans"`
	// OrphansAcknowledged are those of Orphans that a client was told would stand.
	OrphansAcknowledged int64 `json:"orphans_acknowledged"`
	// Unproven: it was copied and has not come level since. Until then it is no
	// evidence of what was acknowledged, and has no say in an election.
	Unproven bool `json:"unproven,omitempty"`
	// Differences counts the entries whose statements did something else here than
	// on the leader, since the replica was opened, and were replaced by the leader's
	// rows; Difference tells of the last.
	Differences int64      `json:"differences,omitempty"`
	Difference  string     `json:"difference,omitempty"`
	Error       string     `json:"error,omitempty"`
	Path        string     `json:"path"`
	Followers   []Follower `json:"followers,omitempty"`
	// Consumers read the log as streams of changes, here.
	Consumers []Consumer `json:"consumers,omitempty"`
}

// Consumer is who reads a stream of changes from a replica.
type Consumer struct {
	Name     string   `json:"name"`
	At       base.Seq `json:"at"` // up to where the log was read for it
	Forecast Forecast `json:"forecast"`
}

// Forecast says when the log that somebody needs would be gone.
type Forecast struct {
	BehindBytes int64 `json:"behind_bytes"` // of log yet to be read, in whole segments
	RoomBytes   int64 `json:"room_bytes"`   // that may still be written before
	// CutOffIn is when that is, if nothing more is read and writes go on as
	// they do; 0: not to be foreseen.
	CutOffIn time.Duration `json:"cut_off_in_ns"`
	CutOff   bool          `json:"cut_off"` // what is needed next is gone
}

// Follower as its leader sees it.
type Follower struct {
	Node     base.NodeID   `json:"-"`
	Attached bool          `json:"attached"`
	Received base.Seq      `json:"received"`
	Flushed  base.Seq      `json:"flushed"`
	Applied  base.Seq      `json:"applied"`
	LagBytes int64         `json:"lag_bytes"` // of log that it has not on its disk, about
	Lag      time.Duration `json:"lag_ns"`
	Forecast Forecast      `json:"forecast"`
}

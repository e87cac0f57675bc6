// Package httpapi is the HTTP front end of a node: health and metrics for
// monitoring, a JSON API for administration, and one endpoint that runs SQL.
//
// It owns the wire format (types.go, value.go, docs/http.md), authentication of
// HTTP requests and the guards against other sites' web pages. What a request
// means is decided behind two interfaces: Node for administration and
// session.Gateway for SQL. Every queue, body and wait here has a bound.
//
// It must not import the engine, the control plane or the node: package server
// implements Node and opens the Server.
package httpapi

import (
	"context"
	"io"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
)

// Node is what the front end needs of a running node. Every method may be
// called on any node of the cluster: an operation that only the control
// leader, or only some replica, can do is forwarded by the implementation.
// Errors are *base.Error values; anything else is reported as a bug.
//
// What changes something returns when that is in force on every node that
// answers. Of those that do not it leaves a notice with ctx (base.Notice).
//
// The implementation must be safe for concurrent use and must honour ctx.
type Node interface {
	// Status gathers what all nodes know. A node that does not answer in time
	// is in the result with Reachable false and its replicas with Known false;
	// that is no error.
	Status(ctx context.Context) (*Status, error)
	// LocalStatus is what this node knows by itself, without asking anyone.
	LocalStatus(ctx context.Context) (*LocalStatus, error)
	// Ready says whether this node serves clients now.
	Ready(ctx context.Context) Readiness

	// CreateDatabase returns when the database can be used: agreed, placed
	// and with a leader. KindExists when the name is taken.
	CreateDatabase(ctx context.Context, name string, policy base.Policy) error
	// CreateDatabaseFrom makes a database from an SQLite file of exactly size
	// bytes. Nothing is left behind when it fails.
	CreateDatabaseFrom(ctx context.Context, name string, policy base.Policy, r io.Reader, size int64) error
	// AlterDatabase changes the fields of the policy that patch names and
	// returns the policy that then holds.
	AlterDatabase(ctx context.Context, name string, patch PolicyPatch) (base.Policy, error)
	// DropDatabase removes the database and its files from all nodes.
	DropDatabase(ctx context.Context, name string) error
	// ListDatabases lists databases by name.
	ListDatabases(ctx context.Context) ([]Database, error)

	// ListNodes lists members in the order of their names, from this node's
	// view of the control plane. Only Status asks the others.
	ListNodes(ctx context.Context) ([]NodeStatus, error)
	// MarkDead has other nodes make up for one that does not answer: for its vote,
	// and for its replicas of databases that are on fewer nodes than there are. It
	// returns by itself. One that answers is refused.
	MarkDead(ctx context.Context, id base.NodeID) error
	// RemoveNode takes a node out of the cluster for ever.
	RemoveNode(ctx context.Context, id base.NodeID) error

	// CreateUser, SetPassword, DropUser, Grant and Revoke change users. database
	// "*" stands for every database, and RightAdmin on "*" for the administration
	// of the cluster.
	CreateUser(ctx context.Context, name, password string) error
	SetPassword(ctx context.Context, name, password string) error
	DropUser(ctx context.Context, name string) error
	Grant(ctx context.Context, user, database string, right Right) error
	Revoke(ctx context.Context, user, database string) error
	// ListUsers lists users by name.
	ListUsers(ctx context.Context) ([]User, error)
	// Right returns the highest right that a user holds on a database, a
	// right on "*" included; "" when there is none. database may be "*".
	Right(user, database string) Right

	// Switchover moves leadership to target, or to the best follower when
	// target is zero, and returns who leads then.
	Switchover(ctx context.Context, database string, target base.NodeID) (base.NodeID, error)
	// Failover has target lead, or the best follower when target is zero, when
	// the leader is lost, and returns who leads then.
	Failover(ctx context.Context, database string, target base.NodeID, acceptLoss bool) (base.NodeID, error)
	// Snapshot returns a consistent SQLite file of this node's replica, its
	// exact size and the position that it holds. The caller closes it.
	Snapshot(ctx context.Context, database string) (io.ReadCloser, int64, base.Position, error)
	// Orphans lists writes of this database that were undone when an old
	// leader came back, from all nodes, oldest first.
	Orphans(ctx context.Context, database string) ([]Orphan, error)
	// SettleOrphans writes orphaned writes again, as new ones, where nothing newer
	// is in their way, or discards them. Both take them off the list.
	SettleOrphans(ctx context.Context, database string, which OrphanChoice, replay bool) ([]OrphanOutcome, error)
	// ShowLog shows each the entries of this node's replica's log, in order.
	ShowLog(ctx context.Context, database string, q LogQuery, each func(LogEntry) error) (*LogReport, error)
	// VerifyLog reads this node's replica's log from disk and checks all of it.
	VerifyLog(ctx context.Context, database string) (*LogReport, error)
	// Self is this node's id.
	Self() string
	// Changes sends the changes of this node's replica to a sink until ctx is
	// done, with a heartbeat when nothing else was sent for that long.
	Changes(ctx context.Context, database string, q changefeed.Request, heartbeat time.Duration, to changefeed.Sink) error
	// AddWebhook, DropWebhook and ListWebhooks manage the destinations that the
	// changes of a database are delivered to.
	AddWebhook(ctx context.Context, database string, q WebhookRequest) (AddedWebhook, error)
	DropWebhook(ctx context.Context, database, name string) error
	ListWebhooks(ctx context.Context, database string) ([]Webhook, error)
	// ContentHash has every replica hash its user tables at its own position.
	ContentHash(ctx context.Context, database string) ([]ReplicaHash, error)
}

package gateway

import (
	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
)

// Directory is what the gateway must know of the cluster. The node implements
// it from the control plane's state; it is safe for concurrent use.
type Directory interface {
	Self() base.NodeID
	NodeName(id base.NodeID) string
	// Database finds a database by name.
	Database(name string) (Database, bool)
	// Names lists the databases, sorted.
	Names() []string
	// Replica returns this node's replica of a database, or nil.
	Replica(id base.DatabaseID) replica.Replica
	// Users lists the users' names, sorted.
	Users() []string
	// Credential returns a user's stored SCRAM credential.
	Credential(user string) (string, bool)
	// Guard returns what a user may do in a database; false: nothing.
	Guard(user, database string) (replica.Guard, bool)
	// Changed is closed when any of this has changed.
	Changed() <-chan struct{}
}

// Database is a database as the control plane records it.
type Database struct {
	ID       base.DatabaseID
	Name     string
	Policy   base.Policy
	Epoch    base.Epoch
	Leader   base.NodeID
	Replicas []base.NodeID
	// Handed: the leader of the epoch before has handed over. What it was asked
	// it answers.
	Handed bool
}

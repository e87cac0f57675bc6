package node

import (
	"slices"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/failover"
	"github.com/skeindb/skein/internal/gateway"
	"github.com/skeindb/skein/internal/replica"
)

// directory shows the gateway the control plane's state.
type directory struct{ n *Node }

var _ gateway.Directory = directory{}

// Self implements gateway.Directory.
func (d directory) Self() base.NodeID { return d.n.identity.Node }

// NodeName implements gateway.Directory.
func (d directory) NodeName(id base.NodeID) string {
	if m, ok := d.n.control.State().Node(id); ok {
		return m.Name
	}
	return id.String()
}

// Database implements gateway.Directory.
func (d directory) Database(name string) (gateway.Database, bool) {
	db, ok := d.n.control.State().DatabaseByName(name)
	if !ok || db.Dropped {
		return gateway.Database{}, false
	}
	if d.n.isRemoved() {
		db.Leader = 0 // Sessions that are open find nobody any more.
	}
	return gateway.Database{
		ID: db.ID, Name: db.Name, Policy: db.Policy, Epoch: db.Epoch, Leader: db.Leader, Replicas: db.Replicas,
		Handed: failover.Reason(db.LastElection.Reason).HandedOver(),
	}, true
}

// Names implements gateway.Directory.
func (d directory) Names() []string {
	var names []string
	for _, db := range d.n.control.State().Databases() {
		if !db.Dropped {
			names = append(names, db.Name)
		}
	}
	slices.Sort(names)
	return names
}

// Replica implements gateway.Directory.
func (d directory) Replica(id base.DatabaseID) replica.Replica {
	r, err := d.n.replicaFor(id)
	if err != nil {
		return nil
	}
	return r
}

// Users implements gateway.Directory.
func (d directory) Users() []string {
	var names []string
	for _, u := range d.n.control.State().Users() {
		names = append(names, u.Name)
	}
	return names
}

// Credential implements gateway.Directory.
func (d directory) Credential(user string) (string, bool) {
	u, ok := d.n.control.State().User(user)
	return u.Credential, ok
}

// Guard implements gateway.Directory.
func (d directory) Guard(user, database string) (replica.Guard, bool) {
	u, ok := d.n.control.State().User(user)
	if !ok {
		return 0, false
	}
	switch u.Right(database) {
	case catalog.RightRead:
		return replica.GuardRead, true
	case catalog.RightWrite:
		return replica.GuardWrite, true
	case catalog.RightAdmin:
		return replica.GuardAdmin, true
	}
	return 0, false
}

// Changed implements gateway.Directory.
func (d directory) Changed() <-chan struct{} { return d.n.control.Changed() }

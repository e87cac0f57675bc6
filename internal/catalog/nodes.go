package catalog

import (
	"cmp"
	"slices"

	"github.com/skeindb/skein/internal/base"
)

// BootstrapCluster founds a cluster of one node, which votes.
type BootstrapCluster struct {
	ClusterID uint64 `json:"cluster_id"`
	Node      Node   `json:"node"`
}

// AddNode makes a node a member, joining. For a member it updates name and
// addresses, so that a join that was cut off can be repeated.
type AddNode struct {
	Node Node `json:"node"`
}

// UpdateNode sets the addresses that are not empty.
type UpdateNode struct {
	Node        base.NodeID `json:"node"`
	PeerAddress string      `json:"peer_address,omitempty"`
	PgAddress   string      `json:"pg_address,omitempty"`
	HTTPAddress string      `json:"http_address,omitempty"`
}

// NodeActive says that a node has caught up and may get replicas.
type NodeActive struct {
	Node base.NodeID `json:"node"`
}

// MarkDead says that a node is away for long; its replicas are made up for
// elsewhere. It keeps them and may return.
type MarkDead struct {
	Node base.NodeID `json:"node"`
}

// RemoveNode takes a node out of the cluster for good. It is refused when a
// database has its only full copy there, and, unless forced, when the node
// leads a database.
type RemoveNode struct {
	Node  base.NodeID `json:"node"`
	Force bool        `json:"force,omitempty"`
}

// SetVoter records whether a node votes in the control group. It is proposed
// together with the change of the group itself, by package control only.
type SetVoter struct {
	Node  base.NodeID `json:"node"`
	Voter bool        `json:"voter"`
}

func (BootstrapCluster) verb() string { return "bootstrap_cluster" }
func (AddNode) verb() string          { return "add_node" }
func (UpdateNode) verb() string       { return "update_node" }
func (NodeActive) verb() string       { return "node_active" }
func (MarkDead) verb() string         { return "mark_dead" }
func (RemoveNode) verb() string       { return "remove_node" }
func (SetVoter) verb() string         { return "set_voter" }

func (a BootstrapCluster) apply(d *draft) *base.Error {
	if d.clusterID != 0 {
		return base.Errorf(base.KindExists, "the cluster exists already, as %016x", d.clusterID)
	}
	if a.ClusterID == 0 {
		return base.Errorf(base.KindInvalid, "cluster id 0 names no cluster")
	}
	if err := d.checkNode(a.Node); err != nil {
		return err
	}
	d.clusterID = a.ClusterID
	a.Node.State, a.Node.Voter, a.Node.JoinedAt = NodeIsActive, true, d.applied
	d.insertNode(a.Node)
	return nil
}

func (a AddNode) apply(d *draft) *base.Error {
	if err := d.checkNode(a.Node); err != nil {
		return err
	}
	i := d.nodeAt(a.Node.ID)
	if i < 0 {
		return d.addNew(a.Node)
	}
	old := d.nodes[i]
	if old.State == NodeLeft {
		return base.Errorf(base.KindInvalid, "node %s has left the cluster and its id is not used again", old.ID).
			WithHint("start the node with an empty data folder; it then gets a new id")
	}
	a.Node.State, a.Node.Voter, a.Node.JoinedAt = old.State, old.Voter, old.JoinedAt
	d.nodes[i] = a.Node
	return nil
}

func (d *draft) addNew(n Node) *base.Error {
	members := 0
	for _, m := range d.nodes {
		if m.State != NodeLeft {
			members++
		}
	}
	if members >= MaxNodes {
		return base.Errorf(base.KindTooLarge, "the cluster has %d nodes, which is the limit", MaxNodes)
	}
	n.State, n.Voter, n.JoinedAt = NodeJoining, false, d.applied
	d.insertNode(n)
	return nil
}

func (d *draft) insertNode(n Node) {
	at, _ := slices.BinarySearchFunc(d.nodes, n.ID, func(m Node, id base.NodeID) int { return cmp.Compare(m.ID, id) })
	d.nodes = slices.Insert(d.nodes, at, n)
}

func (d *draft) checkNode(n Node) *base.Error {
	if n.ID == 0 || n.ID > base.MaxNodeID {
		return base.Errorf(base.KindInvalid, "node id %s is not allowed", n.ID)
	}
	if n.Name == "" || n.PeerAddress == "" {
		return base.Errorf(base.KindInvalid, "a node needs a name and an address for its peers")
	}
	if max(len(n.Name), len(n.PeerAddress), len(n.PgAddress), len(n.HTTPAddress)) > maxText {
		return base.Errorf(base.KindInvalid, "names and addresses of nodes have at most %d bytes", maxText)
	}
	if same, ok := d.NodeByName(n.Name); ok && same.ID != n.ID {
		return base.Errorf(base.KindExists, "node %s is already called %q", same.ID, n.Name).
			WithHint("choose another name, or remove the old node first if this one replaces it")
	}
	return nil
}

func (a UpdateNode) apply(d *draft) *base.Error {
	i, err := d.member(a.Node)
	if err != nil {
		return err
	}
	n := d.nodes[i]
	n.PeerAddress = cmp.Or(a.PeerAddress, n.PeerAddress)
	n.PgAddress = cmp.Or(a.PgAddress, n.PgAddress)
	n.HTTPAddress = cmp.Or(a.HTTPAddress, n.HTTPAddress)
	if err := d.checkNode(n); err != nil {
		return err
	}
	d.nodes[i] = n
	return nil
}

// member finds a node that has not left.
func (d *draft) member(id base.NodeID) (int, *base.Error) {
	i := d.nodeAt(id)
	if i < 0 {
		return 0, base.Errorf(base.KindNotFound, "node %s is not known", id)
	}
	if d.nodes[i].State == NodeLeft {
		return 0, base.Errorf(base.KindNotFound, "node %s has left the cluster", id)
	}
	return i, nil
}

func (a NodeActive) apply(d *draft) *base.Error {
	i, err := d.member(a.Node)
	if err != nil {
		return err
	}
	if d.nodes[i].State != NodeIsActive {
		d.nodes[i].State = NodeIsActive
		d.placeAll()
	}
	return nil
}

func (a MarkDead) apply(d *draft) *base.Error {
	i, err := d.member(a.Node)
	if err != nil {
		return err
	}
	if d.nodes[i].State != NodeDead {
		d.nodes[i].State = NodeDead
		d.placeAll()
	}
	return nil
}

func (a SetVoter) apply(d *draft) *base.Error {
	i, err := d.member(a.Node)
	if err != nil {
		return err
	}
	if !a.Voter && d.nodes[i].Voter && len(d.Voters()) == 1 {
		return base.Errorf(base.KindInvalid, "node %s is the only voter", a.Node)
	}
	d.nodes[i].Voter = a.Voter
	return nil
}

func (a RemoveNode) apply(d *draft) *base.Error {
	i := d.nodeAt(a.Node)
	if i < 0 {
		return base.Errorf(base.KindNotFound, "node %s is not known", a.Node)
	}
	n := d.nodes[i]
	if n.State == NodeLeft {
		return nil // Done before.
	}
	if d.lastMember(n) {
		return base.Errorf(base.KindInvalid, "node %s (%s) is the last one, or the only voter; it cannot leave", n.Name, n.ID).
			WithHint("stop the node to stop the cluster")
	}
	d.nodes[i].State, d.nodes[i].Voter = NodeLeft, false
	for j := range d.databases {
		if err := d.evict(j, n, a.Force); err != nil {
			return err
		}
	}
	d.placeAll()
	d.pruneLeft()
	return nil
}

// lastMember says whether nobody could go on without n.
func (d *draft) lastMember(n Node) bool {
	members := 0
	for _, m := range d.nodes {
		if m.State != NodeLeft {
			members++
		}
	}
	return members == 1 || (n.Voter && len(d.Voters()) == 1)
}

// evict takes a node out of one database's replicas.
func (d *draft) evict(at int, n Node, force bool) *base.Error {
	db := d.databases[at]
	if db.Dropped || !db.HasReplica(n.ID) {
		return nil
	}
	if db.Leader == n.ID {
		if !force {
			return base.Errorf(base.KindConflict, "node %s leads database %q", n.Name, db.Name).
				WithHint("switch its leader to another node first; force gives up what only this node has")
		}
		db.Leader = 0
	}
	gone := func(id base.NodeID) bool { return id == n.ID }
	db.Replicas, db.Copying = without(db.Replicas, gone), without(db.Copying, gone)
	if db.Epoch == 0 {
		d.place(&db) // It is empty, so that any node will do.
		db.countAnew()
	}
	if !db.secure() {
		return base.Errorf(base.KindConflict, "database %q has its only full copy on node %s", db.Name, n.Name).
			WithHint("add a replica elsewhere and wait until it is ready, or drop the database")
	}
	d.databases[at] = db
	return nil
}

// pruneLeft forgets the nodes that left longest ago.
func (d *draft) pruneLeft() {
	var left []Node
	for _, n := range d.nodes {
		if n.State == NodeLeft {
			left = append(left, n)
		}
	}
	if len(left) <= maxLeft {
		return
	}
	oldest := slices.MinFunc(left, func(a, b Node) int { return cmp.Or(cmp.Compare(a.JoinedAt, b.JoinedAt), cmp.Compare(a.ID, b.ID)) })
	d.nodes = slices.DeleteFunc(d.nodes, func(n Node) bool { return n.ID == oldest.ID })
}

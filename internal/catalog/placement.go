package catalog

import (
	"cmp"
	"slices"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/leadership"
)

// placeAll gives every database the replicas that its policy asks for and the
// active nodes allow.
func (d *draft) placeAll() {
	for i := range d.databases {
		if !d.databases[i].Dropped {
			d.place(&d.databases[i])
		}
	}
}

// place adds replicas to db until it has as many as wanted, each on the active
// node that holds the fewest; the node that joined first wins a tie.
func (d *draft) place(db *Database) {
	want := d.wanted(*db)
	load := d.load()
	for d.present(*db) < want {
		free := slices.DeleteFunc(slices.Clone(d.nodes), func(n Node) bool {
			return n.State != NodeIsActive || db.HasReplica(n.ID)
		})
		if len(free) == 0 {
			return
		}
		n := slices.MinFunc(free, byLoad(load))
		db.add(n.ID)
		load[n.ID]++
	}
}

// countAnew counts a database that has no history yet by its replicas and
// policy. From the first epoch on only its leader has the counting changed.
func (d *Database) countAnew() {
	if c := leadership.Count(d.Replicas, d.Policy); d.Epoch == 0 && !c.Same(d.Counting) {
		d.count(c)
	}
}

func byLoad(load map[base.NodeID]int) func(a, b Node) int {
	return func(a, b Node) int {
		return cmp.Or(cmp.Compare(load[a.ID], load[b.ID]), cmp.Compare(a.JoinedAt, b.JoinedAt), cmp.Compare(a.ID, b.ID))
	}
}

// add makes a node a replica. Where there is a history it first has to copy.
func (d *Database) add(id base.NodeID) {
	d.Replicas = slices.Sorted(slices.Values(append(slices.Clone(d.Replicas), id)))
	if d.Epoch > 0 {
		d.Copying = slices.Sorted(slices.Values(append(slices.Clone(d.Copying), id)))
	}
	d.countAnew()
}

// wanted is how many replicas the policy asks for.
func (s *State) wanted(db Database) int {
	if db.Policy.Replicas > 0 {
		return db.Policy.Replicas
	}
	active := 0
	for _, n := range s.nodes {
		if n.State == NodeIsActive {
			active++
		}
	}
	return active
}

// present counts the replicas whose nodes are not given up for dead.
func (s *State) present(db Database) int {
	return len(without(db.Replicas, func(id base.NodeID) bool {
		n, ok := s.Node(id)
		return !ok || n.State == NodeDead
	}))
}

// load counts the replicas on each node.
func (s *State) load() map[base.NodeID]int {
	load := make(map[base.NodeID]int)
	for _, db := range s.databases {
		if db.Dropped {
			continue
		}
		for _, id := range db.Replicas {
			load[id]++
		}
	}
	return load
}

// Surplus returns a replica that the database's leader may take away by
// SetReplicas, when enough full ones remain: one on a dead node first, then
// one that still copies, then the one on the most loaded node.
func (s *State) Surplus(id base.DatabaseID) (base.NodeID, bool) {
	db, ok := s.Database(id)
	if !ok || db.Dropped || db.Leader == 0 {
		return 0, false
	}
	full := db
	full.Replicas, full.Copying = db.Full(), nil
	spare := s.present(full) - s.wanted(db)
	load := s.load()
	var candidates []Node
	for _, r := range db.Replicas {
		n, _ := s.Node(r)
		expendable := n.State == NodeDead || db.IsCopying(r)
		if r != db.Leader && (spare > 0 || (spare == 0 && expendable && db.Policy.Replicas > 0)) {
			candidates = append(candidates, n)
		}
	}
	if len(candidates) == 0 {
		return 0, false
	}
	rank := func(n Node) int {
		switch {
		case n.State == NodeDead:
			return 2
		case db.IsCopying(n.ID):
			return 1
		}
		return 0
	}
	return slices.MaxFunc(candidates, func(a, b Node) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), byLoad(load)(a, b))
	}).ID, true
}

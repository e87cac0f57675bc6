package catalog

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/skeindb/skein/internal/base"
)

// Check says which invariant of the package the state breaks, if any.
func (s *State) Check() error {
	if !ascending(s.nodes, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) }) {
		return fmt.Errorf("nodes are not in order")
	}
	if !ascending(s.databases, func(a, b Database) int { return cmp.Compare(a.ID, b.ID) }) {
		return fmt.Errorf("databases are not in order")
	}
	if !ascending(s.users, func(a, b User) int { return cmp.Compare(a.Name, b.Name) }) {
		return fmt.Errorf("users are not in order")
	}
	if !ascending(s.webhooks, compareWebhooks) {
		return fmt.Errorf("webhooks are not in order")
	}
	if slices.ContainsFunc(s.recent, func(r recent) bool { return r.Result == nil }) {
		return fmt.Errorf("a remembered command has no result")
	}
	for _, d := range s.databases {
		if err := s.checkDatabase(d); err != nil {
			return fmt.Errorf("database %d: %w", d.ID, err)
		}
	}
	return nil
}

func (s *State) checkDatabase(d Database) error {
	if d.ID >= s.nextDatabase {
		return fmt.Errorf("id is not below the next, %d", s.nextDatabase)
	}
	if d.Dropped {
		return nil
	}
	if !ascending(d.Replicas, cmp.Compare[base.NodeID]) || !ascending(d.Copying, cmp.Compare[base.NodeID]) {
		return fmt.Errorf("replicas are not in order")
	}
	for _, id := range d.Replicas {
		if n, ok := s.Node(id); !ok || n.State == NodeLeft {
			return fmt.Errorf("replica on node %s, which is not a member", id)
		}
	}
	for _, id := range d.Copying {
		if !d.HasReplica(id) {
			return fmt.Errorf("node %s copies and is no replica", id)
		}
	}
	if d.Leader != 0 && (!d.HasReplica(d.Leader) || d.IsCopying(d.Leader)) {
		return fmt.Errorf("leader %s has no full copy", d.Leader)
	}
	if err := d.Counting.Validate(); err != nil {
		return err
	}
	if !d.secure() {
		return fmt.Errorf("no replica has a full copy")
	}
	return nil
}

func ascending[E any](s []E, compare func(a, b E) int) bool {
	return slices.IsSortedFunc(s, compare) && len(slices.CompactFunc(slices.Clone(s), func(a, b E) bool { return compare(a, b) == 0 })) == len(s)
}

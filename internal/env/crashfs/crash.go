package crashfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// Crash is a loss of power: open handles die, and of what was not synced only
// what the seed chooses is left.
func (d *Disk) Crash(seed uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.boot++
	d.root.crash(seed, map[*node]bool{})
}

// Clone returns a disk of its own with the same files, as the next process
// finds them when this one is killed and the machine runs on: what was not
// synced is there, and still not synced. It has no fault function.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &Disk{capacity: d.capacity, nextID: d.nextID}
	c.root = d.root.clone(map[*node]*node{})
	return c
}

// CrashClone returns a disk of its own as this one would be after Crash(seed).
func (d *Disk) CrashClone(seed uint64) *Disk {
	c := d.Clone()
	c.Crash(seed)
	return c
}

func (n *node) clone(copies map[*node]*node) *node {
	if n == nil {
		return nil
	}
	if c, ok := copies[n]; ok {
		return c
	}
	c := &node{id: n.id, dir: n.dir, data: slices.Clone(n.data), durable: slices.Clone(n.durable),
		pending: slices.Clone(n.pending), allocated: n.allocated}
	copies[n] = c
	if !n.dir {
		return c
	}
	c.entries, c.durableEntries = map[string]*node{}, map[string]*node{}
	for name, child := range n.entries {
		c.entries[name] = child.clone(copies)
	}
	for name, child := range n.durableEntries {
		c.durableEntries[name] = child.clone(copies)
	}
	for _, p := range n.pendingEntries {
		c.pendingEntries = append(c.pendingEntries, entryChange{removed: p.removed, added: p.added, node: p.node.clone(copies)})
	}
	return c
}

// crash leaves in a node, and in those that can still be reached from it, what
// is durable.
func (n *node) crash(seed uint64, seen map[*node]bool) {
	if seen[n] {
		return
	}
	seen[n] = true
	n.settle(seed)
	if !n.dir {
		n.data = slices.Clone(n.durable)
		n.allocated = min(n.allocated, int64(len(n.data)))
		return
	}
	n.entries = maps.Clone(n.durableEntries)
	for _, child := range n.entries {
		child.crash(seed, seen)
	}
}

// The ways in which unsynced changes survive.
const (
	keepNone = iota
	keepAll
	keepPrefix  // the first few changes, the last of them torn
	keepSectors // each sector for itself: the first few changes to it
	keepWays
)

// settle decides what of the pending changes reaches the platter and forgets
// the others. One way holds for the whole disk, the rest is each node's own.
func (n *node) settle(seed uint64) {
	way := rand.New(rand.NewPCG(seed, 0)).IntN(keepWays)
	random := rand.New(rand.NewPCG(seed, n.id))
	if n.dir {
		n.settleEntries(way, random)
		return
	}
	n.settleData(way, random)
}

func (n *node) settleEntries(way int, random *rand.Rand) {
	prefix := random.IntN(len(n.pendingEntries) + 1)
	for i, c := range n.pendingEntries {
		keep := way == keepAll || (way == keepPrefix && i < prefix) || (way == keepSectors && random.IntN(2) == 0)
		if keep {
			applyEntry(n.durableEntries, c)
		}
	}
	n.pendingEntries = nil
}

func (n *node) settleData(way int, random *rand.Rand) {
	count := len(n.pending)
	prefix := random.IntN(count + 1)
	depth := map[int64]int{}
	// reached says how many of the changes a sector has seen.
	reached := func(sector int64) int {
		k, ok := depth[sector]
		if !ok {
			k = random.IntN(count + 1)
			depth[sector] = k
		}
		return k
	}
	for i, c := range n.pending {
		switch way {
		case keepAll:
			n.durable = c.apply(n.durable)
		case keepPrefix:
			n.settlePrefix(c, i, prefix, random)
		case keepSectors:
			n.settleSectors(c, i, reached)
		}
	}
	n.pending = nil
}

func (n *node) settlePrefix(c change, i, prefix int, random *rand.Rand) {
	if i == prefix && !c.resize {
		c.data = c.data[:random.IntN(len(c.data))]
	}
	if i <= prefix && (len(c.data) > 0 || c.resize && i < prefix) {
		n.durable = c.apply(n.durable)
	}
}

// settleSectors applies the sectors of a write that have come as far as
// change i. The size of the file counts as a sector of its own.
func (n *node) settleSectors(c change, i int, reached func(int64) int) {
	if c.resize {
		if i < reached(-1) {
			n.durable = c.apply(n.durable)
		}
		return
	}
	for at := int64(0); at < int64(len(c.data)); {
		sector := (c.offset + at) / SectorSize
		end := min(int64(len(c.data)), (sector+1)*SectorSize-c.offset)
		if i < reached(sector) {
			part := change{offset: c.offset + at, data: c.data[at:end]}
			n.durable = part.apply(n.durable)
		}
		at = end
	}
}

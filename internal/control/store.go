package control

import (
	"go.etcd.io/raft/v3/raftpb"

	"github.com/skeindb/skein/internal/base"
)

// Identity says whose data a store holds.
type Identity struct {
	ClusterID uint64
	Node      base.NodeID
}

// Saved is everything that a store holds. A nil Snapshot means a node that has
// not been in any cluster.
type Saved struct {
	Identity  Identity
	HardState *raftpb.HardState
	Snapshot  *raftpb.Snapshot
	// Entries follow the snapshot without a gap.
	Entries []*raftpb.Entry
}

// Batch is one atomic change of a store.
type Batch struct {
	// Identity is written once, with the first snapshot.
	Identity *Identity
	// HardState replaces the stored one.
	HardState *raftpb.HardState
	// Entries are appended; stored ones at and after the first are dropped.
	Entries []*raftpb.Entry
	// Snapshot replaces the stored one.
	Snapshot *raftpb.Snapshot
	// Reset drops all stored entries before Entries are appended.
	Reset bool
	// CompactTo drops the entries up to and with this index.
	CompactTo uint64
}

// Store keeps the promises of a control plane. It is used by one goroutine at
// a time. After an error of Save nothing is known of what is stored, and it is
// not used again but closed.
type Store interface {
	// Load returns what is stored. Bytes that fail their checksum, and logs
	// with a gap, are KindCorrupt.
	Load() (Saved, error)
	// Save makes a batch durable, all of it or nothing.
	Save(Batch) error
	Close() error
}

package control

import (
	"slices"
	"sync"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

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

// MemoryStore is a Store that lives as long as the process. It may be opened
// again after Close, as a disk may. It is safe for concurrent use.
type MemoryStore struct {
	mu     sync.Mutex // guards saved
	saved  Saved
	failed error
}

// NewMemoryStore returns an empty store.
func NewMemoryStore() *MemoryStore { return &MemoryStore{} }

// FailWith makes every Save from now on return err; nil ends that.
func (m *MemoryStore) FailWith(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failed = err
}

// Load returns a copy of what is stored.
func (m *MemoryStore) Load() (Saved, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.saved
	s.Entries = slices.Clone(s.Entries)
	return s, nil
}

// Save stores a copy of a batch.
func (m *MemoryStore) Save(b Batch) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failed != nil {
		return m.failed
	}
	if b.Identity != nil {
		m.saved.Identity = *b.Identity
	}
	if b.HardState != nil {
		m.saved.HardState = proto.Clone(b.HardState).(*raftpb.HardState)
	}
	if b.Snapshot != nil {
		m.saved.Snapshot = proto.Clone(b.Snapshot).(*raftpb.Snapshot)
	}
	m.saveEntries(b)
	return nil
}

func (m *MemoryStore) saveEntries(b Batch) {
	floor := max(b.CompactTo, m.saved.Snapshot.GetMetadata().GetIndex())
	keep := slices.DeleteFunc(slices.Clone(m.saved.Entries), func(e *raftpb.Entry) bool {
		replaced := len(b.Entries) > 0 && e.GetIndex() >= b.Entries[0].GetIndex()
		return b.Reset || replaced || e.GetIndex() <= floor
	})
	for _, e := range b.Entries {
		if e.GetIndex() > floor {
			keep = append(keep, proto.Clone(e).(*raftpb.Entry))
		}
	}
	m.saved.Entries = keep
}

// Close does nothing: what is stored stays.
func (m *MemoryStore) Close() error { return nil }

package control

import (
	"slices"
	"sync"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

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

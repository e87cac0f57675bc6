package control

import (
	"fmt"

	"github.com/klauspost/compress/s2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
)

// maxState bounds a decoded snapshot; the catalog's limits keep it far below.
const maxState = 32 << 20

func encodeSnapshotData(s *catalog.State) []byte { return s2.EncodeBetter(nil, s.Encode()) }

func decodeSnapshotData(b []byte) (*catalog.State, error) {
	n, err := s2.DecodedLen(b)
	if err != nil || n > maxState {
		return nil, base.Errorf(base.KindCorrupt, "control snapshot: bad length %d", n)
	}
	raw, err := s2.Decode(nil, b)
	if err != nil {
		return nil, base.Errorf(base.KindCorrupt, "control snapshot: %w", err)
	}
	return catalog.DecodeState(raw)
}

// applyAll brings the catalog up to what is committed.
func (l *loop) applyAll(ready raft.Ready) error {
	if !raft.IsEmptySnap(ready.Snapshot) {
		if err := l.applySnapshot(ready.Snapshot); err != nil {
			return err
		}
	}
	for _, e := range ready.CommittedEntries {
		if err := l.apply(e); err != nil {
			return fmt.Errorf("apply control entry %d: %w", e.GetIndex(), err)
		}
	}
	return nil
}

// applySnapshot replaces the catalog by a leader's. Commands that it contains
// are answered here, since they are not applied one by one.
func (l *loop) applySnapshot(s *raftpb.Snapshot) error {
	state, err := decodeSnapshotData(s.GetData())
	if err != nil {
		return err
	}
	l.state, l.conf, l.snapshotAt = state, s.GetMetadata().GetConfState(), s.GetMetadata().GetIndex()
	l.noteRemoval()
	for _, id := range l.c.waiters.ids() {
		if r, ok := state.Recent(id); ok {
			l.applied = append(l.applied, appliedCommand{id, r})
		}
	}
	return nil
}

func (l *loop) apply(e *raftpb.Entry) error {
	switch {
	case e.GetType() == raftpb.EntryConfChangeV2:
		return l.applyConfChange(e)
	case e.GetType() != raftpb.EntryNormal:
		return base.Errorf(base.KindUnsupported, "entry of type %s", e.GetType()).WithHint("upgrade this node")
	case len(e.GetData()) == 0: // Every new leader's first.
		l.state = l.state.Advance(e.GetIndex())
		return nil
	}
	return l.applyCommand(e.GetIndex(), e.GetData())
}

func (l *loop) applyCommand(index uint64, data []byte) error {
	cmd, err := catalog.DecodeCommand(data)
	if err != nil {
		return err
	}
	next, result := l.state.Apply(index, cmd)
	l.state = next
	l.noteRemoval()
	l.applied = append(l.applied, appliedCommand{cmd.ID, result})
	return nil
}

// appliedCommand is a command whose proposer has not been told yet.
type appliedCommand struct {
	id     catalog.ID
	result catalog.Result
}

func (l *loop) answerCommands() {
	for _, a := range l.applied {
		l.c.waiters.complete(a.id, a.result)
	}
	l.applied = nil
}

// membership is a node's part in the group, as the catalog has it.
type membership uint8

const (
	outside membership = iota
	learner
	voter
)

func membershipOf(s *catalog.State, id base.NodeID) membership {
	switch n, ok := s.Node(id); {
	case !ok || n.State == catalog.NodeLeft:
		return outside
	case n.Voter:
		return voter
	}
	return learner
}

// applyConfChange applies a change of the group with the command that it
// carries. The catalog decides: if the command leaves the node's membership as
// it was, having been refused or being a repetition, so does the group.
func (l *loop) applyConfChange(e *raftpb.Entry) error {
	var cc raftpb.ConfChangeV2
	if err := proto.Unmarshal(e.GetData(), &cc); err != nil {
		return base.Errorf(base.KindCorrupt, "decode change of the group: %w", err)
	}
	if len(cc.GetChanges()) != 1 {
		return base.Errorf(base.KindUnsupported, "change of the group in %d steps", len(cc.GetChanges())).WithHint("upgrade this node")
	}
	id := base.NodeID(cc.GetChanges()[0].GetNodeId())
	before := membershipOf(l.state, id)
	if err := l.applyCommand(e.GetIndex(), cc.GetContext()); err != nil {
		return err
	}
	if membershipOf(l.state, id) != before {
		l.conf = l.group.ApplyConfChange(&cc)
		l.confChanged = true
	}
	return nil
}

// noteRemoval makes this node silent once it is out of the cluster.
func (l *loop) noteRemoval() {
	if n, ok := l.state.Node(l.c.o.Self); ok && n.State == catalog.NodeLeft && !l.removed {
		l.removed = true
		l.c.env.Log.Warn("this node has left its cluster")
	}
}

// maybeSnapshot writes the catalog whole, so that the log can be cut, every so
// often and whenever the group has changed.
func (l *loop) maybeSnapshot() error {
	at := l.state.Applied()
	if at == l.snapshotAt || (!l.confChanged && at-l.snapshotAt < l.c.o.SnapshotEvery) {
		return nil
	}
	snapshot, err := l.log.CreateSnapshot(at, l.conf, encodeSnapshotData(l.state))
	if err != nil {
		return fmt.Errorf("make snapshot at %d: %w", at, err)
	}
	if err := l.save(Batch{Snapshot: snapshot, HardState: l.hard, CompactTo: at}); err != nil {
		return err
	}
	l.snapshotAt, l.confChanged, l.commitUnsaved = at, false, false
	first, _ := l.log.FirstIndex()
	if at > l.c.o.KeepEntries+first {
		return l.log.Compact(at - l.c.o.KeepEntries)
	}
	return nil
}

package control_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/control"
	"github.com/skeindb/skein/internal/control/controltest"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/sqlite"
)

func quietEnv() *env.Env { return env.Real(slog.New(slog.NewTextHandler(io.Discard, nil))) }

func openStore(t testing.TB, dir string) control.Store {
	t.Helper()
	s, err := control.OpenStore(quietEnv(), dir, "")
	if err != nil {
		t.Fatalf("open store: %v", err)
	}
	return s
}

func load(t testing.TB, s control.Store) control.Saved {
	t.Helper()
	saved, err := s.Load()
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	return saved
}

func entry(index, term uint64, data string) *raftpb.Entry {
	e := &raftpb.Entry{Index: &index, Term: &term, Type: raftpb.EntryNormal.Enum()}
	if data != "" { // A new leader's first entry has none.
		e.Data = []byte(data)
	}
	return e
}

func snapshotAt(index, term uint64) *raftpb.Snapshot {
	return &raftpb.Snapshot{Data: fmt.Appendf(nil, "state at %d", index), Metadata: &raftpb.SnapshotMetadata{
		Index: &index, Term: &term, ConfState: raftpb.EnsureConfState(&raftpb.ConfState{Voters: []uint64{1<<63 + 1, 2}}),
	}}
}

func promise(term, vote, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: &term, Vote: &vote, Commit: &commit}
}

func firstBatch() control.Batch {
	return control.Batch{
		Identity: &control.Identity{ClusterID: 1<<63 + 5, Node: 1<<63 + 1}, HardState: promise(1, 0, 1), Snapshot: snapshotAt(1, 1), Reset: true,
	}
}

func sameSaved(a, b control.Saved) error {
	if a.Identity != b.Identity || !proto.Equal(a.HardState, b.HardState) || !proto.Equal(a.Snapshot, b.Snapshot) {
		return fmt.Errorf("%v %v %v\nand %v %v %v", a.Identity, a.HardState, a.Snapshot, b.Identity, b.HardState, b.Snapshot)
	}
	if len(a.Entries) != len(b.Entries) {
		return fmt.Errorf("%d and %d entries", len(a.Entries), len(b.Entries))
	}
	for i := range a.Entries {
		if !proto.Equal(a.Entries[i], b.Entries[i]) {
			return fmt.Errorf("entry %v and %v", a.Entries[i], b.Entries[i])
		}
	}
	return nil
}

// TestStoresHoldTheSame drives both stores with the same batches, such as the
// loop makes, and opens the file anew in between.
func TestStoresHoldTheSame(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		dir := t.TempDir()
		memory, file := control.Store(control.NewMemoryStore()), openStore(t, dir)
		defer func() { _ = file.Close() }()
		last, snapshot, term := uint64(1), uint64(1), uint64(1)
		both := func(b control.Batch) {
			if err := memory.Save(b); err != nil {
				r.Fatal(err)
			}
			if err := file.Save(b); err != nil {
				r.Fatal(err)
			}
		}
		both(firstBatch())
		for range rapid.IntRange(1, 12).Draw(r, "steps") {
			switch rapid.SampledFrom([]string{"append", "snapshot", "reset", "reopen"}).Draw(r, "step") {
			case "append":
				from := rapid.Uint64Range(snapshot+1, last+1).Draw(r, "from")
				n := rapid.Uint64Range(1, 4).Draw(r, "entries")
				term++
				b := control.Batch{HardState: promise(term, 1<<63+1, snapshot)}
				for i := range n {
					b.Entries = append(b.Entries, entry(from+i, term, rapid.StringN(0, 20, 20).Draw(r, "data")))
				}
				last = from + n - 1
				both(b)
			case "snapshot":
				snapshot = rapid.Uint64Range(snapshot, last).Draw(r, "at")
				both(control.Batch{Snapshot: snapshotAt(snapshot, term), HardState: promise(term, 0, snapshot), CompactTo: snapshot})
			case "reset":
				snapshot = last + rapid.Uint64Range(1, 5).Draw(r, "ahead")
				last = snapshot
				both(control.Batch{Snapshot: snapshotAt(snapshot, term), HardState: promise(term, 0, snapshot), Reset: true})
			case "reopen":
				if err := file.Close(); err != nil {
					r.Fatal(err)
				}
				file = openStore(t, dir)
			}
			if err := sameSaved(load(t, memory), load(t, file)); err != nil {
				r.Fatal(err)
			}
		}
	})
}

// TestDamagedFilesAreRefused changes one thing in a good file at a time.
func TestDamagedFilesAreRefused(t *testing.T) {
	for _, damage := range []string{
		"UPDATE control_identity SET node=node+1",
		"UPDATE control_promise SET term=term-1",
		"UPDATE control_promise SET vote=7",
		"UPDATE control_log SET term=term+1 WHERE position=3",
		"UPDATE control_log SET data=x'00' WHERE position=2",
		"UPDATE control_log SET data='text' WHERE position=2",
		"UPDATE control_log SET position=9 WHERE position=4",
		"DELETE FROM control_log WHERE position=3",
		"DELETE FROM control_log WHERE position=4", // It was agreed on.
		"DELETE FROM control_snapshot",
		"DELETE FROM control_promise",
		"DELETE FROM control_identity",
		"UPDATE control_snapshot SET data=substr(data,2)",
		"UPDATE control_snapshot SET members=x''",
		"UPDATE control_snapshot SET position=2",
	} {
		t.Run(damage, func(t *testing.T) {
			dir := t.TempDir()
			fill(t, dir)
			harm(t, dir, damage)
			s := openStore(t, dir)
			defer func() { _ = s.Close() }()
			if _, err := s.Load(); base.KindOf(err) != base.KindCorrupt {
				t.Errorf("load: %v; want corrupt", err)
			}
		})
	}
}

func fill(t *testing.T, dir string) {
	t.Helper()
	s := openStore(t, dir)
	for _, b := range []control.Batch{
		firstBatch(),
		{HardState: promise(2, 2, 1), Entries: []*raftpb.Entry{entry(2, 2, "two"), entry(3, 2, "three"), entry(4, 2, "four")}},
		{HardState: promise(2, 2, 4)},
	} {
		if err := s.Save(b); err != nil {
			t.Fatal(err)
		}
	}
	load(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func harm(t *testing.T, dir, sql string) {
	t.Helper()
	conn, err := sqlite.OpenConn(context.Background(), dir+"/"+control.FileName, sqlite.ConnOptions{Role: sqlite.RoleTool})
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Exec(sql); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOtherVersionsAndOwnersAreRefused(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	_, err := control.Open(quietEnv(), control.Options{Self: 77, Dir: dir, Messenger: nowhere{}})
	if base.KindOf(err) != base.KindWrongCluster {
		t.Errorf("another node's folder: %v", err)
	}
	_, err = control.Open(quietEnv(), control.Options{Self: 1<<63 + 1, Dir: dir, Messenger: nowhere{}})
	if base.KindOf(err) != base.KindCorrupt { // Its snapshot is no catalog.
		t.Errorf("a snapshot of nonsense: %v", err)
	}
	harm(t, dir, "UPDATE control_identity SET version=2, sum="+control.IdentitySum(2, 1<<63+5, 1<<63+1))
	s := openStore(t, dir)
	defer func() { _ = s.Close() }()
	if _, err := s.Load(); base.KindOf(err) != base.KindUnsupported {
		t.Errorf("a later version: %v", err)
	}
}

type nowhere struct{}

func (nowhere) Send(base.NodeID, []byte) {}

func (nowhere) Call(context.Context, base.NodeID, string, []byte) ([]byte, error) {
	return nil, base.Errorf(base.KindUnavailable, "nowhere")
}

func TestSecondProcessIsKeptOut(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	defer func() { _ = s.Close() }()
	synctest.Test(t, func(t *testing.T) { // The wait for the lock is virtual.
		if second, err := control.OpenStore(quietEnv(), dir, ""); err == nil {
			_ = second.Close()
			t.Error("two stores hold one file")
		}
	})
}

// TestClusterSurvivesRestarts keeps the promises in files, stops everything in
// the middle of work, and finds it all again.
func TestClusterSurvivesRestarts(t *testing.T) {
	dirs := map[base.NodeID]string{1: t.TempDir(), 2: t.TempDir(), 3: t.TempDir()}
	inBubble(t, func(t *testing.T, c *cluster) {
		c.tune = func(o *control.Options) {
			o.Store, o.Dir, o.SnapshotEvery = nil, dirs[o.Self], 16
		}
		c.found(3)
		for round := range 4 {
			for i := range 10 {
				c.create(c.nodes[base.NodeID(i%3+1)], fmt.Sprintf("r%d_%d", round, i))
			}
			term := c.leader().Term()
			for _, m := range c.running() {
				c.kill(m.id)
			}
			for id := range dirs {
				m := c.start(id)
				if n := len(m.State().Databases()); n < 10*round {
					t.Errorf("node %d remembers %d databases right after its start", id, n)
				}
			}
			if now := c.leader().Term(); now <= term {
				t.Errorf("term %d after %d", now, term)
			}
			for _, m := range c.running() {
				if err := m.ReadIndex(t.Context()); err != nil {
					t.Fatal(err)
				}
				if n := len(m.State().Databases()); n != 10*(round+1) {
					t.Errorf("node %d has %d databases", m.id, n)
				}
			}
		}
		c.sameCatalog()
	})
}

func TestDamagedFileStopsTheNodeAtOpen(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, c *cluster) {
		c.tune = func(o *control.Options) { o.Store, o.Dir = nil, dir }
		c.found(1)
		c.create(c.nodes[1], "app")
		c.kill(1)
	})
	harm(t, dir, "UPDATE control_log SET data=zeroblob(length(data)) WHERE length(data)>0")
	net := controltest.New(quietEnv().Clock, 1)
	_, err := control.Open(quietEnv(), control.Options{Self: 1, Dir: dir, Messenger: net.Messenger(1)})
	if e := base.AsError(err); e.Kind != base.KindCorrupt || e.Hint == "" {
		t.Errorf("open: %v", err)
	}
}

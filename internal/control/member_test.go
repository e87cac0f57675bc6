package control_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/control"
)

func TestJoinThroughAnyMember(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.found(3)
		for i, via := range []base.NodeID{2, 3} {
			m := c.start(base.NodeID(4 + i))
			if err := m.Join(t.Context(), 0, m.Via(via), describe(m.id)); err != nil {
				t.Fatalf("join through node %d: %v", via, err)
			}
			if n, ok := m.State().Node(m.id); !ok || n.PeerAddress != describe(m.id).PeerAddress {
				t.Errorf("node %d does not find itself in its catalog", m.id)
			}
		}
		c.settle(5, 5)
	})
}

func TestManyJoinAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.found(3)
		leader := c.leader().id
		c.net.Weather(time.Millisecond, 0, 0) // All arrive at the same moment.
		joined := make(chan error)
		for id := base.NodeID(4); id <= 7; id++ {
			m := c.start(id)
			go func() { joined <- m.Join(withLimit(t, 5*time.Second), clusterID, m.Via(leader), describe(m.id)) }()
		}
		for range 4 {
			if err := <-joined; err != nil {
				t.Errorf("join: %v", err)
			}
		}
		c.settle(7, 5)
	})
}

func TestJoinWaitsForALeader(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.found(3)
		c.kill(c.leader().id)
		via := c.running()[0]
		m := c.start(9)
		if err := m.Join(t.Context(), clusterID, m.Via(via.id), describe(9)); err != nil {
			t.Fatalf("join during an election: %v", err)
		}
	})
}

func TestJoinCanBeRepeated(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.found(3)
		m := c.start(4)
		dropped := false
		via := func(ctx context.Context, method string, request []byte) ([]byte, error) {
			answer, err := m.Via(1)(ctx, method, request)
			if !dropped {
				dropped = true
				return nil, base.Errorf(base.KindUnavailable, "the answer is lost").WithOutcome(base.Indeterminate)
			}
			return answer, err
		}
		if err := m.Join(t.Context(), clusterID, via, describe(4)); err != nil {
			t.Fatalf("join: %v", err)
		}
		c.settle(4, 3)
		if err := m.Join(t.Context(), clusterID, via, describe(4)); base.KindOf(err) != base.KindExists {
			t.Errorf("a member joins again: %v", err)
		}
		if err := m.Bootstrap(t.Context(), 7, describe(4)); base.KindOf(err) != base.KindExists {
			t.Errorf("a member founds another cluster: %v", err)
		}
	})
}

func TestRemoveFollowerAndLeader(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.found(5)
		for want := 4; want >= 2; want-- {
			leader := c.leader()
			victim := leader
			if want == 4 { // a follower first, then leaders
				for _, m := range c.running() {
					if m != leader {
						victim = m
					}
				}
			}
			by := c.running()[0]
			if by == victim {
				by = c.running()[1]
			}
			if err := by.Remove(withLimit(t, 5*time.Second), victim.id, false); err != nil {
				t.Fatalf("remove node %d: %v", victim.id, err)
			}
			c.eventually(3*time.Second, func() error {
				if s := victim.Status(); s.Role != control.RoleRemoved {
					return fmt.Errorf("node %d is %s", victim.id, s.Role)
				}
				return nil
			})
			c.kill(victim.id)
			c.settle(want, wantVoters(want))
			c.create(c.running()[0], fmt.Sprintf("with%d", want))
		}
	})
}

func TestLeaveFromItself(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.found(3)
		for _, m := range []*member{c.leader(), nil} {
			if m == nil {
				m = c.running()[0]
			}
			if err := m.Leave(withLimit(t, 5*time.Second)); err != nil {
				t.Fatalf("leave: %v", err)
			}
			if _, err := m.propose(time.Second, catalog.SetSetting{Setting: "a", Value: "b"}); base.KindOf(err) != base.KindUnavailable {
				t.Errorf("a node that left proposes: %v", err)
			}
			c.kill(m.id)
			c.leader()
		}
		last := c.running()[0]
		if err := last.Leave(withLimit(t, 5*time.Second)); base.KindOf(err) != base.KindInvalid {
			t.Errorf("the last node leaves: %v", err)
		}
	})
}

func TestRemovalThatLosesDataIsRefusedAndTheNodeStays(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.found(3)
		p := base.DefaultPolicy()
		p.Replicas = 1
		r, err := c.nodes[1].propose(time.Second, catalog.CreateDatabase{Name: "single", Policy: p})
		if err != nil {
			t.Fatal(err)
		}
		db, _ := c.nodes[1].State().Database(r.Database)
		home := db.Replicas[0]
		if _, err := c.nodes[1].propose(time.Second, catalog.Elect{Database: db.ID, Epoch: 1, Revision: db.Counting.Revision, Leader: home, Reason: "first"}); err != nil {
			t.Fatal(err)
		}
		if err := c.nodes[1].Remove(withLimit(t, time.Second), home, true); base.KindOf(err) != base.KindConflict {
			t.Errorf("removing the only copy: %v", err)
		}
		c.settle(3, 3)
		if s := c.leader().Status(); len(s.Voters) != 3 {
			t.Errorf("the group lost a member by a refused removal: %+v", s)
		}
	})
}

func TestRemovedNodeThatWasAwayLearnsOfIt(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.found(3)
		c.kill(3)
		if err := c.nodes[1].Remove(withLimit(t, 2*time.Second), 3, false); err != nil {
			t.Fatal(err)
		}
		back := c.start(3)
		c.eventually(5*time.Second, func() error {
			if r := back.Status().Role; r != control.RoleRemoved {
				return fmt.Errorf("role %q", r)
			}
			return nil
		})
		if err := back.Leave(withLimit(t, time.Second)); err != nil {
			t.Errorf("leaving twice: %v", err)
		}
	})
}

func TestDeadVoterIsReplacedAndReturns(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.found(4)
		var dead *member
		for _, m := range c.running() {
			if n, _ := m.State().Node(m.id); n.Voter && !m.IsLeader() {
				dead = m
			}
		}
		c.kill(dead.id)
		if _, err := c.leader().propose(time.Second, catalog.MarkDead{Node: dead.id}); err != nil {
			t.Fatal(err)
		}
		c.eventually(3*time.Second, func() error {
			s := c.leader().State()
			if n, _ := s.Node(dead.id); n.Voter || n.State != catalog.NodeDead || len(s.Voters()) != 3 {
				return fmt.Errorf("dead node: %+v, voters %v", n, s.Voters())
			}
			return nil
		})
		c.start(dead.id)
		c.settle(4, 3)
		c.sameCatalog()
	})
}

func TestWipedNodeNeedsANewName(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.found(3)
		c.kill(3)
		fresh := c.start(13)
		again := describe(13)
		again.Name = "n3"
		err := fresh.Join(withLimit(t, time.Second), clusterID, fresh.Via(1), again)
		if e := base.AsError(err); e.Kind != base.KindExists || !strings.Contains(e.Hint, "remove the old node") {
			t.Errorf("join under a taken name: %v (%s)", err, e.Hint)
		}
		if err := c.nodes[1].Remove(withLimit(t, time.Second), 3, false); err != nil {
			t.Fatal(err)
		}
		if err := fresh.Join(withLimit(t, time.Second), clusterID, fresh.Via(1), again); err != nil {
			t.Errorf("join after the removal: %v", err)
		}
	})
}

func TestOtherClustersAreRefusedOnBothSides(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.found(1)
		other := c.start(50)
		if err := other.Bootstrap(t.Context(), clusterID+1, describe(50)); err != nil {
			t.Fatal(err)
		}
		stray := c.start(51)
		err := stray.Join(withLimit(t, time.Second), clusterID, stray.Via(50), describe(51))
		if base.KindOf(err) != base.KindWrongCluster {
			t.Errorf("joining another cluster than the one expected: %v", err)
		}
		if _, ok := other.State().Node(51); ok {
			t.Error("the node was added all the same")
		}
		// A message that says who sent it, but is of the other cluster.
		c.eventually(time.Second, func() error {
			if !other.IsLeader() {
				return errNoLeader
			}
			return nil
		})
		before := other.Status().Term
		other.Step(1, control.SealRaft(clusterID, 1, 50, &raftpb.Message{
			Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(1)), To: new(uint64(50)), Term: new(uint64(99)),
		}))
		time.Sleep(100 * time.Millisecond)
		if s := other.Status(); s.Strangers != 1 || s.Term != before {
			t.Errorf("node 50: %d strangers, term %d after %d", s.Strangers, s.Term, before)
		}
		if s := c.nodes[1].Status(); s.Strangers != 1 {
			t.Errorf("node 1 has not been told: %d strangers", s.Strangers)
		}
	})
}

func TestForeignRequestsAreRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.found(1)
		m := c.nodes[1]
		body := []byte(`{"command":{}}`)
		for name, r := range map[string]struct {
			from, to base.NodeID
			cluster  uint64
			method   string
			want     base.Kind
		}{
			"other cluster": {2, 1, clusterID + 1, control.MethodPropose, base.KindWrongCluster},
			"other node":    {2, 3, clusterID, control.MethodPropose, base.KindWrongCluster},
			"stranger":      {2, 1, clusterID, control.MethodPropose, base.KindForbidden},
			"nonsense":      {1, 1, clusterID, control.MethodPropose, base.KindUnsupported},
			"no method":     {1, 1, clusterID, "control.dance", base.KindUnsupported},
		} {
			_, err := m.HandleCall(t.Context(), r.from, r.method, control.SealRequest(r.cluster, r.from, r.to, body))
			if base.KindOf(err) != r.want {
				t.Errorf("%s: %v; want %s", name, err, r.want)
			}
		}
		if _, err := m.HandleCall(t.Context(), 1, control.MethodPropose, []byte("SKC")); base.KindOf(err) != base.KindCorrupt {
			t.Errorf("torn request: %v", err)
		}
	})
}

func TestLaggingFollowerGetsASnapshot(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.tune = func(o *control.Options) { o.SnapshotEvery, o.KeepEntries = 10, 5 }
		c.found(3)
		c.kill(3)
		for i := range 60 {
			c.create(c.leader(), fmt.Sprintf("d%d", i))
		}
		if s := c.leader().Status(); s.First < 40 {
			t.Fatalf("the log still begins at %d", s.First)
		}
		snapshots := 0 // The first two are lost.
		c.net.Filter(func(_, to base.NodeID, msg []byte) bool {
			if m := control.OpenRaft(msg); to == 3 && m.GetType() == raftpb.MsgSnap {
				snapshots++
				return snapshots > 2
			}
			return true
		})
		c.start(3)
		c.sameCatalog()
		if snapshots < 3 {
			t.Errorf("%d snapshots were sent", snapshots)
		}
		c.create(c.nodes[3], "caught_up")
		// And again from its own disk.
		c.kill(3)
		c.start(3)
		c.sameCatalog()
	})
}

func TestHandOver(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.found(3)
		old := c.leader()
		begin := time.Now()
		if err := old.HandOver(withLimit(t, time.Second)); err != nil {
			t.Fatal(err)
		}
		if now := c.leader(); now == old {
			t.Error("the leader is the same")
		}
		if took := time.Since(begin); took > 50*time.Millisecond {
			t.Errorf("handing over took %v", took)
		}
	})
}

// promises checks every message of a cluster against its sender's store: a
// vote or an acknowledgement that is sent must be on disk by then.
func promises(t *testing.T, c *cluster, checked map[raftpb.MessageType]int) func(from, to base.NodeID, msg []byte) {
	return func(from, to base.NodeID, msg []byte) {
		m := control.OpenRaft(msg)
		if m == nil || m.GetReject() {
			return
		}
		saved, err := c.nodes[from].store.Load()
		if err != nil {
			t.Error(err)
			return
		}
		last := saved.Snapshot.GetMetadata().GetIndex()
		if n := len(saved.Entries); n > 0 {
			last = saved.Entries[n-1].GetIndex()
		}
		switch m.GetType() {
		case raftpb.MsgVoteResp:
			if saved.HardState.GetTerm() < m.GetTerm() || saved.HardState.GetTerm() == m.GetTerm() && saved.HardState.GetVote() != uint64(to) {
				t.Errorf("node %d votes for %d in term %d; on disk: %v", from, to, m.GetTerm(), saved.HardState)
			}
		case raftpb.MsgAppResp:
			if last < m.GetIndex() {
				t.Errorf("node %d acknowledges %d; on disk: %d", from, m.GetIndex(), last)
			}
		case raftpb.MsgVote:
			if saved.HardState.GetTerm() < m.GetTerm() {
				t.Errorf("node %d stands in term %d; on disk: %v", from, m.GetTerm(), saved.HardState)
			}
		}
		checked[m.GetType()]++
	}
}

func TestPromisesAreOnDiskBeforeTheyAreSent(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		checked := make(map[raftpb.MessageType]int)
		lock := make(chan struct{}, 1)
		check := promises(t, c, checked)
		c.net.Filter(func(from, to base.NodeID, msg []byte) bool {
			lock <- struct{}{}
			check(from, to, msg)
			<-lock
			return true
		})
		c.found(3)
		for i := range 5 {
			c.create(c.nodes[base.NodeID(i%3+1)], fmt.Sprintf("d%d", i))
			old := c.leader()
			c.kill(old.id)
			c.leader()
			c.create(c.running()[0], fmt.Sprintf("e%d", i))
			c.start(old.id)
			c.sameCatalog()
		}
		for _, k := range []raftpb.MessageType{raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgAppResp} {
			if checked[k] == 0 {
				t.Errorf("no %s was checked", k)
			}
		}
	})
}

func TestFailedWriteStopsTheControlPlane(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.found(3)
		m := c.leader()
		broken := errors.New("the disk is gone")
		m.store.(*control.MemoryStore).FailWith(broken)
		_, err := m.propose(5*time.Second, catalog.SetSetting{Setting: "a", Value: "b"})
		if e := base.AsError(err); e.Kind != base.KindUnavailable || !errors.Is(err, broken) || e.Outcome != base.Indeterminate {
			t.Errorf("propose: %v", err)
		}
		m.ran.Wait()
		if !errors.Is(m.err, broken) {
			t.Errorf("Run returned %v", m.err)
		}
		if s := m.Status(); s.Role != control.RoleFailed || s.Error == "" {
			t.Errorf("status: %+v", s)
		}
		m.store.(*control.MemoryStore).FailWith(nil)
		c.kill(m.id)
		c.create(c.leader(), "without")
	})
}

// A node without room for what it must remember says nothing that rests on it,
// and goes on when there is room.
func TestAFullDiskHeals(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.found(3)
		m := c.leader()
		m.store.(*control.MemoryStore).FailWith(base.Errorf(base.KindDiskFull, "no room"))
		_, err := m.propose(2*time.Second, catalog.SetSetting{Setting: "a", Value: "b"})
		if e := base.AsError(cmp.Or(err, errors.New("it was agreed on"))); e.Kind != base.KindTimeout || e.Outcome != base.Indeterminate {
			t.Errorf("propose: %v (%s)", err, e.Outcome)
		}
		var other *member
		c.eventually(time.Minute, func() error {
			for _, o := range c.running() {
				if other = o; o != m && o.IsLeader() {
					return nil
				}
			}
			return errors.New("nobody else leads")
		})
		c.create(other, "meanwhile")
		m.store.(*control.MemoryStore).FailWith(nil)
		c.sameCatalog()
		if s := m.Status(); s.Role == control.RoleFailed {
			t.Errorf("status: %+v", s)
		}
		// A node that is asked to stop does not wait for room.
		m.store.(*control.MemoryStore).FailWith(base.Errorf(base.KindDiskFull, "no room"))
		c.create(c.leader(), "again")
		c.kill(m.id)
		if m.err != nil {
			t.Errorf("Run returned %v", m.err)
		}
		m.store.(*control.MemoryStore).FailWith(nil)
	})
}

func TestMessagesOfNodesAreValidated(t *testing.T) {
	m := func(kind raftpb.MessageType, from, term uint64) *raftpb.Message {
		return &raftpb.Message{Type: kind.Enum(), From: &from, To: new(uint64(1)), Term: &term}
	}
	inBubble(t, func(t *testing.T, c *cluster) {
		c.found(1)
		n := c.nodes[1]
		before := n.Status()
		for _, bad := range []*raftpb.Message{
			m(raftpb.MsgHup, 2, 0), m(raftpb.MsgProp, 2, 0), m(raftpb.MsgStorageApplyResp, 2, 0),
			m(raftpb.MsgReadIndex, 2, 0), m(raftpb.MsgHeartbeat, 2, 0), m(raftpb.MsgHeartbeat, 3, 9),
		} {
			n.Step(2, control.SealRaft(clusterID, 2, 1, bad))
		}
		good := control.SealRaft(clusterID, 2, 1, m(raftpb.MsgHeartbeat, 2, 9))
		for i := range good {
			torn := append([]byte(nil), good...)
			torn[i] ^= 0x40
			n.Step(2, torn)
			n.Step(2, good[:i])
		}
		time.Sleep(100 * time.Millisecond)
		if after := n.Status(); after.Term != before.Term || after.Role != before.Role {
			t.Errorf("bad messages changed %+v to %+v", before, after)
		}
		n.Step(2, good)
		time.Sleep(100 * time.Millisecond)
		if after := n.Status(); after.Term != 9 && after.Term != 10 {
			t.Errorf("a good message was not taken in: %+v", after)
		}
	})
}

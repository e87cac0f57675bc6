package control

import (
	"context"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
)

// send hands a message of the group to the messenger.
func (l *loop) send(m *raftpb.Message) {
	to := base.NodeID(m.GetTo())
	body, err := proto.Marshal(m)
	switch {
	case err == nil && len(body)+envelopeHeader <= MaxMessage:
		l.c.post(kindRaft, to, l.state.ClusterID(), body)
	case err == nil && m.GetType() == raftpb.MsgSnap:
		l.sendLarge(to, body)
	default:
		l.c.env.Log.Error("control message not sent", "to", to, "type", m.GetType(), "bytes", len(body), "error", err)
	}
	if m.GetType() == raftpb.MsgSnap {
		// Whether it arrived shows when the follower answers the next
		// heartbeat: if not, it asks for the same again.
		l.group.ReportSnapshot(m.GetTo(), raft.SnapshotFinish)
	}
}

// largeTimeout bounds how long a large snapshot may take.
const largeTimeout = 30 * time.Second

// sendLarge sends a snapshot that is too large for a message by a call, one at
// a time to each node.
func (l *loop) sendLarge(to base.NodeID, body []byte) {
	if _, busy := l.c.largeTo.LoadOrStore(to, true); busy {
		return
	}
	msg := envelope{kind: kindRequest, cluster: l.state.ClusterID(), from: l.c.o.Self, to: to, body: body}.encode()
	l.background.Go(func() {
		defer l.c.largeTo.Delete(to)
		ctx, cancel := l.c.env.Clock.WithTimeout(l.ctx, largeTimeout, context.DeadlineExceeded)
		defer cancel()
		if _, err := l.c.o.Messenger.Call(ctx, to, MethodSnapshot, msg); err != nil {
			l.c.env.Log.Warn("control snapshot not sent", "to", to, "bytes", len(body), "error", err)
		}
	})
}

func (c *Control) post(kind envelopeKind, to base.NodeID, cluster uint64, body []byte) {
	c.o.Messenger.Send(to, envelope{kind: kind, cluster: cluster, from: c.o.Self, to: to, body: body}.encode())
}

// Step takes in a message that a peer gave to its Messenger.Send. It never
// blocks: a message that finds the inbox full is dropped, and sent again by
// the protocol. from is the sender as the transport has authenticated it.
func (c *Control) Step(from base.NodeID, msg []byte) {
	e, err := decodeEnvelope(msg)
	if err != nil {
		c.env.Log.Warn("control message refused", "from", from, "error", err)
		return
	}
	ours := c.State().ClusterID()
	switch {
	case ours == 0 || e.from != from:
		return // Nothing can be meant for an idle node.
	case e.cluster != ours:
		c.refuseStranger(e, ours)
	case e.to != c.o.Self:
		c.env.Log.Warn("control message for another node refused", "from", from, "for", e.to)
	case e.kind == kindRemoved:
		c.tell((*loop).learnRemoval)
	case e.kind == kindRaft:
		c.stepRaft(from, e.body)
	}
}

// refuseStranger drops a message of another cluster, and tells its sender.
func (c *Control) refuseStranger(e envelope, ours uint64) {
	if n := c.strangers.Add(1); n&(n-1) == 0 { // The 1st, 2nd, 4th, 8th ...
		c.env.Log.Error("control message refused", "from", e.from, "count", n, "error", wrongCluster(e.cluster, ours))
	}
	if e.kind == kindRaft {
		c.post(kindWrongCluster, e.from, ours, nil)
	}
}

func (c *Control) stepRaft(from base.NodeID, body []byte) {
	m := new(raftpb.Message)
	if err := proto.Unmarshal(body, m); err != nil || !acceptable(m, from, c.o.Self) {
		c.env.Log.Warn("control message makes no sense", "from", from, "type", m.GetType(), "error", err)
		return
	}
	c.tell(func(l *loop) { l.step(from, m) })
}

// acceptable says whether m is a message that one member sends to another, and
// has the parts that the library reads without looking.
func acceptable(m *raftpb.Message, from, self base.NodeID) bool {
	if m.GetFrom() != uint64(from) || m.GetTo() != uint64(self) {
		return false
	}
	switch m.GetType() {
	case raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
		return len(m.GetEntries()) == 1
	case raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp,
		raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp,
		raftpb.MsgSnap, raftpb.MsgTimeoutNow:
		return m.GetTerm() > 0 // A term of 0 marks messages inside one node.
	}
	return false
}

// maxAnswers bounds the notices to removed nodes in one tick.
const maxAnswers = 16

func (l *loop) step(from base.NodeID, m *raftpb.Message) {
	if l.group == nil || l.removed {
		return
	}
	if since, gone := l.suspects[from]; gone && l.ticks-since < graceTicks {
		return // It may have been on the way while its sender died.
	}
	delete(l.suspects, from) // Whoever speaks is not gone.
	if n, ok := l.state.Node(from); ok && n.State == catalog.NodeLeft {
		if l.answers++; l.answers <= maxAnswers {
			l.c.post(kindRemoved, from, l.state.ClusterID(), nil)
		}
		return
	}
	if err := l.group.Step(m); err != nil {
		l.c.env.Log.Debug("control message not used", "from", from, "type", m.GetType(), "error", err)
	}
}

// learnRemoval believes a member that says this node has been removed: the
// entry that says so may never have come.
func (l *loop) learnRemoval() {
	if !l.removed {
		l.removed = true
		l.c.env.Log.Warn("this node has been removed from its cluster")
	}
}

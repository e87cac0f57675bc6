package control

import (
	"cmp"
	"context"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
)

// Bootstrap founds a cluster of this one node, which must be idle. Run must be
// running.
func (c *Control) Bootstrap(ctx context.Context, clusterID uint64, self catalog.Node) error {
	self.ID = c.o.Self
	snapshot, err := c.foundation(clusterID, self)
	if err != nil {
		return err
	}
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	return c.ask(ctx, func(l *loop) error { return l.install(clusterID, snapshot) })
}

// foundation is the first snapshot of a cluster: as if its founding had been
// agreed on at index 1 of term 1.
func (c *Control) foundation(clusterID uint64, self catalog.Node) (*raftpb.Snapshot, error) {
	id, err := catalog.NewID(c.env.Rand)
	if err != nil {
		return nil, err
	}
	state, result := catalog.New().Apply(1, catalog.Command{ID: id, Action: catalog.BootstrapCluster{ClusterID: clusterID, Node: self}})
	return &raftpb.Snapshot{
		Data: encodeSnapshotData(state),
		Metadata: &raftpb.SnapshotMetadata{
			Index: new(uint64(1)), Term: new(uint64(1)),
			ConfState: raftpb.EnsureConfState(&raftpb.ConfState{Voters: []uint64{uint64(self.ID)}}),
		},
	}, result.Err()
}

// Join makes this node, which must be idle, a member of the cluster that via
// leads to, as a learner at first. It tries again until ctx is done while the
// cluster has no leader or cannot be reached. cluster is the one expected, or
// 0 for any. Run must be running.
func (c *Control) Join(ctx context.Context, cluster uint64, via Caller, self catalog.Node) error {
	if role := c.role(); role != RoleIdle {
		return base.Errorf(base.KindExists, "this node is in cluster %016x already", c.State().ClusterID())
	}
	self.ID = c.o.Self
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	pause := minPause
	for {
		err := c.joinOnce(ctx, cluster, via, self)
		if err == nil || !passing(base.KindOf(err)) || ctx.Err() != nil {
			return err
		}
		if c.env.Clock.Sleep(ctx, time.Duration(pause)*c.o.TickInterval) != nil {
			return err // It says more than the end of ctx does.
		}
		pause = min(2*pause, maxPause)
	}
}

// passing says that an error may go away by itself.
func passing(k base.Kind) bool {
	switch k {
	case base.KindNoLeader, base.KindNotLeader, base.KindUnavailable, base.KindBusy, base.KindTimeout, base.KindIndeterminate, base.KindShutdown:
		return true
	}
	return false
}

func (c *Control) joinOnce(ctx context.Context, cluster uint64, via Caller, self catalog.Node) error {
	var out joinResponse
	e, err := c.request(ctx, via, 0, cluster, MethodJoin, joinRequest{Node: self}, &out)
	if err != nil {
		return err
	}
	snapshot := new(raftpb.Snapshot)
	if err := proto.Unmarshal(out.Snapshot, snapshot); err != nil {
		return base.Errorf(base.KindCorrupt, "decode the cluster's catalog: %w", err)
	}
	return c.ask(ctx, func(l *loop) error { return l.install(e.cluster, snapshot) })
}

func (c *Control) role() Role {
	v, _ := c.published.get()
	return v.role
}

// install makes an idle node a member, with a first snapshot.
func (l *loop) install(cluster uint64, s *raftpb.Snapshot) error {
	if l.group != nil {
		return base.Errorf(base.KindExists, "this node is in cluster %016x already", l.state.ClusterID())
	}
	state, err := decodeSnapshotData(s.GetData())
	if err != nil {
		return err
	}
	if state.ClusterID() != cluster || membershipOf(state, l.c.o.Self) == outside {
		return base.Errorf(base.KindWrongCluster, "the catalog of cluster %016x does not know this node", cluster)
	}
	meta := s.GetMetadata()
	saved := Saved{
		Identity:  Identity{ClusterID: cluster, Node: l.c.o.Self},
		HardState: &raftpb.HardState{Term: new(meta.GetTerm()), Vote: new(uint64(0)), Commit: new(meta.GetIndex())},
		Snapshot:  s,
	}
	if err := l.save(Batch{Identity: &saved.Identity, HardState: saved.HardState, Snapshot: s, Reset: true}); err != nil {
		return err
	}
	return l.start(saved)
}

// Remove takes a node out of the cluster for good; without force it is refused
// when that node leads a database. Package catalog says what else is refused.
func (c *Control) Remove(ctx context.Context, node base.NodeID, force bool) error {
	_, err := c.Propose(ctx, catalog.Command{Action: catalog.RemoveNode{Node: node, Force: force}})
	return err
}

// Leave takes this node out of its cluster for good. Its control plane is
// silent from then on.
func (c *Control) Leave(ctx context.Context) error {
	err := c.Remove(ctx, c.o.Self, false)
	if err != nil && c.role() != RoleRemoved && base.KindOf(err) != base.KindForbidden {
		return err
	}
	// Members forbid everything to one that has left: if they do, an earlier
	// attempt got through and its answer was lost.
	c.tell((*loop).learnRemoval)
	return nil
}

// HandOver gives the leadership of the control group to another voter, if this
// node has it, and waits until it is gone; a node does so before it stops.
func (c *Control) HandOver(ctx context.Context) error {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	var tried bool
	if err := c.ask(ctx, func(l *loop) error { tried = l.handOver(); return nil }); err != nil || !tried {
		return err
	}
	for {
		v, moved := c.published.get()
		if v.leader != c.o.Self {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ended(ctx)
		case <-c.stopped:
			return c.stoppedError()
		}
	}
}

// handOver starts the transfer of the leadership to the voter whose log is
// longest. It returns false when this node does not lead or nobody is there.
func (l *loop) handOver() bool {
	if !l.leads() {
		return false
	}
	var heir, match uint64
	for id, p := range l.group.Status().Progress {
		if id == uint64(l.c.o.Self) || p.IsLearner || !p.RecentActive {
			continue
		}
		if heir == 0 || p.Match > match || (p.Match == match && id < heir) {
			heir, match = id, p.Match
		}
	}
	if heir == 0 {
		return false
	}
	l.group.TransferLeader(heir)
	return true
}

// maintainEvery is how many ticks lie between two looks at the members.
const maintainEvery = 5

// maintain lets the leader put the members in order, one step at a time.
func (l *loop) maintain() {
	if l.ticks%maintainEvery != 0 || !l.leads() {
		return
	}
	status := l.group.Status()
	last, _ := l.log.LastIndex()
	if status.Applied != last || l.confBarrier > status.Applied || status.LeadTransferee != 0 {
		return // Something is under way.
	}
	level := func(id base.NodeID) bool {
		p, ok := status.Progress[uint64(id)]
		return id == l.c.o.Self || (ok && p.RecentActive && p.State == tracker.StateReplicate && p.Match == last)
	}
	action := nextDuty(l.state.Nodes(), l.c.o.Self, level, l.c.o.MaxVoters)
	if action == nil {
		return
	}
	if err := l.carryOut(action); err != nil {
		l.c.env.Log.Warn("member not put in order", "error", err)
	}
}

func (l *loop) carryOut(action catalog.Action) error {
	id, err := catalog.NewID(l.c.env.Rand)
	if err != nil {
		return err
	}
	cmd := catalog.Command{ID: id, Action: action}
	data, err := cmd.Encode()
	if err != nil {
		return err
	}
	l.c.env.Log.Info("putting members in order", "command", cmd.Name())
	return l.propose(cmd, data)
}

// nextDuty is the next step, if any, towards an orderly membership: nodes that
// have caught up are active, dead ones do not vote, and the right number do.
// level says whether a node's log is as long as the leader's, which self is.
func nextDuty(nodes []catalog.Node, self base.NodeID, level func(base.NodeID) bool, maxVoters int) catalog.Action {
	byAge := slices.SortedFunc(slices.Values(nodes), func(a, b catalog.Node) int {
		return cmp.Or(cmp.Compare(a.JoinedAt, b.JoinedAt), cmp.Compare(a.ID, b.ID))
	})
	for _, n := range byAge {
		if (n.State == catalog.NodeJoining || n.State == catalog.NodeDead) && level(n.ID) {
			return catalog.NodeActive{Node: n.ID}
		}
		if n.State == catalog.NodeDead && n.Voter && n.ID != self {
			return catalog.SetVoter{Node: n.ID, Voter: false}
		}
	}
	missing := wantedVoters(byAge, maxVoters)
	for _, n := range byAge {
		if n.Voter {
			missing--
		}
	}
	for _, n := range byAge {
		if missing > 0 && n.State == catalog.NodeIsActive && !n.Voter && level(n.ID) {
			return catalog.SetVoter{Node: n.ID, Voter: true}
		}
	}
	for _, n := range slices.Backward(byAge) {
		if missing < 0 && n.Voter && n.ID != self {
			return catalog.SetVoter{Node: n.ID, Voter: false}
		}
	}
	return nil
}

// wantedVoters is as many as there are active nodes, up to the limit, and odd
// above two: a fourth voter makes every decision dearer and nothing safer.
func wantedVoters(nodes []catalog.Node, limit int) int {
	active := 0
	for _, n := range nodes {
		if n.State == catalog.NodeIsActive {
			active++
		}
	}
	want := min(active, limit)
	if want > 2 && want%2 == 0 {
		want--
	}
	return want
}

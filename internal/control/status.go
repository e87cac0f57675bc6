package control

import (
	"context"
	"maps"
	"slices"
	"time"

	"go.etcd.io/raft/v3/tracker"

	"github.com/skeindb/skein/internal/base"
)

// Status of this node's part of the control plane, for people and metrics.
type Status struct {
	Role      Role
	ClusterID uint64
	Term      uint64
	Leader    base.NodeID
	Applied   uint64 // index of the log
	Committed uint64
	First     uint64 // of the log in memory
	Last      uint64
	Voters    []base.NodeID
	Learners  []base.NodeID
	Suspected []base.NodeID
	Followers []Follower // as the leader sees them; empty elsewhere
	Strangers uint64     // messages of other clusters refused
	Error     string     // why it has stopped, if it has failed
}

// Follower is another member of the group as its leader sees it.
type Follower struct {
	Node    base.NodeID
	Match   uint64 // how far its log is known to go
	State   string // "probe", "replicate" or "snapshot"
	Active  bool   // heard of within an election timeout
	Learner bool
}

// statusWait bounds how long Status waits for the loop.
const statusWait = time.Second

// Status returns what is known now.
func (c *Control) Status() Status {
	v, _ := c.published.get()
	s := Status{
		Role: v.role, ClusterID: v.state.ClusterID(), Term: v.term, Leader: v.leader, Applied: v.state.Applied(),
		Suspected: v.suspected, Strangers: c.strangers.Load(),
	}
	if v.failure != nil {
		s.Error = v.failure.Error()
		return s
	}
	ctx, cancel := c.env.Clock.WithTimeout(context.Background(), statusWait, context.DeadlineExceeded)
	defer cancel()
	details := make(chan Status, 1)
	if err := c.ask(ctx, func(l *loop) error { details <- l.status(s); return nil }); err != nil {
		return s // Only what has been published.
	}
	return <-details
}

func (l *loop) status(s Status) Status {
	s.Voters, s.Learners = nodeIDs(l.conf.GetVoters()), nodeIDs(l.conf.GetLearners())
	if l.group == nil {
		return s
	}
	s.First, _ = l.log.FirstIndex()
	s.Last, _ = l.log.LastIndex()
	g := l.group.Status()
	s.Committed = g.GetCommit()
	for _, id := range slices.Sorted(maps.Keys(g.Progress)) {
		if p := g.Progress[id]; id != uint64(l.c.o.Self) {
			s.Followers = append(s.Followers, Follower{base.NodeID(id), p.Match, progressName(p.State), p.RecentActive, p.IsLearner})
		}
	}
	return s
}

func progressName(s tracker.StateType) string {
	return map[tracker.StateType]string{
		tracker.StateProbe: "probe", tracker.StateReplicate: "replicate", tracker.StateSnapshot: "snapshot",
	}[s]
}

func nodeIDs(ids []uint64) []base.NodeID {
	out := make([]base.NodeID, 0, len(ids))
	for _, id := range ids {
		out = append(out, base.NodeID(id))
	}
	slices.Sort(out)
	return out
}

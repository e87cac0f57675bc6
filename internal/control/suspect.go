package control

import (
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/raft/v3"

	"github.com/skeindb/skein/internal/base"
)

// Suspect says that a node's process seems to be gone: its machine answered and
// nothing listens there, or it is silent for longer than it usually is. If it leads the control group, this node stops
// believing in it, and the voter with the smallest id stands for election at
// once, so that the leader is replaced within tens of milliseconds instead of
// an election timeout. It never blocks. A message of that node takes the
// suspicion back.
func (c *Control) Suspect(node base.NodeID) {
	c.tell(func(l *loop) { l.suspect(node) })
}

func (l *loop) suspect(node base.NodeID) {
	if l.group == nil || l.removed || node == l.c.o.Self || membershipOf(l.state, node) == outside {
		return
	}
	if _, known := l.suspects[node]; !known {
		l.suspects[node] = l.ticks
	}
	l.group.ReportUnreachable(uint64(node))
	if l.leader() == node {
		if err := l.group.ForgetLeader(); err != nil {
			l.c.env.Log.Debug("leader not forgotten", "error", err)
		}
		l.hasten()
	}
}

// Haste: how a voter stands for election sooner than the library would let it.
const (
	// A voter gives each voter with a smaller id this many ticks to win first.
	tickPerRank = 3
	// One that has got no majority for its vote after this many ticks tries
	// anew: two have probably stood at the same moment. The time doubles with
	// each try, so that it comes to exceed the round trip, however long.
	stuckTicks = 2
	// What comes from a suspected node in these ticks is thrown away; what
	// comes later shows that it lives.
	graceTicks = 2
)

// hasten runs in every tick. A voter without a leader stands for election if
// it is alone, if it has the word that the leader is gone, or if its election
// has come to nothing. Pre-votes make it harmless if that is wrong: no voter
// that hears a leader grants one.
func (l *loop) hasten() {
	status := l.group.BasicStatus()
	candidate := status.RaftState == raft.StateCandidate
	l.candidateFor++
	if !candidate {
		l.candidateFor = 0
	}
	rank := l.rank()
	if status.Lead != raft.None || status.RaftState == raft.StateLeader || rank < 0 {
		l.stuckAfter = stuckTicks
		return
	}
	due := len(l.conf.GetVoters()) == 1
	if candidate {
		if due = l.candidateFor == l.stuckAfter+tickPerRank*rank; due {
			l.stuckAfter *= 2
		}
	} else if since, ok := l.freshSuspicion(); ok {
		turn := l.ticks - since
		due = due || turn == uint64(tickPerRank*rank) || (turn > uint64(tickPerRank*rank) && l.retryNow())
	}
	if !due {
		return
	}
	if err := l.group.Campaign(); err != nil {
		l.c.env.Log.Debug("not standing for election", "error", err)
	}
}

// retryNow is true in every other tick or so, by lot, so that two voters do
// not go on asking in step.
func (l *loop) retryNow() bool { return l.c.env.Rand.Uint64()%2 == 0 }

// freshSuspicion returns when the latest suspicion began, if that is less than
// an election timeout ago; after that the library's own timeout takes over.
func (l *loop) freshSuspicion() (uint64, bool) {
	var latest uint64
	found := false
	for _, at := range l.suspects {
		if l.ticks-at <= uint64(l.c.o.ElectionTicks) && (!found || at > latest) {
			latest, found = at, true
		}
	}
	return latest, found
}

// rank counts the voters before this one that are not suspected; it is
// negative if this node does not vote.
func (l *loop) rank() int {
	self, before := uint64(l.c.o.Self), 0
	if !slices.Contains(l.conf.GetVoters(), self) {
		return -1
	}
	for _, id := range l.conf.GetVoters() {
		if _, gone := l.suspects[base.NodeID(id)]; id < self && !gone {
			before++
		}
	}
	return before
}

// noLeader says that there is no leader, and as far as this node knows, why.
func (c *Control) noLeader(v view) *base.Error {
	e := &base.Error{Kind: base.KindNoLeader, Message: "the control group has no leader just now", Outcome: base.NotDone}
	switch v.role {
	case RoleIdle:
		e.Kind, e.Message = base.KindUnavailable, "this node is in no cluster yet"
		return e
	case RoleRemoved:
		e.Kind, e.Message = base.KindUnavailable, "this node has left its cluster"
		return e
	}
	voters := v.state.Voters()
	need := len(voters)/2 + 1
	var gone []string
	for _, id := range voters {
		if slices.Contains(v.suspected, id) {
			n, _ := v.state.Node(id)
			gone = append(gone, fmt.Sprintf("%s (%s)", n.Name, id))
		}
	}
	e.Message = fmt.Sprintf("the control group has no leader: it needs %d of its %d voters", need, len(voters))
	if len(gone) > 0 {
		e.Message += "; not reachable: " + strings.Join(gone, ", ")
		e.Hint = "start " + strings.Join(gone, ", ") + " again"
	}
	if len(voters) == 2 {
		e.Message += "; with two voters, both must run"
		e.Hint = strings.TrimPrefix(e.Hint+"; a third node lets the cluster lose one", "; ")
	}
	return e
}

package node

import (
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/failover"
	"github.com/skeindb/skein/internal/leadership"
	"github.com/skeindb/skein/internal/transport"
)

// heard is how often each peer's control messages come. The leader of the
// control group sends every other node one every 40 ms and is answered. What is
// learned from are pauses in that conversation, of one leader: nodes that follow
// speak to each other at elections only, and whoever was voted out was away.
type heard struct {
	least, most time.Duration // bounds of the patience with a silent peer
	mu          sync.Mutex    // guards what is below
	at          map[base.NodeID]*pulse
	term        uint64 // of the control group when anything was last heard
}

type pulse struct {
	leadership.Rhythm
	talks bool // it or this node led the control group when it was last heard
}

// maxHeard bounds what is remembered; more are no members.
const maxHeard = 4096

func (h *heard) init(lease time.Duration) {
	h.least, h.most = lease/3, 4*lease
	h.at = make(map[base.NodeID]*pulse)
}

// note takes in that a peer is heard, in a term of the control group; talks
// says that one of the two leads it.
func (h *heard) note(id base.NodeID, now leadership.Instant, term uint64, talks bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if term != h.term {
		h.term = term
		for _, r := range h.at {
			r.Excuse(now, h.least)
		}
	}
	r := h.at[id]
	if r == nil {
		if len(h.at) >= maxHeard {
			return
		}
		r = &pulse{}
		h.at[id] = r
	}
	if r.talks {
		r.Beat(now, h.least, h.most)
	} else {
		r.Meet(now)
	}
	r.talks = talks
}

// away says that a silent peer was found to be away, by others than this node.
func (h *heard) away(id base.NodeID, now leadership.Instant) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r := h.at[id]; r != nil {
		r.Excuse(now, h.least)
	}
}

// within says that a peer was heard less than d ago.
func (h *heard) within(id base.NodeID, now leadership.Instant, d time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.at[id]
	if r == nil {
		return false
	}
	silence, _ := r.Silence(now)
	return silence < d
}

// deadline is when the silence of a peer means something. A peer that had no
// reason to say anything before since is given time from then on.
func (h *heard) deadline(id base.NodeID, now, since leadership.Instant) leadership.Instant {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.at[id]
	if r == nil {
		return max(since, 0).Add(h.most)
	}
	silence, _ := r.Silence(now)
	return max(since, now.Add(-silence)).Add(r.Patience(h.least, h.most))
}

// term is one time that this node leads the control group.
type term struct {
	began leadership.Instant
	// before led the group before; its silence counts from before this term.
	before base.NodeID
}

// deadline is when a node that stays silent is lost.
func (s *supervisor) deadline(id base.NodeID, t term) leadership.Instant {
	since := t.began
	if id == t.before {
		since = -leadership.Forever
	}
	return s.node.heard.deadline(id, s.node.now(), since)
}

// reach says how a node can be reached. A refused connection is taken from the
// transport; apart from that a node is lost when it has been silent for longer
// than it usually is, whether or not its connection stands: a frozen process
// keeps it, and a network that has dropped it for a moment is no loss.
func (s *supervisor) reach(id base.NodeID, t term) failover.Reach {
	how := s.node.reach.get(id)
	switch {
	case how == transport.Refused:
		return failover.Refused
	case s.node.now() >= s.deadline(id, t):
		return failover.Lost
	case how == transport.Lost:
		return failover.Reached
	}
	return reachOf(how)
}

// listen tells the core how every other node can be reached just now, and
// returns when the next one might be lost.
func (s *supervisor) listen(step func(failover.Event), state *catalog.State, t term) (next leadership.Instant) {
	next = leadership.Forever
	for _, m := range state.Nodes() {
		if m.ID == s.node.identity.Node {
			continue
		}
		step(failover.NodeReach{Node: m.ID, Reach: s.reach(m.ID, t)})
		if at := s.deadline(m.ID, t); at > s.node.now() {
			next = min(next, at)
		}
	}
	return next
}

// watchLeader waits, on a node that does not lead the control group, until that
// changes; a leader that falls silent is suspected. It returns who led.
func (s *supervisor) watchLeader(changed <-chan struct{}) {
	n := s.node
	suspected := false
	for {
		leader := n.control.Leader()
		pause := n.options.Lease
		if leader != 0 && leader != n.identity.Node {
			s.before = leader
			pause = n.heard.deadline(leader, n.now(), 0).Sub(n.now())
			if pause <= 0 && !suspected {
				suspected = true
				n.log.Info("the control group's leader is silent", "leader", leader)
				n.control.Suspect(leader)
			}
			if pause <= 0 {
				pause = n.options.Lease / 3
			} else {
				suspected = false
			}
		}
		timer := n.env.Clock.NewTimer(max(pause, time.Millisecond))
		select {
		case <-changed:
		case <-s.inbox: // Not for a node that does not supervise.
			timer.Stop()
			continue
		case <-timer.C():
			continue
		case <-n.ctx.Done():
		}
		timer.Stop()
		return
	}
}

package node

import (
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/failover"
)

// silentLeases is after how many leases without a control message a node counts
// as lost. Every node answers the heartbeats of the control group's leader,
// which come several times a lease.
const silentLeases = 2

// reach says how a node can be reached: as the transport says, but a node whose
// connection stands and that has said nothing for long is lost. A frozen process
// or a machine without power looks like that until the network's own patience
// ends, which is far too late for a failover. began is when this node took over
// the control group, and so its heartbeats.
func (s *supervisor) reach(id base.NodeID, began time.Time) failover.Reach {
	how := reachOf(s.node.reach.get(id))
	silent := s.node.env.Clock.Now().Add(-silentLeases * s.node.options.Lease)
	if how == failover.Reached && began.Before(silent) && !s.node.heard.since(id, silent) {
		return failover.Lost
	}
	return how
}

// listen tells the core how every other node can be reached just now.
func (s *supervisor) listen(step func(failover.Event), state *catalog.State, began time.Time) {
	for _, m := range state.Nodes() {
		if m.ID != s.node.identity.Node {
			step(failover.NodeReach{Node: m.ID, Reach: s.reach(m.ID, began)})
		}
	}
}

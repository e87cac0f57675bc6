package node

import (
	"context"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
)

// standingMethod asks a peer whether the asking node has been removed.
const standingMethod = "node.standing"

const (
	standingEvery = 2 * time.Second
	standingWait  = time.Second
)

// The answers: of a node that knows nothing against the one that asks, and of
// one that knows it as removed. A removal is for ever, so that the second is
// true however old the knowledge of the one that answers.
var standingGood, standingRemoved = []byte{1, 0}, []byte{1, 1}

func (n *Node) serveStanding(_ context.Context, from base.NodeID, _ []byte) ([]byte, error) {
	if m, ok := n.control.State().Node(from); ok && m.State == catalog.NodeLeft {
		return standingRemoved, nil
	}
	return standingGood, nil
}

// watchStanding asks the others, while no leader of the control group is known,
// whether this node was removed. The group itself does not tell a node that it
// no longer counts, and one without a vote never asks it.
func (n *Node) watchStanding() {
	for n.env.Clock.Sleep(n.ctx, standingEvery) == nil {
		if n.isRemoved() {
			return
		}
		if n.control.State().ClusterID() != 0 && n.control.Leader() == 0 && n.knownAsRemoved() {
			n.outcast.Store(true)
			n.wake()
			return
		}
	}
}

func (n *Node) knownAsRemoved() bool {
	for _, peer := range n.control.State().Nodes() {
		if peer.ID == n.identity.Node || peer.State == catalog.NodeLeft {
			continue
		}
		reply, err := n.call(n.ctx, peer.ID, standingMethod, nil, standingWait)
		if err == nil && string(reply) == string(standingRemoved) {
			return true
		}
	}
	return false
}

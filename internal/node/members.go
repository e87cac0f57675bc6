package node

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/control"
	"github.com/skeindb/skein/internal/gateway"
	"github.com/skeindb/skein/internal/session"
)

// farewell is for how long a node that has left the cluster is still answered
// after it was last heard of, so that it learns that it has left.
const farewell = 10 * time.Second

func removedError() error {
	return base.Errorf(base.KindForbidden, "this node was removed from its cluster; its files are kept").
		WithHint("let it join again with an empty folder, or stop it")
}

// setPeers tells the transport where the other nodes are. It is told changes
// only: to name an address again makes it dial at once.
func (n *Node) setPeers(s *catalog.State) {
	wanted := make(map[base.NodeID]string)
	for _, peer := range s.Nodes() {
		if peer.ID != n.identity.Node && (peer.State != catalog.NodeLeft || n.heard.within(peer.ID, n.now(), farewell)) {
			wanted[peer.ID] = n.addressOf(peer)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(n.addressed)) {
		if wanted[id] == "" {
			n.transport.SetPeer(id, "")
			delete(n.addressed, id)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(wanted)) {
		if address := wanted[id]; n.addressed[id] != address {
			n.transport.SetPeer(id, address)
			n.addressed[id] = address
		}
	}
}

// noteRemoval says whether this node is out of its cluster for good. It then
// serves no more; its files stay, for a person to take away.
func (n *Node) noteRemoval(s *catalog.State) bool {
	if n.isRemoved() {
		return true
	}
	m, ok := s.Node(n.identity.Node)
	out := s.ClusterID() != 0 && (!ok || m.State == catalog.NodeLeft)
	if !out && n.control.Role() != control.RoleRemoved && !n.outcast.Load() {
		return false
	}
	n.fail(removedError())
	n.mu.Lock()
	n.mu.removed = true
	n.mu.Unlock()
	n.stopKeepers()
	n.webhooks.wake()
	return true
}

func (n *Node) isRemoved() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.removed
}

// door keeps clients out of a node that has been removed from its cluster.
type door struct {
	*gateway.Gateway
	node *Node
}

// Open implements session.Gateway.
func (d door) Open(ctx context.Context, o session.Options) (session.Session, error) {
	if d.node.isRemoved() {
		return nil, removedError()
	}
	return d.Gateway.Open(ctx, o)
}

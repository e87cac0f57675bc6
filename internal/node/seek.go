package node

import (
	"context"
	"encoding/json"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
)

// addressMethod tells another node where this one is, and asks where others are.
// It helps members whose addresses have all changed at once: the addresses that
// they know are old, and the new ones cannot be agreed on before they meet.
const addressMethod = "node.address"

const (
	seekEvery = 500 * time.Millisecond
	seekWait  = 2 * time.Second
)

// addresses is the request, with the caller's own, and the reply, with what the
// other node has heard since it started.
type addresses struct {
	Addresses map[base.NodeID]string `json:"addresses"`
}

// found is a member's address as it has told it, instead of the recorded one.
type found struct{ address, recorded string }

// seek asks at the addresses to join, as long as this node is a member that
// finds no leader of the control group.
func (n *Node) seek() {
	for attempt := 0; !n.confirmed.Load() && n.env.Clock.Sleep(n.ctx, seekEvery) == nil; attempt++ {
		if len(n.options.Join) == 0 {
			return
		}
		if n.control.State().ClusterID() == 0 || n.control.Leader() != 0 {
			continue
		}
		n.seekAt(n.options.Join[attempt%len(n.options.Join)])
	}
}

func (n *Node) seekAt(address string) {
	ctx, cancel := n.env.Clock.WithTimeout(n.ctx, seekWait, base.Errorf(base.KindTimeout, "no answer within %v", seekWait))
	defer cancel()
	request, err := json.Marshal(addresses{n.heardAddresses()})
	if err != nil {
		return
	}
	reply, err := n.via(address)(ctx, addressMethod, request)
	if err != nil {
		n.log.Debug("seek other members", "address", address, "err", err)
		return
	}
	if err := n.takeAddresses(reply); err != nil {
		n.log.Debug("seek other members", "address", address, "err", err)
	}
}

// heardAddresses are this node's own and those it was told.
func (n *Node) heardAddresses() map[base.NodeID]string {
	all := map[base.NodeID]string{n.identity.Node: n.options.Advertise}
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, f := range n.mu.found {
		all[id] = f.address
	}
	return all
}

func (n *Node) serveAddress(_ context.Context, _ base.NodeID, request []byte) ([]byte, error) {
	if err := n.takeAddresses(request); err != nil {
		return nil, err
	}
	return json.Marshal(addresses{n.heardAddresses()})
}

// takeAddresses notes where members say that they are. A wrong word does no
// harm: who answers there has to prove which node it is.
func (n *Node) takeAddresses(b []byte) error {
	var told addresses
	if err := json.Unmarshal(b, &told); err != nil {
		return base.Errorf(base.KindInvalid, "bad addresses")
	}
	s := n.control.State()
	n.mu.Lock()
	for id, address := range told.Addresses {
		if m, ok := s.Node(id); ok && m.State != catalog.NodeLeft && id != n.identity.Node && address != m.PeerAddress && address != "" {
			n.mu.found[id] = found{address, m.PeerAddress}
		}
	}
	n.mu.Unlock()
	n.wake()
	return nil
}

// addressOf a member: as recorded, unless it has told another since.
func (n *Node) addressOf(m catalog.Node) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	f, ok := n.mu.found[m.ID]
	switch {
	case !ok:
		return m.PeerAddress
	case f.recorded != m.PeerAddress:
		delete(n.mu.found, m.ID) // The record is newer.
		return m.PeerAddress
	}
	return f.address
}

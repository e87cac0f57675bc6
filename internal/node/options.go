package node

import (
	"context"
	"io"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/pki"
	"github.com/skeindb/skein/internal/replica/leader"
	"github.com/skeindb/skein/internal/transport"
)

// Options of a node. Dir and, unless a Transport is given, PeerAddress must be
// set; everything else has a default.
type Options struct {
	// Dir is the data folder; it is made when there is none.
	Dir string
	// Name is for people. Empty: the id.
	Name string
	// PeerAddress is listened on for other nodes.
	PeerAddress string
	// Advertise is the address that other nodes dial; empty: the listener's.
	Advertise string
	// PgAddress and HTTPAddress are told to the cluster for people to see.
	PgAddress, HTTPAddress string
	// Join are the addresses of members of the cluster to join, tried in turn.
	// Empty: a node without a cluster founds one.
	Join []string
	// TLS is the node's certificate; nil runs without, on loopback only.
	TLS *pki.Identity
	// Lease is how long a leader may count on a follower's silence. It must be
	// the same on all nodes. 0 means leader.DefaultLease.
	Lease time.Duration
	// Tick is the unit in which the control plane counts time; it must be the
	// same on all nodes. 0 means control.DefaultTickInterval.
	Tick time.Duration
	// Lock is that of the folder, if the caller has taken it by LockFolder; it
	// stays the caller's. Nil: Open takes it, and Close gives it back.
	Lock io.Closer
	// Transport replaces the network, in tests and simulators; it must not
	// have been started, and becomes the node's.
	Transport transport.Transport
	// ID fixes the id of a new folder; 0 draws one. With TLS it is that of the
	// certificate.
	ID base.NodeID
	// Calls are what front ends answer to other nodes, by method.
	Calls map[string]CallHandler
}

// CallHandler answers a call of another node's front end.
type CallHandler func(ctx context.Context, n *Node, from base.NodeID, request []byte) ([]byte, error)

func (o *Options) validate() error {
	if o.Dir == "" {
		return base.Errorf(base.KindInvalid, "node options: no data folder")
	}
	if o.Transport == nil && o.PeerAddress == "" {
		return base.Errorf(base.KindInvalid, "node options: no peer address to listen on")
	}
	if o.Lease == 0 {
		o.Lease = leader.DefaultLease
	}
	if o.TLS != nil {
		if o.ID != 0 && o.ID != o.TLS.Node() {
			return base.Errorf(base.KindWrongCluster, "the certificate is for node %v, not for node %v", o.TLS.Node(), o.ID)
		}
		o.ID = o.TLS.Node()
	}
	if o.Transport != nil {
		o.ID = o.Transport.Self()
	}
	return nil
}

package node

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/control"
	"github.com/skeindb/skein/internal/failover"
	"github.com/skeindb/skein/internal/replica/leader"
	"github.com/skeindb/skein/internal/replica/stream"
	"github.com/skeindb/skein/internal/transport"
)

// The calls between nodes that belong to no other package.
const (
	promiseMethod = "replica.promise"
	releaseMethod = "replica.release"
	importMethod  = "replica.import"
	importPrefix  = "import"
)

// A control message's first byte says whose it is.
const (
	toControl    = 'c'
	toSupervisor = 's'
)

// messenger lets the control plane use the transport.
type messenger struct{ t transport.Transport }

// Send implements control.Messenger.
func (m messenger) Send(to base.NodeID, msg []byte) {
	m.t.SendControl(to, append([]byte{toControl}, msg...))
}

// Call implements control.Messenger.
func (m messenger) Call(ctx context.Context, to base.NodeID, method string, request []byte) ([]byte, error) {
	return m.t.Call(ctx, to, method, request)
}

// handle registers everything that peers may ask of this node.
func (n *Node) handle() {
	t := n.transport
	t.HandleControl(n.receive)
	t.OnReach(n.noteReach)
	for _, method := range control.Methods() {
		t.HandleCall(method, func(ctx context.Context, from base.NodeID, request []byte) ([]byte, error) {
			return n.control.HandleCall(ctx, from, method, request)
		})
	}
	t.HandleCall(intakeMethod, n.serveIntake)
	t.HandleCall(standingMethod, n.serveStanding)
	t.HandleCall(addressMethod, n.serveAddress)
	t.HandleCall(promiseMethod, n.servePromise)
	t.HandleCall(releaseMethod, n.serveRelease)
	t.HandleCall(importMethod, n.serveImport)
	t.HandleCall(leader.RowsMethod, n.serveRows)
	t.HandleCall(switchoverMethod, n.serveSwitchover)
	t.HandleCall(webhooksMethod, n.serveWebhooks)
	t.HandleCall(offsetMethod, n.serveOffset)
	for method, h := range n.options.Calls {
		t.HandleCall(method, func(ctx context.Context, from base.NodeID, request []byte) ([]byte, error) {
			return h(ctx, n, from, request)
		})
	}
	t.HandleStream(leader.FollowService, n.serveFollow)
	t.HandleStream(leader.SnapshotService, n.serveSnapshot)
	t.HandleFile(leader.SnapshotFile, n.openSnapshotFile)
	t.HandleFile(importPrefix, n.openImportFile)
}

// Call asks another node what one of its Options.Calls answers.
func (n *Node) Call(ctx context.Context, to base.NodeID, method string, request []byte) ([]byte, error) {
	return n.transport.Call(ctx, to, method, request)
}

func (n *Node) receive(from base.NodeID, msg []byte) {
	if len(msg) == 0 {
		return
	}
	leader := n.control.Leader()
	n.heard.note(from, n.now(), n.control.Term(), leader == from || leader == n.identity.Node)
	switch msg[0] {
	case toControl:
		n.control.Step(from, msg[1:])
	case toSupervisor:
		if !n.control.IsLeader() {
			return // Somebody told all, not knowing who leads.
		}
		a, err := stream.DecodeAway(msg[1:])
		if err != nil {
			n.log.Warn("message to the supervisor refused", "from", from, "err", err)
			return
		}
		n.supervisor.post(failover.Away{Database: a.Database, Node: from, Epoch: a.Epoch, Reason: failover.Reason(a.Reason)})
	}
}

// reachability is what the transport has last said of each peer.
type reachability struct {
	mu    sync.Mutex // guards peers
	peers map[base.NodeID]transport.Reach
}

func (r *reachability) init() { r.peers = make(map[base.NodeID]transport.Reach) }

func (r *reachability) set(id base.NodeID, how transport.Reach) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.peers[id] = how
}

func (r *reachability) get(id base.NodeID) transport.Reach {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.peers[id]
}

// noteReach tells everyone who watches peers how one can be reached.
func (n *Node) noteReach(peer base.NodeID, how transport.Reach) {
	n.reach.set(peer, how)
	if how == transport.Refused {
		n.control.Suspect(peer)
	}
	n.supervisor.post(failover.NodeReach{Node: peer, Reach: reachOf(how)})
}

func reachOf(how transport.Reach) failover.Reach {
	switch how {
	case transport.Reached:
		return failover.Reached
	case transport.Refused:
		return failover.Refused
	case transport.Lost:
		return failover.Lost
	}
	return failover.Unknown
}

// replicaFor returns this node's running replica of a database.
func (n *Node) replicaFor(id base.DatabaseID) (*leader.Replica, error) {
	k := n.keeperOf(id)
	if k == nil {
		return nil, base.Errorf(base.KindNotFound, "database %d has no replica on node %s", id, n.Name())
	}
	return k.current()
}

func (n *Node) serveRows(ctx context.Context, _ base.NodeID, request []byte) ([]byte, error) {
	id, err := leader.RowsDatabase(request)
	if err != nil {
		return nil, err
	}
	r, err := n.replicaFor(id)
	if err != nil {
		return nil, err
	}
	return r.ServeRows(ctx, request)
}

func (n *Node) servePromise(ctx context.Context, _ base.NodeID, request []byte) ([]byte, error) {
	q, err := stream.DecodePromiseRequest(request)
	if err != nil {
		return nil, err
	}
	r, err := n.replicaFor(q.Database)
	if err != nil {
		return nil, err
	}
	reply, err := r.Promise(ctx, q)
	if err != nil {
		return nil, err
	}
	return stream.AppendPromiseReply(nil, reply), nil
}

func (n *Node) serveRelease(ctx context.Context, _ base.NodeID, request []byte) ([]byte, error) {
	q, err := stream.DecodeReleaseRequest(request)
	if err != nil {
		return nil, err
	}
	reply := stream.ReleaseReply{Database: q.Database, Epoch: q.Epoch, Target: q.Target}
	r, err := n.replicaFor(q.Database)
	if err == nil {
		reply.Final, err = r.Release(ctx, q.Epoch, q.Target, q.Within)
	}
	if err != nil {
		reply.Refusal = err.Error()
	}
	return stream.AppendReleaseReply(nil, reply), nil
}

func (n *Node) serveFollow(ctx context.Context, from base.NodeID, header []byte, s transport.Stream) error {
	q, err := stream.DecodeFollow(header)
	if err != nil {
		return err
	}
	r, err := n.replicaFor(q.Database)
	if err != nil {
		return err
	}
	return r.ServeFollow(ctx, from, q, s)
}

func (n *Node) serveSnapshot(ctx context.Context, _ base.NodeID, header []byte, s transport.Stream) error {
	id, err := strconv.ParseUint(string(header), 10, 64)
	if err != nil {
		return base.Errorf(base.KindInvalid, "bad database id")
	}
	r, err := n.replicaFor(base.DatabaseID(id))
	if err != nil {
		return err
	}
	return r.ServeSnapshot(ctx, s)
}

// openSnapshotFile serves snapshot/DATABASE/NAME.
func (n *Node) openSnapshotFile(_ context.Context, _ base.NodeID, name string) (transport.ReadAtCloser, int64, error) {
	number, file, ok := strings.Cut(strings.TrimPrefix(name, leader.SnapshotFile+"/"), "/")
	id, err := strconv.ParseUint(number, 10, 64)
	if err != nil || !ok {
		return nil, 0, base.Errorf(base.KindNotFound, "no such file")
	}
	r, err := n.replicaFor(base.DatabaseID(id))
	if err != nil {
		return nil, 0, err
	}
	f, size, err := r.OpenSnapshot(file)
	if err != nil {
		return nil, 0, err
	}
	return f, size, nil
}

// call bounds a call between nodes and shortcuts those to this node.
func (n *Node) call(ctx context.Context, to base.NodeID, method string, request []byte, within time.Duration) ([]byte, error) {
	ctx, cancel := n.env.Clock.WithTimeout(ctx, within, base.Errorf(base.KindTimeout, "node %v did not answer within %v", to, within))
	defer cancel()
	if to != n.identity.Node {
		return n.transport.Call(ctx, to, method, request)
	}
	switch method {
	case promiseMethod:
		return n.servePromise(ctx, to, request)
	case releaseMethod:
		return n.serveRelease(ctx, to, request)
	case importMethod:
		return n.serveImport(ctx, to, request)
	case intakeMethod:
		return n.serveIntake(ctx, to, request)
	case webhooksMethod:
		return n.serveWebhooks(ctx, to, request)
	}
	return nil, base.Errorf(base.KindInternal, "no call %q to oneself", method)
}

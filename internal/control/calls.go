package control

import (
	"context"
	"encoding/json"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
)

// The methods that HandleCall answers.
const (
	MethodPropose  = "control.propose"
	MethodJoin     = "control.join"
	MethodSnapshot = "control.snapshot" // a message of the group too large to send
)

// Methods lists them, for the transport.
func Methods() []string { return []string{MethodPropose, MethodJoin, MethodSnapshot} }

// The bodies of requests and responses are JSON in an envelope.
type (
	proposeRequest struct {
		Command json.RawMessage `json:"command"`
	}
	proposeResponse struct {
		Result catalog.Result `json:"result"`
	}
	joinRequest struct {
		Node      catalog.Node `json:"node"`
		Forwarded bool         `json:"forwarded,omitempty"` // by a member; not again
	}
	joinResponse struct {
		Snapshot []byte `json:"snapshot"` // a raftpb.Snapshot
	}
)

// HandleCall answers a request of a peer; from is its id as the transport has
// authenticated it.
func (c *Control) HandleCall(ctx context.Context, from base.NodeID, method string, request []byte) ([]byte, error) {
	e, err := decodeEnvelope(request)
	if err != nil {
		return nil, err
	}
	if e.kind != kindRequest || e.from != from {
		return nil, base.Errorf(base.KindInvalid, "not a request of node %s", from)
	}
	v, _ := c.published.get()
	if v.failure != nil {
		return nil, v.failure
	}
	if err := c.admit(e, v.state, method); err != nil {
		return nil, err
	}
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	var response any
	switch method {
	case MethodPropose:
		response, err = c.handlePropose(ctx, e.body)
	case MethodJoin:
		response, err = c.handleJoin(ctx, from, e.body)
	case MethodSnapshot:
		c.stepRaft(from, e.body)
	default:
		err = base.Errorf(base.KindUnsupported, "the control plane does not know method %.64q", method)
	}
	if err != nil {
		return nil, err
	}
	return c.seal(kindResponse, from, v.state.ClusterID(), response)
}

// admit checks that a request is for this node and cluster.
func (c *Control) admit(e envelope, s *catalog.State, method string) error {
	ours := s.ClusterID()
	joining := method == MethodJoin
	if ours == 0 {
		return base.Errorf(base.KindUnavailable, "this node is in no cluster yet")
	}
	if e.cluster != ours && (!joining || e.cluster != 0) {
		return wrongCluster(e.cluster, ours)
	}
	if e.to != c.o.Self && (!joining || e.to != 0) {
		return base.Errorf(base.KindWrongCluster, "node %s was expected here; this is %s", e.to, c.o.Self).
			WithHint("the data folder at this address is another node's")
	}
	if n, ok := s.Node(e.from); (!ok || n.State == catalog.NodeLeft) && !joining {
		return base.Errorf(base.KindForbidden, "node %s is not a member of this cluster", e.from)
	}
	return nil
}

func (c *Control) seal(kind envelopeKind, to base.NodeID, cluster uint64, body any) ([]byte, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	if len(b) > maxBody {
		return nil, base.Errorf(base.KindTooLarge, "control message of %d bytes; the limit is %d", len(b), maxBody)
	}
	return envelope{kind: kind, cluster: cluster, from: c.o.Self, to: to, body: b}.encode(), nil
}

// request makes a call and opens its answer. cluster may be 0, for any.
func (c *Control) request(ctx context.Context, via Caller, to base.NodeID, cluster uint64, method string, in, out any) (envelope, error) {
	msg, err := c.seal(kindRequest, to, cluster, in)
	if err != nil {
		return envelope{}, err
	}
	answer, err := via(ctx, method, msg)
	if err != nil {
		return envelope{}, err
	}
	e, err := decodeEnvelope(answer)
	switch {
	case err != nil:
		return envelope{}, err
	case e.kind != kindResponse || e.to != c.o.Self:
		return envelope{}, base.Errorf(base.KindCorrupt, "the answer to %s is none", method)
	case cluster != 0 && e.cluster != cluster:
		return envelope{}, wrongCluster(e.cluster, cluster)
	}
	if err := json.Unmarshal(e.body, out); err != nil {
		return envelope{}, base.Errorf(base.KindCorrupt, "decode answer to %s: %w", method, err)
	}
	return e, nil
}

// Via returns a Caller for a node whose id is known.
func (c *Control) Via(to base.NodeID) Caller {
	return func(ctx context.Context, method string, request []byte) ([]byte, error) {
		return c.o.Messenger.Call(ctx, to, method, request)
	}
}

func (c *Control) callPropose(ctx context.Context, leader base.NodeID, data []byte) (catalog.Result, error) {
	var out proposeResponse
	_, err := c.request(ctx, c.Via(leader), leader, c.State().ClusterID(), MethodPropose, proposeRequest{data}, &out)
	return out.Result, err
}

// handlePropose proposes a peer's command, if this node leads. The error's
// outcome tells whether it may be in the log.
func (c *Control) handlePropose(ctx context.Context, body []byte) (proposeResponse, error) {
	var in proposeRequest
	if err := json.Unmarshal(body, &in); err != nil {
		return proposeResponse{}, base.Errorf(base.KindCorrupt, "decode proposal: %w", err)
	}
	cmd, err := catalog.DecodeCommand(in.Command)
	if err != nil {
		return proposeResponse{}, err
	}
	result, err := c.proposeHere(ctx, cmd, in.Command)
	return proposeResponse{result}, err
}

// proposeHere makes one attempt on this node.
func (c *Control) proposeHere(ctx context.Context, cmd catalog.Command, data []byte) (catalog.Result, error) {
	v, _ := c.published.get()
	if v.leader != c.o.Self {
		return catalog.Result{}, c.notLeader(v)
	}
	p := &proposal{c: c, cmd: cmd, data: data, applied: c.waiters.add(cmd.ID)}
	defer c.waiters.remove(cmd.ID, p.applied)
	if r, ok := c.State().Recent(cmd.ID); ok {
		return r, nil
	}
	result, done, err := p.attemptHere(ctx, v)
	switch {
	case done:
		return result, err
	case p.last != nil:
		return catalog.Result{}, p.outcome(p.last)
	}
	now, _ := c.published.get()
	return catalog.Result{}, p.outcome(c.notLeader(now))
}

func (c *Control) notLeader(v view) error {
	if v.leader == 0 || v.leader == c.o.Self {
		return c.noLeader(v)
	}
	return &base.Error{Kind: base.KindNotLeader, Message: "this node does not lead the control group", Leader: v.leader}
}

// handleJoin takes a node into the cluster and answers with the catalog, or
// passes the request on to the leader.
func (c *Control) handleJoin(ctx context.Context, from base.NodeID, body []byte) (joinResponse, error) {
	var in joinRequest
	if err := json.Unmarshal(body, &in); err != nil {
		return joinResponse{}, base.Errorf(base.KindCorrupt, "decode request to join: %w", err)
	}
	v, _ := c.published.get()
	if sender, ok := v.state.Node(from); in.Node.ID != from && (!in.Forwarded || !ok || sender.State == catalog.NodeLeft) {
		return joinResponse{}, base.Errorf(base.KindForbidden, "node %s asks for node %s to join", from, in.Node.ID)
	}
	switch {
	case v.leader == c.o.Self:
		return c.joinHere(ctx, in.Node)
	case v.leader == 0 || in.Forwarded:
		return joinResponse{}, c.notLeader(v)
	}
	in.Forwarded = true
	var out joinResponse
	_, err := c.request(ctx, c.Via(v.leader), v.leader, v.state.ClusterID(), MethodJoin, in, &out)
	return out, err
}

func (c *Control) joinHere(ctx context.Context, n catalog.Node) (joinResponse, error) {
	cmd := catalog.Command{Action: catalog.AddNode{Node: n}}
	if _, err := c.Propose(ctx, cmd); err != nil {
		return joinResponse{}, err
	}
	// The group has changed, so that the last snapshot holds the new member.
	var snapshot *raftpb.Snapshot
	err := c.ask(ctx, func(l *loop) (err error) { snapshot, err = l.log.Snapshot(); return err })
	if err != nil {
		return joinResponse{}, err
	}
	b, err := proto.Marshal(snapshot)
	return joinResponse{b}, err
}

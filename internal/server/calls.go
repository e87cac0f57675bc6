package server

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/node"
)

// What a node asks of another to answer a person.
const (
	statusCall  = "server.status"
	orphansCall = "server.orphans"
	settleCall  = "server.orphans.settle"
	hashCall    = "server.hash"
)

const (
	askTimeout  = 2 * time.Second
	hashTimeout = 10 * time.Minute
	maxOrphans  = 10000
)

// calls answers what other nodes ask. Requests and answers are JSON.
func (s *Server) calls() map[string]node.CallHandler {
	return map[string]node.CallHandler{
		statusCall: func(ctx context.Context, n *node.Node, _ base.NodeID, _ []byte) ([]byte, error) {
			return json.Marshal(s.localStatus(n))
		},
		orphansCall: func(ctx context.Context, n *node.Node, _ base.NodeID, request []byte) ([]byte, error) {
			list, err := localOrphans(ctx, n, string(request))
			return marshal(list, err)
		},
		settleCall: func(ctx context.Context, n *node.Node, _ base.NodeID, request []byte) ([]byte, error) {
			var q settleRequest
			if err := json.Unmarshal(request, &q); err != nil {
				return nil, base.Errorf(base.KindInvalid, "bad request about orphaned writes")
			}
			outcomes, err := settleLocal(ctx, n, q)
			return marshal(outcomes, err)
		},
		hashCall: func(ctx context.Context, n *node.Node, _ base.NodeID, request []byte) ([]byte, error) {
			return json.Marshal(localHash(ctx, n, string(request)))
		},
	}
}

func marshal(v any, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// answer is one node's reply to everyone being asked.
type answer struct {
	node  catalog.Node
	reply []byte
	err   error
}

// askAll asks every member but this node, at once, and waits for all.
func (s *Server) askAll(ctx context.Context, method string, request []byte, within time.Duration, of func(catalog.Node) bool) []answer {
	var answers []answer
	for _, m := range s.node.Control().State().Nodes() {
		if m.ID != s.node.ID() && m.State != catalog.NodeLeft && of(m) {
			answers = append(answers, answer{node: m})
		}
	}
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() {
			a := &answers[i]
			ctx, cancel := s.env.Clock.WithTimeout(ctx, within, base.Errorf(base.KindTimeout, "node %s did not answer within %v", a.node.Name, within))
			defer cancel()
			a.reply, a.err = s.node.Call(ctx, a.node.ID, method, request)
		})
	}
	wg.Wait()
	return answers
}

func everyone(catalog.Node) bool { return true }

// Orphans implements httpapi.Node.
func (s *Server) Orphans(ctx context.Context, database string) ([]httpapi.Orphan, error) {
	db, err := s.node.Database(database)
	if err != nil {
		return nil, err
	}
	all, err := localOrphans(ctx, s.node, database)
	if err != nil {
		return nil, err
	}
	for _, a := range s.askAll(ctx, orphansCall, []byte(database), askTimeout, func(m catalog.Node) bool { return db.HasReplica(m.ID) }) {
		var list []httpapi.Orphan
		if a.err == nil {
			a.err = json.Unmarshal(a.reply, &list)
		}
		if a.err != nil {
			return nil, fmt.Errorf("ask node %s for its orphaned writes: %w", a.node.Name, a.err)
		}
		all = append(all, list...)
	}
	slices.SortStableFunc(all, func(a, b httpapi.Orphan) int {
		return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Seq, b.Seq))
	})
	return all, nil
}

func localOrphans(ctx context.Context, n *node.Node, database string) ([]httpapi.Orphan, error) {
	r, err := n.Replica(database)
	if err != nil {
		return nil, nil // No replica here, or it is not open: nothing to list.
	}
	kept, err := r.Orphans(ctx, maxOrphans)
	if err != nil {
		return nil, err
	}
	list := make([]httpapi.Orphan, 0, len(kept))
	for _, o := range kept {
		list = append(list, httpapi.Orphan{
			Time: time.Unix(0, o.WrittenNS).UTC(), Node: n.ID().String(), Epoch: o.Epoch, Seq: o.Seq,
			Table: o.Table, Op: o.Operation, Key: named(rowidName(o), "key", o.Key), Acknowledged: acknowledgedText(o.Acknowledged), Old: named(o.Columns, "column", o.Old), New: named(o.Columns, "column", o.New),
		})
	}
	return list, nil
}

// ContentHash implements httpapi.Node.
func (s *Server) ContentHash(ctx context.Context, database string) ([]httpapi.ReplicaHash, error) {
	db, err := s.node.Database(database)
	if err != nil {
		return nil, err
	}
	var all []httpapi.ReplicaHash
	if db.HasReplica(s.node.ID()) {
		all = append(all, localHash(ctx, s.node, database))
	}
	for _, a := range s.askAll(ctx, hashCall, []byte(database), hashTimeout, func(m catalog.Node) bool { return db.HasReplica(m.ID) }) {
		h := httpapi.ReplicaHash{}
		if a.err == nil {
			a.err = json.Unmarshal(a.reply, &h)
		}
		if a.err != nil {
			h.Error = a.err.Error()
		}
		h.Node, h.NodeName = a.node.ID.String(), a.node.Name
		all = append(all, h)
	}
	slices.SortFunc(all, func(a, b httpapi.ReplicaHash) int { return cmp.Compare(a.NodeName, b.NodeName) })
	return all, nil
}

func localHash(ctx context.Context, n *node.Node, database string) httpapi.ReplicaHash {
	h := httpapi.ReplicaHash{Node: n.ID().String(), NodeName: n.Name()}
	r, err := n.Replica(database)
	if err == nil {
		var at base.Position
		h.Hash, at, err = r.ContentHash(ctx)
		h.Position = at.String()
	}
	if err != nil {
		h.Error = err.Error()
	}
	return h
}

// named puts names to values; those that have none are numbered.
func named(columns []string, kind string, values []base.Value) changefeed.Row {
	if values == nil {
		return nil
	}
	row := changefeed.Row{}
	for i, v := range values {
		name := fmt.Sprintf("%s%d", kind, i+1)
		switch {
		case i < len(columns):
			name = columns[i]
		case len(values) == 1:
			name = kind
		}
		row = append(row, changefeed.Field{Name: name, Value: v})
	}
	return row
}

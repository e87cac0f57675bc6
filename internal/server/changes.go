package server

import (
	"context"
	"strings"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
)

// Self implements httpapi.Node.
func (s *Server) Self() string { return s.node.ID().String() }

// Changes implements httpapi.Node.
func (s *Server) Changes(ctx context.Context, database string, q changefeed.Request, heartbeat time.Duration, to changefeed.Sink) error {
	db, err := s.node.Database(database)
	if err != nil {
		return err
	}
	if !db.HasReplica(s.node.ID()) {
		return base.Errorf(base.KindUnavailable, "node %s holds no replica of %s, so that it cannot stream its changes", s.node.Name(), database).
			WithHint("ask one that does: %s", strings.Join(s.addressesOf(db.Replicas), ", "))
	}
	r, err := s.node.Replica(database)
	if err != nil {
		return err
	}
	return r.Feed(ctx, q, heartbeat, to)
}

// addressesOf lists where nodes answer HTTP.
func (s *Server) addressesOf(ids []base.NodeID) (list []string) {
	for _, id := range ids {
		if m, ok := s.node.Control().State().Node(id); ok {
			list = append(list, m.Name+" at "+m.HTTPAddress)
		}
	}
	return list
}

package main

import (
	"context"

	"github.com/skeindb/skein/internal/config"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/server"
)

// version is that of the binary; a release sets it when it links.
var version = "0.1.0-dev"

// runningNode is what serve needs of a node.
type runningNode interface {
	// Done is closed when the node has stopped by itself; Err then says why.
	Done() <-chan struct{}
	Err() error
	// Close stops the node in order: it hands leadership over, ends sessions
	// and closes files.
	Close() error
}

// openNode starts a node and returns once it listens. ctx only bounds the
// start: it is done as soon as openNode has returned.
var openNode = func(ctx context.Context, e *env.Env, c *config.Serve) (runningNode, error) {
	s, err := server.Open(ctx, e, c, version)
	if err != nil {
		return nil, err
	}
	return s, nil
}

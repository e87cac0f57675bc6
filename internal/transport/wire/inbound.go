package wire

import (
	"context"
	"sync"

	"github.com/skeindb/skein/internal/base"
)

// inbound keeps control messages of a peer in order across its connections:
// at any time one connection of each peer delivers, and an older one has
// stopped before a newer one begins.
type inbound struct {
	mu     sync.Mutex // guards claims
	claims map[base.NodeID]*claim
}

type claim struct {
	instance, serial uint64
	conn             *serverConn
	done             chan struct{}
}

// claim makes c the connection that delivers. The caller must release it.
func (in *inbound) claim(ctx context.Context, h hello, c *serverConn) (release func(), err error) {
	mine := &claim{instance: h.instance, serial: h.serial, conn: c, done: make(chan struct{})}
	in.mu.Lock()
	older := in.claims[h.from]
	if older != nil && older.instance == h.instance && older.serial > h.serial {
		in.mu.Unlock()
		return nil, base.Errorf(base.KindInvalid, "a newer connection of node %s delivers", h.from)
	}
	if in.claims == nil {
		in.claims = make(map[base.NodeID]*claim)
	}
	in.claims[h.from] = mine
	in.mu.Unlock()
	release = func() {
		in.mu.Lock()
		if in.claims[h.from] == mine {
			delete(in.claims, h.from)
		}
		in.mu.Unlock()
		close(mine.done)
	}
	if older == nil {
		return release, nil
	}
	older.conn.Close()
	select {
	case <-older.done:
		return release, nil
	case <-ctx.Done():
		// The older one may still deliver: whoever replaces this claim must
		// wait for it, so that this one ends only after it.
		<-older.done
		release()
		return nil, context.Cause(ctx)
	}
}

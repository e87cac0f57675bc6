package leader

import (
	"context"
	"fmt"
	"sync"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/sqlite"
)

// handle is the open SQLite file and who uses it. Copying a snapshot replaces
// the file, which SQLite survives only when nobody has the old one open.
type handle struct {
	mu struct {
		sync.Mutex // guards all below; never held over I/O
		db         *sqlite.Database
		users      int
		idle       chan struct{} // closed when the last user leaves a closing file
		closing    bool
		generation uint64 // rises whenever history was undone or replaced
	}
	// readers is canceled to interrupt those who read the old file.
	readers       context.Context
	cancelReaders context.CancelCauseFunc
}

func (h *handle) init() { h.readers, h.cancelReaders = context.WithCancelCause(context.Background()) }

// useFile returns the open file for one user, who must call release.
func (r *Replica) useFile() (db *sqlite.Database, generation uint64, release func(), err error) {
	h := &r.handle
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.db == nil || h.mu.closing {
		return nil, 0, nil, r.unavailable()
	}
	h.mu.users++
	return h.mu.db, h.mu.generation, h.release, nil
}

func (r *Replica) unavailable() error {
	return base.Errorf(base.KindUnavailable, "the replica of %s on this node is not ready to read", r.options.Name).
		WithHint("it may be copying a snapshot; ask another node, or see skein status")
}

func (h *handle) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.users--
	if h.mu.users == 0 && h.mu.closing && h.mu.idle != nil {
		close(h.mu.idle)
		h.mu.idle = nil
	}
}

// file is the open file, for the part that this replica plays; it is nil only
// while the replica copies.
func (r *Replica) file() *sqlite.Database {
	r.handle.mu.Lock()
	defer r.handle.mu.Unlock()
	return r.handle.mu.db
}

func (r *Replica) generationNow() uint64 {
	r.handle.mu.Lock()
	defer r.handle.mu.Unlock()
	return r.handle.mu.generation
}

// undone marks that history was undone: reads that saw it must not finish.
func (h *handle) undone() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.generation++
}

func (h *handle) set(db *sqlite.Database) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.db, h.mu.closing = db, false
	h.mu.generation++
}

// close waits for the users, whom it tells to stop, and closes the file.
func (h *handle) close() error {
	h.mu.Lock()
	db, idle := h.mu.db, make(chan struct{})
	if db == nil {
		h.mu.Unlock()
		return nil
	}
	h.mu.closing = true
	if h.mu.users == 0 {
		close(idle)
	} else {
		h.mu.idle = idle
	}
	cancel := h.cancelReaders
	h.mu.Unlock()
	cancel(base.Errorf(base.KindUnavailable, "the replica's file is being closed").WithHint("run the statement again"))
	<-idle
	h.mu.Lock()
	h.mu.db = nil
	h.init()
	h.mu.Unlock()
	if err := db.Close(); err != nil {
		return fmt.Errorf("close database file: %w", err)
	}
	return nil
}

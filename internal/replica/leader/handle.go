package leader

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/sqlite"
)

// closeWait bounds how long the file is kept open for those who still read it
// when it is to be closed: they were told to stop.
const closeWait = 15 * time.Second

// handle is the open SQLite file and who uses it. Copying a snapshot replaces
// the file, which SQLite survives only when nobody has the old one open.
type handle struct {
	mu struct {
		sync.Mutex // guards all below; never held over I/O
		db         *sqlite.Database
		users      int
		idle       chan struct{} // closed when the last user leaves a closing file
		closing    bool
		suspect    bool   // its content may be wrong: nobody may read it
		generation uint64 // rises whenever history was undone or replaced
		reads      map[*readTx]struct{}
		// readers is canceled to stop those who use the file for long.
		readers       context.Context
		cancelReaders context.CancelCauseFunc
	}
}

func (h *handle) init() {
	h.mu.reads = make(map[*readTx]struct{})
	h.renew()
}

// renew is called with the lock held.
func (h *handle) renew() {
	h.mu.readers, h.mu.cancelReaders = context.WithCancelCause(context.Background())
}

// usedFile is the open file in the hands of one user, who must call release.
type usedFile struct {
	db         *sqlite.Database
	generation uint64
	readers    context.Context // ends when the file must be closed
	release    func()
}

// useFile returns the open file for one user, who must release it soon.
func (r *Replica) useFile() (usedFile, error) {
	h := &r.handle
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.db == nil || h.mu.closing || h.mu.suspect {
		return usedFile{}, r.unavailable()
	}
	h.mu.users++
	return usedFile{h.mu.db, h.mu.generation, h.mu.readers, h.release}, nil
}

// useFileFor returns the open file for work that takes long, and a context that
// ends when the file must be closed.
func (r *Replica) useFileFor(ctx context.Context) (db *sqlite.Database, working context.Context, release func(), err error) {
	file, err := r.useFile()
	if err != nil {
		return nil, nil, nil, err
	}
	working, cancel := merge(ctx, file.readers)
	return file.db, working, func() { cancel(); file.release() }, nil
}

// withSnapshot calls f with a view of the file as it is at one position, for
// work that takes long.
func (r *Replica) withSnapshot(ctx context.Context, f func(ctx context.Context, shot *sqlite.Snapshot) error) (at base.Position, err error) {
	if err := r.commitApplied(ctx); err != nil {
		return at, err
	}
	db, ctx, release, err := r.useFileFor(ctx)
	if err != nil {
		return at, err
	}
	defer release()
	shot, err := db.Snapshot(ctx)
	if err != nil {
		return at, err
	}
	defer shot.Close()
	if at, err = readPosition(shot.Conn()); err != nil {
		return at, err
	}
	return at, f(ctx, shot)
}

func (r *Replica) unavailable() error {
	return base.Errorf(base.KindUnavailable, "the replica of %s on this node is not ready to read", r.options.Name).
		WithHint("it may be copying a snapshot; ask another node, or see skein status")
}

func (h *handle) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.users--
	if h.mu.users == 0 && h.mu.idle != nil {
		close(h.mu.idle)
		h.mu.idle = nil
	}
}

// enter takes a read into the book of those that can be expelled; false when
// the file is being closed.
func (h *handle) enter(t *readTx) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.closing {
		return false
	}
	h.mu.reads[t] = struct{}{}
	return true
}

func (h *handle) leave(t *readTx) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.mu.reads, t)
}

// expel ends the reads that which selects: an idle one now, one whose rows are
// being read at its next row.
func (h *handle) expel(cause error, which func(*readTx) bool) {
	h.mu.Lock()
	var gone []*readTx
	for t := range h.mu.reads {
		if which(t) {
			gone = append(gone, t)
		}
	}
	h.mu.Unlock()
	for _, t := range gone {
		t.expel(cause)
	}
}

func everyRead(*readTx) bool { return true }

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
	h.mu.generation++
	h.mu.Unlock()
	h.expel(historyGone(), everyRead)
}

// distrust keeps everybody from reading a file that differs from its leader's,
// until another takes its place or trust is given again.
func (h *handle) distrust(suspect bool) {
	h.mu.Lock()
	h.mu.suspect = suspect
	h.mu.Unlock()
	if suspect {
		h.expel(errClosing(), everyRead)
	}
}

func (h *handle) set(db *sqlite.Database) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.db, h.mu.closing, h.mu.suspect = db, false, false
	h.mu.generation++
}

func errClosing() error {
	return base.Errorf(base.KindUnavailable, "the replica's file is being closed").WithHint("run the statement again")
}

// close waits for the users, whom it tells to stop, and closes the file.
func (h *handle) close(clock env.Clock) error {
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
	h.mu.cancelReaders(errClosing())
	h.renew()
	h.mu.Unlock()
	h.expel(errClosing(), everyRead)
	if err := h.await(clock, idle); err != nil {
		return err
	}
	h.mu.Lock()
	h.mu.db = nil
	h.mu.Unlock()
	if err := db.Close(); err != nil {
		return fmt.Errorf("close database file: %w", err)
	}
	return nil
}

// await waits until the last user has left.
func (h *handle) await(clock env.Clock, idle chan struct{}) error {
	timer := clock.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case <-idle:
		return nil
	case <-timer.C():
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.users == 0 {
		return nil
	}
	h.mu.closing, h.mu.idle = false, nil
	return base.Errorf(base.KindBusy, "close database file: %d readers do not end", h.mu.users)
}

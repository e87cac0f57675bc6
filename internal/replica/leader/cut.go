package leader

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/sqlite"
)

// maxCutBytes bounds the tail that is undone row by row; a longer one is
// replaced by a copy of the leader's file.
const maxCutBytes = 1 << 30

// cutTail removes everything after to: the histories of this replica and its
// leader part there. What is undone is kept as orphaned writes first. A crash
// at any point leaves a replica that does the same again.
func (r *Replica) cutTail(ctx context.Context, to base.Seq) error {
	tail, err := r.readTail(to)
	if err != nil {
		return fmt.Errorf("read the tail after %d: %w", to, err)
	}
	r.log.Warn("histories part here: undoing this replica's tail", "after", to, "entries", len(tail), "log", r.changes.End())
	if err := r.keepOrphans(ctx, tail); err != nil {
		return err
	}
	r.recountOrphans(ctx)
	err = r.undo(ctx, tail, to)
	if errors.Is(err, row.ErrNotInvertible) || errors.Is(err, row.ErrDiverged) {
		r.log.Warn("the tail can't be undone row by row; copying the leader's file", "err", err)
		return r.markCopying("a tail that can't be undone: " + err.Error())
	}
	if err != nil {
		return fmt.Errorf("undo the tail after %d: %w", to, err)
	}
	r.handle.undone()
	r.recent.cut(to)
	r.executed.cut(min(to, r.executed.get()), historyGone())
	r.safe.cut(min(to, r.safe.get()), historyGone())
	if err := r.changes.TruncateAfter(to); err != nil {
		return fmt.Errorf("cut the log after %d: %w", to, err)
	}
	return nil
}

// readTail returns the entries after to, oldest first.
func (r *Replica) readTail(to base.Seq) ([]entry.Entry, error) {
	var tail []entry.Entry
	total := 0
	for at := to + 1; ; {
		frames, _, last, err := r.changes.ReadFrom(at, readBytes, nil)
		if errors.Is(err, changelog.ErrEnd) {
			return tail, nil
		}
		if err != nil {
			return nil, err
		}
		if total += len(frames); total > maxCutBytes {
			return nil, base.Errorf(base.KindTooLarge, "the tail is longer than %d bytes", maxCutBytes)
		}
		for len(frames) > 0 {
			e, n, err := entry.Decode(frames)
			if err != nil {
				return nil, err
			}
			tail = append(tail, e)
			frames = frames[n:]
		}
		at = last + 1
	}
}

// undo takes back, newest first, what SQLite has of the tail, in one
// transaction that is on disk before undo returns.
func (r *Replica) undo(ctx context.Context, tail []entry.Entry, to base.Seq) error {
	executed := r.executed.get()
	if executed <= to {
		return nil
	}
	a, err := r.newApplier(ctx)
	if err != nil {
		return err
	}
	defer a.close()
	if err := a.conn.BeginImmediate(); err != nil {
		return err
	}
	if err = a.undoEntries(tail, executed); err == nil {
		err = setPosition(a.conn, base.Position{Epoch: r.changes.EpochAt(to), Seq: to})
	}
	if err == nil {
		err = a.conn.Commit()
	}
	if a.conn.InTransaction() {
		err = errors.Join(err, a.conn.Rollback())
	}
	if err != nil {
		return err
	}
	// The log's tail goes next: SQLite must not come back with it.
	if _, _, err := a.conn.Checkpoint(sqlite.CheckpointFull); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

func (a *applier) undoEntries(tail []entry.Entry, executed base.Seq) error {
	for _, e := range slices.Backward(tail) {
		if e.Kind != entry.Row || e.Last() > executed {
			continue
		}
		if err := a.rows.Undo(e.Body); err != nil {
			return fmt.Errorf("entry %v: %w", e.Position(), err)
		}
	}
	return nil
}

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
	"github.com/skeindb/skein/internal/planted"
	"github.com/skeindb/skein/internal/sqlite"
)

// maxUndoBytes bounds the tail that is undone row by row, in memory; a longer
// one is replaced by a copy of the leader's file.
const maxUndoBytes = 64 << 20

var errLongTail = errors.New("the tail is too long to be undone row by row")

// cutTail removes everything after to: the histories of this replica and its
// leader part there. What is undone is kept as orphaned writes first. A crash
// at any point, or an error, leaves a replica that does the same again.
func (r *Replica) cutTail(ctx context.Context, to base.Seq) error {
	r.log.Warn("histories part here: undoing this replica's tail", "after", to, "log", r.changes.End())
	size, err := r.keepOrphans(ctx, to)
	if err != nil {
		return err
	}
	err = r.undo(ctx, to, size)
	if errors.Is(err, row.ErrNotInvertible) || errors.Is(err, row.ErrDiverged) || errors.Is(err, errLongTail) {
		r.log.Warn("the tail can't be undone row by row; copying the leader's file", "err", err)
		return r.markCopying("a tail that can't be undone: " + err.Error())
	}
	if err != nil {
		return fmt.Errorf("undo the tail after %d: %w", to, err)
	}
	r.safe.cut(min(to, r.safe.get()), historyGone())
	if err := r.changes.TruncateAfter(to); err != nil {
		return fmt.Errorf("cut the log after %d: %w", to, err)
	}
	// Not before: while the log has the tail this replica may be elected with it.
	r.recent.cut(to)
	return nil
}

// eachEntry calls f with the entries of the log after a sequence number, oldest
// first, and returns the size of them all. An entry is valid during the call.
func (r *Replica) eachEntry(after base.Seq, f func(e *entry.Entry, frame []byte) error) (size int, err error) {
	var buffer []byte
	for at := after + 1; ; {
		frames, _, last, err := r.changes.ReadFrom(at, readBytes, buffer)
		if errors.Is(err, changelog.ErrEnd) {
			return size, nil
		}
		if err != nil {
			return size, fmt.Errorf("read the log from %d: %w", at, err)
		}
		size += len(frames)
		if _, err := entry.Scan(frames, f); err != nil {
			return size, err
		}
		at, buffer = last+1, frames
	}
}

// readTail returns the entries after to, oldest first.
func (r *Replica) readTail(to base.Seq) (tail []entry.Entry, err error) {
	_, err = r.eachEntry(to, func(e *entry.Entry, _ []byte) error {
		kept := *e
		kept.Body, kept.Past = slices.Clone(e.Body), nil
		tail = append(tail, kept)
		return nil
	})
	return tail, err
}

// undo takes back, newest first, what SQLite has of the tail, in one
// transaction that is on disk before undo returns: the log's tail goes next,
// and SQLite must not come back with it.
func (r *Replica) undo(ctx context.Context, to base.Seq, size int) error {
	a, err := r.newApplier(ctx)
	if err != nil {
		return err
	}
	defer a.close()
	if executed := r.executed.get(); executed > to && planted.Is(planted.KeepDivergentTail) {
		r.setExecuted(to, historyGone())
	} else if executed > to {
		if size > maxUndoBytes {
			return errLongTail
		}
		if err := a.undo(to, executed); err != nil {
			return err
		}
		r.setExecuted(to, historyGone())
		r.handle.undone()
	}
	if _, _, err := a.conn.Checkpoint(sqlite.CheckpointFull); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

// undo takes back the entries after to that SQLite has, in one transaction.
func (a *applier) undo(to, executed base.Seq) error {
	tail, err := a.replica.readTail(to)
	if err != nil {
		return err
	}
	before, err := a.replica.pagesBefore(tail, executed)
	if err != nil {
		return err
	}
	if before != nil {
		// A crash behind this finds a file at an earlier position, of which the log
		// still has the tail.
		if err := a.conn.ApplyPages(before, nil); err != nil {
			return err
		}
		executed = 0
	}
	if err := a.conn.BeginImmediate(); err != nil {
		return err
	}
	if err = a.undoEntries(tail, executed); err == nil {
		err = a.conn.RunOwn(undoOperationsSQL, base.IntValue(int64(to)))
	}
	if err == nil {
		err = a.conn.RunOwn(undoRowsSQL, base.IntValue(int64(to)))
	}
	if err == nil {
		err = setPosition(a.conn, base.Position{Epoch: a.replica.changes.EpochAt(to), Seq: to})
	}
	if err == nil {
		err = a.conn.Commit()
	}
	if a.conn.InTransaction() {
		err = errors.Join(err, a.conn.Rollback())
	}
	return err
}

func (a *applier) undoEntries(tail []entry.Entry, executed base.Seq) error {
	for _, e := range slices.Backward(tail) {
		if e.Kind == entry.EpochStart || e.Kind == entry.Format || e.Last() > executed {
			continue
		}
		body, found, err := rowsOf(a.conn, &e)
		if err == nil && !found {
			err = fmt.Errorf("%w: its rows are not kept", row.ErrNotInvertible)
		}
		if err == nil {
			err = a.rows.Undo(body)
		}
		if err != nil {
			return fmt.Errorf("entry %v: %w", e.Position(), err)
		}
	}
	return nil
}

package leader

import (
	"context"
	"errors"
	"fmt"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/sqlite"
)

const (
	readBytes       = 256 << 10 // of log in one read
	applyMaxEntries = 2048      // in one SQLite transaction of a follower
)

// applier brings SQLite forward from the log. It owns its connection.
type applier struct {
	replica *Replica
	conn    *sqlite.Conn
	rows    *row.Applier
	buffer  []byte
}

func (r *Replica) newApplier(ctx context.Context) (*applier, error) {
	db := r.file()
	if db == nil {
		return nil, r.unavailable()
	}
	conn, err := db.OpenWriter(ctx, sqlite.RoleApplier)
	if err != nil {
		return nil, fmt.Errorf("open apply connection: %w", err)
	}
	return &applier{replica: r, conn: conn, rows: row.NewApplier(conn)}, nil
}

func (a *applier) close() error { return a.conn.Close() }

// applyAll applies the whole log: before this replica leads, all of it counts.
func (r *Replica) applyAll(ctx context.Context) error {
	a, err := r.newApplier(ctx)
	if err != nil {
		return err
	}
	defer a.close()
	for r.executed.get() < r.changes.End().Seq {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		err := a.step(r.changes.End().Seq)
		if errors.Is(err, row.ErrDiverged) {
			return errors.Join(err, r.markCopying(err.Error()))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// step applies some entries up to limit in one SQLite transaction.
func (a *applier) step(limit base.Seq) error {
	from := a.replica.executed.get() + 1
	frames, _, _, err := a.replica.changes.ReadFrom(from, readBytes, a.buffer)
	if errors.Is(err, changelog.ErrEnd) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read log from %d: %w", from, err)
	}
	a.buffer = frames[:0]
	if err := a.conn.BeginImmediate(); err != nil {
		return fmt.Errorf("begin apply: %w", err)
	}
	at, err := a.apply(frames, limit)
	if err == nil && at.Seq < from {
		err = base.Errorf(base.KindInternal, "no entry ends at or before %d", limit)
	}
	if err == nil {
		if err = setPosition(a.conn, at); err == nil {
			err = a.conn.Commit()
		}
	}
	if a.conn.InTransaction() {
		err = errors.Join(err, a.conn.Rollback())
	}
	if err != nil {
		return fmt.Errorf("apply from %d: %w", from, err)
	}
	a.replica.executed.raise(at.Seq)
	return nil
}

// apply applies whole entries that end at or before limit.
func (a *applier) apply(frames []byte, limit base.Seq) (at base.Position, err error) {
	for n := 0; len(frames) > 0 && n < applyMaxEntries; n++ {
		e, size, err := entry.Decode(frames)
		if err != nil {
			return at, err
		}
		if e.Last() > limit {
			return at, nil
		}
		switch e.Kind {
		case entry.Row:
			if err := a.rows.Apply(e.Body); err != nil {
				return at, fmt.Errorf("entry %v: %w", e.Position(), err)
			}
		case entry.EpochStart:
		default:
			return at, base.Errorf(base.KindUnsupported, "entry %v is of kind %v, which this version can't apply", e.Position(), e.Kind).
				WithHint("upgrade this node")
		}
		at, frames = e.Position(), frames[size:]
	}
	return at, nil
}

package leader

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/planted"
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
	named   named
	buffer  []byte
	at      base.Position // of the last entry applied
	pending int           // entries applied in the open transaction; 0: none is open
	since   time.Time     // the first of them
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
	a := &applier{replica: r, conn: conn, rows: row.NewApplier(conn)}
	a.at.Seq = r.executed.get()
	if planted.Is(planted.ApplyTwice) && a.at.Seq > 20 {
		a.at.Seq -= 2
	}
	return a, nil
}

// close undoes what is not committed.
func (a *applier) close() error {
	a.replica.applied.Store(uint64(a.replica.executed.get()))
	return a.conn.Close()
}

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
		if err == nil {
			err = a.commit()
		}
		if errors.Is(err, row.ErrDiverged) {
			return errors.Join(err, r.markCopying(err.Error()))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// step applies some entries up to limit in the open transaction, which it opens
// when there is none. An error undoes that transaction.
func (a *applier) step(limit base.Seq) error {
	from := a.at.Seq + 1
	frames, _, _, err := a.replica.changes.ReadFrom(from, readBytes, a.buffer)
	if errors.Is(err, changelog.ErrEnd) {
		return nil
	}
	if err != nil {
		return errors.Join(fmt.Errorf("read log from %d: %w", from, err), a.rollback())
	}
	a.buffer = frames[:0]
	if a.pending == 0 {
		if err := a.conn.BeginImmediate(); err != nil {
			return fmt.Errorf("begin apply: %w", err)
		}
		a.since = a.replica.env.Clock.Now()
	}
	at, err := a.apply(frames, limit)
	if err == nil && at.Seq < from {
		err = base.Errorf(base.KindInternal, "no entry ends at or before %d", limit)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("apply from %d: %w", from, err), a.rollback())
	}
	a.pending += int(at.Seq - a.at.Seq)
	a.at = at
	a.replica.applied.Store(uint64(at.Seq))
	return nil
}

// commit lets readers see what was applied.
func (a *applier) commit() error {
	if a.pending == 0 {
		return nil
	}
	err := setPosition(a.conn, a.at)
	if err == nil {
		err = a.conn.Commit()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("commit what was applied up to %v: %w", a.at, err), a.rollback())
	}
	a.pending = 0
	a.replica.executed.raise(a.at.Seq)
	return nil
}

func (a *applier) rollback() (err error) {
	if a.conn.InTransaction() {
		err = a.conn.Rollback()
	}
	a.pending, a.at = 0, base.Position{Seq: a.replica.executed.get()}
	a.replica.applied.Store(uint64(a.at.Seq))
	return err
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
			if planted.Is(planted.SkipEntry) && e.First%101 == 0 {
				break
			}
			schemas := a.rows.SchemasApplied()
			if err := a.rows.Apply(e.Body); err != nil {
				return at, fmt.Errorf("entry %v: %w", e.Position(), err)
			}
			if a.rows.SchemasApplied() != schemas {
				if err := noteSchema(a.conn, e.Last(), a.replica.changes.Start()); err != nil {
					return at, err
				}
			}
			if err := a.named.note(a.conn, &e); err != nil {
				return at, err
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

package leader

import (
	"context"
	"errors"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/sqlite"
)

// tailRows returns a function that gives the row body of entries of the log's
// end: their own, what SQLite keeps of those that it has, and of those that it
// has not what executing them once more changes.
func (r *Replica) tailRows(ctx context.Context) func(e *entry.Entry) ([]byte, bool, error) {
	executed := r.executed.get()
	var derived map[base.Seq][]byte
	return func(e *entry.Entry) ([]byte, bool, error) {
		if holdsRows(e) {
			return rowsOf(nil, e)
		}
		if e.Last() <= executed {
			return r.keptRows(ctx, e)
		}
		if derived == nil {
			var err error
			if derived, err = r.deriveRows(ctx); err != nil {
				r.log.Warn("what orphaned statements have changed is not known; they are kept as text", "err", err)
			}
		}
		body, found := derived[e.First]
		return body, found, nil
	}
}

// keptRows also reads a file that nobody else may read any more.
func (r *Replica) keptRows(ctx context.Context, e *entry.Entry) (body []byte, found bool, err error) {
	db := r.file()
	if db == nil {
		return nil, false, nil
	}
	conn, err := db.Reader(ctx)
	if err != nil {
		return nil, false, nil
	}
	defer db.ReleaseReader(conn)
	conn.SetGuard(sqlite.GuardOwn)
	defer conn.SetGuard(sqlite.GuardRead)
	return keptRows(conn, e.First)
}

// errDerived ends the execution of a tail that is only to be looked at.
var errDerived = errors.New("the tail goes on through another connection")

// deriveRows executes what SQLite does not have of the log and takes it back,
// to learn which rows the statements in it change. It ends early where entries of
// another kind follow, since those need a connection of their own.
func (r *Replica) deriveRows(ctx context.Context) (map[base.Seq][]byte, error) {
	rows := make(map[base.Seq][]byte)
	a, err := r.newApplier(ctx)
	if err != nil {
		return rows, err
	}
	defer a.close() // What it has open is undone.
	size := 0
	_, err = r.eachEntry(r.executed.get(), func(e *entry.Entry, _ []byte) error {
		if err := a.derive(e); err != nil {
			return err
		}
		if holdsRows(e) || e.Kind == entry.EpochStart || e.Kind == entry.Format {
			return nil
		}
		body, found, err := keptRows(a.open, e.First)
		if size += len(body); err == nil && size > maxUndoBytes {
			err = errLongTail
		}
		if found {
			rows[e.First] = body
		}
		return err
	})
	if errors.Is(err, errDerived) {
		err = nil
	}
	return rows, errors.Join(err, a.rollback())
}

// derive executes an entry in the one transaction that is open.
func (a *applier) derive(e *entry.Entry) error {
	k, err := a.kind(e)
	if err != nil {
		return err
	}
	if e.Kind == entry.WAL {
		return errDerived
	}
	conn, err := k.connection(e)
	if err != nil {
		return err
	}
	if _, passes := k.(marker); passes && a.open == nil {
		return nil
	}
	if a.open != nil && a.open != conn {
		return errDerived
	}
	if err := a.turnTo(k, e); err != nil {
		return err
	}
	return k.apply(e)
}

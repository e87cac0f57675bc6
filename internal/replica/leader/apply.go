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

// applier brings SQLite forward from the log. It owns the connections that it
// does so through, of which one has a transaction open at a time.
type applier struct {
	replica *Replica
	ctx     context.Context // bounds the life of what it opens later
	conn    *sqlite.Conn    // of rows
	rows    *row.Applier
	kinds   map[entry.Kind]kindApplier // those that were needed so far
	named   named
	aside   aside
	basis   basis
	buffer  []byte
	at      base.Position // of the last entry applied
	open    *sqlite.Conn  // has the transaction; nil: none is open
	pending int           // entries applied in it
	ahead   bool          // which are not safe yet
	since   time.Time     // the first of them
	// fetched are the leader's rows of the one entry whose statements differ here.
	fetched struct {
		epoch base.Epoch
		first base.Seq
		body  []byte
	}
}

// kindApplier executes the entries of one kind.
type kindApplier interface {
	// connection is the one whose transaction apply works in. The applier begins
	// and commits it, together with the position.
	connection(e *entry.Entry) (*sqlite.Conn, error)
	// begun is called when its transaction has begun, and undone when it was
	// rolled back.
	begun() error
	undone()
	// apply executes an entry. An error that wraps row.ErrDiverged says that this
	// copy is another than the leader's.
	apply(e *entry.Entry) error
	close() error
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
	a := &applier{replica: r, ctx: ctx, conn: conn, rows: row.NewApplier(conn), kinds: make(map[entry.Kind]kindApplier)}
	a.at.Seq = r.executed.get()
	if planted.Is(planted.ApplyTwice) && a.at.Seq > 20 {
		a.at.Seq -= 2
	}
	return a, nil
}

// close undoes what is not committed.
func (a *applier) close() (err error) {
	a.replica.applied.Store(uint64(a.replica.executed.get()))
	for _, k := range a.kinds {
		err = errors.Join(err, k.close())
	}
	return errors.Join(err, a.conn.Close())
}

// kind returns what applies entries of a kind.
func (a *applier) kind(e *entry.Entry) (kindApplier, error) {
	if k := a.kinds[e.Kind]; k != nil {
		return k, nil
	}
	k, err := a.newKind(e)
	if err == nil {
		a.kinds[e.Kind] = k
	}
	return k, err
}

func (a *applier) newKind(e *entry.Entry) (kindApplier, error) {
	switch e.Kind {
	case entry.Row:
		return rowApplier{applier: a}, nil
	case entry.Trigger:
		return triggerApplier{applier: a}, nil
	case entry.EpochStart, entry.Format:
		return marker{applier: a}, nil
	case entry.Statement:
		return &statementApplier{applier: a}, nil
	case entry.WAL:
		return pageApplier{applier: a, images: &images{replica: a.replica}}, nil
	}
	return nil, base.Errorf(base.KindUnsupported, "entry %v is of kind %v, which this version can't apply", e.Position(), e.Kind).
		WithHint("upgrade this node")
}

// marker passes entries that change nothing in SQLite.
type marker struct {
	simple
	applier *applier
}

// simple is for kinds that hold nothing of their own.
type simple struct{}

func (simple) begun() error { return nil }
func (simple) undone()      {}
func (simple) close() error { return nil }

func (m marker) connection(*entry.Entry) (*sqlite.Conn, error) {
	if m.applier.open != nil {
		return m.applier.open, nil
	}
	return m.applier.conn, nil
}

func (m marker) apply(e *entry.Entry) error {
	if e.Kind == entry.Format {
		return applyFormat(e)
	}
	return nil
}

// rowApplier applies row changes.
type rowApplier struct {
	simple
	applier *applier
}

func (r rowApplier) connection(*entry.Entry) (*sqlite.Conn, error) { return r.applier.conn, nil }

func (r rowApplier) apply(e *entry.Entry) error { return r.applier.applyRows(e, e.Body) }

// applyRows makes the changes of a row body, which are those of an entry.
func (a *applier) applyRows(e *entry.Entry, body []byte) error {
	schemas := a.rows.SchemasApplied()
	if err := a.rows.Apply(body); err != nil {
		return err
	}
	if a.rows.SchemasApplied() != schemas {
		return noteSchema(a.conn, e.Last(), a.replica.changes.Start())
	}
	return nil
}

// applyAll applies the whole log: before this replica leads, all of it counts.
func (r *Replica) applyAll(ctx context.Context) error {
	if r.executed.get() >= r.changes.End().Seq {
		return nil
	}
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
		if d, differs := errors.AsType[*difference](err); differs {
			if err = a.heal(ctx, d); err == nil {
				continue
			}
		}
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
	err := a.execute(limit)
	if err == nil {
		a.replica.applied.Store(uint64(a.at.Seq))
	}
	return err
}

// execute is step, but for saying so.
func (a *applier) execute(limit base.Seq) error {
	from := a.at.Seq + 1
	frames, _, _, err := a.replica.changes.ReadFrom(from, readBytes, a.buffer)
	if errors.Is(err, changelog.ErrEnd) {
		return nil
	}
	if err != nil {
		return errors.Join(fmt.Errorf("read log from %d: %w", from, err), a.rollback())
	}
	a.buffer = frames[:0]
	err = a.apply(frames, limit)
	if err == nil && a.at.Seq < from && !a.ahead {
		err = base.Errorf(base.KindInternal, "no entry ends at or before %d", limit)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("apply from %d: %w", from, err), a.rollback())
	}
	return nil
}

// turnTo makes a connection the one with the open transaction: what another has
// pending is committed first.
func (a *applier) turnTo(k kindApplier, e *entry.Entry) error {
	conn, err := k.connection(e)
	if err != nil || a.open == conn {
		return err
	}
	if err := a.commit(); err != nil {
		return err
	}
	if err := conn.BeginImmediate(); err != nil {
		return fmt.Errorf("begin apply: %w", err)
	}
	a.open, a.since = conn, a.replica.env.Clock.Now()
	a.aside.forget()
	return k.begun()
}

// commit lets readers see what was applied.
func (a *applier) commit() error {
	if a.pending == 0 {
		return a.endIdle()
	}
	err := setPosition(a.open, a.at)
	if err == nil {
		err = a.open.Commit()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("commit what was applied up to %v: %w", a.at, err), a.rollback())
	}
	a.open, a.pending = nil, 0
	a.replica.executed.raise(a.at.Seq)
	return nil
}

// endIdle ends a transaction that nothing was applied in.
func (a *applier) endIdle() error {
	if a.open == nil {
		return nil
	}
	conn := a.open
	a.open = nil
	return conn.Rollback()
}

func (a *applier) rollback() (err error) {
	if a.open != nil && a.open.InTransaction() {
		err = a.open.Rollback()
	}
	for _, k := range a.kinds {
		k.undone()
	}
	a.open, a.pending, a.ahead, a.at = nil, 0, false, base.Position{Seq: a.replica.executed.get()}
	a.aside.forget()
	a.basis.forget()
	a.replica.applied.Store(uint64(a.at.Seq))
	return err
}

// schemaChanging says that what is pending changes the schema.
func (a *applier) schemaChanging() bool { return a.open != nil && a.open.SchemaChanging() }

// apply applies whole entries that end at or before limit.
func (a *applier) apply(frames []byte, limit base.Seq) error {
	for n := 0; len(frames) > 0 && n < applyMaxEntries; n++ {
		e, size, err := entry.Decode(frames)
		if err != nil {
			return err
		}
		if e.Last() > limit || a.ahead && waitsAlone(e.Kind) {
			return nil
		}
		if err := a.entry(&e); err != nil {
			return fmt.Errorf("entry %v: %w", e.Position(), err)
		}
		a.at, frames = e.Position(), frames[size:]
	}
	return nil
}

func (a *applier) entry(e *entry.Entry) error {
	k, err := a.kind(e)
	if err != nil {
		return err
	}
	if p, ok := k.(pageApplier); ok {
		return a.applyAlone(p, e)
	}
	if err := a.turnTo(k, e); err != nil {
		return err
	}
	a.pending += int(e.Count)
	if planted.Is(planted.SkipEntry) && e.Kind != entry.EpochStart && e.First%101 == 0 {
		return nil
	}
	if e.Kind != entry.EpochStart && e.Kind != entry.Format {
		if err := a.basis.lose(a.open, a.replica); err != nil {
			return err
		}
	}
	if err := k.apply(e); err != nil {
		return err
	}
	if err := a.named.note(a.open, e); err != nil {
		return err
	}
	return a.replica.notePastOf(a.open, e)
}

package leader

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/pageformat"
	"github.com/skeindb/skein/internal/sqlite"
)

// In log format wal an entry holds the pages that a transaction has changed.
// They make sense only to a file that was the leader's, page for page. A row of
// the file's own names it: the base. It comes into being with the first entry of
// pages, and travels with pages and with copies of the file alone; who writes
// anything else into the file, by rows or statements, takes it away. A page entry
// names its base, and a follower whose file has another takes a copy first.
//
// The position is written by each replica for entries that hold no pages (the
// start of an epoch, a change of the format). Its page is in every entry of pages.
const (
	createBaseSQL = "CREATE TABLE IF NOT EXISTS _skein_pages (id INTEGER PRIMARY KEY CHECK (id = 1), base BLOB NOT NULL)"
	countBaseSQL  = "SELECT count(*) FROM sqlite_schema WHERE name = '_skein_pages'"
	readBaseSQL   = "SELECT base FROM _skein_pages WHERE id = 1"
	makeBaseSQL   = "INSERT OR REPLACE INTO _skein_pages VALUES (1, ?1)"
	loseBaseSQL   = "DELETE FROM _skein_pages"
)

// basis is what one connection knows of the base of its file.
type basis struct {
	id    pageformat.BaseID
	has   bool
	known bool
}

// read finds out what base the file has.
func (b *basis) read(conn *sqlite.Conn) (err error) {
	if !b.known {
		b.id, b.has, err = readBase(conn)
		b.known = err == nil
	}
	return err
}

func readBase(conn *sqlite.Conn) (id pageformat.BaseID, has bool, err error) {
	if n, err := ownInteger(conn, countBaseSQL); err != nil || n == 0 {
		return id, false, err
	}
	st, err := conn.PrepareOwn(readBaseSQL)
	if err != nil {
		return id, false, err
	}
	defer st.Close()
	has, err = st.Step()
	if has {
		copy(id[:], st.Column(0).Bytes)
	}
	return id, has, err
}

// lose takes the base away: the open transaction writes something that is not
// pages.
func (b *basis) lose(conn *sqlite.Conn, r *Replica) error {
	if err := b.read(conn); err != nil || !b.has {
		return err
	}
	r.base.Store(nil)
	b.has = false
	return conn.RunOwn(loseBaseSQL)
}

// make gives the file a base in a transaction of its own, which the log does not
// get: nobody has a file of this base yet.
func (b *basis) make(conn *sqlite.Conn, r *Replica) error {
	var id pageformat.BaseID
	for i := range id {
		id[i] = byte(r.env.Rand.Uint64())
	}
	if err := conn.BeginImmediate(); err != nil {
		return err
	}
	err := conn.Exec(createBaseSQL)
	if err == nil {
		err = conn.RunOwn(makeBaseSQL, base.Value{Kind: base.Blob, Bytes: id[:]})
	}
	if err == nil {
		err = conn.Commit()
	}
	if err != nil {
		return errors.Join(err, conn.Rollback())
	}
	b.id, b.has, b.known = id, true, true
	return nil
}

// forget is for when what the connection has done was undone.
func (b *basis) forget() { b.known = false }

// pageRecorder catches rows, for how many there are and to be kept aside. The
// pages there are only when SQLite commits.
type pageRecorder struct{ rowRecorder }

func newPageRecorder(conn *sqlite.Conn) (recorder, error) {
	rows, err := row.NewRecorder(conn)
	if err != nil {
		return nil, err
	}
	return pageRecorder{rowRecorder{rows}}, nil
}

func (r pageRecorder) Take(m mark) (captured, error) {
	c, err := r.rowRecorder.Take(m)
	return captured{kind: entry.WAL, changes: c.changes, rows: c.body}, err
}

// commitPages commits the transaction of the unsealed entry. The log gets it,
// with its pages, in the middle of SQLite's commit: before anything can be seen.
func (w *writer) commitPages(end base.Seq) error {
	e := *w.unsealed
	w.unsealed = nil
	if err := setPosition(w.conn, base.Position{Epoch: w.epoch, Seq: end}); err != nil {
		return err
	}
	return w.capture(&e, w.rowless, w.conn.Commit)
}

// capture has commit commit, and the log get the entry with its pages. When
// SQLite fails after the log has it, the log's tail is cut again.
func (w *writer) capture(e *entry.Entry, rowless bool, commit func() error) error {
	logged := false
	err := w.conn.Capture(func(p, before *pageformat.Pages) error {
		if p == nil {
			return tooManyPages()
		}
		p.Base, p.Rowless = w.basis.id, rowless
		e.Body = pageformat.Append(nil, p)
		if err := checkEntry(e); err != nil {
			return err
		}
		w.buffer = entry.Append(w.buffer[:0], e)
		if before != nil {
			before.Base = w.basis.id
		}
		if err := w.images.keep(e, before); err != nil {
			return err
		}
		if err := w.replica.changes.Append(w.buffer, e.First, e.Last(), w.epoch); err != nil {
			return fmt.Errorf("append to the log: %w", err)
		}
		logged = true
		return nil
	}, commit)
	if err == nil && !logged {
		err = base.Errorf(base.KindInternal, "a transaction was committed without a page")
	}
	if err != nil {
		if logged {
			if cut := w.replica.changes.TruncateAfter(w.end); cut != nil {
				return &tailStaysError{commit: err, cut: cut}
			}
		}
		return err
	}
	w.nonePending()
	w.replica.executed.raise(e.Last())
	return nil
}

// beginPages makes sure that the file has a base, and lets the followers begin
// to make theirs the same. A base must survive a power cut before any entry
// names it: without it this replica could not bring its own file forward.
func (w *writer) beginPages() error {
	err := w.basis.read(w.conn)
	if err == nil && !w.basis.has {
		if err = w.basis.make(w.conn, w.replica); err == nil {
			_, err = w.replica.changes.Sync() // The log is never behind SQLite on disk.
		}
		if err == nil {
			err = w.conn.SyncWAL()
		}
	}
	if err != nil {
		return fmt.Errorf("name the file that pages belong to: %w", err)
	}
	id := w.basis.id
	w.replica.base.Store(&id)
	return w.touch()
}

func tooManyPages() error {
	return base.Errorf(base.KindTooLarge, "a transaction that changes more than %d MiB of pages", pageformat.MaxBytes>>20).
		WithHint("split it into smaller ones, or choose another log format than wal for it")
}

// touch writes an entry that changes the position alone: from here on the
// followers' files are the same as this one, page for page.
func (w *writer) touch() error {
	if err := w.begin(); err != nil {
		return err
	}
	if err := w.touchEntry(); err != nil {
		w.rollback()
		return err
	}
	w.publish(nil)
	return nil
}

func (w *writer) touchEntry() error {
	e := entry.Entry{Epoch: w.epoch, First: w.end + 1, Count: 1, Time: w.replica.env.Clock.Now().UnixNano(), Kind: entry.WAL}
	w.unsealed, w.rowless = &e, true
	return w.commit(e.Last())
}

// vacuum writes the file anew, without free pages. The position in it is that
// of before: executing its entry again changes nothing. Another entry follows.
func (w *writer) vacuum(j *writeJob) error {
	if err := w.settle(); err != nil {
		return w.refuse([]*writeJob{j}, err)
	}
	if !j.state.CompareAndSwap(jobQueued, jobStarted) {
		return w.refuse([]*writeJob{j}, canceled(context.Cause(j.ctx)))
	}
	w.recorder.Close()
	e := entry.Entry{Epoch: w.epoch, First: w.end + 1, Count: 1, Time: w.replica.env.Clock.Now().UnixNano(), Kind: entry.WAL}
	w.conn.SetInterrupt(j.ctx)
	err := w.capture(&e, true, w.conn.Vacuum)
	w.conn.SetInterrupt(context.Background())
	w.conn.Close() // What it and its recorder know of the schema is old.
	if opened := w.openConn(context.Background()); opened != nil {
		w.failed = opened
	}
	if err == nil && w.failed == nil {
		w.end = e.Last()
		w.replica.applied.Store(uint64(w.end))
		err = w.touch()
	}
	if err == nil {
		err = w.failed
	}
	if err != nil {
		j.done <- writeReply{err: err}
		return fatalOnly(err)
	}
	j.result.Result.Tag = "VACUUM"
	j.result.Result.Position = base.Position{Epoch: w.epoch, Seq: w.end}
	w.publish([]*writeJob{j})
	return nil
}

// errOtherBase says that a page entry is of another file than this replica's.
var errOtherBase = errors.New("the pages are of another copy of the file than this replica has")

// checkBase refuses a page entry that this replica's file can't take.
func (r *Replica) checkBase(e *entry.Entry) error {
	if e.Kind != entry.WAL {
		return nil
	}
	id, err := pageformat.Base(e.Body)
	if err != nil {
		return fmt.Errorf("entry %v: %w", e.Position(), err)
	}
	if have := r.base.Load(); have == nil || *have != id {
		return errOtherBase
	}
	return nil
}

// pageApplier makes this replica's file what the leader's was, page for page.
// It has no transaction that other kinds could share: an entry is one by itself,
// and its pages hold the position.
type pageApplier struct {
	simple
	applier *applier
	images  *images
}

func (p pageApplier) connection(*entry.Entry) (*sqlite.Conn, error) { return nil, nil }

func (p pageApplier) apply(e *entry.Entry) error {
	a := p.applier
	pages, err := pageformat.Decode(e.Body)
	if err != nil {
		return err
	}
	if err := a.basis.read(a.conn); err != nil {
		return err
	}
	if !a.basis.has || a.basis.id != pages.Base {
		return fmt.Errorf("%w: %w", row.ErrDiverged, errOtherBase)
	}
	if len(e.Past) > 0 {
		a.replica.hasPast.Store(true) // Before anyone can see it in the pages.
	}
	return a.conn.ApplyPages(pages, p.keeper(e))
}

// keeper keeps the pages as they were of an entry that may have to be undone.
func (p pageApplier) keeper(e *entry.Entry) func(before *pageformat.Pages) error {
	if e.Last() <= p.applier.replica.safe.get() {
		return nil
	}
	return func(before *pageformat.Pages) error { return p.images.keep(e, before) }
}

func (p pageApplier) close() error { return p.images.close() }

// applyAlone executes an entry that is a transaction by itself.
func (a *applier) applyAlone(k pageApplier, e *entry.Entry) error {
	if err := a.commit(); err != nil {
		return err
	}
	if len(e.Past) > 0 { // The pages bring it; before anyone can see it.
		a.replica.hasPast.Store(true)
	}
	if err := k.apply(e); err != nil {
		return err
	}
	a.at = e.Position()
	a.replica.executed.raise(a.at.Seq)
	return nil
}

// describePages is what a person may want to know of a page entry.
func describePages(e *entry.Entry) (string, error) {
	p, err := pageformat.Decode(e.Body)
	if err != nil {
		return "", err
	}
	list := ""
	for i, number := range p.Numbers {
		if i == 8 && len(p.Numbers) > 9 {
			list += fmt.Sprintf(", ... %d", p.Numbers[len(p.Numbers)-1])
			break
		}
		if i > 0 {
			list += ", "
		}
		list += fmt.Sprint(number)
	}
	return fmt.Sprintf("%d pages, %d bytes (%d in the log), of %d: %s", len(p.Numbers), len(p.Data), len(e.Body), p.Size, list), nil
}

// imageTo writes a copy of the file to path, page for page as a checkpoint
// leaves it, and returns its position.
func (r *Replica) imageTo(ctx context.Context, path string, progress func(done, total int64)) (at base.Position, err error) {
	if err := r.commitApplied(ctx); err != nil {
		return at, err
	}
	db, ctx, release, err := r.useFileFor(ctx)
	if err != nil {
		return at, err
	}
	defer release()
	f, err := r.env.FS.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return at, fmt.Errorf("copy to %s: %w", path, err)
	}
	err = db.ImageTo(ctx, f, func(conn *sqlite.Conn) error {
		var err error
		at, err = readPosition(conn)
		return err
	}, progress)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = r.env.FS.Remove(path) // The copy's own error says more.
	}
	return at, err
}

// findBase notes which base a file has that was opened.
func (r *Replica) findBase(ctx context.Context, db *sqlite.Database) error {
	return withOwn(ctx, db, func(conn *sqlite.Conn) error {
		r.base.Store(nil)
		id, has, err := readBase(conn)
		if has {
			r.base.Store(&id)
		}
		return err
	})
}

package leader

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/leadership"
	"github.com/skeindb/skein/internal/sqlite"
)

// Import makes an SQLite file the contents of this database, which must be
// empty, and takes the file away. It returns when the followers that the policy
// counts have copied it. The file must have passed CheckImport.
func (r *Replica) Import(ctx context.Context, path string) (base.Position, error) {
	l, err := r.leading()
	if err != nil {
		return base.Position{}, err
	}
	if err := l.awaitLease(ctx); err != nil {
		return base.Position{}, err
	}
	done := make(chan imported, 1)
	err = l.quiet(ctx, func() {
		at, err := l.writer.replaceContents(ctx, path)
		done <- imported{at, err}
	})
	if err != nil {
		return base.Position{}, base.Errorf(base.KindIndeterminate, "the import was not waited for: %w", err).
			WithOutcome(base.Indeterminate).WithHint("look whether the database is still empty")
	}
	result := <-done
	if result.err != nil {
		return result.at, result.err
	}
	return result.at, r.waitSafe(ctx, result.at)
}

type imported struct {
	at  base.Position
	err error
}

// CheckImport opens a file as a database of its own, checks it and makes it
// ready to be imported: it is written anew, with checksums.
func CheckImport(ctx context.Context, e *env.Env, path string) error {
	err := checkImport(ctx, e, path)
	if f, ok := errors.AsType[*base.Error](err); ok && f.Kind == base.KindCorrupt && f.Hint == "" {
		f.Hint = "Either the file is damaged, or it was a replica's and another program has written to it since, without the checksums: then make a plain one of it, with  sqlite3 FILE .dump | sqlite3 NEW"
	}
	return err
}

func checkImport(ctx context.Context, e *env.Env, path string) error {
	db, err := sqlite.OpenDatabase(ctx, path, sqlite.Options{VFS: e.VFS})
	if err != nil {
		return err
	}
	err = checkContents(ctx, db)
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	rewritten := path + ".new"
	if err := sqlite.Rewrite(ctx, e.VFS, path, rewritten); err != nil {
		return errors.Join(err, e.FS.RemoveAll(rewritten))
	}
	return e.FS.Rename(rewritten, path)
}

func checkContents(ctx context.Context, db *sqlite.Database) error {
	if err := db.QuickCheck(ctx); err != nil {
		return err
	}
	if err := db.VirtualCheck(ctx); err != nil {
		return err
	}
	conn, err := db.OpenWriter(ctx, sqlite.RoleWriter)
	if err != nil {
		return err
	}
	defer conn.Close()
	own, err := countWhere(conn, `name LIKE '\_skein\_%' ESCAPE '\'`)
	if err != nil {
		return err
	}
	if own > 0 {
		// It was a replica once: its contents are welcome, its position is not, nor what was done to it.
		if err := conn.Exec("DROP TABLE IF EXISTS _skein_position; DROP TABLE IF EXISTS _skein_operation; DROP TABLE IF EXISTS _skein_schema; DROP TABLE IF EXISTS _skein_rows; DROP TABLE IF EXISTS _skein_pages"); err != nil {
			return err
		}
	}
	// What can't be captured is better refused now than at the first write.
	recorder, err := row.NewRecorder(conn)
	if err != nil {
		return base.Errorf(base.KindUnsupported, "the file holds something that can't be replicated: %w", err)
	}
	recorder.Close()
	return nil
}

func countWhere(conn *sqlite.Conn, where string) (int64, error) {
	return ownInteger(conn, "SELECT count(*) FROM sqlite_schema WHERE "+where)
}

// replaceContents puts a file in the place of the database, in the writer
// goroutine. Followers find their position trimmed and copy it.
func (w *writer) replaceContents(ctx context.Context, path string) (base.Position, error) {
	at := base.Position{Epoch: w.epoch, Seq: w.end + 1}
	n, err := countWhere(w.conn, `name NOT LIKE '\_skein\_%' ESCAPE '\' AND name NOT LIKE 'sqlite\_%' ESCAPE '\'`)
	if err != nil {
		return at, err
	}
	if n > 0 {
		return at, base.Errorf(base.KindExists, "the database is not empty: it has %d tables, indexes, views or triggers", n)
	}
	if err := w.replica.markPosition(ctx, path, at); err != nil {
		return at, err
	}
	if err := w.swap(ctx, path, at); err != nil {
		// Files and log may disagree now; opening the replica again finds out.
		w.acks.fail(fmt.Errorf("import: %w", err))
		return at, err
	}
	w.end = at.Seq
	w.publish(nil)
	if w.format == base.FormatWAL {
		return at, w.beginPages()
	}
	return at, nil
}

// markPosition writes the position into the file that is to be imported.
func (r *Replica) markPosition(ctx context.Context, path string, at base.Position) error {
	conn, err := sqlite.OpenConn(ctx, path, sqlite.ConnOptions{VFS: r.env.VFS, Role: sqlite.RoleWriter})
	if err != nil {
		return err
	}
	if err = conn.Exec(createPositionSQL + ";" + createOperationSQL); err == nil {
		err = setPosition(conn, at)
	}
	if err = errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("mark the position in the imported file: %w", err)
	}
	f, err := r.env.FS.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (w *writer) swap(ctx context.Context, path string, at base.Position) error {
	r := w.replica
	w.recorder.Close()
	if err := w.conn.Close(); err != nil {
		return err
	}
	if err := r.replaceFile(path); err != nil {
		return err
	}
	starts := r.changes.EpochStarts()
	if err := r.changes.Reset(at, starts); err != nil {
		return err
	}
	if err := r.openFile(ctx); err != nil {
		return err
	}
	return w.openConn(ctx)
}

// fail ends the leadership because of an error.
func (a *acks) fail(err error) {
	a.update(func(core *leadership.Leader, _ leadership.Instant) { core.Depose(a.epoch + 1) })
	a.broken(err)
}

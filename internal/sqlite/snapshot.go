package sqlite

import (
	"context"
	"errors"
	"fmt"

	"github.com/ncruces/go-sqlite3/vfs"

	"github.com/skeindb/skein/internal/base"
)

// Snapshot is one state of the database, held while writing goes on. The -wal
// cannot be reused while it is open, so close it soon.
type Snapshot struct {
	database *Database
	conn     *Conn
}

// Snapshot takes a snapshot of what is committed now. ctx interrupts the work
// on it until Close.
func (d *Database) Snapshot(ctx context.Context) (*Snapshot, error) {
	return d.snapshot(ctx, d.options.conn(RoleTool))
}

func (d *Database) snapshot(ctx context.Context, o ConnOptions) (*Snapshot, error) {
	if err := d.enter(); err != nil {
		return nil, err
	}
	c, err := d.open(ctx, o)
	if err != nil {
		d.users.Done()
		return nil, err
	}
	c.SetInterrupt(ctx)
	s := &Snapshot{database: d, conn: c}
	if err = c.Exec("PRAGMA query_only=ON; BEGIN"); err == nil {
		// A transaction sees the state at its first read.
		_, err = c.integer("SELECT count(*) FROM sqlite_schema")
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Conn is the connection that sees the snapshot. It cannot write; do not end
// its transaction.
func (s *Snapshot) Conn() *Conn { return s.conn }

// copyPages is how many pages are copied between two looks at the context.
const copyPages = 64

// CopyTo writes the snapshot to a new file in the same VFS, page by page, so
// that rowids and free pages stay as they are. The file is synced when CopyTo
// returns and removed if it fails. progress, which may be nil, is told bytes.
func (s *Snapshot) CopyTo(ctx context.Context, dest string, progress func(done, total int64)) (err error) {
	files := vfs.Find(s.database.options.VFS)
	if files == nil {
		return base.Errorf(base.KindInternal, "copy to %s: no file system %q", dest, s.database.options.VFS)
	}
	if there, err := files.Access(dest, vfs.ACCESS_EXISTS); err != nil || there {
		return errors.Join(base.Errorf(base.KindExists, "copy to %s: the file exists", dest), err)
	}
	defer func() {
		if r := recover(); r != nil {
			err = s.conn.recovered(r)
		}
		if err != nil {
			_ = files.Delete(dest, false) // the copy's own error says more
		}
	}()
	page, err := s.conn.integer("PRAGMA page_size")
	if err != nil {
		return err
	}
	return s.copyPages(ctx, dest, page, progress)
}

func (s *Snapshot) copyPages(ctx context.Context, dest string, page int64, progress func(done, total int64)) (err error) {
	c := s.conn
	uri := fileURI(dest, ConnOptions{VFS: s.database.options.VFS, create: true})
	if sums, err := hasChecksums(c.raw); err != nil {
		return c.failIn(err, ctx)
	} else if sums {
		// The copy must know that it keeps checksums before its first page.
		if err := makeEmpty(uri, page); err != nil {
			return fmt.Errorf("copy to %s: %w", dest, mapError(err, ctx))
		}
	}
	// A new file needs no journal: it is removed on failure.
	backup, err := c.raw.BackupInit("main", uri+"&_pragma=journal_mode(off)&_pragma=synchronous(full)")
	if err != nil {
		return fmt.Errorf("copy to %s: %w", dest, mapError(err, ctx))
	}
	defer func() {
		if cerr := backup.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("copy to %s: %w", dest, c.failIn(cerr, ctx))
		}
	}()
	for {
		if ctx.Err() != nil {
			return fmt.Errorf("copy to %s: %w", dest, interrupted(ctx.Err(), ctx))
		}
		done, err := backup.Step(copyPages)
		if err != nil {
			return fmt.Errorf("copy to %s: %w", dest, c.failIn(err, ctx))
		}
		if total := int64(backup.PageCount()); progress != nil {
			progress((total-int64(backup.Remaining()))*page, total*page)
		}
		if done {
			return nil
		}
	}
}

// ContentHash is that of Database, for this snapshot.
func (s *Snapshot) ContentHash() (string, error) { return contentHash(s.conn) }

// Close ends the snapshot.
func (s *Snapshot) Close() error {
	if s == nil || s.conn == nil {
		return nil
	}
	err := s.conn.Close()
	s.conn = nil
	s.database.users.Done()
	return err
}

// QuickCheck looks for malformed pages, rows and indexes, but does not compare
// the content of indexes with that of tables. An error has KindCorrupt when
// the file is malformed; full-text and R-tree indexes, which clients can spoil
// in a sound file, are not looked into.
func (d *Database) QuickCheck(ctx context.Context) error {
	o := d.options.conn(RoleTool)
	o.plain = true
	found, err := d.quickCheck(ctx, o)
	if err != nil || len(found) == 0 {
		return err
	}
	err = base.Errorf(base.KindCorrupt, "check %s: %d or more faults: %s", d.path, len(found), found[0])
	tellDamage(d.options.Damaged, err)
	return err
}

// VirtualCheck looks for full-text and R-tree indexes that contradict
// themselves, in a file that passes QuickCheck. The error's SQLSTATE is XX002.
func (d *Database) VirtualCheck(ctx context.Context) error {
	found, err := d.quickCheck(ctx, d.options.conn(RoleTool))
	if err != nil || len(found) == 0 {
		return err
	}
	e := &base.Error{}
	mapVirtual(e)
	e.Message += ": " + found[0]
	return e
}

// quickCheck returns what a quick check finds, at most ten faults.
func (d *Database) quickCheck(ctx context.Context, o ConnOptions) (found []string, err error) {
	s, err := d.snapshot(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	q, err := s.conn.prepare("PRAGMA quick_check(10)", GuardOwn)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	for {
		row, err := q.Step()
		if err != nil || !row {
			return found, err
		}
		if text := string(q.Column(0).Bytes); text != "ok" {
			found = append(found, text)
		}
	}
}

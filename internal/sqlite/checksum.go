package sqlite

import (
	"context"
	"errors"
	"fmt"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"

	"github.com/skeindb/skein/internal/base"
)

// Databases of ours keep a checksum in the last eight bytes of every page
// (SQLite's cksumvfs format, https://sqlite.org/cksumvfs.html): a page that the
// disk has changed is an error of KindCorrupt when it is read, never an answer.
// Pages in the -wal have the checksums of its frames. Any SQLite reads such
// files; one that writes to them without the checksums must not.
const checksumBytes = 8

// hasChecksums says whether the open file keeps checksums.
func hasChecksums(raw *sqlite3.Conn) (bool, error) {
	r, err := raw.FileControl("main", sqlite3.FCNTL_RESERVE_BYTES)
	if err != nil {
		return false, err
	}
	n, ok := r.(int)
	return ok && n == checksumBytes, nil
}

// vacuuming lets the engine attach the file that a VACUUM writes to.
func (c *Conn) vacuuming(f func() error) error {
	old := c.raw.Limit(sqlite3.LIMIT_ATTACHED, 1)
	defer c.raw.Limit(sqlite3.LIMIT_ATTACHED, old)
	c.enforced, c.denied = GuardOwn, nil
	return f()
}

// makeEmpty makes an empty file with checksums, to be copied over: of the same
// page size, since checksums of pages in place must be of the pages that come.
func makeEmpty(uri string, pageSize int64) error {
	raw, err := sqlite3.Open(uri)
	if err != nil {
		return err
	}
	if err = raw.Exec(fmt.Sprintf("PRAGMA page_size=%d", pageSize)); err == nil {
		err = raw.EnableChecksums("main")
	}
	return errors.Join(err, raw.Close())
}

// Rewrite writes the contents of the database file at path to a new file with
// checksums at dest; rowids stay as they are.
func Rewrite(ctx context.Context, vfs, path, dest string) error {
	o := ConnOptions{VFS: vfs, Role: RoleTool}
	unsummed := dest + ".unsummed"
	conn, err := OpenConn(ctx, path, o)
	if err != nil {
		return err
	}
	conn.SetInterrupt(ctx)
	pageSize, err := conn.integer("PRAGMA page_size")
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	if _, err = conn.raw.FileControl("main", sqlite3.FCNTL_RESERVE_BYTES, checksumBytes); err == nil {
		err = conn.vacuuming(func() error {
			return conn.Exec("VACUUM INTO " + sqlite3.Quote(fileURI(unsummed, ConnOptions{VFS: vfs, create: true})))
		})
	}
	if err = errors.Join(err, conn.Close()); err == nil {
		err = sumAllPages(vfs, unsummed, dest, pageSize)
	}
	if err = errors.Join(err, remove(vfs, unsummed)); err != nil {
		return fmt.Errorf("rewrite %s: %w", path, err)
	}
	return checkRewritten(ctx, vfs, dest)
}

// sumAllPages copies a file, page by page, to one with checksums. A new file has
// them from the moment its first page is written, and when it is larger than the
// cache others are written before that one; a copy begins with the first page.
func sumAllPages(vfs, path, dest string, pageSize int64) error {
	if err := makeEmpty(fileURI(dest, ConnOptions{VFS: vfs, create: true}), pageSize); err != nil {
		return err
	}
	raw, err := sqlite3.Open(fileURI(path, ConnOptions{VFS: vfs}))
	if err != nil {
		return err
	}
	err = raw.Exec("PRAGMA checksum_verification=OFF")
	if err == nil {
		err = raw.Backup("main", fileURI(dest, ConnOptions{VFS: vfs})+"&_pragma=journal_mode(off)&_pragma=synchronous(full)")
	}
	return errors.Join(err, raw.Close())
}

// remove deletes a file that may be missing.
func remove(name, path string) error {
	v := vfs.Find(unmappedVFS(name))
	if there, err := v.Access(path, vfs.ACCESS_EXISTS); err != nil || !there {
		return err
	}
	return v.Delete(path, false)
}

func checkRewritten(ctx context.Context, vfs, path string) error {
	conn, err := OpenConn(ctx, path, ConnOptions{VFS: vfs, Role: RoleTool})
	if err != nil {
		return err
	}
	defer conn.Close()
	ok, err := hasChecksums(conn.raw)
	if err == nil && !ok {
		err = base.Errorf(base.KindInternal, "the rewritten file %s has no checksums", path)
	}
	return err
}

// Package diskvfs lets the SQL engine keep its files on an env.FS, so that a
// test or a simulator can crash, fill and fail the disk below SQLite too.
//
// It owns the engine's locks on those files, which are this process's alone,
// and nothing of their content. Invariants: a lock that can't be had is BUSY at
// once, nothing here waits; a new file is made durable in its directory with
// its first sync, as the engine's own file system does it.
//
// The index of a -wal is memory that connections share; the engine keeps it in
// a file of the real disk, which is below a folder that the caller names.
package diskvfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"sync"
	"syscall"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/util/vfsutil"
	"github.com/ncruces/go-sqlite3/vfs"

	"github.com/skeindb/skein/internal/env"
)

// files is a file system of the engine.
type files struct {
	shared string
	find   func(path string) env.FS

	mu     sync.Mutex // guards what follows
	locks  map[lockKey]*lock
	opened uint64 // how many locks there were, for names
}

// lockKey names a file: two disks may have the same path.
type lockKey struct {
	disk env.FS
	path string
}

// Register makes a file system known to the engine by name. find returns the
// disk that a path is on, nil if there is none; what it returns must be
// comparable. shared is a folder of the real disk for the memory that
// connections share.
func Register(name, shared string, find func(path string) env.FS) {
	vfs.Register(name, &files{shared: shared, find: find, locks: make(map[lockKey]*lock)})
}

// Open implements vfs.VFS.
func (v *files) Open(name string, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	if name == "" || flags&(vfs.OPEN_TEMP_JOURNAL|vfs.OPEN_TEMP_DB|vfs.OPEN_TRANSIENT_DB) != 0 {
		return &vfsutil.SliceFile{}, flags | vfs.OPEN_MEMORY, nil
	}
	disk := v.find(name)
	if disk == nil {
		return nil, flags, sqlite3.CANTOPEN
	}
	mode := os.O_RDWR
	if flags&vfs.OPEN_READONLY != 0 {
		mode = os.O_RDONLY
	}
	created := false
	if flags&vfs.OPEN_CREATE != 0 {
		_, err := disk.Stat(name)
		created = errors.Is(err, fs.ErrNotExist)
		mode |= os.O_CREATE
	}
	if flags&vfs.OPEN_EXCLUSIVE != 0 {
		mode |= os.O_EXCL
	}
	h, err := disk.OpenFile(name, mode, 0o600)
	if err != nil {
		return nil, flags, coded(err, sqlite3.CANTOPEN)
	}
	f := &file{File: h, disk: disk, name: name, unsynced: created, temporary: flags&vfs.OPEN_DELETEONCLOSE != 0}
	if flags&vfs.OPEN_MAIN_DB != 0 {
		f.lock = v.lockOf(lockKey{disk, name})
		f.shared = vfs.NewSharedMemory(f.lock.shared, flags)
	}
	return f, flags, nil
}

// Delete implements vfs.VFS.
func (v *files) Delete(name string, syncDir bool) error {
	disk := v.find(name)
	if disk == nil {
		return sqlite3.IOERR_DELETE
	}
	err := disk.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return sqlite3.IOERR_DELETE_NOENT
	}
	if err == nil && syncDir {
		err = disk.SyncDir(path.Dir(name))
	}
	return coded(err, sqlite3.IOERR_DELETE)
}

// Access implements vfs.VFS.
func (v *files) Access(name string, _ vfs.AccessFlag) (bool, error) {
	disk := v.find(name)
	if disk == nil {
		return false, nil
	}
	_, err := disk.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, coded(err, sqlite3.IOERR_ACCESS)
}

// FullPathname implements vfs.VFS.
func (v *files) FullPathname(name string) (string, error) { return name, nil }

func (v *files) lockOf(key lockKey) *lock {
	v.mu.Lock()
	defer v.mu.Unlock()
	l := v.locks[key]
	if l == nil {
		v.opened++
		l = &lock{all: v, key: key, shared: fmt.Sprintf("%s/%d-shm", v.shared, v.opened)}
		v.locks[key] = l
	}
	l.users++
	return l
}

// coded gives a disk's error the code that the engine expects of the call.
func coded[C sqlite3.ErrorCode | sqlite3.ExtendedErrorCode](err error, code C) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC):
		return vfs.SystemError(err, sqlite3.FULL)
	}
	return vfs.SystemError(err, code)
}

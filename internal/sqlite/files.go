package sqlite

import (
	"errors"
	"sync"
	"syscall"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/util/vfsutil"
	"github.com/ncruces/go-sqlite3/vfs"
)

// unmapped is a file system whose database files can't be mapped into memory.
// The driver's checksums read every page through the file, and its checkpoint
// panics on a file that could be mapped when it was opened and, once its
// checksums were seen, no more.
type unmapped struct{ vfs.VFS }

var unmappedNames struct {
	sync.Mutex // guards known
	known      map[string]bool
}

// unmappedVFS returns the name of the unmapped twin of a file system.
func unmappedVFS(name string) string {
	twin := "skein"
	if name != "" {
		twin = "skein-" + name
	}
	unmappedNames.Lock()
	defer unmappedNames.Unlock()
	if unmappedNames.known[twin] {
		return twin
	}
	files := vfs.Find(name)
	if files == nil {
		return name // The driver says that it does not exist.
	}
	vfs.Register(twin, unmapped{files})
	if unmappedNames.known == nil {
		unmappedNames.known = make(map[string]bool)
	}
	unmappedNames.known[twin] = true
	return twin
}

// Open implements vfs.VFS.
func (u unmapped) Open(name string, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	f, out, err := vfsutil.WrapOpen(u.VFS, name, flags)
	return unmap(f, flags), out, fullOr(err)
}

// OpenFilename implements vfs.VFSFilename.
func (u unmapped) OpenFilename(name *vfs.Filename, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	f, out, err := vfsutil.WrapOpenFilename(u.VFS, name, flags)
	return unmap(f, flags), out, fullOr(err)
}

func unmap(f vfs.File, flags vfs.OpenFlag) vfs.File {
	switch {
	case f == nil:
		return f
	case flags&vfs.OPEN_WAL != 0:
		return &walFile{File: f, first: -1}
	}
	return databaseFile{f}
}

// fullOr gives an error whose cause is a lack of room the engine's own word for
// it. The driver keeps a cause only until its next call of the disk, which may
// be the release of a lock on the way out of the statement.
func fullOr(err error) error {
	if err != nil && isNoRoom(err) {
		return vfs.SystemError(err, sqlite3.FULL)
	}
	return err
}

func isNoRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// databaseFile is a file, other than a -wal, with what matters of the optional
// methods, and without a memory map. Its writes are not gathered as those of a walFile
// are: a checkpoint that does not reach the end of the -wal tells readers to
// look for its pages here without having synced them.
type databaseFile struct{ vfs.File }

// Unwrap implements vfs.FileUnwrap.
func (f databaseFile) Unwrap() vfs.File { return f.File }

// SharedMemory implements vfs.FileSharedMemory.
func (f databaseFile) SharedMemory() vfs.SharedMemory { return vfsutil.WrapSharedMemory(f.File) }

// WriteAt implements vfs.File.
func (f databaseFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	return n, fullOr(err)
}

// Truncate implements vfs.File.
func (f databaseFile) Truncate(size int64) error { return fullOr(f.File.Truncate(size)) }

// LockState implements vfs.FileLockState.
func (f databaseFile) LockState() vfs.LockLevel { return vfsutil.WrapLockState(f.File) }

// PersistWAL and SetPersistWAL implement vfs.FilePersistWAL.
func (f databaseFile) PersistWAL() bool           { return vfsutil.WrapPersistWAL(f.File) }
func (f databaseFile) SetPersistWAL(keepWAL bool) { vfsutil.WrapSetPersistWAL(f.File, keepWAL) }

// PowersafeOverwrite and SetPowersafeOverwrite implement
// vfs.FilePowersafeOverwrite.
func (f databaseFile) PowersafeOverwrite() bool     { return vfsutil.WrapPowersafeOverwrite(f.File) }
func (f databaseFile) SetPowersafeOverwrite(b bool) { vfsutil.WrapSetPowersafeOverwrite(f.File, b) }

// ChunkSize implements vfs.FileChunkSize.
func (f databaseFile) ChunkSize(size int) { vfsutil.WrapChunkSize(f.File, size) }

// SizeHint implements vfs.FileSizeHint.
func (f databaseFile) SizeHint(size int64) error { return fullOr(vfsutil.WrapSizeHint(f.File, size)) }

// HasMoved implements vfs.FileHasMoved.
func (f databaseFile) HasMoved() (bool, error) { return vfsutil.WrapHasMoved(f.File) }

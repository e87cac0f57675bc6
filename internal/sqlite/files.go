package sqlite

import (
	"errors"
	"sync"

	"github.com/ncruces/go-sqlite3/util/vfsutil"
	"github.com/ncruces/go-sqlite3/vfs"
)

// gatheredBytes bounds what is gathered of a database file.
const gatheredBytes = 256 << 10

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
	return unmap(f, flags), out, err
}

// OpenFilename implements vfs.VFSFilename.
func (u unmapped) OpenFilename(name *vfs.Filename, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	f, out, err := vfsutil.WrapOpenFilename(u.VFS, name, flags)
	return unmap(f, flags), out, err
}

func unmap(f vfs.File, flags vfs.OpenFlag) vfs.File {
	switch {
	case f == nil:
		return f
	case flags&vfs.OPEN_WAL != 0:
		return &walFile{File: f}
	case flags&vfs.OPEN_MAIN_DB != 0:
		return &databaseFile{File: f}
	}
	return f
}

// databaseFile is a database file with what matters of the optional methods,
// and without a memory map. Pages that are written one after another, as a
// checkpoint does, are gathered into one write; what is gathered is written
// before anything is read, synced, cut, measured or unlocked through this file.
// The engine syncs a checkpoint before it tells anyone to read its pages here.
type databaseFile struct {
	vfs.File
	gathered gathered
}

// WriteAt implements vfs.File.
func (f *databaseFile) WriteAt(p []byte, off int64) (int, error) {
	return f.gathered.write(f.File, p, off)
}

// ReadAt implements vfs.File.
func (f *databaseFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.gathered.settle(f.File); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

// Truncate implements vfs.File.
func (f *databaseFile) Truncate(size int64) error {
	if err := f.gathered.settle(f.File); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

// Sync implements vfs.File.
func (f *databaseFile) Sync(flags vfs.SyncFlag) error {
	if err := f.gathered.settle(f.File); err != nil {
		return err
	}
	return f.File.Sync(flags)
}

// Size implements vfs.File.
func (f *databaseFile) Size() (int64, error) {
	if err := f.gathered.settle(f.File); err != nil {
		return 0, err
	}
	return f.File.Size()
}

// Unlock implements vfs.File.
func (f *databaseFile) Unlock(lock vfs.LockLevel) error {
	if err := f.gathered.settle(f.File); err != nil {
		return err
	}
	return f.File.Unlock(lock)
}

// Close implements vfs.File.
func (f *databaseFile) Close() error {
	return errors.Join(f.gathered.settle(f.File), f.File.Close())
}

// gathered is a run of bytes to be written in one call.
type gathered struct {
	mu     sync.Mutex // guards what follows
	buffer []byte
	at     int64
}

func (g *gathered) write(f vfs.File, p []byte, off int64) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.buffer) > 0 && (off != g.at+int64(len(g.buffer)) || len(g.buffer)+len(p) > gatheredBytes) {
		if err := g.flush(f); err != nil {
			return 0, err
		}
	}
	if len(g.buffer) == 0 {
		g.at = off
	}
	g.buffer = append(g.buffer, p...)
	return len(p), nil
}

// flush writes what was gathered. The caller holds mu.
func (g *gathered) flush(f vfs.File) error {
	if len(g.buffer) == 0 {
		return nil
	}
	_, err := f.WriteAt(g.buffer, g.at)
	g.buffer = g.buffer[:0]
	return err
}

func (g *gathered) settle(f vfs.File) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.flush(f)
}

// Unwrap implements vfs.FileUnwrap.
func (f *databaseFile) Unwrap() vfs.File { return f.File }

// SharedMemory implements vfs.FileSharedMemory.
func (f *databaseFile) SharedMemory() vfs.SharedMemory { return vfsutil.WrapSharedMemory(f.File) }

// LockState implements vfs.FileLockState.
func (f *databaseFile) LockState() vfs.LockLevel { return vfsutil.WrapLockState(f.File) }

// PersistWAL and SetPersistWAL implement vfs.FilePersistWAL.
func (f *databaseFile) PersistWAL() bool           { return vfsutil.WrapPersistWAL(f.File) }
func (f *databaseFile) SetPersistWAL(keepWAL bool) { vfsutil.WrapSetPersistWAL(f.File, keepWAL) }

// PowersafeOverwrite and SetPowersafeOverwrite implement
// vfs.FilePowersafeOverwrite.
func (f *databaseFile) PowersafeOverwrite() bool     { return vfsutil.WrapPowersafeOverwrite(f.File) }
func (f *databaseFile) SetPowersafeOverwrite(b bool) { vfsutil.WrapSetPowersafeOverwrite(f.File, b) }

// ChunkSize implements vfs.FileChunkSize.
func (f *databaseFile) ChunkSize(size int) { vfsutil.WrapChunkSize(f.File, size) }

// SizeHint implements vfs.FileSizeHint.
func (f *databaseFile) SizeHint(size int64) error { return vfsutil.WrapSizeHint(f.File, size) }

// HasMoved implements vfs.FileHasMoved.
func (f *databaseFile) HasMoved() (bool, error) { return vfsutil.WrapHasMoved(f.File) }

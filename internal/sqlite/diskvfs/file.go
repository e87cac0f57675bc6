package diskvfs

import (
	"path"
	"sync"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"

	"github.com/skeindb/skein/internal/env"
)

// sectorSize is what the engine's own file system says.
const sectorSize = 4096

// file is an open file of the engine. The engine uses it from one goroutine at
// a time.
type file struct {
	env.File
	disk      env.FS
	name      string
	unsynced  bool // made by this open: its directory entry is not durable yet
	temporary bool
	lock      *lock // of a database; nil of other files
	level     vfs.LockLevel
	shared    vfs.SharedMemory
	keepWAL   bool
}

var (
	_ vfs.FileSharedMemory       = (*file)(nil)
	_ vfs.FileLockState          = (*file)(nil)
	_ vfs.FilePersistWAL         = (*file)(nil)
	_ vfs.FilePowersafeOverwrite = (*file)(nil)
)

// Close implements io.Closer.
func (f *file) Close() error {
	if f.shared != nil {
		if c, ok := f.shared.(interface{ Close() error }); ok {
			_ = c.Close() // its locks go with it
		}
	}
	if f.lock != nil {
		_ = f.Unlock(vfs.LOCK_NONE)
		f.lock.leave()
		f.lock = nil
	}
	err := f.File.Close()
	if f.temporary {
		_ = f.disk.Remove(f.name) // nobody looks for it
	}
	return err
}

// WriteAt implements io.WriterAt.
func (f *file) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	return n, coded(err, sqlite3.IOERR_WRITE)
}

// Truncate implements vfs.File.
func (f *file) Truncate(size int64) error {
	return coded(f.File.Truncate(size), sqlite3.IOERR_TRUNCATE)
}

// Sync implements vfs.File.
func (f *file) Sync(vfs.SyncFlag) error {
	if err := f.File.Sync(); err != nil {
		return coded(err, sqlite3.IOERR_FSYNC)
	}
	if f.unsynced {
		f.unsynced = false
		return coded(f.disk.SyncDir(path.Dir(f.name)), sqlite3.IOERR_DIR_FSYNC)
	}
	return nil
}

// SectorSize implements vfs.File.
func (f *file) SectorSize() int { return sectorSize }

// DeviceCharacteristics implements vfs.File: as those of the engine's own file
// system.
func (f *file) DeviceCharacteristics() vfs.DeviceCharacteristic {
	return vfs.IOCAP_SUBPAGE_READ | vfs.IOCAP_POWERSAFE_OVERWRITE
}

// SharedMemory implements vfs.FileSharedMemory.
func (f *file) SharedMemory() vfs.SharedMemory { return f.shared }

// LockState implements vfs.FileLockState.
func (f *file) LockState() vfs.LockLevel { return f.level }

// PersistWAL and SetPersistWAL implement vfs.FilePersistWAL.
func (f *file) PersistWAL() bool           { return f.keepWAL }
func (f *file) SetPersistWAL(keepWAL bool) { f.keepWAL = keepWAL }

// PowersafeOverwrite and SetPowersafeOverwrite implement
// vfs.FilePowersafeOverwrite.
func (f *file) PowersafeOverwrite() bool   { return true }
func (f *file) SetPowersafeOverwrite(bool) {}

// lock is what the connections to one database hold of it.
type lock struct {
	all    *files
	key    lockKey
	shared string // where they share memory
	users  int    // guarded by all.mu

	mu       sync.Mutex // guards what follows
	readers  int        // with a shared lock or more
	reserved bool
	pending  bool
}

// leave forgets the lock with its last user.
func (l *lock) leave() {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(l.all.locks, l.key)
	}
}

// Lock implements vfs.File.
func (f *file) Lock(level vfs.LockLevel) error {
	if f.lock == nil || f.level >= level {
		return nil
	}
	l := f.lock
	l.mu.Lock()
	defer l.mu.Unlock()
	switch level {
	case vfs.LOCK_SHARED:
		if l.pending {
			return sqlite3.BUSY
		}
		l.readers++
	case vfs.LOCK_RESERVED:
		if l.reserved {
			return sqlite3.BUSY
		}
		l.reserved = true
	case vfs.LOCK_EXCLUSIVE:
		if f.level < vfs.LOCK_PENDING {
			// From shared, too: a hot journal is rolled back so.
			if l.pending {
				return sqlite3.BUSY
			}
			l.pending = true
			f.level = vfs.LOCK_PENDING
		}
		if l.readers > 1 {
			return sqlite3.BUSY
		}
	}
	f.level = level
	return nil
}

// Unlock implements vfs.File.
func (f *file) Unlock(level vfs.LockLevel) error {
	if f.lock == nil || f.level <= level {
		return nil
	}
	l := f.lock
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.level >= vfs.LOCK_PENDING {
		l.pending = false
	}
	if f.level >= vfs.LOCK_RESERVED {
		l.reserved = false
	}
	if level < vfs.LOCK_SHARED {
		l.readers--
	}
	f.level = level
	return nil
}

// CheckReservedLock implements vfs.File.
func (f *file) CheckReservedLock() (bool, error) {
	if f.lock == nil {
		return false, nil
	}
	f.lock.mu.Lock()
	defer f.lock.mu.Unlock()
	return f.lock.reserved || f.lock.pending, nil
}

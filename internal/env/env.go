// Package env is the one door to time, randomness, disk and network. Shells
// take an Env; cores take none. Real is the only code of the project that may
// call time.Now, os or net directly, so that a simulator can run whole nodes.
//
// It imports nothing of this module.
package env

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path"
	"sync"
	"time"
)

// Env is the outside world as one node sees it. All fields are set.
type Env struct {
	Clock Clock
	Rand  Rand
	FS    FS
	Net   Net
	Log   *slog.Logger
	// VFS names the SQLite VFS that database files are opened with; it must
	// reach the same disk as FS. Empty means SQLite's default.
	VFS string
	// Boot names the time since the machine was started: what was written and
	// not synced under another name may be gone. Empty: it is not known.
	Boot string
	// Serial has what could be done at the same time done one after the other, in an
	// order by chance, so that the same seed makes the same history.
	Serial bool
}

// Meanwhile runs f while its caller does something else. What it returns waits for
// f, and must be called.
func (e *Env) Meanwhile(f func() error) (wait func() error) {
	if !e.Serial {
		done := make(chan error, 1)
		go func() { done <- f() }()
		return sync.OnceValue(func() error { return <-done })
	}
	once := sync.OnceValue(f)
	if e.Rand.Uint64()%2 == 0 {
		_ = once() // Who waits gets its error.
	}
	return once
}

// Clock tells and waits for time. Now carries a monotonic reading; wall time
// is for people and logs only, never for a protocol decision.
type Clock interface {
	Now() time.Time
	NewTimer(d time.Duration) Timer
	AfterFunc(d time.Duration, f func()) Stopper
	// Sleep waits for d or until ctx is done, and returns its cause.
	Sleep(ctx context.Context, d time.Duration) error
	// WithTimeout is context.WithTimeoutCause on this clock.
	WithTimeout(ctx context.Context, d time.Duration, cause error) (context.Context, context.CancelFunc)
}

// Timer fires once on C; Reset and Stop are as in package time since Go 1.23.
type Timer interface {
	C() <-chan time.Time
	Reset(d time.Duration) bool
	Stop() bool
}

// Stopper cancels an AfterFunc.
type Stopper interface{ Stop() bool }

// Rand is a source of randomness for ids and jitter. It is safe for
// concurrent use.
type Rand interface {
	Uint64() uint64
	// Read fills p; it never fails.
	Read(p []byte) (int, error)
}

// FS is a disk. Names are ordinary paths. A change of a directory (create,
// rename, remove) is durable only after SyncDir of that directory.
type FS interface {
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	ReadFile(name string) ([]byte, error)
	Remove(name string) error
	RemoveAll(name string) error
	Rename(from, to string) error
	MkdirAll(name string, perm fs.FileMode) error
	ReadDir(name string) ([]fs.DirEntry, error)
	Stat(name string) (fs.FileInfo, error)
	SyncDir(name string) error
	// Free returns the bytes that may still be written below name.
	Free(name string) (int64, error)
}

// File is an open file. Writes are durable after Sync, which flushes data and
// size (fdatasync). After a failed Sync nothing is known about what was
// written since the last one: stop, do not retry.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	Truncate(size int64) error
	// Allocate reserves room for [0, size) so that later writes inside it
	// neither grow the file nor run out of space.
	Allocate(size int64) error
	Size() (int64, error)
}

// Net dials and listens for nodes and clients.
type Net interface {
	Listen(ctx context.Context, address string) (net.Listener, error)
	Dial(ctx context.Context, address string) (net.Conn, error)
}

// Locker is a disk that other processes may reach, too.
type Locker interface {
	// Lock takes a file for this process, made when there is none, until the
	// closer is closed or the process ends, however it ends. The file stays:
	// only the system's lock on it means something. When another has it the
	// error is a *LockedError.
	Lock(name string) (io.Closer, error)
}

// LockedError says that another process has a lock.
type LockedError struct {
	// Process is its number, as far as it is known.
	Process string
}

// Error implements error.
func (e *LockedError) Error() string { return "locked by process " + e.Process }

// MakeDir makes a folder and the folders above it that are missing, so that a
// crash leaves it there: the folder that holds a new one is synced. So is the
// one that holds dir when dir exists already, since who made it may have been
// killed in between; where that is not allowed dir is somebody else's to keep.
func MakeDir(f FS, dir string, perm fs.FileMode) error {
	_, err := f.Stat(dir)
	existed := err == nil
	parents := []string{path.Dir(dir)}
	for above := path.Dir(dir); above != path.Dir(above); above = path.Dir(above) {
		if _, err := f.Stat(above); err == nil {
			break
		}
		parents = append(parents, path.Dir(above))
	}
	if err := f.MkdirAll(dir, perm); err != nil {
		return err
	}
	for _, parent := range parents {
		if err := f.SyncDir(parent); err != nil && !(existed && errors.Is(err, fs.ErrPermission)) {
			return err
		}
	}
	return nil
}

// WriteFile writes a small file so that a crash leaves the old or the new
// content: temporary file, sync, rename, sync of the directory.
func WriteFile(f FS, dir, name string, data []byte) error {
	tmp := dir + "/" + name + ".tmp"
	h, err := f.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if _, err = h.WriteAt(data, 0); err == nil {
		err = h.Sync()
	}
	if cerr := h.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := f.Rename(tmp, dir+"/"+name); err != nil {
		return err
	}
	return f.SyncDir(dir)
}

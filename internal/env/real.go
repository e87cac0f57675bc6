package env

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Real returns this machine: its clock, crypto/rand, its files and network.
func Real(log *slog.Logger) *Env {
	return &Env{Clock: realClock{}, Rand: realRand{}, FS: realFS{}, Net: realNet{}, Log: log, Boot: bootID()}
}

func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

type realClock struct{}

func (realClock) Now() time.Time                              { return time.Now() }
func (realClock) NewTimer(d time.Duration) Timer              { return realTimer{time.NewTimer(d)} }
func (realClock) AfterFunc(d time.Duration, f func()) Stopper { return time.AfterFunc(d, f) }

func (realClock) Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (realClock) WithTimeout(ctx context.Context, d time.Duration, cause error) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, cause)
}

type realTimer struct{ *time.Timer }

func (t realTimer) C() <-chan time.Time { return t.Timer.C }

type realRand struct{}

func (realRand) Read(p []byte) (int, error) { return rand.Read(p) }

func (realRand) Uint64() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:])
}

type realFS struct{}

func (realFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return realFile{f}, nil
}

func (realFS) ReadFile(name string) ([]byte, error)         { return os.ReadFile(name) }
func (realFS) Remove(name string) error                     { return os.Remove(name) }
func (realFS) RemoveAll(name string) error                  { return os.RemoveAll(name) }
func (realFS) Rename(from, to string) error                 { return os.Rename(from, to) }
func (realFS) MkdirAll(name string, perm fs.FileMode) error { return os.MkdirAll(name, perm) }
func (realFS) ReadDir(name string) ([]fs.DirEntry, error)   { return os.ReadDir(name) }
func (realFS) Stat(name string) (fs.FileInfo, error)        { return os.Stat(name) }

func (realFS) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (realFS) Free(name string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(name, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// Lock implements Locker.
func (realFS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			b := make([]byte, 32)
			n, _ := f.ReadAt(b, 0)
			return nil, &LockedError{Process: strings.TrimSpace(string(b[:n]))}
		}
		return nil, err
	}
	// The number is for people only, so that a disk without room for it does
	// not keep anyone from starting.
	_ = f.Truncate(0)
	_, _ = f.WriteAt(strconv.AppendInt(nil, int64(os.Getpid()), 10), 0)
	return f, nil
}

type realFile struct{ *os.File }

func (f realFile) Sync() error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return err
		}
	}
}

func (f realFile) Allocate(size int64) error {
	for {
		switch err := unix.Fallocate(int(f.Fd()), 0, 0, size); err {
		case unix.EINTR:
		case unix.EOPNOTSUPP:
			return nil // The file system cannot reserve; writes may grow the file.
		default:
			return err
		}
	}
}

func (f realFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

type realNet struct{}

func (realNet) Listen(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", address)
}

func (realNet) Dial(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{KeepAlive: 5 * time.Second}
	return d.DialContext(ctx, "tcp", address)
}

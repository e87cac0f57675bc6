package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/skeindb/skein/internal/base"
)

// lockFile is in the data folder. It stays when the node has stopped: only the
// system's lock on it means something.
const lockFile = "lock"

// lockFolder takes a data folder for this process; two nodes writing to the
// same files would destroy them. The system gives the lock back when the
// process ends, however it ends.
func lockFolder(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, base.Errorf(base.KindInvalid, "another process%s serves the data folder %s", holder(f), dir).
				WithHint("Stop it first, or give this node a folder of its own.")
		}
		return nil, fmt.Errorf("lock data folder: %w", err)
	}
	// The number is for people only, so that a disk without room for it does
	// not keep the node from starting.
	_ = f.Truncate(0)
	_, _ = f.WriteAt(fmt.Appendln(nil, os.Getpid()), 0)
	return f, nil
}

// holder names the process that holds the lock, as far as it is known.
func holder(f *os.File) string {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0)
	if pid := strings.TrimSpace(string(b[:n])); pid != "" {
		return " (pid " + pid + ")"
	}
	return ""
}

package sqlite

import (
	"encoding/binary"
	"sync"

	"github.com/ncruces/go-sqlite3/vfs"
)

const (
	walHeaderSize      = 32
	walFrameHeaderSize = 24
	walBufferSize      = 512 << 10
)

// walFile is a -wal that gathers the writes of a transaction. The engine writes
// each frame in two calls, header and page; here a whole transaction is one
// write of the disk's.
//
// What is gathered is written, at the latest, when the frame that commits is
// complete (its header holds the size of the database, others hold zero), which
// is before the engine lets other connections see it; and before anything is
// read, synced, cut or measured through this file. An error of that write is
// the error of the call that caused it, so that no commit succeeds over it.
type walFile struct {
	vfs.File

	mu      sync.Mutex // guards what follows; the size is asked for from elsewhere
	buffer  []byte
	at      int64 // of buffer in the file
	end     int64 // of the last write
	commits bool  // the last header has announced a commit: its page comes next
}

// WriteAt implements vfs.File.
func (w *walFile) WriteAt(p []byte, off int64) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.buffer) > 0 && (off != w.at+int64(len(w.buffer)) || len(w.buffer)+len(p) > walBufferSize) {
		if err := w.flush(); err != nil {
			return 0, err
		}
	}
	if len(w.buffer) == 0 {
		w.at = off
	}
	w.buffer = append(w.buffer, p...)
	// A header that does not follow the last write gives an older frame a new
	// checksum, with no page after it, or is this file's first: it is written.
	appends := off == w.end || off == walHeaderSize
	w.end = off + int64(len(p))
	switch {
	case len(p) == walFrameHeaderSize:
		w.commits = binary.BigEndian.Uint32(p[4:]) != 0
		if appends {
			return len(p), nil
		}
	case len(p) >= 512 && off >= walHeaderSize && !w.commits:
		return len(p), nil // The page of a frame that does not commit.
	default:
		w.commits = false
	}
	if err := w.flush(); err != nil {
		return 0, err
	}
	return len(p), nil
}

// flush writes what was gathered. The caller holds mu.
func (w *walFile) flush() error {
	if len(w.buffer) == 0 {
		return nil
	}
	_, err := w.File.WriteAt(w.buffer, w.at)
	w.buffer = w.buffer[:0]
	return fullOr(err)
}

func (w *walFile) settle() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.flush()
}

// ReadAt implements vfs.File.
func (w *walFile) ReadAt(p []byte, off int64) (int, error) {
	if err := w.settle(); err != nil {
		return 0, err
	}
	return w.File.ReadAt(p, off)
}

// Truncate implements vfs.File.
func (w *walFile) Truncate(size int64) error {
	if err := w.settle(); err != nil {
		return err
	}
	return fullOr(w.File.Truncate(size))
}

// Sync implements vfs.File.
func (w *walFile) Sync(flags vfs.SyncFlag) error {
	if err := w.settle(); err != nil {
		return err
	}
	return w.File.Sync(flags)
}

// Size implements vfs.File.
func (w *walFile) Size() (int64, error) {
	if err := w.settle(); err != nil {
		return 0, err
	}
	return w.File.Size()
}

// Close implements vfs.File.
func (w *walFile) Close() error {
	err := w.settle()
	if cerr := w.File.Close(); err == nil {
		err = cerr
	}
	return err
}

// Unwrap implements vfs.FileUnwrap.
func (w *walFile) Unwrap() vfs.File { return w.File }

package sqlite

import (
	"encoding/binary"
	"sync"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"

	"github.com/skeindb/skein/internal/pageformat"
	"github.com/skeindb/skein/internal/sqlite/walformat"
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
	first   int64 // where the transaction's first frame begins; -1 before it
	take    func(*transaction) error
}

// begin forgets the frames of an earlier transaction.
func (w *walFile) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.first = -1
}

// capture has take called with what the transactions change that commit from
// here on; nil ends that.
func (w *walFile) capture(take func(*transaction) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.take = take
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
		if w.first < 0 || off < w.first {
			w.first = off
		}
		if appends {
			return len(p), nil
		}
	case len(p) >= 512 && off >= walHeaderSize && !w.commits:
		return len(p), nil // The page of a frame that does not commit.
	default:
		if err := w.handOver(off, len(p)); err != nil {
			w.buffer = w.buffer[:0] // The frame that commits is never written.
			return 0, err
		}
		w.commits = false
	}
	if err := w.flush(); err != nil {
		return 0, err
	}
	return len(p), nil
}

// handOver gives the transaction to who captures it, if the page at off ends
// one. What it refuses is told to the engine as a full disk is, which undoes the
// transaction and no more. The caller holds mu.
func (w *walFile) handOver(off int64, page int) error {
	if w.take == nil || !w.commits || w.first < 0 || page < 512 {
		return nil
	}
	frame := walFrameHeaderSize + page
	size := off + int64(page) - w.first
	if size > pageformat.MaxBytes {
		_ = w.take(nil)
		return sqlite3.FULL
	}
	frames := make([]byte, size)
	if w.first < w.at {
		if _, err := w.File.ReadAt(frames[:w.at-w.first], w.first); err != nil {
			return err
		}
		copy(frames[w.at-w.first:], w.buffer)
	} else {
		copy(frames, w.buffer[w.first-w.at:])
	}
	if err := w.take(gather(frames, frame, w.first)); err != nil {
		return sqlite3.FULL
	}
	return nil
}

// append writes whole frames, the first of which is the numbered one, behind the
// header of the -wal if it is number one.
func (w *walFile) append(frames []byte, first uint32, page int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.flush(); err != nil {
		return err
	}
	if first > 1 {
		_, err := w.File.WriteAt(frames, walformat.FrameOffset(first, page))
		return diskError(sqlite3.IOERR_WRITE, err)
	}
	// A new header must be on disk before frames are: after a power cut the old
	// one would make old frames good again.
	if _, err := w.File.WriteAt(frames[:walHeaderSize], 0); err != nil {
		return diskError(sqlite3.IOERR_WRITE, err)
	}
	if err := w.File.Sync(vfs.SYNC_NORMAL); err != nil {
		return diskError(sqlite3.IOERR_FSYNC, err)
	}
	_, err := w.File.WriteAt(frames[walHeaderSize:], walHeaderSize)
	return diskError(sqlite3.IOERR_WRITE, err)
}

// readPage reads a page of an earlier transaction. It may be called while take
// runs, which holds mu.
func (w *walFile) readPage(frame uint32, page []byte) error {
	_, err := w.File.ReadAt(page, walformat.FrameOffset(frame, len(page))+walformat.FrameHeaderSize)
	return err
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

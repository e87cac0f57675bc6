package changelog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
)

// spare is a file whose room is reserved and whose size is on disk, so that a
// sync of writes in it need not change the file system's own records. It has a
// name that Open takes for rubbish.
type spare struct {
	file env.File
	name string
	size int64
}

// zeros is what spares are filled with, piece by piece, so that the sync of a
// commit waits for no more than one piece. It is never written to.
var zeros = make([]byte, 1<<20)

// path returns the path of a file of the log.
func (l *Log) path(name string) string { return l.dir + "/" + name }

// newSpare makes a spare. Reserved room alone would not do: most file systems
// note, at the first write of each block, that it is no longer empty, and a
// sync has to wait for the note.
func (l *Log) newSpare(size int64) (*spare, error) {
	l.mu.Lock()
	l.spareCount++
	sp := &spare{name: spareName(l.spareCount), size: size}
	l.mu.Unlock()
	var err error
	sp.file, err = l.env.FS.OpenFile(l.path(sp.name), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make log segment: %w", err)
	}
	if err := fill(sp.file, size); err != nil {
		l.discard(sp)
		return nil, fmt.Errorf("make log segment of %d bytes: %w", size, err)
	}
	return sp, nil
}

func fill(f env.File, size int64) error {
	if err := f.Allocate(size); err != nil {
		return err
	}
	for at := int64(0); at < size; at += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// discard removes a spare. What can't be removed now, Open removes.
func (l *Log) discard(sp *spare) {
	l.closeFile(sp.file)
	if err := l.env.FS.Remove(l.path(sp.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.env.Log.Warn("remove spare log segment", "dir", l.dir, "name", sp.name, "err", err)
	}
}

// takeSpare returns a spare of at least size bytes, one that is at hand when
// it is large enough.
func (l *Log) takeSpare(size int64) (*spare, error) {
	l.mu.Lock()
	sp := l.spare
	if sp != nil && sp.size >= size {
		l.spare = nil
		l.mu.Unlock()
		return sp, nil
	}
	l.mu.Unlock()
	return l.newSpare(size)
}

// keepSpare puts a spare by for later, or removes it when there is one.
func (l *Log) keepSpare(sp *spare) {
	l.mu.Lock()
	if l.spare == nil && !l.closed {
		l.spare, sp = sp, nil
	}
	l.mu.Unlock()
	if sp != nil {
		l.discard(sp)
	}
}

// nextSize returns the size of the segment after one of size bytes.
func (l *Log) nextSize(size int64) int64 {
	return min(l.o.SegmentBytes, max(2*size, firstSegmentBytes))
}

// rotate ends the last segment and begins a new one that has room for a batch
// of need bytes. The old one is on disk, wholly, before the new one has its
// name, so that only the last segment of a log can ever have a torn tail.
// Without room on the disk everything stays as it was.
func (l *Log) rotate(need int64) (*segment, error) {
	l.mu.Lock()
	old, h := l.active(), l.nextHeader(l.end, l.starts)
	size := max(l.nextSize(old.size), h.dataOffset()+need)
	l.mu.Unlock()
	sp, err := l.takeSpare(size)
	if err != nil {
		return nil, l.fullOrFailed("begin log segment", err)
	}
	if err := l.syncInTurn("sync log", old.file.Sync); err != nil {
		l.discard(sp)
		return nil, err
	}
	s, err := l.install(sp, h, h.encode(h.previous.Seq))
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments = append(l.segments, s)
	l.flushed = max(l.flushed, h.previous.Seq)
	l.marked = l.flushed
	return s, nil
}

// nextHeader returns the header of the segment after the last one. The caller
// holds l.mu.
func (l *Log) nextHeader(previous base.Position, starts []EpochStart) *header {
	if n := len(starts); n > MaxEpochStarts {
		starts = starts[n-MaxEpochStarts:]
	}
	h := &header{
		cluster: l.o.ClusterID, database: l.o.DatabaseID, number: 1, salt: l.env.Rand.Uint64(),
		previous: previous, starts: slices.Clone(starts),
	}
	if len(l.segments) > 0 {
		h.number = l.active().header.number + 1
	}
	return h
}

// install makes a spare a segment of the log: its first bytes, then its name,
// each durable before the next step. For lack of room nothing has changed;
// after any other error the log has failed.
func (l *Log) install(sp *spare, h *header, content []byte) (*segment, error) {
	if err := l.stage(sp, content); err != nil {
		return nil, err
	}
	return l.adopt(sp, h)
}

// stage writes and syncs the first bytes of a spare. On error the spare is
// kept or gone.
func (l *Log) stage(sp *spare, content []byte) error {
	if _, err := sp.file.WriteAt(content, 0); err != nil {
		l.keepSpare(sp)
		return l.fullOrFailed("begin log segment", err)
	}
	if err := sp.file.Sync(); err != nil {
		l.discard(sp)
		return l.fail("sync log segment", err)
	}
	return nil
}

// adopt gives a staged spare its name. On error the spare is kept or gone.
func (l *Log) adopt(sp *spare, h *header) (*segment, error) {
	if err := l.env.FS.Rename(l.path(sp.name), l.path(segmentName(h.number))); err != nil {
		l.keepSpare(sp)
		return nil, l.fullOrFailed("begin log segment", err)
	}
	if err := l.env.FS.SyncDir(l.dir); err != nil {
		l.closeFile(sp.file)
		return nil, l.fail("sync log directory", err)
	}
	return &segment{header: h, file: sp.file, size: sp.size, used: h.dataOffset(), last: h.previous}, nil
}

// wantSpare asks for the next segment when s is half full, and says whether
// the housekeeper has something new to do. The caller holds l.mu.
func (l *Log) wantSpare(s *segment) bool {
	if l.o.Foreground || s.asked || s.used < s.size/2 || l.spare != nil {
		return false
	}
	s.asked = true
	l.spareSize = l.nextSize(s.size)
	return true
}

// wake tells the housekeeper that there is work.
func (l *Log) wake() {
	if l.o.Foreground {
		l.housekeep()
		return
	}
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// keepHouse runs until Close.
func (l *Log) keepHouse() {
	for {
		select {
		case <-l.quit:
			return
		case <-l.kick:
			l.housekeep()
		}
	}
}

// housekeep makes the spare that is asked for, and removes dropped segments.
// A lack of room for the spare is not an error yet: the append that needs one
// tries again and reports it.
func (l *Log) housekeep() {
	l.mu.Lock()
	doomed, size := l.doomed, l.spareSize
	l.doomed, l.spareSize = nil, 0
	failed := l.failed != nil
	l.mu.Unlock()
	if failed {
		size = 0
	}
	for _, s := range doomed {
		if failed {
			l.release(s)
			continue
		}
		if err := l.removeSegment(s); err != nil {
			l.fail("remove log segment", err)
			failed = true
		}
	}
	if size > 0 {
		l.prepare(size)
	}
}

func (l *Log) prepare(size int64) {
	l.mu.Lock()
	have := l.spare != nil
	l.mu.Unlock()
	if have {
		return
	}
	sp, err := l.newSpare(size)
	if err != nil {
		l.env.Log.Warn("prepare log segment", "dir", l.dir, "err", err)
		return
	}
	l.keepSpare(sp)
}

// drop takes the first n segments out of the log; wake must follow. The
// caller holds l.mu.
func (l *Log) drop(n int) {
	for _, s := range l.segments[:n] {
		s.dropped = true
		s.refs++ // the housekeeper's
		l.doomed = append(l.doomed, s)
	}
	l.segments = slices.Clone(l.segments[n:])
}

// removeSegment removes the file of a dropped segment, or makes it the next
// spare. The directory is synced each time: after a crash the segments must
// still be a sequence without a hole.
func (l *Log) removeSegment(s *segment) error {
	l.mu.Lock()
	recycle := l.spare == nil && s.refs == 1 && s.size == l.o.SegmentBytes && !l.closed
	sp := &spare{file: s.file, size: s.size}
	if recycle {
		l.spareCount++
		sp.name = spareName(l.spareCount)
	}
	l.mu.Unlock()
	name := l.path(segmentName(s.header.number))
	var err error
	if recycle {
		err = l.env.FS.Rename(name, l.path(sp.name))
	} else {
		err = l.env.FS.Remove(name)
	}
	if err == nil {
		err = l.env.FS.SyncDir(l.dir)
	}
	if err == nil && recycle {
		l.keepSpare(sp)
		return nil
	}
	l.release(s)
	return err
}

// Trim drops the segments all of whose entries lie before a sequence number;
// the last segment stays. Their files go in the background, oldest first.
func (l *Log) Trim(before base.Seq) error {
	l.mu.Lock()
	if err := l.usable(); err != nil {
		l.mu.Unlock()
		return err
	}
	n := 0
	for n < len(l.segments)-1 && l.segments[n].last.Seq < before && l.segments[n] != l.cutting {
		n++
	}
	if n > 0 {
		l.drop(n)
	}
	l.mu.Unlock()
	if n > 0 {
		l.wake()
	}
	return nil
}

package changelog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/planted"
)

// Log is the log of one replica. See the package comment for who may call
// what at the same time.
type Log struct {
	env *env.Env
	dir string
	o   Options

	kick chan struct{} // wakes the housekeeper
	quit chan struct{}
	done sync.WaitGroup

	// syncing is held by who syncs a segment, until it is noted what came of it:
	// a sync that comes after a failed one finds no dirty pages, and succeeds. It
	// is no mutex, as it is held over a disk call.
	syncing chan struct{}

	mu sync.Mutex // guards everything below
	// segments, oldest first; the last one is written to. Empty only when the
	// log is closed.
	segments []*segment
	end      base.Position
	flushed  base.Seq
	starts   []EpochStart
	cache    tailCache
	changed  chan struct{} // closed at the next change; nil when nobody waits
	failed   error         // sticky
	closing  bool          // Close was called
	closed   bool          // and nothing works any more
	// generation counts cuts, so that a sync that began before one does not
	// count for what came after it.
	generation uint64
	marked     base.Seq // the highest mark on disk says this
	marking    base.Seq // and the highest one that may be on its way there, this
	marks      int      // how many marks were written

	start base.Seq // once the segments are closed, what they began with
	// damagedTo is the end of the last segment in which a read has found
	// damage, and damage is what it found. Nothing up to there is read from
	// disk any more, and nothing more is written into that segment.
	damagedTo base.Seq
	damage    error

	spare      *spare // ready to become the next segment
	spareCount uint64
	spareSize  int64         // of the spare that is asked for; 0: none
	doomed     []*segment    // to be removed, oldest first
	cutting    *segment      // TruncateAfter is at it; Trim stops before it
	unused     chan struct{} // closed when nobody uses cutting's file any more; nil when nobody waits
}

// segment is one open file of the log. Its file may be used outside of the
// log's mutex while refs is not zero, and by the writer.
type segment struct {
	header *header
	file   env.File
	size   int64

	// Guarded by Log.mu; only the writer changes used, last and index.
	used    int64         // behind the last batch
	last    base.Position // after the last batch
	index   []point
	newest  newest
	refs    int
	dropped bool // no longer of the log; closed when refs is zero
	asked   bool // its successor was asked for
}

// newest is the last batch of a segment, as it was appended: alone, and since
// the log was opened or cut. Its zero value is none.
type newest struct {
	first    base.Seq
	at       int64         // where it begins in the file
	previous base.Position // before it
	points   int           // of the index, before it
}

func (s *segment) first() base.Seq { return s.header.previous.Seq + 1 }

// usable says why the log can't be used. The caller holds l.mu.
func (l *Log) usable() error {
	if l.failed != nil {
		return l.failed
	}
	if l.closed {
		return ErrClosed
	}
	return nil
}

// fail makes an error sticky and returns what callers get from now on.
func (l *Log) fail(op string, cause error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil {
		l.failed = &base.Error{
			Kind: base.KindUnavailable, Op: op, Message: "the disk failed: " + cause.Error(),
			Outcome: base.Indeterminate, Err: errors.Join(ErrFailed, cause),
			Hint: "check the disk, then restart this replica",
		}
		l.broadcast()
	}
	return l.failed
}

// full turns a lack of room into what callers branch on, and says whether err
// was one.
func full(op string, err error) (error, bool) {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return err, false
	}
	return &base.Error{Kind: base.KindDiskFull, Op: op, Message: err.Error(), Err: err,
		Hint: "make room on the disk of the data folder"}, true
}

// fullOrFailed is for errors of disk calls that leave the log as it was when
// the cause was a lack of room, and in doubt otherwise.
func (l *Log) fullOrFailed(op string, err error) error {
	if err, ok := full(op, err); ok {
		return err
	}
	return l.fail(op, err)
}

// broadcast wakes all waiters. The caller holds l.mu.
func (l *Log) broadcast() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// active returns the segment that is written to. The caller holds l.mu.
func (l *Log) active() *segment { return l.segments[len(l.segments)-1] }

// part is a run of frames of one epoch, which one batch holds.
type part struct {
	batch
	frames []byte
}

// Append appends whole entry frames that cover first to last, the last of
// them of epoch, in one write. Readers see them at once; they are durable
// after the next Sync. The caller has verified the entries' checksums (see
// entry.Scan) and may reuse frames afterwards.
//
// KindDiskFull: nothing was appended and the log is as it was; ErrNotNext:
// the frames do not continue the log; KindTooLarge: over MaxBatchBytes;
// ErrFailed: the log is of no more use.
func (l *Log) Append(frames []byte, first, last base.Seq, epoch base.Epoch) error {
	if len(frames) > MaxBatchBytes {
		return base.Errorf(base.KindTooLarge, "batch of %d bytes in the log; at most %d fit", len(frames), MaxBatchBytes)
	}
	parts, err := splitEpochs(frames, first, last, epoch)
	if err != nil {
		return err
	}
	var need int64
	for _, p := range parts {
		need += batchBytes(p.length)
	}
	s, flushed, err := l.room(base.Position{Epoch: parts[0].epoch, Seq: first}, need)
	if err != nil {
		return err
	}
	return l.write(s, parts, flushed, need)
}

// splitEpochs cuts frames where the epoch changes. Usually it does not.
func splitEpochs(frames []byte, first, last base.Seq, epoch base.Epoch) ([]part, error) {
	var parts []part
	next := first
	for rest := frames; len(rest) > 0; {
		e, n, err := entry.Peek(rest)
		if err != nil || n > len(rest) || e.First != next || e.Last() < next {
			return nil, fmt.Errorf("%w: no entry %d at byte %d: %v", ErrNotNext, next, len(frames)-len(rest), err)
		}
		if k := len(parts); k == 0 || parts[k-1].epoch != e.Epoch {
			parts = append(parts, part{batch: batch{first: next, epoch: e.Epoch}, frames: rest[:0]})
		}
		p := &parts[len(parts)-1]
		p.frames, p.last = p.frames[:len(p.frames)+n], e.Last()
		p.length = len(p.frames)
		next, rest = e.Last()+1, rest[n:]
	}
	if len(parts) == 0 || next != last+1 || parts[len(parts)-1].epoch != epoch {
		return nil, fmt.Errorf("%w: frames are not %d to %d of epoch %d", ErrNotNext, first, last, epoch)
	}
	return parts, nil
}

// room returns the segment that a batch of need bytes goes to, a new one when
// the last has no room, and what is known to be on disk. next is the batch's
// epoch and first sequence number.
func (l *Log) room(next base.Position, need int64) (*segment, base.Seq, error) {
	l.mu.Lock()
	if err := l.usable(); err != nil {
		l.mu.Unlock()
		return nil, 0, err
	}
	if next.Seq != l.end.Seq+1 || next.Epoch < l.end.Epoch {
		end := l.end
		l.mu.Unlock()
		return nil, 0, fmt.Errorf("%w: %v after %v", ErrNotNext, next, end)
	}
	s, flushed := l.active(), l.flushed
	damaged := l.damagedTo >= s.first()
	l.mu.Unlock()
	if s.used+need <= s.size && !damaged {
		return s, flushed, nil
	}
	s, err := l.rotate(need)
	if err != nil {
		return nil, 0, err
	}
	return s, s.header.previous.Seq, nil
}

// write writes batches behind the last one and publishes them.
func (l *Log) write(s *segment, parts []part, flushed base.Seq, need int64) error {
	buf := make([]byte, 0, need)
	index := s.index
	for i := range parts {
		p := &parts[i]
		p.flushed = flushed
		at := s.used + int64(len(buf)) + batchHeaderBytes
		var err error
		if index, err = indexFrames(index, p.frames, p.batch, at); err != nil {
			return fmt.Errorf("%w: %w", ErrNotNext, err)
		}
		start := len(buf) + batchHeaderBytes
		buf = appendBatch(buf, s.header.salt, p.batch, p.frames)
		p.frames = buf[start : start+p.length : start+p.length]
	}
	if n, err := s.file.WriteAt(buf, s.used); err != nil {
		return l.undo(s, n, err)
	}
	if l.publish(s, parts, index, need) {
		l.wake()
	}
	return nil
}

// undo makes sure that a batch that could not be written whole is not taken
// for one after a crash: its last bytes may happen to be on disk already.
func (l *Log) undo(s *segment, written int, cause error) error {
	err, isFull := full("append to log", cause)
	if !isFull {
		return l.fail("append to log", cause)
	}
	if written == 0 {
		return err
	}
	if _, zeroErr := s.file.WriteAt(make([]byte, min(written, batchHeaderBytes)), s.used); zeroErr != nil {
		return l.fail("undo append to log", zeroErr)
	}
	if syncErr := l.syncInTurn("undo append to log", s.file.Sync); syncErr != nil {
		return syncErr
	}
	return err
}

// syncInTurn runs a sync of a segment's file when no other one runs, unless the
// log has failed by then. An error is sticky.
func (l *Log) syncInTurn(op string, sync func() error) error {
	l.syncing <- struct{}{}
	defer func() { <-l.syncing }()
	l.mu.Lock()
	err := l.failed
	l.mu.Unlock()
	if err != nil {
		return err
	}
	if err := sync(); err != nil {
		return l.fail(op, err)
	}
	return nil
}

// publish makes batches visible and says whether the housekeeper has work.
func (l *Log) publish(s *segment, parts []part, index []point, bytes int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range parts {
		if p.epoch > l.end.Epoch {
			l.starts = append(l.starts, EpochStart{p.epoch, p.first})
		}
		l.end = base.Position{Epoch: p.epoch, Seq: p.last}
		l.cache.add(p)
	}
	s.newest = newest{}
	if len(parts) == 1 {
		s.newest = newest{first: parts[0].first, at: s.used, previous: s.last, points: len(s.index)}
	}
	s.used += bytes
	s.last, s.index = l.end, index
	l.broadcast()
	return l.wantSpare(s)
}

// Sync makes durable what was appended before the call and returns up to
// where the log is now known to be on disk. After an error the log is of no
// more use: pages that a failed sync has dropped look clean to the next one.
//
// A Sync with nothing to do leaves a mark on disk, once, that everything is
// there: call it again when appends pause, so that damage to the last batches
// can be told from a torn tail.
func (l *Log) Sync() (base.Seq, error) {
	l.mu.Lock()
	if err := l.usable(); err != nil {
		l.mu.Unlock()
		return 0, err
	}
	s, target, generation := l.active(), l.end.Seq, l.generation
	idle := l.flushed == target
	if idle && l.marked >= target {
		l.mu.Unlock()
		return target, nil
	}
	s.refs++
	l.marks++
	if idle {
		l.marking = max(l.marking, target)
	}
	offset := s.header.size() + markOffset(l.marks)
	l.mu.Unlock()

	err := l.syncInTurn("sync log", func() error {
		if !idle && l.hasSynced(generation, target) {
			return nil // The one before has.
		}
		err := s.sync(idle, offset, target)
		if err == nil {
			l.noteSynced(generation, target, idle)
		}
		return err
	})
	l.release(s)
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return 0, err
	}
	return l.flushed, nil
}

// sync syncs the file, with a mark when the log is idle.
func (s *segment) sync(idle bool, offset int64, target base.Seq) error {
	if idle {
		if _, err := s.file.WriteAt(encodeMark(s.header.salt, target), offset); err != nil {
			return err
		}
	}
	if planted.Is(planted.SkipLogSync) {
		return nil
	}
	return s.file.Sync()
}

func (l *Log) hasSynced(generation uint64, target base.Seq) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.generation == generation && l.flushed >= target
}

// noteSynced counts what a sync has brought to the disk, unless the log was cut
// since it began.
func (l *Log) noteSynced(generation uint64, target base.Seq, idle bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.generation != generation || l.usable() != nil {
		return
	}
	l.flushed = max(l.flushed, target)
	if idle {
		l.marked = max(l.marked, target)
	}
}

// release gives back a segment that was used outside of the mutex.
func (l *Log) release(s *segment) {
	l.mu.Lock()
	s.refs--
	last := s.dropped && s.refs == 0
	if s == l.cutting && s.refs == 0 && l.unused != nil {
		close(l.unused)
		l.unused = nil
	}
	l.mu.Unlock()
	if last {
		l.closeFile(s.file)
	}
}

// closeFile closes a file that nothing depends on any more.
func (l *Log) closeFile(f env.File) {
	if err := f.Close(); err != nil {
		l.env.Log.Warn("close log segment", "dir", l.dir, "err", err)
	}
}

// End returns the position of the last entry, durable or not.
func (l *Log) End() base.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end
}

// Flushed returns up to where the log is known to be on disk.
func (l *Log) Flushed() base.Seq {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flushed
}

// Start returns the first sequence number from which on all of the log is
// retained and, as far as is known, can be read: when damage is found that is
// what follows the damaged segment. In an empty log it is the one that comes
// next. It may be asked for when the log is closed.
func (l *Log) Start() base.Seq {
	l.mu.Lock()
	defer l.mu.Unlock()
	start := l.start
	if len(l.segments) > 0 {
		start = l.segments[0].first()
	}
	return max(start, l.damagedTo+1)
}

// noteDamage takes note of an error that a read of s has met: what is in it is
// read no more.
func (l *Log) noteDamage(s *segment, err error) {
	l.mu.Lock()
	news := s.last.Seq > l.damagedTo && !s.dropped
	if news {
		l.damagedTo, l.damage = s.last.Seq, err
	}
	l.mu.Unlock()
	if news {
		l.env.Log.Error("a segment of the log is damaged; followers that need it are sent a copy of the database instead",
			"dir", l.dir, "segment", s.header.number, "through", s.last.Seq, "err", err)
	}
}

// EpochStarts returns where each known epoch starts, oldest first. It reaches
// back further than the retained entries.
func (l *Log) EpochStarts() []EpochStart {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.starts)
}

// EpochAt returns the epoch that seq belongs to, 0 when it lies behind the end
// or before the first known epoch.
func (l *Log) EpochAt(seq base.Seq) base.Epoch {
	l.mu.Lock()
	defer l.mu.Unlock()
	if seq > l.end.Seq {
		return 0
	}
	for _, s := range slices.Backward(l.starts) {
		if s.First <= seq {
			return s.Epoch
		}
	}
	return 0
}

// Bytes returns the size of what the log holds: headers and batches, without
// the room that is reserved for later ones.
func (l *Log) Bytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var total int64
	for _, s := range l.segments {
		total += s.used
	}
	return total
}

// Segments describes the segments, oldest first, for Retain.
func (l *Log) Segments() []SegmentInfo {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]SegmentInfo, len(l.segments))
	for i, s := range l.segments {
		list[i] = SegmentInfo{First: s.first(), Last: s.last.Seq, Bytes: s.used}
	}
	return list
}

// Wait returns when the log's end has reached seq, or with the cause of ctx,
// ErrFailed or ErrClosed.
func (l *Log) Wait(ctx context.Context, seq base.Seq) error {
	for {
		l.mu.Lock()
		if err := l.usable(); err != nil || l.end.Seq >= seq {
			l.mu.Unlock()
			return err
		}
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Close makes the log durable, marks it so, and closes its files. The writer
// and the flusher have stopped; readers get ErrClosed. A second Close does
// nothing.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		return nil
	}
	l.closing = true
	l.mu.Unlock()
	_, err := l.Sync()
	if err == nil {
		_, err = l.Sync() // nothing to do but the mark
	}
	l.mu.Lock()
	l.closed, l.start = true, l.segments[0].first()
	l.broadcast()
	l.mu.Unlock()
	close(l.quit)
	l.done.Wait()
	l.closeFiles()
	return err
}

// closeFiles closes every file that no reader uses; readers close theirs.
func (l *Log) closeFiles() {
	l.mu.Lock()
	l.drop(len(l.segments))
	doomed, sp := l.doomed, l.spare
	l.doomed, l.spare = nil, nil
	l.mu.Unlock()
	for _, s := range doomed {
		l.release(s)
	}
	if sp != nil {
		l.discard(sp)
	}
}

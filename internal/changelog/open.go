package changelog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
)

// Open opens the log in dir, making directory and log when there are none,
// and reads all of it.
//
// Batches at the end that were never known to be on disk and can't be read
// are cut; the rest is made durable, so that Flushed is the end. Bytes that
// were known to be on disk and can't be read are an error of kind KindCorrupt
// with a *Corruption in its chain: the log stays as it is, and the replica has
// to be made again from a peer, see Discard. KindWrongCluster: the log is
// another database's.
func Open(e *env.Env, dir string, o Options) (*Log, *Recovery, error) {
	if err := o.validate(); err != nil {
		return nil, nil, err
	}
	l := &Log{env: e, dir: dir, o: o, kick: make(chan struct{}, 1), quit: make(chan struct{}), syncing: make(chan struct{}, 1)}
	l.cache.limit = o.TailCacheBytes
	r, err := l.recover()
	if err != nil {
		l.closeFiles()
		return nil, nil, err
	}
	if !o.Foreground {
		l.done.Go(l.keepHouse)
	}
	return l, r, nil
}

// Discard removes a log that is damaged, durably; Open then makes a new one,
// and Reset places it.
func Discard(e *env.Env, dir string) error {
	if err := e.FS.RemoveAll(dir); err != nil {
		return fmt.Errorf("discard log: %w", err)
	}
	if err := e.FS.SyncDir(path.Dir(dir)); err != nil {
		return fmt.Errorf("discard log: %w", err)
	}
	return nil
}

// recover brings the log from disk into memory, and the disk into order.
func (l *Log) recover() (*Recovery, error) {
	numbers, err := l.list()
	if err != nil {
		return nil, err
	}
	if len(numbers) == 0 {
		return l.create()
	}
	void, live, err := l.load(numbers)
	if err != nil {
		return nil, err
	}
	// A process that was killed may have left names that are not yet durable.
	if err := l.env.FS.SyncDir(l.dir); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	for _, number := range void { // of before a Reset; void also if a crash brings them back
		if err := l.env.FS.Remove(l.path(segmentName(number))); err != nil {
			return nil, fmt.Errorf("open log: remove segment %d: %w", number, err)
		}
	}
	return l.settle(live)
}

// list returns the numbers of the segments, ascending, and removes spares.
func (l *Log) list() ([]uint64, error) {
	entries, err := l.env.FS.ReadDir(l.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, l.makeDir()
	}
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	var numbers []uint64
	for _, e := range entries {
		if n, ok := parseSegmentName(e.Name()); ok {
			numbers = append(numbers, n)
		}
		if strings.HasPrefix(e.Name(), "spare-") {
			if err := l.env.FS.Remove(l.path(e.Name())); err != nil {
				return nil, fmt.Errorf("open log: %w", err)
			}
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

func (l *Log) makeDir() error {
	if err := l.env.FS.MkdirAll(l.dir, 0o700); err != nil {
		err, _ = full("make log directory", err)
		return err
	}
	return nil
}

// create makes the first segment of a new log.
func (l *Log) create() (*Recovery, error) {
	if err := l.env.FS.SyncDir(path.Dir(l.dir)); err != nil {
		return nil, fmt.Errorf("make log directory: %w", err)
	}
	h := l.nextHeader(base.Position{}, nil)
	h.base = true
	sp, err := l.takeSpare(l.nextSize(0))
	if err != nil {
		return nil, l.fullOrFailed("make log", err)
	}
	s, err := l.install(sp, h, h.encode(0))
	if err != nil {
		return nil, err
	}
	l.segments = []*segment{s}
	return &Recovery{Created: true}, nil
}

// load reads the segments from the newest base on, and returns the numbers of
// those before it, which are void, and what the others hold.
func (l *Log) load(numbers []uint64) (void []uint64, live []*scanned, err error) {
	from := len(numbers) - 1
	for ; from > 0; from-- {
		h, err := l.readHeader(numbers[from])
		if err != nil {
			return nil, nil, err
		}
		if h.base {
			break
		}
	}
	var buf []byte
	for i := from; i < len(numbers); i++ {
		var s *scanned
		if s, buf, err = l.loadSegment(numbers[i], buf); err != nil {
			return nil, nil, err
		}
		if i > from {
			if err := l.joins(live[len(live)-1], numbers[i]); err != nil {
				return nil, nil, err
			}
		}
		live = append(live, s)
	}
	return numbers[:from], live, nil
}

// readHeader reads the header of a segment alone.
func (l *Log) readHeader(number uint64) (*header, error) {
	f, err := l.env.FS.OpenFile(l.path(segmentName(number)), os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open log segment %d: %w", number, err)
	}
	defer l.closeFile(f)
	size, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("open log segment %d: %w", number, err)
	}
	b := make([]byte, min(size, maxHeaderBytes))
	if err := readFull(f, b, 0); err != nil {
		return nil, fmt.Errorf("open log segment %d: %w", number, err)
	}
	return l.checkHeader(number, b)
}

// checkHeader decodes a header and says whether it is this log's.
func (l *Log) checkHeader(number uint64, b []byte) (*header, error) {
	h, err := decodeHeader(b)
	if base.KindOf(err) == base.KindUnsupported {
		return nil, err
	}
	if err == nil && h.number != number {
		err = fmt.Errorf("header says that this is segment %d", h.number)
	}
	if err != nil {
		return nil, corrupt("open log", &Corruption{Segment: number, Reason: err.Error()})
	}
	if h.cluster != l.o.ClusterID || h.database != l.o.DatabaseID {
		return nil, base.Errorf(base.KindWrongCluster,
			"log in %s is of cluster %016x, database %d; this is cluster %016x, database %d",
			l.dir, h.cluster, h.database, l.o.ClusterID, l.o.DatabaseID)
	}
	return h, nil
}

// loadSegment opens and scans a segment and appends it to l.segments.
func (l *Log) loadSegment(number uint64, buf []byte) (*scanned, []byte, error) {
	f, err := l.env.FS.OpenFile(l.path(segmentName(number)), os.O_RDWR, 0o600)
	if err != nil {
		return nil, buf, fmt.Errorf("open log segment %d: %w", number, err)
	}
	s := &segment{file: f}
	l.segments = append(l.segments, s)
	if s.size, err = f.Size(); err != nil {
		return nil, buf, fmt.Errorf("open log segment %d: %w", number, err)
	}
	if s.size > maxFileBytes {
		return nil, buf, corrupt("open log", &Corruption{Segment: number, Reason: fmt.Sprintf("file of %d bytes", s.size)})
	}
	buf = slices.Grow(buf[:0], int(s.size))[:s.size]
	if err := readFull(f, buf, 0); err != nil {
		return nil, buf, fmt.Errorf("open log segment %d: %w", number, err)
	}
	if s.header, err = l.checkHeader(number, buf); err != nil {
		return nil, buf, err
	}
	scan := scanSegment(s.header, buf)
	s.used, s.last, s.index = scan.offset, scan.position, scan.index
	return scan, buf, nil
}

// joins says whether the segment that was just loaded goes on where the one
// before it ends. That one was on disk before this one had its name, so
// nothing may be missing.
func (l *Log) joins(before *scanned, number uint64) error {
	n := len(l.segments)
	last, s := l.segments[n-2], l.segments[n-1]
	bad := &Corruption{Segment: last.header.number, Offset: before.offset, Good: before.position, Flushed: s.header.previous.Seq}
	switch {
	case last.header.number+1 != number:
		bad.Reason = fmt.Sprintf("segment %d is missing", last.header.number+1)
	case before.position != s.header.previous:
		bad.Reason = fmt.Sprintf("segment %d goes on after %v: %v", number, s.header.previous, before.bad)
	default:
		return nil
	}
	return corrupt("open log", bad)
}

// settle judges the end of the last segment and makes the log ready.
func (l *Log) settle(live []*scanned) (*Recovery, error) {
	s, scan := l.active(), live[len(live)-1]
	if scan.flushed > scan.position.Seq {
		return nil, corrupt("open log", &Corruption{
			Segment: s.header.number, Offset: scan.offset, Good: scan.position, Flushed: scan.flushed, Reason: scan.bad.Error(),
		})
	}
	l.starts = slices.Concat(s.header.starts, scan.starts)
	l.end, l.flushed, l.marked = scan.position, scan.flushed, scan.flushed
	r := &Recovery{End: l.end}
	if scan.late > 0 {
		r.TornBytes, r.TornSegment, r.TornOffset = scan.late-scan.offset, s.header.number, scan.offset
	}
	if scan.late == 0 && scan.flushed == scan.position.Seq {
		return r, nil
	}
	// What is not known to be on disk may be in the page cache only, and what
	// was torn must not be found again: the segment is written anew.
	r.Rewritten = true
	content, c, err := l.copySegment(s, l.end.Seq)
	if err != nil {
		return nil, err
	}
	return r, l.replace(s, nil, content, c)
}

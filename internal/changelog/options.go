package changelog

import (
	"errors"
	"fmt"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/entry"
)

// Defaults and bounds.
const (
	DefaultSegmentBytes   = 16 << 20
	DefaultTailCacheBytes = 4 << 20
	// MinSegmentBytes leaves room for the header and a few batches.
	MinSegmentBytes = 16 << 10
	// MaxSegmentBytes bounds SegmentBytes; a segment that one large batch
	// asked for may be larger.
	MaxSegmentBytes = 1 << 30
	// MaxBatchBytes bounds the frames of one Append.
	MaxBatchBytes = 2 * entry.MaxSize
	// MaxEpochStarts is how many epochs the log remembers; older ones are
	// forgotten.
	MaxEpochStarts = 16384
	// firstSegmentBytes is the size of a new log's first segment; each next
	// one is twice as large up to SegmentBytes, so that a small database has
	// a small log.
	firstSegmentBytes = 1 << 20
)

// Options of a log.
type Options struct {
	// DatabaseID and ClusterID are written into every segment; a directory
	// that holds others is refused.
	DatabaseID base.DatabaseID
	ClusterID  uint64
	// SegmentBytes is the size of a segment file. 0 means
	// DefaultSegmentBytes. A batch that does not fit gets a larger one.
	SegmentBytes int64
	// TailCacheBytes of recent batches are kept in memory for ReadFrom. 0
	// means DefaultTailCacheBytes, less than 0 none.
	TailCacheBytes int
	// Foreground makes and removes segments within the calls that need it and
	// starts no goroutine, for callers that need a fixed order of disk calls.
	Foreground bool
}

func (o *Options) validate() error {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = DefaultSegmentBytes
	}
	if o.TailCacheBytes == 0 {
		o.TailCacheBytes = DefaultTailCacheBytes
	}
	if o.SegmentBytes < MinSegmentBytes || o.SegmentBytes > MaxSegmentBytes {
		return base.Errorf(base.KindInvalid, "segment of %d bytes: want %d to %d", o.SegmentBytes, MinSegmentBytes, MaxSegmentBytes)
	}
	return nil
}

// What callers branch on.
var (
	// ErrCorrupt is in the chain of every *Corruption.
	ErrCorrupt = errors.New("log is corrupt")
	// ErrFailed says that a sync or another disk call failed before: the log
	// is of no more use, and only Open can tell what is on disk.
	ErrFailed = errors.New("log has failed")
	// ErrClosed says that the log was closed.
	ErrClosed = errors.New("log is closed")
	// ErrEnd says that a read begins behind the end of the log.
	ErrEnd = errors.New("end of log")
	// ErrTrimmed says that the log no longer reaches back that far.
	ErrTrimmed = errors.New("log is trimmed")
	// ErrNotEntry says that no entry begins (for a read) or ends (for a cut)
	// at that sequence number.
	ErrNotEntry = errors.New("not the edge of an entry")
	// ErrNotNext says that frames do not continue the log: a bug of the
	// caller's, or frames of another history.
	ErrNotNext = errors.New("frames do not continue the log")
)

// Corruption says where stored bytes that were known to be on disk can't be
// read any more.
type Corruption struct {
	Segment uint64
	Offset  int64
	// Good is how far the log can be read.
	Good base.Position
	// Flushed is up to where the log is known to have been on disk.
	Flushed base.Seq
	Reason  string
}

// Error says where and why.
func (c *Corruption) Error() string {
	return fmt.Sprintf("segment %d, offset %d, after %v: %s", c.Segment, c.Offset, c.Good, c.Reason)
}

// Is says that c is ErrCorrupt.
func (c *Corruption) Is(target error) bool { return target == ErrCorrupt }

// corrupt wraps c for the user's edge.
func corrupt(op string, c *Corruption) error {
	return &base.Error{
		Kind: base.KindCorrupt, Op: op, Message: c.Error(), Err: c,
		Hint: "this replica must be copied again from another one",
	}
}

// Recovery is what Open found.
type Recovery struct {
	End base.Position
	// Created says that the directory held no log.
	Created bool
	// TornBytes of batches that were never known to be on disk were cut, at
	// TornOffset of segment TornSegment. 0: none.
	TornBytes   int64
	TornSegment uint64
	TornOffset  int64
	// Rewritten says that the last segment was written anew, because it was
	// not known to be wholly on disk.
	Rewritten bool
}

// EpochStart is the first sequence number of an epoch.
type EpochStart struct {
	Epoch base.Epoch
	First base.Seq
}

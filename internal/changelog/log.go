package changelog

import (
	"context"
	"errors"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
)

var errNotYet = errors.New("not written yet")

// Log is the log of one replica.
type Log struct{}

// Open opens the log in dir, making it when there is none.
func Open(e *env.Env, dir string, o Options) (*Log, *Recovery, error) { return nil, nil, errNotYet }

// Append appends whole entry frames that cover first to last, the last of them of epoch.
func (l *Log) Append(frames []byte, first, last base.Seq, epoch base.Epoch) error { return errNotYet }

// Sync makes durable what was appended before the call.
func (l *Log) Sync() (base.Seq, error) { return 0, errNotYet }

// End returns the position of the last entry.
func (l *Log) End() base.Position { return base.Position{} }

// Flushed returns up to where the log is known to be on disk.
func (l *Log) Flushed() base.Seq { return 0 }

// Start returns the first sequence number that is retained.
func (l *Log) Start() base.Seq { return 0 }

// EpochStarts returns where each epoch starts, oldest first.
func (l *Log) EpochStarts() []EpochStart { return nil }

// EpochAt returns the epoch of seq, 0 when that is not known.
func (l *Log) EpochAt(seq base.Seq) base.Epoch { return 0 }

// ReadFrom returns whole entries from the one that starts at seq.
func (l *Log) ReadFrom(seq base.Seq, maxBytes int, buf []byte) (frames []byte, first, last base.Seq, err error) {
	return nil, 0, 0, errNotYet
}

// Wait returns when the log has reached seq.
func (l *Log) Wait(ctx context.Context, seq base.Seq) error { return errNotYet }

// TruncateAfter cuts everything after seq.
func (l *Log) TruncateAfter(seq base.Seq) error { return errNotYet }

// Trim drops whole segments that hold nothing from before on.
func (l *Log) Trim(before base.Seq) error { return errNotYet }

// Reset makes the log empty, to begin after pos.
func (l *Log) Reset(pos base.Position, starts []EpochStart) error { return errNotYet }

// Verify reads all of the log and checks it.
func (l *Log) Verify(ctx context.Context) error { return errNotYet }

// Bytes returns the size of the log.
func (l *Log) Bytes() int64 { return 0 }

// Close syncs and closes the log.
func (l *Log) Close() error { return errNotYet }

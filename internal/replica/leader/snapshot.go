package leader

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/leadership"
	"github.com/skeindb/skein/internal/pageformat"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/transport"
)

const (
	snapshotBlock = 1 << 20          // bytes under one checksum
	snapshotKeep  = 10 * time.Minute // an unused snapshot is kept for those who resume
	// snapshotServed is how long after its last use the log after a snapshot is
	// kept, within the cap, for who fetched it.
	snapshotServed = time.Minute
)

// manifest describes a snapshot to who fetches it.
type manifest struct {
	Version  int                     `json:"version"`
	Name     string                  `json:"name"`
	Size     int64                   `json:"size"`
	Position base.Position           `json:"position"`
	Starts   []leadership.EpochStart `json:"starts"`
	// Blocks holds the CRC-32C of each snapshotBlock bytes.
	Blocks []uint32 `json:"blocks"`
}

// snapshotMessage is one message of the snapshot stream: progress while the
// file is made, then the manifest.
type snapshotMessage struct {
	Done     int64     `json:"done,omitempty"`
	Total    int64     `json:"total,omitempty"`
	Manifest *manifest `json:"manifest,omitempty"`
}

// snapshots makes and keeps this replica's snapshot files.
type snapshots struct {
	mu struct {
		sync.Mutex // guards all below
		making     bool
		last       *manifest
		base       *pageformat.BaseID // of the file that it is of
		used       time.Time
	}
	turn chan struct{} // holds one token: one snapshot is made at a time
}

func (r *Replica) snapshotDir() string { return r.options.Dir + "/snapshots" }

// ServeSnapshot is the stream service that gives a peer a snapshot to fetch.
func (r *Replica) ServeSnapshot(ctx context.Context, s transport.Stream) error {
	m, err := r.snapshot(ctx, func(done, total int64) error {
		return sendJSON(s, snapshotMessage{Done: done, Total: total})
	})
	if err != nil {
		return err
	}
	if err := sendJSON(s, snapshotMessage{Manifest: m}); err != nil {
		return err
	}
	// The peer holds the stream open while it fetches.
	_, err = s.Recv()
	if err == io.EOF {
		return nil
	}
	return err
}

func sendJSON(s transport.Stream, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	return s.Send(b)
}

// snapshot returns a snapshot that the log still continues: the last one when
// it does, or a new one.
func (r *Replica) snapshot(ctx context.Context, progress func(done, total int64) error) (*manifest, error) {
	select {
	case r.shots.turn <- struct{}{}:
		defer func() { <-r.shots.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	r.shots.mu.Lock()
	last := r.shots.mu.last
	fresh := last != nil && r.shots.mu.base == r.base.Load() && r.continues(last.Position) && r.env.Clock.Now().Sub(r.shots.mu.used) < snapshotKeep
	if fresh {
		r.shots.mu.used = r.env.Clock.Now()
	}
	r.shots.mu.Unlock()
	if fresh {
		return last, nil
	}
	of := r.base.Load()
	m, err := r.makeSnapshot(ctx, progress)
	if err != nil {
		return nil, fmt.Errorf("make snapshot: %w", err)
	}
	r.shots.mu.Lock()
	r.shots.mu.last, r.shots.mu.base, r.shots.mu.used = m, of, r.env.Clock.Now()
	r.shots.mu.Unlock()
	return m, nil
}

// continues says that the log goes on from p: p lies in its history, and
// nothing after p was trimmed.
func (r *Replica) continues(p base.Position) bool {
	return p.Seq+1 >= r.changes.Start() && r.changes.EpochAt(p.Seq) == p.Epoch
}

// servedSnapshot is where the snapshot ends that somebody may be fetching: the
// log after it is kept for them.
func (r *Replica) servedSnapshot() (base.Seq, bool) {
	r.shots.mu.Lock()
	defer r.shots.mu.Unlock()
	if r.shots.mu.last == nil || r.env.Clock.Now().Sub(r.shots.mu.used) > snapshotServed {
		return 0, false
	}
	return r.shots.mu.last.Position.Seq, true
}

// expireSnapshot removes a snapshot that nobody has asked for in a while.
func (r *Replica) expireSnapshot() {
	select {
	case r.shots.turn <- struct{}{}:
		defer func() { <-r.shots.turn }()
	default:
		return // One is being made.
	}
	r.shots.mu.Lock()
	old := r.shots.mu.last != nil && r.env.Clock.Now().Sub(r.shots.mu.used) >= snapshotKeep
	if old {
		r.shots.mu.last = nil
	}
	r.shots.mu.Unlock()
	if !old {
		return
	}
	if err := r.env.FS.RemoveAll(r.snapshotDir()); err != nil {
		r.log.Warn("remove an old snapshot", "err", err)
	}
}

// makeSnapshot copies the database file as it is at one position.
func (r *Replica) makeSnapshot(ctx context.Context, progress func(done, total int64) error) (*manifest, error) {
	if err := r.dropSnapshots(); err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%016x.sqlite", r.env.Rand.Uint64())
	path := r.snapshotDir() + "/" + name
	at, err := r.copyTo(ctx, path, progress)
	if err != nil {
		return nil, err
	}
	m := &manifest{Version: 1, Name: name, Position: at, Starts: r.startsUpTo(at)}
	f, err := r.env.FS.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open snapshot: %w", err)
	}
	defer f.Close()
	if m.Size, err = f.Size(); err != nil {
		return nil, err
	}
	m.Blocks, err = blockSums(f, m.Size)
	return m, err
}

// copyTo writes a consistent copy of the database to path and returns its
// position.
func (r *Replica) copyTo(ctx context.Context, path string, progress func(done, total int64) error) (base.Position, error) {
	failed := error(nil)
	report := func(done, total int64) {
		if failed == nil && progress != nil {
			failed = progress(done, total)
		}
	}
	if r.base.Load() != nil {
		at, err := r.imageTo(ctx, path, report)
		return at, cmp.Or(err, failed)
	}
	return r.withSnapshot(ctx, func(ctx context.Context, shot *sqlite.Snapshot) error {
		err := shot.CopyTo(ctx, path, report)
		return cmp.Or(err, failed)
	})
}

// dropSnapshots removes what earlier snapshots have left.
func (r *Replica) dropSnapshots() error {
	if err := r.env.FS.RemoveAll(r.snapshotDir()); err != nil {
		return fmt.Errorf("remove old snapshots: %w", err)
	}
	return r.env.FS.MkdirAll(r.snapshotDir(), 0o755)
}

// startsUpTo is the history of epochs up to a position.
func (r *Replica) startsUpTo(at base.Position) []leadership.EpochStart {
	var starts []leadership.EpochStart
	for _, s := range r.changes.EpochStarts() {
		if s.First <= at.Seq {
			starts = append(starts, leadership.EpochStart{Epoch: s.Epoch, Seq: s.First})
		}
	}
	return starts
}

func blockSums(f io.ReaderAt, size int64) ([]uint32, error) {
	var sums []uint32
	block := make([]byte, snapshotBlock)
	for at := int64(0); at < size; at += snapshotBlock {
		b := block[:min(snapshotBlock, size-at)]
		if _, err := f.ReadAt(b, at); err != nil && err != io.EOF {
			return nil, fmt.Errorf("read snapshot: %w", err)
		}
		sums = append(sums, crc32.Checksum(b, castagnoli))
	}
	return sums, nil
}

// OpenSnapshot opens a snapshot file by the name in its manifest, to be served.
func (r *Replica) OpenSnapshot(name string) (env.File, int64, error) {
	if strings.ContainsAny(name, "/\\") || !strings.HasSuffix(name, ".sqlite") {
		return nil, 0, base.Errorf(base.KindNotFound, "no such snapshot")
	}
	f, err := r.env.FS.OpenFile(r.snapshotDir()+"/"+name, os.O_RDONLY, 0)
	if err != nil {
		return nil, 0, base.Errorf(base.KindNotFound, "snapshot %s is gone; ask for a new one", name)
	}
	size, err := f.Size()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	r.shots.mu.Lock()
	r.shots.mu.used = r.env.Clock.Now()
	r.shots.mu.Unlock()
	return f, size, nil
}

// WriteSnapshot writes a consistent copy to path, for a person to keep, and
// returns its position.
func (r *Replica) WriteSnapshot(ctx context.Context, path string) (base.Position, error) {
	return r.copyTo(ctx, path, nil)
}

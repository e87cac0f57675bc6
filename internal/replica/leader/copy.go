package leader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/transport"
)

const fetchAttempts = 20 // in a row that bring nothing; each goes on where the last broke off

// SnapshotService is the stream service of ServeSnapshot; its header is the
// database's id in decimal.
const SnapshotService = "snapshot"

// SnapshotFile is the prefix under which nodes serve snapshot files:
// prefix/DATABASE/NAME.
const SnapshotFile = "snapshot"

// copyFrom replaces this replica's file and log by a snapshot of the leader's.
// Entries of its own after part are kept as orphaned writes first.
func (r *Replica) copyFrom(ctx context.Context, leader base.NodeID, part base.Seq) error {
	r.setRole(replica.RoleCopying)
	if _, err := r.keepOrphans(ctx, part); err != nil {
		return err
	}
	if !r.mustCopy() {
		if err := r.willCopy("a snapshot is being copied"); err != nil {
			return err
		}
	}
	m, err := r.fetchSnapshot(ctx, leader)
	if err != nil {
		return err
	}
	return r.install(ctx, m)
}

// fetchSnapshot fetches a snapshot of the leader's file, beside this replica's.
func (r *Replica) fetchSnapshot(ctx context.Context, leader base.NodeID) (*manifest, error) {
	header := []byte(strconv.FormatUint(uint64(r.options.Database), 10))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := r.options.Transport.OpenStream(ctx, leader, SnapshotService, header)
	if err != nil {
		return nil, fmt.Errorf("ask for a snapshot: %w", fromPeer(err))
	}
	m, err := r.awaitManifest(s)
	if err != nil {
		return nil, fmt.Errorf("wait for a snapshot: %w", fromPeer(err))
	}
	if err := r.fetch(ctx, leader, m); err != nil {
		return nil, fmt.Errorf("fetch snapshot: %w", fromPeer(err))
	}
	if err := s.CloseSend(); err != nil {
		r.log.Debug("close snapshot stream", "err", err)
	}
	return m, nil
}

func (r *Replica) awaitManifest(s transport.Stream) (*manifest, error) {
	for {
		b, err := s.Recv()
		if err != nil {
			return nil, err
		}
		var msg snapshotMessage
		if err := json.Unmarshal(b, &msg); err != nil {
			return nil, fmt.Errorf("read manifest: %w", err)
		}
		if m := msg.Manifest; m != nil {
			if blocks := (m.Size + snapshotBlock - 1) / snapshotBlock; m.Version != 1 || m.Size <= 0 || int64(len(m.Blocks)) != blocks {
				return nil, base.Errorf(base.KindInvalid, "the manifest of the snapshot makes no sense")
			}
			return m, nil
		}
		r.setCopied(0, msg.Total)
	}
}

func (r *Replica) setCopied(done, total int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.copied, r.mu.copyTotal = done, total
}

func (r *Replica) partPath() string { return r.options.Dir + "/copy.part" }

// fetch brings the snapshot's blocks to disk, each checked by its checksum,
// and goes on at the last good one when a connection breaks.
func (r *Replica) fetch(ctx context.Context, leader base.NodeID, m *manifest) error {
	if free, err := r.env.FS.Free(r.options.Dir); err == nil && free < m.Size {
		return base.Errorf(base.KindDiskFull, "the snapshot has %d bytes, and %d are free", m.Size, free)
	}
	f, err := r.env.FS.OpenFile(r.partPath(), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("make copy: %w", err)
	}
	at := int64(0)
	for attempt := 1; at < m.Size; attempt++ {
		before := at
		at, err = r.fetchFrom(ctx, leader, m, f, at)
		if at > before {
			attempt = 1
		}
		if err != nil && (attempt == fetchAttempts || ctx.Err() != nil || base.KindOf(err) == base.KindNotFound) {
			return errors.Join(err, f.Close())
		}
		if err != nil {
			r.log.Warn("fetching the snapshot was interrupted; going on", "bytes", at, "of", m.Size, "err", err)
			if err := r.env.Clock.Sleep(ctx, min(time.Second, time.Duration(attempt)*50*time.Millisecond)); err != nil {
				return errors.Join(err, f.Close())
			}
		}
	}
	return errors.Join(f.Sync(), f.Close())
}

func (r *Replica) fetchFrom(ctx context.Context, leader base.NodeID, m *manifest, f env.File, at int64) (int64, error) {
	name := fmt.Sprintf("%s/%d/%s", SnapshotFile, r.options.Database, m.Name)
	body, size, err := r.options.Transport.FetchFile(ctx, leader, name, at)
	if err != nil {
		return at, err
	}
	defer body.Close()
	if size != m.Size {
		return at, base.Errorf(base.KindNotFound, "the snapshot changed its size from %d to %d", m.Size, size)
	}
	block := make([]byte, snapshotBlock)
	for at < m.Size {
		b := block[:min(snapshotBlock, m.Size-at)]
		if _, err := io.ReadFull(body, b); err != nil {
			return at, fmt.Errorf("read at %d: %w", at, err)
		}
		if crc32.Checksum(b, castagnoli) != m.Blocks[at/snapshotBlock] {
			return at, base.Errorf(base.KindCorrupt, "the block at %d fails its checksum", at)
		}
		if _, err := f.WriteAt(b, at); err != nil {
			return at, fmt.Errorf("write at %d: %w", at, err)
		}
		at += int64(len(b))
		r.setCopied(at, m.Size)
	}
	return at, nil
}

// install puts the fetched file in place of the old one. The mark that this
// replica must copy is taken away last.
func (r *Replica) install(ctx context.Context, m *manifest) error {
	if err := r.replaceFile(r.partPath()); err != nil {
		return err
	}
	if err := r.env.FS.RemoveAll(r.imagePath()); err != nil {
		return fmt.Errorf("remove the pages as they were in the old file: %w", err)
	}
	starts := make([]changelog.EpochStart, len(m.Starts))
	for i, s := range m.Starts {
		starts[i] = changelog.EpochStart{Epoch: s.Epoch, First: s.Seq}
	}
	if err := r.changes.Reset(m.Position, starts); err != nil {
		return fmt.Errorf("begin the log after the snapshot: %w", err)
	}
	r.safe.cut(0, historyGone())
	r.recent.reset(m.Position.Seq)
	if err := r.changeMeta(func(m *meta) { m.Copying, m.Reason = false, "" }); err != nil {
		return err
	}
	if err := r.openFile(ctx); err != nil {
		return err
	}
	if r.mustCopy() {
		return base.Errorf(base.KindCorrupt, "the copied file does not fit its manifest")
	}
	r.log.Info("copied a snapshot", "bytes", m.Size, "position", m.Position)
	return nil
}

// replaceFile closes the database and moves another file into its place.
func (r *Replica) replaceFile(from string) error {
	if err := r.handle.close(r.env.Clock); err != nil {
		return err
	}
	for _, suffix := range []string{"-wal", "-shm", "-journal"} {
		if err := r.env.FS.Remove(r.path() + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove %s: %w", suffix, err)
		}
	}
	if err := r.env.FS.Rename(from, r.path()); err != nil {
		return fmt.Errorf("move the file into place: %w", err)
	}
	r.mu.Lock()
	r.mu.damage = nil // It was another file's.
	r.mu.Unlock()
	return r.env.FS.SyncDir(r.options.Dir)
}

package leader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
)

// acknowledged notes up to where writes were acknowledged that fewer than a
// majority of the replicas had, so that a failover may undo them: those who undo
// them can then tell which they were. It is written before the answers go out
// and not flushed: it survives the process, and after a power cut it may be old.
// It therefore says under which boot of the machine it was written.
type acknowledged struct {
	mu   sync.Mutex // guards all below; held over the write, which nobody else waits for
	file io.WriterAt
	at   base.Position
}

const (
	acknowledgedFile    = "acknowledged"
	acknowledgedSize    = 29
	acknowledgedVersion = 2
	earlierSize         = 21 // of version 1, which says nothing of the boot
)

// noted is what the file says.
type noted struct {
	at   base.Position
	boot uint64 // a hash of the boot's name; 0 in version 1
}

func bootOf(e *env.Env) uint64 {
	h := fnv.New64a()
	h.Write([]byte(e.Boot))
	return h.Sum64()
}

func encodeAcknowledged(n noted) []byte {
	b := make([]byte, 0, acknowledgedSize)
	b = append(b, acknowledgedVersion)
	b = binary.LittleEndian.AppendUint64(b, uint64(n.at.Epoch))
	b = binary.LittleEndian.AppendUint64(b, uint64(n.at.Seq))
	b = binary.LittleEndian.AppendUint64(b, n.boot)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

func decodeAcknowledged(b []byte) (n noted, err error) {
	whole := len(b) == acknowledgedSize && b[0] == acknowledgedVersion || len(b) == earlierSize && b[0] == 1
	if !whole || crc32.Checksum(b[:len(b)-4], crc32.MakeTable(crc32.Castagnoli)) != binary.LittleEndian.Uint32(b[len(b)-4:]) {
		return n, base.Errorf(base.KindCorrupt, "the file %s is damaged or of another version", acknowledgedFile)
	}
	n.at = base.Position{Epoch: base.Epoch(binary.LittleEndian.Uint64(b[1:])), Seq: base.Seq(binary.LittleEndian.Uint64(b[9:]))}
	if len(b) == acknowledgedSize {
		n.boot = binary.LittleEndian.Uint64(b[17:])
	}
	return n, nil
}

// note remembers that what ends at p is about to be acknowledged.
func (a *acknowledged) note(r *Replica, p base.Position) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.at.Less(p) {
		return nil
	}
	if a.file == nil {
		f, err := r.env.FS.OpenFile(r.options.Dir+"/"+acknowledgedFile, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return fmt.Errorf("open the note of what was acknowledged: %w", err)
		}
		a.file = f
	}
	if _, err := a.file.WriteAt(encodeAcknowledged(noted{p, bootOf(r.env)}), 0); err != nil {
		return fmt.Errorf("note what was acknowledged: %w", err)
	}
	a.at = p
	return nil
}

func (a *acknowledged) close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c, ok := a.file.(io.Closer); ok {
		a.file = nil
		return c.Close()
	}
	return nil
}

// verdict says of entries that are undone whether they were acknowledged.
type verdict struct {
	noted   base.Position
	any     bool
	whole   bool // the machine has not been started anew since it was noted
	loss    bool // the elections since may have lost acknowledged writes
	current base.Epoch
}

// verdicts reads what an earlier life, or this one, has noted.
func (r *Replica) verdicts() verdict {
	a := r.assignment()
	v := verdict{loss: a.Lossy, current: a.Epoch}
	b, err := r.env.FS.ReadFile(r.options.Dir + "/" + acknowledgedFile)
	if err == nil {
		var n noted
		n, err = decodeAcknowledged(b)
		v.noted, v.any, v.whole = n.at, err == nil, n.boot == bootOf(r.env)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.log.Warn("it is not known which of the undone writes were acknowledged", "err", err)
	}
	return v
}

// of an entry: 1 acknowledged, 0 not, NULL unknown.
func (v verdict) of(p base.Position) base.Value {
	switch {
	case v.any && v.noted.Epoch == p.Epoch && p.Seq <= v.noted.Seq:
		return base.IntValue(1)
	case v.any && v.whole && v.noted.Epoch == p.Epoch, !v.loss && v.current == p.Epoch+1:
		return base.IntValue(0)
	}
	return base.Value{}
}

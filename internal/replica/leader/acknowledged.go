package leader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/skeindb/skein/internal/base"
)

// acknowledged notes up to where writes were acknowledged that fewer than a
// majority of the replicas had, so that a failover may undo them: those who undo
// them can then tell which they were. It is written before the answers go out
// and not flushed: it survives the process, and after a power cut it may be old.
type acknowledged struct {
	mu   sync.Mutex // guards all below; held over the write, which nobody else waits for
	file io.WriterAt
	at   base.Position
}

const (
	acknowledgedFile    = "acknowledged"
	acknowledgedSize    = 21
	acknowledgedVersion = 1
)

func encodeAcknowledged(p base.Position) []byte {
	b := make([]byte, 0, acknowledgedSize)
	b = append(b, acknowledgedVersion)
	b = binary.LittleEndian.AppendUint64(b, uint64(p.Epoch))
	b = binary.LittleEndian.AppendUint64(b, uint64(p.Seq))
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

func decodeAcknowledged(b []byte) (base.Position, error) {
	if len(b) != acknowledgedSize || b[0] != acknowledgedVersion ||
		crc32.Checksum(b[:acknowledgedSize-4], crc32.MakeTable(crc32.Castagnoli)) != binary.LittleEndian.Uint32(b[acknowledgedSize-4:]) {
		return base.Position{}, base.Errorf(base.KindCorrupt, "the file %s is damaged or of another version", acknowledgedFile)
	}
	return base.Position{Epoch: base.Epoch(binary.LittleEndian.Uint64(b[1:])), Seq: base.Seq(binary.LittleEndian.Uint64(b[9:]))}, nil
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
	if _, err := a.file.WriteAt(encodeAcknowledged(p), 0); err != nil {
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
	loss    bool // the elections since may have lost acknowledged writes
	current base.Epoch
}

// verdicts reads what an earlier life, or this one, has noted.
func (r *Replica) verdicts() verdict {
	a := r.assignment()
	v := verdict{loss: a.Lossy, current: a.Epoch}
	b, err := r.env.FS.ReadFile(r.options.Dir + "/" + acknowledgedFile)
	if err == nil {
		v.noted, err = decodeAcknowledged(b)
		v.any = err == nil
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
	case v.any && v.noted.Epoch == p.Epoch, !v.loss && v.current == p.Epoch+1:
		return base.IntValue(0)
	}
	return base.Value{}
}

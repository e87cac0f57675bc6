package leader

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
)

const metaName = "replica.json"

// meta is what a replica remembers beside its log: a small file, written whole
// and synced before anything depends on it.
type meta struct {
	Version  int             `json:"version"`
	Cluster  uint64          `json:"cluster"`
	Database base.DatabaseID `json:"database"`
	Name     string          `json:"name"`
	// Promised and Led are the replica's vow: it refuses every epoch below the
	// first and never again leads the second.
	Promised base.Epoch `json:"promised"`
	Led      base.Epoch `json:"led"`
	// Copying says that the SQLite file or the log can't be used and must be
	// replaced by a copy of a peer's; Reason says why.
	Copying bool   `json:"copying"`
	Reason  string `json:"reason,omitempty"`
	// Unproven says that this replica may lack what it has acknowledged: it is
	// being copied, or was and has not come as far as its leader's log since.
	// It is no evidence in an election.
	Unproven bool `json:"unproven,omitempty"`
}

// noEvidence says that the replica has no say in an election.
func (m *meta) noEvidence() bool { return m.Copying || m.Unproven }

type metaFile struct {
	Meta json.RawMessage `json:"meta"`
	CRC  uint32          `json:"crc32c"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func readMeta(f env.FS, dir string) (m meta, found bool, err error) {
	b, err := f.ReadFile(dir + "/" + metaName)
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if err != nil {
		return m, false, fmt.Errorf("read %s: %w", metaName, err)
	}
	var mf metaFile
	if err := json.Unmarshal(b, &mf); err != nil {
		return m, false, base.Errorf(base.KindCorrupt, "%s/%s is not readable: %v", dir, metaName, err)
	}
	if crc32.Checksum(mf.Meta, castagnoli) != mf.CRC {
		return m, false, base.Errorf(base.KindCorrupt, "%s/%s fails its checksum", dir, metaName)
	}
	if err := json.Unmarshal(mf.Meta, &m); err != nil {
		return m, false, base.Errorf(base.KindCorrupt, "%s/%s is not readable: %v", dir, metaName, err)
	}
	if m.Version != 1 {
		return m, false, base.Errorf(base.KindUnsupported, "%s/%s has version %d; this program reads version 1", dir, metaName, m.Version)
	}
	return m, true, nil
}

func writeMeta(f env.FS, dir string, m meta) error {
	m.Version = 1
	inner, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode %s: %w", metaName, err)
	}
	b, err := json.Marshal(metaFile{Meta: inner, CRC: crc32.Checksum(inner, castagnoli)})
	if err != nil {
		return fmt.Errorf("encode %s: %w", metaName, err)
	}
	if err := env.WriteFile(f, dir, metaName, b); err != nil {
		return fmt.Errorf("write %s: %w", metaName, err)
	}
	return nil
}

package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/sqlite"
)

// IdentityFile is the name of the file that says whose folder this is.
const IdentityFile = "node.json"

// Identity is who a data folder belongs to.
type Identity struct {
	Node base.NodeID
	// Cluster is 0 until the node has founded or joined one.
	Cluster uint64
}

type identityJSON struct {
	Version int    `json:"version"`
	Node    string `json:"node"`
	Cluster string `json:"cluster"`
	CRC     uint32 `json:"crc32c"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (j identityJSON) sum() uint32 {
	return crc32.Checksum(fmt.Appendf(nil, "%d %s %s", j.Version, j.Node, j.Cluster), castagnoli)
}

// ReadIdentity reads a folder's identity; found is false for a new folder.
func ReadIdentity(f env.FS, dir string) (id Identity, found bool, err error) {
	b, err := f.ReadFile(dir + "/" + IdentityFile)
	if errors.Is(err, fs.ErrNotExist) {
		return id, false, nil
	}
	if err != nil {
		return id, false, fmt.Errorf("read %s: %w", IdentityFile, err)
	}
	var j identityJSON
	if err := json.Unmarshal(b, &j); err != nil || j.CRC != j.sum() {
		return id, false, base.Errorf(base.KindCorrupt, "%s/%s is damaged", dir, IdentityFile).WithHint(emptyFolder)
	}
	if j.Version != 1 {
		return id, false, base.Errorf(base.KindUnsupported, "%s/%s has version %d; this program reads version 1", dir, IdentityFile, j.Version)
	}
	if id.Node, err = base.ParseNodeID(j.Node); err != nil {
		return id, false, err
	}
	if _, err := fmt.Sscanf(j.Cluster, "%x", &id.Cluster); err != nil {
		return id, false, base.Errorf(base.KindCorrupt, "%s/%s: bad cluster id %q", dir, IdentityFile, j.Cluster)
	}
	return id, true, nil
}

// WriteIdentity writes a folder's identity.
func WriteIdentity(f env.FS, dir string, id Identity) error {
	j := identityJSON{Version: 1, Node: id.Node.String(), Cluster: fmt.Sprintf("%016x", id.Cluster)}
	j.CRC = j.sum()
	b, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", IdentityFile, err)
	}
	return env.WriteFile(f, dir, IdentityFile, append(b, '\n'))
}

// settle finds out who this node is: what its folder says, or, for a new one,
// what the options say.
func settle(e *env.Env, o Options) (Identity, error) {
	if err := env.MakeDir(e.FS, o.Dir, 0o755); err != nil {
		return Identity{}, fmt.Errorf("make data folder: %w", err)
	}
	id, found, err := ReadIdentity(e.FS, o.Dir)
	if err != nil {
		return id, err
	}
	if found && o.ID != 0 && id.Node != o.ID {
		return id, base.Errorf(base.KindWrongCluster, "the folder %s belongs to node %v, and this is node %v", o.Dir, id.Node, o.ID).
			WithHint("each node needs a folder of its own")
	}
	if found && o.TLS != nil && id.Cluster != 0 && id.Cluster != o.TLS.ClusterID() {
		return id, base.Errorf(base.KindWrongCluster, "the folder %s belongs to cluster %016x, and the certificate to cluster %016x", o.Dir, id.Cluster, o.TLS.ClusterID()).
			WithHint("use the certificates of the folder's cluster, or an empty folder")
	}
	if found {
		return id, nil
	}
	if _, err := e.FS.Stat(o.Dir + "/control.db"); err == nil {
		return id, base.Errorf(base.KindCorrupt, "the folder %s has a control.db, and its %s is gone", o.Dir, IdentityFile).WithHint(emptyFolder)
	}
	if id.Node = o.ID; id.Node == 0 {
		id.Node = base.NewNodeID(e.Rand)
	}
	return id, WriteIdentity(e.FS, o.Dir, id)
}

// SQLiteVersion is the version of the engine in this binary.
func SQLiteVersion() string { return sqlite.Version() }

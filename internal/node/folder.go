package node

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/env"
)

// lockFile is in the data folder.
const lockFile = "lock"

// removedSuffix marks a folder that is being removed. No database's folder ends
// so, as names have no dots.
const removedSuffix = ".removed"

// emptyFolder is the hint for a folder that can't be used.
const emptyFolder = "take the folder away and let the node join again with an empty one"

// withHint says what to do about a folder that can't be used.
func withHint(err error) error {
	e := base.AsError(err)
	if e.Hint != "" || e.Kind != base.KindCorrupt && e.Kind != base.KindWrongCluster {
		return err
	}
	return base.Errorf(e.Kind, "%w", err).WithHint(emptyFolder)
}

type unlocked struct{}

// Close implements io.Closer.
func (unlocked) Close() error { return nil }

// LockFolder takes a data folder for this process; two nodes writing to the
// same files would destroy them. Open does so by itself.
func LockFolder(f env.FS, dir string) (io.Closer, error) {
	if err := env.MakeDir(f, dir, 0o755); err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	locker, ok := f.(env.Locker)
	if !ok {
		return unlocked{}, nil
	}
	lock, err := locker.Lock(dir + "/" + lockFile)
	if held, ok := errors.AsType[*env.LockedError](err); ok {
		holder := ""
		if held.Process != "" {
			holder = " (pid " + held.Process + ")"
		}
		return nil, base.Errorf(base.KindInvalid, "another process%s serves the data folder %s", holder, dir).
			WithHint("Stop it first, or give this node a folder of its own.")
	}
	if err != nil {
		return nil, fmt.Errorf("lock data folder: %w", err)
	}
	return lock, nil
}

// checkCluster refuses a folder whose parts are of different clusters, before
// anything of it is used.
func (n *Node) checkCluster() error {
	noted, known := n.identity.Cluster, n.control.State().ClusterID()
	if n.options.TLS != nil && noted == 0 {
		noted = n.options.TLS.ClusterID()
		if known == 0 {
			return nil // A new node.
		}
	}
	switch {
	case noted == 0 || noted == known:
		return nil
	case known == 0:
		return base.Errorf(base.KindCorrupt, "the folder %s belongs to cluster %016x, and its control.db is gone", n.options.Dir, noted).WithHint(emptyFolder)
	}
	return base.Errorf(base.KindWrongCluster, "the folder %s belongs to cluster %016x, and its control.db to cluster %016x", n.options.Dir, noted, known).WithHint(emptyFolder)
}

func (n *Node) databaseDir() string { return n.options.Dir + "/db" }

// sweep removes what an earlier life left behind: files that were uploaded, and
// replicas that were being removed.
func (n *Node) sweep() error {
	if err := n.env.FS.RemoveAll(n.importDir()); err != nil {
		return fmt.Errorf("remove old uploads: %w", err)
	}
	entries, err := n.env.FS.ReadDir(n.databaseDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list replicas: %w", err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), removedSuffix) {
			if err := n.env.FS.RemoveAll(n.databaseDir() + "/" + e.Name()); err != nil {
				return fmt.Errorf("remove old replica: %w", err)
			}
		}
	}
	return nil
}

// sweepReplicas removes the folders of databases that have left this node while
// it was down. The state must be confirmed.
func (n *Node) sweepReplicas(s *catalog.State) {
	entries, err := n.env.FS.ReadDir(n.databaseDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.log.Warn("list the replicas on disk", "err", err)
	}
	for _, e := range entries {
		_, number, _ := strings.Cut(e.Name(), ".")
		id, err := strconv.ParseUint(number, 10, 64)
		if err == nil && n.hasLeft(s, base.DatabaseID(id)) && n.keeperOf(base.DatabaseID(id)) == nil {
			n.removeReplica(base.DatabaseID(id), n.databaseDir()+"/"+e.Name())
		}
	}
}

// hasLeft says that the state knows of a database that it has no place here.
// One that it has never heard of has not left.
func (n *Node) hasLeft(s *catalog.State, id base.DatabaseID) bool {
	if db, ok := s.Database(id); ok {
		return !n.belongs(db)
	}
	return id < s.NextDatabase()
}

// removeReplica removes a replica's folder. It is renamed first, so that one
// that is half removed is never taken for a replica.
func (n *Node) removeReplica(id base.DatabaseID, dir string) {
	n.log.Info("removing the replica of a database that has left this node", "dir", dir)
	gone := dir + removedSuffix
	err := errors.Join(n.possessions.drop(id), n.env.FS.RemoveAll(gone))
	if err == nil {
		err = n.env.FS.Rename(dir, gone)
	}
	if err == nil {
		err = errors.Join(n.env.FS.SyncDir(n.databaseDir()), n.env.FS.RemoveAll(gone))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.log.Warn("remove a replica's folder", "dir", dir, "err", err)
	}
}

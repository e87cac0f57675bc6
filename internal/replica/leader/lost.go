package leader

import (
	"context"
	"fmt"

	"github.com/skeindb/skein/internal/base"
)

// Memory is what is known of a replica outside its folder, so that one whose
// folder was taken away, or whose replica.json is damaged, is not taken for one
// that has never promised or acknowledged anything.
type Memory interface {
	// Had says that this node has had the replica before.
	Had() bool
	// Keep makes that durable. It comes before the replica's first promise.
	Keep() error
	// Recorded is the database's epoch in the control plane, as new as the call;
	// 0: it has never had a leader.
	Recorded(ctx context.Context) (base.Epoch, error)
}

// recoverMeta reads what the replica remembers. What can't be read is set aside.
func (r *Replica) recoverMeta(ctx context.Context) error {
	m, found, err := readMeta(r.env.FS, r.options.Dir)
	known := r.options.Memory
	lost := ""
	switch {
	case known != nil && base.KindOf(err) == base.KindCorrupt:
		lost = err.Error()
	case err != nil:
		return err
	case !found && known != nil && known.Had():
		lost = fmt.Sprintf("%s/%s is gone", r.options.Dir, metaName)
	}
	if found && lost == "" && (m.Cluster != r.options.Cluster || m.Database != r.options.Database) {
		return base.Errorf(base.KindWrongCluster, "folder %s belongs to database %d of cluster %016x, not to database %d of cluster %016x",
			r.options.Dir, m.Database, m.Cluster, r.options.Database, r.options.Cluster)
	}
	if lost != "" {
		m, err = r.withoutMemory(ctx, lost)
	} else if !found {
		m = r.newMeta()
		err = writeMeta(r.env.FS, r.options.Dir, m)
	}
	if err == nil && known != nil {
		err = known.Keep()
	}
	r.mu.meta = m
	return err
}

func (r *Replica) newMeta() meta {
	return meta{Cluster: r.options.Cluster, Database: r.options.Database, Name: r.options.Name}
}

// withoutMemory begins again for a replica that has lost what it had promised.
// Nobody asks for a promise beyond the epoch after the recorded one, and nobody
// leads more than that one, so it takes the highest that it can have given for
// given. It follows nobody before there is a later epoch, is copied then, and is
// no evidence in an election until it has caught up.
func (r *Replica) withoutMemory(ctx context.Context, lost string) (m meta, err error) {
	epoch, err := r.options.Memory.Recorded(ctx)
	if err != nil {
		return m, fmt.Errorf("the replica has lost what it had promised (%s), and must know the database's epoch: %w", lost, err)
	}
	// First of all it is remembered that there was something: a crash between the
	// two steps that follow leaves a folder that looks new.
	if err := r.options.Memory.Keep(); err != nil {
		return m, err
	}
	if _, err := r.env.FS.Stat(r.options.Dir + "/" + metaName); err == nil {
		if err := r.setAside(r.options.Dir + "/" + metaName); err != nil {
			return m, err
		}
	}
	m = r.newMeta()
	if epoch > 0 {
		r.log.Error("this replica has lost what it had promised; it will be copied from another", "why", lost, "epoch", epoch)
		m.Promised, m.Led = epoch+1, epoch
		m.Copying, m.Unproven, m.Reason = true, true, lost
	}
	return m, writeMeta(r.env.FS, r.options.Dir, m)
}

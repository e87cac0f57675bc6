package leader

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/leadership"
	"github.com/skeindb/skein/internal/planted"
	"github.com/skeindb/skein/internal/sqlite"
)

// createPositionSQL makes one of our tables in the user's file. The position moves
// in the same transaction as the rows it counts.
const createPositionSQL = `CREATE TABLE IF NOT EXISTS _skein_position (
	id INTEGER PRIMARY KEY CHECK (id = 1), epoch INTEGER NOT NULL, seq INTEGER NOT NULL, past BLOB);
INSERT OR IGNORE INTO _skein_position VALUES (1, 0, 0, NULL)`

// checkedBytes is up to which size a database file is read whole when it is
// opened; damage in larger ones shows when the page is read.
const checkedBytes = 64 << 20

// path is the user's database file.
func (r *Replica) path() string { return r.options.Dir + "/" + r.options.Name + ".sqlite" }

func (r *Replica) logDir() string { return r.options.Dir + "/log" }

// recover opens meta file, log and SQLite file and compares them.
func (r *Replica) recover(ctx context.Context) error {
	if err := env.MakeDir(r.env.FS, r.options.Dir, 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	if err := r.recoverMeta(ctx); err != nil {
		return err
	}
	if err := r.openLog(); err != nil {
		return err
	}
	vow := leadership.Vow{Promised: r.mu.meta.Promised, Led: r.mu.meta.Led}
	r.mu.follower = leadership.NewFollower(vow, r.options.Lease, r.now())
	r.recallOperations()
	if err := r.removeLeftovers(); err != nil {
		return err
	}
	r.recountOrphans(ctx)
	if r.mu.meta.Copying {
		return nil
	}
	return r.openFile(ctx)
}

// removeLeftovers removes what an earlier life has copied or was copying.
func (r *Replica) removeLeftovers() error {
	for _, name := range []string{r.snapshotDir(), r.partPath(), r.feedDir()} {
		if err := r.env.FS.RemoveAll(name); err != nil {
			return fmt.Errorf("remove what a copy has left: %w", err)
		}
	}
	return nil
}

// openLog opens the log. One that is corrupt is set aside, never served: its
// replica is copied from a peer.
func (r *Replica) openLog() error {
	o := changelog.Options{DatabaseID: r.options.Database, ClusterID: r.options.Cluster, SegmentBytes: r.options.SegmentBytes}
	log, found, err := changelog.Open(r.env, r.logDir(), o)
	if errors.Is(err, changelog.ErrCorrupt) {
		r.log.Error("the log is corrupt; it is set aside and this replica will be copied from another", "err", err)
		// The mark comes first: without its log, and unmarked, this replica
		// would look like one that has never acknowledged anything.
		if err := errors.Join(r.markCopying(err.Error()), r.setAside(r.logDir())); err != nil {
			return err
		}
		log, found, err = changelog.Open(r.env, r.logDir(), o)
	}
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	if found.TornBytes > 0 {
		r.log.Warn("cut the log's torn tail, which was never acknowledged", "bytes", found.TornBytes, "end", found.End)
	}
	r.changes = log
	return nil
}

// setAside renames a file or folder that can't be used, for a person to see.
func (r *Replica) setAside(name string) error {
	for n := 1; n < 1000; n++ {
		to := fmt.Sprintf("%s.corrupt-%d", name, n)
		if _, err := r.env.FS.Stat(to); err == nil {
			continue
		}
		if err := r.env.FS.Rename(name, to); err != nil {
			return fmt.Errorf("set %s aside: %w", name, err)
		}
		return r.env.FS.SyncDir(r.options.Dir)
	}
	return fmt.Errorf("set %s aside: too many of them already", name)
}

// openFile opens the SQLite file and finds out whether log and file agree.
func (r *Replica) openFile(ctx context.Context) error {
	if err := r.renewWAL(); err != nil {
		return err
	}
	checkpointed := r.checkpointed(ctx)
	var opened atomic.Bool
	damaged := func(err error) {
		if opened.Load() { // Before, it is judged here.
			r.damaged(err)
		}
	}
	db, err := sqlite.OpenDatabase(ctx, r.path(), sqlite.Options{VFS: r.env.VFS, Damaged: damaged})
	if base.KindOf(err) == base.KindCorrupt {
		r.log.Error("the database file is corrupt; this replica will be copied from another", "err", err)
		return r.markCopying(err.Error())
	}
	if err != nil {
		return err
	}
	at, err := prepareFile(ctx, db)
	if err == nil && at.Seq < checkpointed.Seq {
		err = base.Errorf(base.KindCorrupt, "the -wal ends at %v, before what a checkpoint has copied from it, %v: it is damaged", at, checkpointed)
	}
	if err == nil && r.fileBytes() <= checkedBytes {
		err = db.QuickCheck(ctx)
	}
	if base.KindOf(err) == base.KindCorrupt {
		r.log.Error("the database file is damaged; this replica will be copied from another", "err", err)
		return errors.Join(r.markCopying(err.Error()), db.Close())
	}
	if err != nil {
		return errors.Join(err, db.Close())
	}
	if err := r.recallPast(ctx, db); err != nil {
		return errors.Join(err, db.Close())
	}
	if err := r.findBase(ctx, db); err != nil {
		return errors.Join(err, db.Close())
	}
	opened.Store(true)
	r.handle.set(db)
	r.setExecuted(at.Seq, nil)
	return r.compare(at)
}

// renewWAL writes an earlier process's -wal anew where it stands, and syncs it.
// A sync of it may have failed there: then it is whole in the system's memory
// and not on disk, no later sync would notice, and a checkpoint that is cut off
// by a power cut would leave pages without what they belong with.
func (r *Replica) renewWAL() error {
	f, err := r.env.FS.OpenFile(r.path()+"-wal", os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open SQLite's WAL: %w", err)
	}
	if err := errors.Join(rewrite(f), f.Close()); err != nil {
		return fmt.Errorf("write SQLite's WAL anew: %w", err)
	}
	return nil
}

// rewrite writes a file's bytes where they are.
func rewrite(f env.File) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	buf := make([]byte, min(size, 1<<20))
	for at := int64(0); at < size; at += int64(len(buf)) {
		b := buf[:min(int64(len(buf)), size-at)]
		if _, err := f.ReadAt(b, at); err != nil {
			return err
		}
		if _, err := f.WriteAt(b, at); err != nil {
			return err
		}
	}
	return f.Sync()
}

// checkpointed is the position in the database file without its -wal; zero when
// that can't be read, as after a checkpoint that was cut off. With the -wal it
// is never lower, unless the -wal is damaged before where a checkpoint has come:
// SQLite takes what follows the damage for torn, and would mix old pages from
// the -wal with new ones of the file. (A tail that was just undone lowers it,
// too: a crash right then costs a copy.)
func (r *Replica) checkpointed(ctx context.Context) base.Position {
	if _, err := r.env.FS.Stat(r.path()); err != nil {
		return base.Position{}
	}
	conn, err := sqlite.OpenConn(ctx, r.path(), sqlite.ConnOptions{VFS: r.env.VFS, Role: sqlite.RoleTool, WithoutWAL: true})
	if err != nil {
		return base.Position{}
	}
	defer conn.Close()
	at, err := readPosition(conn)
	if err != nil {
		return base.Position{}
	}
	return at
}

// prepareFile makes our table where it is missing and returns the position.
func prepareFile(ctx context.Context, db *sqlite.Database) (base.Position, error) {
	conn, err := db.OpenWriter(ctx, sqlite.RoleWriter)
	if err != nil {
		return base.Position{}, fmt.Errorf("open database file: %w", err)
	}
	defer conn.Close()
	if err := makeTables(conn); err != nil {
		return base.Position{}, fmt.Errorf("make position table: %w", err)
	}
	at, err := readPosition(conn)
	if err == nil {
		err = makeRowsTable(conn)
	}
	if err != nil {
		return at, err
	}
	return at, beginSchemaHistory(conn, at.Seq)
}

// makeTables makes the tables of ours that are missing, all or none: a process
// that is killed in between must not leave a file that looks complete.
func makeTables(conn *sqlite.Conn) error {
	n, err := ownInteger(conn, "SELECT count(*) FROM sqlite_schema WHERE name IN ('_skein_position', '_skein_operation')")
	if err != nil {
		return err
	}
	if n == 2 {
		return extend(conn, "_skein_position", "past BLOB")
	}
	if err := conn.BeginImmediate(); err != nil {
		return err
	}
	if err = conn.Exec(createPositionSQL + ";" + createOperationSQL); err == nil {
		err = conn.Commit()
	}
	if err != nil {
		_ = conn.Rollback() // It repeats what the failure has done.
	}
	return err
}

// compare judges SQLite's position by the log. SQLite may lag: it is rolled
// forward. If it is ahead, a power cut has kept SQLite's writes and lost the
// log's. Of a follower's, nothing is missing. Of a leader's, nobody was told of
// them, and nothing here says what they were.
func (r *Replica) compare(at base.Position) error {
	if r.committedEarly(at) {
		r.log.Info("a power cut has taken the log's end, which the database file holds; the log goes on from there", "file", at, "log", r.changes.End())
		if err := r.logFrom(at); err != nil {
			return err
		}
	}
	why := r.contradiction(at)
	if why == "" {
		return nil
	}
	r.log.Warn("database file and log contradict each other", "why", why)
	return r.markCopying(why)
}

// committedEarly says that the file is ahead of the log by what a follower has
// committed before its own log was flushed. All of it was safe, and of the epoch
// that the log ends in. What this replica has committed as a leader may not have
// been.
func (r *Replica) committedEarly(at base.Position) bool {
	r.mu.Lock()
	m := r.mu.meta
	r.mu.Unlock()
	end := r.changes.End()
	return at.Seq > end.Seq && at.Epoch == end.Epoch && m.Led != at.Epoch && !m.Unproven
}

// contradiction says why the log does not go on from a file that is at a
// position; empty when it does.
func (r *Replica) contradiction(at base.Position) string {
	end, start := r.changes.End(), r.changes.Start()
	switch {
	case at.Seq > end.Seq:
		return fmt.Sprintf("the database file is at %v, ahead of its log at %v", at, end)
	case at.Seq+1 < start:
		return fmt.Sprintf("the database file is at %v, and its log begins at %d only", at, start)
	case at.Seq > 0 && at.Seq >= start && r.changes.EpochAt(at.Seq) != at.Epoch:
		return fmt.Sprintf("the database file at %v belongs to another history than its log", at)
	}
	return ""
}

// markCopying makes it durable that this replica's files can't be used, and
// keeps everybody from reading them.
func (r *Replica) markCopying(reason string) error {
	r.handle.distrust(true)
	return r.willCopy(reason)
}

// willCopy makes it durable that this replica must be copied; its file is old,
// but not wrong, and may be read until another takes its place.
func (r *Replica) willCopy(reason string) error {
	return r.changeMeta(func(m *meta) { m.Copying, m.Unproven, m.Reason = true, true, reason })
}

func (r *Replica) mustCopy() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.meta.Copying
}

// changeMeta writes a changed meta file before the change counts.
func (r *Replica) changeMeta(change func(*meta)) error {
	r.writing <- struct{}{}
	defer func() { <-r.writing }()
	r.mu.Lock()
	m := r.mu.meta
	r.mu.Unlock()
	before := m
	change(&m)
	if m == before {
		return nil
	}
	if planted.Is(planted.ForgetVow) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.mu.meta = m
		return nil
	}
	if err := writeMeta(r.env.FS, r.options.Dir, m); err != nil {
		return err
	}
	r.mu.Lock()
	r.mu.meta = m
	r.mu.Unlock()
	return nil
}

// adopt takes the SQLite file's contents as the history of a database that has
// no other replica to copy from: unless the log goes on from there, it begins
// anew after its position. There must be a file: one that is gone is no empty one.
func (r *Replica) adopt(ctx context.Context) error {
	r.mu.Lock()
	reason := r.mu.meta.Reason
	r.mu.Unlock()
	if r.file() == nil {
		if _, err := r.env.FS.Stat(r.path()); errors.Is(err, fs.ErrNotExist) {
			return base.Errorf(base.KindCorrupt, "the only replica of %s is gone: %s", r.options.Name, reason).
				WithHint("bring its folder back, or drop the database and make it anew from a snapshot")
		}
		if err := r.openFile(ctx); err != nil {
			return err
		}
	}
	db := r.file()
	if db == nil {
		return base.Errorf(base.KindCorrupt, "the only replica of %s can't be used: %s", r.options.Name, reason).
			WithHint("restore it from a snapshot")
	}
	at, err := positionOf(ctx, db)
	if err != nil {
		return err
	}
	r.log.Warn("no other replica to copy from: going on with the database file as it is", "position", at, "why", reason)
	if r.contradiction(at) != "" {
		if err := r.logFrom(at); err != nil {
			return err
		}
	}
	r.handle.distrust(false)
	return r.changeMeta(func(m *meta) { m.Copying, m.Unproven, m.Reason = false, false, "" })
}

// logFrom begins the log anew after the position of the database file.
func (r *Replica) logFrom(at base.Position) error {
	if err := r.changes.Reset(at, startsOf(r.changes.EpochStarts(), at)); err != nil {
		return err
	}
	r.recent.reset(at.Seq)
	return nil
}

func positionOf(ctx context.Context, db *sqlite.Database) (base.Position, error) {
	conn, err := db.Reader(ctx)
	if err != nil {
		return base.Position{}, err
	}
	defer db.ReleaseReader(conn)
	return readPosition(conn)
}

// startsOf returns the epochs of a log that is to go on after at, where known
// are those of the log before: the last one must be at's own.
func startsOf(known []changelog.EpochStart, at base.Position) []changelog.EpochStart {
	var starts []changelog.EpochStart
	if at == (base.Position{}) {
		return nil
	}
	for _, s := range known {
		if s.Epoch < at.Epoch && s.First < at.Seq || s.Epoch == at.Epoch && s.First <= at.Seq {
			starts = append(starts, s)
		}
	}
	if n := len(starts); n == 0 || starts[n-1].Epoch != at.Epoch {
		starts = append(starts, changelog.EpochStart{Epoch: at.Epoch, First: at.Seq})
	}
	return starts
}

package control

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/planted"
	"github.com/skeindb/skein/internal/sqlite"
)

// FileName is the store's file in a node's folder.
const FileName = "control.db"

// storeVersion is the version of the tables below.
const storeVersion = 1

// schema: integers are 64-bit patterns, so that large ids look negative. Each
// row's sum is the CRC-32C of its columns; docs/format/control.md says how.
const schema = `
CREATE TABLE IF NOT EXISTS control_identity(
	id INTEGER PRIMARY KEY CHECK(id=1), version INTEGER NOT NULL, cluster INTEGER NOT NULL, node INTEGER NOT NULL, sum INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS control_promise(
	id INTEGER PRIMARY KEY CHECK(id=1), term INTEGER NOT NULL, vote INTEGER NOT NULL, committed INTEGER NOT NULL, sum INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS control_log(
	position INTEGER PRIMARY KEY, term INTEGER NOT NULL, type INTEGER NOT NULL, data BLOB NOT NULL, sum INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS control_snapshot(
	id INTEGER PRIMARY KEY CHECK(id=1), position INTEGER NOT NULL, term INTEGER NOT NULL, members BLOB NOT NULL, data BLOB NOT NULL, sum INTEGER NOT NULL);
`

// settings: every commit is synced before it returns, and nobody else opens
// the file while this process has it.
const settings = `
PRAGMA locking_mode=EXCLUSIVE;
PRAGMA journal_mode=WAL;
PRAGMA synchronous=FULL;
PRAGMA wal_autocheckpoint=500;
`

// SQLiteStore is a Store in a SQLite file.
type SQLiteStore struct {
	conn *sqlite.Conn
}

// OpenStore opens control.db in a folder, or makes both.
func OpenStore(e *env.Env, dir, vfs string) (Store, error) {
	if vfs == "" {
		vfs = e.VFS
	}
	if err := env.MakeDir(e.FS, dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of the control plane: %w", err)
	}
	path := dir + "/" + FileName
	// Of the roles that run our own SQL the writer is the one that may make
	// the file.
	conn, err := sqlite.OpenConn(context.Background(), path, sqlite.ConnOptions{VFS: vfs, Role: sqlite.RoleWriter})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	s := &SQLiteStore{conn: conn}
	if err := s.prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), conn.Close())
	}
	if err := errors.Join(s.harden(e, path), e.FS.SyncDir(dir)); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), conn.Close())
	}
	return s, nil
}

// harden makes durable what is read. A sync that failed in the last life of this
// process may have left writes that the system shows and no later sync brings
// to the disk: they are written anew, into the file, and the -wal starts over.
func (s *SQLiteStore) harden(e *env.Env, path string) error {
	frames, done, err := s.conn.Checkpoint(sqlite.CheckpointTruncate)
	if err == nil && frames != done {
		err = fmt.Errorf("%d of %d frames are in the file", done, frames)
	}
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	f, err := e.FS.OpenFile(path+"-wal", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (s *SQLiteStore) prepare() error {
	if err := s.conn.Exec(settings); err != nil {
		return err
	}
	if planted.Is(planted.ControlUnsynced) {
		if err := s.conn.Exec("PRAGMA synchronous=OFF"); err != nil {
			return err
		}
	}
	return s.conn.Exec(schema)
}

// Close closes the file.
func (s *SQLiteStore) Close() error { return s.conn.Close() }

// Save writes a batch in one transaction. With KindDiskFull nothing of it is
// there, and it may be tried again.
func (s *SQLiteStore) Save(b Batch) error {
	if err := s.conn.BeginImmediate(); err != nil {
		return err
	}
	if err := s.write(b); err != nil {
		return errors.Join(err, s.conn.Rollback())
	}
	if err := s.conn.Commit(); err != nil {
		return errors.Join(err, s.conn.Rollback())
	}
	return nil
}

func (s *SQLiteStore) write(b Batch) error {
	if i := b.Identity; i != nil {
		if err := s.put("INSERT OR REPLACE INTO control_identity VALUES(1,?1,?2,?3,?4)",
			"identity", number(storeVersion), number(i.ClusterID), number(uint64(i.Node))); err != nil {
			return err
		}
	}
	if h := b.HardState; h != nil {
		if err := s.put("INSERT OR REPLACE INTO control_promise VALUES(1,?1,?2,?3,?4)",
			"promise", number(h.GetTerm()), number(h.GetVote()), number(h.GetCommit())); err != nil {
			return err
		}
	}
	if err := s.writeSnapshot(b.Snapshot); err != nil {
		return err
	}
	return s.writeLog(b)
}

func (s *SQLiteStore) writeSnapshot(p *raftpb.Snapshot) error {
	if p == nil {
		return nil
	}
	members, err := proto.Marshal(p.GetMetadata().GetConfState())
	if err != nil {
		return err
	}
	return s.put("INSERT OR REPLACE INTO control_snapshot VALUES(1,?1,?2,?3,?4,?5)", "snapshot",
		number(p.GetMetadata().GetIndex()), number(p.GetMetadata().GetTerm()), base.BlobValue(members), base.BlobValue(p.GetData()))
}

func (s *SQLiteStore) writeLog(b Batch) error {
	if b.Reset {
		if err := s.conn.RunOwn("DELETE FROM control_log"); err != nil {
			return err
		}
	}
	if b.CompactTo > 0 {
		if err := s.conn.RunOwn("DELETE FROM control_log WHERE position<=?1", number(b.CompactTo)); err != nil {
			return err
		}
	}
	if len(b.Entries) > 0 {
		if err := s.conn.RunOwn("DELETE FROM control_log WHERE position>=?1", number(b.Entries[0].GetIndex())); err != nil {
			return err
		}
	}
	for _, e := range b.Entries {
		if err := s.put("INSERT INTO control_log VALUES(?1,?2,?3,?4,?5)", "entry",
			number(e.GetIndex()), number(e.GetTerm()), number(uint64(e.GetType())), base.BlobValue(e.GetData())); err != nil {
			return err
		}
	}
	return nil
}

// put runs a statement whose parameters are a row and then its checksum.
func (s *SQLiteStore) put(sql, table string, row ...base.Value) error {
	return s.conn.RunOwn(sql, append(row, number(uint64(rowSum(table, row))))...)
}

func number(v uint64) base.Value { return base.IntValue(int64(v)) }

// rowSum is the CRC-32C of a row: the name of its kind, then each column, an
// integer as 8 bytes, a blob as 8 bytes of length and itself.
func rowSum(kind string, row []base.Value) uint32 {
	b := []byte(kind)
	for _, v := range row {
		if v.Kind == base.Integer {
			b = binary.LittleEndian.AppendUint64(b, uint64(v.Int))
			continue
		}
		b = binary.LittleEndian.AppendUint64(b, uint64(len(v.Bytes)))
		b = append(b, v.Bytes...)
	}
	return crc32.Checksum(b, castagnoli)
}

// Load reads everything and checks every row.
func (s *SQLiteStore) Load() (Saved, error) {
	var saved Saved
	err := s.rows("identity", "SELECT version,cluster,node,sum FROM control_identity", "iii", func(r row) error {
		if v := r.number(0); v != storeVersion {
			return base.Errorf(base.KindUnsupported, "control.db has version %d: this program knows version %d", v, storeVersion)
		}
		saved.Identity = Identity{ClusterID: r.number(1), Node: base.NodeID(r.number(2))}
		return nil
	})
	if err != nil {
		return Saved{}, err
	}
	err = s.rows("promise", "SELECT term,vote,committed,sum FROM control_promise", "iii", func(r row) error {
		saved.HardState = &raftpb.HardState{Term: new(r.number(0)), Vote: new(r.number(1)), Commit: new(r.number(2))}
		return nil
	})
	if err != nil {
		return Saved{}, err
	}
	if err := s.loadSnapshot(&saved); err != nil {
		return Saved{}, err
	}
	return saved, s.loadLog(&saved)
}

func (s *SQLiteStore) loadSnapshot(saved *Saved) error {
	return s.rows("snapshot", "SELECT position,term,members,data,sum FROM control_snapshot", "iibb", func(r row) error {
		members := new(raftpb.ConfState)
		if err := proto.Unmarshal(r[2].Bytes, members); err != nil {
			return base.Errorf(base.KindCorrupt, "control.db: members: %w", err)
		}
		saved.Snapshot = &raftpb.Snapshot{Data: r[3].Bytes, Metadata: &raftpb.SnapshotMetadata{
			Index: new(r.number(0)), Term: new(r.number(1)), ConfState: raftpb.EnsureConfState(members),
		}}
		return nil
	})
}

func (s *SQLiteStore) loadLog(saved *Saved) error {
	next := saved.Snapshot.GetMetadata().GetIndex() + 1
	err := s.rows("entry", "SELECT position,term,type,data,sum FROM control_log ORDER BY position", "iiib", func(r row) error {
		switch at := r.number(0); {
		case at < next:
			return nil // The snapshot contains it.
		case at > next:
			return base.Errorf(base.KindCorrupt, "control.db: entry %d is missing", next)
		}
		next++
		saved.Entries = append(saved.Entries, &raftpb.Entry{
			Index: new(r.number(0)), Term: new(r.number(1)), Type: raftpb.EntryType(r.number(2)).Enum(), Data: r[3].Bytes,
		})
		return nil
	})
	if err != nil {
		return err
	}
	switch {
	case saved.Snapshot == nil && (saved.HardState != nil || len(saved.Entries) > 0 || saved.Identity.Node != 0):
		return base.Errorf(base.KindCorrupt, "control.db: the snapshot is missing")
	case saved.Snapshot != nil && (saved.HardState == nil || saved.Identity.Node == 0):
		return base.Errorf(base.KindCorrupt, "control.db: term, vote or identity is missing")
	case saved.HardState.GetCommit() >= next:
		return base.Errorf(base.KindCorrupt, "control.db: entry %d was agreed on and is missing", saved.HardState.GetCommit())
	}
	return nil
}

// row is what a query returned, without its checksum. It owns its bytes.
type row []base.Value

func (r row) number(i int) uint64 { return uint64(r[i].Int) }

// rows runs a query whose last column is the checksum of the others; shape has
// an i for each integer column and a b for each blob.
func (s *SQLiteStore) rows(kind, sql, shape string, each func(row) error) error {
	st, err := s.conn.Prepare(sql)
	if err != nil {
		return err
	}
	defer st.Close()
	for {
		more, err := st.Step()
		if err != nil || !more {
			return err
		}
		r, err := checkedRow(kind, shape, st.AppendRow(nil))
		if err != nil {
			return err
		}
		if err := each(r); err != nil {
			return err
		}
	}
}

func checkedRow(kind, shape string, columns []base.Value) (row, error) {
	r := columns[:len(columns)-1]
	for i, want := range shape {
		ok := r[i].Kind == base.Integer
		if want == 'b' {
			ok = r[i].Kind == base.Blob
			r[i].Bytes = append([]byte(nil), r[i].Bytes...)
		}
		if !ok {
			return nil, base.Errorf(base.KindCorrupt, "control.db: a row of kind %s has a column of the wrong type", kind)
		}
	}
	if sum := columns[len(columns)-1]; sum.Kind != base.Integer || sum.Int != int64(rowSum(kind, r)) {
		return nil, base.Errorf(base.KindCorrupt, "control.db: a row of kind %s fails its checksum", kind).
			WithHint("move the node's folder away and join again with an empty one")
	}
	return r, nil
}

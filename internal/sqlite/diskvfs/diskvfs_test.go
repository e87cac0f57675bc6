package diskvfs_test

import (
	"context"
	"fmt"
	"syscall"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/env/crashfs"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/sqlite/diskvfs"
)

// disk is where the file system that the tests register finds its files.
type disk struct{ *crashfs.Disk }

func mount(t *testing.T, d *crashfs.Disk) string {
	t.Helper()
	name := t.Name()
	on := disk{d}
	diskvfs.Register(name, t.TempDir(), func(string) env.FS { return on })
	return name
}

func open(t *testing.T, vfs string) *sqlite.Database {
	t.Helper()
	db, err := sqlite.OpenDatabase(context.Background(), "/x.sqlite", sqlite.Options{VFS: vfs})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func write(t *testing.T, db *sqlite.Database, statements ...string) {
	t.Helper()
	w, err := db.OpenWriter(context.Background(), sqlite.RoleWriter)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, s := range statements {
		if err := w.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// What was committed before a checkpoint outlives every crash, and what was
// committed after it is there whole or not at all.
func TestCheckpointedRowsOutliveEveryCrash(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			d := crashfs.New()
			db := open(t, mount(t, d))
			write(t, db, "CREATE TABLE t(a)", "INSERT INTO t VALUES (1), (2)")
			if frames, done, err := db.Checkpoint(context.Background(), sqlite.CheckpointPassive); err != nil || frames != done {
				t.Fatalf("checkpoint: %d of %d, %v", done, frames, err)
			}
			write(t, db, "BEGIN; INSERT INTO t VALUES (3); INSERT INTO t VALUES (4); COMMIT")
			after := open(t, mount(t, d.CrashClone(seed)))
			defer after.Close()
			if n := count(t, after); n != 2 && n != 4 {
				t.Errorf("%d rows after the crash", n)
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func count(t *testing.T, db *sqlite.Database) int64 {
	t.Helper()
	c, err := db.Reader(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer db.ReleaseReader(c)
	s, err := c.Prepare("SELECT count(*) FROM t")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Step(); err != nil {
		t.Fatal(err)
	}
	return s.Column(0).Int
}

// A sync that has failed is never tried again, not even by the engine when it
// closes the file: what the first has dropped looks clean to the second.
func TestAFailedSyncIsTheLast(t *testing.T) {
	for _, failing := range []string{"/x.sqlite-wal", "/x.sqlite"} {
		t.Run(failing[1:], func(t *testing.T) { failSync(t, failing) })
	}
}

func failSync(t *testing.T, failing string) {
	d := crashfs.New()
	vfs := mount(t, d)
	db := open(t, vfs)
	write(t, db, "CREATE TABLE t(a)", "INSERT INTO t VALUES (1)")
	syncs := 0
	d.Inject(func(c crashfs.Call) error {
		if c.Op != crashfs.OpSync || c.Name != failing {
			return nil
		}
		syncs++
		return syscall.EIO
	})
	if _, _, err := db.Checkpoint(t.Context(), sqlite.CheckpointPassive); !sqlite.IsFatal(err) {
		t.Errorf("the checkpoint: %v", err)
	}
	if _, _, err := db.Checkpoint(t.Context(), sqlite.CheckpointPassive); base.KindOf(err) != base.KindUnavailable {
		t.Errorf("the next checkpoint: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	if syncs != 1 {
		t.Errorf("synced %d times", syncs)
	}
	d.Inject(nil)
	db = open(t, vfs)
	if n := count(t, db); n != 1 {
		t.Errorf("%d rows when it is opened anew", n)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

// Whatever call it is that finds no room, the error says so and is not fatal.
func TestEveryLackOfRoomIsAFullDisk(t *testing.T) {
	d := crashfs.New()
	db := open(t, mount(t, d))
	defer db.Close()
	write(t, db, "CREATE TABLE t(a)")
	for _, op := range []crashfs.Op{crashfs.OpWrite, crashfs.OpOpen} {
		d.Inject(func(c crashfs.Call) error {
			if c.Op == op {
				return syscall.ENOSPC
			}
			return nil
		})
		w, err := db.OpenWriter(t.Context(), sqlite.RoleWriter)
		if err == nil {
			err = w.Exec("INSERT INTO t VALUES (1)")
			if cerr := w.Close(); cerr != nil {
				t.Error(cerr)
			}
		}
		d.Inject(nil)
		if base.KindOf(err) != base.KindDiskFull || sqlite.IsFatal(err) {
			t.Errorf("%s: %v (%s)", op, err, base.KindOf(err))
		}
	}
	write(t, db, "INSERT INTO t VALUES (2)")
	if n := count(t, db); n != 1 {
		t.Errorf("%d rows", n)
	}
}

// Readers see what a writer has committed, through the memory that they share.
func TestConnectionsSeeEachOther(t *testing.T) {
	db := open(t, mount(t, crashfs.New()))
	defer db.Close()
	write(t, db, "CREATE TABLE t(a)")
	for i := range int64(3) {
		if n := count(t, db); n != i {
			t.Fatalf("%d rows, want %d", n, i)
		}
		write(t, db, "INSERT INTO t VALUES (1)")
	}
}

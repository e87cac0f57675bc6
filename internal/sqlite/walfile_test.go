package sqlite_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/sqlite"
)

// Readers on connections of their own must see every commit as soon as it is
// one, whatever its size, who made it, and how far a checkpoint has come.
func TestCommitsAreSeenAtOnceByOthers(t *testing.T) {
	ctx := context.Background()
	db, err := sqlite.OpenDatabase(ctx, t.TempDir()+"/a.sqlite", sqlite.Options{WriterCacheKiB: 64})
	must(t, err)
	defer db.Close()
	w, err := db.OpenWriter(ctx, sqlite.RoleWriter)
	must(t, err)
	must(t, w.Exec("CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT); CREATE TABLE n(c)"))
	must(t, w.Exec("INSERT INTO n VALUES (0)"))
	sizes := []int{1, 300, 1, 2, 1500, 1, 40, 7, 400}
	total := 0
	for round, size := range sizes {
		must(t, w.BeginImmediate())
		must(t, run(w, "UPDATE n SET c = ?1", base.IntValue(int64(round+1))))
		for range size {
			total++
			must(t, run(w, "INSERT INTO t VALUES (?1, ?2)", base.IntValue(int64(total)), base.TextValue(fmt.Sprintf("%0900d", total))))
		}
		// Touch early pages again, so that frames are written over.
		must(t, run(w, "UPDATE t SET b = b || 'x' WHERE a % 97 = 0"))
		must(t, w.Commit())
		if round%3 == 1 {
			_, _, err := db.Checkpoint(ctx, sqlite.CheckpointPassive)
			must(t, err)
		}
		if round%4 == 3 { // Another connection goes on in the same -wal.
			must(t, w.Close())
			w, err = db.OpenWriter(ctx, sqlite.RoleApplier)
			must(t, err)
		}
		r, err := db.Reader(ctx)
		must(t, err)
		got := rows(t, r, "SELECT (SELECT c FROM n), count(*), sum(length(b) >= 900) FROM t")[0]
		db.ReleaseReader(r)
		if got[0].Int != int64(round+1) || got[1].Int != int64(total) || got[2].Int != int64(total) {
			t.Fatalf("round %d: a reader sees round %d and %d of %d rows, %d whole", round+1, got[0].Int, got[1].Int, total, got[2].Int)
		}
		must(t, db.QuickCheck(ctx))
	}
	must(t, w.Close())
}

// A checkpoint that can't reach the end of the -wal, since a reader holds an
// old snapshot, must leave the pages it has moved where readers look for them.
func TestPartialCheckpointIsSeen(t *testing.T) {
	ctx := context.Background()
	db, err := sqlite.OpenDatabase(ctx, t.TempDir()+"/a.sqlite", sqlite.Options{})
	must(t, err)
	defer db.Close()
	w, err := db.OpenWriter(ctx, sqlite.RoleWriter)
	must(t, err)
	defer w.Close()
	must(t, w.Exec("CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT)"))
	must(t, w.Exec("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x < 500) INSERT INTO t SELECT x, printf('%0500d', x) FROM c"))
	old, err := db.Reader(ctx)
	must(t, err)
	must(t, old.Begin())
	before := rows(t, old, "SELECT count(*) FROM t")[0][0].Int
	must(t, w.Exec("INSERT INTO t(b) SELECT b FROM t"))
	frames, done, err := db.Checkpoint(ctx, sqlite.CheckpointPassive)
	must(t, err)
	if done == 0 || done >= frames {
		t.Fatalf("%d of %d frames moved: the checkpoint was to be partial", done, frames)
	}
	fresh, err := db.Reader(ctx)
	must(t, err)
	defer db.ReleaseReader(fresh)
	if got := rows(t, fresh, "SELECT count(*), sum(length(b)) FROM t")[0]; got[0].Int != 2*before || got[1].Int != 2*before*500 {
		t.Errorf("a reader sees %d rows of %d bytes, want %d", got[0].Int, got[1].Int, 2*before)
	}
	if got := rows(t, old, "SELECT count(*) FROM t")[0][0].Int; got != before {
		t.Errorf("the old snapshot sees %d rows, want %d", got, before)
	}
	db.ReleaseReader(old)
	must(t, db.QuickCheck(ctx))
}

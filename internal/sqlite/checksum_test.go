package sqlite_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/ncruces/go-sqlite3"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/sqlite"
)

// filled makes a database of some pages and closes it, so that all of them are
// in the file.
func filled(t *testing.T, path string) {
	t.Helper()
	db, err := sqlite.OpenDatabase(context.Background(), path, sqlite.Options{})
	must(t, err)
	w, err := db.OpenWriter(context.Background(), sqlite.RoleWriter)
	must(t, err)
	must(t, w.Exec("CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT)"))
	must(t, w.Exec("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x < 2000) INSERT INTO t SELECT x, printf('%050d', x) FROM c"))
	must(t, w.Close())
	_, _, err = db.Checkpoint(context.Background(), sqlite.CheckpointTruncate)
	must(t, err)
	must(t, db.Close())
}

func readAll(path string) error {
	db, err := sqlite.OpenDatabase(context.Background(), path, sqlite.Options{})
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ContentHash(context.Background())
	return err
}

func TestFlippedBitIsNeverServed(t *testing.T) {
	path := t.TempDir() + "/a.sqlite"
	filled(t, path)
	must(t, readAll(path))
	whole, err := os.ReadFile(path)
	must(t, err)
	for at := 200; at < len(whole); at += 3001 {
		damaged := append([]byte(nil), whole...)
		damaged[at] ^= 4
		other := fmt.Sprintf("%s/flip%d.sqlite", t.TempDir(), at)
		must(t, os.WriteFile(other, damaged, 0o600))
		if err := readAll(other); base.KindOf(err) != base.KindCorrupt {
			t.Errorf("bit flipped at %d: %v, want an error of kind corrupt", at, err)
		}
	}
}

func TestSnapshotKeepsChecksums(t *testing.T) {
	dir := t.TempDir()
	db, err := sqlite.OpenDatabase(context.Background(), dir+"/a.sqlite", sqlite.Options{})
	must(t, err)
	w, err := db.OpenWriter(context.Background(), sqlite.RoleWriter)
	must(t, err)
	must(t, w.Exec("CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT)"))
	for range 3 { // Some pages in the file, newer ones in the -wal.
		must(t, w.Exec("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x < 3000) INSERT INTO t(b) SELECT printf('%080d', x) FROM c"))
		_, _, err = db.Checkpoint(context.Background(), sqlite.CheckpointPassive)
		must(t, err)
		must(t, w.Exec("UPDATE t SET b = b || 'x' WHERE a % 3 = 0"))
	}
	must(t, db.SnapshotTo(context.Background(), dir+"/copy.sqlite", nil))
	want, err := db.ContentHash(context.Background())
	must(t, err)
	must(t, w.Close())
	must(t, db.Close())
	copied, err := sqlite.OpenDatabase(context.Background(), dir+"/copy.sqlite", sqlite.Options{})
	must(t, err)
	defer copied.Close()
	must(t, copied.QuickCheck(context.Background()))
	if got, err := copied.ContentHash(context.Background()); err != nil || got != want {
		t.Errorf("copy has %s (%v), want %s", got, err, want)
	}
}

func TestRewriteAddsChecksumsAndKeepsRowids(t *testing.T) {
	for _, size := range []int{512, 1024, 4096, 16384, 65536} {
		dir := t.TempDir()
		raw, err := sqlite3.Open("file:" + dir + "/plain.sqlite")
		must(t, err)
		must(t, raw.Exec(fmt.Sprintf("PRAGMA page_size=%d; CREATE TABLE n(v); INSERT INTO n(rowid, v) VALUES (5, 'a'), (900, 'b'), (901, zeroblob(9000))", size)))
		must(t, raw.Close())
		must(t, sqlite.Rewrite(context.Background(), "", dir+"/plain.sqlite", dir+"/sums.sqlite"))
		d := openConn(t, dir+"/sums.sqlite", sqlite.RoleTool)
		got := rows(t, d, "SELECT group_concat(rowid || substr(v, 1, 1)) || (SELECT page_size FROM pragma_page_size) FROM n WHERE rowid < 901")
		if want := fmt.Sprintf("5a,900b%d", size); string(got[0][0].Bytes) != want {
			t.Errorf("rows of pages of %d bytes: %s", size, got[0][0].Bytes)
		}
		must(t, d.Close())
		must(t, readAll(dir+"/sums.sqlite"))
	}
}

// A file that is larger than the cache gets pages that are written before the
// first, which is what says that there are checksums.
func TestRewriteOfALargeFileSumsEveryPage(t *testing.T) {
	dir := t.TempDir()
	c := openConn(t, dir+"/plain.sqlite", sqlite.RoleWriter)
	must(t, c.Exec("CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT); CREATE INDEX i ON t(b)"))
	must(t, c.Exec("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x < 60000) INSERT INTO t SELECT x, printf('%0100d', x * 7919 % 60000) FROM c"))
	must(t, c.Close())
	must(t, sqlite.Rewrite(context.Background(), "", dir+"/plain.sqlite", dir+"/sums.sqlite"))
	db, err := sqlite.OpenDatabase(context.Background(), dir+"/sums.sqlite", sqlite.Options{})
	must(t, err)
	must(t, db.QuickCheck(context.Background()))
	must(t, db.Close())
	must(t, readAll(dir+"/sums.sqlite"))
}

// Whatever meets a damaged page, its database tells of it, whoever else gets
// the error.
func TestDamageIsTold(t *testing.T) {
	ctx := t.Context()
	step := func(c *sqlite.Conn, sql string) error {
		s, err := c.Prepare(sql)
		if err != nil {
			return err
		}
		defer s.Close()
		for {
			if more, err := s.Step(); err != nil || !more {
				return err
			}
		}
	}
	writer := func(f func(c *sqlite.Conn) error) func(db *sqlite.Database) error {
		return func(db *sqlite.Database) error {
			c, err := db.OpenWriter(ctx, sqlite.RoleWriter)
			if err != nil {
				return err
			}
			defer c.Close()
			c.SetGuard(sqlite.GuardWrite)
			return f(c)
		}
	}
	for name, use := range map[string]func(db *sqlite.Database) error{
		"a read": func(db *sqlite.Database) error {
			c, err := db.Reader(ctx)
			if err != nil {
				return err
			}
			defer db.ReleaseReader(c)
			return step(c, "SELECT count(b) FROM t")
		},
		"a write":         writer(func(c *sqlite.Conn) error { return step(c, "UPDATE t SET b = 'x'") }),
		"our own write":   writer(func(c *sqlite.Conn) error { return c.Exec("UPDATE t SET b = 'x'") }),
		"a content hash":  func(db *sqlite.Database) error { _, err := db.ContentHash(ctx); return err },
		"a copy":          func(db *sqlite.Database) error { return db.SnapshotTo(ctx, t.TempDir()+"/copy.sqlite", nil) },
		"a check":         func(db *sqlite.Database) error { return db.QuickCheck(ctx) },
		"a virtual check": func(db *sqlite.Database) error { return db.VirtualCheck(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir() + "/a.sqlite"
			filled(t, path)
			whole, err := os.ReadFile(path)
			must(t, err)
			whole[len(whole)-2000] ^= 4
			must(t, os.WriteFile(path, whole, 0o600))
			var told []error
			db, err := sqlite.OpenDatabase(ctx, path, sqlite.Options{Damaged: func(err error) { told = append(told, err) }})
			must(t, err)
			defer db.Close()
			if len(told) > 0 {
				t.Fatalf("opening has read it all: %v", told)
			}
			err = use(db)
			if base.KindOf(err) != base.KindCorrupt || len(told) == 0 || base.KindOf(told[0]) != base.KindCorrupt {
				t.Errorf("got %v (%s), told of %v", err, base.KindOf(err), told)
			}
		})
	}
}

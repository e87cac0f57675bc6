package sqlite_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/pageformat"
	"github.com/skeindb/skein/internal/sqlite"
)

// image is every page of a database, as a checkpoint would leave them.
func image(t testing.TB, d *sqlite.Database) []byte {
	t.Helper()
	var all []byte
	must(t, d.EachPage(t.Context(), nil, func(_, _ uint32, page []byte) error {
		all = append(all, page...)
		return nil
	}))
	return all
}

// twin is a database and a copy of it that gets its pages.
type twin struct {
	first, second *sqlite.Database
	path          string // of the second
	writer, apply *sqlite.Conn
	got, before   *pageformat.Pages // of the last transaction
	undone        int
}

func newTwin(t testing.TB, schema string) *twin {
	t.Helper()
	var w twin
	w.first, w.writer = newDatabase(t, sqlite.Options{}, schema)
	w.path = filepath.Join(t.TempDir(), "second.db")
	f, err := os.Create(w.path)
	must(t, err)
	must(t, w.first.ImageTo(t.Context(), f, nil, nil))
	must(t, f.Close())
	w.second = openDatabase(t, w.path, sqlite.Options{})
	w.apply, err = w.second.OpenWriter(t.Context(), sqlite.RoleApplier)
	must(t, err)
	t.Cleanup(func() { must(t, w.apply.Close()) })
	return &w
}

// commit runs a transaction on the first and brings its pages to the second.
func (w *twin) commit(t testing.TB, sql string) {
	t.Helper()
	must(t, w.writer.BeginImmediate())
	must(t, w.writer.Exec(sql))
	w.transfer(t, w.writer.Commit)
}

func (w *twin) transfer(t testing.TB, commit func() error) {
	t.Helper()
	w.got, w.before = nil, nil
	must(t, w.writer.Capture(func(p, before *pageformat.Pages) error { w.got, w.before = p, before; return nil }, commit))
	if w.got != nil {
		for at := 0; at < len(w.got.Data); at += 4096 {
			if page := w.got.Data[at : at+4096]; !bytes.Equal(page[4088:], sqlite.PageChecksum(page[:4088])) {
				t.Fatalf("page %d has the checksum of another state", w.got.Numbers[at/4096])
			}
		}
		must(t, w.apply.ApplyPages(w.got, nil))
	}
}

// goBack undoes the last transaction on the second, and does it again.
func (w *twin) goBack(t testing.TB, earlier []byte) {
	t.Helper()
	must(t, w.apply.ApplyPages(w.before, nil))
	if now := image(t, w.second); !bytes.Equal(now, earlier) {
		t.Log(len(now)/4096, len(earlier)/4096, w.before.Size, w.before.Numbers, w.got.Size, w.got.Numbers)
		for i := 0; i < min(len(now), len(earlier)); i += 4096 {
			if !bytes.Equal(now[i:i+4096], earlier[i:i+4096]) {
				t.Log("page", i/4096+1)
			}
		}
		t.Fatal("the pages as they were don't lead back")
	}
	must(t, w.apply.ApplyPages(w.got, nil))
	w.undone++
}

func (w *twin) same(t testing.TB, after any) {
	t.Helper()
	if a, b := image(t, w.first), image(t, w.second); !bytes.Equal(a, b) {
		t.Fatalf("after %v: the images differ: %d and %d bytes", after, len(a), len(b))
	}
}

const twinSchema = `CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b BLOB); CREATE INDEX ta ON t(a); CREATE TABLE n(k TEXT PRIMARY KEY, v) WITHOUT ROWID`

func randomSQL(r *rand.Rand) string {
	n := r.IntN(300)
	switch r.IntN(12) {
	case 0, 1, 2, 3:
		return fmt.Sprintf("INSERT INTO t(a, b) SELECT value || 'x%d', randomblob(%d) FROM generate_series(1, %d)", n, r.IntN(3000), 1+r.IntN(40))
	case 4, 5:
		return fmt.Sprintf("UPDATE t SET a = a || '%d', b = zeroblob(%d) WHERE id %% 17 = %d", n, n*20, n%17)
	case 6, 7:
		return fmt.Sprintf("DELETE FROM t WHERE id %% 7 = %d", n%7)
	case 8:
		return fmt.Sprintf("INSERT OR REPLACE INTO n VALUES ('%d', randomblob(%d))", n, 10*n)
	case 9:
		return fmt.Sprintf("CREATE TABLE IF NOT EXISTS c%d(x); INSERT INTO c%d VALUES (randomblob(9000))", n%5, n%5)
	case 10:
		return fmt.Sprintf("DROP TABLE IF EXISTS c%d", n%5)
	}
	return fmt.Sprintf("SAVEPOINT s; INSERT INTO t(a, b) SELECT value, randomblob(5000) FROM generate_series(1, %d); ROLLBACK TO s; RELEASE s; INSERT INTO t(a) VALUES ('kept')", n)
}

// TestPagesMakeAnotherFileTheSame is the promise of the format: whatever is
// done, checkpoints on either side included.
func TestPagesMakeAnotherFileTheSame(t *testing.T) {
	for _, vacuum := range []string{"NONE", "FULL", "INCREMENTAL"} {
		t.Run(vacuum, func(t *testing.T) {
			w := newTwin(t, "")
			r := rand.New(rand.NewPCG(1, uint64(len(vacuum))))
			w.transfer(t, func() error { return w.writer.Exec("PRAGMA auto_vacuum = " + vacuum) })
			w.transfer(t, w.writer.Vacuum)
			w.commit(t, twinSchema)
			steps := 250
			if testing.Short() {
				steps = 60
			}
			for i := range steps {
				sql := randomSQL(r)
				if r.IntN(10) == 0 {
					sql += "; PRAGMA incremental_vacuum(20)"
				}
				earlier := []byte(nil)
				if i%7 == 0 {
					earlier = image(t, w.second)
				}
				w.commit(t, sql)
				if earlier != nil && w.before != nil {
					w.goBack(t, earlier)
				}
				switch r.IntN(20) {
				case 0:
					w.transfer(t, w.writer.Vacuum)
				case 1, 2:
					_, _, err := w.first.Checkpoint(t.Context(), sqlite.CheckpointMode(r.IntN(4)))
					must(t, err)
				case 3, 4, 5:
					_, _, err := w.second.Checkpoint(t.Context(), sqlite.CheckpointMode(r.IntN(4)))
					must(t, err)
				}
				if i%5 == 0 {
					w.same(t, sql)
				}
			}
			if w.undone < 5 {
				t.Errorf("%d transactions were undone", w.undone)
			}
			w.same(t, "all")
			must(t, w.second.QuickCheck(t.Context()))
			for range 10 { // What is written by SQLite itself goes on behind our frames.
				must(t, w.apply.Exec(randomSQL(r)))
			}
			must(t, w.second.QuickCheck(t.Context()))
		})
	}
}

// TestReadersKeepTheirSnapshotWhilePagesArrive has readers that check that the
// sum over all rows never changes, and stays what it was in a transaction.
func TestReadersKeepTheirSnapshotWhilePagesArrive(t *testing.T) {
	w := newTwin(t, "")
	w.commit(t, "CREATE TABLE t(id INTEGER PRIMARY KEY, v INTEGER, pad BLOB); INSERT INTO t SELECT value, 100, randomblob(2000) FROM generate_series(1, 200)")
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { readSums(t, ctx, w.second) })
	}
	r := rand.New(rand.NewPCG(7, 7))
	for i := range 400 {
		a, b := 1+r.IntN(200), 1+r.IntN(200)
		w.commit(t, fmt.Sprintf("UPDATE t SET v = v - 1, pad = randomblob(2000) WHERE id = %d; UPDATE t SET v = v + 1 WHERE id = %d", a, b))
		if i%50 == 49 {
			_, _, err := w.second.Checkpoint(t.Context(), sqlite.CheckpointMode(i/50%4))
			if base.KindOf(err) != base.KindBusy { // Readers may hold it up.
				must(t, err)
			}
		}
	}
	stop()
	wg.Wait()
	w.same(t, "the updates")
}

func readSums(t *testing.T, ctx context.Context, d *sqlite.Database) {
	for reads := 0; ctx.Err() == nil || reads == 0; reads++ {
		c, err := d.Reader(context.Background())
		if err != nil {
			t.Error(err)
			return
		}
		must(t, c.Begin())
		first := rows(t, c, "SELECT sum(v), max(v), total(unicode(hex(pad))) FROM t")[0]
		again := rows(t, c, "SELECT sum(v), max(v), total(unicode(hex(pad))) FROM t")[0]
		if first[0].Int != 20000 || first[1].Int != again[1].Int || first[2].Float != again[2].Float {
			t.Errorf("sum %d; then %v became %v", first[0].Int, first, again)
		}
		d.ReleaseReader(c)
	}
}

func TestARefusedCaptureUndoesTheTransaction(t *testing.T) {
	d, w := newDatabase(t, sqlite.Options{}, "CREATE TABLE t(a)")
	before := image(t, d)
	must(t, w.BeginImmediate())
	must(t, w.Exec("INSERT INTO t SELECT randomblob(3000) FROM generate_series(1, 500)")) // More than is gathered.
	no := base.Errorf(base.KindTooLarge, "no")
	if err := w.Capture(func(_, _ *pageformat.Pages) error { return no }, w.Commit); base.KindOf(err) != base.KindTooLarge || w.InTransaction() {
		t.Errorf("got %v", err)
	}
	if !bytes.Equal(before, image(t, d)) {
		t.Error("the file has changed")
	}
	if _, _, err := d.Checkpoint(t.Context(), sqlite.CheckpointTruncate); err != nil {
		t.Errorf("the disk has not failed: %v", err)
	}
	must(t, w.Exec("INSERT INTO t VALUES (1)"))
	if n := count(t, w, "t"); n != 1 {
		t.Errorf("%d rows", n)
	}
}

func TestReadersSeeAChangedSchema(t *testing.T) {
	w := newTwin(t, "")
	w.commit(t, "CREATE TABLE t(a); INSERT INTO t VALUES (1)")
	c, err := w.second.Reader(t.Context())
	must(t, err)
	defer w.second.ReleaseReader(c)
	if n := count(t, c, "t"); n != 1 {
		t.Fatalf("%d rows", n)
	}
	before := w.second.Generation()
	w.commit(t, "ALTER TABLE t ADD COLUMN b DEFAULT 5")
	if got := rows(t, c, "SELECT * FROM t")[0]; len(got) != 2 || got[1].Int != 5 {
		t.Errorf("got %v", got)
	}
	if w.second.Generation() == before {
		t.Error("nobody is told that the schema has changed")
	}
}

// TestADamagedPageIsNotCopied flips a bit of the file.
func TestADamagedPageIsNotCopied(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.db")
	var told error
	d := openDatabase(t, path, sqlite.Options{Damaged: func(err error) { told = err }})
	w := openWriter(t, d, "CREATE TABLE t(a); INSERT INTO t SELECT randomblob(3000) FROM generate_series(1, 20)")
	_, _, err := w.Checkpoint(sqlite.CheckpointTruncate)
	must(t, err)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("damaged"), 9*4096+100)
	must(t, err)
	must(t, f.Close())
	err = d.EachPage(t.Context(), nil, func(_, _ uint32, _ []byte) error { return nil })
	if base.KindOf(err) != base.KindCorrupt || !sqlite.IsFatal(err) || base.KindOf(told) != base.KindCorrupt {
		t.Errorf("got %v, told of %v", err, told)
	}
}

// A power cut may leave any part of the header of a -wal.
func TestPagesAreAppliedOverATornHeader(t *testing.T) {
	for _, left := range []int{0, 1, 20, 31, 32, 40} {
		w := newTwin(t, "CREATE TABLE t(a)")
		must(t, w.apply.Close())
		must(t, w.second.Close())
		must(t, os.WriteFile(w.path+"-wal", bytes.Repeat([]byte{7}, left), 0o600))
		w.second = openDatabase(t, w.path, sqlite.Options{})
		var err error
		w.apply, err = w.second.OpenWriter(t.Context(), sqlite.RoleApplier)
		must(t, err)
		t.Cleanup(func() { must(t, w.apply.Close()) })
		w.commit(t, "INSERT INTO t VALUES (1)")
		w.commit(t, "INSERT INTO t VALUES (2)")
		w.same(t, fmt.Sprintf("%d bytes of a header", left))
	}
}

func TestPagesOfAnotherSizeAreRefused(t *testing.T) {
	w := newTwin(t, "CREATE TABLE t(a)")
	err := w.apply.ApplyPages(&pageformat.Pages{PageSize: 8192, Size: 1, Numbers: []uint32{1}, Data: make([]byte, 8192)}, nil)
	if base.KindOf(err) != base.KindUnsupported || w.apply.InTransaction() {
		t.Errorf("got %v", err)
	}
	w.same(t, "a refusal")
}

// TestTheLockBytePageIsPassedOver grows a database past the first GiB, where
// SQLite leaves one page unused. The file is a sparse one of pages that nothing
// refers to, up to shortly before.
func TestTheLockBytePageIsPassedOver(t *testing.T) {
	if testing.Short() {
		t.Skip("it reads 4 GiB, of which most is not there")
	}
	const lockPage = 1<<30/4096 + 1
	dir := t.TempDir()
	for _, name := range []string{dir + "/first.db", dir + "/second.db"} {
		makeSparse(t, name, lockPage-20)
	}
	var w twin
	w.first, w.second = openDatabase(t, dir+"/first.db", sqlite.Options{}), openDatabase(t, dir+"/second.db", sqlite.Options{})
	w.writer = openWriter(t, w.first, "")
	var err error
	w.apply, err = w.second.OpenWriter(t.Context(), sqlite.RoleApplier)
	must(t, err)
	t.Cleanup(func() { must(t, w.apply.Close()) })
	for range 20 {
		w.commit(t, "INSERT INTO t SELECT randomblob(3000) FROM generate_series(1, 5)")
	}
	if n := rows(t, w.apply, "PRAGMA page_count")[0][0].Int; n < lockPage+50 {
		t.Fatalf("%d pages", n)
	}
	checkTail := func() {
		t.Helper()
		if a, b := tail(t, w.first, lockPage-100), tail(t, w.second, lockPage-100); !bytes.Equal(a, b) || len(a) < 150*4096 {
			t.Errorf("the images differ: %d and %d bytes", len(a), len(b))
		}
	}
	checkTail()
	_, _, err = w.second.Checkpoint(t.Context(), sqlite.CheckpointTruncate)
	must(t, err)
	checkTail()
	if n := rows(t, w.apply, "SELECT count(*), sum(length(a)) FROM t")[0]; n[0].Int != 100 || n[1].Int != 300_000 {
		t.Errorf("got %v", n)
	}
}

// makeSparse makes a database of so many pages, most of which nobody uses.
func makeSparse(t *testing.T, path string, pages uint32) {
	t.Helper()
	d, err := sqlite.OpenDatabase(t.Context(), path, sqlite.Options{})
	must(t, err)
	w, err := d.OpenWriter(t.Context(), sqlite.RoleWriter)
	must(t, err)
	must(t, w.Exec("CREATE TABLE t(a)"))
	must(t, w.Close())
	must(t, d.Close())
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	page := make([]byte, 4096)
	_, err = f.ReadAt(page, 0)
	must(t, err)
	binary.BigEndian.PutUint32(page[28:], pages)
	copy(page[4088:], sqlite.PageChecksum(page[:4088]))
	_, err = f.WriteAt(page, 0)
	must(t, err)
	must(t, f.Truncate(int64(pages)*4096))
	must(t, f.Close())
}

func tail(t *testing.T, d *sqlite.Database, from uint32) []byte {
	t.Helper()
	var all []byte
	must(t, d.EachPage(t.Context(), nil, func(number, _ uint32, page []byte) error {
		if number >= from {
			all = append(all, page...)
		}
		return nil
	}))
	return all
}

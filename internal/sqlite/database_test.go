package sqlite_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/sqlite"
)

func openDatabase(t testing.TB, path string, o sqlite.Options) *sqlite.Database {
	t.Helper()
	d, err := sqlite.OpenDatabase(context.Background(), path, o)
	must(t, err)
	t.Cleanup(func() { must(t, d.Close()) })
	return d
}

func openWriter(t testing.TB, d *sqlite.Database, schema string) *sqlite.Conn {
	t.Helper()
	w, err := d.OpenWriter(context.Background(), sqlite.RoleWriter)
	must(t, err)
	t.Cleanup(func() { must(t, w.Close()) })
	must(t, w.Exec(schema))
	return w
}

func newDatabase(t testing.TB, o sqlite.Options, schema string) (*sqlite.Database, *sqlite.Conn) {
	t.Helper()
	d := openDatabase(t, filepath.Join(t.TempDir(), "test.db"), o)
	return d, openWriter(t, d, schema)
}

func TestNewDatabaseIsInWALMode(t *testing.T) {
	_, w := newDatabase(t, sqlite.Options{}, "")
	for pragma, want := range map[string]string{"journal_mode": "wal", "encoding": "UTF-8"} {
		if got := string(rows(t, w, "PRAGMA "+pragma)[0][0].Bytes); got != want {
			t.Errorf("%s = %s, want %s", pragma, got, want)
		}
	}
	for pragma, want := range map[string]int64{"page_size": 4096, "synchronous": 1, "foreign_keys": 1, "trusted_schema": 0,
		"wal_autocheckpoint": 0, "cell_size_check": 1, "recursive_triggers": 0, "journal_size_limit": 64 << 20} {
		if got := rows(t, w, "PRAGMA "+pragma)[0][0].Int; got != want {
			t.Errorf("%s = %d, want %d", pragma, got, want)
		}
	}
}

func TestRefusesWhatIsNotADatabase(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	must(t, os.WriteFile(text, []byte(strings.Repeat("not a database at all\n", 300)), 0o600))
	for path, kind := range map[string]base.Kind{
		text: base.KindCorrupt, dir: base.KindUnavailable, filepath.Join(dir, "none", "x.db"): base.KindUnavailable,
	} {
		_, err := sqlite.OpenDatabase(t.Context(), path, sqlite.Options{})
		if base.KindOf(err) != kind || !strings.Contains(fmt.Sprint(err), path) {
			t.Errorf("%s: got %s %v", path, base.KindOf(err), err)
		}
	}
}

func TestRefusesUTF16(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.db")
	c := openConn(t, path, sqlite.RoleWriter)
	must(t, c.Exec("PRAGMA encoding='UTF-16le'; CREATE TABLE t(a)"))
	if _, err := sqlite.OpenDatabase(t.Context(), path, sqlite.Options{}); base.KindOf(err) != base.KindUnsupported {
		t.Errorf("got %v", err)
	}
}

func TestConvertsAnExistingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?c#d%41.db")
	c := openConn(t, path, sqlite.RoleWriter)
	must(t, c.Exec("PRAGMA journal_mode=DELETE; CREATE TABLE t(a); INSERT INTO t VALUES(7)"))
	must(t, c.Close())
	if _, err := os.Stat(path); err != nil {
		t.Fatal("the path is taken for something else: ", err)
	}
	w := openWriter(t, openDatabase(t, path, sqlite.Options{}), "")
	if mode := string(rows(t, w, "PRAGMA journal_mode")[0][0].Bytes); mode != "wal" || count(t, w, "t") != 1 {
		t.Errorf("mode %s", mode)
	}
}

func TestOneWriterAtATime(t *testing.T) {
	d, w := newDatabase(t, sqlite.Options{}, "")
	if _, err := d.OpenWriter(t.Context(), sqlite.RoleApplier); base.KindOf(err) != base.KindBusy {
		t.Errorf("second writer: %v", err)
	}
	if err := d.Close(); base.KindOf(err) != base.KindBusy {
		t.Errorf("close under a writer: %v", err)
	}
	must(t, w.Close())
	a, err := d.OpenWriter(t.Context(), sqlite.RoleApplier)
	must(t, err)
	must(t, a.Close())
	if _, err := d.OpenWriter(t.Context(), sqlite.RoleReader); base.KindOf(err) != base.KindInvalid {
		t.Errorf("a reader as writer: %v", err)
	}
}

func TestReadersWaitInTurn(t *testing.T) {
	d, _ := newDatabase(t, sqlite.Options{Readers: 1}, "CREATE TABLE t(a)")
	r, err := d.Reader(t.Context())
	must(t, err)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(base.Errorf(base.KindTimeout, "waited too long"))
	if _, err := d.Reader(ctx); base.KindOf(err) != base.KindTimeout {
		t.Errorf("got %v", err)
	}
	got := make(chan *sqlite.Conn)
	go func() {
		r, err := d.Reader(context.Background())
		if err != nil {
			t.Error(err)
		}
		got <- r
	}()
	d.ReleaseReader(r)
	again := <-got
	if again != r {
		t.Error("the idle reader was not used")
	}
	d.ReleaseReader(again)
}

func TestReleasedReaderIsClean(t *testing.T) {
	d, w := newDatabase(t, sqlite.Options{Readers: 1}, "CREATE TABLE t(a); INSERT INTO t VALUES(1)")
	r, err := d.Reader(t.Context())
	must(t, err)
	must(t, r.Begin())
	count(t, r, "t")
	ctx, cancel := context.WithCancel(t.Context())
	r.SetInterrupt(ctx)
	r.SetGuard(sqlite.GuardOwn)
	cancel()
	d.ReleaseReader(r)
	must(t, w.Exec("INSERT INTO t VALUES(2); CREATE TABLE _skein_m(a)"))
	r, err = d.Reader(t.Context())
	must(t, err)
	defer d.ReleaseReader(r)
	if n := count(t, r, "t"); n != 2 || r.InTransaction() {
		t.Errorf("%d rows: the old snapshot is still held", n)
	}
	if err := run(r, "SELECT * FROM _skein_m"); base.KindOf(err) != base.KindForbidden {
		t.Errorf("the guard is still lifted: %v", err)
	}
}

func TestTrimIdleClosesWhatIsNotNeeded(t *testing.T) {
	d, _ := newDatabase(t, sqlite.Options{Readers: 4}, "")
	lend := func(n int) {
		var out []*sqlite.Conn
		for range n {
			r, err := d.Reader(t.Context())
			must(t, err)
			out = append(out, r)
		}
		for _, r := range out {
			d.ReleaseReader(r)
		}
	}
	lend(4)
	if n := d.TrimIdle(); n != 0 {
		t.Errorf("closed %d that have just been needed", n)
	}
	lend(3)
	lend(1)
	if n := d.TrimIdle(); n != 1 {
		t.Errorf("closed %d of 4, want the one that was not needed", n)
	}
	if n := d.TrimIdle(); n != 3 {
		t.Errorf("closed %d, want the other 3", n)
	}
}

func TestClosedDatabaseRefuses(t *testing.T) {
	d, w := newDatabase(t, sqlite.Options{}, "")
	must(t, w.Close())
	must(t, d.Close())
	must(t, d.Close())
	_, rerr := d.Reader(t.Context())
	_, werr := d.OpenWriter(t.Context(), sqlite.RoleWriter)
	_, serr := d.Snapshot(t.Context())
	_, _, cerr := d.Checkpoint(t.Context(), sqlite.CheckpointPassive)
	for _, err := range []error{rerr, werr, serr, cerr} {
		if base.KindOf(err) != base.KindShutdown {
			t.Errorf("got %v", err)
		}
	}
}

func TestCheckpoint(t *testing.T) {
	d, w := newDatabase(t, sqlite.Options{}, "CREATE TABLE t(id INTEGER PRIMARY KEY, n, s)")
	fill(t, w, 10_000)
	size, err := d.WALSize()
	must(t, err)
	if size < 300_000 {
		t.Errorf("the -wal has %d bytes before", size)
	}
	frames, done, err := d.Checkpoint(t.Context(), sqlite.CheckpointPassive)
	if err != nil || frames == 0 || frames != done {
		t.Errorf("%d of %d frames, %v", done, frames, err)
	}
	if _, _, err := d.Checkpoint(t.Context(), sqlite.CheckpointTruncate); err != nil {
		t.Error(err)
	}
	if size, err := d.WALSize(); err != nil || size != 0 {
		t.Errorf("the -wal has %d bytes after, %v", size, err)
	}
}

// A reader holds back only its own frames and a checkpoint returns soon.
func TestCheckpointUnderAReader(t *testing.T) {
	d, w := newDatabase(t, sqlite.Options{}, "CREATE TABLE t(a); INSERT INTO t VALUES(1)")
	r, err := d.Reader(t.Context())
	must(t, err)
	defer d.ReleaseReader(r)
	must(t, r.Begin())
	count(t, r, "t")
	must(t, w.Exec("INSERT INTO t VALUES(2)"))
	frames, done, err := d.Checkpoint(t.Context(), sqlite.CheckpointPassive)
	if err != nil || done >= frames {
		t.Errorf("%d of %d frames, %v", done, frames, err)
	}
	if _, _, err := d.Checkpoint(t.Context(), sqlite.CheckpointTruncate); base.KindOf(err) != base.KindBusy {
		t.Errorf("truncate: %v", err)
	}
}

func TestSnapshotIsOfOneMomentWhileWritingGoesOn(t *testing.T) {
	d, w := newDatabase(t, sqlite.Options{}, "CREATE TABLE t(id INTEGER PRIMARY KEY, n, s); CREATE TABLE _skein_position(p); INSERT INTO _skein_position VALUES(1)")
	fill(t, w, 20_000)
	must(t, w.Exec("DELETE FROM t WHERE id % 3 = 0")) // so that pages are free and half full
	s, err := d.Snapshot(t.Context())
	must(t, err)
	defer s.Close()
	before, err := s.ContentHash()
	must(t, err)
	dest := filepath.Join(t.TempDir(), "copy.db")
	var seen []int64
	must(t, s.CopyTo(t.Context(), dest, func(done, total int64) {
		seen = append(seen, done)
		must(t, w.Exec(fmt.Sprintf("UPDATE t SET n=-1 WHERE id=%d; UPDATE _skein_position SET p=p+1", len(seen))))
		if done == total {
			seen = append(seen, total)
		}
	}))
	if len(seen) < 3 || seen[len(seen)-1] != seen[len(seen)-2] {
		t.Errorf("progress %v", seen)
	}
	if p := rows(t, s.Conn(), "SELECT p FROM _skein_position")[0][0].Int; p != 1 {
		t.Errorf("the snapshot has moved to position %d", p)
	}
	copied := openDatabase(t, dest, sqlite.Options{})
	must(t, copied.QuickCheck(t.Context()))
	after, err := copied.ContentHash(t.Context())
	must(t, err)
	now, err := d.ContentHash(t.Context())
	must(t, err)
	if after != before || now == before {
		t.Errorf("snapshot %.8s, copy %.8s, now %.8s", before, after, now)
	}
	if err := s.CopyTo(t.Context(), dest, nil); base.KindOf(err) != base.KindExists {
		t.Errorf("over an existing file: %v", err)
	}
}

func TestCanceledCopyLeavesNoFile(t *testing.T) {
	d, w := newDatabase(t, sqlite.Options{}, "CREATE TABLE t(id INTEGER PRIMARY KEY, n, s)")
	fill(t, w, 50_000)
	dest := filepath.Join(t.TempDir(), "copy.db")
	ctx, cancel := context.WithCancel(t.Context())
	err := d.SnapshotTo(ctx, dest, func(done, total int64) { cancel() })
	if base.KindOf(err) != base.KindCanceled {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(dest); !os.IsNotExist(err) {
		t.Error("the file is still there")
	}
}

func TestQuickCheckFindsDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.db")
	d, err := sqlite.OpenDatabase(t.Context(), path, sqlite.Options{})
	must(t, err)
	w, err := d.OpenWriter(t.Context(), sqlite.RoleWriter)
	must(t, err)
	must(t, w.Exec("CREATE TABLE t(id INTEGER PRIMARY KEY, n, s)"))
	fill(t, w, 5000)
	must(t, w.Close())
	must(t, d.QuickCheck(t.Context()))
	must(t, d.Close())
	file, err := os.ReadFile(path)
	must(t, err)
	for i := 4096 * 3; i < 4096*6; i += 2 {
		binary.BigEndian.PutUint16(file[i:], 0x7fff)
	}
	must(t, os.WriteFile(path, file, 0o600))
	d = openDatabase(t, path, sqlite.Options{})
	if err := d.QuickCheck(t.Context()); base.KindOf(err) != base.KindCorrupt || base.AsError(err).State() != "XX001" {
		t.Errorf("got %v", err)
	}
	r, err := d.Reader(t.Context())
	must(t, err)
	defer d.ReleaseReader(r)
	if err := run(r, "SELECT sum(n) FROM t"); base.KindOf(err) != base.KindCorrupt || !sqlite.IsFatal(err) {
		t.Errorf("reading it: %v", err)
	}
}

// A client can make a full-text index contradict its table; that says nothing
// of the file.
func TestASpoiltFullTextIndexIsNoDamage(t *testing.T) {
	d, w := newDatabase(t, sqlite.Options{}, `CREATE TABLE doc(id INTEGER PRIMARY KEY, body CHECK (body REGEXP '.'));
		CREATE VIRTUAL TABLE words USING fts5(body, content=doc, content_rowid=id);
		CREATE VIRTUAL TABLE own USING fts5(body); CREATE VIRTUAL TABLE box USING rtree(id, a, b);
		INSERT INTO own VALUES('hello world'); INSERT INTO box VALUES(1, 2, 3)`)
	w.SetGuard(sqlite.GuardWrite)
	for _, sql := range []string{
		"INSERT INTO doc VALUES(1, 'hello world')", "INSERT INTO words(words) VALUES('rebuild')", "DELETE FROM doc",
	} {
		must(t, run(w, sql))
	}
	spoilt := func(what string, err error) {
		t.Helper()
		e := base.AsError(orInternal(err))
		if e.Kind != base.KindSQL || e.State() != "XX002" || !strings.Contains(e.Hint, "rebuild") || sqlite.IsFatal(err) {
			t.Errorf("%s: %s %s %v, hint %q", what, e.Kind, e.State(), err, e.Hint)
		}
	}
	spoilt("the client's check", run(w, "INSERT INTO words(words, rank) VALUES('integrity-check', 1)"))
	must(t, w.Close())
	must(t, d.VirtualCheck(t.Context()))
	// An applier writes whatever rows its leader has.
	a, err := d.OpenWriter(t.Context(), sqlite.RoleApplier)
	must(t, err)
	must(t, a.Exec("UPDATE own_data SET block = x'00ff00ff00ff' WHERE id > 10; UPDATE box_node SET data = x'0102'"))
	must(t, a.Close())
	must(t, d.QuickCheck(t.Context()))
	spoilt("our check", d.VirtualCheck(t.Context()))
	r, err := d.Reader(t.Context())
	must(t, err)
	defer d.ReleaseReader(r)
	spoilt("a reader of text", run(r, "SELECT * FROM own WHERE own MATCH 'hello'"))
	spoilt("a reader of boxes", run(r, "SELECT * FROM box"))
}

func TestContentHash(t *testing.T) {
	hash := func(sql string) string {
		t.Helper()
		d, _ := newDatabase(t, sqlite.Options{}, sql)
		h, err := d.ContentHash(t.Context())
		must(t, err)
		return h
	}
	const schema = "CREATE TABLE t(a, b); CREATE TABLE w(k TEXT PRIMARY KEY COLLATE NOCASE, v) WITHOUT ROWID; CREATE TABLE s(id INTEGER PRIMARY KEY AUTOINCREMENT);"
	base := hash(schema + "INSERT INTO t(rowid, a, b) VALUES(1, 1, 'x'),(5, 2, 'y'); INSERT INTO w VALUES('b', 1),('A', 2); INSERT INTO s VALUES(3)")
	same := hash(schema + "CREATE TABLE _skein_m(a); CREATE INDEX _skein_i ON _skein_m(a); INSERT INTO t(rowid, a, b) VALUES(5, 2, 'y'),(2, 0, 0),(1, 1, 'x'); DELETE FROM t WHERE rowid=2;" +
		"INSERT INTO w VALUES('A', 2),('b', 1); INSERT INTO s VALUES(3); ANALYZE")
	if base != same {
		t.Error("equal content has different hashes")
	}
	for name, sql := range map[string]string{
		"rowid":      "INSERT INTO t(rowid, a, b) VALUES(2, 1, 'x'),(5, 2, 'y'); INSERT INTO w VALUES('b', 1),('A', 2); INSERT INTO s VALUES(3)",
		"real":       "INSERT INTO t(rowid, a, b) VALUES(1, 1.0, 'x'),(5, 2, 'y'); INSERT INTO w VALUES('b', 1),('A', 2); INSERT INTO s VALUES(3)",
		"blob":       "INSERT INTO t(rowid, a, b) VALUES(1, 1, x'78'),(5, 2, 'y'); INSERT INTO w VALUES('b', 1),('A', 2); INSERT INTO s VALUES(3)",
		"case":       "INSERT INTO t(rowid, a, b) VALUES(1, 1, 'x'),(5, 2, 'y'); INSERT INTO w VALUES('b', 1),('a', 2); INSERT INTO s VALUES(3)",
		"sequence":   "INSERT INTO t(rowid, a, b) VALUES(1, 1, 'x'),(5, 2, 'y'); INSERT INTO w VALUES('b', 1),('A', 2); INSERT INTO s VALUES(3),(4); DELETE FROM s WHERE id=4",
		"index":      "CREATE INDEX i ON t(a); INSERT INTO t(rowid, a, b) VALUES(1, 1, 'x'),(5, 2, 'y'); INSERT INTO w VALUES('b', 1),('A', 2); INSERT INTO s VALUES(3)",
		"row's edge": "INSERT INTO t(rowid, a, b) VALUES(1, 1, 'xy'),(5, 2, ''); INSERT INTO w VALUES('b', 1),('A', 2); INSERT INTO s VALUES(3)",
	} {
		if hash(schema+sql) == base {
			t.Errorf("%s: different content has the same hash", name)
		}
	}
	// Tables with odd names, generated columns and every name of the rowid taken.
	hash(`CREATE TABLE "o""dd"(rowid, _rowid_, oid); INSERT INTO "o""dd" VALUES(1, 2, 3); CREATE TABLE g(a, b AS (a+1), c AS (a+2) STORED); INSERT INTO g VALUES(1);
		CREATE VIRTUAL TABLE ft USING fts5(x); INSERT INTO ft VALUES('hello'); CREATE VIRTUAL TABLE r USING rtree(id, x0, x1)`)
}

func TestDescribe(t *testing.T) {
	d, w := newDatabase(t, sqlite.Options{}, "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a VARCHAR(10)); CREATE TABLE q(a)")
	for _, e := range []struct {
		sql  string
		want sqlite.Info
		cols int
	}{
		{"SELECT id, a, 1+1 FROM t WHERE id=?2", sqlite.Info{Kind: session.Read, Tag: "SELECT", Params: 2, ReadOnly: true, Returns: true}, 3},
		{"VALUES(1)", sqlite.Info{Kind: session.Read, Tag: "SELECT", ReadOnly: true, Returns: true}, 1},
		{"WITH x AS (SELECT 1) SELECT * FROM x", sqlite.Info{Kind: session.Read, Tag: "SELECT", ReadOnly: true, Returns: true}, 1},
		{"WITH x AS (SELECT 1 AS i) DELETE FROM t WHERE id IN (SELECT i FROM x)", sqlite.Info{Kind: session.Write, Tag: "DELETE", Table: "t"}, 0},
		{"REPLACE INTO t VALUES(?, ?)", sqlite.Info{Kind: session.Write, Tag: "INSERT", Table: "t", Params: 2}, 0},
		{"INSERT INTO t(a) VALUES(1) RETURNING id", sqlite.Info{Kind: session.Write, Tag: "INSERT", Table: "t", Returns: true}, 1},
		{"UPDATE t SET a=:x", sqlite.Info{Kind: session.Write, Tag: "UPDATE", Table: "t", Params: 1}, 0},
		{"DELETE FROM sqlite_sequence", sqlite.Info{Kind: session.Write, Tag: "DELETE", Table: "sqlite_sequence", WritesSequence: true}, 0},
		{"CREATE TABLE n AS SELECT * FROM t", sqlite.Info{Kind: session.Schema, Tag: "CREATE TABLE", Table: "n", CreatesTableAs: true}, 0},
		{"CREATE TABLE n(a INTEGER PRIMARY KEY AUTOINCREMENT, b DEFAULT (1+1))", sqlite.Info{Kind: session.Schema, Tag: "CREATE TABLE", Table: "n"}, 0},
		{"CREATE VIEW n AS SELECT * FROM t", sqlite.Info{Kind: session.Schema, Tag: "CREATE VIEW", Table: "n"}, 0},
		{"CREATE VIRTUAL TABLE n USING fts5(x)", sqlite.Info{Kind: session.Schema, Tag: "CREATE TABLE", Table: "n"}, 0},
		{"CREATE UNIQUE INDEX n ON t(a)", sqlite.Info{Kind: session.Schema, Tag: "CREATE INDEX", Table: "n"}, 0},
		{"CREATE TRIGGER n AFTER INSERT ON t BEGIN DELETE FROM q; END", sqlite.Info{Kind: session.Schema, Tag: "CREATE TRIGGER", Table: "n"}, 0},
		{"DROP TABLE t", sqlite.Info{Kind: session.Schema, Tag: "DROP TABLE", Table: "t"}, 0},
		{"ALTER TABLE t ADD COLUMN z", sqlite.Info{Kind: session.Schema, Tag: "ALTER TABLE", Table: "t"}, 0},
		{"ALTER TABLE t RENAME TO z", sqlite.Info{Kind: session.Schema, Tag: "ALTER TABLE", Table: "t"}, 0},
		{"EXPLAIN DELETE FROM t", sqlite.Info{Kind: session.Read, Tag: "EXPLAIN", ReadOnly: true, Returns: true}, 8},
		{"PRAGMA table_info(t)", sqlite.Info{Kind: session.Read, Tag: "PRAGMA", ReadOnly: true, Returns: true}, 6},
		{"BEGIN", sqlite.Info{Kind: session.Begin, Tag: "BEGIN", ReadOnly: true}, 0},
		{"SET skein.read TO any", sqlite.Info{Kind: session.Setting, Tag: "SET", ReadOnly: true}, 0},
		{"", sqlite.Info{Kind: session.Empty}, 0},
	} {
		for range 2 { // compiled, then remembered
			desc, info, err := d.Describe(t.Context(), e.sql, sqlite.GuardWrite)
			if err != nil || info != e.want || len(desc.Columns) != e.cols || desc.Kind != info.Kind || desc.Tag != info.Tag || desc.Params != info.Params {
				t.Errorf("%s\n\tgot %+v %+v %v\n\twant %+v", e.sql, info, desc, err, e.want)
			}
		}
	}
	desc, _, err := d.Describe(t.Context(), "SELECT a AS x, 1 FROM t", sqlite.GuardRead)
	must(t, err)
	if c := desc.Columns; c[0] != (session.Column{Name: "x", DeclType: "VARCHAR(10)", Table: "t", Origin: "a"}) || c[1] != (session.Column{Name: "1"}) {
		t.Errorf("columns %+v", c)
	}
	if _, _, err := d.Describe(t.Context(), "REPLACE INTO t VALUES(?, ?)", sqlite.GuardRead); base.KindOf(err) != base.KindForbidden {
		t.Errorf("what is remembered for writers passes a reader's guard: %v", err)
	}
	_ = w
}

func TestDescribeFollowsSchemaChanges(t *testing.T) {
	d, w := newDatabase(t, sqlite.Options{}, "CREATE TABLE t(a)")
	columns := func() int {
		desc, _, err := d.Describe(t.Context(), "SELECT * FROM t", sqlite.GuardRead)
		must(t, err)
		return len(desc.Columns)
	}
	if n := columns(); n != 1 {
		t.Fatal(n)
	}
	must(t, w.BeginImmediate())
	must(t, run(w, "ALTER TABLE t ADD COLUMN b"))
	if n := columns(); n != 1 {
		t.Errorf("%d columns before the commit", n)
	}
	must(t, w.Commit())
	if n := columns(); n != 2 {
		t.Errorf("%d columns after the commit", n)
	}
	g := d.Generation()
	must(t, run(w, "INSERT INTO t VALUES(1, 2)"))
	if d.Generation() != g {
		t.Error("a row counts as a schema change")
	}
	must(t, run(w, "ALTER TABLE t ADD COLUMN c"))
	if n := columns(); n != 3 {
		t.Errorf("%d columns after a change without a transaction", n)
	}
}

func TestReadersAndWriterTogether(t *testing.T) {
	d, w := newDatabase(t, sqlite.Options{}, "CREATE TABLE t(a, b)")
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				r, err := d.Reader(context.Background())
				if err != nil {
					t.Error(err)
					return
				}
				if got := rows(t, r, "SELECT coalesce(sum(a),0) - coalesce(sum(b),0) FROM t")[0][0].Int; got != 0 {
					t.Errorf("a half transaction: %d", got)
				}
				d.ReleaseReader(r)
			}
		})
	}
	for i := range 200 {
		must(t, w.BeginImmediate())
		must(t, run(w, "INSERT INTO t VALUES(?, 0)", base.IntValue(int64(i))))
		must(t, run(w, "INSERT INTO t VALUES(0, ?)", base.IntValue(int64(i))))
		must(t, w.Commit())
		if i%50 == 0 {
			_, _, err := d.Checkpoint(t.Context(), sqlite.CheckpointPassive)
			must(t, err)
		}
	}
	close(stop)
	wg.Wait()
}

package skein_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/skeindb/skein"
	"github.com/skeindb/skein/internal/token"
)

func open(t *testing.T, o skein.Options) *skein.Node {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	n, err := skein.Open(context.Background(), o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func database(t *testing.T, n *skein.Node, statements ...string) *skein.DB {
	t.Helper()
	db, err := n.EnsureDatabase(context.Background(), "main", skein.Policy{})
	if err != nil {
		t.Fatalf("ensure database: %v", err)
	}
	for _, s := range statements {
		exec(t, db, s)
	}
	return db
}

func exec(t *testing.T, db *skein.DB, sql string, args ...any) skein.Result {
	t.Helper()
	r, err := db.Exec(context.Background(), sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return r
}

func TestDataOutlivesTheNode(t *testing.T) {
	dir := t.TempDir()
	n := open(t, skein.Options{Dir: dir})
	exec(t, database(t, n, "CREATE TABLE t(x)"), "INSERT INTO t VALUES (?1)", "kept")
	if err := n.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	n = open(t, skein.Options{Dir: dir})
	var x string
	if err := database(t, n).QueryRow(context.Background(), "SELECT x FROM t").Scan(&x); err != nil || x != "kept" {
		t.Fatalf("after a restart: %q, %v", x, err)
	}
}

func TestErrorsKeepKindAndOutcome(t *testing.T) {
	ctx := context.Background()
	n := open(t, skein.Options{})
	db := database(t, n, "CREATE TABLE t(x INTEGER PRIMARY KEY)", "INSERT INTO t VALUES (1)")
	for _, c := range []struct {
		name string
		err  error
		kind skein.Kind
	}{
		{"a constraint", second(db.Exec(ctx, "INSERT INTO t VALUES (1)")), skein.KindSQL},
		{"a mistake", second(db.Exec(ctx, "INSRT")), skein.KindSQL},
		{"no database", second(n.Database("none").Exec(ctx, "SELECT 1")), skein.KindNotFound},
		{"a database twice", n.CreateDatabase(ctx, "main", skein.Policy{}), skein.KindExists},
		{"a model that is not there", n.CreateDatabase(ctx, "other", skein.Policy{Model: "multi"}), "unsupported"},
		{"a parameter of no type", second(db.Exec(ctx, "INSERT INTO t VALUES (?1)", make(chan int))), skein.KindInvalid},
		{"a token of nobody", db.SetToken("nonsense"), skein.KindInvalid},
		{"a setting without meaning", second(db.With(skein.WithRead("tomorrow")).Exec(ctx, "SELECT 1")), skein.KindInvalid},
	} {
		if got := skein.KindOf(c.err); got != c.kind {
			t.Errorf("%s: %v (%s), want %s", c.name, c.err, got, c.kind)
		}
		if e, ok := errors.AsType[*skein.Error](c.err); ok && e.Outcome != "" && e.Outcome != skein.NotDone {
			t.Errorf("%s: outcome %q", c.name, e.Outcome)
		}
	}
	if _, err := skein.Open(ctx, skein.Options{}); skein.KindOf(err) != skein.KindInvalid {
		t.Errorf("no folder: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestValuesComeBackAsTheyWere(t *testing.T) {
	ctx := context.Background()
	db := database(t, open(t, skein.Options{}))
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	var (
		i    int
		i64  int64
		f    float64
		s    string
		b    []byte
		yes  bool
		tm   time.Time
		null any
		ns   sql.NullString
	)
	row := db.QueryRow(ctx, "SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10",
		7, int64(1)<<62, 0.5, "text", []byte{0, 1}, true, at, nil, sql.NullString{String: "s", Valid: true}, uint8(9))
	if err := row.Scan(&i, &i64, &f, &s, &b, &yes, &tm, &null, &ns, nil); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(i, i64, f, s, b, yes, tm.Equal(at), null, ns)
	if want := fmt.Sprint(7, int64(1)<<62, 0.5, "text", []byte{0, 1}, true, true, nil, sql.NullString{String: "s", Valid: true}); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for _, c := range []struct {
		sql  string
		into any
	}{{"SELECT NULL", &i}, {"SELECT 'x'", &i}, {"SELECT 1.5", &i64}, {"SELECT 1", new(struct{})}, {"SELECT 1, 2", &i}} {
		if err := db.QueryRow(ctx, c.sql).Scan(c.into); err == nil {
			t.Errorf("%s went into %T", c.sql, c.into)
		}
	}
	if err := db.QueryRow(ctx, "SELECT 1 WHERE 0").Scan(&i); !errors.Is(err, skein.ErrNoRows) {
		t.Errorf("no row: %v", err)
	}
}

// A scanned value must not change when the result moves on: its bytes were
// SQLite's.
func TestScannedBytesAreTheCallers(t *testing.T) {
	db := database(t, open(t, skein.Options{}))
	rows, err := db.Query(context.Background(), "SELECT CAST(printf('%03d', value) AS BLOB) FROM (SELECT 1 AS value UNION ALL SELECT 2 UNION ALL SELECT 3)")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var got [][]byte
	var values []any
	for rows.Next() {
		var b []byte
		if err := rows.Scan(&b); err != nil {
			t.Fatal(err)
		}
		got, values = append(got, b), append(values, rows.Values()...)
	}
	if fmt.Sprint(got, values) != "[[48 48 49] [48 48 50] [48 48 51]] [[48 48 49] [48 48 50] [48 48 51]]" {
		t.Errorf("got %v %v", got, values)
	}
}

func TestTransactions(t *testing.T) {
	ctx := context.Background()
	db := database(t, open(t, skein.Options{}), "CREATE TABLE t(x INTEGER PRIMARY KEY)")
	count := func() (n int) {
		if err := db.QueryRow(ctx, "SELECT count(*) FROM t").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	tx, err := db.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, "INSERT INTO t VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 0 {
		t.Errorf("%d rows before the commit", n)
	}
	if r, err := tx.Commit(ctx); err != nil || r.Position.Seq == 0 || r.Reached == "" {
		t.Fatalf("commit: %+v, %v", r, err)
	}
	if n := count(); n != 1 {
		t.Errorf("%d rows after the commit", n)
	}
	if _, err := tx.Exec(ctx, "INSERT INTO t VALUES (2)"); skein.KindOf(err) != skein.KindInvalid {
		t.Errorf("a statement after the commit: %v", err)
	}
	broken := errors.New("broken")
	if _, err := db.InTx(ctx, func(tx *skein.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO t VALUES (3)"); err != nil {
			return err
		}
		return broken
	}); err != broken {
		t.Errorf("InTx returned %v", err)
	}
	if _, err := db.InTx(ctx, func(tx *skein.Tx) error {
		_, _ = tx.Exec(ctx, "INSERT INTO t VALUES (4)")
		_, _ = tx.Exec(ctx, "INSERT INTO t VALUES (4)") // It fails, and nobody looks.
		return nil
	}); err == nil {
		t.Error("a transaction with a failed statement was committed")
	}
	if n := count(); n != 1 {
		t.Errorf("%d rows after two rollbacks", n)
	}
}

// Every transaction here has read what another is about to change: each must
// count all the same.
func TestInTxRunsConflictsAgain(t *testing.T) {
	ctx := context.Background()
	db := database(t, open(t, skein.Options{}), "CREATE TABLE n(x INTEGER)", "INSERT INTO n VALUES (0)")
	const workers, rounds = 8, 10
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range rounds {
				_, err := db.InTx(ctx, func(tx *skein.Tx) error {
					var x int
					if err := tx.QueryRow(ctx, "SELECT x FROM n").Scan(&x); err != nil {
						return err
					}
					_, err := tx.Exec(ctx, "UPDATE n SET x = ?1", x+1)
					return err
				})
				if err != nil {
					t.Errorf("transaction: %v", err)
				}
			}
		})
	}
	wg.Wait()
	var x int
	if err := db.QueryRow(ctx, "SELECT x FROM n").Scan(&x); err != nil || x != workers*rounds {
		t.Errorf("counted %d, %v; want %d", x, err, workers*rounds)
	}
}

func TestSettings(t *testing.T) {
	ctx := context.Background()
	db := database(t, open(t, skein.Options{}), "CREATE TABLE t(x)")
	async := db.With(skein.WithDurability(skein.Durability{Level: skein.Async}))
	if r := exec(t, async, "INSERT INTO t VALUES (1)"); r.Asked.Level != skein.Async {
		t.Errorf("asked for %v", r.Asked)
	}
	if r := exec(t, db, "INSERT INTO t VALUES (1)"); r.Asked.Level == skein.Async {
		t.Error("a setting of one handle came through on another")
	}
	slow := "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT count(*) FROM n"
	var n int
	if err := db.With(skein.WithTimeout(20*time.Millisecond)).QueryRow(ctx, slow).Scan(&n); skein.KindOf(err) != skein.KindTimeout {
		t.Errorf("a statement without end: %v", err)
	}
	s, err := db.Session(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Set(skein.WithRead(skein.ReadBounded(time.Second)), skein.WithTimeout(0)); err != nil {
		t.Errorf("settings of a session: %v", err)
	}
	if token, err := s.Token(); err != nil || token != db.Token() {
		t.Errorf("a new session's token is %q, %v; the handle's %q", token, err, db.Token())
	}
}

// The handle is used by many goroutines on a node that does not lead: what one
// of them has written, all others read at once.
func TestReadYourWritesAcrossPooledSessions(t *testing.T) {
	ctx := context.Background()
	first := open(t, skein.Options{Name: "n1"})
	nodes := []*skein.Node{first}
	for _, name := range []string{"n2", "n3"} {
		nodes = append(nodes, open(t, skein.Options{Name: name, Join: []string{first.PeerAddress()}}))
	}
	if err := first.CreateDatabase(ctx, "main", skein.Policy{}); err != nil {
		t.Fatal(err)
	}
	for i, n := range nodes {
		db := n.Database("main")
		exec(t, db, fmt.Sprintf("CREATE TABLE t%d(x INTEGER PRIMARY KEY)", i))
		writes := make(chan int)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for x := range writes {
					var got int
					if err := db.QueryRow(ctx, fmt.Sprintf("SELECT x FROM t%d WHERE x = ?1", i), x).Scan(&got); err != nil {
						t.Errorf("node %d: row %d was written before: %v", i+1, x, err)
					}
				}
			})
		}
		for x := range 100 {
			exec(t, db, fmt.Sprintf("INSERT INTO t%d VALUES (?1)", i), x)
			writes <- x
		}
		close(writes)
		wg.Wait()
	}
}

// What a program had seen of one database stays with what it writes into
// another, in a transaction or out of one: who sees that has heard of it.
func TestWhatWasSeenStaysWithWhatIsWritten(t *testing.T) {
	ctx := context.Background()
	n := open(t, skein.Options{})
	for i, write := range []func(*skein.DB) error{
		func(db *skein.DB) error { return second(db.Exec(ctx, "INSERT INTO t VALUES (1)")) },
		func(db *skein.DB) error {
			return second(db.InTx(ctx, func(tx *skein.Tx) error { return second(tx.Exec(ctx, "INSERT INTO t VALUES (2)")) }))
		},
	} {
		asked, answered := fmt.Sprintf("asked%d", i), fmt.Sprintf("answered%d", i)
		for _, name := range []string{asked, answered} {
			if err := n.CreateDatabase(ctx, name, skein.Policy{}); err != nil {
				t.Fatal(err)
			}
			exec(t, n.Database(name), "CREATE TABLE t(x)")
		}
		questions, answers := n.Database(asked), n.Database(answered)
		exec(t, questions, "INSERT INTO t VALUES (1)")
		if err := answers.SetToken(questions.Token()); err != nil {
			t.Fatal(err)
		}
		if err := write(answers); err != nil {
			t.Fatal(err)
		}
		stranger := n.Database(answered)
		var x int
		if err := stranger.QueryRow(ctx, "SELECT x FROM t").Scan(&x); err != nil {
			t.Fatal(err)
		}
		seen, err := token.Parse(stranger.Token())
		if err != nil || seen.Databases() != 2 {
			t.Errorf("write %d: who has seen it knows of %d databases, %v", i, seen.Databases(), err)
		}
	}
}

func TestRowsGiveTheirSessionBack(t *testing.T) {
	ctx := context.Background()
	db := database(t, open(t, skein.Options{}), "CREATE TABLE t(x)")
	rows, err := db.Query(ctx, "VALUES (1), (2)")
	if err != nil {
		t.Fatal(err)
	}
	if !rows.Next() {
		t.Fatal(rows.Err())
	}
	exec(t, db, "INSERT INTO t VALUES (1)") // It needs a session of its own.
	if !rows.Next() || rows.Close() != nil || rows.Close() != nil || rows.Next() {
		t.Error("the rows did not survive another statement, or their close")
	}
	var n int
	if err := db.QueryRow(ctx, "SELECT count(*) FROM t").Scan(&n); err != nil || n != 1 {
		t.Errorf("count %d, %v", n, err)
	}
}

// What a session has done it sees, and hands on with its token.
func TestSessions(t *testing.T) {
	ctx := context.Background()
	db := database(t, open(t, skein.Options{}), "CREATE TABLE t(x)")
	s, err := db.Session(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := s.Exec(ctx, "INSERT INTO t VALUES (1), (2)")
	if err != nil || r.RowsAffected != 2 || r.Reached == "" {
		t.Errorf("insert: %+v, %v", r, err)
	}
	tx, err := s.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, "DELETE FROM t"); err != nil {
		t.Error(err)
	}
	if err := tx.Rollback(); err != nil {
		t.Error(err)
	}
	rows, err := s.Query(ctx, "SELECT count(*) AS n, sum(x) AS total FROM t")
	if err != nil {
		t.Fatal(err)
	}
	if got := rows.Columns(); !slices.Equal(got, []string{"n", "total"}) {
		t.Errorf("columns %q", got)
	}
	if err := rows.Close(); err != nil {
		t.Error(err)
	}
	seen, err := s.Token()
	if err != nil || seen == "" {
		t.Fatalf("token %q, %v", seen, err)
	}
	other, err := db.Session(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.SetToken("nonsense"); skein.KindOf(err) != skein.KindInvalid {
		t.Errorf("a token of nobody: %v", err)
	}
	if err := errors.Join(other.SetToken(seen), other.Close()); err != nil {
		t.Error(err)
	}
	// Closing a session undoes what it has open.
	if _, err := s.Begin(ctx); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := errors.Join(s.QueryRow(ctx, "DELETE FROM t RETURNING x").Scan(&n), s.Close()); err != nil {
		t.Error(err)
	}
	if err := db.QueryRow(ctx, "SELECT count(*) FROM t").Scan(&n); err != nil || n != 2 {
		t.Errorf("%d rows, %v", n, err)
	}
}

func TestDatabasesComeAndGo(t *testing.T) {
	ctx := context.Background()
	n := open(t, skein.Options{})
	all, err := skein.ParseDurability("all applied")
	if err != nil || all != (skein.Durability{Level: skein.All, When: skein.Applied}) {
		t.Fatalf("%+v, %v", all, err)
	}
	for _, name := range []string{"second", "first"} {
		if err := n.CreateDatabase(ctx, name, skein.Policy{Durability: all}); err != nil {
			t.Fatal(err)
		}
	}
	if got := n.Databases(); !slices.Equal(got, []string{"first", "second"}) {
		t.Errorf("databases %q", got)
	}
	if r := exec(t, n.Database("first"), "CREATE TABLE t(x)"); r.Asked != all {
		t.Errorf("asked for %+v", r.Asked)
	}
	if err := n.DropDatabase(ctx, "first"); err != nil {
		t.Fatal(err)
	}
	if got := n.Databases(); !slices.Equal(got, []string{"second"}) {
		t.Errorf("databases %q", got)
	}
	gone := n.Database("first")
	if _, err := gone.Exec(ctx, "SELECT 1"); skein.KindOf(err) != skein.KindNotFound || gone.Name() != "first" {
		t.Errorf("%s is dropped: %v", gone.Name(), err)
	}
	if n.ID() == "" || n.Err() != nil {
		t.Errorf("node %q: %v", n.ID(), n.Err())
	}
}

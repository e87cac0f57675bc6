package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// A token carries what a client has seen to any other node, and the read levels
// do what their names say.
func TestTokensAndReadLevels(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	leader := c.leader("main")
	a, b := c.others(leader)[0], c.others(leader)[1]
	writer, reader := a.mustConnect("main"), b.mustConnect("main")
	exec1(t, writer, "create table t(id integer primary key)")
	for i := range 100 {
		exec1(t, writer, "insert into t values($1)", i)
		token := value(t, writer, "show skein.token")
		exec1(t, reader, "set skein.token = '"+token+"'")
		if got := value(t, reader, "select count(*) from t where id = $1", i); got != "1" {
			t.Fatalf("write %d is not seen with its token", i)
		}
	}
	// A replica that cannot come as far waits, and then says so; it never lies.
	b.signal(syscall.SIGSTOP)
	for i := range 50 {
		exec1(t, writer, "insert into t values($1)", 1000+i)
	}
	token := value(t, writer, "show skein.token")
	b.signal(syscall.SIGCONT)
	exec1(t, reader, "set skein.token = '"+token+"'")
	if got := value(t, reader, "select count(*) from t where id >= 1000"); got != "50" {
		t.Errorf("after it woke: %s of 50 rows", got)
	}
	for _, level := range []string{"any", "bounded(10s)", "session", "leader"} {
		exec1(t, reader, "set skein.read = '"+level+"'")
		if got := value(t, reader, "show skein.read"); got != level {
			t.Errorf("show skein.read: %q, want %q", got, level)
		}
		if got := value(t, reader, "select count(*) from t"); got != "150" {
			t.Errorf("level %s: %s rows", level, got)
		}
		t.Logf("%s: %s", level, value(t, reader, "show skein.last_read"))
	}
	_, err := reader.Exec(background(t), "set skein.read = 'sometimes'")
	wantState(t, "an unknown level", err, "22023")
	_, err = reader.Exec(background(t), "set skein.token = 'rubbish'")
	wantState(t, "a token that is none", err, "22023")
	// With the leader frozen a bounded read at a follower errs rather than lie.
	exec1(t, reader, "set skein.read = 'bounded(300ms)'")
	for _, n := range []*node{leader, a} {
		n.signal(syscall.SIGSTOP)
	}
	eventually(t, patience, "a bounded read errs", func() error {
		ctx, cancel := context.WithTimeout(background(t), 20*time.Second)
		defer cancel()
		if got, err := tryValue(ctx, reader, "select count(*) from t"); err == nil {
			return fmt.Errorf("it answered %s", got)
		} else if sqlState(err) == "" {
			t.Errorf("no SQLSTATE: %v", err)
		} else {
			t.Logf("bounded with nobody to ask: %v", err)
		}
		return nil
	})
	exec1(t, b.mustConnect("main"), "set skein.read = 'any'")
	anyReader := b.mustConnect("main")
	exec1(t, anyReader, "set skein.read = 'any'")
	if got := value(t, anyReader, "select count(*) from t"); got != "150" {
		t.Errorf("any, alone: %s", got)
	}
	for _, n := range []*node{leader, a} {
		n.signal(syscall.SIGCONT)
	}
}

// Interactive transactions through a follower: whole or not at all, refused
// when their snapshot is stale, and never in the way for long.
func TestTransactionsThroughAFollower(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	leader := c.leader("main")
	a, b := c.others(leader)[0], c.others(leader)[1]
	one, two := a.mustConnect("main"), b.mustConnect("main")
	ctx := background(t)
	exec1(t, one, "create table account(id integer primary key, cents integer not null); insert into account values(1, 100), (2, 100);")

	tx, err := one.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var cents int
	if err := tx.QueryRow(ctx, "select cents from account where id = 1").Scan(&cents); err != nil || cents != 100 {
		t.Fatal(cents, err)
	}
	mustTx(t, tx, "update account set cents = $1 where id = 1", cents-30)
	mustTx(t, tx, "savepoint s")
	mustTx(t, tx, "update account set cents = 0")
	mustTx(t, tx, "rollback to s")
	mustTx(t, tx, "update account set cents = cents + 30 where id = 2")
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	exec1(t, two, "set skein.read = 'leader'")
	if got := value(t, two, "select group_concat(cents, ',') from account"); got != "70,130" {
		t.Errorf("after the transfer: %s", got)
	}
	staleSnapshot(t, one, two)
	lostUpdates(t, c)
	idleTransaction(t, c, one, two)

	// A client that is gone in mid-transaction leaves nothing and frees the writer.
	gone, err := a.connect(ctx, "main")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gone.Exec(ctx, "begin; update account set cents = -1"); err != nil {
		t.Fatal(err)
	}
	gone.PgConn().Conn().Close()
	began := time.Now()
	exec1(t, two, "update account set cents = cents where id = 1")
	t.Logf("a write waited %v for the client that was gone", time.Since(began).Round(time.Millisecond))
	if got := value(t, two, "select count(*) from account where cents = -1"); got != "0" {
		t.Error("half a transaction was kept")
	}
	copyInAndOut(t, one, two)
	c.equal("main", 3)
}

func mustTx(t *testing.T, tx pgx.Tx, sql string, args ...any) {
	t.Helper()
	if _, err := tx.Exec(background(t), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// staleSnapshot: a transaction that has read what another has changed since
// cannot write.
func staleSnapshot(t *testing.T, one, two *pgx.Conn) {
	t.Helper()
	ctx := background(t)
	tx, err := one.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.QueryRow(ctx, "select cents from account where id = 1").Scan(new(int)); err != nil {
		t.Fatal(err)
	}
	exec1(t, two, "update account set cents = cents + 1 where id = 1")
	_, err = tx.Exec(ctx, "update account set cents = cents + 1 where id = 1")
	if err == nil {
		err = tx.Commit(ctx)
	}
	wantState(t, "a write on a stale snapshot", err, "40001")
	_ = tx.Rollback(ctx) // It has failed already.
}

// lostUpdates: read-modify-write from all nodes at once, run again at 40001,
// counts exactly.
func lostUpdates(t *testing.T, c *cluster) {
	t.Helper()
	const each = 20
	exec1(t, c.nodes[0].mustConnect("main"), "create table counter(n integer not null); insert into counter values(0);")
	c.equal("main", 3) // Sessions at the other nodes begin without a token.
	errs := make(chan error, len(c.nodes))
	for _, n := range c.nodes {
		conn := n.mustConnect("main")
		go func() {
			for range each {
				if err := increment(conn); err != nil {
					errs <- fmt.Errorf("%s: %w", n.name, err)
					return
				}
			}
			errs <- nil
		}()
	}
	for range c.nodes {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	conn := c.nodes[0].mustConnect("main")
	exec1(t, conn, "set skein.read = 'leader'")
	if got := value(t, conn, "select n from counter"); got != fmt.Sprint(each*len(c.nodes)) {
		t.Errorf("%s increments, want %d", got, each*len(c.nodes))
	}
}

func increment(conn *pgx.Conn) error {
	ctx := context.Background()
	for range 1000 {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			var n int
			if err := tx.QueryRow(ctx, "select n from counter").Scan(&n); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "update counter set n = $1", n+1)
			return err
		})
		if sqlState(err) != "40001" {
			return err
		}
	}
	return errors.New("no luck in 1000 attempts")
}

// idleTransaction: one that writes and then sleeps gives the writer back.
func idleTransaction(t *testing.T, c *cluster, one, two *pgx.Conn) {
	t.Helper()
	ctx := background(t)
	mustRun(t, c.nodes[0].url(), "db", "alter", "main", "--tx-idle-timeout", "1s")
	tx, err := one.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	mustTx(t, tx, "update account set cents = 7777")
	began := time.Now()
	exec1(t, two, "update account set cents = cents where id = 1")
	t.Logf("another write waited %v for the idle transaction", time.Since(began).Round(time.Millisecond))
	err = tx.Commit(ctx)
	if err == nil {
		t.Error("a transaction whose time was over has committed")
	}
	t.Logf("the idle one's commit: %v", err)
	if got := value(t, two, "select count(*) from account where cents = 7777"); got != "0" {
		t.Error("the idle transaction was kept")
	}
	_ = tx.Rollback(ctx)
}

func copyInAndOut(t *testing.T, one, two *pgx.Conn) {
	t.Helper()
	ctx := background(t)
	exec1(t, one, "create table copied(id integer primary key, name text, b blob)")
	var lines strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&lines, "%d\tname %d\t\\N\n", i, i)
	}
	tag, err := one.PgConn().CopyFrom(ctx, strings.NewReader(lines.String()), "copy copied from stdin")
	if err != nil || tag.RowsAffected() != 5000 {
		t.Errorf("copy in: %v, %v", tag, err)
	}
	var out strings.Builder
	exec1(t, two, "set skein.token = '"+value(t, one, "show skein.token")+"'")
	if _, err := two.PgConn().CopyTo(ctx, &out, "copy (select id, name, b from copied order by id) to stdout"); err != nil {
		t.Fatal(err)
	}
	if out.String() != lines.String() {
		t.Errorf("copy out gives %d bytes, in were %d", out.Len(), lines.Len())
	}
	_, err = one.PgConn().CopyFrom(ctx, strings.NewReader("9000\tx\t\\N\n1\tdouble\t\\N\n"), "copy copied from stdin")
	wantState(t, "copy with a double key", err, "23505")
	if got := value(t, one, "select count(*) from copied"); got != "5000" {
		t.Errorf("after a failed copy: %s rows", got)
	}
}

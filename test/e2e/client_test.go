package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/skeindb/skein/test/process"
)

// run runs a command of the program to its end.
func run(stdin string, env []string, args ...string) (stdout, stderr string, err error) {
	return runProgram(binary, stdin, env, args...)
}

func runProgram(program, stdin string, env []string, args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = process.Environment(env...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// mustRun is run for commands that must succeed.
func mustRun(t *testing.T, env []string, args ...string) string {
	t.Helper()
	out, errs, err := run("", env, args...)
	if err != nil {
		t.Fatalf("skein %s: %v\n%s%s", strings.Join(args, " "), err, out, errs)
	}
	return out
}

// psql runs statements with the psql of PostgreSQL and returns what it prints,
// unaligned and without headings.
func (n *node) psql(database, sql string) (string, error) {
	return n.psqlAs("someone", "", database, sql)
}

func (n *node) psqlAs(user, password, database, sql string) (string, error) {
	host, port, _ := net.SplitHostPort(n.pg)
	env := []string{"PGCONNECT_TIMEOUT=20"}
	if password != "" {
		env = append(env, "PGPASSWORD="+password)
	}
	out, errs, err := runProgram("psql", sql, env, "-h", host, "-p", port, "-U", user, "-d", database,
		"--no-psqlrc", "--no-password", "-qAt", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose", "-f", "-")
	if err != nil {
		return out, fmt.Errorf("%w: %s", err, strings.TrimSpace(errs))
	}
	return strings.TrimRight(out, "\n"), nil
}

func (n *node) mustPsql(database, sql string) string {
	n.t.Helper()
	out, err := n.psql(database, sql)
	if err != nil {
		n.t.Fatalf("psql at %s: %s: %v", n.name, sql, err)
	}
	return out
}

// connect opens a connection with a driver.
func (n *node) connect(ctx context.Context, database string) (*pgx.Conn, error) {
	c, err := pgx.ParseConfig(fmt.Sprintf("postgres://someone@%s/%s?sslmode=disable&connect_timeout=20", n.pg, database))
	if err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, c)
}

// mustConnect is connect for the length of the test.
func (n *node) mustConnect(database string) *pgx.Conn {
	n.t.Helper()
	var conn *pgx.Conn
	eventually(n.t, patience, "connect to "+n.name, func() (err error) {
		conn, err = n.connect(background(n.t), database)
		return err
	})
	n.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	})
	return conn
}

func exec1(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(background(t), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// value asks for one value, as text.
func value(t *testing.T, conn *pgx.Conn, sql string, args ...any) string {
	t.Helper()
	s, err := tryValue(background(t), conn, sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return s
}

func tryValue(ctx context.Context, conn *pgx.Conn, sql string, args ...any) (string, error) {
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	text := ""
	if rows.Next() {
		values, err := rows.Values()
		if err != nil {
			return "", err
		}
		text = fmt.Sprint(values[0])
	}
	return text, rows.Err()
}

// sqlState is the code of a PostgreSQL error, "" for any other.
func sqlState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

func wantState(t *testing.T, what string, err error, codes ...string) {
	t.Helper()
	for _, code := range codes {
		if sqlState(err) == code {
			return
		}
	}
	t.Errorf("%s: got %v, want SQLSTATE %s", what, err, strings.Join(codes, " or "))
}

// ledger records what a writer was told of each id that it wrote.
type ledger struct {
	node *node
	base int64

	mu       sync.Mutex // guards what follows
	acked    []int64
	doubtful []int64
	errs     []error
	longest  time.Duration

	count atomic.Int64
}

const ledgerTable = "create table ledger(id integer primary key, node text not null, times integer not null default 1)"

// write inserts ids one after another through one node until ctx is done. A
// failed write is counted, and the connection opened again if it was lost.
func (l *ledger) write(ctx context.Context, database string) {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close(context.Background())
		}
	}()
	for id := l.base; ctx.Err() == nil; id++ {
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = l.node.connect(ctx, database); err != nil {
				conn = nil
				select {
				case <-time.After(50 * time.Millisecond):
				case <-ctx.Done():
				}
				continue
			}
		}
		l.one(conn, id)
	}
}

// one writes one id. It is not cut short: its outcome shall be known.
func (l *ledger) one(conn *pgx.Conn, id int64) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	began := time.Now()
	_, err := conn.Exec(ctx, "insert into ledger(id, node) values($1, $2) on conflict(id) do update set times = times + 1", id, l.node.name)
	took := time.Since(began)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.longest = max(l.longest, took)
	if err == nil {
		l.acked = append(l.acked, id)
		l.count.Add(1)
		return
	}
	l.doubtful = append(l.doubtful, id)
	l.errs = append(l.errs, err)
}

// writers are ledgers at work, one at each of some nodes.
type writers struct {
	t       *testing.T
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	ledgers []*ledger
}

func startWriters(t *testing.T, database string, nodes ...*node) *writers {
	t.Helper()
	return startWritersAt(t, database, 0, nodes...)
}

// startWritersAt is startWriters for another round, with ids of its own.
func startWritersAt(t *testing.T, database string, round int64, nodes ...*node) *writers {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &writers{t: t, cancel: cancel}
	for i, n := range nodes {
		l := &ledger{node: n, base: (round + int64(i) + 1) * 1_000_000_000}
		w.ledgers = append(w.ledgers, l)
		w.wg.Go(func() { l.write(ctx, database) })
	}
	t.Cleanup(w.stop)
	return w
}

func (w *writers) stop() {
	w.cancel()
	w.wg.Wait()
}

// progress waits until each of some writers has n more writes acknowledged.
func (w *writers) progress(n int64, at ...*node) {
	w.t.Helper()
	for _, l := range w.ledgers {
		if len(at) > 0 && !contains(at, l.node) {
			continue
		}
		from := l.count.Load()
		eventually(w.t, patience, "writes through "+l.node.name, func() error {
			if done := l.count.Load() - from; done < n {
				return fmt.Errorf("%d of %d writes were acknowledged; errors: %v", done, n, l.lastError())
			}
			return nil
		})
	}
}

func contains(list []*node, n *node) bool {
	for _, m := range list {
		if m == n {
			return true
		}
	}
	return false
}

func (l *ledger) lastError() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.errs) == 0 {
		return nil
	}
	return l.errs[len(l.errs)-1]
}

// verify stops the writers and checks at each replica that every acknowledged
// write is there exactly once, that nothing is there that was not written, and
// nothing twice.
func (w *writers) verify(database string, at ...*node) {
	w.t.Helper()
	w.stop()
	for _, n := range at {
		conn := n.mustConnect(database)
		exec1(w.t, conn, "set skein.read = 'leader'")
		leaderCount := value(w.t, conn, "select count(*) from ledger")
		exec1(w.t, conn, "set skein.read = 'session'")
		for _, l := range w.ledgers {
			l.check(w.t, conn, n)
		}
		if got := value(w.t, conn, "select count(*) from ledger"); got != leaderCount {
			w.t.Errorf("%s has %s rows, the leader %s", n.name, got, leaderCount)
		}
	}
}

func (l *ledger) check(t *testing.T, conn *pgx.Conn, at *node) {
	t.Helper()
	rows, err := conn.Query(background(t), "select id, times from ledger where id >= $1 and id < $2", l.base, l.base+1_000_000_000)
	if err != nil {
		t.Fatal(err)
	}
	there := map[int64]int64{}
	for rows.Next() {
		var id, times int64
		if err := rows.Scan(&id, &times); err != nil {
			t.Fatal(err)
		}
		there[id] = times
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	lost, twice := 0, 0
	for _, id := range l.acked {
		if there[id] == 0 {
			lost++
		}
		if there[id] > 1 {
			twice++
		}
		delete(there, id)
	}
	for _, id := range l.doubtful {
		if there[id] > 1 {
			twice++
		}
		delete(there, id)
	}
	if lost > 0 || twice > 0 || len(there) > 0 {
		t.Errorf("of %d writes that %s acknowledged (and %d in doubt) %s has lost %d, holds %d twice and %d that nobody wrote",
			len(l.acked), l.node.name, len(l.doubtful), at.name, lost, twice, len(there))
	}
}

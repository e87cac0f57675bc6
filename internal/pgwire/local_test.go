package pgwire

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/xdg-go/scram"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/sqlite"
)

// local is a Gateway to SQLite files in a folder, without replication.
type local struct {
	dir         string
	credentials map[string]string
	follows     atomic.Bool // its sessions' node does not lead

	mu       sync.Mutex
	open     int
	degraded bool // commits say so
	opened   []session.Options
}

func newLocal(t testing.TB) *local {
	l := &local{dir: t.TempDir(), credentials: map[string]string{"alice": credentialOf(t, "alice", "secret", 4096)}}
	t.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.open != 0 {
			t.Errorf("%d sessions are still open", l.open)
		}
	})
	return l
}

func credentialOf(t testing.TB, user, password string, iterations int) string {
	client, err := scram.SHA256.NewClient(user, password, "")
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: "0123456789abcdef", Iters: iterations})
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, b64([]byte(c.Salt)), b64(c.StoredKey), b64(c.ServerKey))
}

func (l *local) Credential(user string) (string, bool) {
	c, ok := l.credentials[user]
	return c, ok
}

func (l *local) Databases() []string { return []string{"main", "other"} }
func (l *local) Users() []string     { return []string{"alice"} }

func (l *local) Open(ctx context.Context, o session.Options) (session.Session, error) {
	if o.Database != "main" && o.Database != "other" {
		return nil, base.Errorf(base.KindNotFound, "database %q does not exist", o.Database)
	}
	conn, err := sqlite.OpenConn(context.Background(), filepath.Join(l.dir, o.Database+".db"), sqlite.ConnOptions{Role: sqlite.RoleWriter})
	if err != nil {
		return nil, err
	}
	if err := conn.Exec("PRAGMA journal_mode=WAL"); err != nil {
		return nil, err
	}
	conn.SetGuard(sqlite.GuardAdmin | sqlite.AllowSavepoint)
	l.mu.Lock()
	l.open++
	l.opened = append(l.opened, o)
	l.mu.Unlock()
	return &localSession{gateway: l, conn: conn, database: o.Database, settings: map[string]string{}}, nil
}

type localSession struct {
	gateway  *local
	conn     *sqlite.Conn
	database string
	settings map[string]string
	commits  int
	rows     bool // rows are open

	mu     sync.Mutex
	cancel context.CancelCauseFunc
}

func (s *localSession) guard() sqlite.Guard { return sqlite.GuardAdmin | sqlite.AllowSavepoint }

func (s *localSession) Describe(_ context.Context, sql string) (*session.Description, error) {
	d, _, err := s.conn.Describe(sql, s.guard())
	return d, err
}

func (s *localSession) Leads() bool { return !s.gateway.follows.Load() }

func (s *localSession) TxStatus() session.TxStatus {
	if s.conn.InTransaction() {
		return session.TxActive
	}
	return session.TxIdle
}

func (s *localSession) Database() string { return s.database }

func (s *localSession) Set(name, value string) error {
	if name == "skein.durability" && value != "" {
		if _, err := base.ParseDurability(value); err != nil {
			return err
		}
	}
	s.settings[name] = value
	if value == "" {
		delete(s.settings, name)
	}
	return nil
}

func (s *localSession) Show(_ context.Context, name string) (string, error) {
	switch name {
	case "skein.token":
		return fmt.Sprintf("token-%d", s.commits), nil
	case "skein.node":
		return "n1", nil
	}
	if v, ok := s.settings[name]; ok || name == "skein.durability" {
		return cmp.Or(v, "quorum"), nil
	}
	return "", &base.Error{Kind: base.KindInvalid, SQLState: "42704", Message: "no setting " + name}
}

func (s *localSession) Cancel() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		s.cancel(base.Errorf(base.KindCanceled, "canceling statement due to user request"))
	}
}

func (s *localSession) Close() error {
	s.gateway.mu.Lock()
	s.gateway.open--
	s.gateway.mu.Unlock()
	return s.conn.Close()
}

func (s *localSession) Query(ctx context.Context, sql string, args []base.Value) (session.Rows, error) {
	if s.rows {
		panic("a statement while rows are open: " + sql)
	}
	d, _, err := s.conn.Describe(sql, s.guard())
	if err != nil {
		return nil, err
	}
	switch d.Kind {
	case session.Begin:
		return s.done("BEGIN", s.conn.Begin())
	case session.Commit:
		return s.done("COMMIT", s.conn.Commit())
	case session.Rollback:
		return s.done("ROLLBACK", s.conn.Rollback())
	}
	ctx, cancel := context.WithCancelCause(ctx)
	s.mu.Lock()
	s.cancel = cancel
	s.mu.Unlock()
	s.conn.SetInterrupt(ctx)
	st, err := s.conn.Prepare(sql)
	if err != nil {
		return nil, err
	}
	if err := st.BindAll(args); err != nil {
		st.Close()
		return nil, err
	}
	r := &localRows{s: s, st: st, d: d}
	if d.Kind == session.Read {
		s.rows = true
		return r, nil
	}
	return r.write()
}

func (s *localSession) done(tag string, err error) (session.Rows, error) {
	r := session.Result{Tag: tag}
	if tag == "COMMIT" && err == nil {
		r = s.committed(r)
	}
	return &memoryRows{result: r}, err
}

func (s *localSession) committed(r session.Result) session.Result {
	s.commits++
	s.gateway.mu.Lock()
	defer s.gateway.mu.Unlock()
	if s.gateway.degraded {
		r.Degraded, r.Reached, r.Asked = true, "flushed on 1 of 3", base.Durability{Level: base.Quorum}
	}
	return r
}

func (s *localSession) Schema(_ context.Context, sql string, args []base.Value) (session.Rows, error) {
	st, err := s.conn.PrepareOwn(sql)
	if err != nil {
		return nil, err
	}
	if err := st.BindAll(args); err != nil {
		return nil, err
	}
	return &localRows{s: s, st: st, d: &session.Description{Columns: st.Columns()}}, nil
}

type localRows struct {
	s   *localSession
	st  *sqlite.Stmt
	d   *session.Description
	row []base.Value
	err error
	n   int64
}

// write runs a statement that writes to its end.
func (r *localRows) write() (session.Rows, error) {
	out := &rowsWithColumns{columns: r.d.Columns}
	before := r.s.conn.TotalChanges()
	for r.Next() {
		out.values = append(out.values, copyRow(r.Row()))
	}
	r.st.Close()
	if r.err != nil {
		return nil, r.err
	}
	out.result = session.Result{Tag: r.d.Tag, RowsAffected: r.s.conn.Changes()}
	if r.s.conn.TotalChanges() == before {
		out.result.RowsAffected = 0
	}
	if !r.s.conn.InTransaction() {
		out.result = r.s.committed(out.result)
	}
	return out, nil
}

type rowsWithColumns struct {
	memoryRows
	columns []session.Column
}

func (r *rowsWithColumns) Columns() []session.Column { return r.columns }

func (r *localRows) Columns() []session.Column { return r.d.Columns }

func (r *localRows) Next() bool {
	row, err := r.st.Step()
	if !row || err != nil {
		r.err = err
		return false
	}
	r.row = r.st.AppendRow(r.row[:0])
	r.n++
	return true
}

func (r *localRows) Row() []base.Value { return r.row }
func (r *localRows) Err() error        { return r.err }

func (r *localRows) Result() session.Result {
	return session.Result{Tag: r.d.Tag, RowsAffected: r.n}
}

func (r *localRows) Close() error {
	if r.st != nil {
		r.st.Close()
		r.st, r.s.rows = nil, false
	}
	return nil
}

// served is a server on a loopback port.
type served struct {
	*Server
	gateway *local
	port    int
}

func serve(t testing.TB, o Options) *served {
	t.Helper()
	gw := newLocal(t)
	return &served{Server: serveGateway(t, gw, o), gateway: gw, port: lastPort}
}

var lastPort int

func serveGateway(t testing.TB, gw session.Gateway, o Options) *Server {
	t.Helper()
	level := slog.LevelWarn
	e := env.Real(slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: level})))
	s, err := New(e, gw, o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lastPort = l.Addr().(*net.TCPAddr).Port
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := <-done; err != ErrClosed {
			t.Errorf("Serve: %v", err)
		}
	})
	return s
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (s *served) url(parameters string) string {
	return fmt.Sprintf("postgres://alice:secret@127.0.0.1:%d/main?sslmode=disable%s", s.port, parameters)
}

// connect returns a pgx connection in one of its modes.
func (s *served) connect(t testing.TB, mode pgx.QueryExecMode) *pgx.Conn {
	t.Helper()
	c, err := pgx.ParseConfig(s.url(""))
	if err != nil {
		t.Fatal(err)
	}
	c.DefaultQueryExecMode = mode
	conn, err := pgx.ConnectConfig(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func mustExec(t testing.TB, c *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := c.Exec(context.Background(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

package pgwire

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/session"
)

// fake is a Gateway whose sessions answer at once, without an engine.
type fake struct {
	rows    int                       // that a SELECT returns
	hold    chan struct{}             // closed: SELECT hold returns; nil: it does not wait
	started chan struct{}             // told when SELECT hold runs
	closed  chan *fakeSession         // told when a session is closed
	made    func(s *fakeSession)      // sees every session
	query   func(string) (any, error) // may answer in place of the fake
}

func (f *fake) Credential(string) (string, bool) { return "", false }
func (f *fake) Databases() []string              { return []string{"main"} }
func (f *fake) Users() []string                  { return nil }

func (f *fake) Open(context.Context, session.Options) (session.Session, error) {
	s := &fakeSession{fake: f, status: session.TxIdle, cancelled: make(chan struct{})}
	if f.made != nil {
		f.made(s)
	}
	return s, nil
}

type fakeSession struct {
	*fake
	status    session.TxStatus
	cancelled chan struct{}
	once      sync.Once
}

var (
	fakeUpdate = &session.Description{Kind: session.Write, Tag: "UPDATE", Params: 2}
	fakeSelect = &session.Description{Kind: session.Read, Tag: "SELECT", Columns: []session.Column{{Name: "id", DeclType: "INTEGER", Table: "t", Origin: "id"}, {Name: "name", DeclType: "TEXT", Table: "t", Origin: "name"}}}
	fakeRow    = []base.Value{base.IntValue(1), base.TextValue("a name of some length")}
)

func (s *fakeSession) Describe(_ context.Context, sql string) (*session.Description, error) {
	switch word, _ := firstWord(sql); word {
	case "SELECT":
		return fakeSelect, nil
	case "UPDATE", "INSERT", "DELETE":
		return fakeUpdate, nil
	}
	return nil, base.Errorf(base.KindSQL, "syntax error")
}

func firstWord(sql string) (string, int) {
	i := 0
	for i < len(sql) && sql[i] != ' ' {
		i++
	}
	return sql[:i], i
}

func (s *fakeSession) Query(ctx context.Context, sql string, _ []base.Value) (session.Rows, error) {
	if s.fake.query != nil {
		if v, err := s.fake.query(sql); v != nil || err != nil {
			r, _ := v.(session.Rows)
			return r, err
		}
	}
	word, _ := firstWord(sql)
	switch {
	case sql == "SELECT hold":
		return nil, s.wait(ctx)
	case word == "BEGIN":
		s.status = session.TxActive
	case word == "COMMIT", word == "ROLLBACK":
		s.status = session.TxIdle
	case word == "SELECT":
		return &fakeRows{left: s.fake.rows}, nil
	case word != "UPDATE" && word != "INSERT" && word != "DELETE":
		return nil, base.Errorf(base.KindSQL, "syntax error")
	}
	return &memoryRows{result: session.Result{Tag: word, RowsAffected: 1}}, nil
}

// wait returns when the statement is cancelled.
func (s *fakeSession) wait(ctx context.Context) error {
	s.fake.started <- struct{}{}
	select {
	case <-s.cancelled:
		return base.Errorf(base.KindCanceled, "canceling statement due to user request")
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.fake.hold:
		return base.Errorf(base.KindSQL, "held long enough")
	}
}

func (s *fakeSession) Leads() bool                { return true }
func (s *fakeSession) TxStatus() session.TxStatus { return s.status }
func (s *fakeSession) Set(string, string) error   { return nil }
func (s *fakeSession) Database() string           { return "main" }
func (s *fakeSession) Cancel()                    { s.once.Do(func() { close(s.cancelled) }) }

func (s *fakeSession) Show(context.Context, string) (string, error) { return "shown", nil }

func (s *fakeSession) Schema(context.Context, string, []base.Value) (session.Rows, error) {
	return &memoryRows{}, nil
}

func (s *fakeSession) Close() error {
	if s.fake.closed != nil {
		s.fake.closed <- s
	}
	return nil
}

type fakeRows struct{ left int }

func (r *fakeRows) Columns() []session.Column { return fakeSelect.Columns }
func (r *fakeRows) Next() bool                { r.left--; return r.left >= 0 }
func (r *fakeRows) Row() []base.Value         { return fakeRow }
func (r *fakeRows) Err() error                { return nil }
func (r *fakeRows) Result() session.Result    { return session.Result{Tag: "SELECT"} }
func (r *fakeRows) Close() error              { return nil }

// serveFake serves a fake to clients that need no password.
func serveFake(t testing.TB, f *fake, o Options) *served {
	o.TrustLoopback = true
	return &served{Server: serveGateway(t, f, o), port: lastPort}
}

// strict is an environment in which a logged error, such as a panic that was
// recovered, fails the test.
func strict(t testing.TB) *env.Env { return env.Real(slog.New(errorsFail{t})) }

type errorsFail struct{ t testing.TB }

func (errorsFail) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelError }
func (h errorsFail) WithAttrs([]slog.Attr) slog.Handler         { return h }
func (h errorsFail) WithGroup(string) slog.Handler              { return h }

func (h errorsFail) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool { text += "\n" + a.String(); return true })
	h.t.Error(text)
	return nil
}

// encoded returns messages as bytes.
func encoded(t testing.TB, messages ...pgproto3.FrontendMessage) []byte {
	var b []byte
	for _, m := range messages {
		var err error
		if b, err = m.Encode(b); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

var startAsAlice = &pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{"user": "alice"}}

// FuzzMessages sends arbitrary bytes behind a log-in: the server must neither
// panic nor hang, and must close its session.
func FuzzMessages(f *testing.F) {
	f.Add(encoded(f, &pgproto3.Query{String: "SELECT 1; COPY t FROM STDIN"}, &pgproto3.CopyData{Data: []byte("1\n")}, &pgproto3.CopyDone{}))
	f.Add(encoded(f, &pgproto3.Parse{Name: "a", Query: "UPDATE t SET a = $1 WHERE b = $2", ParameterOIDs: []uint32{20, 25}}, &pgproto3.Describe{ObjectType: 'S', Name: "a"},
		&pgproto3.Bind{DestinationPortal: "p", PreparedStatement: "a", Parameters: [][]byte{[]byte("1"), nil}, ResultFormatCodes: []int16{1}},
		&pgproto3.Describe{ObjectType: 'P', Name: "p"}, &pgproto3.Execute{Portal: "p", MaxRows: 1}, &pgproto3.Close{ObjectType: 'P', Name: "p"}, &pgproto3.Sync{}))
	f.Add(encoded(f, &pgproto3.Query{String: "BEGIN; SET a.b = 1; SHOW all; SELECT set_config('a.b', 'c', true); ROLLBACK"}, &pgproto3.FunctionCall{}, &pgproto3.Flush{}, &pgproto3.Terminate{}))
	f.Add(encoded(f, &pgproto3.Parse{Query: "SELECT $1"}, &pgproto3.Bind{ParameterFormatCodes: []int16{1}, Parameters: [][]byte{{1}}}, &pgproto3.Execute{MaxRows: 2}, &pgproto3.Execute{}, &pgproto3.Sync{}))
	f.Add(encoded(f, &pgproto3.Query{String: "BEGIN; DECLARE c BINARY CURSOR FOR SELECT 1; FETCH RELATIVE 2 FROM c; MOVE 1 c"},
		&pgproto3.Parse{Query: "FETCH FORWARD 3 IN c"}, &pgproto3.Bind{DestinationPortal: "p"}, &pgproto3.Execute{Portal: "p", MaxRows: 1},
		&pgproto3.Execute{Portal: "c"}, &pgproto3.Close{ObjectType: 'P', Name: "c"}, &pgproto3.Execute{Portal: "p"}, &pgproto3.Sync{}))
	f.Add([]byte{'Q', 0, 0, 0, 3})
	f.Add([]byte{'B', 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{'P', 0x7f, 0xff, 0xff, 0xff, 'x'})
	f.Add([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	hello := encoded(f, startAsAlice)
	f.Fuzz(func(t *testing.T, data []byte) {
		gw := &fake{rows: 3, closed: make(chan *fakeSession, 1)}
		s, err := New(strict(t), gw, Options{TrustLoopback: true, MaxMessageBytes: 1 << 16})
		if err != nil {
			t.Fatal(err)
		}
		client, server := net.Pipe()
		s.accept(&loopbackConn{server})
		go func() {
			client.Write(hello)
			client.Write(data)
			client.(interface{ Close() error }).Close()
		}()
		io.Copy(io.Discard, client)
		<-gw.closed
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// loopbackConn is a pipe that counts as this machine.
type loopbackConn struct{ net.Conn }

func (loopbackConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// FuzzStartup sends arbitrary bytes in place of a log-in.
func FuzzStartup(f *testing.F) {
	f.Add(encoded(f, startAsAlice))
	f.Add(encoded(f, &pgproto3.SSLRequest{}, startAsAlice))
	f.Add(encoded(f, &pgproto3.GSSEncRequest{}, &pgproto3.CancelRequest{ProcessID: 1, SecretKey: []byte{1, 2, 3, 4}}))
	f.Add(encoded(f, &pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion32, Parameters: map[string]string{
		"user": "bob", "options": `-c a.b=c\ d --x-y=1`, "_pq_.x": "1"}}, &pgproto3.SASLInitialResponse{AuthMechanism: mechanism, Data: []byte("n,,n=,r=abc")},
		&pgproto3.SASLResponse{Data: []byte("c=biws,r=abc,p=AAAA")}))
	f.Add([]byte{0, 0, 0, 8, 0, 3, 0, 99})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 9, 0, 3, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, trust := range []bool{false, true} {
			s, err := New(strict(t), &fake{}, Options{TrustLoopback: trust})
			if err != nil {
				t.Fatal(err)
			}
			client, server := net.Pipe()
			s.accept(&loopbackConn{server})
			go func() {
				client.Write(data)
				client.Close()
			}()
			io.Copy(io.Discard, client)
			s.group.Wait()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

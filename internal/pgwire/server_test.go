package pgwire

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"go.uber.org/goleak"

	"github.com/skeindb/skein/internal/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func (s *served) try(user, password, more string) (*pgx.Conn, error) {
	return pgx.Connect(ctx, fmt.Sprintf("postgres://%s:%s@127.0.0.1:%d/main?sslmode=disable%s", user, password, s.port, more))
}

func TestPasswords(t *testing.T) {
	s := serve(t, Options{})
	c, err := s.try("alice", "secret", "")
	if err != nil {
		t.Fatal(err)
	}
	c.Close(ctx)
	if o := s.gateway.opened[0]; o.User != "alice" || o.Trusted || o.FrontEnd != "pgwire" || o.RemoteAddr == "" {
		t.Errorf("session opened with %+v", o)
	}
	var told []string
	for _, who := range []string{"alice", "mallory"} {
		_, err := s.try(who, "wrong", "")
		e, ok := errors.AsType[*pgconn.PgError](err)
		if !ok || e.Code != "28P01" || e.Severity != "FATAL" {
			t.Fatalf("%s: %v", who, err)
		}
		told = append(told, strings.ReplaceAll(e.Message, who, "X")+e.Detail+e.Hint)
	}
	if told[0] != told[1] {
		t.Errorf("a wrong password and an unknown user are told apart: %q", told)
	}
}

// What the server says before the password is checked must not tell who exists.
func TestUnknownUsersLookLikeKnownOnes(t *testing.T) {
	s := serve(t, Options{})
	s.gateway.credentials["alice"] = credentialOf(t, "alice", "secret", 7000)
	challenge := func(user string) string {
		r := s.dial(t)
		r.Send(&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{"user": user}})
		r.Send(&pgproto3.SASLInitialResponse{AuthMechanism: mechanism, Data: []byte("n,,n=,r=abc")})
		r.must(r.Flush())
		for {
			m, err := r.Receive()
			r.must(err)
			if m, ok := m.(*pgproto3.AuthenticationSASLContinue); ok {
				_, rest, _ := strings.Cut(string(m.Data), ",s=")
				return rest
			}
		}
	}
	known, unknown, again := challenge("alice"), challenge("mallory"), challenge("mallory")
	if unknown != again {
		t.Errorf("the salt of an unknown user changes: %s, %s", unknown, again)
	}
	if len(known) != len(unknown) || !strings.HasSuffix(known, ",i=7000") || !strings.HasSuffix(unknown, ",i=7000") {
		t.Errorf("known %s, unknown %s", known, unknown)
	}
}

func TestDatabases(t *testing.T) {
	s := serve(t, Options{TrustLoopback: true})
	for _, c := range []struct{ user, database, want string }{
		{"alice", "other", "other"}, {"alice", "", "main"}, {"alice", "alice", "main"}, {"alice", "nothing", "3D000"}, {"", "main", "28000"},
	} {
		r := s.dial(t)
		p := map[string]string{"user": c.user, "database": c.database, "options": `-c application_name=a\ b`}
		if c.database == "" {
			delete(p, "database")
		}
		r.Send(&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: p})
		r.Send(&pgproto3.Query{String: "SELECT current_database() || ' ' || current_setting('application_name')"})
		r.must(r.Flush())
		out := r.until('Z', 2)
		if !strings.Contains(out, "DataRow "+c.want+" a b") && !strings.Contains(out, "FATAL "+c.want) {
			t.Errorf("%+v: %s", c, out)
		}
	}
}

func TestProtocolVersions(t *testing.T) {
	s := serve(t, Options{TrustLoopback: true})
	send := func(version uint32, more ...string) string {
		r := s.dial(t)
		body := "user\x00alice\x00" + strings.Join(more, "") + "\x00"
		b := append([]byte{0, 0, 0, byte(8 + len(body)), byte(version >> 24), byte(version >> 16), byte(version >> 8), byte(version)}, body...)
		if _, err := r.Conn.Write(b); err != nil {
			t.Fatal(err)
		}
		return r.until('Z', 1)
	}
	for version, want := range map[uint32]string{196608: "AuthenticationOk", 196610: "AuthenticationOk", 196707: "NegotiateProtocolVersion", 131072: "FATAL 0A000"} {
		if out := send(version); !strings.HasPrefix(out, want) {
			t.Errorf("version %d: %s", version, out)
		}
	}
	if out := send(196610, "_pq_.future\x001\x00"); !strings.HasPrefix(out, "NegotiateProtocolVersion") || !strings.Contains(out, "ReadyForQuery") {
		t.Errorf("unknown protocol option: %s", out)
	}
	if out := send(196608, "replication\x00database\x00"); !strings.HasPrefix(out, "FATAL 0A000") {
		t.Errorf("replication: %s", out)
	}
}

func certificate(t testing.TB) *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

func TestTLS(t *testing.T) {
	s := serve(t, Options{TLS: certificate(t), RequireTLS: true})
	for _, how := range []string{"", "&sslnegotiation=direct"} {
		c, err := pgx.Connect(ctx, fmt.Sprintf("postgres://alice:secret@127.0.0.1:%d/main?sslmode=require%s", s.port, how))
		if err != nil {
			t.Fatalf("%q: %v", how, err)
		}
		if n := count(t, c, "SELECT 7"); n != 7 {
			t.Error(n)
		}
		c.Close(ctx)
	}
	if _, err := s.try("alice", "secret", ""); err == nil || !strings.Contains(err.Error(), "28000") {
		t.Errorf("without TLS: %v", err)
	}
	r := s.dial(t)
	b, _ := (&pgproto3.SSLRequest{}).Encode(nil)
	r.Conn.Write(append(b, "early"...))
	if out, err := io.ReadAll(r.Conn); err == nil && strings.HasPrefix(string(out), "S") {
		t.Error("data before the handshake was let through")
	}
	plain := serve(t, Options{})
	r = plain.dial(t)
	r.Conn.Write(b)
	var one [1]byte
	if _, err := io.ReadFull(r.Conn, one[:]); err != nil || one[0] != 'N' {
		t.Errorf("without TLS the answer is %q, %v", one, err)
	}
	if _, err := New(strict(t), &fake{}, Options{RequireTLS: true}); err == nil {
		t.Error("TLS is required and none is configured, without an error")
	}
}

func TestCancel(t *testing.T) {
	f := &fake{started: make(chan struct{}, 1)}
	s := serveFake(t, f, Options{})
	c := s.connect(t, pgx.QueryExecModeSimpleProtocol)
	pid, key := c.PgConn().PID(), c.PgConn().SecretKey()
	done := make(chan error, 1)
	go func() {
		_, err := c.Exec(ctx, "SELECT hold")
		done <- err
	}()
	<-f.started
	cancel := func(pid uint32, key []byte) {
		r := s.dial(t)
		r.Conn.Write(encoded(t, &pgproto3.CancelRequest{ProcessID: pid, SecretKey: key}))
		io.Copy(io.Discard, r.Conn) // the server closes when it has served it
	}
	cancel(pid, []byte{key[0] + 1, key[1], key[2], key[3]})
	cancel(pid+1, key)
	cancel(pid, key[:3])
	select {
	case err := <-done:
		t.Fatalf("a wrong key cancelled: %v", err)
	default:
	}
	cancel(pid, key)
	if err := <-done; stateOf(err) != "57014" {
		t.Fatal(err)
	}
	if _, err := c.Exec(ctx, "UPDATE t"); err != nil {
		t.Errorf("after the cancel: %v", err)
	}
}

func TestDrainLetsTransactionsFinish(t *testing.T) {
	f := &fake{started: make(chan struct{}, 1), hold: make(chan struct{}), closed: make(chan *fakeSession, 9)}
	s := serveFake(t, f, Options{})
	idle, busy, inside := s.login(t), s.login(t), s.login(t)
	busy.Send(&pgproto3.Query{String: "SELECT hold"})
	busy.must(busy.Flush())
	<-f.started
	inside.Send(&pgproto3.Query{String: "BEGIN"})
	inside.must(inside.Flush())
	inside.until('Z', 1)
	drained := make(chan struct{})
	go func() {
		s.Drain(ctx)
		close(drained)
	}()
	if out := idle.until('Z', 1); !strings.HasPrefix(out, "FATAL 57P01") {
		t.Errorf("idle: %s", out)
	}
	<-f.closed
	if _, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port)); err == nil {
		t.Error("a new connection was accepted")
	}
	close(f.hold)
	if out := busy.until('Z', 2); !strings.Contains(out, "held long enough") || !strings.Contains(out, "FATAL 57P01") {
		t.Errorf("busy: %s", out)
	}
	inside.Send(&pgproto3.Query{String: "UPDATE t SET a = 1"})
	inside.Send(&pgproto3.Query{String: "COMMIT"})
	inside.must(inside.Flush())
	if out := inside.until('Z', 3); !strings.Contains(out, "CommandComplete COMMIT") || !strings.Contains(out, "FATAL 57P01") {
		t.Errorf("in a transaction: %s", out)
	}
	<-drained
}

func TestCloseInterrupts(t *testing.T) {
	f := &fake{started: make(chan struct{}, 1), closed: make(chan *fakeSession, 9)}
	s := serveFake(t, f, Options{})
	busy, inside, starting := s.login(t), s.login(t), s.dial(t)
	inside.Send(&pgproto3.Query{String: "BEGIN"})
	inside.must(inside.Flush())
	inside.until('Z', 1)
	busy.Send(&pgproto3.Query{String: "SELECT hold"})
	busy.must(busy.Flush())
	<-f.started
	ended, cancel := context.WithCancel(ctx)
	cancel()
	s.Drain(ended)
	for _, r := range []*raw{busy, inside} {
		if out := r.until('Z', 2); !strings.Contains(out, "FATAL 57P01") {
			t.Errorf("got %s", out)
		}
	}
	starting.until('Z', 1)
	if len(f.closed) != 2 {
		t.Errorf("%d sessions closed", len(f.closed))
	}
}

func TestAVanishedClientEndsItsSession(t *testing.T) {
	f := &fake{closed: make(chan *fakeSession, 1)}
	s := serveFake(t, f, Options{})
	r := s.login(t)
	r.Send(&pgproto3.Query{String: "BEGIN"})
	r.must(r.Flush())
	r.until('Z', 1)
	r.Conn.Write([]byte{'Q', 0, 0, 1, 0, 'h', 'a', 'l', 'f'})
	r.Conn.Close()
	if got := <-f.closed; got.status != session.TxActive {
		t.Errorf("closed in state %c", got.status)
	}
}

func TestLimits(t *testing.T) {
	f := &fake{}
	s := serveFake(t, f, Options{MaxConnections: 2, MaxStarting: 3, MaxMessageBytes: 1000, StartupTimeout: 300 * time.Millisecond})
	a, _ := s.login(t), s.login(t)
	r := s.dial(t)
	r.Send(startAsAlice)
	r.must(r.Flush())
	if out := r.until('Z', 1); !strings.HasPrefix(out, "FATAL 53300") {
		t.Errorf("third client: %s", out)
	}
	// A statement of 100 MB is refused as it passes by; the connection stays.
	a.Send(&pgproto3.Query{String: "SELECT 1"})
	a.must(a.Flush())
	a.until('Z', 1)
	go func() {
		a.Conn.Write([]byte{'Q', 0x06, 0, 0, 4}) // the length counts itself
		chunk := make([]byte, 1<<20)
		for range 96 {
			a.Conn.Write(chunk)
		}
	}()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	out := a.until('Z', 1)
	runtime.ReadMemStats(&after)
	if !strings.HasPrefix(out, "ERROR 54000") || !strings.Contains(out, "ReadyForQuery I") {
		t.Errorf("100 MB: %s", out)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 20<<20 {
		t.Errorf("refusing 100 MB took %d MiB", grown>>20)
	}
	// Clients that say nothing are bounded in number and in time.
	var silent []*raw
	for range 5 {
		silent = append(silent, s.dial(t))
	}
	for _, r := range silent {
		if _, err := io.ReadAll(r.Conn); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("a silent client: %v", err)
		}
	}
	if n := s.Clients(); n > 2 {
		t.Errorf("%d clients", n)
	}
}

// What a client announces costs nothing until it comes.
func TestMemoryFollowsWhatArrives(t *testing.T) {
	head := append([]byte{'Q', 0x00, 0xff, 0, 0}, make([]byte, 1000)...)
	r := reader{src: bytes.NewReader(head), buf: make([]byte, readBuffer), limit: 16 << 20, beforeRead: func() error { return nil }}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _, err := r.message()
	runtime.ReadMemStats(&after)
	if err != io.ErrUnexpectedEOF {
		t.Error(err)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
		t.Errorf("a message of 16 MiB that did not come took %d KiB", grown>>10)
	}
}

func TestGarbageIsRefused(t *testing.T) {
	s := serveFake(t, &fake{}, Options{StartupTimeout: time.Second})
	for _, junk := range []string{"GET / HTTP/1.1\r\n\r\n", "\x00\x00\x00\x00", "\xff\xff\xff\xff\xff\xff\xff\xff", "\x00\x00\x00\x08\x00\x02\x00\x00", "\x16\x03\x01\x02\x00\x01\x00", "\x00\x00\x00\x10\x00\x03\x00\x00user\x00\x00\x00\x00"} {
		r := s.dial(t)
		r.Conn.Write([]byte(junk))
		if _, err := io.ReadAll(r.Conn); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%q: %v", junk, err)
		}
	}
	for junk, want := range map[string]string{
		"Q\x00\x00\x00\x03": "FATAL 08P01", "!\x00\x00\x00\x04": "FATAL 08P01", "B\x00\x00\x00\x05x": "FATAL 08P01", "Q\x00\x00\x00\x05x": "FATAL 08P01",
		"p\x00\x00\x00\x05x": "FATAL 08P01", "D\x00\x00\x00\x06Xa": "FATAL 08P01",
	} {
		r := s.login(t)
		r.Conn.Write([]byte(junk))
		if out := r.until('Z', 1); !strings.HasPrefix(out, want) {
			t.Errorf("%q: %s", junk, out)
		}
	}
	if c := s.connect(t, pgx.QueryExecModeSimpleProtocol); c.Ping(ctx) != nil {
		t.Error("the server does not serve any more")
	}
}

// A client that does not read is let go.
func TestASlowReaderIsLetGo(t *testing.T) {
	f := &fake{rows: 1 << 30, closed: make(chan *fakeSession, 1)}
	s := serveFake(t, f, Options{WriteTimeout: 200 * time.Millisecond})
	r := s.login(t)
	r.Send(&pgproto3.Query{String: "SELECT"})
	r.must(r.Flush())
	<-f.closed
}

// A panic while serving one client is told to it and hurts no other.
func TestAPanicEndsOneClient(t *testing.T) {
	f := &fake{closed: make(chan *fakeSession, 2), query: func(sql string) (any, error) {
		if sql == "UPDATE panic" {
			panic("out of order")
		}
		return nil, nil
	}}
	s := serveFake(t, f, Options{})
	other := s.login(t)
	r := s.login(t)
	r.Send(&pgproto3.Query{String: "UPDATE panic"})
	r.must(r.Flush())
	if out := r.until('Z', 1); !strings.HasPrefix(out, "FATAL XX000") || !strings.Contains(out, "indeterminate") {
		t.Errorf("got %s", out)
	}
	<-f.closed
	other.Send(&pgproto3.Query{String: "UPDATE t"})
	other.must(other.Flush())
	if out := other.until('Z', 1); !strings.Contains(out, "CommandComplete UPDATE 1") {
		t.Errorf("the other client: %s", out)
	}
}

// An answer comes in one write, however many messages ask for it.
func TestOneWriteForAPipeline(t *testing.T) {
	s, err := New(strict(t), &fake{}, Options{TrustLoopback: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	client, server := net.Pipe()
	counted := &countingConn{Conn: server}
	s.accept(counted)
	front := pgproto3.NewFrontend(client, client)
	r := &raw{Conn: client, Frontend: front, t: t}
	r.Send(startAsAlice)
	r.must(r.Flush())
	r.until('Z', 1)
	counted.writes.Store(0)
	for range 10 {
		r.Send(&pgproto3.Parse{Query: "UPDATE t", ParameterOIDs: nil})
		r.Send(&pgproto3.Bind{Parameters: [][]byte{[]byte("1"), []byte("2")}})
		r.Send(&pgproto3.Describe{ObjectType: 'P'})
		r.Send(&pgproto3.Execute{})
		r.Send(&pgproto3.Sync{})
	}
	r.must(r.Flush())
	if out := r.until('Z', 10); strings.Count(out, "UPDATE 1") != 10 {
		t.Error(out)
	}
	if n := counted.writes.Load(); n != 1 {
		t.Errorf("%d writes", n)
	}
	r.Conn.Close()
}

type countingConn struct {
	net.Conn
	writes atomic.Int32
}

func (c *countingConn) RemoteAddr() net.Addr { return loopbackConn{}.RemoteAddr() }

func (c *countingConn) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

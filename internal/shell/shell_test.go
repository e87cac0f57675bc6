package shell

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// reply is what the fake server answers to one statement.
type reply struct {
	columns []string
	oid     uint32
	rows    [][][]byte
	tag     string
	err     *pgproto3.ErrorResponse
	notice  *pgproto3.NoticeResponse
	drop    bool // break the connection instead of answering
	hang    bool // answer only once cancelled
	status  byte // transaction status; 0: idle
}

// server is a PostgreSQL server with canned replies.
type server struct {
	t        *testing.T
	listener net.Listener
	replies  map[string]reply
	done     sync.WaitGroup
	canceled chan struct{}
	running  chan struct{} // told when a hanging statement begins

	mu   sync.Mutex // guards seen
	seen []string
}

func newServer(t *testing.T, replies map[string]reply) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, listener: l, replies: replies, canceled: make(chan struct{}, 1), running: make(chan struct{}, 1)}
	s.done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.done.Go(func() { defer conn.Close(); s.serve(conn) })
		}
	})
	t.Cleanup(func() { l.Close(); s.done.Wait() })
	return s
}

func (s *server) serve(conn net.Conn) {
	b := pgproto3.NewBackend(conn, conn)
	first, err := b.ReceiveStartupMessage()
	if err != nil {
		return
	}
	if _, ok := first.(*pgproto3.CancelRequest); ok {
		s.canceled <- struct{}{}
		return
	}
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte{0, 0, 0, 2}})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if b.Flush() != nil {
		return
	}
	for {
		m, err := b.Receive()
		if err != nil {
			return
		}
		q, ok := m.(*pgproto3.Query)
		if !ok {
			return
		}
		s.mu.Lock()
		s.seen = append(s.seen, q.String)
		s.mu.Unlock()
		if !s.answer(b, q.String) {
			return
		}
	}
}

func (s *server) answer(b *pgproto3.Backend, sql string) bool {
	r, ok := s.replies[sql]
	if !ok {
		r = reply{err: &pgproto3.ErrorResponse{Severity: "ERROR", Code: "42601", Message: "unknown statement: " + sql}}
	}
	if r.drop {
		return false
	}
	if r.hang {
		s.running <- struct{}{}
		<-s.canceled
	}
	if r.notice != nil {
		b.Send(r.notice)
	}
	if len(r.columns) > 0 {
		d := &pgproto3.RowDescription{}
		for _, c := range r.columns {
			d.Fields = append(d.Fields, pgproto3.FieldDescription{Name: []byte(c), DataTypeOID: r.oid})
		}
		b.Send(d)
		for _, row := range r.rows {
			b.Send(&pgproto3.DataRow{Values: row})
		}
	}
	if r.err != nil {
		b.Send(r.err)
	} else {
		b.Send(&pgproto3.CommandComplete{CommandTag: []byte(r.tag)})
	}
	b.Send(&pgproto3.ReadyForQuery{TxStatus: max('I', r.status)})
	return b.Flush() == nil
}

// shellOn makes a shell on the fake server with its outputs.
func shellOn(t *testing.T, s *server, input string, change func(*Options)) (*Shell, *bytes.Buffer, *bytes.Buffer) {
	t.Helper()
	address := s.listener.Addr().(*net.TCPAddr)
	config, err := pgconn.ParseConfig(fmt.Sprintf("host=127.0.0.1 port=%d user=u dbname=main sslmode=disable", address.Port))
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	o := Options{
		Config: config, In: strings.NewReader(input), Out: &out, Err: &errs, Now: time.Now,
		Open: func(string) (io.ReadCloser, error) { return nil, os.ErrNotExist },
	}
	if change != nil {
		change(&o)
	}
	shell, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shell.Close() })
	return shell, &out, &errs
}

func cells(values ...string) [][]byte {
	row := make([][]byte, len(values))
	for i, v := range values {
		if v != "\x00" {
			row[i] = []byte(v)
		}
	}
	return row
}

var people = reply{columns: []string{"id", "name"}, rows: [][][]byte{cells("1", "Ann, \"A\""), cells("2", "\x00"), cells("3", ""), cells("10", "b\n\x1b[31m")}, tag: "SELECT 4"}

func TestModes(t *testing.T) {
	numbers := people
	numbers.oid = 20
	for mode, want := range map[Mode]string{
		ModeTable: "id  name\n--  ----\n1   Ann, \"A\"\n2   NULL\n3   \n10  b\\n\\x1b[31m\n",
		ModeCSV:   "id,name\r\n1,\"Ann, \"\"A\"\"\"\r\n2,\r\n3,\"\"\r\n10,\"b\n\x1b[31m\"\r\n",
		ModeLine:  "  id = 1\nname = Ann, \"A\"\n\n  id = 2\nname = NULL\n\n  id = 3\nname = \n\n  id = 10\nname = b\\n\\x1b[31m\n\n",
		ModeJSON:  `[{"id":1,"name":"Ann, \"A\""},` + "\n" + ` {"id":2,"name":null},` + "\n" + ` {"id":3,"name":""},` + "\n" + ` {"id":10,"name":"b\n\u001b[31m"}]` + "\n",
	} {
		s := newServer(t, map[string]reply{"select * from people": numbers})
		shell, out, errs := shellOn(t, s, ".mode "+string(mode)+"\nselect * from people;\n", nil)
		if err := shell.Run(t.Context()); err != nil {
			t.Fatal(err, errs)
		}
		if out.String() != want {
			t.Errorf("%s:\n got %q\nwant %q", mode, out, want)
		}
	}
}

func TestEmptyJSONIsAnArray(t *testing.T) {
	s := newServer(t, map[string]reply{"select 1 where 0": {columns: []string{"1"}, tag: "SELECT 0"}})
	shell, out, _ := shellOn(t, s, "select 1 where 0", func(o *Options) { o.Mode = ModeJSON })
	if err := shell.Run(t.Context()); err != nil || out.String() != "[]\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestStatementsAreCutAsSQLiteCutsThem(t *testing.T) {
	ok := reply{tag: "OK"}
	trigger := "create trigger t after insert on a begin\n  select ';';\n  select 2;\nend"
	s := newServer(t, map[string]reply{
		"select ';' -- a;b\n, 1": ok, "select 2": ok, "select 3": ok, trigger: ok, "select /* ; */ 4": ok, "select 'last'": ok,
	})
	input := "\n-- begin;\nselect ';' -- a;b\n, 1;\nselect 2; select 3;\n" + trigger + ";\nselect /* ; */ 4;\nselect 'last'"
	shell, _, errs := shellOn(t, s, input, nil)
	s.replies["-- begin;\nselect ';' -- a;b\n, 1"] = ok
	if err := shell.Run(t.Context()); err != nil {
		t.Fatal(err, errs)
	}
	if len(s.seen) != 6 {
		t.Errorf("%d statements: %q", len(s.seen), s.seen)
	}
}

func TestAScriptStopsAtItsFirstError(t *testing.T) {
	s := newServer(t, map[string]reply{
		"select 1": {tag: "SELECT 0"},
		"insert": {err: &pgproto3.ErrorResponse{Severity: "ERROR", Code: "08007", Message: "the leader went away",
			Detail: "indeterminate: the change may have been made, or not", Hint: "read it back"}},
	})
	shell, _, errs := shellOn(t, s, "select 1;\n\ninsert;\nselect 1;\n", nil)
	err := shell.Run(t.Context())
	if !IsShown(err) {
		t.Fatalf("got %v", err)
	}
	want := "Error: the leader went away (08007)\n  Outcome: indeterminate: the change may have been made, or not\n  Hint: read it back\nStopped at line 3.\n"
	if errs.String() != want {
		t.Errorf("got %q\nwant %q", errs, want)
	}
	if len(s.seen) != 2 {
		t.Errorf("the server saw %q", s.seen)
	}
}

func TestNoticesAreShown(t *testing.T) {
	s := newServer(t, map[string]reply{"insert": {tag: "INSERT 0 1", notice: &pgproto3.NoticeResponse{Severity: "WARNING", Message: "degraded: flushed on 1 of 3"}}})
	shell, _, errs := shellOn(t, s, "insert;", nil)
	if err := shell.Run(t.Context()); err != nil || errs.String() != "Warning: degraded: flushed on 1 of 3\n" {
		t.Errorf("%v, %q", err, errs)
	}
}

func TestALostConnectionSaysWhatIsKnown(t *testing.T) {
	for sql, want := range map[string]string{
		"insert into t values (1)": "Whether the statement took effect is not known.",
		"select 1":                 "The statement can be run again.",
	} {
		s := newServer(t, map[string]reply{sql: {drop: true}})
		shell, _, errs := shellOn(t, s, sql+";", nil)
		if err := shell.Run(t.Context()); !IsShown(err) || !strings.Contains(errs.String(), want) {
			t.Errorf("%s: %v, %s", sql, err, errs)
		}
	}
	for last, want := range map[string]string{"commit": "Whether the transaction was committed is not known.", "update": "The open transaction was not committed."} {
		s := newServer(t, map[string]reply{"begin": {tag: "BEGIN", status: 'T'}, last: {drop: true}})
		shell, _, errs := shellOn(t, s, "begin;"+last+";", nil)
		if err := shell.Run(t.Context()); !IsShown(err) || !strings.Contains(errs.String(), want) {
			t.Errorf("%s: %v, %s", last, err, errs)
		}
	}
}

func TestTheShellConnectsAgain(t *testing.T) {
	s := newServer(t, map[string]reply{"a": {drop: true}, "b": {tag: "OK"}})
	shell, _, errs := shellOn(t, s, "", func(o *Options) { o.Interactive = true })
	if err := shell.block(t.Context(), "a;"); !IsShown(err) {
		t.Fatal(err)
	}
	if err := shell.block(t.Context(), "b;"); err != nil || !strings.Contains(errs.String(), "Connected again") {
		t.Errorf("%v, %s", err, errs)
	}
	if fmt.Sprint(s.seen) != "[a b]" {
		t.Errorf("the server saw %q", s.seen)
	}
}

func TestAnInterruptCancels(t *testing.T) {
	s := newServer(t, map[string]reply{"slow": {hang: true, err: &pgproto3.ErrorResponse{Severity: "ERROR", Code: "57014", Message: "canceled"}}})
	interrupts := make(chan os.Signal, 1)
	shell, _, errs := shellOn(t, s, "slow;", func(o *Options) { o.Interrupts = interrupts })
	go func() { <-s.running; interrupts <- os.Interrupt }()
	if err := shell.Run(t.Context()); !IsShown(err) || !strings.Contains(errs.String(), "canceled (57014)") {
		t.Errorf("%v, %s", err, errs)
	}
}

func TestDotCommands(t *testing.T) {
	schemaOf := func(which string) string {
		return "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND " + notOurs + which + " ORDER BY rowid"
	}
	s := newServer(t, map[string]reply{
		"SELECT name FROM sqlite_schema WHERE type IN ('table','view') AND " + notOurs + " ORDER BY name": {columns: []string{"name"}, rows: [][][]byte{cells("a"), cells("b")}},
		schemaOf(""): {columns: []string{"sql"}, rows: [][][]byte{cells("CREATE TABLE a(x)")}},
		schemaOf(" AND tbl_name = 'it''s' COLLATE NOCASE"): {columns: []string{"sql"}, rows: [][][]byte{cells("CREATE TABLE its(x)")}},
		"SHOW skein.token": {columns: []string{"skein.token"}, rows: [][][]byte{cells("tok")}},
		"select 1":         {columns: []string{"1"}, rows: [][][]byte{cells("1")}},
	})
	clock := time.Unix(0, 0)
	files := map[string]string{"f.sql": ".mode csv\nselect 1;\n", "loop.sql": ".read loop.sql\n", "bad.sql": "select 1;\n\nbroken;\n"}
	run := func(input string) (string, string) {
		shell, out, errs := shellOn(t, s, input, func(o *Options) {
			o.Databases = func(context.Context) ([]string, error) { return []string{"main", "shop"}, nil }
			o.Status = func(_ context.Context, w io.Writer) error { fmt.Fprintln(w, "all well"); return nil }
			o.Now = func() time.Time { clock = clock.Add(1500 * time.Microsecond); return clock }
			o.Open = func(name string) (io.ReadCloser, error) {
				if text, ok := files[name]; ok {
					return io.NopCloser(strings.NewReader(text)), nil
				}
				return nil, errors.New("no such file")
			}
		})
		if err := shell.Run(t.Context()); err != nil && !IsShown(err) {
			t.Errorf("%s: %v", input, err)
		}
		return out.String(), errs.String()
	}
	for _, c := range []struct{ input, out, errs string }{
		{".tables", "a\nb\n", ""},
		{".schema", "CREATE TABLE a(x);\n", ""},
		{".schema \"it's\"", "CREATE TABLE its(x);\n", ""},
		{".token", "skein.token\n-----------\ntok\n", ""},
		{".databases", "main\nshop\n", ""},
		{".status", "all well\n", ""},
		{".help", Help, ""},
		{".quit\nselect 1;", "", ""},
		{".timer on\n.mode csv\nselect 1;", "1\r\n1\r\nTime: 1.5ms\n", ""},
		{".read f.sql", "1\r\n1\r\n", ""},
		{".read none", "", "Error: no such file\n"},
		{".read bad.sql", "1\n-\n1\n", "Error: unknown statement: broken (42601)\nStopped at line 3 of bad.sql.\n"},
		{".mode xml", "", "Error: mode \"xml\": want table, csv, line or json\n"},
		{".nonsense", "", "Error: unknown command .nonsense; .help lists the commands\n"},
	} {
		if out, errs := run(c.input); out != c.out || errs != c.errs {
			t.Errorf("%s:\n got %q, %q\nwant %q, %q", c.input, out, errs, c.out, c.errs)
		}
	}
	if _, errs := run(".read loop.sql"); !strings.Contains(errs, "more than 8 deep") {
		t.Errorf("a loop of files: %q", errs)
	}
}

func TestNothingToConnectTo(t *testing.T) {
	s := newServer(t, nil)
	s.listener.Close()
	shell, _, errs := shellOn(t, s, "select 1;", nil)
	if err := shell.Run(t.Context()); !IsShown(err) || !strings.HasPrefix(errs.String(), "Error: cannot connect to 127.0.0.1:") || !strings.Contains(errs.String(), "refused") {
		t.Errorf("%v, %s", err, errs)
	}
}

func TestFootersAreForPeople(t *testing.T) {
	s := newServer(t, map[string]reply{"select 1": {columns: []string{"1"}, rows: [][][]byte{cells("1")}}, "insert": {tag: "INSERT 0 2"}})
	shell, out, _ := shellOn(t, s, "", func(o *Options) { o.Interactive = true })
	if err := shell.block(t.Context(), "select 1; insert;"); err != nil {
		t.Fatal(err)
	}
	if out.String() != "1\n-\n1\n(1 row)\nINSERT 0 2\n" {
		t.Errorf("got %q", out)
	}
}

func TestWhenEnterRunsTheText(t *testing.T) {
	for text, want := range map[string]bool{
		"": true, ".help": true, "select 1;": true, "select 1": false, "select ';": false, "-- x": false,
		"select 1; select 2": false, "select 1; -- done": true, "create trigger t after insert on a begin select 1;": false,
	} {
		if got := complete(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

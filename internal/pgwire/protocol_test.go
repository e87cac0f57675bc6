package pgwire

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/jackc/pgx/v5/pgproto3"
)

// raw is a client that speaks in messages.
type raw struct {
	net.Conn
	*pgproto3.Frontend
	t testing.TB
}

// dial connects and sends a startup message; it does not log in.
func (s *served) dial(t testing.TB) *raw {
	t.Helper()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &raw{Conn: c, Frontend: pgproto3.NewFrontend(c, c), t: t}
}

// login connects as alice to a server that trusts this machine.
func (s *served) login(t testing.TB) *raw {
	t.Helper()
	r := s.dial(t)
	r.Send(&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{"user": "alice", "database": "main"}})
	r.must(r.Flush())
	r.until('Z', 1)
	return r
}

func (r *raw) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// until shows the messages up to the n-th of a kind.
func (r *raw) until(kind byte, n int) string {
	r.t.Helper()
	var b strings.Builder
	for n > 0 {
		m, err := r.Receive()
		if err != nil {
			fmt.Fprintf(&b, "connection: %v\n", err)
			return b.String()
		}
		line := show(m)
		if line != "" {
			b.WriteString(line + "\n")
		}
		if encoded, _ := m.Encode(nil); encoded[0] == kind {
			n--
		}
	}
	return b.String()
}

// show writes a message on one line.
func show(m pgproto3.BackendMessage) string {
	switch m := m.(type) {
	case *pgproto3.ErrorResponse:
		return strings.TrimSpace(fmt.Sprintf("%s %s: %s%s%s", m.Severity, m.Code, m.Message, labelled(" DETAIL: ", m.Detail), labelled(" HINT: ", m.Hint)))
	case *pgproto3.NoticeResponse:
		return fmt.Sprintf("%s %s: %s%s", m.Severity, m.Code, m.Message, labelled(" DETAIL: ", m.Detail))
	case *pgproto3.DataRow:
		var words []string
		for _, v := range m.Values {
			words = append(words, showValue(v))
		}
		return "DataRow " + strings.Join(words, "|")
	case *pgproto3.RowDescription:
		var words []string
		for _, f := range m.Fields {
			words = append(words, fmt.Sprintf("%s:%d%s", f.Name, f.DataTypeOID, map[int16]string{1: "b"}[f.Format]))
		}
		return "RowDescription " + strings.Join(words, " ")
	case *pgproto3.ParameterDescription:
		return fmt.Sprint("ParameterDescription ", m.ParameterOIDs)
	case *pgproto3.CommandComplete:
		return "CommandComplete " + string(m.CommandTag)
	case *pgproto3.ReadyForQuery:
		return "ReadyForQuery " + string(m.TxStatus)
	case *pgproto3.ParameterStatus:
		return "ParameterStatus " + m.Name + "=" + m.Value
	case *pgproto3.CopyData:
		return fmt.Sprintf("CopyData %q", m.Data)
	case *pgproto3.CopyInResponse:
		return fmt.Sprintf("CopyInResponse %d, %d columns", m.OverallFormat, len(m.ColumnFormatCodes))
	}
	return strings.TrimPrefix(fmt.Sprintf("%T", m), "*pgproto3.")
}

func labelled(label, text string) string {
	if text == "" {
		return ""
	}
	return label + text
}

func showValue(v []byte) string {
	switch {
	case v == nil:
		return "NULL"
	case bytes.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0xfffd }):
		return "x" + hex.EncodeToString(v)
	}
	return string(v)
}

// message reads a line of a transcript: a word, and fields apart by "/".
func message(t testing.TB, line string) pgproto3.FrontendMessage {
	kind, rest, _ := strings.Cut(line, " ")
	fields := make([]string, 1, 8)
	for word := range strings.SplitSeq(rest, " ") {
		if word == "/" {
			fields = append(fields, "")
		} else {
			fields[len(fields)-1] = strings.TrimSpace(fields[len(fields)-1] + " " + word)
		}
	}
	fields = append(fields, "", "", "", "")
	object := func() (byte, string) { o, name, _ := strings.Cut(fields[0], " "); return o[0], name }
	switch kind {
	case "Query":
		return &pgproto3.Query{String: rest}
	case "Parse":
		m := &pgproto3.Parse{Name: fields[0], Query: fields[1]}
		for _, n := range numbers(t, fields[2]) {
			m.ParameterOIDs = append(m.ParameterOIDs, uint32(n))
		}
		return m
	case "Bind":
		m := &pgproto3.Bind{DestinationPortal: fields[0], PreparedStatement: fields[1]}
		for _, p := range strings.Fields(fields[2]) {
			format, data := int16(0), []byte(p)
			if hexed, ok := strings.CutPrefix(p, "0x"); ok {
				format, data = 1, unhex(t, hexed)
			}
			if p == "NULL" {
				data = nil
			}
			m.Parameters, m.ParameterFormatCodes = append(m.Parameters, data), append(m.ParameterFormatCodes, format)
		}
		for _, n := range numbers(t, fields[3]) {
			m.ResultFormatCodes = append(m.ResultFormatCodes, int16(n))
		}
		return m
	case "Describe":
		o, name := object()
		return &pgproto3.Describe{ObjectType: o, Name: name}
	case "Close":
		o, name := object()
		return &pgproto3.Close{ObjectType: o, Name: name}
	case "Execute":
		m := &pgproto3.Execute{Portal: fields[0]}
		if n := numbers(t, fields[1]); len(n) > 0 {
			m.MaxRows = uint32(n[0])
		}
		return m
	case "Sync":
		return &pgproto3.Sync{}
	case "Flush":
		return &pgproto3.Flush{}
	case "CopyData":
		text, err := strconv.Unquote(`"` + strings.ReplaceAll(rest, `"`, `\"`) + `"`)
		if err != nil {
			t.Fatal(err)
		}
		return &pgproto3.CopyData{Data: []byte(text)}
	case "CopyDone":
		return &pgproto3.CopyDone{}
	case "CopyFail":
		return &pgproto3.CopyFail{Message: rest}
	case "Call":
		return &pgproto3.FunctionCall{}
	}
	t.Fatalf("unknown message %q", line)
	return nil
}

func numbers(t testing.TB, s string) []int {
	var out []int
	for _, w := range strings.Fields(s) {
		n, err := strconv.Atoi(w)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, n)
	}
	return out
}

func unhex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestProtocol plays the transcripts in testdata/protocol: what a client sends
// and what it is answered, up to as many ReadyForQuery as it asked for.
func TestProtocol(t *testing.T) {
	datadriven.Walk(t, "testdata/protocol", func(t *testing.T, path string) {
		s := serve(t, Options{TrustLoopback: true, MaxMessageBytes: 64 << 10, MaxStatements: 4, MaxPortals: 3, MaxHeldBytes: 4000})
		r := s.login(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "degraded" {
				s.gateway.mu.Lock()
				s.gateway.degraded = !s.gateway.degraded
				s.gateway.mu.Unlock()
				return ""
			}
			ready := 0
			for line := range strings.Lines(d.Input) {
				m := message(t, strings.TrimRight(line, "\n"))
				switch m.(type) {
				case *pgproto3.Sync, *pgproto3.Query, *pgproto3.FunctionCall:
					ready++
				}
				r.Send(m)
			}
			d.MaybeScanArgs(t, "ready", &ready)
			r.must(r.Flush())
			return r.until('Z', ready)
		})
	})
}

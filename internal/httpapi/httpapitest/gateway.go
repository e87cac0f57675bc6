package httpapitest

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"github.com/xdg-go/scram"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/session"
)

// Gateway is a fake session.Gateway. Its sessions answer every statement with
// Columns, Rows and Result, or with Err; "begin" leaves a transaction open.
type Gateway struct {
	Node    *Node // for credentials: Passwords
	Columns []string
	Rows    [][]base.Value
	Result  session.Result
	Err     error
	Kind    session.StatementKind
	// Seen records what sessions were asked: options, settings, statements.
	Seen []string
	Args []base.Value
	// Closed counts closed sessions.
	Closed int
}

// Credential makes the stored form of a password.
func Credential(password string) string {
	client, err := scram.SHA256.NewClient("", password, "")
	if err != nil {
		panic(err)
	}
	salt := "0123456789abcdef"
	c, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: salt, Iters: 4096})
	if err != nil {
		panic(err)
	}
	e := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$4096:%s$%s:%s", e([]byte(salt)), e(c.StoredKey), e(c.ServerKey))
}

// Credential implements session.Gateway.
func (g *Gateway) Credential(user string) (string, bool) {
	g.Node.mu.Lock()
	defer g.Node.mu.Unlock()
	password, ok := g.Node.Passwords[user]
	if !ok {
		return "", false
	}
	return Credential(password), true
}

// Databases implements session.Gateway.
func (g *Gateway) Databases() []string { return []string{"main"} }

// Users implements session.Gateway.
func (g *Gateway) Users() []string { return nil }

// Open implements session.Gateway.
func (g *Gateway) Open(_ context.Context, o session.Options) (session.Session, error) {
	if !slices.Contains(g.Databases(), o.Database) {
		return nil, base.Errorf(base.KindNotFound, "database %s does not exist", o.Database)
	}
	g.Seen = append(g.Seen, fmt.Sprintf("open %s user=%q trusted=%v front=%s", o.Database, o.User, o.Trusted, o.FrontEnd))
	return &fakeSession{g: g, status: session.TxIdle, token: "t0"}, nil
}

type fakeSession struct {
	g      *Gateway
	status session.TxStatus
	token  string
	kept   string // skein.replica
}

func (s *fakeSession) Describe(context.Context, string) (*session.Description, error) {
	return &session.Description{Kind: s.g.Kind}, nil
}

func (s *fakeSession) Query(_ context.Context, sql string, args []base.Value) (session.Rows, error) {
	s.g.Seen = append(s.g.Seen, "query "+sql)
	s.g.Args = args
	s.token += "+"
	if s.g.Err != nil {
		return nil, s.g.Err
	}
	if strings.EqualFold(sql, "begin") {
		s.status = session.TxActive
	}
	return &fakeRows{g: s.g, at: -1}, nil
}

func (s *fakeSession) Leads() bool { return true }

func (s *fakeSession) TxStatus() session.TxStatus { return s.status }

func (s *fakeSession) Set(name, value string) error {
	s.g.Seen = append(s.g.Seen, "set "+name+"="+value)
	if name == "skein.token" {
		s.token = value
	}
	if name == "skein.replica" {
		s.kept = value
	}
	if name == "skein.read" && value == "nonsense" {
		return base.Errorf(base.KindInvalid, "read level %q", value)
	}
	return nil
}

func (s *fakeSession) Show(_ context.Context, name string) (string, error) {
	if name == "skein.replica" {
		return s.kept, nil
	}
	return s.token, nil
}

func (s *fakeSession) Cancel()          {}
func (s *fakeSession) Database() string { return "main" }

func (s *fakeSession) Schema(context.Context, string, []base.Value) (session.Rows, error) {
	return &fakeRows{g: &Gateway{}, at: -1}, nil
}

func (s *fakeSession) Close() error {
	s.g.Closed++
	return nil
}

type fakeRows struct {
	g  *Gateway
	at int
}

func (r *fakeRows) Columns() []session.Column {
	var columns []session.Column
	for _, c := range r.g.Columns {
		columns = append(columns, session.Column{Name: c})
	}
	return columns
}

func (r *fakeRows) Next() bool             { r.at++; return r.at < len(r.g.Rows) }
func (r *fakeRows) Row() []base.Value      { return r.g.Rows[r.at] }
func (r *fakeRows) Err() error             { return nil }
func (r *fakeRows) Result() session.Result { return r.g.Result }
func (r *fakeRows) Close() error           { return nil }

package pgwire

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/session"
)

// The codes in place of a protocol version.
const (
	codeCancel = 80877102
	codeTLS    = 80877103
	codeGSS    = 80877104
	// maxStartup bounds every message before the log-in, as PostgreSQL does.
	maxStartup = 10_000
	// maxUpgrades bounds requests before the startup message.
	maxUpgrades = 3
)

// login is what a startup message asks for.
type login struct {
	user, database string
	defaulted      bool // the client named no database
	parameters     map[string]string
	trusted        bool
}

// startup upgrades, answers cancel requests (nil login) and reads who comes.
func (c *conn) startup() (*login, error) {
	deadline := c.s.env.Clock.Now().Add(c.s.options.StartupTimeout)
	if err := c.raw.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	if err := c.directTLS(); err != nil {
		return nil, err
	}
	for range maxUpgrades {
		body, err := c.in.startup()
		if err != nil {
			return nil, err
		}
		switch code := binary.BigEndian.Uint32(body); {
		case code == codeTLS:
			err = c.upgrade()
		case code == codeGSS:
			err = c.answer('N')
		case code == codeCancel:
			var m pgproto3.CancelRequest
			if m.Decode(body) == nil {
				c.s.cancelRequest(m.ProcessID, m.SecretKey)
			}
			return nil, nil
		case code>>16 == 3:
			return c.readLogin(body)
		default:
			err = pgError("0A000", "unsupported frontend protocol %d.%d: server supports 3.0 to 3.2", code>>16, code&0xffff)
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: too many requests before the startup message", errProtocol)
}

// answer sends one byte.
func (c *conn) answer(b byte) error {
	c.out.buf = append(c.out.buf, b)
	return c.out.flush()
}

// directTLS recognises a TLS handshake without SSLRequest.
func (c *conn) directTLS() error {
	if c.s.options.TLS == nil {
		return nil
	}
	if err := c.in.fill(1); err != nil {
		return err
	}
	if kind, _ := c.in.nextKind(); kind == 0x16 {
		return c.handshake()
	}
	return nil
}

// upgrade answers SSLRequest.
func (c *conn) upgrade() error {
	if c.s.options.TLS == nil || c.encrypted() {
		return c.answer('N')
	}
	if c.in.r != c.in.w {
		// Bytes sent before the handshake would be taken for encrypted ones.
		return fmt.Errorf("%w: data after the request for TLS", errProtocol)
	}
	if err := c.answer('S'); err != nil {
		return err
	}
	return c.handshake()
}

func (c *conn) handshake() error {
	early := append([]byte(nil), c.in.buf[c.in.r:c.in.w]...)
	c.in.r, c.in.w = 0, 0
	t := tls.Server(&prefixed{Conn: c.raw, head: early}, c.s.options.TLS)
	if err := t.HandshakeContext(c.ctx); err != nil {
		return err
	}
	c.stream, c.out.dst = t, t
	return nil
}

// prefixed is a connection of which some bytes have been read already.
type prefixed struct {
	net.Conn
	head []byte
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.head) > 0 {
		n := copy(b, p.head)
		p.head = p.head[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

func (c *conn) encrypted() bool { return c.stream != c.raw }

// readLogin reads the startup message and agrees on the protocol's minor
// version and options.
func (c *conn) readLogin(body []byte) (*login, error) {
	minor := int(binary.BigEndian.Uint32(body) & 0xffff)
	c.minor = min(minor, 2)
	binary.BigEndian.PutUint32(body, pgproto3.ProtocolVersion30)
	var m pgproto3.StartupMessage
	if err := m.Decode(body); err != nil {
		return nil, fmt.Errorf("%w: startup message: %w", errProtocol, err)
	}
	var unknown []string
	for name := range m.Parameters {
		if strings.HasPrefix(name, "_pq_.") {
			unknown = append(unknown, name)
			delete(m.Parameters, name)
		}
	}
	if minor > 2 || len(unknown) > 0 {
		c.out.send(&pgproto3.NegotiateProtocolVersion{NewestMinorProtocol: uint32(c.minor), UnrecognizedOptions: unknown})
	}
	return c.checkLogin(m.Parameters)
}

func (c *conn) checkLogin(parameters map[string]string) (*login, error) {
	l := &login{user: parameters["user"], database: parameters["database"], parameters: parameters}
	if l.user == "" {
		return nil, pgError("28000", "no PostgreSQL user name specified in startup packet")
	}
	if r := parameters["replication"]; r != "" && r != "false" && r != "off" && r != "0" && r != "no" {
		return nil, pgError("0A000", "PostgreSQL's replication protocol is not supported")
	}
	if l.database == "" {
		l.database, l.defaulted = c.s.options.DefaultDatabase, true
	}
	if c.s.options.RequireTLS && !c.encrypted() {
		return nil, pgError("28000", "this server takes TLS connections only").WithHint("connect with sslmode=require")
	}
	l.trusted = c.s.options.TrustLoopback && isLoopback(c.raw.RemoteAddr())
	return l, nil
}

func isLoopback(a net.Addr) bool {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	case *net.UnixAddr:
		return true
	}
	return false
}

// logIn authenticates, opens the session and greets.
func (c *conn) logIn(l *login) error {
	if !l.trusted {
		if err := c.authenticate(l.user); err != nil {
			return err
		}
	}
	c.user = l.user
	if err := c.openSession(l); err != nil {
		return err
	}
	c.key = c.s.newKey(c.minor)
	if err := c.s.loggedIn(c); err != nil {
		return err
	}
	if err := c.raw.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	c.in.limit = c.s.options.MaxMessageBytes
	return c.greet(l)
}

// openSession opens the named database. libpq names the user's when it was
// given none; where that does not exist it counts as none given.
func (c *conn) openSession(l *login) error {
	o := session.Options{
		User: l.user, Trusted: l.trusted, Database: l.database, FrontEnd: "pgwire", RemoteAddr: c.raw.RemoteAddr().String(),
	}
	sess, err := c.s.gateway.Open(c.ctx, o)
	if base.KindOf(err) == base.KindNotFound && l.database == l.user && l.database != c.s.options.DefaultDatabase {
		o.Database = c.s.options.DefaultDatabase
		if other, otherErr := c.s.gateway.Open(c.ctx, o); otherErr == nil {
			sess, err = other, nil
		}
	}
	if err != nil {
		return base.AsError(err)
	}
	c.sess = sess
	return nil
}

// greet sends what a client waits for after it has logged in.
func (c *conn) greet(l *login) error {
	c.settings = newSettings(c.s.options.Version, l.user, c.sess.Database())
	c.settings.initial["in_hot_standby"] = c.standby()
	c.statements, c.portals = map[string]*statement{}, map[string]*portal{}
	c.out.send(&pgproto3.AuthenticationOk{})
	for name, value := range startupSettings(l.parameters) {
		if err := c.setting(name, value); err != nil {
			return base.AsError(err)
		}
	}
	for name, value := range c.settings.reported() {
		c.out.send(&pgproto3.ParameterStatus{Name: name, Value: value})
	}
	c.out.send(&pgproto3.BackendKeyData{ProcessID: c.id, SecretKey: c.key})
	c.greeted = true
	c.ready()
	return nil
}

package pgwire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/session"
)

// conn is one client. Its goroutine owns everything but what is named below.
type conn struct {
	interruption // any goroutine

	s       *Server
	raw     net.Conn // as accepted; any goroutine may set its read deadline
	stream  net.Conn // raw, or TLS over it
	in      reader
	out     writer
	ctx     context.Context
	cancel  context.CancelCauseFunc
	started bool   // logged in; written under Server.mu
	id      uint32 // process id, for cancelling; set before it is published
	key     []byte // likewise
	minor   int    // of the protocol: 0 or 2
	greeted bool   // the client has been told its settings
	user    string
	sess    session.Session // set before the connection can be cancelled

	settings   settings
	block      blockState
	implicit   bool // the open transaction is ours, not the client's
	readOnly   bool // the client asked for a READ ONLY transaction
	discarding bool // after an error, until Sync
	statements map[string]*statement
	unnamed    *statement
	portals    map[string]*portal
	savepoints []string // names of those that are set
	unnamedP   portal
	active     *portal // its rows are open at the session
	reported   string  // the token that the client knows
}

func newConn(s *Server, raw net.Conn) *conn {
	c := &conn{s: s, raw: raw, stream: raw}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.in = reader{src: c, buf: make([]byte, readBuffer), limit: maxStartup, beforeRead: c.beforeRead}
	c.out = writer{dst: raw, clock: s.env.Clock, timeout: s.options.WriteTimeout, buf: make([]byte, 0, writeBuffer)}
	return c
}

// serve runs the connection from its first byte to its end.
func (c *conn) serve() {
	defer c.close()
	err := c.guarded(c.live)
	switch {
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
	case errors.Is(err, errProtocol):
		c.fatal(pgError("08P01", "%v", err))
	default:
		if e, ok := errors.AsType[*base.Error](err); ok {
			c.fatal(e)
			return
		}
		c.s.env.Log.Debug("client connection broke", "remote", c.raw.RemoteAddr(), "error", err)
	}
}

// guarded turns a panic into an error: a bug in serving one client must not
// end the others.
func (c *conn) guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.s.env.Log.Error("panic while serving a client", "user", c.user, "panic", p, "stack", string(debug.Stack()))
			err = base.Errorf(base.KindInternal, "internal error: %v", p).WithOutcome(base.Indeterminate)
		}
	}()
	return f()
}

func (c *conn) live() error {
	login, err := c.startup()
	if err != nil || login == nil {
		return err
	}
	if err := c.logIn(login); err != nil {
		return err
	}
	return c.loop()
}

func (c *conn) close() {
	c.s.gone(c)
	c.cancel(errShutdown)
	if c.sess != nil {
		if err := c.guarded(c.closeSession); err != nil {
			c.s.env.Log.Warn("close session", "user", c.user, "error", err)
		}
	}
	c.stream.Close()
}

func (c *conn) closeSession() error {
	c.closePortals()
	return c.sess.Close()
}

// fatal sends the error that ends the connection.
func (c *conn) fatal(e *base.Error) {
	c.out.err = nil
	c.sendError("FATAL", e)
	if err := c.out.flush(); err != nil {
		c.s.env.Log.Debug("tell a client why its connection ends", "error", err)
	}
}

// Read reads from the client, for reader. It watches for the server's end.
func (c *conn) Read(p []byte) (int, error) {
	for {
		if err := c.mayWait(); err != nil {
			return 0, err
		}
		n, err := c.stream.Read(p)
		if n > 0 || !isTimeout(err) || c.ending.Load() == keepGoing {
			return n, err
		}
		if err := c.raw.SetReadDeadline(time.Time{}); err != nil {
			return 0, err
		}
	}
}

// mayWait says whether the connection may wait for its client.
func (c *conn) mayWait() error {
	switch c.ending.Load() {
	case endNow:
		return errShutdown
	case endIdle:
		if c.block == blockNone && !c.implicit {
			return errShutdown
		}
	}
	return nil
}

func isTimeout(err error) bool {
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout()
}

func (c *conn) beforeRead() error { return c.out.flushDue() }

// loop serves messages until the client leaves.
func (c *conn) loop() error {
	for {
		kind, body, err := c.in.message()
		if large, ok := errors.AsType[*tooLarge](err); ok {
			c.messageTooLarge(large)
			continue
		}
		if err != nil {
			return err
		}
		if kind == 'X' {
			return nil
		}
		c.wakeActive()
		if err := c.handle(kind, body); err != nil {
			return err
		}
		c.restActive()
		if c.out.err != nil {
			return c.out.err
		}
	}
}

// handle serves one message. Its error ends the connection.
func (c *conn) handle(kind byte, body []byte) error {
	if c.discarding && kind != 'S' {
		return nil
	}
	switch kind {
	case 'B':
		return c.extended(c.bind(body))
	case 'E':
		return c.extended(c.execute(body))
	case 'D':
		return c.extended(c.describe(body))
	case 'S':
		return c.sync()
	case 'Q':
		return c.query(body)
	case 'P':
		return c.extended(c.parse(body))
	case 'C':
		return c.extended(c.closeObject(body))
	case 'H':
		c.out.due = true
		return nil
	case 'd', 'c', 'f':
		return nil // What is left of a COPY that failed.
	case 'F':
		c.failStatement(pgError("0A000", "function calls are not supported").WithHint("use SELECT"))
		c.ready()
		return nil
	}
	return fmt.Errorf("%w: unknown message type %q", errProtocol, kind)
}

// extended takes the outcome of a message of the extended protocol: an error
// that is the client's is told, and what follows is discarded until Sync.
func (c *conn) extended(err error) error {
	if err == nil {
		return nil
	}
	if endsConnection(err) {
		return err
	}
	if c.out.err != nil {
		return c.out.err
	}
	c.failStatement(err)
	c.discarding = true
	return nil
}

// lost is a connection that broke while a statement needed it.
type lost struct{ err error }

func (e *lost) Error() string { return e.err.Error() }
func (e *lost) Unwrap() error { return e.err }

// endsConnection says whether no statement but the connection is at fault.
func endsConnection(err error) bool {
	var l *lost
	return errors.Is(err, errProtocol) || errors.As(err, &l)
}

func (c *conn) messageTooLarge(e *tooLarge) {
	if c.discarding {
		return
	}
	c.failStatement(base.Errorf(base.KindTooLarge, "%v", e).
		WithHint("send less at once, use COPY, or raise max_message_bytes"))
	if e.kind == 'Q' {
		c.ready()
		return
	}
	c.discarding = true
}

// ready ends an exchange.
func (c *conn) ready() {
	c.reportToken()
	c.reportStandby()
	c.out.ready(c.status())
}

package pgwire

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/pgwire/catalogue"
	"github.com/skeindb/skein/internal/session"
)

// Server accepts PostgreSQL clients. New makes it, Serve runs it, Close ends it.
type Server struct {
	env        *env.Env
	gateway    session.Gateway
	options    Options
	auth       *authenticator
	catalogues *catalogue.Cache
	group      sync.WaitGroup // one for each connection

	mu        sync.Mutex // guards what follows
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	clients   map[uint32]*conn // logged in, by process id
	starting  int
	lastID    uint32
	draining  bool
	closed    bool
}

// New returns a Server that opens its sessions at gw.
func New(e *env.Env, gw session.Gateway, o Options) (*Server, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	if o.TLS != nil {
		o.TLS = withALPN(o.TLS)
	}
	s := &Server{
		env: e, gateway: gw, options: o,
		catalogues: catalogue.NewCache(e),
		listeners:  map[net.Listener]struct{}{},
		conns:      map[*conn]struct{}{},
		clients:    map[uint32]*conn{},
		lastID:     uint32(e.Rand.Uint64())>>8 + 1,
	}
	s.auth = newAuthenticator(e, gw)
	return s, nil
}

// withALPN lets clients that start TLS at once (sslnegotiation=direct) agree
// on the protocol.
func withALPN(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.NextProtos = []string{"postgresql"}
	return c
}

// ErrClosed is what Serve returns after Close.
var ErrClosed = errors.New("pgwire: server closed")

// Serve accepts connections until ctx is done, when it drains for at most
// Options.DrainTimeout, or until Close, or until the listener fails. It owns l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if !s.addListener(l) {
		l.Close()
		return ErrClosed
	}
	defer s.removeListener(l)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if err != nil {
			return s.acceptFailed(ctx, err)
		}
		s.accept(c)
	}
}

func (s *Server) acceptFailed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		d, cancel := s.env.Clock.WithTimeout(context.Background(), s.options.DrainTimeout, errShutdown)
		defer cancel()
		s.Drain(d)
		return context.Cause(ctx)
	}
	s.mu.Lock()
	closed := s.closed || s.draining
	s.mu.Unlock()
	if closed {
		return ErrClosed
	}
	return err
}

func (s *Server) addListener(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.draining {
		return false
	}
	s.listeners[l] = struct{}{}
	return true
}

func (s *Server) removeListener(l net.Listener) {
	s.mu.Lock()
	delete(s.listeners, l)
	s.mu.Unlock()
	l.Close()
}

// accept starts a connection, unless too many are starting already.
func (s *Server) accept(raw net.Conn) {
	c := newConn(s, raw)
	s.mu.Lock()
	full := s.starting >= s.options.MaxStarting || s.closed || s.draining
	if !full {
		s.starting++
		s.conns[c] = struct{}{}
		s.group.Add(1)
	}
	s.mu.Unlock()
	if full {
		c.cancel(errShutdown)
		raw.Close()
		return
	}
	go func() {
		defer s.group.Done()
		c.serve()
	}()
}

// loggedIn gives c a process id, unless there are too many clients.
func (s *Server) loggedIn(c *conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining || s.closed {
		return errShutdown
	}
	if len(s.clients) >= s.options.MaxConnections {
		return base.Errorf(base.KindBusy, "too many clients already (%d)", len(s.clients)).
			WithHint("raise the limit on connections, or use a pool")
	}
	s.starting--
	c.started = true
	for {
		s.lastID++
		if _, taken := s.clients[s.lastID]; !taken && s.lastID != 0 {
			break
		}
	}
	c.id = s.lastID
	s.clients[c.id] = c
	return nil
}

// gone forgets a connection.
func (s *Server) gone(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if c.started {
		delete(s.clients, c.id)
	} else {
		s.starting--
	}
}

// cancelRequest interrupts what a client runs, if the key is its own.
func (s *Server) cancelRequest(id uint32, key []byte) {
	s.mu.Lock()
	c := s.clients[id]
	s.mu.Unlock()
	if c != nil && c.ownsKey(key) {
		c.interrupt()
	}
}

// newKey draws a secret for cancelling: four bytes in protocol 3.0.
func (s *Server) newKey(minor int) []byte {
	if minor >= 2 {
		key := make([]byte, 32)
		s.env.Rand.Read(key)
		return key
	}
	return binary.BigEndian.AppendUint32(nil, uint32(s.env.Rand.Uint64()))
}

// Drain stops accepting, ends idle clients with SQLSTATE 57P01 at once, lets
// the others finish their transaction, and ends those that are left when ctx
// is done. It returns when all have gone.
func (s *Server) Drain(ctx context.Context) {
	s.stop(func(c *conn) { c.drain() })
	done := make(chan struct{})
	go func() {
		s.group.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.Close()
		<-done
	}
}

// Close stops accepting, interrupts what runs, ends every client with SQLSTATE
// 57P01, and waits until all have gone and the caches are closed.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop(func(c *conn) { c.end() })
	s.group.Wait()
	return s.catalogues.Close()
}

// stop closes the listeners and tells every connection.
func (s *Server) stop(tell func(*conn)) {
	s.mu.Lock()
	s.draining = true
	var conns []*conn
	for c := range s.conns {
		conns = append(conns, c)
	}
	var listeners []net.Listener
	for l := range s.listeners {
		listeners = append(listeners, l)
	}
	s.mu.Unlock()
	for _, l := range listeners {
		l.Close()
	}
	for _, c := range conns {
		tell(c)
	}
}

// Clients returns how many clients are logged in.
func (s *Server) Clients() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.clients)
}

// errShutdown ends clients when the server stops.
var errShutdown = &base.Error{
	Kind: base.KindShutdown, SQLState: "57P01",
	Message: "terminating connection: the node is shutting down", Hint: "connect again, or to another node",
}

// aLongTimeAgo as a deadline makes a blocked read return at once.
var aLongTimeAgo = time.Unix(1, 0)

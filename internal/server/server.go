package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/config"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/node"
	"github.com/skeindb/skein/internal/pgwire"
	"github.com/skeindb/skein/internal/pki"
)

// Server is one running node that serves clients.
type Server struct {
	env      *env.Env
	config   *config.Serve
	version  string
	pid      int
	node     *node.Node
	registry *prometheus.Registry
	http     *httpapi.Server
	pg       *pgwire.Server
	listener net.Listener
	lock     io.Closer // of the data folder

	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	once   sync.Once
	done   chan struct{}
	err    error // set before done is closed

	closing sync.Once
	closed  error // what Close returned; set in closing
}

// Open starts a node and its front ends, and returns once all listen.
func Open(ctx context.Context, e *env.Env, c *config.Serve, version string) (*Server, error) {
	s := &Server{env: e, config: c, version: version, pid: os.Getpid(), registry: prometheus.NewRegistry(), done: make(chan struct{})}
	var err error
	if s.lock, err = node.LockFolder(e.FS, c.Dir); err != nil {
		return nil, err
	}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.lock.Close())
	}
	return s, nil
}

func (s *Server) open(ctx context.Context) error {
	e, c := s.env, s.config
	identity, clientTLS, err := s.certificates()
	if err != nil {
		return err
	}
	if err := s.checkPorts(ctx); err != nil {
		return err
	}
	if err := e.FS.RemoveAll(s.downloads()); err != nil {
		return fmt.Errorf("remove old snapshots: %w", err)
	}
	if s.listener, err = e.Net.Listen(ctx, c.PG); err != nil {
		return fmt.Errorf("listen for PostgreSQL clients on %s: %w", c.PG, err)
	}
	s.node, err = node.Open(ctx, e, node.Options{
		Dir: c.Dir, Name: c.Name, PeerAddress: c.Peer, Advertise: c.Advertise, PgAddress: c.PG, HTTPAddress: c.HTTP,
		Join: c.Join, TLS: identity, Calls: s.calls(), Lock: s.lock,
	})
	if err != nil {
		return errors.Join(err, s.listener.Close())
	}
	if err := s.openFrontEnds(ctx, clientTLS); err != nil {
		return errors.Join(err, s.listener.Close(), s.node.Close())
	}
	return nil
}

// checkPorts refuses an address that cannot be listened on, before the node has
// founded or joined a cluster: a port in use is the most common mistake.
func (s *Server) checkPorts(ctx context.Context) error {
	for _, port := range []struct{ flag, whose, address string }{
		{"pg", "PostgreSQL clients", s.config.PG}, {"http", "HTTP", s.config.HTTP}, {"peer", "other nodes", s.config.Peer},
	} {
		l, err := s.env.Net.Listen(ctx, port.address)
		if errors.Is(err, syscall.EADDRINUSE) {
			return base.Errorf(base.KindInvalid, "another process listens on %s, the address for %s: the port is in use", port.address, port.whose).
				WithHint("Stop that process, or choose another address with --%s.", port.flag)
		}
		if err != nil {
			return fmt.Errorf("listen for %s: %w", port.whose, err)
		}
		if err := l.Close(); err != nil {
			return fmt.Errorf("listen for %s on %s: %w", port.whose, port.address, err)
		}
	}
	return nil
}

// certificates loads this node's certificate and, where there is one, that
// which clients see; nodes without one of their own show the node's.
func (s *Server) certificates() (*pki.Identity, *tls.Config, error) {
	if s.config.Certs == "" {
		return nil, nil, nil
	}
	identity, err := pki.LoadFiles(s.env.FS, s.config.Certs)
	if err != nil {
		return nil, nil, fmt.Errorf("load the node's certificate: %w", err)
	}
	if err := identity.Check(s.env.Clock.Now()); err != nil {
		return nil, nil, err
	}
	file := s.config.Certs + "/" + pki.ServerFile
	if _, err := s.env.FS.Stat(file); err != nil {
		file = s.config.Certs + "/" + pki.NodeFile
	}
	clients, err := pki.LoadServer(s.env.FS, file, file)
	if err != nil {
		return nil, nil, fmt.Errorf("load the certificate for clients: %w", err)
	}
	return identity, clients.TLSConfig(s.env.Clock.Now), nil
}

func (s *Server) openFrontEnds(ctx context.Context, clients *tls.Config) (err error) {
	s.registry.MustRegister(newCollector(s.node), deliveries{s.node}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s.http, err = httpapi.Open(ctx, s.env, s.config.HTTP, httpapi.Options{
		Node: s, Gateway: s.node.Gateway(), Registry: s.registry, TrustLoopback: s.config.TrustLoopback,
		OpenMetrics: s.config.OpenMetrics, Version: s.version, TLS: s.httpTLS(clients),
	})
	if err != nil {
		return err
	}
	s.pg, err = pgwire.New(s.env, s.node.Gateway(), pgwire.Options{TLS: clients, TrustLoopback: s.config.TrustLoopback})
	if err != nil {
		return errors.Join(err, s.http.Close())
	}
	serving, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.wg.Go(func() {
		if err := s.pg.Serve(serving, s.listener); err != nil && !errors.Is(err, pgwire.ErrClosed) && serving.Err() == nil {
			s.stop(fmt.Errorf("serve PostgreSQL clients: %w", err))
		}
	})
	s.wg.Go(func() {
		select {
		case <-s.http.Done():
			if err := s.http.Err(); err != nil {
				s.stop(err)
			}
		case <-s.node.Broken():
			// Whoever runs this process starts it again; until then the others
			// see at once that it is gone.
			s.stop(s.node.Failure())
		case <-serving.Done():
		}
	})
	return nil
}

// httpTLS leaves HTTP plain on loopback, where browsers and curl expect it.
func (s *Server) httpTLS(clients *tls.Config) *tls.Config {
	host, _, err := net.SplitHostPort(s.config.HTTP)
	if ip := net.ParseIP(host); err == nil && (host == "localhost" || (ip != nil && ip.IsLoopback())) {
		return nil
	}
	return clients
}

// stop notes why the server can't go on.
func (s *Server) stop(err error) {
	s.once.Do(func() {
		s.err = err
		close(s.done)
	})
}

// Done is closed when the server has stopped by itself; Err then says why.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err says why the server has stopped.
func (s *Server) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Node is the node behind the front ends.
func (s *Server) Node() *node.Node { return s.node }

// HTTPAddr is where HTTP is served.
func (s *Server) HTTPAddr() net.Addr { return s.http.Addr() }

// Close hands over what the node leads, lets clients finish the transactions
// that they are in, for at most drainTimeout, and stops.
func (s *Server) Close() error {
	s.closing.Do(func() { s.closed = s.close() })
	return s.closed
}

func (s *Server) close() error {
	s.node.HandOver()
	drain, cancel := s.env.Clock.WithTimeout(context.Background(), drainTimeout, errStopping)
	defer cancel()
	s.pg.Drain(drain)
	s.cancel(errStopping)
	err := errors.Join(s.pg.Close(), s.http.Close())
	s.wg.Wait()
	err = errors.Join(err, s.node.Close(), s.lock.Close())
	s.stop(nil)
	return err
}

// drainTimeout bounds the wait for clients at a stop. What a statement may take
// longer is not worth a stop that looks like a hang.
const drainTimeout = 3 * time.Second

var errStopping = errors.New("the node is stopping")

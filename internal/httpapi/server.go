package httpapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/session"
)

// Options of the front end.
type Options struct {
	Node    Node            // required
	Gateway session.Gateway // required
	// Registry is what /metrics shows, and where the front end registers its
	// own figures. Required.
	Registry *prometheus.Registry
	// TrustLoopback lets requests from a loopback address do everything
	// without a password.
	TrustLoopback bool
	// OpenMetrics shows /metrics to anyone who can connect.
	OpenMetrics bool
	// Version of the binary, for the first page.
	Version string
	// TLS makes the server speak HTTPS; nil is plain HTTP.
	TLS *tls.Config
	// MaxQueryBody bounds the body of a query; 0 means 16 MiB.
	MaxQueryBody int64
	// MaxResult bounds the answer of a query; 0 means 16 MiB.
	MaxResult int
	// MaxRequests bounds how many requests run at once; 0 means 256.
	MaxRequests int
	// StallTimeout ends an upload or a download of which no byte moves; 0
	// means 30 seconds.
	StallTimeout time.Duration
	// OperationTimeout bounds every request but uploads, downloads and
	// queries; 0 means 60 seconds. Queries have 5 times as long.
	OperationTimeout time.Duration
}

// Limits that are not settings.
const (
	maxHeader       = 64 << 10
	maxJSONBody     = 1 << 20
	headerTimeout   = 10 * time.Second
	idleTimeout     = 2 * time.Minute
	shutdownTimeout = 5 * time.Second
)

func (o Options) withDefaults() (Options, error) {
	if o.Node == nil || o.Gateway == nil || o.Registry == nil {
		return o, errors.New("httpapi: Node, Gateway and Registry must be set")
	}
	fill(&o.MaxQueryBody, 16<<20)
	fill(&o.MaxResult, 16<<20)
	fill(&o.MaxRequests, 256)
	fill(&o.StallTimeout, 30*time.Second)
	fill(&o.OperationTimeout, 60*time.Second)
	return o, nil
}

func fill[T comparable](to *T, value T) {
	var zero T
	if *to == zero {
		*to = value
	}
}

// API is the front end without a socket: an http.Handler. It is safe for
// concurrent use.
type API struct {
	env       *env.Env
	options   Options
	log       *slog.Logger
	passwords *passwords
	running   chan struct{} // one slot for each request that runs
	feeding   chan struct{} // one slot for each stream of changes
	metrics   *metrics
	handler   http.Handler
}

// New makes the handler and registers its metrics.
func New(e *env.Env, o Options) (*API, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	a := &API{
		env: e, options: o, log: e.Log.With("part", "http"),
		passwords: newPasswords(o.Gateway.Credential),
		running:   make(chan struct{}, o.MaxRequests), feeding: make(chan struct{}, maxFeeds),
	}
	if a.metrics, err = newMetrics(o.Registry); err != nil {
		return nil, err
	}
	a.handler = a.routes()
	return a, nil
}

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.handler.ServeHTTP(w, r) }

// Server is an API on a socket. It owns the listener and its goroutine.
type Server struct {
	http     *http.Server
	listener net.Listener
	done     chan struct{}
	err      error // set before done is closed
	cancel   context.CancelCauseFunc
	clock    env.Clock
}

// Open listens on address and serves until Close. ctx only bounds the opening.
func Open(ctx context.Context, e *env.Env, address string, o Options) (*Server, error) {
	api, err := New(e, o)
	if err != nil {
		return nil, err
	}
	l, err := e.Net.Listen(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("listen for HTTP on %s: %w", address, err)
	}
	requests, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	s := &Server{listener: l, done: make(chan struct{}), cancel: cancel, clock: e.Clock}
	s.http = &http.Server{
		Handler: api, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return requests },
		ErrorLog:    slog.NewLogLogger(api.log.Handler(), slog.LevelDebug),
	}
	serving := l
	if o.TLS != nil {
		serving = tls.NewListener(l, o.TLS)
	}
	go s.serve(serving)
	return s, nil
}

func (s *Server) serve(l net.Listener) {
	defer close(s.done)
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		s.err = fmt.Errorf("serve HTTP: %w", err)
	}
}

// Addr is where the server listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Done is closed when the server has stopped; Err then says why.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err is nil until Done is closed, and after a Close.
func (s *Server) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Close stops accepting, cancels what runs with KindShutdown, and waits for
// the handlers to return, for a few seconds at most.
func (s *Server) Close() error {
	s.cancel(base.Errorf(base.KindShutdown, "the node is stopping"))
	ctx, cancel := s.clock.WithTimeout(context.Background(), shutdownTimeout, errors.New("requests still run"))
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	<-s.done
	return errors.Join(err, s.err)
}

package pgwire

import (
	"crypto/tls"
	"errors"
	"time"
)

// Options of a Server. The zero value works: no TLS, passwords always needed.
type Options struct {
	// TLS lets clients upgrade their connection; nil answers that there is none.
	TLS *tls.Config
	// RequireTLS refuses clients that do not upgrade. It needs TLS.
	RequireTLS bool
	// TrustLoopback asks no password of clients on this machine.
	TrustLoopback bool
	// DefaultDatabase is for clients that name none; "" means "main".
	DefaultDatabase string
	// MaxConnections bounds clients that have logged in; 0 means 1000.
	MaxConnections int
	// MaxStarting bounds clients that have not; 0 means 200. Beyond it a new
	// connection is closed unread.
	MaxStarting int
	// MaxMessageBytes bounds one message, and so one statement; 0 means 16 MiB.
	MaxMessageBytes int
	// MaxStatements bounds the prepared statements of a connection; 0 means 4096.
	MaxStatements int
	// MaxPortals bounds the open portals of a connection, cursors among them; 0
	// means 256.
	MaxPortals int
	// MaxHeldBytes bounds the rows kept for all portals and cursors of a
	// connection that are open while another statement runs; 0 means 16 MiB.
	MaxHeldBytes int
	// StartupTimeout bounds the time from accept to logged in; 0 means 15 s.
	StartupTimeout time.Duration
	// WriteTimeout bounds how long a client may leave 8 KiB unread; 0 means 2 min.
	WriteTimeout time.Duration
	// DrainTimeout is how long Serve lets transactions finish once its context
	// is done; 0 means 5 s.
	DrainTimeout time.Duration
	// Version is reported as server_version; "" means "15.0 (Skein)". Clients
	// parse what it starts with as a PostgreSQL version.
	Version string
}

func (o Options) withDefaults() Options {
	set := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	set(&o.MaxConnections, 1000)
	set(&o.MaxStarting, 200)
	set(&o.MaxMessageBytes, 16<<20)
	set(&o.MaxStatements, 4096)
	set(&o.MaxPortals, 256)
	set(&o.MaxHeldBytes, 16<<20)
	wait := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	wait(&o.StartupTimeout, 15*time.Second)
	wait(&o.WriteTimeout, 2*time.Minute)
	wait(&o.DrainTimeout, 5*time.Second)
	if o.DefaultDatabase == "" {
		o.DefaultDatabase = "main"
	}
	if o.Version == "" {
		o.Version = "15.0 (Skein)"
	}
	return o
}

func (o Options) validate() error {
	if o.RequireTLS && o.TLS == nil {
		return errors.New("pgwire: TLS is required and none is configured")
	}
	for _, v := range []int{o.MaxConnections, o.MaxStarting, o.MaxMessageBytes, o.MaxStatements, o.MaxPortals, o.MaxHeldBytes} {
		if v < 0 {
			return errors.New("pgwire: limits must not be negative")
		}
	}
	if o.StartupTimeout < 0 || o.WriteTimeout < 0 || o.DrainTimeout < 0 {
		return errors.New("pgwire: times must not be negative")
	}
	return nil
}

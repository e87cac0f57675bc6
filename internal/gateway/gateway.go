package gateway

import (
	"context"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/token"
	"github.com/skeindb/skein/internal/transport"
)

const (
	// leaderWait bounds how long a statement waits for a database to get a
	// leader, or for a leader that has just changed.
	leaderWait = 15 * time.Second
	// writeTimeout bounds a write that sets no statement_timeout.
	writeTimeout = 60 * time.Second
	// maxStatementTime is longer than any statement may take.
	maxStatementTime = 25 * time.Hour
	// retryMin and retryMax pace the search for a leader when nothing announces
	// one: two nodes do not hear of an election at the same moment.
	retryMin = 5 * time.Millisecond
	retryMax = 50 * time.Millisecond
)

// Options of a gateway.
type Options struct {
	Directory Directory
	Transport transport.Transport
}

// Gateway opens sessions on one node and serves its peers' statements.
type Gateway struct {
	env       *env.Env
	directory Directory
	transport transport.Transport
}

var _ session.Gateway = (*Gateway)(nil)

// New makes a gateway and registers its handlers with the transport, which
// must not have been started.
func New(e *env.Env, o Options) *Gateway {
	g := &Gateway{env: e, directory: o.Directory, transport: o.Transport}
	o.Transport.HandleCall(writeMethod, g.serveWrite)
	o.Transport.HandleStream(readService, g.serveRead)
	o.Transport.HandleStream(txService, g.serveTx)
	return g
}

// Credential implements session.Gateway.
func (g *Gateway) Credential(user string) (string, bool) { return g.directory.Credential(user) }

// Databases implements session.Gateway.
func (g *Gateway) Databases() []string { return g.directory.Names() }

// Users implements session.Gateway.
func (g *Gateway) Users() []string { return g.directory.Users() }

// Open implements session.Gateway.
func (g *Gateway) Open(_ context.Context, o session.Options) (session.Session, error) {
	if o.Database == "" {
		return nil, base.Errorf(base.KindInvalid, "no database was named").WithHint("connect to one of: %v", g.directory.Names())
	}
	if _, ok := g.directory.Database(o.Database); !ok {
		return nil, noDatabase(o.Database)
	}
	s := &clientSession{gateway: g, options: o, token: token.Token{}}
	if _, err := s.guard(); err != nil {
		return nil, err
	}
	return s, nil
}

func noDatabase(name string) error {
	return base.Errorf(base.KindNotFound, "database %q does not exist", name).WithHint("skein db list shows the databases; skein db create makes one")
}

// guardFor is what a session's user may do now; it is looked up for each
// statement, so that a revoked right ends at once.
func (g *Gateway) guardFor(o session.Options) (replica.Guard, error) {
	if o.Trusted {
		return replica.GuardAdmin, nil
	}
	guard, ok := g.directory.Guard(o.User, o.Database)
	if !ok {
		return 0, base.Errorf(base.KindForbidden, "user %q has no right on database %q", o.User, o.Database).
			WithHint("an admin grants it: skein user grant %s read|write|admin %s", o.User, o.Database)
	}
	return guard, nil
}

// retriable says that a statement was certainly not executed and that another
// leader may take it.
func retriable(err error) bool {
	e := base.AsError(err)
	if e.Outcome == base.Indeterminate || e.Outcome == base.Done {
		return false
	}
	switch e.Kind {
	case base.KindNotLeader, base.KindNoLeader, base.KindUnavailable, base.KindShutdown:
		return true
	}
	return false
}

// atLeader runs f against the database's leader, again when the leader turned
// out to be another one or none and f was certainly not executed, for as long
// as leaderWait and ctx allow.
func (g *Gateway) atLeader(ctx context.Context, name string, f func(ctx context.Context, db Database) error) error {
	return g.atLeaderWithin(ctx, name, leaderWait, f)
}

// atLeaderWithin does not begin another attempt after a time.
func (g *Gateway) atLeaderWithin(ctx context.Context, name string, wait time.Duration, f func(ctx context.Context, db Database) error) error {
	deadline := g.env.Clock.Now().Add(wait)
	for pause := retryMin; ; pause = min(2*pause, retryMax) {
		changed := g.directory.Changed()
		db, ok := g.directory.Database(name)
		if !ok {
			return noDatabase(name)
		}
		var err error
		if db.Leader != 0 {
			err = f(ctx, db)
		} else {
			err = base.Errorf(base.KindNoLeader, "database %s has no leader just now", name).
				WithHint("skein status shows why; the statement was not executed")
		}
		if err == nil || !retriable(err) || g.env.Clock.Now().After(deadline) {
			return err
		}
		if stop := g.pause(ctx, changed, pause); stop != nil {
			return err
		}
	}
}

// pause waits for the cluster to change, a moment, or ctx.
func (g *Gateway) pause(ctx context.Context, changed <-chan struct{}, wait time.Duration) error {
	timer := g.env.Clock.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// local returns this node's replica of a database when it has one.
func (g *Gateway) local(db Database) replica.Replica { return g.directory.Replica(db.ID) }

// StreamServices are the stream services of gateways; they belong to users'
// sessions and not to replication.
func StreamServices() []string { return []string{readService, txService} }

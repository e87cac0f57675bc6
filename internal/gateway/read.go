package gateway

import (
	"context"
	"errors"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/planted"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/token"
)

// levelKind is how fresh a read must be.
type levelKind uint8

const (
	levelSession levelKind = iota // nothing older than what the session has seen
	levelAny                      // whatever the nearest replica has
	levelBounded                  // and not older than a bound
	levelAt                       // and everything up to a position
	levelSticky                   // as levelSession, and all at one replica
	levelLeader                   // everything acknowledged before the read began
)

// readLevel is the setting skein.read.
type readLevel struct {
	kind  levelKind
	bound time.Duration
	at    base.Position
}

// request says what the level asks of a replica, for a session with a token.
func (l readLevel) request(t token.Token, db base.DatabaseID, guard replica.Guard) replica.ReadRequest {
	q := replica.ReadRequest{Guard: guard}
	at := t.Get(db)
	if l.kind != levelAny && !planted.Is(planted.ForgetPast) {
		q.Heard = t.Heard(db)
	}
	switch l.kind {
	case levelSession, levelSticky:
		q.AtLeast = at
	case levelBounded:
		q.AtLeast, q.MaxAge = at, l.bound
	case levelAt:
		if q.AtLeast = at; at.Less(l.at) {
			q.AtLeast = l.at
		}
	case levelLeader:
		q.AtLeast, q.Linearizable = at, true
	}
	return q
}

// read runs an autocommit read at the session's level: here when this node has
// a replica that is fresh enough within a bounded wait, or at the leader.
func (s *clientSession) read(ctx context.Context, st statement) (session.Rows, error) {
	ctx, w := s.watch(ctx, 0)
	rows, db, err := s.openRead(ctx, st)
	if err != nil {
		w.done()
		return nil, err
	}
	tracked := &trackedRows{Rows: rows, watch: w, closed: func(r session.Result) {
		s.saw(db, r)
		s.reading = nil
		w.done()
	}}
	s.reading = tracked
	return tracked, nil
}

func (s *clientSession) openRead(ctx context.Context, st statement) (session.Rows, base.DatabaseID, error) {
	db, ok := s.gateway.directory.Database(s.options.Database)
	if !ok {
		return nil, 0, noDatabase(s.options.Database)
	}
	at := s.token.Get(db.ID)
	q := s.settings.read.request(s.token, db.ID, st.guard)
	if s.settings.read.kind == levelSticky {
		rows, err := s.readKept(ctx, db, q, st.Statement)
		return rows, db.ID, err
	}
	wait := leaderWait
	if r := s.gateway.local(db); r != nil && (!q.Linearizable || db.Leader == s.gateway.directory.Self()) {
		if !r.Lineage(at) && s.settings.read.kind != levelAny {
			return nil, 0, historyLost(at)
		}
		rows, err := peek(readHere(ctx, r, q, st.Statement))
		if err == nil || !elsewhere(err) {
			return rows, db.ID, err
		}
		if base.KindOf(err) == base.KindStale {
			// It has waited already; the leader is worth a try, and no more.
			wait = replica.DefaultReadWait
		}
	}
	rows, err := s.gateway.readAtLeader(ctx, db.Name, wait, q, st.Statement)
	return rows, db.ID, err
}

// elsewhere says that another replica may answer what this one could not.
func elsewhere(err error) bool {
	return retriable(err) || base.KindOf(err) == base.KindStale
}

func historyLost(at base.Position) error {
	return base.Errorf(base.KindHistoryLost, "the session has seen position %v, which a failover with loss has undone", at).
		WithHint("SET skein.token = '' goes on from what the database holds now; skein orphans list shows what was undone")
}

// readHere runs a read on a local replica; the snapshot ends with the rows.
func readHere(ctx context.Context, r replica.Replica, q replica.ReadRequest, st replica.Statement) (session.Rows, error) {
	tx, err := r.BeginRead(ctx, q)
	if err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, st)
	if err != nil {
		return nil, errors.Join(err, tx.Close())
	}
	return &trackedRows{Rows: rows, closed: func(session.Result) { tx.Close() }}, nil
}

// peekedRows are rows of which the first was looked at already. A read is held
// back before its first row: what goes wrong until then may go well elsewhere.
type peekedRows struct {
	session.Rows
	first bool // not given out yet
	more  bool // there is a first row
}

func peek(rows session.Rows, err error) (session.Rows, error) {
	if err != nil {
		return nil, err
	}
	more := rows.Next()
	if err := rows.Err(); err != nil {
		return nil, errors.Join(err, rows.Close())
	}
	return &peekedRows{Rows: rows, first: true, more: more}, nil
}

// Next implements session.Rows.
func (p *peekedRows) Next() bool {
	if p.first {
		p.first = false
		return p.more
	}
	return p.more && p.Rows.Next()
}

// trackedRows calls closed once, when the rows are at their end or closed. The
// result that closed is given has a position only if the client was shown
// something: until then the snapshot may hold what a failover undoes, and a
// token with that would have seen what never was.
type trackedRows struct {
	session.Rows
	closed func(session.Result)
	watch  *watch // of the client's statement; nil inside other rows
	result session.Result
	shown  bool // a row, or that there is none
	over   bool
}

// Next implements session.Rows.
func (t *trackedRows) Next() bool {
	if t.over {
		return false
	}
	if t.Rows.Next() {
		t.shown = true
		return true
	}
	t.shown = t.shown || t.Rows.Err() == nil
	t.finish()
	return false
}

// Rest implements session.Resting.
func (t *trackedRows) Rest() {
	if !t.over {
		t.watch.stop()
	}
}

// Wake implements session.Resting.
func (t *trackedRows) Wake() {
	if !t.over {
		t.watch.start()
	}
}

// Result implements session.Rows.
func (t *trackedRows) Result() session.Result {
	if t.over {
		return t.result
	}
	return t.Rows.Result()
}

// Close implements session.Rows.
func (t *trackedRows) Close() error {
	err := t.Rows.Close()
	t.finish()
	return err
}

func (t *trackedRows) finish() {
	if t.over {
		return
	}
	t.over, t.result = true, t.Rows.Result()
	if !t.shown {
		t.result.Position, t.result.Past = base.Position{}, ""
	}
	t.closed(t.result)
}

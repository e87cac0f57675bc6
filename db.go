package skein

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/token"
)

// maxIdle sessions are kept by a DB for its next statements. Sessions are
// small; how many are open at once is up to the callers.
const maxIdle = 64

// maxAttempts bounds how often InTx runs a transaction.
const maxAttempts = 10

// ReadLevel says how fresh a read must be.
type ReadLevel string

// The read levels; ReadBounded makes another.
const (
	// ReadSession, the default, shows nothing older than what the DB or the
	// Session has seen, on the nearest replica.
	ReadSession ReadLevel = "session"
	// ReadAny shows what the nearest replica has.
	ReadAny ReadLevel = "any"
	// ReadSticky is ReadSession, and reads at one replica: this node's, or else the
	// one that was read first. When that can't answer the read fails, with
	// KindUnavailable or KindStale; SetToken("") then goes on with another.
	ReadSticky ReadLevel = "sticky"
	// ReadLeader shows everything that was acknowledged, to anyone, before the
	// read began.
	ReadLeader ReadLevel = "leader"
)

// ReadBounded is ReadSession, and refuses what is older than d.
func ReadBounded(d time.Duration) ReadLevel { return ReadLevel(fmt.Sprintf("bounded(%v)", d)) }

// Setting changes how statements run; see DB.With.
type Setting struct{ name, value string }

// WithRead sets how fresh reads must be.
func WithRead(l ReadLevel) Setting { return Setting{"skein.read", string(l)} }

// WithDurability sets what commits wait for, in place of the policy's.
func WithDurability(d Durability) Setting {
	if d.Level == "" {
		return Setting{"skein.durability", ""}
	}
	return Setting{"skein.durability", d.String()}
}

// WithTimeout bounds each statement; 0 restores the default, which bounds
// writes alone.
func WithTimeout(d time.Duration) Setting { return Setting{"skein.statement_timeout", d.String()} }

// DB is a handle on one database, for any number of goroutines. What one
// statement has seen or written, every later one sees.
type DB struct {
	node     *Node
	name     string
	settings []Setting
	seen     *seen
	idle     chan session.Session
}

// With returns a DB whose statements run under further settings. It shares
// with db what was seen.
func (db *DB) With(settings ...Setting) *DB {
	all := append(append([]Setting(nil), db.settings...), settings...)
	return &DB{node: db.node, name: db.name, settings: all, seen: db.seen, idle: make(chan session.Session, maxIdle)}
}

// Name returns the database's name.
func (db *DB) Name() string { return db.name }

// Exec runs one statement and drops the rows it may return. Parameters are
// written ?1, ?2, ...
func (db *DB) Exec(ctx context.Context, sql string, args ...any) (Result, error) {
	s, err := db.takeToWrite(ctx)
	if err != nil {
		return Result{}, err
	}
	r, err := execute(ctx, s, sql, args)
	db.saw(r)
	db.give(s)
	return r, err
}

// Query runs one statement and returns its rows, which must be closed; reading
// them to their end closes them.
func (db *DB) Query(ctx context.Context, sql string, args ...any) (*Rows, error) {
	s, err := db.takeCaughtUp(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := query(ctx, s, sql, args)
	if err != nil {
		db.give(s)
		return nil, err
	}
	rows.closed = func(r Result) {
		db.saw(r)
		db.give(s)
	}
	return rows, nil
}

// QueryRow runs a statement of which one row is wanted; Row.Scan tells of
// errors.
func (db *DB) QueryRow(ctx context.Context, sql string, args ...any) *Row {
	rows, err := db.Query(ctx, sql, args...)
	return &Row{rows: rows, err: err}
}

// Begin opens a transaction. It is a snapshot until its first write, and fails
// with KindConflict there if what it has read is no longer the newest: it then
// has done nothing and may be run again.
func (db *DB) Begin(ctx context.Context) (*Tx, error) {
	s, err := db.takeCaughtUp(ctx)
	if err != nil {
		return nil, err
	}
	tx, err := begin(ctx, s)
	if err != nil {
		db.give(s)
		return nil, err
	}
	tx.ended = func(r Result) {
		db.saw(r)
		db.give(s)
	}
	return tx, nil
}

// InTx runs f in a transaction, commits it when f returns nil and rolls it back
// otherwise. After a KindConflict, of f or of the commit, it runs f again, up to
// ten times in all; from the second time on the transaction holds the database's
// writer from its first statement, so that others can't overtake it.
func (db *DB) InTx(ctx context.Context, f func(*Tx) error) (Result, error) {
	var failure error
	for range maxAttempts {
		r, err := db.tryTx(ctx, f)
		if KindOf(err) != KindConflict || ctx.Err() != nil {
			return r, err
		}
		failure, db = err, db.With(WithRead(ReadLeader)) // At this level reads take the writer, too.
	}
	return Result{}, fmt.Errorf("transaction met a conflict %d times: %w", maxAttempts, failure)
}

func (db *DB) tryTx(ctx context.Context, f func(*Tx) error) (Result, error) {
	tx, err := db.Begin(ctx)
	if err != nil {
		return Result{}, err
	}
	defer tx.Rollback() // After a commit it does nothing.
	if err := f(tx); err != nil {
		return Result{}, err
	}
	return tx.Commit(ctx)
}

// Session opens a session of its own for one goroutine. It begins with what
// the DB has seen, and from then on waits only for what it has seen itself;
// what it sees the DB does not wait for.
func (db *DB) Session(ctx context.Context) (*Session, error) {
	s, err := db.open(ctx)
	if err != nil {
		return nil, err
	}
	if err := db.seen.pass(s); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return &Session{inner: s}, nil
}

// Token is what this DB's statements have seen, as a short text for SetToken of
// another handle, on any node; "" when they have seen nothing.
func (db *DB) Token() string { return db.seen.text() }

// SetToken makes later reads wait until they show all that the token has seen,
// and forgets what the DB had seen before; "" forgets alone. After a failover
// with loss that is what ends KindHistoryLost.
func (db *DB) SetToken(text string) error {
	t, err := token.Parse(text)
	if err != nil {
		return err
	}
	db.seen.set(t)
	return nil
}

// open makes a session under this DB's settings.
func (db *DB) open(ctx context.Context) (session.Session, error) {
	s, err := db.node.node.Gateway().Open(ctx, session.Options{Trusted: true, Database: db.name, FrontEnd: "library"})
	if err != nil {
		return nil, err
	}
	for _, set := range db.settings {
		if err := s.Set(set.name, set.value); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// take returns an idle session or opens one.
func (db *DB) take(ctx context.Context) (session.Session, error) {
	select {
	case s := <-db.idle:
		return s, nil
	default:
		return db.open(ctx)
	}
}

// takeToWrite returns a session for a write, which runs on what the leader has:
// the session needs to know only what was seen of other databases, since that
// stays with the write.
func (db *DB) takeToWrite(ctx context.Context) (session.Session, error) {
	if record, err := db.node.node.Database(db.name); err == nil && db.seen.knowsOthers(record.ID) {
		return db.takeCaughtUp(ctx)
	}
	return db.take(ctx)
}

// takeCaughtUp returns a session that knows what the whole DB has seen.
func (db *DB) takeCaughtUp(ctx context.Context) (session.Session, error) {
	s, err := db.take(ctx)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(db.seen.pass(s), s.Set("skein.replica", db.seen.kept())); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// give takes a session back.
func (db *DB) give(s session.Session) {
	if kept, err := s.Show(context.Background(), "skein.replica"); err == nil && kept != "" {
		db.seen.keep(kept)
	}
	if s.TxStatus() == session.TxIdle {
		select {
		case db.idle <- s:
			return
		default:
		}
	}
	s.Close() // It holds nothing that could fail to close.
}

// saw notes what a statement of this DB has come to see.
func (db *DB) saw(r Result) {
	if r.Position.Seq == 0 {
		return
	}
	if record, err := db.node.node.Database(db.name); err == nil {
		db.seen.note(record.ID, r)
	}
}

// seen is what any statement of a DB has seen.
type seen struct {
	mu      sync.Mutex // guards all below
	token   token.Token
	replica string // the node whose replica reads of level sticky keep to
}

func (n *seen) note(id base.DatabaseID, r Result) {
	n.mu.Lock()
	defer n.mu.Unlock()
	t, err := n.token.With(id, r.Position)
	if err != nil {
		// The name has meant more databases than a token can hold, one after
		// another; the others are gone.
		t, _ = token.Token{}.With(id, r.Position)
	}
	n.token = t.Hear(r.past)
}

func (n *seen) knowsOthers(own base.DatabaseID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.token.KnowsOthers(own)
}

func (n *seen) set(t token.Token) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.token, n.replica = t, ""
}

func (n *seen) keep(replica string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.replica = replica
}

func (n *seen) kept() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.replica
}

func (n *seen) text() string {
	n.mu.Lock()
	t := n.token // A value: it does not change any more.
	n.mu.Unlock()
	return t.String()
}

// pass tells a session what was seen.
func (n *seen) pass(s session.Session) error { return s.Set("skein.token", n.text()) }

package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/token"
)

// clientSession is one client's session. Its methods are called by one
// goroutine at a time, but for Cancel.
type clientSession struct {
	gateway *Gateway
	options session.Options

	settings settings
	token    token.Token
	kept     string              // the node whose replica reads of level sticky keep to; "": none yet
	last     session.Result      // of the last statement that reached a database
	commit   session.Result      // of the last commit
	named    replica.OperationID // the last write that had a name, the client's or the gateway's
	tx       *transaction        // nil outside a transaction
	reading  session.Rows        // an autocommit read that is still open

	running struct {
		sync.Mutex // guards cancel
		cancel     context.CancelCauseFunc
	}
}

var _ session.Session = (*clientSession)(nil)

var errCanceled = base.Errorf(base.KindCanceled, "the client canceled the statement")

func (s *clientSession) guard() (replica.Guard, error) { return s.gateway.guardFor(s.options) }

// Database implements session.Session.
func (s *clientSession) Database() string { return s.options.Database }

// Cancel implements session.Session.
func (s *clientSession) Cancel() {
	s.running.Lock()
	defer s.running.Unlock()
	if s.running.cancel != nil {
		s.running.cancel(errCanceled)
	}
}

// cancelable returns ctx bounded by the session's statement timeout, or else
// by bound (0: not at all), and open to Cancel until done is called.
func (s *clientSession) cancelable(ctx context.Context, bound time.Duration) (_ context.Context, done func()) {
	ctx, w := s.watch(ctx, bound)
	return ctx, w.done
}

// watch is cancelable for what may rest in between.
func (s *clientSession) watch(ctx context.Context, bound time.Duration) (context.Context, *watch) {
	if t := s.settings.statementTimeout; t > 0 {
		bound = t
	}
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watch{session: s, bound: bound, cancel: cancel}
	w.start()
	return ctx, w
}

// watch lets Cancel and a time limit end a statement while it runs.
type watch struct {
	session *clientSession
	bound   time.Duration // 0: none
	cancel  context.CancelCauseFunc
	timer   env.Stopper
}

func (w *watch) start() {
	if w.bound > 0 {
		w.timer = w.session.gateway.env.Clock.AfterFunc(w.bound, func() { w.cancel(tookTooLong(w.bound)) })
	}
	w.session.letCancel(w.cancel)
}

func (w *watch) stop() {
	w.session.letCancel(nil)
	if w.timer != nil {
		w.timer.Stop()
	}
}

func (w *watch) done() {
	w.stop()
	w.cancel(nil)
}

// letCancel says what Cancel ends; nil: nothing.
func (s *clientSession) letCancel(cancel context.CancelCauseFunc) {
	s.running.Lock()
	s.running.cancel = cancel
	s.running.Unlock()
}

func tookTooLong(bound time.Duration) error {
	return base.Errorf(base.KindTimeout, "the statement took longer than %v", bound).
		WithHint("SET skein.statement_timeout changes the limit")
}

// Leads implements session.Session.
func (s *clientSession) Leads() bool {
	db, ok := s.gateway.directory.Database(s.options.Database)
	if !ok || db.Leader != s.gateway.directory.Self() {
		return false
	}
	r := s.gateway.local(db)
	return r != nil && r.Leads()
}

// TxStatus implements session.Session.
func (s *clientSession) TxStatus() session.TxStatus {
	switch {
	case s.tx == nil:
		return session.TxIdle
	case s.tx.failed:
		return session.TxFailed
	}
	return session.TxActive
}

// Query implements session.Session.
func (s *clientSession) Query(ctx context.Context, sql string, args []base.Value) (session.Rows, error) {
	s.closeReading()
	if d := describeHere(sql); d != nil && d.Kind != session.Savepoint {
		return s.control(ctx, d.Kind, sql)
	}
	guard, err := s.guard()
	if err != nil {
		return nil, s.fail(err)
	}
	d, err := s.Describe(ctx, sql)
	if err != nil {
		return nil, s.fail(err)
	}
	st := statement{Statement: replica.Statement{SQL: sql, Args: args}, description: d, guard: guard}
	rows, err := s.run(ctx, st)
	if err != nil {
		return nil, s.fail(err)
	}
	return rows, nil
}

// control runs what never reaches a database as it is. Who has no right any
// more can do nothing but go back.
func (s *clientSession) control(ctx context.Context, kind session.StatementKind, sql string) (session.Rows, error) {
	switch kind {
	case session.Empty:
		return done(session.Result{}), nil
	case session.Setting:
		return s.setting(ctx, sql)
	case session.Begin:
		return s.begin()
	case session.Rollback:
		return s.end(ctx, false)
	}
	if _, err := s.guard(); err != nil {
		_, rolledBack := s.end(ctx, false)
		return nil, errors.Join(err, rolledBack)
	}
	return s.end(ctx, true)
}

// statement is one statement on its way.
type statement struct {
	replica.Statement
	description *session.Description
	guard       replica.Guard
}

func (st statement) writes() bool {
	k := st.description.Kind
	return k == session.Write || k == session.Schema
}

// permit says whether the user may run the statement at all; the engine's
// authorizer says it again where it runs.
func (st statement) permit() error {
	if st.writes() && st.guard < replica.GuardWrite {
		return base.Errorf(base.KindForbidden, "%s needs the right to write", st.description.Tag).
			WithHint("an admin grants it: skein user grant USER write DATABASE")
	}
	if st.description.Kind == session.Schema && st.guard < replica.GuardAdmin {
		return base.Errorf(base.KindForbidden, "%s changes the schema and needs the right admin", st.description.Tag).
			WithHint("an admin grants it: skein user grant USER admin DATABASE")
	}
	return nil
}

func (s *clientSession) run(ctx context.Context, st statement) (session.Rows, error) {
	if err := st.permit(); err != nil {
		return nil, err
	}
	if s.tx != nil {
		return s.tx.query(ctx, st)
	}
	switch {
	case st.description.Kind == session.Savepoint:
		e := base.Errorf(base.KindSQL, "%s outside a transaction", st.description.Tag).WithHint("BEGIN first")
		e.SQLState = "25P01"
		return nil, e
	case st.writes():
		return s.write(ctx, st)
	}
	return s.read(ctx, st)
}

// fail marks an open transaction as failed, as PostgreSQL's clients expect:
// only ROLLBACK, or ROLLBACK TO, leads on from there.
func (s *clientSession) fail(err error) error {
	if s.tx != nil {
		s.tx.failed = true
	}
	return err
}

// saw takes the outcome of a statement into the session's token.
func (s *clientSession) saw(db base.DatabaseID, r session.Result) {
	s.last = r
	if r.Reached != "" {
		s.commit = r
	}
	s.seen(db, r)
}

// seen takes what a result shows, and the past of that, into the session's token.
func (s *clientSession) seen(db base.DatabaseID, r session.Result) {
	if r.Position.Seq == 0 {
		return
	}
	if t, err := s.token.With(db, r.Position); err == nil {
		s.token = t // Set has seen to it that there is room for the session's one database.
	}
	s.token = s.token.Hear(r.Past)
}

func (s *clientSession) begin() (session.Rows, error) {
	if s.tx != nil {
		e := base.Errorf(base.KindSQL, "there is a transaction already").WithHint("COMMIT or ROLLBACK it, or use SAVEPOINT")
		e.SQLState = "25001"
		return nil, s.fail(e)
	}
	s.tx = &transaction{session: s}
	return done(session.Result{Tag: "BEGIN"}), nil
}

// end commits or rolls back. Without a transaction it does nothing, as in
// PostgreSQL; a failed transaction can only be rolled back.
func (s *clientSession) end(ctx context.Context, commit bool) (session.Rows, error) {
	tag := "ROLLBACK"
	if commit {
		tag = "COMMIT"
	}
	if s.tx == nil {
		return done(session.Result{Tag: tag}), nil
	}
	tx := s.tx
	s.tx = nil
	if !commit || tx.failed {
		tx.rollback()
		s.seen(tx.database, tx.last) // What was read was read.
		return done(session.Result{Tag: "ROLLBACK"}), nil
	}
	ctx, stop := s.cancelable(ctx, writeTimeout)
	defer stop()
	res, err := tx.commit(ctx)
	if err != nil {
		return nil, err
	}
	res.Tag = "COMMIT"
	s.saw(tx.database, res)
	return done(res), nil
}

func (s *clientSession) closeReading() {
	if s.reading != nil {
		s.reading.Close()
		s.reading = nil
	}
}

// Close implements session.Session.
func (s *clientSession) Close() error {
	s.closeReading()
	if s.tx != nil {
		s.tx.rollback()
		s.tx = nil
	}
	return nil
}

// Describe implements session.Session.
func (s *clientSession) Describe(ctx context.Context, sql string) (*session.Description, error) {
	if d := describeHere(sql); d != nil {
		return d, nil
	}
	if s.tx != nil && s.tx.changedSchema && s.tx.writer != nil {
		return s.tx.describe(ctx, sql)
	}
	return s.describe(ctx, sql)
}

func (s *clientSession) describe(ctx context.Context, sql string) (*session.Description, error) {
	db, ok := s.gateway.directory.Database(s.options.Database)
	if !ok {
		return nil, noDatabase(s.options.Database)
	}
	var failure error
	if r := s.gateway.local(db); r != nil {
		d, err := r.Describe(ctx, sql)
		if err == nil {
			return d, nil
		}
		if s.current(r, db) {
			return nil, err
		}
		failure = err
	}
	// This replica may not know the newest schema, or there is none here.
	d, err := s.gateway.describeAtLeader(ctx, db, sql)
	if err != nil && retriable(err) && failure != nil {
		return nil, failure
	}
	return d, err
}

// current says that a local replica knows every schema this session can have
// seen and leads, so that its word is final.
func (s *clientSession) current(r replica.Replica, db Database) bool {
	return db.Leader == s.gateway.directory.Self() && r.Status().Role == replica.RoleLeader
}

// Schema implements session.Session.
func (s *clientSession) Schema(ctx context.Context, sql string, args []base.Value) (session.Rows, error) {
	s.closeReading()
	guard, err := s.guard()
	if err != nil {
		return nil, err
	}
	st := statement{Statement: replica.Statement{SQL: sql, Args: args}, description: &session.Description{Kind: session.Read, Tag: "SELECT"}, guard: guard}
	return s.run(ctx, st)
}

// doneRows is a result without rows.
type doneRows struct{ result session.Result }

func done(r session.Result) session.Rows { return &doneRows{result: r} }

func (d *doneRows) Columns() []session.Column { return nil }
func (d *doneRows) Next() bool                { return false }
func (d *doneRows) Row() []base.Value         { return nil }
func (d *doneRows) Err() error                { return nil }
func (d *doneRows) Result() session.Result    { return d.result }
func (d *doneRows) Close() error              { return nil }

package gateway

import (
	"context"
	"strings"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/sqltext"
)

// transaction is a client's BEGIN ... COMMIT. It begins as a snapshot that
// holds nothing; at its first write it takes the writer of the leader, if
// nothing has been written since its snapshot.
type transaction struct {
	session  *clientSession
	database base.DatabaseID
	at       Database // whose leader has the writer

	reader replica.ReadTx  // the snapshot, until the first write
	last   session.Result  // of the last read
	writer replica.WriteTx // the leader's writer, from the first write on

	operation     replica.OperationID // names the commit; set when the writer is taken
	savepoints    []string            // set before the first write, as SAVEPOINT statements
	failed        bool
	changedSchema bool
}

// query runs one statement inside the transaction.
func (t *transaction) query(ctx context.Context, st statement) (session.Rows, error) {
	saving := st.description.Kind == session.Savepoint
	if t.failed && !(saving && st.description.Tag == "ROLLBACK") {
		e := base.Errorf(base.KindSQL, "the transaction has failed; statements are ignored until it ends").WithHint("ROLLBACK")
		e.SQLState = "25P02"
		return nil, e
	}
	if saving && t.writer == nil {
		return t.savepoint(st.SQL)
	}
	ctx, w := t.session.watch(ctx, 0)
	if t.writer == nil && !st.writes() && t.session.settings.read.kind != levelLeader {
		rows, err := t.read(ctx, st)
		if err != nil {
			w.done()
			return nil, err
		}
		tracked := &trackedRows{Rows: rows, watch: w, closed: func(r session.Result) { t.last = r; w.done() }}
		t.session.reading = tracked
		return tracked, nil
	}
	defer w.done()
	return t.write(ctx, st)
}

func (t *transaction) read(ctx context.Context, st statement) (session.Rows, error) {
	if t.reader == nil {
		if err := t.open(ctx, st.guard); err != nil {
			return nil, err
		}
	}
	return t.reader.Query(ctx, st.Statement)
}

// open takes a snapshot here or, when this node's replica is missing or
// behind, at the leader.
func (t *transaction) open(ctx context.Context, guard replica.Guard) error {
	s := t.session
	db, ok := s.gateway.directory.Database(s.options.Database)
	if !ok {
		return noDatabase(s.options.Database)
	}
	t.database = db.ID
	at := s.token.Get(db.ID)
	q := s.settings.read.request(s.token, db.ID, guard)
	if s.settings.read.kind == levelSticky {
		reader, err := s.beginKept(ctx, db, q)
		if err == nil {
			t.reader = reader
		}
		return err
	}
	if r := s.gateway.local(db); r != nil {
		if !r.Lineage(at) && s.settings.read.kind != levelAny {
			return historyLost(at)
		}
		reader, err := r.BeginRead(ctx, q)
		if err == nil {
			t.reader = reader
		}
		if err == nil || !elsewhere(err) {
			return err
		}
	}
	return s.gateway.atLeader(ctx, db.Name, func(ctx context.Context, db Database) (err error) {
		t.reader, err = s.gateway.beginReadAt(ctx, db, q)
		return err
	})
}

// write runs a statement with the writer, taking it first if need be.
func (t *transaction) write(ctx context.Context, st statement) (session.Rows, error) {
	if t.writer == nil {
		if err := t.takeWriter(ctx, st.guard); err != nil {
			return nil, err
		}
	}
	rows, err := t.writer.Query(ctx, st.Statement)
	if err == nil {
		// What the writer shows is safe: the session has seen it, even if it
		// rolls its own changes back.
		t.session.seen(t.database, rows.Result())
	}
	if err == nil && st.description.Kind == session.Schema {
		t.changedSchema = true
	}
	if err == nil && t.failed {
		t.failed = false // ROLLBACK TO has led back to a good state.
	}
	return rows, err
}

func (t *transaction) takeWriter(ctx context.Context, guard replica.Guard) error {
	s := t.session
	q := replica.BeginRequest{Guard: guard}
	if t.reader != nil {
		at := t.reader.Position()
		q.Snapshot = &at
		t.reader.Close()
		t.reader = nil
	}
	ctx, stop := s.gateway.env.Clock.WithTimeout(ctx, writeTimeout, base.Errorf(base.KindTimeout, "other writes held the writer for %v", writeTimeout))
	defer stop()
	t.operation = s.takeOperation()
	err := s.gateway.atLeader(ctx, s.options.Database, func(ctx context.Context, db Database) (err error) {
		t.database, t.at, q.Epoch = db.ID, db, db.Epoch
		if t.writer, err = s.gateway.beginWriteAt(ctx, db, q); err != nil || !t.operation.Named() {
			return err
		}
		// While the writer is held nobody else can use the name.
		fate, err := s.gateway.askFate(ctx, db, t.operation, 0)
		if err == nil && fate.Found {
			err = appliedAlready(fate)
		}
		if err != nil {
			t.writer.Rollback()
		}
		return harmlessUnlessDone(err)
	})
	if err != nil {
		t.writer = nil
		return err
	}
	for _, sql := range t.savepoints {
		if _, err := t.writer.Query(ctx, replica.Statement{SQL: sql}); err != nil {
			return err
		}
	}
	return nil
}

// savepoint keeps the book of savepoints while nothing was written: there is
// nothing to undo yet.
func (t *transaction) savepoint(sql string) (session.Rows, error) {
	action, name := sqltext.ParseSavepoint(sql)
	at := len(t.savepoints) - 1
	for at >= 0 && action != sqltext.SavepointNew {
		if _, n := sqltext.ParseSavepoint(t.savepoints[at]); strings.EqualFold(n, name) {
			break
		}
		at--
	}
	tag := "SAVEPOINT"
	switch {
	case action == sqltext.SavepointNew:
		t.savepoints = append(t.savepoints, sql)
	case at < 0:
		e := base.Errorf(base.KindSQL, "there is no savepoint %q", name)
		e.SQLState = "3B001"
		return nil, e
	case action == sqltext.SavepointRelease:
		t.savepoints, tag = t.savepoints[:at], "RELEASE"
	default:
		t.savepoints, tag, t.failed = t.savepoints[:at+1], "ROLLBACK", false
	}
	return done(session.Result{Tag: tag}), nil
}

// describe compiles a statement that may name what this transaction has made.
func (t *transaction) describe(ctx context.Context, sql string) (*session.Description, error) {
	if d, err := t.session.describe(ctx, sql); err == nil {
		return d, nil
	}
	// Only the writer's connection sees the new schema; it classifies when it
	// runs the statement. A leading keyword tells reads from writes.
	return describeByKeyword(sql), nil
}

func (t *transaction) commit(ctx context.Context) (session.Result, error) {
	if t.writer == nil {
		if t.reader != nil {
			t.reader.Close()
		}
		return t.last, nil
	}
	g := t.session.gateway
	s := g.name(t.at, t.operation, t.session.token.Get(t.database))
	res, err := t.writer.Commit(ctx, t.session.settings.durability, s.operation, t.session.token.Past(t.database))
	if err == nil || base.AsError(err).Outcome != base.Indeterminate || ctx.Err() != nil {
		return res, askable(err, s.operation)
	}
	res, err = g.resolve(ctx, s, err)
	if err != nil && retriable(err) {
		err = lostTx(err) // It was certainly not kept.
	}
	return res, askable(err, s.operation)
}

func (t *transaction) rollback() {
	t.session.closeReading()
	if t.reader != nil {
		t.reader.Close()
		t.reader = nil
	}
	if t.writer != nil {
		t.writer.Rollback()
		t.writer = nil
	}
}

package leader

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/replica/stream"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/transport"
)

const (
	inboxSize       = 4096    // writes that may wait for the writer; more are refused as busy
	maxBatchWrites  = 1024    // transactions in one group commit
	maxBatchBytes   = 4 << 20 // of log entries in one group commit
	maxResultBytes  = 64 << 20
	setPositionSQL  = "UPDATE _skein_position SET epoch = ?1, seq = ?2 WHERE id = 1"
	readPositionSQL = "SELECT epoch, seq FROM _skein_position WHERE id = 1"
)

// MaxTransactionBytes bounds the log entry of one transaction: it must travel to
// a follower in one message.
const MaxTransactionBytes = transport.MaxMessage - stream.BatchHeaderSize

// job is one thing that the writer goroutine does: exactly one field is set.
type job struct {
	write *writeJob
	tx    *writeTx
	// quiet runs while no batch is open: checkpoints, imports.
	quiet func()
}

// writeJob is one autocommit transaction on its way through a group commit.
type writeJob struct {
	ctx     context.Context
	request replica.WriteRequest
	done    chan writeReply // buffered; gets exactly one reply
	state   atomic.Uint32   // one of the job states
	result  replica.WriteResult
	err     error // the statement failed alone; answered with the batch
}

// The states of a write job. Who moves it from queued decides its fate: the
// writer by starting it, the client by giving up.
const (
	jobQueued uint32 = iota
	jobStarted
	jobGivenUp
)

type writeReply struct {
	result *replica.WriteResult
	err    error
}

// writer owns the one connection that changes the database, for one epoch.
type writer struct {
	replica  *Replica
	epoch    base.Epoch
	conn     *sqlite.Conn
	recorder recorder
	format   string // of the log, which recorder catches
	named    named
	aside    aside
	basis    basis
	images   images
	unsealed *entry.Entry // of the open transaction, whose pages there are when SQLite commits
	rowless  bool         // that transaction changes no rows
	schemas  int          // what the recorder had read when the schema was last noted
	acks     *acks
	inbox    chan job
	next     *job   // taken from the inbox, and not of the batch that was being built
	gather   gather // how a batch grows
	// unflushed says that a batch was published and its flush not yet seen to.
	unflushed bool
	// wakeSenders tells those who ship the log that it has grown.
	wakeSenders func()
	end         base.Seq // of the last batch in the log
	buffer      []byte   // frames of the batch being built; reused
	batch       mark     // where the batch's captured rows begin
	changes     int64    // of the connection, in all, when the batch began
	failed      error    // the connection was lost, and no other could be opened yet
	pending     pending  // batches that are in the log, and in SQLite's open transaction
	past        broughtPast
	room        room
}

// run executes jobs until ctx is done. It owns conn and closes it.
func (w *writer) run(ctx context.Context) error {
	defer w.leave()
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx) // What waits is answered by settleAll.
		}
		var j job
		if w.next != nil {
			j, w.next = *w.next, nil
		} else {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case j = <-w.inbox:
			case <-w.replica.applyWanted:
			case <-w.pending.timer.C():
			}
		}
		var err error
		switch {
		case j.write != nil:
			w.gather.begin(ctx)
			err = w.commitBatch([]*writeJob{j.write}, true)
		case j.tx != nil:
			if err = w.settle(); err == nil {
				err = w.runTx(ctx, j.tx)
			} else {
				w.noteLack(err)
				j.refuse(err)
				err = fatalOnly(err)
			}
		case j.quiet != nil:
			err = fatalOnly(w.settle())
			j.quiet()
		default:
			if err = w.settle(); err == nil {
				err = w.adoptFormat()
			}
			err = fatalOnly(err)
		}
		if err == nil {
			err = w.flushIdle()
		}
		if err != nil {
			return err
		}
	}
}

// flushIdle flushes the log in this goroutine when nothing else waits for it:
// that saves waking the flusher, and is otherwise the same.
func (w *writer) flushIdle() error {
	if !w.unflushed {
		return nil
	}
	w.unflushed = false
	if len(w.inbox) > 0 {
		w.replica.wakeFlusher()
		return nil
	}
	// The senders first: what they ship has a longer way to go than to this disk,
	// and this goroutine's turn is long over when the sync returns.
	runtime.Gosched()
	seq := w.replica.changes.Flushed()
	if seq < w.end { // Else one more sync would only write down that there is none to do.
		var err error
		if seq, err = w.replica.changes.Sync(); err != nil {
			return fmt.Errorf("%w: %w", errFlush, err)
		}
	}
	safe := w.replica.safe.get()
	w.acks.locallyFlushed(seq) // A sync that overlapped with the batch came too early to count for it.
	if w.replica.safe.get() > safe {
		runtime.Gosched() // Who waits for this, here and on followers, comes before the next batch.
	}
	return nil
}

// commitBatch executes the jobs in one SQLite transaction, each an entry of its
// own. A culprit is answered, and those before it run again as a batch without
// it: however many culprits there are, no job runs more than twice for them.
// The first time the batch may grow. A returned error ends the leadership: SQLite
// or the log is unusable.
//
// Where an entry holds pages, SQLite commits each job by itself.
func (w *writer) commitBatch(jobs []*writeJob, grows bool) error {
	if err := w.adoptFormat(); err != nil {
		return w.refuse(jobs, err)
	}
	if w.format != base.FormatWAL {
		return w.commitTogether(jobs, grows)
	}
	for i, j := range jobs {
		var err error
		if len(j.request.Statements) == 1 && sqlite.IsVacuum(j.request.Statements[0].SQL) {
			err = w.vacuum(j)
		} else {
			err = w.commitTogether(jobs[i:i+1:i+1], false)
		}
		if err != nil {
			for _, j := range jobs[i+1:] {
				j.done <- writeReply{err: w.replica.notLeader()}
			}
			return err
		}
	}
	return nil
}

func (w *writer) commitTogether(jobs []*writeJob, grows bool) error {
	for len(jobs) > 0 {
		all, culprit, err := w.tryBatch(jobs, grows)
		if err != nil || culprit < 0 {
			return err
		}
		jobs, grows = all, false
		w.noteLack(jobs[culprit].err)
		jobs[culprit].done <- writeReply{err: jobs[culprit].err}
		if err := w.commitTogether(jobs[:culprit], false); err != nil {
			return err
		}
		jobs = jobs[culprit+1:]
	}
	return nil
}

// tryBatch runs the batch once. A culprit is a job whose failure has undone
// others with it (an interrupt, OR ROLLBACK) or left half of itself behind (OR
// FAIL, several statements, a deferred foreign key): the batch is undone, and
// the culprit's place is returned; -1 when there is none. all is the batch with
// what it has grown by.
func (w *writer) tryBatch(jobs []*writeJob, grows bool) (all []*writeJob, culprit int, err error) {
	err = w.renew()
	if err == nil {
		err = w.begin()
	}
	if err != nil {
		return jobs, -1, w.refuse(jobs, err)
	}
	now := w.replica.env.Clock.Now().UnixNano()
	w.buffer = w.buffer[:0]
	end := w.end
	for i := 0; i < len(jobs); i++ { // Which may grow.
		j := jobs[i]
		at := w.recorder.Mark()
		if undone := w.runJob(j, at); undone {
			w.rollback()
			return jobs, i, nil
		}
		if j.err == nil {
			if end, j.err = w.appendEntry(end, at, now, j); j.err == nil {
				j.result.Result.Past, j.err = w.replica.pastOf(w.conn)
			}
			if j.err != nil {
				w.rollback()
				return jobs, i, nil
			}
		}
		j.result.Result.Position = base.Position{Epoch: w.epoch, Seq: end}
		full := len(w.buffer) > maxBatchBytes
		if full && i+1 < len(jobs) {
			return jobs, -1, w.split(jobs, i+1, end)
		}
		if grows && !full && i+1 == len(jobs) {
			jobs = w.grow(jobs)
		}
	}
	return jobs, -1, w.seal(jobs, end)
}

// split commits the jobs before n and runs the rest as a batch of its own.
func (w *writer) split(jobs []*writeJob, n int, end base.Seq) error {
	if err := w.seal(jobs[:n], end); err != nil {
		return err
	}
	w.replica.wakeFlusher()
	return w.commitTogether(jobs[n:], false)
}

// appendEntry adds what was captured since mark to the batch's frames.
// What would fail in the commit fails here, before the log has it.
func (w *writer) appendEntry(end base.Seq, at mark, now int64, j *writeJob) (base.Seq, error) {
	if err := w.conn.CheckForeignKeys(); err != nil {
		return end, err
	}
	c, err := w.recorder.Take(at)
	if err != nil || c.changes == 0 {
		return end, err
	}
	e := entry.Entry{Epoch: w.epoch, First: end + 1, Count: uint32(c.changes), Time: now, Kind: c.kind, Body: c.body}
	if op := j.request.Operation; op != (replica.OperationID{}) {
		e.Operation, e.HasOperation = packOperation(op, j.result.Result.RowsAffected), true
	}
	past := w.past.news(j.request.Past)
	e.Past = []byte(past)
	if err := checkEntry(&e); err != nil {
		return end, err
	}
	if err := w.notePast(past); err != nil {
		return end, err
	}
	if err := w.named.note(w.conn, &e); err != nil {
		return end, err
	}
	if n := len(c.rows); n > MaxTransactionBytes {
		return end, tooLarge(n)
	}
	if c.rows != nil {
		if err := w.aside.keep(w.conn, &e, c.rows, w.replica.retention(), w.replica.changes.Start()); err != nil {
			return end, err
		}
	}
	if n := w.recorder.SchemasRead(); n != w.schemas {
		if err := noteSchema(w.conn, e.Last(), w.replica.changes.Start()); err != nil {
			return end, err
		}
		w.schemas = n
	}
	if c.kind == entry.WAL {
		w.unsealed, w.rowless = &e, false
		return e.Last(), nil
	}
	if err := w.basis.lose(w.conn, w.replica); err != nil {
		return end, err
	}
	w.buffer = entry.Append(w.buffer, &e)
	return e.Last(), nil
}

func checkEntry(e *entry.Entry) error {
	if n := entry.Size(e); n > MaxTransactionBytes {
		return tooLarge(n)
	}
	return e.Check()
}

func tooLarge(n int) error {
	return base.Errorf(base.KindTooLarge, "a transaction of %d bytes in the log; at most %d fit", n, MaxTransactionBytes).
		WithHint("split the transaction into smaller ones")
}

func (w *writer) begin() error {
	if err := w.mend(); err != nil {
		return err
	}
	if w.pending.entries == 0 {
		if err := w.conn.BeginImmediate(); err != nil {
			return fmt.Errorf("begin group commit: %w", err)
		}
	}
	w.batch, w.changes, w.unsealed = w.recorder.Mark(), w.conn.TotalChanges(), nil
	w.past.begin()
	return nil
}

// rollback undoes the batch, and with it the batches before that SQLite has not
// committed: those are in the log, and SQLite gets them back from there.
func (w *writer) rollback() {
	if w.failed != nil {
		return // Nothing is open.
	}
	if w.conn.Broken() {
		w.replica.log.Warn("the write connection broke; opening another", "epoch", w.epoch)
		w.failed = w.reopen()
		return
	}
	w.conn.SetInterrupt(context.Background())
	w.aside.forget()
	w.basis.forget()
	if w.conn.InTransaction() {
		if err := w.conn.Rollback(); err != nil {
			w.replica.log.Warn("roll back batch", "err", err)
		}
	}
	if w.pending.entries > 0 {
		w.failed = w.reopen()
		return
	}
	w.recorder.Rewind(w.batch)
}

// openWriter opens the connection that changes the database, and the recorder
// of what it changes.
func (r *Replica) openWriter(ctx context.Context, format string) (*sqlite.Conn, recorder, error) {
	db := r.file()
	if db == nil { // It was found damaged, and is to be copied from another.
		return nil, nil, base.Errorf(base.KindUnavailable, "open write connection: the database file is not open")
	}
	conn, err := db.OpenWriter(ctx, sqlite.RoleWriter)
	if err != nil {
		return nil, nil, fmt.Errorf("open write connection: %w", err)
	}
	recorder, err := openRecorder(r.env, format, conn)
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, recorder, nil
}

// refuse answers all jobs with an error that changed nothing.
func (w *writer) refuse(jobs []*writeJob, err error) error {
	w.rollback()
	w.noteLack(err)
	for _, j := range jobs {
		j.done <- writeReply{err: err}
	}
	return fatalOnly(err)
}

// fatalOnly keeps the errors after which the replica can't go on; a full disk
// or a busy file heals by itself.
func fatalOnly(err error) error {
	if _, ends := errors.AsType[*tailStaysError](err); ends || errors.Is(err, changelog.ErrFailed) {
		return err
	}
	switch base.KindOf(err) {
	case base.KindCorrupt, base.KindInternal:
		return err
	}
	return nil
}

// runJob executes a job's statements. A failure is kept in j.err; undone says
// that it took other jobs' changes with it, or left some of its own behind.
func (w *writer) runJob(j *writeJob, at mark) (undone bool) {
	j.result, j.err = replica.WriteResult{}, nil
	if j.state.Load() == jobQueued && !j.state.CompareAndSwap(jobQueued, jobStarted) || j.state.Load() == jobGivenUp {
		j.err = canceled(context.Cause(j.ctx))
		return false
	}
	if repeated, err := w.repeat(j); repeated || err != nil {
		j.err = err
		return false
	}
	w.conn.SetInterrupt(j.ctx)
	w.conn.SetGuard(guardOf(j.request.Guard))
	defer w.conn.SetGuard(sqlite.GuardOwn)
	before := w.conn.TotalChanges()
	several := len(j.request.Statements) > 1
	for _, s := range j.request.Statements {
		if j.err = w.runStatement(j, s); j.err != nil {
			break
		}
	}
	w.conn.SetInterrupt(context.Background())
	if j.err == nil {
		return false
	}
	if w.conn.Broken() || !w.conn.InTransaction() || several || w.conn.TotalChanges() != before {
		return true
	}
	w.recorder.Rewind(at)
	return false
}

// repeat answers a job whose client has named it and that was done already,
// from what is remembered of it.
func (w *writer) repeat(j *writeJob) (repeated bool, err error) {
	if !j.request.Operation.Named() {
		return false, nil
	}
	op, found, err := findOperation(w.conn, j.request.Operation)
	if found {
		j.result = replica.WriteResult{Result: session.Result{RowsAffected: op.rows}}
	}
	return found, err
}

func (w *writer) runStatement(j *writeJob, s replica.Statement) error {
	st, err := w.conn.Prepare(s.SQL)
	if err != nil {
		return err
	}
	defer st.Close()
	limit := j.request.MaxResultBytes
	if limit == 0 {
		limit = maxResultBytes
	}
	if err := w.recorder.Before(st, s); err != nil {
		return err
	}
	res, err := execute(w.conn, st, s.Args, limit)
	if err != nil {
		return err
	}
	if err := w.recorder.After(st, s); err != nil {
		return err
	}
	w.pending.refused = w.pending.refused || st.Info().Kind == session.Schema // Readers must see it at once.
	j.result = res
	return w.recorder.Err()
}

// execute steps a statement to its end and keeps its rows, up to limit bytes.
func execute(conn *sqlite.Conn, st *sqlite.Stmt, args []base.Value, limit int) (r replica.WriteResult, err error) {
	if err := st.BindAll(args); err != nil {
		return r, err
	}
	columns := st.ColumnCount()
	size := 0
	for {
		more, err := st.Step()
		if err != nil {
			return r, err
		}
		if !more {
			break
		}
		values := make([]base.Value, columns)
		for i := range values {
			values[i] = st.Column(i).Clone()
			size += 16 + len(values[i].Bytes)
		}
		if size > limit {
			return r, base.Errorf(base.KindTooLarge, "the statement's result is larger than %d bytes", limit).
				WithHint("return fewer rows, or read them with a SELECT, which is not held in memory")
		}
		r.Rows = append(r.Rows, values)
	}
	info := st.Info()
	r.Columns = st.Columns()
	r.Result = session.Result{Tag: info.Tag, LastInsertID: conn.LastInsertRowID()}
	if info.Kind == session.Write {
		r.Result.RowsAffected = conn.Changes()
	} else if columns > 0 {
		r.Result.RowsAffected = int64(len(r.Rows))
	}
	return r, nil
}

// seal puts the batch into the log, commits it in SQLite and hands its jobs to
// those who wait for acknowledgements. On an error nothing of it stands.
func (w *writer) seal(jobs []*writeJob, end base.Seq) error {
	if end == w.end {
		w.nothingChanged()
		w.publish(jobs)
		return nil
	}
	if err := w.commit(end); err != nil {
		return w.refuse(jobs, err)
	}
	w.room.lacking = time.Time{}
	w.publish(jobs)
	return nil
}

// nothingChanged ends a batch that the log gets nothing of.
func (w *writer) nothingChanged() {
	if w.pending.entries > 0 && w.conn.TotalChanges() == w.changes {
		w.recorder.Rewind(w.batch)
		return
	}
	w.rollback()
}

// commit appends w.buffer to the log, and commits SQLite unless that can wait.
// When SQLite refuses, the log's tail is cut before anyone has seen it.
func (w *writer) commit(end base.Seq) error {
	if w.unsealed != nil {
		if err := w.commitPages(end); err != nil {
			return err
		}
		w.committed(end)
		return nil
	}
	if err := w.replica.changes.Append(w.buffer, w.end+1, end, w.epoch); err != nil {
		return fmt.Errorf("append to the log: %w", err)
	}
	if !w.mayWait(end) {
		if err := w.commitSQLite(end); err != nil {
			w.unflushed = true // A sync that overlaps with the cut counts for nothing.
			if cut := w.replica.changes.TruncateAfter(w.end); cut != nil {
				return &tailStaysError{commit: err, cut: cut}
			}
			return err
		}
	}
	w.committed(end)
	return nil
}

// committed notes that the batch is in the log.
func (w *writer) committed(end base.Seq) {
	w.end = end
	w.replica.applied.Store(uint64(end))
	w.recorder.Rewind(w.batch)
	w.past.keep()
	w.replica.recent.noteAll(w.buffer)
}

// tailStaysError ends a leadership whose log has a batch that SQLite has refused
// and that can't be taken back: what stays in the log is executed when the
// replica opens it again. Its kind is that of the cause, such as a full disk.
type tailStaysError struct{ commit, cut error }

func (e *tailStaysError) Error() string {
	return fmt.Sprintf("commit failed (%v), and so did taking its log entries back: %v", e.commit, e.cut)
}

func (e *tailStaysError) Unwrap() error {
	told := *base.AsError(e.cut)
	told.Message, told.Outcome = e.Error(), base.Indeterminate
	told.Hint = strings.TrimPrefix(told.Hint+"; read before writing again", "; ")
	return &told
}

// publish lets the followers, the flusher and the readers see the batch.
func (w *writer) publish(jobs []*writeJob) {
	groups := make([]group, 0, 2)
	policy := w.replica.assignment().Policy.Durability
	for _, j := range jobs {
		d := j.request.Durability
		if j.result.Result.Asked = d; d.Level == "" {
			j.result.Result.Asked = policy
		}
		at := -1
		for i := range groups {
			if groups[i].asked == d {
				at = i
			}
		}
		if at < 0 {
			groups = append(groups, group{seq: w.end, asked: d})
			at = len(groups) - 1
		}
		groups[at].settle = append(groups[at].settle, j.settle)
	}
	p := base.Position{Epoch: w.epoch, Seq: w.end}
	w.acks.publish(p, w.replica.changes.Flushed(), groups)
	w.wakeSenders()
	w.unflushed = true
}

// settle answers the client; it is called exactly once, from any goroutine.
func (j *writeJob) settle(reached string, degraded bool, err error) {
	switch {
	case j.err != nil:
		j.done <- writeReply{err: j.err}
	case err != nil:
		j.done <- writeReply{err: err}
	default:
		j.result.Result.Reached, j.result.Result.Degraded = reached, degraded
		j.done <- writeReply{result: &j.result}
	}
}

func setPosition(conn *sqlite.Conn, p base.Position) error {
	st, err := conn.PrepareOwn(setPositionSQL)
	if err != nil {
		return fmt.Errorf("set position: %w", err)
	}
	defer st.Close()
	if err := st.BindAll([]base.Value{base.IntValue(int64(p.Epoch)), base.IntValue(int64(p.Seq))}); err != nil {
		return fmt.Errorf("set position: %w", err)
	}
	if _, err := st.Step(); err != nil {
		return fmt.Errorf("set position: %w", err)
	}
	return nil
}

func canceled(cause error) error {
	if e, ok := errors.AsType[*base.Error](cause); ok {
		return e
	}
	if errors.Is(cause, context.DeadlineExceeded) {
		return base.Errorf(base.KindTimeout, "the statement's time ran out before it began")
	}
	return base.Errorf(base.KindCanceled, "canceled before the statement began")
}

func guardOf(g replica.Guard) sqlite.Guard {
	switch g {
	case replica.GuardRead:
		return sqlite.GuardRead
	case replica.GuardWrite:
		return sqlite.GuardWrite
	}
	return sqlite.GuardAdmin
}

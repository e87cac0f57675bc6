package leader

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/leadership"
	"github.com/skeindb/skein/internal/planted"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
)

// leading is one epoch of leadership of this replica.
type leading struct {
	replica *Replica
	epoch   base.Epoch
	writer  *writer
	acks    *acks
	ready   chan struct{}   // closed when the epoch's first entry is safe
	ending  <-chan struct{} // closed when this leadership begins to end
	over    chan struct{}   // closed when every job has its answer
	cancel  context.CancelCauseFunc
	handing atomic.Bool   // a switchover waits for what the core hears
	ticking chan struct{} // wakes tick; holds one token

	mu struct {
		sync.Mutex // guards all below
		senders    map[base.NodeID]*sender
		draining   chan struct{}      // not nil while a switchover holds back writes
		released   chan base.Position // gets how the switchover ended
	}
}

// lead runs one leadership until ctx is done, and answers everyone at its end.
func (r *Replica) lead(ctx context.Context, a Assignment) (err error) {
	if r.mustCopy() {
		if len(a.Replicas) > 1 {
			return r.rest(ctx, a.Epoch)
		}
		if err := r.adopt(ctx); err != nil {
			return err
		}
	}
	w, err := r.vowAndOpen(ctx, a.Epoch)
	if vow, none := errors.AsType[*noVowError](err); none {
		// A process that led this epoch before may have lost its unflushed
		// tail: it waits for the election that gives it, or another, a new one.
		r.log.Info("not leading", "why", vow.cause)
		return r.rest(ctx, a.Epoch)
	}
	var l *leading
	if err == nil {
		l, err = r.prepareLead(w, a)
	}
	if err != nil {
		return fmt.Errorf("begin epoch %d: %w", a.Epoch, err)
	}
	ctx, l.cancel = context.WithCancelCause(ctx)
	defer l.cancel(nil)
	l.acks.broken = l.cancel
	l.ending = ctx.Done()
	r.setLeading(l)
	r.refreshLead(l)
	r.log.Info("leading", "epoch", a.Epoch, "position", l.acks.publishedSeq())
	err = l.run(ctx)
	r.setLeading(nil)
	l.settleAll(err)
	r.log.Info("no longer leading", "epoch", a.Epoch, "why", err)
	return err
}

// noVowError says that this replica may not lead an epoch.
type noVowError struct{ cause error }

func (e *noVowError) Error() string { return e.cause.Error() }

// vowAndOpen vows to lead an epoch, and meanwhile brings SQLite to the end of the
// log and opens the writer. When it returns without an error the vow is durable,
// and the log is the database's.
func (r *Replica) vowAndOpen(ctx context.Context, epoch base.Epoch) (*writer, error) {
	r.mu.Lock()
	err := r.mu.follower.Lead(epoch)
	r.mu.Unlock()
	if err != nil {
		return nil, &noVowError{err}
	}
	kept := r.env.Meanwhile(r.keepVow)
	w, err := r.openLead(ctx, epoch)
	vow := kept()
	if vow == nil {
		vow = r.prove()
	}
	if vow == nil {
		return w, err
	}
	if err == nil {
		err = w.conn.Close() // Which did nothing yet.
	}
	if err != nil {
		r.log.Debug("open a writer that is not used", "err", err)
	}
	return nil, &noVowError{vow}
}

// openLead opens the writer of an epoch on a file that has all of the log.
func (r *Replica) openLead(ctx context.Context, epoch base.Epoch) (*writer, error) {
	if planted.Is(planted.LoseTailOnLead) {
		if err := r.changes.TruncateAfter(r.executed.get()); err != nil {
			return nil, err
		}
	}
	if err := r.applyAll(ctx); err != nil {
		return nil, err
	}
	conn, recorder, err := r.openWriter(ctx, base.FormatRow) // In which every epoch begins.
	if err != nil {
		return nil, err
	}
	return &writer{
		replica: r, epoch: epoch, conn: conn, recorder: recorder, format: base.FormatRow,
		inbox: make(chan job, inboxSize), end: r.changes.End().Seq, images: images{replica: r},
	}, nil
}

// prepareLead writes the entry that begins the epoch.
func (r *Replica) prepareLead(w *writer, a Assignment) (*leading, error) {
	first := w.end + 1
	// After a lossy election what was safe may reach behind this log's end: the
	// numbers from there on are used again, and are not safe.
	r.safe.cut(min(r.safe.get(), first-1), nil)
	book := &acks{replica: r, epoch: a.Epoch, start: first}
	book.mu.queues = make(map[base.Durability][]group)
	book.mu.streams = make(map[base.NodeID]*sender)
	config := r.leaderConfig(a)
	config.Opening = first
	book.mu.core = leadership.NewLeader(config, r.now())
	book.mu.policy = a.Policy.Durability
	l := &leading{
		replica: r, epoch: a.Epoch, writer: w, acks: book, ready: make(chan struct{}), over: make(chan struct{}), ticking: make(chan struct{}, 1),
	}
	w.acks = book
	w.pending.timer = r.env.Clock.NewTimer(pendingTime)
	w.nonePending()
	w.pending.refused = true // The first batch says that the replica is open.
	l.mu.senders = make(map[base.NodeID]*sender)
	book.safeRose, book.leaseWanted, w.wakeSenders = l.wakeSenders, l.renewLease, l.wakeSenders
	if err := w.open(a); err != nil {
		return nil, errors.Join(err, w.conn.Close())
	}
	return l, nil
}

// open writes what an epoch begins with.
func (w *writer) open(a Assignment) error {
	err := w.beginEpoch()
	if err == nil {
		err = w.adoptFormat()
	}
	if err != nil || a.Epoch == 1 || a.Handed {
		return err
	}
	by := int64(skipIDs)
	if a.Lossy {
		by = skipIDsLossy
	}
	return w.skipIDs(by)
}

// refreshLead takes over what was assigned while this leadership was prepared,
// when nobody was there to be told.
func (r *Replica) refreshLead(l *leading) {
	if a := r.assignment(); a.Epoch == l.epoch {
		l.acks.reconfigure(r.leaderConfig(a))
	}
}

// beginEpoch writes the epoch's first entry, which has no body: it marks where
// this history begins, and nothing counts as safe before it does.
func (w *writer) beginEpoch() error {
	if err := w.begin(); err != nil {
		return err
	}
	first := w.end + 1
	e := entry.Entry{Epoch: w.epoch, First: first, Count: 1, Time: w.replica.env.Clock.Now().UnixNano(), Kind: entry.EpochStart}
	w.buffer = entry.Append(w.buffer[:0], &e)
	if err := w.commit(first); err != nil {
		w.rollback()
		return err
	}
	w.publish(nil)
	w.replica.wakeFlusher()
	return nil
}

// run starts the goroutines of the epoch and waits for all of them.
func (l *leading) run(ctx context.Context) error {
	var wg sync.WaitGroup
	start := func(name string, f func(context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				l.cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	start("writer", l.writer.run)
	start("flusher", l.flush)
	start("lease", l.tick)
	start("first entry", l.awaitReady)
	start("checkpoints", l.checkpoints)
	wg.Wait()
	return context.Cause(ctx)
}

// awaitReady opens the doors once the epoch's first entry is safe: from then
// on everything that came before it is, too.
func (l *leading) awaitReady(ctx context.Context) error {
	if err := l.replica.safe.wait(ctx, l.acks.start); err != nil {
		return nil
	}
	close(l.ready)
	l.acks.changed.signal()
	l.replica.events.Active(l.epoch)
	return nil
}

// flush syncs the log whenever a batch has been appended.
func (l *leading) flush(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.replica.flushWanted:
		}
		seq := l.replica.changes.Flushed()
		if seq < l.replica.changes.End().Seq {
			var err error
			if seq, err = l.replica.changes.Sync(); err != nil {
				return fmt.Errorf("%w: %w", errFlush, err)
			}
		}
		// Also when there was nothing to sync: who flushed it, such as the writer
		// or a sync that overlapped with its batch, may not have told the book.
		l.acks.locallyFlushed(seq)
		if l.handing.Load() {
			wake(l.ticking)
		}
	}
}

// tick lets the core notice what time alone brings: an expired lease, a
// follower silent for too long. It also keeps idle followers' leases alive.
func (l *leading) tick(ctx context.Context) error {
	every := l.replica.options.Lease / 10
	timer := l.replica.env.Clock.NewTimer(every)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C():
			timer.Reset(every)
		case <-l.ticking:
		}
		if l.acks.leaseLive() {
			l.replica.setLevel(l.replica.env.Clock.Now())
		}
		for _, e := range l.acks.tick() {
			l.obey(e)
		}
	}
}

// settleAll answers whatever waits when the epoch ends.
func (l *leading) settleAll(cause error) {
	l.acks.end(indeterminate(cause))
	for {
		select {
		case j := <-l.writer.inbox:
			j.refuse(l.replica.notLeader())
			continue
		default:
		}
		close(l.over)
		return
	}
}

func (j job) refuse(err error) {
	switch {
	case j.write != nil:
		j.write.done <- writeReply{err: err}
	case j.tx != nil:
		j.tx.granted <- err
	}
}

func indeterminate(cause error) error {
	return base.Errorf(base.KindIndeterminate, "the leader changed before the write was as durable as asked: %v", cause).
		WithOutcome(base.Indeterminate).
		WithHint("it may have been kept: read before writing again")
}

// submit hands a job to the writer, waiting for the epoch to open.
func (l *leading) submit(ctx context.Context, j job) error {
	for {
		l.mu.Lock()
		draining := l.mu.draining
		l.mu.Unlock()
		if err := l.awaitOpen(ctx); err != nil {
			return err
		}
		if draining == nil {
			break
		}
		select {
		case <-draining:
		case <-l.over:
			return l.replica.notLeader()
		case <-ctx.Done():
			return canceled(context.Cause(ctx))
		}
	}
	select {
	case l.writer.inbox <- j:
		return nil
	default:
		return base.Errorf(base.KindBusy, "%d writes wait for the writer already", inboxSize).WithHint("send fewer at once, or try again")
	}
}

// awaitOpen waits until the epoch's first entry is safe. For nearly every write
// it is, and a receive from one channel costs less than the choice among three.
func (l *leading) awaitOpen(ctx context.Context) error {
	select {
	case <-l.ready:
		return nil
	default:
	}
	select {
	case <-l.ready:
		return nil
	case <-l.over:
		return l.replica.notLeader()
	case <-ctx.Done():
		return canceled(context.Cause(ctx))
	}
}

// Write implements replica.Replica.
func (r *Replica) Write(ctx context.Context, q replica.WriteRequest) (*replica.WriteResult, error) {
	lead, err := r.awaitLead(ctx, q.Epoch)
	if err != nil {
		return nil, err
	}
	j := &writeJob{ctx: ctx, request: q, done: make(chan writeReply, 1)}
	if err := lead.submit(ctx, job{write: j}); err != nil {
		return nil, err
	}
	select {
	case reply := <-j.done:
		return reply.result, reply.err
	case <-lead.over:
		select {
		case reply := <-j.done:
			return reply.result, reply.err
		default:
			return nil, r.notLeader()
		}
	case <-ctx.Done():
		return r.giveUp(ctx, j)
	}
}

// giveUp is for a client whose time is over: a write that had not begun never
// will; one that had is waited for a little, and is indeterminate after that.
func (r *Replica) giveUp(ctx context.Context, j *writeJob) (*replica.WriteResult, error) {
	cause := context.Cause(ctx)
	if j.state.CompareAndSwap(jobQueued, jobGivenUp) {
		return nil, canceled(cause)
	}
	timer := r.env.Clock.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case reply := <-j.done:
		return reply.result, reply.err
	case <-timer.C():
		return nil, unconfirmed(cause)
	}
}

// unconfirmed is a write that stands on the leader and waits for followers.
func unconfirmed(cause error) error {
	kind := base.KindTimeout
	if errors.Is(cause, context.Canceled) {
		kind = base.KindCanceled
	}
	if planted.Is(planted.CallIndeterminate) {
		return base.Errorf(kind, "gave up waiting for the followers")
	}
	return base.Errorf(kind, "gave up waiting for the followers that the durability asks for: %v", cause).
		WithOutcome(base.Indeterminate).
		WithHint("the write stands on the leader and counts once enough followers have it; see skein status")
}

// await waits for the answer of a commit that the writer has taken.
func (r *Replica) await(ctx context.Context, reply chan writeReply) (res session.Result, err error) {
	select {
	case a := <-reply:
		if a.err != nil {
			return res, a.err
		}
		return a.result.Result, nil
	case <-ctx.Done():
		return res, unconfirmed(context.Cause(ctx))
	}
}

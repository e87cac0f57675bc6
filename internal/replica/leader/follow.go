package leader

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/leadership"
	"github.com/skeindb/skein/internal/planted"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/replica/stream"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/transport"
)

const (
	followRetryMin = 10 * time.Millisecond
	followRetryMax = 500 * time.Millisecond
	// applyPause is the least time between two transactions of an applier for
	// which nobody waits, while nobody reads.
	applyPause = 5 * time.Millisecond
	// ackPause is how long an acknowledgement may take that nobody waits for.
	ackPause = applyPause
)

// follow follows the assigned leader until ctx is done, connecting again
// whenever the stream breaks.
func (r *Replica) follow(ctx context.Context, a Assignment) error {
	r.mu.Lock()
	ok := r.mu.follower.Raise(a.Epoch)
	r.mu.Unlock()
	if !ok {
		return r.rest(ctx, a.Epoch)
	}
	kept := r.env.Meanwhile(r.keepVow)
	r.setRole(replica.RoleFollower)
	pause := followRetryMin
	for {
		started := r.env.Clock.Now()
		err := r.followOnce(ctx, a, kept)
		if err := kept(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if fatal(err) {
			return err
		}
		if err != nil {
			r.log.Debug("following", "leader", a.Leader, "err", err)
		}
		if r.env.Clock.Now().Sub(started) > time.Second {
			pause = followRetryMin
		}
		if err := r.env.Clock.Sleep(ctx, pause); err != nil {
			return err
		}
		pause = min(2*pause, followRetryMax)
	}
}

// fatal errors end the replica; all others are tried again. After a failed sync
// a second one proves nothing: what the first has dropped looks clean to it.
func fatal(err error) bool {
	return base.KindOf(err) == base.KindCorrupt || sqlite.IsFatal(err) || errors.Is(err, errFlush) || errors.Is(err, changelog.ErrFailed)
}

// peerError is what another node has said or done: whatever its kind, it says
// nothing of this replica's files. It hides its cause for that reason.
type peerError struct{ cause error }

func (e *peerError) Error() string { return e.cause.Error() }

func fromPeer(err error) error { return &peerError{err} }

var errFlush = errors.New("the log can't be flushed")

// followOnce runs one stream, or does what must come before one: cut a tail or
// copy a snapshot. Until the vow is kept it takes nothing in.
func (r *Replica) followOnce(whole context.Context, a Assignment, kept func() error) error {
	ctx, cancel := context.WithCancelCause(whole)
	defer cancel(nil)
	q := r.followRequest(a)
	s, err := r.options.Transport.OpenStream(ctx, a.Leader, FollowService, stream.AppendFollow(nil, q))
	if err != nil {
		return fmt.Errorf("open stream to the leader: %w", fromPeer(err))
	}
	msg, err := s.Recv()
	if err != nil {
		return fmt.Errorf("await the leader's plan: %w", fromPeer(err))
	}
	plan, err := stream.DecodePlan(msg)
	if err != nil {
		return err
	}
	if err := kept(); err != nil {
		return err
	}
	switch plan.Kind {
	case leadership.PlanTruncate:
		return r.cutTail(ctx, plan.To.Seq)
	case leadership.PlanSnapshot:
		defer r.setRole(replica.RoleFollower)
		return r.copyFrom(ctx, a.Leader, plan.To.Seq)
	case leadership.PlanStart:
		err := r.runFollow(ctx, cancel, a, s)
		if fetched, ok := errors.AsType[*fetchedBase](err); ok {
			return r.installBase(whole, fetched.manifest)
		}
		return err
	}
	return base.Errorf(base.KindNotLeader, "the leader answers %q to epoch %d, itself at %d", plan.Kind, a.Epoch, plan.Epoch)
}

func (r *Replica) followRequest(a Assignment) leadership.FollowRequest {
	return leadership.FollowRequest{
		Database: r.options.Database, Epoch: a.Epoch, Promised: r.vow().Promised,
		History: r.history(), LogStart: r.changes.Start(), Fresh: r.mustCopy(),
	}
}

// following is one stream from a leader.
type following struct {
	replica *Replica
	epoch   base.Epoch
	leader  base.NodeID
	stream  transport.Stream
	level   atomic.Uint64 // one more than where the leader's log ended at first; 0: not told yet

	granted      grant // of the newest message that asked for a lease: echoed
	received     atomic.Uint64
	announced    atomic.Uint64 // safe, as the leader says
	levels       levels
	ackWanted    chan struct{}
	appended     chan struct{} // to the log, and nobody waits for an acknowledgement of it
	applyMore    chan struct{}
	rest         env.Timer   // of the applier
	refused      base.Seq    // the applier goes ahead of what is safe only beyond this
	epochFlushed bool        // the log has something of epoch on disk; the applier's
	quietly      chan func() // run while the applier has no transaction open

	rebasing   atomic.Bool   // what is shipped does not fit to the file: another is being fetched
	baseWanted chan struct{} // closed then
}

// grant is a message's stamp and the lease that was granted with it: neither
// means anything without the other.
type grant struct {
	mu    sync.Mutex // guards both
	stamp leadership.Instant
	lease time.Duration
}

func (g *grant) set(stamp leadership.Instant, lease time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stamp, g.lease = stamp, lease
}

// take returns the lease once: said again it would say nothing of how long the
// leader's message took.
func (g *grant) take() (leadership.Instant, time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	lease := g.lease
	g.lease = 0
	return g.stamp, lease
}

func (r *Replica) runFollow(ctx context.Context, cancel context.CancelCauseFunc, a Assignment, s transport.Stream) error {
	r.mu.Lock()
	ok := r.mu.follower.Follow(r.now(), a.Epoch)
	r.mu.Unlock()
	if !ok {
		return base.Errorf(base.KindNotLeader, "epoch %d is over", a.Epoch)
	}
	defer func() {
		r.mu.Lock()
		r.mu.follower.Unfollow()
		r.mu.Unlock()
	}()
	f := &following{
		replica: r, epoch: a.Epoch, leader: a.Leader, stream: s, baseWanted: make(chan struct{}),
		ackWanted: make(chan struct{}, 1), appended: make(chan struct{}, 1), applyMore: make(chan struct{}, 1),
		rest: r.env.Clock.NewTimer(applyPause), quietly: make(chan func()),
	}
	defer f.rest.Stop()
	f.received.Store(uint64(r.changes.End().Seq))
	r.log.Info("following", "epoch", a.Epoch, "leader", a.Leader, "from", r.changes.End())
	var wg sync.WaitGroup
	for _, part := range []func(context.Context) error{f.receive, f.acknowledge, f.apply, f.maintain, f.fetchBase} {
		wg.Go(func() {
			if err := part(ctx); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// receive takes in batches and heartbeats.
func (f *following) receive(ctx context.Context) error {
	for {
		msg, err := f.stream.Recv()
		if err != nil {
			return fmt.Errorf("stream from the leader: %w", fromPeer(err))
		}
		b, err := stream.DecodeBatch(msg)
		if err != nil {
			return err
		}
		if err := f.take(b); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

func (f *following) take(b stream.Batch) error {
	r := f.replica
	end := r.changes.End().Seq
	last := b.Last
	if b.Frames == nil {
		last = 0 // A heartbeat: First is behind the leader's end.
		f.level.CompareAndSwap(0, uint64(b.Last)+1)
	} else if f.rebasing.Load() {
		last = 0 // Only what it says besides counts.
	}
	now := r.env.Clock.Now()
	r.mu.Lock()
	r.mu.heardAt, r.mu.leaderEnd = now, b.Last
	verdict := r.mu.follower.Accept(r.now(), b.Epoch, b.First, last, end, b.Lease)
	granted := r.mu.follower.Grant(b.Lease)
	if r.mu.latenessOf != b.Epoch {
		r.mu.latenessOf, r.mu.lateness = b.Epoch, leadership.Lateness{}
	}
	sent := now.Add(-r.mu.lateness.Of(r.now(), b.Stamp))
	r.mu.Unlock()
	switch verdict {
	case leadership.Append:
		if err := f.append(b, end); errors.Is(err, errOtherBase) {
			f.wantBase()
		} else if err != nil {
			return err
		}
	case leadership.Duplicate:
	default:
		return base.Errorf(base.KindNotLeader, "batch of epoch %d from %d: %v", b.Epoch, b.First, verdict)
	}
	if granted > 0 {
		f.granted.set(b.Stamp, granted)
	}
	f.announced.Store(uint64(b.Safe))
	r.safe.raise(b.Safe)
	f.levels.announce(b.Safe, sent)
	f.noteLevel()
	if granted > 0 {
		wake(f.ackWanted)
	} else if verdict == leadership.Append { // Other heartbeats only tell what is safe.
		wake(f.appended)
	}
	if base.Seq(r.applied.Load()) < b.Safe || f.countsApplied() || verdict == leadership.Append && r.readLately() {
		wake(f.applyMore)
	}
	return nil
}

// noteLevel remembers when this replica last had everything that was safe: not
// when it was told of it, since what it was told may have come late.
func (f *following) noteLevel() {
	if at, ok := f.levels.reach(base.Seq(f.replica.applied.Load())); ok {
		f.replica.setLevel(at)
	}
}

// countsApplied says that the policy counts applied copies: entries are applied
// before they are safe then, or they would never be.
func (f *following) countsApplied() bool {
	return f.replica.assignment().Policy.Durability.When == base.Applied
}

// append writes what is new of a batch to the log.
func (f *following) append(b stream.Batch, end base.Seq) error {
	frames, first := b.Frames, b.First
	for first <= end {
		e, n, err := entry.Decode(frames)
		if err != nil {
			return err
		}
		frames, first = frames[n:], e.Last()+1
	}
	span, err := entry.Scan(frames, func(e *entry.Entry, _ []byte) error { return f.replica.checkBase(e) })
	if err != nil {
		return fmt.Errorf("batch from the leader: %w", err)
	}
	if span.First != first || span.Last != b.Last {
		return base.Errorf(base.KindInvalid, "batch from the leader covers %d to %d, not %d to %d", span.First, span.Last, first, b.Last)
	}
	if err := f.replica.changes.Append(frames, first, b.Last, span.LastEpoch); err != nil {
		return fmt.Errorf("append to the log: %w", err)
	}
	f.replica.recent.noteAll(frames)
	f.received.Store(uint64(b.Last))
	return nil
}

// acknowledge flushes what was received and tells the leader, coalescing what
// has come in meanwhile. What the leader does not ask to be told at once is told
// a little later, and flushed at once only when somebody reads it here.
func (f *following) acknowledge(ctx context.Context) error {
	var buffer []byte
	read := false  // as the leader was last told
	waits := false // something is to be told when later fires
	later := f.replica.env.Clock.NewTimer(ackPause)
	defer later.Stop()
	for {
		due := true
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-f.ackWanted:
		case <-f.appended:
			due = false
		case <-later.C():
			if !waits {
				continue
			}
		case <-f.replica.looked:
			if read && !waits {
				continue
			}
		}
		if !due && !waits {
			waits = true
			later.Reset(ackPause)
		}
		if !due && !f.replica.readLately() {
			continue
		}
		a := leadership.Ack{Epoch: f.epoch, Received: base.Seq(f.received.Load()), Read: f.replica.read()}
		if due {
			a.Stamp, a.Lease = f.granted.take()
		}
		if err := f.flush(a); err != nil {
			return err
		}
		a.Flushed = f.replica.changes.Flushed()
		a.Applied = min(a.Flushed, base.Seq(f.replica.applied.Load())) // Who counts applied copies counts on their disks.
		if !due || a.Stamp == 0 && a.Flushed == 0 {
			continue
		}
		if err := f.noteProven(a.Flushed); err != nil {
			return err
		}
		buffer, read, waits = stream.AppendAck(buffer[:0], a), a.Read, false
		if err := f.stream.Send(buffer); err != nil {
			return fmt.Errorf("acknowledge: %w", err)
		}
	}
}

// flush has the log on disk as far as a says that it was received.
func (f *following) flush(a leadership.Ack) error {
	r := f.replica
	if planted.Is(planted.AckUnflushed) {
		early := leadership.Ack{Epoch: a.Epoch, Received: a.Received, Flushed: a.Received, Applied: a.Received, Stamp: a.Stamp, Lease: a.Lease}
		if err := f.stream.Send(stream.AppendAck(nil, early)); err != nil {
			return err
		}
	}
	if r.changes.Flushed() >= a.Received {
		return nil
	}
	if _, err := r.changes.Sync(); err != nil {
		return fmt.Errorf("%w: %w", errFlush, err)
	}
	if r.applied.Load() < f.announced.Load() || f.countsApplied() {
		wake(f.applyMore)
	}
	return nil
}

// noteProven ends the time in which this replica was no evidence, when it has
// come as far as its leader's log was when it began to follow.
func (f *following) noteProven(flushed base.Seq) error {
	if level := f.level.Load(); level == 0 || uint64(flushed)+1 < level || !f.replica.unproven() {
		return nil
	}
	return f.replica.prove()
}

// apply brings SQLite up to what is safe, as far as the log here has it. When nobody
// reads, entries wait in SQLite's open transaction for others to come.
func (f *following) apply(ctx context.Context) error {
	a, err := f.replica.newApplier(ctx)
	if err != nil {
		return err
	}
	defer a.close()
	defer a.endOpen() // An error says no more than that it is done again from the log.
	timer := f.replica.env.Clock.NewTimer(pendingTime)
	defer timer.Stop()
	for {
		if err := f.applyAll(ctx, a); err != nil {
			return err
		}
		applied := f.replica.env.Clock.Now()
		if a.pending > 0 && !a.ahead {
			timer.Reset(pendingTime - applied.Sub(a.since))
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-f.applyMore:
			f.restBetween(ctx, applyPause-f.replica.env.Clock.Now().Sub(applied))
		case <-f.replica.applyWanted:
		case <-timer.C():
		case quiet := <-f.quietly:
			if err := a.endOpen(); err != nil {
				return err
			}
			quiet()
		}
	}
}

// applyAll applies what there is, and commits it unless that can wait.
func (f *following) applyAll(ctx context.Context, a *applier) error {
	for {
		limit := f.replica.changes.Flushed()
		if !f.countsApplied() {
			limit = min(limit, base.Seq(f.announced.Load()))
		}
		switch {
		case a.ahead && a.at.Seq > max(limit, f.early()):
			return nil
		case a.ahead:
			a.arrive()
			f.noteLevel()
		case a.at.Seq < limit:
			if err := f.step(ctx, a, limit); err != nil {
				return err
			}
		}
		if !f.mayWait(a) {
			if err := a.commit(); err != nil {
				return err
			}
		}
		if a.at.Seq >= limit {
			break
		}
	}
	if f.countsApplied() {
		wake(f.ackWanted)
	}
	f.goAhead(a)
	return nil
}

// mayWait says that nobody would see what SQLite commits now.
func (f *following) mayWait(a *applier) bool {
	r := f.replica
	return a.pending < pendingEntries && r.env.Clock.Now().Sub(a.since) < pendingTime &&
		!a.schemaChanging() && !f.countsApplied() && !r.readLately() && !r.executed.awaited()
}

// restBetween lets some batches come together, which are applied at less cost
// than each alone, unless someone waits or reads, who would see older data for
// it, or there is much to do already.
func (f *following) restBetween(ctx context.Context, pause time.Duration) {
	r := f.replica
	behind := base.Seq(f.received.Load()) - min(base.Seq(r.applied.Load()), base.Seq(f.received.Load()))
	if pause <= 0 || behind > applyMaxEntries || f.countsApplied() || r.executed.awaited() || r.readLately() {
		return
	}
	f.rest.Reset(pause)
	select {
	case <-ctx.Done():
	case <-f.rest.C():
	case <-r.applyWanted:
	}
}

func (f *following) step(ctx context.Context, a *applier, limit base.Seq) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := a.step(limit)
	if d, differs := errors.AsType[*difference](err); differs {
		err = a.heal(ctx, d)
	}
	if errors.Is(err, row.ErrDiverged) {
		f.replica.log.Error("this replica differs from its leader; copying the leader's file", "err", err)
		return errors.Join(err, f.replica.markCopying(err.Error()))
	}
	if err != nil {
		return err
	}
	f.noteLevel()
	return nil
}

// setLevel remembers that this replica was level with its leader at a time.
func (r *Replica) setLevel(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at.After(r.mu.levelAt) {
		r.mu.levelAt = at
	}
}

func (f *following) maintain(ctx context.Context) error {
	k := &keeper{replica: f.replica, quiet: f.quiet, restarts: true}
	return k.run(ctx)
}

// quiet runs a function while the applier has no transaction open.
func (f *following) quiet(ctx context.Context, run func()) error {
	done := make(chan struct{})
	select {
	case f.quietly <- func() { defer close(done); run() }:
		<-done
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

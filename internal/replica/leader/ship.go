package leader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/leadership"
	"github.com/skeindb/skein/internal/replica/stream"
	"github.com/skeindb/skein/internal/transport"
)

const (
	shipBytes   = 1 << 20  // of log in one message
	windowBytes = 16 << 20 // that may be on their way to a follower
	// tellPause is how long it may take until a follower that nobody reads is told
	// what is safe: the next batch tells it at no cost, and it applies no sooner.
	tellPause = applyPause
)

// FollowService is the stream service of ServeFollow; its header is a Follow
// message.
const FollowService = "follow"

// sender ships the log to one follower.
type sender struct {
	leading        *leading
	node           base.NodeID
	stream         transport.Stream
	cancel         context.CancelCauseFunc // ends the stream
	next           base.Seq                // to be sent
	message        []byte                  // reused
	frames         []byte                  // reused
	unacknowledged atomic.Int64
	wanted         chan struct{} // the log grew, safe rose, or the window opened
	lastAsked      time.Time     // for a lease
	renewal        atomic.Bool   // somebody waits for a lease
	sentSafe       base.Seq
	read           atomic.Bool // somebody reads the follower's copy
	untold         time.Time   // since when it has not been told what is safe; zero: it has

	mu struct {
		sync.Mutex // guards below
		flights    []flight
	}
}

// flight is a batch on its way: it counts against the window until the
// follower has it on disk.
type flight struct {
	last  base.Seq
	bytes int64
	at    time.Time
}

// ServeFollow is the stream service of a leader: it tells the follower how to
// begin, then ships the log and takes acknowledgements until either ends.
func (r *Replica) ServeFollow(ctx context.Context, from base.NodeID, q leadership.FollowRequest, s transport.Stream) error {
	lead, err := r.awaitLead(ctx, q.Epoch)
	if err != nil {
		return err
	}
	plan := leadership.PlanFollow(lead.epoch, r.history(), r.changes.Start(), q)
	if plan.Kind == leadership.PlanFenced {
		lead.acks.depose(plan.Epoch)
		lead.fenced(plan.Epoch)
	}
	if err := s.Send(stream.AppendPlan(nil, plan)); err != nil {
		return err
	}
	if plan.Kind != leadership.PlanStart {
		return nil
	}
	return lead.serve(ctx, from, plan.From, s)
}

// history is the shape of this replica's log.
func (r *Replica) history() leadership.History {
	end := r.changes.End()
	return leadership.History{Starts: r.startsUpTo(end), Last: end}
}

func (l *leading) serve(ctx context.Context, node base.NodeID, from base.Seq, st transport.Stream) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &sender{leading: l, node: node, stream: st, cancel: cancel, next: from, wanted: make(chan struct{}, 1)}
	if !l.attach(s) {
		return base.Errorf(base.KindForbidden, "node %v is no replica of %s", node, l.replica.options.Name)
	}
	defer l.detach(s)
	l.replica.receivers.Go(func() { cancel(s.receive(ctx)) })
	// Returning ends the stream, and with it receive.
	return s.send(ctx)
}

// attach makes s the one sender to its node; an older one is ended. Who counts
// changes under the lock of the book, together with what the core knows: an
// acknowledgement of an earlier stream, or its end, must not touch this one.
func (l *leading) attach(s *sender) bool {
	ok := false
	l.acks.update(func(core *leadership.Leader, now leadership.Instant) {
		if ok = core.Attach(now, s.node, s.next-1); ok {
			l.acks.mu.streams[s.node] = s
		}
	})
	if !ok {
		return false
	}
	l.mu.Lock()
	old := l.mu.senders[s.node]
	l.mu.senders[s.node] = s
	l.mu.Unlock()
	if old != nil {
		old.cancel(errReplaced)
	}
	s.wake()
	return true
}

var errReplaced = errors.New("the follower has connected again")

func (l *leading) detach(s *sender) {
	l.mu.Lock()
	if l.mu.senders[s.node] == s {
		delete(l.mu.senders, s.node)
	}
	l.mu.Unlock()
	l.acks.update(func(core *leadership.Leader, now leadership.Instant) {
		if l.acks.mu.streams[s.node] == s {
			delete(l.acks.mu.streams, s.node)
			core.Detach(now, s.node)
		}
	})
}

// dropOthers ends the streams of nodes that are no replicas any more: the core
// has forgotten them, and counts them again only when they attach again.
func (l *leading) dropOthers(a Assignment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sortedSenders() {
		if node := s.node; !slices.Contains(a.Replicas, node) && !a.Counting.Has(node) {
			s.cancel(errNoReplica)
		}
	}
}

var errNoReplica = errors.New("the node is no replica any more")

// wakeSenders tells every sender that there is something to send.
func (l *leading) wakeSenders() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sortedSenders() {
		s.wake()
	}
}

func (s *sender) wake() { wake(s.wanted) }

// sortedSenders are in the order of their followers, so that the same events
// make the same history. The caller holds l.mu.
func (l *leading) sortedSenders() []*sender {
	return slices.SortedFunc(maps.Values(l.mu.senders), func(a, b *sender) int { return cmp.Compare(a.node, b.node) })
}

// renewLease asks the followers for a lease now, for those who wait for one.
func (l *leading) renewLease() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sortedSenders() {
		s.renewal.Store(true)
		s.wake()
	}
}

// send ships batches as the log grows, and heartbeats when it does not: often
// enough to keep the lease, and at once when what is safe has risen.
func (s *sender) send(ctx context.Context) error {
	r := s.leading.replica
	every := r.options.Lease / 5
	timer := r.env.Clock.NewTimer(every)
	defer timer.Stop()
	// The follower must know where the log ends that it is to come level with, and
	// batches may follow each other for ever.
	if err := s.heartbeat(true); err != nil {
		return err
	}
	for {
		sent, err := s.sendNext()
		if err != nil {
			return err
		}
		if sent {
			continue
		}
		now := r.env.Clock.Now()
		ask := s.renewal.Swap(false) && s.leading.acks.leaseRunsOut(s.node) || now.Sub(s.lastAsked) >= every
		due := s.tellIn(now)
		if ask || due <= 0 {
			if err := s.heartbeat(ask); err != nil {
				return err
			}
			due = every
		}
		timer.Reset(min(due, every))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.leading.over:
			return r.notLeader()
		case <-s.wanted:
		case <-timer.C():
		}
	}
}

// tellIn is how long the follower may be left untold of what is safe: not at all
// when somebody reads it, and until the next batch when that comes soon.
func (s *sender) tellIn(now time.Time) time.Duration {
	safe := s.leading.replica.safe.get()
	switch {
	case s.sentSafe >= safe:
		return s.leading.replica.options.Lease
	case s.read.Load():
		return 0
	}
	if s.untold.IsZero() {
		s.untold = now
	}
	return s.untold.Add(tellPause).Sub(now)
}

// sendNext sends the next batch, if there is one and the window is open.
func (s *sender) sendNext() (sent bool, err error) {
	r := s.leading.replica
	published := s.leading.acks.publishedSeq().Seq
	if s.next > published || s.unacknowledged.Load() >= windowBytes {
		return false, nil
	}
	frames, first, last, err := r.changes.ReadFrom(s.next, shipBytes, s.frames)
	switch {
	case errors.Is(err, changelog.ErrEnd):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("read log from %d: %w", s.next, err)
	}
	s.frames = frames[:0]
	if last > published {
		// The writer has appended a batch that SQLite has not committed yet.
		if frames, last = until(frames, published); len(frames) == 0 {
			return false, nil
		}
	}
	return true, s.ship(frames, first, last)
}

// until cuts frames after the entry that ends at or before seq.
func until(frames []byte, seq base.Seq) ([]byte, base.Seq) {
	at, last := 0, base.Seq(0)
	for at < len(frames) {
		e, n, err := entry.Peek(frames[at:]) // The log has verified them.
		if err != nil || e.Last() > seq {
			break
		}
		at, last = at+n, e.Last()
	}
	return frames[:at], last
}

func (s *sender) ship(frames []byte, first, last base.Seq) error {
	s.message = append(s.message[:0], make([]byte, stream.BatchHeaderSize)...)
	s.message = append(s.message, frames...)
	now := s.leading.replica.env.Clock.Now()
	s.mu.Lock()
	s.mu.flights = append(s.mu.flights, flight{last: last, bytes: int64(len(frames)), at: now})
	s.mu.Unlock()
	s.unacknowledged.Add(int64(len(frames)))
	s.next = last + 1
	return s.post(now, first, last, s.leading.handing.Load() || s.leading.acks.wants(s.node))
}

// heartbeat tells the follower what is safe, and may ask for a lease; that one
// is acknowledged.
func (s *sender) heartbeat(ask bool) error {
	s.message = append(s.message[:0], make([]byte, stream.BatchHeaderSize)...)
	end := s.leading.acks.publishedSeq().Seq
	return s.post(s.leading.replica.env.Clock.Now(), end+1, end, ask)
}

// post fills in the header and sends the message.
func (s *sender) post(now time.Time, first, last base.Seq, ask bool) error {
	r := s.leading.replica
	safe := r.safe.get()
	b := stream.Batch{Epoch: s.leading.epoch, First: first, Last: last, Safe: safe, Stamp: r.now(), Wall: now.UnixNano()}
	if ask {
		b.Lease, s.lastAsked = s.leading.acks.askLease(s.node), now
	}
	stream.PutBatch(s.message, b)
	s.sentSafe, s.untold = safe, time.Time{}
	return s.stream.Send(s.message)
}

// receive takes the follower's acknowledgements.
func (s *sender) receive(ctx context.Context) error {
	for {
		msg, err := s.stream.Recv()
		if err != nil {
			return err
		}
		a, err := stream.DecodeAck(msg)
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !s.read.Swap(a.Read) && a.Read {
			s.wake() // It may have been left untold of what is safe.
		}
		s.land(a.Flushed)
		s.leading.acks.update(func(core *leadership.Leader, now leadership.Instant) {
			if s.leading.acks.mu.streams[s.node] == s {
				core.Ack(now, s.node, a)
			}
		})
		if s.leading.handing.Load() {
			wake(s.leading.ticking)
		}
	}
}

// land takes what the follower has on disk out of the window.
func (s *sender) land(flushed base.Seq) {
	s.mu.Lock()
	n := 0
	var bytes int64
	for n < len(s.mu.flights) && s.mu.flights[n].last <= flushed {
		bytes += s.mu.flights[n].bytes
		n++
	}
	s.mu.flights = s.mu.flights[n:]
	s.mu.Unlock()
	if bytes > 0 && s.unacknowledged.Add(-bytes)+bytes >= windowBytes {
		s.wake()
	}
}

// lag is how long the oldest batch that the follower lacks has been on its way.
func (s *sender) lag(now time.Time, applied base.Seq) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.mu.flights {
		if f.last > applied {
			return now.Sub(f.at)
		}
	}
	return 0
}

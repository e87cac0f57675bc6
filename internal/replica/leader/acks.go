package leader

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/leadership"
)

// acks is the leader's book of what is as durable as whom: it feeds the pure
// core with flushes and acknowledgements, and answers the commits that wait.
type acks struct {
	replica *Replica
	epoch   base.Epoch
	start   base.Seq // of this epoch's first entry: nothing counts before it does
	// safeRose is called, without the lock, when more has become safe, and
	// leaseWanted when what could be answered waits for a lease.
	safeRose, leaseWanted func()
	// broken ends the leadership with an error that the replica can't go on
	// over.
	broken func(error)

	mu struct {
		sync.Mutex // guards all below
		core       *leadership.Leader
		published  base.Position // committed by SQLite and in the log
		queues     map[base.Durability][]group
		streams    map[base.NodeID]*sender // whose acknowledgements count
		ended      error                   // set once: why this leadership is over
		degraded   bool                    // as of the last tick
		policy     base.Durability
		released   bool // handed over: what is safe may still be answered
	}
	changed broadcast // signaled whenever a follower or the flusher moved
	// delivering is who has taken groups out of the queues and not answered all of
	// them yet. It grows under the lock, and not after ended is set.
	delivering sync.WaitGroup
}

// group is the commits of one batch that ask for the same durability.
type group struct {
	seq    base.Seq
	asked  base.Durability
	settle []func(reached string, degraded bool, err error)
}

// publish says that SQLite has committed up to p; groups wait for it.
func (a *acks) publish(p base.Position, flushed base.Seq, groups []group) {
	a.mu.Lock()
	if a.mu.ended != nil {
		err := a.mu.ended
		a.mu.Unlock()
		for _, g := range groups {
			g.deliver("", false, err)
		}
		return
	}
	a.mu.published = p
	a.mu.core.LocalFlushed(min(flushed, p.Seq))
	for _, g := range groups {
		a.mu.queues[g.asked] = append(a.mu.queues[g.asked], g)
	}
	a.settleAndUnlock()
}

// locallyFlushed says how far this node's own log is on disk.
func (a *acks) locallyFlushed(seq base.Seq) {
	a.mu.Lock()
	a.mu.core.LocalFlushed(min(seq, a.mu.published.Seq))
	a.settleAndUnlock()
}

func (a *acks) update(f func(core *leadership.Leader, now leadership.Instant)) {
	a.mu.Lock()
	f(a.mu.core, a.replica.now())
	a.settleAndUnlock()
}

// tick lets time pass in the core and returns what it wants done.
func (a *acks) tick() (effects []leadership.Effect) {
	a.update(func(core *leadership.Leader, now leadership.Instant) {
		effects = core.Tick(now)
		for _, e := range effects {
			a.mu.released = a.mu.released || e.Kind == leadership.Released
		}
		a.mu.degraded = core.Status(now).Degraded
	})
	return effects
}

// reconfigure takes over a newer record of the database.
func (a *acks) reconfigure(c leadership.Config) {
	a.update(func(core *leadership.Leader, now leadership.Instant) {
		core.Reconfigure(now, c)
		a.mu.policy = c.Policy.Durability
		a.mu.degraded = core.Status(now).Degraded
	})
}

// settleAndUnlock answers every group whose durability is reached while the
// lease lives, tells readers what is safe, and releases the lock first.
func (a *acks) settleAndUnlock() {
	var ready []group
	core := a.mu.core
	safe := core.Safe()
	due := a.mu.ended == nil && safe >= a.start
	live := due && (a.mu.released || core.LeaseLive(a.replica.now()))
	lacking := due && !live && safe > a.replica.safe.get()
	if live {
		for d, q := range a.mu.queues {
			reached := safe
			if d.Level != "" && d != a.mu.policy {
				reached = core.Reached(d)
			}
			n := 0
			for n < len(q) && q[n].seq <= reached {
				n++
			}
			ready = append(ready, q[:n]...)
			if n == len(q) {
				delete(a.mu.queues, d)
			} else if n > 0 {
				a.mu.queues[d] = q[n:]
			}
		}
	}
	if len(ready) > 0 {
		a.delivering.Add(1)
		defer a.delivering.Done()
	}
	slices.SortFunc(ready, func(x, y group) int { return cmp.Compare(x.seq, y.seq) })
	degraded := a.mu.degraded
	reports := make([]string, len(ready))
	risked := base.Seq(0)
	for i, g := range ready {
		copies := core.ReachedBy(g.seq)
		reports[i] = report(copies, g.asked.When)
		if 2*copies.Flushed <= copies.Replicas {
			risked = max(risked, g.seq)
		}
	}
	a.mu.Unlock()
	if live && a.replica.safe.raise(safe) {
		a.safeRose()
	}
	if risked > 0 {
		if err := a.replica.acked.note(a.replica, base.Position{Epoch: a.epoch, Seq: risked}); err != nil {
			a.replica.log.Warn("a failover could not tell what was acknowledged", "err", err)
		}
	}
	if lacking {
		a.leaseWanted()
	}
	a.changed.signal()
	for i, g := range ready {
		g.deliver(reports[i], degraded, nil)
	}
}

// report says what a commit has reached, in words.
func report(c leadership.Copies, asked base.When) string {
	switch asked {
	case base.Applied:
		return fmt.Sprintf("applied on %d of %d", c.Applied, c.Replicas)
	case base.Received:
		return fmt.Sprintf("received by %d of %d", c.Received, c.Replicas)
	}
	return fmt.Sprintf("flushed on %d of %d", c.Flushed, c.Replicas)
}

func (g group) deliver(reached string, degraded bool, err error) {
	for _, f := range g.settle {
		f(reached, degraded, err)
	}
}

// end answers everyone who still waits: their writes are in this node's log
// and may or may not survive. When it returns, those who were being answered have
// their answers, too: who then finds none may be told that nothing was done.
func (a *acks) end(err error) {
	a.mu.Lock()
	a.mu.ended = err
	queues := a.mu.queues
	a.mu.queues = nil
	a.mu.Unlock()
	for _, q := range queues {
		for _, g := range q {
			g.deliver("", false, err)
		}
	}
	a.delivering.Wait()
	a.changed.signal()
}

func (a *acks) askLease(from base.NodeID) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.core.AskLease(from)
}

// leaseRunsOut says that it is of use to ask a follower for a lease.
func (a *acks) leaseRunsOut(from base.NodeID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.core.LeaseRunsOut(a.replica.now(), from)
}

// leaseLately says that there is a lease, or was one until a moment ago: one that
// nobody needs may lapse between two heartbeats.
func (a *acks) leaseLately() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.leaseLatelyLocked(a.replica.now())
}

func (a *acks) leaseLatelyLocked(now leadership.Instant) bool {
	return a.mu.ended == nil && a.mu.core.LeaseUntil().Add(a.replica.options.Lease) > now
}

// wants says that a follower should acknowledge a batch at once: somebody waits
// for it, or its lease runs out.
func (a *acks) wants(from base.NodeID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mu.policy.Level != base.Async || a.mu.core.LeaseRunsOut(a.replica.now(), from) {
		return true
	}
	for d := range a.mu.queues {
		if d.Level != "" && d.Level != base.Async {
			return true
		}
	}
	return false
}

func (a *acks) leaseLive() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.ended == nil && a.mu.core.LeaseLive(a.replica.now())
}

// awaits says that a node is a replica and does not follow just now.
func (a *acks) awaits(node base.NodeID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.core.Awaits(a.replica.now(), node)
}

func (a *acks) status() leadership.Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.core.Status(a.replica.now())
}

func (a *acks) publishedSeq() base.Position {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.published
}

// broadcast wakes everyone who holds its current channel.
type broadcast struct {
	mu sync.Mutex // guards c
	c  chan struct{}
}

func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.c == nil {
		b.c = make(chan struct{})
	}
	return b.c
}

func (b *broadcast) signal() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.c != nil {
		close(b.c)
		b.c = nil
	}
}

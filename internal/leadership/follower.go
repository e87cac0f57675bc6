package leadership

import (
	"fmt"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/planted"
)

// Vow is what a replica must remember across restarts. It is written to disk
// before the act that it covers: an answer to an election, the first
// acknowledgement at an epoch, the first write as a leader.
type Vow struct {
	// Promised: no message of a lower epoch is accepted.
	Promised base.Epoch
	// Led is the last epoch that this replica led, in any life.
	Led base.Epoch
}

// Follower is the part of a replica that decides what it accepts and what it
// promises, whether or not it leads just now. Whoever calls a method that may
// raise the Vow makes Vow() durable before acting on the result.
type Follower struct {
	vow       Vow
	lease     time.Duration
	following base.Epoch // whose log ours is known to be a prefix of; 0: none
	rhythm    Rhythm     // of the leader's messages
	until     Instant    // for how long the replica is bound by what it has acknowledged
	bound     bool       // until means something
}

// NewFollower starts from the stored vow. A replica that ever promised
// anything may have acknowledged a message just before it stopped, so it holds
// itself bound for one lease.
func NewFollower(v Vow, lease time.Duration, now Instant) *Follower {
	f := &Follower{vow: v, lease: lease, until: -Forever}
	if v.Promised > 0 {
		f.until, f.bound = now.Add(lease), true
	}
	return f
}

// Vow returns what must be on disk.
func (f *Follower) Vow() Vow { return f.vow }

// Following returns the epoch that Follow was last called for, or zero.
func (f *Follower) Following() base.Epoch { return f.following }

// Raise lifts the promised epoch to that of a leader whom the replica means to
// follow or of a record it has seen. It reports false when a later one is
// promised already.
func (f *Follower) Raise(epoch base.Epoch) bool {
	if epoch < f.vow.Promised {
		return false
	}
	if epoch > f.vow.Promised {
		f.vow.Promised, f.following = epoch, 0
	}
	return true
}

// Follow begins to accept messages of an epoch, after the leader's plan was
// PlanStart: the replica's log is a prefix of the leader's.
func (f *Follower) Follow(now Instant, epoch base.Epoch) bool {
	if !f.Raise(epoch) || f.vow.Led == epoch {
		return false
	}
	if f.following != epoch {
		f.rhythm = Rhythm{}
	}
	f.following = epoch
	f.hear(now, 0)
	return true
}

// Unfollow ends following: the stream broke, or the log is being replaced.
func (f *Follower) Unfollow() { f.following = 0 }

// The bounds of a follower's patience with a silent leader, in leases: an idle
// leader is heard every fifth of one.
func (f *Follower) patience() (least, most time.Duration) { return f.lease / 4, 4 * f.lease }

func (f *Follower) hear(now Instant, granted time.Duration) {
	least, most := f.patience()
	f.rhythm.Beat(now, least, most)
	if granted > 0 {
		f.until, f.bound = max(f.until, now.Add(granted)), true
	}
}

// Grant is how much of the lease that a message asks for is given: what the
// follower's acknowledgement of it says.
func (f *Follower) Grant(asked time.Duration) time.Duration { return max(0, min(asked, f.lease)) }

// Verdict says what to do with a message of the stream.
type Verdict uint8

// The verdicts. Only Append and Duplicate may be acknowledged.
const (
	Append     Verdict = iota + 1 // append what comes after the log's end
	Duplicate                     // nothing new; a heartbeat is one
	Gap                           // something is missing in between: follow anew
	StaleEpoch                    // a later epoch is promised: tell the sender which
	NewEpoch                      // not following this epoch yet: follow it first
)

// String names the verdict.
func (v Verdict) String() string {
	switch v {
	case Append:
		return "append"
	case Duplicate:
		return "duplicate"
	case Gap:
		return "gap"
	case StaleEpoch:
		return "stale epoch"
	case NewEpoch:
		return "new epoch"
	}
	return fmt.Sprintf("verdict %d", uint8(v))
}

// Accept judges a message of an epoch that carries the seqs first to last
// (last < first for a heartbeat), when the replica's log ends at end. With
// Append, what the message holds up to end is known already and is skipped. A
// message that is accepted binds the replica for the lease that it asks for.
func (f *Follower) Accept(now Instant, epoch base.Epoch, first, last, end base.Seq, asked time.Duration) Verdict {
	switch {
	case epoch < f.vow.Promised:
		return StaleEpoch
	case epoch > f.vow.Promised, f.following != epoch:
		return NewEpoch
	case last >= first && first > end+1:
		return Gap
	}
	f.hear(now, f.Grant(asked))
	if last < first || last <= end {
		return Duplicate
	}
	return Append
}

// LeaseRemaining is how long a leader may still count on this replica.
func (f *Follower) LeaseRemaining(now Instant) time.Duration {
	if !f.bound {
		return 0
	}
	return max(0, f.until.Sub(now))
}

// Silence is how long ago the leader was last heard; false when none was since
// the replica started.
func (f *Follower) Silence(now Instant) (time.Duration, bool) { return f.rhythm.Silence(now) }

// Deaf says that no leader is heard: for longer than it is usually silent.
func (f *Follower) Deaf(now Instant) bool {
	least, most := f.patience()
	silence, heard := f.rhythm.Silence(now)
	return !heard && f.LeaseRemaining(now) == 0 || heard && silence > f.rhythm.Patience(least, most)
}

// PromiseRequest asks a replica to have nothing more to do with epochs below
// Epoch. A Probe promises nothing; it asks what the answer would be.
type PromiseRequest struct {
	Database base.DatabaseID
	Epoch    base.Epoch
	Probe    bool
}

// PromiseReply is the answer. Position and Fresh are the shell's to fill, after
// it has made the vow durable and flushed its log.
type PromiseReply struct {
	Database base.DatabaseID
	Epoch    base.Epoch // as asked
	Promised base.Epoch // now
	// Granted: Promised is Epoch and was made durable (or it is a probe's).
	Granted bool
	Probe   bool
	// Position of the flushed log.
	Position base.Position
	// LeaseRemaining binds the replica from the moment of the answer.
	LeaseRemaining time.Duration
	// Deaf: it hears no leader.
	Deaf bool
	// What the shell knows of the leader as it was last heard: how long ago that
	// was, where its log ended, and for how long this replica had lacked some of
	// it by then. They are for judging a loss.
	Silence   time.Duration
	LeaderEnd base.Seq
	Behind    time.Duration
	// Fresh: the log was lost or is being copied; this is no evidence.
	Fresh bool
}

// Promise answers a request as far as this core knows. When it grants, the
// replica stops leading and following lower epochs at once; the caller makes
// the vow durable, flushes the log, fills in the rest and only then answers.
func (f *Follower) Promise(now Instant, r PromiseRequest) PromiseReply {
	p := PromiseReply{Database: r.Database, Epoch: r.Epoch, Probe: r.Probe}
	switch {
	case r.Probe:
		p.Granted = r.Epoch >= f.vow.Promised
	case planted.Is(planted.ForgetPromise):
		p.Granted = r.Epoch >= f.vow.Promised
		p.Promised, p.LeaseRemaining = r.Epoch, f.LeaseRemaining(now)
		return p
	default:
		p.Granted = f.Raise(r.Epoch)
	}
	p.Promised, p.LeaseRemaining, p.Deaf = f.vow.Promised, f.LeaseRemaining(now), f.Deaf(now)
	p.Silence, _ = f.Silence(now)
	return p
}

// Lead says that this replica is about to lead an epoch, and raises the vow.
// It refuses an epoch that it led in an earlier life, and one below its promise.
func (f *Follower) Lead(epoch base.Epoch) error {
	if epoch < f.vow.Promised {
		return fmt.Errorf("lead epoch %d: epoch %d is promised", epoch, f.vow.Promised)
	}
	if epoch <= f.vow.Led && !planted.Is(planted.LeadTwice) {
		return fmt.Errorf("lead epoch %d: epoch %d was led in an earlier life", epoch, f.vow.Led)
	}
	f.vow = Vow{Promised: epoch, Led: epoch}
	f.following = 0
	return nil
}

package leadership

import (
	"fmt"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/planted"
)

// handover is a switchover seen from the old leader: it admits no new write,
// waits for the target to have everything, and stops.
type handover struct {
	active  bool
	target  base.NodeID
	until   Instant
	drained bool
	last    base.Seq
}

// BeginHandover starts a switchover to a follower that must be level before
// until. From now on the shell admits no write (Status.Draining); it calls
// Drained when the last one is in the log.
func (l *Leader) BeginHandover(now Instant, target base.NodeID, until Instant) error {
	switch f := l.follower(target); {
	case l.stopped:
		return base.Errorf(base.KindNotLeader, "switchover: epoch %d is not led here any more", l.config.Epoch)
	case l.handover.active:
		return base.Errorf(base.KindBusy, "switchover: one to %v is under way", l.handover.target)
	case target == l.config.Self:
		return base.Errorf(base.KindInvalid, "switchover: %v leads already", target)
	case !l.want.Has(target):
		return base.Errorf(base.KindInvalid, "switchover: %v is no replica", target)
	case !l.present(now, f):
		return base.Errorf(base.KindUnavailable, "switchover: %v does not follow just now", target)
	case until <= now:
		return fmt.Errorf("begin handover: no time is given")
	}
	l.handover = handover{active: true, target: target, until: until}
	return nil
}

// Drained says that no write is in progress and the log ends at last.
func (l *Leader) Drained(last base.Seq) {
	if l.handover.active {
		l.handover.drained, l.handover.last = true, last
	}
}

// AbortHandover takes writes again, for instance because the supervisor is
// gone. It reports false when the database is released already.
func (l *Leader) AbortHandover() bool {
	l.handover = handover{}
	return !l.stopped
}

// tickHandover releases the database when all that this epoch wrote is safe
// and on the target's disk, so that every client has its answer and the target
// is as good a choice as any.
func (l *Leader) tickHandover(now Instant, out []Effect) []Effect {
	h := l.handover
	if !h.active {
		return out
	}
	f := l.follower(h.target)
	if planted.Is(planted.HandOverEarly) && f != nil {
		l.stopped, l.released = true, h.last
		l.handover = handover{}
		return append(out, Effect{Kind: Released, Final: h.last, Target: h.target})
	}
	if h.drained && f != nil && f.flushed >= h.last && l.flushed >= h.last && l.safe >= h.last && h.last >= l.config.Opening && l.LeaseLive(now) {
		l.stopped, l.released = true, h.last
		l.handover = handover{}
		return append(out, Effect{Kind: Released, Final: h.last, Target: h.target})
	}
	if now >= h.until {
		l.handover = handover{}
		return append(out, Effect{Kind: HandoverFailed, Target: h.target})
	}
	return out
}

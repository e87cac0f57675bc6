package leadership

import (
	"fmt"

	"github.com/skeindb/skein/internal/base"
)

// EpochStart says at which seq the entries of an epoch begin in a log.
type EpochStart struct {
	Epoch base.Epoch
	Seq   base.Seq
}

// History is the shape of a log: where each epoch that has entries in it
// begins, in rising order of both fields, and where the log ends. Starts are
// kept when the log is trimmed and travel with snapshots; they are few.
type History struct {
	Starts []EpochStart
	Last   base.Position
}

// Validate says what is wrong with h.
func (h History) Validate() error {
	for i, s := range h.Starts {
		if s.Epoch == 0 || s.Seq == 0 {
			return fmt.Errorf("history: epoch %d starts at seq %d", s.Epoch, s.Seq)
		}
		if i > 0 && (s.Epoch <= h.Starts[i-1].Epoch || s.Seq <= h.Starts[i-1].Seq) {
			return fmt.Errorf("history: start %d/%d does not follow %d/%d", s.Epoch, s.Seq, h.Starts[i-1].Epoch, h.Starts[i-1].Seq)
		}
	}
	if len(h.Starts) == 0 {
		if h.Last != (base.Position{}) {
			return fmt.Errorf("history: it ends at %v without a start", h.Last)
		}
		return nil
	}
	if s := h.Starts[len(h.Starts)-1]; s.Epoch != h.Last.Epoch || s.Seq > h.Last.Seq {
		return fmt.Errorf("history: it ends at %v before its last start %d/%d", h.Last, s.Epoch, s.Seq)
	}
	return nil
}

// end is the last seq of the i-th epoch.
func (h History) end(i int) base.Seq {
	if i+1 < len(h.Starts) {
		return h.Starts[i+1].Seq - 1
	}
	return h.Last.Seq
}

// EpochAt returns the epoch of the entry that covers seq, zero when the
// history does not reach it.
func (h History) EpochAt(seq base.Seq) base.Epoch {
	if seq == 0 || seq > h.Last.Seq {
		return 0
	}
	for i := len(h.Starts) - 1; i >= 0; i-- {
		if h.Starts[i].Seq <= seq {
			return h.Starts[i].Epoch
		}
	}
	return 0
}

// Lineage says whether p lies in this history, or ahead of it in its current
// epoch. The empty position lies in every history.
func (h History) Lineage(p base.Position) bool {
	if p == (base.Position{}) {
		return true
	}
	for i, s := range h.Starts {
		if s.Epoch == p.Epoch {
			return p.Seq >= s.Seq && (i == len(h.Starts)-1 || p.Seq <= h.end(i))
		}
	}
	return false
}

// Truncate returns h cut after seq.
func (h History) Truncate(seq base.Seq) History {
	if seq >= h.Last.Seq {
		return h
	}
	cut := History{}
	for _, s := range h.Starts {
		if s.Seq > seq {
			break
		}
		cut.Starts = append(cut.Starts, s)
		cut.Last = base.Position{Epoch: s.Epoch, Seq: seq}
	}
	return cut
}

// Part returns the last position that both histories share: the end of the
// shorter run of the highest epoch that has entries in both. By rule 2 the
// logs agree up to there and nowhere after. The zero Position means that they
// are not known to share anything.
func Part(a, b History) base.Position {
	i, j := len(a.Starts)-1, len(b.Starts)-1
	for i >= 0 && j >= 0 {
		switch x, y := a.Starts[i], b.Starts[j]; {
		case x.Epoch > y.Epoch:
			i--
		case x.Epoch < y.Epoch:
			j--
		case x.Seq != y.Seq: // breaks rule 2: claim nothing
			return base.Position{}
		default:
			return base.Position{Epoch: x.Epoch, Seq: min(a.end(i), b.end(j))}
		}
	}
	return base.Position{}
}

// FollowRequest is how a follower introduces itself to its leader.
type FollowRequest struct {
	Database base.DatabaseID
	// Epoch is that of the leader whom the follower means to follow.
	Epoch base.Epoch
	// Promised is the follower's promised epoch.
	Promised base.Epoch
	// History of its flushed log.
	History History
	// LogStart is the first seq that its own log still holds: it cannot undo
	// below that.
	LogStart base.Seq
	// Fresh says that it has nothing to follow from and needs a snapshot.
	Fresh bool
}

// PlanKind says how following begins.
type PlanKind uint8

// The plans.
const (
	PlanStart    PlanKind = iota + 1 // stream from From
	PlanTruncate                     // undo what comes after To, then ask again
	PlanSnapshot                     // fetch a snapshot; own entries after To are orphans
	PlanFenced                       // the follower knows of a later epoch: the leader must stop
	PlanStale                        // the follower asked for another epoch than the leader's
)

// String names the plan.
func (k PlanKind) String() string {
	switch k {
	case PlanStart:
		return "start"
	case PlanTruncate:
		return "truncate"
	case PlanSnapshot:
		return "snapshot"
	case PlanFenced:
		return "fenced"
	case PlanStale:
		return "stale"
	}
	return fmt.Sprintf("plan %d", uint8(k))
}

// Plan is a leader's answer to a FollowRequest.
type Plan struct {
	Kind PlanKind
	// Epoch of the leader; for PlanFenced the later epoch that the follower
	// knows of.
	Epoch base.Epoch
	From  base.Seq      // PlanStart: the first seq that will be sent
	To    base.Position // PlanTruncate, PlanSnapshot: where the histories part
}

// PlanFollow decides how a follower begins to follow the leader of epoch,
// whose log has a history and begins at logStart.
func PlanFollow(epoch base.Epoch, leader History, logStart base.Seq, r FollowRequest) Plan {
	if later := max(r.Promised, r.History.Last.Epoch); later > epoch {
		return Plan{Kind: PlanFenced, Epoch: later}
	}
	if r.Epoch != epoch {
		return Plan{Kind: PlanStale, Epoch: epoch}
	}
	part := Part(leader, r.History)
	switch {
	case r.Fresh, part.Seq+1 < logStart:
		return Plan{Kind: PlanSnapshot, Epoch: epoch, To: part}
	case part == r.History.Last:
		return Plan{Kind: PlanStart, Epoch: epoch, From: part.Seq + 1}
	case part.Seq+1 < r.LogStart:
		return Plan{Kind: PlanSnapshot, Epoch: epoch, To: part}
	}
	return Plan{Kind: PlanTruncate, Epoch: epoch, To: part}
}

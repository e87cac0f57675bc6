package leadership

import (
	"fmt"
	"slices"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/planted"
)

// Instant is a reading of the caller's monotonic clock in nanoseconds from any
// origin. Zero and negative instants are ordinary.
type Instant int64

// Forever is later than every instant that occurs.
const Forever Instant = 1<<63 - 1

// Add returns the instant d later; Forever stays.
func (i Instant) Add(d time.Duration) Instant {
	if i == Forever {
		return i
	}
	return i + Instant(d)
}

// Sub returns the time from j to i.
func (i Instant) Sub(j Instant) time.Duration { return time.Duration(i - j) }

// Counting is what elections rely on (rule 4 of the package): every
// acknowledged write is on at least Copies of Replicas, and a live lease rests
// on at least Support of them. The control plane records it; only the leader
// of the recorded epoch has it changed, by compare-and-set on Revision.
type Counting struct {
	Revision uint64        `json:"revision"`
	Replicas []base.NodeID `json:"replicas"` // sorted, no duplicates
	Copies   int           `json:"copies"`   // the leader's own included, at least one
	Support  int           `json:"support"`  // the leader's own included, at least one
}

// Count returns the counting that a policy asks for on a set of replicas, with
// revision zero.
func Count(replicas []base.NodeID, p base.Policy) Counting {
	set := slices.Compact(slices.Sorted(slices.Values(replicas)))
	n := len(set)
	return Counting{Replicas: set, Copies: p.Durability.Level.Followers(n) + 1, Support: n/2 + 1}
}

// Has says whether a node counts.
func (c Counting) Has(n base.NodeID) bool { return slices.Contains(c.Replicas, n) }

// Same compares all but the revision.
func (c Counting) Same(d Counting) bool {
	return c.Copies == d.Copies && c.Support == d.Support && slices.Equal(c.Replicas, d.Replicas)
}

// Answers is how many of Replicas must promise before an election can be sure
// to have found every acknowledged write and every live lease.
func (c Counting) Answers() int {
	if planted.Is(planted.ElectTooFew) {
		return 1
	}
	return len(c.Replicas) - min(c.Copies, c.Support) + 1
}

// LeaseAnswers is how many must promise so that no lease can be live, without
// being sure of every write.
func (c Counting) LeaseAnswers() int { return max(1, len(c.Replicas)-c.Support+1) }

// Validate says what is wrong with c.
func (c Counting) Validate() error {
	n := len(c.Replicas)
	switch {
	case n == 0:
		return fmt.Errorf("counting: no replicas")
	case !slices.IsSorted(c.Replicas), len(slices.Compact(slices.Clone(c.Replicas))) != n:
		return fmt.Errorf("counting: replicas are not sorted, or repeat")
	case c.Copies < 1 || c.Copies > n || c.Support < 1 || c.Support > n:
		return fmt.Errorf("counting: copies %d and support %d must be from 1 to %d", c.Copies, c.Support, n)
	}
	return nil
}

// String returns "copies 2 support 2 of [a b c] (revision 4)".
func (c Counting) String() string {
	return fmt.Sprintf("copies %d support %d of %v (revision %d)", c.Copies, c.Support, c.Replicas, c.Revision)
}

package leadership

import "time"

// peak follows the largest of recent samples: it rises at once, and sinks
// towards smaller ones over about memory.
type peak struct {
	value time.Duration
	at    Instant
	known bool
}

func (p *peak) add(now Instant, sample, memory time.Duration) {
	passed := now.Sub(p.at)
	p.at = now
	if !p.known || sample >= p.value || passed >= memory {
		p.value, p.known = sample, true
		return
	}
	p.value -= time.Duration(float64(p.value-sample) * (float64(passed) / float64(memory)))
}

// Rhythm learns how often something is usually heard, and so for how long its
// silence means nothing. The zero value has heard nothing.
type Rhythm struct {
	gaps  peak
	last  Instant
	heard bool
}

// The bounds of what Rhythm learns.
const (
	rhythmMemory = 5 * time.Second
	// away is by how much a silence must exceed the patience to be no part of
	// the rhythm: whoever was away for so long was not just slow.
	awayFactor = 4
)

// Beat is called when it is heard. Patience has these bounds.
func (r *Rhythm) Beat(now Instant, least, most time.Duration) {
	gap := now.Sub(r.last)
	if r.heard && gap < awayFactor*r.Patience(least, most) {
		r.gaps.add(now, gap, rhythmMemory)
	}
	r.last, r.heard = now, true
}

// Patience is two and a half times the longest of the recent pauses, within
// bounds.
func (r *Rhythm) Patience(least, most time.Duration) time.Duration {
	return min(max(r.gaps.value*5/2, least), most)
}

// Silence is for how long nothing was heard; false when nothing ever was.
func (r *Rhythm) Silence(now Instant) (time.Duration, bool) { return now.Sub(r.last), r.heard }

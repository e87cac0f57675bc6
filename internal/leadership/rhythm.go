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
	gaps    peak
	last    Instant
	heard   bool
	excused bool    // the pause that goes on is not learned from
	learns  Instant // not before
	before  peak    // gaps as they were lately
	asOf    Instant // when
}

// The bounds of what Rhythm learns.
const (
	rhythmMemory = 15 * time.Second
	// away is by how much a silence must exceed the patience to be no part of
	// the rhythm: whoever was away for so long was not just slow.
	awayFactor = 4
)

// Beat is called when it is heard. Patience has these bounds.
func (r *Rhythm) Beat(now Instant, least, most time.Duration) {
	if now.Sub(r.asOf) > least {
		r.before, r.asOf = r.gaps, now
	}
	gap, patience := now.Sub(r.last), r.Patience(least, most)
	switch {
	case r.excused && gap > patience:
		r.learns = now.Add(most) // It comes back by and by, as its connections do.
	case r.heard && !r.excused && gap < awayFactor*patience && now >= r.learns:
		r.gaps.add(now, gap, rhythmMemory)
	}
	r.Meet(now)
}

// Meet is called in the place of Beat when it is heard for the first time after
// it had no reason to be heard.
func (r *Rhythm) Meet(now Instant) { r.last, r.heard, r.excused = now, true, false }

// Excuse says that the pause which goes on now, or was over only just now, is
// no part of the rhythm, whatever its length: whoever is silent was away, and
// not slow. It changes nothing about how long the silence has lasted.
func (r *Rhythm) Excuse(now Instant, least time.Duration) {
	if now.Sub(r.asOf) <= 2*least {
		r.gaps = r.before
	}
	r.excused = true
}

// Patience is two and a half times the longest of the recent pauses, within
// bounds.
func (r *Rhythm) Patience(least, most time.Duration) time.Duration {
	return min(max(r.gaps.value*5/2, least), most)
}

// Silence is for how long nothing was heard; false when nothing ever was.
func (r *Rhythm) Silence(now Instant) (time.Duration, bool) { return now.Sub(r.last), r.heard }

package leadership

import "time"

// latenessWindow is how long a message is compared with others: long enough for
// some that came fast, short enough for clocks that run unevenly (200 millionths
// apart, two windows make 24 ms).
const latenessWindow = time.Minute

// Lateness tells how much longer messages of one stream were on their way than
// the fastest of the last minute or two. The clocks of sender and receiver need
// not agree, only run evenly. The zero value is ready.
type Lateness struct {
	current, previous time.Duration // the least difference of the clocks seen in a window
	until             Instant       // when the current window is over
	begun             bool
}

// Of returns the lateness of a message that was stamped by its sender's clock
// and arrives now by the receiver's. Messages come in order.
func (l *Lateness) Of(now, stamp Instant) time.Duration {
	apart := now.Sub(stamp)
	switch {
	case !l.begun:
		*l = Lateness{current: apart, previous: apart, until: now.Add(latenessWindow), begun: true}
	case now >= l.until:
		l.previous, l.current, l.until = l.current, apart, now.Add(latenessWindow)
	}
	l.current = min(l.current, apart)
	return apart - min(l.current, l.previous)
}

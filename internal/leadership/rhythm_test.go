package leadership

import (
	"testing"
	"time"
)

// listened is a Rhythm whose story is told in milliseconds.
type listened struct {
	Rhythm
	t   *testing.T
	now Instant
}

const (
	listenLeast = 100 * time.Millisecond
	listenMost  = 1200 * time.Millisecond
)

func (l *listened) beats(times int, every time.Duration) {
	for range times {
		l.now = l.now.Add(every * time.Millisecond)
		l.Beat(l.now, listenLeast, listenMost)
	}
}

func (l *listened) patience(what string, least, most time.Duration) {
	l.t.Helper()
	if got := l.Patience(listenLeast, listenMost); got < least*time.Millisecond || got > most*time.Millisecond {
		l.t.Errorf("%s: the patience is %v, want %d to %d ms", what, got, least, most)
	}
}

// steady is one that has been heard every 40 ms, but once.
func steady(t *testing.T) *listened {
	l := &listened{t: t}
	l.beats(200, 40)
	l.patience("regular", 100, 100)
	l.beats(1, 110)
	l.patience("a pause", 275, 275)
	return l
}

func TestRhythmOfASlowPeerIsLearned(t *testing.T) {
	l := steady(t)
	l.beats(1, 900)
	l.patience("slower still", 1200, 1200)
	l.beats(2500, 40)
	l.patience("regular again", 100, 110)
	l.beats(1, 900)
	l.patience("away", 100, 110)
}

// A silence that had another end than patience, as the peer was replaced, is no
// slowness: the next one is noticed as soon as this one was.
func TestRhythmOfAPeerThatWasAwayIsNotLearned(t *testing.T) {
	l := steady(t)
	l.now = l.now.Add(500 * time.Millisecond)
	l.Excuse(l.now, listenLeast)
	if silence, heard := l.Silence(l.now); silence != 500*time.Millisecond || !heard {
		t.Errorf("an excused peer is silent for %v, %v", silence, heard)
	}
	l.beats(1, 400)
	l.patience("back", 275, 275)
	// Its connections come back one after the other.
	for _, pause := range []time.Duration{300, 1, 420, 2, 40, 40} {
		l.beats(1, pause)
	}
	l.patience("coming back", 275, 275)
	l.beats(30, 40)
	l.beats(1, 200)
	l.patience("there again", 500, 500)
}

// A process that was frozen itself hears first, and only then why it should not
// have waited.
func TestRhythmIsTakenBackByAnExcuseThatComesLate(t *testing.T) {
	l := steady(t)
	l.beats(1, 900)
	l.beats(3, 1)
	l.patience("just awake", 1190, 1200)
	l.Excuse(l.now, listenLeast)
	l.patience("it was this process", 275, 275)
	l.beats(1, 40)
	l.patience("and on", 270, 275)
}

// What is heard for another reason than before says nothing of the pause.
func TestRhythmBeginsAnewWhenPeersMeet(t *testing.T) {
	l := steady(t)
	l.now = l.now.Add(700 * time.Millisecond)
	l.Meet(l.now)
	l.patience("met", 275, 275)
	l.beats(1, 130)
	l.patience("heard from", 325, 325)
}

package leader

import (
	"context"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
)

// levels are what the leader has said is safe, and when it said so, until this
// replica has applied it.
type levels struct {
	mu    sync.Mutex // guards marks
	marks []levelMark
}

type levelMark struct {
	safe base.Seq
	at   time.Time
}

// maxLevels bounds the marks that are kept; further ones raise the last.
const maxLevels = 256

func (l *levels) announce(safe base.Seq, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.marks)
	switch {
	case n > 0 && l.marks[n-1].safe == safe:
		if at.After(l.marks[n-1].at) {
			l.marks[n-1].at = at
		}
	case n == maxLevels: // Its time is the older one: never too young.
		l.marks[n-1].safe = safe
	default:
		l.marks = append(l.marks, levelMark{safe, at})
	}
}

// reach returns when the leader last said what is applied now.
func (l *levels) reach(applied base.Seq) (at time.Time, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for ; n < len(l.marks) && l.marks[n].safe <= applied; n++ {
		if l.marks[n].at.After(at) {
			at = l.marks[n].at
		}
	}
	l.marks = append(l.marks[:0], l.marks[n:]...)
	return at, n > 0
}

// milestone is a sequence number that rises, and those who wait for it.
type milestone struct {
	// wanted, if set, is told that someone waits.
	wanted func()
	mu     struct {
		sync.Mutex // guards all below
		at         base.Seq
		waiters    []waiter
	}
}

// waiter gets one answer: nil when its number is reached, or why it never will.
type waiter struct {
	seq  base.Seq
	done chan error // buffered
}

// raise moves the milestone forward and wakes those who waited for it.
// It reports whether that changed anything.
func (m *milestone) raise(to base.Seq) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if to <= m.mu.at {
		return false
	}
	m.mu.at = to
	m.wakeLocked(nil)
	return true
}

// cut moves it back, after a cut tail or a copied file, and fails everyone who
// waits for more: what they saw belongs to a history that is gone.
func (m *milestone) cut(to base.Seq, why error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.at = to
	m.wakeLocked(why)
}

// wakeLocked answers the waiters that are reached and, if why is not nil, the
// others with it.
func (m *milestone) wakeLocked(why error) {
	kept := m.mu.waiters[:0]
	for _, w := range m.mu.waiters {
		switch {
		case w.seq <= m.mu.at:
			w.done <- nil
		case why != nil:
			w.done <- why
		default:
			kept = append(kept, w)
		}
	}
	clear(m.mu.waiters[len(kept):])
	m.mu.waiters = kept
}

// awaited says whether anyone waits.
func (m *milestone) awaited() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.mu.waiters) > 0
}

func (m *milestone) get() base.Seq {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.at
}

// wait returns nil once the milestone is at least seq, why it was cut when that
// comes first, or ctx's cause.
func (m *milestone) wait(ctx context.Context, seq base.Seq) error {
	m.mu.Lock()
	if m.mu.at >= seq {
		m.mu.Unlock()
		return nil
	}
	w := waiter{seq: seq, done: make(chan error, 1)}
	m.mu.waiters = append(m.mu.waiters, w)
	m.mu.Unlock()
	if m.wanted != nil {
		m.wanted()
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		m.forget(w)
		return context.Cause(ctx)
	}
}

func (m *milestone) forget(w waiter) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, x := range m.mu.waiters {
		if x.done == w.done {
			last := len(m.mu.waiters) - 1
			m.mu.waiters[i] = m.mu.waiters[last]
			m.mu.waiters[last] = waiter{}
			m.mu.waiters = m.mu.waiters[:last]
			return
		}
	}
}

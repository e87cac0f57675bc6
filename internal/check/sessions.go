package check

import (
	"fmt"
	"slices"

	"github.com/skeindb/skein/internal/base"
)

// Sessions finds reads that lack what their session had written (read your
// writes) or read before (monotonic reads), or what came before something that
// it has seen (consistent prefix, across keys as well), and sessions whose
// positions go back, and bounded reads that are older than their bound. Reads of
// level any promise no more than that each is one snapshot. Keys with
// asynchronous writes are left out.
func Sessions(h *History) []Finding {
	l, found := newLists(h)
	s := &sessions{lists: l, past: make([]versions, len(h.Ops)), last: map[string]int{}, wrote: map[string]versions{}, read: map[string]versions{}, unseen: map[string][]element{}}
	for _, o := range inOrder(h) {
		if !o.Done() {
			continue
		}
		found = append(found, s.judge(o)...)
	}
	found = append(found, goesBack(h)...)
	found = append(found, l.snapshots()...)
	return append(found, l.stale()...)
}

// versions are how many values of each key, by the key's number, are in
// somebody's past: what it must see, at the least.
type versions []int32

func (v versions) add(key, n int) { v[key] = max(v[key], int32(n)) }

// of is for those that may have none.
func (v versions) of(key int) int {
	if v == nil {
		return 0
	}
	return int(v[key])
}

func (v versions) merge(w versions) {
	for i, n := range w {
		v[i] = max(v[i], n)
	}
}

// sessions goes through a history.
type sessions struct {
	*lists
	// past is each operation's own: what whoever sees it must see as well.
	past []versions
	// last is each session's operation before.
	last map[string]int
	// wrote and read are what each session wrote and read.
	wrote, read map[string]versions
	// unseen are the acknowledged appends of each session that nobody saw.
	unseen map[string][]element
}

func (s *sessions) none() versions { return make(versions, len(s.keys)) }

// judge compares what an operation saw with what it had to see, and keeps what
// follows from it.
func (s *sessions) judge(o *Op) (found []Finding) {
	saw := external(o)
	must := s.none()
	if before, ok := s.last[o.session()]; ok && o.ofSession() {
		must.merge(s.past[before])
	}
	for _, list := range s.sources(saw) {
		must.merge(s.pastOf(list))
	}
	for _, key := range sortedKeys(saw) {
		n, least := len(saw[key]), int(must[s.number[key]])
		if !s.async[key] && n < least && n < len(s.order[key]) && isPrefix(saw[key], s.order[key]) {
			found = append(found, s.lacks(o, key, n, least))
		}
	}
	if o.ofSession() {
		found = append(found, s.lacksUnseen(o, saw)...)
		s.note(o, saw)
	}
	return found
}

// lacksUnseen is judge for writes of the session that not even others saw.
func (s *sessions) lacksUnseen(o *Op, saw map[string][]int64) (found []Finding) {
	for _, e := range s.unseen[o.session()] {
		if _, reads := saw[e.key]; reads && !s.async[e.key] {
			found = append(found, Finding{Check: "read your writes", Ops: []int{s.by[e], o.ID},
				Text: fmt.Sprintf("op %d does not see the %d that its session %s had appended to %s", o.ID, e.value, o.session(), e.key)})
		}
	}
	return found
}

// sources are who appended the last values that were seen.
func (s *sessions) sources(saw map[string][]int64) (ids []int) {
	for _, key := range sortedKeys(saw) {
		if n := len(saw[key]); n > 0 {
			if w := s.writer(key, saw[key][n-1]); w >= 0 {
				ids = append(ids, w)
			}
		}
	}
	return ids
}

// pastOf finds out an operation's past: what it read and wrote, and the past of
// whom it read from and wrote after.
func (s *sessions) pastOf(id int) versions {
	if s.past[id] != nil {
		return s.past[id]
	}
	past := s.none()
	s.past[id] = past // Guards against cycles, which Cycles reports.
	o := &s.h.Ops[id]
	saw := external(o)
	before := s.sources(saw)
	for key, list := range saw {
		past.add(s.number[key], len(list))
	}
	for key, values := range appended(o) {
		first, seen := s.place[element{key, values[0]}]
		if !seen {
			continue
		}
		past.add(s.number[key], first+len(values))
		if first > 0 {
			before = append(before, s.writer(key, s.order[key][first-1]))
		}
	}
	for _, w := range before {
		if w >= 0 {
			past.merge(s.pastOf(w))
		}
	}
	return past
}

// note keeps an operation for those that follow it in its session.
func (s *sessions) note(o *Op, saw map[string][]int64) {
	name := o.session()
	past := s.pastOf(o.ID)
	if before, ok := s.last[name]; ok {
		past.merge(s.past[before])
	}
	s.last[name] = o.ID
	if s.wrote[name] == nil {
		s.wrote[name], s.read[name] = s.none(), s.none()
	}
	for key, list := range saw {
		s.read[name].add(s.number[key], len(list))
	}
	wrote := appended(o)
	for _, key := range sortedKeys(wrote) {
		values := wrote[key]
		if at, seen := s.place[element{key, values[len(values)-1]}]; seen {
			s.wrote[name].add(s.number[key], at+1)
		} else {
			s.unseen[name] = append(s.unseen[name], element{key, values[len(values)-1]})
		}
	}
}

// lacks names the promise that a read breaks: it saw n values of a key, and had
// to see more.
func (s *sessions) lacks(o *Op, key string, n, must int) Finding {
	name, number := o.session(), s.number[key]
	wrote, read := s.wrote[name].of(number), s.read[name].of(number)
	missing := s.writer(key, s.order[key][n])
	after := s.cause(o, number, n)
	f := Finding{Check: "consistent prefix", Ops: []int{missing, after, o.ID},
		Text: fmt.Sprintf("op %d does not see what op %d appended to %s, and it comes after op %d, which had it in its past", o.ID, missing, key, after)}
	switch {
	case o.ofSession() && wrote > n:
		f.Check, f.Text = "read your writes", fmt.Sprintf("op %d does not see what its session %s had written to %s", o.ID, name, key)
		f.Ops = []int{s.writer(key, s.order[key][wrote-1]), o.ID}
	case o.ofSession() && read > n:
		f.Check, f.Text = "monotonic reads", fmt.Sprintf("op %d sees %d values of %s, of which its session %s had seen %d", o.ID, n, key, name, read)
		f.Ops = []int{missing, o.ID}
	}
	f.Ops = slices.DeleteFunc(f.Ops, func(id int) bool { return id < 0 }) // Nobody wrote it, which Writes reports.
	return f
}

// cause is the operation that an operation comes after and that has more than n
// values of a key in its past.
func (s *sessions) cause(o *Op, number, n int) int {
	for _, w := range s.sources(external(o)) {
		if int(s.pastOf(w)[number]) > n {
			return w
		}
	}
	return s.last[o.session()]
}

// goesBack finds sessions whose snapshots go back.
func goesBack(h *History) (found []Finding) {
	last := map[string]*Op{}
	for _, o := range inOrder(h) {
		if !o.Done() || !o.ofSession() || o.Position == (base.Position{}) {
			continue
		}
		name := o.session()
		if before := last[name]; before != nil && o.Position.Less(before.Position) {
			found = append(found, Finding{Check: "session goes back", Ops: []int{before.ID, o.ID},
				Text: fmt.Sprintf("session %s was at %s and then at %s", name, before.Position, o.Position)})
			continue
		}
		last[name] = o
	}
	return found
}

// snapshots finds reads that lack an acknowledged write of a position at or
// before their own, or have one of a later.
func (l *lists) snapshots() (found []Finding) {
	for i := range l.h.Ops {
		o := &l.h.Ops[i]
		if !o.Done() || o.Writes() || o.Position == (base.Position{}) {
			continue
		}
		saw := external(o)
		for _, key := range sortedKeys(saw) {
			n := len(saw[key])
			if l.async[key] || !isPrefix(saw[key], l.order[key]) {
				continue
			}
			if n > 0 {
				if w := l.at(key, n-1); w != nil && o.Position.Less(w.Position) {
					found = append(found, Finding{Check: "snapshot", Ops: []int{w.ID, o.ID},
						Text: fmt.Sprintf("op %d read at %s and sees in %s what was written at %s", o.ID, o.Position, key, w.Position)})
				}
			}
			if n < len(l.order[key]) {
				if w := l.at(key, n); w != nil && !o.Position.Less(w.Position) {
					found = append(found, Finding{Check: "snapshot", Ops: []int{w.ID, o.ID},
						Text: fmt.Sprintf("op %d read at %s and does not see in %s what was written at %s", o.ID, o.Position, key, w.Position)})
				}
			}
		}
	}
	return found
}

// at is the acknowledged write of known position of a key's i-th value.
func (l *lists) at(key string, i int) *Op {
	if w := l.writer(key, l.order[key][i]); w >= 0 && l.h.Ops[w].Done() && l.h.Ops[w].Position != (base.Position{}) {
		return &l.h.Ops[w]
	}
	return nil
}

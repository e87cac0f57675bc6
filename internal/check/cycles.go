package check

import (
	"fmt"
	"slices"

	"github.com/skeindb/skein/internal/base"
)

// Cycles judges transactions on lists. The order in which a key's values were
// appended is seen from its longest read; from it follows which operation must
// come before which, and there must be no cycle. Adya's names are used:
//
//	incompatible order  two reads of a key of which neither begins the other
//	internal            a transaction contradicts itself
//	G1a                 an aborted append was read
//	G1b                 a transaction's appends were read before its last
//	lost update         two read the same version and both appended to it
//	G0                  a cycle of appends alone
//	G1c                 one of appends and reads
//	G-single            one with one read that did not see an append
//	G2                  one with several, write skew among them
//
// With "-session" or "-realtime" the cycle needs the order within a session, or
// of the clock: it is serializable, but a client can tell. Keys with
// asynchronous writes are left out.
func Cycles(h *History) []Finding {
	l, found := newLists(h)
	found = append(found, l.incompatible()...)
	for i := range h.Ops {
		if o := &h.Ops[i]; o.Done() {
			found = append(found, l.internal(o)...)
			found = append(found, l.aborted(o)...)
			found = append(found, l.intermediate(o)...)
		}
	}
	c := &cycles{graph: newGraph(l)}
	c.found = append(found, c.lostUpdates(l)...)
	for _, s := range searches {
		for _, members := range c.components(s.first | s.rest) {
			c.search(s, members)
		}
	}
	return c.found
}

// incompatible finds reads that do not begin the longest read of their key.
func (l *lists) incompatible() (found []Finding) {
	for i := range l.h.Ops {
		o := &l.h.Ops[i]
		for _, a := range o.Acts {
			if !o.Done() || a.Kind != Read || !a.Known || l.async[a.Key] || isPrefix(a.Saw, l.order[a.Key]) {
				continue
			}
			found = append(found, Finding{Check: "incompatible order", Ops: []int{o.ID, l.longest[a.Key]},
				Text: fmt.Sprintf("neither of two reads of %s begins the other", a.Key)})
			break
		}
	}
	return found
}

// internal finds operations whose reads disagree with what they read and
// appended themselves: a transaction reads one snapshot and its own writes.
func (l *lists) internal(o *Op) (found []Finding) {
	expected, tail := map[string][]int64{}, map[string][]int64{}
	for _, a := range o.Acts {
		switch {
		case a.Kind == Append:
			if list, read := expected[a.Key]; read {
				expected[a.Key] = append(slices.Clone(list), a.Value)
			}
			tail[a.Key] = append(tail[a.Key], a.Value)
		case a.Kind == Read && a.Known:
			list, read := expected[a.Key]
			own := tail[a.Key]
			if read && !slices.Equal(list, a.Saw) || len(own) > len(a.Saw) || !slices.Equal(own, a.Saw[len(a.Saw)-len(own):]) {
				found = append(found, Finding{Check: "internal", Ops: []int{o.ID},
					Text: fmt.Sprintf("op %d reads %v in %s, which contradicts its own acts before", o.ID, a.Saw, a.Key)})
			}
			expected[a.Key] = a.Saw
		}
	}
	return found
}

func (l *lists) aborted(o *Op) (found []Finding) {
	for _, a := range o.Acts {
		if a.Kind != Read || !a.Known {
			continue
		}
		for _, v := range a.Saw {
			if w := l.writer(a.Key, v); w >= 0 && l.h.Ops[w].Outcome == base.NotDone {
				found = append(found, Finding{Check: "G1a", Ops: []int{w, o.ID},
					Text: fmt.Sprintf("op %d read the %d in %s that op %d appended and did not commit", o.ID, v, a.Key, w)})
			}
		}
	}
	return found
}

// intermediate looks at the last writer in what was read: the others' appends
// are followed by another's.
func (l *lists) intermediate(o *Op) (found []Finding) {
	saw := external(o)
	for _, key := range sortedKeys(saw) {
		list := saw[key]
		if len(list) == 0 {
			continue
		}
		w := l.writer(key, list[len(list)-1])
		if w < 0 || w == o.ID {
			continue
		}
		if all := appended(&l.h.Ops[w])[key]; all[len(all)-1] != list[len(list)-1] {
			found = append(found, Finding{Check: "G1b", Ops: []int{w, o.ID},
				Text: fmt.Sprintf("op %d read %d in %s, which was not the last that op %d appended to it", o.ID, list[len(list)-1], key, w)})
		}
	}
	return found
}

// cycles is one search for cycles.
type cycles struct {
	*graph
	found []Finding
	told  [][]int // operations of the cycles that were found
}

// lostUpdates finds pairs that read the same version of a key and both
// appended to it.
func (c *cycles) lostUpdates(l *lists) (found []Finding) {
	type version struct {
		key    string
		length int
	}
	first := map[version]int{}
	for i := range c.h.Ops {
		o := &c.h.Ops[i]
		if !o.Done() {
			continue
		}
		saw, wrote := external(o), appended(o)
		for _, key := range sortedKeys(saw) {
			if wrote[key] == nil || l.async[key] || !isPrefix(saw[key], l.order[key]) {
				continue
			}
			v := version{key, len(saw[key])}
			other, taken := first[v]
			if !taken {
				first[v] = i
				continue
			}
			found = append(found, Finding{Check: "lost update", Ops: []int{other, i},
				Text: fmt.Sprintf("ops %d and %d both read %v in %s and appended to it", other, i, saw[key], key)})
			c.told = append(c.told, []int{other, i})
		}
	}
	return found
}

// search is for cycles of one arc of the first set, where it is not empty, and
// otherwise of the rest.
type search struct{ first, rest dependency }

// searches go from what is worst to what takes the most to see.
var searches = []search{
	{0, ww}, {0, ww | wr}, {rw, ww | wr}, {0, ww | wr | rw},
	{0, ww | wr | session}, {rw, ww | wr | session}, {0, ww | wr | rw | session},
	{0, ww | wr | session | realtime}, {rw, ww | wr | session | realtime}, {0, ww | wr | rw | session | realtime},
}

// maxStarts bounds how many operations of a component a cycle is looked for
// from.
const maxStarts = 300

// search reports the shortest cycle of a component, unless one that is reported
// already lies within it.
func (c *cycles) search(s search, members []int) {
	within := map[int]bool{}
	for _, m := range members {
		within[m] = true
	}
	for _, told := range c.told {
		if !slices.ContainsFunc(told, func(op int) bool { return !within[op] }) {
			return
		}
	}
	var best []Edge
	keep := func(edges []Edge) {
		if edges != nil && (best == nil || len(edges) < len(best)) {
			best = edges
		}
	}
	for _, m := range members[:min(len(members), maxStarts)] {
		if s.first == 0 {
			keep(c.path(m, m, s.rest, within))
			continue
		}
		for _, a := range c.arcs[m] {
			if a.why&s.first == 0 || !within[a.to] {
				continue
			}
			if back := c.path(a.to, m, s.rest, within); back != nil {
				keep(append([]Edge{c.edge(m, a)}, back...))
			}
		}
	}
	if best == nil {
		return
	}
	f := Finding{Check: nameOf(best), Edges: best}
	for _, e := range best {
		f.Ops = append(f.Ops, e.From)
	}
	f.Text = fmt.Sprintf("%d operations each come before the next, and the last before the first", len(best))
	c.told = append(c.told, f.Ops)
	c.found = append(c.found, f)
}

// nameOf classifies a cycle.
func nameOf(edges []Edge) string {
	count := map[dependency]int{}
	for _, e := range edges {
		count[e.kind]++
	}
	name := "G2"
	switch {
	case count[rw] == 1:
		name = "G-single"
	case count[rw] == 0 && count[wr] > 0:
		name = "G1c"
	case count[rw] == 0:
		name = "G0"
	}
	switch {
	case count[realtime] > 0:
		return name + "-realtime"
	case count[session] > 0:
		return name + "-session"
	}
	return name
}

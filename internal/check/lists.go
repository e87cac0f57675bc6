package check

import (
	"fmt"
	"slices"

	"github.com/skeindb/skein/internal/base"
)

// element is one value of one list.
type element struct {
	key   string
	value int64
}

// lists is what a history says of its lists, looked up in many ways.
type lists struct {
	h *History
	// by is the operation that appended an element.
	by map[element]int
	// order is each key's versions: the longest list that was read of it.
	order map[string][]int64
	// longest is the operation that read it.
	longest map[string]int
	// place is an element's index in its key's order.
	place map[element]int
	// unseen are the acknowledged values that nobody saw. If they are not
	// lost, they come after all that was read.
	unseen map[string][]int64
	// final says which keys were read in the end.
	final map[string]bool
	// appended are keys that somebody tried to append to: of others, which were
	// only read, nothing can be lost.
	appended map[string]bool
	// async are keys that were written with a durability that may lose.
	async map[string]bool
	// keys are all of them, sorted, and number their indices.
	keys   []string
	number map[string]int
}

// newLists looks through a history. The error is the recorder's fault.
func newLists(h *History) (*lists, []Finding) {
	l := &lists{
		h: h, by: map[element]int{}, order: map[string][]int64{}, longest: map[string]int{}, place: map[element]int{},
		final: map[string]bool{}, appended: map[string]bool{}, async: map[string]bool{}, number: map[string]int{},
		unseen: map[string][]int64{},
	}
	var wrong []Finding
	for i := range h.Ops {
		o := &h.Ops[i]
		for _, a := range o.Acts {
			switch a.Kind {
			case Append:
				e := element{a.Key, a.Value}
				if other, twice := l.by[e]; twice {
					wrong = append(wrong, Finding{Check: "history", Ops: []int{other, o.ID},
						Text: fmt.Sprintf("%d was appended twice to %s: the checkers need values that differ", a.Value, a.Key)})
				}
				l.by[e], l.appended[a.Key] = o.ID, true
				l.async[a.Key] = l.async[a.Key] || o.Durability == base.Async
				l.see(a.Key, nil, o.ID)
			case Read:
				if a.Known && o.Done() {
					l.see(a.Key, a.Saw, o.ID)
					l.final[a.Key] = l.final[a.Key] || o.Final
				}
			}
		}
	}
	for key, values := range l.order {
		for i, v := range values {
			l.place[element{key, v}] = i
		}
	}
	for i := range h.Ops {
		for _, a := range h.Ops[i].Acts {
			if _, seen := l.place[element{a.Key, a.Value}]; a.Kind == Append && h.Ops[i].Done() && !seen {
				l.unseen[a.Key] = append(l.unseen[a.Key], a.Value)
			}
		}
	}
	l.keys = sortedKeys(l.order)
	for i, key := range l.keys {
		l.number[key] = i
	}
	return l, wrong
}

func (l *lists) see(key string, values []int64, id int) {
	if old, known := l.order[key]; !known || len(values) > len(old) {
		l.order[key], l.longest[key] = values, id
	}
}

// committed says whether an operation's appends took place: the client was
// told so, or somebody saw one.
func (l *lists) committed(o *Op) bool {
	return o.Done() || o.Outcome == base.Indeterminate && slices.ContainsFunc(o.Acts, func(a Act) bool {
		_, seen := l.place[element{a.Key, a.Value}]
		return a.Kind == Append && seen
	})
}

// external is what an operation read of the state before it: per key the first
// read, without what the operation itself had appended.
func external(o *Op) map[string][]int64 {
	saw := map[string][]int64{}
	own := map[string]int{}
	for _, a := range o.Acts {
		switch {
		case a.Kind == Append:
			own[a.Key]++
		case a.Kind == Read && a.Known:
			if _, before := saw[a.Key]; !before {
				saw[a.Key] = a.Saw[:max(0, len(a.Saw)-own[a.Key])]
			}
		}
	}
	return saw
}

// appended is what an operation appended to each key, in order.
func appended(o *Op) map[string][]int64 {
	values := map[string][]int64{}
	for _, a := range o.Acts {
		if a.Kind == Append {
			values[a.Key] = append(values[a.Key], a.Value)
		}
	}
	return values
}

// isPrefix says whether a is the beginning of b.
func isPrefix(a, b []int64) bool { return len(a) <= len(b) && slices.Equal(a, b[:len(a)]) }

package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Part is the history of one database of several.
type Part struct {
	Name    string
	History *History
}

// Together returns one history of all that sessions did which worked in several
// databases, and of who else used the same keys. A key has its database's name in
// front: "main/x". All parts are of one run, by one clock.
func Together(parts []Part) *History {
	keys := wandered(parts)
	together := new(History)
	for _, p := range parts {
		for i := range p.History.Ops {
			o := p.History.Ops[i]
			acts := o.Acts
			o.Acts = nil
			for _, a := range acts {
				if keys[a.Key] {
					o.Acts = append(o.Acts, a.in(p.Name))
				}
			}
			if len(o.Acts) > 0 {
				together.Ops = append(together.Ops, o)
			}
		}
		for _, l := range p.History.Losses {
			undone := l.Undone
			l.Undone = nil
			for _, u := range undone {
				if keys[u.Act.Key] {
					l.Undone = append(l.Undone, Undone{u.Act.in(p.Name), u.Position})
				}
			}
			l.Node = p.Name + "/" + l.Node
			together.Losses = append(together.Losses, l)
		}
	}
	slices.SortStableFunc(together.Ops, func(a, b Op) int {
		return cmp.Or(cmp.Compare(a.Invoke, b.Invoke), cmp.Compare(a.Return, b.Return))
	})
	for i := range together.Ops {
		together.Ops[i].ID = i
	}
	return together
}

// wandered are the keys that sessions used which worked in several databases.
func wandered(parts []Part) map[string]bool {
	in, wanders := map[string]string{}, map[string]bool{}
	each := func(f func(part string, o *Op)) {
		for _, p := range parts {
			for i := range p.History.Ops {
				f(p.Name, &p.History.Ops[i])
			}
		}
	}
	each(func(part string, o *Op) {
		if first, known := in[o.session()]; known && first != part {
			wanders[o.session()] = true
		}
		in[o.session()] = part
	})
	keys := map[string]bool{}
	each(func(_ string, o *Op) {
		for _, a := range o.Acts {
			keys[a.Key] = keys[a.Key] || wanders[o.session()] && !o.Final
		}
	})
	return keys
}

// in is the act with its database's name in its key.
func (a Act) in(database string) Act {
	a.Key = database + "/" + a.Key
	return a
}

// databaseOf is the name in front of a key of several databases.
func databaseOf(key string) string {
	name, _, _ := strings.Cut(key, "/")
	return name
}

// Across finds answers that were seen without their questions: reads that lack
// what the writer of something that their session has seen before had seen in
// another database. It wants a history of several databases (Together). Reads of
// level any promise nothing. What a database has lost that may lose something, and
// has reported, is nobody's to see.
//
// What a session itself has seen and written is for Sessions to judge.
func Across(h *History) (q Questions, found []Finding) {
	l, found := newLists(h)
	a := &across{lists: l, kept: l.keepers(), sessions: map[string]heard{}, brought: make([]heard, len(h.Ops))}
	a.undone, _ = l.reports()
	for _, e := range a.moments() {
		if e.ends {
			found = append(found, a.judge(e.op)...)
			continue
		}
		if e.op.Writes() {
			a.brought[e.op.ID] = maps.Clone(a.sessions[e.op.session()])
		}
	}
	return a.Questions, found
}

// Questions are how many reads went to where a question was asked that their session
// knew of by an answer only: where there is none, nothing was tried.
type Questions struct {
	Met  int // that saw it
	Lost int // that did not, and it is lost where that is allowed
}

// heard are elements that are in somebody's past, and the operation by which
// they came there.
type heard map[element]int

// across goes through a history of several databases.
type across struct {
	*lists
	undone map[element]report
	kept   map[element]int
	// sessions are what each session has seen or heard of.
	sessions map[string]heard
	// brought is that of each write's session when the write began.
	brought []heard
	Questions
}

// moment is when an operation begins or ends.
type moment struct {
	at   time.Duration
	ends bool
	op   *Op
}

// moments are in the order of time; at the same instant, operations begin before
// others end.
func (a *across) moments() (list []moment) {
	for _, o := range inOrder(a.h) {
		if o.Final || !o.ofSession() {
			continue
		}
		if list = append(list, moment{o.Invoke, false, o}); o.Done() {
			list = append(list, moment{o.Return, true, o})
		}
	}
	slices.SortStableFunc(list, func(x, y moment) int { return cmp.Compare(x.at, y.at) })
	return list
}

// judge compares what an operation read with what its session had heard of, and
// keeps what it saw and what came with that.
func (a *across) judge(o *Op) (found []Finding) {
	past := a.sessions[o.session()]
	if past == nil {
		past = heard{}
		a.sessions[o.session()] = past
	}
	for _, act := range o.Acts {
		if act.Kind != Read || !act.Known {
			continue
		}
		if lacks := a.compare(past, act); lacks != nil {
			found = append(found, a.lacks(o, *lacks, past[*lacks]))
		}
	}
	for _, act := range o.Acts {
		switch {
		case act.Kind == Append:
			past[element{act.Key, act.Value}] = o.ID
		case act.Kind == Read && act.Known:
			for _, v := range act.Saw {
				a.see(past, o, element{act.Key, v})
			}
		}
	}
	if o.Writes() && o.reads() {
		a.brought[o.ID] = maps.Clone(past) // What a transaction has read, its writes bring along.
	}
	return found
}

// see adds an element, and what its writer's session had in its past, to another.
func (a *across) see(past heard, o *Op, e element) {
	if own, known := past[e]; known && own == o.ID {
		return
	}
	past[e] = o.ID // Whatever was heard of it, now it has been seen.
	writer, known := a.by[e]
	if !known {
		return
	}
	for f := range a.brought[writer] {
		if _, known := past[f]; !known {
			past[f] = writer
		}
	}
}

// compare returns the least value that a session had heard of and that a read
// does not see, nil for none, and counts the read.
func (a *across) compare(past heard, act Act) (lacks *element) {
	met, lost := 0, 0
	for e, by := range past {
		switch {
		case e.key != act.Key || a.own(e, by):
		case slices.Contains(act.Saw, e.value):
			met = 1
		case a.lost(e):
			lost = 1
		case lacks == nil || e.value < lacks.value:
			lacks = &e
		}
	}
	a.Met, a.Lost = a.Met+met, a.Lost+lost
	return lacks
}

// own says that it was the session itself that saw or wrote an element, by an
// operation on it.
func (a *across) own(e element, by int) bool {
	return slices.ContainsFunc(a.h.Ops[by].Acts, func(act Act) bool {
		return act.Key == e.key && (act.Value == e.value || slices.Contains(act.Saw, e.value))
	})
}

// lost says that an element may be gone: its database may lose something, and says
// that it has undone it. Of what was never acknowledged it need not say so.
func (a *across) lost(e element) bool {
	if !a.async[e.key] {
		return false
	}
	_, kept := a.kept[e]
	_, undone := a.undone[e]
	writer, known := a.by[e]
	return undone || !kept && known && !a.h.Ops[writer].Done() || slices.ContainsFunc(a.h.Losses, func(l Loss) bool {
		return l.Unnamed && databaseOf(l.Node) == databaseOf(e.key)
	})
}

func (a *across) lacks(o *Op, e element, answer int) Finding {
	f := Finding{Check: "answer without its question", Ops: []int{answer, o.ID},
		Text: fmt.Sprintf("op %d does not see the %d in %s, and its session %s had seen what op %d wrote, whose session had seen that", o.ID, e.value, e.key, o.session(), answer)}
	if asked, known := a.by[e]; known {
		f.Ops = slices.Insert(f.Ops, 0, asked)
	}
	return f
}

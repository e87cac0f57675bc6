package check

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/skeindb/skein/internal/base"
)

// dependency is why one operation comes before another.
type dependency uint8

// The dependencies, each a bit, so that several make a set.
const (
	ww       dependency = 1 << iota // its append follows in the list
	wr                              // it read the append
	rw                              // its read did not see the append
	session                         // the session issued it afterwards
	realtime                        // it began after the other had returned, and must be current
)

var dependencyNames = map[dependency]string{ww: "ww", wr: "wr", rw: "rw", session: "session", realtime: "realtime"}

// arc is an edge of the graph of operations.
type arc struct {
	to  int
	why dependency
	// key and value say what a ww, wr or rw is about: the element of the later
	// write, or the one that was read.
	key   string
	value int64
}

// graph holds what must come before what.
type graph struct {
	h    *History
	arcs [][]arc // by operation
}

// newGraph finds every dependency between the committed operations of a
// history, but for keys that may lose writes.
func newGraph(l *lists) *graph {
	g := &graph{h: l.h, arcs: make([][]arc, len(l.h.Ops))}
	for _, key := range l.keys {
		if l.async[key] {
			continue
		}
		values := l.order[key]
		for i := 1; i < len(values); i++ {
			g.add(l.writer(key, values[i-1]), ww, l.writer(key, values[i]), key, values[i])
		}
	}
	for i := range l.h.Ops {
		if o := &l.h.Ops[i]; o.Done() {
			g.reads(l, o)
		}
	}
	g.sessions()
	g.realtime(l)
	return g
}

// writer of an element, -1 if nobody wrote it.
func (l *lists) writer(key string, v int64) int {
	if id, ok := l.by[element{key, v}]; ok {
		return id
	}
	return -1
}

func (g *graph) add(from int, why dependency, to int, key string, value int64) {
	if from >= 0 && to >= 0 && from != to {
		g.arcs[from] = append(g.arcs[from], arc{to, why, key, value})
	}
}

// reads adds what an operation's reads say: it comes after who wrote the last
// element that it saw, and before who wrote the next.
func (g *graph) reads(l *lists, o *Op) {
	saw := external(o)
	for _, key := range sortedKeys(saw) {
		list, order := saw[key], l.order[key]
		if l.async[key] || !isPrefix(list, order) {
			continue // The second is a finding of its own.
		}
		if n := len(list); n > 0 {
			g.add(l.writer(key, list[n-1]), wr, o.ID, key, list[n-1])
		}
		// Its own appends may be what comes next; they are no contradiction,
		// and the first of another's is after them.
		if n := len(list); n < len(order) {
			g.add(o.ID, rw, l.writer(key, order[n]), key, order[n])
			continue
		}
		for _, v := range l.unseen[key] {
			g.add(o.ID, rw, l.writer(key, v), key, v)
		}
	}
}

// sessions adds the order of each session, in which what need not be current
// with the session has no place.
func (g *graph) sessions() {
	last := map[string]int{}
	for _, o := range inOrder(g.h) {
		if !o.Done() || !o.ofSession() {
			continue
		}
		if before, ok := last[o.session()]; ok {
			g.add(before, session, o.ID, "", 0)
		}
		last[o.session()] = o.ID
	}
}

// ofSession says whether an operation is under its session's guarantees.
func (o *Op) ofSession() bool { return o.Level != "any" || o.Writes() }

// inOrder returns the operations as they began.
func inOrder(h *History) []*Op {
	list := make([]*Op, len(h.Ops))
	for i := range h.Ops {
		list[i] = &h.Ops[i]
	}
	slices.SortStableFunc(list, func(a, b *Op) int { return cmp.Compare(a.Invoke, b.Invoke) })
	return list
}

// realtime adds the order of the clock towards operations that must be
// current. An operation is in the frontier from its return until another has
// returned that began after it, and so speaks for it.
func (g *graph) realtime(l *lists) {
	began := inOrder(g.h)
	ended := slices.DeleteFunc(slices.Clone(began), func(o *Op) bool { return !o.Done() })
	slices.SortStableFunc(ended, func(a, b *Op) int { return cmp.Compare(a.Return, b.Return) })
	var frontier []*Op
	for _, o := range began {
		for len(ended) > 0 && ended[0].Return < o.Invoke {
			e := ended[0]
			ended = ended[1:]
			if e.current() {
				frontier = slices.DeleteFunc(frontier, func(f *Op) bool { return f.Return < e.Invoke })
			}
			frontier = append(frontier, e)
		}
		if o.current() && o.Outcome != base.NotDone && (o.Done() || l.committed(o)) {
			for _, f := range frontier {
				g.add(f.ID, realtime, o.ID, "", 0)
			}
		}
	}
}

// edge tells an arc to a person.
func (g *graph) edge(from int, a arc) Edge {
	e := Edge{From: from, To: a.to, Why: dependencyNames[a.why], kind: a.why}
	switch a.why {
	case ww:
		e.Why += fmt.Sprintf(" %s: %d appended %d after what %d had appended", a.key, a.to, a.value, from)
	case wr:
		e.Why += fmt.Sprintf(" %s: %d read the %d that %d appended", a.key, a.to, a.value, from)
	case rw:
		e.Why += fmt.Sprintf(" %s: %d did not see the %d that %d appended", a.key, from, a.value, a.to)
	case session:
		e.Why += fmt.Sprintf(" %s: %d came after %d", g.h.Ops[from].session(), a.to, from)
	case realtime:
		e.Why += fmt.Sprintf(": %d began at %v, after %d had returned at %v", a.to, g.h.Ops[a.to].Invoke, from, g.h.Ops[from].Return)
	}
	return e
}

// components returns the strongly connected components of more than one
// operation, of the arcs in a set.
func (g *graph) components(set dependency) [][]int {
	t := &tarjan{g: g, set: set, index: make([]int, len(g.arcs)), low: make([]int, len(g.arcs)), on: make([]bool, len(g.arcs))}
	for root := range g.arcs {
		if t.index[root] == 0 {
			t.visit(root)
		}
	}
	slices.SortFunc(t.found, func(a, b []int) int { return cmp.Compare(a[0], b[0]) })
	return t.found
}

// tarjan is a run of Tarjan's algorithm, without recursion: a history's chain
// of operations is as long as the history.
type tarjan struct {
	g          *graph
	set        dependency
	counter    int
	index, low []int // 0 is unseen
	on         []bool
	stack      []int
	found      [][]int
}

func (t *tarjan) enter(op int) {
	t.counter++
	t.index[op], t.low[op], t.on[op] = t.counter, t.counter, true
	t.stack = append(t.stack, op)
}

func (t *tarjan) visit(root int) {
	type frame struct{ op, next int }
	t.enter(root)
	for work := []frame{{op: root}}; len(work) > 0; {
		f := &work[len(work)-1]
		if f.next == len(t.g.arcs[f.op]) {
			op := f.op
			if work = work[:len(work)-1]; len(work) > 0 {
				up := work[len(work)-1].op
				t.low[up] = min(t.low[up], t.low[op])
			}
			t.leave(op)
			continue
		}
		a := t.g.arcs[f.op][f.next]
		f.next++
		switch {
		case a.why&t.set == 0:
		case t.index[a.to] == 0:
			t.enter(a.to)
			work = append(work, frame{op: a.to})
		case t.on[a.to]:
			t.low[f.op] = min(t.low[f.op], t.index[a.to])
		}
	}
}

// leave takes an operation's component off the stack if it is the root of one.
func (t *tarjan) leave(op int) {
	if t.low[op] != t.index[op] {
		return
	}
	at := len(t.stack) - 1
	for t.stack[at] != op {
		at--
	}
	members := slices.Clone(t.stack[at:])
	t.stack = t.stack[:at]
	for _, m := range members {
		t.on[m] = false
	}
	if len(members) > 1 {
		slices.Sort(members)
		t.found = append(t.found, members)
	}
}

// path returns the shortest way from one operation to another over arcs of a
// set, within some operations; nil if there is none. The operation may be the
// same: then it is the shortest cycle through it.
func (g *graph) path(from, to int, set dependency, within map[int]bool) []Edge {
	type step struct {
		from int
		by   arc
	}
	came := map[int]step{}
	queue := []int{from}
	for len(queue) > 0 {
		op := queue[0]
		queue = queue[1:]
		for _, a := range g.arcs[op] {
			if _, seen := came[a.to]; seen || a.why&set == 0 || !within[a.to] {
				continue
			}
			came[a.to] = step{op, a}
			if a.to != to {
				queue = append(queue, a.to)
				continue
			}
			var edges []Edge
			for at := to; ; {
				s := came[at]
				edges = append(edges, g.edge(s.from, s.by))
				if at = s.from; at == from {
					slices.Reverse(edges)
					return edges
				}
			}
		}
	}
	return nil
}

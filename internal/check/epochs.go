package check

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/skeindb/skein/internal/base"
)

// Epochs finds epochs with two writers, positions that were given out twice,
// and writes that were acknowledged behind one that had been acknowledged
// before they began: a leader that should have been fenced.
func Epochs(h *History) []Finding {
	return append(append(twoWriters(h), usedTwice(h)...), fenced(h)...)
}

// evidence is that a node acted as the leader of an epoch.
type evidence struct {
	node string
	op   int // -1 for a claim
	text string
}

func twoWriters(h *History) (found []Finding) {
	first := map[base.Epoch]evidence{}
	told := map[base.Epoch]bool{}
	look := func(epoch base.Epoch, e evidence) {
		before, known := first[epoch]
		switch {
		case epoch == 0 || e.node == "" || told[epoch]:
		case !known:
			first[epoch] = e
		case before.node != e.node:
			told[epoch] = true
			f := Finding{Check: "two writers in one epoch",
				Text: fmt.Sprintf("epoch %d was led by %s (%s) and by %s (%s)", epoch, before.node, before.text, e.node, e.text)}
			for _, op := range []int{before.op, e.op} {
				if op >= 0 {
					f.Ops = append(f.Ops, op)
				}
			}
			found = append(found, f)
		}
	}
	for _, c := range h.Claims {
		look(c.Epoch, evidence{c.Node, -1, fmt.Sprintf("at %v: %s", c.At, c.Text)})
	}
	for i := range h.Ops {
		if o := &h.Ops[i]; o.Done() && o.Writes() {
			look(o.Position.Epoch, evidence{o.Leader, i, fmt.Sprintf("it accepted op %d", i)})
		}
	}
	return found
}

// positioned are the writes that are done and whose positions are known.
func positioned(h *History) []*Op {
	var list []*Op
	for i := range h.Ops {
		if o := &h.Ops[i]; o.Done() && o.Writes() && o.Position != (base.Position{}) {
			list = append(list, o)
		}
	}
	return list
}

func usedTwice(h *History) (found []Finding) {
	at := map[base.Position]int{}
	for _, o := range positioned(h) {
		if other, used := at[o.Position]; used {
			found = append(found, Finding{Check: "position used twice", Ops: []int{other, o.ID},
				Text: fmt.Sprintf("two writes were acknowledged at %s", o.Position)})
		}
		at[o.Position] = o.ID
	}
	return found
}

// fenced goes through the writes as they began, with the latest of those that
// had returned by then.
func fenced(h *History) (found []Finding) {
	began := positioned(h)
	ended := slices.Clone(began)
	slices.SortStableFunc(began, func(a, b *Op) int { return cmp.Compare(a.Invoke, b.Invoke) })
	slices.SortStableFunc(ended, func(a, b *Op) int { return cmp.Compare(a.Return, b.Return) })
	var latest *Op
	for _, o := range began {
		for len(ended) > 0 && ended[0].Return < o.Invoke {
			if latest == nil || latest.Position.Less(ended[0].Position) {
				latest = ended[0]
			}
			ended = ended[1:]
		}
		if latest != nil && o.Position.Less(latest.Position) {
			found = append(found, Finding{Check: "write in the past", Ops: []int{latest.ID, o.ID},
				Text: fmt.Sprintf("op %d was acknowledged at %s, although it began after %s had been acknowledged", o.ID, o.Position, latest.Position)})
		}
	}
	return found
}

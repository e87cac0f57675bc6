package check

import (
	"fmt"
	"slices"

	"github.com/skeindb/skein/internal/base"
)

// Writes finds acknowledged writes that are lost, writes that are there twice,
// failed writes that are seen, values that nobody wrote, and writes that were
// seen and vanished. What an asynchronous write may lose, Losses judges.
func Writes(h *History) []Finding {
	l, found := newLists(h)
	for i := range h.Ops {
		if o := &h.Ops[i]; o.Done() {
			found = append(found, l.readWrong(o)...)
		}
	}
	found = append(found, l.missing()...)
	return append(found, registersWrong(h)...)
}

// readWrong finds what a read must never see.
func (l *lists) readWrong(o *Op) (found []Finding) {
	for _, a := range o.Acts {
		if a.Kind != Read || !a.Known {
			continue
		}
		seen := map[int64]bool{}
		for _, v := range a.Saw {
			writer, written := l.by[element{a.Key, v}]
			switch {
			case !written:
				found = append(found, Finding{Check: "unwritten value", Ops: []int{o.ID},
					Text: fmt.Sprintf("%d in %s was appended by nobody", v, a.Key)})
			case seen[v]:
				found = append(found, Finding{Check: "write applied twice", Ops: []int{writer, o.ID},
					Text: fmt.Sprintf("%d was appended to %s once and is there twice", v, a.Key)})
			case l.h.Ops[writer].Outcome == base.NotDone:
				found = append(found, Finding{Check: "failed write visible", Ops: []int{writer, o.ID},
					Text: fmt.Sprintf("the client was told that %d was not appended to %s, and it is there", v, a.Key)})
			}
			seen[v] = true
		}
	}
	return found
}

// missing compares what replicas hold in the end with what was acknowledged or
// seen before.
func (l *lists) missing() (found []Finding) {
	witness := l.witnesses()
	for i := range l.h.Ops {
		o := &l.h.Ops[i]
		if !o.Final || !o.Done() {
			continue
		}
		for _, a := range o.Acts {
			if a.Kind != Read || !a.Known || l.async[a.Key] {
				continue
			}
			holds := map[int64]bool{}
			for _, v := range a.Saw {
				holds[v] = true
			}
			for _, v := range witness[a.Key] {
				if !holds[v] {
					found = append(found, l.lost(a.Key, v, o))
				}
			}
		}
	}
	return found
}

// witnesses are the elements that must be there in the end: acknowledged, or
// seen by somebody and not failed.
func (l *lists) witnesses() map[string][]int64 {
	must := map[string][]int64{}
	for i := range l.h.Ops {
		o := &l.h.Ops[i]
		for _, a := range o.Acts {
			if a.Kind != Append || o.Outcome == base.NotDone {
				continue
			}
			if _, seen := l.place[element{a.Key, a.Value}]; seen || o.Done() {
				must[a.Key] = append(must[a.Key], a.Value)
			}
		}
	}
	return must
}

func (l *lists) lost(key string, v int64, final *Op) Finding {
	writer := l.by[element{key, v}]
	if l.h.Ops[writer].Done() {
		return Finding{Check: "lost write", Ops: []int{writer, final.ID},
			Text: fmt.Sprintf("%d was acknowledged in %s and %s does not hold it in the end", v, key, final.Node)}
	}
	reader := l.longest[key]
	return Finding{Check: "write vanished", Ops: []int{writer, reader, final.ID},
		Text: fmt.Sprintf("%d was seen in %s, and %s does not hold it in the end", v, key, final.Node)}
}

// registersWrong finds values in registers that nobody wrote, or whose write
// had failed.
func registersWrong(h *History) (found []Finding) {
	writers := map[element][]int{}
	for i := range h.Ops {
		for _, a := range h.Ops[i].Acts {
			if a.Kind == Write || a.Kind == CAS {
				e := element{a.Key, a.Value}
				writers[e] = append(writers[e], i)
			}
		}
	}
	for i := range h.Ops {
		o := &h.Ops[i]
		for _, a := range o.Acts {
			if !o.Done() || a.Kind != Get || !a.Known || len(a.Saw) == 0 {
				continue
			}
			by := writers[element{a.Key, a.Saw[0]}]
			failed := !slices.ContainsFunc(by, func(w int) bool { return h.Ops[w].Outcome != base.NotDone })
			switch {
			case len(by) == 0:
				found = append(found, Finding{Check: "unwritten value", Ops: []int{o.ID},
					Text: fmt.Sprintf("%d in %s was written by nobody", a.Saw[0], a.Key)})
			case failed:
				found = append(found, Finding{Check: "failed write visible", Ops: append(by, o.ID),
					Text: fmt.Sprintf("the client was told that %d was not written to %s, and it is there", a.Saw[0], a.Key)})
			}
		}
	}
	return found
}

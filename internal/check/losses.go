package check

import (
	"fmt"

	"github.com/skeindb/skein/internal/base"
)

// Losses compares what asynchronous writes lost, counted from what clients were
// told and what replicas hold in the end, with what the system reported as
// undone. It returns how many acknowledged writes were lost, which may be
// many without a finding: they only have to be reported, each of them.
func Losses(h *History) (lost int, found []Finding) {
	l, _ := newLists(h)
	reported := map[element]Loss{}
	claimed, counts := 0, len(h.Losses) > 0
	for _, r := range h.Losses {
		if claimed += max(0, r.Acknowledged); r.Acknowledged < 0 {
			counts = false
		}
		for _, a := range r.Undone {
			e := element{a.Key, a.Value}
			if _, written := l.by[e]; !written {
				found = append(found, Finding{Check: "loss of nothing",
					Text: fmt.Sprintf("%s reports that %d in %s was undone, which nobody wrote", r.Node, a.Value, a.Key)})
			}
			reported[e] = r
		}
	}
	doubtful, keepers := 0, l.keepers()
	for i := range h.Ops {
		o := &h.Ops[i]
		for _, a := range o.Acts {
			if a.Kind != Append || !l.final[a.Key] || o.Outcome == base.NotDone {
				continue
			}
			report, undone := reported[element{a.Key, a.Value}]
			holder, kept := keepers[element{a.Key, a.Value}]
			switch {
			case kept && undone:
				found = append(found, Finding{Check: "reported as lost and kept", Ops: []int{o.ID, holder},
					Text: fmt.Sprintf("%s reports that %d in %s was undone, and it is there", report.Node, a.Value, a.Key)})
			case kept:
			case o.Done() && l.async[a.Key]:
				lost++
				if !undone {
					found = append(found, Finding{Check: "unreported loss", Ops: []int{o.ID},
						Text: fmt.Sprintf("%d was acknowledged in %s and is lost, and nobody reported it", a.Value, a.Key)})
				}
			case undone:
				doubtful++
			}
		}
	}
	if counts && (claimed < lost || claimed > lost+doubtful) {
		found = append(found, Finding{Check: "loss miscounted",
			Text: fmt.Sprintf("%d acknowledged writes are reported as lost; by what clients were told it is %s", claimed, between(lost, lost+doubtful))})
	}
	return lost, found
}

// keepers are, for each element that is there in the end, a final read that
// holds it.
func (l *lists) keepers() map[element]int {
	by := map[element]int{}
	for i := range l.h.Ops {
		o := &l.h.Ops[i]
		for _, a := range o.Acts {
			if !o.Final || !o.Done() || a.Kind != Read || !a.Known {
				continue
			}
			for _, v := range a.Saw {
				by[element{a.Key, v}] = i
			}
		}
	}
	return by
}

func between(low, high int) string {
	if low == high {
		return fmt.Sprint(low)
	}
	return fmt.Sprintf("%d to %d", low, high)
}

package check

import (
	"fmt"
	"slices"

	"github.com/skeindb/skein/internal/base"
)

// Losses compares what asynchronous writes lost, counted from what clients were
// told and what replicas hold in the end, with what the system reported as
// undone. It returns how many acknowledged writes were lost, which may be
// many without a finding: they only have to be reported, each of them.
//
// The system counts what a leader acknowledged. Where that answer did not reach
// the client, the client was not told, or the write was done again, or the
// client's node found out that it was not kept and said so: the count may be
// higher by those, and by no others.
func Losses(h *History) (lost int, found []Finding) {
	l, _ := newLists(h)
	reports, found := l.reports()
	unsure, keepers := 0, l.keepers()
	unnamed := slices.ContainsFunc(h.Losses, func(r Loss) bool { return r.Unnamed })
	for i := range h.Ops {
		o := &h.Ops[i]
		for _, a := range o.Acts {
			if a.Kind != Append || !l.final[a.Key] {
				continue
			}
			e := element{a.Key, a.Value}
			report, undone := reports[e]
			if o.Outcome == base.NotDone {
				if undone {
					unsure++
				}
				continue
			}
			holder, kept := keepers[e]
			switch {
			case kept && undone && o.Position.Epoch != 0 && o.Position.Epoch == report.position.Epoch:
				found = append(found, Finding{Check: "reported as lost and kept", Ops: []int{o.ID, holder},
					Text: fmt.Sprintf("%s reports that %d in %s was undone, and it is there", report.node, a.Value, a.Key)})
			case kept && undone:
				unsure++
			case kept:
			case o.Done() && l.async[a.Key]:
				lost++
				if !undone && !unnamed {
					found = append(found, Finding{Check: "unreported loss", Ops: []int{o.ID},
						Text: fmt.Sprintf("%d was acknowledged in %s and is lost, and nobody reported it", a.Value, a.Key)})
				}
			case undone:
				unsure++ // That a durable write is lost, Writes says.
			}
		}
	}
	claimed, counted := 0, len(h.Losses) > 0
	for _, r := range h.Losses {
		claimed += r.Acknowledged
		counted = counted && r.Acknowledged >= 0
	}
	if counted && (claimed < lost || claimed > lost+unsure) {
		found = append(found, Finding{Check: "loss miscounted",
			Text: fmt.Sprintf("%d acknowledged writes are reported as lost; by what clients were told it is %s", claimed, between(lost, lost+unsure))})
	}
	return lost, found
}

// report is who says that an element was undone, and where it was.
type report struct {
	node     string
	position base.Position
}

// reports are by element; that nobody wrote one is a finding.
func (l *lists) reports() (map[element]report, []Finding) {
	by := map[element]report{}
	var found []Finding
	for _, r := range l.h.Losses {
		for _, u := range r.Undone {
			e := element{u.Act.Key, u.Act.Value}
			if _, written := l.by[e]; !written {
				found = append(found, Finding{Check: "loss of nothing",
					Text: fmt.Sprintf("%s reports that %d in %s was undone, which nobody wrote", r.Node, e.value, e.key)})
			}
			by[e] = report{r.Node, u.Position}
		}
	}
	return by, found
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

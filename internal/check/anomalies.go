package check

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skeindb/skein/internal/base"
)

// Guarantees are the names of what Anomalies counts.
var Guarantees = []string{"read your writes", "monotonic reads", "consistent prefix"}

// Anomalies counts what reads of level any, which promise no order, saw that a
// session's guarantees would have kept from them, by the name of the guarantee,
// and what reads of other levels saw against what they do promise. That those of
// level any are counted shows that the others would be.
func Anomalies(h *History) map[string]int {
	strict := *h
	strict.Ops = slices.Clone(h.Ops)
	for i := range strict.Ops {
		if o := &strict.Ops[i]; o.Level == "any" && !o.Final {
			o.Level = "session"
		}
	}
	counts := map[string]int{}
	for _, f := range Sessions(&strict) {
		if slices.Contains(Guarantees, f.Check) {
			counts[f.Check]++
		}
	}
	return counts
}

// unevenClocks is the share by which a node may misjudge a span of time.
const unevenClocks = 100

// bounded is the age that an operation's reads may have; false if they have no
// bound.
func (o *Op) bounded() (time.Duration, bool) {
	text, found := strings.CutPrefix(o.Level, "bounded(")
	age, err := time.ParseDuration(strings.TrimSuffix(text, ")"))
	return age, found && err == nil
}

// stale finds bounded reads that lack a write which had been acknowledged
// earlier before them than their bound. Clocks may differ by a hundredth.
func (l *lists) stale() (found []Finding) {
	for i := range l.h.Ops {
		o := &l.h.Ops[i]
		age, bounded := o.bounded()
		if !bounded || !o.Done() {
			continue
		}
		limit := o.Invoke - age - age/unevenClocks
		saw := external(o)
		for _, key := range sortedKeys(saw) {
			if l.async[key] || !isPrefix(saw[key], l.order[key]) {
				continue
			}
			for at := len(saw[key]); at < len(l.order[key]); at++ {
				w := l.writer(key, l.order[key][at])
				if w < 0 || l.h.Ops[w].Outcome != base.Done || l.h.Ops[w].Return >= limit {
					continue
				}
				found = append(found, Finding{Check: "staleness bound", Ops: []int{w, o.ID},
					Text: fmt.Sprintf("op %d, at most %v old, does not see what op %d had appended to %s %v before", o.ID, age, w, key, o.Invoke-l.h.Ops[w].Return)})
				break
			}
		}
	}
	return found
}

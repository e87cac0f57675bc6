package check

import (
	"time"

	"github.com/skeindb/skein/internal/base"
)

// DefaultLinearLimit is how long each register may be looked at.
const DefaultLinearLimit = 30 * time.Second

// Options of All. The zero value judges everything.
type Options struct {
	// LinearLimit bounds the search for an order of each register, in real
	// time; 0 means DefaultLinearLimit.
	LinearLimit time.Duration
	// Unfinished says that the run has no end in which everything was healed
	// and read: final reads may be missing.
	Unfinished bool
}

// All runs every checker.
func All(h *History, o Options) *Verdict {
	if o.LinearLimit <= 0 {
		o.LinearLimit = DefaultLinearLimit
	}
	v := &Verdict{Counted: count(h)}
	v.Findings = append(v.Findings, Writes(h)...)
	v.Findings = append(v.Findings, Epochs(h)...)
	v.Findings = append(v.Findings, Copies(h)...)
	v.Findings = append(v.Findings, Cycles(h)...)
	v.Findings = append(v.Findings, Sessions(h)...)
	lost, wrong := Losses(h)
	v.Counted.Lost, v.Findings = lost, append(v.Findings, wrong...)
	v.Findings = append(v.Findings, Deliveries(h)...)
	found, undecided := Linear(h, o.LinearLimit)
	v.Findings, v.Undecided = append(v.Findings, found...), append(v.Undecided, undecided...)
	if !o.Unfinished {
		v.Undecided = append(v.Undecided, unread(h)...)
	}
	v.Findings = withoutRepeats(v.Findings)
	return v
}

func count(h *History) (c Counts) {
	for i := range h.Ops {
		o := &h.Ops[i]
		switch {
		case o.Final:
			c.Finals++
			continue
		case o.Outcome == base.Indeterminate:
			c.Unknown++
			continue
		case o.Outcome == base.NotDone:
			c.Failed++
			continue
		}
		c.Done++
		for _, a := range o.Acts {
			if a.Writes() {
				c.Writes++
			} else {
				c.Reads++
			}
		}
	}
	c.Copies = len(h.Copies)
	for _, d := range h.Deliveries {
		c.Changes += len(d.Changes)
	}
	return c
}

// unread are lists that were appended to and that no final read has.
func unread(h *History) (undecided []string) {
	l, _ := newLists(h)
	for _, key := range l.keys {
		if l.appended[key] && !l.final[key] {
			undecided = append(undecided, "whether a write to "+key+" was lost: no final read has it")
		}
	}
	return undecided
}

// withoutRepeats drops what two checkers have found alike.
func withoutRepeats(list []Finding) []Finding {
	seen := map[string]bool{}
	var kept []Finding
	for _, f := range list {
		if text := f.Check + f.Text; !seen[text] {
			seen[text] = true
			kept = append(kept, f)
		}
	}
	return kept
}

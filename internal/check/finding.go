package check

import (
	"fmt"
	"strings"
)

// Finding is one broken promise.
type Finding struct {
	// Check names the promise or the anomaly: "lost write", "G1c".
	Check string
	// Text says what is wrong, in a sentence.
	Text string
	// Ops are the operations that show it, in the order of the text.
	Ops []int
	// Edges say, for a cycle, why each operation comes before the next.
	Edges []Edge
}

// Edge says why one operation comes before another.
type Edge struct {
	From, To int
	// Why tells it to a person, for example
	// "rw x: 0 did not see the 2 that 4 appended".
	Why string

	kind dependency
}

// Verdict is what all checkers found.
type Verdict struct {
	Findings []Finding
	// Undecided are checks that came to no end. A run with any is not good.
	Undecided []string
	// Counted says what was looked at, so that an empty history is not taken
	// for a good one.
	Counted Counts
}

// Counts of a history.
type Counts struct {
	Done, Failed, Unknown int // operations
	Writes, Reads         int // acts of those that are done
	Finals, Copies        int
	Changes               int // that subscribers were told, repeats included
	Lost                  int // acknowledged writes that an asynchronous database lost
}

// maxTold is how many findings of a kind a report tells in full.
const maxTold = 10

// Good says that nothing was found and nothing left open.
func (v *Verdict) Good() bool { return len(v.Findings) == 0 && len(v.Undecided) == 0 }

// Report returns the verdict for a person, with the operations of h that show
// each finding.
func (v *Verdict) Report(h *History) string {
	var b strings.Builder
	c := v.Counted
	fmt.Fprintf(&b, "%d operations done, %d failed, %d unknown; %d writes, %d reads, %d final reads, %d copies compared",
		c.Done, c.Failed, c.Unknown, c.Writes, c.Reads, c.Finals, c.Copies)
	if c.Lost > 0 {
		fmt.Fprintf(&b, "; %d acknowledged asynchronous writes were lost", c.Lost)
	}
	if c.Changes > 0 {
		fmt.Fprintf(&b, "; %d changes were delivered", c.Changes)
	}
	b.WriteString("\n")
	for _, u := range v.Undecided {
		fmt.Fprintf(&b, "\nundecided: %s\n", u)
	}
	told := map[string]int{}
	for _, f := range v.Findings {
		if told[f.Check]++; told[f.Check] <= maxTold {
			b.WriteString("\n" + f.Report(h))
		}
	}
	for _, check := range sortedKeys(told) {
		if more := told[check] - maxTold; more > 0 {
			fmt.Fprintf(&b, "\n%s: and %d more\n", check, more)
		}
	}
	if v.Good() {
		b.WriteString("nothing contradicts the promises\n")
	}
	return b.String()
}

// maxSaw is how much of a long list a report shows, from its end: that is where
// reads differ.
const maxSaw = 12

// brief is the operation without most of what it saw. A final read, which saw
// everything, is but named.
func (o *Op) brief() string {
	short := *o
	short.Acts = nil
	hidden := 0
	for _, a := range o.Acts {
		switch {
		case o.Final && len(o.Acts) > maxSaw:
			hidden++
			continue
		case len(a.Saw) > maxSaw:
			hidden += len(a.Saw) - maxSaw
			a.Saw = a.Saw[len(a.Saw)-maxSaw:]
		}
		short.Acts = append(short.Acts, a)
	}
	if hidden > 0 {
		return short.String() + fmt.Sprintf(" (%d left out)", hidden)
	}
	return short.String()
}

// Report returns the finding for a person.
func (f Finding) Report(h *History) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", f.Check, f.Text)
	for _, id := range f.Ops {
		fmt.Fprintf(&b, "  op %s\n", h.Ops[id].brief())
	}
	for _, e := range f.Edges {
		fmt.Fprintf(&b, "  %d -> %d  %s\n", e.From, e.To, e.Why)
	}
	return b.String()
}

package check

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// TestStories runs testdata: each file tells, for one promise, what keeping it
// and what breaking it looks like. A command names the checker and, with
// "finds", all that it must find, in order; without, it must find nothing.
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			h, err := Parse(d.Input)
			if err != nil {
				t.Fatalf("%s: %v", d.Pos, err)
			}
			v := judge(t, d, h)
			if d.Cmd == "anomalies" && len(v.Findings) == 0 {
				return tellAnomalies(h)
			}
			var names []string
			for _, f := range v.Findings {
				names = append(names, strings.ReplaceAll(f.Check, " ", "-"))
			}
			var want []string
			for _, a := range d.CmdArgs {
				if a.Key == "finds" {
					want = a.Vals
				}
			}
			if got := strings.Join(names, " "); got != strings.Join(want, " ") {
				t.Errorf("%s: found %q, want %q", d.Pos, names, want)
			}
			return v.tell(h)
		})
	})
}

// tellAnomalies is of a history that breaks no promise.
func tellAnomalies(h *History) string {
	counts, text := Anomalies(h), ""
	for _, name := range Guarantees {
		text += fmt.Sprintf("%s: %d\n", name, counts[name])
	}
	return text
}

func (v *Verdict) tell(h *History) string {
	_, text, _ := strings.Cut(v.Report(h), "\n")
	return strings.TrimPrefix(text, "\n")
}

func judge(t *testing.T, d *datadriven.TestData, h *History) *Verdict {
	switch d.Cmd {
	case "writes":
		return &Verdict{Findings: Writes(h)}
	case "epochs":
		return &Verdict{Findings: Epochs(h)}
	case "copies":
		return &Verdict{Findings: Copies(h)}
	case "linear":
		found, undecided := Linear(h, time.Minute)
		return &Verdict{Findings: found, Undecided: undecided}
	case "cycles":
		return &Verdict{Findings: Cycles(h)}
	case "sessions", "anomalies":
		return &Verdict{Findings: Sessions(h)}
	case "losses":
		lost, found := Losses(h)
		return &Verdict{Findings: found, Counted: Counts{Lost: lost}}
	case "across":
		_, found := Across(h)
		return &Verdict{Findings: found}
	case "deliveries":
		return &Verdict{Findings: Deliveries(h)}
	case "all":
		return All(h, Options{})
	}
	t.Fatalf("%s: unknown checker %s", d.Pos, d.Cmd)
	return nil
}

// Package timeline draws a history as one page for a browser: what was done to
// each node, who led, every operation of every client, and the findings, each of
// which leads to its operations. The page needs nothing but itself.
//
// It is pure: it writes to a writer what a history and a verdict say. It must
// not import anything that makes histories.
package timeline

import (
	_ "embed" // the page
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/check"
)

//go:embed page.html
var page string

var parsed = template.Must(template.New("page").Parse(page))

// data is what the page's script draws. Times are milliseconds.
type data struct {
	Rows     []string  `json:"rows"`
	End      float64   `json:"end"`
	Events   []event   `json:"events"`
	Ops      []op      `json:"ops"`
	Findings []finding `json:"findings"`
}

type event struct {
	Row   int     `json:"row"`
	From  float64 `json:"from"`
	Until float64 `json:"until"`
	Kind  string  `json:"kind"`
	Text  string  `json:"text"`
}

type op struct {
	Row     int     `json:"row"`
	From    float64 `json:"from"`
	Until   float64 `json:"until"` // -1: never
	Outcome string  `json:"outcome"`
	Text    string  `json:"text"`
}

type finding struct {
	Text string `json:"text"`
	Ops  []int  `json:"ops"`
}

// Write draws a history.
func Write(w io.Writer, h *check.History, v *check.Verdict, title string) error {
	d := data{Events: []event{}, Ops: []op{}, Findings: []finding{}}
	rows := d.rows(h)
	for i := range h.Ops {
		o := &h.Ops[i]
		until := -1.0
		if o.Return != check.Never {
			until = milliseconds(o.Return)
			d.End = max(d.End, until)
		}
		d.End = max(d.End, milliseconds(o.Invoke))
		d.Ops = append(d.Ops, op{rows[o.Client], milliseconds(o.Invoke), until, words[o.Outcome], o.String()})
	}
	for _, e := range h.Events {
		d.End = max(d.End, milliseconds(e.Until))
		d.Events = append(d.Events, event{rows[node(e.Node)], milliseconds(e.From), milliseconds(e.Until), e.Kind, e.Text})
	}
	for _, f := range v.Findings {
		d.Findings = append(d.Findings, finding{f.Report(h), f.Ops})
	}
	for _, u := range v.Undecided {
		d.Findings = append(d.Findings, finding{"undecided: " + u, nil})
	}
	text, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("draw a timeline: %w", err)
	}
	return parsed.Execute(w, struct {
		Title, Report string
		Data          template.JS
	}{title, v.Report(h), template.JS(text)}) // Marshal escapes what would end a script.
}

var words = map[base.Outcome]string{base.Done: "done", base.NotDone: "failed", base.Indeterminate: "unknown"}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// node names the row of a node's events; those of none are the cluster's.
func node(name string) string {
	if name == "" {
		return "cluster"
	}
	return "node " + name
}

// rows gives each node a row and, below them, each client.
func (d *data) rows(h *check.History) map[string]int {
	nodes, clients := map[string]bool{}, map[string]bool{}
	for _, e := range h.Events {
		nodes[node(e.Node)] = true
	}
	for i := range h.Ops {
		clients[h.Ops[i].Client] = true
	}
	rows := map[string]int{}
	for _, names := range []map[string]bool{nodes, clients} {
		for _, name := range slices.Sorted(maps.Keys(names)) {
			rows[name] = len(d.Rows)
			d.Rows = append(d.Rows, name)
		}
	}
	return rows
}

package timeline

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/check"
)

const broken = `
op 0 alice n1 10ms..12ms done: append x 1
op 1 bob n2 13ms..never unknown: append x 2 ! </script><b>gone</b>
op 2 final n2 9s..9s done any final: read x = []
event 15ms..40ms kill n1: SIGKILL
event 50ms..50ms trouble -: <i>none</i>
`

func TestPageHoldsTheHistory(t *testing.T) {
	h, err := check.Parse(broken)
	if err != nil {
		t.Fatal(err)
	}
	v := check.All(h, check.Options{})
	var page strings.Builder
	if err := Write(&page, h, v, "A <title>"); err != nil {
		t.Fatal(err)
	}
	text := page.String()
	if strings.Count(text, "</script>") != 1 || strings.Contains(text, "<b>gone") || strings.Contains(text, "A <title>") {
		t.Error("texts of the history are not escaped")
	}
	if strings.Contains(text, "src=") || strings.Contains(text, "http://") || strings.Contains(text, "https://") {
		t.Error("the page needs something else")
	}
	script := regexp.MustCompile(`(?m)^const data = (.*);$`).FindStringSubmatch(text)
	if script == nil {
		t.Fatalf("no data in\n%s", text)
	}
	var d data
	if err := json.Unmarshal([]byte(script[1]), &d); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(d.Rows, ","); got != "cluster,node n1,alice,bob,final" {
		t.Errorf("rows %s", got)
	}
	if len(d.Ops) != 3 || d.Ops[1].Until != -1 || d.Ops[1].Outcome != "unknown" || d.Ops[0].From != 10 || d.End != 9000 {
		t.Errorf("operations %+v until %v", d.Ops, d.End)
	}
	if len(d.Findings) != 1 || !strings.HasPrefix(d.Findings[0].Text, "lost write") || len(d.Findings[0].Ops) != 2 {
		t.Errorf("findings %+v", d.Findings)
	}
}

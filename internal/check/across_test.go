package check

import (
	"strings"
	"testing"
)

const asked = `
op 0 alice n1 10ms..12ms done: append x 1
op 1 bob/s1 n1 13ms..14ms done session: read x = [1]
op 2 eve n1 13ms..14ms done session: read other = [7]
op 3 carol/s2 n3 22ms..23ms done session: read x = %
loss n1 25ms acknowledged 0: append x 9 @1/7; append other 8
op 4 final n1 30ms..30ms done any final: read other = [7]; read x = [1]
`

const answered = `
op 0 bob/s1 n2 15ms..17ms done: append x 1
op 1 carol/s2 n3 20ms..21ms done session: read x = [1]
op 2 final n1 31ms..31ms done any final: read x = [1]
`

// TestTogether puts two databases' histories together: what only sessions of one
// database used is left out.
func TestTogether(t *testing.T) {
	const want = `op 0 alice n1 10ms..12ms done: append main/x 1
op 1 bob/s1 n1 13ms..14ms done session: read main/x = [1]
op 2 bob/s1 n2 15ms..17ms done: append second/x 1
op 3 carol/s2 n3 20ms..21ms done session: read second/x = [1]
op 4 carol/s2 n3 22ms..23ms done session: read main/x = [1]
op 5 final n1 30ms..30ms done any final: read main/x = [1]
op 6 final n1 31ms..31ms done any final: read second/x = [1]
loss main/n1 25ms acknowledged 0: append main/x 9 @1/7
`
	h := together(t, "[1]")
	if got := h.String(); got != want {
		t.Errorf("together they are\n%swant\n%s", got, want)
	}
	if q, found := Across(h); q != (Questions{Met: 1}) || len(found) > 0 {
		t.Errorf("%+v, found %v; want one that was met, and nothing", q, found)
	}
	if q, found := Across(together(t, "[]")); q != (Questions{}) || len(found) != 1 {
		t.Errorf("%+v, found %v; want none, and one", q, found)
	}
}

// TestAcrossCountsLostQuestions: one that a loss has undone which is allowed and was
// reported is no fault, and is counted.
func TestAcrossCountsLostQuestions(t *testing.T) {
	h, err := Parse(`
op 0 alice/s1 n1 10ms..12ms done async: append main/x 1
op 1 bob/s1 n2 15ms..17ms done: append other/x 1
op 2 carol/s2 n3 20ms..21ms done session: read other/x = [1]
op 3 carol/s2 n3 22ms..23ms done session: read main/x = []
loss main/all 1s acknowledged 1: append main/x 1
op 4 final n1 2s..2s done any final: read main/x = []
`)
	if err != nil {
		t.Fatal(err)
	}
	if q, found := Across(h); q != (Questions{Lost: 1}) || len(found) > 0 {
		t.Errorf("%+v, found %v; want one that was lost, and nothing", q, found)
	}
}

func together(t *testing.T, saw string) *History {
	t.Helper()
	main, err := Parse(strings.Replace(asked, "%", saw, 1))
	if err != nil {
		t.Fatal(err)
	}
	second, err := Parse(answered)
	if err != nil {
		t.Fatal(err)
	}
	return Together([]Part{{"main", main}, {"second", second}})
}

package check

import (
	"testing"

	"pgregory.net/rapid"
)

const everyLine = `op 0 alice n1 10ms..14ms done leader all by n2 @1/7 token abc: append x 1; read y = [3 4]
op 1 bob/s7 n3 12ms..never unknown: write r 5; cas r 5 6; get r
op 2 final/final-n1 n1 1s..1s done any @2/9 final: read x = []
op 3 bob/s8 - 2s..2.5s failed async: get r = [6] ! no leader: try again
event 20ms..80ms partition n1: n1 is alone
event 20ms..20ms leader -: none: elected
claim n2 epoch 2 60ms: its status says so
copy n1 @2/9 4af1 90ms final
copy n2 @2/8 - 90ms
loss n1 95ms acknowledged -1: append x 1 @1/9; append r 5
stream hook1 10ms..12ms snapshot
stream hook2 10ms..never now
stream hook3 10ms..12ms now over 50ms trimmed
delivery hook1 n2 13ms: 1/4/r1 r append x 1; 1/5 c append x 2; 1/6 u write r 5 was 4
delivery hook2 - 13ms: 1/6 c write r 5
`

func TestTextIsReadAsItWasWritten(t *testing.T) {
	h, err := Parse("# a comment\n\n" + everyLine)
	if err != nil {
		t.Fatal(err)
	}
	if got := h.String(); got != everyLine {
		t.Errorf("written again:\n%swant:\n%s", got, everyLine)
	}
}

func TestTextThatMakesNoSense(t *testing.T) {
	for _, line := range []string{
		"op 1 a n1 1s..2s done: read x",       // not in order
		"op 0 a n1 1s..2s perhaps: read x",    // no outcome
		"op 0 a n1 1s..2s done sideways: ",    // no attribute
		"op 0 a n1 soon done: read x",         // no time
		"op 0 a n1 1s..2s done: read x = 1 2", // no brackets
		"op 0 a n1 1s..2s done: push x 1",     // no act
		"op 0 a n1 1s..2s done: append x",     // no value
		"op 0 a n1 1s..2s done: append x 1 2", // too much
		"op 0 a n1 1s..2s done @1: read x",    // no position
		"claim n1 1 2s: ",                     // no word
		"copy n1 @1/1 abc",                    // no time
		"copy n1 @1/1 abc 1s finally",         // too much
		"loss n1 1s acknowledged some: ",      // no number
		"stream a 1s..2s",                     // neither snapshot nor now
		"stream a 1s..2s now then",            // too much
		"delivery a n1 1s: 1/2 x append y 1",  // no operation
		"delivery a n1 1s: 1/2 r append y 1",  // no row of a snapshot
		"delivery a n1 1s: 1/2 c read y",      // no change
		"delivery a n1 1s: 1/2 u write y 1 was no",
		"hello",
	} {
		if _, err := Parse(line); err == nil {
			t.Errorf("%q was accepted", line)
		}
	}
}

func TestAnyTextIsRefusedOrUnderstood(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h, err := Parse(rapid.StringMatching(`(op 0 a n1 [0-9]s\.\.(never|2s) (done|failed) ?(leader|@1/2)?: (append x [0-9]|read y = \[[0-9 ]*\])( ! .*)?|.*)`).Draw(t, "text"))
		if err != nil {
			return
		}
		again, err := Parse(h.String())
		if err != nil || again.String() != h.String() {
			t.Fatalf("%q became %q: %v", h, again, err)
		}
	})
}

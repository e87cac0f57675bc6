package check

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skeindb/skein/internal/base"
)

// store is a database that keeps every promise: operations take effect one
// after another, and followers show what the leader had a while ago.
type store struct {
	t     *rapid.T
	h     *History
	now   time.Duration
	value int64
	// past is the state after each write.
	past []map[string][]int64
	// last is when each client's operation ended, seen what its session has
	// seen, as an index into past.
	last map[string]time.Duration
	seen map[string]int
}

var listKeys, clients = []string{"x", "y", "z"}, []string{"alice", "bob", "carol", "dave"}

// step runs one operation of one client. It takes effect now; it began after
// the client's last and ends before its next, and overlaps with others' so.
func (s *store) step(i int) {
	t, name := s.t, rapid.SampledFrom(clients).Draw(s.t, "client")
	s.now = max(s.now, s.last[name]) + time.Duration(rapid.IntRange(1, 3).Draw(t, "pause"))*time.Millisecond
	begin := max(s.last[name]+1, s.now-time.Duration(rapid.IntRange(0, 20).Draw(t, "early"))*time.Millisecond)
	end := s.now + time.Duration(rapid.IntRange(0, 5).Draw(t, "late"))*time.Millisecond
	s.last[name] = end
	o := Op{Client: name, Node: "n1", Level: rapid.SampledFrom([]string{"leader", "session", "any"}).Draw(t, "level"), Invoke: begin}
	outcome := rapid.SampledFrom([]base.Outcome{base.Done, base.Done, base.Done, base.Done, base.Indeterminate, base.NotDone}).Draw(t, "outcome")
	writes := rapid.Bool().Draw(t, "writes")
	applied := outcome == base.Done || outcome == base.Indeterminate && rapid.Bool().Draw(t, "applied")
	at := len(s.past) - 1
	if !writes && o.Level != "leader" {
		oldest := 0
		if o.Level == "session" {
			oldest = s.seen[name]
		}
		at = rapid.IntRange(oldest, at).Draw(t, "snapshot")
	}
	state := map[string][]int64{}
	for key, list := range s.past[at] {
		state[key] = slices.Clone(list)
	}
	for n := rapid.IntRange(1, 4).Draw(t, "acts"); len(o.Acts) < n; {
		a := Act{Kind: Read, Key: rapid.SampledFrom(listKeys).Draw(t, "key")}
		if writes && (len(o.Acts) == 0 || rapid.Bool().Draw(t, "append")) {
			s.value++
			a.Kind, a.Value = Append, s.value
			state[a.Key] = append(slices.Clone(state[a.Key]), s.value)
		} else if outcome == base.Done {
			a.Known, a.Saw = true, slices.Clone(state[a.Key])
		}
		o.Acts = append(o.Acts, a)
	}
	if writes && applied {
		s.past = append(s.past, state)
		at = len(s.past) - 1
	}
	if outcome == base.Done && (o.Level != "any" || writes) {
		s.seen[name] = max(s.seen[name], at)
	}
	p := base.Position{}
	if outcome == base.Done {
		p = base.Position{Epoch: base.Epoch(1 + at/10), Seq: base.Seq(at + 1)}
	}
	s.h.Return(s.h.Invoke(o), end, Result{Outcome: outcome, Position: p})
	if outcome == base.Indeterminate {
		s.h.Ops[i].Return = Never
	}
}

// randomHistory lets clients use a store that keeps every promise.
func randomHistory(t *rapid.T) *History {
	s := &store{t: t, h: new(History), last: map[string]time.Duration{}, seen: map[string]int{}, past: []map[string][]int64{{}}}
	for i := range rapid.IntRange(1, 60).Draw(t, "operations") {
		s.step(i)
	}
	last := map[string][]int64{}
	for _, key := range listKeys {
		last[key] = s.past[len(s.past)-1][key]
	}
	for _, node := range []string{"n1", "n2", "n3"} {
		s.h.Final(node, s.now+time.Second, base.Position{}, last)
	}
	return s.h
}

func TestGoodDatabaseIsNotBlamed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := randomHistory(t)
		if v := All(h, Options{}); !v.Good() {
			t.Fatalf("%s\n%s", v.Report(h), h)
		}
	})
}

// TestEverySingleWrongIsSeen breaks one thing in a good history.
func TestEverySingleWrongIsSeen(t *testing.T) {
	for name, spoil := range map[string]func(*History, *Op, *Act) bool{
		"an element is missing in the end": func(_ *History, o *Op, a *Act) bool {
			if !o.Final || len(a.Saw) == 0 {
				return false
			}
			a.Saw = a.Saw[:len(a.Saw)-1]
			return true
		},
		"an element is there twice": func(_ *History, _ *Op, a *Act) bool {
			if len(a.Saw) == 0 {
				return false
			}
			a.Saw = append(slices.Clone(a.Saw), a.Saw[0])
			return true
		},
		"two elements have changed places": func(_ *History, _ *Op, a *Act) bool {
			if len(a.Saw) < 2 {
				return false
			}
			a.Saw = slices.Clone(a.Saw)
			a.Saw[0], a.Saw[1] = a.Saw[1], a.Saw[0]
			return true
		},
		"a write that was seen had failed": func(h *History, _ *Op, a *Act) bool {
			if len(a.Saw) == 0 {
				return false
			}
			for i := range h.Ops {
				for _, w := range h.Ops[i].Acts {
					if w.Kind == Append && w.Key == a.Key && w.Value == a.Saw[0] {
						h.Ops[i].Outcome = base.NotDone
						return true
					}
				}
			}
			return false
		},
		"a leader read is behind": func(h *History, o *Op, a *Act) bool {
			if o.Level != "leader" || len(o.Acts) != 1 || len(a.Saw) == 0 {
				return false
			}
			last := a.Saw[len(a.Saw)-1]
			for i := range h.Ops {
				w := &h.Ops[i]
				if w.Done() && w.Return < o.Invoke && slices.Contains(appended(w)[a.Key], last) {
					a.Saw = a.Saw[:len(a.Saw)-1]
					return true
				}
			}
			return false
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			spoiled := 0
			rapid.Check(t, func(t *rapid.T) {
				h := randomHistory(t)
				for _, i := range rapid.Permutation(slices.Collect(indices(h))).Draw(t, "where") {
					o := &h.Ops[i[0]]
					if a := &o.Acts[i[1]]; o.Done() && a.Kind == Read && a.Known && spoil(h, o, a) {
						spoiled++
						if v := All(h, Options{}); len(v.Findings) == 0 {
							t.Fatalf("%s in op %d, and nothing is found\n%s", name, o.ID, h)
						}
						return
					}
				}
			})
			if spoiled == 0 {
				t.Error("no history could be spoiled")
			}
		})
	}
}

func indices(h *History) func(func([2]int) bool) {
	return func(yield func([2]int) bool) {
		for i := range h.Ops {
			for j := range h.Ops[i].Acts {
				if !yield([2]int{i, j}) {
					return
				}
			}
		}
	}
}

func BenchmarkAll(b *testing.B) {
	h := new(History)
	lists := map[string][]int64{}
	for i := range 20000 {
		at := time.Duration(i) * time.Millisecond
		key := fmt.Sprintf("k%d", i/1000*4+i%4)
		acts := []Act{{Kind: Read, Key: key, Known: true, Saw: lists[key]}}
		if i%3 == 0 {
			lists[key] = append(slices.Clone(lists[key]), int64(i))
			acts = append(acts, Act{Kind: Append, Key: key, Value: int64(i)})
		}
		id := h.Invoke(Op{Client: fmt.Sprintf("c%d", i%8), Node: "n1", Level: "leader", Invoke: at, Acts: acts})
		h.Return(id, at+time.Microsecond, Result{Outcome: base.Done})
	}
	h.Final("n1", time.Hour, base.Position{}, lists)
	b.ResetTimer()
	for b.Loop() {
		if v := All(h, Options{}); !v.Good() {
			b.Fatal(v.Report(h))
		}
	}
}

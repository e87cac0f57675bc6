package check

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/skeindb/skein/internal/base"
)

// Linear finds registers whose leader reads and writes have no order that
// agrees with the clock. An operation of unknown outcome may take effect at any
// time after it began, or never. Registers that were written asynchronously are
// left out. What is not decided within the limit, in real time and for each
// key, is returned as undecided.
func Linear(h *History, limit time.Duration) (found []Finding, undecided []string) {
	byKey := map[string][]*Op{}
	async := map[string]bool{}
	for i := range h.Ops {
		o := &h.Ops[i]
		for _, key := range registersOf(o) {
			byKey[key] = append(byKey[key], o)
			async[key] = async[key] || o.Durability == base.Async && o.Writes()
		}
	}
	for _, key := range sortedKeys(byKey) {
		if async[key] {
			continue
		}
		ops := byKey[key]
		switch linearizable(key, ops, Never, limit) {
		case porcupine.Illegal:
			found = append(found, explain(key, ops, limit))
		case porcupine.Unknown:
			undecided = append(undecided, fmt.Sprintf("whether register %s is linearizable: no answer within %v for %d operations", key, limit, len(ops)))
		}
	}
	return found, undecided
}

// registersOf are the registers that an operation must be judged with: those
// of gets only if they were leader reads, none if it had no effect.
func registersOf(o *Op) (keys []string) {
	if o.Outcome == base.NotDone || !o.current() {
		return nil
	}
	for _, a := range o.Acts {
		useful := a.Kind == Write || a.Kind == CAS || a.Kind == Get && a.Known
		if useful && !slices.Contains(keys, a.Key) {
			keys = append(keys, a.Key)
		}
	}
	return keys
}

// registerInput is what an operation does to one register.
type registerInput struct {
	acts    []Act
	unknown bool
}

type registerState struct {
	set   bool
	value int64
}

var registerModel = porcupine.Model{
	Init: func() any { return registerState{} },
	Step: func(state, input, _ any) (bool, any) {
		s, in := state.(registerState), input.(registerInput)
		for _, a := range in.acts {
			switch {
			case a.Kind == Write, a.Kind == CAS && s.set && s.value == a.Expect:
				s = registerState{true, a.Value}
			case a.Kind == CAS && in.unknown:
				// It found another value, and nobody was told.
			case a.Kind == Get && a.Known && s.set == (len(a.Saw) == 1) && (!s.set || s.value == a.Saw[0]):
			case a.Kind == Get && in.unknown:
			default:
				return false, s
			}
		}
		return true, s
	},
}

// linearizable judges what had happened to a register until an instant: an
// operation that had not returned by then counts as unknown.
func linearizable(key string, ops []*Op, until, limit time.Duration) porcupine.CheckResult {
	var list []porcupine.Operation
	for _, o := range ops {
		in := registerInput{unknown: !o.Done() || o.Return > until}
		for _, a := range o.Acts {
			if a.Key == key {
				in.acts = append(in.acts, a)
			}
		}
		if o.Invoke > until || in.unknown && !o.Writes() {
			continue
		}
		end := o.Return
		if in.unknown {
			end = Never
		}
		list = append(list, porcupine.Operation{ClientId: len(list), Input: in, Call: int64(o.Invoke), Return: int64(end)})
	}
	return porcupine.CheckOperationsTimeout(registerModel, list, limit)
}

// explain finds the first return that contradicts what was before.
func explain(key string, ops []*Op, limit time.Duration) Finding {
	ended := slices.DeleteFunc(slices.Clone(ops), func(o *Op) bool { return !o.Done() })
	slices.SortStableFunc(ended, func(a, b *Op) int { return cmp.Compare(a.Return, b.Return) })
	at, _ := slices.BinarySearchFunc(ended, true, func(o *Op, _ bool) int {
		if linearizable(key, ops, o.Return, limit) == porcupine.Illegal {
			return 1
		}
		return -1
	})
	if at == len(ended) { // The limit was reached on the way.
		return Finding{Check: "not linearizable", Text: fmt.Sprintf("register %s has no order that agrees with the clock", key)}
	}
	culprit := ended[at]
	f := Finding{Check: "not linearizable",
		Text: fmt.Sprintf("register %s has no order that agrees with the clock once op %d has returned; the last operations on it were", key, culprit.ID)}
	near := slices.DeleteFunc(slices.Clone(ops), func(o *Op) bool { return o.Invoke > culprit.Return })
	slices.SortStableFunc(near, func(a, b *Op) int { return cmp.Compare(min(a.Return, culprit.Return), min(b.Return, culprit.Return)) })
	for _, o := range near[max(0, len(near)-6):] {
		f.Ops = append(f.Ops, o.ID)
	}
	if !slices.Contains(f.Ops, culprit.ID) {
		f.Ops = append(f.Ops, culprit.ID)
	}
	return f
}

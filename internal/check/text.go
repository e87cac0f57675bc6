package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skeindb/skein/internal/base"
)

// A history as text: one line an operation or a fact, "#" begins a comment.
//
//	op 0 alice n1 10ms..14ms done leader by n2 @1/7: append x 1; read y = [3 4]
//	op 1 bob/s7 n3 12ms..never unknown: write r 5
//	event 20ms..80ms partition n1: n1 is alone
//	claim n2 epoch 2 60ms: its status says so
//	copy n1 @2/9 4af1 90ms final
//	loss n1 95ms acknowledged 1: append x 1
//	stream hook1 10ms..12ms snapshot
//	stream hook2 10ms..12ms now over 50ms trimmed
//	delivery hook1 n2 13ms: 1/4/r1 r append x 1; 1/5 c append x 2; 1/6 u write r 5 was 4
//
// After the outcome of an op (done, failed, unknown) its attributes follow in
// any order: a read level, a durability, "by LEADER", "@EPOCH/SEQ", "token T",
// "final". What follows " ! " is the error.

var outcomeWords = map[base.Outcome]string{base.Done: "done", base.NotDone: "failed", base.Indeterminate: "unknown"}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// String returns the history as text, which Parse reads.
func (h *History) String() string {
	var b strings.Builder
	for i := range h.Ops {
		fmt.Fprintf(&b, "op %s\n", h.Ops[i].String())
	}
	for _, e := range h.Events {
		fmt.Fprintf(&b, "event %s %s %s: %s\n", span(e.From, e.Until), cmp.Or(e.Kind, "-"), cmp.Or(e.Node, "-"), oneLine(e.Text))
	}
	for _, c := range h.Claims {
		fmt.Fprintf(&b, "claim %s epoch %d %v: %s\n", c.Node, c.Epoch, c.At, oneLine(c.Text))
	}
	for _, c := range h.Copies {
		fmt.Fprintf(&b, "copy %s @%s %s %v%s\n", c.Node, c.Position, cmp.Or(c.Hash, "-"), c.At, flag(c.Final, " final"))
	}
	for _, l := range h.Losses {
		fmt.Fprintf(&b, "loss %s %v acknowledged %d%s: %s\n", l.Node, l.At, l.Acknowledged, flag(l.Unnamed, " unnamed"), undone(l.Undone))
	}
	h.writeStreams(&b)
	return b.String()
}

// String returns the operation as in the text of a history.
func (o *Op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %s", o.ID, o.Client)
	if o.Session != "" {
		b.WriteString("/" + word(o.Session))
	}
	fmt.Fprintf(&b, " %s %s %s", cmp.Or(o.Node, "-"), span(o.Invoke, o.Return), outcomeWords[o.Outcome])
	if o.Level != "" {
		b.WriteString(" " + o.Level)
	}
	if o.Durability != "" {
		b.WriteString(" " + string(o.Durability))
	}
	if o.Leader != "" {
		b.WriteString(" by " + o.Leader)
	}
	if o.Position != (base.Position{}) {
		b.WriteString(" @" + o.Position.String())
	}
	if o.Token != "" {
		b.WriteString(" token " + o.Token)
	}
	b.WriteString(flag(o.Final, " final") + ": " + acts(o.Acts))
	if o.Error != "" {
		b.WriteString(" ! " + oneLine(o.Error))
	}
	return b.String()
}

// String returns the act as in the text of a history.
func (a Act) String() string {
	s := string(a.Kind) + " " + a.Key
	switch a.Kind {
	case CAS:
		s += fmt.Sprintf(" %d %d", a.Expect, a.Value)
	case Append, Write:
		s += fmt.Sprintf(" %d", a.Value)
	default:
		if a.Known {
			s += " = " + fmt.Sprint(a.Saw)
		}
	}
	return s
}

func acts(list []Act) string {
	texts := make([]string, len(list))
	for i, a := range list {
		texts[i] = a.String()
	}
	return strings.Join(texts, "; ")
}

func undone(list []Undone) string {
	texts := make([]string, len(list))
	for i, u := range list {
		if texts[i] = u.Act.String(); u.Position != (base.Position{}) {
			texts[i] += " @" + u.Position.String()
		}
	}
	return strings.Join(texts, "; ")
}

func flag(on bool, s string) string {
	if on {
		return s
	}
	return ""
}

func span(from, until time.Duration) string {
	if until == Never {
		return from.String() + "..never"
	}
	return from.String() + ".." + until.String()
}

// word and oneLine keep a text within its line and its field.
func word(s string) string    { return strings.Join(strings.Fields(s), "-") }
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// Parse reads the text of a history.
func Parse(text string) (*History, error) {
	h := new(History)
	number := 0
	for line := range strings.SplitSeq(text, "\n") {
		number++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := h.parseLine(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
	}
	return h, nil
}

func (h *History) parseLine(line string) error {
	head, tail, _ := strings.Cut(line, ": ")
	f := fields(strings.Fields(strings.TrimSuffix(head, ":")))
	switch f.next() {
	case "op":
		return h.parseOp(&f, tail)
	case "event":
		var e Event
		from, until, err := parseSpan(f.next())
		e.From, e.Until, e.Kind, e.Node, e.Text = from, until, undash(f.next()), undash(f.next()), tail
		h.Events = append(h.Events, e)
		return f.end(err)
	case "claim":
		c := Claim{Node: f.next(), Text: tail}
		f.want("epoch")
		epoch, err := strconv.ParseUint(f.next(), 10, 64)
		c.Epoch, c.At = base.Epoch(epoch), f.duration()
		h.Claims = append(h.Claims, c)
		return f.end(err)
	case "copy":
		c := Copy{Node: f.next()}
		var err error
		c.Position, err = parsePosition(f.next())
		c.Hash, c.At = undash(f.next()), f.duration()
		c.Final = f.optional("final")
		h.Copies = append(h.Copies, c)
		return f.end(err)
	case "loss":
		return h.parseLoss(&f, tail)
	case "stream":
		return h.parseStream(&f)
	case "delivery":
		return h.parseDelivery(&f, tail)
	}
	return fmt.Errorf("%q: want op, event, claim, copy, loss, stream or delivery", line)
}

func (h *History) parseLoss(f *fields, tail string) error {
	l := Loss{Node: f.next(), At: f.duration()}
	f.want("acknowledged")
	n, err := strconv.Atoi(f.next())
	if err != nil {
		return err
	}
	l.Acknowledged, l.Unnamed = n, f.optional("unnamed")
	l.Undone, err = parseUndone(tail)
	h.Losses = append(h.Losses, l)
	return f.end(err)
}

func (h *History) parseOp(f *fields, tail string) error {
	id, err := strconv.Atoi(f.next())
	if err != nil || id != len(h.Ops) {
		return fmt.Errorf("want op %d: operations are numbered in order", len(h.Ops))
	}
	o := Op{ID: id}
	o.Client, o.Session, _ = strings.Cut(f.next(), "/")
	o.Node = undash(f.next())
	if o.Invoke, o.Return, err = parseSpan(f.next()); err != nil {
		return err
	}
	told := f.next()
	for outcome, word := range outcomeWords {
		if word == told {
			o.Outcome = outcome
		}
	}
	if o.Outcome == "" {
		return fmt.Errorf("outcome %q: want done, failed or unknown", told)
	}
	if err := o.parseAttributes(f); err != nil {
		return err
	}
	tail, o.Error, _ = strings.Cut(tail, " ! ")
	o.Acts, err = parseActs(tail)
	h.Ops = append(h.Ops, o)
	return f.end(err)
}

func (o *Op) parseAttributes(f *fields) (err error) {
	for len(*f) > 0 {
		switch w := f.next(); {
		case w == "any", w == "session", w == "leader", strings.HasPrefix(w, "bounded("):
			o.Level = w
		case w == string(base.Async), w == string(base.One), w == string(base.Quorum), w == string(base.All):
			o.Durability = base.Level(w)
		case w == "by":
			o.Leader = f.next()
		case w == "token":
			o.Token = f.next()
		case w == "final":
			o.Final = true
		case strings.HasPrefix(w, "@"):
			if o.Position, err = parsePosition(w); err != nil {
				return err
			}
		default:
			return fmt.Errorf("attribute %q is unknown", w)
		}
	}
	return nil
}

func parseUndone(text string) (list []Undone, err error) {
	for part := range strings.SplitSeq(text, ";") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		var u Undone
		what, at, placed := strings.Cut(part, "@")
		if placed {
			if u.Position, err = parsePosition(strings.TrimSpace(at)); err != nil {
				return nil, err
			}
		}
		if u.Act, err = parseAct(what); err != nil {
			return nil, fmt.Errorf("undone %q: %w", strings.TrimSpace(part), err)
		}
		list = append(list, u)
	}
	return list, nil
}

func parseActs(text string) ([]Act, error) {
	var list []Act
	for part := range strings.SplitSeq(text, ";") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		a, err := parseAct(part)
		if err != nil {
			return nil, fmt.Errorf("act %q: %w", strings.TrimSpace(part), err)
		}
		list = append(list, a)
	}
	return list, nil
}

func parseAct(text string) (a Act, err error) {
	what, saw, known := strings.Cut(text, "=")
	f := fields(strings.Fields(what))
	a.Kind, a.Key = ActKind(f.next()), f.next()
	switch a.Kind {
	case CAS:
		a.Expect, err = strconv.ParseInt(f.next(), 10, 64)
		if err != nil {
			return a, err
		}
		a.Value, err = strconv.ParseInt(f.next(), 10, 64)
	case Append, Write:
		a.Value, err = strconv.ParseInt(f.next(), 10, 64)
	case Read, Get:
		if a.Known = known; known {
			a.Saw, err = parseValues(saw)
		}
	default:
		err = fmt.Errorf("want append, read, write, cas or get")
	}
	return a, f.end(err)
}

func parseValues(text string) ([]int64, error) {
	text, open := strings.CutPrefix(strings.TrimSpace(text), "[")
	text, closed := strings.CutSuffix(text, "]")
	if !open || !closed {
		return nil, fmt.Errorf("want values as [1 2 3]")
	}
	var list []int64
	for _, w := range strings.Fields(text) {
		v, err := strconv.ParseInt(w, 10, 64)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

func parseSpan(s string) (from, until time.Duration, err error) {
	a, b, _ := strings.Cut(s, "..")
	if from, err = time.ParseDuration(a); err != nil {
		return 0, 0, err
	}
	if b == "never" {
		return from, Never, nil
	}
	until, err = time.ParseDuration(b)
	return from, until, err
}

func parsePosition(s string) (base.Position, error) {
	p, err := base.ParsePosition(strings.TrimPrefix(s, "@"))
	if err != nil {
		return p, fmt.Errorf("position %q: want @EPOCH/SEQ", s)
	}
	return p, nil
}

func undash(s string) string {
	if s == "-" {
		return ""
	}
	return s
}

// fields are the words of a line that are not read yet.
type fields []string

// next takes a word; "" when there is none, which no parser accepts.
func (f *fields) next() string {
	if len(*f) == 0 {
		return ""
	}
	w := (*f)[0]
	*f = (*f)[1:]
	return w
}

// want takes a word that must be there; end notices when it was another.
func (f *fields) want(w string) {
	if !f.optional(w) {
		*f = append(*f, "(no "+w+")")
	}
}

func (f *fields) optional(w string) bool {
	if len(*f) > 0 && (*f)[0] == w {
		f.next()
		return true
	}
	return false
}

func (f *fields) duration() time.Duration {
	d, err := time.ParseDuration(f.next())
	if err != nil {
		*f = append(*f, "("+err.Error()+")")
	}
	return d
}

func (f *fields) end(err error) error {
	if err == nil && len(*f) > 0 {
		err = fmt.Errorf("%q is too much", strings.Join(*f, " "))
	}
	return err
}

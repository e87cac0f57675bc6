package check

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

func (h *History) writeStreams(b *strings.Builder) {
	for _, s := range h.Streams {
		fmt.Fprintf(b, "stream %s %s", s.Name, span(s.From, s.Until))
		b.WriteString(flag(s.Snapshot, " snapshot") + flag(!s.Snapshot, " now"))
		if s.Over != Never {
			fmt.Fprintf(b, " over %v%s", s.Over, flag(s.Why != "", " "+word(s.Why)))
		}
		b.WriteString("\n")
	}
	for _, d := range h.Deliveries {
		texts := make([]string, len(d.Changes))
		for i, c := range d.Changes {
			texts[i] = c.String()
		}
		fmt.Fprintf(b, "delivery %s %s %v: %s\n", d.Stream, cmp.Or(d.Node, "-"), d.At, strings.Join(texts, "; "))
	}
}

// String returns the change as in the text of a history.
func (c Change) String() string {
	s := c.ID() + " " + c.Op + " " + c.Act.String()
	if c.Had {
		s += fmt.Sprintf(" was %d", c.Was)
	}
	return s
}

func (h *History) parseStream(f *fields) (err error) {
	s := Stream{Name: f.next(), Over: Never}
	if s.From, s.Until, err = parseSpan(f.next()); err != nil {
		return err
	}
	if s.Snapshot = f.optional("snapshot"); !s.Snapshot {
		f.want("now")
	}
	if f.optional("over") {
		s.Over = f.duration()
		s.Why = f.next()
	}
	h.Streams = append(h.Streams, s)
	return f.end(nil)
}

func (h *History) parseDelivery(f *fields, tail string) error {
	d := Delivery{Stream: f.next(), Node: undash(f.next()), At: f.duration()}
	for part := range strings.SplitSeq(tail, ";") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		c, err := parseChange(part)
		if err != nil {
			return fmt.Errorf("change %q: %w", strings.TrimSpace(part), err)
		}
		d.Changes = append(d.Changes, c)
	}
	h.Deliveries = append(h.Deliveries, d)
	return f.end(nil)
}

func parseChange(text string) (c Change, err error) {
	what, was, had := strings.Cut(text, " was ")
	if c.Had = had; had {
		if c.Was, err = strconv.ParseInt(strings.TrimSpace(was), 10, 64); err != nil {
			return c, err
		}
	}
	id, what, _ := strings.Cut(strings.TrimSpace(what), " ")
	if c.Position, c.Row, err = ParseID(id); err != nil {
		return c, err
	}
	c.Op, what, _ = strings.Cut(what, " ")
	if c.Op != "c" && c.Op != "u" && c.Op != "r" || (c.Op == "r") != (c.Row > 0) {
		return c, fmt.Errorf("operation %q: want c or u, or r for a row of a snapshot", c.Op)
	}
	if c.Act, err = parseAct(what); err == nil && c.Act.Kind != Append && c.Act.Kind != Write {
		err = fmt.Errorf("want append or write")
	}
	return c, err
}

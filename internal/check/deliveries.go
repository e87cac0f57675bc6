package check

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skeindb/skein/internal/base"
)

// Stream is what one subscriber asked for: a webhook, or somebody who reads the
// stream of changes and goes on at the last offset whenever it breaks off.
type Stream struct {
	Name string
	// From is when it was asked for, and Until when that was granted: Never, if it
	// was not.
	From, Until time.Duration
	// Snapshot says that every row comes first; else only what is written once it
	// was granted.
	Snapshot bool
	// Over is when the subscriber gave it up; Never: it has everything in the end.
	Over time.Duration
	// Why it was given up: "trimmed" or "history_lost" if the system said so.
	Why string
}

// Delivery is what a subscriber took at once, and from which node.
type Delivery struct {
	Stream  string
	Node    string
	At      time.Duration
	Changes []Change
}

// Change is one event of a stream.
type Change struct {
	Position base.Position
	Row      int64  // counts the rows of a snapshot; 0: the change of a row
	Op       string // c, u or r
	Act      Act    // the append or write that the row holds
	// Had says that the event has what the row held before, which was Was.
	Had bool
	Was int64
}

// ID is equal whenever the same change is delivered again.
func (c Change) ID() string {
	if c.Row > 0 {
		return fmt.Sprintf("%s/r%d", c.Position, c.Row)
	}
	return c.Position.String()
}

// ParseID reads what ID returns.
func ParseID(id string) (at base.Position, row int64, err error) {
	position, number, ofSnapshot := strings.Cut(id, "/r")
	if ofSnapshot {
		if row, err = strconv.ParseInt(number, 10, 64); err != nil {
			return at, row, err
		}
	}
	at, err = base.ParsePosition(position)
	return at, row, err
}

// Deliveries finds subscribers that were not told every change that was kept, at
// least once and in order: gaps, changes behind later ones, one id for two
// changes, what was never committed, what a database lost that may lose nothing,
// and rows whose state before is not what was told of them. What a database may
// lose it may have told of before; then the stream must end, and say so.
func Deliveries(h *History) (found []Finding) {
	if len(h.Streams) == 0 && len(h.Deliveries) == 0 {
		return nil
	}
	l, _ := newLists(h)
	d := &deliveries{lists: l, kept: l.keepers(), wrote: map[element]int{}, ids: map[string]string{}, of: map[string][]*Delivery{}}
	d.undone, _ = l.reports()
	d.unnamed = slices.ContainsFunc(h.Losses, func(l Loss) bool { return l.Unnamed })
	d.look()
	for i := range h.Deliveries {
		d.of[h.Deliveries[i].Stream] = append(d.of[h.Deliveries[i].Stream], &h.Deliveries[i])
	}
	for i := range h.Streams {
		s := d.listen(&h.Streams[i])
		found = append(found, s.judge(d.of[s.stream.Name])...)
		delete(d.of, s.stream.Name)
	}
	for _, name := range sortedKeys(d.of) {
		found = append(found, Finding{Check: "delivery that nobody asked for", Text: name + " is no stream"})
	}
	return found
}

// deliveries is what a history says that streams must tell.
type deliveries struct {
	*lists
	kept    map[element]int
	undone  map[element]report
	unnamed bool
	lossy   bool              // the database may lose writes
	wrote   map[element]int   // who wrote a value into a register
	due     []due             // by position
	ids     map[string]string // changes by id, of all streams
	of      map[string][]*Delivery
}

// due is a value that was acknowledged at a position, and stays.
type due struct {
	element
	op       int
	position base.Position
	register bool
}

// look finds what is due. What a register held that may lose writes is not known.
func (d *deliveries) look() {
	for i := range d.h.Ops {
		d.lossy = d.lossy || d.h.Ops[i].Durability == base.Async
	}
	for i := range d.h.Ops {
		o := &d.h.Ops[i]
		for _, a := range o.Acts {
			e := element{a.Key, a.Value}
			_, kept := d.kept[e]
			register := a.Kind == Write || a.Kind == CAS
			if register {
				d.wrote[e] = o.ID
			}
			if o.Done() && o.Position != (base.Position{}) && (register && !d.lossy || a.Kind == Append && kept) {
				d.due = append(d.due, due{e, o.ID, o.Position, register})
			}
		}
	}
	slices.SortStableFunc(d.due, func(a, b due) int {
		return cmp.Or(cmp.Compare(a.position.Epoch, b.position.Epoch), cmp.Compare(a.position.Seq, b.position.Seq))
	})
}

func (d *deliveries) listen(s *Stream) *listener {
	return &listener{deliveries: d, stream: s, has: map[element]bool{}, blamed: map[element]bool{}, took: map[string]bool{}, rows: map[string]int64{}}
}

// listener goes through what one stream has told.
type listener struct {
	*deliveries
	stream  *Stream
	from    string        // the node that tells just now
	highest base.Position // of the changes so far
	rowsAt  base.Position // of the last snapshot
	has     map[element]bool
	blamed  map[element]bool // for being left out
	took    map[string]bool  // by id
	rows    map[string]int64 // what registers hold, as it was told
	next    int              // of what is due
	lost    *Change          // that was told, and is of a history that was lost
	found   []Finding
}

func (s *listener) judge(list []*Delivery) []Finding {
	for _, d := range list {
		s.from = d.Node
		for _, c := range d.Changes {
			s.take(c)
		}
	}
	if s.stream.Over == Never {
		s.missing()
	} else if s.stream.Why == string(base.KindHistoryLost) && !s.lossy {
		s.finds("history of what loses nothing is lost", nil, "it was told so at %v", s.stream.Over)
	}
	return s.found
}

func (s *listener) finds(check string, ops []int, format string, args ...any) {
	s.found = append(s.found, Finding{Check: check, Ops: ops, Text: fmt.Sprintf("stream %s: ", s.stream.Name) + fmt.Sprintf(format, args...)})
}

// take judges one event. One that comes again must be as it was.
func (s *listener) take(c Change) {
	id, text := c.ID(), c.String()
	if before, known := s.ids[id]; known && before != text {
		s.finds("one id for two changes", nil, "%s tells %q and another time it was %q", s.from, text, before)
	}
	s.ids[id] = text
	if s.took[id] {
		return
	}
	s.took[id] = true
	if c.Row > 0 {
		s.row(c)
	} else if !s.change(c) {
		s.has[element{c.Act.Key, c.Act.Value}] = true
		return
	}
	s.content(c)
}

// row is of a snapshot, which begins anew when it broke off.
func (s *listener) row(c Change) {
	if !s.stream.Snapshot {
		s.finds("rows that nobody asked for", nil, "%s tells %q", s.from, c)
	}
	if c.Position != s.rowsAt {
		s.rows, s.lost = map[string]int64{}, nil
		if c.Position.Less(s.highest) && s.rowsAt.Less(s.highest) {
			s.finds("change out of order", nil, "%s tells rows as they were at %s, behind a change at %s", s.from, c.Position, s.highest)
		}
		s.rowsAt, s.highest = c.Position, c.Position
	}
}

// change judges where an event stands that is told for the first time, and says
// whether that is behind all others. A leader that was replaced with a loss may
// still tell what was lost: whoever remembers the highest position leaves it out.
func (s *listener) change(c Change) bool {
	if !s.highest.Less(c.Position) {
		if !s.lossy || c.Act.Kind == Append && !s.gone(c) {
			s.finds("change out of order", nil, "%s tells %q behind what was at %s", s.from, c, s.highest)
		}
		return false
	}
	for ; s.next < len(s.due) && s.due[s.next].position.Less(c.Position); s.next++ {
		if d := s.due[s.next]; s.lacks(d) {
			s.blamed[d.element] = true
			s.finds("change left out", []int{d.op}, "%s tells %q and has not told of the %d in %s before, which was at or before %s", s.from, c, d.value, d.key, d.position)
		}
	}
	gone := s.gone(c)
	if s.lost != nil && !gone && s.lossy && c.Act.Kind == Append { // Of registers nobody knows.
		s.finds("loss not told", nil, "it was told %q, which was lost, and then, as if nothing had happened, %q", s.lost, c)
		s.lost = nil
	}
	if gone {
		s.lost = &c
	}
	s.highest = c.Position
	return true
}

// lacks says whether something was due that was not told. A value that a register
// held before the snapshot is not.
func (s *listener) lacks(d due) bool {
	return s.asked(d.op) && !s.has[d.element] && !(d.register && !s.rowsAt.Less(d.position))
}

// asked says whether what an operation wrote is part of the stream.
func (s *listener) asked(op int) bool {
	return s.stream.Until != Never && (s.stream.Snapshot || s.h.Ops[op].Invoke >= s.stream.Until)
}

// gone says that a change is not of the history that counts in the end.
func (d *deliveries) gone(c Change) bool {
	e := element{c.Act.Key, c.Act.Value}
	_, kept := d.kept[e]
	report, undone := d.undone[e]
	return c.Act.Kind == Append && d.final[e.key] && (!kept || undone && report.position.Epoch == c.Position.Epoch)
}

// content judges what an event tells.
func (s *listener) content(c Change) {
	e := element{c.Act.Key, c.Act.Value}
	writer, written := s.by[e]
	if c.Act.Kind != Append {
		writer, written = s.wrote[e]
		s.before(c)
	} else if c.Had || c.Op == "u" {
		s.finds("wrong state before", nil, "%s tells %q of a row that nobody has changed", s.from, c)
	} else if s.has[e] && c.Row == 0 && !s.lossy {
		s.finds("one change with two ids", nil, "%s tells %q, which it has told under another id", s.from, c)
	}
	s.has[e] = true
	switch {
	case !written:
		s.finds("unwritten change", nil, "%s tells %q, which nobody wrote", s.from, c)
	case s.h.Ops[writer].Outcome == base.NotDone:
		s.finds("failed write delivered", []int{writer}, "%s tells %q, and the client was told that it was not written", s.from, c)
	case !s.gone(c):
	case !s.lossy:
		s.finds("delivered and not kept", []int{writer}, "%s tells %q, and in the end it is not there", s.from, c)
	case !s.reported(e):
		s.finds("loss delivered and not reported", []int{writer}, "%s tells %q, which is not there in the end, and nobody reports that it was undone", s.from, c)
	}
}

func (d *deliveries) reported(e element) bool {
	_, undone := d.undone[e]
	return undone || d.unnamed
}

// before compares what a change says of the state before with what was told.
func (s *listener) before(c Change) {
	was, known := s.rows[c.Act.Key]
	switch {
	case c.Op == "r":
	case c.Had != (c.Op == "u") || known && !c.Had:
		s.finds("wrong state before", nil, "%s tells %q of a row of which it had told %t", s.from, c, known)
	case known && was != c.Was:
		s.finds("wrong state before", nil, "%s tells %q, and had told that the row holds %d", s.from, c, was)
	}
	s.rows[c.Act.Key] = c.Act.Value
}

// missing finds what was never told.
func (s *listener) missing() {
	for _, d := range s.due[s.next:] {
		if d.register && s.lacks(d) {
			s.finds("change never delivered", []int{d.op}, "of the %d in %s nobody told", d.value, d.key)
		}
	}
	for _, key := range s.keys {
		for _, v := range s.order[key] {
			e := element{key, v}
			writer, written := s.by[e]
			if _, kept := s.kept[e]; kept && written && s.asked(writer) && !s.has[e] && !s.blamed[e] {
				s.finds("change never delivered", []int{writer}, "of the %d in %s nobody told", v, key)
			}
		}
	}
}

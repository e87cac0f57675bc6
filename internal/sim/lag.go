package sim

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/check"
	"github.com/skeindb/skein/internal/replica"
)

// A run with a lag has one follower at a time that hears everything late, or
// whose disk is slow, and clients that go from node to node with their token
// all the time: what a level of reads promises is then kept, or seen to break.

// levels are those that clients draw from; the first is the most likely.
var levels = []string{"session", "session", "leader", "any"}

// aLevel says whether a text is a level that clients can read at.
func aLevel(text string) bool {
	if age, bounded := strings.CutPrefix(text, "bounded("); bounded {
		_, err := time.ParseDuration(strings.TrimSuffix(age, ")"))
		return err == nil && strings.HasSuffix(age, ")")
	}
	return slices.Contains(levels, text)
}

// drawLag makes a plan one whose database has a follower that lags.
func (p *plan) drawLag() {
	p.nodes, p.lease = 3, max(p.lease, 2*time.Second)
	p.tick = p.lease / 15
	policy := base.DefaultPolicy()
	p.databases = []databasePlan{{name: "main", policy: policy}}
	p.clients, p.think, p.burst, p.quiet = 5, 150*time.Millisecond, time.Hour, time.Second
}

// lagging is a nemesis' follower that lags, and until when.
type lagging struct {
	slot  *slot
	until time.Duration
}

// lagsFor is how long the same follower lags, in lags.
const lagsFor = 10

// lag has another follower lag from time to time.
func (n *nemesis) lag() {
	by := n.options.Lag
	if by == 0 || n.instants.since() < n.late.until {
		return
	}
	n.endLag()
	d := n.databases[0]
	followers := slices.DeleteFunc(n.members(), func(s *slot) bool { return n.leads(d, s) })
	if len(followers) == 0 {
		return
	}
	s := pick(n.lags, followers...)
	n.late = lagging{s, n.instants.since() + lagsFor*by}
	if n.lags.IntN(3) == 0 {
		n.event("lag", s, "its disk is slow by %v", by)
		n.slowBy(s, by)
		return
	}
	n.event("lag", s, "it hears everything %v late", by)
	n.deafen(s, by)
}

// deafen has a slot hear everything late; cuts and losses stay as they are.
func (n *nemesis) deafen(s *slot, by time.Duration) {
	n.mu.Lock()
	s.deaf = by
	n.mu.Unlock()
	for _, o := range n.members() {
		if o != s {
			n.net.SetDelay(o.id, s.id, n.delayTo(s))
		}
	}
}

func (n *nemesis) endLag() {
	if s := n.late.slot; s != nil {
		n.slowBy(s, 0)
		n.deafen(s, 0)
	}
	n.late = lagging{}
}

func (w *world) slowBy(s *slot, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.slow = d
}

// leads says whether a slot's node has the leader of a database.
func (w *world) leads(d *database, s *slot) bool {
	l := w.running(s)
	if l == nil {
		return false
	}
	r, err := l.node.Replica(d.name)
	return err == nil && r.Status().Role == replica.RoleLeader
}

// Reads are what the reads of a run at one level came to.
type Reads struct {
	Level        string
	Done, Failed int
	Median, Most time.Duration // until the answer
}

// String returns them for a person.
func (r Reads) String() string {
	return fmt.Sprintf("reads at level %s: %d done, %d failed; half of them within %v, all within %v", r.Level, r.Done, r.Failed,
		r.Median.Round(time.Microsecond), r.Most.Round(time.Microsecond))
}

// readsOf sums up the reads of a history that are operations of their own.
func readsOf(h *check.History) []Reads {
	by := make(map[string]*Reads)
	times := make(map[string][]time.Duration)
	for i := range h.Ops {
		o := &h.Ops[i]
		if o.Final || o.Writes() || o.Client == "end" {
			continue
		}
		r := by[o.Level]
		if r == nil {
			r = &Reads{Level: o.Level}
			by[o.Level] = r
		}
		if !o.Done() {
			r.Failed++
			continue
		}
		r.Done++
		times[o.Level] = append(times[o.Level], o.Return-o.Invoke)
	}
	var list []Reads
	for level, r := range by {
		if took := times[level]; len(took) > 0 {
			slices.Sort(took)
			r.Median, r.Most = took[len(took)/2], took[len(took)-1]
		}
		list = append(list, *r)
	}
	slices.SortFunc(list, func(a, b Reads) int { return cmp.Compare(a.Level, b.Level) })
	return list
}

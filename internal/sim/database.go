package sim

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/check"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/replica/leader"
)

// databasePlan is what a seed draws of one database.
type databasePlan struct {
	name   string
	policy base.Policy
}

// lossy says that a failover may lose acknowledged writes; each of them must
// then be reported.
func (p databasePlan) lossy() bool { return p.policy.AllowLoss }

// judged is the durability that the checkers hold the database to. What may
// lose nothing is judged alike, whatever followers its writes wait for.
func (p databasePlan) judged() base.Level {
	if p.lossy() {
		return base.Async
	}
	return p.policy.Durability.Level
}

// wanted is how many replicas the database has on so many nodes.
func (p databasePlan) wanted(nodes int) int {
	if p.policy.Replicas > 0 {
		return min(p.policy.Replicas, nodes)
	}
	return nodes
}

// String returns the plan for a person.
func (p databasePlan) String() string {
	text := fmt.Sprintf("%s %s, degrade after %v, retention %d", p.name, p.policy.Durability, p.policy.DegradeAfter, p.policy.RetentionBytes)
	if p.policy.LogFormat != base.FormatRow {
		text += ", log format " + p.policy.LogFormat
	}
	if p.policy.Replicas > 0 {
		text += fmt.Sprintf(", on %d nodes", p.policy.Replicas)
	}
	if p.policy.AllowLoss {
		text += ", allows loss"
	}
	return text
}

// movements are faults that plain runs do not have.
var movements = []string{"join", "leave"}

// What a durability does not cover, and so does not happen where a database has
// it. Asynchronous: a disk that is lost or damaged takes what only it held with
// it, and nobody can say what that was. Received: what a follower has in its
// memory only.
var (
	loseDisks    = []string{"rot", "replace", "leave"}
	loseMemories = []string{"crash", "kill", "blackout", "failsync", "full", "rot", "replace", "leave"}
)

func (p *plan) drop(names ...string) {
	p.faults = slices.DeleteFunc(p.faults, func(name string) bool { return slices.Contains(names, name) })
}

// drawMore draws further databases, and another durability for the first.
func (p *plan) drawMore(r *rand.Rand) {
	if r.IntN(3) == 0 {
		p.databases[0].policy = p.drawPolicy(r)
	}
	for i := range pick(r, 0, 0, 0, 1, 1, 2) {
		p.databases = append(p.databases, databasePlan{name: fmt.Sprintf("other%d", i+1), policy: p.drawPolicy(r)})
	}
	p.clients = max(p.clients, len(p.databases))
	if slices.ContainsFunc(p.databases, databasePlan.lossy) && !slices.Contains(p.faults, "isolate") && p.nodes > 1 {
		p.faults = append(p.faults, "isolate")
	}
	for _, d := range p.databases {
		switch {
		case d.policy.Durability.Level == base.Async || d.lossy():
			p.drop(loseDisks...)
		case d.policy.Durability.When == base.Received:
			p.drop(loseMemories...)
		}
	}
	if slices.Contains(p.faults, "leave") {
		p.drop("rot", "replace") // One node less is all that redundancy covers.
	}
}

func (p *plan) drawPolicy(r *rand.Rand) base.Policy {
	policy := base.DefaultPolicy()
	policy.Durability = base.Durability{Level: pick(r, base.Async, base.Async, base.One, base.Quorum, base.All), When: pick(r, base.Flushed, base.Flushed, base.Applied, base.Received)}
	policy.DegradeAfter = pick(r, 0, 0, 5*time.Second)
	if r.IntN(4) == 0 {
		policy.RetentionBytes = 64 << 10
	}
	if p.nodes > 3 && r.IntN(2) == 0 {
		policy.Replicas = 3
	}
	if level := policy.Durability.Level; level == base.Async && r.IntN(4) > 0 || level == base.One && r.IntN(2) == 0 {
		policy.AllowLoss = true
		policy.MaxLag = pick(r, 0, 0, 10*time.Second)
	}
	return policy
}

// drawFormats draws the log format of each database; half of them have row.
func (p *plan) drawFormats(o Options) {
	r := stream(o.Seed, "formats")
	for i := range p.databases {
		f := &p.databases[i].policy.LogFormat
		switch {
		case o.Format != "":
			*f = o.Format
		case !o.Plain && r.IntN(2) == 0:
			*f = pick(r, base.LogFormats...)
		}
	}
}

// database is one that clients work on, and what is known of it.
type database struct {
	databasePlan
	ended bool // its replicas were level and have been read; owned by the run's goroutine

	history check.History         // guarded by the world's mu
	leaders map[base.Epoch]string // guarded by the world's mu
}

// replicas are the slots that have one, as the cluster has it.
func (w *world) replicas(d *database) ([]*slot, error) {
	for _, s := range w.slots {
		l := w.running(s)
		if l == nil || s.gone {
			continue
		}
		db, err := l.node.Database(d.name)
		if err != nil {
			return nil, err
		}
		return w.holders(db), nil
	}
	return nil, errors.New("no node runs")
}

func (w *world) holders(db catalog.Database) (list []*slot) {
	for _, s := range w.slots {
		if !s.gone && db.HasReplica(s.id) {
			list = append(list, s)
		}
	}
	return list
}

// level says what keeps the replicas from being level.
func (w *world) level() error {
	members := 0
	for _, s := range w.slots {
		if s.gone {
			continue
		}
		members++
		l := w.running(s)
		if l == nil {
			return fmt.Errorf("%s does not run", s.name())
		}
		if err := l.node.Failure(); err != nil {
			return fmt.Errorf("%s has failed: %w", s.name(), err)
		}
	}
	for _, d := range w.databases {
		if err := w.levelOf(d, members); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	return nil
}

func (w *world) levelOf(d *database, members int) error {
	replicas, err := w.replicas(d)
	if err != nil {
		return err
	}
	if want := d.wanted(members); len(replicas) != want {
		return fmt.Errorf("%d replicas, want %d", len(replicas), want)
	}
	var end base.Position
	leads := 0
	for _, s := range replicas {
		r, err := w.running(s).node.Replica(d.name)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name(), err)
		}
		st := r.Status()
		if end == (base.Position{}) {
			end = st.Applied
		}
		if st.Role == replica.RoleLeader {
			leads++
		}
		if st.Role != replica.RoleLeader && st.Role != replica.RoleFollower || st.Error != "" || st.Applied != end || st.Appended != end {
			return fmt.Errorf("%s is %s at %s of %s, want %s: %s", s.name(), st.Role, st.Applied, st.Appended, end, st.Error)
		}
	}
	if leads != 1 {
		return fmt.Errorf("%d leaders", leads)
	}
	return nil
}

// judge reads what the replicas hold, for the checkers.
func (w *world) judge() {
	if !w.until("all replicas are level once the clients have stopped", settleWithin, w.level) {
		return
	}
	for _, d := range w.databases {
		if !w.judgeOne(d) {
			return
		}
		d.ended = true
	}
}

func (w *world) judgeOne(d *database) bool {
	replicas, err := w.replicas(d)
	if err != nil {
		w.fail("%s: %v", d.name, err)
		return false
	}
	for _, s := range replicas {
		// A damaged page that nobody has read is met now, and healed.
		if !w.until("inspect "+d.name+" on "+s.name(), settleWithin, func() error { return errors.Join(w.level(), w.inspect(d, s)) }) {
			return false
		}
	}
	if err := w.lookUp(d, replicas[len(replicas)-1]); err != nil {
		w.fail("%s: read the registers: %v", d.name, err)
	}
	if err := w.losses(d); err != nil {
		w.fail("%s: list what was undone: %v", d.name, err)
		return false
	}
	return true
}

// lookUp reads every register as it is when all is over.
func (w *world) lookUp(d *database, s *slot) error {
	c, err := w.open(s, d)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Set("skein.read", "leader"); err != nil {
		return err
	}
	began := w.instants.since()
	w.instants.sleep(time.Millisecond)
	rows, err := c.Query(w.ctx, "SELECT k, v FROM register ORDER BY k", nil)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		key, value := string(rows.Row()[0].Bytes), rows.Row()[1].Int
		if key == healed {
			continue
		}
		id := d.history.Invoke(check.Op{Client: "end", Session: "end " + d.name + " " + key, Node: s.name(), Level: "leader", Invoke: began})
		d.history.Return(id, w.instants.since(), check.Result{Outcome: base.Done, Acts: []check.Act{{Kind: check.Get, Key: key, Known: true, Saw: []int64{value}}}})
		began = w.instants.since()
		w.instants.sleep(time.Millisecond)
	}
	return rows.Err()
}

// healed is the register that no client writes.
const healed = "healed"

// inspect reads what a replica holds.
func (w *world) inspect(d *database, s *slot) error {
	l := w.running(s)
	if l == nil {
		return fmt.Errorf("it does not run")
	}
	r, err := l.node.Replica(d.name)
	if err != nil {
		return err
	}
	hash, at, err := r.ContentHash(w.ctx)
	if err != nil {
		return err
	}
	c, err := w.open(s, d)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Set("skein.read", "any"); err != nil {
		return err
	}
	rows, err := c.Query(w.ctx, "SELECT k, v FROM item ORDER BY id", nil)
	if err != nil {
		return err
	}
	defer rows.Close()
	lists := make(map[string][]int64)
	for rows.Next() {
		key := string(rows.Row()[0].Bytes)
		lists[key] = append(lists[key], rows.Row()[1].Int)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for i := range d.history.Ops {
		for _, a := range d.history.Ops[i].Acts {
			if _, known := lists[a.Key]; !known && (a.Kind == check.Append || a.Kind == check.Read) {
				lists[a.Key] = nil
			}
		}
	}
	d.history.Copies = append(d.history.Copies, check.Copy{Node: s.name(), Position: at, Hash: hash, At: w.instants.since(), Final: true})
	d.history.Final(s.name(), w.instants.since(), rows.Result().Position, lists)
	return nil
}

// acknowledgement is what the system says of a write that it undid: whether a
// client had been told that it stands.
type acknowledgement int64

const (
	unknown acknowledgement = iota // as after a power cut
	refused
	granted
)

// losses records what the system itself lists as undone. A write that several
// replicas have undone is one; what one of them knows of it counts.
func (w *world) losses(d *database) error {
	undone := make(map[base.Position][]check.Undone)
	said := make(map[base.Position]acknowledgement)
	unnamed := false
	for _, s := range w.slots {
		if s.gone {
			continue
		}
		r, err := w.running(s).node.Replica(d.name)
		if err != nil {
			continue // It has none.
		}
		orphans, err := r.Orphans(w.ctx, 1<<20)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name(), err)
		}
		for _, o := range orphans {
			at := base.Position{Epoch: o.Epoch, Seq: o.Seq}
			acts, err := appendsOf(o)
			if err != nil {
				return fmt.Errorf("%s: the write at %s: %w", s.name(), at, err)
			}
			unnamed = unnamed || o.Operation == "pages"
			if len(acts) == 0 {
				continue
			}
			undone[at] = nil
			for _, a := range acts {
				undone[at] = append(undone[at], check.Undone{Act: a, Position: at})
			}
			if o.Acknowledged.Kind == base.Integer {
				said[at] = max(said[at], refused+acknowledgement(o.Acknowledged.Int))
			}
		}
	}
	l := check.Loss{Node: "all", At: w.instants.since(), Unnamed: unnamed}
	if unnamed {
		l.Acknowledged = -1
	}
	for _, at := range slices.SortedFunc(maps.Keys(undone), earlier) {
		switch said[at] {
		case refused:
			continue
		case granted:
			if l.Acknowledged >= 0 {
				l.Acknowledged += len(undone[at])
			}
		default:
			l.Acknowledged = -1
		}
		l.Undone = append(l.Undone, undone[at]...)
	}
	d.history.Losses = append(d.history.Losses, l)
	return nil
}

// appended is how a statement that was never executed is listed: as text, with
// its parameters behind it.
var appended = regexp.MustCompile(`INSERT INTO item\(k, v\) VALUES \(\?1, \?2\) -- \("([^"]*)", (\d+)\)`)

// appendsOf are the appends that an undone write was.
func appendsOf(o leader.Orphan) (acts []check.Act, err error) {
	switch {
	case o.Operation == "insert" && o.Table == "item":
		a, err := appendOf(o.Columns, o.New)
		return []check.Act{a}, err
	case o.Operation == "statement":
		for _, found := range appended.FindAllSubmatch(o.New[0].Bytes, -1) {
			v, err := strconv.ParseInt(string(found[2]), 10, 64)
			if err != nil {
				return nil, fmt.Errorf("listed as %q: %w", found[0], err)
			}
			acts = append(acts, check.Act{Kind: check.Append, Key: string(found[1]), Value: v})
		}
	}
	return acts, nil
}

// appendOf is the act that inserted a row into the table of lists.
func appendOf(columns []string, values []base.Value) (check.Act, error) {
	key, value := slices.Index(columns, "k"), slices.Index(columns, "v")
	if key < 0 || value < 0 || key >= len(values) || value >= len(values) {
		return check.Act{}, fmt.Errorf("it has the columns %s and %d values", strings.Join(columns, " "), len(values))
	}
	return check.Act{Kind: check.Append, Key: string(values[key].Bytes), Value: values[value].Int}, nil
}

func earlier(a, b base.Position) int {
	switch {
	case a.Less(b):
		return -1
	case b.Less(a):
		return 1
	}
	return 0
}

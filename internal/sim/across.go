package sim

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/check"
	"github.com/skeindb/skein/internal/planted"
)

// In a run of several databases some clients work in two at a time. A writer asks
// in one, and answers in another with a token that has seen the question. Readers
// look for the answer, and then for the question, each with one token, at nodes
// drawn by chance: no answer is to be seen without its question.

// across names the scenario of such clients, and the stream of chance that says
// which runs of several databases have it.
const (
	across      = "across"
	acrossOneIn = 8

	firstWanderer = 1001 // its number
	correspondKey = 30 * time.Second
	looks         = 4 // of a reader for one answer
)

// acrossDrawn says whether a seed that drew several databases draws the scenario.
func acrossDrawn(o Options) bool {
	return o.Scenario == "" && !o.Apart && stream(o.Seed, across).IntN(acrossOneIn) == 0
}

// drawAcross gives a run with this scenario its second database, as the first is; in
// some, one of the two may lose writes.
func (p *plan) drawAcross(o Options) {
	if p.scenario == nil || p.scenario.name != across {
		return
	}
	p.databases = p.databases[:1:1]
	p.databases = append(p.databases, databasePlan{name: "other1", policy: p.databases[0].policy})
	p.drawLoss(o)
}

// drawLoss lets one database of a third of the runs with a scenario lose writes.
func (p *plan) drawLoss(o Options) {
	r := stream(o.Seed, "scenario with loss")
	if (o.Plain || r.IntN(3) > 0) && o.Planted != planted.SendUnannounced { // Which is no mistake elsewhere.
		return
	}
	policy := &p.databases[r.IntN(len(p.databases))].policy
	policy.Durability, policy.AllowLoss = base.Durability{Level: base.Async, When: base.Flushed}, true
	p.drop(loseDisks...)
}

// letter tells readers where an answer is, or will be, and where its question is.
type letter struct {
	key             string
	value           int64
	asked, answered *database
}

// letters is what a writer and its readers share.
type letters struct {
	mu   sync.Mutex // guards what follows
	last letter
	sent chan struct{} // closed when there is another
}

func (l *letters) send(m letter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last = m; l.sent != nil {
		close(l.sent)
	}
	l.sent = nil
}

// next is closed when there is another letter.
func (l *letters) next() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sent == nil {
		l.sent = make(chan struct{})
	}
	return l.sent
}

func (l *letters) read() letter {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// correspond has a writer and readers work in several databases, if there are.
func (w *world) correspond(ctx context.Context, clients *sync.WaitGroup) {
	if len(w.databases) < 2 || w.options.Apart {
		return
	}
	writer := w.newWanderer(0)
	clients.Go(func() { writer.bursts(ctx, writer.askAndAnswer) })
	readers := 1
	if w.plan.scenario != nil {
		readers = 3
	}
	for i := range readers {
		reader := w.newWanderer(1 + i)
		clients.Go(func() { reader.follow(ctx) })
	}
}

func (w *world) newWanderer(i int) *client {
	number := firstWanderer + i
	return &client{
		world: w, kind: "x", database: w.databases[0], number: number, habit: habit{aimed: w.plan.scenario != nil, wanders: true},
		random: stream(w.options.Seed, fmt.Sprint(across, " ", i)), value: int64(number) * maxValues,
	}
}

// in goes to a database, at a node drawn by chance, and runs steps there with what
// it has seen: several in a transaction, and one now and then. It returns what the
// client was told.
func (c *client) in(ctx context.Context, d *database, steps ...step) reply {
	c.leave()
	c.database = d
	c.pause(ctx, 1) // In an instant of its own, which tells the order of two databases' operations.
	if !c.connect(ctx) {
		return reply{}
	}
	return c.perform(len(steps) > 1 || c.random.IntN(3) == 0, steps...)
}

// appending writes a value, at times in a transaction that looks at the list first.
func (c *client) appending(key string, value int64) []step {
	steps := []step{c.appendValue(key, value)}
	if c.random.IntN(4) == 0 {
		steps = append([]step{c.read(key)}, steps...)
	}
	return steps
}

// askAndAnswer writes a question and its answer. Who answers has read the
// question, or goes on from the token of who asked.
func (c *client) askAndAnswer(ctx context.Context) {
	from := c.random.IntN(len(c.world.databases))
	to := (from + 1 + c.random.IntN(len(c.world.databases)-1)) % len(c.world.databases)
	m := letter{
		key: fmt.Sprintf("x%d", c.window(correspondKey)), value: c.next(),
		asked: c.world.databases[from], answered: c.world.databases[to],
	}
	if c.random.IntN(3) > 0 {
		c.token = ""
	}
	if c.in(ctx, m.asked, c.appending(m.key, m.value)...).Outcome != base.Done {
		return
	}
	if c.random.IntN(2) == 0 {
		c.token = "" // Somebody else.
		if !c.in(ctx, m.asked, c.read(m.key)).saw(m.value) {
			return
		}
	}
	early := c.random.IntN(2) == 0
	if early {
		c.world.letters.send(m)
	}
	c.in(ctx, m.answered, c.appending(m.key, m.value)...)
	if !early {
		c.world.letters.send(m)
	}
}

// saw says whether an operation that is done was a read of a value.
func (r reply) saw(v int64) bool {
	return r.Outcome == base.Done && len(r.Acts) > 0 && slices.Contains(r.Acts[0].Saw, v)
}

// follow looks for answers and their questions until ctx is done.
func (c *client) follow(ctx context.Context) {
	defer c.leave()
	for ctx.Err() == nil {
		select {
		case <-c.world.letters.next():
			c.look(ctx, c.world.letters.read())
		case <-ctx.Done():
		}
	}
}

// look looks for one answer, and when it sees that for the question.
func (c *client) look(ctx context.Context, m letter) {
	if c.random.IntN(4) == 0 {
		c.token = "" // Somebody who knows nothing.
	}
	for range looks {
		c.pause(ctx, c.spread(2*(c.world.plan.delay+c.world.plan.jitter)))
		if c.in(ctx, m.answered, c.read(m.key)).saw(m.value) {
			c.in(ctx, m.asked, c.read(m.key))
			return
		}
	}
}

// judgeAcross has the checker look at what was seen in several databases.
func (r *Result) judgeAcross() {
	var parts []check.Part
	for _, d := range r.Databases {
		if !d.ended {
			return
		}
		parts = append(parts, check.Part{Name: d.Name, History: d.History})
	}
	h := check.Together(parts)
	q, found := check.Across(h)
	r.Counts.Met, r.Counts.Gone = q.Met, q.Lost
	for _, f := range found {
		r.Failures = append(r.Failures, f.Report(h))
	}
}

// lose cuts a leader off that goes on to take writes until its lease ends: what it
// has acknowledged meanwhile is lost.
func (n *nemesis) lose(l *slot) {
	n.cutBeyondLease(l, n.without(l))
	n.pass(n.about(2 * time.Second))
}

// outrun has an answer come to a node before its question: what the leader of one
// database sends to that node takes long, and what the other's sends does not.
// Sometimes the leader of the question fails meanwhile, or the late node takes
// over the answers.
func (n *nemesis) outrun() {
	for _, d := range n.databases {
		if l := n.leaderOf(d); d.lossy() && l != nil && n.random.IntN(2) == 0 {
			n.lose(l)
			return
		}
	}
	questions, answers := n.databases[0], n.databases[len(n.databases)-1]
	if n.random.IntN(2) == 0 {
		questions, answers = answers, questions
	}
	q := n.leaderOf(questions)
	if q == nil {
		return
	}
	if a := n.leaderOf(answers); a == q || a == nil {
		if !n.hand(answers, n.without(q)[0]) {
			return
		}
	}
	a := n.leaderOf(answers)
	rest := n.without(q, a)
	if a == nil || len(rest) == 0 {
		return
	}
	late := rest[0]
	calm := n.slowLinks([]*slot{q}, []*slot{late}, n.about(n.plan.lease/4))
	n.event("lag", late, "what %s sends it takes long", q.name())
	n.pass(n.about(4 * time.Second))
	switch n.random.IntN(4) {
	case 0:
		n.acknowledged()
		n.powerCut(q)
		n.backLater(q)
	case 1:
		n.hand(answers, late)
		n.pass(n.about(2 * time.Second))
	}
	calm()
	n.pass(n.about(2 * time.Second))
}

package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/check"
	"github.com/skeindb/skein/internal/session"
)

// client works on the database through one session at a time.
type client struct {
	world    *world
	kind     string // the beginning of its name
	database *database
	number   int
	renames  int
	random   *rand.Rand
	habit    habit
	slot     *slot
	life     *life // whose session it is
	session  session.Session
	token    string
	group    int // counts sessions that do not continue one another
	level    string
	value    int64 // the last one written; those of different clients differ
}

// The client's tables. Ids are handed out by SQLite, so that one that is used
// twice shows.
var schema = []string{
	"CREATE TABLE item(id INTEGER PRIMARY KEY AUTOINCREMENT, k TEXT NOT NULL, v INTEGER NOT NULL)",
	"CREATE INDEX item_by_key ON item(k)",
	"CREATE TABLE register(k TEXT PRIMARY KEY, v INTEGER NOT NULL)",
}

const (
	patience  = 30 * time.Second // of a client with one statement
	maxValues = 1 << 32          // of one client
)

func (w *world) newClient(number int) *client {
	return &client{world: w, kind: "c", database: w.databases[number%len(w.databases)], number: number, habit: w.plan.habit(number), random: stream(w.options.Seed, fmt.Sprint("client ", number)), value: int64(number) * maxValues}
}

func (c *client) name() string {
	if c.renames == 0 {
		return fmt.Sprintf("%s%d", c.kind, c.number)
	}
	return fmt.Sprintf("%s%d.%d", c.kind, c.number, c.renames)
}

// work runs bursts of operations until ctx is done.
func (c *client) work(ctx context.Context) { c.bursts(ctx, c.once) }

// bursts runs something again and again, and rests in between, until ctx is done.
func (c *client) bursts(ctx context.Context, once func(ctx context.Context)) {
	defer c.leave()
	p := c.world.plan
	if c.habit.aimed {
		c.pause(ctx, c.spread(time.Second)) // There are many: they do not all begin at one instant.
	}
	for ctx.Err() == nil {
		for end := c.world.instants.since() + c.spread(p.burst); (c.world.instants.since() < end || c.drilled()) && ctx.Err() == nil; {
			once(ctx)
			c.pause(ctx, c.spread(c.think()))
		}
		c.rest(ctx, c.spread(p.quiet))
	}
}

// rest is a quiet time, which a fault may end.
func (c *client) rest(ctx context.Context, d time.Duration) {
	curious := c.random.IntN(3) == 0 || c.habit.aimed || c.database.lossy()
	t := time.NewTimer(c.world.instants.wait(d))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-c.world.nextTrouble():
		if curious {
			c.pause(ctx, c.spread(c.think()))
			if c.database.lossy() {
				c.leave() // It looks for the leader that may be cut off.
			}
			return
		}
		c.pause(ctx, d)
	}
}

// think is the time between two operations. Who may lose writes writes fast: a
// leader that is cut off has until the end of its lease.
func (c *client) think() time.Duration {
	think := c.world.plan.think
	switch {
	case c.habit.wanders && !c.habit.aimed:
		return 2 * think // What it does at a time is several operations, and others follow it.
	case c.database.lossy():
		return min(think, 150*time.Millisecond)
	}
	return think
}

func (c *client) spread(d time.Duration) time.Duration {
	return time.Duration(c.random.ExpFloat64() * float64(d))
}

func (c *client) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(c.world.instants.wait(d))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// leave gives the session up without waiting for it: what it still does ends
// with its node.
func (c *client) leave() {
	if s := c.session; s != nil {
		c.world.tasks.Go(func() { _ = s.Close() })
	}
	c.session, c.life = nil, nil
}

// connect sees to a session with a node that runs.
func (c *client) connect(ctx context.Context) bool {
	if c.session != nil && !c.lost() && c.suits(c.slot) && c.random.IntN(c.world.stays()) != 0 {
		return true
	}
	c.leave()
	l := c.choose()
	if l == nil {
		return false
	}
	s, err := l.node.Gateway().Open(ctx, session.Options{Trusted: true, Database: c.database.name, FrontEnd: "sim"})
	if err != nil {
		return false
	}
	c.life, c.slot, c.session = l, l.slot, s
	c.level = pick(c.random, c.levels()...)
	if level := c.world.options.Level; level != "" {
		c.level = level
	}
	if c.token != "" && c.continues() {
		err = s.Set("skein.token", c.token)
	} else {
		c.group++
	}
	if err == nil {
		err = s.Set("skein.read", c.level)
	}
	if err == nil {
		err = s.Set("skein.statement_timeout", c.timeout())
	}
	if err != nil {
		c.world.fail("%s: open a session: %v", c.name(), err)
	}
	return err == nil
}

// continues draws whether another session goes on from what the last has seen.
// Under a lag it does; but what has seen much is hardly ever old, so that half of
// the bounded sessions know nothing.
func (c *client) continues() bool {
	switch {
	case c.habit.wanders:
		return true
	case c.world.options.Lag == 0:
		return c.random.IntN(3) > 0
	case strings.HasPrefix(c.level, "bounded"):
		return c.random.IntN(2) == 0
	}
	return true
}

// stays is how many operations clients do with one node, on average.
func (w *world) stays() int {
	if w.options.Lag > 0 {
		return 2
	}
	return 20
}

func (c *client) lost() bool {
	return c.world.isDead(c.life)
}

func (c *client) choose() *life {
	up := slices.DeleteFunc(c.world.up(), func(l *life) bool { return !c.suits(l.slot) })
	if len(up) == 0 {
		return nil
	}
	if c.database.lossy() && c.random.IntN(2) == 0 {
		// What is lost was written where a leader is cut off.
		if i := slices.IndexFunc(up, c.leads); i >= 0 {
			return up[i]
		}
	}
	return up[c.random.IntN(len(up))]
}

// up are the nodes that clients can connect to.
func (w *world) up() (list []*life) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.slots {
		if s.life != nil && s.life.node != nil && !s.gone {
			list = append(list, s.life)
		}
	}
	return list
}

// leads says whether a node has the leader of the client's database.
func (c *client) leads(l *life) bool { return c.world.leads(c.database, l.slot) }

// window is the number of the current stretch of time: keys live in one, so
// that lists stay short.
func (c *client) window(d time.Duration) int { return int(c.world.instants.since() / d) }

func (c *client) listKey() string {
	return fmt.Sprintf("l%d.%d", c.window(30*time.Second), c.random.IntN(3))
}

func (c *client) registerKey() string {
	return fmt.Sprintf("r%d.%d", c.window(c.world.plan.register), c.random.IntN(3))
}

func (c *client) next() int64 {
	c.value++
	return c.value
}

// step is a statement of an operation and the act that it is.
type step struct {
	act check.Act
	sql string
	arg []base.Value
}

func (c *client) append(key string) step { return c.appendValue(key, c.next()) }

func (c *client) appendValue(key string, v int64) step {
	return step{check.Act{Kind: check.Append, Key: key, Value: v}, "INSERT INTO item(k, v) VALUES (?1, ?2)", []base.Value{base.TextValue(key), base.IntValue(v)}}
}

func (c *client) read(key string) step {
	return step{check.Act{Kind: check.Read, Key: key}, "SELECT v FROM item WHERE k = ?1 ORDER BY id", []base.Value{base.TextValue(key)}}
}

func (c *client) write(key string) step {
	v := c.next()
	return step{check.Act{Kind: check.Write, Key: key, Value: v}, "INSERT INTO register VALUES (?1, ?2) ON CONFLICT (k) DO UPDATE SET v = excluded.v", []base.Value{base.TextValue(key), base.IntValue(v)}}
}

func (c *client) get(key string) step {
	return step{check.Act{Kind: check.Get, Key: key}, "SELECT v FROM register WHERE k = ?1", []base.Value{base.TextValue(key)}}
}

// once runs one operation, drawn at random.
func (c *client) once(ctx context.Context) {
	if !c.connect(ctx) {
		return
	}
	switch n := c.random.IntN(100); {
	case c.habit.stays && n < 50:
		c.perform(false, c.get(c.registerKey()))
	case c.habit.stays:
		c.perform(false, c.read(c.listKey()))
	case n < 40:
		c.perform(false, c.append(c.listKey()))
	case n < 55:
		c.perform(false, c.write(c.registerKey()))
	case n < 70:
		c.perform(false, c.get(c.registerKey()))
	case n < 85:
		c.perform(false, c.read(c.listKey()))
	default:
		var steps []step
		for range 2 + c.random.IntN(3) {
			if c.random.IntN(2) == 0 {
				steps = append(steps, c.read(c.listKey()))
			} else {
				steps = append(steps, c.append(c.listKey()))
			}
		}
		c.perform(true, steps...)
	}
}

// perform runs an operation, records it and returns what the client was told. It
// waits for the end, but not longer than a client would, nor for a node that is
// no more.
func (c *client) perform(transaction bool, steps ...step) reply {
	w := c.world
	op := check.Op{
		Client: c.name(), Session: fmt.Sprintf("%s%d-%d", c.kind, c.number, c.group), Node: c.slot.name(), Level: c.level,
		Durability: c.database.judged(), Invoke: w.instants.since(),
	}
	for _, s := range steps {
		op.Acts = append(op.Acts, s.act)
	}
	w.mu.Lock()
	id := c.database.history.Invoke(op)
	w.mu.Unlock()
	done := make(chan reply, 1)
	s := c.session
	w.tasks.Go(func() {
		done <- execute(s, transaction, steps)
		close(done) // abandon waits for it even when the reply came too late.
	})
	limit := time.NewTimer(w.instants.wait(patience))
	defer limit.Stop()
	select {
	case r := <-done:
		if !c.lost() {
			c.record(id, r)
			return r
		}
		// Its node died just then, and nobody was told.
	case <-c.life.died:
	case <-limit.C:
		w.trace.add("op %d of %s has not ended within %v", id, c.name(), patience)
		s.Cancel()
	}
	c.abandon(id, done)
	return reply{Result: check.Result{Outcome: base.Indeterminate}}
}

// abandon goes on without knowing what has become of an operation.
func (c *client) abandon(id int, done chan reply) {
	c.world.trace.add("op %d of %s is given up", id, c.name())
	c.world.mu.Lock()
	c.world.counts.Unknown++
	c.world.mu.Unlock()
	s := c.session
	c.session, c.life = nil, nil
	c.renames++
	c.world.tasks.Go(func() {
		<-done
		_ = s.Close()
	})
}

func (c *client) record(id int, r reply) {
	w, history := c.world, &c.database.history
	w.mu.Lock()
	history.Return(id, w.instants.since(), r.Result)
	line := history.Ops[id].String()
	switch history.Ops[id].Outcome {
	case base.Done:
		w.counts.Done++
		if history.Ops[id].Writes() && c.database == w.databases[0] {
			close(w.told)
			w.told = make(chan struct{})
		}
	case base.NotDone:
		w.counts.Failed++
	default:
		w.counts.Unknown++
	}
	w.mu.Unlock()
	if r.Token != "" {
		c.token = r.Token
	}
	w.trace.add("op %s", line)
	if r.kind == base.KindHistoryLost {
		c.forget()
		return
	}
	if r.Outcome != base.Done && c.random.IntN(2) == 0 {
		c.leave()
	}
}

// forget ends a session that has seen what a failover has undone: the next one
// goes on from what there is. Only where loss is allowed may that be.
func (c *client) forget() {
	if !c.database.lossy() {
		c.world.fail("%s: a failover has undone what the session had seen in %s, which loses nothing", c.name(), c.database.name)
	}
	c.leave()
	c.token = ""
}

// reply is what an operation came to.
type reply struct {
	check.Result
	kind base.Kind // of its error
}

// execute runs the steps of an operation, all in one transaction or the only
// one by itself.
func execute(s session.Session, transaction bool, steps []step) reply {
	acts := make([]check.Act, len(steps))
	for i := range steps {
		acts[i] = steps[i].act
	}
	r := reply{Result: check.Result{Outcome: base.Done, Acts: acts}}
	if transaction {
		if _, err := run(s, step{sql: "BEGIN"}, nil); err != nil {
			return failed(r, err, true)
		}
	}
	for i := range steps {
		result, err := run(s, steps[i], &acts[i])
		if err != nil {
			if transaction {
				_, _ = run(s, step{sql: "ROLLBACK"}, nil) // it is over either way
			}
			return failed(r, err, transaction)
		}
		r.Position = result.Position
	}
	if transaction {
		result, err := run(s, step{sql: "COMMIT"}, nil)
		if err != nil {
			_, _ = run(s, step{sql: "ROLLBACK"}, nil)
			return failed(r, err, false)
		}
		r.Position = result.Position
	}
	r.Token, _ = s.Show(context.Background(), "skein.token")
	return r
}

// failed says what came of an operation that ended with an error; a
// transaction that was not to commit has certainly not.
func failed(r reply, err error, certainly bool) reply {
	r.Outcome, r.Error, r.kind = base.AsError(err).Outcome, err.Error(), base.KindOf(err)
	if certainly || r.Outcome == "" {
		r.Outcome = base.NotDone
	}
	return r
}

// run runs one statement and notes what a reading one saw.
func run(s session.Session, st step, act *check.Act) (session.Result, error) {
	rows, err := s.Query(context.Background(), st.sql, st.arg)
	if err != nil {
		return session.Result{}, err
	}
	var saw []int64
	for rows.Next() {
		saw = append(saw, rows.Row()[0].Int)
	}
	if err := rows.Err(); err != nil {
		_ = rows.Close()
		return session.Result{}, err
	}
	result := rows.Result()
	if act != nil && !act.Writes() {
		act.Known, act.Saw = true, saw
	}
	return result, rows.Close()
}

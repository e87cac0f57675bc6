package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/check"
)

// In some runs somebody subscribes to the changes of each database: a webhook
// delivers them to an HTTP server of the simulated world, and a reader of the
// stream of changes goes from node to node. What they take goes into the history.
// When the system says that it can't go on (the log was trimmed, a failover has
// lost what was told), the subscriber begins anew, with a snapshot.

const (
	deliver         = "deliver" // the scenario that is about them
	subscribedOneIn = 2

	arriveWithin = 2 * time.Minute // once all is healed
	lookEvery    = 8 * time.Second // of who looks after a webhook
)

// changed are the tables that subscribers want.
var changed = []string{"item", "register"}

// drawSubscribers draws whether a run has subscribers.
func (p *plan) drawSubscribers(o Options) {
	aimed := p.scenario != nil && p.scenario.name == deliver
	if aimed {
		p.drawLoss(o)
	}
	p.subscribed = aimed || !o.Plain && !o.Unheard && stream(o.Seed, "subscribers").IntN(subscribedOneIn) == 0
}

// subscriber is one stream and who takes it.
type subscriber struct {
	world    *world
	database *database
	name     string
	random   *rand.Rand // of the goroutine that sees to it

	// The world's mu guards what follows.
	chance  *rand.Rand
	stream  int   // its index in the history
	partial bool  // it is amid a snapshot
	healed  int64 // what the register that no client writes held last
}

// newSubscriber notes that a stream is asked for.
func (w *world) newSubscriber(d *database, name string, snapshot bool) *subscriber {
	s := &subscriber{world: w, database: d, name: name, random: stream(w.options.Seed, name), chance: stream(w.options.Seed, name+" taken")}
	now := w.instants.since()
	w.mu.Lock()
	defer w.mu.Unlock()
	s.stream = len(d.history.Streams)
	d.history.Streams = append(d.history.Streams, check.Stream{Name: name, From: now, Until: check.Never, Over: check.Never, Snapshot: snapshot})
	w.subscribers = append(w.subscribers, s)
	return s
}

// granted notes that the stream that was asked for is there.
func (s *subscriber) granted() {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	if u := &s.database.history.Streams[s.stream].Until; *u == check.Never {
		*u = s.world.instants.since()
	}
}

// over notes that the subscriber gives the stream up.
func (s *subscriber) over(why base.Kind) {
	s.world.trace.add("%s is given up: %s", s.name, why)
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	st := &s.database.history.Streams[s.stream]
	st.Over, st.Why = s.world.instants.since(), string(why)
	s.world.counts.Renewed++
	s.world.subscribers = slices.DeleteFunc(s.world.subscribers, func(o *subscriber) bool { return o == s })
}

// take records what was delivered at once.
func (s *subscriber) take(node string, list []changefeed.Envelope) {
	w := s.world
	d := check.Delivery{Stream: s.name, Node: node, At: w.instants.since()}
	partial, last := false, int64(0)
	for i := range list {
		if list[i].Op == string(changefeed.Schema) {
			continue
		}
		c, err := changeOf(&list[i])
		if err != nil {
			w.fail("%s was told %s by %s: %v", s.name, list[i].ID, node, err)
			return
		}
		if partial = list[i].Source.Snapshot == "true"; c.Act.Key == healed {
			last = max(last, c.Act.Value)
			continue
		}
		d.Changes = append(d.Changes, c)
	}
	w.trace.add("%s takes %d changes from %s", s.name, len(list), node)
	w.mu.Lock()
	defer w.mu.Unlock()
	s.partial, s.healed = partial, max(s.healed, last)
	if len(d.Changes) > 0 {
		s.database.history.Deliveries = append(s.database.history.Deliveries, d)
		w.counts.Delivered += len(d.Changes)
	}
}

// changeOf is an event as the checkers know it.
func changeOf(e *changefeed.Envelope) (c check.Change, err error) {
	if c.Position, c.Row, err = check.ParseID(e.ID); err != nil {
		return c, err
	}
	c.Op = e.Op
	key, value, ok := keyAndValue(e.After)
	if _, c.Was, c.Had = keyAndValue(e.Before); !ok || c.Had != (e.Before != nil) || e.Source.LSN != c.Position.String() {
		return c, fmt.Errorf("it is %+v", *e)
	}
	switch e.Source.Table {
	case "item":
		c.Act = check.Act{Kind: check.Append, Key: key, Value: value}
	case "register":
		c.Act = check.Act{Kind: check.Write, Key: key, Value: value}
	default:
		return c, errors.New("of a table that nobody asked for")
	}
	if c.Op == "c" || c.Op == "u" || c.Op == "r" {
		return c, nil
	}
	return c, fmt.Errorf("operation %q, which no client does", c.Op)
}

// keyAndValue are those of a row of either table.
func keyAndValue(r changefeed.Row) (key string, value int64, ok bool) {
	found := 0
	for _, f := range r {
		switch f.Name {
		case "k":
			key, found = string(f.Value.Bytes), found+1
		case "v":
			value, found = f.Value.Int, found+1
		}
	}
	return key, value, found == 2
}

// subscribe has the changes of each database taken until ctx is done.
func (w *world) subscribe(ctx context.Context, all *sync.WaitGroup) {
	if !w.plan.subscribed {
		return
	}
	for _, d := range w.databases {
		all.Go(func() { w.tend(ctx, d) })
		all.Go(func() { w.read(ctx, d) })
	}
}

// arrive waits, once all is healed and the clients have stopped, until every
// subscriber has what was written last.
func (w *world) arrive() {
	if !w.plan.subscribed {
		return
	}
	for _, d := range w.databases {
		var last int64
		wrote := func() (err error) {
			last, err = w.tryWrite(d, w.slots[0])
			return err
		}
		if w.until("a last write in "+d.name, time.Minute, wrote) {
			w.until("every subscriber of "+d.name+" has the last write", arriveWithin, func() error { return w.arrived(d, last) })
		}
	}
}

func (w *world) arrived(d *database, last int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, s := range w.subscribers {
		if s.database != d {
			continue
		}
		n++
		if s.partial || s.healed < last {
			return fmt.Errorf("%s has %d of %d, amid a snapshot: %t", s.name, s.healed, last, s.partial)
		}
	}
	if n != 2 {
		return fmt.Errorf("there are %d subscribers, not two", n)
	}
	return nil
}

// anyLife draws a node that runs; nil: none does.
func (w *world) anyLife(r *rand.Rand) *life {
	up := w.up()
	if len(up) == 0 {
		return nil
	}
	return up[r.IntN(len(up))]
}

// idle waits; false: ctx is done.
func (w *world) idle(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(w.instants.wait(d))
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

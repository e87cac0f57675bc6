package sim

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/node"
	"github.com/skeindb/skein/internal/webhook"
)

// mood is how a destination of webhooks deals with those who call.
type mood int

// The moods.
const (
	willing   mood = iota
	slow           // takes the batch, and answers late; at times too late
	refusing       // answers 500, and has taken the batch at times all the same
	away           // refuses connections
	silent         // never answers
	forgetful      // takes the batch, and its answer is lost
)

var bad = []mood{slow, refusing, away, silent, forgetful}

// destination is an HTTP server that a webhook delivers to.
type destination struct {
	*subscriber
	secret string

	// The world's mu guards what follows.
	mood   mood
	forced bool // by a drill: it does not change by itself
}

// tend sees to a webhook of a database until ctx is done, as an operator would: it
// makes one, and another when the system says that it can't go on.
func (w *world) tend(ctx context.Context, d *database) {
	for number := 1; ; number++ {
		name := fmt.Sprintf("%s-hook-%d", d.name, number)
		random := stream(w.options.Seed, name+" snapshot")
		snapshot := number > 1 || random.IntN(2) == 0
		t := &destination{subscriber: w.newSubscriber(d, name, snapshot), secret: "of " + name}
		w.open80(t)
		w.tasks.Go(func() { t.moods(ctx) })
		made := w.ask(ctx, t.subscriber, base.KindExists, func(ctx context.Context, n *node.Node) error {
			_, err := n.AddWebhook(ctx, d.name, node.NewWebhook{Name: name, URL: "http://" + name + "/in", Tables: changed, Snapshot: snapshot, Secret: t.secret})
			return err
		})
		if !made {
			return
		}
		t.granted()
		why := t.watch(ctx)
		if why == "" {
			return
		}
		t.over(why)
		dropped := w.ask(ctx, t.subscriber, base.KindNotFound, func(ctx context.Context, n *node.Node) error {
			return n.DropWebhook(ctx, d.name, name)
		})
		if !dropped {
			return
		}
	}
}

// open80 lets a destination be called by its name.
func (w *world) open80(t *destination) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.destinations = append(w.destinations, t)
}

// ask asks one node after the other until one has done what is asked, or says of
// it what means that another has; false: ctx is done.
func (w *world) ask(ctx context.Context, s *subscriber, also base.Kind, f func(ctx context.Context, n *node.Node) error) bool {
	for ctx.Err() == nil {
		if l := w.anyLife(s.random); l != nil {
			limited, cancel := context.WithTimeout(ctx, w.instants.wait(20*time.Second))
			err := f(limited, l.node)
			cancel()
			w.trace.add("%s, asked of %s: %v", s.name, l.slot.name(), err)
			if err == nil || base.KindOf(err) == also {
				return true
			}
		}
		w.idle(ctx, 3*time.Second)
	}
	return false
}

// watch returns when the node that delivers says twice in a row that it can't go
// on, and why; "" when ctx is done.
func (t *destination) watch(ctx context.Context) base.Kind {
	before := base.Kind("")
	for t.world.idle(ctx, lookEvery) {
		why := t.stuck()
		if why != "" && why == before {
			return why
		}
		before = why
	}
	return ""
}

// stuck is what the node that delivers says of the webhook, if that ends it.
func (t *destination) stuck() base.Kind {
	for _, l := range t.world.up() {
		for _, d := range l.node.Deliveries(t.database.name) {
			for _, kind := range []base.Kind{base.KindHistoryLost, base.KindTrimmed} {
				if d.Webhook == t.name && strings.Contains(d.LastError, string(kind)) {
					return kind
				}
			}
		}
	}
	return ""
}

// moods has the destination fail from time to time, until all is healed.
func (t *destination) moods(ctx context.Context) {
	r := stream(t.world.options.Seed, t.name+" moods")
	for {
		good := time.Duration(r.ExpFloat64() * float64(45*time.Second))
		if !t.world.idle(ctx, good) || !t.turn(pick(r, bad...), false) {
			return
		}
		if !t.world.idle(ctx, between(r, time.Second, time.Minute)) || !t.turn(willing, false) {
			return
		}
	}
}

// turn changes the mood; false: all is healed, and it stays as it is.
func (t *destination) turn(to mood, forced bool) bool {
	t.world.mu.Lock()
	defer t.world.mu.Unlock()
	if t.forced && !forced || t.world.calm {
		return !t.world.calm
	}
	t.mood = to
	return true
}

func (t *destination) now() mood {
	t.world.mu.Lock()
	defer t.world.mu.Unlock()
	return t.mood
}

// street is the network as one life of a node sees it: it leads to destinations.
type street struct {
	world *world
	life  *life
}

// Listen implements env.Net.
func (street) Listen(context.Context, string) (net.Listener, error) {
	return nil, syscall.EADDRNOTAVAIL
}

// Dial implements env.Net.
func (s street) Dial(ctx context.Context, address string) (net.Conn, error) {
	s.life.gate.pass()
	t := s.world.destination(strings.TrimSuffix(address, ":80"))
	if t == nil || s.world.isDead(s.life) {
		return nil, syscall.EHOSTUNREACH
	}
	s.world.instants.sleep(s.world.plan.delay)
	if t.now() == away {
		return nil, syscall.ECONNREFUSED
	}
	here, there := net.Pipe()
	s.world.tasks.Go(func() { t.serve(there) })
	return &line{Conn: here, street: s}, nil
}

func (w *world) destination(name string) *destination {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.destinations {
		if t.name == name {
			return t
		}
	}
	return nil
}

// line is a node's end of a connection. What is left of a killed process sends
// nothing, and one that is paused neither sends nor hears.
type line struct {
	net.Conn
	street street
}

// Read implements net.Conn.
func (l *line) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	l.street.life.gate.pass()
	return n, err
}

// Write implements net.Conn.
func (l *line) Write(p []byte) (int, error) {
	l.street.life.gate.pass()
	if l.street.world.isDead(l.street.life) {
		_ = l.Close()
		return 0, syscall.EPIPE
	}
	return l.Conn.Write(p)
}

// serve answers on one connection until that breaks.
func (t *destination) serve(c net.Conn) {
	defer c.Close()
	for in := bufio.NewReader(c); ; {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // The sender is gone.
		}
		status := t.answer(r, body)
		if status == 0 {
			return
		}
		if _, err := fmt.Fprintf(c, "HTTP/1.1 %d %s\r\nContent-Length: 0\r\n\r\n", status, http.StatusText(status)); err != nil {
			return
		}
	}
}

// answer is the status that a request is answered with; 0: none comes.
func (t *destination) answer(r *http.Request, body []byte) int {
	w := t.world
	w.instants.sleep(w.plan.delay)
	w.mu.Lock()
	now, takes, late := t.mood, t.chance.IntN(8) == 0, between(t.chance, 100*time.Millisecond, time.Minute)
	w.mu.Unlock()
	switch {
	case now == silent || now == away:
		w.instants.sleep(time.Minute)
		return 0
	case now == refusing && !takes:
		return http.StatusInternalServerError
	}
	t.accept(r, body)
	switch now {
	case refusing:
		return http.StatusInternalServerError
	case forgetful:
		return 0
	case slow:
		w.instants.sleep(late)
	}
	return http.StatusNoContent
}

// accept takes a batch.
func (t *destination) accept(r *http.Request, body []byte) {
	if r.Header.Get(webhook.SignatureHeader) != webhook.Sign(t.secret, r.Header.Get(webhook.TimestampHeader), body) {
		t.world.fail("%s: a delivery is not signed with its secret", t.name)
	}
	var list []changefeed.Envelope
	for text := range strings.Lines(string(body)) {
		var e changefeed.Envelope
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			t.world.fail("%s was sent %q: %v", t.name, text, err)
			return
		}
		list = append(list, e)
	}
	from := "?"
	if len(list) > 0 {
		from = list[0].Source.Node
	}
	t.take(from, list)
}

// fulfil has the destination of the first database fail while its leader does: by
// what the leader has sent and was not answered the next one must go on.
func (n *nemesis) fulfil() {
	n.mu.Lock()
	var t *destination
	for _, o := range n.destinations {
		if o.database == n.databases[0] {
			t = o
		}
	}
	n.mu.Unlock()
	l := n.leader()
	if t == nil || l == nil {
		return
	}
	if n.databases[0].lossy() && n.random.IntN(2) == 0 {
		n.tellAndLose(l)
		return
	}
	to := pick(n.random, bad...)
	n.event("destination", nil, "%s is in mood %d", t.name, to)
	n.force(t, to, true)
	n.pass(n.about(4 * time.Second))
	switch rest := n.without(l); n.random.IntN(4) {
	case 0:
		n.powerCut(l)
		n.backLater(l)
	case 1:
		n.cutBeyondLease(l, rest)
	case 2:
		n.hand(n.databases[0], rest[0])
	default:
		n.event("kill", l, "process killed")
		n.kill(l, false)
		n.backLater(l)
	}
	n.force(t, willing, false)
	n.pass(n.about(4 * time.Second))
}

// tellAndLose has a leader deliver what its followers do not have yet, and die.
func (n *nemesis) tellAndLose(l *slot) {
	rest := n.without(l)
	calm := n.slowLinks([]*slot{l}, rest, n.plan.lease/4)
	n.event("lag", l, "what it sends to %s takes long", names(rest))
	n.pass(n.about(3 * time.Second))
	n.acknowledged()
	n.pass(n.plan.lease / 8)
	n.powerCut(l)
	n.backLater(l)
	calm()
	n.pass(n.about(4 * time.Second))
}

// force puts a destination into a mood.
func (n *nemesis) force(t *destination, to mood, forced bool) {
	t.turn(to, true)
	n.mu.Lock()
	t.forced = forced
	n.mu.Unlock()
}

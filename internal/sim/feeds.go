package sim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
)

const (
	feedBeat    = 2 * time.Second
	feedBatch   = 20
	trimmedOnce = 6 // how often in a row a reader is told so, at nodes drawn by chance, before it begins anew
)

// read follows the stream of changes of a database until ctx is done: it goes on at
// the last offset, at another node, when the stream breaks off and now and then.
func (w *world) read(ctx context.Context, d *database) {
	for number := 1; ctx.Err() == nil; number++ {
		name := fmt.Sprintf("%s-feed-%d", d.name, number)
		now := number == 1 && stream(w.options.Seed, name+" snapshot").IntN(2) == 0
		f := &reader{subscriber: w.newSubscriber(d, name, !now), now: now}
		if why := f.follow(ctx); why != "" {
			f.over(why)
		}
	}
}

// reader is a stream of changes that goes on at its offset.
type reader struct {
	*subscriber
	now bool

	mu     sync.Mutex // guards offset
	offset string
}

// follow returns why the stream can't go on; "" when ctx is done.
func (f *reader) follow(ctx context.Context) base.Kind {
	trimmed := 0
	for f.world.idle(ctx, time.Duration(f.random.ExpFloat64()*float64(2*time.Second))) {
		l := f.world.anyLife(f.random)
		if l == nil {
			continue
		}
		before := f.last()
		err := f.at(ctx, l)
		if f.last() != before {
			trimmed = 0
		}
		f.world.trace.add("%s at %s ended: %v", f.name, l.slot.name(), err)
		switch base.KindOf(err) {
		case base.KindHistoryLost:
			return base.KindHistoryLost
		case base.KindTrimmed:
			if trimmed++; trimmed == trimmedOnce {
				return base.KindTrimmed
			}
		}
	}
	return ""
}

func (f *reader) last() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.offset
}

var errEnough = errors.New("the reader goes elsewhere")

// at reads at one node until the stream breaks, or for a time.
func (f *reader) at(ctx context.Context, l *life) error {
	from, err := changefeed.ParseOffset(f.last())
	if err != nil {
		f.world.fail("%s: %v", f.name, err)
		return err
	}
	r, err := l.node.Replica(f.database.name)
	if err != nil {
		return err
	}
	reading, cancel := context.WithCancel(ctx)
	defer cancel()
	to := &intake{reader: f, life: l}
	defer to.end()
	done := make(chan error, 1)
	f.world.tasks.Go(func() {
		done <- r.Feed(reading, changefeed.Request{From: from, Now: f.now, Tables: changed, Name: f.name}, feedBeat, to)
	})
	limit := time.NewTimer(f.world.instants.wait(between(f.random, time.Second, 5*time.Minute)))
	defer limit.Stop()
	select {
	case err := <-done:
		return err
	case <-l.died:
	case <-limit.C:
	case <-ctx.Done():
	}
	return errEnough
}

// intake is a sink at one node.
type intake struct {
	reader *reader
	life   *life

	mu    sync.Mutex // guards what follows
	over  bool
	batch []changefeed.Envelope
	last  changefeed.Offset
}

func (i *intake) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.over = true
}

// Send implements changefeed.Sink.
func (i *intake) Send(e *changefeed.Event) error {
	i.life.gate.pass()
	i.reader.granted()
	i.mu.Lock()
	i.last = e.Offset
	if e.Op != changefeed.Heartbeat {
		i.batch = append(i.batch, changefeed.NewEnvelope(e, i.reader.database.name, i.life.slot.name(), time.Now()))
	}
	n := len(i.batch)
	i.mu.Unlock()
	if n < feedBatch {
		return nil
	}
	return i.Flush()
}

// Flush implements changefeed.Sink. At times it takes long: the stream is then held
// back.
func (i *intake) Flush() error {
	w := i.reader.world
	if w.hesitates(i.reader.subscriber) {
		w.instants.sleep(5 * time.Second)
	}
	i.life.gate.pass()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.over || w.isDead(i.life) {
		return errEnough
	}
	if len(i.batch) > 0 {
		i.reader.take(i.life.slot.name(), i.batch)
		i.batch = nil
	}
	if i.last != (changefeed.Offset{}) {
		i.reader.mu.Lock()
		i.reader.offset = i.last.String()
		i.reader.mu.Unlock()
	}
	return nil
}

func (w *world) hesitates(s *subscriber) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.calm && s.chance.IntN(100) == 0
}

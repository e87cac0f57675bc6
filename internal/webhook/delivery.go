package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/planted"
)

const (
	maxEvents = 500     // in one batch
	maxBytes  = 1 << 20 // of one batch, but for the event that goes beyond
	heartbeat = time.Second
	saveEvery = 2 * time.Second // how often an offset is kept at most
	saveWait  = 5 * time.Second
	retryMin  = 100 * time.Millisecond
	retryMax  = 30 * time.Second
)

// Hook is what is delivered, and to where.
type Hook struct {
	Database string
	Name     string
	URL      string
	Secret   string
	Tables   []string          // nil: all
	From     changefeed.Offset // zero: a snapshot comes first
}

// Options of a delivery.
type Options struct {
	Hook Hook
	Node string // id of this node
	HTTP *http.Client
	// Source streams the changes of the database to a sink until ctx is done or
	// it can't go on.
	Source func(ctx context.Context, q changefeed.Request, heartbeat time.Duration, to changefeed.Sink) error
	// Announce returns once it is known, to whoever delivers next, that changes up to
	// a position may have been delivered; KindConflict and KindNotFound mean that
	// somebody else delivers. It is called before they are sent.
	Announce func(ctx context.Context, to base.Position) error
	// Save keeps an offset where the next deliverer finds it, if the one that it
	// replaces is still the last that was kept.
	Save func(ctx context.Context, from, to changefeed.Offset) error
}

// Status of a delivery, for people and metrics.
type Status struct {
	At        base.Position // behind what was delivered, or passed over
	Snapshot  bool          // it sends the initial snapshot
	Delivered int64         // events, since this node delivers
	Failures  int64         // attempts that failed, since then
	LastError string        // of the last attempt; "" when that went well
	FailingAt time.Time     // since when attempts fail; zero: they do not
}

// Delivery delivers to one webhook. It is run by one goroutine.
type Delivery struct {
	env     *env.Env
	options Options
	at      changefeed.Offset // behind what was delivered
	saved   changefeed.Offset
	savedAt time.Time

	mu struct {
		sync.Mutex // guards status
		status     Status
	}
}

// New makes a delivery that goes on at its hook's offset.
func New(e *env.Env, o Options) *Delivery {
	d := &Delivery{env: e, options: o, at: o.Hook.From, saved: o.Hook.From}
	d.mu.status.At, d.mu.status.Snapshot = o.Hook.From.Position, o.Hook.From == changefeed.Offset{}
	return d
}

// Status tells how the delivery fares. It may be called from any goroutine.
func (d *Delivery) Status() Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mu.status
}

// ErrMoved ends a delivery whose offset somebody else has moved: another node
// delivers, or the webhook was dropped.
var ErrMoved = errors.New("somebody else delivers to the webhook")

// Run delivers until ctx is done, or with ErrMoved. What was delivered last is
// kept before it returns.
func (d *Delivery) Run(ctx context.Context) error {
	defer func() { _ = d.save(context.WithoutCancel(ctx)) }() // Else some events come twice.
	for pause := retryMin; ; pause = min(2*pause, retryMax) {
		before := d.at
		err := d.options.Source(ctx, d.request(), heartbeat, &sink{delivery: d, ctx: ctx})
		if ctx.Err() != nil || errors.Is(err, ErrMoved) {
			return err
		}
		if d.at != before {
			pause = retryMin
		}
		d.failed(fmt.Errorf("read the changes: %s: %w", base.KindOf(err), err))
		if d.env.Clock.Sleep(ctx, pause) != nil {
			return context.Cause(ctx)
		}
	}
}

func (d *Delivery) request() changefeed.Request {
	return changefeed.Request{From: d.at, Tables: d.options.Hook.Tables, Name: "webhook " + d.options.Hook.Name}
}

// failed notes an attempt that came to nothing.
func (d *Delivery) failed(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &d.mu.status
	s.Failures++
	s.LastError = err.Error()
	if s.FailingAt.IsZero() {
		s.FailingAt = d.env.Clock.Now()
	}
}

// passed notes that everything up to an offset was delivered, with so many
// events, or is not wanted.
func (d *Delivery) passed(at changefeed.Offset, events int) {
	d.at = at
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &d.mu.status
	s.At, s.Snapshot = at.Position, at.Snapshot
	s.Delivered += int64(events)
	s.LastError, s.FailingAt = "", time.Time{}
}

// saveNowAndThen keeps the offset, at most every saveEvery. Where the control
// plane can't agree just now the delivery goes on.
func (d *Delivery) saveNowAndThen(ctx context.Context) error {
	if d.env.Clock.Now().Sub(d.savedAt) < saveEvery {
		return nil
	}
	return d.save(ctx)
}

func (d *Delivery) save(ctx context.Context) error {
	if d.at == d.saved || d.at.Snapshot {
		return nil // A snapshot that is not whole begins anew.
	}
	ctx, cancel := d.env.Clock.WithTimeout(ctx, saveWait, base.Errorf(base.KindTimeout, "the offset was not kept within %v", saveWait))
	defer cancel()
	d.savedAt = d.env.Clock.Now()
	err := d.options.Save(ctx, d.saved, d.at)
	if moved(err) {
		return fmt.Errorf("%w: %w", ErrMoved, err)
	}
	if err != nil {
		d.env.Log.Warn("the offset of a webhook was not kept; what follows it may be delivered twice", "webhook", d.options.Hook.Name, "err", err)
		return nil
	}
	d.saved = d.at
	return nil
}

// moved says whether the control plane has refused something since somebody else
// delivers.
func moved(err error) bool {
	kind := base.KindOf(err)
	return kind == base.KindConflict || kind == base.KindNotFound
}

// sink gathers the events of one stream into batches.
type sink struct {
	delivery *Delivery
	ctx      context.Context // of the stream, as a Sink is given none
	lines    bytes.Buffer
	events   int
	last     changefeed.Offset
}

// Send implements changefeed.Sink.
func (s *sink) Send(e *changefeed.Event) error {
	d := s.delivery
	if e.Op == changefeed.Heartbeat {
		if err := s.Flush(); err != nil {
			return err
		}
		d.passed(e.Offset, 0)
		return d.saveNowAndThen(s.ctx)
	}
	line, err := json.Marshal(changefeed.NewEnvelope(e, d.options.Hook.Database, d.options.Node, d.env.Clock.Now()))
	if err != nil {
		return err
	}
	s.lines.Write(append(line, '\n'))
	s.events, s.last = s.events+1, e.Offset
	if s.events < maxEvents && s.lines.Len() < maxBytes {
		return nil
	}
	return s.Flush()
}

// Flush implements changefeed.Sink: it returns when the batch was answered with
// success, however often it must be sent.
func (s *sink) Flush() error {
	if s.events == 0 {
		return nil
	}
	d := s.delivery
	if planted.Is(planted.SkipDelivery) {
		d.passed(s.last, 0)
		_ = d.saveNowAndThen(s.ctx)
	}
	for pause := retryMin; ; pause = min(2*pause, retryMax) {
		err := s.deliver()
		if err == nil {
			break
		}
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		if errors.Is(err, ErrMoved) {
			return err
		}
		d.failed(err)
		if err := d.env.Clock.Sleep(s.ctx, pause); err != nil {
			return err
		}
	}
	d.passed(s.last, s.events)
	s.lines.Reset()
	s.events = 0
	return d.saveNowAndThen(s.ctx)
}

// deliver sends the batch once; nil when it was answered with success.
func (s *sink) deliver() error {
	d := s.delivery
	ctx, cancel := d.env.Clock.WithTimeout(s.ctx, saveWait, base.Errorf(base.KindTimeout, "how far the batch goes was not kept within %v, so that it was not sent", saveWait))
	defer cancel()
	if err := d.options.Announce(ctx, s.last.Position); moved(err) {
		return fmt.Errorf("%w: %w", ErrMoved, err)
	} else if err != nil {
		return fmt.Errorf("announce a batch: %w", err)
	}
	return d.post(s.ctx, s.lines.Bytes(), s.events)
}

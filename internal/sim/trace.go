package sim

import (
	"context"
	"fmt"
	"hash"
	"hash/fnv"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
)

// kept is how many events a failure shows.
const kept = 200

// trace is what happened, as a hash of everything and as text of the last of it.
type trace struct {
	since func() time.Duration
	out   io.Writer // of the text of everything; nil: nowhere

	mu     sync.Mutex // guards what follows
	sum    hash.Hash64
	events int64
	lines  int
	recent []string // a ring
}

func newTrace(since func() time.Duration, out io.Writer) *trace {
	return &trace{since: since, out: out, sum: fnv.New64a()}
}

// add notes an event that people want to read.
func (t *trace) add(format string, args ...any) {
	line := fmt.Sprintf("%12.6f  ", t.since().Seconds()) + fmt.Sprintf(format, args...)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events++
	t.sum.Write([]byte(line))
	if t.out != nil {
		fmt.Fprintln(t.out, line)
	}
	if len(t.recent) < kept {
		t.recent = append(t.recent, line)
		return
	}
	t.recent[t.lines%kept] = line
	t.lines++
}

// aside notes what only the text of everything has.
func (t *trace) aside(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.out, "%12.6f  %s\n", t.since().Seconds(), fmt.Sprintf(format, args...))
}

// stacks adds what every goroutine does just now to the text of everything.
func (t *trace) stacks() {
	if t.out == nil {
		return
	}
	text := make([]byte, 16<<20)
	t.aside("%s", text[:runtime.Stack(text, true)])
}

// arrival notes a message; only the hash holds it.
func (t *trace) arrival(from, to base.NodeID, name string, msg []byte) {
	var head [24]byte
	at := t.since()
	for i := range 8 {
		head[i], head[8+i] = byte(at>>(8*i)), byte(len(msg)>>(8*i))
	}
	head[16], head[17] = byte(from), byte(to)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events++
	t.sum.Write(head[:])
	t.sum.Write([]byte(name))
	t.sum.Write(msg)
	if t.out != nil {
		content := fnv.New32a()
		content.Write(msg)
		fmt.Fprintf(t.out, "%12.6f  %v>%v %s %d %08x\n", at.Seconds(), from, to, name, len(msg), content.Sum32())
	}
}

// last returns the last events, oldest first.
func (t *trace) last() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := t.lines % kept
	return append(slices.Clone(t.recent[at:]), t.recent[:at]...)
}

func (t *trace) result() (sum uint64, events int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sum.Sum64(), t.events
}

// logs is a node's log as events. It also hears what the run has to know.
type logs struct {
	trace *trace
	node  string
	level slog.Level
	heard func(r slog.Record)
	dead  func() bool // what is left of a killed process says nothing
	with  []slog.Attr
}

// Enabled implements slog.Handler.
func (l *logs) Enabled(_ context.Context, level slog.Level) bool {
	return level >= l.level || l.trace.out != nil
}

// Handle implements slog.Handler.
func (l *logs) Handle(_ context.Context, r slog.Record) error {
	if l.dead() {
		return nil
	}
	l.heard(r)
	var b strings.Builder
	for _, a := range l.with {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
	}
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		return true
	})
	if r.Level < l.level {
		l.trace.aside("%s %s: %s%s", l.node, r.Level, r.Message, b.String())
		return nil
	}
	l.trace.add("%s %s: %s%s", l.node, r.Level, r.Message, b.String())
	return nil
}

// WithAttrs implements slog.Handler.
func (l *logs) WithAttrs(with []slog.Attr) slog.Handler {
	c := *l
	c.with = append(slices.Clone(l.with), with...)
	return &c
}

// WithGroup implements slog.Handler.
func (l *logs) WithGroup(string) slog.Handler { return l }

package control

import (
	"context"
	"encoding/binary"
	"maps"
	"slices"

	"go.etcd.io/raft/v3"

	"github.com/skeindb/skein/internal/base"
)

// read is a call of ReadIndex. It is the loop's.
type read struct {
	ctx    context.Context
	key    string
	index  uint64 // what must be applied; 0 while unknown
	asked  uint64 // tick of the last question
	answer chan error
}

// maxReads bounds the reads that wait at once.
const maxReads = 1024

// ReadIndex returns when State contains everything that was agreed on before
// the call. Errors: KindNoLeader, KindTimeout, KindBusy.
func (c *Control) ReadIndex(ctx context.Context) error {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	r := &read{ctx: ctx, answer: make(chan error, 1)}
	if err := c.ask(ctx, func(l *loop) error { return l.startRead(r) }); err != nil {
		return err
	}
	select {
	case err := <-r.answer:
		return err
	case <-c.stopped:
		return c.stoppedError()
	case <-ctx.Done():
		if v, _ := c.published.get(); v.leader == 0 {
			return c.noLeader(v)
		}
		return ended(ctx)
	}
}

func (l *loop) startRead(r *read) error {
	if l.group == nil || l.removed {
		v, _ := l.c.published.get()
		return l.c.noLeader(v)
	}
	if len(l.reads) >= maxReads {
		return base.Errorf(base.KindBusy, "%d reads wait for the control group already", maxReads)
	}
	// The key is this node's and this start's alone.
	l.readCount++
	key := binary.LittleEndian.AppendUint64(nil, uint64(l.c.o.Self))
	key = binary.LittleEndian.AppendUint64(key, l.readPrefix)
	r.key = string(binary.LittleEndian.AppendUint64(key, l.readCount))
	l.reads[r.key] = r
	l.question(r)
	return nil
}

func (l *loop) question(r *read) {
	r.asked = l.ticks
	l.group.ReadIndex([]byte(r.key))
}

// repeatReads runs in every tick: questions and answers may get lost, and
// whoever asked may have gone.
func (l *loop) repeatReads() {
	for _, key := range slices.Sorted(maps.Keys(l.reads)) {
		r := l.reads[key]
		switch {
		case r.ctx.Err() != nil:
			delete(l.reads, key)
		case r.index == 0 && l.ticks-r.asked >= uint64(l.c.o.HeartbeatTicks):
			l.question(r)
		}
	}
}

func (l *loop) noteReads(states []raft.ReadState) {
	for _, s := range states {
		if r, ok := l.reads[string(s.RequestCtx)]; ok && r.index == 0 {
			r.index = s.Index
		}
	}
}

// answerReads runs after everything committed has been applied; the state that
// a reader then sees is published before it is woken.
func (l *loop) answerReads() {
	for _, key := range slices.Sorted(maps.Keys(l.reads)) {
		if r := l.reads[key]; r.index != 0 && r.index <= l.state.Applied() {
			r.answer <- nil
			delete(l.reads, key)
		}
	}
}

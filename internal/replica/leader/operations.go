package leader

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/planted"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
)

// maxOperations bounds how many operations are remembered: some seconds of
// writing at full speed, which is longer than a failover takes.
const maxOperations = 1 << 16

// operations remembers the named writes of the log's tail, so that a write
// whose answer was lost with its leader can be asked for at the next one. Every
// write is noted and hardly one is ever asked for, so noting only fills a ring;
// who asks has it indexed first.
type operations struct {
	mu struct {
		sync.Mutex                             // guards all below
		after      base.Seq                    // every operation after this one is remembered
		ring       []operation                 // number n is at n % maxOperations
		begin, end int                         // numbers of the oldest, and behind the newest
		byID       map[replica.OperationID]int // numbers; those of forgotten ones stay until it is made anew
		indexed    int                         // byID has the numbers before it
	}
}

type operation struct {
	id   replica.OperationID
	at   base.Position
	rows int64
}

// packOperation makes the entry's operation of a name and the rows that the
// statement reported, so that both survive the leader.
func packOperation(id replica.OperationID, rows int64) (out entry.OperationID) {
	var wide [8]byte
	binary.BigEndian.PutUint64(wide[:], uint64(min(max(rows, 0), 1<<48-1)))
	copy(out[:], id[:])
	copy(out[len(id):], wide[2:])
	return out
}

func unpackOperation(in entry.OperationID) (id replica.OperationID, rows int64) {
	var wide [8]byte
	copy(id[:], in[:])
	copy(wide[2:], in[len(id):])
	return id, int64(binary.BigEndian.Uint64(wide[:]))
}

// note remembers an entry's operation, if it has one.
func (o *operations) note(e *entry.Entry) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.add(e)
}

// noteAll remembers the operations of whole frames that are in the log: one
// noted before could be taken for a write that was kept, and never was.
func (o *operations) noteAll(frames []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(frames) > 0 {
		e, n, err := entry.Peek(frames)
		if err != nil {
			return // The frames are the log's own.
		}
		o.add(&e)
		frames = frames[n:]
	}
}

// add is note for who holds the lock.
func (o *operations) add(e *entry.Entry) {
	if !e.HasOperation {
		return
	}
	m := &o.mu
	if m.end-m.begin == maxOperations {
		m.after = max(m.after, o.number(m.begin).at.Seq)
		m.begin++
	}
	if m.end%maxOperations == len(m.ring) {
		m.ring = append(m.ring, operation{})
	}
	op := o.number(m.end)
	op.id, op.rows = unpackOperation(e.Operation)
	op.at = e.Position()
	m.end++
}

func (o *operations) number(n int) *operation { return &o.mu.ring[n%maxOperations] }

// cut forgets what comes after seq: it was undone.
func (o *operations) cut(seq base.Seq) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.mu.end > o.mu.begin && o.number(o.mu.end-1).at.Seq > seq {
		o.mu.end--
	}
	o.mu.indexed = min(o.mu.indexed, o.mu.end)
}

// recallOperations reads those of the log's tail again when the replica opens.
func (r *Replica) recallOperations() {
	end := r.changes.End().Seq
	after := end
	for _, s := range slices.Backward(r.changes.Segments()) {
		if after = min(after, s.First-1); end-after >= maxOperations {
			break
		}
	}
	r.recent.reset(after)
	_, err := r.eachEntry(after, func(e *entry.Entry, _ []byte) error {
		r.recent.note(e)
		return nil
	})
	if err != nil {
		// Whoever needs the log will meet the same error, and act on it.
		r.log.Warn("the operations of the log's tail are not known", "err", err)
		r.recent.reset(end)
	}
}

// reset forgets everything up to seq.
func (o *operations) reset(seq base.Seq) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mu.byID, o.mu.ring, o.mu.begin, o.mu.end, o.mu.indexed, o.mu.after = nil, nil, 0, 0, 0, seq
}

func (o *operations) find(id replica.OperationID) (op operation, found bool, after base.Seq) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.index()
	n, ok := o.mu.byID[id]
	if !ok || n < o.mu.begin || n >= o.mu.end || o.number(n).id != id {
		return operation{}, false, o.mu.after
	}
	return *o.number(n), true, o.mu.after
}

// index brings byID up to date. The caller holds the lock.
func (o *operations) index() {
	m := &o.mu
	if m.byID == nil || len(m.byID) > 2*maxOperations {
		m.byID, m.indexed = make(map[replica.OperationID]int), 0
	}
	for m.indexed = max(m.indexed, m.begin); m.indexed < m.end; m.indexed++ {
		m.byID[o.number(m.indexed).id] = m.indexed
	}
}

// Fate implements replica.Replica.
func (r *Replica) Fate(ctx context.Context, id replica.OperationID, since base.Seq) (replica.Fate, error) {
	lead, err := r.awaitLead(ctx, 0)
	if err != nil {
		return replica.Fate{}, err
	}
	if err := lead.awaitLease(ctx); err != nil {
		return replica.Fate{}, err
	}
	op, found, after := r.recent.find(id)
	found = found && r.changes.EpochAt(op.at.Seq) == op.at.Epoch
	if !found && id.Named() {
		if op, found, err = r.findNamed(ctx, id); err != nil {
			return replica.Fate{}, err
		}
		after = 0 // The file knows them all, but for those of long ago.
	}
	if planted.Is(planted.RepeatBlindly) {
		return replica.Fate{Known: true, Epoch: lead.epoch}, nil
	}
	fate := replica.Fate{Known: found || after <= since, Found: found, Epoch: lead.epoch}
	if found {
		fate.Result = session.Result{Position: op.at, RowsAffected: op.rows}
		err = r.waitSafe(ctx, op.at)
		fate.Result.Reached = lead.acks.report(op.at.Seq)
	}
	return fate, err
}

// Seen implements replica.Replica. What is not safe yet may be undone, and its
// numbers given to other writes; so it does not count.
func (r *Replica) Seen() base.Seq { return min(base.Seq(r.applied.Load()), r.safe.get()) }

func (a *acks) report(seq base.Seq) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return report(a.mu.core.ReachedBy(seq), "")
}

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
// whose answer was lost with its leader can be asked for at the next one.
type operations struct {
	mu struct {
		sync.Mutex          // guards all below
		after      base.Seq // every operation after this one is remembered
		byID       map[replica.OperationID]operation
		order      []replica.OperationID // oldest first
	}
}

type operation struct {
	at   base.Position
	rows int64
}

func (o *operations) init() { o.mu.byID = make(map[replica.OperationID]operation) }

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
	if !e.HasOperation {
		return
	}
	id, rows := unpackOperation(e.Operation)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mu.byID[id] = operation{at: e.Position(), rows: rows}
	o.mu.order = append(o.mu.order, id)
	if len(o.mu.order) > maxOperations {
		oldest := o.mu.order[0]
		o.mu.after = max(o.mu.after, o.mu.byID[oldest].at.Seq)
		delete(o.mu.byID, oldest)
		o.mu.order = o.mu.order[1:]
	}
}

// noteAll remembers the operations of whole frames that are in the log: one
// noted before could be taken for a write that was kept, and never was.
func (o *operations) noteAll(frames []byte) {
	for len(frames) > 0 {
		e, n, err := entry.Peek(frames)
		if err != nil {
			return // The frames are the log's own.
		}
		o.note(&e)
		frames = frames[n:]
	}
}

// cut forgets what comes after seq: it was undone.
func (o *operations) cut(seq base.Seq) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.mu.order) > 0 {
		last := o.mu.order[len(o.mu.order)-1]
		if o.mu.byID[last].at.Seq <= seq {
			return
		}
		delete(o.mu.byID, last)
		o.mu.order = o.mu.order[:len(o.mu.order)-1]
	}
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
	clear(o.mu.byID)
	o.mu.order, o.mu.after = nil, seq
}

func (o *operations) find(id replica.OperationID) (op operation, found bool, after base.Seq) {
	o.mu.Lock()
	defer o.mu.Unlock()
	op, found = o.mu.byID[id]
	return op, found, o.mu.after
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

package leader

import (
	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/entry"
)

// While somebody reads a follower, it executes what it has received before that
// is safe: all that is left to do then is to commit it. Nobody sees anything of
// it before, and what never becomes safe is rolled back. Such a transaction holds
// one read of the log and gets no more, so that it can be committed as soon as
// that is safe.
//
// It is not held back until this node's log is on disk, too: others have it.
// After a power cut the file may then be ahead of the log, which goes on from
// there (see committedEarly).

// goAhead executes what is received, when somebody reads and all that is safe
// is committed.
func (f *following) goAhead(a *applier) {
	limit := base.Seq(f.received.Load())
	if a.pending > 0 || limit <= a.at.Seq || limit <= f.refused || !f.replica.readLately() || f.countsApplied() {
		return
	}
	if err := a.executeAhead(limit); err != nil {
		f.refused = limit // It is executed again, and the error told, when it is safe.
	}
}

// executeAhead executes entries up to limit in a transaction that is not to be
// committed before arrive was called. It changes nothing after an error.
func (a *applier) executeAhead(limit base.Seq) error {
	if err := a.basis.read(a.conn); err != nil || a.basis.has {
		return err // That it is lost would not be undone with the transaction.
	}
	a.ahead = true
	err := a.execute(limit)
	if a.pending == 0 {
		a.ahead = false
	}
	return err
}

// waitsAlone says that an entry of a kind is executed only when it is safe:
// through a connection of its own, or in a transaction of its own.
func waitsAlone(k entry.Kind) bool { return k != entry.Row && k != entry.Trigger }

// early is up to where what was executed ahead may be committed, whether or not
// it is flushed here: what is safe, once the log has the epoch on disk, so that
// it is known what a file belongs to that is ahead of it.
func (f *following) early() base.Seq {
	if !f.epochFlushed {
		log := f.replica.changes
		f.epochFlushed = log.EpochAt(log.Flushed()) == f.epoch
	}
	if !f.epochFlushed {
		return 0
	}
	return base.Seq(f.announced.Load())
}

// arrive says that what was executed ahead may be committed.
func (a *applier) arrive() {
	a.ahead = false
	a.replica.applied.Store(uint64(a.at.Seq))
}

// endOpen leaves no transaction open: what is not safe is done again later.
func (a *applier) endOpen() error {
	if a.ahead {
		return a.rollback()
	}
	return a.commit()
}

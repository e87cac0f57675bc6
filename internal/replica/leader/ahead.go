package leader

import (
	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/entry"
)

// While somebody reads a follower, it executes what it has received before that
// is safe and on its disk: all that is left to do then is to commit it. Nobody
// sees anything of it before, and what never becomes safe is rolled back. Such a
// transaction holds one read of the log and gets no more, so that it can be
// committed as soon as that is safe.

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
	if !a.basis.known || a.basis.has {
		return nil // What says so is not undone with the transaction.
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

// arrive says that what was executed ahead is safe and flushed.
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

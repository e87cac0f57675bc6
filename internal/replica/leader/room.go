package leader

import (
	"time"

	"github.com/skeindb/skein/internal/base"
)

// roomPatience is for how long a full disk may heal by itself, and what lies
// between two words of it that does not.
const roomPatience = time.Second

// room is whether the disk has room for a leader's writes.
type room struct {
	lacking time.Time // the first write that found none, of those since the last that did; zero: none
	told    time.Time // when that was last said; zero: never
}

// noteLack takes in why a write was refused. When there has been no room for a
// while, another is asked to lead.
func (w *writer) noteLack(err error) {
	if base.KindOf(err) != base.KindDiskFull {
		return
	}
	now := w.replica.env.Clock.Now()
	if w.room.lacking.IsZero() {
		w.room.lacking = now
	}
	if now.Sub(w.room.lacking) < roomPatience || now.Sub(w.room.told) < roomPatience {
		return
	}
	if w.room.told.Before(w.room.lacking) {
		w.replica.log.Warn("the disk has no room for writes: asking for another leader", "epoch", w.epoch, "err", err)
	}
	w.room.told = now
	w.replica.events.NoRoom(w.epoch)
}

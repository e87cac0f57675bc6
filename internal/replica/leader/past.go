package leader

import (
	"context"
	"fmt"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/token"
)

// What the writers of a database had seen of other databases is kept beside its
// position, in the transaction of the write, on every replica: so every snapshot
// knows the past of all that it holds, and an answer is not seen before the
// question that is in another database. It only grows: when a tail is undone its
// past may stay, and then a read waits for something that exists in any case.
const (
	readPastSQL    = "SELECT past FROM _skein_position WHERE id = 1"
	setPastSQL     = "UPDATE _skein_position SET past = ?1 WHERE id = 1"
	warnForgotten  = "the past of this database spans too many other databases: those noted longest ago are forgotten, and a reader no longer waits for them"
	pastOfDatabase = "past of the database: %w"
)

// recallPast finds out whether a file that was opened has a past.
func (r *Replica) recallPast(ctx context.Context, db *sqlite.Database) error {
	return withOwn(ctx, db, func(conn *sqlite.Conn) error {
		past, err := readPast(conn)
		if past != "" {
			r.hasPast.Store(true)
		}
		return err
	})
}

func readPast(conn *sqlite.Conn) (token.Past, error) {
	st, err := conn.PrepareOwn(readPastSQL)
	if err != nil {
		return "", fmt.Errorf(pastOfDatabase, err)
	}
	defer st.Close()
	if _, err := st.Step(); err != nil {
		return "", fmt.Errorf(pastOfDatabase, err)
	}
	return token.ParsePast(st.Column(0).Bytes)
}

// pastOf reads the past that belongs to what conn sees.
func (r *Replica) pastOf(conn *sqlite.Conn) (token.Past, error) {
	if !r.hasPast.Load() {
		return "", nil
	}
	return readPast(conn)
}

// notePast adds to the past, in the transaction that is open.
func (r *Replica) notePast(conn *sqlite.Conn, past token.Past) (forgotten int, err error) {
	if past == "" {
		return 0, nil
	}
	before, err := readPast(conn)
	if err != nil {
		return 0, err
	}
	after, forgotten := before.With(past)
	if after == before {
		return 0, nil
	}
	r.hasPast.Store(true) // Before anyone can see it.
	if err := conn.RunOwn(setPastSQL, base.BlobValue([]byte(after))); err != nil {
		return 0, fmt.Errorf(pastOfDatabase, err)
	}
	return forgotten, nil
}

// notePastOf adds what an entry of the log has brought.
func (r *Replica) notePastOf(conn *sqlite.Conn, e *entry.Entry) error {
	past, err := token.ParsePast(e.Past)
	if err == nil {
		_, err = r.notePast(conn, past)
	}
	return err
}

// broughtPast is what the entries of one leadership have brought into the log:
// an entry needs to bring only what is beyond that. The file is no measure of it,
// as it may hold more than the log does.
type broughtPast struct {
	log   token.Past // by entries that are in the log
	batch token.Past // by those of the batch that is being built
	told  bool       // that something was forgotten
}

func (b *broughtPast) begin() { b.batch = "" }

// news is what an entry must bring for a writer with this past.
func (b *broughtPast) news(past token.Past) token.Past {
	past = past.Beyond(b.log).Beyond(b.batch)
	b.batch, _ = b.batch.With(past)
	return past
}

// keep is called when the batch is in the log.
func (b *broughtPast) keep() {
	b.log, _ = b.log.With(b.batch)
	b.batch = ""
}

// notePast adds what the next entry brings.
func (w *writer) notePast(past token.Past) error {
	forgotten, err := w.replica.notePast(w.conn, past)
	if forgotten > 0 && !w.past.told {
		w.past.told = true
		w.replica.log.Warn(warnForgotten, "at_most", token.MaxPast)
	}
	return err
}

// kept is p, or if a failover has undone that the position at which the history
// went on without it.
func (r *Replica) kept(p base.Position) base.Position {
	if r.Lineage(p) {
		return p
	}
	for _, s := range r.changes.EpochStarts() {
		if s.Epoch > p.Epoch {
			return base.Position{Epoch: s.Epoch, Seq: s.First}
		}
	}
	return p
}

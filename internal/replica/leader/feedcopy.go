package leader

import (
	"context"
	"errors"
	"fmt"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/sqlite"
)

// feedDir holds the copies from which initial snapshots are read: a reader as
// slow as a consumer may be must not keep SQLite's WAL from starting over.
func (r *Replica) feedDir() string { return r.options.Dir + "/feeds" }

// snapshot sends every row as it is at one position, and goes on behind that.
func (f *feed) snapshot(ctx context.Context) error {
	r := f.replica
	if err := r.feeds.beginSnapshot(); err != nil {
		return err
	}
	defer r.feeds.endSnapshot()
	if free, err := r.env.FS.Free(r.options.Dir); err == nil && free < 2*r.fileBytes() {
		return base.Errorf(base.KindDiskFull, "an initial snapshot is read from a copy of %d bytes, and %d are free", r.fileBytes(), free).
			WithHint("make room, ask another node, or begin with from=now")
	}
	if err := r.env.FS.MkdirAll(r.feedDir(), 0o755); err != nil {
		return fmt.Errorf("make snapshot: %w", err)
	}
	path := fmt.Sprintf("%s/%016x.sqlite", r.feedDir(), r.env.Rand.Uint64())
	at, err := r.copyTo(ctx, path, nil)
	if err == nil {
		f.passed(at)
		f.enter(at.Seq) // From here on the log is kept for it.
		err = r.waitSafeFor(ctx, at)
	}
	if err == nil {
		err = f.checkHistory()
	}
	if err == nil {
		err = f.sendRows(ctx, path, at)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		err = errors.Join(err, r.env.FS.RemoveAll(path+suffix))
	}
	return err
}

// sendRows sends the rows of a copy. One row is held back, to mark the last.
func (f *feed) sendRows(ctx context.Context, path string, at base.Position) error {
	conn, err := sqlite.OpenConn(ctx, path, sqlite.ConnOptions{VFS: f.replica.env.VFS, Role: sqlite.RoleReader})
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetGuard(sqlite.GuardOwn)
	var held *changefeed.Event
	var n int64
	send := func(next *changefeed.Event) error {
		n++
		next.Op, next.Position, next.Row = changefeed.Read, at, n
		next.Offset = changefeed.Offset{Database: f.at.Database, Entry: 1, Snapshot: true}
		last := held
		held = next
		if last == nil {
			return context.Cause(ctx)
		}
		return errors.Join(f.sink.Send(last), context.Cause(ctx))
	}
	if f.request.Chosen {
		err = f.sendChosen(ctx, conn, send)
	} else {
		err = f.sendTables(conn, at, send)
	}
	if err != nil {
		return err
	}
	if held != nil {
		held.Last, held.Offset = true, f.at
		if err := f.sink.Send(held); err != nil {
			return err
		}
	}
	// Whoever gets no row, or keeps offsets of heartbeats only, learns from
	// this one where the snapshot ends.
	if err := f.sink.Send(&changefeed.Event{Op: changefeed.Heartbeat, Position: at, Offset: f.at}); err != nil {
		return err
	}
	return f.sink.Flush()
}

// sendTables sends every row.
func (f *feed) sendTables(conn *sqlite.Conn, at base.Position, send func(*changefeed.Event) error) error {
	tables, _, err := schemaAt(conn, at.Seq)
	if err != nil {
		return err
	}
	for _, table := range sorted(tables) {
		if !f.request.Wants(table) {
			continue
		}
		err := row.ReadRows(conn, table, func(c *row.Columns, rowid int64, values []base.Value) error {
			return send(&changefeed.Event{Table: table, Key: snapshotKey(c, rowid, values), After: rowOf(c.Names, values)})
		})
		if err != nil {
			return fmt.Errorf("snapshot of table %q: %w", table, err)
		}
	}
	return nil
}

func snapshotKey(c *row.Columns, rowid int64, values []base.Value) changefeed.Row {
	if len(c.Key) == 0 {
		return changefeed.Row{{Name: "rowid", Value: base.IntValue(rowid)}}
	}
	var key changefeed.Row
	for _, name := range c.Key {
		for i, column := range c.Names {
			if column == name {
				key = append(key, changefeed.Field{Name: name, Value: values[i]})
			}
		}
	}
	return key
}

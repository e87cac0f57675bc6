package leader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/sqlite"
)

// Orphan is one row change that a failover undid on this replica.
type Orphan struct {
	Epoch base.Epoch `json:"epoch"`
	Seq   base.Seq   `json:"seq"`
	// WrittenNS is the old leader's clock when it made the change.
	WrittenNS int64           `json:"written_ns"`
	Table     string          `json:"table"`
	Operation string          `json:"operation"`
	Key       json.RawMessage `json:"key"`
	Old       json.RawMessage `json:"old,omitempty"`
	New       json.RawMessage `json:"new,omitempty"`
}

const orphanSchema = `PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS orphan (
	epoch INTEGER NOT NULL, seq INTEGER NOT NULL, written_ns INTEGER NOT NULL,
	table_name TEXT NOT NULL, operation TEXT NOT NULL, key TEXT NOT NULL, old TEXT, new TEXT,
	PRIMARY KEY (epoch, seq)) WITHOUT ROWID`

func (r *Replica) orphanPath() string { return r.options.Dir + "/orphans.sqlite" }

// openOrphans opens the file of orphaned writes. It lies beside the database,
// not in it, so that copying a snapshot does not lose it.
func (r *Replica) openOrphans(ctx context.Context) (*sqlite.Conn, error) {
	conn, err := sqlite.OpenConn(ctx, r.orphanPath(), sqlite.ConnOptions{VFS: r.env.VFS, Role: sqlite.RoleWriter})
	if err != nil {
		return nil, fmt.Errorf("open orphaned writes: %w", err)
	}
	if err := conn.Exec(orphanSchema); err != nil {
		return nil, errors.Join(fmt.Errorf("open orphaned writes: %w", err), conn.Close())
	}
	return conn, nil
}

// keepOrphans writes the entries' changes down, durably, before they are
// undone. Writing the same entry twice keeps one copy.
func (r *Replica) keepOrphans(ctx context.Context, entries []entry.Entry) error {
	conn, err := r.openOrphans(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.BeginImmediate(); err != nil {
		return err
	}
	for i := range entries {
		if err := keepEntry(conn, &entries[i]); err != nil {
			return errors.Join(fmt.Errorf("keep orphaned writes: %w", err), conn.Rollback())
		}
	}
	if err := conn.Commit(); err != nil {
		return fmt.Errorf("keep orphaned writes: %w", err)
	}
	return nil
}

func keepEntry(conn *sqlite.Conn, e *entry.Entry) error {
	if e.Kind != entry.Row {
		return nil
	}
	st, err := conn.Prepare("INSERT OR IGNORE INTO orphan VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")
	if err != nil {
		return err
	}
	defer st.Close()
	seq := e.First
	for c, err := range row.Describe(e.Body) {
		if err != nil {
			return err
		}
		err = st.BindAll([]base.Value{
			base.IntValue(int64(e.Epoch)), base.IntValue(int64(seq)), base.IntValue(e.Time),
			base.TextValue(c.Table), base.TextValue(c.Op),
			jsonValues(c.Key), jsonValues(c.Old), jsonValues(c.New),
		})
		if err == nil {
			err = st.Run()
		}
		if err == nil {
			err = st.Reset()
		}
		if err != nil {
			return err
		}
		seq++
	}
	return nil
}

// jsonValues writes values as a JSON array: integers and reals as numbers,
// blobs as {"blob": hex}, and what JSON has no number for as strings.
func jsonValues(values []base.Value) base.Value {
	if values == nil {
		return base.Value{}
	}
	out := make([]any, len(values))
	for i, v := range values {
		switch v.Kind {
		case base.Integer:
			out[i] = json.Number(strconv.FormatInt(v.Int, 10))
		case base.Real:
			if math.IsNaN(v.Float) || math.IsInf(v.Float, 0) {
				out[i] = strconv.FormatFloat(v.Float, 'g', -1, 64)
			} else {
				out[i] = v.Float
			}
		case base.Text:
			out[i] = string(v.Bytes)
		case base.Blob:
			out[i] = map[string]string{"blob": fmt.Sprintf("%x", v.Bytes)}
		}
	}
	b, err := json.Marshal(out)
	if err != nil {
		return base.TextValue("[]")
	}
	return base.TextValue(string(b))
}

// Orphans lists the newest orphaned writes, at most limit.
func (r *Replica) Orphans(ctx context.Context, limit int) ([]Orphan, error) {
	if _, err := r.env.FS.Stat(r.orphanPath()); err != nil {
		return nil, nil
	}
	conn, err := r.openOrphans(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	st, err := conn.Prepare("SELECT epoch, seq, written_ns, table_name, operation, key, old, new FROM orphan ORDER BY epoch DESC, seq DESC LIMIT ?1")
	if err != nil {
		return nil, err
	}
	defer st.Close()
	if err := st.BindAll([]base.Value{base.IntValue(int64(limit))}); err != nil {
		return nil, err
	}
	var list []Orphan
	for {
		more, err := st.Step()
		if err != nil || !more {
			return list, err
		}
		list = append(list, Orphan{
			Epoch: base.Epoch(st.Column(0).Int), Seq: base.Seq(st.Column(1).Int), WrittenNS: st.Column(2).Int,
			Table: string(st.Column(3).Bytes), Operation: string(st.Column(4).Bytes),
			Key: rawJSON(st.Column(5)), Old: rawJSON(st.Column(6)), New: rawJSON(st.Column(7)),
		})
	}
}

func rawJSON(v base.Value) json.RawMessage {
	if v.Kind == base.Null {
		return nil
	}
	return append(json.RawMessage(nil), v.Bytes...)
}

// countOrphans returns how many there are.
func (r *Replica) countOrphans(ctx context.Context) (int64, error) {
	if _, err := r.env.FS.Stat(r.orphanPath()); err != nil {
		return 0, nil
	}
	conn, err := r.openOrphans(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	st, err := conn.Prepare("SELECT count(*) FROM orphan")
	if err != nil {
		return 0, err
	}
	defer st.Close()
	if _, err := st.Step(); err != nil {
		return 0, err
	}
	return st.Column(0).Int, nil
}

func (r *Replica) recountOrphans(ctx context.Context) {
	n, err := r.countOrphans(ctx)
	if err != nil {
		r.log.Warn("count orphaned writes", "err", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.orphans = n
}

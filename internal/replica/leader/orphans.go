package leader

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/statementformat"
)

// Orphan is one row change that a failover undid on this replica.
type Orphan struct {
	Epoch base.Epoch
	Seq   base.Seq
	// WrittenNS is the old leader's clock when it made the change.
	WrittenNS int64
	Table     string
	Operation string
	// Columns names the values of Old and New; it is empty when the table was
	// not known any more.
	Columns       []string
	Key, Old, New []base.Value
	// RowIDName is the column that is the rowid, which is then the key; empty when
	// there is none, or the table was not known any more.
	RowIDName string
	// Acknowledged is 1 when a client was told that the write stands, 0 when none
	// was, and NULL when that is not known.
	Acknowledged base.Value
}

// With less than EXTRA a power cut may bring the journal of a commit back, which
// undoes it: the deletion of the journal is not on disk.
const orphanSchema = `PRAGMA journal_mode = DELETE; PRAGMA synchronous = EXTRA;
CREATE TABLE IF NOT EXISTS orphan (
	epoch INTEGER NOT NULL, seq INTEGER NOT NULL, written_ns INTEGER NOT NULL,
	table_name TEXT NOT NULL, operation TEXT NOT NULL, columns TEXT NOT NULL, key TEXT, old TEXT, new TEXT,
	rowid_name TEXT, acknowledged INTEGER,
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
	if err := extend(conn, "orphan", "rowid_name TEXT", "acknowledged INTEGER"); err != nil {
		return nil, errors.Join(fmt.Errorf("open orphaned writes: %w", err), conn.Close())
	}
	return conn, nil
}

// extend adds columns, declared as NAME TYPE, that one of our own tables lacks in
// a file of an earlier version.
func extend(conn *sqlite.Conn, table string, columns ...string) error {
	for _, column := range columns {
		name, _, _ := strings.Cut(column, " ")
		n, err := ownInteger(conn, "SELECT count(*) FROM pragma_table_info('"+table+"') WHERE name = '"+name+"'")
		if err == nil && n == 0 {
			err = conn.Exec("ALTER TABLE " + table + " ADD COLUMN " + column)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// keepOrphans writes the changes of the log after a sequence number down,
// durably, before they are undone, and returns how long that tail is. Writing
// the same entry twice keeps one copy.
func (r *Replica) keepOrphans(ctx context.Context, after base.Seq) (size int, err error) {
	after = max(after, r.changes.Start()-1)
	if after >= r.changes.End().Seq {
		return 0, nil
	}
	conn, err := r.openOrphans(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.BeginImmediate(); err != nil {
		return 0, fmt.Errorf("keep orphaned writes: %w", err)
	}
	names, err := r.orphanNames(ctx)
	if err != nil {
		return 0, errors.Join(fmt.Errorf("keep orphaned writes: %w", err), conn.Rollback())
	}
	defer names.close()
	k := orphanKeeper{conn: conn, columns: names.of, verdict: r.verdicts(), rows: r.tailRows(ctx)}
	size, err = r.eachEntry(after, func(e *entry.Entry, _ []byte) error { return k.keep(e) })
	if err == nil {
		err = conn.Commit()
	}
	if err != nil {
		return 0, errors.Join(fmt.Errorf("keep orphaned writes: %w", err), conn.Rollback())
	}
	r.recountOrphans(ctx)
	return size, nil
}

type orphanKeeper struct {
	conn    *sqlite.Conn
	columns func(table string) tableNames
	verdict verdict
	// rows returns the row body of an entry, as far as it is known here.
	rows func(e *entry.Entry) (body []byte, found bool, err error)
}

func (k *orphanKeeper) keep(e *entry.Entry) error {
	if rowless(e) {
		return nil
	}
	changes, err := k.changes(e)
	if err != nil {
		return err
	}
	// One that is kept already stays as it is, but for names that were not known:
	// an undoing that is cut short begins again.
	st, err := k.conn.PrepareOwn(`INSERT INTO orphan VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT(epoch, seq)
		DO UPDATE SET columns = excluded.columns, rowid_name = excluded.rowid_name WHERE columns IN ('null', '[]') AND coalesce(rowid_name, '') = ''`)
	if err != nil {
		return err
	}
	defer st.Close()
	seq := e.First
	for c, err := range changes {
		if err != nil {
			return err
		}
		names := k.columns(c.Table)
		columns, err := json.Marshal(names.columns)
		if err != nil {
			return err
		}
		if c.SQL != "" {
			c.New = []base.Value{base.TextValue(c.SQL)}
		}
		if err := st.BindAll([]base.Value{
			base.IntValue(int64(e.Epoch)), base.IntValue(int64(seq)), base.IntValue(e.Time),
			base.TextValue(c.Table), base.TextValue(c.Op), base.TextValue(string(columns)),
			packValues(c.Key), packValues(c.Old), packValues(c.New),
			base.TextValue(names.rowid), k.verdict.of(e.Position()),
		}); err != nil {
			return err
		}
		if err := errors.Join(st.Run(), st.Reset()); err != nil {
			return err
		}
		seq++
	}
	return nil
}

// changes are those of an entry, or its statements as one when nobody knows what
// they have changed. Of pages then only that there was something is known.
func (k *orphanKeeper) changes(e *entry.Entry) (iter.Seq2[row.Change, error], error) {
	body, found, err := k.rows(e)
	if err != nil {
		return nil, err
	}
	if found {
		return row.Describe(body), nil
	}
	return func(yield func(row.Change, error) bool) {
		if e.Kind == entry.WAL {
			yield(row.Change{Op: "pages"}, nil)
			return
		}
		text, err := statementText(e)
		yield(row.Change{Op: "statement", SQL: text}, err)
	}, nil
}

// statementText is the SQL of an entry of kind statement, with its parameters
// behind each statement.
func statementText(e *entry.Entry) (string, error) {
	b, err := statementformat.Decode(e.Body)
	if err != nil {
		return "", err
	}
	var list []string
	for _, s := range b.Statements {
		text := string(s.SQL)
		if len(s.Args) > 0 {
			text += " -- " + showValues(s.Args)
		}
		list = append(list, text)
	}
	return strings.Join(list, ";\n"), nil
}

// packValues writes values as a JSON array of pairs: a letter for the storage
// class (i, r, t, x for text that is not UTF-8, b, n) and the value as text, so
// that they can be read back exactly.
func packValues(values []base.Value) base.Value {
	if values == nil {
		return base.Value{}
	}
	out := make([][2]string, len(values))
	for i, v := range values {
		switch v.Kind {
		case base.Integer:
			out[i] = [2]string{"i", strconv.FormatInt(v.Int, 10)}
		case base.Real:
			out[i] = [2]string{"r", strconv.FormatFloat(v.Float, 'g', -1, 64)}
		case base.Text:
			out[i] = [2]string{"t", string(v.Bytes)}
			if !utf8.Valid(v.Bytes) {
				out[i] = [2]string{"x", hex.EncodeToString(v.Bytes)}
			}
		case base.Blob:
			out[i] = [2]string{"b", hex.EncodeToString(v.Bytes)}
		default:
			out[i] = [2]string{"n", ""}
		}
	}
	b, err := json.Marshal(out)
	if err != nil {
		return base.Value{} // Strings always marshal.
	}
	return base.TextValue(string(b))
}

// unpackValues reads what packValues wrote.
func unpackValues(v base.Value) ([]base.Value, error) {
	if v.Kind == base.Null {
		return nil, nil
	}
	var packed [][2]string
	if err := json.Unmarshal(v.Bytes, &packed); err != nil {
		return nil, fmt.Errorf("read orphaned write: %w", err)
	}
	values := make([]base.Value, len(packed))
	for i, p := range packed {
		var err error
		switch p[0] {
		case "i":
			values[i].Kind = base.Integer
			values[i].Int, err = strconv.ParseInt(p[1], 10, 64)
		case "r":
			values[i].Kind = base.Real
			values[i].Float, err = strconv.ParseFloat(p[1], 64)
		case "t":
			values[i] = base.TextValue(p[1])
		case "x":
			values[i].Kind = base.Text
			values[i].Bytes, err = hex.DecodeString(p[1])
		case "b":
			values[i].Kind = base.Blob
			values[i].Bytes, err = hex.DecodeString(p[1])
		case "n":
		default:
			err = fmt.Errorf("unknown storage class %q", p[0])
		}
		if err != nil {
			return nil, fmt.Errorf("read orphaned write: %w", err)
		}
	}
	return values, nil
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
	rows := conn.QueryOwn("SELECT epoch, seq, written_ns, table_name, operation, columns, key, old, new, coalesce(rowid_name, ''), acknowledged FROM orphan ORDER BY epoch DESC, seq DESC LIMIT ?1",
		base.IntValue(int64(limit)))
	var list []Orphan
	for row, err := range rows {
		if err != nil {
			return list, err
		}
		o, err := readOrphan(row)
		if err != nil {
			return list, err
		}
		list = append(list, o)
	}
	return list, nil
}

func readOrphan(st *sqlite.Stmt) (o Orphan, err error) {
	o = Orphan{
		Epoch: base.Epoch(st.Column(0).Int), Seq: base.Seq(st.Column(1).Int), WrittenNS: st.Column(2).Int,
		Table: string(st.Column(3).Bytes), Operation: string(st.Column(4).Bytes),
	}
	if err := json.Unmarshal(st.Column(5).Bytes, &o.Columns); err != nil {
		return o, fmt.Errorf("read orphaned write: %w", err)
	}
	for i, to := range []*[]base.Value{&o.Key, &o.Old, &o.New} {
		if *to, err = unpackValues(st.Column(6 + i)); err != nil {
			return o, err
		}
	}
	o.RowIDName, o.Acknowledged = string(st.Column(9).Bytes), st.Column(10).Clone()
	return o, nil
}

// DropOrphan takes one off the list: it was replayed or discarded.
func (r *Replica) DropOrphan(ctx context.Context, epoch base.Epoch, seq base.Seq) error {
	conn, err := r.openOrphans(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.RunOwn("DELETE FROM orphan WHERE epoch = ?1 AND seq = ?2", base.IntValue(int64(epoch)), base.IntValue(int64(seq))); err != nil {
		return fmt.Errorf("drop an orphaned write: %w", err)
	}
	r.recountOrphans(ctx)
	return nil
}

// countOrphans returns how many there are, and how many of them were
// acknowledged.
func (r *Replica) countOrphans(ctx context.Context) (all, acknowledged int64, err error) {
	if _, err := r.env.FS.Stat(r.orphanPath()); err != nil {
		return 0, 0, nil
	}
	conn, err := r.openOrphans(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	st, err := conn.PrepareOwn("SELECT count(*), coalesce(sum(acknowledged), 0) FROM orphan")
	if err != nil {
		return 0, 0, err
	}
	defer st.Close()
	if _, err := st.Step(); err != nil {
		return 0, 0, err
	}
	return st.Column(0).Int, st.Column(1).Int, nil
}

func (r *Replica) recountOrphans(ctx context.Context) {
	n, acknowledged, err := r.countOrphans(ctx)
	if err != nil {
		r.log.Warn("count orphaned writes", "err", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.orphans, r.mu.orphansAck = n, acknowledged
}

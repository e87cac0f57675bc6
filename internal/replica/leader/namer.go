package leader

import (
	"context"
	"fmt"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/entry"
)

// history is what a replica's file knows of the entries of its log.
type history interface {
	// schemaAt returns how tables were declared after seq, and from which seq on it
	// is known at all.
	schemaAt(ctx context.Context, seq base.Seq) (tables map[string]string, from base.Seq, err error)
	// rows returns the row body of an entry.
	rows(ctx context.Context, e *entry.Entry) (body []byte, found bool, err error)
}

// namer gives the changes of entries the column names of their time. Entries
// are shown to it in order; where some were left out it reads the history.
type namer struct {
	names   *row.Names
	history history
	at      base.Seq // names are those after this seq
	from    base.Seq // before it the history is not known
	known   bool     // the history was known where it was read
	stale   bool     // a change of the schema could not be followed
}

func newNamer(ctx context.Context, h history) (*namer, error) {
	names, err := row.NewNames(ctx)
	if err != nil {
		return nil, err
	}
	return &namer{names: names, history: h}, nil
}

func (n *namer) close() { _ = n.names.Close() } // It is memory only.

// load goes to the schema after seq.
func (n *namer) load(ctx context.Context, seq base.Seq) error {
	tables, from, err := n.history.schemaAt(ctx, seq)
	if err != nil {
		return fmt.Errorf("read the schema at %d: %w", seq, err)
	}
	if err := n.names.Load(tables); err != nil {
		return err
	}
	n.at, n.from, n.known, n.stale = seq, from, seq >= from, false
	return nil
}

// errNoRows says that the rows of an entry are neither in it nor kept aside.
var errNoRows = base.Errorf(base.KindTrimmed, "the rows that the entry has changed are not kept on this node (any more)").
	WithHint("another node may still have them; else begin anew, with a snapshot. The database's retention_bytes says how much is kept")

// body returns the row body of an entry.
func (n *namer) body(ctx context.Context, e *entry.Entry) ([]byte, error) {
	switch e.Kind {
	case entry.Row, entry.Statement, entry.WAL, entry.Trigger:
	default:
		return nil, base.Errorf(base.KindUnsupported, "entry %v is of kind %v, which this version can't read", e.Position(), e.Kind)
	}
	body, found, err := n.history.rows(ctx, e)
	if err == nil && !found {
		err = errNoRows
	}
	return body, err
}

// change is one change of an entry. Rows whose columns have no known names
// have those of their places.
type change struct {
	seq                base.Seq
	op, table, sql     string
	key, before, after changefeed.Row
	// unnamed says that the columns' names are not known.
	unnamed bool

	newKey  changefeed.Row // names the row after the change
	sent    string         // insert, update or delete: what triggers have sent
	message string         // the operation of a message
}

// read shows each the changes of an entry.
func (n *namer) read(ctx context.Context, e *entry.Entry, each func(c change) error) error {
	if rowless(e) {
		if n.at == e.First-1 {
			n.at = e.Last()
		}
		return nil
	}
	body, err := n.body(ctx, e)
	if err != nil {
		return err
	}
	sent, err := sentBy(e)
	if err != nil {
		return err
	}
	if n.at != e.First-1 || n.stale || !n.known && e.First > n.from {
		if err := n.load(ctx, e.First-1); err != nil {
			return err
		}
	}
	seq := e.First
	var rows []change // what was sent refers to them
	for c, err := range row.Describe(body) {
		if err != nil {
			return err
		}
		out, err := n.change(ctx, e, &c)
		if err != nil {
			return err
		}
		out.seq = seq
		if err := each(out); err != nil {
			return err
		}
		seq++
		if len(sent) > 0 {
			rows = append(rows, out)
		}
	}
	for i := range sent {
		out, err := n.sent(e, &sent[i], rows)
		if err != nil {
			return err
		}
		out.seq = seq
		if err := each(out); err != nil {
			return err
		}
		seq++
	}
	if seq != e.Last()+1 {
		return base.Errorf(base.KindCorrupt, "entry %v holds %d changes and says %d", e.Position(), seq-e.First, e.Count)
	}
	n.at = e.Last()
	return nil
}

func (n *namer) change(ctx context.Context, e *entry.Entry, c *row.Change) (change, error) {
	out := change{op: c.Op, table: c.Table, sql: c.SQL}
	if c.Op == "schema" {
		if n.names.Follow(c.SQL) != nil {
			n.stale = true // An index, say, that is not part of the history; the next entry reads it.
		}
		return out, nil
	}
	if c.Definition == nil || c.Op == "statistics" { // Of the engine's own tables.
		out.key, out.before, out.after = numbered("name", c.Key), numbered("seq", c.Old), numbered("seq", c.New)
		return out, nil
	}
	columns, fits, err := n.names.Table(c.Definition)
	if err == nil && !fits && n.stale {
		// What this entry has done to the schema could not be followed, but
		// what came of it is known.
		if err = n.load(ctx, e.Last()); err == nil {
			columns, fits, err = n.names.Table(c.Definition)
		}
		n.stale = true
	}
	if err != nil {
		return out, err
	}
	if !fits {
		out.unnamed = true
		out.key, out.before, out.after = numbered("key", c.Key), numbered("column", c.Old), numbered("column", c.New)
		return out, nil
	}
	old := c.Key
	out.before = rowOf(columns.Names, columns.Values(rowidOf(old), c.Old))
	out.after = rowOf(columns.Names, columns.Values(c.NewRowID, c.New))
	out.key, out.newKey = keyOf(columns, c.Key), keyAfter(columns, c, out.after)
	return out, nil
}

// rowidOf is the rowid in a key; 0 in tables without rowids, which have none.
func rowidOf(key []base.Value) int64 {
	if len(key) == 1 {
		return key[0].Int
	}
	return 0
}

// keyOf names the values of a key.
func keyOf(columns *row.Columns, key []base.Value) changefeed.Row {
	names := columns.Key
	if len(names) == 0 {
		names = []string{"rowid"}
	}
	values := make([]base.Value, len(key))
	for i, v := range key {
		values[i] = v.Clone()
	}
	return rowOf(names, values)
}

func rowOf(names []string, values []base.Value) changefeed.Row {
	if values == nil {
		return nil
	}
	out := make(changefeed.Row, len(values))
	for i, v := range values {
		out[i] = changefeed.Field{Name: names[i], Value: v}
	}
	return out
}

// numbered names values by their places.
func numbered(kind string, values []base.Value) changefeed.Row {
	if values == nil {
		return nil
	}
	out := make(changefeed.Row, len(values))
	for i, v := range values {
		out[i] = changefeed.Field{Name: fmt.Sprintf("%s%d", kind, i+1), Value: v.Clone()}
		if len(values) == 1 {
			out[i].Name = kind
		}
	}
	return out
}

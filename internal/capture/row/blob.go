package row

import (
	"fmt"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/sqlite"
)

// rewritten is a row that blob I/O has written to. The hook tells the row as it
// was; what it has become shows when it changes again, or by asking for it once
// the statement is over. Until then the record waits: blob I/O cannot write to
// a column of a key or an index, so that the order does not matter to others.
type rewritten struct {
	t     *table
	rowid int64
	old   []base.Value
}

// noteBlobWrite keeps the row that p is about to rewrite.
func (r *Recorder) noteBlobWrite(t *table, p *sqlite.PreUpdate) error {
	for _, w := range r.rewritten {
		if w.t == t && w.rowid == p.OldRowID {
			return nil // Its first state is the one that counts.
		}
	}
	w := rewritten{t: t, rowid: p.OldRowID}
	for _, c := range t.columns {
		v, err := p.Old(c.hook)
		if err != nil {
			return err
		}
		w.old = append(w.old, clone(v))
	}
	r.rewritten = append(r.rewritten, w)
	return nil
}

// settleBefore records the rewriting of the row that p is about to change.
func (r *Recorder) settleBefore(t *table, p *sqlite.PreUpdate) error {
	for i, w := range r.rewritten {
		if w.t != t || w.rowid != p.OldRowID || p.Op == sqlite.Insert {
			continue
		}
		r.rewritten = append(r.rewritten[:i:i], r.rewritten[i+1:]...)
		return r.settle(w, func(i int) (base.Value, error) { return p.Old(t.columns[i].hook) })
	}
	return nil
}

// settleAll records every rewriting that is left, when no statement runs.
func (r *Recorder) settleAll() error {
	for len(r.rewritten) > 0 {
		w := r.rewritten[0]
		r.rewritten = r.rewritten[1:]
		if err := r.settleFromTable(w); err != nil {
			return fmt.Errorf("table %q: %w", w.t.name, err)
		}
	}
	return nil
}

func (r *Recorder) settleFromTable(w rewritten) error {
	stmt, err := r.conn.PrepareOwn(w.t.selectRows(true))
	if err != nil {
		return err
	}
	defer stmt.Close()
	if err := stmt.Bind(1, base.IntValue(w.rowid)); err != nil {
		return err
	}
	if row, err := stmt.Step(); err != nil || !row {
		return fmt.Errorf("row %d, which blob I/O has written, is not there: %w", w.rowid, err)
	}
	return r.settle(w, func(i int) (base.Value, error) { return stmt.Column(i + 1), nil })
}

func (r *Recorder) settle(w rewritten, now func(int) (base.Value, error)) error {
	r.buffer.BeginUpdate(w.t.id, w.rowid, w.rowid)
	for i, old := range w.old {
		v, err := now(i)
		if err != nil {
			r.buffer.Abort()
			return err
		}
		r.buffer.Before(old)
		r.buffer.After(v)
	}
	r.buffer.End()
	return nil
}

package sqlite

import (
	"iter"

	"github.com/skeindb/skein/internal/base"
)

// PrepareOwn is Prepare for our own SQL: under GuardOwn, whatever the guard of
// the statements prepared next is. A statement that is kept open rather than
// closed stays compiled and belongs to its holder alone.
func (c *Conn) PrepareOwn(sql string) (*Stmt, error) { return c.prepare(sql, GuardOwn) }

// RunOwn runs one statement of our own.
func (c *Conn) RunOwn(sql string, args ...base.Value) error {
	st, err := c.PrepareOwn(sql)
	if err != nil {
		return err
	}
	defer st.Close()
	if err := st.BindAll(args); err != nil {
		return err
	}
	return st.Run()
}

// QueryOwn runs a query of our own and yields its rows, each until the next one
// is asked for; an error is the last that comes.
func (c *Conn) QueryOwn(sql string, args ...base.Value) iter.Seq2[*Stmt, error] {
	return func(yield func(*Stmt, error) bool) {
		st, err := c.PrepareOwn(sql)
		if err != nil {
			yield(nil, err)
			return
		}
		defer st.Close()
		if err := st.BindAll(args); err != nil {
			yield(nil, err)
			return
		}
		for {
			more, err := st.Step()
			if err != nil {
				yield(nil, err)
				return
			}
			if !more || !yield(st, nil) {
				return
			}
		}
	}
}

// BlobWrite returns the column that blob I/O is about to write, and -1 for
// every ordinary change. Such a write comes as a Delete, and what it writes
// cannot be read yet: full-text tables change their settings in this way.
func (p *PreUpdate) BlobWrite() int { return p.data.BlobWrite() }

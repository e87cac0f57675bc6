package trigger

import (
	"context"
	"errors"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/rowformat"
	"github.com/skeindb/skein/internal/sqlite"
)

// declared is a table with the triggers that say what is sent of it.
type declared struct {
	name, sql string
	triggers  []string
}

// sandbox runs the triggers of a table on one row at a time, in an empty copy
// of the table in memory. So a row that no trigger has seen is judged by the
// very text that judges the others. It is used by one goroutine.
type sandbox struct {
	conn    *sqlite.Conn
	applier *row.Applier
	made    map[string]rowformat.Table
	hears   bool
	heard   []call
}

func newSandbox(ctx context.Context) (*sandbox, error) {
	conn, err := sqlite.OpenMemory(ctx)
	if err != nil {
		return nil, err
	}
	s := &sandbox{conn: conn, applier: row.NewApplier(conn), made: make(map[string]rowformat.Table)}
	// What stands in the table was let in already.
	if err := conn.Exec("PRAGMA ignore_check_constraints = ON"); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	conn.OnEmit(s.emitted)
	return s, nil
}

func (s *sandbox) close() {
	s.applier.Close()
	_ = s.conn.Close() // It is memory only.
}

func (s *sandbox) emitted(args []base.Value) error {
	if !s.hears {
		return nil
	}
	c, err := parse(args, func(name string) (rowformat.Table, bool) { t, ok := s.made[name]; return t, ok })
	s.heard = append(s.heard, c)
	return err
}

// make makes the table where it is missing.
func (s *sandbox) make(d *declared, t rowformat.Table) error {
	if _, made := s.made[d.name]; made {
		return nil
	}
	for _, sql := range append([]string{d.sql}, d.triggers...) {
		if err := s.conn.Exec(sql); err != nil {
			return err
		}
	}
	s.made[d.name] = t
	return nil
}

// comes returns what the table's triggers send when the row comes that body
// inserts; the row is gone then.
func (s *sandbox) comes(d *declared, t rowformat.Table, body []byte) ([]call, error) {
	return s.run(d, t, func() error {
		s.hears = true
		err := s.applier.Apply(body)
		s.hears = false
		return errors.Join(err, s.applier.Undo(body))
	})
}

// goes returns what they send when the row goes that body inserts.
func (s *sandbox) goes(d *declared, t rowformat.Table, body []byte) ([]call, error) {
	return s.run(d, t, func() error {
		if err := s.applier.Apply(body); err != nil {
			return err
		}
		s.hears = true
		err := s.applier.Undo(body)
		s.hears = false
		return err
	})
}

func (s *sandbox) run(d *declared, t rowformat.Table, steps func() error) ([]call, error) {
	s.heard = s.heard[:0]
	err := s.make(d, t)
	if err == nil {
		err = steps()
	}
	if err != nil {
		s.hears = false
		return nil, base.Errorf(base.KindUnsupported, "the triggers that say what is sent of table %q can't be run on a row alone: %w", d.name, err).
			WithHint("let them use nothing but the row; skein db replicate writes such triggers")
	}
	return s.heard, nil
}

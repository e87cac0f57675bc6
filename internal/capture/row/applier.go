package row

import (
	"errors"
	"fmt"
	"slices"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/rowformat"
	"github.com/skeindb/skein/internal/sqlite"
)

// ErrDiverged says that a change does not fit the copy: the copies differ.
var ErrDiverged = errors.New("the copy differs from its leader's")

// ErrNotInvertible says that a body holds a change that cannot be taken back,
// such as that of the schema. Nothing of the body has been taken back.
var ErrNotInvertible = errors.New("change cannot be undone")

// Applier makes recorded changes on another copy, through a connection with
// RoleApplier: no triggers, foreign keys or CHECKs, since what they did is
// recorded too. It runs inside the caller's transaction, which the caller
// rolls back after an error.
//
// Nothing else should use the connection to read full-text or R-tree tables,
// nor should it become a writer later: what such tables remember of their
// content is not told of rows that are applied beneath them. Other connections
// are told.
type Applier struct {
	conn     *sqlite.Conn
	reader   rowformat.Reader
	plans    map[string]*plan
	version  int64 // the schema version that plans are for
	checked  int   // the transaction in which that version was found; 0: none
	schemas  int   // schema records that were applied
	compiled int   // statements held
	args     []base.Value
}

// NewApplier makes an Applier. It holds compiled statements of conn until
// Close.
func NewApplier(conn *sqlite.Conn) *Applier {
	return &Applier{conn: conn, plans: make(map[string]*plan), version: -1}
}

// Close gives the statements back; the connection stays open.
func (a *Applier) Close() { a.forget() }

// SchemasApplied counts the changes of the schema that Apply has made.
func (a *Applier) SchemasApplied() int { return a.schemas }

// Apply makes the changes of a body.
func (a *Applier) Apply(body []byte) error {
	if err := a.open(body); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	for a.reader.Next() {
		if err := a.apply(a.reader.Record()); err != nil {
			return fmt.Errorf("apply: %w", err)
		}
	}
	if err := a.reader.Err(); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	return nil
}

// Undo takes the changes of a body back, last to first: the copy is then as it
// was before Apply, or before the transaction where it was captured. It fails
// with ErrNotInvertible before it changes anything.
func (a *Applier) Undo(body []byte) error {
	if err := a.open(body); err != nil {
		return fmt.Errorf("undo: %w", err)
	}
	for a.reader.Next() {
		if err := invertible(a.reader.Record()); err != nil {
			return fmt.Errorf("undo: %w", err)
		}
	}
	// Rows first: a row that comes back counts in sqlite_sequence, too.
	for _, sequences := range [2]bool{false, true} {
		for rec := range a.reader.Backward() {
			if (rec.Kind == rowformat.Sequence) != sequences {
				continue
			}
			if err := a.apply(inverse(rec)); err != nil {
				return fmt.Errorf("undo: %w", err)
			}
		}
	}
	if err := a.reader.Err(); err != nil {
		return fmt.Errorf("undo: %w", err)
	}
	return nil
}

func invertible(rec *rowformat.Record) error {
	switch rec.Kind {
	case rowformat.Schema:
		if !rec.Inert {
			return fmt.Errorf("%w: %s", ErrNotInvertible, rec.SQL)
		}
	case rowformat.Statistics:
		return fmt.Errorf("%w: ANALYZE", ErrNotInvertible)
	}
	return nil
}

// inverse turns rec into the change that takes it back.
func inverse(rec *rowformat.Record) *rowformat.Record {
	switch rec.Kind {
	case rowformat.Insert:
		rec.Kind = rowformat.Delete
	case rowformat.Delete:
		rec.Kind = rowformat.Insert
	}
	rec.RowID, rec.NewRowID = rec.NewRowID, rec.RowID
	rec.Old, rec.New = rec.New, rec.Old
	rec.Before, rec.After = rec.After, rec.Before
	return rec
}

// open starts on a body and drops plans of another schema: DDL may have been
// rolled back, or the file replaced, since they were made.
func (a *Applier) open(body []byte) error {
	if err := a.reader.Reset(body); err != nil {
		return err
	}
	if a.compiled > maxStatements {
		a.forget()
	}
	// Within a transaction only this applier changes the schema.
	transaction := a.conn.Transaction()
	if transaction != 0 && transaction == a.checked {
		return nil
	}
	version, err := a.conn.SchemaVersion()
	if err != nil {
		return err
	}
	if version != a.version {
		a.forget()
	}
	a.version, a.checked = version, transaction
	return nil
}

func (a *Applier) apply(rec *rowformat.Record) error {
	switch rec.Kind {
	case rowformat.Insert, rowformat.Delete, rowformat.Update, rowformat.Move:
		return a.row(rec)
	case rowformat.Schema:
		return a.schema(rec)
	case rowformat.Sequence:
		return a.sequence(rec)
	case rowformat.Statistics:
		return a.statistics(rec)
	}
	return fmt.Errorf("%w: %v record", rowformat.ErrUnknown, rec.Kind)
}

func (a *Applier) row(rec *rowformat.Record) error {
	p, err := a.plan(rec.Table)
	if err != nil {
		return err
	}
	var stmt *sqlite.Stmt
	a.args = a.args[:0]
	switch rec.Kind {
	case rowformat.Insert:
		stmt, err = a.statement(&p.insert, p.insertSQL)
		if p.rowid != "" {
			a.args = append(a.args, base.IntValue(rec.NewRowID))
		}
		a.args = append(a.args, rec.New...)
	case rowformat.Delete:
		stmt, err = a.statement(&p.remove, p.deleteSQL)
		a.appendKey(p, rec)
	default:
		stmt, err = a.updateStatement(p, rec)
		a.appendUpdate(p, rec)
	}
	if err == nil {
		err = a.run(stmt)
	}
	if err != nil {
		return fmt.Errorf("%v table %q, %s: %w", rec.Kind, rec.Table.Name, describeKey(rec), err)
	}
	return nil
}

func (a *Applier) appendUpdate(p *plan, rec *rowformat.Record) {
	for i := range rec.New {
		if rec.ColumnChanged(i) {
			a.args = append(a.args, rec.New[i])
		}
	}
	if rec.Kind == rowformat.Move {
		a.args = append(a.args, base.IntValue(rec.NewRowID))
	}
	a.appendKey(p, rec)
}

// appendKey appends what names the row before the change.
func (a *Applier) appendKey(p *plan, rec *rowformat.Record) {
	if p.rowid != "" {
		a.args = append(a.args, base.IntValue(rec.RowID))
		return
	}
	for _, k := range p.terms {
		a.args = append(a.args, rec.Old[k.value])
	}
}

// run runs a statement that must change exactly one row.
func (a *Applier) run(stmt *sqlite.Stmt) error {
	if err := stmt.BindAll(a.args); err != nil {
		return err
	}
	if err := stmt.Run(); err != nil {
		return diverged(err)
	}
	if n := a.conn.Changes(); n != 1 {
		return fmt.Errorf("%w: %d rows have this key", ErrDiverged, n)
	}
	return nil
}

// diverged marks an error of the SQL itself, such as a constraint that the
// leader's copy kept. Others, such as a full disk, say nothing of the data.
func diverged(err error) error {
	if base.KindOf(err) == base.KindSQL {
		return fmt.Errorf("%w: %w", ErrDiverged, err)
	}
	return err
}

// plan returns the plan of a table as a body describes it.
func (a *Applier) plan(want *rowformat.Table) (*plan, error) {
	p := a.plans[want.Name]
	if p == nil {
		var err error
		if p, err = a.newPlan(want.Name); err != nil {
			return nil, err
		}
	}
	if got := p.definition; got.Columns != want.Columns || !slices.Equal(got.Key, want.Key) {
		return nil, fmt.Errorf("%w: table %q has %d columns and key %v here, %d and %v there",
			ErrDiverged, want.Name, got.Columns, got.Key, want.Columns, want.Key)
	}
	return p, nil
}

func (a *Applier) newPlan(name string) (*plan, error) {
	t, err := readTable(a.conn, name, "")
	if err != nil {
		return nil, err
	}
	if t == nil {
		return nil, fmt.Errorf("%w: there is no table %q", ErrDiverged, name)
	}
	p := &plan{table: t, definition: t.definition(), updates: make(map[string]*sqlite.Stmt)}
	a.plans[name] = p
	return p, nil
}

// schema runs a schema statement and compares what came of it.
func (a *Applier) schema(rec *rowformat.Record) error {
	a.schemas++
	a.forget()
	if err := a.conn.RunOwn(string(rec.SQL)); err != nil {
		return fmt.Errorf("%s: %w", rec.SQL, diverged(err))
	}
	s, err := readSchema(a.conn)
	if err != nil {
		return err
	}
	if s.hash() != rec.Hash {
		return fmt.Errorf("%w: the schema is another after %s", ErrDiverged, rec.SQL)
	}
	a.version = s.version
	return nil
}

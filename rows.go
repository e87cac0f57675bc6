package skein

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/session"
)

// ErrNoRows is what Row.Scan returns when there was none.
var ErrNoRows = sql.ErrNoRows

// Rows is a result being read, by one goroutine.
type Rows struct {
	inner  session.Rows
	closed func(Result) // gives the session back; may be nil
	over   bool
}

// Columns returns the columns' names.
func (r *Rows) Columns() []string {
	columns := r.inner.Columns()
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.Name
	}
	return names
}

// Next advances to the next row; false at the end, which closes the rows, or on
// an error, which Err then returns.
func (r *Rows) Next() bool {
	if r.over {
		return false
	}
	if r.inner.Next() {
		return true
	}
	r.finish()
	return false
}

// Scan copies the row's values. A destination is a pointer to int64, int,
// float64, string, []byte, bool, time.Time or any, an sql.Scanner such as
// *sql.NullString, or nil to skip. NULL fits any, []byte and Scanners alone.
func (r *Rows) Scan(destinations ...any) error {
	row := r.inner.Row()
	if len(destinations) != len(row) {
		return base.Errorf(base.KindInvalid, "scan: %d destinations for %d columns", len(destinations), len(row))
	}
	for i, d := range destinations {
		if err := assign(d, row[i]); err != nil {
			return fmt.Errorf("scan column %d (%s): %w", i+1, r.inner.Columns()[i].Name, err)
		}
	}
	return nil
}

// Values returns the row's values as nil, int64, float64, string or []byte.
func (r *Rows) Values() []any {
	row := r.inner.Row()
	values := make([]any, len(row))
	for i, v := range row {
		values[i] = plain(v)
	}
	return values
}

// Err says why Next returned false; nil at the end of the rows.
func (r *Rows) Err() error { return r.inner.Err() }

// Result is complete once the rows are read or closed.
func (r *Rows) Result() Result { return resultOf(r.inner.Result()) }

// Close ends the reading; after the end it does nothing.
func (r *Rows) Close() error {
	if r.over {
		return nil
	}
	err := r.inner.Close()
	r.finish()
	return err
}

func (r *Rows) finish() {
	r.over = true
	if r.closed != nil {
		r.closed(r.Result())
	}
}

// Row is a result of which one row is wanted.
type Row struct {
	rows *Rows
	err  error
}

// Scan copies the first row's values and closes the result; ErrNoRows when
// there was none.
func (r *Row) Scan(destinations ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return ErrNoRows
	}
	return errors.Join(r.rows.Scan(destinations...), r.rows.Close())
}

// valuesOf turns parameters into SQLite's values.
func valuesOf(args []any) ([]base.Value, error) {
	if len(args) == 0 {
		return nil, nil
	}
	values := make([]base.Value, len(args))
	for i, a := range args {
		v, err := valueOf(a)
		if err != nil {
			return nil, base.Errorf(base.KindInvalid, "parameter %d: %w", i+1, err)
		}
		values[i] = v
	}
	return values, nil
}

func valueOf(a any) (base.Value, error) {
	switch a := a.(type) {
	case nil:
		return base.Value{}, nil
	case int:
		return base.IntValue(int64(a)), nil
	case int64:
		return base.IntValue(a), nil
	case float64:
		return base.RealValue(a), nil
	case string:
		return base.TextValue(a), nil
	case []byte:
		if a == nil {
			return base.Value{}, nil
		}
		return base.BlobValue(a), nil
	case bool:
		if a {
			return base.IntValue(1), nil
		}
		return base.IntValue(0), nil
	case time.Time:
		return base.TextValue(a.Format(time.RFC3339Nano)), nil
	}
	v, err := driver.DefaultParameterConverter.ConvertValue(a)
	if err != nil {
		return base.Value{}, err
	}
	return valueOf(v) // One of the types above.
}

// plain is a value as a Go value that the caller owns.
func plain(v base.Value) any {
	switch v.Kind {
	case base.Integer:
		return v.Int
	case base.Real:
		return v.Float
	case base.Text:
		return string(v.Bytes)
	case base.Blob:
		return append([]byte{}, v.Bytes...)
	}
	return nil
}

// assign copies v to where destination points.
func assign(destination any, v base.Value) (err error) {
	switch d := destination.(type) {
	case nil:
		return nil
	case *any:
		*d = plain(v)
		return nil
	case sql.Scanner:
		return d.Scan(plain(v))
	case *[]byte:
		*d = nil
		if v.Kind != base.Null {
			*d = append([]byte{}, v.AsText()...)
		}
		return nil
	}
	if v.Kind == base.Null {
		return base.Errorf(base.KindInvalid, "NULL does not fit %T; use *any or an sql.Null type", destination)
	}
	switch d := destination.(type) {
	case *string:
		*d = v.AsText()
	case *int64:
		*d, err = integerOf(v)
	case *int:
		var wide int64
		wide, err = integerOf(v)
		*d = int(wide)
	case *float64:
		*d, err = realOf(v)
	case *bool:
		var wide int64
		wide, err = integerOf(v)
		*d = wide != 0
	case *time.Time:
		*d, err = timeOf(v)
	default:
		err = base.Errorf(base.KindInvalid, "%T is no destination", destination)
	}
	return err
}

func misfit(v base.Value, into string) error {
	return base.Errorf(base.KindInvalid, "%q is not %s", v.AsText(), into)
}

func integerOf(v base.Value) (int64, error) {
	switch {
	case v.Kind == base.Integer:
		return v.Int, nil
	case v.Kind == base.Text:
		if n, err := strconv.ParseInt(string(v.Bytes), 10, 64); err == nil {
			return n, nil
		}
	case v.Kind == base.Real && v.Float >= -1<<63 && v.Float < 1<<63 && v.Float == float64(int64(v.Float)):
		return int64(v.Float), nil
	}
	return 0, misfit(v, "an integer")
}

func realOf(v base.Value) (float64, error) {
	switch v.Kind {
	case base.Real:
		return v.Float, nil
	case base.Integer:
		return float64(v.Int), nil
	case base.Text:
		if f, err := strconv.ParseFloat(string(v.Bytes), 64); err == nil {
			return f, nil
		}
	}
	return 0, misfit(v, "a number")
}

// timeLayouts are the texts that valueOf and SQLite's own functions write.
var timeLayouts = []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999", time.DateOnly}

func timeOf(v base.Value) (time.Time, error) {
	if v.Kind == base.Text {
		for _, layout := range timeLayouts {
			if t, err := time.Parse(layout, string(v.Bytes)); err == nil {
				return t, nil
			}
		}
	}
	return time.Time{}, misfit(v, "a time")
}

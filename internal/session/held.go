package session

import "github.com/skeindb/skein/internal/base"

// heldRows is a result that is in memory.
type heldRows struct {
	columns []Column
	rows    [][]base.Value
	result  Result
	next    int
}

// HeldRows reads a result that is in memory, and that nobody changes any more.
func HeldRows(columns []Column, rows [][]base.Value, result Result) Rows {
	return &heldRows{columns: columns, rows: rows, result: result}
}

func (h *heldRows) Columns() []Column { return h.columns }
func (h *heldRows) Row() []base.Value { return h.rows[h.next-1] }
func (h *heldRows) Err() error        { return nil }
func (h *heldRows) Result() Result    { return h.result }
func (h *heldRows) Close() error      { return nil }

func (h *heldRows) Next() bool {
	if h.next >= len(h.rows) {
		return false
	}
	h.next++
	return true
}

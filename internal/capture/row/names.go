package row

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/rowformat"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/sqltext"
)

// Names knows how tables are declared at one place of a log, and follows the
// schema changes in it: changes have values without names, which are those of
// their own time. It holds an empty copy of the tables in memory, and is used
// by one goroutine.
type Names struct {
	ctx    context.Context
	conn   *sqlite.Conn
	tables map[string]*Columns // what was looked up; nil where there is none
}

// Columns of a table as it was declared.
type Columns struct {
	// Names of the columns in order, without generated ones.
	Names []string
	// RowID names the column that is the rowid, "" when none is.
	RowID string
	// Key lists the columns of the primary key; it is empty when rows are
	// named by a rowid that is no column.
	Key []string
	// RowName is Key, or the name of the rowid where Key is empty.
	RowName []string

	values     []int // which value of a change a column is; -1: the rowid
	definition rowformat.Table
}

// NewNames knows no table yet. ctx bounds its life.
func NewNames(ctx context.Context) (*Names, error) {
	n := &Names{ctx: ctx}
	return n, n.Load(nil)
}

// Close gives the memory back.
func (n *Names) Close() error { return n.conn.Close() }

// Load starts over with these CREATE TABLE statements, by table.
func (n *Names) Load(tables map[string]string) error {
	if n.conn != nil {
		if err := n.conn.Close(); err != nil {
			return err
		}
	}
	n.conn, n.tables = nil, make(map[string]*Columns)
	conn, err := sqlite.OpenMemory(n.ctx)
	if err != nil {
		return fmt.Errorf("load schema: %w", err)
	}
	n.conn = conn
	for name, sql := range tables {
		if err := conn.Exec(sql); err != nil {
			return fmt.Errorf("load schema of table %q: %w", name, err)
		}
	}
	return nil
}

// Follow makes a schema change. An error says that it could not be followed:
// from there on Load must help.
func (n *Names) Follow(sql string) error {
	n.tables = make(map[string]*Columns)
	return n.conn.Exec(sql)
}

// Table returns the columns of a table that a change describes; false when
// what is known does not fit the description.
func (n *Names) Table(d *rowformat.Table) (*Columns, bool, error) {
	c, known := n.tables[d.Name]
	if !known {
		var err error
		if c, err = readColumns(n.conn, d.Name); err != nil {
			return nil, false, err
		}
		n.tables[d.Name] = c
	}
	if c == nil || c.definition.Columns != d.Columns || !slices.Equal(c.definition.Key, d.Key) {
		return nil, false, nil
	}
	return c, true, nil
}

// Declared names the columns of a table, and the one that is the rowid, "" when
// none is; no columns when there is no such table.
func (n *Names) Declared(table string) (rowid string, columns []string, err error) {
	return ColumnNames(n.conn, table)
}

// Named returns the columns of the table of a name; nil when none is known.
func (n *Names) Named(name string) (*Columns, error) {
	c, known := n.tables[name]
	if !known {
		var err error
		if c, err = readColumns(n.conn, name); err != nil {
			return nil, err
		}
		n.tables[name] = c
	}
	return c, nil
}

func readColumns(conn *sqlite.Conn, name string) (*Columns, error) {
	t, err := readTable(conn, name, "")
	if err != nil || t == nil {
		return nil, err
	}
	return columnsOf(conn, t)
}

func columnsOf(conn *sqlite.Conn, t *table) (*Columns, error) {
	c := &Columns{RowID: t.alias, RowName: t.keyNames(), definition: t.definition()}
	at := make(map[int]int, len(t.columns)) // hook number to value
	for i, column := range t.columns {
		at[column.hook] = i
	}
	names, err := declared(conn, t.name)
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		value, stored := at[i]
		if name == t.alias {
			value, stored = -1, true
		}
		if stored {
			c.Names, c.values = append(c.Names, name), append(c.values, value)
		}
	}
	if t.alias != "" {
		c.Key = []string{t.alias}
	}
	for _, k := range c.definition.Key {
		c.Key = append(c.Key, t.columns[k].name)
	}
	return c, nil
}

// declared lists all columns of a table, in the order of the pre-update hook.
func declared(conn *sqlite.Conn, name string) (names []string, err error) {
	err = query(conn, "PRAGMA main.table_xinfo("+sqltext.QuoteName(name)+")", func(row *sqlite.Stmt) {
		names = append(names, text(row, 1))
	})
	return names, err
}

// selectAll is a query of the rowid, where there is one, and the values of
// every row.
func (t *table) selectAll() string {
	if t.rowid != "" {
		return t.selectRows(false)
	}
	names := make([]string, len(t.columns))
	for i, c := range t.columns {
		names[i] = sqltext.QuoteName(c.name)
	}
	return "SELECT " + strings.Join(names, ", ") + " FROM " + t.quoted()
}

// Values puts a row of a change in the order of Names.
func (c *Columns) Values(rowid int64, row []base.Value) []base.Value {
	if row == nil {
		return nil
	}
	out := make([]base.Value, len(c.values))
	for i, v := range c.values {
		if v < 0 {
			out[i] = base.IntValue(rowid)
		} else {
			out[i] = row[v].Clone()
		}
	}
	return out
}

// ReadRows calls each for every row of a table of conn, by rowid or key, with
// its rowid and its values in the order of Columns.Names; both are valid during
// the call.
func ReadRows(conn *sqlite.Conn, name string, each func(c *Columns, rowid int64, values []base.Value) error) error {
	t, err := readTable(conn, name, "")
	if err != nil || t == nil {
		return err
	}
	c, err := columnsOf(conn, t)
	if err != nil {
		return err
	}
	first := 1
	if t.rowid == "" {
		first = 0
	}
	row := make([]base.Value, len(t.columns))
	var failed error
	err = queryUntil(conn, t.selectAll(), func(st *sqlite.Stmt) bool {
		var rowid int64
		if first == 1 {
			rowid = st.Column(0).Int
		}
		for i := range row {
			row[i] = st.Column(first + i)
		}
		failed = each(c, rowid, c.Values(rowid, row))
		return failed == nil
	})
	return errors.Join(failed, err)
}

package row

import (
	"slices"
	"strings"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/rowformat"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/sqltext"
)

// column is a column whose value is written: not generated, not the rowid.
type column struct {
	name string
	hook int // its number in the pre-update hook
}

// keyTerm is one comparison that finds a row of a WITHOUT ROWID table. It uses
// the collation of the primary key, which need not be the column's: the key is
// unique under it and its index can be used.
type keyTerm struct {
	value     int // which of the written values
	collation string
}

// table is what must be known of a table to write and find its rows.
type table struct {
	name          string
	columns       []column
	hookColumns   int    // how many columns the hook counts
	rowid         string // the quoted name that means the rowid
	alias         string // the column that is the rowid, if one is
	terms         []keyTerm
	autoincrement bool
	id            rowformat.TableID // in the Recorder's buffer
	sql           string
}

// definition is how bodies describe t.
func (t *table) definition() rowformat.Table {
	d := rowformat.Table{Name: t.name, Columns: len(t.columns)}
	for _, k := range t.terms {
		if !slices.Contains(d.Key, k.value) {
			d.Key = append(d.Key, k.value)
		}
	}
	return d
}

func (t *table) quoted() string { return "main." + sqltext.QuoteName(t.name) }

// selectRows is a query of the rowid and the written values of every row, or
// of the one with rowid ?1.
func (t *table) selectRows(one bool) string {
	var b strings.Builder
	b.WriteString("SELECT " + t.rowid)
	for _, c := range t.columns {
		b.WriteString(", " + sqltext.QuoteName(c.name))
	}
	b.WriteString(" FROM " + t.quoted())
	if one {
		t.where(&b, 1)
	} else {
		b.WriteString(" ORDER BY 1")
	}
	return b.String()
}

// described is a row of PRAGMA table_xinfo.
type described struct {
	name   string
	hidden int64 // 2 and 3 are generated columns, VIRTUAL and STORED
	key    bool
}

// readTable reads an ordinary or shadow table; nil when there is none of the
// name. Exact spelling counts: it is how the hook and bodies spell it.
func readTable(conn *sqlite.Conn, name, sql string) (*table, error) {
	literal := sqltext.QuoteName(name)
	var all []described
	err := query(conn, "PRAGMA main.table_xinfo("+literal+")", func(row *sqlite.Stmt) {
		all = append(all, described{name: text(row, 1), hidden: row.Column(6).Int, key: row.Column(5).Int > 0})
	})
	if err != nil || len(all) == 0 {
		return nil, err
	}
	index, err := primaryIndex(conn, literal)
	if err != nil {
		return nil, err
	}
	withoutRowID := false
	err = query(conn, "PRAGMA main.table_list("+literal+")", func(row *sqlite.Stmt) {
		withoutRowID = withoutRowID || text(row, 0) == "main" && row.Column(4).Int != 0
	})
	if err != nil {
		return nil, err
	}
	t := &table{name: name, hookColumns: len(all), sql: sql}
	for i, c := range all {
		switch {
		case c.hidden >= 2:
		case c.key && index == "": // An INTEGER PRIMARY KEY needs no index.
			t.alias = c.name
		default:
			t.columns = append(t.columns, column{name: c.name, hook: i})
		}
	}
	if withoutRowID {
		return t, t.readKey(conn, index, all)
	}
	t.autoincrement = t.alias != "" && strings.Contains(strings.ToUpper(sql), "AUTOINCREMENT")
	t.rowid, err = rowidName(name, all, t.alias)
	return t, err
}

// primaryIndex names the index of the primary key: for WITHOUT ROWID tables
// the table itself, for others a unique index. There is none when the key is
// the rowid.
func primaryIndex(conn *sqlite.Conn, literal string) (name string, err error) {
	err = query(conn, "PRAGMA main.index_list("+literal+")", func(row *sqlite.Stmt) {
		if text(row, 3) == "pk" {
			name = text(row, 1)
		}
	})
	return name, err
}

func (t *table) readKey(conn *sqlite.Conn, index string, all []described) error {
	err := query(conn, "PRAGMA main.index_xinfo("+sqltext.QuoteName(index)+")", func(row *sqlite.Stmt) {
		if row.Column(5).Int == 0 {
			return // A column that the key's index only carries along.
		}
		name := all[row.Column(1).Int].name
		at := slices.IndexFunc(t.columns, func(c column) bool { return c.name == name })
		t.terms = append(t.terms, keyTerm{value: at, collation: text(row, 4)})
	})
	if err == nil && len(t.terms) == 0 {
		err = base.Errorf(base.KindInternal, "table %q has neither rowids nor a primary key", t.name)
	}
	return err
}

// rowidName finds a name for the rowid that no column has taken.
func rowidName(table string, all []described, alias string) (string, error) {
	for _, name := range [...]string{"rowid", "_rowid_", "oid"} {
		if !slices.ContainsFunc(all, func(c described) bool { return strings.EqualFold(c.name, name) }) {
			return name, nil
		}
	}
	if alias != "" {
		return sqltext.QuoteName(alias), nil
	}
	return "", base.Errorf(base.KindUnsupported,
		"table %q has columns named rowid, oid and _rowid_, so that its rows cannot be named", table).
		WithHint("Rename one of the three columns, or give the table an INTEGER PRIMARY KEY.")
}

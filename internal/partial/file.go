package partial

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/sqltext"
)

const (
	createFollowSQL = `CREATE TABLE IF NOT EXISTS _skein_follow (
	id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL, database TEXT NOT NULL, next TEXT NOT NULL, position TEXT NOT NULL)`
	readFollowSQL = "SELECT version, database, next, position FROM _skein_follow"
	keepFollowSQL = "INSERT OR REPLACE INTO _skein_follow VALUES (1, ?1, ?2, ?3, ?4)"
	// version of what the file says of itself.
	version = 1
)

// ErrNewCopy says that what is chosen, or the schema, has changed: the stream
// must begin anew, with a snapshot. What the file holds stays until that has
// come.
var ErrNewCopy = errors.New("a new copy is needed")

// File is a partial replica. It is used by one goroutine.
type File struct {
	conn     *sqlite.Conn
	database string
	next     string // the offset behind what is committed; "" asks for a new copy
	position string
	rows     int64
	tables   map[string]*table
	types    map[string]map[string]string
	created  map[string]bool // tables that were created in the stream
}

// table is one of the file's tables.
type table struct{ columns []string }

// Open opens the file, or makes it. It belongs to one database.
func Open(ctx context.Context, path, database string) (*File, error) {
	conn, err := sqlite.OpenConn(ctx, path, sqlite.ConnOptions{Role: sqlite.RoleWriter})
	if err != nil {
		return nil, err
	}
	f := &File{conn: conn, database: database, created: make(map[string]bool)}
	if err := f.load(path); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return f, nil
}

func (f *File) load(path string) error {
	others, err := f.query("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")
	if err != nil {
		return err
	}
	names := make([]string, len(others))
	for i, o := range others {
		names[i] = string(o[0].Bytes)
	}
	if len(names) > 0 && !slices.Contains(names, "_skein_follow") {
		return base.Errorf(base.KindInvalid, "%s is a database already, and no partial replica", path).
			WithHint("name a file that is not there yet")
	}
	if err := f.conn.Exec("PRAGMA journal_mode = WAL; " + createFollowSQL); err != nil {
		return err
	}
	rows, err := f.query(readFollowSQL)
	if err != nil || len(rows) == 0 {
		return err
	}
	if v := rows[0][0].Int; v != version {
		return base.Errorf(base.KindUnsupported, "%s was written by another version (%d)", path, v).WithHint("upgrade skein, or name another file")
	}
	if of := string(rows[0][1].Bytes); of != f.database {
		return base.Errorf(base.KindInvalid, "%s is a partial replica of database %q", path, of).WithHint("name another file")
	}
	f.next, f.position = string(rows[0][2].Bytes), string(rows[0][3].Bytes)
	return nil
}

// Close closes the file; what is not a whole transaction is undone.
func (f *File) Close() error { return f.conn.Close() }

// Offset is from where the stream goes on; "" when it must begin with a
// snapshot.
func (f *File) Offset() string { return f.next }

// Position is that of the last transaction that the file has.
func (f *File) Position() string { return f.position }

// Rows counts the rows of the copy that is being made, or was made last.
func (f *File) Rows() int64 { return f.rows }

// Begin prepares for a stream that begins at Offset. What was left half-done is
// undone. Types, by table and column, are for the tables of a new copy; values
// are kept as they come, whatever they are.
func (f *File) Begin(types map[string]map[string]string) error {
	f.types, f.tables = types, make(map[string]*table)
	if err := f.conn.Rollback(); err != nil {
		return err
	}
	if f.next != "" {
		return nil
	}
	f.rows, f.created = 0, make(map[string]bool)
	if err := f.conn.BeginImmediate(); err != nil {
		return err
	}
	old, err := f.query("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name <> '_skein_follow'")
	if err != nil {
		return err
	}
	for _, name := range old {
		if err := f.conn.RunOwn("DROP TABLE " + sqltext.QuoteName(string(name[0].Bytes))); err != nil {
			return err
		}
	}
	return nil
}

// Apply takes the next event of the stream.
func (f *File) Apply(e *changefeed.Event) error {
	switch e.Op {
	case changefeed.Read, changefeed.Create, changefeed.Update:
		f.rows++
		if err := f.put(e); err != nil {
			return fmt.Errorf("put a row into table %q: %w", e.Table, err)
		}
	case changefeed.Delete:
		if err := f.remove(e); err != nil {
			return fmt.Errorf("remove a row from table %q: %w", e.Table, err)
		}
	case changefeed.Schema:
		if f.needsCopy(e.SQL) {
			return f.forget()
		}
	}
	if o := e.Offset; o.Snapshot || o.Entry != o.Position.Seq+1 {
		return nil // More of this transaction follows.
	}
	return f.commit(e.Offset.String(), e.Position.String())
}

// forget leaves the content as it is, and asks for a new copy.
func (f *File) forget() error {
	if err := f.conn.Rollback(); err != nil {
		return err
	}
	f.tables = make(map[string]*table)
	if err := f.commit("", f.position); err != nil {
		return err
	}
	return ErrNewCopy
}

// Forget makes the stream begin anew, because the node can't go on at Offset.
func (f *File) Forget() error {
	if err := f.forget(); !errors.Is(err, ErrNewCopy) {
		return err
	}
	return nil
}

func (f *File) commit(next, position string) error {
	if next == f.next && !f.conn.InTransaction() {
		return nil
	}
	err := f.begin()
	if err == nil {
		err = f.conn.RunOwn(keepFollowSQL, base.IntValue(version), base.TextValue(f.database), base.TextValue(next), base.TextValue(position))
	}
	if err == nil {
		err = f.conn.Commit()
	}
	if err != nil {
		return fmt.Errorf("commit %s: %w", position, err)
	}
	f.next, f.position = next, position
	return nil
}

func (f *File) begin() error {
	if f.conn.InTransaction() {
		return nil
	}
	return f.conn.BeginImmediate()
}

// needsCopy says that a statement may change what rows the file is to hold, or
// how they are named. A table that the stream has created is known from its
// first row on, so that its triggers change nothing.
func (f *File) needsCopy(sql string) bool {
	tokens := sqltext.Tokens(sql)
	word := func(i int) string {
		if i >= len(tokens) {
			return ""
		}
		return strings.ToUpper(sqltext.Unquote(tokens[i].Text(sql)))
	}
	switch word(0) + " " + word(1) {
	case "CREATE TABLE":
		f.created[word(2)] = true
		return false
	case "CREATE TRIGGER":
		if !strings.Contains(word(2), chosenPrefix) {
			return false
		}
		for name := range f.created {
			if strings.HasPrefix(word(2), chosenPrefix+name+"_") {
				return false
			}
		}
		return true
	case "DROP TRIGGER":
		return strings.Contains(strings.ToUpper(sql), chosenPrefix)
	case "ALTER TABLE", "DROP TABLE":
		return true
	}
	return false
}

// chosenPrefix begins the names of the triggers that say what is sent, in upper
// case.
const chosenPrefix = "SKEIN_LOG_"

// put makes a row what it is now.
func (f *File) put(e *changefeed.Event) error {
	if err := f.begin(); err != nil {
		return err
	}
	if err := f.ensure(e.Table, e.Key, e.After); err != nil {
		return err
	}
	var names []string
	var args []base.Value
	for _, field := range both(e.Key, e.After) {
		names = append(names, sqltext.QuoteName(field.Name)) // The rowid is found under its name in quotes, too.
		args = append(args, field.Value)
	}
	marks := strings.Repeat(",?", len(names))[1:]
	return f.conn.RunOwn("INSERT OR REPLACE INTO "+sqltext.QuoteName(e.Table)+"("+strings.Join(names, ",")+") VALUES("+marks+")", args...)
}

// both are the fields of a key and of a row, each name once.
func both(key, row changefeed.Row) changefeed.Row {
	all := slices.Clone(row)
	for _, k := range slices.Backward(key) {
		if !slices.ContainsFunc(row, func(f changefeed.Field) bool { return f.Name == k.Name }) {
			all = slices.Insert(all, 0, k)
		}
	}
	return all
}

// remove takes a row away if it is there.
func (f *File) remove(e *changefeed.Event) error {
	if err := f.begin(); err != nil {
		return err
	}
	t, err := f.known(e.Table)
	if err != nil || t == nil {
		return err
	}
	var terms []string
	var args []base.Value
	for _, k := range e.Key {
		terms = append(terms, sqltext.QuoteName(k.Name)+" IS ?")
		args = append(args, k.Value)
	}
	return f.conn.RunOwn("DELETE FROM "+sqltext.QuoteName(e.Table)+" WHERE "+strings.Join(terms, " AND "), args...)
}

// ensure makes what is missing of a table that is to have the fields.
func (f *File) ensure(name string, key, row changefeed.Row) error {
	t, err := f.known(name)
	if err != nil {
		return err
	}
	if t == nil {
		if err := f.conn.RunOwn(f.createSQL(name, key, row)); err != nil {
			return err
		}
		if t, err = f.known(name); err != nil || t == nil {
			return errors.Join(base.Errorf(base.KindInternal, "table %q is not there", name), err)
		}
	}
	for _, field := range row {
		if slices.Contains(t.columns, field.Name) {
			continue
		}
		if err := f.conn.RunOwn("ALTER TABLE " + sqltext.QuoteName(name) + " ADD COLUMN " + f.columnSQL(name, field.Name)); err != nil {
			return err
		}
		t.columns = append(t.columns, field.Name)
	}
	return nil
}

// namesRowID says that a key is a rowid that is no column.
func namesRowID(key, row changefeed.Row) bool {
	if len(key) != 1 || !slices.Contains(rowidNames[:], key[0].Name) {
		return false
	}
	return !slices.ContainsFunc(row, func(f changefeed.Field) bool { return f.Name == key[0].Name })
}

var rowidNames = [...]string{"rowid", "_rowid_", "oid"}

func (f *File) createSQL(name string, key, row changefeed.Row) string {
	if namesRowID(key, row) {
		if len(row) == 0 {
			return "CREATE TABLE " + sqltext.QuoteName(name) + "(" + emptyColumn + ")" // A table has a column at least.
		}
		return "CREATE TABLE " + sqltext.QuoteName(name) + "(" + f.columnsSQL(name, row) + ")"
	}
	var names []string
	for _, k := range key {
		names = append(names, sqltext.QuoteName(k.Name))
	}
	return "CREATE TABLE " + sqltext.QuoteName(name) + "(" + f.columnsSQL(name, both(key, row)) +
		", PRIMARY KEY(" + strings.Join(names, ", ") + ")) WITHOUT ROWID"
}

const emptyColumn = "_skein_none"

func (f *File) columnsSQL(table string, fields changefeed.Row) string {
	var list []string
	for _, field := range fields {
		list = append(list, f.columnSQL(table, field.Name))
	}
	return strings.Join(list, ", ")
}

func (f *File) columnSQL(table, column string) string {
	if t := f.types[table][column]; t != "" {
		return sqltext.QuoteName(column) + " " + t
	}
	return sqltext.QuoteName(column)
}

// known returns a table of the file; nil when there is none.
func (f *File) known(name string) (*table, error) {
	if t := f.tables[name]; t != nil {
		return t, nil
	}
	columns, err := f.query("PRAGMA table_info(" + sqltext.QuoteName(name) + ")")
	if err != nil || len(columns) == 0 {
		return nil, err
	}
	t := &table{}
	for _, c := range columns {
		t.columns = append(t.columns, string(c[1].Bytes))
	}
	f.tables[name] = t
	return t, nil
}

func (f *File) query(sql string) (rows [][]base.Value, err error) {
	for st, err := range f.conn.QueryOwn(sql) {
		if err != nil {
			return nil, err
		}
		row := st.AppendRow(nil)
		for i := range row {
			row[i] = row[i].Clone()
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// Affinity is the type for a column that is declared with a type: values are
// then compared as they are in the database itself.
func Affinity(declared string, strict bool) string {
	upper := strings.ToUpper(declared)
	has := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(upper, p) })
	}
	switch {
	case declared == "", has("BLOB"), strict && upper == "ANY":
		return ""
	case has("INT"):
		return "INTEGER"
	case has("CHAR", "CLOB", "TEXT"):
		return "TEXT"
	case has("REAL", "FLOA", "DOUB"):
		return "REAL"
	}
	return "NUMERIC"
}

package row

import (
	"strings"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/rowformat"
	"github.com/skeindb/skein/internal/sqlite"
)

// Held returns how many changes are captured and not taken yet, whatever the
// mark.
func (r *Recorder) Held() int { return r.buffer.Since(rowformat.Mark{}) }

// Table returns how a table whose rows are recorded is described, under the
// name that the schema spells. Case does not matter.
func (r *Recorder) Table(name string) (rowformat.Table, bool) {
	if t := r.tables[name]; t != nil {
		return t.definition(), true
	}
	for exact, t := range r.tables {
		if strings.EqualFold(exact, name) {
			return t.definition(), true
		}
	}
	return rowformat.Table{}, false
}

// KeyNames returns the columns that name a row of a table: its primary key, or
// the name under which the rowid is known.
func (r *Recorder) KeyNames(name string) []string {
	if t := r.tables[name]; t != nil {
		return t.keyNames()
	}
	return nil
}

// KeyNames is Recorder.KeyNames for a table of conn; nil when there is none.
// Columns says that they are columns.
func KeyNames(conn *sqlite.Conn, name string) (names []string, columns bool, err error) {
	t, err := readTable(conn, name, "")
	if err != nil || t == nil {
		return nil, false, err
	}
	return t.keyNames(), t.alias != "" || t.rowid == "", nil
}

// keyNames are without the quotes that t.rowid has where it is a column.
func (t *table) keyNames() []string {
	switch {
	case t.alias != "":
		return []string{t.alias}
	case t.rowid != "":
		return []string{t.rowid}
	}
	var names []string
	for _, k := range t.definition().Key {
		names = append(names, t.columns[k].name)
	}
	return names
}

// Object is an object of the schema.
type Object struct{ Kind, Name, Table, SQL string }

// Objects returns the objects that clients have made, by kind and name.
func (r *Recorder) Objects() []Object {
	return r.schema.public()
}

// Objects returns the objects of conn that clients have made.
func Objects(conn *sqlite.Conn) ([]Object, error) {
	s, err := readSchema(conn)
	if err != nil {
		return nil, err
	}
	return s.public(), nil
}

func (s *schema) public() []Object {
	var list []Object
	for _, o := range s.replicated() {
		list = append(list, Object{o.kind, o.name, o.table, o.sql})
	}
	return list
}

// RowAt returns the row that a key names, without its rowid, and the names of
// its columns; false when there is none. The values' bytes are copies.
func RowAt(conn *sqlite.Conn, name string, key []base.Value) (names []string, values []base.Value, found bool, err error) {
	t, err := readTable(conn, name, "")
	if err != nil || t == nil {
		return nil, nil, false, err
	}
	stmt, err := conn.PrepareOwn(t.selectOne())
	if err != nil {
		return nil, nil, false, err
	}
	defer stmt.Close()
	if err := stmt.BindAll(t.keyArguments(key)); err != nil {
		return nil, nil, false, err
	}
	if found, err = stmt.Step(); err != nil || !found {
		return nil, nil, false, err
	}
	first := 0
	if t.rowid != "" {
		first = 1
	}
	for i, c := range t.columns {
		names, values = append(names, c.name), append(values, clone(stmt.Column(first+i)))
	}
	return names, values, true, nil
}

func (t *table) selectOne() string {
	if t.rowid != "" {
		return t.selectRows(true)
	}
	var b strings.Builder
	b.WriteString(t.selectAll())
	t.where(&b, 1)
	return b.String()
}

// keyArguments are the parameters of where: a key may compare one column twice.
func (t *table) keyArguments(key []base.Value) []base.Value {
	if t.rowid != "" {
		return key
	}
	at := t.definition().Key
	var args []base.Value
	for _, term := range t.terms {
		for i, k := range at {
			if k == term.value && i < len(key) {
				args = append(args, key[i])
			}
		}
	}
	return args
}

// ReadBodies calls each for every row of a table of conn, as a body that
// inserts it; the body is valid during the call.
func ReadBodies(conn *sqlite.Conn, name string, each func(body []byte) error) error {
	t, err := readTable(conn, name, "")
	if err != nil || t == nil {
		return err
	}
	var b rowformat.Buffer
	id := b.Register(t.definition())
	first := 0
	if t.rowid != "" {
		first = 1
	}
	var failed error
	err = queryUntil(conn, t.selectAll(), func(st *sqlite.Stmt) bool {
		begin := b.Mark()
		var rowid int64
		if first == 1 {
			rowid = st.Column(0).Int
		}
		b.BeginInsert(id, rowid)
		for i := range t.columns {
			b.Value(st.Column(first + i))
		}
		b.End()
		failed = each(b.Body(begin))
		b.Rewind(begin)
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	return err
}

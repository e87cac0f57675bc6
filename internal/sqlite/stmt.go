package sqlite

import (
	"strconv"
	"strings"
	"unsafe"

	"github.com/ncruces/go-sqlite3"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/session"
)

// Stmt is a prepared statement. Close gives it back to its connection's cache;
// it must not be used afterwards.
type Stmt struct {
	conn    *Conn
	raw     *sqlite3.Stmt
	key     cacheKey
	info    Info
	touches Touches

	epoch int  // of the connection's schema, when it was compiled
	open  bool // handed out
	large bool // a bound value is so large that it must not stay behind

	next, previous *Stmt // in the cache
}

// largeBinding is the size above which a bound value is dropped when its
// statement goes back to the cache. Small ones stay, since clearing them makes
// the engine compile some statements anew.
const largeBinding = 16 << 10

// Prepare compiles the one statement that sql holds, under the connection's
// guard, or takes it from the cache. Text after it is an error, and so is a
// text without a statement.
func (c *Conn) Prepare(sql string) (*Stmt, error) { return c.prepare(sql, c.guard) }

func (c *Conn) prepare(sql string, g Guard) (*Stmt, error) {
	if err := c.usable(); err != nil {
		return nil, err
	}
	key := cacheKey{guard: g, text: sql}
	s := c.cache.take(key)
	if s == nil {
		var err error
		if s, err = c.compile(key); err != nil {
			return nil, err
		}
	}
	s.open = true
	c.inUse++
	return s, nil
}

func (c *Conn) compile(key cacheKey) (s *Stmt, err error) {
	if err := checkSQL(key.text, c.limits.SQLBytes); err != nil {
		return nil, err
	}
	words := leadingWords(key.text, 6)
	if err := key.guard.checkText(key.text, words); err != nil {
		return nil, err
	}
	var found findings
	c.enforced, c.found, c.denied, c.withheld = key.guard, &found, nil, nil
	defer func() {
		if r := recover(); r != nil {
			err = c.recovered(r)
		}
		c.found = nil
	}()
	raw, tail, err := c.raw.PrepareFlags(key.text, sqlite3.PREPARE_PERSISTENT)
	if err != nil {
		return nil, c.fail(err)
	}
	if raw == nil {
		return nil, base.Errorf(base.KindInvalid, "empty statement")
	}
	if !isBlank(tail) {
		_ = raw.Close()
		return nil, severalStatements(tail)
	}
	if c.withheld != nil && !raw.ReadOnly() {
		_ = raw.Close()
		return nil, c.withheld
	}
	return &Stmt{conn: c, raw: raw, key: key, epoch: c.epoch, info: complete(classify(words, found), raw), touches: found.touches}, nil
}

func complete(i Info, raw *sqlite3.Stmt) Info {
	i.Params = raw.BindCount()
	i.ReadOnly = raw.ReadOnly() || i.Kind == session.Read
	i.Returns = raw.ColumnCount() > 0
	return i
}

func severalStatements(tail string) error {
	return &base.Error{Kind: base.KindInvalid, SQLState: "42601",
		Message: "more than one statement: " + shorten(strings.TrimSpace(tail), 60),
		Hint:    "Send one statement at a time."}
}

// checkSQL refuses text that must not reach the engine.
func checkSQL(sql string, limit int) error {
	if len(sql) > limit {
		return base.Errorf(base.KindTooLarge, "statement of %d bytes: the limit is %d", len(sql), limit).
			WithHint("Bind large values as parameters, or split the statement.")
	}
	if i := strings.IndexByte(sql, 0); i >= 0 {
		return base.Errorf(base.KindInvalid, "statement has a zero byte at offset %d", i)
	}
	return nil
}

// Info tells what compiling the statement has found.
func (s *Stmt) Info() Info { return s.info }

// Touches tells which names the statement uses.
func (s *Stmt) Touches() Touches { return s.touches }

// ReadOnly says that the statement changes nothing.
func (s *Stmt) ReadOnly() bool { return s.info.ReadOnly }

// Bind binds parameter i, from 1. The value is copied.
func (s *Stmt) Bind(i int, v base.Value) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = s.conn.recovered(r)
		}
	}()
	return s.bind(i, v)
}

func (s *Stmt) bind(i int, v base.Value) error {
	var err error
	switch v.Kind {
	case base.Integer:
		err = s.raw.BindInt64(i, v.Int)
	case base.Real:
		err = s.raw.BindFloat(i, v.Float)
	case base.Text:
		s.large = s.large || len(v.Bytes) > largeBinding
		err = s.raw.BindText(i, unsafe.String(unsafe.SliceData(v.Bytes), len(v.Bytes))) // copied before it returns
	case base.Blob:
		s.large = s.large || len(v.Bytes) > largeBinding
		if len(v.Bytes) == 0 {
			err = s.raw.BindZeroBlob(i, 0) // nil would be NULL
		} else {
			err = s.raw.BindBlob(i, v.Bytes)
		}
	default:
		err = s.raw.BindNull(i)
	}
	return mapError(err, s.conn.interrupt)
}

// BindAll binds exactly the parameters that the statement has.
func (s *Stmt) BindAll(args []base.Value) (err error) {
	if len(args) != s.info.Params {
		return &base.Error{Kind: base.KindInvalid, SQLState: "08P01",
			Message: plural(len(args), "parameter") + " given, but the statement has " + plural(s.info.Params, "parameter")}
	}
	defer func() {
		if r := recover(); r != nil {
			err = s.conn.recovered(r)
		}
	}()
	for i := range args {
		if err := s.bind(i+1, args[i]); err != nil {
			return err
		}
	}
	return nil
}

// Step advances to the next row; false is the end. After an error the
// statement starts over at the next Step.
func (s *Stmt) Step() (row bool, err error) {
	c := s.conn
	if c.broken != nil {
		return false, c.usable()
	}
	defer func() {
		if r := recover(); r != nil {
			row, err = false, c.recovered(r)
		}
	}()
	s.enter()
	if s.raw.Step() {
		return true, nil
	}
	if err := s.raw.Err(); err != nil {
		_ = s.raw.Reset() // it repeats the same error
		return false, s.failed(err)
	}
	s.leave()
	return false, nil
}

// Run runs the statement to its end, ignoring rows, and resets it.
func (s *Stmt) Run() (err error) {
	c := s.conn
	if c.broken != nil {
		return c.usable()
	}
	defer func() {
		if r := recover(); r != nil {
			err = c.recovered(r)
		}
	}()
	s.enter()
	if err := s.raw.Exec(); err != nil {
		return s.failed(err)
	}
	s.leave()
	return nil
}

// enter puts the statement's own guard in force, for the case that the engine
// compiles it anew or a virtual table compiles statements of its own.
func (s *Stmt) enter() {
	c := s.conn
	c.enforced, c.denied = s.key.guard, nil
	if s.info.Kind == session.Schema {
		c.schemaChanged = true
	}
}

// leave forgets what is compiled when the schema has changed, or a change of it
// may have been undone: what Info says of a statement depends on triggers. It
// announces a change that is committed.
func (s *Stmt) leave() {
	c := s.conn
	if !c.schemaChanged {
		return
	}
	switch s.info.Kind {
	case session.Schema, session.Rollback, session.Savepoint:
		c.forget()
	}
	c.announceSchema()
}

// failed maps the error of a run, which may have undone a schema change.
func (s *Stmt) failed(err error) error {
	if s.conn.schemaChanged {
		s.conn.forget()
	}
	return s.conn.fail(err)
}

// Reset makes the statement ready to run again; its bindings stay.
func (s *Stmt) Reset() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = s.conn.recovered(r)
		}
	}()
	_ = s.raw.Reset() // it repeats the error that Step has returned
	return nil
}

// ColumnCount returns the number of result columns. A statement from the cache
// knows of a schema change only after its first Step.
func (s *Stmt) ColumnCount() int { return s.raw.ColumnCount() }

// Column returns column i, from 0, of the current row. Its bytes belong to the
// engine and are valid until the next Step, Reset or Close.
func (s *Stmt) Column(i int) base.Value {
	switch s.raw.ColumnType(i) {
	case sqlite3.INTEGER:
		return base.Value{Kind: base.Integer, Int: s.raw.ColumnInt64(i)}
	case sqlite3.FLOAT:
		return base.Value{Kind: base.Real, Float: s.raw.ColumnFloat(i)}
	case sqlite3.TEXT:
		return base.Value{Kind: base.Text, Bytes: s.raw.ColumnRawText(i)}
	case sqlite3.BLOB:
		return base.Value{Kind: base.Blob, Bytes: s.raw.ColumnRawBlob(i)}
	}
	return base.Value{}
}

// AppendRow appends the values of the current row to dst. Their bytes are
// valid as long as those of Column.
func (s *Stmt) AppendRow(dst []base.Value) []base.Value {
	for i := range s.raw.DataCount() {
		dst = append(dst, s.Column(i))
	}
	return dst
}

// ColumnInfo tells a result column's name, and its declared type, table and
// column name where it comes from a table.
func (s *Stmt) ColumnInfo(i int) (name, declType, table, origin string) {
	return s.raw.ColumnName(i), s.raw.ColumnDeclType(i), s.raw.ColumnTableName(i), s.raw.ColumnOriginName(i)
}

// Columns returns ColumnInfo of every result column.
func (s *Stmt) Columns() []session.Column {
	n := s.raw.ColumnCount()
	if n == 0 {
		return nil
	}
	columns := make([]session.Column, n)
	for i := range columns {
		d := &columns[i]
		d.Name, d.DeclType, d.Table, d.Origin = s.ColumnInfo(i)
	}
	return columns
}

// Close resets the statement and gives it back to the cache.
func (s *Stmt) Close() {
	if s == nil || !s.open {
		return
	}
	s.open = false
	c := s.conn
	c.inUse--
	if c.broken != nil || c.raw == nil {
		return // closing the connection destroys it
	}
	defer func() {
		if r := recover(); r != nil {
			_ = c.recovered(r)
		}
	}()
	_ = s.raw.Reset() // it repeats the error that Step has returned
	if s.large {
		_ = s.raw.ClearBindings() // freeing memory; it cannot fail on a reset statement
		s.large = false
	}
	if s.epoch != c.epoch {
		s.destroy()
		return
	}
	c.cache.put(s)
}

func (s *Stmt) destroy() { _ = s.raw.Close() } // it repeats the error that Step has returned

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

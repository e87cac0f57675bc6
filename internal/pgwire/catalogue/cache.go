package catalogue

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/sqltext"
)

const (
	// maxKept is how many schemas are laid out at a time.
	maxKept = 8
	// maxResult bounds the bytes of a result.
	maxResult = 32 << 20
	// maxTime bounds a query.
	maxTime = 15 * time.Second
	// valueSize is what a value takes besides its bytes.
	valueSize = 48
)

// Client is what the catalogue needs to know of who asks.
type Client struct {
	Session   session.Session
	Gateway   session.Gateway
	User      string
	ProcessID uint32
	Version   string // as server_version
	// Setting returns a setting by its lower-case name; Settings names those
	// that pg_settings lists.
	Setting  func(name string) (string, bool)
	Settings []string
	Cursors  []Cursor
	// InTransaction says that the session sees changes that others do not.
	InTransaction bool
}

// Cursor is one of the client's open cursors.
type Cursor struct {
	Name, Statement string
	Binary          bool
	Made            time.Time
}

// Column of a result. Type 0 is not known before the first row.
type Column struct {
	Name string
	Type uint32
}

// Result of a query.
type Result struct {
	Columns []Column
	Rows    [][]base.Value
}

// Cache keeps schemas laid out. It is safe for concurrent use.
type Cache struct {
	env *env.Env

	mu     sync.Mutex // guards what follows
	kept   []*layout  // the last used at the end
	closed bool
}

// NewCache returns an empty Cache.
func NewCache(e *env.Env) *Cache { return &Cache{env: e} }

// Close frees everything. No query may run.
func (c *Cache) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	var errs []error
	for _, l := range c.kept {
		errs = append(errs, l.close())
	}
	c.kept = nil
	return errors.Join(errs...)
}

// Query runs a query that Wants accepts.
func (c *Cache) Query(ctx context.Context, client Client, sql string, args []base.Value) (*Result, error) {
	var out *Result
	err := c.with(ctx, client, sql, func(ctx context.Context, l *layout, rewritten string) (err error) {
		out, err = l.query(ctx, rewritten, args)
		return err
	})
	if err != nil {
		return nil, err
	}
	nameColumns(sql, out.Columns)
	return out, nil
}

// Describe returns the columns of such a query, and how many parameters it has.
func (c *Cache) Describe(ctx context.Context, client Client, sql string) (columns []Column, params int, err error) {
	err = c.with(ctx, client, sql, func(ctx context.Context, l *layout, rewritten string) (err error) {
		columns, params, err = l.describe(rewritten)
		return err
	})
	nameColumns(sql, columns)
	return columns, params, err
}

// with runs f on the layout of the client's schema.
func (c *Cache) with(ctx context.Context, client Client, sql string, f func(context.Context, *layout, string) error) error {
	ctx, cancel := c.env.Clock.WithTimeout(ctx, maxTime, base.Errorf(base.KindTimeout, "a catalog query took over %v", maxTime))
	defer cancel()
	r := rewriter{client: client}
	rewritten, err := r.rewrite(sql)
	if err != nil {
		return err
	}
	l, err := c.take(ctx, client)
	if err != nil {
		return err
	}
	defer c.release(l)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.ensure(rewritten, client); err != nil {
		return err
	}
	return f(ctx, l, rewritten)
}

// take finds or makes the layout of the client's schema. The caller releases it.
func (c *Cache) take(ctx context.Context, client Client) (*layout, error) {
	rows, err := readSchema(ctx, client.Session)
	if err != nil {
		return nil, err
	}
	f := &facts{database: client.Session.Database(), databases: client.Gateway.Databases(), users: client.Gateway.Users()}
	key := f.database + "\x00" + fingerprint(rows, f.databases, f.users)
	if l := c.find(key); l != nil {
		return l, nil
	}
	if err := readFacts(ctx, client.Session, f, rows); err != nil {
		return nil, err
	}
	conn, err := sqlite.OpenConn(context.WithoutCancel(ctx), ":memory:", sqlite.ConnOptions{
		Role: sqlite.RoleTool, StatementCache: 16, CacheKiB: 1024, TempInMemory: true, Limits: sqlite.Limits{MemoryMiB: 64},
	})
	if err != nil {
		return nil, err
	}
	l := &layout{key: key, facts: f, conn: conn, made: map[string]bool{}, users: 1}
	if !client.InTransaction {
		c.keep(l)
	}
	return l, nil
}

func (c *Cache) find(key string) *layout {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, l := range c.kept {
		if l.key == key {
			c.kept = append(slices.Delete(c.kept, i, i+1), l)
			l.users++
			return l
		}
	}
	return nil
}

// keep adds a layout, and drops the one that was not used for longest.
func (c *Cache) keep(l *layout) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	l.kept = true
	c.kept = append(c.kept, l)
	for i := 0; len(c.kept) > maxKept && i < len(c.kept)-1; i++ {
		if old := c.kept[i]; old.users == 0 {
			c.kept = slices.Delete(c.kept, i, i+1)
			old.kept = false
			c.report(old.close())
			return
		}
	}
}

// release gives a layout back; one that nobody keeps is closed.
func (c *Cache) release(l *layout) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.users--
	if l.users == 0 && (!l.kept || c.closed) {
		c.report(l.close())
	}
}

func (c *Cache) report(err error) {
	if err != nil {
		c.env.Log.Warn("close a catalogue", "error", err)
	}
}

// layout is one schema as the relations of PostgreSQL, in memory. Relations
// are made when a query first names them.
type layout struct {
	key   string
	users int  // guarded by Cache.mu
	kept  bool // likewise

	mu    sync.Mutex // guards what follows, and is held while a query runs
	facts *facts
	conn  *sqlite.Conn
	made  map[string]bool
}

func (l *layout) close() error { return l.conn.Close() }

// ensure makes the relations that a query names.
func (l *layout) ensure(sql string, client Client) error {
	l.conn.SetGuard(sqlite.GuardOwn)
	s := sqltext.Scanner{SQL: sql}
	for {
		t, ok := s.Next()
		if !ok {
			return nil
		}
		if t.Kind != sqltext.Word && t.Kind != sqltext.Quoted {
			continue
		}
		r, ok := relations[node{kind: nWord, text: sqltext.Unquote(t.Text(sql))}.word()]
		if !ok {
			continue
		}
		if err := l.make(r); err != nil {
			return err
		}
		if fill := clientFillers[r.name]; fill != nil {
			if err := l.refill(r, func(add func(row)) { fill(client, add) }); err != nil {
				return err
			}
		}
	}
}

func (l *layout) make(r *relation) error {
	if l.made[r.name] {
		return nil
	}
	if err := l.conn.Exec(r.create()); err != nil {
		return err
	}
	l.made[r.name] = true
	fill := fillers[r.name]
	if fill == nil {
		return nil
	}
	return l.insert(r, func(add func(row)) { fill(l.facts, add) })
}

func (l *layout) insert(r *relation, fill func(add func(row))) error {
	if err := l.conn.Begin(); err != nil {
		return err
	}
	st, err := l.conn.Prepare(r.insert())
	if err != nil {
		return err
	}
	defer st.Close()
	fill(func(values row) {
		args := make([]base.Value, len(r.columns))
		for i, c := range r.columns {
			args[i] = value(values[c.name])
		}
		if err == nil {
			err = st.BindAll(args)
		}
		if err == nil {
			err = st.Run()
		}
	})
	if err != nil {
		return errors.Join(err, l.conn.Rollback())
	}
	return l.conn.Commit()
}

// refill fills a relation for one client, in place of another's rows.
func (l *layout) refill(r *relation, fill func(add func(row))) error {
	if err := l.conn.Exec("DELETE FROM " + r.name); err != nil {
		return err
	}
	return l.insert(r, fill)
}

// clientFillers fill the relations that each client sees its own rows in.
var clientFillers = map[string]func(client Client, add func(row)){
	"pg_settings": func(client Client, add func(row)) {
		for _, name := range client.Settings {
			v, _ := client.Setting(lower(name))
			add(row{"name": name, "setting": v, "category": "Skein", "short_desc": "", "context": "user", "vartype": "string",
				"source": "default", "boot_val": v, "reset_val": v, "pending_restart": false})
		}
	},
	"pg_cursors": func(client Client, add func(row)) {
		for _, c := range client.Cursors {
			add(row{"name": c.Name, "statement": c.Statement, "is_holdable": false, "is_binary": c.Binary, "is_scrollable": false,
				"creation_time": c.Made.UTC().Format("2006-01-02 15:04:05.999999")})
		}
	},
}

// query runs a rewritten query under the guard for clients that only read.
func (l *layout) query(ctx context.Context, sql string, args []base.Value) (*Result, error) {
	st, err := l.prepare(sql)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	if err := st.BindAll(args); err != nil {
		return nil, err
	}
	l.conn.SetInterrupt(ctx)
	defer l.conn.SetInterrupt(context.Background())
	out := &Result{Columns: columnsOf(st)}
	size := 0
	for {
		more, err := st.Step()
		if err != nil {
			return nil, err
		}
		if !more {
			return out, nil
		}
		values := st.AppendRow(make([]base.Value, 0, len(out.Columns)))
		for i := range values {
			values[i].Bytes = slices.Clone(values[i].Bytes)
			size += valueSize + len(values[i].Bytes)
		}
		if size > maxResult {
			return nil, base.Errorf(base.KindTooLarge, "the result of a catalog query is over %d bytes", maxResult)
		}
		out.Rows = append(out.Rows, values)
	}
}

func (l *layout) describe(sql string) ([]Column, int, error) {
	st, err := l.prepare(sql)
	if err != nil {
		return nil, 0, err
	}
	defer st.Close()
	return columnsOf(st), st.Info().Params, nil
}

func (l *layout) prepare(sql string) (*sqlite.Stmt, error) {
	l.conn.SetGuard(sqlite.GuardRead)
	st, err := l.conn.Prepare(sql)
	if err == nil {
		return st, nil
	}
	e := *base.AsError(err)
	e.Hint = "catalog queries are rewritten for SQLite; this one uses what the rewriter does not know"
	return nil, &e
}

func columnsOf(st *sqlite.Stmt) []Column {
	described := st.Columns()
	columns := make([]Column, len(described))
	for i, d := range described {
		columns[i] = Column{Name: d.Name, Type: resultType(d.DeclType)}
	}
	return columns
}

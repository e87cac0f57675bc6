package pgwire

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/pgwire/catalogue"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/sqltext"
)

// A cursor is a named portal that SQL has made: DECLARE runs its query up to
// the first row, so that it shows what was there then, and FETCH and MOVE read
// on. FETCH reads other named portals as well, and Execute reads cursors.

// declare makes a cursor.
func (c *conn) declare(cmd *cursorCommand, args []base.Value) error {
	if c.block == blockNone && !c.implicit {
		return pgError("25P01", "DECLARE CURSOR can only be used in transaction blocks").
			WithHint("BEGIN first: a cursor ends with its transaction")
	}
	if _, taken := c.portals[cmd.name]; taken {
		return pgError("42P03", "cursor %q already exists", cmd.name)
	}
	if cmd.query.kind == kindEngine && cmd.query.desc == nil {
		if _, err := c.inspect(cmd.query); err != nil {
			return err
		}
	}
	if cmd.query.writes() {
		return unsupported("DECLARE CURSOR must not contain data-modifying statements", "run it by itself; RETURNING gives its rows")
	}
	p, err := c.newPortal([]byte(cmd.name))
	if err != nil {
		return err
	}
	p.st, p.args, p.columns, p.cursor, p.text = cmd.query, args, cmd.query.columns, true, cmd.text
	if cmd.binary {
		p.formats = allBinary
	}
	return c.openCursor(p)
}

// openCursor runs the query up to its first row.
func (c *conn) openCursor(p *portal) error {
	if err := c.start(p); err != nil {
		return err
	}
	if p.rows != nil && len(p.columns) == 0 {
		// Only the transaction itself sees the schema that it has changed.
		p.columns = engineColumns(p.st.sql, p.rows.Columns())
	}
	if p.typeByFirstRow(); p.peeked {
		return nil
	}
	return c.exhaust(p)
}

// exhaust ends a portal that FETCH has read to its end.
func (c *conn) exhaust(p *portal) error {
	p.done = true
	if p.rows == nil {
		return nil
	}
	result, err := c.closeRows(p)
	if p.tag == "" {
		p.tag = result.Tag
	}
	return err
}

// cursor finds what FETCH, MOVE or CLOSE names.
func (c *conn) cursor(name string) (*portal, error) {
	p, ok := c.portals[name]
	if !ok {
		return nil, pgError("34000", "cursor %q does not exist", name)
	}
	return p, c.settle(p)
}

// settle takes what a suspended FETCH has still to read out of its cursor, so
// that who comes next begins behind it.
func (c *conn) settle(p *portal) error {
	if p.reader == nil {
		return nil
	}
	return c.keepRest(p.reader)
}

// readable finds a cursor that can be read now. A portal that nobody has
// executed yet begins to run.
func (c *conn) readable(cmd *cursorCommand) (*portal, error) {
	p, err := c.cursor(cmd.name)
	switch {
	case err != nil:
		return nil, err
	case p.failed || !p.readable():
		return nil, cannotRun(p)
	case cmd.backward || cmd.count == 0 && p.onRow && cmd.reads:
		return nil, pgError("55000", "cursor can only scan forward").
			WithHint("FETCH FORWARD n takes the next rows and MOVE FORWARD n passes over them; to go back declare another cursor")
	case !p.started:
		err = c.start(p)
	}
	return p, err
}

// readable says whether FETCH reads a portal, as long as it has not failed.
func (p *portal) readable() bool { return p.cursor || p.st.reads() }

// cursors are what pg_cursors lists.
func (c *conn) cursors() []catalogue.Cursor {
	var list []catalogue.Cursor
	for _, name := range slices.Sorted(maps.Keys(c.portals)) {
		if p := c.portals[name]; p.readable() {
			list = append(list, catalogue.Cursor{Name: name, Statement: cmp.Or(p.text, p.st.sql), Binary: p.cursor && p.formats != nil, Made: p.made})
		}
	}
	return list
}

func cannotRun(p *portal) error {
	return pgError("55000", "portal %q cannot be run", p.name).WithHint("close it; a query that has failed is read again from its start")
}

// fetch carries out a FETCH; its rows come from the cursor as they are sent.
func (c *conn) fetch(st *statement) (outcome, error) {
	p, err := c.readable(st.cursor)
	if err != nil {
		return outcome{}, err
	}
	if st.columns != nil && !slices.Equal(st.columns, p.columns) {
		return outcome{}, changedResult()
	}
	return outcome{columns: p.columns, rows: c.fetched(p, st.cursor), from: p}, nil
}

// fetchColumns are those of the cursor that a FETCH names now, nil when there
// is none.
func (c *conn) fetchColumns(st *statement) []column {
	if p, ok := c.portals[st.cursor.name]; ok {
		return p.columns
	}
	return nil
}

// binaryCursor are the formats of a FETCH by a simple query.
func (c *conn) binaryCursor(name string) []int16 {
	if p, ok := c.portals[name]; ok && p.cursor {
		return p.formats
	}
	return nil
}

// move carries out a MOVE and returns how many rows a FETCH would have shown.
func (c *conn) move(cmd *cursorCommand) (int64, error) {
	p, err := c.readable(cmd)
	if err != nil {
		return 0, err
	}
	if cmd.count == 0 && p.onRow {
		return 1, nil
	}
	result, err := drain(c.fetched(p, cmd))
	return result.RowsAffected, err
}

func (c *conn) closeCursor(name string) error {
	p, err := c.cursor(name)
	if err == nil {
		c.closePortal(p)
	}
	return err
}

// fetchedRows are the rows that one FETCH takes from a cursor.
type fetchedRows struct {
	c    *conn
	from *portal
	skip int64
	left int64
	n    int64
	err  error
}

func (c *conn) fetched(p *portal, cmd *cursorCommand) *fetchedRows {
	return &fetchedRows{c: c, from: p, skip: cmd.skip, left: cmd.count}
}

func (r *fetchedRows) Columns() []session.Column { return nil }
func (r *fetchedRows) Row() []base.Value         { return r.from.rows.Row() }
func (r *fetchedRows) Err() error                { return r.err }

func (r *fetchedRows) Result() session.Result {
	return session.Result{Tag: "FETCH", RowsAffected: r.n}
}

func (r *fetchedRows) Close() error {
	r.from.reader = nil
	return nil
}

func (r *fetchedRows) Next() bool {
	for ; r.skip > 0; r.skip-- {
		if !r.step() {
			return false
		}
	}
	if r.left == 0 || !r.step() {
		return false
	}
	r.left--
	r.n++
	return true
}

// step moves the cursor by one row.
func (r *fetchedRows) step() bool {
	if r.from.next() {
		return true
	}
	r.skip, r.left = 0, 0
	r.err = r.c.exhaust(r.from)
	return false
}

// keepBook follows the savepoints: what is declared after one ends with
// ROLLBACK TO it.
func (c *conn) keepBook(sql string) {
	action, name := sqltext.ParseSavepoint(sql)
	if action == sqltext.SavepointNew {
		c.savepoints = append(c.savepoints, name)
		return
	}
	at := len(c.savepoints) - 1
	for at >= 0 && !strings.EqualFold(c.savepoints[at], name) {
		at--
	}
	if at < 0 {
		return
	}
	for _, p := range c.portals {
		switch {
		case p.depth <= at:
		case action == sqltext.SavepointBack:
			// A FETCH that can't be settled fails when it is read on.
			_ = c.settle(p)
			c.closePortal(p)
		default:
			p.depth = at
		}
	}
	if action == sqltext.SavepointBack {
		at++
	}
	c.savepoints = c.savepoints[:at]
}

package pgwire

import (
	"slices"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/session"
)

// portal is a statement with its parameters, and how far its result is read.
type portal struct {
	name    string
	open    bool
	st      *statement
	args    []base.Value
	formats []int16
	columns []column

	started bool
	rows    session.Rows // nil once read to the end
	peeked  bool         // rows stand at a row that has not been sent
	sent    int64        // rows, by this Execute
	tag     string
	done    bool
	failed  bool // in the middle of its rows: what is left of them is lost

	cursor bool   // made by DECLARE
	text   string // the DECLARE
	made   time.Time
	depth  int     // how many savepoints there were when it was made
	onRow  bool    // a row has been read, and not the end
	reader *portal // a FETCH that reads it and is not done
}

// next moves to the next row; false at the end, and when the rows broke.
func (p *portal) next() bool {
	p.onRow = p.peeked || p.rows != nil && p.rows.Next()
	p.peeked = false
	return p.onRow
}

func (c *conn) portal(name []byte) (*portal, error) {
	if len(name) == 0 {
		if c.unnamedP.open {
			return &c.unnamedP, nil
		}
		return nil, pgError("34000", "unnamed portal does not exist")
	}
	if p, ok := c.portals[string(name)]; ok {
		return p, nil
	}
	return nil, pgError("34000", "portal %q does not exist", name)
}

func (c *conn) newPortal(name []byte) (*portal, error) {
	if len(name) == 0 {
		c.closePortal(&c.unnamedP)
		c.unnamedP.open = true
		return &c.unnamedP, nil
	}
	if _, taken := c.portals[string(name)]; taken {
		return nil, pgError("42P03", "portal %q already exists", name)
	}
	if len(c.portals) >= c.s.options.MaxPortals {
		return nil, base.Errorf(base.KindTooLarge, "more than %d open portals", len(c.portals)).WithHint("close some, or raise the limit")
	}
	p := &portal{name: string(name), open: true, made: c.s.env.Clock.Now(), depth: len(c.savepoints)}
	c.portals[p.name] = p
	return p, nil
}

func (c *conn) closePortal(p *portal) {
	if p.rows != nil {
		if err := p.rows.Close(); err != nil {
			c.s.env.Log.Debug("close a portal", "user", c.user, "error", err)
		}
	}
	if c.active == p {
		c.active = nil
	}
	if p.name != "" {
		delete(c.portals, p.name)
	}
	*p = portal{}
}

func (c *conn) closePortals() {
	if c.unnamedP.open {
		c.closePortal(&c.unnamedP)
	}
	for _, p := range c.portals {
		c.closePortal(p)
	}
}

// start runs a portal's statement up to where its rows can be read.
func (c *conn) start(p *portal) error {
	r, err := c.run(p.st, p.args)
	if err != nil {
		return err
	}
	p.started, p.rows, p.tag, p.sent = true, r.rows, r.tag, r.count
	if r.columns != nil {
		p.columns = r.columns
	}
	if p.rows != nil && r.held {
		c.active = p
	}
	if r.from != nil {
		r.from.reader = p
	}
	return nil
}

// typeByFirstRow types a result's expressions by the first row.
func (p *portal) typeByFirstRow() {
	if p.rows == nil || p.peeked || !p.rows.Next() {
		return
	}
	p.peeked = true
	p.columns = typedByRow(p.columns, p.rows.Row())
}

func typedByRow(columns []column, row []base.Value) []column {
	if len(row) != len(columns) {
		return columns
	}
	columns = slices.Clone(columns)
	for i := range columns {
		if columns[i].oid == 0 {
			columns[i].oid = valueType(row[i])
		}
	}
	return columns
}

// executePortal sends at most limit rows; 0 is all.
func (c *conn) executePortal(p *portal, limit int64) error {
	if p.failed {
		return cannotRun(p)
	}
	if err := c.settle(p); err != nil {
		return err
	}
	if p.done {
		c.out.complete(p.tag, 0)
		return nil
	}
	if !p.started {
		if p.st.kind == kindEmpty {
			p.done = true
			c.out.empty('I')
			return nil
		}
		if err := c.beforeWrite(p.st); err != nil {
			return err
		}
		if err := c.start(p); err != nil {
			return err
		}
	}
	suspended, err := c.sendRows(p, limit)
	if err != nil {
		return err
	}
	if suspended {
		c.out.empty('s')
		return nil
	}
	return c.finish(p)
}

// beforeWrite opens a transaction around the statements of a pipeline. A
// statement that is followed by Sync needs none, if it is the first.
func (c *conn) beforeWrite(st *statement) error {
	if c.implicit || c.block != blockNone || !st.writes() {
		return nil
	}
	if next, ok := c.in.nextKind(); ok && next == 'S' {
		return nil
	}
	return c.beginImplicit()
}

// sendRows sends rows until the limit or the end.
func (c *conn) sendRows(p *portal, limit int64) (suspended bool, err error) {
	if p.rows == nil {
		return false, nil
	}
	p.sent = 0
	for n := int64(0); p.next(); n++ {
		if limit > 0 && n == limit {
			p.peeked = true
			return true, nil
		}
		if err := c.out.row(p.rows.Row(), p.columns, p.formats); err != nil {
			c.dropRows(p)
			return false, err
		}
		p.sent++
		if err := c.out.spill(); err != nil {
			c.dropRows(p)
			return false, err
		}
	}
	return false, nil
}

// dropRows gives up a result in the middle.
func (c *conn) dropRows(p *portal) {
	p.rows.Close()
	p.rows, p.failed = nil, true
	if c.active == p {
		c.active = nil
	}
}

// finish ends a result that has been read to its end. The portal may be gone
// afterwards, with the transaction that it was in.
func (c *conn) finish(p *portal) error {
	p.done = true
	tag, count := p.tag, p.sent
	if p.rows != nil {
		result, err := c.closeRows(p)
		if err != nil {
			return err
		}
		if tag == "" {
			tag = result.Tag
			p.tag = tag
		}
		if tag != "SELECT" {
			count = result.RowsAffected
		}
		c.committed(result)
		c.follow()
	}
	c.out.complete(tag, count)
	return nil
}

func (c *conn) closeRows(p *portal) (session.Result, error) {
	err := p.rows.Err()
	result := p.rows.Result()
	if closed := p.rows.Close(); err == nil {
		err = closed
	}
	p.rows, p.failed = nil, err != nil
	if c.active == p {
		c.active = nil
	}
	return result, err
}

// restActive says that no statement runs until the next message, although rows
// are open: a time limit is for the work that a client waits for.
func (c *conn) restActive() {
	if c.active == nil {
		return
	}
	if rows, ok := c.active.rows.(session.Resting); ok {
		rows.Rest()
	}
}

func (c *conn) wakeActive() {
	if c.active == nil {
		return
	}
	if rows, ok := c.active.rows.(session.Resting); ok {
		rows.Wake()
	}
}

// park takes the rest of a suspended portal's rows into memory, so that the
// session can run another statement.
func (c *conn) park() error {
	if c.active == nil {
		return nil
	}
	if err := c.settle(c.active); err != nil || c.active == nil {
		return err
	}
	return c.keepRest(c.active)
}

// keepRest takes the rest of a portal's rows into memory.
func (c *conn) keepRest(p *portal) error {
	kept := &memoryRows{}
	room := c.s.options.MaxHeldBytes - c.heldBytes()
	onRow := p.onRow
	for p.next() {
		row := copyRow(p.rows.Row())
		for _, v := range row {
			kept.size += len(v.Bytes) + valueSize
		}
		if kept.size > room {
			c.dropRows(p)
			return base.Errorf(base.KindTooLarge, "the rest of portal %q is too long to be kept while another statement runs: all that is kept may be %d bytes", p.name, c.s.options.MaxHeldBytes).
				WithHint("read it to its end first, or close it and read in parts with LIMIT")
		}
		kept.values = append(kept.values, row)
	}
	result, err := c.closeRows(p)
	if err != nil {
		return err
	}
	kept.result = result
	p.rows, p.onRow = kept, onRow
	return nil
}

// heldBytes is how much is kept for the connection's suspended portals.
func (c *conn) heldBytes() int {
	n := c.unnamedP.heldBytes()
	for _, p := range c.portals {
		n += p.heldBytes()
	}
	return n
}

func (p *portal) heldBytes() int {
	if kept, ok := p.rows.(*memoryRows); ok {
		return kept.size
	}
	return 0
}

// valueSize is what a value takes besides its bytes.
const valueSize = 48

func copyRow(row []base.Value) []base.Value {
	out := slices.Clone(row)
	for i := range out {
		out[i].Bytes = slices.Clone(out[i].Bytes)
	}
	return out
}

// memoryRows are rows that are all there.
type memoryRows struct {
	values [][]base.Value
	next   int
	size   int // where it counts against what a connection may hold
	result session.Result
}

func (r *memoryRows) Columns() []session.Column { return nil }
func (r *memoryRows) Err() error                { return nil }
func (r *memoryRows) Result() session.Result    { return r.result }
func (r *memoryRows) Close() error              { return nil }
func (r *memoryRows) Row() []base.Value         { return r.values[r.next-1] }

func (r *memoryRows) Next() bool {
	if r.next >= len(r.values) {
		return false
	}
	r.next++
	return true
}

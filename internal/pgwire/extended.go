package pgwire

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/session"
)

// The messages of the extended protocol. Bind, Describe and Execute come once
// a transaction and are read without pgproto3, which would allocate for each.

func malformed(what string) error { return fmt.Errorf("%w: malformed %s message", errProtocol, what) }

// cstring cuts a string that ends with a zero byte off b.
func cstring(b []byte) (s, rest []byte, ok bool) {
	i := bytes.IndexByte(b, 0)
	if i < 0 {
		return nil, nil, false
	}
	return b[:i], b[i+1:], true
}

// parse prepares a statement.
func (c *conn) parse(body []byte) error {
	var m pgproto3.Parse
	if err := m.Decode(body); err != nil {
		return malformed("Parse")
	}
	if m.Name == "" {
		c.unnamed = nil
	} else if _, taken := c.statements[m.Name]; taken {
		return pgError("42P05", "prepared statement %q already exists", m.Name)
	} else if len(c.statements) >= c.s.options.MaxStatements {
		return base.Errorf(base.KindTooLarge, "more than %d prepared statements", len(c.statements)).
			WithHint("deallocate some, or raise the limit")
	}
	if len(m.ParameterOIDs) > maxParams {
		return base.Errorf(base.KindTooLarge, "more than %d parameters", maxParams)
	}
	st, err := c.prepareOne(m.Query, m.ParameterOIDs)
	if err != nil {
		return err
	}
	if m.Name == "" {
		c.unnamed = st
	} else {
		c.statements[m.Name] = st
	}
	c.out.empty('1')
	return nil
}

// maxParams is SQLite's limit.
const maxParams = 32766

func (c *conn) statement(name []byte) (*statement, error) {
	if len(name) == 0 {
		if c.unnamed != nil {
			return c.unnamed, nil
		}
		return nil, pgError("26000", "unnamed prepared statement does not exist")
	}
	if st, ok := c.statements[string(name)]; ok {
		return st, nil
	}
	return nil, pgError("26000", "prepared statement %q does not exist", name)
}

// bind makes a portal of a statement and its parameters.
func (c *conn) bind(body []byte) error {
	portalName, rest, ok1 := cstring(body)
	statementName, rest, ok2 := cstring(rest)
	if !ok1 || !ok2 {
		return malformed("Bind")
	}
	st, err := c.statement(statementName)
	if err != nil {
		return err
	}
	if err := c.mayRun(st); err != nil {
		return err
	}
	m := bindMessage{rest: rest}
	if err := m.split(); err != nil {
		return err
	}
	args, err := c.arguments(st, &m)
	if err != nil {
		return err
	}
	columns := st.columns
	if st.kind == kindFetch {
		columns = c.fetchColumns(st)
	}
	formats, err := m.resultFormats(len(columns))
	if err != nil {
		return err
	}
	p, err := c.newPortal(portalName)
	if err != nil {
		return err
	}
	p.st, p.args, p.formats, p.columns = st, args, formats, columns
	c.out.empty('2')
	return nil
}

// bindMessage is what follows the names in a Bind message. Its slices are
// those of the message.
type bindMessage struct {
	rest    []byte
	formats []byte // two bytes each
	params  []byte // from the first length on
	count   int
	results []byte // two bytes each
}

func (m *bindMessage) split() error {
	var ok bool
	if m.formats, m.rest, ok = counted(m.rest); !ok || len(m.rest) < 2 {
		return malformed("Bind")
	}
	m.count = int(binary.BigEndian.Uint16(m.rest))
	m.params = m.rest[2:]
	left := m.params
	for range m.count {
		_, more, ok := nextParam(left)
		if !ok {
			return malformed("Bind")
		}
		left = more
	}
	if m.results, m.rest, ok = counted(left); !ok || len(m.rest) != 0 {
		return malformed("Bind")
	}
	if n := len(m.formats) / 2; n > 1 && n != m.count {
		return pgError("08P01", "bind message has %d parameter formats but %d parameters", n, m.count)
	}
	return nil
}

// counted cuts a count and as many pairs of bytes off b.
func counted(b []byte) (pairs, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := 2 * int(binary.BigEndian.Uint16(b))
	if len(b)-2 < n {
		return nil, nil, false
	}
	return b[2 : 2+n], b[2+n:], true
}

// nextParam cuts a length and as many bytes off b; nil is NULL.
func nextParam(b []byte) (value, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := int(int32(binary.BigEndian.Uint32(b)))
	b = b[4:]
	if n == -1 {
		return nil, b, true
	}
	if n < 0 || n > len(b) {
		return nil, nil, false
	}
	return b[:n:n], b[n:], true
}

func (m *bindMessage) format(i int) int16 {
	switch len(m.formats) {
	case 0:
		return 0
	case 2:
		i = 0
	}
	return int16(binary.BigEndian.Uint16(m.formats[2*i:]))
}

// arguments decodes the parameters. Their bytes are copied at once: the
// session may keep them longer than the message lives.
func (c *conn) arguments(st *statement, m *bindMessage) ([]base.Value, error) {
	if m.count != len(st.params) {
		return nil, pgError("08P01", "bind message supplies %d parameters, but prepared statement requires %d", m.count, len(st.params))
	}
	if m.count == 0 {
		return nil, nil
	}
	args := make([]base.Value, m.count)
	left := append([]byte(nil), m.params[:len(m.params)-len(m.results)-2]...)
	for i := range args {
		data, more, _ := nextParam(left)
		left = more
		v, err := decodeParam(data, st.params[i], m.format(i))
		if err != nil {
			return nil, err
		}
		args[i] = v
		if st.params[i] == 0 && v.Kind == base.Text && looksBoolean(v.Bytes) {
			if args[i], err = c.booleanArgument(st, i, v); err != nil {
				return nil, err
			}
		}
	}
	return args, nil
}

func (m *bindMessage) resultFormats(columns int) ([]int16, error) {
	n := len(m.results) / 2
	if n == 0 {
		return nil, nil
	}
	if n > 1 && n != columns && columns > 0 {
		return nil, pgError("08P01", "bind message has %d result formats but query has %d columns", n, columns)
	}
	all := true
	formats := make([]int16, n)
	for i := range formats {
		formats[i] = int16(binary.BigEndian.Uint16(m.results[2*i:]))
		if formats[i] != 0 && formats[i] != 1 {
			return nil, pgError("08P01", "unknown format code %d", formats[i])
		}
		all = all && formats[i] == 0
	}
	if all {
		return nil, nil
	}
	return formats, nil
}

// describe tells the types of a statement or portal.
func (c *conn) describe(body []byte) error {
	if len(body) < 2 || body[len(body)-1] != 0 {
		return malformed("Describe")
	}
	name := body[1 : len(body)-1]
	switch body[0] {
	case 'S':
		st, err := c.statement(name)
		if err != nil {
			return err
		}
		c.describeStatement(st)
		return nil
	case 'P':
		p, err := c.portal(name)
		if err != nil {
			return err
		}
		return c.describePortal(p)
	}
	return malformed("Describe")
}

func (c *conn) describeStatement(st *statement) {
	start := c.out.begin('t')
	c.out.int16(len(st.params))
	for _, oid := range st.params {
		c.out.int32(int(oid))
	}
	c.out.end(start)
	c.describeColumns(st.columns, nil)
}

func (c *conn) describeColumns(columns []column, formats []int16) {
	if len(columns) == 0 {
		c.out.empty('n')
		return
	}
	c.out.rowDescription(columns, formats)
}

// describePortal may run a query up to its first row, to learn the types of
// its expressions. What would write does not run before Execute.
func (c *conn) describePortal(p *portal) error {
	if !p.started && hasUntyped(p.columns) && p.st.reads() {
		if err := c.start(p); err != nil {
			return err
		}
		p.typeByFirstRow()
	}
	c.describeColumns(p.columns, p.formats)
	return nil
}

func hasUntyped(columns []column) bool {
	for _, col := range columns {
		if col.oid == 0 {
			return true
		}
	}
	return false
}

// reads says whether st only reads.
func (st *statement) reads() bool {
	return st.kind == kindCatalogue || st.desc != nil && st.desc.Kind == session.Read
}

// execute runs a portal, or goes on with one that was suspended.
func (c *conn) execute(body []byte) error {
	name, rest, ok := cstring(body)
	if !ok || len(rest) != 4 {
		return malformed("Execute")
	}
	p, err := c.portal(name)
	if err != nil {
		return err
	}
	limit := int64(binary.BigEndian.Uint32(rest))
	if limit > 1<<31-1 {
		limit = 0
	}
	if err := c.mayRun(p.st); err != nil {
		return err
	}
	return c.executePortal(p, limit)
}

// closeObject closes a statement or portal; one that does not exist is no
// error.
func (c *conn) closeObject(body []byte) error {
	if len(body) < 2 || body[len(body)-1] != 0 {
		return malformed("Close")
	}
	name := body[1 : len(body)-1]
	switch body[0] {
	case 'S':
		if len(name) == 0 {
			c.unnamed = nil
		}
		delete(c.statements, string(name))
	case 'P':
		if p, err := c.portal(name); err == nil {
			if err := c.settle(p); err != nil {
				return err
			}
			c.closePortal(p)
		}
	default:
		return malformed("Close")
	}
	c.out.empty('3')
	return nil
}

// sync ends a pipeline: it commits the transaction that was opened around it.
func (c *conn) sync() error {
	if !c.discarding {
		if err := c.endImplicit(); err != nil {
			c.sendError("ERROR", base.AsError(err))
		}
	}
	c.discarding = false
	if c.block == blockNone {
		c.closePortals()
	}
	c.ready()
	return nil
}

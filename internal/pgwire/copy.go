package pgwire

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/pgwire/oid"
	"github.com/skeindb/skein/internal/sqltext"
)

// A batch of a COPY FROM is one INSERT; it is full when one of these is reached.
const (
	copyBatchRows   = 100
	copyBatchParams = 2000
	copyBatchBytes  = 256 << 10
)

func (c *conn) runCopy(cmd *copyCommand) (int64, error) {
	if err := c.park(); err != nil {
		return 0, err
	}
	if cmd.in {
		return c.copyIn(cmd)
	}
	return c.copyOut(cmd)
}

// copyColumns finds a table's columns with their types, in the order of the
// list if there is one. Generated columns are not among them.
func (c *conn) copyColumns(cmd *copyCommand) ([]column, error) {
	rows, err := c.sess.Schema(c.ctx, "SELECT name, type FROM pragma_table_info(?1)", []base.Value{base.TextValue(cmd.table)})
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []column
	for rows.Next() {
		r := rows.Row()
		all = append(all, column{name: string(r[0].Bytes), oid: oid.Declared(string(r[1].Bytes))})
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, pgError("42P01", "relation %q does not exist", cmd.table)
	}
	if cmd.columns == nil {
		return all, nil
	}
	return pickColumns(cmd, all)
}

func pickColumns(cmd *copyCommand, all []column) ([]column, error) {
	picked := make([]column, 0, len(cmd.columns))
	for _, want := range cmd.columns {
		found := false
		for _, have := range all {
			if found = strings.EqualFold(have.name, want); found {
				picked = append(picked, have)
				break
			}
		}
		if !found {
			return nil, pgError("42703", "column %q of relation %q does not exist", want, cmd.table)
		}
	}
	return picked, nil
}

// copySource reads the client's CopyData as one stream.
type copySource struct {
	c    *conn
	data []byte
	done bool
}

func (s *copySource) Read(p []byte) (int, error) {
	for len(s.data) == 0 {
		if s.done {
			return 0, io.EOF
		}
		if err := s.more(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.data)
	s.data = s.data[n:]
	return n, nil
}

func (s *copySource) more() error {
	kind, body, err := s.c.in.message()
	if err != nil {
		var large *tooLarge
		if errors.As(err, &large) {
			return base.Errorf(base.KindTooLarge, "%v", err)
		}
		return &lost{err}
	}
	switch kind {
	case 'd':
		s.data = body
	case 'c':
		s.done = true
	case 'f':
		var m pgproto3.CopyFail
		if m.Decode(body) != nil {
			return malformed("CopyFail")
		}
		return pgError("57014", "COPY from stdin failed: %s", m.Message)
	case 'H', 'S': // PostgreSQL ignores them here.
	case 'X':
		return &lost{io.EOF}
	default:
		return fmt.Errorf("%w: message %q during COPY from stdin", errProtocol, kind)
	}
	return nil
}

// copyIn inserts what the client sends, in batches of one transaction.
func (c *conn) copyIn(cmd *copyCommand) (int64, error) {
	columns, err := c.copyColumns(cmd)
	if err != nil {
		return 0, err
	}
	if c.readOnly || c.readOnlyByDefault() {
		return 0, &base.Error{Kind: base.KindForbidden, SQLState: "25006", Message: "cannot execute COPY FROM in a read-only transaction"}
	}
	if err := c.beginImplicit(); err != nil {
		return 0, err
	}
	format, formats := copyFormats(cmd, len(columns))
	c.out.send(&pgproto3.CopyInResponse{OverallFormat: format, ColumnFormatCodes: formats})
	c.out.due = true
	w := &copyWriter{c: c, cmd: cmd, columns: columns}
	source := &copySource{c: c}
	if err := w.all(newRowReader(source, cmd.copyOptions, c.s.options.MaxMessageBytes)); err != nil {
		return 0, err
	}
	return w.count, source.finish()
}

// finish reads on to the end of the client's data: it may stand behind "\.".
func (s *copySource) finish() error {
	for !s.done {
		if err := s.more(); err != nil {
			return err
		}
	}
	return nil
}

// copyWriter gathers rows into batches.
type copyWriter struct {
	c       *conn
	cmd     *copyCommand
	columns []column
	args    []base.Value
	lines   []int // of each row of the batch
	bytes   int
	count   int64
}

func (w *copyWriter) all(r *rowReader) error {
	if w.cmd.header {
		if err := w.header(r); err != nil {
			return w.at(r.line, err)
		}
	}
	for {
		fields, err := r.read()
		if err == io.EOF {
			return w.flush()
		}
		if err == nil {
			err = w.add(fields, r.line)
		}
		if err != nil {
			return w.at(r.line, err)
		}
		if len(w.lines) >= copyBatchRows || len(w.args) >= copyBatchParams || w.bytes >= copyBatchBytes {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
}

// header skips the first line, or compares it with the columns.
func (w *copyWriter) header(r *rowReader) error {
	fields, err := r.read()
	if err == io.EOF || err == nil && !w.cmd.match {
		return nil
	}
	if err != nil {
		return err
	}
	if len(fields) != len(w.columns) {
		return pgError("22P04", "wrong number of fields in header line: got %d, expected %d", len(fields), len(w.columns))
	}
	for i, f := range fields {
		if !strings.EqualFold(string(f), w.columns[i].name) {
			return pgError("22P04", "column name mismatch in header line field %d: got %q, expected %q", i+1, f, w.columns[i].name)
		}
	}
	return nil
}

// at names the line that an error is about.
func (w *copyWriter) at(line int, err error) error {
	if endsConnection(err) {
		return err
	}
	e := *base.AsError(err)
	e.Op = fmt.Sprintf("COPY %s, line %d", w.cmd.table, max(line, 1))
	return &e
}

func (w *copyWriter) add(fields []field, line int) error {
	if len(fields) < len(w.columns) {
		return pgError("22P04", "missing data for column %q", w.columns[len(fields)].name)
	}
	if len(fields) > len(w.columns) {
		return pgError("22P04", "extra data after last expected column")
	}
	for i, f := range fields {
		v, err := w.value(f, w.columns[i])
		if err != nil {
			return err
		}
		w.args = append(w.args, v)
		w.bytes += len(f) + valueSize
	}
	w.lines = append(w.lines, line)
	return nil
}

// value reads a field. Text that is no number or time stays text, for SQLite
// to judge.
func (w *copyWriter) value(f field, col column) (base.Value, error) {
	if f == nil {
		return base.Value{}, nil
	}
	if w.cmd.format == copyBinary {
		return decodeParam(f, col.oid, 1)
	}
	switch col.oid {
	case oid.Bool, oid.Bytea, oid.Timestamp, oid.TimestampTZ, oid.Date:
		return decodeText(f, col.oid)
	}
	return base.Value{Kind: base.Text, Bytes: f}, nil
}

// flush inserts the batch. When that fails the rows go one by one, to find the
// line at fault.
func (w *copyWriter) flush() error {
	if len(w.lines) == 0 {
		return nil
	}
	err := w.insert(w.args, len(w.lines))
	if err != nil && len(w.lines) > 1 && base.KindOf(err) == base.KindSQL {
		err = w.oneByOne(err)
	} else if err != nil {
		err = w.at(w.lines[0], err)
	}
	w.count += int64(len(w.lines))
	w.args, w.lines, w.bytes = nil, w.lines[:0], 0
	return err
}

func (w *copyWriter) oneByOne(first error) error {
	n := len(w.columns)
	for i, line := range w.lines {
		err := w.insert(w.args[i*n:(i+1)*n], 1)
		if err != nil && base.AsError(err).State() == inFailedTransaction {
			break // The batch's failure was the transaction's; it tells more.
		}
		if err != nil {
			return w.at(line, err)
		}
	}
	return w.among(first)
}

// inFailedTransaction is the SQLSTATE of what comes after a failure.
const inFailedTransaction = "25P02"

// among names the lines of the batch, one of which an error is about.
func (w *copyWriter) among(err error) error {
	first, last := w.lines[0], w.lines[len(w.lines)-1]
	if first == last || endsConnection(err) {
		return w.at(first, err)
	}
	e := *base.AsError(err)
	e.Op = fmt.Sprintf("COPY %s, lines %d to %d", w.cmd.table, first, last)
	return &e
}

func (w *copyWriter) insert(args []base.Value, rows int) error {
	r, err := w.c.sess.Query(w.c.ctx, w.statement(rows), args)
	if err != nil {
		return err
	}
	_, err = drain(r)
	return err
}

func (w *copyWriter) statement(rows int) string {
	var b strings.Builder
	b.WriteString("INSERT INTO " + sqltext.QuoteName(w.cmd.table) + " (")
	for i, col := range w.columns {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(sqltext.QuoteName(col.name))
	}
	b.WriteString(") VALUES ")
	for p := range rows * len(w.columns) {
		switch {
		case p == 0:
			b.WriteString("(?")
		case p%len(w.columns) == 0:
			b.WriteString("), (?")
		default:
			b.WriteString(", ?")
		}
		b.WriteString(strconv.Itoa(p + 1))
	}
	b.WriteByte(')')
	return b.String()
}

// copyOut sends the rows of a table or query.
func (c *conn) copyOut(cmd *copyCommand) (int64, error) {
	st, err := c.copyQuery(cmd)
	if err != nil {
		return 0, err
	}
	p := portal{open: true, st: st, columns: st.columns}
	if err := c.start(&p); err != nil {
		return 0, err
	}
	p.typeByFirstRow()
	format, formats := copyFormats(cmd, len(p.columns))
	c.out.send(&pgproto3.CopyOutResponse{OverallFormat: format, ColumnFormatCodes: formats})
	c.copyBegin(cmd, p.columns)
	for p.next() {
		err := c.copyRow(cmd, p.rows.Row(), p.columns)
		if err == nil {
			p.sent++
			err = c.out.spill()
		}
		if err != nil {
			c.dropRows(&p)
			return 0, err
		}
	}
	if p.rows != nil {
		if _, err := c.closeRows(&p); err != nil {
			return 0, err
		}
	}
	if cmd.format == copyBinary {
		start := c.out.begin('d')
		c.out.int16(-1)
		c.out.end(start)
	}
	c.out.empty('c')
	return p.sent, nil
}

// copyFormats are the format codes of a COPY, in all and of each column.
func copyFormats(cmd *copyCommand, columns int) (all byte, each []uint16) {
	if cmd.format == copyBinary {
		all = 1
	}
	each = make([]uint16, columns)
	for i := range each {
		each[i] = uint16(all)
	}
	return all, each
}

// copyQuery prepares what a COPY TO reads.
func (c *conn) copyQuery(cmd *copyCommand) (*statement, error) {
	query := cmd.query
	if query == "" {
		columns, err := c.copyColumns(cmd)
		if err != nil {
			return nil, err
		}
		names := make([]string, len(columns))
		for i, col := range columns {
			names[i] = sqltext.QuoteName(col.name)
		}
		query = "SELECT " + strings.Join(names, ", ") + " FROM " + sqltext.QuoteName(cmd.table)
	}
	st, err := c.prepareOne(query, nil)
	if err != nil {
		return nil, err
	}
	if len(st.columns) == 0 || st.kind != kindEngine && st.kind != kindCatalogue {
		return nil, pgError("42601", "COPY query must return rows")
	}
	return st, c.mayRun(st)
}

// copyBegin sends what comes before the first row.
func (c *conn) copyBegin(cmd *copyCommand, columns []column) {
	switch {
	case cmd.format == copyBinary:
		start := c.out.begin('d')
		c.out.buf = append(c.out.buf, copySignature...)
		c.out.buf = append(c.out.buf, 0, 0, 0, 0, 0, 0, 0, 0) // no flags, no extension
		c.out.end(start)
	case cmd.header:
		names := make([]base.Value, len(columns))
		types := make([]column, len(columns))
		for i, col := range columns {
			names[i], types[i].oid = base.TextValue(col.name), oid.Text
		}
		c.copyLine(cmd, names, types)
	}
}

// copyRow adds one row as a CopyData message.
func (c *conn) copyRow(cmd *copyCommand, row []base.Value, columns []column) error {
	if cmd.format == copyBinary {
		return c.out.copyFields(row, columns)
	}
	c.copyLine(cmd, row, columns)
	return nil
}

func (c *conn) copyLine(cmd *copyCommand, row []base.Value, columns []column) {
	start := c.out.begin('d')
	for i, v := range row {
		if i > 0 {
			c.out.buf = append(c.out.buf, cmd.delimiter)
		}
		c.out.buf = cmd.appendCopy(c.out.buf, v, columns[i].oid)
	}
	c.out.buf = append(c.out.buf, '\n')
	c.out.end(start)
}

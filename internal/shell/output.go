package shell

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// Mode is the form of results.
type Mode string

// The modes.
const (
	ModeTable Mode = "table"
	ModeCSV   Mode = "csv"
	ModeLine  Mode = "line"
	ModeJSON  Mode = "json"
)

// ParseMode reads table, csv, line or json.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case ModeTable, ModeCSV, ModeLine, ModeJSON:
		return m, nil
	}
	return "", fmt.Errorf("mode %q: want table, csv, line or json", s)
}

// alignedRows is how many rows of a table are lined up together: the result is
// shown while it arrives, however long it is.
const alignedRows = 1000

// printer writes one result. A nil value is NULL.
type printer interface {
	row(values [][]byte)
	end()
}

// showResults prints all results of a statement.
func (s *Shell) showResults(results *pgconn.MultiResultReader) error {
	for results.NextResult() {
		rows := results.ResultReader()
		fields := rows.FieldDescriptions()
		count := 0
		if len(fields) > 0 {
			out := bufio.NewWriterSize(s.options.Out, 64<<10)
			p := newPrinter(s.mode, out, fields)
			for rows.NextRow() {
				p.row(rows.Values())
				count++
			}
			p.end()
			if err := out.Flush(); err != nil {
				return fmt.Errorf("write result: %w", err)
			}
		}
		tag, err := rows.Close()
		if err != nil {
			return err
		}
		s.footer(len(fields) > 0, count, tag)
	}
	return nil
}

// footer tells a person how many rows there were or what was done.
func (s *Shell) footer(hasRows bool, count int, tag pgconn.CommandTag) {
	switch {
	case !s.options.Interactive || s.mode != ModeTable && hasRows:
	case !hasRows:
		fmt.Fprintln(s.options.Out, tag.String())
	case count == 1:
		fmt.Fprintln(s.options.Out, "(1 row)")
	default:
		fmt.Fprintf(s.options.Out, "(%d rows)\n", count)
	}
}

func newPrinter(m Mode, out io.Writer, fields []pgconn.FieldDescription) printer {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.Name
	}
	switch m {
	case ModeCSV:
		p := &csvPrinter{out: out}
		header := make([][]byte, len(names))
		for i, name := range names {
			header[i] = []byte(name)
		}
		p.row(header)
		return p
	case ModeLine:
		return newLinePrinter(out, names)
	case ModeJSON:
		return newJSONPrinter(out, fields)
	}
	return newTablePrinter(out, names)
}

// tablePrinter lines columns up.
type tablePrinter struct {
	tab  *tabwriter.Writer
	rows int
}

func newTablePrinter(out io.Writer, names []string) *tablePrinter {
	p := &tablePrinter{tab: tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)}
	header, rule := make([]string, len(names)), make([]string, len(names))
	for i, name := range names {
		header[i] = visible(name)
		rule[i] = strings.Repeat("-", max(1, utf8.RuneCountInString(header[i])))
	}
	fmt.Fprintln(p.tab, strings.Join(header, "\t"))
	fmt.Fprintln(p.tab, strings.Join(rule, "\t"))
	return p
}

func (p *tablePrinter) row(values [][]byte) {
	cells := make([]string, len(values))
	for i, v := range values {
		cells[i] = "NULL"
		if v != nil {
			cells[i] = visible(string(v))
		}
	}
	fmt.Fprintln(p.tab, strings.Join(cells, "\t"))
	if p.rows++; p.rows%alignedRows == 0 {
		p.tab.Flush() // Errors stay in the buffered writer below.
	}
}

func (p *tablePrinter) end() { p.tab.Flush() }

// visible shows a value on one line and keeps control characters from the
// terminal: they become \n, \t, \x1b.
func visible(s string) string {
	if !strings.ContainsFunc(s, isControl) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case isControl(r):
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func isControl(r rune) bool { return r < 0x20 || (r >= 0x7f && r < 0xa0) }

// csvPrinter writes RFC 4180 with NULL as nothing and an empty text as "".
type csvPrinter struct{ out io.Writer }

func (p *csvPrinter) row(values [][]byte) {
	cells := make([]string, len(values))
	for i, v := range values {
		cells[i] = string(v)
		if v != nil && (len(v) == 0 || strings.ContainsAny(cells[i], ",\"\r\n") || cells[i] != strings.TrimSpace(cells[i])) {
			cells[i] = `"` + strings.ReplaceAll(cells[i], `"`, `""`) + `"`
		}
	}
	fmt.Fprint(p.out, strings.Join(cells, ",")+"\r\n")
}

func (p *csvPrinter) end() {}

// linePrinter writes one value a line and an empty line after each row.
type linePrinter struct {
	out   io.Writer
	names []string
	width int
}

func newLinePrinter(out io.Writer, names []string) *linePrinter {
	p := &linePrinter{out: out, names: names}
	for _, name := range names {
		p.width = max(p.width, utf8.RuneCountInString(name))
	}
	return p
}

func (p *linePrinter) row(values [][]byte) {
	for i, v := range values {
		text := "NULL"
		if v != nil {
			text = visible(string(v))
		}
		fmt.Fprintf(p.out, "%*s = %s\n", p.width, p.names[i], text)
	}
	fmt.Fprintln(p.out)
}

func (p *linePrinter) end() {}

// jsonPrinter writes an array of objects, a row a line. Values of columns that
// the server calls numbers or booleans are those; the rest are strings, since
// the protocol sends text.
type jsonPrinter struct {
	out   io.Writer
	names [][]byte
	bare  []bool
	rows  int
}

func newJSONPrinter(out io.Writer, fields []pgconn.FieldDescription) *jsonPrinter {
	p := &jsonPrinter{out: out}
	for _, f := range fields {
		name, _ := json.Marshal(f.Name) // A string always marshals.
		p.names = append(p.names, name)
		switch f.DataTypeOID {
		case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.Float4OID, pgtype.Float8OID, pgtype.NumericOID:
			p.bare = append(p.bare, true)
		default:
			p.bare = append(p.bare, false)
		}
	}
	return p
}

func (p *jsonPrinter) row(values [][]byte) {
	b := []byte("[{")
	if p.rows++; p.rows > 1 {
		b = []byte(",\n {")
	}
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, p.names[i]...), ':')
		switch {
		case v == nil:
			b = append(b, "null"...)
		case p.bare[i] && json.Valid(v):
			b = append(b, v...)
		default:
			text, _ := json.Marshal(string(v))
			b = append(b, text...)
		}
	}
	_, _ = p.out.Write(append(b, '}')) // Errors stay in the buffered writer.
}

func (p *jsonPrinter) end() {
	if p.rows == 0 {
		fmt.Fprint(p.out, "[")
	}
	fmt.Fprintln(p.out, "]")
}

package pgwire

import (
	"strings"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/sqltext"
)

// copyFormat is how rows are written.
type copyFormat uint8

const (
	copyText copyFormat = iota
	copyCSV
	copyBinary
)

// copyCommand is a parsed COPY.
type copyCommand struct {
	in      bool
	table   string   // its name; "" for a query
	columns []string // nil is all
	query   string
	copyOptions
}

// copyOptions say how rows are written; newCopyOptions holds the defaults.
type copyOptions struct {
	format    copyFormat
	delimiter byte
	null      string
	nullSet   bool
	quote     byte
	escape    byte
	header    bool
	match     bool // the header must name the columns
}

// parseCopy reads COPY table [(columns)] FROM STDIN, COPY table [(columns)] TO
// STDOUT and COPY (query) TO STDOUT, with options in either of PostgreSQL's
// notations.
func parseCopy(sql string) (*copyCommand, error) {
	s := sqltext.Scanner{SQL: sql}
	s.Word("COPY")
	c := &copyCommand{}
	if err := c.parseSource(&s); err != nil {
		return nil, err
	}
	switch {
	case s.Word("FROM"):
		c.in = true
		if !s.Word("STDIN") {
			return nil, unsupported("COPY FROM a file or program of the server is not supported", "use COPY FROM STDIN, or psql's \\copy")
		}
	case s.Word("TO"):
		if !s.Word("STDOUT") {
			return nil, unsupported("COPY TO a file or program of the server is not supported", "use COPY TO STDOUT, or psql's \\copy")
		}
	default:
		return nil, copySyntax(s)
	}
	if c.in && c.query != "" {
		return nil, pgError("42601", "COPY (query) can only be used with TO")
	}
	if err := c.parseOptions(&s); err != nil {
		return nil, err
	}
	if !s.End() {
		return nil, copySyntax(s)
	}
	return c, c.finish()
}

func copySyntax(s sqltext.Scanner) error {
	t, ok := s.Next()
	if !ok {
		return pgError("42601", "syntax error at end of COPY")
	}
	return pgError("42601", "syntax error in COPY at or near %q", t.Text(s.SQL))
}

func (c *copyCommand) parseSource(s *sqltext.Scanner) error {
	if s.Op("(") {
		start := s.At
		if !sqltext.SkipParens(s) {
			return copySyntax(*s)
		}
		c.query = strings.TrimSpace(s.SQL[start : s.At-1])
		return nil
	}
	var ok bool
	if c.table, ok = name(s); !ok {
		return copySyntax(*s)
	}
	if s.Op(".") { // the schema: public, or main
		if c.table, ok = name(s); !ok {
			return copySyntax(*s)
		}
	}
	if !s.Op("(") {
		return nil
	}
	for {
		column, ok := name(s)
		if !ok {
			return copySyntax(*s)
		}
		c.columns = append(c.columns, column)
		if s.Op(")") {
			return nil
		}
		if !s.Op(",") {
			return copySyntax(*s)
		}
	}
}

func name(s *sqltext.Scanner) (string, bool) {
	t, ok := s.Next()
	return sqltext.Unquote(t.Text(s.SQL)), ok && (t.Kind == sqltext.Word || t.Kind == sqltext.Quoted)
}

// parseOptions reads WITH (name value, ...) and the older WITH name value ...
func (c *copyCommand) parseOptions(s *sqltext.Scanner) error {
	s.Word("WITH")
	if !s.Op("(") {
		for !s.End() {
			if err := c.parseOption(s, false); err != nil {
				return err
			}
		}
		return nil
	}
	for {
		if err := c.parseOption(s, true); err != nil {
			return err
		}
		if s.Op(")") {
			return nil
		}
		if !s.Op(",") {
			return copySyntax(*s)
		}
	}
}

func (c *copyCommand) parseOption(s *sqltext.Scanner, bracketed bool) error {
	before := *s
	t, _ := s.Next()
	option := strings.ToUpper(t.Text(s.SQL))
	if !bracketed && (option == "CSV" || option == "BINARY") {
		return c.set(*s, "FORMAT", option)
	}
	s.Word("AS")
	value := ""
	if v, ok := s.Peek(); ok && (v.Kind == sqltext.Word && bracketed || v.Kind == sqltext.String || v.Kind == sqltext.Number) {
		value = copyValue(s)
	}
	switch option {
	case "FORMAT", "DELIMITER", "DELIMITERS", "NULL", "QUOTE", "ESCAPE", "HEADER", "ENCODING", "FREEZE":
		return c.set(before, option, value)
	case "OIDS", "FORCE_QUOTE", "FORCE_NULL", "FORCE_NOT_NULL", "FORCE":
		return unsupported("COPY option "+option+" is not supported", "")
	}
	return copySyntax(before)
}

// copyValue reads a value; E'\t' is one with escapes.
func copyValue(s *sqltext.Scanner) string {
	t, _ := s.Next()
	text := t.Text(s.SQL)
	if t.Kind == sqltext.Word && strings.EqualFold(text, "E") {
		if next, ok := s.Peek(); ok && next.Kind == sqltext.String && next.Start == t.End {
			s.Next()
			return string(unescape([]byte(sqltext.Unquote(next.Text(s.SQL)))))
		}
	}
	return sqltext.Unquote(text)
}

func (c *copyCommand) set(at sqltext.Scanner, option, value string) error {
	var err error
	switch option {
	case "FORMAT":
		formats := map[string]copyFormat{"TEXT": copyText, "CSV": copyCSV, "BINARY": copyBinary}
		var ok bool
		if c.format, ok = formats[strings.ToUpper(value)]; !ok {
			return pgError("22023", "COPY format %q not recognized", value)
		}
	case "NULL":
		c.null, c.nullSet = value, true
	case "DELIMITER", "DELIMITERS":
		c.delimiter, err = oneByte(option, value)
	case "QUOTE":
		c.quote, err = oneByte(option, value)
	case "ESCAPE":
		c.escape, err = oneByte(option, value)
	case "HEADER":
		c.match = strings.EqualFold(value, "match")
		c.header = value == "" || c.match
		if !c.header {
			c.header, err = parseBool(value)
		}
	case "ENCODING":
		if v := strings.ToUpper(strings.ReplaceAll(value, "-", "")); v != "UTF8" {
			return unsupported("COPY in encoding "+value+" is not supported", "only UTF8 is")
		}
	case "FREEZE":
	default:
		return copySyntax(at)
	}
	return err
}

func oneByte(option, value string) (byte, error) {
	if len(value) != 1 || value == "\n" || value == "\r" || value == "\x00" {
		return 0, pgError("22023", "COPY %s must be a single one-byte character, not a line break", strings.ToLower(option))
	}
	return value[0], nil
}

// finish fills in the defaults of the format and refuses what does not fit.
func (c *copyCommand) finish() error {
	if c.format != copyCSV && (c.quote != 0 || c.escape != 0) {
		return pgError("22023", "COPY quote and escape are available only in CSV mode")
	}
	if c.format == copyBinary && (c.header || c.delimiter != 0 || c.nullSet) {
		return pgError("22023", "COPY header, delimiter and null are not available in binary mode")
	}
	def := func(b *byte, v byte) {
		if *b == 0 {
			*b = v
		}
	}
	if c.format == copyCSV {
		def(&c.delimiter, ',')
		def(&c.quote, '"')
		def(&c.escape, c.quote)
	} else {
		def(&c.delimiter, '\t')
		if !c.nullSet {
			c.null = `\N`
		}
		if strings.IndexByte(`\.abcdefghijklmnopqrstuvwxyz0123456789`, c.delimiter) >= 0 {
			return pgError("22023", "COPY delimiter cannot be %q", string(c.delimiter))
		}
	}
	if strings.IndexByte(c.null, c.delimiter) >= 0 || strings.ContainsAny(c.null, "\r\n") || c.delimiter == c.quote {
		return base.AsError(pgError("22023", "COPY delimiter, quote and null do not fit together"))
	}
	return nil
}

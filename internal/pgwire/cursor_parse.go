package pgwire

import (
	"math"
	"strconv"
	"strings"

	"github.com/skeindb/skein/internal/sqltext"
)

// cursorCommand is a DECLARE, FETCH, MOVE or CLOSE.
type cursorCommand struct {
	name     string
	text     string     // all of a DECLARE
	binary   bool       // DECLARE BINARY
	query    *statement // of a DECLARE
	skip     int64      // rows that a FETCH or MOVE passes over
	count    int64      // and then takes
	reads    bool       // FETCH, not MOVE
	backward bool       // it does not only go forward
}

// allRows is the count of FETCH ALL.
const allRows = math.MaxInt64

func syntaxNear(s sqltext.Scanner) error {
	t, ok := s.Next()
	if !ok {
		return pgError("42601", "syntax error at end of input")
	}
	return pgError("42601", "syntax error at or near %q", t.Text(s.SQL))
}

// cursorName reads a name; what is quoted keeps its case.
func cursorName(s *sqltext.Scanner) (string, error) {
	t, _ := s.Peek()
	if t.Kind != sqltext.Word && t.Kind != sqltext.Quoted {
		return "", syntaxNear(*s)
	}
	s.Next()
	return foldName(t.Text(s.SQL)), nil
}

// lastCursorName reads a name that nothing may follow.
func lastCursorName(s *sqltext.Scanner) (string, error) {
	name, err := cursorName(s)
	if err == nil && !s.End() {
		err = syntaxNear(*s)
	}
	return name, err
}

// classifyDeclare reads DECLARE name [options] CURSOR [WITHOUT HOLD] FOR query.
func classifyDeclare(s sqltext.Scanner) (*statement, error) {
	name, err := cursorName(&s)
	if err != nil {
		return nil, err
	}
	if name == "" {
		return nil, pgError("34000", "invalid cursor name: must not be empty")
	}
	cmd := &cursorCommand{name: name, text: s.SQL}
	if cmd.binary, err = declareOptions(&s); err != nil {
		return nil, err
	}
	if s.Word("WITH") {
		if !s.Word("HOLD") {
			return nil, syntaxNear(s)
		}
		return nil, unsupported("cursors WITH HOLD are not supported: a cursor ends with its transaction",
			"fetch all of it before COMMIT, or read page by page: WHERE key > the last one ORDER BY key LIMIT n")
	}
	if s.Word("WITHOUT") && !s.Word("HOLD") || !s.Word("FOR") {
		return nil, syntaxNear(s)
	}
	cmd.query, err = classifyDeclared(strings.TrimSpace(s.SQL[s.At:]))
	return &statement{kind: kindDeclare, cursor: cmd, tag: "DECLARE CURSOR"}, err
}

// declareOptions reads what stands before CURSOR, and that.
func declareOptions(s *sqltext.Scanner) (binary bool, err error) {
	for !s.Word("CURSOR") {
		switch {
		case s.Word("BINARY"):
			binary = true
		case s.Word("INSENSITIVE"), s.Word("ASENSITIVE"):
		case s.Word("NO"):
			if !s.Word("SCROLL") {
				return false, syntaxNear(*s)
			}
		case s.Word("SCROLL"):
			return false, unsupported("scrollable cursors are not supported: cursors read forward",
				"leave SCROLL out; to go back declare a cursor with the other order, or keep the rows")
		default:
			return false, syntaxNear(*s)
		}
	}
	return binary, nil
}

// classifyDeclared classifies the query of a cursor.
func classifyDeclared(sql string) (*statement, error) {
	switch sqltext.Keyword(sql) {
	case "SELECT", "WITH", "VALUES":
		return classifyQuery(sql)
	case "TABLE":
		return classifyTable(sql)
	}
	return nil, syntaxNear(sqltext.Scanner{SQL: sql})
}

// classifyFetch reads FETCH or MOVE [direction] [FROM | IN] name.
func classifyFetch(k kind, s sqltext.Scanner) (*statement, error) {
	cmd := &cursorCommand{count: 1, reads: k == kindFetch}
	if err := cmd.direction(&s); err != nil {
		return nil, err
	}
	if !s.Word("FROM") {
		s.Word("IN")
	}
	name, err := lastCursorName(&s)
	cmd.name = name
	st := &statement{kind: k, cursor: cmd}
	if k == kindMove {
		st.tag = "MOVE"
	}
	return st, err
}

// direction reads what stands before FROM. A word that ends the statement is
// the cursor's name.
func (cmd *cursorCommand) direction(s *sqltext.Scanner) (err error) {
	after := *s
	if after.Next(); after.End() {
		return nil
	}
	switch {
	case s.Word("NEXT"):
	case s.Word("PRIOR"), s.Word("FIRST"), s.Word("LAST"):
		cmd.backward = true
	case s.Word("ABSOLUTE"):
		cmd.backward = true
		_, err = signedNumber(s)
	case s.Word("RELATIVE"):
		err = cmd.relative(s)
	case s.Word("BACKWARD"):
		if err = cmd.rows(s); err == nil {
			cmd.turn()
		}
	default:
		s.Word("FORWARD")
		err = cmd.rows(s)
	}
	return err
}

// rows reads a number of rows, or ALL, if there is one.
func (cmd *cursorCommand) rows(s *sqltext.Scanner) (err error) {
	if s.Word("ALL") {
		cmd.count = allRows
		return nil
	}
	if t, _ := s.Peek(); t.Kind != sqltext.Number && t.Kind != sqltext.Operator {
		return nil
	}
	if cmd.count, err = signedNumber(s); err == nil && cmd.count < 0 {
		cmd.turn()
		cmd.count = -cmd.count
	}
	return err
}

// turn changes the direction; no rows lie in either.
func (cmd *cursorCommand) turn() { cmd.backward = !cmd.backward && cmd.count != 0 }

// relative reads the number of RELATIVE: only the last of the rows is taken.
func (cmd *cursorCommand) relative(s *sqltext.Scanner) error {
	n, err := signedNumber(s)
	switch {
	case n < 0:
		cmd.backward = true
	case n == 0:
		cmd.count = 0
	default:
		cmd.skip = n - 1
	}
	return err
}

func signedNumber(s *sqltext.Scanner) (int64, error) {
	at := *s
	sign := ""
	if s.Op("-") {
		sign = "-"
	} else {
		s.Op("+")
	}
	t, _ := s.Next()
	n, err := strconv.ParseInt(sign+t.Text(s.SQL), 10, 32)
	if err != nil || t.Kind != sqltext.Number {
		return 0, syntaxNear(at)
	}
	return n, nil
}

// classifyClose reads CLOSE name or CLOSE ALL.
func classifyClose(s sqltext.Scanner) (*statement, error) {
	if s.Word("ALL") {
		if !s.End() {
			return nil, syntaxNear(s)
		}
		return &statement{kind: kindCloseAll, tag: "CLOSE CURSOR ALL"}, nil
	}
	name, err := lastCursorName(&s)
	return &statement{kind: kindClose, cursor: &cursorCommand{name: name}, tag: "CLOSE CURSOR"}, err
}

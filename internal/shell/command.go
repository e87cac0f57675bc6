package shell

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/skeindb/skein/internal/sqltext"
)

// Help lists the dot commands.
const Help = `.databases         list databases
.help              this text
.mode MODE         form of results: table, csv, line or json
.quit              leave (also Ctrl-D)
.read FILE         run the statements of a file
.schema [TABLE]    show CREATE statements
.status            show the cluster
.tables            list tables and views
.timer on|off      show how long statements take
.token             show the token of what this session has seen

A statement ends with a semicolon and may span lines. Ctrl-C cancels it.
SET skein.read TO 'leader' and SHOW skein.reached are examples of settings.
`

// command runs one dot command.
func (s *Shell) command(ctx context.Context, line string) error {
	words := strings.Fields(strings.TrimSuffix(line, ";"))
	name, args := words[0], words[1:]
	run, ok := map[string]func(context.Context, []string) error{
		".databases": s.listDatabases, ".help": s.help, ".mode": s.setMode, ".quit": s.leave, ".exit": s.leave,
		".read": s.read, ".schema": s.schema, ".status": s.status, ".tables": s.tables, ".timer": s.setTimer, ".token": s.token,
	}[name]
	if !ok {
		return s.refuse("unknown command %s; .help lists the commands", name)
	}
	return run(ctx, args)
}

func (s *Shell) refuse(format string, args ...any) error {
	fmt.Fprintf(s.options.Err, "Error: "+format+"\n", args...)
	return errShown
}

func (s *Shell) help(context.Context, []string) error {
	_, err := io.WriteString(s.options.Out, Help)
	return err
}

func (s *Shell) leave(context.Context, []string) error {
	s.quit = true
	return nil
}

func (s *Shell) setMode(_ context.Context, args []string) error {
	if len(args) != 1 {
		return s.refuse("the mode is %s; .mode table, csv, line or json changes it", s.mode)
	}
	mode, err := ParseMode(args[0])
	if err != nil {
		return s.refuse("%v", err)
	}
	s.mode = mode
	return nil
}

func (s *Shell) setTimer(_ context.Context, args []string) error {
	if len(args) != 1 || !slices.Contains([]string{"on", "off"}, args[0]) {
		return s.refuse(".timer on or .timer off")
	}
	s.timer = args[0] == "on"
	return nil
}

func (s *Shell) read(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return s.refuse(".read FILE")
	}
	if s.depth >= maxReadDepth {
		return s.refuse(".read within .read, more than %d deep", maxReadDepth)
	}
	file, err := s.options.Open(args[0])
	if err != nil {
		return s.refuse("%v", err)
	}
	defer file.Close()
	s.depth++
	defer func() { s.depth-- }()
	return s.script(ctx, args[0], file)
}

func (s *Shell) token(ctx context.Context, _ []string) error {
	return s.statement(ctx, "SHOW skein.token")
}

// ours are tables of the replication itself, which nobody can use.
const notOurs = `name NOT LIKE 'sqlite\_%' ESCAPE '\' AND name NOT LIKE '\_skein\_%' ESCAPE '\'`

func (s *Shell) tables(ctx context.Context, _ []string) error {
	return s.listed(ctx, "SELECT name FROM sqlite_schema WHERE type IN ('table','view') AND "+notOurs+" ORDER BY name", "")
}

func (s *Shell) schema(ctx context.Context, args []string) error {
	which := ""
	if len(args) > 0 {
		which = " AND tbl_name = " + sqltext.QuoteString(sqltext.Unquote(args[0])) + " COLLATE NOCASE"
	}
	return s.listed(ctx, "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND "+notOurs+which+" ORDER BY rowid", ";")
}

// listed prints the first column of a query, one value a line.
func (s *Shell) listed(ctx context.Context, sql, end string) error {
	if err := s.connect(ctx); err != nil {
		return err
	}
	results := s.conn.Exec(ctx, sql)
	for results.NextResult() {
		for rows := results.ResultReader(); rows.NextRow(); {
			fmt.Fprintf(s.options.Out, "%s%s\n", rows.Values()[0], end)
		}
	}
	if err := results.Close(); err != nil {
		return s.failed("SELECT", err)
	}
	return nil
}

func (s *Shell) listDatabases(ctx context.Context, _ []string) error {
	if s.options.Databases == nil {
		return s.refuse(".databases needs a node's HTTP address; give --url")
	}
	names, err := s.options.Databases(ctx)
	if err != nil {
		return s.refuse("%v", err)
	}
	for _, name := range names {
		fmt.Fprintln(s.options.Out, name)
	}
	return nil
}

func (s *Shell) status(ctx context.Context, _ []string) error {
	if s.options.Status == nil {
		return s.refuse(".status needs a node's HTTP address; give --url")
	}
	if err := s.options.Status(ctx, s.options.Out); err != nil {
		return s.refuse("%v", err)
	}
	return nil
}

// Package shell is the SQL shell: it reads statements from a person or a pipe,
// runs them over the PostgreSQL protocol and shows what came back.
//
// It owns how statements are cut from input, dot commands, and the forms of
// output. It says of a failed statement what it means for the data, and says so
// when that is not known. Statements are never sent twice.
//
// A Shell is used by one goroutine. It must not import the engine.
package shell

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/sqltext"
)

// Options of a shell.
type Options struct {
	// Config says where and as whom to connect. The shell sets OnNotice.
	Config *pgconn.Config
	// In, Out and Err are the streams. In is not read when Interactive.
	In       io.Reader
	Out, Err io.Writer
	// Interactive reads lines with editing and history from the terminal and
	// goes on after errors; otherwise the first error ends the run.
	Interactive bool
	// History is the file of earlier lines, which must exist; "" keeps none.
	History string
	// Mode is the form of results; "" means table.
	Mode Mode
	// Interrupts cancels the running statement, once for each value.
	Interrupts <-chan os.Signal
	// Now is time.Now, for .timer.
	Now func() time.Time
	// Open opens a file for .read.
	Open func(name string) (io.ReadCloser, error)
	// Databases and Status answer .databases and .status.
	Databases func(ctx context.Context) ([]string, error)
	Status    func(ctx context.Context, to io.Writer) error
}

// Shell is one session of a person or a script.
type Shell struct {
	options Options
	conn    *pgconn.PgConn // nil until the first statement, and after a loss
	mode    Mode
	timer   bool
	depth   int // of .read
	quit    bool
}

// Limits.
const (
	maxReadDepth   = 8
	maxLine        = 64 << 20
	connectTimeout = 10 * time.Second
)

// errShown marks an error that the user has seen already.
var errShown = errors.New("a statement failed")

// IsShown says whether err was reported by the shell itself.
func IsShown(err error) bool { return errors.Is(err, errShown) }

// New makes a shell; nothing is connected yet.
func New(o Options) (*Shell, error) {
	if o.Config == nil || o.Out == nil || o.Err == nil || (o.In == nil && !o.Interactive) {
		return nil, errors.New("shell: Config, Out, Err and In must be set")
	}
	if o.Now == nil || o.Open == nil {
		return nil, errors.New("shell: Now and Open must be set")
	}
	if o.Mode == "" {
		o.Mode = ModeTable
	}
	if _, err := ParseMode(string(o.Mode)); err != nil {
		return nil, err
	}
	s := &Shell{options: o, mode: o.Mode}
	o.Config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { s.showError((*pgconn.PgError)(n)) }
	return s, nil
}

// Close ends the connection.
func (s *Shell) Close() error {
	if s.conn == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	err := s.conn.Close(ctx)
	s.conn = nil
	return err
}

// Run reads until the end of input or .quit. A script that fails returns an
// error for which IsShown holds.
func (s *Shell) Run(ctx context.Context) error {
	if s.options.Interactive {
		return s.interact(ctx)
	}
	return s.script(ctx, "", s.options.In)
}

// RunText runs statements and dot commands, as from a script.
func (s *Shell) RunText(ctx context.Context, text string) error {
	return s.script(ctx, "", strings.NewReader(text))
}

// script runs lines from r until the first error. name is the file's, for
// error messages.
func (s *Shell) script(ctx context.Context, name string, r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	var pending strings.Builder
	number, start := 0, 1
	run := func() error {
		err := s.block(ctx, pending.String())
		if err != nil && (name != "" || start > 1) {
			fmt.Fprintf(s.options.Err, "Stopped at line %d%s.\n", start, ofFile(name))
		}
		pending.Reset()
		return err
	}
	for lines.Scan() && !s.quit && ctx.Err() == nil {
		number++
		line := lines.Text()
		if pending.Len() == 0 {
			start = number
		}
		dot := pending.Len() == 0 && strings.HasPrefix(strings.TrimSpace(line), ".")
		pending.WriteString(line)
		pending.WriteByte('\n')
		// Looking at a long statement again for each of its lines would cost
		// the square of its length; only a semicolon or a comment's end can
		// complete it.
		if dot || (strings.Contains(line, ";") && sqltext.Complete(pending.String())) || strings.TrimSpace(pending.String()) == "" {
			if err := run(); err != nil {
				return err
			}
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return base.Errorf(base.KindTooLarge, "line %d%s is longer than %d MiB", number+1, ofFile(name), maxLine>>20).
			WithHint("Break the statement into several; what came before this line was executed.")
	}
	if err := errors.Join(lines.Err(), context.Cause(ctx)); err != nil {
		return fmt.Errorf("read statements%s: %w", ofFile(name), err)
	}
	if s.quit {
		return nil
	}
	return run()
}

func ofFile(name string) string {
	if name == "" {
		return ""
	}
	return " of " + name
}

// block runs complete statements, or one dot command.
func (s *Shell) block(ctx context.Context, text string) error {
	if trimmed := strings.TrimSpace(text); strings.HasPrefix(trimmed, ".") {
		return s.command(ctx, trimmed)
	}
	for statement := range sqltext.Statements(text) {
		if err := s.statement(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// statement runs one statement and shows its result.
func (s *Shell) statement(ctx context.Context, sql string) error {
	if err := s.connect(ctx); err != nil {
		return err
	}
	started := s.options.Now()
	stop := s.watchInterrupts()
	results := s.conn.Exec(ctx, sql)
	err := s.showResults(results)
	if closeErr := results.Close(); err == nil {
		err = closeErr
	}
	stop()
	if err != nil {
		return s.failed(sql, err)
	}
	if s.timer {
		fmt.Fprintf(s.options.Out, "Time: %s\n", s.options.Now().Sub(started).Round(time.Microsecond))
	}
	return nil
}

// connect connects unless a connection lives.
func (s *Shell) connect(ctx context.Context) error {
	if s.conn != nil && !s.conn.IsClosed() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	again := s.conn != nil
	conn, err := pgconn.ConnectConfig(ctx, s.options.Config)
	if err != nil {
		fmt.Fprintf(s.options.Err, "Error: cannot connect to %s: %s\n", s.address(), connectReason(err))
		return errShown
	}
	s.conn = conn
	if again && s.options.Interactive {
		fmt.Fprintf(s.options.Err, "Connected again, as a new session: what SET had set is as at the start.\n")
	}
	return nil
}

func (s *Shell) address() string {
	return fmt.Sprintf("%s:%d, database %s", s.options.Config.Host, s.options.Config.Port, s.options.Config.Database)
}

// connectReason takes the part of a connection error that says why.
func connectReason(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		if pg.Hint != "" {
			return pg.Message + "\n  Hint: " + pg.Hint
		}
		return pg.Message
	}
	text := err.Error()
	if _, reason, ok := strings.Cut(text, ": "); ok && strings.HasPrefix(text, "failed to connect") {
		return strings.Join(strings.Fields(reason), " ")
	}
	return text
}

// failed reports a statement's error.
func (s *Shell) failed(sql string, err error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		s.showError(pg)
	} else {
		fmt.Fprintf(s.options.Err, "Error: %v\n", err)
	}
	if s.conn.IsClosed() {
		fmt.Fprintln(s.options.Err, "The connection is lost. "+s.lost(sql, err))
	}
	return errShown
}

// lost says what is known of a statement whose connection broke.
func (s *Shell) lost(sql string, err error) string {
	switch _, answered := errors.AsType[*pgconn.PgError](err); {
	case s.conn.TxStatus() == 'T' || s.conn.TxStatus() == 'E':
		if sqltext.Keyword(sql) == "COMMIT" || sqltext.Keyword(sql) == "END" {
			return "Whether the transaction was committed is not known."
		}
		return "The open transaction was not committed."
	case answered:
		return ""
	case sqltext.Keyword(sql) == "SELECT" || sqltext.Keyword(sql) == "SHOW":
		return "The statement can be run again."
	}
	return "Whether the statement took effect is not known."
}

// watchInterrupts cancels the running statement for each interrupt until the
// returned function is called. A cancel goes over a connection of its own.
func (s *Shell) watchInterrupts() (stop func()) {
	if s.options.Interrupts == nil {
		return func() {}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	conn := s.conn
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-s.options.Interrupts:
			}
			ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
			if err := conn.CancelRequest(ctx); err != nil {
				// The node does not answer: give up the connection, so that the
				// statement's read ends.
				conn.Conn().Close()
			}
			cancel()
		}
	}()
	return func() { close(done); <-ended }
}

// showError prints an error or notice with what it means and what to do.
func (s *Shell) showError(e *pgconn.PgError) {
	label := "Error"
	if e.Severity != "ERROR" && e.Severity != "FATAL" && e.Severity != "PANIC" && e.Severity != "" {
		label = strings.ToUpper(e.Severity[:1]) + strings.ToLower(e.Severity[1:])
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s: %s", label, e.Message)
	if e.Code != "" && label == "Error" {
		fmt.Fprintf(&b, " (%s)", e.Code)
	}
	b.WriteByte('\n')
	if e.Detail != "" {
		fmt.Fprintf(&b, "  Outcome: %s\n", e.Detail)
	}
	if e.Hint != "" {
		fmt.Fprintf(&b, "  Hint: %s\n", e.Hint)
	}
	_, _ = s.options.Err.Write(b.Bytes()) // There is nowhere left to report to.
}

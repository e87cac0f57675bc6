package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/reeflective/readline"

	"github.com/skeindb/skein/internal/sqltext"
)

// maxHistory bounds the lines that are kept.
const maxHistory = 10_000

// interact reads from the terminal until .quit or Ctrl-D.
func (s *Shell) interact(ctx context.Context) error {
	if err := s.connect(ctx); err != nil {
		return err
	}
	fmt.Fprintf(s.options.Out, "Connected to %s. The dialect is SQLite's; .help lists commands.\n", s.address())
	rl := readline.NewShell()
	rl.Prompt.Primary(s.prompt)
	rl.Prompt.Secondary(func() string { return strings.Repeat(" ", max(0, len(s.prompt())-5)) + "...> " })
	rl.AcceptMultiline = func(line []rune) bool { return complete(string(line)) }
	_ = rl.Config.Set("history-size", maxHistory) // Without it the history is only longer.
	if s.options.History != "" {
		rl.History.AddFromFile("skein", s.options.History)
	}
	for !s.quit && ctx.Err() == nil {
		s.drainInterrupts()
		text, err := rl.Readline()
		switch {
		case errors.Is(err, io.EOF):
			fmt.Fprintln(s.options.Out)
			return nil
		case errors.Is(err, readline.ErrInterrupt):
			continue // Ctrl-C at the prompt drops the line.
		case err != nil:
			return fmt.Errorf("read from the terminal: %w", err)
		}
		if err := s.block(ctx, text); err != nil && !IsShown(err) {
			return err
		}
	}
	return context.Cause(ctx)
}

// complete says whether Enter runs the text or begins another line of it.
func complete(text string) bool {
	trimmed := strings.TrimSpace(text)
	return trimmed == "" || strings.HasPrefix(trimmed, ".") || (sqltext.Complete(text) && !sqltext.Blank(text))
}

// prompt shows the database, and a star within a transaction, an exclamation
// mark in one that has failed.
func (s *Shell) prompt() string {
	mark := ""
	if s.conn != nil && !s.conn.IsClosed() {
		switch s.conn.TxStatus() {
		case 'T':
			mark = "*"
		case 'E':
			mark = "!"
		}
	}
	return s.options.Config.Database + mark + "> "
}

// drainInterrupts forgets what arrived while nothing ran.
func (s *Shell) drainInterrupts() {
	for {
		select {
		case <-s.options.Interrupts:
			continue
		default:
			return
		}
	}
}

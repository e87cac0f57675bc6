package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/skeindb/skein/internal/adminclient"
	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/shell"
)

// app is the outside world of the commands, so that tests can be it.
type app struct {
	in           io.Reader
	out, err     io.Writer
	inTerminal   bool
	outTerminal  bool
	errTerminal  bool
	lookupEnv    func(string) (string, bool)
	signals      chan os.Signal
	env          *env.Env
	readPassword func() ([]byte, error)
	exit         func(status int) // ends the process, with the terminal as it was

	url, user, password string // common flags
	json                bool
}

// usageError marks an error in the command line itself.
type usageError struct {
	error
	command *cobra.Command
}

func (u usageError) Unwrap() error { return u.error }

// run executes a command line and returns the exit status: 0 done, 1 failed,
// 2 the command line is wrong.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	command, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	a.report(err)
	if _, ok := errors.AsType[usageError](err); ok || strings.HasPrefix(err.Error(), "unknown command") || strings.HasPrefix(err.Error(), "required flag") {
		fmt.Fprintf(a.err, "  See `%s --help`.\n", command.CommandPath())
		return 2
	}
	return 1
}

// report prints an error with what it means and what to do.
func (a *app) report(err error) {
	if shell.IsShown(err) {
		return
	}
	fmt.Fprintf(a.err, "%s %s\n", a.paint(a.errTerminal, red, "Error:"), err)
	e, ok := errors.AsType[*base.Error](err)
	if !ok {
		return
	}
	switch e.Outcome {
	case base.Indeterminate:
		fmt.Fprintln(a.err, "  Outcome: indeterminate; it may have been done, or not")
	case base.Done:
		fmt.Fprintln(a.err, "  Outcome: done; the change stands")
	}
	if e.Hint != "" {
		fmt.Fprintf(a.err, "  Hint: %s\n", e.Hint)
	}
}

// root builds the command tree.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "skein",
		Short: "SQLite, replicated",
		Long: "Skein is SQLite, replicated over several nodes. Clients speak PostgreSQL's protocol or HTTP.\n\n" +
			"`skein dev` starts a cluster on this machine in a few seconds.",
		Example: "  skein dev                          # three nodes on this machine, in ./skein-data\n" +
			"  skein status                       # who leads, who follows, how far behind\n" +
			"  skein sql main                     # a SQL shell on database main\n" +
			"  skein db create shop --from shop.db",
		SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usageError{err, c} })
	root.PersistentFlags().SortFlags = false
	root.AddGroup(&cobra.Group{ID: "run", Title: "Run nodes:"}, &cobra.Group{ID: "use", Title: "Use databases:"}, &cobra.Group{ID: "manage", Title: "Manage a cluster:"})
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("run", a.devCommand(), a.serveCommand(), a.certCommand())
	add("use", a.sqlCommand(), a.dbCommand(), a.snapshotCommand(), a.cdcCommand(), a.followCommand())
	add("manage", a.statusCommand(), a.nodeCommand(), a.userCommand(), a.switchoverCommand(), a.failoverCommand(), a.orphansCommand(), a.logCommand())
	root.AddCommand(a.versionCommand())
	return root
}

// exact wants exactly these arguments, and names them when they are missing.
func exact(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usageError{fmt.Errorf("%s is missing", strings.Join(names[len(args):], " and ")), c}
		case len(args) > len(names):
			return usageError{fmt.Errorf("unexpected argument %q", args[len(names)]), c}
		}
		return nil
	}
}

// atMost takes up to n arguments.
func atMost(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) > n {
			return usageError{fmt.Errorf("unexpected argument %q", args[n]), c}
		}
		return nil
	}
}

// group is a command that only has subcommands.
func group(use, short, long string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Long: long}
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usageError{fmt.Errorf("unknown command %q", c.CommandPath()+" "+args[0]), c}
		}
		return c.Help()
	}
	c.AddCommand(commands...)
	return c
}

// remote adds the flags of commands that ask a node.
func (a *app) remote(c *cobra.Command) *cobra.Command {
	c.Flags().StringVar(&a.url, "url", "", "HTTP address of a node; several: comma-separated, tried in order\n(default $SKEIN_URL or http://127.0.0.1:8441)")
	c.Flags().StringVar(&a.user, "user", "", "user (default $SKEIN_USER)")
	c.Flags().StringVar(&a.password, "password", "", "password; others can see it in the list of processes,\nso better $SKEIN_PASSWORD")
	return c
}

// withJSON adds --json.
func (a *app) withJSON(c *cobra.Command) *cobra.Command {
	c.Flags().BoolVar(&a.json, "json", false, "print JSON")
	return c
}

func (a *app) variable(name, fallback string) string {
	if v, ok := a.lookupEnv(name); ok && v != "" {
		return v
	}
	return fallback
}

func (a *app) urls() []string {
	list := a.url
	if list == "" {
		list = a.variable("SKEIN_URL", "http://127.0.0.1:8441")
	}
	var urls []string
	for _, u := range strings.Split(list, ",") {
		if u = strings.TrimSpace(u); u != "" {
			urls = append(urls, u)
		}
	}
	return urls
}

func (a *app) credentials() (user, password string) {
	user, password = a.user, a.password
	if user == "" {
		user = a.variable("SKEIN_USER", "")
	}
	if password == "" {
		password = a.variable("SKEIN_PASSWORD", "")
	}
	return user, password
}

func (a *app) client() (*adminclient.Client, error) {
	user, password := a.credentials()
	return adminclient.New(adminclient.Options{URLs: a.urls(), User: user, Password: password, Notice: a.notice})
}

// notice prints what a node has to add of an operation that is done.
func (a *app) notice(text string) { fmt.Fprintf(a.err, "Done; %s.\n", text) }

// asking makes the RunE of a command that asks a node. Ctrl-C ends the wait.
func (a *app) asking(f func(ctx context.Context, c *adminclient.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		defer client.Close()
		ctx, stop := a.interruptible(c.Context())
		defer stop()
		return f(ctx, client, args)
	}
}

var errInterrupted = errors.New("interrupted")

// interruptible ends its context at the first signal. stop ends the watch and
// says whether a signal was taken, which nobody else will see.
func (a *app) interruptible(ctx context.Context) (_ context.Context, stop func() (taken bool)) {
	ctx, cancel := context.WithCancelCause(ctx)
	taken, done := false, make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-a.signals:
			taken = true
			cancel(errInterrupted)
		case <-ctx.Done():
		}
	}()
	return ctx, func() bool {
		cancel(nil)
		<-done
		return taken
	}
}

// printJSON prints a value for a program.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// done prints what was done, as a sentence or as JSON.
func (a *app) done(format string, args ...any) error {
	if a.json {
		return a.printJSON(httpapi.Done{Done: true})
	}
	_, err := fmt.Fprintf(a.out, format+"\n", args...)
	return err
}

const (
	red    = "31"
	yellow = "33"
	green  = "32"
)

// paint colours text on a terminal that wants colours.
func (a *app) paint(terminal bool, colour, text string) string {
	if _, plain := a.lookupEnv("NO_COLOR"); !terminal || plain {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// progress shows how far a transfer is, on a terminal.
func (a *app) progress(size int64, what string) *progressbar.ProgressBar {
	if !a.errTerminal {
		return progressbar.DefaultBytesSilent(size, what)
	}
	return progressbar.NewOptions64(size,
		progressbar.OptionSetWriter(a.err), progressbar.OptionSetDescription(what), progressbar.OptionShowBytes(true),
		progressbar.OptionUseIECUnits(true), progressbar.OptionSetPredictTime(true), progressbar.OptionShowCount(),
		progressbar.OptionSetWidth(24), progressbar.OptionClearOnFinish())
}

// confirm asks a person to repeat a name before something is destroyed. A
// script must say --yes.
func (a *app) confirm(yes bool, question, name string) error {
	if yes {
		return nil
	}
	if !a.inTerminal {
		return base.Errorf(base.KindInvalid, "this cannot be undone and nobody can be asked").WithHint("Give --yes.")
	}
	fmt.Fprintf(a.err, "%s\nType %s to go on: ", question, name)
	line, err := bufio.NewReader(a.in).ReadString('\n')
	if err != nil && err != io.EOF {
		return fmt.Errorf("read the answer: %w", err)
	}
	if strings.TrimSpace(line) != name {
		return base.Errorf(base.KindCanceled, "not confirmed; nothing was changed")
	}
	return nil
}

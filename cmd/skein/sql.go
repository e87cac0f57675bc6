package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/skeindb/skein/internal/adminclient"
	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/shell"
)

func (a *app) sqlCommand() *cobra.Command {
	var address, mode string
	var commands []string
	c := &cobra.Command{
		Use:   "sql [DATABASE]",
		Short: "A SQL shell (database main unless another is named)",
		Long: "sql runs statements over the PostgreSQL protocol, from a terminal with history and\n" +
			"editing, from a pipe, or from -c. A script stops at its first error, with exit status 1.\n" +
			"The dialect is SQLite's. .help lists commands.",
		Example: "  skein sql\n" +
			"  skein sql shop -c 'select count(*) from orders' --mode csv\n" +
			"  skein sql shop < schema.sql",
		Args: atMost(1),
		RunE: func(c *cobra.Command, args []string) error {
			database := "main"
			if len(args) > 0 {
				database = args[0]
			}
			if _, err := shell.ParseMode(mode); err != nil {
				return usageError{fmt.Errorf("--mode: %w", err), c}
			}
			return a.sql(c.Context(), address, database, shell.Mode(mode), commands)
		},
	}
	c.Flags().StringVar(&address, "pg", "", "PostgreSQL address, HOST:PORT\n(default $SKEIN_PG, or what the node at --url says)")
	c.Flags().StringArrayVarP(&commands, "command", "c", nil, "run this and leave; may be repeated")
	c.Flags().StringVar(&mode, "mode", "table", "form of results: table, csv, line or json")
	return a.remote(c)
}

func (a *app) sql(ctx context.Context, address, database string, mode shell.Mode, commands []string) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	defer client.Close()
	if address == "" {
		address = a.variable("SKEIN_PG", "")
	}
	if address == "" {
		if address, err = a.discover(ctx, client); err != nil {
			return err
		}
	}
	config, err := a.connection(address, database)
	if err != nil {
		return err
	}
	interactive := a.inTerminal && a.outTerminal && len(commands) == 0
	interrupts, stop := a.splitSignals()
	defer stop()
	o := shell.Options{
		Config: config, In: a.in, Out: a.out, Err: a.err, Interactive: interactive, Mode: mode,
		Interrupts: interrupts, Now: a.env.Clock.Now,
		Open: func(name string) (io.ReadCloser, error) { return os.Open(name) },
		Databases: func(ctx context.Context) ([]string, error) {
			list, err := client.ListDatabases(ctx)
			var names []string
			for _, d := range list {
				names = append(names, d.Name)
			}
			return names, err
		},
		Status: func(ctx context.Context, to io.Writer) error {
			s, err := client.Status(ctx)
			if err != nil {
				return err
			}
			return a.writeStatus(to, s)
		},
	}
	if interactive {
		o.History = a.history()
	}
	s, err := shell.New(o)
	if err != nil {
		return err
	}
	defer s.Close()
	if len(commands) == 0 {
		return s.Run(ctx)
	}
	for _, text := range commands {
		if err := s.RunText(ctx, text); err != nil {
			return err
		}
	}
	return nil
}

// discover asks a node where its PostgreSQL listener is. A listener on all
// addresses is reached at the host that the node itself was reached at.
func (a *app) discover(ctx context.Context, client *adminclient.Client) (string, error) {
	local, err := client.LocalStatus(ctx)
	if err != nil {
		e := *base.AsError(err)
		if e.Kind == base.KindForbidden || e.Kind == base.KindUnauthorized {
			e.Hint = "The node's HTTP address was asked for its PostgreSQL address; --pg HOST:PORT names that directly."
		}
		return "", &e
	}
	host, port, err := net.SplitHostPort(local.Node.PGAddress)
	if err != nil {
		return "", base.Errorf(base.KindUnavailable, "the node does not say where its PostgreSQL port is").WithHint("Give --pg HOST:PORT.")
	}
	if ip, err := netip.ParseAddr(host); host == "" || (err == nil && ip.IsUnspecified()) {
		u, err := url.Parse(a.urls()[0])
		if err != nil {
			return "", err
		}
		host = u.Hostname()
	}
	return net.JoinHostPort(host, port), nil
}

// connection makes the configuration of a PostgreSQL connection.
func (a *app) connection(address, database string) (*pgconn.Config, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, base.Errorf(base.KindInvalid, "PostgreSQL address %q: want HOST:PORT", address)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, base.Errorf(base.KindInvalid, "PostgreSQL address %q: the port is no number", address)
	}
	user, password := a.credentials()
	if user == "" {
		user = a.variable("USER", "skein")
	}
	// The URL form takes every host, database and user; PGSSLMODE,
	// PGSSLROOTCERT and PGPASSWORD count as for psql.
	u := url.URL{Scheme: "postgres", User: url.User(user), Host: net.JoinHostPort(host, strconv.FormatUint(number, 10)), Path: "/" + database}
	if password != "" {
		u.User = url.UserPassword(user, password)
	}
	u.RawQuery = url.Values{"application_name": {"skein sql"}}.Encode()
	config, err := pgconn.ParseConfig(u.String())
	if err != nil {
		return nil, base.Errorf(base.KindInvalid, "PostgreSQL connection: %w", err)
	}
	return config, nil
}

// splitSignals hands Ctrl-C to the shell and ends the process on the others.
func (a *app) splitSignals() (<-chan os.Signal, func()) {
	interrupts, done, ended := make(chan os.Signal, 1), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case s := <-a.signals:
				if s != os.Interrupt {
					a.exit(128 + 15)
					return
				}
				select {
				case interrupts <- s:
				default: // One is waiting already.
				}
			}
		}
	}()
	return interrupts, func() { close(done); <-ended }
}

// history is the file of earlier lines, readable by its owner only. A shell
// without history is still a shell, so that a failure is only told.
func (a *app) history() string {
	home := a.variable("HOME", "")
	dir := a.variable("XDG_STATE_HOME", filepath.Join(home, ".local", "state"))
	if home == "" && dir == filepath.Join(".local", "state") {
		return ""
	}
	name := filepath.Join(dir, "skein", "history")
	err := os.MkdirAll(filepath.Dir(name), 0o700)
	if err == nil {
		var f *os.File
		if f, err = os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600); err == nil {
			err = errors.Join(f.Close())
		}
	}
	if err != nil {
		fmt.Fprintf(a.err, "Lines will not be kept: %v\n", err)
		return ""
	}
	return name
}

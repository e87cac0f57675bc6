package main

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/skeindb/skein/internal/config"
	"github.com/skeindb/skein/internal/env"
)

func (a *app) serveCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run one node",
		Long: "serve runs one node until SIGTERM or Ctrl-C.\n\n" +
			"A node whose data folder is empty founds a cluster, or joins one with --join. After\n" +
			"that the folder belongs to that cluster, and --join has no effect.\n\n" +
			"Every flag is also a key of the TOML file (--log-level is log_level) and a variable\n" +
			"(SKEIN_LOG_LEVEL). The command line wins over the environment, that over the file.",
		Example: "  skein serve --dir ./n1 --insecure --trust-loopback\n\n" +
			"  skein cert ca ./ca\n" +
			"  skein cert node --ca ./ca --out ./n1-certs --host db1.example\n" +
			"  skein serve --dir /var/lib/skein --certs ./n1-certs --peer 0.0.0.0:6441 --advertise db1.example:6441\n\n" +
			"  skein serve --config /etc/skein.toml",
		Args: exact(),
	}
	c.Flags().SortFlags = false
	c.Flags().StringVar(&file, "config", "", "TOML file with settings (default $SKEIN_CONFIG)")
	settings := config.Settings()
	for _, s := range settings {
		switch {
		case s.Kind == "bool":
			c.Flags().Bool(s.Flag, false, s.Help)
		case s.Default != "":
			c.Flags().String(s.Flag, "", s.Help+" (default "+s.Default+")")
		default:
			c.Flags().String(s.Flag, "", s.Help)
		}
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		given := map[string]string{}
		c.Flags().Visit(func(f *pflag.Flag) { given[f.Name] = f.Value.String() })
		delete(given, "config")
		if file == "" {
			file = a.variable("SKEIN_CONFIG", "")
		}
		settings, err := config.Load(config.Sources{Flags: given, LookupEnv: a.lookupEnv, File: file, ReadFile: a.env.FS.ReadFile})
		if err != nil {
			return err
		}
		return a.serve(c, settings)
	}
	return c
}

func (a *app) serve(c *cobra.Command, settings *config.Serve) error {
	log := newLogger(a.err, settings)
	e := env.Real(log)
	if err := a.setClock(e); err != nil {
		return err
	}
	ctx, stop := a.interruptible(c.Context())
	n, err := openNode(ctx, e, settings)
	interrupted := stop() // From here on signals end the node in order.
	if err != nil {
		return fmt.Errorf("start node: %w", err)
	}
	log.Info("node serves", "name", settings.Name, "pg", settings.PG, "http", settings.HTTP, "peer", settings.Peer, "version", version)
	if interrupted {
		log.Info("node stops", "signal", "during the start")
	} else {
		select {
		case s := <-a.signals:
			log.Info("node stops", "signal", s.String())
		case <-n.Done():
			err = n.Err()
		}
	}
	closed := make(chan error, 1)
	go func() { closed <- n.Close() }()
	select {
	case closeErr := <-closed:
		if err == nil {
			err = closeErr
		}
		return err
	case s := <-a.signals:
		return fmt.Errorf("a second signal (%s) came before the node had stopped; what was acknowledged is on disk", s)
	}
}

func newLogger(to io.Writer, c *config.Serve) *slog.Logger {
	o := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == config.LogJSON {
		return slog.New(slog.NewJSONHandler(to, o))
	}
	return slog.New(slog.NewTextHandler(to, o))
}

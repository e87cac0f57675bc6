package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skeindb/skein/internal/devcluster"
)

func (a *app) devCommand() *cobra.Command {
	o := devcluster.Options{Env: a.env, Out: a.out, Signals: a.signals}
	c := &cobra.Command{
		Use:   "dev",
		Short: "Start a cluster on this machine, for development",
		Long: "dev starts several nodes on this machine as one cluster with the database main, says\n" +
			"how to use it, and stays until Ctrl-C. The folder is kept: the next start goes on with\n" +
			"the same data.\n\n" +
			"Every node is a process of its own. Kill one and watch: what it led is led by another\n" +
			"in a moment, and dev starts the node again.\n\n" +
			"Programs on this machine need no password. For anything else use `skein serve`.",
		Example: "  skein dev\n" +
			"  skein dev --dir /tmp/try --nodes 5 --port 6001 --http 9001 --peer 7001\n" +
			"  skein dev --no-restart             # a killed node stays dead",
		Args: exact(),
		RunE: func(c *cobra.Command, _ []string) error {
			executable, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program's file: %w", err)
			}
			o.Command = func(config string) *exec.Cmd {
				cmd := exec.Command(executable, "serve", "--config", config)
				cmd.Env = withoutSettings(os.Environ())
				return cmd
			}
			return devcluster.Run(c.Context(), o)
		},
	}
	d := devcluster.DefaultLayout
	c.Flags().SortFlags = false
	c.Flags().StringVar(&o.Dir, "dir", "skein-data", "folder of the cluster; made when it is missing")
	c.Flags().IntVar(&o.Wish.Nodes, "nodes", 0, fmt.Sprintf("number of nodes, 1 to 9 (default %d)", d.Nodes))
	c.Flags().IntVar(&o.Wish.PG, "port", 0, fmt.Sprintf("port of the first node for PostgreSQL clients (default %d)", d.PG))
	c.Flags().IntVar(&o.Wish.HTTP, "http", 0, fmt.Sprintf("port of the first node for HTTP (default %d)", d.HTTP))
	c.Flags().IntVar(&o.Wish.Peer, "peer", 0, fmt.Sprintf("port of the first node for the other nodes (default %d)", d.Peer))
	c.Flags().BoolVar(&o.NoRestart, "no-restart", false, "leave a node that has ended dead")
	return c
}

// withoutSettings drops SKEIN_ variables: they would win over the files that
// dev writes for its nodes.
func withoutSettings(environment []string) []string {
	var kept []string
	for _, v := range environment {
		if !strings.HasPrefix(v, "SKEIN_") {
			kept = append(kept, v)
		}
	}
	return kept
}

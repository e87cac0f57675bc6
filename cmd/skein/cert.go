package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/pki"
)

func (a *app) certCommand() *cobra.Command {
	return group("cert", "Make certificates for nodes and for clients' connections",
		"Nodes know each other by certificates of one authority. Keep the authority's folder\n"+
			"off the nodes: who has its key can add nodes.",
		a.certAuthorityCommand(), a.certNodeCommand(), a.certServerCommand(), a.certShowCommand())
}

func (a *app) certAuthorityCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "ca DIR",
		Short:   "Make the authority of a new cluster",
		Example: "  skein cert ca ./ca",
		Args:    exact("DIR"),
		RunE: func(_ *cobra.Command, args []string) error {
			ca, err := pki.NewCA(a.env.Rand, a.env.Clock.Now(), a.env.Rand.Uint64())
			if err != nil {
				return err
			}
			if err := a.env.FS.MkdirAll(args[0], 0o700); err != nil {
				return err
			}
			if err := ca.Save(a.env.FS, args[0]); err != nil {
				return err
			}
			return a.done("The authority of cluster %016x is in %s; %s is secret.", ca.ClusterID(), args[0], filepath.Join(args[0], pki.AuthorityKeyFile))
		},
	}
}

// issueFlags are those of commands that issue a certificate.
type issueFlags struct {
	ca, out string
	hosts   []string
	valid   time.Duration
}

func (i *issueFlags) add(c *cobra.Command) *cobra.Command {
	c.Flags().SortFlags = false
	c.Flags().StringVar(&i.ca, "ca", "", "folder of the authority (required)")
	c.Flags().StringVar(&i.out, "out", "", "folder that the files are written to (required)")
	c.Flags().StringSliceVar(&i.hosts, "host", nil, "host name or address of the node; may be repeated (required)")
	c.Flags().DurationVar(&i.valid, "valid", pki.DefaultValid, "how long the certificate is valid")
	for _, name := range []string{"ca", "out", "host"} {
		if err := c.MarkFlagRequired(name); err != nil {
			panic(err) // The flag was added above.
		}
	}
	return c
}

func (a *app) certNodeCommand() *cobra.Command {
	var flags issueFlags
	var id string
	c := &cobra.Command{
		Use:     "node",
		Short:   "Issue a node's certificate; it also gives the node its id",
		Example: "  skein cert node --ca ./ca --out ./n1-certs --host db1.example --host 10.0.0.1\n  skein cert node --ca ./ca --out ./n1-certs --host db1.example --id 00000000000000a1   # renew",
		Args:    exact(),
		RunE: func(c *cobra.Command, _ []string) error {
			node := base.NewNodeID(a.env.Rand)
			if id != "" {
				parsed, err := base.ParseNodeID(id)
				if err != nil {
					return usageError{fmt.Errorf("--id: %w", err), c}
				}
				node = parsed
			}
			ca, err := pki.LoadCA(a.env.FS, flags.ca)
			if err != nil {
				return fmt.Errorf("authority: %w", err)
			}
			issued, err := ca.IssueNode(a.env.Rand, a.env.Clock.Now(), pki.NodeOptions{Node: node, Names: flags.hosts, Valid: flags.valid})
			if err != nil {
				return err
			}
			if err := a.env.FS.MkdirAll(flags.out, 0o700); err != nil {
				return err
			}
			if err := issued.Save(a.env.FS, flags.out); err != nil {
				return err
			}
			return a.done("The certificate of node %s is in %s, valid until %s.", node, flags.out, issued.NotAfter().Format("2006-01-02"))
		},
	}
	flags.add(c)
	c.Flags().StringVar(&id, "id", "", "id of the node whose certificate is renewed (default: a new one)")
	return c
}

func (a *app) certServerCommand() *cobra.Command {
	var flags issueFlags
	c := &cobra.Command{
		Use:     "server",
		Short:   "Issue a certificate that clients check a node's listeners with",
		Long:    "server issues server.pem. In a node's --certs folder it turns TLS on towards clients,\nwho verify it with the authority's ca.crt.",
		Example: "  skein cert server --ca ./ca --out ./n1-certs --host db1.example\n  psql \"host=db1.example port=5441 dbname=main sslmode=verify-full sslrootcert=ca/ca.crt\"",
		Args:    exact(),
		RunE: func(*cobra.Command, []string) error {
			ca, err := pki.LoadCA(a.env.FS, flags.ca)
			if err != nil {
				return fmt.Errorf("authority: %w", err)
			}
			issued, err := ca.IssueServer(a.env.Rand, a.env.Clock.Now(), pki.ServerOptions{Names: flags.hosts, Valid: flags.valid})
			if err != nil {
				return err
			}
			if err := a.env.FS.MkdirAll(flags.out, 0o700); err != nil {
				return err
			}
			if err := issued.Save(a.env.FS, flags.out); err != nil {
				return err
			}
			return a.done("The server certificate is in %s, valid until %s.", filepath.Join(flags.out, pki.ServerFile), issued.NotAfter().Format("2006-01-02"))
		},
	}
	return flags.add(c)
}

func (a *app) certShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "show DIR",
		Short:   "Show the certificates of a folder and when they end",
		Example: "  skein cert show ./n1-certs",
		Args:    exact("DIR"),
		RunE: func(_ *cobra.Command, args []string) error {
			list, err := pki.Expiries(a.env.FS, args[0], a.env.Clock.Now())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(list)
			}
			tab := table(a.out)
			fmt.Fprintln(tab, "FILE\tSUBJECT\tENDS\tNOTE")
			for _, e := range list {
				note := ""
				switch {
				case e.Left < 0:
					note = "expired"
				case e.RenewDue:
					note = "renew it now"
				}
				fmt.Fprintf(tab, "%s\t%s\t%s\t%s\n", e.File, e.Subject, e.NotAfter.Format("2006-01-02"), note)
			}
			return tab.Flush()
		},
	}
	return a.withJSON(c)
}

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skeindb/skein/internal/adminclient"
	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/httpapi"
)

func (a *app) webhookCommand() *cobra.Command {
	return group("webhook", "Deliver the changes of a database to an HTTP address",
		"The database's leader, whoever that is, sends batches of changes as POST requests, one JSON\n"+
			"object a line, signed, at least once and in order, and goes on behind what was answered with\n"+
			"success. It needs the right admin on *.",
		a.webhookAddCommand(), a.webhookListCommand(), a.webhookDropCommand())
}

func (a *app) webhookAddCommand() *cobra.Command {
	var q httpapi.WebhookRequest
	var file string
	var snapshot bool
	c := &cobra.Command{
		Use:   "add DATABASE NAME URL",
		Short: "Deliver changes from now on, or with --snapshot all rows first",
		Long: "add makes a webhook. What is delivered is signed with a secret, which is drawn and printed\n" +
			"once, or read from a file.",
		Example: "  skein cdc webhook add shop audit https://audit.example/skein --table account\n" +
			"  skein cdc webhook add shop search http://10.0.0.7:9000/in --snapshot --secret-file search.secret",
		Args: exact("DATABASE", "NAME", "URL"),
		RunE: a.asking(func(ctx context.Context, client *adminclient.Client, args []string) error {
			q.Name, q.URL, q.From = args[1], args[2], "now"
			if snapshot {
				q.From = "snapshot"
			}
			if file != "" {
				secret, err := os.ReadFile(file)
				if q.Secret = strings.TrimSpace(string(secret)); err == nil && q.Secret == "" {
					err = fmt.Errorf("%s is empty", file)
				}
				if err != nil {
					return base.Errorf(base.KindInvalid, "read the secret: %w", err)
				}
			}
			added, err := client.AddWebhook(ctx, args[0], q)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(added)
			}
			if file == "" {
				fmt.Fprintf(a.out, "The secret, which is not shown again: %s\n", added.Secret)
			}
			return a.done("Webhook %s is added. `skein cdc webhook list %s` shows how it fares.", added.Name, args[0])
		}),
	}
	c.Flags().StringArrayVar(&q.Tables, "table", nil, "only this table; may be given several times")
	c.Flags().BoolVar(&snapshot, "snapshot", false, "deliver all rows that are there first")
	c.Flags().StringVar(&file, "secret-file", "", "read the secret from this file")
	return a.remote(a.withJSON(c))
}

func (a *app) webhookListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "list DATABASE",
		Short:   "List webhooks: how far they are, and what goes wrong",
		Example: "  skein cdc webhook list shop\n  skein cdc webhook list shop --json",
		Args:    exact("DATABASE"),
		RunE: a.asking(func(ctx context.Context, client *adminclient.Client, args []string) error {
			list, err := client.ListWebhooks(ctx, args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(list)
			}
			return a.writeWebhooks(args[0], list)
		}),
	}
	return a.remote(a.withJSON(c))
}

func (a *app) writeWebhooks(database string, list []httpapi.Webhook) error {
	if len(list) == 0 {
		return a.done("%s has no webhooks.", database)
	}
	tab := table(a.out)
	fmt.Fprintln(tab, "NAME\tURL\tTABLES\tDELIVERED TO\tLAG\tBY\tLAST ERROR")
	for _, w := range list {
		tables, lag, by, trouble := "all", "?", "nobody", "-"
		if len(w.Tables) > 0 {
			tables = strings.Join(w.Tables, ",")
		}
		if w.LagSeqs >= 0 {
			lag = fmt.Sprint(w.LagSeqs)
		}
		if w.Node != "" {
			by = w.Node
		}
		if w.LastError != "" {
			trouble = fmt.Sprintf("%s (for %v)", w.LastError, w.Failing().Round(time.Second))
		}
		at := w.Position
		if w.Snapshot {
			at = "snapshot"
		}
		fmt.Fprintf(tab, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", w.Name, w.URL, tables, at, lag, by, trouble)
	}
	return tab.Flush()
}

func (a *app) webhookDropCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "drop DATABASE NAME",
		Short:   "Deliver no more; how far it came is forgotten",
		Example: "  skein cdc webhook drop shop audit",
		Args:    exact("DATABASE", "NAME"),
		RunE: a.asking(func(ctx context.Context, client *adminclient.Client, args []string) error {
			if err := client.DropWebhook(ctx, args[0], args[1]); err != nil {
				return err
			}
			return a.done("Webhook %s of %s is dropped.", args[1], args[0])
		}),
	}
	return a.remote(a.withJSON(c))
}

package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/skeindb/skein/internal/adminclient"
	"github.com/skeindb/skein/internal/httpapi"
)

func (a *app) orphansCommand() *cobra.Command {
	list := &cobra.Command{
		Use:     "list DATABASE",
		Short:   "List writes that were undone",
		Example: "  skein orphans list main\n  skein orphans list main --json | jq .",
		Args:    exact("DATABASE"),
		RunE: a.asking(func(ctx context.Context, client *adminclient.Client, args []string) error {
			undone, err := client.Orphans(ctx, args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(undone)
			}
			return a.writeOrphans(args[0], undone)
		}),
	}
	return group("orphans", "Show writes that were undone when an old leader came back",
		"When a leader fails it may hold writes that no other replica has. When it comes back\nthey are undone there, so that all replicas agree, and kept in a list.",
		a.remote(a.withJSON(list)))
}

func (a *app) writeOrphans(database string, undone []httpapi.Orphan) error {
	if len(undone) == 0 {
		return a.done("No write of %s was undone.", database)
	}
	tab := table(a.out)
	fmt.Fprintln(tab, "UNDONE AT\tEPOCH\tSEQ\tTABLE\tOP\tKEY\tOLD\tNEW")
	for _, o := range undone {
		fmt.Fprintf(tab, "%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", o.Time.Format("2006-01-02 15:04:05Z07:00"), o.Epoch, o.Seq, o.Table, o.Op,
			rowText(o.Key), rowText(o.Old), rowText(o.New))
	}
	return tab.Flush()
}

// rowText is a row as JSON, "-" for none.
func rowText(r httpapi.Row) string {
	if r == nil {
		return "-"
	}
	data, err := json.Marshal(r)
	if err != nil {
		return "?"
	}
	return string(data)
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/skeindb/skein/internal/adminclient"
	"github.com/skeindb/skein/internal/changefeed"
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
	return group("orphans", "Show, replay or discard writes that were undone when an old leader came back",
		"When a leader fails it may hold writes that no other replica has. When it comes back\nthey are undone there, so that all replicas agree, and kept in a list.",
		a.remote(a.withJSON(list)), a.settleOrphansCommand(true), a.settleOrphansCommand(false))
}

func (a *app) settleOrphansCommand(replay bool) *cobra.Command {
	use, short := "discard", "Take undone writes off the list"
	long := "discard takes undone writes off the list. They are gone then."
	if replay {
		use, short = "replay", "Write undone writes again"
		long = "replay writes undone writes again, as new ones, oldest first, and takes them off the\n" +
			"list. A write whose row is not as it found it any more is a conflict: it is not written,\nand stays on the list."
	}
	var all bool
	var at, on string
	c := &cobra.Command{
		Use: use + " DATABASE", Short: short, Long: long,
		Example: "  skein orphans " + use + " main --at 3/120\n  skein orphans " + use + " main --all",
		Args:    exact("DATABASE"),
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		which, err := orphanChoice(at, all)
		if err != nil {
			return usageError{err, c}
		}
		return a.asking(func(ctx context.Context, client *adminclient.Client, args []string) error {
			if on != "" {
				n, err := client.FindNode(ctx, on)
				if err != nil {
					return err
				}
				which.Node = n.ID
			}
			outcomes, err := client.SettleOrphans(ctx, args[0], which, replay)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(outcomes)
			}
			return a.writeOutcomes(outcomes)
		})(c, args)
	}
	c.Flags().BoolVar(&all, "all", false, "all of them")
	c.Flags().StringVar(&at, "at", "", "the one with this EPOCH/SEQ")
	c.Flags().StringVar(&on, "node", "", "only those that this node undid")
	return a.remote(a.withJSON(c))
}

// orphanChoice reads which are meant; nothing is meant by default.
func orphanChoice(at string, all bool) (which httpapi.OrphanChoice, err error) {
	if all == (at != "") {
		return which, errors.New("say --at EPOCH/SEQ or --all")
	}
	if all {
		return which, nil
	}
	if _, err := fmt.Sscanf(at, "%d/%d", &which.Epoch, &which.Seq); err != nil || which.Epoch == 0 || which.Seq == 0 {
		return which, fmt.Errorf("--at %q: want EPOCH/SEQ as skein orphans list shows them, such as 3/120", at)
	}
	return which, nil
}

func (a *app) writeOutcomes(outcomes []httpapi.OrphanOutcome) error {
	counts := map[string]int{}
	for _, o := range outcomes {
		counts[o.Outcome]++
		if o.Message != "" {
			fmt.Fprintf(a.out, "%d/%d on %s: %s: %s\n", o.Epoch, o.Seq, o.Node, o.Outcome, o.Message)
		}
	}
	return a.done("%d replayed, %d discarded, %d in conflict, which stay on the list.", counts["replayed"], counts["discarded"], counts["conflict"])
}

func (a *app) writeOrphans(database string, undone []httpapi.Orphan) error {
	if len(undone) == 0 {
		return a.done("No write of %s was undone.", database)
	}
	tab := table(a.out)
	fmt.Fprintln(tab, "WRITTEN\tACKNOWLEDGED\tEPOCH\tSEQ\tTABLE\tOP\tKEY\tOLD\tNEW")
	for _, o := range undone {
		fmt.Fprintf(tab, "%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", o.Time.Format("2006-01-02 15:04:05.000Z07:00"), o.Acknowledged, o.Epoch, o.Seq, o.Table, o.Op,
			rowText(o.Key), rowText(o.Old), rowText(o.New))
	}
	return tab.Flush()
}

// rowText is a row as JSON, "-" for none.
func rowText(r changefeed.Row) string {
	if r == nil {
		return "-"
	}
	data, err := json.Marshal(r)
	if err != nil {
		return "?"
	}
	return string(data)
}

package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/skeindb/skein/internal/adminclient"
	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/httpapi"
)

func (a *app) switchoverCommand() *cobra.Command {
	var to string
	c := &cobra.Command{
		Use:     "switchover DATABASE",
		Short:   "Move a database's leadership to another node",
		Long:    "switchover moves leadership without losing a write. Without --to the cluster chooses\nthe follower that is furthest.",
		Example: "  skein switchover main --to n2",
		Args:    exact("DATABASE"),
		RunE: a.asking(func(ctx context.Context, client *adminclient.Client, args []string) error {
			var target base.NodeID
			if to != "" {
				n, err := client.FindNode(ctx, to)
				if err != nil {
					return err
				}
				if target, err = base.ParseNodeID(n.ID); err != nil {
					return err
				}
			}
			leader, err := client.Switchover(ctx, args[0], target)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(httpapi.SwitchoverResult{Leader: leader})
			}
			known := names{}
			if nodes, err := client.ListNodes(ctx); err == nil { // Without the right to list nodes the id is shown.
				known = nodeNames(nodes)
			}
			return a.done("%s leads %s now.", known.of(leader), args[0])
		}),
	}
	c.Flags().StringVar(&to, "to", "", "name or id of the node that shall lead")
	return a.remote(a.withJSON(c))
}

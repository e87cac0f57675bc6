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
			target, err := findTarget(ctx, client, to)
			if err != nil {
				return err
			}
			leader, err := client.Switchover(ctx, args[0], target)
			if err != nil {
				return err
			}
			return a.nowLeads(ctx, client, args[0], leader)
		}),
	}
	c.Flags().StringVar(&to, "to", "", "name or id of the node that shall lead")
	return a.remote(a.withJSON(c))
}

// findTarget is the node that shall lead, zero when none was named.
func findTarget(ctx context.Context, client *adminclient.Client, to string) (base.NodeID, error) {
	if to == "" {
		return 0, nil
	}
	_, id, err := findNode(ctx, client, to)
	return id, err
}

func (a *app) nowLeads(ctx context.Context, client *adminclient.Client, database, leader string) error {
	if a.json {
		return a.printJSON(httpapi.SwitchoverResult{Leader: leader})
	}
	known := names{}
	if nodes, err := client.ListNodes(ctx); err == nil { // Without the right to list nodes the id is shown.
		known = nodeNames(nodes)
	}
	return a.done("%s leads %s now.", known.of(leader), database)
}

func (a *app) failoverCommand() *cobra.Command {
	var to string
	var acceptLoss bool
	c := &cobra.Command{
		Use:   "failover DATABASE",
		Short: "Decide that another node leads a database whose leader is lost",
		Long: "failover is for databases with --failover manual, whose leader is lost, and for those\n" +
			"where too few replicas answer to be sure that nothing is lost. skein status shows how\n" +
			"the replicas stand. Without --accept-loss it is done only if no acknowledged write can\n" +
			"be lost. With it, the replicas that do not answer are taken to be gone for good: what\n" +
			"only they have is lost, and is listed by skein orphans when they come back after all.",
		Example: "  skein failover main\n  skein failover main --to n2 --accept-loss",
		Args:    exact("DATABASE"),
		RunE: a.asking(func(ctx context.Context, client *adminclient.Client, args []string) error {
			target, err := findTarget(ctx, client, to)
			if err != nil {
				return err
			}
			leader, err := client.Failover(ctx, args[0], target, acceptLoss)
			if err != nil {
				return err
			}
			return a.nowLeads(ctx, client, args[0], leader)
		}),
	}
	c.Flags().StringVar(&to, "to", "", "name or id of the node that shall lead")
	c.Flags().BoolVar(&acceptLoss, "accept-loss", false, "go on although acknowledged writes may be lost")
	return a.remote(a.withJSON(c))
}

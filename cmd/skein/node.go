package main

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skeindb/skein/internal/adminclient"
	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/config"
	"github.com/skeindb/skein/internal/httpapi"
)

func (a *app) nodeCommand() *cobra.Command {
	return group("node", "List, add and remove nodes", "", a.nodeListCommand(), a.nodeJoinCommand(), a.nodeDeadCommand(), a.nodeRemoveCommand())
}

func (a *app) nodeListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "list",
		Short:   "List the members of the cluster",
		Long:    "list shows what the control plane knows. Whether nodes answer, `skein status` says.",
		Example: "  skein node list",
		Args:    exact(),
		RunE: a.asking(func(ctx context.Context, client *adminclient.Client, _ []string) error {
			nodes, err := client.ListNodes(ctx)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(nodes)
			}
			tab := table(a.out)
			fmt.Fprintln(tab, "NODE\tID\tSTATE\tVOTES\tPOSTGRESQL\tHTTP\tPEER")
			for _, n := range nodes {
				votes := "no"
				if n.Voter {
					votes = "yes"
				}
				fmt.Fprintf(tab, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, n.ID, n.State, votes, n.PGAddress, n.HTTPAddress, n.PeerAddress)
			}
			return tab.Flush()
		}),
	}
	return a.remote(a.withJSON(c))
}

func (a *app) nodeJoinCommand() *cobra.Command {
	var name, host string
	c := &cobra.Command{
		Use:   "join",
		Short: "Show the commands that add a node",
		Long: "join changes nothing: it prints what to run on the new node's machine. A node becomes\n" +
			"a member when it is started with --join.",
		Example: "  skein node join --name n4 --host db4.example",
		Args:    exact(),
		RunE: a.asking(func(ctx context.Context, client *adminclient.Client, _ []string) error {
			nodes, err := client.ListNodes(ctx)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(a.out, joinText(nodes, name, host))
			return err
		}),
	}
	c.Flags().StringVar(&name, "name", "", "name of the new node (default: the next n1, n2, ...)")
	c.Flags().StringVar(&host, "host", "", "host name or address under which the others reach it\n(default 127.0.0.1 when all members are on this machine)")
	return a.remote(c)
}

// joinText is what a person runs to add a node.
func joinText(nodes []httpapi.NodeStatus, name, host string) string {
	var members []string
	oneMachine := true
	for _, n := range nodes {
		if n.State == httpapi.NodeMember {
			members = append(members, n.PeerAddress)
			oneMachine = oneMachine && config.Loopback(n.PeerAddress)
		}
	}
	if name == "" {
		name = nextName(nodes)
	}
	listen, pg, http, peer := "0.0.0.0", 5441, 8441, 6441
	if oneMachine && host == "" {
		host, listen = "127.0.0.1", "127.0.0.1"
		pg, http, peer = nextPorts(nodes)
	}
	if host == "" {
		host = "HOST"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "1. Where the authority's folder is (`skein cert ca` made it; of `skein dev` it is skein-data/ca),\n"+
		"   make a certificate for the node and bring the folder %s-certs to its machine:\n\n", name)
	fmt.Fprintf(&b, "     skein cert node --ca CA_FOLDER --out %s --host %s\n\n", quoteShell(name+"-certs"), host)
	fmt.Fprintf(&b, "2. On its machine, with an empty or missing data folder:\n\n")
	fmt.Fprintf(&b, "     skein serve --dir %s --name %s --certs %s \\\n", quoteShell(name), quoteShell(name), quoteShell(name+"-certs"))
	fmt.Fprintf(&b, "       --pg %s:%d --http %s:%d --peer %s:%d --advertise %s \\\n", listen, pg, listen, http, listen, peer, net.JoinHostPort(host, strconv.Itoa(peer)))
	fmt.Fprintf(&b, "       --join %s\n\n", strings.Join(members, ","))
	fmt.Fprintf(&b, "Where the members run with --insecure, leave step 1 out and give --insecure instead of --certs.\n")
	if oneMachine && listen == "0.0.0.0" {
		b.WriteString("The members listen on loopback addresses only: a node on another machine cannot reach them.\n")
	}
	if host == "HOST" {
		b.WriteString("HOST is the name or address under which the other nodes reach it (--host fills it in).\n")
	}
	return b.String()
}

var numbered = regexp.MustCompile(`^n([0-9]{1,9})$`)

func nextName(nodes []httpapi.NodeStatus) string {
	highest := len(nodes)
	for _, n := range nodes {
		if m := numbered.FindStringSubmatch(n.Name); m != nil {
			number, _ := strconv.Atoi(m[1]) // At most nine digits.
			highest = max(highest, number)
		}
	}
	return fmt.Sprintf("n%d", highest+1)
}

// nextPorts are above those of nodes on the same machine.
func nextPorts(nodes []httpapi.NodeStatus) (pg, http, peer int) {
	pg, http, peer = 5441, 8441, 6441
	for _, n := range nodes {
		pg, http, peer = max(pg, 1+portOf(n.PGAddress)), max(http, 1+portOf(n.HTTPAddress)), max(peer, 1+portOf(n.PeerAddress))
	}
	return pg, http, peer
}

func portOf(address string) int {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(port) // 0 for a named port changes nothing.
	return n
}

func (a *app) nodeDeadCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "dead NODE",
		Short: "Have others make up for a node that is away",
		Long: "dead gives a node up that does not answer and may be away for long. Another node votes\n" +
			"in its place, and a database that lives on fewer nodes than there are gets a replica on\n" +
			"another; one that lives on every node keeps its replica there. The node keeps its id:\n" +
			"when it is back and has caught up, it is a member as before.",
		Example: "  skein node dead n3",
		Args:    exact("NODE"),
		RunE: a.asking(func(ctx context.Context, client *adminclient.Client, args []string) error {
			n, id, err := findNode(ctx, client, args[0])
			if err == nil {
				err = client.MarkDead(ctx, id)
			}
			if err != nil {
				return err
			}
			return a.done("Node %s (%s) is given up for dead until it is back.", n.Name, n.ID)
		}),
	}
	return a.remote(a.withJSON(c))
}

// findNode resolves a node's name or id.
func findNode(ctx context.Context, client *adminclient.Client, name string) (n httpapi.NodeStatus, id base.NodeID, err error) {
	if n, err = client.FindNode(ctx, name); err == nil {
		id, err = base.ParseNodeID(n.ID)
	}
	return n, id, err
}

func (a *app) nodeRemoveCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "remove NODE",
		Short: "Take a node out of the cluster for ever",
		Long: "remove takes a node out; its id never comes back. Stop the node first if it runs. To\n" +
			"return, the machine joins as a new node with an empty data folder.",
		Example: "  skein node remove n3",
		Args:    exact("NODE"),
		RunE: a.asking(func(ctx context.Context, client *adminclient.Client, args []string) error {
			n, id, err := findNode(ctx, client, args[0])
			if err != nil {
				return err
			}
			if err := a.confirm(yes, fmt.Sprintf("Node %s (%s) leaves the cluster for ever.", n.Name, n.ID), n.Name); err != nil {
				return err
			}
			if err := client.RemoveNode(ctx, id); err != nil {
				return err
			}
			return a.done("Node %s (%s) is no longer a member.", n.Name, n.ID)
		}),
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return a.remote(a.withJSON(c))
}

// quoteShell quotes a word for a shell where that is needed.
func quoteShell(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@%+=,", r)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

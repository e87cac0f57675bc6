package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/skeindb/skein/internal/adminclient"
	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/replica"
)

func (a *app) statusCommand() *cobra.Command {
	var watch bool
	var every time.Duration
	c := &cobra.Command{
		Use:   "status",
		Short: "Show nodes, databases, who leads and how far the others are behind",
		Long: "status asks one node, which asks all others. What a node did not answer is shown as\n" +
			"unknown (?), never from memory. BEHIND counts row changes that the leader has applied\n" +
			"and the replica has not, and how much log that is; AGE is how long ago the replica was last level with its leader.",
		Example: "  skein status\n  skein status --watch\n  skein status --json | jq '.databases[].leader'",
		Args:    exact(),
		RunE: a.asking(func(ctx context.Context, client *adminclient.Client, _ []string) error {
			if watch {
				return a.watchStatus(ctx, client, every)
			}
			return a.showStatus(ctx, client)
		}),
	}
	c.Flags().BoolVar(&watch, "watch", false, "show it again and again, until Ctrl-C")
	c.Flags().DurationVar(&every, "every", time.Second, "pause between two looks with --watch")
	return a.remote(a.withJSON(c))
}

func (a *app) showStatus(ctx context.Context, client *adminclient.Client) error {
	s, err := client.Status(ctx)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(s)
	}
	return a.writeStatus(a.out, s)
}

// watchStatus shows the status until an interrupt; a failure is shown too, and
// the watch goes on.
func (a *app) watchStatus(ctx context.Context, client *adminclient.Client, every time.Duration) error {
	if every < 100*time.Millisecond {
		return base.Errorf(base.KindInvalid, "--every %s: want 100ms or more", every)
	}
	for {
		var b strings.Builder
		page := *a
		page.out = &b
		err := page.showStatus(ctx, client)
		if ctx.Err() != nil {
			return nil
		}
		if a.outTerminal && !a.json {
			fmt.Fprint(a.out, "\x1b[H\x1b[2J")
		}
		if !a.json {
			fmt.Fprintf(a.out, "%s\n\n", a.env.Clock.Now().Format("15:04:05"))
		}
		fmt.Fprint(a.out, b.String())
		if err != nil {
			a.report(err)
		}
		if !a.outTerminal && !a.json {
			fmt.Fprintln(a.out)
		}
		if a.env.Clock.Sleep(ctx, every) != nil {
			return nil
		}
	}
}

// writeStatus writes the status for a person.
func (a *app) writeStatus(to io.Writer, s *httpapi.Status) error {
	names := nodeNames(s.Nodes)
	leader := "no control leader"
	if s.Cluster.Leader != "" {
		leader = "control leader " + names.of(s.Cluster.Leader)
	}
	fmt.Fprintf(to, "Cluster %s: %s, term %d, voters %s\n\n", s.Cluster.ID, leader, s.Cluster.Term, names.all(s.Cluster.Voters))
	writeNodes(to, s.Nodes)
	for _, d := range s.Databases {
		writeDatabase(to, d, names)
	}
	if len(s.Databases) == 0 {
		fmt.Fprintln(to, "\nNo databases. `skein db create NAME` makes one.")
	}
	if len(s.Alerts) == 0 {
		fmt.Fprintf(to, "\n%s\n", a.paint(a.outTerminal, green, "No alerts."))
		return nil
	}
	fmt.Fprintln(to, "\nAlerts:")
	for _, alert := range s.Alerts {
		colour := yellow
		if alert.Severity == httpapi.Critical {
			colour = red
		}
		fmt.Fprintf(to, "  %s  %s\n", a.paint(a.outTerminal, colour, fmt.Sprintf("%-8s", alert.Severity)), alert.Message)
	}
	return nil
}

func writeNodes(to io.Writer, nodes []httpapi.NodeStatus) {
	tab := table(to)
	fmt.Fprintln(tab, "NODE\tID\tSTATE\tPID\tUP\tVERSION\tPOSTGRESQL\tHTTP\tPEER")
	for _, n := range nodes {
		state, pid, up, version := string(n.State), fmt.Sprint(n.PID), seconds(n.UptimeSeconds), n.Version
		if !n.Reachable {
			state, pid, up, version = "unreachable", "?", "?", "?"
		}
		if n.State == httpapi.NodeDead {
			state = string(n.State)
		}
		fmt.Fprintf(tab, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, n.ID, state, pid, up, version, n.PGAddress, n.HTTPAddress, n.PeerAddress)
	}
	tab.Flush()
	for _, n := range nodes {
		if !n.Reachable && n.Error != "" && n.State != httpapi.NodeDead {
			fmt.Fprintf(to, "%s does not answer: %s\n", n.Name, n.Error)
		}
	}
}

func writeDatabase(to io.Writer, d httpapi.DatabaseStatus, names names) {
	leader := "no leader"
	if d.Leader != "" {
		leader = "leader " + names.of(d.Leader)
	}
	fmt.Fprintf(to, "\nDatabase %s: %s, epoch %d, %s\n", d.Name, leader, d.Epoch, policyText(d.Policy))
	tab := table(to)
	fmt.Fprintln(tab, "  REPLICA\tROLE\tPOSITION\tBEHIND\tAGE\tFILE\tLOG\tNOTE")
	for _, r := range d.Replicas {
		if !r.Known {
			fmt.Fprintf(tab, "  %s\t?\t?\t?\t?\t?\t?\t%s\n", r.NodeName, "the node does not answer")
			continue
		}
		behind, age := fmt.Sprint(r.LagSeqs), seconds(r.AgeSeconds)
		if r.LagSeqs < 0 {
			behind = "?"
		} else if n := lagBytes(d, r.Node); n > 0 {
			behind += " (" + bytesText(n) + ")"
		}
		if r.Role == replica.RoleLeader {
			behind, age = "-", "-"
		}
		fmt.Fprintf(tab, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			r.NodeName, r.Role, r.Applied, behind, age, bytesText(r.FileBytes), bytesText(r.LogBytes), note(r))
	}
	tab.Flush()
	writeConsumers(to, d, names)
	if d.Election != nil {
		writeElection(to, d, names)
	}
}

// lagBytes is how much log a follower lacks, as the leader sees it.
func lagBytes(d httpapi.DatabaseStatus, node string) int64 {
	for _, r := range d.Replicas {
		for _, f := range r.Followers {
			if f.Node == node {
				return f.LagBytes
			}
		}
	}
	return 0
}

// writeElection shows what a person needs to decide who leads next.
func writeElection(to io.Writer, d httpapi.DatabaseStatus, names names) {
	e := d.Election
	fmt.Fprintf(to, "  %s: %s, for %s; %d of %d answers that rule out a loss", e.Reason, e.State, seconds(e.SinceSeconds), e.Have, e.Need)
	if len(e.Missing) > 0 {
		fmt.Fprintf(to, "; not heard from: %s", names.all(e.Missing))
	}
	fmt.Fprintln(to)
	tab := table(to)
	fmt.Fprintln(tab, "  MAY LEAD\tPOSITION\tLACKS\tBEHIND FOR\tLEADER LAST HEARD")
	for _, s := range e.Standings {
		fmt.Fprintf(tab, "  %s\t%s\t%d of %d\t%s\t%s ago\n", names.of(s.Node), s.Position, s.Lacks, s.LeaderEnd, seconds(s.BehindSeconds), seconds(s.SilenceSeconds))
	}
	tab.Flush()
	if e.WaitsForOperator() {
		fmt.Fprintf(to, "  To decide: skein failover %s [--to NODE] [--accept-loss]\n", d.Name)
	}
}

// note says what is unusual about a replica.
func note(r httpapi.ReplicaStatus) string {
	var notes []string
	if r.Error != "" {
		notes = append(notes, r.Error)
	}
	if r.Role == replica.RoleLeader && !r.LeaseLive {
		notes = append(notes, "its lease has ended: it accepts no writes")
	}
	if r.Degraded {
		notes = append(notes, "degraded: fewer followers count than the policy asks")
	}
	if r.Role == replica.RoleCopying && r.CopyTotalBytes > 0 {
		notes = append(notes, fmt.Sprintf("copying, %d %%", 100*r.CopiedBytes/r.CopyTotalBytes))
	}
	if r.Unproven {
		notes = append(notes, "copied, and not level since: no say in an election yet")
	}
	if r.Orphans > 0 {
		notes = append(notes, fmt.Sprintf("%d undone writes (skein orphans list)", r.Orphans))
	}
	return strings.Join(notes, "; ")
}

func policyText(p httpapi.Policy) string {
	where := "on every node"
	if p.Replicas > 0 {
		where = fmt.Sprintf("%d replicas", p.Replicas)
	}
	text := where + ", durability " + p.Durability.String() + ", log format " + p.LogFormat
	if p.DegradeAfter > 0 {
		text += ", degrades after " + p.DegradeAfter.String()
	}
	if p.Failover == base.FailoverManual {
		text += ", failover by hand"
	}
	if p.AllowLoss {
		text += ", failover may lose writes"
		if p.MaxLag > 0 {
			text += " when a follower was behind for " + p.MaxLag.String() + " at most"
		}
	}
	return text
}

// names maps node ids to names.
type names map[string]string

func nodeNames(nodes []httpapi.NodeStatus) names {
	n := names{}
	for _, node := range nodes {
		n[node.ID] = node.Name
	}
	return n
}

// of is a node's name, or its id when no name is known.
func (n names) of(id string) string {
	switch name := n[id]; {
	case id == "":
		return "-"
	case name == "":
		return id
	default:
		return name
	}
}

func (n names) all(ids []string) string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = n.of(id)
	}
	return strings.Join(list, " ")
}

func table(to io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(to, 0, 8, 2, ' ', 0) }

// seconds shows a time with two or three digits.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return strings.TrimSuffix(d.Round(time.Second).String(), "0s")
}

// bytesText shows a size in binary units.
func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, exponent := float64(n)/unit, 0
	for value >= unit && exponent < 4 {
		value /= unit
		exponent++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[exponent])
}

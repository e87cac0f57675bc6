package devcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/replica"
)

var errStartTimeout = errors.New("the cluster did not form in time")

func dialer(n env.Net) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, address string) (net.Conn, error) { return n.Dial(ctx, address) }
}

// formation is how the start ended: a cluster that serves, or why not.
type formation struct {
	status *httpapi.Status
	err    error
}

// notYet says what the start still waits for.
type notYet string

func (n notYet) Error() string { return string(n) }

// patience is how long a start may take before it says what it waits for.
const patience = 5 * time.Second

// form waits until all nodes are one cluster and the database has a leader and
// all its replicas; it makes the database when it is not there.
func (c *cluster) form(ctx context.Context) formation {
	told, since := "", c.env.Clock.Now()
	for {
		status, err := c.step(ctx)
		if err == nil {
			return formation{status: status}
		}
		if ctx.Err() != nil {
			return formation{err: fmt.Errorf("%w: %s", context.Cause(ctx), told)}
		}
		if waits, ok := errors.AsType[notYet](err); !ok {
			return formation{err: err}
		} else if told != string(waits) {
			told = string(waits)
			if c.env.Clock.Now().Sub(since) > patience {
				c.send(event{line: "waiting: " + told})
			}
		}
		if c.env.Clock.Sleep(ctx, 100*time.Millisecond) != nil {
			return formation{err: fmt.Errorf("%w: %s", context.Cause(ctx), told)}
		}
	}
}

// step looks once and does what can be done.
func (c *cluster) step(ctx context.Context) (*httpapi.Status, error) {
	client := c.client(c.nodes[0])
	status, err := ask(ctx, c.env.Clock, client.Status)
	if err != nil {
		return nil, notYet(fmt.Sprintf("%s does not answer yet (%v)", c.nodes[0].name, err))
	}
	answering := 0
	for _, n := range status.Nodes {
		if n.Reachable {
			answering++
		}
	}
	if answering < len(c.nodes) {
		return nil, notYet(fmt.Sprintf("%d of %d nodes have joined and answer", answering, len(c.nodes)))
	}
	if status.Cluster.Leader == "" {
		return nil, notYet("the nodes have not elected a control leader yet")
	}
	if have, want := len(status.Cluster.Voters), votes(len(c.nodes)); have < want {
		return nil, notYet(fmt.Sprintf("%d of %d nodes have their vote: a leader that died now could not be replaced", have, want))
	}
	for _, d := range status.Databases {
		if d.Name == database {
			return status, whole(d)
		}
	}
	bounded, cancel := c.env.Clock.WithTimeout(ctx, 30*time.Second, errStartTimeout)
	defer cancel()
	switch err := client.CreateDatabase(bounded, database, httpapi.PolicyPatch{}); base.KindOf(err) {
	case "", base.KindExists, base.KindNoLeader, base.KindNotLeader, base.KindUnavailable, base.KindTimeout, base.KindCanceled, base.KindBusy:
		return nil, notYet(fmt.Sprintf("database %s is being made", database))
	default:
		return nil, fmt.Errorf("make database %s: %w", database, err)
	}
}

// votes is how many nodes vote in a cluster of n: all of two, an odd number of
// more, and five at the most.
func votes(n int) int {
	if n <= 2 {
		return n
	}
	return min(n-1+n%2, 5)
}

func ask[T any](ctx context.Context, clock env.Clock, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := clock.WithTimeout(ctx, 5*time.Second, errors.New("no answer within 5s"))
	defer cancel()
	return call(ctx)
}

// whole says what a database still lacks.
func whole(d httpapi.DatabaseStatus) error {
	if d.Leader == "" {
		return notYet(fmt.Sprintf("database %s has no leader yet", d.Name))
	}
	for _, r := range d.Replicas {
		if !r.Known || (r.Role != replica.RoleLeader && r.Role != replica.RoleFollower) {
			return notYet(fmt.Sprintf("the replica of %s on %s is not ready yet", d.Name, r.NodeName))
		}
		if r.Node == d.Leader && r.Role != replica.RoleLeader {
			return notYet(fmt.Sprintf("%s does not lead %s yet", r.NodeName, d.Name))
		}
	}
	return nil
}

// failedStart adds the ends of the logs to a failed start.
func (c *cluster) failedStart(err error) error {
	if !errors.Is(err, errStartTimeout) {
		return err
	}
	m := c.members[0]
	var tail []string
	if m.process != nil {
		tail = m.process.log.tail()
	}
	return c.explain(err.Error(), m, tail)
}

func (c *cluster) explain(what string, m *member, tail []string) error {
	hint := fmt.Sprintf("The whole log is in %s.", m.log())
	if len(tail) > 0 {
		hint = "The log's last lines:\n    " + strings.Join(tail, "\n    ") + "\n  " + hint
	}
	return base.Errorf(base.KindUnavailable, "%s", what).WithHint("%s", hint)
}

// summary is what a person needs to go on, and only what is known to be so.
func summary(dir string, members []*member, status *httpapi.Status) string {
	var b strings.Builder
	leader, leaderPID := "", 0
	for _, d := range status.Databases {
		if d.Name == database {
			leader = d.Leader
		}
	}
	fmt.Fprintf(&b, "\nThe cluster is up: %d nodes, database %s on all of them.\n\n", len(members), database)
	tab := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tab, "  NODE\tPID\tPOSTGRESQL\tHTTP\tFOLDER\t")
	for _, m := range members {
		pid, mark := 0, ""
		if m.process != nil {
			pid = m.process.pid
		}
		for _, n := range status.Nodes {
			if n.Name == m.name && n.ID == leader {
				mark, leaderPID = "leads "+database, pid
			}
		}
		fmt.Fprintf(tab, "  %s\t%d\t%s\t%s\t%s\t%s\n", m.name, pid, m.pg, m.url(), shown(m.dir), mark)
	}
	tab.Flush()
	first := members[0]
	host, port, _ := net.SplitHostPort(first.pg) // Made from a port number.
	urlFlag := ""
	if first.url() != "http://127.0.0.1:8441" {
		urlFlag = " --url " + first.url()
	}
	fmt.Fprintf(&b, "\nWhat to try next, in another terminal:\n\n")
	tab = tabwriter.NewWriter(&b, 0, 8, 3, ' ', 0)
	fmt.Fprintf(tab, "  psql -h %s -p %s %s\tany node takes reads and writes\n", host, port, database)
	fmt.Fprintf(tab, "  skein sql%s %s\tthe same, without psql\n", urlFlag, database)
	fmt.Fprintf(tab, "  skein status%s\twho leads, who follows, how far behind\n", urlFlag)
	if leaderPID != 0 {
		fmt.Fprintf(tab, "  kill -9 %d\tkill the leader and watch another take over\n", leaderPID)
	}
	tab.Flush()
	fmt.Fprintf(&b, "\nPrograms on this machine need no password here. Ctrl-C stops all nodes; the data stays in %s.\n", dir)
	return b.String()
}

// shown is a path as a person would type it here.
func shown(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(wd, path); err == nil && !strings.HasPrefix(rel, "..") {
		return rel
	}
	return path
}

// teller writes lines for a person. Only the loop uses it.
type teller struct {
	out   io.Writer
	clock env.Clock
}

func (t *teller) plain(format string, args ...any) { fmt.Fprintf(t.out, format+"\n", args...) }

// at adds the time of day.
func (t *teller) at(format string, args ...any) {
	fmt.Fprintf(t.out, "%s  %s\n", t.clock.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
}

package devcluster

import (
	"context"
	"errors"
	"fmt"
	"sort"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/replica"
)

// leadership is who leads a database, by node id.
type leadership struct {
	node  string
	epoch base.Epoch
}

// watchLeaders asks every node what it leads, and tells of changes.
func (c *cluster) watchLeaders(ctx context.Context, status *httpapi.Status) {
	names := map[string]string{}
	for _, n := range status.Nodes {
		names[n.ID] = n.Name
	}
	known := map[string]leadership{}
	for _, d := range status.Databases {
		known[d.Name] = leadership{node: d.Leader, epoch: d.Epoch}
	}
	for c.env.Clock.Sleep(ctx, askEvery) == nil {
		for _, line := range changes(known, c.claims(ctx), names) {
			c.send(event{line: line})
		}
	}
}

// claims collects what nodes say that they lead. A node that does not answer
// claims nothing.
func (c *cluster) claims(ctx context.Context) map[string]leadership {
	claimed := map[string]leadership{}
	for _, n := range c.nodes {
		bounded, cancel := c.env.Clock.WithTimeout(ctx, askTimeout, errors.New("no answer"))
		local, err := c.client(n).LocalStatus(bounded)
		cancel()
		if err != nil {
			continue
		}
		for _, r := range local.Replicas {
			if r.Role == replica.RoleLeader && r.LeaseLive && r.Epoch >= claimed[r.Database].epoch {
				claimed[r.Database] = leadership{node: local.Node.ID, epoch: r.Epoch}
			}
		}
	}
	return claimed
}

// changes updates known with claims of later epochs and says what changed.
func changes(known, claimed map[string]leadership, names map[string]string) []string {
	var lines []string
	for name, now := range claimed {
		before, ok := known[name]
		if ok && now.epoch <= before.epoch {
			continue
		}
		known[name] = now
		if !ok || before.node != now.node {
			who := names[now.node]
			if who == "" {
				who = now.node
			}
			lines = append(lines, fmt.Sprintf("%s: %s leads now (epoch %d).", name, who, now.epoch))
		}
	}
	sort.Strings(lines)
	return lines
}

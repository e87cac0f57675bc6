package server

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/node"
	"github.com/skeindb/skein/internal/replica"
)

func cluster(n *node.Node) httpapi.Cluster {
	s := n.Control().Status()
	c := httpapi.Cluster{ID: fmt.Sprintf("%016x", s.ClusterID), Leader: httpapi.IDString(s.Leader), Term: s.Term, Voters: []string{}}
	for _, v := range s.Voters {
		c.Voters = append(c.Voters, v.String())
	}
	return c
}

func member(m catalog.Node) httpapi.NodeStatus {
	state := httpapi.NodeMember
	switch m.State {
	case catalog.NodeJoining:
		state = httpapi.NodeJoining
	case catalog.NodeDead:
		state = httpapi.NodeDead
	case catalog.NodeLeft:
		state = httpapi.NodeRemoved
	}
	return httpapi.NodeStatus{
		ID: m.ID.String(), Name: m.Name, PGAddress: m.PgAddress, HTTPAddress: m.HTTPAddress, PeerAddress: m.PeerAddress,
		State: state, Voter: m.Voter,
	}
}

// localStatus is what this node knows by itself.
func (s *Server) localStatus(n *node.Node) *httpapi.LocalStatus {
	state := n.Control().State()
	m, ok := state.Node(n.ID())
	if !ok {
		m = catalog.Node{ID: n.ID(), Name: n.Name(), State: catalog.NodeJoining, PeerAddress: n.PeerAddress(), PgAddress: s.config.PG, HTTPAddress: s.config.HTTP}
	}
	l := &httpapi.LocalStatus{Cluster: cluster(n), Node: member(m), Ready: s.ready(n)}
	l.Node.Reachable, l.Node.PID, l.Node.Version, l.Node.Dir = true, s.pid, s.version, n.Dir()
	l.Node.UptimeSeconds = s.env.Clock.Now().Sub(n.Started()).Seconds()
	l.Node.SQLite = node.SQLiteVersion()
	if err := n.Failure(); err != nil {
		l.Node.Error = err.Error()
	}
	for _, db := range state.Databases() {
		if !db.Dropped && db.HasReplica(n.ID()) {
			l.Replicas = append(l.Replicas, httpapi.LocalReplica{
				Database: db.Name, DatabaseID: db.ID,
				ReplicaStatus: httpapi.NewReplicaStatus(n.ID(), n.Name(), replicaStatus(n, db)),
			})
		}
	}
	l.Elections = elections(n)
	return l
}

// elections are those that a node runs, which leads the control plane.
func elections(n *node.Node) []httpapi.Election {
	var list []httpapi.Election
	for id, p := range n.Elections() {
		e := httpapi.Election{
			Database: id, State: p.State, Reason: string(p.Reason), Have: p.Have, Need: p.Need,
			Missing: []string{}, Standings: []httpapi.Standing{}, SinceSeconds: n.SinceStart().Seconds() - time.Duration(p.Since).Seconds(),
		}
		for _, m := range p.Missing {
			e.Missing = append(e.Missing, m.String())
		}
		for _, a := range p.Answers {
			e.Standings = append(e.Standings, httpapi.Standing{
				Node: a.Node.String(), Position: a.Position.String(), LeaderEnd: a.LeaderEnd,
				Lacks:          int64(max(a.LeaderEnd, a.Position.Seq) - a.Position.Seq),
				SilenceSeconds: a.Silence.Seconds(), BehindSeconds: a.Behind.Seconds(),
			})
		}
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b httpapi.Election) int { return cmp.Compare(a.Database, b.Database) })
	return list
}

func replicaStatus(n *node.Node, db catalog.Database) replica.Status {
	r, err := n.Replica(db.Name)
	if err != nil {
		return replica.Status{Role: replica.RoleStopped, Epoch: db.Epoch, Leader: db.Leader, Error: err.Error()}
	}
	return r.Status()
}

// LocalStatus implements httpapi.Node.
func (s *Server) LocalStatus(context.Context) (*httpapi.LocalStatus, error) {
	return s.localStatus(s.node), nil
}

// Ready implements httpapi.Node.
func (s *Server) Ready(context.Context) httpapi.Readiness { return s.ready(s.node) }

func (s *Server) ready(n *node.Node) httpapi.Readiness {
	r := httpapi.Readiness{Reasons: []string{}}
	state := n.Control().State()
	switch m, ok := state.Node(n.ID()); {
	case n.Failure() != nil:
		r.Reasons = append(r.Reasons, n.Failure().Error())
	case state.ClusterID() == 0:
		r.Reasons = append(r.Reasons, "not a member of a cluster yet")
	case !ok || m.State != catalog.NodeIsActive:
		r.Reasons = append(r.Reasons, "joining the cluster")
	}
	for _, db := range state.Databases() {
		if db.Dropped || !db.HasReplica(n.ID()) {
			continue
		}
		if st := replicaStatus(n, db); st.Role != replica.RoleLeader && st.Role != replica.RoleFollower {
			r.Reasons = append(r.Reasons, fmt.Sprintf("database %s: its replica here is %s %s", db.Name, st.Role, st.Error))
		}
	}
	r.Ready = len(r.Reasons) == 0
	return r
}

// Status implements httpapi.Node.
func (s *Server) Status(ctx context.Context) (*httpapi.Status, error) {
	state := s.node.Control().State()
	locals := map[string]*httpapi.LocalStatus{s.node.ID().String(): s.localStatus(s.node)}
	out := &httpapi.Status{Cluster: cluster(s.node), Nodes: []httpapi.NodeStatus{}, Databases: []httpapi.DatabaseStatus{}, Alerts: []httpapi.Alert{}}
	failures := map[string]error{}
	for _, a := range s.askAll(ctx, statusCall, nil, askTimeout, everyone) {
		l := &httpapi.LocalStatus{}
		if a.err == nil {
			a.err = json.Unmarshal(a.reply, l)
		}
		if a.err != nil {
			failures[a.node.ID.String()] = a.err
			continue
		}
		locals[a.node.ID.String()] = l
	}
	for _, m := range state.Nodes() {
		if m.State != catalog.NodeLeft || m.ID == s.node.ID() {
			out.Nodes = append(out.Nodes, nodeStatus(m, locals, failures))
		}
	}
	slices.SortFunc(out.Nodes, func(a, b httpapi.NodeStatus) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	for _, db := range state.Databases() {
		if !db.Dropped {
			out.Databases = append(out.Databases, databaseStatus(db, state, locals))
		}
	}
	slices.SortFunc(out.Databases, func(a, b httpapi.DatabaseStatus) int { return cmp.Compare(a.Name, b.Name) })
	out.Alerts = alerts(out, state)
	return out, nil
}

func nodeStatus(m catalog.Node, locals map[string]*httpapi.LocalStatus, failures map[string]error) httpapi.NodeStatus {
	n := member(m)
	if l := locals[n.ID]; l != nil {
		n.Error = l.Node.Error
		n.Reachable, n.PID, n.UptimeSeconds, n.Version, n.SQLite, n.Dir = true, l.Node.PID, l.Node.UptimeSeconds, l.Node.Version, l.Node.SQLite, l.Node.Dir
	} else if err := failures[n.ID]; err != nil {
		n.Error = err.Error()
	}
	return n
}

func databaseStatus(db catalog.Database, state *catalog.State, locals map[string]*httpapi.LocalStatus) httpapi.DatabaseStatus {
	d := httpapi.DatabaseStatus{
		Name: db.Name, ID: db.ID, Policy: httpapi.Policy(db.Policy), Epoch: db.Epoch, Leader: httpapi.IDString(db.Leader),
		Replicas: []httpapi.ReplicaStatus{}, Lossy: db.LastElection.Lossy,
	}
	if d.Lossy {
		d.LossyFrom = db.LastElection.From.String()
	}
	for _, l := range locals {
		for _, e := range l.Elections {
			if e.Database == db.ID {
				d.Election = &e
			}
		}
	}
	for _, id := range db.Replicas {
		m, _ := state.Node(id)
		r := httpapi.ReplicaStatus{Node: id.String(), NodeName: m.Name}
		if l := locals[id.String()]; l != nil {
			for _, local := range l.Replicas {
				if local.DatabaseID == db.ID {
					r = local.ReplicaStatus
				}
			}
		}
		r.NodeName = m.Name
		d.Replicas = append(d.Replicas, r)
	}
	slices.SortFunc(d.Replicas, func(a, b httpapi.ReplicaStatus) int { return cmp.Compare(a.NodeName, b.NodeName) })
	d.SetLag()
	return d
}

// alerts says what a person should know of the gathered status.
func alerts(s *httpapi.Status, state *catalog.State) []httpapi.Alert {
	list := []httpapi.Alert{}
	add := func(severity httpapi.Severity, kind httpapi.AlertKind, database, node, format string, args ...any) {
		list = append(list, httpapi.Alert{Severity: severity, Kind: kind, Database: database, Node: node, Message: fmt.Sprintf(format, args...)})
	}
	if s.Cluster.Leader == "" {
		add(httpapi.Critical, httpapi.AlertNoControlLeader, "", "", "the control plane has no leader: no failover and no change of databases, nodes or users until a majority of its voters is back")
	}
	for _, n := range s.Nodes {
		if n.Reachable && n.Error != "" {
			add(httpapi.Critical, httpapi.AlertNodeFailed, "", n.ID, "node %s can't go on: %s", n.Name, n.Error)
		}
		switch {
		case n.Reachable:
		case n.State == httpapi.NodeDead:
			add(httpapi.Warning, httpapi.AlertNodeUnreachable, "", n.ID, "node %s is given up for dead; others make up for it until it is back", n.Name)
		default:
			add(httpapi.Critical, httpapi.AlertNodeUnreachable, "", n.ID, "node %s does not answer: %s", n.Name, n.Error)
		}
	}
	for _, d := range s.Databases {
		if d.Leader == "" {
			add(httpapi.Critical, httpapi.AlertNoLeader, d.Name, "", "database %s has no leader", d.Name)
		}
		if d.Election.WaitsForOperator() {
			add(httpapi.Critical, httpapi.AlertFailoverWaits, d.Name, d.Leader, "database %s waits for an operator: %s; see its standings, then: skein failover %s", d.Name, d.Election.Reason, d.Name)
		}
		if d.Lossy {
			add(httpapi.Warning, httpapi.AlertLoss, d.Name, "", "epoch %d of %s began with a loss: acknowledged writes after %s may be missing; those that come back are listed by: skein orphans list %s", d.Epoch, d.Name, d.LossyFrom, d.Name)
		}
		if want := d.Policy.Replicas; want > len(d.Replicas) {
			add(httpapi.Warning, httpapi.AlertFewReplicas, d.Name, "", "database %s has %d replicas; its policy asks for %d", d.Name, len(d.Replicas), want)
		}
		for _, r := range d.Replicas {
			replicaAlerts(add, d, r)
		}
	}
	return list
}

func replicaAlerts(add func(httpapi.Severity, httpapi.AlertKind, string, string, string, ...any), d httpapi.DatabaseStatus, r httpapi.ReplicaStatus) {
	if !r.Known {
		return
	}
	if r.Degraded {
		add(httpapi.Warning, httpapi.AlertDegraded, d.Name, r.Node, "database %s acknowledges writes with fewer copies than its policy asks", d.Name)
	}
	if r.Role == replica.RoleStopped {
		add(httpapi.Critical, httpapi.AlertReplicaStopped, d.Name, r.Node, "the replica of %s on %s has stopped: %s", d.Name, r.NodeName, r.Error)
	}
	if r.Role == replica.RoleCopying {
		add(httpapi.Warning, httpapi.AlertCopying, d.Name, r.Node, "the replica of %s on %s is being copied: %d of %d bytes", d.Name, r.NodeName, r.CopiedBytes, r.CopyTotalBytes)
	}
	if r.Role == replica.RoleLeader && r.Node == d.Leader && !r.LeaseLive {
		add(httpapi.Critical, httpapi.AlertNoLeader, d.Name, r.Node, "the leader of %s reaches too few followers: writes wait", d.Name)
	}
	if r.Differences > 0 {
		add(httpapi.Warning, httpapi.AlertDifference, d.Name, r.Node, "%d times a statement of %s did something else on %s than on the leader, and the leader's rows were taken; the last: %s", r.Differences, d.Name, r.NodeName, r.Difference)
	}
	if r.Orphans > 0 {
		add(httpapi.Warning, httpapi.AlertOrphans, d.Name, r.Node, "%d row changes of %s were undone on %s when it came back, %d of them acknowledged; see: skein orphans list %s", r.Orphans, d.Name, r.NodeName, r.OrphansAcked, d.Name)
	}
}

// ListNodes implements httpapi.Node.
func (s *Server) ListNodes(context.Context) ([]httpapi.NodeStatus, error) {
	list := []httpapi.NodeStatus{}
	for _, m := range s.node.Control().State().Nodes() {
		if m.State != catalog.NodeLeft {
			n := member(m)
			n.Reachable = s.node.Reachable(m.ID)
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b httpapi.NodeStatus) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

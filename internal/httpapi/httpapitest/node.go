// Package httpapitest holds a Node and a session.Gateway in memory, for tests
// of the HTTP front end, its client and the command line.
//
// It owns no behaviour worth relying on beyond what its comments say. It must
// not be imported by anything but tests.
package httpapitest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/replica"
)

// The nodes of the fake cluster.
const (
	N1 base.NodeID = 0xa1
	N2 base.NodeID = 0xb2
	N3 base.NodeID = 0xc3
)

// Node is a fake. Fail, when set for an operation, is what it returns.
type Node struct {
	mu        sync.Mutex // guards everything below
	Databases []httpapi.Database
	Users     map[string][]httpapi.Grant
	Passwords map[string]string
	Members   []httpapi.NodeStatus
	Alerts    []httpapi.Alert
	Undone    []httpapi.Orphan
	Hashes    []httpapi.ReplicaHash
	Log       []httpapi.LogEntry
	LogReport httpapi.LogReport
	Events    []changefeed.Event // what Changes sends; then it ends as Fail says, or waits
	Webhooks  []httpapi.Webhook
	Imported  []byte
	File      []byte // what Snapshot serves
	NotReady  []string
	Fail      map[string]error
	Notice    string // what there is to add when a policy is altered
	Calls     []string
}

// NewNode makes a fake cluster of three nodes with the database main, which
// the second node leads.
func NewNode() *Node {
	n := &Node{Users: map[string][]httpapi.Grant{}, Passwords: map[string]string{}, Fail: map[string]error{}}
	for i, id := range []base.NodeID{N1, N2, N3} {
		n.Members = append(n.Members, httpapi.NodeStatus{
			ID: id.String(), Name: fmt.Sprintf("n%d", i+1), State: httpapi.NodeMember, Voter: true, Reachable: true,
			PGAddress: fmt.Sprintf("127.0.0.1:%d", 5441+i), HTTPAddress: fmt.Sprintf("127.0.0.1:%d", 8441+i),
			PeerAddress: fmt.Sprintf("127.0.0.1:%d", 6441+i),
			PID:         4100 + i, UptimeSeconds: 3725, Version: "0.1.0", SQLite: "3.54.1", Dir: fmt.Sprintf("/data/n%d", i+1),
		})
	}
	n.Databases = []httpapi.Database{{
		Name: "main", ID: 1, Policy: httpapi.Policy(base.DefaultPolicy()), Epoch: 3, Leader: N2.String(),
		Nodes: []string{N1.String(), N2.String(), N3.String()},
	}}
	return n
}

func (n *Node) call(name string, args ...any) error {
	n.Calls = append(n.Calls, fmt.Sprint(append([]any{name}, args...)...))
	return n.Fail[name]
}

func (n *Node) find(name string) (int, error) {
	for i, d := range n.Databases {
		if d.Name == name {
			return i, nil
		}
	}
	return 0, base.Errorf(base.KindNotFound, "database %s does not exist", name).WithHint("`skein db list` shows what there is.")
}

// Status implements httpapi.Node.
func (n *Node) Status(context.Context) (*httpapi.Status, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.call("Status"); err != nil {
		return nil, err
	}
	s := &httpapi.Status{Cluster: n.cluster(), Nodes: n.Members, Databases: []httpapi.DatabaseStatus{}, Alerts: n.Alerts}
	for _, d := range n.Databases {
		status := httpapi.DatabaseStatus{Name: d.Name, ID: d.ID, Policy: d.Policy, Epoch: d.Epoch, Leader: d.Leader}
		for i, m := range n.Members {
			status.Replicas = append(status.Replicas, n.replica(d, m, base.Seq(100-2*i)))
		}
		status.SetLag()
		s.Databases = append(s.Databases, status)
	}
	return s, nil
}

func (n *Node) cluster() httpapi.Cluster {
	return httpapi.Cluster{ID: "00000000c0ffee00", Leader: N1.String(), Term: 7, Voters: []string{N1.String(), N2.String(), N3.String()}}
}

func (n *Node) replica(d httpapi.Database, m httpapi.NodeStatus, applied base.Seq) httpapi.ReplicaStatus {
	id, _ := base.ParseNodeID(m.ID)
	if !m.Reachable {
		return httpapi.ReplicaStatus{Node: m.ID, NodeName: m.Name}
	}
	s := replica.Status{
		Role: replica.RoleFollower, Epoch: d.Epoch, Applied: base.Position{Epoch: d.Epoch, Seq: applied},
		Appended: base.Position{Epoch: d.Epoch, Seq: 100}, Flushed: 100, Safe: 100, LogStart: 1, LogBytes: 4096,
		FileBytes: 1 << 20, Age: 150 * time.Millisecond, Path: m.Dir + "/" + d.Name + ".db",
	}
	if m.ID == d.Leader {
		s.Role, s.LeaseLive, s.Age, s.Applied.Seq = replica.RoleLeader, true, 0, 100
	}
	return httpapi.NewReplicaStatus(id, m.Name, s)
}

// LocalStatus implements httpapi.Node as the first member.
func (n *Node) LocalStatus(ctx context.Context) (*httpapi.LocalStatus, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.call("LocalStatus"); err != nil {
		return nil, err
	}
	l := &httpapi.LocalStatus{Cluster: n.cluster(), Node: n.Members[0], Ready: n.ready()}
	for _, d := range n.Databases {
		l.Replicas = append(l.Replicas, httpapi.LocalReplica{Database: d.Name, DatabaseID: d.ID, ReplicaStatus: n.replica(d, n.Members[0], 100)})
	}
	return l, nil
}

func (n *Node) ready() httpapi.Readiness {
	return httpapi.Readiness{Ready: len(n.NotReady) == 0, Reasons: n.NotReady}
}

// Ready implements httpapi.Node.
func (n *Node) Ready(context.Context) httpapi.Readiness {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ready()
}

// CreateDatabase implements httpapi.Node.
func (n *Node) CreateDatabase(_ context.Context, name string, p base.Policy) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.create("CreateDatabase", name, p)
}

func (n *Node) create(op, name string, p base.Policy) error {
	if err := n.call(op, name); err != nil {
		return err
	}
	if _, err := n.find(name); err == nil {
		return base.Errorf(base.KindExists, "database %s exists already", name)
	}
	n.Databases = append(n.Databases, httpapi.Database{
		Name: name, ID: base.DatabaseID(len(n.Databases) + 1), Policy: httpapi.Policy(p), Epoch: 1, Leader: N1.String(),
		Nodes: []string{N1.String()},
	})
	return nil
}

// CreateDatabaseFrom implements httpapi.Node; it keeps the file in Imported.
func (n *Node) CreateDatabaseFrom(_ context.Context, name string, p base.Policy, r io.Reader, size int64) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return base.Errorf(base.KindCanceled, "the upload broke off after %d of %d bytes: %w", len(data), size, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.Imported = data
	return n.create("CreateDatabaseFrom", name, p)
}

// AlterDatabase implements httpapi.Node.
func (n *Node) AlterDatabase(ctx context.Context, name string, patch httpapi.PolicyPatch) (base.Policy, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.call("AlterDatabase", name); err != nil {
		return base.Policy{}, err
	}
	if n.Notice != "" {
		base.Notice(ctx, n.Notice)
	}
	i, err := n.find(name)
	if err != nil {
		return base.Policy{}, err
	}
	p, err := patch.Apply(base.Policy(n.Databases[i].Policy))
	if err == nil {
		n.Databases[i].Policy = httpapi.Policy(p)
	}
	return p, err
}

// DropDatabase implements httpapi.Node.
func (n *Node) DropDatabase(_ context.Context, name string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.call("DropDatabase", name); err != nil {
		return err
	}
	i, err := n.find(name)
	if err == nil {
		n.Databases = slices.Delete(n.Databases, i, i+1)
	}
	return err
}

// ListDatabases implements httpapi.Node.
func (n *Node) ListDatabases(context.Context) ([]httpapi.Database, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.Databases), n.call("ListDatabases")
}

// ListNodes implements httpapi.Node.
func (n *Node) ListNodes(context.Context) ([]httpapi.NodeStatus, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.Members), n.call("ListNodes")
}

// RemoveNode implements httpapi.Node.
func (n *Node) RemoveNode(_ context.Context, id base.NodeID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.Members = slices.DeleteFunc(n.Members, func(m httpapi.NodeStatus) bool { return m.ID == id.String() })
	return n.call("RemoveNode", id)
}

// MarkDead implements httpapi.Node.
func (n *Node) MarkDead(_ context.Context, id base.NodeID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.Members {
		if n.Members[i].ID == id.String() {
			n.Members[i].State = httpapi.NodeDead
		}
	}
	return n.call("MarkDead", id)
}

// CreateUser implements httpapi.Node.
func (n *Node) CreateUser(_ context.Context, name, password string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.call("CreateUser", name); err != nil {
		return err
	}
	n.Users[name], n.Passwords[name] = []httpapi.Grant{}, password
	return nil
}

// SetPassword implements httpapi.Node.
func (n *Node) SetPassword(_ context.Context, name, password string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.Passwords[name] = password
	return n.call("SetPassword", name)
}

// DropUser implements httpapi.Node.
func (n *Node) DropUser(_ context.Context, name string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.Users, name)
	return n.call("DropUser", name)
}

// Grant implements httpapi.Node.
func (n *Node) Grant(_ context.Context, user, database string, right httpapi.Right) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.Users[user] = append(n.Users[user], httpapi.Grant{Database: database, Right: right})
	return n.call("Grant", user, database, right)
}

// Revoke implements httpapi.Node.
func (n *Node) Revoke(_ context.Context, user, database string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.Users[user] = slices.DeleteFunc(n.Users[user], func(g httpapi.Grant) bool { return g.Database == database })
	return n.call("Revoke", user, database)
}

// ListUsers implements httpapi.Node.
func (n *Node) ListUsers(context.Context) ([]httpapi.User, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var users []httpapi.User
	for name, grants := range n.Users {
		users = append(users, httpapi.User{Name: name, Grants: slices.Clone(grants)})
	}
	slices.SortFunc(users, func(a, b httpapi.User) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	return users, n.call("ListUsers")
}

// Right implements httpapi.Node.
func (n *Node) Right(user, database string) httpapi.Right {
	n.mu.Lock()
	defer n.mu.Unlock()
	best := httpapi.RightNone
	for _, g := range n.Users[user] {
		if (g.Database == database || g.Database == "*") && g.Right.Includes(best) {
			best = g.Right
		}
	}
	return best
}

// Switchover implements httpapi.Node.
func (n *Node) Switchover(_ context.Context, database string, target base.NodeID) (base.NodeID, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.call("Switchover", database, target); err != nil {
		return 0, err
	}
	return n.moveTo(database, target)
}

// moveTo makes a node the leader of a database; the caller holds mu.
func (n *Node) moveTo(database string, target base.NodeID) (base.NodeID, error) {
	i, err := n.find(database)
	if err != nil {
		return 0, err
	}
	if target == 0 {
		target = N3
	}
	n.Databases[i].Leader = target.String()
	n.Databases[i].Epoch++
	return target, nil
}

// Failover implements httpapi.Node.
func (n *Node) Failover(_ context.Context, database string, target base.NodeID, acceptLoss bool) (base.NodeID, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.call("Failover", database, target, acceptLoss); err != nil {
		return 0, err
	}
	return n.moveTo(database, target)
}

// Snapshot implements httpapi.Node with File.
func (n *Node) Snapshot(_ context.Context, database string) (io.ReadCloser, int64, base.Position, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.call("Snapshot", database); err != nil {
		return nil, 0, base.Position{}, err
	}
	if _, err := n.find(database); err != nil {
		return nil, 0, base.Position{}, err
	}
	return io.NopCloser(bytes.NewReader(n.File)), int64(len(n.File)), base.Position{Epoch: 3, Seq: 100}, nil
}

// Orphans implements httpapi.Node with Undone.
func (n *Node) Orphans(_ context.Context, database string) ([]httpapi.Orphan, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.Undone, n.call("Orphans", database)
}

// SettleOrphans implements httpapi.Node with Undone.
func (n *Node) SettleOrphans(_ context.Context, database string, which httpapi.OrphanChoice, replay bool) ([]httpapi.OrphanOutcome, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	outcome := "discarded"
	if replay {
		outcome = "replayed"
	}
	var list []httpapi.OrphanOutcome
	for _, o := range n.Undone {
		list = append(list, httpapi.OrphanOutcome{Node: o.Node, Epoch: o.Epoch, Seq: o.Seq, Outcome: outcome})
	}
	return list, n.call("SettleOrphans", database, which, replay)
}

// ShowLog implements httpapi.Node with Log and LogReport.
func (n *Node) ShowLog(_ context.Context, database string, q httpapi.LogQuery, each func(httpapi.LogEntry) error) (*httpapi.LogReport, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.call("ShowLog", database, q); err != nil {
		return nil, err
	}
	for _, e := range n.Log {
		if err := each(e); err != nil {
			return nil, err
		}
	}
	return &n.LogReport, nil
}

// VerifyLog implements httpapi.Node with LogReport.
func (n *Node) VerifyLog(_ context.Context, database string) (*httpapi.LogReport, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &n.LogReport, n.call("VerifyLog", database)
}

// Self implements httpapi.Node.
func (n *Node) Self() string { return N1.String() }

// Changes implements httpapi.Node with Events.
func (n *Node) Changes(ctx context.Context, database string, q changefeed.Request, _ time.Duration, to changefeed.Sink) error {
	n.mu.Lock()
	events := n.Events
	err := n.call("Changes", database, q.From, q.Now, q.Tables)
	n.mu.Unlock()
	for i := range events {
		if err := to.Send(&events[i]); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	if err := to.Flush(); err != nil {
		return err
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// ContentHash implements httpapi.Node with Hashes.
func (n *Node) ContentHash(_ context.Context, database string) ([]httpapi.ReplicaHash, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.Hashes, n.call("ContentHash", database)
}

// AddWebhook implements httpapi.Node.
func (n *Node) AddWebhook(_ context.Context, database string, q httpapi.WebhookRequest) (httpapi.AddedWebhook, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.Webhooks = append(n.Webhooks, httpapi.Webhook{Name: q.Name, URL: q.URL, Tables: q.Tables, Position: "1/7", Node: "n1", LagSeqs: 3, LastError: "answered 500", FailingForSec: 90})
	return httpapi.AddedWebhook{Name: q.Name, Secret: "drawn"}, n.call("AddWebhook", database, q.Name, q.URL, q.Tables, q.From, q.Secret)
}

// DropWebhook implements httpapi.Node.
func (n *Node) DropWebhook(_ context.Context, database, name string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.call("DropWebhook", database, name)
}

// ListWebhooks implements httpapi.Node.
func (n *Node) ListWebhooks(_ context.Context, database string) ([]httpapi.Webhook, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.Webhooks, n.call("ListWebhooks", database)
}

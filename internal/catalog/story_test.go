package catalog_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/leadership"
)

// story is a catalog that a transcript changes command by command.
type story struct {
	state *catalog.State
	index uint64
	ids   uint64 // of commands that do not say theirs
}

// TestStories runs the transcripts of testdata/stories. Each line of a
// directive is a command; its result follows, then the parts of the state that
// "show" asks for.
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata/stories", func(t *testing.T, path string) {
		s := &story{state: catalog.New()}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "show" {
				return s.show(d)
			}
			return s.apply(t, d)
		})
	})
}

func (s *story) apply(t *testing.T, d *datadriven.TestData) string {
	s.index++
	s.ids++
	id := s.ids
	if d.HasArg("id") {
		d.ScanArgs(t, "id", &id)
	}
	cmd := catalog.Command{ID: catalog.ID{15: byte(id), 14: byte(id >> 8), 0: 1}, Action: action(t, d)}
	b, err := cmd.Encode()
	if err != nil {
		t.Fatalf("%s: %v", d.Pos, err)
	}
	if cmd, err = catalog.DecodeCommand(b); err != nil { // As on every node.
		t.Fatalf("%s: %v", d.Pos, err)
	}
	before := string(s.state.Encode())
	next, result := s.state.Apply(s.index, cmd)
	if string(s.state.Encode()) != before {
		t.Fatalf("%s: the old state has changed", d.Pos)
	}
	if err := next.Check(); err != nil {
		t.Fatalf("%s: %v", d.Pos, err)
	}
	s.state = next
	return describeResult(result)
}

func describeResult(r catalog.Result) string {
	switch {
	case r.Kind != "" && r.Hint != "":
		return fmt.Sprintf("%s: %s\n  hint: %s\n", r.Kind, r.Message, r.Hint)
	case r.Kind != "":
		return fmt.Sprintf("%s: %s\n", r.Kind, r.Message)
	case r.Database != 0:
		return fmt.Sprintf("ok at %d: database %d\n", r.Index, r.Database)
	}
	return fmt.Sprintf("ok at %d\n", r.Index)
}

// args reads a directive's arguments, each of which may be missing.
type args struct {
	t *testing.T
	d *datadriven.TestData
}

func (a args) number(key string) uint64 {
	var v uint64
	a.d.MaybeScanArgs(a.t, key, &v)
	return v
}

func (a args) text(key string) string {
	if arg, ok := a.d.Arg(key); ok && len(arg.Vals) > 0 {
		return arg.Vals[0]
	}
	return ""
}

func (a args) nodes(key string) []base.NodeID {
	var ids []base.NodeID
	arg, _ := a.d.Arg(key)
	for _, v := range arg.Vals {
		id, err := base.ParseNodeID(v)
		if err != nil {
			a.t.Fatalf("%s: %v", a.d.Pos, err)
		}
		ids = append(ids, id)
	}
	return ids
}

func (a args) node() base.NodeID { return base.NodeID(a.number("node")) }

func (a args) database() base.DatabaseID { return base.DatabaseID(a.number("db")) }

func (a args) describe() catalog.Node {
	n := catalog.Node{ID: a.node(), Name: a.text("name"), PeerAddress: a.text("peer")}
	if n.Name == "" {
		n.Name = string(rune('a' + n.ID - 1))
	}
	if n.PeerAddress == "" {
		n.PeerAddress = n.Name + ":7000"
	}
	return n
}

func (a args) policy() base.Policy {
	p := base.DefaultPolicy()
	p.Replicas = int(a.number("replicas"))
	if m := a.text("model"); m != "" {
		p.Model = m
	}
	return p
}

// counting is "counting=(1,2) copies=2 support=2".
func (a args) counting() *leadership.Counting {
	if !a.d.HasArg("counting") {
		return nil
	}
	return &leadership.Counting{
		Revision: a.number("revision"), Replicas: a.nodes("counting"),
		Copies: int(a.number("copies")), Support: int(a.number("support")),
	}
}

// exampleCredential has the form of a credential and the password of none.
const exampleCredential = "SCRAM-SHA-256$4096:c2FsdA==$" +
	"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

func (a args) credential() string {
	if c := a.text("credential"); c != "" {
		return c
	}
	return exampleCredential
}

func action(t *testing.T, d *datadriven.TestData) catalog.Action {
	a := args{t, d}
	switch d.Cmd {
	case "bootstrap":
		return catalog.BootstrapCluster{ClusterID: a.number("cluster"), Node: a.describe()}
	case "add-node":
		return catalog.AddNode{Node: a.describe()}
	case "update-node":
		return catalog.UpdateNode{Node: a.node(), PeerAddress: a.text("peer"), PgAddress: a.text("pg")}
	case "node-active":
		return catalog.NodeActive{Node: a.node()}
	case "mark-dead":
		return catalog.MarkDead{Node: a.node()}
	case "remove-node":
		return catalog.RemoveNode{Node: a.node(), Force: d.HasArg("force")}
	case "set-voter":
		return catalog.SetVoter{Node: a.node(), Voter: !d.HasArg("off")}
	}
	return databaseAction(a)
}

func databaseAction(a args) catalog.Action {
	epoch := base.Epoch(a.number("epoch"))
	switch a.d.Cmd {
	case "create-database":
		return catalog.CreateDatabase{Name: a.text("name"), Policy: a.policy()}
	case "alter-database":
		return catalog.AlterDatabase{Database: a.database(), Policy: a.policy()}
	case "drop-database":
		return catalog.DropDatabase{Database: a.database()}
	case "set-replicas":
		return catalog.SetReplicas{Database: a.database(), Epoch: epoch, Replicas: a.nodes("on")}
	case "set-counting":
		return catalog.SetCounting{Database: a.database(), Epoch: epoch, Counting: *a.counting()}
	case "elect":
		return catalog.Elect{
			Database: a.database(), Epoch: epoch, Leader: base.NodeID(a.number("leader")), Revision: a.number("revision"),
			From: base.Position{Epoch: epoch - 1, Seq: base.Seq(a.number("seq"))}, Reason: a.text("reason"), Lossy: a.d.HasArg("lossy"),
			Counting: a.counting(),
		}
	}
	return userAction(a)
}

func userAction(a args) catalog.Action {
	switch a.d.Cmd {
	case "create-user":
		return catalog.CreateUser{User: a.text("user"), Credential: a.credential()}
	case "set-password":
		return catalog.SetPassword{User: a.text("user"), Credential: a.credential()}
	case "grant":
		return catalog.Grant{User: a.text("user"), Database: a.text("on"), Right: catalog.Right(a.text("right"))}
	case "revoke":
		return catalog.Revoke{User: a.text("user"), Database: a.text("on")}
	case "drop-user":
		return catalog.DropUser{User: a.text("user")}
	case "set":
		return catalog.SetSetting{Setting: a.text("setting"), Value: a.text("value")}
	}
	a.t.Fatalf("%s: unknown command %q", a.d.Pos, a.d.Cmd)
	return nil
}

func short(ids []base.NodeID) string {
	var out []string
	for _, id := range ids {
		out = append(out, fmt.Sprintf("%x", uint64(id)))
	}
	return "[" + strings.Join(out, " ") + "]"
}

// show prints nodes, databases, users or settings, as the directive names them.
func (s *story) show(d *datadriven.TestData) string {
	var b strings.Builder
	if d.HasArg("nodes") {
		for _, n := range s.state.Nodes() {
			fmt.Fprintf(&b, "node %x %s %s %s voter=%v joined=%d\n", uint64(n.ID), n.Name, n.PeerAddress, n.State, n.Voter, n.JoinedAt)
		}
	}
	if d.HasArg("databases") {
		for _, db := range s.state.Databases() {
			s.showDatabase(&b, db)
		}
	}
	if d.HasArg("users") {
		for _, u := range s.state.Users() {
			fmt.Fprintf(&b, "user %s %v\n", u.Name, u.Grants)
		}
	}
	if d.HasArg("settings") {
		for _, v := range s.state.Settings() {
			fmt.Fprintf(&b, "%s=%s\n", v.Name, v.Value)
		}
	}
	return b.String()
}

func (s *story) showDatabase(b *strings.Builder, db catalog.Database) {
	if db.Dropped {
		fmt.Fprintf(b, "database %d %s dropped\n", db.ID, db.Name)
		return
	}
	fmt.Fprintf(b, "database %d %s on %s", db.ID, db.Name, short(db.Replicas))
	if len(db.Copying) > 0 {
		fmt.Fprintf(b, " copying %s", short(db.Copying))
	}
	fmt.Fprintf(b, " epoch %d leader %x; counts %s copies %d support %d, revision %d", db.Epoch, uint64(db.Leader),
		short(db.Counting.Replicas), db.Counting.Copies, db.Counting.Support, db.Counting.Revision)
	if spare, ok := s.state.Surplus(db.ID); ok {
		fmt.Fprintf(b, "; to spare: %x", uint64(spare))
	}
	b.WriteByte('\n')
}

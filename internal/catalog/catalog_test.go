package catalog_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/golden"
	"github.com/skeindb/skein/internal/leadership"
)

// anyAction draws an action that has a fair chance to be accepted in s.
func anyAction(r *rapid.T, s *catalog.State) catalog.Action {
	node := base.NodeID(rapid.Uint64Range(1, 6).Draw(r, "node"))
	db, _ := s.Database(base.DatabaseID(rapid.Uint64Range(1, uint64(s.NextDatabase())).Draw(r, "database")))
	name := rapid.SampledFrom([]string{"app", "blog", "cart", "docs"}).Draw(r, "name")
	policy := base.DefaultPolicy()
	policy.Replicas = rapid.IntRange(0, 4).Draw(r, "replicas")
	described := catalog.Node{ID: node, Name: fmt.Sprintf("n%d", node), PeerAddress: "host:1"}
	switch rapid.SampledFrom(strings.Fields("add add active active dead remove voter create create alter drop replicas counting elect elect elect user grant revoke setting")).Draw(r, "action") {
	case "add":
		return catalog.AddNode{Node: described}
	case "active":
		return catalog.NodeActive{Node: node}
	case "dead":
		return catalog.MarkDead{Node: node}
	case "remove":
		return catalog.RemoveNode{Node: node, Force: rapid.Bool().Draw(r, "force")}
	case "voter":
		return catalog.SetVoter{Node: node, Voter: rapid.Bool().Draw(r, "voter")}
	case "create":
		return catalog.CreateDatabase{Name: name, Policy: policy}
	case "alter":
		return catalog.AlterDatabase{Database: db.ID, Policy: policy}
	case "drop":
		return catalog.DropDatabase{Database: db.ID}
	case "user":
		return catalog.CreateUser{User: name, Credential: exampleCredential}
	case "grant":
		return catalog.Grant{User: name, Database: rapid.SampledFrom([]string{"app", "blog", "*"}).Draw(r, "on"), Right: catalog.RightWrite}
	case "revoke":
		return catalog.Revoke{User: name, Database: "app"}
	case "setting":
		if rapid.Bool().Draw(r, "webhook") {
			return anyWebhookAction(r)
		}
		return catalog.SetSetting{Setting: name, Value: rapid.SampledFrom([]string{"", "x"}).Draw(r, "value")}
	}
	return anyReplicaAction(r, db, node)
}

func anyReplicaAction(r *rapid.T, db catalog.Database, node base.NodeID) catalog.Action {
	epoch := db.Epoch + base.Epoch(rapid.IntRange(0, 1).Draw(r, "ahead"))
	nodes := rapid.SliceOfNDistinct(rapid.Custom(func(r *rapid.T) base.NodeID {
		return base.NodeID(rapid.Uint64Range(1, 6).Draw(r, "id"))
	}), 1, 4, rapid.ID).Draw(r, "nodes")
	c := leadership.Count(nodes, base.DefaultPolicy())
	c.Revision = db.Counting.Revision + uint64(rapid.IntRange(0, 1).Draw(r, "revision"))
	switch rapid.SampledFrom([]string{"replicas", "counting", "elect", "force"}).Draw(r, "kind") {
	case "replicas":
		if rapid.Bool().Draw(r, "add") {
			nodes = append([]base.NodeID{node}, db.Replicas...)
		} else if len(db.Replicas) > 0 {
			nodes = db.Replicas[1:]
		}
		return catalog.SetReplicas{Database: db.ID, Epoch: db.Epoch, Replicas: nodes}
	case "counting":
		return catalog.SetCounting{Database: db.ID, Epoch: db.Epoch, Counting: c}
	case "force":
		return catalog.Elect{Database: db.ID, Epoch: epoch, Leader: node, Revision: db.Counting.Revision, Counting: &c, Lossy: true}
	}
	return catalog.Elect{Database: db.ID, Epoch: epoch, Leader: node, Revision: db.Counting.Revision}
}

// TestEveryHistoryKeepsTheInvariants applies random commands, some of them
// twice, and checks after each what the package promises.
func TestEveryHistoryKeepsTheInvariants(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		s := catalog.New()
		s, _ = s.Apply(1, catalog.Command{ID: catalog.ID{1}, Action: catalog.BootstrapCluster{ClusterID: 7, Node: catalog.Node{ID: 1, Name: "n1", PeerAddress: "host:1"}}})
		leaders := make(map[string]base.NodeID)
		var log []catalog.Command
		for i := range rapid.IntRange(1, 60).Draw(r, "commands") {
			cmd := catalog.Command{ID: catalog.ID{2, byte(i)}, Action: anyAction(r, s)}
			if len(log) > 0 && rapid.IntRange(0, 9).Draw(r, "retry") == 0 {
				cmd = rapid.SampledFrom(log).Draw(r, "again")
			}
			log = append(log, cmd)
			s = step(r, s, uint64(i+2), cmd)
			oneLeaderPerEpoch(r, s, leaders)
		}
		replay(r, s, log)
	})
}

func step(r *rapid.T, s *catalog.State, index uint64, cmd catalog.Command) *catalog.State {
	before := s.Encode()
	next, result := s.Apply(index, cmd)
	if !bytes.Equal(s.Encode(), before) {
		r.Fatalf("%s changed the old state", cmd.Name())
	}
	if err := next.Check(); err != nil {
		r.Fatalf("after %+v: %v", cmd.Action, err)
	}
	if first, seen := s.Recent(cmd.ID); seen && (result != first || !sameBut(s, next)) {
		r.Fatalf("%s repeated: %+v after %+v", cmd.Name(), result, first)
	}
	if result.Kind != "" && !sameBut(s, next) {
		r.Fatalf("%s was refused (%s) and changed something", cmd.Name(), result.Message)
	}
	for _, old := range s.Databases() {
		if now, ok := next.Database(old.ID); ok && (now.Epoch < old.Epoch || now.Epoch > old.Epoch+1 || now.Counting.Revision < old.Counting.Revision) {
			r.Fatalf("database %d went from epoch %d to %d", old.ID, old.Epoch, now.Epoch)
		}
	}
	return next
}

// sameBut compares two states but for the applied index and remembered ids.
func sameBut(a, b *catalog.State) bool {
	trim := func(s *catalog.State) string {
		var m map[string]json.RawMessage
		if json.Unmarshal(s.Encode(), &m) != nil {
			return "?"
		}
		delete(m, "applied")
		delete(m, "recent")
		return fmt.Sprint(m)
	}
	return trim(a) == trim(b)
}

func oneLeaderPerEpoch(r *rapid.T, s *catalog.State, leaders map[string]base.NodeID) {
	for _, db := range s.Databases() {
		if db.Leader == 0 {
			continue
		}
		key := fmt.Sprintf("%d/%d", db.ID, db.Epoch)
		if old, ok := leaders[key]; ok && old != db.Leader {
			r.Fatalf("epoch %s had leader %s and has %s", key, old, db.Leader)
		}
		leaders[key] = db.Leader
	}
}

// replay applies a history on another node, which restarts from a snapshot
// again and again, and compares bytes.
func replay(r *rapid.T, want *catalog.State, log []catalog.Command) {
	s, _ := catalog.New().Apply(1, catalog.Command{ID: catalog.ID{1}, Action: catalog.BootstrapCluster{ClusterID: 7, Node: catalog.Node{ID: 1, Name: "n1", PeerAddress: "host:1"}}})
	for i, cmd := range log {
		b, err := cmd.Encode()
		if err != nil {
			r.Fatal(err)
		}
		decoded, err := catalog.DecodeCommand(b)
		if err != nil {
			r.Fatal(err)
		}
		s, _ = s.Apply(uint64(i+2), decoded)
		if s, err = catalog.DecodeState(s.Encode()); err != nil {
			r.Fatal(err)
		}
	}
	if !bytes.Equal(s.Encode(), want.Encode()) {
		r.Fatalf("the same log gives\n%s\nand\n%s", want.Encode(), s.Encode())
	}
}

// Two people alter a database at once, each from what both have seen: the second
// is refused, and does not undo what the first has done.
func TestAlteringWhatAnotherHasAlteredIsRefused(t *testing.T) {
	s := catalog.New()
	index := uint64(0)
	apply := func(a catalog.Action) (result catalog.Result) {
		index++
		s, result = s.Apply(index, catalog.Command{ID: catalog.ID{byte(index)}, Action: a})
		return result
	}
	for _, a := range exampleActions()[:2] {
		apply(a)
	}
	seen := base.DefaultPolicy()
	apply(catalog.CreateDatabase{Name: "app", Policy: seen})
	db, _ := s.DatabaseByName("app")
	first, second := seen, seen
	first.AllowLoss, second.RetentionBytes = true, 1<<30
	if r := apply(catalog.AlterDatabase{Database: db.ID, Policy: first, Was: &seen}); r.Kind != "" {
		t.Fatalf("the first: %+v", r)
	}
	if r := apply(catalog.AlterDatabase{Database: db.ID, Policy: second, Was: &seen}); r.Kind != base.KindConflict {
		t.Errorf("the second: %+v", r)
	}
	if db, _ := s.Database(db.ID); db.Policy != first {
		t.Errorf("the policy is %+v", db.Policy)
	}
}

func TestRememberedCommandsAreBounded(t *testing.T) {
	s := catalog.New()
	for i := range catalog.RecentCommands + 10 {
		s, _ = s.Apply(uint64(i+1), catalog.Command{ID: catalog.ID{1, byte(i), byte(i >> 8)}, Action: catalog.SetSetting{Setting: "n", Value: fmt.Sprint(i)}})
	}
	if _, ok := s.Recent(catalog.ID{1, 9}); ok {
		t.Error("the tenth command is still remembered")
	}
	if r, ok := s.Recent(catalog.ID{1, 10}); !ok || r.Index != 11 {
		t.Errorf("the eleventh command: %+v, %v", r, ok)
	}
}

// exampleActions has every action once.
func exampleActions() []catalog.Action {
	node := catalog.Node{ID: 1<<63 + 1, Name: "a", PeerAddress: "a:7000", PgAddress: "a:5432", HTTPAddress: "a:8080"}
	counting := leadership.Counting{Revision: 3, Replicas: []base.NodeID{1, 2}, Copies: 2, Support: 2}
	policy := base.DefaultPolicy()
	return []catalog.Action{
		catalog.BootstrapCluster{ClusterID: 77, Node: node}, catalog.AddNode{Node: node},
		catalog.UpdateNode{Node: 1, PeerAddress: "b:7000"}, catalog.NodeActive{Node: 1}, catalog.MarkDead{Node: 1},
		catalog.RemoveNode{Node: 1, Force: true}, catalog.SetVoter{Node: 1, Voter: true},
		catalog.CreateDatabase{Name: "app", Policy: policy}, catalog.AlterDatabase{Database: 1, Policy: policy}, catalog.DropDatabase{Database: 1},
		catalog.SetReplicas{Database: 1, Epoch: 2, Replicas: []base.NodeID{1, 2}}, catalog.SetCounting{Database: 1, Epoch: 2, Counting: counting},
		catalog.Elect{Database: 1, Epoch: 2, Leader: 1, From: base.Position{Epoch: 1, Seq: 80}, Reason: "refused", Lossy: true, Revision: 2, Counting: &counting},
		catalog.CreateUser{User: "ann", Credential: exampleCredential}, catalog.SetPassword{User: "ann", Credential: exampleCredential},
		catalog.Grant{User: "ann", Database: "*", Right: catalog.RightRead}, catalog.Revoke{User: "ann", Database: "*"},
		catalog.DropUser{User: "ann"}, catalog.SetSetting{Setting: "colour", Value: "green"},
		catalog.CreateDatabase{Name: "log", Policy: policy},
		catalog.AddWebhook{Database: 2, Name: "audit", URL: "https://audit.example/in", Secret: "hidden", Tables: []string{"account"}, Offset: "first"},
		catalog.AdvanceWebhook{Webhook: 21, From: "first", To: "second"}, catalog.DropWebhook{Database: 2, Name: "none"},
		catalog.AlterDatabase{Database: 2, Policy: policy, Was: &policy},
		catalog.AnnounceWebhook{Webhook: 21, Epoch: 0, Sent: base.Position{Epoch: 1, Seq: 90}},
	}
}

// TestEncodingsAreGolden fails when the form of a command or of the state
// changes; old logs hold the old form.
func TestEncodingsAreGolden(t *testing.T) {
	var b bytes.Buffer
	s := catalog.New()
	for i, a := range exampleActions() {
		cmd := catalog.Command{ID: catalog.ID{0: 0xc0, 15: byte(i)}, Action: a}
		line, err := cmd.Encode()
		if err != nil {
			t.Fatal(err)
		}
		decoded, err := catalog.DecodeCommand(line)
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := decoded.Encode(); !bytes.Equal(again, line) {
			t.Errorf("%s becomes %s", line, again)
		}
		b.Write(append(line, '\n'))
		s, _ = s.Apply(uint64(i+1), decoded)
	}
	golden.Check(t, "testdata/commands.jsonl", b.String())
	golden.Check(t, "testdata/state.json", string(s.Encode())+"\n")
}

func TestForeignCommandsAreRefused(t *testing.T) {
	good := `{"v":1,"id":"c0000000000000000000000000000001","action":"drop_user","args":{"user":"ann"}}`
	if _, err := catalog.DecodeCommand([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		old, new string
		want     base.Kind
	}{
		{`"v":1`, `"v":2`, base.KindUnsupported},
		{`drop_user`, `fly`, base.KindUnsupported},
		{`"user":"ann"`, `"user":"ann","how":"gently"`, base.KindUnsupported},
		{`c0000000000000000000000000000001`, `00000000000000000000000000000000`, base.KindCorrupt},
		{`c0000000000000000000000000000001`, `c0`, base.KindCorrupt},
		{`"args":`, `"args":[`, base.KindCorrupt},
	} {
		_, err := catalog.DecodeCommand([]byte(strings.Replace(good, c.old, c.new, 1)))
		if base.KindOf(err) != c.want {
			t.Errorf("%s for %s: %v; want %s", c.new, c.old, err, c.want)
		}
	}
	if _, err := (catalog.Command{Action: catalog.DropUser{}}).Encode(); base.KindOf(err) != base.KindInvalid {
		t.Errorf("a command without id: %v", err)
	}
	long := catalog.Command{ID: catalog.ID{1}, Action: catalog.SetSetting{Setting: "a", Value: strings.Repeat("x", catalog.MaxCommandBytes)}}
	if _, err := long.Encode(); base.KindOf(err) != base.KindTooLarge {
		t.Errorf("a long command: %v", err)
	}
}

func TestRights(t *testing.T) {
	u := catalog.User{Grants: []catalog.Granted{{Database: "*", Right: catalog.RightRead}, {Database: "app", Right: catalog.RightAdmin}}}
	if got := u.Right("app"); got != catalog.RightAdmin {
		t.Errorf("right to app: %q", got)
	}
	if got := u.Right("blog"); got != catalog.RightRead || got.Includes(catalog.RightWrite) || !got.Includes(catalog.RightRead) {
		t.Errorf("right to blog: %q", got)
	}
	if got := (catalog.User{}).Right("app"); got != catalog.RightNone {
		t.Errorf("right without a grant: %q", got)
	}
}

func FuzzDecodeCommand(f *testing.F) {
	for i, a := range exampleActions() {
		b, err := catalog.Command{ID: catalog.ID{1, byte(i)}, Action: a}.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		cmd, err := catalog.DecodeCommand(b)
		if err != nil {
			return
		}
		// Whatever decodes can be applied, and leaves a sound state.
		s, _ := catalog.New().Apply(1, catalog.Command{ID: catalog.ID{9}, Action: catalog.BootstrapCluster{ClusterID: 7, Node: catalog.Node{ID: 1, Name: "n1", PeerAddress: "host:1"}}})
		s, _ = s.Apply(2, catalog.Command{ID: catalog.ID{8}, Action: catalog.CreateDatabase{Name: "db", Policy: base.DefaultPolicy()}})
		next, _ := s.Apply(3, cmd)
		if err := next.Check(); err != nil {
			t.Errorf("after %s: %v", b, err)
		}
	})
}

func FuzzDecodeState(f *testing.F) {
	f.Add(catalog.New().Encode())
	if b, err := os.ReadFile("testdata/state.json"); err == nil {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := catalog.DecodeState(b)
		if err != nil {
			return
		}
		if again, err := catalog.DecodeState(s.Encode()); err != nil || !bytes.Equal(again.Encode(), s.Encode()) {
			t.Errorf("a decoded state does not survive encoding: %v", err)
		}
	})
}

func BenchmarkApply(b *testing.B) {
	s, _ := catalog.New().Apply(1, catalog.Command{ID: catalog.ID{9}, Action: catalog.BootstrapCluster{ClusterID: 7, Node: catalog.Node{ID: 1, Name: "n1", PeerAddress: "host:1"}}})
	for i := range 200 {
		s, _ = s.Apply(uint64(i+2), catalog.Command{ID: catalog.ID{1, byte(i)}, Action: catalog.CreateDatabase{Name: fmt.Sprintf("d%d", i), Policy: base.DefaultPolicy()}})
	}
	var i uint64
	for b.Loop() {
		i++
		id := catalog.ID{2, byte(i), byte(i >> 8), byte(i >> 16)}
		s, _ = s.Apply(i+300, catalog.Command{ID: id, Action: catalog.SetSetting{Setting: "n", Value: "x"}})
	}
	b.ReportMetric(float64(len(s.Encode())), "state-bytes")
}

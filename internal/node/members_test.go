package node_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/node"
	"github.com/skeindb/skein/internal/session"
)

// folders are the replicas' folders in a node's data folder.
func (b *bubble) folders(id base.NodeID) []string {
	b.t.Helper()
	found, err := filepath.Glob(b.dir(id) + "/db/*")
	if err != nil {
		b.t.Fatal(err)
	}
	for i := range found {
		found[i] = filepath.Base(found[i])
	}
	return found
}

// A node that is removed stops serving, says why, and keeps its files; the
// others go on without it.
func TestRemovedNodeStopsServing(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, b *bubble) {
		b.create(1, "shop", nil)
		b.sql(1, "shop", "CREATE TABLE item(id INTEGER PRIMARY KEY)")
		b.level("shop")
		gone := b.others(b.leader("shop"))[0]
		open := b.session(gone, "shop")
		defer open.Close()
		if err := b.nodes[b.leader("shop")].Control().Remove(t.Context(), gone, false); err != nil {
			t.Fatal(err)
		}
		b.expectRemoved(gone)
		if got, err := try(open, "SELECT count(*) FROM item"); err == nil {
			t.Errorf("an open session still reads %s", got)
		}
		b.sql(b.leader("shop"), "shop", "INSERT INTO item VALUES (1)")
		// A restart changes nothing about it.
		b.stop(gone)
		b.open(gone)
		b.expectRemoved(gone)
		if got := b.folders(gone); !slices.Equal(got, []string{"shop.1"}) {
			t.Errorf("its files: %v", got)
		}
	})
}

// A node that is removed while it is away learns it when it comes back.
func TestNodeRemovedWhileAwayLearnsIt(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, b *bubble) {
		b.create(1, "shop", nil)
		b.sql(1, "shop", "CREATE TABLE item(id INTEGER PRIMARY KEY)")
		b.level("shop")
		if _, err := b.nodes[1].Switchover(t.Context(), "shop", 1); err != nil {
			t.Fatal(err)
		}
		b.kill(3)
		if err := b.nodes[1].Control().Remove(t.Context(), 3, false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		b.open(3)
		b.expectRemoved(3)
		b.sql(1, "shop", "INSERT INTO item VALUES (1)")
		b.sql(2, "shop", "INSERT INTO item VALUES (2)")
	})
}

func (b *bubble) expectRemoved(id base.NodeID) {
	b.t.Helper()
	n := b.nodes[id]
	b.eventually("the node knows that it was removed", func() bool { return base.KindOf(n.Failure()) == base.KindForbidden })
	if _, err := n.Gateway().Open(b.t.Context(), session.Options{Trusted: true, Database: "shop"}); base.KindOf(err) != base.KindForbidden {
		b.t.Errorf("a session on a removed node: %v", err)
	}
	if r, err := n.Replica("shop"); err == nil {
		b.t.Errorf("a removed node still has a replica: %+v", r.Status())
	}
}

// A dropped database's files go everywhere, also from a node that was away, and
// one of the same name is another database.
func TestDroppedDatabaseLeavesNoFiles(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, b *bubble) {
		for _, name := range []string{"shop", "kept"} {
			b.create(1, name, nil)
			b.sql(1, name, "CREATE TABLE item(id INTEGER PRIMARY KEY)")
			b.level(name)
		}
		away := b.others(b.leader("shop"))[0]
		here := b.others(away)
		b.kill(away)
		if err := b.nodes[here[0]].DropDatabase(t.Context(), "shop"); err != nil {
			t.Fatal(err)
		}
		for _, id := range here {
			b.eventually("shop is gone", func() bool { return slices.Equal(b.folders(id), []string{"kept.2"}) })
		}
		b.create(here[1], "shop", nil)
		b.sql(here[1], "shop", "CREATE TABLE other(a)")
		// Half a removal and an upload of an earlier life.
		for _, left := range []string{"/db/old.9.removed/log", "/import"} {
			if err := os.MkdirAll(b.dir(away)+left, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(b.dir(away)+left+"/x", nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		b.open(away)
		b.eventually("only what lives is left", func() bool { return slices.Equal(b.folders(away), []string{"kept.2", "shop.3"}) })
		if _, err := os.Stat(b.dir(away) + "/import"); err == nil {
			t.Error("the upload is still there")
		}
		b.level("shop")
		b.level("kept")
		if got := b.strong(away, "shop", "SELECT group_concat(name) FROM sqlite_schema WHERE name NOT LIKE '\\_skein%' ESCAPE '\\'"); got != "other" {
			t.Errorf("shop has %q", got)
		}
	})
}

// Folders are never removed on the word of a state that may be old, as that of
// a node which has just started and hears nobody.
func TestNothingIsRemovedWithoutConfirmation(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, b *bubble) {
		for _, name := range []string{"shop", "kept"} {
			b.create(1, name, nil)
			b.level(name)
		}
		if err := b.nodes[1].DropDatabase(t.Context(), "shop"); err != nil {
			t.Fatal(err)
		}
		b.eventually("shop is gone", func() bool { return slices.Equal(b.folders(3), []string{"kept.2"}) })
		time.Sleep(time.Second) // Then its own disk says so.
		b.kill(3)
		// What its last life may have written after the state that it has on disk.
		for _, folder := range []string{"/db/shop.1", "/db/unknown.7"} {
			if err := os.MkdirAll(b.dir(3)+folder, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		b.net.Isolate(3)
		b.open(3)
		time.Sleep(20 * time.Second)
		if got := b.folders(3); !slices.Contains(got, "shop.1") {
			t.Errorf("alone it removed what it had: %v", got)
		}
		b.net.Rejoin(3)
		b.eventually("shop is gone", func() bool { return !slices.Contains(b.folders(3), "shop.1") })
		if got := b.folders(3); !slices.Contains(got, "unknown.7") || !slices.Contains(got, "kept.2") {
			t.Errorf("what the cluster has not dropped was removed: %v", got)
		}
	})
}

func TestPolicyChangeIsRecordedAsCounting(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, b *bubble) {
		b.create(1, "shop", nil)
		b.sql(1, "shop", "CREATE TABLE item(id INTEGER PRIMARY KEY)")
		for _, step := range []struct {
			level  base.Level
			copies int
		}{{base.All, 3}, {base.Async, 1}, {base.Quorum, 2}} {
			db := b.record(2, "shop")
			p := db.Policy
			p.Durability = base.Durability{Level: step.level, When: p.Durability.When}
			if _, err := b.nodes[2].Propose(t.Context(), catalog.AlterDatabase{Database: db.ID, Policy: p}); err != nil {
				t.Fatal(err)
			}
			b.eventually(string(step.level)+" is recorded", func() bool { return b.record(2, "shop").Counting.Copies == step.copies })
			b.sql(3, "shop", "INSERT INTO item DEFAULT VALUES")
		}
		if got := b.record(1, "shop").Counting.Revision; got < 3 {
			t.Errorf("revision %d after three changes", got)
		}
	})
}

// A node that restarts on other ports tells the cluster, so that people and
// peers find it.
func TestAddressesAreToldAfterARestart(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, b *bubble) {
		b.stop(2)
		o := b.options(2)
		o.Advertise, o.PgAddress, o.HTTPAddress = "elsewhere:1", "elsewhere:2", "elsewhere:3"
		b.openWith(2, o)
		b.eventually("node 1 knows the new addresses", func() bool {
			m, _ := b.nodes[1].Control().State().Node(2)
			return m.PeerAddress == "elsewhere:1" && m.PgAddress == "elsewhere:2" && m.HTTPAddress == "elsewhere:3"
		})
	})
}

// A node may be started before those that it joins, and one of several
// addresses that does not answer does not keep it from the others.
func TestJoiningWaitsAndTriesEveryAddress(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, b *bubble) {
		o := b.options(2)
		o.Join = []string{"nowhere", "node1", "silent"}
		early := b.openWith(2, o)
		time.Sleep(time.Minute)
		if early.Failure() != nil || early.Control().State().ClusterID() != 0 {
			t.Fatalf("alone: %v, in cluster %x", early.Failure(), early.Control().State().ClusterID())
		}
		b.open(1)
		b.eventually("both are active", b.joined)
		again := b.options(3)
		again.Name = "n2"
		b.eventually("a name that is taken is refused", func() bool {
			if b.nodes[3] == nil {
				b.openWith(3, again)
			}
			return base.KindOf(b.nodes[3].Failure()) == base.KindExists
		})
	})
}

func TestManyJoinAtOnce(t *testing.T) {
	for range 5 {
		inBubble(t, 5, func(t *testing.T, b *bubble) {})
	}
}

func TestCloseTwice(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, b *bubble) {
		b.create(1, "shop", nil)
		began := time.Now()
		if err := b.nodes[1].Close(); err != nil {
			t.Error(err)
		}
		if err := b.nodes[1].Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("a single node took %v to stop", took)
		}
	})
}

// What is wrong with a folder is said before anything is done to it.
func TestFoldersThatCannotBeUsedAreRefused(t *testing.T) {
	newFolder := func(t *testing.T) string {
		o := node.Options{Dir: t.TempDir(), Name: "n1", PeerAddress: "127.0.0.1:0"}
		n, err := node.Open(t.Context(), env.Real(logger()), o)
		if err != nil {
			t.Fatal(err)
		}
		for n.Control().State().ClusterID() == 0 {
			time.Sleep(time.Millisecond)
		}
		if _, err := node.Open(t.Context(), env.Real(logger()), o); base.KindOf(err) != base.KindInvalid {
			t.Errorf("a second node on one folder: %v", err)
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		return o.Dir
	}
	for name, c := range map[string]struct {
		harm func(dir string) error
		id   base.NodeID
		kind base.Kind
	}{
		"node.json is damaged":    {harm: func(dir string) error { return os.WriteFile(dir+"/node.json", []byte(`{"version":1}`), 0o600) }, kind: base.KindCorrupt},
		"control.db is damaged":   {harm: scribble, kind: base.KindCorrupt},
		"control.db is gone":      {harm: removeControl, kind: base.KindCorrupt},
		"it is another node's":    {harm: func(string) error { return nil }, id: 5, kind: base.KindWrongCluster},
		"node.json is of another": {harm: anotherCluster, kind: base.KindWrongCluster},
		"node.json is gone":       {harm: func(dir string) error { return os.Remove(dir + "/node.json") }, kind: base.KindCorrupt},
		"control.db is another's": {harm: anotherNode, kind: base.KindWrongCluster},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newFolder(t)
			if err := c.harm(dir); err != nil {
				t.Fatal(err)
			}
			n, err := node.Open(t.Context(), env.Real(logger()), node.Options{Dir: dir, PeerAddress: "127.0.0.1:0", ID: c.id})
			if err == nil {
				n.Close()
			}
			e := base.AsError(err)
			if e.Kind != c.kind || e.Hint == "" {
				t.Errorf("kind %q, hint %q: %v", e.Kind, e.Hint, err)
			}
			t.Log(err, "-", e.Hint)
		})
	}
}

func scribble(dir string) error {
	return os.WriteFile(dir+"/control.db", []byte("this was a database once, and is none any more"), 0o600)
}

func removeControl(dir string) error {
	files, err := filepath.Glob(dir + "/control.db*")
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	return err
}

func anotherNode(dir string) error {
	f := env.Real(nil).FS
	id, _, err := node.ReadIdentity(f, dir)
	if err != nil {
		return err
	}
	return node.WriteIdentity(f, dir, node.Identity{Node: id.Node ^ 1, Cluster: id.Cluster})
}

func anotherCluster(dir string) error {
	f := env.Real(nil).FS
	id, _, err := node.ReadIdentity(f, dir)
	if err != nil {
		return err
	}
	return node.WriteIdentity(f, dir, node.Identity{Node: id.Node, Cluster: id.Cluster + 1})
}

package node_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
)

func TestClustersOfEverySizeWriteAndRead(t *testing.T) {
	for _, size := range []int{1, 2, 3, 5} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			inBubble(t, size, func(t *testing.T, b *bubble) {
				b.create(base.NodeID(size), "shop", nil)
				b.sql(1, "shop", "CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT)")
				for id := range b.nodes {
					b.sql(id, "shop", fmt.Sprintf("INSERT INTO item VALUES (%d, 'x')", id))
				}
				for id := range b.nodes {
					if got := b.strong(id, "shop", "SELECT count(*) FROM item"); got != fmt.Sprint(size) {
						t.Errorf("node %d counts %s rows, want %d", id, got, size)
					}
				}
				b.level("shop")
			})
		})
	}
}

// A leader that nobody reaches is replaced when its lease must be over, and no
// sooner than that; what it could not confirm is undone when it comes back, and
// kept as an orphan.
func TestLeaderThatIsCutOffComesBackWithoutItsTail(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, b *bubble) {
		b.create(1, "shop", nil)
		b.sql(1, "shop", "CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT)")
		b.sql(2, "shop", "INSERT INTO item VALUES (1, 'kept')")
		b.level("shop")
		old := b.leader("shop")
		epoch := b.record(old, "shop").Epoch
		b.net.Isolate(old)
		cut := time.Now()
		s := b.session(old, "shop")
		defer s.Close()
		if err := s.Set("skein.statement_timeout", "200ms"); err != nil {
			t.Fatal(err)
		}
		if got, err := try(s, "INSERT INTO item VALUES (2, 'tail')"); base.AsError(err).Outcome != base.Indeterminate {
			t.Fatalf("a write without followers: %q, %v", got, err)
		}
		now := b.leader("shop", old)
		if took := time.Since(cut); took > 16*time.Second {
			t.Errorf("another leader after %v", took)
		}
		b.sql(now, "shop", "INSERT INTO item VALUES (3, 'new')")
		b.net.Rejoin(old)
		b.level("shop")
		if got := b.strong(old, "shop", "SELECT group_concat(name) FROM item"); got != "kept,new" {
			t.Errorf("the old leader has %q", got)
		}
		r, err := b.nodes[old].Replica("shop")
		if err != nil {
			t.Fatal(err)
		}
		if st := r.Status(); st.Orphans != 1 || st.Role != replica.RoleFollower || st.Epoch <= epoch {
			t.Errorf("the old leader: %d orphans, %s in epoch %d", st.Orphans, st.Role, st.Epoch)
		}
	})
}

// A node that leads both the control plane and a database goes: the others have
// to replace it in the one before they can in the other.
func TestControlAndDatabaseLeaderDieTogether(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, b *bubble) {
		b.create(1, "shop", nil)
		b.sql(1, "shop", "CREATE TABLE item(id INTEGER PRIMARY KEY)")
		both := b.nodes[1].Control().Leader()
		if _, err := b.nodes[1].Switchover(t.Context(), "shop", both); err != nil {
			t.Fatal(err)
		}
		b.leader("shop")
		died := time.Now()
		b.net.Down(both)
		now := b.leader("shop", both)
		if took := time.Since(died); took > 2*time.Second {
			t.Errorf("another leader after %v", took)
		}
		b.sql(now, "shop", "INSERT INTO item VALUES (1)")
		b.stop(both)
		b.net.Up(both)
		b.open(both)
		b.level("shop")
		if got := b.strong(both, "shop", "SELECT count(*) FROM item"); got != "1" {
			t.Errorf("the node that came back counts %s", got)
		}
	})
}

// Leaders are spread over the nodes, and can be moved without an error to any
// client, through any node.
func TestSwitchoverLosesNoWrite(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, b *bubble) {
		for _, name := range []string{"one", "two"} {
			b.create(1, name, nil)
			b.sql(1, name, "CREATE TABLE item(id INTEGER PRIMARY KEY)")
		}
		wrote := 0
		writing, stop := context.WithCancel(t.Context())
		var client sync.WaitGroup
		defer client.Wait()
		defer stop()
		client.Go(func() {
			s := b.session(2, "one")
			defer s.Close()
			for ; writing.Err() == nil; wrote++ {
				if _, err := try(s, "INSERT INTO item DEFAULT VALUES"); err != nil {
					t.Errorf("write %d: %v", wrote, err)
				}
				time.Sleep(time.Millisecond)
			}
		})
		for round := range 6 {
			through, target := base.NodeID(round%3+1), base.NodeID((round+1)%3+1)
			leads, err := b.nodes[through].Switchover(t.Context(), "one", target)
			if err != nil || leads != target {
				t.Fatalf("through node %d to %d: %d, %v", through, target, leads, err)
			}
		}
		stop()
		client.Wait()
		if got := b.strong(3, "one", "SELECT count(*) FROM item"); got != fmt.Sprint(wrote) {
			t.Errorf("%s rows of %d acknowledged writes", got, wrote)
		}
		if wrote == 0 {
			t.Error("nothing was written")
		}
		if _, err := b.nodes[1].Switchover(t.Context(), "two", b.leader("one")); err != nil {
			t.Fatal(err)
		}
		other := b.others(b.leader("two"))[0]
		if _, err := b.nodes[1].Switchover(t.Context(), "two", other); err != nil {
			t.Fatal(err)
		}
		if b.leader("one") == other && b.leader("two") != other {
			t.Error("the databases' leaders are not their own")
		}
	})
}

func TestSwitchoverThatCannotBeIsRefusedAtOnce(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, b *bubble) {
		b.create(1, "shop", func(p *base.Policy) { p.Durability = base.Durability{Level: base.Async} })
		leads := b.leader("shop")
		other := b.others(leads)[0]
		b.eventually("the follower counts", func() bool { return len(b.record(leads, "shop").Full()) == 2 })
		ctx := bounded(t, time.Minute)
		if _, err := b.nodes[leads].Switchover(ctx, "shop", 77); err == nil {
			t.Error("to a stranger: no error")
		}
		if _, err := b.nodes[leads].Switchover(ctx, "none", 0); base.KindOf(err) != base.KindNotFound {
			t.Errorf("of no database: %v", err)
		}
		began := time.Now()
		b.net.Down(other)
		_, err := b.nodes[leads].Switchover(ctx, "shop", 0)
		if err == nil || time.Since(began) > 7*time.Second {
			t.Errorf("to nobody: %v after %v", err, time.Since(began))
		}
	})
}

func TestNodeThatJoinsLaterGetsTheData(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, b *bubble) {
		b.create(1, "shop", nil)
		b.sql(1, "shop", "CREATE TABLE item(id INTEGER PRIMARY KEY, x TEXT)")
		b.sql(1, "shop", "INSERT INTO item(x) SELECT hex(randomblob(50)) FROM generate_series(1, 500)")
		b.open(3)
		b.eventually("node 3 is active", b.joined)
		b.eventually("node 3 has a replica", func() bool { return b.record(1, "shop").HasReplica(3) })
		b.level("shop")
		b.eventually("node 3 counts", func() bool { return b.record(1, "shop").Counting.Has(3) })
		b.kill(2)
		if got := b.strong(3, "shop", "SELECT count(*) FROM item"); got != "500" {
			t.Errorf("node 3 counts %s", got)
		}
	})
}

func TestPlacementOnSomeOfTheNodes(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, b *bubble) {
		for i := range 3 {
			b.create(1, fmt.Sprintf("db%d", i), func(p *base.Policy) { p.Replicas = 2 })
		}
		placed := make(map[base.NodeID]int)
		for i := range 3 {
			name := fmt.Sprintf("db%d", i)
			db := b.record(1, name)
			if len(db.Replicas) != 2 {
				t.Fatalf("%s is on %v", name, db.Replicas)
			}
			b.sql(1, name, "CREATE TABLE t(a)")
			for id, n := range b.nodes {
				_, err := n.Replica(name)
				if db.HasReplica(id) {
					placed[id]++
				} else if base.KindOf(err) != base.KindNotFound {
					t.Errorf("node %d has a replica of %s: %v", id, name, err)
				}
				// A node without a replica serves clients all the same.
				b.sql(id, name, fmt.Sprintf("INSERT INTO t VALUES (%d)", id))
			}
			if got := b.strong(1, name, "SELECT count(*) FROM t"); got != "3" {
				t.Errorf("%s has %s rows", name, got)
			}
		}
		for id := range b.nodes {
			if placed[id] != 2 {
				t.Errorf("node %d has %d of 6 replicas", id, placed[id])
			}
		}
	})
}

// A policy that asks for fewer replicas has the others taken away, with their
// files; one that asks for more again has them copied.
func TestFewerReplicasAreTakenAway(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, b *bubble) {
		b.create(1, "shop", nil)
		b.sql(1, "shop", "CREATE TABLE item(id INTEGER PRIMARY KEY)")
		b.level("shop")
		leads := b.leader("shop")
		b.alter(1, "shop", func(p *base.Policy) { p.Replicas = 1 })
		b.eventually("only the leader counts", func() bool {
			db := b.record(1, "shop")
			return slices.Equal(db.Replicas, []base.NodeID{leads}) && slices.Equal(db.Counting.Replicas, db.Replicas)
		})
		for _, id := range b.others(leads) {
			b.eventually("its files are gone", func() bool { return len(b.folders(id)) == 0 })
			b.sql(id, "shop", fmt.Sprintf("INSERT INTO item VALUES (%d)", id))
		}
		b.alter(1, "shop", func(p *base.Policy) { p.Replicas = 0 })
		b.eventually("all count", func() bool { return len(b.record(1, "shop").Counting.Replicas) == 3 })
		b.level("shop")
		b.kill(leads)
		if got := b.strong(b.others(leads)[0], "shop", "SELECT count(*) FROM item"); got != "2" {
			t.Errorf("the others count %s", got)
		}
	})
}

// While a replica is away none is taken away: the others might be too few.
func TestNoReplicaIsTakenAwayWhileOneIsAway(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, b *bubble) {
		b.create(1, "shop", nil)
		b.sql(1, "shop", "CREATE TABLE item(id INTEGER PRIMARY KEY)")
		b.level("shop")
		away := b.others(b.leader("shop"))[0]
		b.kill(away)
		on := b.leader("shop", away)
		b.alter(on, "shop", func(p *base.Policy) { p.Replicas = 2 })
		time.Sleep(time.Minute)
		if got := b.record(on, "shop").Replicas; len(got) != 3 {
			t.Errorf("replicas %v", got)
		}
		b.sql(on, "shop", "INSERT INTO item VALUES (1)")
		b.open(away)
		b.eventually("two are left", func() bool { return len(b.record(on, "shop").Counting.Replicas) == 2 })
		b.sql(on, "shop", "INSERT INTO item VALUES (2)")
	})
}

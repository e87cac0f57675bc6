package node_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/scramsecret"
	"github.com/skeindb/skein/internal/session"
)

// slow makes every message of a node's take its time, so that it hears of
// everything after the others have.
func (b *bubble) slow(id base.NodeID, d time.Duration) {
	for _, other := range b.others(id) {
		b.net.SetDelay(other, id, d)
		b.net.SetDelay(id, other, d)
	}
}

// told runs a command of an operator's through a node, and returns what there
// was to say of it and how long it took.
func (b *bubble) told(on base.NodeID, a catalog.Action) (string, time.Duration) {
	b.t.Helper()
	ctx, notices := base.WithNotices(b.t.Context())
	began := time.Now()
	if _, err := b.nodes[on].Propose(ctx, a); err != nil {
		b.t.Fatalf("%T through node %d: %v", a, on, err)
	}
	return strings.Join(notices.List(), " / "), time.Since(began)
}

// alter changes a policy through a node.
func (b *bubble) alter(on base.NodeID, name string, change func(*base.Policy)) (string, time.Duration) {
	b.t.Helper()
	db := b.record(on, name)
	change(&db.Policy)
	return b.told(on, catalog.AlterDatabase{Database: db.ID, Policy: db.Policy})
}

func durable(level base.Level) func(*base.Policy) {
	return func(p *base.Policy) { p.Durability.Level = level }
}

// reached says what a write through a node had reached when it was acknowledged.
func (b *bubble) reached(on base.NodeID, name, text string) string {
	b.t.Helper()
	s := b.session(on, name)
	defer s.Close()
	rows, err := s.Query(b.t.Context(), text, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	for rows.Next() {
	}
	if err := rows.Close(); err != nil {
		b.t.Fatal(err)
	}
	return rows.Result().Reached
}

// mayOpen says whether a user may do something on a node at this moment.
func (b *bubble) mayOpen(on base.NodeID, user, name string) bool {
	s, err := b.nodes[on].Gateway().Open(b.t.Context(), session.Options{User: user, Database: name})
	if err != nil {
		return false
	}
	defer s.Close()
	return true
}

// What an administrator does through any node is so on all of them when it is
// done, however late one of them hears of it.
func TestCommandsAreInForceEverywhereWhenTheyReturn(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, b *bubble) {
		b.slow(3, 30*time.Millisecond)
		b.create(3, "ready", nil)
		for on := range base.NodeID(3) {
			on++
			name, user := fmt.Sprintf("db%d", on), fmt.Sprintf("user%d", on)
			b.create(on, name, nil)
			for at := range b.nodes {
				b.session(at, name).Close()
			}
			everywhere := func(what string, want bool, is func(base.NodeID) bool) {
				t.Helper()
				for at := range b.nodes {
					if is(at) != want {
						t.Errorf("%s through node %d: on node %d it is not so", what, on, at)
					}
				}
			}
			done := func(a catalog.Action) {
				t.Helper()
				if notice, took := b.told(on, a); notice != "" || took > 500*time.Millisecond {
					t.Errorf("%T through node %d took %v: %q", a, on, took, notice)
				}
			}
			has := func(secret string) func(base.NodeID) bool {
				return func(at base.NodeID) bool {
					got, _ := b.nodes[at].Gateway().Credential(user)
					return got == secret
				}
			}
			first, second := credential(t, "first"), credential(t, "second")
			done(catalog.CreateUser{User: user, Credential: first})
			everywhere("user add", true, has(first))
			done(catalog.SetPassword{User: user, Credential: second})
			everywhere("user password", true, has(second))
			may := func(at base.NodeID) bool { return b.mayOpen(at, user, name) }
			done(catalog.Grant{User: user, Database: name, Right: catalog.RightRead})
			everywhere("user grant", true, may)
			done(catalog.Revoke{User: user, Database: name})
			everywhere("user revoke", false, may)
			done(catalog.DropUser{User: user})
			everywhere("user drop", true, has(""))
			b.alter(on, name, func(p *base.Policy) { p.Failover = base.FailoverManual })
			everywhere("db alter", true, func(at base.NodeID) bool { return b.record(at, name).Policy.Failover == base.FailoverManual })
			done(catalog.DropDatabase{Database: b.record(on, name).ID})
			everywhere("db drop", true, func(at base.NodeID) bool { _, err := b.nodes[at].Database(name); return err != nil })
		}
	})
}

// credential is the stored form of a password.
func credential(t *testing.T, password string) string {
	t.Helper()
	c, err := scramsecret.New(rand.Reader, password)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The leader acknowledges by a durability from when the command that asks for it
// returns, wherever it leads and whoever was asked.
func TestLeaderActsByItsPolicyWhenAlterReturns(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, b *bubble) {
		b.create(1, "shop", nil)
		b.sql(1, "shop", "CREATE TABLE item(id INTEGER PRIMARY KEY)")
		b.slow(2, 5*time.Millisecond)
		b.slow(3, 30*time.Millisecond)
		for leads := range base.NodeID(3) {
			leads++
			if _, err := b.nodes[1].Switchover(t.Context(), "shop", leads); err != nil {
				t.Fatal(err)
			}
			b.level("shop")
			for on := range base.NodeID(3) {
				on++
				for _, step := range []struct {
					level base.Level
					want  string
				}{{base.Async, "flushed on 1 of 3"}, {base.All, "flushed on 3 of 3"}} {
					notice, took := b.alter(on, "shop", durable(step.level))
					if notice != "" || took > 500*time.Millisecond {
						t.Errorf("%s through node %d while node %d leads took %v: %q", step.level, on, leads, took, notice)
					}
					b.sql(leads, "shop", "INSERT INTO item DEFAULT VALUES") // With it comes a lease, which the next need not wait for.
					if got := b.reached(leads, "shop", "INSERT INTO item DEFAULT VALUES"); got != step.want {
						t.Errorf("after %s through node %d while node %d leads, a write is %s", step.level, on, leads, got)
					}
				}
			}
		}
	})
}

// A node that can't be reached keeps no command waiting, and one that does not
// answer for a second at most: it is told which.
func TestNodesThatDoNotAnswerAreNamed(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, b *bubble) {
		b.create(1, "shop", nil)
		if _, err := b.nodes[1].Switchover(t.Context(), "shop", 2); err != nil {
			t.Fatal(err)
		}
		b.level("shop")
		b.net.Isolate(3)
		if notice, took := b.told(1, catalog.CreateUser{User: "ann", Credential: credential(t, "a")}); notice != "n3 has not heard of it yet" || took > 1100*time.Millisecond {
			t.Errorf("one that is silent: after %v %q", took, notice)
		}
		b.net.Rejoin(3)
		b.eventually("node 3 has heard", func() bool { _, ok := b.nodes[3].Gateway().Credential("ann"); return ok })
		b.net.Down(3)
		b.eventually("node 1 notices", func() bool { return !b.nodes[1].Reachable(3) })
		if notice, took := b.told(1, catalog.DropUser{User: "ann"}); notice != "n3 has not heard of it yet" || took > 100*time.Millisecond {
			t.Errorf("one that is gone: after %v %q", took, notice)
		}
		b.sql(1, "shop", "CREATE TABLE item(id INTEGER PRIMARY KEY)") // Which node 3 lacks.
		want := "n3 has not heard of it yet / n2, which leads shop, acknowledges only writes that 3 of 3 replicas have, and 2 of 3 as before; it does not hear n3"
		if notice, took := b.alter(1, "shop", durable(base.All)); notice != want || took > 1100*time.Millisecond {
			t.Errorf("a durability that can't be reached: after %v %q", took, notice)
		}
		b.net.Up(3)
		b.level("shop")
		b.eventually("the record has it", func() bool { return b.record(1, "shop").Counting.Copies == 3 })
		if notice, _ := b.alter(1, "shop", durable(base.Quorum)); notice != "" {
			t.Errorf("with all nodes back: %q", notice)
		}
	})
}

// The leader itself may be the one that does not answer.
func TestLeaderThatHasNotHeardIsNamed(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, b *bubble) {
		b.create(1, "shop", func(p *base.Policy) { p.Failover = base.FailoverManual })
		if _, err := b.nodes[1].Switchover(t.Context(), "shop", 2); err != nil {
			t.Fatal(err)
		}
		b.net.Isolate(2)
		want := "n2 has not heard of it yet; n2 leads shop and may go on by the old policy until it has"
		if notice, took := b.alter(1, "shop", durable(base.All)); notice != want || took > 2*time.Second {
			t.Errorf("after %v %q", took, notice)
		}
	})
}

// Whoever gave up waiting is not kept.
func TestIntakeEndsWithItsCaller(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, b *bubble) {
		b.create(1, "shop", nil)
		b.net.Isolate(3)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		began := time.Now()
		if _, err := b.nodes[1].Propose(ctx, catalog.CreateUser{User: "ann", Credential: credential(t, "a")}); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 250*time.Millisecond {
			t.Errorf("returned after %v", took)
		}
	})
}

// A leader whose epoch has yet to begin, since one follower is slow, does not
// ask the others for their leases over and over while a reader waits.
func TestReaderThatWaitsKeepsNobodyBusy(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, b *bubble) {
		b.create(1, "shop", durable(base.All))
		b.level("shop")
		b.slow(1, time.Millisecond)
		b.slow(2, time.Millisecond)
		b.slow(3, 300*time.Millisecond)
		before, began := b.messages.Load(), time.Now()
		if _, err := b.nodes[1].Switchover(t.Context(), "shop", b.others(b.leader("shop"))[0]); err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		if n := b.messages.Load() - before; n > int64(took/time.Millisecond)/2 {
			t.Errorf("%d messages in %v", n, took)
		}
		t.Logf("%d messages in %v", b.messages.Load()-before, took)
	})
}

package gateway_test

import (
	"testing"

	"github.com/skeindb/skein/internal/base"
)

// sticky is a session that keeps to one replica: to a named one, if that is given.
func (c *cluster) sticky(id base.NodeID, replica string) *client {
	c.t.Helper()
	s := c.session(id)
	for _, set := range [][2]string{{"skein.read", "sticky"}, {"skein.replica", replica}} {
		if err := s.Set(set[0], set[1]); err != nil {
			c.t.Fatal(err)
		}
	}
	return s
}

func (s *client) shows(name, want string) {
	s.t.Helper()
	if got, err := s.Show(s.t.Context(), name); err != nil || got != want {
		s.t.Errorf("%s is %q, %v; want %q", name, got, err, want)
	}
}

// Whoever keeps to a replica that is late reads there, from whatever node, and
// never moves by itself.
func TestStickyReadsKeepToOneReplica(t *testing.T) {
	run(t, 4, 3, func(t *testing.T, c *cluster) {
		writer := c.session(1)
		writer.do("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		writer.do("INSERT INTO item VALUES (1)")
		c.level()
		far, here := c.sticky(4, ""), c.sticky(3, "")
		far.expect("SELECT count(*) FROM item", "1")
		far.shows("skein.replica", "n2") // A follower's, as node 4 has none.
		here.expect("SELECT count(*) FROM item", "1")
		here.shows("skein.replica", "n3")
		c.net.Cut(1, 2)
		writer.do("INSERT INTO item VALUES (2)")
		far.expect("SELECT count(*) FROM item", "1")
		for _, id := range []base.NodeID{2, 3, 4} {
			c.sticky(id, "n2").expect("SELECT count(*) FROM item", "1")
		}
		far.do("BEGIN")
		far.expect("SELECT count(*) FROM item", "1")
		far.do("COMMIT")
		// What the session has written itself it must see: there is no other place.
		far.do("INSERT INTO item VALUES (3)")
		far.fails("SELECT count(*) FROM item", base.KindStale, "")
		far.shows("skein.replica", "n2")
		c.net.Heal(1, 2)
		c.level()
		far.expect("SELECT count(*) FROM item", "3")
	})
}

// When the replica is gone that is said, until the client lets it go.
func TestStickyReadsSayThatTheirReplicaIsGone(t *testing.T) {
	run(t, 4, 3, func(t *testing.T, c *cluster) {
		writer := c.session(1)
		writer.do("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		kept, open := c.sticky(4, ""), c.sticky(4, "n2")
		kept.expect("SELECT count(*) FROM item", "0")
		open.do("BEGIN")
		open.expect("SELECT count(*) FROM item", "0")
		c.close(2)
		for range 2 {
			kept.fails("SELECT count(*) FROM item", base.KindUnavailable, "")
			kept.shows("skein.replica", "n2")
		}
		open.fails("SELECT count(*) FROM item", base.KindConflict, "")
		open.do("ROLLBACK")
		c.sticky(4, "n9").fails("SELECT count(*) FROM item", base.KindUnavailable, "")
		c.sticky(3, "n2").fails("SELECT count(*) FROM item", base.KindUnavailable, "")
		if err := kept.Set("skein.replica", ""); err != nil {
			t.Fatal(err)
		}
		kept.expect("SELECT count(*) FROM item", "0")
		kept.shows("skein.replica", "n3")
		kept.do("INSERT INTO item VALUES (1)") // Writes go to the leader, as ever.
		kept.expect("SELECT count(*) FROM item", "1")
	})
}

// One that is frozen keeps its connections; it is not waited for without an end.
func TestStickyReadsDoNotWaitForASilentNode(t *testing.T) {
	run(t, 4, 3, func(t *testing.T, c *cluster) {
		c.session(1).do("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		kept := c.sticky(4, "n2")
		kept.expect("SELECT count(*) FROM item", "0")
		c.net.Cut(2, 4)
		kept.fails("SELECT count(*) FROM item", base.KindUnavailable, "")
		c.net.Heal(2, 4)
		kept.expect("SELECT count(*) FROM item", "0")
	})
}

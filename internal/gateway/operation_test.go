package gateway_test

import (
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/base"
)

// A write that its client has named is applied once, however often it is sent,
// at whichever node, before and after its leader died.
func TestNamedWritesAreAppliedOnce(t *testing.T) {
	run(t, 3, 3, func(t *testing.T, c *cluster) {
		s := c.session(2)
		s.do("CREATE TABLE item(id INTEGER PRIMARY KEY, n INTEGER)")
		insert := func(s *client, name string) error {
			s.do("SET skein.operation = '" + name + "'")
			_, _, err := s.try("INSERT INTO item(n) VALUES (1)")
			return err
		}
		outcome := func(s *client, name, want string) {
			t.Helper()
			s.do("SET skein.operation = '" + name + "'")
			s.expect("SHOW skein.outcome", want)
			s.do("RESET skein.operation")
		}
		outcome(s, "order-1", "not applied")
		for _, id := range []base.NodeID{1, 2, 3, 1} {
			other := c.session(id)
			if err := insert(other, "order-1"); err != nil {
				t.Fatalf("at node %d: %v", id, err)
			}
			outcome(other, "order-1", "applied")
			other.expect("SELECT count(*) FROM item", "1")
		}
		s.do("INSERT INTO item(n) VALUES (2)") // The name is used up: this is another write.
		s.expect("SELECT count(*) FROM item", "2")

		s.do("SET skein.operation = 'order-2'")
		s.do("BEGIN")
		s.do("INSERT INTO item(n) VALUES (3)")
		s.do("INSERT INTO item(n) VALUES (4)")
		s.do("COMMIT")
		c.level()
		c.close(c.record().Leader)
		c.elect()
		for _, id := range c.record().Replicas {
			if c.node(id) == nil {
				continue
			}
			other := c.session(id)
			if err := insert(other, "order-1"); err != nil {
				t.Fatalf("at node %d: %v", id, err)
			}
			outcome(other, "order-2", "applied")
			other.do("SET skein.operation = 'order-2'")
			other.do("BEGIN")
			if _, _, err := other.try("INSERT INTO item(n) VALUES (3)"); base.AsError(cmpErr(err)).Outcome != base.Done {
				t.Errorf("at node %d: %v", id, err)
			}
			other.do("ROLLBACK")
			other.expect("SELECT count(*) FROM item", "4")
		}
	})
}

// A name is for one write, and bounded.
func TestNamesOfWrites(t *testing.T) {
	run(t, 1, 1, func(t *testing.T, c *cluster) {
		s := c.session(1)
		s.do("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		s.fails("SET skein.operation = '"+strings.Repeat("x", 201)+"'", base.KindInvalid, "22023")
		s.do("SET skein.operation = 'a'")
		s.fails("INSERT INTO item VALUES ('no integer')", base.KindSQL, "")
		s.expect("SHOW skein.operation", "")
		s.do("SET skein.operation = 'a'")
		s.expect("SHOW skein.outcome", "not applied")
		s.do("INSERT INTO item VALUES (1) RETURNING id")
		s.do("SET skein.operation = 'a'")
		if _, _, err := s.try("INSERT INTO item VALUES (1) RETURNING id"); base.AsError(cmpErr(err)).Outcome != base.Done {
			t.Errorf("rows that are gone: %v", err)
		}
		// What a gateway names for itself can be asked for, too.
		s.do("INSERT INTO item VALUES (2)")
		s.expect("SHOW skein.outcome", "applied")
	})
}

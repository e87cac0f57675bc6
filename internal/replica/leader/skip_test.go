package leader_test

import (
	"testing"
	"time"

	"github.com/skeindb/skein/internal/replica/leader"
)

// An AUTOINCREMENT id that a lost leader has handed out is not handed out again,
// although nobody else has heard of it.
func TestIdsOfOrphansAreNotReused(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT)")
		c.write("CREATE TABLE other(id INTEGER PRIMARY KEY AUTOINCREMENT)")
		c.write("INSERT INTO item(name) VALUES ('kept'), ('kept')")
		c.level()
		c.mute(1, 2)
		c.mute(1, 3)
		lost := c.pending(1, request("INSERT INTO item(name) VALUES ('lost'), ('lost'), ('lost')"))
		time.Sleep(100 * time.Millisecond)
		c.elect(2, 3)
		<-lost
		c.heal(1, 2)
		c.heal(1, 3)
		c.write("INSERT INTO item(name) VALUES ('after')")
		c.write("INSERT INTO other DEFAULT VALUES")
		c.expect(c.record().Leader, "SELECT min(id) > 5 FROM item WHERE name = 'after'", "1")
		c.expect(c.record().Leader, "SELECT id FROM other", "1") // Nothing was ever handed out there.
		c.same()

		// A switchover skips nothing: its leader has told all.
		before := c.read(c.record().Leader, "SELECT max(id) FROM item")
		c.level()
		c.change(func(a *leader.Assignment) { a.Handed = true })
		target := c.record().Replicas[0]
		if target == c.record().Leader {
			target = c.record().Replicas[1]
		}
		c.promise(c.record().Leader)
		c.appoint(target)
		c.write("INSERT INTO item(name) VALUES ('next')")
		c.expect(c.record().Leader, "SELECT max(id) - 1 FROM item", before)
		c.same()
	})
}

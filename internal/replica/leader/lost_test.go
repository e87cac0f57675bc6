package leader_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
)

// losses are the ways in which a stopped replica loses what it had promised.
var losses = map[string]func(t *testing.T, c *cluster, id base.NodeID){
	"damaged": func(t *testing.T, c *cluster, id base.NodeID) { flip(t, c.dir(id)+"/replica.json", 30) },
	"cut off": func(t *testing.T, c *cluster, id base.NodeID) {
		if err := os.Truncate(c.dir(id)+"/replica.json", 10); err != nil {
			t.Fatal(err)
		}
	},
	"removed": func(t *testing.T, c *cluster, id base.NodeID) {
		if err := os.Remove(c.dir(id) + "/replica.json"); err != nil {
			t.Fatal(err)
		}
	},
	"folder removed": func(t *testing.T, c *cluster, id base.NodeID) {
		if err := os.RemoveAll(c.dir(id)); err != nil {
			t.Fatal(err)
		}
	},
}

// A replica that has lost its promises keeps the highest that it can have given:
// it acknowledges nothing to a leader whose successor may count on it, is no
// evidence in an election, and is copied when there is a later epoch.
func TestLostPromisesAreKept(t *testing.T) {
	for name, lose := range losses {
		t.Run(name, func(t *testing.T) {
			run(t, 3, nil, func(t *testing.T, c *cluster) {
				c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
				c.write("INSERT INTO item VALUES (1), (2)")
				c.level()
				c.promise(2) // For an epoch that is not recorded: 1 must not count on it any more.
				c.stop(2)
				lose(t, c, 2)
				c.stop(3)
				c.open(2)
				time.Sleep(time.Second)
				if e := c.replica(2).Resting(); e != c.record().Epoch {
					t.Errorf("it plays its part in an epoch whose end it had promised: resting in %d", e)
				}
				if reply := c.promiseProbe(2); !reply.Fresh {
					t.Error("it votes as if it had never had anything")
				}
				lost := c.pending(1, request("INSERT INTO item VALUES (3)"))
				time.Sleep(time.Second)
				select {
				case o := <-lost:
					t.Fatalf("a write is acknowledged with its help: %+v", o)
				default:
				}
				c.open(3)
				if best := c.elect(1, 2, 3); best == 2 {
					t.Error("it was elected")
				}
				c.write("INSERT INTO item VALUES (4)")
				c.eventually("it is copied", func() bool { return c.copied(2) })
				c.same()
				aside, _ := filepath.Glob(c.dir(2) + "/replica.json.corrupt-*")
				if want := name == "damaged" || name == "cut off"; (len(aside) == 1) != want {
					t.Errorf("set aside: %v", aside)
				}
				<-lost
			})
		})
	}
}

// The only replica goes on with its log and file, in a later epoch; without them
// it says so, and is no empty database.
func TestTheOnlyReplicaLosesItsPromises(t *testing.T) {
	for name, lose := range losses {
		t.Run(name, func(t *testing.T) {
			run(t, 1, nil, func(t *testing.T, c *cluster) {
				c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
				c.expect(1, "SELECT count(*) FROM item", "0")
				time.Sleep(time.Second)
				c.write("INSERT INTO item VALUES (1), (2)")
				c.kill(1) // SQLite has not committed what the log has.
				lose(t, c, 1)
				m := c.open(1)
				if name == "folder removed" {
					c.name(1)
					err := <-m.done
					if base.KindOf(err) != base.KindCorrupt || !strings.Contains(err.Error(), "is gone") {
						t.Errorf("it ended with %v", err)
					}
					m.wire.Close()
					c.mu.Lock()
					delete(c.mu.members, 1)
					c.mu.Unlock()
					return
				}
				time.Sleep(time.Second)
				if epoch, _ := c.replica(1).Leading(); epoch != 0 {
					t.Errorf("it leads epoch %d, which it may have led before", epoch)
				}
				c.appoint(1)
				c.expect(1, "SELECT count(*) FROM item", "2")
			})
		})
	}
}

package leader_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/replica/leader"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/transport"
)

// fill writes some megabytes.
func (c *cluster) fill(megabytes int) {
	c.t.Helper()
	for range 4 * megabytes {
		c.write("INSERT INTO item(data) VALUES (randomblob(262144))")
	}
}

func (c *cluster) copied(id base.NodeID) bool {
	s := c.replica(id).Status()
	return s.Role == replica.RoleFollower && s.LogStart > 1 && s.Error == ""
}

func TestANewFollowerGetsSnapshotThenLog(t *testing.T) {
	run(t, 2, func(p *base.Policy) { p.RetentionBytes = 1 << 20 }, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, data BLOB)")
		c.fill(40)
		c.eventually("the log was trimmed", func() bool { return c.replica(1).Status().LogStart > 1 })
		c.open(3)
		c.change(func(a *leader.Assignment) { a.Replicas = []base.NodeID{1, 2, 3} })
		c.eventually("node 3 was copied", func() bool { return c.copied(3) })
		c.eventually("node 3 counts", func() bool { return c.record().Counting.Has(3) })
		c.write("INSERT INTO item VALUES (-1, NULL)")
		c.same()
		if s := c.replica(3).Status(); s.Copied == 0 || s.Copied != s.CopyTotal {
			t.Errorf("copied %d of %d bytes", s.Copied, s.CopyTotal)
		}
	})
}

// A follower that was away too long finds its place trimmed, and is copied; a
// short absence costs only the log.
func TestAFollowerThatWasAway(t *testing.T) {
	run(t, 3, func(p *base.Policy) { p.RetentionBytes = 8 << 20 }, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, data BLOB)")
		c.stop(3)
		c.fill(1)
		c.open(3)
		c.same()
		if c.copied(3) {
			t.Error("copied after a short absence")
		}
		c.stop(3)
		c.fill(60)
		c.eventually("the log was trimmed", func() bool { return c.replica(1).Status().LogStart > 10 })
		c.open(3)
		c.eventually("node 3 was copied", func() bool { return c.copied(3) })
		c.same()
	})
}

// A leader whose log is damaged where a follower needs it sends a copy of the
// database, which has all of it.
func TestAFollowerNeedsWhatIsDamagedInTheLeadersLog(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, data BLOB)")
		c.level()
		c.stop(3)
		c.fill(8) // More than is kept in memory.
		segments, err := filepath.Glob(c.dir(1) + "/log/segment-*")
		if err != nil || len(segments) < 2 {
			t.Fatalf("%d segments, %v", len(segments), err)
		}
		flip(t, segments[1], 100_000)
		c.open(3)
		c.eventually("node 3 was copied", func() bool { return c.copied(3) })
		c.write("INSERT INTO item VALUES (-1, NULL)")
		c.same()
		c.stop(3)
		c.fill(1)
		c.open(3)
		c.same()
		if s := c.replica(3).Status(); s.Copied != 0 {
			t.Error("copied again after a short absence")
		}
	})
}

// saboteur spoils what a node serves of its snapshots.
type saboteur struct {
	transport.ReadAtCloser

	mu    *sync.Mutex // guards the fields below
	reads *int
	spoil func(read int, p []byte) error
}

func (s *saboteur) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.ReadAtCloser.ReadAt(p, off)
	s.mu.Lock()
	defer s.mu.Unlock()
	*s.reads++
	if spoilt := s.spoil(*s.reads, p[:n]); spoilt != nil {
		return 0, spoilt
	}
	return n, err
}

// Damage on the way is noticed and fetched again; a fetch that breaks off goes
// on where it was.
func TestAFetchedSnapshotIsCheckedAndResumed(t *testing.T) {
	for name, spoil := range map[string]func(read int, p []byte) error{
		"flipped byte": func(read int, p []byte) error {
			if read == 20 {
				p[len(p)/2] ^= 1
			}
			return nil
		},
		"breaks off": func(read int, p []byte) error {
			if read%17 == 0 {
				return fmt.Errorf("the disk hums")
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, 2, nil, func(t *testing.T, c *cluster) {
				c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, data BLOB)")
				c.fill(8)
				c.level()
				var mu sync.Mutex
				reads := 0
				c.spoilt = func(f transport.ReadAtCloser) transport.ReadAtCloser {
					return &saboteur{ReadAtCloser: f, mu: &mu, reads: &reads, spoil: spoil}
				}
				c.stop(2)
				c.damageFile(2)
				c.open(2)
				c.eventually("node 2 was copied", func() bool { return c.copied(2) })
				c.same()
			})
		})
	}
}

// damageFile overwrites the header of a stopped node's database.
func (c *cluster) damageFile(id base.NodeID) {
	c.t.Helper()
	flip(c.t, c.file(id), 3)
	for _, suffix := range []string{"-wal", "-shm"} {
		os.Remove(c.file(id) + suffix)
	}
}

// Damage to the log is found when it is opened; the log is set aside for a
// person to see, and the replica is copied.
func TestADamagedLogIsSetAside(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.write("INSERT INTO item VALUES (1), (2)")
		c.level()
		c.damageLog(2)
		c.eventually("node 2 was copied", func() bool { return c.copied(2) })
		if aside, _ := filepath.Glob(c.dir(2) + "/log.corrupt-1/*"); len(aside) == 0 {
			t.Error("the damaged log is gone")
		}
		c.write("INSERT INTO item VALUES (3)")
		c.same()
	})
}

// The only replica has nobody to copy from: it goes on with what its file holds.
func TestTheOnlyReplicaGoesOnWithItsFile(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.write("INSERT INTO item VALUES (1), (2)")
		c.damageLog(1)
		// Also when it is started once more before it is given an epoch.
		c.stop(1)
		c.open(1)
		c.appoint(1)
		c.write("INSERT INTO item VALUES (3)")
		c.expect(1, "SELECT count(*) FROM item", "3")
		c.stop(1)
		c.open(1)
		c.appoint(1)
		c.expect(1, "SELECT count(*) FROM item", "3")
	})
}

// The same of a database in which nothing was ever written.
func TestTheOnlyReplicaOfAnEmptyDatabaseLosesItsLog(t *testing.T) {
	dir := t.TempDir()
	run(t, 1, nil, func(t *testing.T, c *cluster) {
		c.stop(1)
		if err := os.RemoveAll(c.dir(1)); err != nil {
			t.Fatal(err)
		}
		c.forget(1) // It is new, and not a lost one.
		c.open(1)
		c.stop(1)
		if err := os.Rename(c.dir(1)+"/log", dir+"/log"); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(c.dir(1)+"/log", 0o700); err != nil {
			t.Fatal(err)
		}
		c.open(1)
		c.appoint(1)
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
	})
}

// A power cut may keep SQLite's writes and lose the log's: nobody was told of
// them. With others there the replica is copied, alone it takes them over.
func TestAFileAheadOfItsLog(t *testing.T) {
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprint(n, " replicas"), func(t *testing.T) {
			run(t, n, nil, func(t *testing.T, c *cluster) {
				last := base.NodeID(n)
				c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
				c.write("INSERT INTO item VALUES (1)")
				c.level()
				saved := filepath.Join(c.root, "log")
				c.stop(last)
				if err := os.CopyFS(saved, os.DirFS(c.dir(last)+"/log")); err != nil {
					t.Fatal(err)
				}
				c.open(last)
				if n == 1 {
					c.appoint(1)
				}
				c.write("INSERT INTO item VALUES (2)")
				c.level()
				c.stop(last)
				if err := os.RemoveAll(c.dir(last) + "/log"); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(saved, c.dir(last)+"/log"); err != nil {
					t.Fatal(err)
				}
				c.open(last)
				if n == 1 {
					c.appoint(1)
				} else {
					c.eventually("it was copied", func() bool { return c.copied(last) })
				}
				c.write("INSERT INTO item VALUES (3)")
				c.same()
				c.expect(last, "SELECT count(*) FROM item", "3")
			})
		})
	}
}

// asker is who asks for a snapshot and fetches nothing.
type asker struct{ transport.Stream }

func (asker) Send([]byte) error     { return nil }
func (asker) Recv() ([]byte, error) { return nil, io.EOF }

// A copy that was made before its maker's tail was undone is not given out.
func TestASnapshotOfAnUndoneHistoryIsNotServed(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		c.mute(1, 2)
		c.mute(1, 3)
		lost := c.pending(1, request("INSERT INTO item VALUES (1)"))
		time.Sleep(50 * time.Millisecond)
		if err := c.replica(1).ServeSnapshot(t.Context(), asker{}); err != nil {
			t.Fatal(err)
		}
		c.elect(2, 3)
		<-lost
		c.heal(1, 2)
		c.heal(1, 3)
		c.same()
		if c.elect(1, 2, 3) != 1 {
			t.Fatal("another was elected")
		}
		c.same()
		c.damageLog(2)
		c.eventually("node 2 was copied", func() bool { return c.copied(2) })
		c.same()
		c.expect(2, "SELECT count(*) FROM item", "0")
	})
}

func TestImport(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		path := c.root + "/import.sqlite"
		e := env.Real(quiet())
		c.makeFile(path, "CREATE TABLE item(id INTEGER PRIMARY KEY, name); INSERT INTO item VALUES (1, 'imported'); CREATE INDEX i ON item(name)")
		if err := leader.CheckImport(t.Context(), e, path); err != nil {
			t.Fatal(err)
		}
		tx, err := c.replica(1).BeginRead(t.Context(), replica.ReadRequest{}) // An idle reader is in nobody's way.
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Close()
		at, err := c.replica(1).Import(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if s := c.replica(1).Status(); s.Safe < at.Seq {
			t.Errorf("imported at %v, safe %d", at, s.Safe)
		}
		c.write("INSERT INTO item VALUES (2, 'written')")
		c.same()
		for _, id := range c.ids() {
			c.expect(id, "SELECT group_concat(name) FROM item", "imported,written")
		}
		// A database that holds something takes no other.
		c.makeFile(path, "CREATE TABLE other(id)")
		if err := leader.CheckImport(t.Context(), e, path); err != nil {
			t.Fatal(err)
		}
		_, err = c.replica(1).Import(t.Context(), path)
		wantKind(t, err, base.KindExists, base.NotDone)
		// The imported history survives its leader, once both copies are known to
		// be whole.
		c.eventually("both copies are evidence", func() bool { return !c.promiseProbe(2).Fresh && !c.promiseProbe(3).Fresh })
		c.kill(1)
		c.elect(2, 3)
		c.eventually("another serves", func() bool { _, ok := c.replica(c.record().Leader).Leading(); return ok })
		c.write("INSERT INTO item VALUES (3, 'after')")
		c.open(1)
		c.same()
	})
}

func (c *cluster) makeFile(path, sql string) {
	c.t.Helper()
	conn, err := sqlite.OpenConn(c.t.Context(), path, sqlite.ConnOptions{Role: sqlite.RoleWriter})
	if err == nil {
		err = conn.Exec(sql)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		c.t.Fatal(err)
	}
}

// A folder of another database or cluster is refused.
func TestAFolderOfAnotherDatabaseIsRefused(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, c *cluster) {
		m := c.member(1)
		_, err := leader.Open(t.Context(), env.Real(quiet()), leader.Options{Dir: c.dir(1), Cluster: 2, Database: database, Name: "shop", Transport: m.wire})
		if base.KindOf(err) != base.KindWrongCluster || !strings.Contains(err.Error(), "belongs to database 7") {
			t.Errorf("got %v", err)
		}
	})
}

// Names that a peer may not ask for.
func TestOnlySnapshotsAreServed(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, c *cluster) {
		for _, name := range []string{"", "../shop.sqlite", "..", "a/b.sqlite", `a\b.sqlite`, "shop.json", "gone.sqlite"} {
			if _, _, err := c.replica(1).OpenSnapshot(name); base.KindOf(err) != base.KindNotFound {
				t.Errorf("%q: %v", name, err)
			}
		}
	})
}

package leader_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica/leader"
	"github.com/skeindb/skein/internal/transport"
)

func pagesPolicy(p *base.Policy) { p.LogFormat = base.FormatWAL }

// image is a copy of a replica's file, as a checkpoint leaves it, and where it stands.
func (c *cluster) image(id base.NodeID) ([]byte, base.Position) {
	c.t.Helper()
	path := fmt.Sprintf("%s/image-%d", c.root, id)
	at, err := c.replica(id).WriteSnapshot(c.t.Context(), path)
	if err != nil {
		c.t.Fatalf("copy of node %d: %v", id, err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		c.t.Fatal(err)
	}
	return b, at
}

// sameFiles checks that all replicas are byte for byte the leader.
func (c *cluster) sameFiles() {
	c.t.Helper()
	c.level()
	want, at := c.image(c.record().Leader)
	for _, id := range c.ids() {
		got, there := c.image(id)
		if at != there || !bytes.Equal(got, want) {
			c.t.Fatalf("node %d at %v has %d bytes, and the leader at %v has %d; they differ", id, there, len(got), at, len(want))
		}
	}
}

// TestPagesMakeFollowersTheSameByteForByte compares files while the schema
// changes, the file is vacuumed, and checkpoints run.
func TestPagesMakeFollowersTheSameByteForByte(t *testing.T) {
	run(t, 3, pagesPolicy, func(t *testing.T, c *cluster) {
		c.makeTables()
		c.write("CREATE VIRTUAL TABLE words USING fts5(w)")
		w := workload{rand.New(rand.NewPCG(11, 1))}
		for i := range 12 {
			c.work(w, 25)
			c.write("INSERT INTO words SELECT note || ' and ' || id FROM child")
			if i%3 == 2 {
				c.write("DELETE FROM words WHERE rowid % 3 > 0")
				c.write("VACUUM")
			}
			c.sameFiles()
		}
		c.same()
	})
}

// TestPagesReachAFileThatIsVacuumed checks that followers' files get smaller.
func TestPagesReachAFileThatIsVacuumed(t *testing.T) {
	run(t, 2, pagesPolicy, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE t(a)")
		c.write("INSERT INTO t SELECT randomblob(2000) FROM generate_series(1, 2000)")
		c.sameFiles()
		before, _ := c.image(2)
		c.write("DELETE FROM t WHERE rowid % 20 > 0")
		if r := c.write("VACUUM"); r.Tag != "VACUUM" {
			t.Errorf("answered %q", r.Tag)
		}
		c.sameFiles()
		// What was deleted is kept aside as well, and is in the file.
		after, _ := c.image(2)
		if len(after) >= len(before) {
			t.Errorf("%d bytes became %d", len(before), len(after))
		}
		c.write("INSERT INTO t VALUES ('behind it')")
		c.sameFiles()
		c.expect(2, "SELECT count(*) FROM t", "101")
	})
}

// TestVacuumIsForPagesAndNotForTransactions checks who may vacuum.
func TestVacuumIsForPagesAndNotForTransactions(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, c *cluster) {
		_, err := c.try(1, request("VACUUM"))
		wantKind(t, err, base.KindUnsupported, base.NotDone)
		c.alterFormat(base.FormatWAL)
		c.write("VACUUM")
		for _, sql := range []string{"VACUUM INTO '/tmp/x'", "VACUUM main INTO '/tmp/x'", `VACUUM "main" INTO '/tmp/x'`, "VACUUM temp"} {
			if _, err := c.try(1, request(sql)); base.KindOf(err) != base.KindUnsupported {
				t.Errorf("%s: %v", sql, err)
			}
		}
		q := request("CREATE TABLE t(a)")
		q.Statements = append(q.Statements, statement("VACUUM"))
		if _, err := c.try(1, q); base.KindOf(err) != base.KindUnsupported {
			t.Errorf("in a transaction: %v", err)
		}
	})
}

// countCopies counts the files that are fetched.
func (c *cluster) countCopies() *atomic.Int64 {
	n := new(atomic.Int64)
	c.spoil(func(f transport.ReadAtCloser) transport.ReadAtCloser { n.Add(1); return f })
	return n
}

// TestPagesGoOnAfterAFailover checks that files that are the same stay so under
// another leader, and that nobody copies one for it.
func TestPagesGoOnAfterAFailover(t *testing.T) {
	run(t, 3, pagesPolicy, func(t *testing.T, c *cluster) {
		c.makeTables()
		w := workload{rand.New(rand.NewPCG(12, 1))}
		c.work(w, 30)
		c.sameFiles()
		copies := c.countCopies()
		for range 4 {
			old := c.record().Leader
			c.stop(old)
			c.elect(c.ids()...)
			c.eventually("another serves", func() bool { _, ok := c.replica(c.record().Leader).Leading(); return ok })
			c.work(w, 20)
			c.open(old)
			c.sameFiles()
		}
		if n := copies.Load(); n != 0 {
			t.Errorf("%d copies were made", n)
		}
	})
}

// TestPagesAreNotAppliedToAnotherFile goes over to pages and back: each time the
// followers have files of their own, and need the leader's.
func TestPagesAreNotAppliedToAnotherFile(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.makeTables()
		copies := c.countCopies()
		w := workload{rand.New(rand.NewPCG(13, 1))}
		for round := range int64(3) {
			c.alterFormat(base.FormatRow)
			c.work(w, 20)
			c.same()
			for _, id := range []base.NodeID{2, 3} { // What they know of their files is in the files.
				c.stop(id)
				c.open(id)
			}
			c.same()
			c.alterFormat(base.FormatWAL)
			c.work(w, 20)
			c.sameFiles()
			if n := copies.Load(); n != 2*(round+1) {
				t.Fatalf("%d copies in round %d", n, round)
			}
		}
	})
}

// held is a file that can't be read before it is let go.
type held struct {
	transport.ReadAtCloser
	free chan struct{}
}

func (h held) ReadAt(b []byte, at int64) (int, error) {
	select {
	case <-h.free:
		return h.ReadAtCloser.ReadAt(b, at)
	case <-time.After(time.Minute):
		return 0, io.ErrUnexpectedEOF
	}
}

// TestAFollowerWithoutTheFileIsStillEvidence loses the leader while both
// followers fetch its file: they have everything that was acknowledged.
func TestAFollowerWithoutTheFileIsStillEvidence(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE t(a)")
		c.write("INSERT INTO t VALUES ('kept')")
		free := make(chan struct{})
		c.spoil(func(f transport.ReadAtCloser) transport.ReadAtCloser { return held{f, free} })
		c.alterFormat(base.FormatWAL)
		late := make(chan error, 1)
		go func() {
			_, err := c.try(1, request("INSERT INTO t VALUES ('late')"))
			late <- err
		}()
		time.Sleep(5 * time.Second)
		if e, ok := c.replica(1).Leading(); !ok || e != 1 {
			t.Error("the leader has lost its lease, although its followers hear it")
		}
		select {
		case err := <-late:
			t.Errorf("acknowledged by followers that can't apply it: %v", err)
		default:
		}
		c.isolate(1)
		c.elect(2, 3)
		c.spoil(nil)
		close(free)
		c.eventually("another serves", func() bool { _, ok := c.replica(c.record().Leader).Leading(); return ok })
		<-late
		c.write("INSERT INTO t VALUES ('next')")
		c.rejoin(1)
		c.sameFiles()
		c.expect(1, "SELECT group_concat(a) FROM t", "kept,next")
	})
}

// TestPagesThatAreUndoneAreListed checks that a tail of pages is told as rows.
func TestPagesThatAreUndoneAreListed(t *testing.T) {
	run(t, 3, pagesPolicy, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE t(a, b)")
		c.sameFiles()
		copies := c.countCopies()
		c.isolate(1)
		q := request("INSERT INTO t VALUES (1, 'lost'), (2, 'too')")
		q.Durability = base.Durability{Level: base.Async, When: base.Flushed}
		if _, err := c.try(1, q); err != nil {
			t.Fatal(err)
		}
		c.elect(2, 3)
		c.eventually("another serves", func() bool { _, ok := c.replica(c.record().Leader).Leading(); return ok })
		c.rejoin(1)
		c.write("INSERT INTO t VALUES (3, 'kept')")
		c.sameFiles()
		list, err := c.replica(1).Orphans(t.Context(), 10)
		if err != nil || len(list) != 2 || list[0].Table != "t" || string(list[1].New[1].Bytes) != "lost" {
			t.Errorf("%+v, %v", list, err)
		}
		if n := copies.Load(); n != 0 {
			t.Errorf("%d copies were made for a tail that can be undone", n)
		}
	})
}

// TestPagesInTheLogAreShown checks what a person sees of page entries.
func TestPagesInTheLogAreShown(t *testing.T) {
	run(t, 1, pagesPolicy, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE t(a)")
		c.write("INSERT INTO t VALUES ('shown')")
		c.write("VACUUM")
		var last []leader.LogEntry
		x, err := c.replica(1).ShowLog(t.Context(), leader.LogQuery{}, func(e leader.LogEntry) error {
			last = append(last, e)
			return nil
		})
		if err != nil || x.Found != 0 || len(last) < 5 {
			t.Fatalf("%+v, %+v, %v", x, last, err)
		}
		insert := last[len(last)-3]
		if insert.Kind != "wal" || len(insert.Changes) != 1 || insert.Changes[0].Table != "t" || !strings.Contains(insert.Note, " pages, ") {
			t.Errorf("%+v", insert)
		}
	})
}

// TestPagesWhereFilesStartOver has logs and WALs so small that everything starts over often.
func TestPagesWhereFilesStartOver(t *testing.T) {
	run(t, 2, pagesPolicy, func(t *testing.T, c *cluster) {
		c.small = true
		for id := range base.NodeID(2) {
			c.stop(id + 1)
			c.open(id + 1)
		}
		c.appoint(1)
		c.write("CREATE TABLE t(a)")
		for range 40 {
			c.write("INSERT INTO t SELECT randomblob(3000) FROM generate_series(1, 10)")
			c.write("DELETE FROM t WHERE rowid % 3 = 0")
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Second)
		c.sameFiles()
		info, err := os.Stat(c.file(2) + "-wal")
		if err != nil || info.Size() > 1<<20 {
			t.Errorf("the WAL of the follower does not start over: %v, %v", info.Size(), err)
		}
	})
}

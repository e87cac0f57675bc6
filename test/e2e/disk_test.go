package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/skeindb/skein/test/process"
)

// smallDisk mounts a disk of so many bytes for a node's data folder.
func smallDisk(t *testing.T, n *node, bytes int) {
	t.Helper()
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", n.dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		t.Skipf("a small disk cannot be mounted here (that needs root): %v", err)
	}
	t.Cleanup(func() {
		n.kill()
		if err := syscall.Unmount(n.dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", n.dir, err)
		}
	})
}

// fill takes what is left of a node's disk but for a little.
func fill(t *testing.T, n *node, but uint64) (ballast string) {
	t.Helper()
	ballast = n.dir + "/ballast"
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var s syscall.Statfs_t
	if err := syscall.Statfs(n.dir, &s); err != nil {
		t.Fatal(err)
	}
	free := s.Bavail * uint64(s.Bsize)
	if free > but {
		// The node writes meanwhile, so that there may be less room by now.
		if _, err := f.Write(make([]byte, free-but)); err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	return ballast
}

// A full disk on a follower holds up nobody; one on the leader is told to
// clients or another leads. With room again all is well, and nothing is lost.
func TestDiskFull(t *testing.T) {
	full(t)
	t.Run("follower", func(t *testing.T) { diskFull(t, false, 1<<20) })
	for _, left := range []uint64{1 << 20, 64 << 10, 0} {
		t.Run(fmt.Sprintf("leader/%d KiB left", left>>10), func(t *testing.T) { diskFull(t, true, left) })
	}
}

func diskFull(t *testing.T, atLeader bool, left uint64) {
	c := newCluster(t, 3)
	for _, n := range c.nodes {
		n.child = &child{process.Ended(n.name), &process.Output{}} // smallDisk's cleanup kills whatever runs by then.
		smallDisk(t, n, 96<<20)
	}
	c.startAll()
	exec1(t, c.nodes[0].mustConnect("main"), ledgerTable+"; create table bulk(id integer primary key, x blob)")
	victim := c.leader("main")
	if !atLeader {
		victim = c.others(victim)[0]
	}
	w := startWriters(t, "main", c.nodes...)
	w.progress(10)
	ballast := fill(t, victim, left)
	other := c.others(victim)[0]
	filler := other.mustConnect("main")
	refused, done := 0, 0
	for range 20 {
		_, err := filler.Exec(background(t), "insert into bulk(x) values(randomblob(300000))")
		switch {
		case err == nil:
			done++
		case sqlState(err) == "":
			t.Fatalf("a write through another node: %v", err)
		default:
			if refused++; refused == 1 {
				t.Logf("the first refusal: %v", err)
			}
			told(t, "the filler", err)
			time.Sleep(50 * time.Millisecond) // A client that tries again does not do so at once.
		}
	}
	t.Logf("%d writes done, %d refused; leader %v", done, refused, c.leader("main").name)
	if !victim.running() {
		t.Errorf("the node with the full disk has ended: %s", tail(victim.output.String(), 300))
	}
	if atLeader && refused > 0 {
		eventually(t, patience, "a node with room leads", func() error {
			if c.leader("main") == victim {
				return fmt.Errorf("%s still leads", victim.name)
			}
			return nil
		})
	}
	for line := range strings.Lines(mustRun(t, other.url(), "status")) {
		if strings.Contains(line, "Alerts") || strings.Contains(line, "critical") || strings.Contains(line, "warning") || strings.Contains(line, victim.name+" ") {
			t.Logf("%s", strings.TrimRight(line, "\n"))
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "the cluster is whole with room again", func() error {
		s, err := other.status()
		if err != nil {
			return err
		}
		return playing(s, "main", 3)
	})
	c.whole("main")
	w.progress(10)
	w.verify("main", c.nodes...)
	c.equal("main", 3)
	for _, l := range w.ledgers {
		if len(l.errs) > 0 {
			t.Logf("client of %s: %d errors, the first %v", l.node.name, len(l.errs), l.errs[0])
		}
		for _, err := range l.errs {
			told(t, "the client of "+l.node.name, err)
		}
	}
}

// told expects that a client was refused for lack of room, or asked to try again
// while the leader changed, and that nothing of what it wanted was done.
func told(t *testing.T, who string, err error) {
	t.Helper()
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || e.Code != "53100" && e.Code != "57P03" || !strings.HasPrefix(e.Detail, "not done") {
		detail := ""
		if ok {
			detail = e.Detail
		}
		t.Errorf("%s was told %v (%s), want 53100, not done", who, err, detail)
	}
}

// A bit that flips in the database file while the node is down, in the file's
// header, a page of a tree or a row, is noticed and the replica copied anew,
// without a person.
func TestFlippedBitInTheDatabaseFile(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	conn := c.nodes[0].mustConnect("main")
	exec1(t, conn, "create table t(id integer primary key, v text); insert into t select value, 'row number ' || value from generate_series(1, 5000)")
	c.equal("main", 3)
	for _, place := range []string{"header", "interior", "row"} {
		victim := c.others(c.leader("main"))[0]
		victim.stop(t)
		path := mainFolder(t, victim) + "/main.sqlite"
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := map[string]int{"header": 17, "interior": 4096*3 + 5, "row": strings.Index(string(data), "row number 2500") + 4}[place]
		flip(t, path, int64(at))
		victim.start()
		c.whole("")
		c.whole("main")
		c.equal("main", 3)
		told := false
		for line := range strings.Lines(victim.output.String()) {
			if strings.Contains(line, "level=ERROR") || strings.Contains(line, "level=WARN") {
				t.Logf("a flip in %s: %s", place, tail(strings.TrimSpace(line), 300))
				told = true
			}
		}
		if !told {
			t.Errorf("a flip in %s was healed without a word, or not noticed", place)
		}
	}
}

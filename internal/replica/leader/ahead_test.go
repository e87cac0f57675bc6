package leader_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env/crashfs"
	"github.com/skeindb/skein/internal/leadership"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/replica/leader"
	"github.com/skeindb/skein/internal/sqlite"
)

// executing says whether SQLite has a transaction open in a replica's file.
func (c *cluster) executing(id base.NodeID) bool {
	c.t.Helper()
	conn, err := sqlite.OpenConn(context.Background(), c.file(id), sqlite.ConnOptions{Role: sqlite.RoleApplier, BusyTimeout: time.Millisecond})
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	err = conn.BeginImmediate()
	if err != nil && base.KindOf(err) != base.KindBusy {
		c.t.Fatal(err)
	}
	return err != nil
}

// goAhead writes an item that nodes 1 and 2 have, and 3 has not, so that it is
// not safe, while node 2 is read.
func (c *cluster) goAhead(t *testing.T) (answered chan error) {
	t.Helper()
	c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
	c.write("INSERT INTO item VALUES (0)")
	c.level()
	c.mute(1, 3)
	c.expect(2, "SELECT count(*) FROM item", "1")
	answered = make(chan error, 1)
	go func() {
		_, err := c.try(1, request("INSERT INTO item VALUES (1)"))
		answered <- err
	}()
	synctest.Wait()
	if !c.executing(2) {
		t.Error("a follower that is read does not execute what it has received")
	}
	c.expect(2, "SELECT count(*) FROM item", "1")
	if got := c.inFile(2, "SELECT count(*) FROM item"); got != "1" {
		t.Errorf("the follower's file holds %s items before the second is safe", got)
	}
	if s := c.replica(2).Status(); s.Applied.Seq >= s.Appended.Seq {
		t.Errorf("a follower says that it has applied %v, which is not safe", s.Applied)
	}
	return answered
}

func onAll(p *base.Policy) { p.Durability.Level = base.All }

// A follower that is read executes what it receives, and shows it when it is
// safe, not before.
func TestReadFollowerGoesAhead(t *testing.T) {
	run(t, 3, onAll, func(t *testing.T, c *cluster) {
		answered := c.goAhead(t)
		c.heal(1, 3)
		if err := <-answered; err != nil {
			t.Fatal(err)
		}
		c.level()
		synctest.Wait()
		if c.executing(2) {
			t.Error("what is safe is not committed")
		}
		c.expect(2, "SELECT count(*) FROM item", "2")
		c.same()
	})
}

// What a follower has executed, and never becomes safe, leaves nothing behind.
func TestWhatWasExecutedAheadIsUndone(t *testing.T) {
	run(t, 3, onAll, func(t *testing.T, c *cluster) {
		answered := c.goAhead(t)
		c.net.Down(1)
		time.Sleep(time.Second) // Its lease is over, and an operator takes the loss.
		c.name(3)
		c.net.Up(1)
		c.heal(1, 3)
		<-answered
		c.write("INSERT INTO item VALUES (2)")
		c.eventually("node 2 follows", func() bool {
			got, err := c.query(2, replica.ReadRequest{}, "SELECT max(id) FROM item")
			return err == nil && got == "2"
		})
		c.expect(2, "SELECT group_concat(id) FROM item", "0,2")
		c.same()
	})
}

// What a follower shows may be in its file before it is in its log on disk. When
// the power goes then, whatever is left of the two, the replica goes on without
// a copy, and nothing that was shown is lost.
func TestPowerCutAfterAnEarlyCommit(t *testing.T) {
	p := &plant{t: t}
	vfs := p.register("early")
	var left map[base.NodeID]*crashfs.Disk
	synctestRun(t, func(t *testing.T) { left = showEarly(t, vfs) })
	early := 0
	for seed := range uint64(120) {
		if t.Failed() || !synctestRun(t, func(t *testing.T) { early += goOnAfter(t, vfs, left, seed) }) {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("%d of 120 power cuts have left a file that is ahead of its log", early)
	if early == 0 {
		t.Error("no power cut has left a file that is ahead of its log")
	}
}

// showEarly is the disks at a moment when node 2 shows a row that its log has not
// flushed.
func showEarly(t *testing.T, vfs *mounts) map[base.NodeID]*crashfs.Disk {
	c := &cluster{t: t, vfs: vfs.name, disks: make(map[base.NodeID]*crashfs.Disk)}
	c.start(asyncOfThree())
	c.openAll(vfs)
	defer c.close()
	c.appoint(1)
	c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
	c.write("INSERT INTO item VALUES (0)")
	c.level()
	c.stop(2)
	c.open(2) // With an empty -wal: what is in the file is on disk.
	c.level()
	var held atomic.Bool
	release := make(chan struct{})
	defer close(release)
	c.disks[2].Inject(func(call crashfs.Call) error {
		if call.Op == crashfs.OpSync && strings.Contains(call.Name, "/log/") && held.Load() {
			<-release
		}
		return nil
	})
	c.expect(2, "SELECT count(*) FROM item", "1")
	held.Store(true)
	c.write("INSERT INTO item VALUES (1)")
	c.eventually("node 2 shows the row", func() bool { return c.read(2, "SELECT count(*) FROM item") == "2" })
	if s := c.replica(2).Status(); s.Flushed >= s.Applied.Seq {
		t.Error("the row was not shown before the log was flushed")
	}
	left := make(map[base.NodeID]*crashfs.Disk)
	for id, d := range c.disks {
		left[id] = d.Clone()
	}
	return left
}

func asyncOfThree() leader.Assignment {
	a := leader.Assignment{Policy: base.DefaultPolicy(), Replicas: []base.NodeID{1, 2, 3}}
	a.Policy.Durability.Level = base.Async
	a.Counting = leadership.Count(a.Replicas, a.Policy)
	return a
}

// goOnAfter cuts the power of node 2 and kills the other processes, and lets all
// come back. It returns 1 if node 2's file was ahead of its log, else 0.
func goOnAfter(t *testing.T, vfs *mounts, left map[base.NodeID]*crashfs.Disk, seed uint64) (early int) {
	disks := map[base.NodeID]*crashfs.Disk{1: left[1].Clone(), 2: left[2].CrashClone(seed), 3: left[3].Clone()}
	vfs.mount(disks)
	c := &cluster{t: t, vfs: vfs.name, disks: disks}
	record := asyncOfThree()
	record.Epoch, record.Leader = 1, 1
	c.start(record)
	defer c.close()
	for _, id := range record.Replicas {
		c.open(id)
	}
	if s := c.replica(2).Status(); s.LogStart > 1 {
		early = 1
	}
	if p := c.promise(2); p.Fresh || !p.Granted {
		t.Errorf("after the power cut the replica is no evidence: %+v", p)
	}
	c.elect(1, 2, 3)
	c.write("INSERT INTO item VALUES (2)")
	c.same()
	c.expect(2, "SELECT group_concat(id) FROM item", "0,1,2")
	return early
}

package leader_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env/crashfs"
	"github.com/skeindb/skein/internal/leadership"
	"github.com/skeindb/skein/internal/replica/leader"
)

// TestFlippedBits flips bits in the log or the database file of one replica of
// three, and starts all of them again: the replica notices or is not concerned,
// never serves what is wrong, and is whole again in the end.
func TestFlippedBits(t *testing.T) {
	cycles := max(60, *outageCycles/10)
	if testing.Short() {
		cycles = 5
	}
	p := &plant{t: t, stop: make(chan struct{})}
	vfs := p.register("bits")
	noticed := make(map[string]int)
	seed := *outageSeed * 1000
	for done := 0; done < cycles && !t.Failed(); seed++ {
		s := newStoryOf(t, seed, quietStory)
		s.replicas, s.policy.Durability = 3, base.DefaultPolicy().Durability
		var moments []*outage
		synctestRun(t, func(t *testing.T) { moments = s.restingDisks(t, vfs) })
		for i := range min(30, cycles-done) {
			done++
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			o := moments[random.IntN(len(moments))].clone()
			node, file, kind := o.flip(t, random)
			what := fmt.Sprintf("story %d, cycle %d: %s of node %d", seed, i, file, node)
			ok := synctestRun(t, func(t *testing.T) {
				if o.survive(t, vfs, node, random) {
					noticed[kind]++
				}
			})
			if !ok {
				t.Errorf("%s", what)
				break
			}
		}
	}
	t.Logf("%d cycles; replicas that were copied, by file: %v", cycles, noticed)
	if (noticed["log"] == 0 || noticed["shop.sqlite"] == 0) && !testing.Short() {
		t.Error("nobody has noticed anything in one of the files")
	}
}

// restingDisks tells a story and returns the disks at each of its pauses, when
// everything is on disk and marked so.
func (s *story) restingDisks(t *testing.T, vfs *mounts) (moments []*outage) {
	c := &cluster{t: t, vfs: vfs.name, small: true, disks: make(map[base.NodeID]*crashfs.Disk)}
	record := leader.Assignment{Policy: s.policy, Replicas: []base.NodeID{1, 2, 3}}
	record.Counting = leadership.Count(record.Replicas, record.Policy)
	c.start(record)
	c.openAll(vfs)
	defer c.close()
	c.appoint(1)
	g := &stage{vfs: vfs, cluster: c, story: s}
	for i, st := range s.steps {
		g.run(i)
		if st.event == nil {
			continue
		}
		c.level()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		o := &outage{story: s, disks: c.disks, record: c.record(), acked: s.state(false), sent: s.state(true)}
		moments = append(moments, o.clone())
	}
	return moments
}

func (o *outage) clone() *outage {
	c := *o
	c.disks = make(map[base.NodeID]*crashfs.Disk)
	for id, d := range o.disks {
		c.disks[id] = d.Clone()
	}
	return &c
}

// flip flips some bits of a file of one node.
func (o *outage) flip(t *testing.T, random *rand.Rand) (node base.NodeID, file, kind string) {
	node = base.NodeID(random.IntN(3) + 1)
	kind = []string{"log", "shop.sqlite", "shop.sqlite-wal"}[random.IntN(3)]
	disk := o.disks[node]
	var names []string
	for _, name := range disk.Files() {
		if kind == "log" && strings.Contains(name, "/log/") || strings.HasSuffix(name, kind) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return node, "nothing", kind
	}
	file = names[random.IntN(len(names))]
	data, err := disk.ReadFile(file)
	if err != nil || len(data) == 0 {
		return node, "nothing", kind
	}
	used := len(strings.TrimRight(string(data), "\x00"))
	at := random.IntN(max(used, 1))
	mask := make([]byte, 1+random.IntN(3)*random.IntN(600))
	for i := range mask {
		mask[i] = 1 << random.IntN(8)
	}
	if err := disk.Damage(file, int64(at), mask...); err != nil {
		t.Fatal(err)
	}
	return node, fmt.Sprintf("%s at %d, %d bytes", file, at, len(mask)), kind
}

// survive starts all replicas, reads what each of them holds while it serves,
// and compares them in the end; it says whether the damaged one was copied.
func (o *outage) survive(t *testing.T, vfs *mounts, damaged base.NodeID, random *rand.Rand) (copied bool) {
	vfs.mount(o.disks)
	c := &cluster{t: t, disks: o.disks, vfs: vfs.name, small: true}
	c.start(o.record)
	defer c.close()
	lead := c.comeBack(random)
	o.judge(c, lead)
	for _, id := range o.record.Replicas {
		if !slices.Contains(c.ids(), id) {
			c.open(id)
		}
	}
	// Before it has followed anyone it holds what it should, or refuses.
	if hash, _, err := c.replica(damaged).ContentHash(t.Context()); err == nil {
		if err := o.story.allows(hash, state{}, o.sent); err != nil {
			t.Errorf("node %d serves what is wrong: %v", damaged, err)
		}
	}
	c.write("CREATE TABLE afterwards(a)")
	c.same()
	for _, id := range c.ids() {
		if err := c.replica(id).Verify(t.Context()); err != nil {
			t.Errorf("verify replica %d in the end: %v", id, err)
		}
	}
	return c.replica(damaged).Status().Copied > 0
}

// pair is two replicas on disks that crash.
func pair(t *testing.T, vfs *mounts) *cluster {
	c := &cluster{t: t, vfs: vfs.name, small: true, disks: map[base.NodeID]*crashfs.Disk{1: crashfs.New(), 2: crashfs.New()}}
	vfs.mount(c.disks)
	c.start(leader.Assignment{Policy: base.DefaultPolicy(), Replicas: []base.NodeID{1, 2},
		Counting: leadership.Count([]base.NodeID{1, 2}, base.DefaultPolicy())})
	c.open(1)
	c.open(2)
	return c
}

// SQLite takes what follows damage in a -wal for torn. When a checkpoint had
// come further than that, the file would be a mixture.
func TestADamagedWALIsNotMixedWithItsCheckpoint(t *testing.T) {
	p := &plant{t: t}
	vfs := p.register("wal")
	synctest.Test(t, func(t *testing.T) {
		c := pair(t, vfs)
		defer c.close()
		c.appoint(1)
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, data BLOB)")
		for range 10 {
			c.write("INSERT INTO item(data) VALUES (randomblob(12000))")
		}
		c.level()
		time.Sleep(2 * time.Second) // SQLite has committed, and a checkpoint has come to the end of the -wal.
		g := &stage{plant: p, vfs: vfs, cluster: c, story: &story{disks: c.disks}}
		c.net.Down(2)
		left := c.disks[2].Clone()
		if err := left.Damage("/2/shop.sqlite-wal", 32+20*(4096+24)+1000, 1); err != nil {
			t.Fatal(err)
		}
		_ = c.stop(2)
		g.insert(2, left)
		c.net.Up(2)
		c.open(2)
		if !c.promiseProbe(2).Fresh {
			t.Error("it has not noticed that its -wal lacks what was in it")
		}
		c.same()
	})
}

// Damage that only our own bookkeeping meets, such as the history of the schema
// when a table is made, ends the leader all the same: it is copied, and another
// leads.
func TestDamageInOurOwnTablesIsHealed(t *testing.T) {
	p := &plant{t: t}
	vfs := p.register("own")
	synctest.Test(t, func(t *testing.T) {
		c := pair(t, vfs)
		defer c.close()
		c.appoint(1)
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, data BLOB)")
		for range 60 { // The -wal starts over several times: only the file has the page.
			c.write("INSERT INTO item(data) VALUES (randomblob(12000))")
			time.Sleep(100 * time.Millisecond)
		}
		c.level()
		time.Sleep(2 * time.Second) // SQLite has committed, and a checkpoint has come to the end of the -wal.
		root, err := strconv.ParseInt(c.read(1, "SELECT rootpage FROM sqlite_schema WHERE name = '_skein_schema'"), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.disks[1].Damage("/1/shop.sqlite", (root-1)*4096+2000, 1); err != nil {
			t.Fatal(err)
		}
		c.appoint(1) // Another connection writes now, which has not read that page.
		_, err = c.try(1, request("CREATE TABLE other(id INTEGER PRIMARY KEY)"))
		if base.KindOf(err) != base.KindCorrupt {
			t.Fatalf("a table is made over a damaged history: %v", err)
		}
		m := c.member(1)
		select {
		case err := <-m.done:
			if base.KindOf(err) != base.KindCorrupt {
				t.Errorf("the leader has ended with %v", err)
			}
		case <-time.After(time.Minute):
			t.Fatal("the leader goes on with a damaged file")
		}
		m.wire.Close()
		c.mu.Lock()
		delete(c.mu.members, 1)
		c.mu.Unlock()
		c.open(1)
		if !c.promiseProbe(1).Fresh {
			t.Error("it does not know that it is damaged")
		}
		c.appoint(2)
		c.write("CREATE TABLE other(id INTEGER PRIMARY KEY)")
		c.same()
		if c.replica(1).Status().Copied == 0 {
			t.Error("it was not copied")
		}
	})
}

package leader_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env/crashfs"
	"github.com/skeindb/skein/internal/leadership"
	"github.com/skeindb/skein/internal/replica/leader"
)

// TestFailedSyncs lets one sync of one node's disk fail, each time another. The
// replica stops, and never syncs that file again: what the failed sync has
// dropped looks clean. Opened anew, by the same machine or after a power cut,
// it comes back, and nothing that was acknowledged is lost.
func TestFailedSyncs(t *testing.T) {
	runs := max(16, *outageCycles/50)
	if testing.Short() {
		runs = 3
	}
	p := &plant{t: t}
	vfs := p.register("syncs")
	outcomes := make(map[string]int)
	for n := range runs {
		seed := *outageSeed*10_000 + uint64(n)
		s := newStoryOf(t, seed, quietStory)
		s.replicas, s.policy.Durability = 3, base.DefaultPolicy().Durability
		f := &faultySync{story: s, disk: base.NodeID(n%3 + 1), of: syncsOf[n/3%len(syncsOf)], outcomes: outcomes}
		if !synctestRun(t, func(t *testing.T) { f.tell(t, vfs, rand.New(rand.NewPCG(seed, 2))) }) {
			t.Fatalf("seed %d: %s", seed, f.what)
		}
		if f.later != nil && !synctestRun(t, func(t *testing.T) { p.recover(t, vfs, f.later) }) {
			t.Fatalf("seed %d: %s, and a power cut later", seed, f.what)
		}
	}
	t.Logf("%v", outcomes)
	if outcomes["none"] > runs/2 && !testing.Short() {
		t.Errorf("%d of %d stories had no sync that could fail", outcomes["none"], runs)
	}
}

// syncsOf are the files whose syncs fail in turn; the last stands for any.
var syncsOf = []string{"segment", "shop.sqlite", "shop.sqlite-wal", ""}

// quietStory has no events but pauses.
func quietStory(s *story, random *rand.Rand) {
	s.begin()
	for i := range 14 {
		s.add(ordinary(random, len(s.steps))...)
		if i%4 == 3 {
			s.happens((*stage).rest)
		}
	}
}

// faultySync is a story in which one sync fails.
type faultySync struct {
	story    *story
	disk     base.NodeID
	of       string
	outcomes map[string]int

	armed atomic.Bool // the story has begun

	mu     sync.Mutex // guards what follows
	what   string     // the sync that has failed; empty: none yet
	name   string
	kind   string
	again  string  // a sync of the same file by the same process
	healed bool    // another process has opened the disk
	later  *outage // some time after that
}

func (f *faultySync) tell(t *testing.T, vfs *mounts, random *rand.Rand) {
	c := &cluster{t: t, vfs: vfs.name, small: true, disks: make(map[base.NodeID]*crashfs.Disk)}
	record := leader.Assignment{Policy: f.story.policy, Replicas: []base.NodeID{1, 2, 3}}
	record.Counting = leadership.Count(record.Replicas, record.Policy)
	c.start(record)
	for _, id := range record.Replicas {
		c.disks[id] = crashfs.New()
		vfs.mount(c.disks)
		if id == f.disk {
			f.inject(c.disks[id], 1+random.IntN(map[string]int{"segment": 25, "": 40}[f.of]+3))
		}
		c.open(id)
	}
	defer c.close()
	c.appoint(1)
	f.armed.Store(true)
	g := &stage{vfs: vfs, cluster: c, story: f.story}
	cut := random.IntN(2) == 0
	for i := range f.story.steps {
		done := make(chan struct{})
		go func() {
			defer close(done)
			g.run(i)
		}()
		f.attend(g, done, cut)
		if t.Failed() {
			return
		}
	}
	time.Sleep(2 * time.Second)
	f.attend(g, nil, cut)
	f.end(g)
}

// inject fails the n-th sync.
func (f *faultySync) inject(d *crashfs.Disk, n int) {
	seen := 0
	segments := make(map[string]bool) // by the names that they were made under
	d.Inject(func(call crashfs.Call) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if call.Op == crashfs.OpRename && kindOf(call.To) == "segment" {
			segments[call.Name] = true
		}
		if call.Op != crashfs.OpSync && call.Op != crashfs.OpSyncDir {
			return nil
		}
		kind := kindOf(call.Name)
		if segments[call.Name] {
			kind = "segment"
		}
		if f.armed.Load() && (f.of == "" || f.of == kind) {
			seen++
		}
		switch {
		case seen == n && f.what == "":
			f.what, f.name, f.kind = fmt.Sprintf("%s %s of node %d, call %d", call.Op, call.Name, f.disk, call.N), call.Name, kind
			return syscall.EIO
		case call.Name == f.name && call.Op == crashfs.OpSync && !f.healed:
			f.again = fmt.Sprintf("call %d", call.N)
		}
		return nil
	})
}

// attend opens a replica that has stopped, and has another elected when it was
// the leader, until done.
func (f *faultySync) attend(g *stage, done chan struct{}, cut bool) {
	c := g.cluster
	for {
		m := c.member(f.disk)
		select {
		case err := <-m.done:
			f.revive(g, m, err, cut)
		case <-done:
			return
		case <-time.After(50 * time.Millisecond):
			if done == nil {
				return
			}
		}
		if c.t.Failed() {
			return
		}
	}
}

func (f *faultySync) revive(g *stage, m *member, err error, cut bool) {
	c := g.cluster
	f.mu.Lock()
	f.healed = true
	f.outcomes[f.kind+": stopped"]++
	f.mu.Unlock()
	if err == nil {
		c.t.Errorf("the replica has stopped without an error")
	}
	m.wire.Close()
	c.mu.Lock()
	delete(c.mu.members, m.id)
	c.mu.Unlock()
	left := c.disks[m.id].Clone()
	if cut {
		left.Crash(f.story.seed)
	}
	c.disks[m.id] = left
	g.vfs.mount(c.disks)
	f.cutLater(c, left)
	c.open(m.id)
	if g.leader() == m.id {
		c.elect(m.id%3+1, (m.id+1)%3+1)
		g.awaitLeader()
	}
}

// cutLater cuts the power everywhere when the disk is used again.
func (f *faultySync) cutLater(c *cluster, d *crashfs.Disk) {
	random := rand.New(rand.NewPCG(f.story.seed, 3))
	n := 1 + random.IntN(100)
	d.Inject(func(call crashfs.Call) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if n--; n != 0 {
			return nil
		}
		f.later = &outage{story: f.story, seed: random.Uint64() >> 8, what: "later, " + string(call.Op) + " " + call.Name,
			acked: f.story.state(false), disks: make(map[base.NodeID]*crashfs.Disk)}
		for id, disk := range c.disks {
			f.later.disks[id] = disk.Clone()
		}
		f.later.sent, f.later.record = f.story.state(true), c.record()
		return nil
	})
}

// kindOf is what a file is for.
func kindOf(name string) string {
	name = name[strings.LastIndex(name, "/")+1:]
	for _, k := range []string{"segment", "spare"} {
		if strings.HasPrefix(name, k) {
			return k
		}
	}
	return name
}

// end judges the story's end.
func (f *faultySync) end(g *stage) {
	c := g.cluster
	c.same()
	o := &outage{story: f.story, acked: f.story.state(false), sent: f.story.state(true)}
	o.judge(c, g.leader())
	if f.what == "" {
		f.outcomes["none"]++
		return
	}
	if !f.healed {
		f.outcomes[f.kind+": went on"]++
		if k := f.kind; k == "segment" || strings.HasPrefix(k, "shop.sqlite") {
			c.t.Errorf("%s has failed, and the replica went on", f.what)
		}
	}
	if k := f.kind; f.again != "" && k != "replica.json.tmp" && k != "spare" {
		c.t.Errorf("%s has failed, and was tried again in %s", f.what, f.again)
	}
}

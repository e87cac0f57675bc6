package leader_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/env/crashfs"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/replica/leader"
	"github.com/skeindb/skein/internal/sqlite/diskvfs"
)

var (
	outageCycles = flag.Int("outages", 0, "how many power cuts TestPowerCuts makes; 0 means 1000, or 20 with -short")
	outageSeed   = flag.Uint64("outage-seed", 1, "what TestPowerCuts begins with")
)

// outage is a moment at which the power goes everywhere: the disks as they are
// then, and what clients and the control plane know.
type outage struct {
	what   string
	seed   uint64
	story  *story
	disks  map[base.NodeID]*crashfs.Disk
	record leader.Assignment
	acked  state // what had been acknowledged before the first disk stopped
	sent   state // what had been sent when the last one did
	again  bool  // cut the power once more while the replicas recover
}

// TestPowerCuts cuts the power of all nodes at writes and syncs of stories,
// lets some replicas come back, as few as the policy allows, and compares what
// they hold with what had been acknowledged and sent.
func TestPowerCuts(t *testing.T) {
	cycles := *outageCycles
	if cycles == 0 {
		cycles = 1000
		if testing.Short() {
			cycles = 20
		}
	}
	p := &plant{t: t, cycles: int64(cycles), jobs: make(chan *outage), stop: make(chan struct{})}
	var workers sync.WaitGroup
	for w := range runtime.GOMAXPROCS(0) {
		vfs := p.register(fmt.Sprintf("worker-%d", w))
		workers.Go(func() { p.work(vfs) })
	}
	vfs := p.register("story")
	for seed := *outageSeed; !p.done() && !t.Failed(); seed++ {
		p.tell(vfs, seed)
	}
	close(p.jobs)
	workers.Wait()
	t.Logf("%d power cuts in %d stories of %d calls of the disks; %d once more during the recovery; %d left too few replicas to be sure",
		p.made.Load(), p.stories, p.calls.Load(), p.second.Load(), p.refused.Load())
}

// plant cuts the power.
type plant struct {
	t       *testing.T
	cycles  int64
	jobs    chan *outage
	stop    chan struct{} // closed when a cycle has failed
	failing sync.Once
	made    atomic.Int64
	second  atomic.Int64
	calls   atomic.Int64
	refused atomic.Int64
	stories int
}

// mounts are the disks that one VFS finds its files on.
type mounts struct {
	name string

	mu    sync.Mutex // guards disks
	disks map[base.NodeID]*crashfs.Disk
}

func (p *plant) register(name string) *mounts {
	m := &mounts{name: p.t.Name() + "-" + name}
	diskvfs.Register(m.name, p.t.TempDir(), m.find)
	return m
}

func (m *mounts) find(path string) env.FS {
	m.mu.Lock()
	defer m.mu.Unlock()
	var id base.NodeID
	if _, err := fmt.Sscanf(path, "/%d/", &id); err != nil || m.disks[id] == nil {
		return nil
	}
	return m.disks[id]
}

func (m *mounts) mount(disks map[base.NodeID]*crashfs.Disk) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.disks = disks
}

func (p *plant) done() bool {
	select {
	case <-p.stop:
		return true
	default:
		return p.made.Load() >= p.cycles
	}
}

// stride is how many calls there are for each cut: the whole of a long run
// cuts at every one of them.
const stride = 7

// watch cuts the power at some of the calls that change a disk.
func (p *plant) watch(c *cluster, s *story, disk *crashfs.Disk, id base.NodeID) {
	disk.Inject(func(call crashfs.Call) error {
		if !call.Op.Changes() || p.done() || uint64(p.calls.Add(1))%stride != s.seed%stride {
			return nil
		}
		o := &outage{story: s, seed: s.seed<<32 | uint64(p.calls.Load()), disks: make(map[base.NodeID]*crashfs.Disk)}
		o.what = fmt.Sprintf("story %d (%s, %d replicas), node %d, call %d: %s %s at %d", s.seed, s.policy.Durability, s.replicas, id, call.N, call.Op, call.Name, call.Offset)
		o.again = o.seed%5 == 0
		o.acked = s.state(false)
		s.eachDisk(func(id base.NodeID, d *crashfs.Disk) { o.disks[id] = d.Clone() })
		o.sent = s.state(true)
		o.record = c.record()
		select {
		case p.jobs <- o:
		case <-p.stop:
		}
		return nil
	})
}

// work recovers from outages.
func (p *plant) work(vfs *mounts) {
	for o := range p.jobs {
		before := make(map[base.NodeID]*crashfs.Disk)
		for id, d := range o.disks {
			before[id] = d.Clone()
		}
		if !synctestRun(p.t, func(t *testing.T) { p.recover(t, vfs, o) }) {
			p.keep(o, before)
			p.failing.Do(func() { close(p.stop) })
		}
		p.made.Add(1)
	}
}

// synctestRun says whether f has passed in a bubble of its own.
func synctestRun(t *testing.T, f func(*testing.T)) (passed bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		synctest.Test(t, func(t *testing.T) {
			f(t)
			passed = !t.Failed()
		})
	}()
	<-done
	return passed
}

// keep writes the disks of a cycle that has failed to a folder, to be looked at.
func (p *plant) keep(o *outage, disks map[base.NodeID]*crashfs.Disk) {
	dir, err := os.MkdirTemp("", "outage-")
	if err != nil {
		p.t.Error(err)
		return
	}
	for _, d := range disks {
		for _, name := range d.Files() {
			data, err := d.ReadFile(name)
			if err == nil {
				err = os.MkdirAll(filepath.Dir(dir+name), 0o755)
			}
			if err == nil {
				err = os.WriteFile(dir+name, data, 0o644)
			}
			if err != nil {
				p.t.Error(err)
			}
		}
	}
	p.t.Errorf("failed: %s, seed %d; the files as programs saw them are in %s", o.what, o.seed, dir)
}

// recover starts replicas on what the outage has left and judges them.
func (p *plant) recover(t *testing.T, vfs *mounts, o *outage) {
	random := rand.New(rand.NewPCG(o.seed, 1))
	if random.IntN(8) != 0 { // Else only the processes have died.
		for id, d := range o.disks {
			d.Crash(o.seed ^ uint64(id)<<20)
		}
	}
	vfs.mount(o.disks)
	c := &cluster{t: t, disks: o.disks, vfs: vfs.name, small: true}
	defer func() {
		if t.Failed() {
			t.Logf("%s, seed %d", o.what, o.seed)
		}
	}()
	c.start(o.record)
	if o.again {
		p.cutAgain(vfs, c, o, random)
	}
	defer c.close()
	lead := c.comeBack(random)
	if lead == 0 {
		p.refused.Add(1)
		return
	}
	o.judge(c, lead)
	for _, id := range o.record.Replicas {
		if !slices.Contains(c.ids(), id) {
			c.open(id)
		}
	}
	c.write("CREATE TABLE afterwards(a)")
	c.write("INSERT INTO afterwards VALUES (1), (2)")
	c.same()
	for _, id := range c.ids() {
		if o.seed%4 != 0 {
			continue // It costs much.
		}
		if err := c.replica(id).Verify(t.Context()); err != nil {
			t.Errorf("verify replica %d: %v", id, err)
		}
	}
}

// start makes a cluster in virtual time that no node runs of yet.
func (c *cluster) start(record leader.Assignment) {
	c.net = newNetwork()
	c.mu.members = make(map[base.NodeID]*member)
	c.mu.record = record
}

// openAll opens every replica, each on a new disk.
func (c *cluster) openAll(vfs *mounts) {
	for _, id := range c.record().Replicas {
		c.disks[id] = crashfs.New()
		vfs.mount(c.disks)
		c.open(id)
	}
}

// comeBack opens replicas in a random order until they are enough to be sure of
// every acknowledged write, and has them elect one.
func (c *cluster) comeBack(random *rand.Rand) base.NodeID {
	c.t.Helper()
	replicas := slices.Clone(c.record().Replicas)
	random.Shuffle(len(replicas), func(i, j int) { replicas[i], replicas[j] = replicas[j], replicas[i] })
	need := c.record().Counting.Answers()
	var voters []base.NodeID
	for _, id := range replicas {
		c.open(id)
		// A probe might come before the replica has found out that it must be copied.
		if p := c.promise(id); p.Granted && !p.Fresh {
			voters = append(voters, id)
		}
		if len(voters) == need {
			break
		}
	}
	if len(voters) < need {
		return 0
	}
	lead := c.elect(voters...)
	for _, id := range replicas {
		if n := len(c.ids()); n < c.record().Counting.Copies && !slices.Contains(c.ids(), id) {
			c.open(id) // It can't serve without.
		}
	}
	epoch := c.record().Epoch
	c.eventually(fmt.Sprintf("node %d serves in epoch %d", lead, epoch), func() bool {
		e, ok := c.replica(lead).Leading()
		return ok && e == epoch
	})
	return lead
}

// judge compares what the elected leader holds with what it may hold.
func (o *outage) judge(c *cluster, lead base.NodeID) {
	c.t.Helper()
	hash, at, err := c.replica(lead).ContentHash(c.t.Context())
	if err != nil {
		c.t.Fatalf("content of node %d: %v", lead, err)
	}
	if err := o.story.allows(hash, o.acked, o.sent); err != nil {
		got, readErr := c.query(lead, replica.ReadRequest{}, "SELECT (SELECT max(op) FROM ledger), (SELECT group_concat(id) FROM burst)")
		c.t.Fatalf("node %d at %v: %v; it holds %s (%v)\n%s", lead, at, err, got, readErr, c.describe())
	}
}

// cutAgain lets the replicas recover until the power goes once more, at a
// random call, and goes on with what that leaves.
func (p *plant) cutAgain(vfs *mounts, c *cluster, o *outage, random *rand.Rand) {
	p.second.Add(1)
	n := int64(1 + random.IntN(60))
	var calls atomic.Int64
	left := make(map[base.NodeID]*crashfs.Disk)
	var once sync.Once
	first := &cluster{t: c.t, disks: c.disks, vfs: c.vfs, small: true}
	record := c.record()
	first.start(record)
	for id, d := range c.disks {
		d.Inject(func(call crashfs.Call) error {
			if call.Op.Changes() && calls.Add(1) >= n {
				once.Do(func() {
					for id, d := range c.disks {
						left[id] = d.CrashClone(o.seed ^ uint64(id)<<21)
					}
					record = first.record()
					o.what += fmt.Sprintf(", again at call %d of the recovery: %s %s of node %d", n, call.Op, call.Name, id)
				})
			}
			return nil
		})
	}
	func() {
		defer first.close()
		first.comeBack(random)
	}()
	for _, d := range c.disks {
		d.Inject(nil)
	}
	if len(left) == 0 { // It was over before that.
		c.mu.record = first.record()
		return
	}
	once.Do(func() {}) // Whoever is in the middle of it is waited for.
	c.disks, c.mu.record = left, record
	vfs.mount(left)
}

package leader_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/trigger"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/env/crashfs"
	"github.com/skeindb/skein/internal/leadership"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/replica/leader"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/transport/mem"
)

func newNetwork() *mem.Network { return mem.NewNetwork(env.Real(quiet()), mem.Options{}) }

// story is a workload of which every state is known beforehand: what a plain
// database holds after each of its steps.
type story struct {
	seed     uint64
	policy   base.Policy
	replicas int
	steps    []step
	states   map[string][]state // by hash of the contents

	mu    sync.Mutex // guards what follows
	acked state
	sent  state
	disks map[base.NodeID]*crashfs.Disk
}

// step is writes that are sent together. The next step begins when all of them
// are acknowledged, or, for those sent to a leader that is cut off, when
// another leads that has none of them.
type step struct {
	writes [][]string // the statements of each
	lost   bool       // none of them counts in the end
	event  func(g *stage)
}

// stage is where a story is told.
type stage struct {
	plant   *plant
	vfs     *mounts
	cluster *cluster
	story   *story
}

// state is how far a story has come: the writes of step that are there, as
// bits, after all the steps before it.
type state struct {
	step  int
	wrote uint
}

// covers says that everything in b is also in a.
func (a state) covers(b state) bool {
	return a.step > b.step || a.step == b.step && a.wrote&b.wrote == b.wrote
}

// allows says whether contents are those of a state between two.
func (s *story) allows(hash string, acked, sent state) error {
	all := s.states[hash]
	for _, at := range all {
		if at.covers(acked) && sent.covers(at) {
			return nil
		}
	}
	if len(all) == 0 {
		return fmt.Errorf("the contents are those of no moment; %v was acknowledged and %v sent", acked, sent)
	}
	return fmt.Errorf("the contents are those of %v; %v was acknowledged and %v sent", all, acked, sent)
}

// state returns what was acknowledged or sent by now.
func (s *story) state(sent bool) state {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sent {
		return s.sent
	}
	return s.acked
}

func (s *story) eachDisk(f func(base.NodeID, *crashfs.Disk)) {
	s.mu.Lock()
	disks := maps.Clone(s.disks)
	s.mu.Unlock()
	for id, d := range disks {
		f(id, d)
	}
}

func (s *story) setDisk(id base.NodeID, d *crashfs.Disk) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disks[id] = d
}

// policies are what stories run under, with as many replicas.
var policies = []struct {
	replicas   int
	durability base.Durability
}{
	{3, base.Durability{Level: base.Quorum, When: base.Flushed}},
	{1, base.Durability{Level: base.Quorum, When: base.Flushed}},
	{3, base.Durability{Level: base.All, When: base.Flushed}},
	{3, base.Durability{Level: base.Async, When: base.Flushed}},
	{2, base.Durability{Level: base.One, When: base.Applied}},
}

// newStory makes up a story and lets a plain database tell it.
func newStory(t *testing.T, seed uint64) *story {
	t.Helper()
	return newStoryOf(t, seed, writeStory)
}

func newStoryOf(t *testing.T, seed uint64, write func(*story, *rand.Rand)) *story {
	t.Helper()
	kind := policies[seed%uint64(len(policies))]
	s := &story{seed: seed, replicas: kind.replicas, policy: base.DefaultPolicy(),
		states: make(map[string][]state), disks: make(map[base.NodeID]*crashfs.Disk)}
	s.policy.Durability = kind.durability
	s.policy.LogFormat = base.LogFormats[seed%uint64(len(base.LogFormats))]
	s.policy.RetentionBytes = 64 << 10
	write(s, rand.New(rand.NewPCG(seed, 0)))
	s.tellPlainly(t)
	return s
}

// begin adds the step that makes the tables. None has AUTOINCREMENT: a change of
// leaders leaves ids out there, of which a plain database knows nothing.
func (s *story) begin() {
	s.add("CREATE TABLE ledger(op INTEGER PRIMARY KEY)",
		"CREATE TABLE burst(id INTEGER PRIMARY KEY)",
		"CREATE TABLE shelf(id INTEGER PRIMARY KEY, name TEXT UNIQUE)",
		"CREATE TABLE item(id INTEGER PRIMARY KEY, shelf REFERENCES shelf ON DELETE CASCADE, note TEXT, data BLOB)",
		"CREATE TABLE total(name TEXT PRIMARY KEY, n INTEGER) WITHOUT ROWID",
		"CREATE TRIGGER counted AFTER INSERT ON item BEGIN UPDATE total SET n = n + 1 WHERE name = 'items'; END",
		"INSERT INTO total VALUES ('items', 0)")
}

// writeStory fills in the steps.
func writeStory(s *story, random *rand.Rand) {
	s.begin()
	events := s.events(random)
	const length = 36
	for i := range length {
		if random.IntN(5) == 0 {
			s.burst(2+random.IntN(2), nil)
		} else {
			s.add(ordinary(random, len(s.steps))...)
		}
		if i%5 == 3 && len(events) > 0 {
			events[0]()
			events = events[1:]
		}
	}
}

func (s *story) add(statements ...string) {
	if n := len(s.steps); n > 0 {
		statements = append(statements, fmt.Sprintf("INSERT INTO ledger VALUES (%d)", n))
	}
	s.steps = append(s.steps, step{writes: [][]string{statements}})
}

// burst adds some writes that are sent together.
func (s *story) burst(n int, lost func(g *stage)) {
	st := step{lost: lost != nil, event: lost}
	for i := range n {
		st.writes = append(st.writes, []string{fmt.Sprintf("INSERT INTO burst VALUES (%d)", len(s.steps)*10+i)})
	}
	s.steps = append(s.steps, st)
}

// happens adds an event after the last step.
func (s *story) happens(event func(g *stage)) {
	s.steps = append(s.steps, step{event: event})
}

// events are what befalls the replicas, in a random order; each adds steps.
func (s *story) events(random *rand.Rand) []func() {
	events := []func(){
		func() { s.happens((*stage).rest) },
		func() { s.happens((*stage).rest) },
		func() { s.happens(func(g *stage) { g.kill(g.leader()); g.elect() }) },
	}
	if s.replicas > 1 {
		events = append(events, func() { s.happens((*stage).handOver) }, func() { s.happens(func(g *stage) { g.kill(g.follower()) }) })
	}
	if s.replicas > 1 && s.policy.Durability.Level != base.Async {
		events = append(events, func() { s.burst(3, (*stage).partition) }, func() { s.happens((*stage).spoil) })
	}
	random.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
	return events
}

func (g *stage) leader() base.NodeID { return g.cluster.record().Leader }

// follower is the one after the leader.
func (g *stage) follower() base.NodeID { return g.leader()%base.NodeID(g.story.replicas) + 1 }

// rest lets checkpoints, marks and trims happen.
func (g *stage) rest() { time.Sleep(2 * time.Second) }

// kill ends a process and starts another on the files as it has left them.
func (g *stage) kill(id base.NodeID) {
	g.cluster.net.Down(id)
	synctest.Wait()
	left := g.cluster.disks[id].Clone()
	_ = g.cluster.stop(id) // Its disk is nobody's any more.
	g.insert(id, left)
	g.cluster.net.Up(id)
	g.cluster.open(id)
}

// insert gives a node another disk.
func (g *stage) insert(id base.NodeID, d *crashfs.Disk) {
	g.cluster.disks[id] = d
	g.story.setDisk(id, d)
	g.vfs.mount(g.cluster.disks)
	g.plant.watch(g.cluster, g.story, d, id)
}

// elect has the other replicas, or the only one, elect a leader.
func (g *stage) elect() {
	g.vote()
	g.awaitLeader()
}

func (g *stage) vote() {
	c := g.cluster
	var voters []base.NodeID
	need := c.record().Counting.Answers()
	for i := range g.story.replicas {
		if id := (g.leader()+base.NodeID(i))%base.NodeID(g.story.replicas) + 1; len(voters) < need {
			voters = append(voters, id)
		}
	}
	c.eventually("the voters are evidence", func() bool {
		return !slices.ContainsFunc(voters, func(id base.NodeID) bool { return c.promiseProbe(id).Fresh })
	})
	c.elect(voters...)
}

func (g *stage) awaitLeader() {
	a := g.cluster.record()
	g.cluster.eventually(fmt.Sprintf("node %d serves in epoch %d", a.Leader, a.Epoch), func() bool {
		e, ok := g.cluster.replica(a.Leader).Leading()
		return ok && e == a.Epoch
	})
}

// handOver is a switchover.
func (g *stage) handOver() {
	c, a := g.cluster, g.cluster.record()
	if _, err := c.replica(a.Leader).Release(c.t.Context(), a.Epoch, g.follower(), 10*time.Second); err != nil {
		c.t.Errorf("release: %v", err)
	}
	c.promise(g.follower())
	c.name(g.follower())
	g.awaitLeader()
}

// partition cuts the leader off while it has writes; another leads without them.
func (g *stage) partition() {
	old := g.leader()
	g.cluster.net.Isolate(old)
	time.Sleep(50 * time.Millisecond)
	g.vote()
	if g.cluster.record().Counting.Copies < g.story.replicas {
		g.awaitLeader()
	}
	g.cluster.net.Rejoin(old)
	g.awaitLeader()
}

// spoil flips bits in a follower's log while it is stopped: it notices, and
// copies a snapshot.
func (g *stage) spoil() {
	c, id := g.cluster, g.follower()
	if err := c.stop(id); err != nil {
		c.t.Errorf("stop: %v", err)
	}
	for _, name := range c.disks[id].Files() {
		data, err := c.disks[id].ReadFile(name)
		if err != nil || !strings.Contains(name, "/log/segment-") {
			continue
		}
		if err := c.disks[id].Damage(name, int64(len(bytes.TrimRight(data, "\x00")))-1, 4); err != nil {
			c.t.Error(err)
		}
	}
	c.open(id)
	if !c.promiseProbe(id).Fresh {
		c.t.Errorf("node %d has not noticed that its log is damaged", id)
	}
	c.eventually("the follower is evidence", func() bool { return !c.promiseProbe(id).Fresh })
}

// ordinary is the statements of one write.
func ordinary(random *rand.Rand, n int) []string {
	id := func() int { return 1 + random.IntN(n*3+1) }
	switch random.IntN(10) {
	case 0:
		return []string{fmt.Sprintf("INSERT INTO shelf(name) VALUES ('shelf %d')", n)}
	case 1:
		return []string{fmt.Sprintf("UPDATE item SET note = note || 'x', data = NULL WHERE id %% %d = 0", 2+random.IntN(5))}
	case 2:
		return []string{fmt.Sprintf("DELETE FROM item WHERE id < %d", id()/4)}
	case 3:
		return []string{fmt.Sprintf("ALTER TABLE item ADD COLUMN more%d DEFAULT %d", n, n), fmt.Sprintf("UPDATE item SET more%d = id", n)}
	case 4:
		return []string{fmt.Sprintf("CREATE INDEX by_note%d ON item(note)", n)}
	case 5:
		return []string{fmt.Sprintf("CREATE TABLE extra%d AS SELECT id, note FROM item", n)}
	case 6:
		return []string{fmt.Sprintf("DELETE FROM shelf WHERE id = (SELECT min(id) FROM shelf WHERE id > %d)", random.IntN(n+1)), "REPLACE INTO total VALUES ('deleted', 1)"}
	}
	size := random.IntN(2000)
	if random.IntN(4) == 0 {
		size = 12 << 10
	}
	rows := 1 + random.IntN(4)
	var out []string
	for i := range rows {
		out = append(out, fmt.Sprintf("INSERT INTO item(id, shelf, note, data) VALUES (%d, (SELECT min(id) FROM shelf), 'item %d', CAST(printf('%%.*c', %d, '%c') AS BLOB))",
			n*10+i, n, size, 'a'+rune(n%26)))
	}
	return out
}

// tellPlainly learns the states from a plain database.
func (s *story) tellPlainly(t *testing.T) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	db, err := sqlite.OpenDatabase(t.Context(), t.TempDir()+"/plain.sqlite", sqlite.Options{})
	must(err)
	defer db.Close()
	w, err := db.OpenWriter(t.Context(), sqlite.RoleWriter)
	must(err)
	defer w.Close()
	note := func(at state) {
		hash, err := db.ContentHash(t.Context())
		must(err)
		s.states[hash] = append(s.states[hash], at)
	}
	note(state{}) // as it is before the format has made its tables,
	tell := s.teller(t, w)
	note(state{}) // and after
	for i, st := range s.steps {
		all := uint(1)<<len(st.writes) - 1
		for wrote := uint(1); wrote <= all; wrote++ {
			must(tell(st.statements(wrote)))
			note(state{i, wrote})
		}
		if st.lost {
			must(tell(st.statements(0)))
		}
		note(state{i + 1, 0})
	}
}

// teller executes a transaction on the plain database. In format trigger it also
// makes the triggers that a leader makes.
func (s *story) teller(t *testing.T, w *sqlite.Conn) func([]string) error {
	if s.policy.LogFormat != base.FormatTrigger {
		return func(list []string) error { return w.Exec("BEGIN;" + strings.Join(append(list, "COMMIT"), ";")) }
	}
	r, err := trigger.NewRecorder(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	transaction := func(steps func() error) error {
		if err := w.BeginImmediate(); err != nil {
			return err
		}
		m := r.Mark()
		if err := steps(); err != nil {
			return err
		}
		if _, _, err := r.Take(m); err != nil {
			return err
		}
		return w.Commit()
	}
	if err := transaction(r.SetUp); err != nil {
		t.Fatal(err)
	}
	return func(list []string) error {
		return transaction(func() error {
			for _, sql := range list {
				st, err := w.PrepareOwn(sql)
				if err == nil {
					err = st.Run()
					st.Close()
				}
				if err == nil {
					err = r.Statement(st.Info(), sql)
				}
				if err != nil {
					return fmt.Errorf("%s: %w", sql, err)
				}
			}
			return nil
		})
	}
}

// statements bring a plain database to the state in which some of the writes are
// there. Where there are several, they are of a burst.
func (st step) statements(wrote uint) (out []string) {
	if len(st.writes) > 1 {
		var id int
		if _, err := fmt.Sscanf(st.writes[0][0], "INSERT INTO burst VALUES (%d)", &id); err != nil {
			panic(err)
		}
		out = append(out, fmt.Sprintf("DELETE FROM burst WHERE id >= %d", id))
	}
	for i, w := range st.writes {
		if wrote&(1<<i) != 0 {
			out = append(out, w...)
		}
	}
	return out
}

// tell runs a story on a cluster and cuts the power at its calls.
func (p *plant) tell(vfs *mounts, seed uint64) {
	s := newStory(p.t, seed)
	p.stories++
	synctestRun(p.t, func(t *testing.T) {
		c := &cluster{t: t, vfs: vfs.name, small: true, disks: make(map[base.NodeID]*crashfs.Disk)}
		record := leader.Assignment{Policy: s.policy}
		for i := range s.replicas {
			record.Replicas = append(record.Replicas, base.NodeID(i+1))
		}
		record.Counting = leadership.Count(record.Replicas, s.policy)
		c.start(record)
		for _, id := range record.Replicas {
			c.disks[id] = crashfs.New()
			s.setDisk(id, c.disks[id])
			vfs.mount(c.disks)
			c.open(id)
		}
		for _, id := range record.Replicas {
			p.watch(c, s, c.disks[id], id)
		}
		c.appoint(1)
		defer c.close()
		g := &stage{plant: p, vfs: vfs, cluster: c, story: s}
		for i := range s.steps {
			if p.done() || t.Failed() {
				break
			}
			g.run(i)
		}
		if !p.done() && !t.Failed() {
			c.same()
		}
	})
}

// run tells one step.
func (g *stage) run(i int) {
	s, st := g.story, g.story.steps[i]
	if s.seed%3 != 0 {
		g.look()
	}
	s.mu.Lock()
	s.sent = state{i, uint(1)<<len(st.writes) - 1}
	s.mu.Unlock()
	var wg sync.WaitGroup
	for n, w := range st.writes {
		wg.Go(func() {
			if st.lost {
				time.Sleep(time.Millisecond) // The leader is cut off by then.
			}
			s.write(g.cluster, i, n, w)
		})
	}
	if st.event != nil {
		st.event(g)
	}
	wg.Wait()
	s.reach(i)
}

// look reads every replica: one that is read executes and commits sooner.
func (g *stage) look() {
	for _, id := range g.cluster.ids() {
		_, _ = g.cluster.query(id, replica.ReadRequest{}, "SELECT max(op) FROM ledger") // There may be no such table yet.
	}
}

// reach notes that a step is over.
func (s *story) reach(i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked = state{i + 1, 0}
	if !s.sent.covers(s.acked) {
		s.sent = s.acked
	}
}

// write sends one write until it is acknowledged. One whose answer was lost is
// looked for before it is sent again.
func (s *story) write(c *cluster, i, n int, statements []string) {
	q := replica.WriteRequest{Guard: replica.GuardAdmin}
	for _, sql := range statements {
		q.Statements = append(q.Statements, statement(sql))
	}
	for range 50 {
		lead := c.record().Leader
		_, err := c.try(lead, q)
		if err == nil {
			break
		}
		if s.steps[i].lost {
			return
		}
		time.Sleep(100 * time.Millisecond)
		look := fmt.Sprintf("SELECT count(*) FROM ledger WHERE op = %d", i)
		if len(s.steps[i].writes) > 1 {
			look = fmt.Sprintf("SELECT count(*) FROM burst WHERE id = %d", i*10+n)
		}
		if got, err := c.query(c.record().Leader, replica.ReadRequest{}, look); err == nil && got == "1" {
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.acked.step == i {
		s.acked.wrote |= 1 << n
	}
}

package leader_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/env/crashfs"
	"github.com/skeindb/skein/internal/leadership"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/replica/leader"
	"github.com/skeindb/skein/internal/replica/stream"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/transport"
	"github.com/skeindb/skein/internal/transport/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const database = base.DatabaseID(7)

// cluster is the replicas of one database on a network in memory, in virtual
// time, with a control plane that does what the test says.
type cluster struct {
	t    *testing.T
	root string
	net  *mem.Network
	// spoilt, when set, spoils the snapshot files that are served.
	spoilt func(transport.ReadAtCloser) transport.ReadAtCloser
	// disks, when set, are what the nodes have instead of folders below root,
	// each below a folder of the node's number, with vfs as the engine's way
	// to them.
	disks map[base.NodeID]*crashfs.Disk
	vfs   string
	// small makes logs and WALs so small that little work fills them.
	small bool

	mu struct {
		sync.Mutex // guards all below
		members    map[base.NodeID]*member
		record     leader.Assignment
		effects    []leadership.Effect
		active     base.Epoch // the last epoch whose leader serves
		noRoom     int        // how often a leader has said that it has none
		had        map[base.NodeID]bool
		deaf       bool // proposals of the leader are not recorded
	}
}

// member is one running node.
type member struct {
	id      base.NodeID
	wire    *mem.Transport
	replica *leader.Replica
	stop    context.CancelCauseFunc
	done    chan error
	files   *filter
}

// run runs a test on replicas 1 to n, the first of which leads epoch 1.
func run(t *testing.T, n int, policy func(*base.Policy), f func(t *testing.T, c *cluster)) {
	t.Helper()
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{t: t, root: root}
		c.net = mem.NewNetwork(env.Real(quiet()), mem.Options{})
		c.mu.members = make(map[base.NodeID]*member)
		p := base.DefaultPolicy()
		if policy != nil {
			policy(&p)
		}
		c.mu.record = leader.Assignment{Policy: p}
		for id := range base.NodeID(n) {
			c.mu.record.Replicas = append(c.mu.record.Replicas, id+1)
		}
		c.mu.record.Counting = leadership.Count(c.mu.record.Replicas, p)
		for id := range base.NodeID(n) {
			c.open(id + 1)
		}
		defer c.close()
		c.appoint(1)
		f(t, c)
	})
}

func quiet() *slog.Logger {
	if testing.Verbose() && os.Getenv("SKEIN_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}

// spoil sets spoilt while nodes run.
func (c *cluster) spoil(f func(transport.ReadAtCloser) transport.ReadAtCloser) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spoilt = f
}

func (c *cluster) close() {
	for _, id := range c.ids() {
		if err := c.stop(id); err != nil {
			c.t.Errorf("replica %d: %v", id, err)
		}
	}
}

func (c *cluster) ids() []base.NodeID {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []base.NodeID
	for id := range c.mu.members {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (c *cluster) dir(id base.NodeID) string { return fmt.Sprintf("%s/%d", c.root, id) }

// environment is what a node reaches the world by.
func (c *cluster) environment(id base.NodeID) *env.Env {
	e := env.Real(quiet().With("node", id))
	if c.disks != nil {
		e.FS, e.VFS = c.disks[id], c.vfs
	}
	return e
}

func (c *cluster) options(m *member) leader.Options {
	o := leader.Options{
		Dir: c.dir(m.id), Cluster: 1, Database: database, Name: "shop", Transport: m.wire,
		Events: leader.Events{Effect: c.obey, Active: c.serves, NoRoom: c.lacksRoom},
	}
	if c.disks == nil { // This memory would not crash with its node's disk.
		o.Memory = memory{c, m.id}
	}
	if c.small {
		o.SegmentBytes, o.CheckpointBytes = 32<<10, 100<<10
	}
	return o
}

// memory is what a node remembers of its replica outside its folder.
type memory struct {
	c  *cluster
	id base.NodeID
}

func (m memory) Had() bool {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	return m.c.mu.had[m.id]
}

func (m memory) Keep() error {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if m.c.mu.had == nil {
		m.c.mu.had = make(map[base.NodeID]bool)
	}
	m.c.mu.had[m.id] = true
	return nil
}

// forget makes a node one that has never had the replica.
func (c *cluster) forget(id base.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.mu.had, id)
}

func (m memory) Recorded(context.Context) (base.Epoch, error) { return m.c.record().Epoch, nil }

func (c *cluster) lacksRoom(base.Epoch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.noRoom++
}

func (c *cluster) file(id base.NodeID) string { return c.dir(id) + "/shop.sqlite" }

// open starts a node.
func (c *cluster) open(id base.NodeID) *member {
	c.t.Helper()
	m := &member{id: id, wire: c.net.Join(id, fmt.Sprintf("node%d", id)), done: make(chan error, 1)}
	e := c.environment(id)
	m.files = &filter{FS: e.FS}
	e.FS = m.files
	r, err := leader.Open(c.t.Context(), e, c.options(m))
	if err != nil {
		c.t.Fatalf("open replica %d: %v", id, err)
	}
	m.replica = r
	c.serve(m)
	c.mu.Lock()
	c.mu.members[id] = m
	c.mu.Unlock()
	ctx, stop := context.WithCancelCause(context.Background())
	m.stop = stop
	r.Assign(c.record())
	go func() { m.done <- r.Run(ctx) }()
	return m
}

// serve joins the node to the network.
func (c *cluster) serve(m *member) {
	m.wire.HandleStream(leader.FollowService, func(ctx context.Context, from base.NodeID, header []byte, s transport.Stream) error {
		q, err := stream.DecodeFollow(header)
		if err != nil {
			return err
		}
		return m.replica.ServeFollow(ctx, from, q, s)
	})
	m.wire.HandleCall(leader.RowsMethod, func(ctx context.Context, _ base.NodeID, request []byte) ([]byte, error) {
		return m.replica.ServeRows(ctx, request)
	})
	m.wire.HandleStream(leader.SnapshotService, func(ctx context.Context, _ base.NodeID, _ []byte, s transport.Stream) error {
		return m.replica.ServeSnapshot(ctx, s)
	})
	m.wire.HandleFile(leader.SnapshotFile, func(_ context.Context, _ base.NodeID, name string) (transport.ReadAtCloser, int64, error) {
		f, size, err := m.replica.OpenSnapshot(filepath.Base(name))
		if err != nil {
			return nil, 0, err
		}
		c.mu.Lock()
		spoilt := c.spoilt
		c.mu.Unlock()
		if spoilt != nil {
			return spoilt(f), size, nil
		}
		return f, size, nil
	})
	for peer := range base.NodeID(6) {
		if peer != 0 && peer != m.id {
			m.wire.SetPeer(peer, fmt.Sprintf("node%d", peer))
		}
	}
	if err := m.wire.Start(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
}

// stop stops a node in order and returns why its replica ended.
func (c *cluster) stop(id base.NodeID) error {
	m := c.member(id)
	m.stop(nil)
	err := <-m.done
	m.wire.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.mu.members, id)
	return err
}

// kill makes a node end as kill -9 does: what its process had written is there,
// and nothing is written on its way out.
func (c *cluster) kill(id base.NodeID) {
	c.t.Helper()
	c.net.Down(id)
	synctest.Wait()
	saved := c.dir(id) + ".killed"
	if err := os.CopyFS(saved, os.DirFS(c.dir(id))); err != nil {
		c.t.Fatal(err)
	}
	c.stop(id)
	if err := os.RemoveAll(c.dir(id)); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Rename(saved, c.dir(id)); err != nil {
		c.t.Fatal(err)
	}
	c.net.Up(id)
}

func (c *cluster) member(id base.NodeID) *member {
	m, err := c.find(id)
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

// find is member for who may come while a node is opened again.
func (c *cluster) find(id base.NodeID) (*member, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.mu.members[id]; m != nil {
		return m, nil
	}
	return nil, base.Errorf(base.KindUnavailable, "node %d does not run", id)
}

func (c *cluster) replica(id base.NodeID) *leader.Replica { return c.member(id).replica }

func (c *cluster) record() leader.Assignment {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.record
}

// change changes the record and tells everybody.
func (c *cluster) change(f func(*leader.Assignment)) {
	c.mu.Lock()
	f(&c.mu.record)
	a := c.mu.record
	var all []*member
	for _, m := range c.mu.members {
		all = append(all, m)
	}
	c.mu.Unlock()
	for _, m := range all {
		m.replica.Assign(a)
	}
}

// obey is the control plane's part of a change of the counting.
func (c *cluster) obey(epoch base.Epoch, e leadership.Effect) {
	c.mu.Lock()
	c.mu.effects = append(c.mu.effects, e)
	record := e.Kind == leadership.ProposeCounting && !c.mu.deaf && epoch == c.mu.record.Epoch &&
		e.Counting.Revision == c.mu.record.Counting.Revision+1
	c.mu.Unlock()
	if record {
		c.change(func(a *leader.Assignment) { a.Counting = e.Counting })
	}
}

func (c *cluster) serves(epoch base.Epoch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.active = max(c.mu.active, epoch)
}

// name makes a node the leader of the next epoch, in the record.
func (c *cluster) name(id base.NodeID) {
	c.change(func(a *leader.Assignment) { a.Epoch, a.Leader = a.Epoch+1, id })
}

// appoint does so and waits until it serves.
func (c *cluster) appoint(id base.NodeID) {
	c.t.Helper()
	c.name(id)
	epoch := c.record().Epoch
	c.eventually(fmt.Sprintf("node %d serves in epoch %d", id, epoch), func() bool {
		e, ok := c.replica(id).Leading()
		return ok && e == epoch
	})
}

// promise asks a node as an election does.
func (c *cluster) promise(id base.NodeID) leadership.PromiseReply {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	reply, err := c.replica(id).Promise(ctx, leadership.PromiseRequest{Database: database, Epoch: c.record().Epoch + 1})
	if err != nil {
		c.t.Fatalf("promise of node %d: %v", id, err)
	}
	return reply
}

// elect holds an election among some nodes: the best of those that are evidence
// leads. It fails the test when they are too few to be sure.
func (c *cluster) elect(voters ...base.NodeID) base.NodeID {
	c.t.Helper()
	var best base.NodeID
	var at base.Position
	var wait time.Duration
	answers := 0
	var refused []string
	for _, id := range voters {
		p := c.promise(id)
		if !p.Granted || p.Fresh {
			refused = append(refused, fmt.Sprintf("node %d: %+v", id, p))
			continue
		}
		answers++
		wait = max(wait, p.LeaseRemaining)
		if best == 0 || at.Less(p.Position) {
			best, at = id, p.Position
		}
	}
	if need := c.record().Counting.Answers(); answers < need {
		c.t.Fatalf("%d answers that are evidence; %d are needed; %s", answers, need, strings.Join(refused, "; "))
	}
	time.Sleep(wait)
	c.name(best)
	return best
}

func (c *cluster) eventually(what string, f func() bool) {
	c.t.Helper()
	for began := time.Now(); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 60*time.Second {
			c.t.Fatalf("not within 60 s: %s\n%s", what, c.describe())
		}
	}
}

func (c *cluster) describe() string {
	var b strings.Builder
	for _, id := range c.ids() {
		s := c.replica(id).Status()
		fmt.Fprintf(&b, "%d: %s epoch %d appended %v flushed %d safe %d applied %v start %d %s\n", id, s.Role, s.Epoch, s.Appended, s.Flushed, s.Safe, s.Applied, s.LogStart, s.Error)
		for _, f := range s.Followers {
			fmt.Fprintf(&b, "   follower %d: attached %v received %d flushed %d applied %d\n", f.Node, f.Attached, f.Received, f.Flushed, f.Applied)
		}
	}
	return b.String()
}

// level waits until all nodes have applied what the leader has.
func (c *cluster) level() {
	c.t.Helper()
	c.eventually("all replicas are level", func() bool {
		want := c.replica(c.record().Leader).Status().Appended
		for _, id := range c.ids() {
			s := c.replica(id).Status()
			if s.Applied != want || s.Appended != want || s.Safe < want.Seq {
				return false
			}
		}
		return true
	})
}

// same waits until all are level and compares what they hold.
func (c *cluster) same() {
	c.t.Helper()
	c.level()
	var want string
	for _, id := range c.ids() {
		got, _, err := c.replica(id).ContentHash(c.t.Context())
		if err != nil {
			c.t.Fatalf("hash of replica %d: %v", id, err)
		}
		if want == "" {
			want = got
		}
		if got != want {
			c.t.Errorf("replica %d holds something else than the first", id)
		}
	}
}

func statement(sql string, args ...any) replica.Statement {
	s := replica.Statement{SQL: sql}
	for _, a := range args {
		switch v := a.(type) {
		case int:
			s.Args = append(s.Args, base.IntValue(int64(v)))
		case string:
			s.Args = append(s.Args, base.TextValue(v))
		case []byte:
			s.Args = append(s.Args, base.BlobValue(v))
		}
	}
	return s
}

func request(sql string, args ...any) replica.WriteRequest {
	return replica.WriteRequest{Statements: []replica.Statement{statement(sql, args...)}, Guard: replica.GuardAdmin}
}

// try runs a write at a node, for at most a minute.
func (c *cluster) try(id base.NodeID, q replica.WriteRequest) (*replica.WriteResult, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	m, err := c.find(id)
	if err != nil {
		return nil, err
	}
	return m.replica.Write(ctx, q)
}

// write runs a write that must succeed at the leader.
func (c *cluster) write(sql string, args ...any) session.Result {
	c.t.Helper()
	res, err := c.try(c.record().Leader, request(sql, args...))
	if err != nil {
		c.t.Fatalf("%s: %v", sql, err)
	}
	return res.Result
}

// query reads at a node and returns the values, rows by ";", columns by ",".
func (c *cluster) query(id base.NodeID, q replica.ReadRequest, sql string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	m, err := c.find(id)
	if err != nil {
		return "", err
	}
	tx, err := m.replica.BeginRead(ctx, q)
	if err != nil {
		return "", err
	}
	defer tx.Close()
	rows, err := tx.Query(ctx, statement(sql))
	if err != nil {
		return "", err
	}
	return text(rows)
}

func text(rows session.Rows) (string, error) {
	defer rows.Close()
	var lines []string
	for rows.Next() {
		var line []string
		for _, v := range rows.Row() {
			line = append(line, word(v))
		}
		lines = append(lines, strings.Join(line, ","))
	}
	return strings.Join(lines, ";"), rows.Err()
}

func word(v base.Value) string {
	switch v.Kind {
	case base.Integer:
		return strconv.FormatInt(v.Int, 10)
	case base.Real:
		return strconv.FormatFloat(v.Float, 'g', -1, 64)
	case base.Null:
		return "NULL"
	}
	return string(v.Bytes)
}

// read reads whatever a node has; it must succeed.
func (c *cluster) read(id base.NodeID, sql string) string {
	c.t.Helper()
	got, err := c.query(id, replica.ReadRequest{}, sql)
	if err != nil {
		c.t.Fatalf("node %d: %s: %v", id, sql, err)
	}
	return got
}

func (c *cluster) expect(id base.NodeID, sql, want string) {
	c.t.Helper()
	if got := c.read(id, sql); got != want {
		c.t.Errorf("node %d: %s: got %q, want %q", id, sql, got, want)
	}
}

// mute cuts what a node sends to another and back.
func (c *cluster) mute(a, b base.NodeID) { c.net.Cut(a, b); c.net.Cut(b, a) }

func (c *cluster) heal(a, b base.NodeID) { c.net.Heal(a, b); c.net.Heal(b, a) }

func wantKind(t *testing.T, err error, kind base.Kind, outcome base.Outcome) {
	t.Helper()
	e := base.AsError(cmpErr(err))
	got := e.Outcome
	if got == "" {
		got = base.NotDone
	}
	if err == nil || e.Kind != kind || got != outcome {
		t.Errorf("got %v (%s, %s), want %s, %s", err, e.Kind, got, kind, outcome)
	}
}

func cmpErr(err error) error {
	if err == nil {
		return base.Errorf(base.KindInternal, "no error")
	}
	return err
}

// filter is a disk whose flushes can be held up.
type filter struct {
	env.FS

	mu   sync.Mutex // guards gate
	gate chan struct{}

	logWrites atomic.Int64 // how often the log was written to
}

// slow makes flushes of the log wait until fast is called.
func (f *filter) slow() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gate = make(chan struct{})
}

func (f *filter) fast() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.gate)
	f.gate = nil
}

// OpenFile implements env.FS.
func (f *filter) OpenFile(name string, flag int, perm fs.FileMode) (env.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil || !strings.Contains(name, "/log/") {
		return file, err
	}
	return &slowFile{file, f}, nil
}

type slowFile struct {
	env.File
	filter *filter
}

// WriteAt implements env.File.
func (f *slowFile) WriteAt(b []byte, at int64) (int, error) {
	f.filter.logWrites.Add(1)
	return f.File.WriteAt(b, at)
}

// Sync implements env.File.
func (f *slowFile) Sync() error {
	f.filter.mu.Lock()
	gate := f.filter.gate
	f.filter.mu.Unlock()
	if gate != nil {
		<-gate
	}
	return f.File.Sync()
}

// promiseProbe asks what a node would promise.
func (c *cluster) promiseProbe(id base.NodeID) leadership.PromiseReply {
	c.t.Helper()
	reply, err := c.replica(id).Promise(c.t.Context(), leadership.PromiseRequest{Database: database, Epoch: c.record().Epoch + 1, Probe: true})
	if err != nil {
		c.t.Fatal(err)
	}
	return reply
}

// damageLog stops a node in order, flips a byte of the last entry of its log,
// and starts it again.
func (c *cluster) damageLog(id base.NodeID) {
	c.t.Helper()
	c.stop(id)
	segments, err := filepath.Glob(c.dir(id) + "/log/*")
	if err != nil || len(segments) == 0 {
		c.t.Fatalf("segments: %v, %v", segments, err)
	}
	slices.Sort(segments)
	last := segments[len(segments)-1]
	data, err := os.ReadFile(last)
	if err != nil {
		c.t.Fatal(err)
	}
	flip(c.t, last, len(bytes.TrimRight(data, "\x00"))-1)
	c.open(id)
}

func flip(t *testing.T, name string, at int) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[at] ^= 0x40
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// cutLogs cuts what is after a sequence number from the logs of stopped nodes.
func (c *cluster) cutLogs(after base.Seq, nodes ...base.NodeID) {
	c.t.Helper()
	for _, id := range nodes {
		l, _, err := changelog.Open(env.Real(quiet()), c.dir(id)+"/log", changelog.Options{DatabaseID: database, ClusterID: 1})
		if err == nil {
			err = errors.Join(l.TruncateAfter(after), l.Close())
		}
		if err != nil {
			c.t.Fatal(err)
		}
	}
}

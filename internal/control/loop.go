package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/env"
)

// loop is what Run's goroutine owns.
type loop struct {
	c          *Control
	ctx        context.Context     // of Run
	background sync.WaitGroup      // what Run waits for before it returns
	log        *raft.MemoryStorage // entries in memory, as they are in the store
	// group is nil while the node is idle.
	group *raft.RawNode
	hard  *raftpb.HardState
	// commitUnsaved says that hard.Commit is ahead of the store. Only term,
	// vote and entries are promises; the commit index is written with the next
	// of them or at the next tick.
	commitUnsaved bool
	conf          *raftpb.ConfState
	state         *catalog.State
	snapshotAt    uint64 // index of the last snapshot
	confChanged   bool   // the group has changed since
	confBarrier   uint64 // no change of the group before this index is applied
	confProposed  bool   // one is on its way into the log
	ticks         uint64
	removed       bool

	candidateFor int // ticks in a row as a candidate
	suspects     map[base.NodeID]uint64
	stuckAfter   int // ticks until a candidate stands anew
	applied      []appliedCommand
	replies      []func() // to those who have asked
	reads        map[string]*read
	readPrefix   uint64
	readCount    uint64
	answers      uint64 // notices sent in this tick
}

// maxBatch bounds how many events are taken in before their results are
// written, so that they share a sync of the disk.
const maxBatch = 64

func newLoop(c *Control) *loop {
	return &loop{
		c: c, ctx: context.Background(), log: raft.NewMemoryStorage(), hard: &raftpb.HardState{}, conf: &raftpb.ConfState{},
		state: catalog.New(), suspects: make(map[base.NodeID]uint64), reads: make(map[string]*read),
		readPrefix: c.env.Rand.Uint64(),
	}
}

func (l *loop) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	l.ctx = ctx
	defer l.background.Wait()
	defer cancel()
	// A phase of its own keeps nodes that start together from standing for
	// election together.
	phase := time.Duration(l.c.env.Rand.Uint64() % uint64(l.c.o.TickInterval))
	timer := l.c.env.Clock.NewTimer(phase)
	defer timer.Stop()
	for {
		err := l.next(timer)
		if errors.Is(err, errLoopEnds) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// errLoopEnds is the end that was asked for.
var errLoopEnds = errors.New("the loop is to end")

// next waits for one thing and does it. A tick that is due comes before what
// else came in while the loop was at its disk: events that keep coming never
// keep it waiting, and the order is always the same.
func (l *loop) next(timer env.Timer) error {
	select {
	case <-timer.C():
		return l.tickNow(timer)
	default:
	}
	select {
	case <-l.ctx.Done():
		return errLoopEnds
	case <-l.c.closing:
		return errLoopEnds
	case f := <-l.c.inbox:
		return l.safely(func() error { return l.take(f) })
	case <-timer.C():
		return l.tickNow(timer)
	}
}

func (l *loop) tickNow(timer env.Timer) error {
	timer.Reset(l.c.o.TickInterval)
	return l.safely(l.tick)
}

// safely turns the library's deliberate panics into an error that stops the
// loop: they mean that the log contradicts itself or the group's.
func (l *loop) safely(f func() error) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case groupPanic:
			err = base.Errorf(base.KindCorrupt, "the control log contradicts itself: %s", string(p))
		default:
			panic(p)
		}
	}()
	return f()
}

// take runs one event and those that wait behind it.
func (l *loop) take(f func(*loop)) error {
	f(l)
	for range maxBatch {
		select {
		case f := <-l.c.inbox:
			f(l)
			continue
		default:
		}
		break
	}
	return l.process()
}

func (l *loop) tick() error {
	l.ticks++
	l.answers = 0
	if l.group == nil || l.removed {
		return l.process()
	}
	l.group.Tick()
	l.hasten()
	l.repeatReads()
	l.maintain()
	if err := l.process(); err != nil {
		return err
	}
	return l.saveCommit()
}

func (l *loop) saveCommit() error {
	if !l.commitUnsaved {
		return nil
	}
	l.commitUnsaved = false
	return l.save(Batch{HardState: l.hard})
}

// save makes a batch durable. Without room on the disk it waits for some, as on
// a disk that is slow: nothing of the batch is there, nothing that rests on it
// was said to anyone, and the group does without this node meanwhile. Callers
// have their own patience. After any other failure nobody knows what is on the
// disk, and the loop ends.
func (l *loop) save(b Batch) error {
	const least, most = 50 * time.Millisecond, 2 * time.Second
	for wait := least; ; wait = min(2*wait, most) {
		err := l.c.store.Save(b)
		if err == nil {
			if wait > least {
				l.c.env.Log.Info("control.db has room again")
			}
			return nil
		}
		if base.KindOf(err) != base.KindDiskFull {
			return fmt.Errorf("write control.db: %w", err)
		}
		if wait == least {
			l.c.env.Log.Error("no room for control.db: this node takes no part in the control plane until there is; make room on the disk of the data folder", "err", err)
		}
		timer := l.c.env.Clock.NewTimer(wait)
		select {
		case <-timer.C():
		case <-l.ctx.Done():
			timer.Stop()
			return errLoopEnds
		case <-l.c.closing:
			timer.Stop()
			return errLoopEnds
		}
	}
}

// recoverSaved rebuilds the loop from the store.
func (l *loop) recoverSaved() error {
	saved, err := l.c.store.Load()
	if err != nil {
		return err
	}
	if saved.Identity.Node != 0 && saved.Identity.Node != l.c.o.Self {
		return base.Errorf(base.KindWrongCluster, "control.db belongs to node %s, not %s", saved.Identity.Node, l.c.o.Self)
	}
	if saved.Snapshot == nil {
		return nil
	}
	return l.safely(func() error {
		if err := l.start(saved); err != nil {
			return err
		}
		if l.state.ClusterID() != saved.Identity.ClusterID {
			return base.Errorf(base.KindCorrupt, "control.db is of cluster %016x, its catalog of %016x", saved.Identity.ClusterID, l.state.ClusterID())
		}
		return l.process()
	})
}

// start makes the group out of what is stored.
func (l *loop) start(saved Saved) error {
	state, err := decodeSnapshotData(saved.Snapshot.GetData())
	if err != nil {
		return err
	}
	meta := saved.Snapshot.GetMetadata()
	l.state, l.conf, l.snapshotAt = state, meta.GetConfState(), meta.GetIndex()
	l.hard = saved.HardState
	if l.hard.GetCommit() < meta.GetIndex() {
		l.hard = &raftpb.HardState{Term: new(max(l.hard.GetTerm(), meta.GetTerm())), Vote: new(l.hard.GetVote()), Commit: new(meta.GetIndex())}
	}
	if err := l.log.ApplySnapshot(saved.Snapshot); err != nil {
		return fmt.Errorf("load snapshot: %w", err)
	}
	if err := l.log.SetHardState(l.hard); err != nil {
		return err
	}
	if err := l.log.Append(saved.Entries); err != nil {
		return err
	}
	l.noteConfEntries(saved.Entries)
	l.group, err = raft.NewRawNode(l.config())
	return err
}

func (l *loop) config() *raft.Config {
	return &raft.Config{
		ID:            uint64(l.c.o.Self),
		ElectionTick:  l.c.o.ElectionTicks,
		HeartbeatTick: l.c.o.HeartbeatTicks,
		Storage:       l.log,
		Applied:       l.snapshotAt,
		// One message holds a few commands; a follower may have that many
		// bytes on the way before it has to answer.
		MaxSizePerMsg:             256 << 10,
		MaxInflightMsgs:           64,
		MaxInflightBytes:          1 << 20,
		MaxUncommittedEntriesSize: 4 << 20,
		CheckQuorum:               true,
		PreVote:                   true,
		StepDownOnRemoval:         true,
		// A proposal goes to the leader by a call that says what became of it.
		DisableProposalForwarding: true,
		Logger:                    raftLogger{l.c.env.Log},
	}
}

// process does what the group asks for until it asks for nothing, then
// publishes the outcome.
func (l *loop) process() error {
	for l.group != nil && l.group.HasReady() {
		ready := l.group.Ready()
		bound := l.sendUnbound(ready.Messages)
		if err := l.persist(ready); err != nil {
			return err
		}
		for _, m := range bound {
			l.send(m)
		}
		if err := l.applyAll(ready); err != nil {
			return err
		}
		l.noteReads(ready.ReadStates)
		l.group.Advance(ready)
		if err := l.maybeSnapshot(); err != nil {
			return err
		}
	}
	l.confProposed = false // By now it is in the log, and in confBarrier.
	// Whoever is told that something is applied must find it in what is
	// published.
	l.publish()
	l.answerCommands()
	l.answerReads()
	for _, reply := range l.replies {
		reply()
	}
	l.replies = nil
	return nil
}

// sendUnbound sends the messages that rest on nothing that is yet to be written,
// and returns the others. A leader's followers write its entries while it does so
// itself: Ongaro, "Consensus: Bridging Theory and Practice", section 10.2.1. It
// counts its own copy only when it is on disk. That it leads in its term rests on
// a vote for itself, which must be on disk.
func (l *loop) sendUnbound(messages []*raftpb.Message) (bound []*raftpb.Message) {
	for _, m := range messages {
		t := m.GetType()
		if (t == raftpb.MsgApp || t == raftpb.MsgHeartbeat) && m.GetTerm() == l.hard.GetTerm() {
			l.send(m)
		} else {
			bound = append(bound, m)
		}
	}
	return bound
}

// replyLater answers a request once its effects are published.
func (l *loop) replyLater(reply chan<- error, err error) {
	l.replies = append(l.replies, func() { reply <- err })
}

// persist writes the promises of ready, and only then counts them as made.
func (l *loop) persist(ready raft.Ready) error {
	if !raft.IsEmptyHardState(ready.HardState) {
		l.hard, l.commitUnsaved = ready.HardState, true
	}
	b := Batch{Entries: ready.Entries}
	if !raft.IsEmptySnap(ready.Snapshot) {
		b.Snapshot, b.Reset = ready.Snapshot, true
	}
	if ready.MustSync || b.Snapshot != nil {
		b.HardState = l.hard
		if err := l.save(b); err != nil {
			return err
		}
		l.commitUnsaved = false
	}
	if b.Snapshot != nil {
		if err := l.log.ApplySnapshot(b.Snapshot); err != nil {
			return fmt.Errorf("take in snapshot: %w", err)
		}
	}
	if err := l.log.SetHardState(l.hard); err != nil {
		return err
	}
	if ready.SoftState != nil && ready.SoftState.RaftState == raft.StateLeader {
		// What earlier leaders left in the log may hold a change of the group.
		last, _ := l.log.LastIndex()
		l.confBarrier = max(l.confBarrier, last)
	}
	l.noteConfEntries(ready.Entries)
	return l.log.Append(ready.Entries)
}

func (l *loop) noteConfEntries(entries []*raftpb.Entry) {
	for _, e := range entries {
		if e.GetType() != raftpb.EntryNormal {
			l.confBarrier = max(l.confBarrier, e.GetIndex())
		}
	}
}

// publish tells the world outside the loop what has changed.
func (l *loop) publish() {
	old, _ := l.c.published.get()
	next := view{state: l.state, role: RoleIdle, suspected: slices.Sorted(maps.Keys(l.suspects))}
	if old.state.Applied() == l.state.Applied() {
		next.state = old.state
	}
	if l.group != nil {
		s := l.group.BasicStatus()
		next.leader, next.term, next.role = base.NodeID(s.Lead), s.GetTerm(), l.role(s.RaftState)
	}
	if l.removed {
		next.leader = 0
	}
	same := next.state == old.state && next.role == old.role && next.leader == old.leader &&
		next.term == old.term && slices.Equal(next.suspected, old.suspected)
	if same {
		return
	}
	if next.role != old.role || next.leader != old.leader {
		l.c.env.Log.Info("control group", "role", next.role, "leader", next.leader, "term", next.term)
	}
	l.c.published.set(next)
}

func (l *loop) role(s raft.StateType) Role {
	switch {
	case l.removed:
		return RoleRemoved
	case s == raft.StateLeader:
		return RoleLeader
	case s == raft.StateCandidate || s == raft.StatePreCandidate:
		return RoleCandidate
	case !slices.Contains(l.conf.GetVoters(), uint64(l.c.o.Self)):
		return RoleLearner
	}
	return RoleFollower
}

func (l *loop) leads() bool {
	return l.group != nil && l.group.BasicStatus().RaftState == raft.StateLeader
}

package control

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
)

// waiters are those who wait for a command to be applied on this node.
type waiters struct {
	mu   sync.Mutex // guards byID
	byID map[catalog.ID][]chan catalog.Result
}

func (w *waiters) add(id catalog.ID) chan catalog.Result {
	ch := make(chan catalog.Result, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.byID[id] = append(w.byID[id], ch)
	return ch
}

func (w *waiters) remove(id catalog.ID, ch chan catalog.Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	rest := slices.DeleteFunc(w.byID[id], func(c chan catalog.Result) bool { return c == ch })
	if len(rest) == 0 {
		delete(w.byID, id)
		return
	}
	w.byID[id] = rest
}

// complete answers those who wait for a command. Each channel has room for one
// answer and gets one.
func (w *waiters) complete(id catalog.ID, r catalog.Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ch := range w.byID[id] {
		ch <- r
	}
	delete(w.byID, id)
}

// ids returns the commands that are waited for.
func (w *waiters) ids() []catalog.ID {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Keys(w.byID))
}

// Propose has a command agreed on and returns its result when this node has
// applied it. It draws an id if the command has none. Any node can propose; the
// command goes to the leader, again and again under the same id until ctx is
// done, so that it takes effect once.
//
// A refusal by the catalog is an error with outcome NotDone. Without a leader:
// KindNoLeader, NotDone. When the time runs out after the command has been
// sent: KindTimeout with outcome Indeterminate, or Done when the leader had
// confirmed it.
func (c *Control) Propose(ctx context.Context, cmd catalog.Command) (catalog.Result, error) {
	if cmd.ID == (catalog.ID{}) {
		id, err := catalog.NewID(c.env.Rand)
		if err != nil {
			return catalog.Result{}, err
		}
		cmd.ID = id
	}
	data, err := cmd.Encode()
	if err != nil {
		return catalog.Result{}, err
	}
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	p := &proposal{c: c, cmd: cmd, data: data, applied: c.waiters.add(cmd.ID)}
	defer c.waiters.remove(cmd.ID, p.applied)
	if r, ok := c.State().Recent(cmd.ID); ok {
		return r, r.Err()
	}
	result, err := p.run(ctx)
	if err != nil {
		return catalog.Result{}, err
	}
	return result, result.Err()
}

// proposal is one call of Propose.
type proposal struct {
	c       *Control
	cmd     catalog.Command
	data    []byte
	applied chan catalog.Result
	sent    bool  // it may be in a log somewhere
	last    error // why the last attempt failed
}

// Bounds of the pause between two attempts, in ticks.
const (
	minPause = 1
	maxPause = 16
)

func (p *proposal) run(ctx context.Context) (catalog.Result, error) {
	pause := minPause
	for {
		v, moved := p.c.published.get()
		if v.failure != nil {
			return catalog.Result{}, p.outcome(v.failure)
		}
		if v.leader == 0 || v.role == RoleRemoved {
			pause = minPause
			p.last = p.c.noLeader(v)
			if v.role == RoleIdle || v.role == RoleRemoved {
				return catalog.Result{}, p.outcome(p.last)
			}
			if r, done, err := p.wait(ctx, moved, maxPause); done {
				return r, err
			}
			continue
		}
		if r, done, err := p.attempt(ctx, v); done {
			return r, err
		}
		if r, done, err := p.wait(ctx, moved, pause); done {
			return r, err
		}
		pause = min(2*pause, maxPause)
	}
}

// wait pauses between attempts, until the control group moves at the latest.
func (p *proposal) wait(ctx context.Context, moved <-chan struct{}, ticks int) (catalog.Result, bool, error) {
	select {
	case r := <-p.applied: // It counts before whatever else is so by now.
		return r, true, nil
	default:
	}
	timer := p.c.env.Clock.NewTimer(time.Duration(ticks) * p.c.o.TickInterval)
	defer timer.Stop()
	select {
	case r := <-p.applied:
		return r, true, nil
	case <-moved:
	case <-timer.C():
	case <-p.c.stopped:
		return catalog.Result{}, true, p.outcome(p.c.stoppedError())
	case <-ctx.Done():
		return catalog.Result{}, true, p.expired(ctx)
	}
	return catalog.Result{}, false, nil
}

// attempt gives the command to the leader once. It is done when there is
// something to return.
func (p *proposal) attempt(ctx context.Context, v view) (catalog.Result, bool, error) {
	if v.leader == p.c.o.Self {
		return p.attemptHere(ctx, v)
	}
	result, err := p.call(ctx, v.leader)
	var e *base.Error
	switch {
	case errors.As(err, &e) && final(e.Kind):
		return catalog.Result{}, true, p.outcome(err)
	case err != nil:
		p.last = err
		p.sent = p.sent || e == nil || e.Outcome == base.Indeterminate
		if ctx.Err() != nil {
			return catalog.Result{}, true, p.expired(ctx)
		}
		return catalog.Result{}, false, nil
	}
	if gone, ok := p.cmd.Action.(catalog.RemoveNode); ok && gone.Node == p.c.o.Self {
		return result, true, nil // This node need not hear of its own removal.
	}
	return p.confirmed(ctx)
}

// final says that another attempt would fail as well.
func final(k base.Kind) bool {
	switch k {
	case base.KindWrongCluster, base.KindForbidden, base.KindInvalid, base.KindTooLarge, base.KindUnsupported, base.KindCorrupt:
		return true
	}
	return false
}

// call asks the leader, and stops asking once this node has applied the
// command or the group has another leader.
func (p *proposal) call(ctx context.Context, leader base.NodeID) (catalog.Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		result catalog.Result
		err    error
	}
	answered := make(chan answer, 1)
	go func() {
		r, err := p.c.callPropose(ctx, leader, p.data)
		answered <- answer{r, err}
	}()
	for {
		v, moved := p.c.published.get()
		if v.leader != leader {
			cancel()
			moved = nil
		}
		select {
		case a := <-answered:
			return a.result, a.err
		case r := <-p.applied:
			p.applied <- r // confirmed takes it from here.
			cancel()
			<-answered
			return r, nil
		case <-moved:
		}
	}
}

// confirmed waits until this node has applied what the leader has.
func (p *proposal) confirmed(ctx context.Context) (catalog.Result, bool, error) {
	select {
	case r := <-p.applied:
		return r, true, nil
	case <-p.c.stopped:
		return catalog.Result{}, true, base.AsError(p.c.stoppedError()).WithOutcome(base.Done)
	case <-ctx.Done():
		e := ended(ctx)
		e.Message = "the change is agreed on, but this node has not heard of it in time"
		return catalog.Result{}, true, e.WithOutcome(base.Done)
	}
}

// attemptHere proposes on this node, which leads, and waits until the command
// is applied or the leadership ends.
func (p *proposal) attemptHere(ctx context.Context, v view) (catalog.Result, bool, error) {
	err := p.c.ask(ctx, func(l *loop) error { return wrapRefusal(l.propose(p.cmd, p.data)) })
	if r, ok := errors.AsType[refusal](err); ok {
		p.last = r.error
		return catalog.Result{}, false, nil
	}
	p.sent = true // Whatever else went wrong, the loop may have done it.
	if err != nil {
		return catalog.Result{}, true, p.outcome(err)
	}
	for {
		now, moved := p.c.published.get()
		select {
		case r := <-p.applied: // It counts before whatever else is so by now.
			return r, true, nil
		default:
		}
		if now.leader != v.leader || now.term != v.term {
			return catalog.Result{}, false, nil
		}
		select {
		case r := <-p.applied:
			return r, true, nil
		case <-moved:
		case <-p.c.stopped:
			return catalog.Result{}, true, p.outcome(p.c.stoppedError())
		case <-ctx.Done():
			return catalog.Result{}, true, p.expired(ctx)
		}
	}
}

// refusal is an error of loop.propose: the command is certainly not in the log.
type refusal struct{ error }

func wrapRefusal(err error) error {
	if err != nil {
		return refusal{err}
	}
	return nil
}

// outcome says what err means for the command.
func (p *proposal) outcome(err error) error {
	e := *base.AsError(err)
	e.Outcome = base.NotDone
	if p.sent {
		e.Outcome = base.Indeterminate
	}
	return &e
}

// expired is the error when ctx has ended.
func (p *proposal) expired(ctx context.Context) error {
	if !p.sent && p.last != nil {
		return p.outcome(p.last)
	}
	return p.outcome(ended(ctx))
}

// propose puts a command into the log of this node, which must lead. An error
// means that it is not there.
func (l *loop) propose(cmd catalog.Command, data []byte) error {
	if !l.leads() {
		return &base.Error{Kind: base.KindNotLeader, Message: "this node does not lead the control group", Leader: l.leader()}
	}
	change := groupChange(cmd.Action)
	if change == nil {
		return proposed(l.group.Propose(data))
	}
	if l.confProposed || l.confBarrier > l.state.Applied() {
		return base.Errorf(base.KindBusy, "the control group is changing already")
	}
	if change.GetType() == raftpb.ConfChangeRemoveNode && base.NodeID(change.GetNodeId()) == l.c.o.Self && l.handOver() {
		return base.Errorf(base.KindNotLeader, "this node is handing over the control group before it leaves")
	}
	// The library would put an empty entry in the place of a second change.
	l.confProposed = true
	return proposed(l.group.ProposeConfChange(&raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{change}, Context: data}))
}

func proposed(err error) error {
	if err != nil {
		return base.Errorf(base.KindBusy, "the control group takes no proposal just now: %w", err)
	}
	return nil
}

func (l *loop) leader() base.NodeID {
	if l.group == nil {
		return 0
	}
	return base.NodeID(l.group.BasicStatus().Lead)
}

// groupChange is what an action does to the group's members, or nil.
func groupChange(a catalog.Action) *raftpb.ConfChangeSingle {
	change := func(t raftpb.ConfChangeType, id base.NodeID) *raftpb.ConfChangeSingle {
		return &raftpb.ConfChangeSingle{Type: t.Enum(), NodeId: new(uint64(id))}
	}
	switch a := a.(type) {
	case catalog.AddNode:
		return change(raftpb.ConfChangeAddLearnerNode, a.Node.ID)
	case catalog.RemoveNode:
		return change(raftpb.ConfChangeRemoveNode, a.Node)
	case catalog.SetVoter:
		if a.Voter {
			return change(raftpb.ConfChangeAddNode, a.Node)
		}
		return change(raftpb.ConfChangeAddLearnerNode, a.Node)
	}
	return nil
}

package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/env"
)

// Control is one node's part of the control plane. It is safe for concurrent
// use.
type Control struct {
	env   *env.Env
	o     Options
	store Store
	inbox chan func(*loop)
	loop  *loop // Run's alone once it has begun

	published published
	waiters   waiters
	strangers atomic.Uint64 // messages of other clusters
	largeTo   sync.Map      // base.NodeID: who is being sent a large snapshot

	running   atomic.Bool
	closing   chan struct{} // closed by Close
	closeOnce sync.Once
	stopped   chan struct{} // closed when Run has returned or never will run
	stopOnce  sync.Once
}

// Role of a node in the control group.
type Role string

// The roles.
const (
	RoleIdle      Role = "idle" // in no cluster yet
	RoleLearner   Role = "learner"
	RoleFollower  Role = "follower"
	RoleCandidate Role = "candidate"
	RoleLeader    Role = "leader"
	RoleRemoved   Role = "removed" // has left its cluster for good
	RoleFailed    Role = "failed"  // stopped by an error
)

// view is what the loop publishes.
type view struct {
	state     *catalog.State
	role      Role
	leader    base.NodeID
	term      uint64
	suspected []base.NodeID // sorted
	failure   error         // why the loop has stopped, if it has failed
}

type published struct {
	mu      sync.Mutex    // guards the fields below
	view    view          //
	changed chan struct{} // closed when view.state is replaced
	moved   chan struct{} // closed when anything in view is replaced
}

func (p *published) get() (view, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.view, p.moved
}

func (p *published) set(v view) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if v.state != p.view.state {
		close(p.changed)
		p.changed = make(chan struct{})
	}
	p.view = v
	close(p.moved)
	p.moved = make(chan struct{})
}

// Open reads control.db and returns the control plane as it was left; nothing
// happens until Run. Errors: KindCorrupt, KindWrongCluster when the folder is
// another node's.
func Open(e *env.Env, o Options) (*Control, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	store := o.Store
	if store == nil {
		var err error
		if store, err = OpenStore(e, o.Dir, o.VFS); err != nil {
			return nil, err
		}
	}
	c := &Control{
		env: e, o: o, store: store,
		inbox:   make(chan func(*loop), o.InboxSize),
		closing: make(chan struct{}), stopped: make(chan struct{}),
		published: published{changed: make(chan struct{}), moved: make(chan struct{})},
		waiters:   waiters{byID: make(map[catalog.ID][]chan catalog.Result)},
	}
	c.loop = newLoop(c)
	c.published.view = view{state: c.loop.state, role: RoleIdle}
	if err := c.loop.recoverSaved(); err != nil {
		return nil, errors.Join(fmt.Errorf("open control plane: %w", err), store.Close())
	}
	return c, nil
}

// Run is the loop; it returns when ctx is done, after Close, or with the error
// that stopped the control plane. It may be called once.
func (c *Control) Run(ctx context.Context) error {
	if !c.running.CompareAndSwap(false, true) {
		return base.Errorf(base.KindInvalid, "the control plane has been run already")
	}
	defer c.stopOnce.Do(func() { close(c.stopped) })
	err := c.loop.run(ctx)
	if err != nil {
		c.fail(err)
	}
	return err
}

// fail publishes why the control plane has stopped.
func (c *Control) fail(err error) {
	v, _ := c.published.get()
	v.role, v.leader = RoleFailed, 0
	v.failure = &base.Error{Kind: base.KindUnavailable, Message: "the control plane of this node has stopped: " + err.Error(), Err: err}
	c.published.set(v)
}

// Close stops Run, waits for it, and closes the store.
func (c *Control) Close() error {
	var err error
	c.closeOnce.Do(func() {
		close(c.closing)
		if c.running.CompareAndSwap(false, true) {
			c.stopOnce.Do(func() { close(c.stopped) }) // Run never was and never will be.
		}
		<-c.stopped
		err = c.store.Close()
	})
	return err
}

// State returns the catalog as this node knows it; it may lag behind the
// leader's. See ReadIndex.
func (c *Control) State() *catalog.State {
	v, _ := c.published.get()
	return v.state
}

// Changed returns a channel that is closed when State changes. Take it before
// State, so that no change is missed in between.
func (c *Control) Changed() <-chan struct{} {
	c.published.mu.Lock()
	defer c.published.mu.Unlock()
	return c.published.changed
}

// LeaderChanged returns a channel that is closed when Leader, Term or the role
// of this node may have changed.
func (c *Control) LeaderChanged() <-chan struct{} {
	_, moved := c.published.get()
	return moved
}

// Leader returns the leader of the control group, or 0.
func (c *Control) Leader() base.NodeID {
	v, _ := c.published.get()
	return v.leader
}

// IsLeader says whether this node leads the control group, as far as it knows.
func (c *Control) IsLeader() bool { return c.Leader() == c.o.Self }

// Role returns this node's role in the control group.
func (c *Control) Role() Role { return c.role() }

// Term returns the control group's term.
func (c *Control) Term() uint64 {
	v, _ := c.published.get()
	return v.term
}

// bounded gives ctx a deadline if it has none.
func (c *Control) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return c.env.Clock.WithTimeout(ctx, c.o.ProposeTimeout, context.DeadlineExceeded)
}

// ask runs f in the loop and returns its error, when what f has done is on disk
// and published. After another error f may still run.
func (c *Control) ask(ctx context.Context, f func(*loop) error) error {
	reply := make(chan error, 1)
	select {
	case c.inbox <- func(l *loop) { l.replyLater(reply, f(l)) }:
	case <-ctx.Done():
		return ended(ctx)
	case <-c.stopped:
		return c.stoppedError()
	}
	select {
	case err := <-reply:
		return err
	case <-ctx.Done():
		return ended(ctx)
	case <-c.stopped:
		return c.stoppedError()
	}
}

// tell runs f in the loop if the inbox has room.
func (c *Control) tell(f func(*loop)) bool {
	select {
	case c.inbox <- f:
		return true
	default:
		return false
	}
}

func (c *Control) stoppedError() error {
	if v, _ := c.published.get(); v.failure != nil {
		return v.failure
	}
	return base.Errorf(base.KindShutdown, "the control plane of this node is stopping")
}

// ended says that ctx ended a wait: by its deadline or because the client gave
// up.
func ended(ctx context.Context) *base.Error {
	cause := context.Cause(ctx)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(cause, context.DeadlineExceeded) {
		return &base.Error{Kind: base.KindTimeout, Message: "the control plane did not answer in time", Err: cause}
	}
	return &base.Error{Kind: base.KindCanceled, Message: "canceled while waiting for the control plane", Err: cause}
}

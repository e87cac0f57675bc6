package leader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/leadership"
	"github.com/skeindb/skein/internal/pageformat"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/transport"
)

// DefaultLease is how long followers promise not to elect another leader after
// they have heard from theirs.
const DefaultLease = 300 * time.Millisecond

// Options of a replica.
type Options struct {
	Dir       string // the replica's own folder; made when there is none
	Cluster   uint64
	Database  base.DatabaseID
	Name      string
	Transport transport.Transport
	Lease     time.Duration // 0 means DefaultLease; the same on every node
	Events    Events
	// Memory is what is known of the replica outside its folder; nil: nothing,
	// and a damaged replica.json is an error then.
	Memory Memory

	// SegmentBytes is the size of a segment of the log; 0 means
	// changelog.DefaultSegmentBytes.
	SegmentBytes int64
	// CheckpointBytes of SQLite's WAL start a checkpoint; 0 means 32 MiB.
	CheckpointBytes int64
}

// Events are told to the node; they must return quickly. Nil fields are set to
// functions that do nothing.
type Events struct {
	// Active says that this replica leads epoch and serves.
	Active func(epoch base.Epoch)
	// Effect is what the leader's core asks of the control plane.
	Effect func(epoch base.Epoch, e leadership.Effect)
	// NoRoom says that the disk has been too full for the writes of epoch for a
	// while. It is said every second while writes are refused.
	NoRoom func(epoch base.Epoch)
}

func (o *Options) validate() error {
	if o.Dir == "" || o.Name == "" || o.Transport == nil || o.Database == 0 {
		return base.Errorf(base.KindInternal, "replica options: folder, name, database and transport must be given")
	}
	if o.Lease == 0 {
		o.Lease = DefaultLease
	}
	if o.CheckpointBytes == 0 {
		o.CheckpointBytes = checkpointAt
	}
	if o.Events.Active == nil {
		o.Events.Active = func(base.Epoch) {}
	}
	if o.Events.Effect == nil {
		o.Events.Effect = func(base.Epoch, leadership.Effect) {}
	}
	if o.Events.NoRoom == nil {
		o.Events.NoRoom = func(base.Epoch) {}
	}
	return nil
}

// Assignment is what the control plane says of a database, as far as one
// replica needs it.
type Assignment struct {
	Epoch    base.Epoch
	Leader   base.NodeID
	Replicas []base.NodeID
	Policy   base.Policy
	Counting leadership.Counting // as recorded; what elections rely on
	// Lossy: acknowledged writes may have been lost when Epoch began; Handed: the
	// leader before had given its epoch up itself.
	Lossy, Handed bool
}

// Replica is one node's copy of one single-leader database.
type Replica struct {
	env     *env.Env
	options Options
	events  Events
	log     *slog.Logger
	started time.Time // what Instant counts from

	changes  *changelog.Log
	executed milestone // what SQLite has committed here
	// applied is executed, and what SQLite's open transaction holds beyond:
	// it is committed before anyone reads.
	applied     atomic.Uint64
	lastRead    atomic.Int64 // when a read began; 0: never
	hasPast     atomic.Bool  // the file may have a past; false spares everyone looking
	safe        milestone    // what can no longer be lost, by the policy
	flushWanted chan struct{}
	assigned    chan struct{}                     // wakes Run; holds one token
	writing     chan struct{}                     // held by who writes the meta file; no mutex, as it is held over disk calls
	applyWanted chan struct{}                     // a reader waits for what this follower has yet to apply
	looked      chan struct{}                     // somebody reads this copy who has not done so lately, or waits for it
	base        atomic.Pointer[pageformat.BaseID] // that pages for the file must have; nil: none fit
	resting     atomic.Uint64                     // the epoch in which it can't play its part

	mu struct {
		sync.Mutex // guards all below; never held over I/O
		assignment Assignment
		follower   *leadership.Follower
		playing    base.Epoch // of the part that is played; 0 between parts
		leading    *leading
		role       replica.Role
		failure    error
		meta       meta
		levelAt    time.Time           // when this follower was last level with its leader
		lateness   leadership.Lateness // of the messages of epoch latenessOf's leader
		latenessOf base.Epoch
		heardAt    time.Time // when it last heard its leader, whose log ended at leaderEnd
		leaderEnd  base.Seq
		copied     int64
		copyTotal  int64
		orphans    int64
		orphansAck int64                   // of them, those that were acknowledged
		stop       context.CancelCauseFunc // ends the part that is played
		damage     error                   // what was first found wrong with the open file
		// differences counts the entries whose statements did something else here
		// than on the leader, since this replica was opened; difference is the last.
		differences int64
		difference  struct {
			at   base.Position
			text string
		}
	}
	partChanged broadcast
	leadChanged broadcast // signaled when an assignment comes, and when a leadership begins or fails to
	handle      handle
	shots       snapshots
	feeds       feeds
	recent      operations
	acked       acknowledged
	receivers   sync.WaitGroup // of acknowledgements; each ends with its stream
}

var _ replica.Replica = (*Replica)(nil)

// Open opens or makes the replica in o.Dir and recovers it: a torn log tail is
// cut, and a replica whose files can't be trusted is marked for copying.
func Open(ctx context.Context, e *env.Env, o Options) (*Replica, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	r := &Replica{
		env: e, options: o, events: o.Events, started: e.Clock.Now(),
		log:         e.Log.With("database", o.Name),
		flushWanted: make(chan struct{}, 1), assigned: make(chan struct{}, 1),
		writing: make(chan struct{}, 1),
	}
	r.mu.role = replica.RoleStarting
	r.applyWanted = make(chan struct{}, 1)
	r.looked = make(chan struct{}, 1)
	r.executed.wanted = func() { wake(r.applyWanted); wake(r.looked) }
	r.safe.wanted = func() { wake(r.looked) }
	r.handle.init()
	r.shots.turn = make(chan struct{}, 1)
	if err := r.recover(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open replica of %s: %w", o.Name, err), r.Close())
	}
	return r, nil
}

// now is the replica's monotonic clock, as the core wants it.
func (r *Replica) now() leadership.Instant {
	return leadership.Instant(r.env.Clock.Now().Sub(r.started))
}

func (r *Replica) assignment() Assignment {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.assignment
}

// Assign tells the replica what the control plane has decided. It may be
// called at any time, with the same assignment too.
func (r *Replica) Assign(a Assignment) {
	r.mu.Lock()
	r.mu.assignment = a
	lead := r.mu.leading
	r.mu.Unlock()
	if lead != nil && lead.epoch == a.Epoch {
		lead.acks.reconfigure(r.leaderConfig(a))
		lead.dropOthers(a)
		wake(lead.ticking)  // Another durability begins now, not at the next tick.
		wake(r.applyWanted) // The log format may be another.
	}
	wake(r.assigned)
	r.leadChanged.signal()
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (r *Replica) wakeFlusher() { wake(r.flushWanted) }

func (r *Replica) leaderConfig(a Assignment) leadership.Config {
	return leadership.Config{
		Self: r.options.Transport.Self(), Epoch: a.Epoch, Replicas: a.Replicas, Policy: a.Policy,
		Counting: a.Counting, Lease: r.options.Lease,
	}
}

// part is what a replica does under one assignment.
type part struct {
	epoch    base.Epoch
	leader   base.NodeID
	promised base.Epoch
}

// Run plays the part that the assignment gives, until ctx is done or the
// replica fails for good; it then closes everything it opened.
func (r *Replica) Run(ctx context.Context) error {
	for {
		a, p := r.beginPart()
		playing, stop := context.WithCancelCause(ctx)
		ended := make(chan error, 1)
		go func() { ended <- r.play(playing, a, p) }()
		r.setStop(stop)
		err := r.watch(ctx, p, ended, stop)
		stop(nil)
		r.endPart()
		if ctx.Err() != nil {
			return r.Close()
		}
		if err != nil {
			r.fail(err)
			return errors.Join(err, r.noteDamage(err), r.Close())
		}
	}
}

// setStop says how the part that begins is ended. Damage that was met between
// two parts ends it at once.
func (r *Replica) setStop(stop context.CancelCauseFunc) {
	r.mu.Lock()
	r.mu.stop = stop
	damage := r.mu.damage
	r.mu.Unlock()
	if damage != nil {
		stop(damage)
	}
}

// damaged is the one place that judges damage to the open database file, and
// failed syncs of it: every connection to it reports here, whoever else gets the
// error. It ends the part that is played; the replica is opened again, and copied
// from another if the file is damaged.
func (r *Replica) damaged(err error) {
	r.mu.Lock()
	if r.mu.damage == nil {
		r.mu.damage = err
	}
	stop := r.mu.stop
	r.mu.Unlock()
	if stop != nil {
		stop(err)
	}
}

// endedBy returns the damage or the failed sync that this replica ends by; nil:
// there was none.
func (r *Replica) endedBy() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.damage
}

// noteDamage remembers that the files of a replica that has others to be copied
// from are not to be used again.
func (r *Replica) noteDamage(err error) error {
	if base.KindOf(err) != base.KindCorrupt || len(r.assignment().Replicas) < 2 {
		return nil
	}
	return r.markCopying(err.Error())
}

// watch waits until the part is over: the assignment changed, ctx is done, or
// the part ended by itself.
func (r *Replica) watch(ctx context.Context, p part, ended chan error, stop context.CancelCauseFunc) error {
	for {
		select {
		case err := <-ended:
			if ctx.Err() != nil || errors.Is(err, errPartOver) {
				return nil
			}
			return err
		case <-ctx.Done():
			stop(context.Cause(ctx))
			<-ended
			return nil
		case <-r.assigned:
			if a := r.assignment(); a.Epoch == p.epoch && a.Leader == p.leader && r.vow().Promised <= max(p.promised, p.epoch) {
				continue
			}
			stop(errPartOver)
			<-ended
			return nil
		}
	}
}

// errPartOver ends a part without harm; another is played next.
var errPartOver = errors.New("the assignment has changed")

// play runs one part to its end.
func (r *Replica) play(ctx context.Context, a Assignment, p part) error {
	self := r.options.Transport.Self()
	switch {
	case a.Epoch == 0 || a.Leader == 0 || p.promised > a.Epoch:
		return r.rest(ctx, a.Epoch)
	case a.Leader != self:
		return r.follow(ctx, a)
	}
	return r.lead(ctx, a)
}

// rest waits for another assignment.
func (r *Replica) rest(ctx context.Context, epoch base.Epoch) error {
	r.setRole(replica.RoleStarting)
	r.resting.Store(uint64(epoch))
	r.leadChanged.signal()
	defer r.resting.Store(0)
	<-ctx.Done()
	if cause := context.Cause(ctx); fatal(cause) {
		return cause // Another part would end as soon as it began.
	}
	return errPartOver
}

// Resting says in which epoch this replica can't play the part it was assigned,
// and waits for another; 0 when it plays one.
func (r *Replica) Resting() base.Epoch { return base.Epoch(r.resting.Load()) }

func (r *Replica) setRole(role replica.Role) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.role = role
}

func (r *Replica) setLeading(l *leading) {
	defer r.leadChanged.signal()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.leading = l
	if l != nil {
		r.mu.role = replica.RoleLeader
	} else if r.mu.role == replica.RoleLeader {
		r.mu.role = replica.RoleStarting
	}
}

// leading returns the current leadership, or why there is none here.
func (r *Replica) leading() (*leading, error) {
	r.mu.Lock()
	l := r.mu.leading
	r.mu.Unlock()
	if l == nil {
		return nil, r.notLeader()
	}
	return l, nil
}

// leadingIn returns the current leadership if its epoch is the one that is
// asked for, or any when that is zero.
func (r *Replica) leadingIn(epoch base.Epoch) (*leading, error) {
	l, err := r.leading()
	if err == nil && epoch != 0 && l.epoch != epoch {
		return nil, base.Errorf(base.KindNotLeader, "epoch %d of database %s was asked for, and this is epoch %d", epoch, r.options.Name, l.epoch)
	}
	return l, err
}

// awaitLead is leadingIn for who was told that this node leads: the news may be
// on its way here, and a leadership takes a moment to begin.
func (r *Replica) awaitLead(ctx context.Context, epoch base.Epoch) (*leading, error) {
	if l, err := r.leadingIn(epoch); err == nil {
		return l, nil
	}
	timer := r.env.Clock.NewTimer(2 * r.options.Lease)
	defer timer.Stop()
	for {
		changed := r.leadChanged.wait()
		l, err := r.leadingIn(epoch)
		if err == nil || !r.aboutToLead(epoch) {
			return l, err
		}
		select {
		case <-changed:
		case <-timer.C():
			return nil, err
		case <-ctx.Done():
			return nil, err
		}
	}
}

// aboutToLead says that this replica may come to lead epoch, or any if that is
// zero, as far as it knows.
func (r *Replica) aboutToLead(epoch base.Epoch) bool {
	resting := r.Resting()
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.mu.assignment
	switch {
	case r.mu.failure != nil, epoch != 0 && a.Epoch > epoch:
		return false
	case a.Epoch < epoch:
		return true
	}
	return a.Epoch != 0 && a.Leader == r.options.Transport.Self() && resting != a.Epoch && r.mu.follower.Vow().Promised <= a.Epoch
}

// notLeader says who leads, as far as this replica knows.
func (r *Replica) notLeader() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.mu.assignment
	if r.mu.failure != nil {
		return base.Errorf(base.KindUnavailable, "the replica of %s on this node has stopped: %v", r.options.Name, r.mu.failure)
	}
	if a.Leader == 0 || a.Leader == r.options.Transport.Self() {
		return base.Errorf(base.KindNoLeader, "database %s has no leader just now", r.options.Name).WithHint("try again; skein status shows why")
	}
	e := base.Errorf(base.KindNotLeader, "this node does not lead database %s", r.options.Name)
	e.Leader = a.Leader
	return e
}

func (r *Replica) fail(err error) {
	r.log.Error("replica stopped", "err", err)
	defer r.leadChanged.signal()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.role, r.mu.failure = replica.RoleStopped, err
}

// Close closes the files. Run does so by itself.
func (r *Replica) Close() error {
	err := r.handle.close(r.env.Clock)
	r.receivers.Wait()
	err = errors.Join(err, r.acked.close())
	if r.changes != nil {
		err = errors.Join(err, r.changes.Close())
	}
	return err
}

// Lineage implements replica.Replica.
func (r *Replica) Lineage(p base.Position) bool {
	if p.Epoch == 0 {
		return true
	}
	starts := r.changes.EpochStarts()
	for i, s := range starts {
		if s.Epoch == p.Epoch {
			return i+1 == len(starts) || p.Seq < starts[i+1].First
		}
	}
	return len(starts) == 0 || p.Epoch > starts[len(starts)-1].Epoch || p.Epoch < starts[0].Epoch
}

// age is how long ago this replica was level with its leader. One that leads
// itself is so while its lease lives: without one there may be another.
func (r *Replica) age() time.Duration {
	if l, err := r.leading(); err == nil && l.acks.leaseLive() {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.levelAt.IsZero() {
		return r.env.Clock.Now().Sub(r.started)
	}
	return r.env.Clock.Now().Sub(r.mu.levelAt)
}

// Describe implements replica.Replica.
func (r *Replica) Describe(ctx context.Context, sql string) (*session.Description, error) {
	file, err := r.useFile()
	if err != nil {
		return nil, err
	}
	defer file.release()
	guard := sqlite.GuardAdmin
	if r.assignment().Policy.LogFormat == base.FormatWAL {
		guard |= sqlite.AllowVacuum
	}
	d, _, err := file.db.Describe(ctx, sql, guard)
	return d, err
}

package failover

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/leadership"
	"github.com/skeindb/skein/internal/planted"
)

// Instant is the caller's monotonic clock.
type Instant = leadership.Instant

// Config of a Supervisor. Zero fields take the defaults.
type Config struct {
	// Self is the node that the supervisor runs on; it always reaches itself.
	Self base.NodeID
	// Lease as on all replicas. Default leadership.DefaultLease.
	Lease time.Duration
	// LostFor is how long a node must be lost before its databases are looked
	// after; a caller that calls a node lost only after a silence that it has
	// measured itself gives little. Default one lease.
	LostFor time.Duration
	// Patience is how long a lost node is waited for beyond that, at first; it
	// adapts up to MaxPatience. Defaults: a quarter lease, four leases.
	Patience, MaxPatience time.Duration
	// RetryMin and RetryMax bound the pause before a question or proposal is
	// repeated; it doubles. Defaults: an eighth of the lease, two leases.
	RetryMin, RetryMax time.Duration
	// Grace is how long an election waits for all the answers it needs before
	// it goes on with loss, where the policy allows it. Default three leases.
	Grace time.Duration
	// MinBetween elections of one database whose leader was only lost or
	// stalled. Default five leases.
	MinBetween time.Duration
	// MinBetweenRoom is the least time between two handovers of one database for
	// want of room: all disks may be full. Default a minute.
	MinBetweenRoom time.Duration
	// HandoverWithin bounds how long a switchover stops writes. Default two
	// leases.
	HandoverWithin time.Duration
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&c.Lease, leadership.DefaultLease)
	set(&c.LostFor, c.Lease)
	set(&c.Patience, c.Lease/4)
	set(&c.MaxPatience, 4*c.Lease)
	set(&c.RetryMin, c.Lease/8)
	set(&c.RetryMax, 2*c.Lease)
	set(&c.Grace, 3*c.Lease)
	set(&c.MinBetween, 5*c.Lease)
	set(&c.MinBetweenRoom, time.Minute)
	set(&c.HandoverWithin, 2*c.Lease)
	return c
}

// Database is the control plane's record of one database, as far as elections
// need it.
type Database struct {
	ID        base.DatabaseID
	Epoch     base.Epoch  // 0: never had a leader
	Leader    base.NodeID // of Epoch
	Replicas  []base.NodeID
	Counting  leadership.Counting
	AllowLoss bool
	// MaxLag bounds a loss that is allowed: how long the best replica may have
	// lacked something when it last heard its leader. Zero: any lag.
	MaxLag time.Duration
	// Manual: an operator decides that another leads (Decide). Only the leader
	// itself may go on by itself, in another epoch, after a restart.
	Manual bool
}

// Node is the control plane's record of one node, and what it can carry.
type Node struct {
	ID base.NodeID
	// Active: the node may lead. One that is being drained or removed may not.
	Active bool
	// Load orders nodes that are equally good otherwise; for instance how many
	// databases it leads.
	Load int
}

// Reach is what the transport knows of the way to a node.
type Reach uint8

// The ways, as in package transport.
const (
	Unknown Reach = iota // since the supervisor started: waited for like Lost
	Reached
	Lost
	Refused
)

// Reason says why a database needs another leader.
type Reason string

// The reasons.
const (
	ReasonNone      Reason = ""
	ReasonFirst     Reason = "first leader"
	ReasonRefused   Reason = "leader's process is gone"
	ReasonSilent    Reason = "leader is lost"
	ReasonRestarted Reason = "leader was restarted"
	ReasonFenced    Reason = "leader was fenced"
	ReasonStalled   Reason = "leader lost its followers"
	ReasonFull      Reason = "leader has no room"
	ReasonReleased  Reason = "switchover"
	ReasonMoved     Reason = "leader is to be moved"
	ReasonForced    Reason = "forced by an operator"
)

// HandedOver says that the leader before has given its epoch up itself, and had
// answered everyone.
func (r Reason) HandedOver() bool {
	return r == ReasonReleased || r == ReasonMoved || r == ReasonFull
}

// Event is something that happened. Exactly the types below are events.
type Event interface{ event() }

type (
	// Record is a database's record after a change, or at the start.
	Record struct{ Database Database }
	// Forget a dropped database.
	Forget struct{ Database base.DatabaseID }
	// Nodes is all nodes of the cluster, whenever that changes.
	Nodes struct{ Nodes []Node }
	// NodeReach tells how a node can be reached, whenever that changes.
	NodeReach struct {
		Node  base.NodeID
		Reach Reach
	}
	// Away is a node's word that it does not lead an epoch which the record
	// says it leads (ReasonRestarted, ReasonFenced), or leads it in vain
	// (ReasonStalled, ReasonFull).
	Away struct {
		Database base.DatabaseID
		Node     base.NodeID
		Epoch    base.Epoch
		Reason   Reason
	}
	// Answer is a replica's reply to Ask.
	Answer struct {
		Node  base.NodeID
		Reply leadership.PromiseReply
	}
	// Switchover is an operator's wish.
	Switchover struct {
		Database base.DatabaseID
		Target   base.NodeID
	}
	// ReleaseReply answers AskRelease: the leader has released the database at
	// its Final position, or says why not (Refusal not empty).
	ReleaseReply struct {
		Database base.DatabaseID
		Node     base.NodeID
		Epoch    base.Epoch
		Target   base.NodeID
		Final    base.Position
		Refusal  string
	}
	// Decide is an operator's word that another shall lead, without loss: Target,
	// or the best if it is zero.
	Decide struct {
		Database base.DatabaseID
		Target   base.NodeID
	}
	// Force is an operator's word that the replicas that do not answer are
	// gone for good: elect Target (zero: the best that answers) although
	// writes may be lost, and let it count alone.
	Force struct {
		Database base.DatabaseID
		Target   base.NodeID
	}
	// ElectRefused: the control plane did not record an Elect; a Record that
	// says why has been given before, or follows.
	ElectRefused struct{ Database base.DatabaseID }
	// Tick lets time pass. Call it at least four times a lease, and when Next
	// says.
	Tick struct{}
)

func (Record) event()       {}
func (Forget) event()       {}
func (Nodes) event()        {}
func (NodeReach) event()    {}
func (Away) event()         {}
func (Answer) event()       {}
func (Switchover) event()   {}
func (ReleaseReply) event() {}
func (Decide) event()       {}
func (Force) event()        {}
func (ElectRefused) event() {}
func (Tick) event()         {}

// Effect is something to do. Exactly the types below are effects. None needs
// to succeed: all are repeated while they matter.
type Effect interface{ effect() }

type (
	// Ask a replica for its promise (or probe it); give back an Answer.
	Ask struct {
		Node    base.NodeID
		Request leadership.PromiseRequest
	}
	// Elect: have the control plane record that Leader leads Epoch, if the
	// recorded epoch is Epoch−1 and the counting's revision is Revision.
	Elect struct {
		Database base.DatabaseID
		Epoch    base.Epoch
		Revision uint64
		Leader   base.NodeID
		// Lossy: acknowledged writes may be missing. Position is where the new
		// leader's log ends.
		Lossy    bool
		Position base.Position
		Reason   Reason
		// Counting, when not nil, replaces the recorded one (Force).
		Counting *leadership.Counting
	}
	// AskRelease: ask the leader to hand over to Target; give back a
	// ReleaseReply.
	AskRelease struct {
		Database base.DatabaseID
		Leader   base.NodeID
		Epoch    base.Epoch
		Target   base.NodeID
		Within   time.Duration
	}
	// SwitchoverEnded answers a Switchover or Force event. Refusal is empty
	// when Leader leads now.
	SwitchoverEnded struct {
		Database base.DatabaseID
		Leader   base.NodeID
		Refusal  string
	}
)

func (Ask) effect()             {}
func (Elect) effect()           {}
func (AskRelease) effect()      {}
func (SwitchoverEnded) effect() {}

// Supervisor is the core. It has no lock.
type Supervisor struct {
	config    Config
	started   Instant
	nodes     map[base.NodeID]*node
	databases map[base.DatabaseID]*database
	out       []Effect // of the Step that runs
}

type node struct {
	known    bool // in the last Nodes
	active   bool
	load     int
	reach    Reach
	since    Instant
	patience time.Duration
}

// New starts a supervisor that knows nothing; Records, Nodes and NodeReach
// events tell it the rest.
func New(config Config, now Instant) *Supervisor {
	return &Supervisor{
		config: config.withDefaults(), started: now,
		nodes: map[base.NodeID]*node{}, databases: map[base.DatabaseID]*database{},
	}
}

// Step takes in one event.
func (s *Supervisor) Step(now Instant, e Event) []Effect {
	s.out = nil
	switch e := e.(type) {
	case Record:
		s.record(now, e.Database)
	case Forget:
		delete(s.databases, e.Database)
	case Nodes:
		s.setNodes(e.Nodes)
		s.each(now)
	case NodeReach:
		s.setReach(now, e.Node, e.Reach)
		s.each(now)
	case Tick:
		s.each(now)
	default:
		s.stepDatabase(now, e)
	}
	return s.out
}

// stepDatabase takes in an event that concerns one database.
func (s *Supervisor) stepDatabase(now Instant, e Event) {
	id := databaseOf(e)
	d := s.databases[id]
	if d == nil {
		s.refuseUnknown(id, e)
		return
	}
	switch e := e.(type) {
	case Away:
		d.hearAway(e)
		delete(d.asked, e.Node) // it is up: ask it again
	case Answer:
		d.hearAnswer(now, e)
	case Switchover:
		s.beginSwitchover(now, d, e)
	case ReleaseReply:
		s.hearRelease(now, d, e)
	case Decide:
		s.beginDecided(now, d, e)
	case Force:
		s.beginForce(now, d, e)
	case ElectRefused:
		if d.state == electing {
			d.next = now.Add(d.backOff(s.config))
		}
	}
	s.advance(now, d)
}

// Next is when the next Tick may find something to do, at the latest an eighth
// of a lease after now.
func (s *Supervisor) Next(now Instant) Instant {
	next := now.Add(s.config.Lease / 8)
	consider := func(at Instant) {
		if at > now && at < next {
			next = at
		}
	}
	for _, n := range s.nodes {
		if n.reach != Reached {
			consider(n.since.Add(s.config.LostFor + n.patience))
		}
	}
	for _, d := range s.databases {
		if d.state != idle {
			consider(d.next)
			consider(d.waitUntil())
		}
	}
	return next
}

func databaseOf(e Event) base.DatabaseID {
	switch e := e.(type) {
	case Away:
		return e.Database
	case Answer:
		return e.Reply.Database
	case Switchover:
		return e.Database
	case ReleaseReply:
		return e.Database
	case Decide:
		return e.Database
	case Force:
		return e.Database
	case ElectRefused:
		return e.Database
	}
	return 0
}

func (s *Supervisor) refuseUnknown(id base.DatabaseID, e Event) {
	switch e.(type) {
	case Switchover, Decide, Force:
		s.emit(SwitchoverEnded{Database: id, Refusal: "no such database"})
	}
}

func (s *Supervisor) emit(e Effect) { s.out = append(s.out, e) }

// each advances every database, in the order of their ids.
func (s *Supervisor) each(now Instant) {
	for _, id := range slices.Sorted(maps.Keys(s.databases)) {
		s.advance(now, s.databases[id])
	}
}

func (s *Supervisor) record(now Instant, r Database) {
	d := s.databases[r.ID]
	switch {
	case d == nil:
		d = &database{record: r}
		s.databases[r.ID] = d
	case r.Epoch < d.record.Epoch:
		return // older than what is known
	case r.Epoch > d.record.Epoch:
		if d.wish != nil {
			s.endWish(d, r.Leader)
		}
		*d = database{record: r, suspected: d.suspected, lacked: d.lacked}
	default:
		if d.state == electing && !d.record.same(r) {
			d.state = asking // what was proposed rests on what is so no more
		}
		d.record = r
	}
	s.advance(now, d)
}

// same says whether an election would come out alike.
func (d Database) same(r Database) bool {
	return d.Epoch == r.Epoch && d.Leader == r.Leader && slices.Equal(d.Replicas, r.Replicas) &&
		d.Counting.Revision == r.Counting.Revision && d.AllowLoss == r.AllowLoss
}

func (s *Supervisor) setNodes(list []Node) {
	for _, n := range s.nodes {
		n.known = false
	}
	for _, r := range list {
		n := s.node(r.ID)
		n.known, n.active, n.load = true, r.Active, r.Load
	}
}

func (s *Supervisor) node(id base.NodeID) *node {
	n := s.nodes[id]
	if n == nil {
		n = &node{active: true, since: s.started, patience: s.config.Patience}
		if id == s.config.Self {
			n.reach = Reached
		}
		s.nodes[id] = n
	}
	return n
}

// setReach notes how a node is reached. A node that comes back before it was
// suspected was only slow: it is given more time. One that stayed for long is
// given less again.
func (s *Supervisor) setReach(now Instant, id base.NodeID, r Reach) {
	n := s.node(id)
	if id == s.config.Self || n.reach == r {
		return
	}
	away := now.Sub(n.since)
	switch {
	case r == Reached && n.reach == Lost && away < s.config.LostFor+n.patience:
		n.patience = min(2*n.patience, s.config.MaxPatience)
	case n.reach == Reached && away > 60*s.config.Lease:
		n.patience = max(n.patience/2, s.config.Patience)
	}
	if r == Reached || n.reach == Reached || n.reach == Unknown {
		n.since = now
	}
	n.reach = r
	for _, d := range s.databases {
		delete(d.asked, id) // ask it again
		if r != Reached {
			delete(d.answers, id) // it cannot be elected, and may not be what it was
		}
	}
}

// better orders candidates: position, then a wanted and active replica, then
// load, then id.
func (s *Supervisor) better(d *database, a, b base.NodeID) int {
	x, y := d.answers[a].reply.Position, d.answers[b].reply.Position
	if planted.Is(planted.ElectAnyone) {
		x, y = y, x
	}
	switch {
	case y.Less(x):
		return -1
	case x.Less(y):
		return 1
	}
	return cmp.Or(cmp.Compare(s.unfit(d, a), s.unfit(d, b)), cmp.Compare(s.node(a).load, s.node(b).load), cmp.Compare(a, b))
}

func (s *Supervisor) unfit(d *database, n base.NodeID) int {
	if slices.Contains(d.record.Replicas, n) && s.node(n).active {
		return 0
	}
	return 1
}

package failover

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/leadership"
)

// beginSwitchover asks the leader to hand over, at an operator's wish.
func (s *Supervisor) beginSwitchover(now Instant, d *database, e Switchover) {
	refusal := ""
	switch {
	case e.Target == d.record.Leader:
		s.emit(SwitchoverEnded{Database: e.Database, Leader: e.Target})
		return
	case d.state != idle || d.wish != nil:
		refusal = "an election or a switchover is under way"
	case d.record.Epoch == 0 || s.node(d.record.Leader).reach != Reached:
		refusal = "the leader cannot be reached"
	case !slices.Contains(d.record.Replicas, e.Target):
		refusal = "the target is no replica of this database"
	case !s.node(e.Target).active:
		refusal = "the target is not active"
	case s.node(e.Target).reach != Reached:
		refusal = "the target cannot be reached"
	}
	if refusal != "" {
		s.emit(SwitchoverEnded{Database: e.Database, Leader: d.record.Leader, Refusal: refusal})
		return
	}
	d.wish = &wish{target: e.Target}
	s.askRelease(now, d, e.Target, ReasonReleased)
}

// beginMove asks a leader that may not lead any longer, or has no room to, to
// hand over to the best of the others; each failed attempt takes the next one.
func (s *Supervisor) beginMove(now Instant, d *database, why Reason) {
	targets := s.reachable(d)
	if now < d.retryAt || len(targets) == 0 {
		return
	}
	s.askRelease(now, d, targets[d.moves%len(targets)], why)
}

func (s *Supervisor) askRelease(now Instant, d *database, target base.NodeID, why Reason) {
	d.begin(now, releasing, why)
	d.target = target
	d.next = now.Add(s.config.HandoverWithin + s.config.Lease)
	s.emit(AskRelease{
		Database: d.record.ID, Leader: d.record.Leader, Epoch: d.record.Epoch,
		Target: target, Within: s.config.HandoverWithin,
	})
}

// tickRelease gives up on a leader that does not say what became of it. If it
// did release, its node will say that it is away.
func (s *Supervisor) tickRelease(now Instant, d *database) {
	if now >= d.next {
		s.failRelease(now, d, "the leader did not answer in time; it may still hand over")
	}
}

func (s *Supervisor) failRelease(now Instant, d *database, refusal string) {
	if d.wish != nil {
		s.emit(SwitchoverEnded{Database: d.record.ID, Leader: d.record.Leader, Refusal: refusal})
		d.wish = nil
	}
	d.moves++
	d.stop()
	d.target = 0
	d.retryAt = now.Add(s.config.Lease)
}

// hearRelease takes a leader's release for what it is: the old leader's answer
// to an election, together with its word that the target has all of it.
func (s *Supervisor) hearRelease(now Instant, d *database, e ReleaseReply) {
	if e.Epoch != d.record.Epoch || e.Node != d.record.Leader {
		return
	}
	if e.Refusal != "" {
		if d.state == releasing {
			s.failRelease(now, d, e.Refusal)
		}
		return
	}
	if d.state != asking && d.state != electing {
		why := d.reason
		if why == ReasonNone || why == ReasonSilent {
			why = ReasonReleased
		}
		d.begin(now, asking, why)
	}
	d.target = e.Target
	for _, n := range []base.NodeID{e.Node, e.Target} {
		if s.node(n).reach == Reached {
			d.asked[n] = true
			d.answers[n] = answer{bound: now, reply: leadership.PromiseReply{
				Database: e.Database, Epoch: e.Epoch + 1, Granted: true, Position: e.Final,
			}}
		}
	}
	d.away = ReasonRestarted // nobody leads; if the target fails, anyone may
}

// beginDecided holds the election that an operator has decided on. It loses
// nothing, or is not held.
func (s *Supervisor) beginDecided(now Instant, d *database, e Decide) {
	refusal := ""
	switch {
	case e.Target != 0 && !slices.Contains(d.voters(), e.Target):
		refusal = "the target is no replica of this database"
	case d.wish != nil:
		refusal = "an operator's switchover or failover is under way"
	case d.state != waiting && d.state != asking:
		refusal = "the leader is not lost: switch over instead"
	}
	if refusal != "" {
		s.emit(SwitchoverEnded{Database: e.Database, Leader: d.record.Leader, Refusal: refusal})
		return
	}
	why := d.reason
	d.stop()
	d.begin(now, asking, why)
	d.decided, d.target, d.wish = true, e.Target, &wish{target: e.Target}
}

// failDecided tells the operator why there can be no election without loss.
func (s *Supervisor) failDecided(now Instant, d *database) {
	p, _ := s.Progress(d.record.ID)
	d.decided = false
	s.failRelease(now, d, fmt.Sprintf("%d of the %d answers came that rule out a loss; not heard from: %v", p.Have, p.Need, p.Missing))
}

// beginForce starts an election that an operator takes the blame for.
func (s *Supervisor) beginForce(now Instant, d *database, e Force) {
	if e.Target != 0 && !slices.Contains(d.voters(), e.Target) {
		s.emit(SwitchoverEnded{Database: e.Database, Leader: d.record.Leader, Refusal: "the target is no replica of this database"})
		return
	}
	if d.wish != nil {
		s.failRelease(now, d, "an operator forced an election")
	}
	d.stop()
	d.begin(now, asking, ReasonForced)
	d.target, d.wish = e.Target, &wish{target: e.Target}
}

// endWish answers the operator when the epoch has changed.
func (s *Supervisor) endWish(d *database, leader base.NodeID) {
	e := SwitchoverEnded{Database: d.record.ID, Leader: leader}
	if d.wish.target != 0 && d.wish.target != leader {
		e.Refusal = "another replica was elected"
	}
	s.emit(e)
	d.wish = nil
}

// Progress is what the supervisor does about one database, for people.
type Progress struct {
	State  string // "idle", "probing", "asking", "electing", "switching over"
	Reason Reason
	// Have answers of Need; Since when.
	Have, Need int
	Since      Instant
	// Missing are the replicas that count and have not answered.
	Missing []base.NodeID
	// Answers are what the replicas said of themselves, by node.
	Answers []Standing
}

// Standing is how a replica stands that may lead next.
type Standing struct {
	Node     base.NodeID
	Position base.Position
	// LeaderEnd is where the leader's log ended when the replica last heard it,
	// Silence ago; by then it had lacked some of it for Behind.
	LeaderEnd       base.Seq
	Silence, Behind time.Duration
}

// Busy returns the databases with which something goes on, sorted.
func (s *Supervisor) Busy() []base.DatabaseID {
	var list []base.DatabaseID
	for id, d := range s.databases {
		if d.state != idle {
			list = append(list, id)
		}
	}
	slices.Sort(list)
	return list
}

// Progress returns what is going on with a database; false if it is unknown.
func (s *Supervisor) Progress(id base.DatabaseID) (Progress, bool) {
	d := s.databases[id]
	if d == nil {
		return Progress{}, false
	}
	p := Progress{State: stateNames[d.state], Reason: d.reason}
	if d.state == idle {
		return p, true
	}
	p.Have, p.Need, p.Since = d.have(), d.record.Counting.Answers(), d.began
	for _, n := range d.record.Counting.Replicas {
		if _, ok := d.answers[n]; !ok {
			p.Missing = append(p.Missing, n)
		}
	}
	for _, n := range slices.Sorted(maps.Keys(d.answers)) {
		r := d.answers[n].reply
		p.Answers = append(p.Answers, Standing{Node: n, Position: r.Position, LeaderEnd: r.LeaderEnd, Silence: r.Silence, Behind: r.Behind})
	}
	return p, true
}

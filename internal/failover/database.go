package failover

import (
	"slices"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/leadership"
	"github.com/skeindb/skein/internal/planted"
)

// state of one database's election.
type state uint8

const (
	idle      state = iota
	probing         // asking who still hears a lost leader
	asking          // collecting promises
	electing        // an Elect is proposed
	releasing       // the leader was asked to hand over
	waiting         // for an operator's decision; the replicas are asked how they stand
)

var stateNames = [...]string{"idle", "probing", "asking", "electing", "switching over", "waiting for an operator"}

// database is one record and the election that it is in, if any. A new epoch
// begins with a new value.
type database struct {
	record  Database
	state   state
	reason  Reason
	away    Reason // the leader's own word
	answers map[base.NodeID]answer
	asked   map[base.NodeID]bool // in the round that runs
	began   Instant              // of the election
	next    Instant              // when to repeat what was asked
	pause   time.Duration        // before that
	target  base.NodeID          // of a switchover
	retryAt Instant              // earliest next move or stalled attempt
	moves   int                  // failed moves, to take turns among targets
	wish    *wish
	decided bool // an operator has decided that another leads
	// suspected is when an election for a lost or stalled leader was last
	// proposed; nil: never. It outlives the epoch.
	suspected *Instant
	// lacked is the same of a handover for want of room.
	lacked *Instant
}

// wish is an operator's switchover or force that wants an answer.
type wish struct{ target base.NodeID }

type answer struct {
	reply leadership.PromiseReply
	// bound is when the lease that this replica supports is over.
	bound Instant
}

func (d *database) backOff(c Config) time.Duration {
	d.pause = min(max(2*d.pause, c.RetryMin), c.RetryMax)
	return d.pause
}

func (d *database) hearAway(e Away) {
	// A follower that has promised a later epoch, in an election that came to
	// nothing, can follow this leader no more.
	fenced := e.Reason == ReasonFenced && slices.Contains(d.voters(), e.Node)
	if e.Node != d.record.Leader && !fenced || e.Epoch != d.record.Epoch {
		return
	}
	switch e.Reason {
	case ReasonRestarted, ReasonFenced:
		d.away = e.Reason
	case ReasonStalled, ReasonFull:
		if d.away == ReasonNone {
			d.away = e.Reason
		}
	}
}

// hearAnswer keeps a replica's answer to the round that runs.
func (d *database) hearAnswer(now Instant, e Answer) {
	r := e.Reply
	fits := (d.state == probing || d.state == waiting) && r.Probe || (d.state == asking || d.state == electing) && !r.Probe
	if !fits || !r.Granted || r.Epoch != d.record.Epoch+1 || r.Fresh || !slices.Contains(d.voters(), e.Node) {
		return
	}
	d.answers[e.Node] = answer{reply: r, bound: now.Add(r.LeaseRemaining)}
}

// begin starts a round of questions.
func (d *database) begin(now Instant, st state, why Reason) {
	if d.state != asking && d.state != electing {
		d.began = now
	}
	d.state, d.reason = st, why
	d.answers, d.asked = map[base.NodeID]answer{}, map[base.NodeID]bool{}
	d.next, d.pause = now, 0
}

func (d *database) stop() {
	d.state, d.reason, d.answers, d.asked, d.pause = idle, ReasonNone, nil, nil, 0
}

// advance does what time and what is known call for.
func (s *Supervisor) advance(now Instant, d *database) {
	why := s.suspicion(now, d)
	switch d.state {
	case idle:
		s.start(now, d, why)
	case releasing:
		if s.gone(why) {
			s.start(now, d, why)
		} else {
			s.tickRelease(now, d)
		}
	case probing:
		if why != d.reason && (d.reason == ReasonSilent || s.gone(why)) {
			d.stop()
			s.start(now, d, why)
		}
	case waiting:
		if why == ReasonNone {
			d.stop()
		} else if why != d.reason {
			d.stop()
			s.start(now, d, why)
		}
	case asking:
		if d.record.Manual && !d.decided && (why == ReasonRefused || why == ReasonSilent) && (d.reason == ReasonRestarted || d.reason == ReasonFenced) {
			d.stop() // The leader was to go on, and has gone again.
			s.start(now, d, why)
			break
		}
		s.widen(now, d, why)
	}
	switch d.state {
	case probing:
		s.tickProbe(now, d)
	case waiting:
		if now >= d.next {
			d.asked = map[base.NodeID]bool{}
		}
		s.question(now, d)
	case asking:
		s.tickAsk(now, d)
	case electing:
		if now >= d.next {
			d.state = asking
			s.tickAsk(now, d)
		}
	}
}

// widen asks a stalled leader too, once it is gone, or promises were given in
// vain: it cannot lead on without those that gave them.
func (s *Supervisor) widen(now Instant, d *database, why Reason) {
	if d.reason != ReasonStalled {
		return
	}
	if s.gone(why) {
		d.reason = why
	} else if now.Sub(d.began) >= s.config.Grace {
		d.reason = ReasonFenced
	}
}

// gone says that nobody leads for this reason.
func (s *Supervisor) gone(why Reason) bool {
	return why == ReasonRefused || why == ReasonRestarted || why == ReasonFenced || why == ReasonSilent
}

// suspicion says what is wrong with a database's leader, if anything.
func (s *Supervisor) suspicion(now Instant, d *database) Reason {
	if d.record.Epoch == 0 {
		return ReasonFirst
	}
	n := s.node(d.record.Leader)
	switch {
	case d.away == ReasonRestarted || d.away == ReasonFenced:
		return d.away
	case n.reach == Refused:
		return ReasonRefused
	case n.reach != Reached && now.Sub(n.since) >= s.config.LostFor+n.patience:
		return ReasonSilent
	case d.away == ReasonStalled || d.away == ReasonFull:
		return d.away
	case n.reach == Reached && s.unfit(d, d.record.Leader) > 0:
		return ReasonMoved
	}
	return ReasonNone
}

// start begins what a reason calls for, unless it is too early.
func (s *Supervisor) start(now Instant, d *database, why Reason) {
	if d.record.Manual && !d.decided {
		switch why {
		case ReasonRestarted, ReasonFenced:
			d.begin(now, asking, why)
			d.target = d.record.Leader
			return
		case ReasonRefused, ReasonSilent, ReasonStalled:
			d.away = ReasonNone
			d.begin(now, waiting, why)
			return
		}
	}
	early := d.suspected != nil && now.Sub(*d.suspected) < s.config.MinBetween
	switch why {
	case ReasonFirst:
		s.electFirst(now, d)
	case ReasonRefused, ReasonRestarted, ReasonFenced:
		d.begin(now, asking, why)
	case ReasonSilent:
		if !early {
			d.begin(now, probing, why)
		}
	case ReasonStalled:
		d.away = ReasonNone // once for each time it says so
		if !early {
			d.begin(now, probing, why)
		}
	case ReasonFull:
		d.away = ReasonNone // once for each time it says so
		if !d.record.Manual && (d.lacked == nil || now.Sub(*d.lacked) >= s.config.MinBetweenRoom) {
			s.beginMove(now, d, why)
		}
	case ReasonMoved:
		s.beginMove(now, d, why)
	}
}

// electFirst gives a new, empty database to a replica that is there.
func (s *Supervisor) electFirst(now Instant, d *database) {
	if now < d.retryAt {
		return
	}
	best := s.reachable(d)
	if len(best) == 0 {
		return
	}
	d.retryAt = now.Add(d.backOff(s.config))
	s.emit(Elect{Database: d.record.ID, Epoch: 1, Revision: d.record.Counting.Revision, Leader: best[0], Reason: ReasonFirst})
}

// reachable returns the fit replicas that can be reached, best first, the
// leader left out.
func (s *Supervisor) reachable(d *database) []base.NodeID {
	var out []base.NodeID
	for _, n := range d.record.Replicas {
		if n != d.record.Leader && s.node(n).reach == Reached && s.unfit(d, n) == 0 {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b base.NodeID) int { return s.better(d, a, b) })
	return out
}

// voters are all whose answer may help: those that count, those that are
// wanted, and the leader.
func (d *database) voters() []base.NodeID {
	all := slices.Concat(d.record.Counting.Replicas, d.record.Replicas)
	if d.record.Leader != 0 {
		all = append(all, d.record.Leader)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// question asks every voter that has not answered; those that cannot be
// reached too, as asking is cheap and the news of their return may be late.
func (s *Supervisor) question(now Instant, d *database) {
	fresh := now >= d.next
	for _, n := range d.voters() {
		_, answered := d.answers[n]
		if answered && d.state != waiting || (d.asked[n] && !fresh) || (d.reason == ReasonStalled && n == d.record.Leader) {
			continue
		}
		d.asked[n] = true
		s.emit(Ask{Node: n, Request: leadership.PromiseRequest{
			Database: d.record.ID, Epoch: d.record.Epoch + 1, Probe: d.state == probing || d.state == waiting,
		}})
	}
	if fresh {
		d.next = now.Add(d.backOff(s.config))
	}
}

// tickProbe goes on to an election when those that do not hear the leader any
// more would be enough for it. Answers are asked for anew each time.
func (s *Supervisor) tickProbe(now Instant, d *database) {
	if d.reason == ReasonStalled && now.Sub(d.began) >= s.config.Grace {
		d.stop()
		return
	}
	deaf := 0
	for n, a := range d.answers {
		if d.record.Counting.Has(n) && a.reply.Deaf {
			deaf++
		}
	}
	need := d.record.Counting.Answers()
	if d.record.AllowLoss && d.reason != ReasonStalled {
		need = d.record.Counting.LeaseAnswers()
	}
	_, leader := d.answers[d.record.Leader]
	if !leader && deaf >= need {
		d.begin(now, asking, d.reason)
		return
	}
	if now >= d.next {
		d.answers = map[base.NodeID]answer{}
	}
	s.question(now, d)
}

// tickAsk elects when there are answers enough and no lease can be live.
func (s *Supervisor) tickAsk(now Instant, d *database) {
	if d.decided && now.Sub(d.began) >= s.config.Grace {
		s.failDecided(now, d)
		return
	}
	if lossy, ok := s.enough(now, d); ok {
		if e, ok := s.choose(d, lossy); ok && now >= d.waitUntil() {
			s.propose(now, d, e)
			return
		}
	}
	s.question(now, d)
}

// waitUntil is when the last lease that an answer knows of is over. The
// leader's own answer ends its lease.
func (d *database) waitUntil() Instant {
	if _, ok := d.answers[d.record.Leader]; ok {
		return -leadership.Forever
	}
	until := -leadership.Forever
	if planted.Is(planted.ImpatientElection) {
		return until
	}
	for _, a := range d.answers {
		until = max(until, a.bound)
	}
	return until
}

// have counts the answers that count.
func (d *database) have() int {
	n := 0
	for id := range d.answers {
		if d.record.Counting.Has(id) {
			n++
		}
	}
	return n
}

// enough says whether an election may be held, and whether it would be lossy.
func (s *Supervisor) enough(now Instant, d *database) (lossy, ok bool) {
	have := d.have()
	_, leader := d.answers[d.record.Leader]
	if d.record.Manual && !d.decided && d.reason != ReasonForced && !d.reason.HandedOver() {
		return false, leader // It may go on, and nobody else.
	}
	if leader || have >= d.record.Counting.Answers() {
		return false, true
	}
	waited := now.Sub(d.began) >= s.config.Grace
	switch {
	case d.reason == ReasonForced:
		_, target := d.answers[d.target]
		return true, now.Sub(d.began) >= s.config.Lease && (target || d.target == 0 && len(d.answers) > 0)
	case d.reason == ReasonStalled:
		return false, false
	case d.record.AllowLoss && waited:
		return true, have >= d.record.Counting.LeaseAnswers() && (d.record.MaxLag == 0 || d.lag() <= d.record.MaxLag)
	}
	return false, false
}

// lag is for how long the best of those that answered had lacked something of
// its leader's log.
func (d *database) lag() time.Duration {
	var best leadership.PromiseReply
	known := false
	for _, a := range d.answers {
		if !known || best.Position.Less(a.reply.Position) || best.Position == a.reply.Position && a.reply.Behind < best.Behind {
			best, known = a.reply, true
		}
	}
	return best.Behind
}

// candidates are those that answered and that the control plane would record as
// the leader. A node that is not counted may have come as far as those that
// are, or further with what nobody was told is done, and would be refused for
// ever.
func (d *database) candidates() []base.NodeID {
	var ids []base.NodeID
	for n := range d.answers {
		if d.reason == ReasonForced || d.record.Counting.Has(n) {
			ids = append(ids, n)
		}
	}
	return ids
}

// choose picks the leader among those that answered and may lead: the best
// position, and of equal ones the target of a switchover.
func (s *Supervisor) choose(d *database, lossy bool) (Elect, bool) {
	ids := d.candidates()
	if len(ids) == 0 {
		return Elect{}, false
	}
	slices.SortFunc(ids, func(a, b base.NodeID) int { return s.better(d, a, b) })
	best := ids[0]
	position := d.answers[best].reply.Position
	if t, ok := d.answers[d.target]; ok && slices.Contains(ids, d.target) && (t.reply.Position == position || d.reason == ReasonForced && lossy) {
		best = d.target
	}
	e := Elect{
		Database: d.record.ID, Epoch: d.record.Epoch + 1, Revision: d.record.Counting.Revision,
		Leader: best, Lossy: lossy, Position: d.answers[best].reply.Position, Reason: d.reason,
	}
	if d.reason == ReasonForced {
		e.Counting = &leadership.Counting{
			Revision: d.record.Counting.Revision + 1, Replicas: []base.NodeID{best}, Copies: 1, Support: 1,
		}
	}
	return e, true
}

func (s *Supervisor) propose(now Instant, d *database, e Elect) {
	d.state = electing
	switch d.reason {
	case ReasonSilent, ReasonStalled:
		d.suspected = &now
	case ReasonFull:
		d.lacked = &now
	}
	d.next = now.Add(max(s.config.Lease, d.backOff(s.config)))
	s.emit(e)
}

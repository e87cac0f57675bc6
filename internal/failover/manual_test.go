package failover

import (
	"strings"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/leadership"
)

// desk is a supervisor of one database on nodes 1 to 3, led by 1 in epoch 4.
type desk struct {
	t    *testing.T
	s    *Supervisor
	now  Instant
	told []Effect
}

func newDesk(t *testing.T, change func(*Database)) *desk {
	d := &desk{t: t, s: New(Config{Self: 2, Lease: time.Second}, 0)}
	r := Database{ID: 1, Epoch: 4, Leader: 1, Replicas: []base.NodeID{1, 2, 3}}
	r.Counting = leadership.Count(r.Replicas, base.DefaultPolicy())
	change(&r)
	var nodes []Node
	for _, n := range r.Replicas {
		nodes = append(nodes, Node{ID: n, Active: true})
	}
	d.step(Nodes{Nodes: nodes})
	for _, n := range r.Replicas {
		d.step(NodeReach{Node: n, Reach: Reached})
	}
	d.step(Record{Database: r})
	return d
}

func (d *desk) step(e Event) { d.told = append(d.told, d.s.Step(d.now, e)...) }

// run lets time pass; the nodes answer what they are asked.
func (d *desk) run(long time.Duration, nodes map[base.NodeID]leadership.PromiseReply) {
	for end := d.now.Add(long); d.now < end; d.now = d.now.Add(50 * time.Millisecond) {
		d.step(Tick{})
		for _, e := range d.told {
			ask, ok := e.(Ask)
			r, up := nodes[ask.Node]
			if ok && up {
				r.Database, r.Epoch, r.Granted, r.Probe = 1, ask.Request.Epoch, true, ask.Request.Probe
				d.step(Answer{Node: ask.Node, Reply: r})
			}
		}
		d.told = keepOutcomes(d.told)
	}
}

func keepOutcomes(all []Effect) (kept []Effect) {
	for _, e := range all {
		if _, ok := e.(Ask); !ok {
			kept = append(kept, e)
		}
	}
	return kept
}

func (d *desk) elected() *Elect {
	for _, e := range d.told {
		if e, ok := e.(Elect); ok {
			return &e
		}
	}
	return nil
}

func at(seq base.Seq) leadership.PromiseReply {
	return leadership.PromiseReply{Position: base.Position{Epoch: 4, Seq: seq}, LeaderEnd: 12, Deaf: true}
}

// In a manual database nothing happens before a person decides, and the person
// sees how the replicas stand.
func TestAManualFailoverWaitsForAPerson(t *testing.T) {
	d := newDesk(t, func(r *Database) { r.Manual = true })
	d.step(NodeReach{Node: 1, Reach: Refused})
	up := map[base.NodeID]leadership.PromiseReply{2: at(10), 3: at(12)}
	d.run(20*time.Second, up)
	if e := d.elected(); e != nil {
		t.Fatalf("elected without a decision: %+v", e)
	}
	p, _ := d.s.Progress(1)
	if p.State != "waiting for an operator" || len(p.Answers) != 2 || p.Answers[1].Position.Seq != 12 || p.Answers[1].LeaderEnd != 12 || p.Have < p.Need {
		t.Fatalf("shown: %+v", p)
	}
	d.step(Decide{Database: 1})
	d.run(time.Second, up)
	if e := d.elected(); e == nil || e.Leader != 3 || e.Lossy {
		t.Fatalf("elected: %+v", e)
	}
}

// The leader itself may go on after a restart, and nobody else.
func TestAManualLeaderGoesOnAfterARestart(t *testing.T) {
	d := newDesk(t, func(r *Database) { r.Manual = true })
	d.step(Away{Database: 1, Node: 1, Epoch: 4, Reason: ReasonRestarted})
	d.run(5*time.Second, map[base.NodeID]leadership.PromiseReply{2: at(12), 3: at(12)})
	if e := d.elected(); e != nil {
		t.Fatalf("elected: %+v", e)
	}
	d.run(5*time.Second, map[base.NodeID]leadership.PromiseReply{1: at(12), 2: at(12), 3: at(12)})
	if e := d.elected(); e == nil || e.Leader != 1 {
		t.Fatalf("elected: %+v", e)
	}
}

// What was decided loses nothing, or is not done and says why.
func TestADecisionWithoutEnoughAnswersIsRefused(t *testing.T) {
	d := newDesk(t, func(r *Database) { r.Manual = true })
	d.step(NodeReach{Node: 1, Reach: Refused})
	d.step(NodeReach{Node: 3, Reach: Refused})
	up := map[base.NodeID]leadership.PromiseReply{2: at(10)}
	d.run(2*time.Second, up)
	d.step(Decide{Database: 1, Target: 2})
	d.run(10*time.Second, up)
	if e := d.elected(); e != nil {
		t.Fatalf("elected: %+v", e)
	}
	refused := false
	for _, e := range d.told {
		if e, ok := e.(SwitchoverEnded); ok && strings.Contains(e.Refusal, "1 of the 2 answers") {
			refused = true
		}
	}
	if !refused {
		t.Fatalf("told: %+v", d.told)
	}
	d.step(Force{Database: 1, Target: 2})
	d.run(5*time.Second, up)
	if e := d.elected(); e == nil || e.Leader != 2 || !e.Lossy || e.Position.Seq != 10 {
		t.Fatalf("elected: %+v", e)
	}
}

// A loss that the policy allows is bounded by the lag it allows.
func TestALossBeyondTheAllowedLagNeedsAPerson(t *testing.T) {
	for behind, want := range map[time.Duration]bool{0: true, time.Second: true, 3 * time.Second: false} {
		d := newDesk(t, func(r *Database) {
			r.AllowLoss, r.MaxLag = true, 2*time.Second
			r.Counting.Copies = 1
		})
		late, later := at(10), at(9)
		late.Behind, later.Behind = behind, time.Minute
		d.step(NodeReach{Node: 1, Reach: Refused})
		d.run(20*time.Second, map[base.NodeID]leadership.PromiseReply{2: late, 3: later})
		e := d.elected()
		if (e != nil) != want || e != nil && (e.Leader != 2 || !e.Lossy) {
			t.Errorf("behind for %v: elected %+v", behind, e)
		}
	}
}

// A leader without room hands over to another, once for each time that it says
// so; in a manual database a person decides.
func TestALeaderWithoutRoomHandsOver(t *testing.T) {
	for _, manual := range []bool{false, true} {
		d := newDesk(t, func(r *Database) { r.Manual = manual })
		d.step(Away{Database: 1, Node: 1, Epoch: 4, Reason: ReasonFull})
		d.run(20*time.Second, nil)
		asked := 0
		for _, e := range d.told {
			if r, ok := e.(AskRelease); ok {
				if asked++; r.Leader != 1 || r.Target == 1 {
					t.Errorf("asked: %+v", r)
				}
			}
		}
		if want := map[bool]int{false: 1, true: 0}[manual]; asked != want || d.elected() != nil {
			t.Errorf("manual %v: asked %d times, elected %+v", manual, asked, d.elected())
		}
	}
	d := newDesk(t, func(*Database) {})
	d.step(Away{Database: 1, Node: 1, Epoch: 4, Reason: ReasonFull})
	d.step(ReleaseReply{Database: 1, Node: 1, Epoch: 4, Target: 2, Final: base.Position{Epoch: 4, Seq: 12}})
	d.run(time.Second, map[base.NodeID]leadership.PromiseReply{2: at(12), 3: at(12)})
	if e := d.elected(); e == nil || e.Leader != 2 || e.Lossy || !e.Reason.HandedOver() {
		t.Errorf("elected: %+v", e)
	}
}

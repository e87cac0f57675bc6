package leadership

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/skeindb/skein/internal/base"
)

// TestTranscripts runs testdata/*: what one leader, or one follower, makes of
// what it is told.
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		w := &world{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var b strings.Builder
			for _, line := range append([]string{line(d)}, strings.Split(strings.TrimSpace(d.Input), "\n")...) {
				if line != "" {
					b.WriteString(w.run(t, strings.Fields(line)))
				}
			}
			return b.String()
		})
	})
}

func line(d *datadriven.TestData) string {
	out := d.Cmd
	for _, a := range d.CmdArgs {
		out += " " + a.String()
	}
	return out
}

type world struct {
	now      Instant
	config   Config
	leader   *Leader
	follower *Follower
	proposed Counting
}

// args are "name=value" words.
func args(words []string) map[string]string {
	out := map[string]string{}
	for _, w := range words {
		name, value, _ := strings.Cut(w, "=")
		out[name] = value
	}
	return out
}

func number(s string) uint64 {
	v, _ := strconv.ParseUint(s, 10, 64)
	return v
}

// duration of a lease; a whole one when nothing is said.
func duration(s string) time.Duration {
	if s == "" {
		return time.Second
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(err)
	}
	return d
}

func nodes(s string) []base.NodeID {
	var out []base.NodeID
	for _, f := range strings.Split(s, ",") {
		out = append(out, base.NodeID(number(f)))
	}
	return out
}

func (w *world) run(t *testing.T, words []string) string {
	if words[0] == "after" {
		d, err := time.ParseDuration(words[1])
		if err != nil {
			t.Fatal(err)
		}
		w.now = w.now.Add(d)
		return ""
	}
	if out, ok := w.runFollower(t, words); ok {
		return out
	}
	if out, ok := w.runAdmin(t, words); ok {
		return out
	}
	a := args(words[1:])
	var node base.NodeID
	if len(words) > 1 {
		node = base.NodeID(number(words[1]))
	}
	switch words[0] {
	case "flushed":
		w.leader.LocalFlushed(base.Seq(node))
	case "attach":
		if !w.leader.Attach(w.now, node, base.Seq(number(a["at"]))) {
			return "no replica\n"
		}
	case "detach":
		w.leader.Detach(w.now, node)
	case "ack":
		ack := Ack{Epoch: w.config.Epoch, Stamp: w.now, Lease: duration(a["lease"]), Received: base.Seq(number(a["to"]))}
		ack.Flushed, ack.Applied = ack.Received, ack.Received
		if v, ok := a["flushed"]; ok {
			ack.Flushed, ack.Applied = base.Seq(number(v)), base.Seq(number(v))
		}
		if v, ok := a["applied"]; ok {
			ack.Applied = base.Seq(number(v))
		}
		if v, ok := a["epoch"]; ok {
			ack.Epoch = base.Epoch(number(v))
		}
		if v, ok := a["age"]; ok {
			d, _ := time.ParseDuration(v)
			ack.Stamp = w.now.Add(-d)
		}
		w.leader.Ack(w.now, node, ack)
	case "ask":
		return fmt.Sprintf("asks for %v\n", w.leader.AskLease(node))
	case "tick":
		return w.effects(w.leader.Tick(w.now))
	default:
		t.Fatalf("unknown command %v", words)
	}
	return ""
}

func (w *world) effects(list []Effect) string {
	var b strings.Builder
	for _, e := range list {
		switch e.Kind {
		case ProposeCounting:
			w.proposed = e.Counting
			fmt.Fprintf(&b, "proposes %s\n", counting(e.Counting))
		case Released:
			fmt.Fprintf(&b, "released at %d for node %d\n", e.Final, e.Target)
		default:
			fmt.Fprintf(&b, "%v\n", e.Kind)
		}
	}
	return b.String()
}

func counting(c Counting) string {
	out := fmt.Sprintf("revision %d: copies %d, support %d, of", c.Revision, c.Copies, c.Support)
	for _, n := range c.Replicas {
		out += fmt.Sprintf(" %d", uint64(n))
	}
	return out
}

// runAdmin are the commands about a leader's life.
func (w *world) runAdmin(t *testing.T, words []string) (string, bool) {
	a := args(words[1:])
	switch words[0] {
	case "leader":
		w.now = 0
		w.config = Config{Self: 1, Epoch: base.Epoch(number(a["epoch"])), Opening: base.Seq(number(a["opening"])), Lease: time.Second}
		w.configure(t, a)
		w.config.Counting = Count(w.config.Replicas, w.config.Policy)
		w.config.Counting.Revision = 1
		w.leader = NewLeader(w.config, w.now)
	case "record":
		w.configure(t, a)
		if !w.leader.Reconfigure(w.now, w.config) {
			return "not this epoch\n", true
		}
	case "agreed":
		w.config.Counting = w.proposed
		w.leader.Reconfigure(w.now, w.config)
	case "handover":
		d, _ := time.ParseDuration(a["within"])
		if err := w.leader.BeginHandover(w.now, base.NodeID(number(a["to"])), w.now.Add(d)); err != nil {
			return err.Error() + "\n", true
		}
	case "drained":
		w.leader.Drained(base.Seq(number(words[1])))
	case "abort":
		return fmt.Sprintf("leads on: %v\n", w.leader.AbortHandover()), true
	case "depose":
		w.leader.Depose(base.Epoch(number(words[1])))
	case "show":
		return w.show(), true
	case "reached":
		d, err := base.ParseDurability(strings.Join(words[1:], " "))
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%v: %d\n", d, w.leader.Reached(d)), true
	case "acknowledge":
		return fmt.Sprintf("%v\n", w.leader.Acknowledge(w.now, base.Seq(number(words[1])), base.Durability{})), true
	default:
		return "", false
	}
	return "", true
}

func (w *world) configure(t *testing.T, a map[string]string) {
	if v, ok := a["replicas"]; ok {
		w.config.Replicas = nodes(v)
	}
	if v, ok := a["epoch"]; ok {
		w.config.Epoch = base.Epoch(number(v))
	}
	if v, ok := a["level"]; ok {
		d, err := base.ParseDurability(strings.ReplaceAll(v, "-", " "))
		if err != nil {
			t.Fatal(err)
		}
		w.config.Policy.Durability = d
	}
	if v, ok := a["degrade"]; ok {
		w.config.Policy.DegradeAfter, _ = time.ParseDuration(v)
	}
}

func (w *world) show() string {
	lease := "none"
	if w.leader.LeaseLive(w.now) {
		lease = "for ever"
		if u := w.leader.LeaseUntil(); u < Forever {
			lease = "for " + u.Sub(w.now).String()
		}
	}
	s := w.leader.Status(w.now)
	out := fmt.Sprintf("safe %d, lease %s", s.Safe, lease)
	if s.Degraded {
		out += ", degraded: " + s.Reason
	}
	if s.Draining {
		out += ", draining"
	}
	if s.Stopped && w.leader.LeaseUntil() > w.now {
		out += ", which its lease has not noticed"
	}
	if s.Stopped {
		out += fmt.Sprintf(", stopped by epoch %d", s.Fenced)
	}
	return out + "\n"
}

// runFollower are the commands about a follower.
func (w *world) runFollower(t *testing.T, words []string) (string, bool) {
	a := args(words[1:])
	epoch := base.Epoch(number(a["epoch"]))
	switch words[0] {
	case "follower":
		w.now = 0
		w.follower = NewFollower(Vow{Promised: base.Epoch(number(a["promised"])), Led: base.Epoch(number(a["led"]))}, time.Second, w.now)
	case "restart":
		w.follower = NewFollower(w.follower.Vow(), time.Second, w.now)
	case "follow":
		return fmt.Sprintf("%v\n", w.follower.Follow(w.now, epoch)), true
	case "unfollow":
		w.follower.Unfollow()
	case "accept":
		v := w.follower.Accept(w.now, epoch, base.Seq(number(a["first"])), base.Seq(number(a["last"])), base.Seq(number(a["end"])), duration(a["lease"]))
		return fmt.Sprintf("%v\n", v), true
	case "promise", "probe":
		r := w.follower.Promise(w.now, PromiseRequest{Epoch: epoch, Probe: words[0] == "probe"})
		return fmt.Sprintf("granted %v, promised %d, bound for %v%s\n", r.Granted, r.Promised, r.LeaseRemaining, map[bool]string{true: ", hears no leader"}[r.Deaf]), true
	case "lead":
		if err := w.follower.Lead(epoch); err != nil {
			return err.Error() + "\n", true
		}
	case "vow":
		return fmt.Sprintf("promised %d, led %d; bound for %v\n", w.follower.Vow().Promised, w.follower.Vow().Led, w.follower.LeaseRemaining(w.now)), true
	default:
		return "", false
	}
	return "", true
}

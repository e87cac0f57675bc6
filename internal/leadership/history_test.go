package leadership

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/skeindb/skein/internal/base"
)

// A log is its entries' epochs and identities.
type entry struct {
	epoch base.Epoch
	id    int
}

func historyOf(log []entry) History {
	var h History
	for i, e := range log {
		if e.epoch > h.Last.Epoch {
			h.Starts = append(h.Starts, EpochStart{Epoch: e.epoch, Seq: base.Seq(i + 1)})
		}
		h.Last = base.Position{Epoch: e.epoch, Seq: base.Seq(i + 1)}
	}
	return h
}

// twoLogs grows logs as rule 2 says: each epoch has one leader, who starts from
// some replica's log and appends; others copy prefixes of its log.
func twoLogs(t *rapid.T) (a, b []entry) {
	logs := make([][]entry, 3)
	id := 0
	for epoch := base.Epoch(1); epoch <= 5; epoch++ {
		leader := rapid.IntRange(0, 2).Draw(t, "leader")
		for range rapid.IntRange(0, 3).Draw(t, "entries") {
			id++
			logs[leader] = append(slices.Clone(logs[leader]), entry{epoch, id})
		}
		for i := range logs {
			if n := rapid.IntRange(-1, len(logs[leader])).Draw(t, "copied"); i != leader && n >= 0 {
				logs[i] = slices.Clone(logs[leader][:n])
			}
		}
	}
	return logs[0], logs[1]
}

func TestPartIsTheLongestCommonPrefix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := twoLogs(t)
		n := 0
		for n < min(len(a), len(b)) && a[n] == b[n] {
			n++
		}
		want := historyOf(a[:n]).Last
		if got := Part(historyOf(a), historyOf(b)); got != want {
			t.Errorf("%v and %v part at %v, want %v", a, b, got, want)
		}
		if got := Part(historyOf(b), historyOf(a)); got != want {
			t.Errorf("the other way round: %v", got)
		}
	})
}

func TestHistoryOfALog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log, _ := twoLogs(t)
		h := historyOf(log)
		if err := h.Validate(); err != nil {
			t.Fatal(err)
		}
		for i, e := range log {
			at := base.Position{Epoch: e.epoch, Seq: base.Seq(i + 1)}
			if got := h.EpochAt(at.Seq); got != e.epoch {
				t.Errorf("epoch at %d is %d", at.Seq, got)
			}
			if !h.Lineage(at) {
				t.Errorf("%v does not lie in its own history", at)
			}
			for other := base.Epoch(1); other <= 5; other++ {
				if p := (base.Position{Epoch: other, Seq: at.Seq}); other != e.epoch && h.Lineage(p) && other != h.Last.Epoch {
					t.Errorf("%v lies in the history %v", p, h)
				}
			}
			if cut := h.Truncate(at.Seq); cut.Last != at || !slices.Equal(cut.Starts, historyOf(log[:i+1]).Starts) {
				t.Errorf("truncated at %v: %v", at, cut)
			}
		}
		if cut := h.Truncate(0); cut.Last != (base.Position{}) || len(cut.Starts) != 0 {
			t.Errorf("truncated to nothing: %v", cut)
		}
		if h.EpochAt(0) != 0 || h.EpochAt(h.Last.Seq+1) != 0 || !h.Lineage(base.Position{}) {
			t.Errorf("outside the log: %v", h)
		}
		if h.Last.Epoch > 0 && !h.Lineage(base.Position{Epoch: h.Last.Epoch, Seq: h.Last.Seq + 9}) {
			t.Errorf("what is to come in this epoch is not in the history")
		}
	})
}

func TestPlanFollow(t *testing.T) {
	h := func(last base.Position, starts ...EpochStart) History { return History{Starts: starts, Last: last} }
	pos := func(e base.Epoch, s base.Seq) base.Position { return base.Position{Epoch: e, Seq: s} }
	leader := h(pos(3, 30), EpochStart{1, 1}, EpochStart{3, 21})
	for _, c := range []struct {
		name     string
		logStart base.Seq
		r        FollowRequest
		want     Plan
	}{
		{"empty, and nothing trimmed", 1, FollowRequest{Epoch: 3}, Plan{Kind: PlanStart, Epoch: 3, From: 1}},
		{"empty, and the log is trimmed", 5, FollowRequest{Epoch: 3}, Plan{Kind: PlanSnapshot, Epoch: 3}},
		{"behind", 5, FollowRequest{Epoch: 3, History: h(pos(1, 10), EpochStart{1, 1})}, Plan{Kind: PlanStart, Epoch: 3, From: 11}},
		{"just not trimmed", 11, FollowRequest{Epoch: 3, History: h(pos(1, 10), EpochStart{1, 1})}, Plan{Kind: PlanStart, Epoch: 3, From: 11}},
		{"trimmed", 12, FollowRequest{Epoch: 3, History: h(pos(1, 10), EpochStart{1, 1})}, Plan{Kind: PlanSnapshot, Epoch: 3, To: pos(1, 10)}},
		{"level", 5, FollowRequest{Epoch: 3, Promised: 3, History: leader}, Plan{Kind: PlanStart, Epoch: 3, From: 31}},
		{"a tail of epoch 1", 5, FollowRequest{Epoch: 3, LogStart: 1, History: h(pos(1, 25), EpochStart{1, 1})}, Plan{Kind: PlanTruncate, Epoch: 3, To: pos(1, 20)}},
		{"a tail of epoch 2", 5, FollowRequest{Epoch: 3, LogStart: 1, History: h(pos(2, 18), EpochStart{1, 1}, EpochStart{2, 16})}, Plan{Kind: PlanTruncate, Epoch: 3, To: pos(1, 15)}},
		{"a tail that it cannot undo", 5, FollowRequest{Epoch: 3, LogStart: 17, History: h(pos(2, 18), EpochStart{1, 1}, EpochStart{2, 16})}, Plan{Kind: PlanSnapshot, Epoch: 3, To: pos(1, 15)}},
		{"a tail longer than the leader's log", 5, FollowRequest{Epoch: 3, LogStart: 1, History: h(pos(3, 35), EpochStart{1, 1}, EpochStart{3, 21})}, Plan{Kind: PlanTruncate, Epoch: 3, To: pos(3, 30)}},
		{"fresh", 1, FollowRequest{Epoch: 3, Fresh: true}, Plan{Kind: PlanSnapshot, Epoch: 3}},
		{"a later promise", 1, FollowRequest{Epoch: 3, Promised: 4}, Plan{Kind: PlanFenced, Epoch: 4}},
		{"a later log", 1, FollowRequest{Epoch: 3, History: h(pos(5, 9), EpochStart{5, 1})}, Plan{Kind: PlanFenced, Epoch: 5}},
		{"another epoch was meant", 1, FollowRequest{Epoch: 2}, Plan{Kind: PlanStale, Epoch: 3}},
		{"nothing in common", 1, FollowRequest{Epoch: 3, LogStart: 1, History: h(pos(2, 9), EpochStart{2, 1})}, Plan{Kind: PlanTruncate, Epoch: 3}},
	} {
		if got := PlanFollow(3, leader, c.logStart, c.r); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestPartClaimsNothingOfBrokenHistories(t *testing.T) {
	a := History{Starts: []EpochStart{{1, 1}, {2, 5}}, Last: base.Position{Epoch: 2, Seq: 9}}
	b := History{Starts: []EpochStart{{1, 1}, {2, 6}}, Last: base.Position{Epoch: 2, Seq: 9}}
	if got := Part(a, b); got != (base.Position{}) {
		t.Errorf("parted at %v", got)
	}
}

func TestCounting(t *testing.T) {
	policy := func(l base.Level) base.Policy { return base.Policy{Durability: base.Durability{Level: l}} }
	set := func(n int) (out []base.NodeID) {
		for i := range n {
			out = append(out, base.NodeID(i+1))
		}
		return out
	}
	for _, c := range []struct {
		n                                       int
		level                                   base.Level
		copies, support, answers, forLeaseAlone int
	}{
		{1, base.Quorum, 1, 1, 1, 1}, {1, base.Async, 1, 1, 1, 1}, {1, base.All, 1, 1, 1, 1},
		{2, base.Quorum, 2, 2, 1, 1}, {2, base.Async, 1, 2, 2, 1},
		{3, base.Async, 1, 2, 3, 2}, {3, base.One, 2, 2, 2, 2}, {3, base.Quorum, 2, 2, 2, 2}, {3, base.All, 3, 2, 2, 2},
		{4, base.One, 2, 3, 3, 2}, {4, base.Quorum, 3, 3, 2, 2},
		{5, base.One, 2, 3, 4, 3}, {5, base.Quorum, 3, 3, 3, 3}, {5, base.All, 5, 3, 3, 3},
	} {
		got := Count(set(c.n), policy(c.level))
		if got.Copies != c.copies || got.Support != c.support || got.Answers() != c.answers || got.LeaseAnswers() != c.forLeaseAlone || got.Validate() != nil {
			t.Errorf("%d replicas, %s: %v, %d answers, %d for the lease", c.n, c.level, got, got.Answers(), got.LeaseAnswers())
		}
	}
	// The same set, whatever the order.
	if a := Count([]base.NodeID{3, 1, 2, 3}, policy(base.All)); !a.Same(Count(set(3), policy(base.All))) {
		t.Errorf("%v", a)
	}
	for _, bad := range []Counting{{}, {Replicas: set(2), Copies: 3, Support: 1}, {Replicas: set(2), Copies: 1}, {Replicas: []base.NodeID{2, 1}, Copies: 1, Support: 1}, {Replicas: []base.NodeID{1, 1}, Copies: 1, Support: 1}} {
		if bad.Validate() == nil {
			t.Errorf("%v is accepted", bad)
		}
	}
}

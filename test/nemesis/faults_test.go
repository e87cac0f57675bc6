package nemesis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"time"

	"github.com/skeindb/skein/internal/base"
)

// harm is what the faults of one lane need. A lane makes one fault after
// another.
type harm struct {
	cluster *cluster
	record  *recorder
	proxies *proxies // nil: none stand between the nodes
	random  *rand.Rand
}

// fault does harm, lets it last, and undoes it.
type fault func(ctx context.Context, h *harm) error

// The faults by name.
var faults = map[string]fault{
	"kill": kill, "kill-all": killAll, "pause": pause, "restart": rollingRestart, "switchover": switchOver,
	"isolate": isolate, "one-way": oneWay, "bridge": bridge, "full": diskFull,
	"slow": slow, "stall": stall, "reset": resetConnections,
}

// last waits for a time between two bounds.
func (h *harm) last(ctx context.Context, least, most time.Duration) {
	select {
	case <-time.After(least + time.Duration(h.random.Int64N(int64(most-least)))):
	case <-ctx.Done():
	}
}

// victim is the leader more often than not.
func (h *harm) victim() *node {
	if leader := h.cluster.leader(); leader != nil && h.random.IntN(10) < 6 {
		return leader
	}
	return h.cluster.nodes[h.random.IntN(len(h.cluster.nodes))]
}

// revive starts a node again, at times with another wrong clock.
func (h *harm) revive(n *node) error {
	n.mu.Lock()
	if h.random.IntN(2) == 0 {
		n.offset = time.Duration(h.random.IntN(7201)-3600) * time.Second
		h.record.event("clock", n.name, fmt.Sprintf("starts with a clock that is off by %v", n.offset))()
	}
	n.mu.Unlock()
	return n.start()
}

func kill(ctx context.Context, h *harm) error {
	n := h.victim()
	end := h.record.event("kill", n.name, "SIGKILL, and a while later started again")
	n.kill()
	h.last(ctx, 100*time.Millisecond, 3*time.Second)
	end()
	return h.revive(n)
}

func killAll(ctx context.Context, h *harm) error {
	for _, n := range h.cluster.nodes {
		defer h.record.event("kill", n.name, "SIGKILL of all nodes at once")()
		n.kill()
	}
	h.last(ctx, 100*time.Millisecond, time.Second)
	var failures []error
	for _, i := range h.random.Perm(len(h.cluster.nodes)) {
		failures = append(failures, h.revive(h.cluster.nodes[i]))
	}
	return errors.Join(failures...)
}

func pause(ctx context.Context, h *harm) error {
	n := h.victim()
	defer h.record.event("pause", n.name, "SIGSTOP, then SIGCONT")()
	n.signal(syscall.SIGSTOP)
	h.last(ctx, 200*time.Millisecond, 5*time.Second)
	n.signal(syscall.SIGCONT)
	return nil
}

// rollingRestart is what an operator does to change the version.
func rollingRestart(ctx context.Context, h *harm) error {
	for _, n := range h.cluster.nodes {
		end := h.record.event("restart", n.name, "SIGTERM, waited for, started again")
		// One that cannot stop in order is killed by stop, which says so; one that
		// had been killed before does not matter here.
		err := n.stop()
		end()
		if err != nil && ctx.Err() == nil {
			h.record.event("trouble", n.name, err.Error())()
		}
		if err := h.revive(n); err != nil {
			return err
		}
		// It waits until the cluster is whole, unless another fault forbids it.
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
			asking, cancel := context.WithTimeout(context.Background(), time.Second)
			err := h.cluster.whole(asking)
			cancel()
			if err == nil {
				break
			}
			h.last(ctx, 50*time.Millisecond, 100*time.Millisecond)
		}
	}
	return nil
}

func switchOver(ctx context.Context, h *harm) error {
	leader := h.cluster.leader()
	if leader == nil {
		return nil
	}
	to := h.cluster.others(leader)[h.random.IntN(len(h.cluster.nodes)-1)]
	local := to.local()
	if local == nil {
		return nil
	}
	id, err := base.ParseNodeID(local.Node)
	if err != nil {
		return err
	}
	defer h.record.event("switchover", to.name, "leadership is moved to it on request")()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := leader.client.Switchover(ctx, database, id); err != nil {
		h.record.event("trouble", to.name, "switchover: "+err.Error())() // Another fault may be the reason.
	}
	return nil
}

// cuts lets each pair's direction be cut for a while.
func (h *harm) cuts(ctx context.Context, node, text string, pairs ...[2]int) error {
	defer h.record.event("partition", node, text)()
	for _, p := range pairs {
		if err := h.cluster.network.Cut(p[1], p[0]); err != nil {
			return err
		}
	}
	h.last(ctx, time.Second, 6*time.Second)
	return h.cluster.network.Heal()
}

func isolate(ctx context.Context, h *harm) error {
	n := h.victim()
	var pairs [][2]int
	for _, o := range h.cluster.others(n) {
		pairs = append(pairs, [2]int{n.index, o.index}, [2]int{o.index, n.index})
	}
	return h.cuts(ctx, n.name, "it and the others are cut off from each other", pairs...)
}

func oneWay(ctx context.Context, h *harm) error {
	n := h.victim()
	out := h.random.IntN(2) == 0
	var pairs [][2]int
	for _, o := range h.cluster.others(n) {
		if out {
			pairs = append(pairs, [2]int{n.index, o.index})
		} else {
			pairs = append(pairs, [2]int{o.index, n.index})
		}
	}
	text := "it hears nobody and is heard"
	if out {
		text = "nobody hears it, and it hears all"
	}
	return h.cuts(ctx, n.name, text, pairs...)
}

func bridge(ctx context.Context, h *harm) error {
	middle := h.victim()
	o := h.cluster.others(middle)
	return h.cuts(ctx, middle.name, "it reaches both of the others, and they do not reach each other",
		[2]int{o[0].index, o[1].index}, [2]int{o[1].index, o[0].index})
}

// diskFull takes what is left of a disk but for a little.
func diskFull(ctx context.Context, h *harm) error {
	n := h.victim()
	defer h.record.event("full", n.name, "its disk is full")()
	ballast := n.dir + "/ballast"
	if err := fill(n.dir, ballast); err != nil {
		return err
	}
	h.last(ctx, time.Second, 5*time.Second)
	return os.Remove(ballast)
}

func fill(dir, ballast string) error {
	f, err := os.Create(ballast)
	if err != nil {
		return err
	}
	defer f.Close()
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return err
	}
	const left = 64 << 10
	if free := s.Bavail * uint64(s.Bsize); free > left {
		// The node writes meanwhile, so that there may be less room by now.
		if _, err := f.Write(make([]byte, free-left)); err != nil && !errors.Is(err, syscall.ENOSPC) {
			return err
		}
	}
	return nil
}

// someLinks are those of one node, or all.
func (h *harm) someLinks() (node string, list []*link) {
	n := h.victim()
	all := h.random.IntN(2) == 0
	for pair, l := range h.proxies.links {
		if all || pair[0] == n.index || pair[1] == n.index {
			list = append(list, l)
		}
	}
	if all {
		return "", list
	}
	return n.name, list
}

func slow(ctx context.Context, h *harm) error {
	delay := time.Duration(5+h.random.IntN(150)) * time.Millisecond
	bytes := []int{0, 0, 30_000, 200_000}[h.random.IntN(4)]
	node, links := h.someLinks()
	defer h.record.event("slow", node, fmt.Sprintf("links take %v each way, %d bytes a second (0: any)", delay, bytes))()
	for _, l := range links {
		l.set(delay, bytes)
	}
	h.last(ctx, 2*time.Second, 6*time.Second)
	for _, l := range links {
		l.set(0, 0)
	}
	return nil
}

func stall(ctx context.Context, h *harm) error {
	node, links := h.someLinks()
	d := time.Duration(200+h.random.IntN(3000)) * time.Millisecond
	defer h.record.event("stall", node, fmt.Sprintf("nothing passes its links for %v, then all of it", d))()
	for _, l := range links {
		l.stallFor(d)
	}
	h.last(ctx, d, d+time.Second)
	return nil
}

func resetConnections(ctx context.Context, h *harm) error {
	node, links := h.someLinks()
	defer h.record.event("reset", node, "its connections to other nodes are broken")()
	for range 1 + h.random.IntN(5) {
		for _, l := range links {
			l.reset()
		}
		h.last(ctx, 50*time.Millisecond, 300*time.Millisecond)
	}
	return nil
}

package nemesis

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/check"
	"github.com/skeindb/skein/internal/replica"
)

// recorder is a history that many write.
type recorder struct {
	began time.Time

	mu      sync.Mutex // guards what follows
	history check.History
}

func newRecorder() *recorder { return &recorder{began: time.Now()} }

func (r *recorder) now() time.Duration { return time.Since(r.began) }

func (r *recorder) invoke(o check.Op) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	o.Invoke = r.now()
	return r.history.Invoke(o)
}

func (r *recorder) back(id int, result check.Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history.Return(id, r.now(), result)
}

// event records a fault; the function that it returns, its end.
func (r *recorder) event(kind, node, text string) (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := len(r.history.Events)
	r.history.Events = append(r.history.Events, check.Event{From: r.now(), Until: r.now(), Kind: kind, Node: node, Text: text})
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.history.Events[at].Until = r.now()
	}
}

// claim records that a node was seen to lead.
func (r *recorder) claim(c check.Claim) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history.Claims = append(r.history.Claims, c)
}

// watch asks every node again and again whether it leads, and starts what has
// ended by itself.
func (r *recorder) watch(ctx context.Context, c *cluster) {
	var wg sync.WaitGroup
	for _, n := range c.nodes {
		wg.Go(func() {
			seen := base.Epoch(0)
			for ctx.Err() == nil {
				if err := n.restartIfEnded(); err != nil {
					r.event("trouble", n.name, err.Error())()
				}
				if s := n.local(); s != nil && s.Role == replica.RoleLeader && s.LeaseLive && s.Epoch != seen {
					seen = s.Epoch
					r.claim(check.Claim{Node: n.name, Epoch: s.Epoch, At: r.now(), Text: "its status says that it leads with a live lease"})
					r.event("leader", n.name, "leads epoch "+strconv.FormatUint(uint64(s.Epoch), 10))
				}
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond):
				}
			}
		})
	}
	wg.Wait()
}

var served = regexp.MustCompile(`msg="serving as leader" database=` + database + ` epoch=(\d+)`)

// claims adds what the nodes' own logs say of who led.
func (r *recorder) claims(c *cluster) {
	for _, n := range c.nodes {
		for _, m := range served.FindAllStringSubmatch(n.output.String(), -1) {
			epoch, _ := strconv.ParseUint(m[1], 10, 64)
			r.claim(check.Claim{Node: n.name, Epoch: base.Epoch(epoch), At: r.now(), Text: "its log says that it served as leader"})
		}
	}
}

// losses records what the cluster itself lists as undone, and whether it says
// that clients had been told of it. What they had not been told of is no loss.
func (r *recorder) losses(c *cluster) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	orphans, err := c.nodes[0].client.Orphans(ctx, database)
	if err != nil {
		return err
	}
	byNode := map[string]*check.Loss{}
	for _, o := range orphans {
		l := byNode[o.Node]
		if l == nil {
			l = &check.Loss{Node: o.Node, At: r.now()}
			byNode[o.Node] = l
		}
		if o.Table != "element" || o.Op != "insert" || o.Acknowledged == "no" {
			continue
		}
		if o.Acknowledged == "unknown" {
			l.Acknowledged = -1
		} else if l.Acknowledged >= 0 {
			l.Acknowledged++
		}
		a := check.Act{Kind: check.Append}
		for _, f := range o.New {
			switch f.Name {
			case "key":
				a.Key = string(f.Value.Bytes)
			case "value":
				a.Value = f.Value.Int
			}
		}
		l.Undone = append(l.Undone, check.Undone{Act: a, Position: base.Position{Epoch: o.Epoch, Seq: o.Seq}})
	}
	for _, node := range slices.Sorted(maps.Keys(byNode)) {
		r.history.Losses = append(r.history.Losses, *byNode[node])
	}
	return nil
}

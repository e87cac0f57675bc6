package nemesis

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/check"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/test/netns"
	"github.com/skeindb/skein/test/process"
)

var (
	seedFlag = flag.Uint64("seed", 0, "draws the faults; 0 draws a seed")
	forFlag  = flag.Duration("for", 0, "how long each scenario does harm; 0 is the short time of each")
	keepFlag = flag.Bool("keep", false, "keep the folder of good runs, too")
	dirFlag  = flag.String("reports", "", "where the folders of failures go; the system's temporary folder if empty")
)

// binary is the program under test.
var binary string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	flag.Parse()
	if os.Getenv("SKEIN_E2E") == "" {
		return m.Run() // Every test skips.
	}
	dir, err := os.MkdirTemp("", "skein-nemesis-binary-")
	if err == nil {
		defer os.RemoveAll(dir)
		binary, err = process.Build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// scenario is which faults are made: one lane makes one at a time.
type scenario struct {
	name  string
	lanes [][]string
	lasts time.Duration
	slow  bool // proxies stand between the nodes
	loses bool // the database is async and may lose what it reports
}

var scenarios = []scenario{
	{name: "processes", lanes: [][]string{{"kill", "kill", "pause", "restart", "switchover", "kill-all"}}, lasts: 20 * time.Second},
	{name: "partitions", lanes: [][]string{{"isolate", "one-way", "bridge"}}, lasts: 20 * time.Second},
	{name: "disks", lanes: [][]string{{"full", "full", "full", "kill"}}, lasts: 15 * time.Second},
	{name: "links", lanes: [][]string{{"slow", "stall", "reset"}, {"kill", "pause", "switchover"}}, lasts: 20 * time.Second, slow: true},
	{name: "all", lanes: [][]string{
		{"kill", "kill", "pause", "pause", "restart", "switchover", "kill-all"}, {"isolate", "one-way", "bridge", "full"},
	}, lasts: 30 * time.Second},
	{name: "async", lanes: [][]string{{"kill", "isolate", "isolate", "one-way"}}, lasts: 20 * time.Second, loses: true},
}

func TestNemesis(t *testing.T) {
	if os.Getenv("SKEIN_E2E") == "" {
		t.Skip("set SKEIN_E2E=1 to let real nodes fail")
	}
	if err := netns.Available(); err != nil {
		t.Skip(err)
	}
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) { s.run(t) })
	}
}

func (s scenario) run(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64N(1_000_000)
	}
	lasting := s.lasts
	if *forFlag > 0 {
		lasting = *forFlag
	}
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	c := newCluster(t, 3)
	h := &harm{cluster: c, random: random}
	if s.slow {
		p, err := startProxies(c.network, peerPort)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.stop)
		h.proxies = p
	}
	for _, n := range c.nodes {
		n.offset = time.Duration(random.IntN(7201)-3600) * time.Second
	}
	r := newRecorder()
	h.record = r
	w := &workload{cluster: c, record: r}
	var policy httpapi.PolicyPatch
	if s.loses {
		w.durability = base.Async
		durability, yes := string(base.Async), true
		policy.Durability, policy.AllowLoss = &durability, &yes
	}
	c.form(policy)
	var troubles []error
	if err := prepare(context.Background(), c.nodes[0]); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var clients, others sync.WaitGroup
	for _, client := range w.clients(seed) {
		clients.Go(func() { client.run(ctx) })
	}
	others.Go(func() { r.watch(ctx, c) })
	troubles = append(troubles, s.harm(h, seed, lasting))
	troubles = append(troubles, h.heal())
	healed := r.event("heal", "", "every fault is undone; what follows must come right")
	err := eventually("a whole cluster after all faults are undone", c.whole)
	if err == nil {
		time.Sleep(2 * time.Second) // Clients work on a healthy cluster for a while.
	}
	w.stopping.Store(true)
	clients.Wait()
	if err == nil {
		err = errors.Join(r.finish(c), r.losses(c))
	}
	healed()
	cancel()
	others.Wait()
	r.claims(c)
	s.judge(t, seed, c, r, errors.Join(errors.Join(troubles...), err))
}

// prepare makes the tables.
func prepare(ctx context.Context, n *node) error {
	for _, sql := range schema {
		if _, err := n.client.Query(ctx, database, httpapi.QueryRequest{SQL: sql}); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) onEveryNode(f func(context.Context, *node) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var failures []error
	for _, n := range c.nodes {
		failures = append(failures, f(ctx, n))
	}
	return errors.Join(failures...)
}

// clients are two at each node, some that roam, and some that look for the
// leader themselves.
func (w *workload) clients(seed uint64) []*client {
	var list []*client
	add := func(kind string, c *client) {
		c.workload, c.name = w, kind+strconv.Itoa(len(list)+1)
		c.random = rand.New(rand.NewPCG(seed, uint64(len(list)+100)))
		list = append(list, c)
	}
	for i := range w.cluster.nodes {
		add("home", &client{homes: []int{i}})
		add("home", &client{homes: []int{i}, names: true})
	}
	for range 2 {
		add("roam", &client{homes: []int{0, 1, 2}, roams: true})
	}
	for i := range 2 {
		add("seek", &client{homes: []int{0, 1, 2}, several: true, names: i == 0})
	}
	return list
}

// harm makes faults in every lane for a time.
func (s scenario) harm(h *harm, seed uint64, lasting time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), lasting)
	defer cancel()
	failures := make([]error, len(s.lanes))
	var wg sync.WaitGroup
	for i, names := range s.lanes {
		lane := *h
		lane.random = rand.New(rand.NewPCG(seed, uint64(i+10)))
		wg.Go(func() {
			for ctx.Err() == nil && failures[i] == nil {
				lane.last(ctx, 300*time.Millisecond, 2500*time.Millisecond)
				if name := names[lane.random.IntN(len(names))]; ctx.Err() == nil {
					if err := faults[name](ctx, &lane); err != nil {
						failures[i] = fmt.Errorf("fault %s: %w", name, err)
					}
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(failures...)
}

// heal undoes whatever a fault has left.
func (h *harm) heal() error {
	failures := []error{h.cluster.network.Heal()}
	for _, n := range h.cluster.nodes {
		if err := os.Remove(n.dir + "/ballast"); err != nil && !errors.Is(err, os.ErrNotExist) {
			failures = append(failures, err)
		}
		n.signal(syscall.SIGCONT)
		failures = append(failures, n.start())
	}
	if h.proxies != nil {
		for _, l := range h.proxies.links {
			l.set(0, 0)
		}
	}
	return errors.Join(failures...)
}

// finish waits until all replicas are level and equal, and reads what each
// holds.
func (r *recorder) finish(c *cluster) error {
	var report *httpapi.HashReport
	err := eventually("equal replicas", func(ctx context.Context) (err error) {
		if report, err = c.nodes[0].client.Hash(ctx, database); err != nil {
			return err
		}
		if report.Verdict == httpapi.VerdictIncomplete || len(report.Replicas) != len(c.nodes) {
			return fmt.Errorf("%s: %+v", report.Verdict, report.Replicas)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, h := range report.Replicas {
		var p base.Position
		if _, err := fmt.Sscanf(h.Position, "%d/%d", &p.Epoch, &p.Seq); err != nil {
			return fmt.Errorf("position %q of %s: %w", h.Position, h.NodeName, err)
		}
		r.history.Copies = append(r.history.Copies, check.Copy{Node: h.NodeName, Position: p, Hash: h.Hash, At: r.now(), Final: true})
	}
	return c.onEveryNode(func(ctx context.Context, n *node) error {
		reader := &client{workload: &workload{cluster: c, record: r}, name: "final", homes: []int{n.index}, random: rand.New(rand.NewPCG(1, 1))}
		if err := reader.connect(ctx); err != nil {
			return err
		}
		defer reader.hangUp()
		if _, err := reader.conn.Exec(ctx, "set skein.read = 'any'"); err != nil {
			return err
		}
		rows, err := reader.conn.Query(ctx, "select key, value from element order by id")
		if err != nil {
			return err
		}
		defer rows.Close()
		lists := map[string][]int64{}
		for i := range r.history.Ops {
			for _, a := range r.history.Ops[i].Acts {
				if a.Kind == check.Append {
					lists[a.Key] = nil
				}
			}
		}
		for rows.Next() {
			var key string
			var value int64
			if err := rows.Scan(&key, &value); err != nil {
				return err
			}
			lists[key] = append(lists[key], value)
		}
		r.history.Final(n.name, r.now(), base.Position{}, lists)
		return rows.Err()
	})
}

package devcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/skeindb/skein/internal/adminclient"
	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
)

// Options of a run.
type Options struct {
	// Env is this machine.
	Env *env.Env
	// Dir is the cluster's folder; made when it is missing.
	Dir string
	// Wish is what the command line asks of the layout.
	Wish Wish
	// NoRestart leaves a node that has ended dead.
	NoRestart bool
	// Command makes the command that serves one node from a configuration file.
	Command func(config string) *exec.Cmd
	// Out is where a person reads.
	Out io.Writer
	// Signals: the first stops the cluster, the second kills what is left.
	Signals <-chan os.Signal
	// Ready is called once the cluster serves, after the summary; may be nil.
	Ready func()

	// RestartDelay before a dead node is started again; it doubles with each
	// failure in a row. 0 means 3 seconds.
	RestartDelay time.Duration
	// StartTimeout bounds the start of the cluster; 0 means 60 seconds.
	StartTimeout time.Duration
	// StopTimeout is between SIGTERM and SIGKILL; 0 means 10 seconds.
	StopTimeout time.Duration
}

// Bounds of a run.
const (
	maxRestartDelay = 30 * time.Second
	maxFailures     = 6           // starts in a row that did not last
	lasting         = time.Minute // how long a start must live to count as good
	askEvery        = 500 * time.Millisecond
	askTimeout      = time.Second
	database        = "main"
)

// cluster is a run. Its loop (Run's goroutine) owns all fields but those of
// Options; other goroutines only send events.
type cluster struct {
	options Options
	env     *env.Env
	nodes   []node
	members []*member
	events  chan event
	ended   chan struct{} // closed when the loop no longer takes events
	wait    sync.WaitGroup
	say     *teller
	http    *http.Client
}

// member is the state of one node's process.
type member struct {
	node
	process  *process // nil while none runs
	started  time.Time
	failures int
	pending  env.Stopper // the timer of the next start
	gaveUp   bool
}

// event is something that happened to a member.
type event struct {
	member *member
	ended  *process // this process ended, with err
	err    error
	again  bool   // time to start again
	line   string // something to tell
}

// Run starts the cluster and stays until a signal, or until no node is left.
func Run(ctx context.Context, o Options) error {
	fill(&o.RestartDelay, 3*time.Second)
	fill(&o.StartTimeout, time.Minute)
	fill(&o.StopTimeout, 10*time.Second)
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return fmt.Errorf("folder %s: %w", o.Dir, err)
	}
	if err := o.Env.FS.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	c, err := prepare(ctx, o, dir)
	if err != nil {
		return err
	}
	return c.run(ctx)
}

func fill(to *time.Duration, value time.Duration) {
	if *to == 0 {
		*to = value
	}
}

// prepare does everything that comes before the first process.
func prepare(ctx context.Context, o Options, dir string) (*cluster, error) {
	made, err := loadLayout(o.Env.FS, dir)
	if err != nil {
		return nil, err
	}
	layout, err := settle(made, o.Wish)
	if err != nil {
		return nil, err
	}
	if err := checkPorts(ctx, o.Env.Net, layout); err != nil {
		return nil, err
	}
	nodes := layout.nodes(dir)
	for _, n := range nodes {
		if err := o.Env.FS.MkdirAll(n.dir, 0o700); err != nil {
			return nil, fmt.Errorf("make folder of %s: %w", n.name, err)
		}
	}
	if made == nil {
		if err := saveLayout(o.Env.FS, dir, layout); err != nil {
			return nil, fmt.Errorf("keep layout: %w", err)
		}
	}
	if err := certify(o.Env, dir, nodes); err != nil {
		return nil, err
	}
	if err := configure(o.Env.FS, nodes); err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	c := &cluster{
		options: o, env: o.Env, nodes: nodes, events: make(chan event, 64), ended: make(chan struct{}),
		say:  &teller{out: o.Out, clock: o.Env.Clock},
		http: &http.Client{Transport: &http.Transport{DialContext: dialer(o.Env.Net), MaxIdleConnsPerHost: 2}},
	}
	for _, n := range nodes {
		c.members = append(c.members, &member{node: n})
	}
	return c, nil
}

// run is the loop's life: start, serve, stop.
func (c *cluster) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	err := c.startAll()
	if err == nil {
		err = c.serve(ctx, cancel)
	}
	cancel(err)
	c.stopAll()
	close(c.ended)
	c.wait.Wait()
	c.http.CloseIdleConnections()
	return err
}

// send delivers an event unless the loop has ended.
func (c *cluster) send(e event) {
	select {
	case c.events <- e:
	case <-c.ended:
	}
}

func (c *cluster) startAll() error {
	c.say.plain("Starting %d nodes in %s ...", len(c.members), c.options.Dir)
	for _, m := range c.members {
		if err := c.start(m); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) start(m *member) error {
	log, err := openLog(m.log(), func(line string) { c.send(event{line: m.name + ": " + line}) })
	if err != nil {
		return fmt.Errorf("open log of %s: %w", m.name, err)
	}
	var p *process
	known := make(chan struct{}) // p is set
	p, err = start(c.options.Command(m.config()), log, &c.wait, func(err error) {
		<-known
		c.send(event{member: m, ended: p, err: err})
	})
	close(known)
	if err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", m.name, err), log.close())
	}
	m.process, m.started = p, c.env.Clock.Now()
	return nil
}

// serve waits for the cluster to form, then supervises it.
func (c *cluster) serve(ctx context.Context, cancel context.CancelCauseFunc) error {
	formed := make(chan formation, 1)
	forming, stopForming := c.env.Clock.WithTimeout(ctx, c.options.StartTimeout, errStartTimeout)
	defer stopForming()
	c.wait.Go(func() { formed <- c.form(forming) })
	up := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.options.Signals:
			c.say.plain("\nStopping ...")
			return nil
		case f := <-formed:
			if f.err != nil {
				return c.failedStart(f.err)
			}
			up = true
			c.say.plain("%s", summary(c.options.Dir, c.members, f.status))
			c.wait.Go(func() { c.watchLeaders(ctx, f.status) })
			if c.options.Ready != nil {
				c.options.Ready()
			}
		case e := <-c.events:
			if err := c.handle(e, up); err != nil {
				return err
			}
		}
	}
}

// handle deals with one event.
func (c *cluster) handle(e event, up bool) error {
	switch {
	case e.line != "":
		c.say.at("%s", e.line)
	case e.ended != nil:
		e.member.process = nil
		closeErr := e.ended.log.close()
		if !up {
			return c.explain(fmt.Sprintf("%s %s while the cluster was starting", e.member.name, reason(e.err)), e.member, e.ended.log.tail())
		}
		c.died(e.member, e.ended, e.err)
		if closeErr != nil {
			c.say.at("the log of %s is not complete: %v", e.member.name, closeErr)
		}
		return c.anyLeft()
	case e.again:
		e.member.pending = nil
		if err := c.start(e.member); err != nil {
			c.say.at("%v", err)
			e.member.gaveUp = true
			return c.anyLeft()
		}
		c.say.at("%s started again, pid %d.", e.member.name, e.member.process.pid)
	}
	return nil
}

// died tells of a node's end and plans its next start.
func (c *cluster) died(m *member, p *process, err error) {
	what := fmt.Sprintf("%s (pid %d) %s.", m.name, p.pid, reason(err))
	if c.options.NoRestart {
		m.gaveUp = true
		c.say.at("%s It stays dead (--no-restart).", what)
		return
	}
	if c.env.Clock.Now().Sub(m.started) >= lasting {
		m.failures = 0
	}
	m.failures++
	if m.failures > maxFailures {
		m.gaveUp = true
		c.say.at("%s That was start %d in a row that did not last a minute; it is not started again. Its log: %s", what, m.failures, m.log())
		return
	}
	delay := min(c.options.RestartDelay<<(m.failures-1), max(maxRestartDelay, c.options.RestartDelay))
	c.say.at("%s Starting it again in %s.", what, delay)
	m.pending = c.env.Clock.AfterFunc(delay, func() { c.send(event{member: m, again: true}) })
}

// anyLeft is an error when no node runs or will run.
func (c *cluster) anyLeft() error {
	for _, m := range c.members {
		if m.process != nil || m.pending != nil {
			return nil
		}
	}
	return base.Errorf(base.KindUnavailable, "no node is left")
}

// stopAll asks all nodes to stop, and kills those that do not in time or when
// a second signal comes.
func (c *cluster) stopAll() {
	running := 0
	for _, m := range c.members {
		if m.pending != nil {
			m.pending.Stop()
		}
		if m.process != nil {
			running++
			m.process.signal(syscall.SIGTERM)
		}
	}
	timer := c.env.Clock.NewTimer(c.options.StopTimeout)
	defer timer.Stop()
	for running > 0 {
		select {
		case e := <-c.events:
			if e.ended == nil {
				continue
			}
			e.member.process = nil
			_ = e.ended.log.close() // Nothing depends on the log any more.
			running--
		case <-timer.C():
			c.killRest(fmt.Sprintf("did not stop within %s", c.options.StopTimeout))
		case <-c.options.Signals:
			c.killRest("is still stopping")
		}
	}
	c.say.plain("All nodes have stopped. The data stays in %s.", c.options.Dir)
}

func (c *cluster) killRest(why string) {
	for _, m := range c.members {
		if m.process != nil {
			c.say.plain("%s %s; killing it (pid %d).", m.name, why, m.process.pid)
			m.process.signal(syscall.SIGKILL)
		}
	}
}

// client asks one node.
func (c *cluster) client(n node) *adminclient.Client {
	client, err := adminclient.New(adminclient.Options{URLs: []string{n.url()}, HTTP: c.http})
	if err != nil {
		panic(fmt.Errorf("address %s: %w", n.url(), err)) // Made from a port number above.
	}
	return client
}

package devcluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/config"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/httpapi/httpapitest"
	"github.com/skeindb/skein/internal/pki"
)

// The test binary is its own child: with this variable it plays a node.
const playNode = "DEVCLUSTER_TEST_NODE"

func TestMain(m *testing.M) {
	if mode := os.Getenv(playNode); mode != "" {
		os.Exit(play(mode, os.Args[1]))
	}
	os.Exit(m.Run())
}

// play is a node with a fake cluster behind a real front end.
func play(mode, file string) int {
	if mode == "fail" {
		fmt.Println("time=now level=INFO msg=opening")
		fmt.Println("time=now level=ERROR msg=\"the disk is made of cheese\"")
		return 3
	}
	c, err := config.Load(config.Sources{File: file})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	node := httpapitest.NewNode()
	node.Databases[0].Leader = httpapitest.N1.String()
	e := env.Real(slog.New(slog.DiscardHandler))
	s, err := httpapi.Open(context.Background(), e, c.HTTP, httpapi.Options{
		Node: node, Gateway: &httpapitest.Gateway{Node: node}, Registry: prometheus.NewRegistry(), TrustLoopback: c.TrustLoopback,
	})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if mode == "fragile" && c.Name == "n2" {
		return 4
	}
	<-signals
	if mode == "stubborn" {
		select {}
	}
	if s.Close() != nil {
		return 1
	}
	return 0
}

// freePorts finds n ports in a row that nobody uses just now.
func freePorts(t *testing.T, n int) int {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		first := l.Addr().(*net.TCPAddr).Port
		l.Close()
		if first+n < 65536 && checkPorts(t.Context(), realEnv().Net, Layout{Nodes: n, PG: first, HTTP: first, Peer: first}) == nil {
			return first
		}
	}
	t.Fatal("no free ports")
	return 0
}

func realEnv() *env.Env { return env.Real(slog.New(slog.DiscardHandler)) }

// running is a run of the cluster in a test.
type running struct {
	t       *testing.T
	lines   chan string
	signals chan os.Signal
	done    chan error
}

func runCluster(t *testing.T, dir, mode string, change func(*Options)) *running {
	t.Helper()
	first := freePorts(t, 9)
	r := &running{t: t, lines: make(chan string, 1000), signals: make(chan os.Signal, 2), done: make(chan error, 1)}
	in, out := io.Pipe()
	o := Options{
		Env: realEnv(), Dir: dir, Wish: Wish{Nodes: 3, PG: first, HTTP: first + 3, Peer: first + 6}, Out: out, Signals: r.signals,
		RestartDelay: 10 * time.Millisecond, StartTimeout: 20 * time.Second, StopTimeout: 10 * time.Second,
		Command: func(config string) *exec.Cmd {
			cmd := exec.Command(os.Args[0], config)
			cmd.Env = append(os.Environ(), playNode+"="+mode)
			return cmd
		},
	}
	if change != nil {
		change(&o)
	}
	go func() {
		for lines := bufio.NewScanner(in); lines.Scan(); {
			r.lines <- lines.Text()
		}
		close(r.lines)
	}()
	go func() { r.done <- Run(context.Background(), o); out.Close() }()
	return r
}

// until reads lines until one contains text, and returns it.
func (r *running) until(text string) string {
	r.t.Helper()
	var seen []string
	limit := time.After(30 * time.Second)
	for {
		select {
		case line, ok := <-r.lines:
			seen = append(seen, line)
			if strings.Contains(line, text) {
				return line
			}
			if !ok {
				r.t.Fatalf("%q did not come; the run ended with %v after:\n%s", text, <-r.done, strings.Join(seen, "\n"))
			}
		case <-limit:
			r.t.Fatalf("%q did not come within 30s:\n%s", text, strings.Join(seen, "\n"))
		}
	}
}

// pidOf takes a node's process number from the summary.
func (r *running) pidOf(name string) int {
	r.t.Helper()
	var pid int
	if _, err := fmt.Sscanf(strings.TrimSpace(r.until("  " + name + " "))[len(name):], "%d", &pid); err != nil {
		r.t.Fatal(err)
	}
	return pid
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// One evening with a cluster: it starts, refuses a second run, brings a killed
// node back, stops in order, and starts again on the same folder.
func TestAClustersLife(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "skein-data")
	r := runCluster(t, dir, "good", nil)
	r.until("The cluster is up: 3 nodes, database main on all of them.")
	first, second := r.pidOf("n1"), r.pidOf("n2")
	r.until(fmt.Sprintf("kill -9 %d", first))
	r.until("Programs on this machine need no password here.")

	err := Run(t.Context(), Options{Env: realEnv(), Dir: dir, Out: io.Discard})
	if want := fmt.Sprintf("`skein dev` already runs on this folder (pid %d)", os.Getpid()); err == nil || err.Error() != want {
		t.Errorf("a second run: %v, want %s", err, want)
	}

	syscall.Kill(second, syscall.SIGKILL)
	r.until(fmt.Sprintf("n2 (pid %d) was killed (signal 9, killed). Starting it again in 10ms.", second))
	r.until("n2 started again, pid")

	r.signals <- os.Interrupt
	r.until("Stopping ...")
	r.until("All nodes have stopped. The data stays in")
	if err := <-r.done; err != nil {
		t.Error(err)
	}
	if alive(first) {
		t.Error("n1 outlived the run")
	}

	id, err := pki.LoadFiles(realEnv().FS, filepath.Join(dir, "n2", "certs"))
	if err != nil {
		t.Fatal(err)
	}
	again := runCluster(t, dir, "good", func(o *Options) { o.Wish = Wish{} })
	again.until("The cluster is up")
	again.signals <- os.Interrupt
	again.until("All nodes have stopped")
	if now, err := pki.LoadFiles(realEnv().FS, filepath.Join(dir, "n2", "certs")); err != nil || now.Node() != id.Node() {
		t.Errorf("the second start changed n2's identity: %v", err)
	}
	if err := <-again.done; err != nil {
		t.Error(err)
	}
	err = Run(t.Context(), Options{Env: realEnv(), Dir: dir, Out: io.Discard, Wish: Wish{Nodes: 5}})
	if err == nil || err.Error() != "this folder was made with --nodes 3, which stays" {
		t.Errorf("another number of nodes: %v", err)
	}
}

func TestNoRestart(t *testing.T) {
	r := runCluster(t, t.TempDir(), "good", func(o *Options) { o.NoRestart = true })
	pids := []int{r.pidOf("n1"), r.pidOf("n2"), r.pidOf("n3")}
	for i, pid := range pids {
		syscall.Kill(pid, syscall.SIGKILL)
		r.until(fmt.Sprintf("n%d (pid %d) was killed (signal 9, killed). It stays dead (--no-restart).", i+1, pid))
	}
	if err := <-r.done; err == nil || err.Error() != "no node is left" {
		t.Errorf("got %v", err)
	}
}

func TestANodeThatKeepsFailingIsGivenUp(t *testing.T) {
	r := runCluster(t, t.TempDir(), "good", func(o *Options) {
		good := o.Command
		starts := 0
		o.Command = func(config string) *exec.Cmd {
			cmd := good(config)
			if strings.Contains(config, "/n2/") {
				if starts++; starts > 1 {
					cmd.Env = append(cmd.Env, playNode+"=fragile")
				}
			}
			return cmd
		}
		o.RestartDelay = time.Millisecond
	})
	syscall.Kill(r.pidOf("n2"), syscall.SIGKILL)
	r.until("n2 started again")
	r.until("failed (exit status 4). Starting it again in 2ms.")
	r.until("That was start 7 in a row that did not last a minute; it is not started again.")
	r.signals <- os.Interrupt
	if err := <-r.done; err != nil {
		t.Error(err)
	}
}

func TestAFailedStartShowsTheLog(t *testing.T) {
	r := runCluster(t, t.TempDir(), "fail", nil)
	err := <-r.done
	e := base.AsError(err)
	if err == nil || !strings.Contains(e.Message, "failed (exit status 3) while the cluster was starting") || !strings.Contains(e.Hint, "made of cheese") || !strings.Contains(e.Hint, "node.log") {
		t.Errorf("got %v\nhint %s", err, e.Hint)
	}
}

func TestStubbornNodesAreKilled(t *testing.T) {
	r := runCluster(t, t.TempDir(), "stubborn", nil)
	pid := r.pidOf("n1")
	r.until("Ctrl-C stops all nodes")
	r.signals <- os.Interrupt
	r.until("Stopping ...")
	r.signals <- os.Interrupt
	r.until(fmt.Sprintf("n1 is still stopping; killing it (pid %d).", pid))
	r.until("All nodes have stopped")
	if err := <-r.done; err != nil || alive(pid) {
		t.Errorf("%v, alive: %v", err, alive(pid))
	}
}

func TestStopTimeout(t *testing.T) {
	r := runCluster(t, t.TempDir(), "stubborn", func(o *Options) { o.StopTimeout = 50 * time.Millisecond })
	r.until("Ctrl-C stops all nodes")
	r.signals <- os.Interrupt
	r.until("n1 did not stop within 50ms; killing it") // n1 surely serves; the summary came from it.
	if err := <-r.done; err != nil {
		t.Error(err)
	}
}

// Nobody may be left behind when the parent is killed.
func TestChildrenDieWithTheirParent(t *testing.T) {
	if os.Getenv("DEVCLUSTER_TEST_PARENT") != "" {
		r := runCluster(t, os.Getenv("DEVCLUSTER_TEST_PARENT"), "good", nil)
		fmt.Printf("child %d\n", r.pidOf("n3"))
		<-r.done
		return
	}
	parent := exec.Command(os.Args[0], "-test.run=^TestChildrenDieWithTheirParent$")
	parent.Env = append(os.Environ(), "DEVCLUSTER_TEST_PARENT="+t.TempDir())
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if n, _ := fmt.Sscanf(lines.Text(), "child %d", &pid); n == 1 {
			break
		}
	}
	if pid == 0 {
		t.Fatal("no child was started")
	}
	child, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	parent.Wait()
	// The child is not ours to wait for; its port closes when it is gone.
	for deadline := time.Now().Add(10 * time.Second); alive(pid) && !zombie(pid); {
		if time.Now().After(deadline) {
			child.Kill()
			t.Fatal("the child outlived its parent")
		}
	}
}

// zombie says that a process has ended and nobody has waited for it.
func zombie(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(data), ") Z ")
}

func TestAPortInUseIsNamed(t *testing.T) {
	first := freePorts(t, 9)
	l, err := net.Listen("tcp", local(first+4))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := t.TempDir()
	err = Run(t.Context(), Options{Env: realEnv(), Dir: dir, Out: io.Discard, Wish: Wish{PG: first, HTTP: first + 3, Peer: first + 6},
		Command: func(string) *exec.Cmd { t.Error("a process was started"); return nil }})
	want := fmt.Sprintf("port %d is in use by process %d (", first+4, os.Getpid())
	if err == nil || !strings.HasPrefix(err.Error(), want) || !strings.Contains(base.AsError(err).Hint, "--http takes the first of 3") {
		t.Errorf("got %v (%s), want %s", err, base.AsError(err).Hint, want)
	}
	if _, err := os.Stat(filepath.Join(dir, layoutFile)); !errors.Is(err, os.ErrNotExist) {
		t.Error("a refused start left a layout behind")
	}
}

func TestLayouts(t *testing.T) {
	for _, c := range []struct {
		made *Layout
		wish Wish
		want Layout
		err  string
	}{
		{nil, Wish{}, DefaultLayout, ""},
		{nil, Wish{Nodes: 5, HTTP: 9000}, Layout{5, 5441, 9000, 6441}, ""},
		{&Layout{5, 1000, 2000, 3000}, Wish{}, Layout{5, 1000, 2000, 3000}, ""},
		{&Layout{5, 1000, 2000, 3000}, Wish{Nodes: 5, PG: 1000}, Layout{5, 1000, 2000, 3000}, ""},
		{&Layout{5, 1000, 2000, 3000}, Wish{Nodes: 3, PG: 1001}, Layout{}, "made with --nodes 5 --port 1000, which stays"},
		{nil, Wish{Nodes: 10}, Layout{}, "want 1 to 9"},
		{nil, Wish{Nodes: -1}, Layout{}, "want 1 to 9"},
		{nil, Wish{HTTP: 5443}, Layout{}, "port 5443 is needed for both --port and --http"},
		{nil, Wish{Peer: 65534}, Layout{}, "port 65536 is needed, and there is no such port"},
	} {
		got, err := settle(c.made, c.wish)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%+v: %v, want %s", c.wish, err, c.err)
			}
		} else if err != nil || got != c.want {
			t.Errorf("%+v: %+v, %v", c.wish, got, err)
		}
	}
}

// What is written for a node is what serve reads.
func TestConfigurationIsRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), `a "strange" \ näme`)
	nodes := DefaultLayout.nodes(dir)
	for _, n := range nodes {
		if err := os.MkdirAll(n.dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	read := func(i int) *config.Serve {
		t.Helper()
		if err := configure(realEnv().FS, nodes); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(config.Sources{File: nodes[i].config()})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := read(1)
	if c.Dir != nodes[1].data() || c.Name != "n2" || c.PG != "127.0.0.1:5442" || c.HTTP != "127.0.0.1:8442" ||
		c.Peer != "127.0.0.1:6442" || !c.TrustLoopback || c.Insecure || c.Certs != nodes[1].certs() || fmt.Sprint(c.Join) != "[127.0.0.1:6441]" {
		t.Errorf("got %+v", c)
	}
	if founder := read(0); len(founder.Join) != 0 {
		t.Errorf("the founder joins %v", founder.Join)
	}
	identify := func(n node, cluster string) {
		t.Helper()
		if err := os.MkdirAll(n.data(), 0o700); err != nil {
			t.Fatal(err)
		}
		text := `{"version":1,"node":"00000000000000a1","cluster":"` + cluster + `"}`
		if err := os.WriteFile(filepath.Join(n.data(), "node.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// A start that was interrupted leaves files of nodes that have not joined.
	identify(nodes[1], "0000000000000000")
	if early := read(1); fmt.Sprint(early.Join) != "[127.0.0.1:6441]" {
		t.Errorf("a node that had no time to join joins %v", early.Join)
	}
	// A first node that lost its data joins the others; it founds nothing.
	identify(nodes[1], "00000000000000c1")
	identify(nodes[2], "00000000000000c1")
	if lost := read(0); fmt.Sprint(lost.Join) != "[127.0.0.1:6442 127.0.0.1:6443]" {
		t.Errorf("a node without data joins %v", lost.Join)
	}
}

func TestLeaderChangesAreToldOnce(t *testing.T) {
	names := map[string]string{"a": "n1", "b": "n2"}
	known := map[string]leadership{"main": {"a", 1}}
	for _, c := range []struct {
		claimed map[string]leadership
		want    string
	}{
		{map[string]leadership{"main": {"a", 1}}, "[]"},
		{map[string]leadership{}, "[]"},
		{map[string]leadership{"main": {"b", 2}}, "[main: n2 leads now (epoch 2).]"},
		{map[string]leadership{"main": {"a", 1}}, "[]"}, // An old leader that does not know yet.
		{map[string]leadership{"main": {"b", 3}}, "[]"},
		{map[string]leadership{"main": {"b", 3}, "shop": {"c", 1}}, "[shop: c leads now (epoch 1).]"},
	} {
		if got := fmt.Sprint(changes(known, c.claimed, names)); got != c.want {
			t.Errorf("%v: got %s, want %s", c.claimed, got, c.want)
		}
	}
}

func TestLogLines(t *testing.T) {
	var shown []string
	log, err := openLog(filepath.Join(t.TempDir(), "node.log"), func(l string) { shown = append(shown, l) })
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"time=1 level=INFO msg=a\ntime=2 lev", "el=ERROR msg=b\n", "panic: c\n", "rest"} {
		if _, err := log.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	log.flush()
	if fmt.Sprint(shown) != "[time=2 level=ERROR msg=b panic: c]" {
		t.Errorf("shown %q", shown)
	}
	if tail := log.tail(); len(tail) != 4 || tail[3] != "rest" {
		t.Errorf("tail %q", tail)
	}
	log.Write([]byte(strings.Repeat("x\n", 100)))
	if tail := log.tail(); len(tail) != lastLines {
		t.Errorf("%d lines kept", len(tail))
	}
	if err := log.close(); err != nil {
		t.Error(err)
	}
}

func TestListeningInode(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1541 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 111 1
   1: 0100007F:1542 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1000        0 222 1
   2: bad
`
	for port, want := range map[int]string{5441: "111", 5442: "", 5443: ""} {
		if got := listeningInode([]byte(table), port); got != want {
			t.Errorf("port %d: %q", port, got)
		}
	}
}

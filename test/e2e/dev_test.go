package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// portRun finds n free ports in a row.
func portRun(t *testing.T, n int) int {
	t.Helper()
	for range 200 {
		_, text, _ := net.SplitHostPort(freeAddress(t))
		first, _ := strconv.Atoi(text)
		good := true
		for port := first + 1; port < first+n && good; port++ {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if good = err == nil && !usedPorts[port]; err == nil {
				l.Close()
			}
		}
		if good {
			for port := first; port < first+n; port++ {
				usedPorts[port] = true
			}
			return first
		}
	}
	t.Fatal("no free ports in a row")
	return 0
}

// devNode finds in what dev has printed where psql may connect.
func devNode(t *testing.T, p *child) *node {
	t.Helper()
	eventually(t, patience, "dev says what to type", func() error {
		if !p.running() {
			t.Fatalf("dev has ended: %v\n%s", p.Err(), p.output)
		}
		if !strings.Contains(p.output.String(), "Ctrl-C stops all nodes") {
			return fmt.Errorf("so far: %s", p.output)
		}
		return nil
	})
	text := p.output.String()
	at := strings.Index(text, "psql -h ")
	var host, port string
	if at < 0 {
		t.Fatalf("no psql command in\n%s", text)
	}
	if _, err := fmt.Sscanf(text[at:], "psql -h %s -p %s main", &host, &port); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return &node{t: t, name: "n1", pg: net.JoinHostPort(host, port)}
}

// dev makes a cluster from nothing, says what to type, stops at Ctrl-C with all
// its processes, and goes on with the same data.
func TestDevAsAUser(t *testing.T) {
	full(t)
	tool(t, "psql")
	dir := filepath.Join(tempDir(t), "skein-data")
	pg, http, peer := portRun(t, 3), portRun(t, 3), portRun(t, 3)
	args := []string{"dev", "--dir", dir, "--port", fmt.Sprint(pg), "--http", fmt.Sprint(http), "--peer", fmt.Sprint(peer)}
	p := start(t, "dev", nil, args...)
	devNode(t, p).mustPsql("main", "create table t(x); insert into t values('kept');")
	out, errs, err := run("", nil, args...)
	if err == nil || !strings.Contains(errs, "already runs on this folder") {
		t.Errorf("a second dev on the folder: %v %s%s", err, out, errs)
	}
	taken := append([]string{}, args...)
	taken[2] = dir + "-other"
	if _, errs, err := run("", nil, taken...); err == nil || !strings.Contains(errs, fmt.Sprint(pg)) {
		t.Errorf("ports in use: %v %s; want the port's number", err, errs)
	} else {
		t.Logf("ports in use: %s", errs)
	}
	stopDev(t, p, pg)
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("the folder is gone: %v", err)
	}
	again := start(t, "dev again", nil, "dev", "--dir", dir)
	if got := devNode(t, again).mustPsql("main", "select x from t"); got != "kept" {
		t.Errorf("after the second start: %q", got)
	}
	stopDev(t, again, pg)
}

// stopDev is Ctrl-C; nothing may listen after it.
func stopDev(t *testing.T, p *child, pg int) {
	t.Helper()
	p.signal(syscall.SIGINT)
	if err := p.wait(t, patience); err != nil {
		t.Errorf("dev ended with %v", err)
	}
	if !strings.Contains(p.output.String(), "All nodes have stopped") || strings.Contains(p.output.String(), "killing it") {
		t.Errorf("dev did not stop its nodes in order:\n%s", p.output)
	}
	for port := pg; port < pg+3; port++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Errorf("port %d is still in use: %v", port, err)
			continue
		}
		l.Close()
	}
}

// dev restarts a node that was killed, and another leads meanwhile.
func TestDevRestartsAKilledNode(t *testing.T) {
	full(t)
	tool(t, "psql")
	dir := filepath.Join(tempDir(t), "skein-data")
	p := start(t, "dev", nil, "dev", "--dir", dir, "--port", fmt.Sprint(portRun(t, 3)), "--http", fmt.Sprint(portRun(t, 3)), "--peer", fmt.Sprint(portRun(t, 3)))
	n := devNode(t, p)
	n.mustPsql("main", "create table t(x);")
	text := p.output.String()
	var pid int
	if _, err := fmt.Sscanf(text[strings.Index(text, "kill -9 "):], "kill -9 %d", &pid); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "dev tells", func() error {
		now := p.output.String()[len(text):]
		for _, want := range []string{"was killed", "started again", "leads now"} {
			if !strings.Contains(now, want) {
				return fmt.Errorf("no %q in %q", want, now)
			}
		}
		return nil
	})
	t.Logf("%s", p.output.String()[len(text):])
	eventually(t, patience, "a write after the kill", func() error { _, err := n.psql("main", "insert into t values(1)"); return err })
	p.signal(syscall.SIGINT)
	if err := p.wait(t, patience); err != nil {
		t.Errorf("dev ended with %v", err)
	}
}

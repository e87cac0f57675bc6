package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skeindb/skein/test/process"
)

// child is one run of the program.
type child struct {
	*process.Process
	output *process.Output
}

// start runs the program as a child that dies with the test binary. The test
// kills it at its end and shows what it printed if the test failed.
func start(t *testing.T, name string, env []string, args ...string) *child {
	t.Helper()
	p := &child{output: &process.Output{}}
	cmd := exec.Command(binary, args...)
	cmd.Env = process.Environment(env...)
	var err error
	if p.Process, err = process.Start(cmd, process.Options{Name: name, Output: p.output}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("--- %s (pid %d) printed:\n%s", p.Name, p.PID, tail(p.output.String(), 12000))
		}
	})
	return p
}

func tail(s string, n int) string { return process.Tail(s, n) }

func (p *child) signal(s syscall.Signal) { p.Signal(s) }
func (p *child) running() bool           { return p.Running() }
func (p *child) kill()                   { p.Kill() }

// wait waits for an end of its own.
func (p *child) wait(t *testing.T, within time.Duration) error {
	t.Helper()
	if !p.Wait(within) {
		t.Fatalf("%s (pid %d) still runs after %v", p.Name, p.PID, within)
	}
	return p.Err()
}

// stop asks the process to end in order.
func (p *child) stop(t *testing.T) {
	t.Helper()
	p.signal(syscall.SIGTERM)
	if err := p.wait(t, patience); err != nil {
		t.Fatalf("%s did not stop in order: %v\n%s", p.Name, err, tail(p.output.String(), 4000))
	}
}

// residentBytes is the process's memory.
func (p *child) residentBytes(t *testing.T) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// says waits until the process has printed something.
func (p *child) says(t *testing.T, part string) {
	t.Helper()
	eventually(t, patience, p.Name+" prints "+part, func() error {
		if out := p.output.String(); !strings.Contains(out, part) {
			return fmt.Errorf("printed was:\n%s", tail(out, 4000))
		}
		return nil
	})
}

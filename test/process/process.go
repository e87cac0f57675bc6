// Package process runs programs for tests: children that die with the test,
// that are signalled by their pid alone, and whose end is always waited for.
//
// It knows nothing of Skein. Whoever starts a process stops it; one goroutine
// waits for each.
package process

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a child that was started.
type Process struct {
	Name string
	PID  int

	ended chan struct{} // closed when the process is gone
	err   error         // how it ended, set before ended is closed
}

// Options of Start.
type Options struct {
	Name   string
	Output io.Writer // of both its streams
	// Enter, if given, runs in the thread that the process is started from,
	// which inherits what it did: a network namespace.
	Enter func() error
}

// Start starts a command in a process group of its own.
func Start(cmd *exec.Cmd, o Options) (*Process, error) {
	p := &Process{Name: o.Name, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = o.Output, o.Output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		// The death signal is sent when the thread that started the child ends,
		// and the thread may be in another namespace: it serves nobody else.
		runtime.LockOSThread()
		var err error
		if o.Enter != nil {
			err = o.Enter()
		}
		if err == nil {
			err = cmd.Start()
		}
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Name, err)
	}
	p.PID = cmd.Process.Pid
	return p, nil
}

// Ended is a process that has ended already, for who has none yet.
func Ended(name string) *Process {
	p := &Process{Name: name, ended: make(chan struct{})}
	close(p.ended)
	return p
}

// Running says whether the process is not gone.
func (p *Process) Running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// Err is how the process ended, nil while it runs.
func (p *Process) Err() error {
	if p.Running() {
		return nil
	}
	return p.err
}

// Signal signals the process, if it runs.
func (p *Process) Signal(s syscall.Signal) {
	if p.Running() {
		_ = syscall.Kill(p.PID, s) // A process that has just ended needs none.
	}
}

// Kill ends the process at once, also a frozen one, and waits until it is gone.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.ended
}

// Wait waits for an end of the process's own and says whether it came in time.
func (p *Process) Wait(within time.Duration) bool {
	select {
	case <-p.ended:
		return true
	case <-time.After(within):
		return false
	}
}

// Environment is that of the test without the variables of Skein and of
// PostgreSQL's clients, and with some more.
func Environment(extra ...string) []string {
	var kept []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "SKEIN_") && !strings.HasPrefix(v, "PG") {
			kept = append(kept, v)
		}
	}
	return append(kept, extra...)
}

// Output collects what a process prints; it may be read at any time.
type Output struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

// Write implements io.Writer.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

// String returns all that was printed so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Tail is the end of a text, of n bytes at most.
func Tail(s string, n int) string {
	if len(s) > n {
		return "..." + s[len(s)-n:]
	}
	return s
}

// Build builds the program under test into a folder, with a clock that tests
// may set wrong, unless the variable SKEIN_E2E_BINARY names one.
func Build(dir string) (string, error) {
	if binary := os.Getenv("SKEIN_E2E_BINARY"); binary != "" {
		return binary, nil
	}
	binary := dir + "/skein"
	build := exec.Command("go", "build", "-tags", "wrongclock", "-o", binary, "github.com/skeindb/skein/cmd/skein")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build skein: %w\n%s", err, out)
	}
	return binary, nil
}

package devcluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
)

// maxLogFile is when a log is set aside at the start of a run; one older log
// is kept.
const maxLogFile = 16 << 20

// process is one run of one node. Its end is an event of the cluster's loop.
type process struct {
	pid int
	log *logWriter
}

// start runs a command as a child that dies with this process. ended is called
// once, on a goroutine of its own, when the child has ended; wait counts that
// goroutine.
func start(cmd *exec.Cmd, log *logWriter, wait *sync.WaitGroup, ended func(err error)) (*process, error) {
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// Ctrl-C at the terminal reaches this process alone, which stops the
		// children in order.
		Setpgid:   true,
		Pdeathsig: syscall.SIGKILL,
	}
	started := make(chan error, 1)
	wait.Go(func() {
		// The kernel sends the death signal when the thread that started the
		// child ends, so this goroutine keeps its thread until the child is gone.
		runtime.LockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		err := cmd.Wait()
		log.flush()
		ended(err)
	})
	if err := <-started; err != nil {
		return nil, err
	}
	return &process{pid: cmd.Process.Pid, log: log}, nil
}

// signal sends a signal; a process that has ended needs none.
func (p *process) signal(s syscall.Signal) { _ = syscall.Kill(p.pid, s) }

// reason says how a process ended.
func reason(err error) string {
	if err == nil {
		return "ended by itself"
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return fmt.Sprintf("was killed (signal %d, %s)", status.Signal(), status.Signal())
		}
		return fmt.Sprintf("failed (exit status %d)", exit.ExitCode())
	}
	return "failed: " + err.Error()
}

// logWriter copies a child's output to its file, line by line, keeps the last
// lines, and hands on those that a person should see.
type logWriter struct {
	file io.WriteCloser
	show func(line string) // called with lines of level ERROR

	mu      sync.Mutex // guards what follows; show is called without it
	partial []byte
	last    []string
}

const (
	lastLines   = 12
	maxLogLine  = 64 << 10
	maxShowLine = 400
)

// openLog opens a node's log for appending, and sets a large one aside.
func openLog(name string, show func(string)) (*logWriter, error) {
	if st, err := os.Stat(name); err == nil && st.Size() > maxLogFile {
		if err := os.Rename(name, name+".1"); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return &logWriter{file: f, show: show}, nil
}

// Write implements io.Writer.
func (w *logWriter) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	for _, line := range w.lines(p) {
		if strings.Contains(line, "level=ERROR") || strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") {
			w.show(line[:min(len(line), maxShowLine)])
		}
	}
	return n, err
}

// lines takes p in and returns the lines that it completes.
func (w *logWriter) lines(p []byte) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.partial = append(w.partial, p...)
	var complete []string
	for {
		end := bytes.IndexByte(w.partial, '\n')
		if end < 0 && len(w.partial) < maxLogLine {
			break
		}
		if end < 0 {
			end = len(w.partial) - 1
		}
		complete = append(complete, strings.TrimRight(string(w.partial[:end+1]), "\r\n"))
		w.partial = w.partial[end+1:]
	}
	w.keep(complete)
	return complete
}

// keep remembers the last lines. mu is held.
func (w *logWriter) keep(lines []string) {
	w.last = append(w.last, lines...)
	if extra := len(w.last) - lastLines; extra > 0 {
		w.last = append([]string(nil), w.last[extra:]...)
	}
}

// flush takes an unfinished last line for a whole one.
func (w *logWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.partial) > 0 {
		w.keep([]string{string(w.partial)})
		w.partial = nil
	}
}

// tail returns the last lines.
func (w *logWriter) tail() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.last...)
}

func (w *logWriter) close() error { return w.file.Close() }

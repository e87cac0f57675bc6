package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a server that the bench has started.
type process struct {
	cmd   *exec.Cmd
	log   *os.File
	ended chan struct{}
	err   error // of Wait; set before ended is closed
}

// start runs a command with its output in a file, and waits for its end in the
// background.
func start(cmd *exec.Cmd, log string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = f, f
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL // Nothing outlives a bench that is killed.
	p := &process{cmd: cmd, log: f, ended: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The death signal comes when the thread that started the process ends:
		// this one serves nobody else, and ends with the process.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", cmd.Path, err), f.Close())
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) alive() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// kill ends the process as a power cut would, for it.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.ended
	p.log.Close()
}

// stop asks the process to end and kills it when it does not.
func (p *process) stop(s syscall.Signal) {
	p.signal(s)
	select {
	case <-p.ended:
	case <-time.After(15 * time.Second):
		p.signal(syscall.SIGKILL)
		<-p.ended
	}
	p.log.Close()
}

// signal may come too late, which is no harm.
func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// tail is the end of the process's log, for errors.
func (p *process) tail() string {
	b, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-8):], "\n")
}

// usage is what a set of processes has used of the machine so far.
type usage struct {
	CPU time.Duration // user and system time
}

func (u usage) minus(v usage) usage { return usage{u.CPU - v.CPU} }

// clockTick is sysconf(_SC_CLK_TCK), which Linux fixes at 100 for user space.
const clockTick = 10 * time.Millisecond

// usageOf adds up processes and all their children, those that have ended
// included.
func usageOf(pids ...int) (usage, error) {
	var sum usage
	for _, pid := range pids {
		u, err := usageOfTree(pid)
		if err != nil {
			return sum, err
		}
		sum.CPU += u.CPU
	}
	return sum, nil
}

func usageOfTree(pid int) (usage, error) {
	stat, err := readStat(pid)
	if err != nil {
		return usage{}, err
	}
	u := usage{CPU: stat.own + stat.ended}
	children, err := childrenOf(pid)
	if err != nil {
		return u, err
	}
	for _, child := range children {
		c, err := usageOfTree(child)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // It ended just now.
		}
		if err != nil {
			return u, err
		}
		u.CPU += c.CPU
	}
	return u, nil
}

type stat struct {
	parent     int
	own, ended time.Duration // of the process, and of its children that were waited for
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	// The name, in brackets, may hold anything; the fields count from behind it.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 16 {
		return stat{}, fmt.Errorf("/proc/%d/stat is not understood", pid)
	}
	ticks := func(i int) time.Duration {
		n, _ := strconv.ParseInt(fields[i], 10, 64)
		return time.Duration(n) * clockTick
	}
	parent, err := strconv.Atoi(fields[1])
	return stat{parent: parent, own: ticks(11) + ticks(12), ended: ticks(13) + ticks(14)}, err
}

// childrenOf looks through all processes: not every kernel lists children.
func childrenOf(pid int) ([]int, error) {
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var children []int
	for _, name := range names {
		id, err := strconv.Atoi(filepath.Base(name))
		if err != nil {
			continue
		}
		if s, err := readStat(id); err == nil && s.parent == pid {
			children = append(children, id)
		}
	}
	return children, nil
}

// memory of one process, in bytes.
type memory struct{ RSS, PSS int64 }

func memoryOf(pid int) memory {
	name := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	return memory{RSS: 1024 * procField(name, "Rss:"), PSS: 1024 * procField(name, "Pss:")}
}

func procField(name, field string) int64 {
	b, err := os.ReadFile(name)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n
		}
	}
	return 0
}

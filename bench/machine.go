package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func cpuModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(b))
	if err != nil || len(fields) < 3 {
		return "unknown"
	}
	return strings.Join(fields[:3], " ")
}

// flushTime is how long the disk takes for a write of one page that is on it
// when the call returns: the floor under every commit.
func flushTime(dir string) time.Duration {
	f, err := os.Create(filepath.Join(dir, "flush"))
	if err != nil {
		return 0
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page := make([]byte, 4096)
	var times []time.Duration
	for range 64 {
		begin := time.Now()
		if _, err := f.WriteAt(page, 0); err != nil {
			return 0
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0
		}
		times = append(times, time.Since(begin))
	}
	slices.Sort(times)
	return quantile(times, 0.5)
}

// sectorsWritten is how many bytes the disk below dir has been given so far, by
// every process of the machine. What a process is charged with when it dirties
// a page says little: a page is dirtied often before it is written once.
func sectorsWritten(dir string) int64 {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return 0
	}
	b, err := os.ReadFile("/proc/diskstats")
	if err != nil {
		return 0
	}
	device := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) > 9 && fields[0]+":"+fields[1] == device {
			n, _ := strconv.ParseInt(fields[9], 10, 64)
			return n * 512
		}
	}
	return 0
}

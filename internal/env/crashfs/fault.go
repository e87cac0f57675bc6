package crashfs

import (
	"sync/atomic"
)

// Op is a kind of call.
type Op string

// The calls that are counted and can be failed. Close, and Free, which only
// asks, are not among them.
const (
	OpOpen     Op = "open"
	OpRead     Op = "read"
	OpWrite    Op = "write"
	OpSync     Op = "sync"
	OpTruncate Op = "truncate"
	OpAllocate Op = "allocate"
	OpRemove   Op = "remove"
	OpRename   Op = "rename"
	OpMkdir    Op = "mkdir"
	OpReadDir  Op = "readdir"
	OpStat     Op = "stat"
	OpSyncDir  Op = "syncdir"
)

// Changes says whether a call of this kind changes the disk or makes it
// durable.
func (o Op) Changes() bool {
	switch o {
	case OpRead, OpReadDir, OpStat:
		return false
	}
	return true
}

// Call is one call of the disk.
type Call struct {
	N      int // counted from 1
	Op     Op
	Name   string
	To     string // of a rename
	Offset int64  // of a read or write; the size, of truncate and allocate
	Size   int
}

// Inject sets a function that sees each call before it is made. An error that
// it returns fails the call; see WriteAt and Sync for what a failed one still
// does. It runs without the disk's lock, so it may use the disk, or block. nil
// removes it.
func (d *Disk) Inject(f func(Call) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
}

// FailNth returns a function for Inject that fails the n-th call, counted from
// 1, that matches, once, and says through the pointer whether it has.
func FailNth(n int, err error, matches func(Call) bool) (inject func(Call) error, fired *atomic.Bool) {
	fired = new(atomic.Bool)
	var seen atomic.Int64
	return func(c Call) error {
		if matches != nil && !matches(c) {
			return nil
		}
		if seen.Add(1) != int64(n) {
			return nil
		}
		fired.Store(true)
		return err
	}, fired
}

// Calls returns how many calls there were.
func (d *Disk) Calls() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls
}

// call counts a call and asks the fault function.
func (d *Disk) call(c Call) error {
	d.mu.Lock()
	d.calls++
	c.N = d.calls
	fault := d.fault
	d.mu.Unlock()
	if fault == nil {
		return nil
	}
	return fault(c)
}

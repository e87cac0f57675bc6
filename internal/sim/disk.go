package sim

import (
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/env/crashfs"
	"github.com/skeindb/skein/internal/sqlite/diskvfs"
)

// engineFiles is the name of the SQL engine's file system that finds the disks
// of all nodes of this process.
const engineFiles = "sim"

// mounts are the disks by the first part of a path: the life of a node.
var mounts struct {
	once sync.Once
	mu   sync.Mutex // guards disks
	disk map[string]*disk
}

func mount(prefix string, d *disk) {
	mounts.once.Do(func() {
		mounts.disk = make(map[string]*disk)
		diskvfs.Register(engineFiles, shared, func(path string) env.FS {
			prefix, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
			mounts.mu.Lock()
			defer mounts.mu.Unlock()
			if d := mounts.disk[prefix]; d != nil {
				return d
			}
			return nil
		})
	})
	mounts.mu.Lock()
	defer mounts.mu.Unlock()
	mounts.disk[prefix] = d
}

func unmount(prefix string) {
	mounts.mu.Lock()
	defer mounts.mu.Unlock()
	delete(mounts.disk, prefix)
}

// disk is a node's disk as one life of the node sees it: slow, sometimes
// failing, still while the node is paused. Names begin with the life's prefix,
// which is not on the platter.
type disk struct {
	*crashfs.Disk
	prefix  string
	gate    *gate
	latency func(name string) time.Duration // of a sync
	sleep   func(time.Duration)
}

func (d *disk) name(path string) string { return strings.TrimPrefix(path, "/"+d.prefix) }

// failSync makes the next sync fail, of whatever file it is. What it was to make
// durable is then durable or not, and no later sync makes it so.
func (d *disk) failSync() {
	var done atomic.Bool
	d.Inject(func(c crashfs.Call) error {
		if (c.Op == crashfs.OpSync || c.Op == crashfs.OpSyncDir) && done.CompareAndSwap(false, true) {
			return syscall.EIO
		}
		return nil
	})
}

// slow is the cost of a sync.
func (d *disk) slow(name string) {
	d.gate.pass()
	d.sleep(d.latency(name))
	d.gate.pass()
}

// OpenFile implements env.FS.
func (d *disk) OpenFile(name string, flag int, perm fs.FileMode) (env.File, error) {
	d.gate.pass()
	f, err := d.Disk.OpenFile(d.name(name), flag, perm)
	if err != nil {
		return nil, err
	}
	return &file{File: f, disk: d, name: d.name(name)}, nil
}

// ReadFile implements env.FS.
func (d *disk) ReadFile(name string) ([]byte, error) { return d.Disk.ReadFile(d.name(name)) }

// Remove implements env.FS.
func (d *disk) Remove(name string) error {
	d.gate.pass()
	return d.Disk.Remove(d.name(name))
}

// RemoveAll implements env.FS.
func (d *disk) RemoveAll(name string) error {
	d.gate.pass()
	return d.Disk.RemoveAll(d.name(name))
}

// Rename implements env.FS.
func (d *disk) Rename(from, to string) error {
	d.gate.pass()
	return d.Disk.Rename(d.name(from), d.name(to))
}

// MkdirAll implements env.FS.
func (d *disk) MkdirAll(name string, perm fs.FileMode) error {
	d.gate.pass()
	return d.Disk.MkdirAll(d.name(name), perm)
}

// ReadDir implements env.FS.
func (d *disk) ReadDir(name string) ([]fs.DirEntry, error) { return d.Disk.ReadDir(d.name(name)) }

// Stat implements env.FS.
func (d *disk) Stat(name string) (fs.FileInfo, error) { return d.Disk.Stat(d.name(name)) }

// SyncDir implements env.FS.
func (d *disk) SyncDir(name string) error {
	d.slow(d.name(name))
	return d.Disk.SyncDir(d.name(name))
}

// Free implements env.FS.
func (d *disk) Free(name string) (int64, error) { return d.Disk.Free(d.name(name)) }

type file struct {
	env.File
	name string
	disk *disk
}

// WriteAt implements io.WriterAt.
func (f *file) WriteAt(p []byte, offset int64) (int, error) {
	f.disk.gate.pass()
	return f.File.WriteAt(p, offset)
}

// Truncate implements env.File.
func (f *file) Truncate(size int64) error {
	f.disk.gate.pass()
	return f.File.Truncate(size)
}

// Sync implements env.File.
func (f *file) Sync() error {
	f.disk.slow(f.name)
	return f.File.Sync()
}

package crashfs

import (
	"cmp"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/skeindb/skein/internal/env"
)

// OpenFile opens or makes a file. Of the flags it heeds O_CREATE, O_EXCL and
// O_TRUNC, and O_RDONLY in that such a file refuses writes.
func (d *Disk) OpenFile(name string, flag int, _ fs.FileMode) (env.File, error) {
	if err := d.call(Call{Op: OpOpen, Name: name}); err != nil {
		return nil, failure("open", name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.open(name, flag)
	if err != nil {
		return nil, failure("open", name, err)
	}
	writable := flag&(os.O_WRONLY|os.O_RDWR) != 0
	return &file{disk: d, node: n, name: name, boot: d.boot, writable: writable}, nil
}

func (d *Disk) open(name string, flag int) (*node, error) {
	parent, last, err := d.parent(name)
	if err != nil {
		return nil, err
	}
	n, ok := parent.entries[last]
	switch {
	case ok && flag&(os.O_CREATE|os.O_EXCL) == os.O_CREATE|os.O_EXCL:
		return nil, fs.ErrExist
	case ok && n.dir:
		return nil, syscall.EISDIR
	case !ok && flag&os.O_CREATE == 0:
		return nil, fs.ErrNotExist
	case !ok:
		n = d.newNode(false)
		parent.change(entryChange{added: last, node: n})
	case flag&os.O_TRUNC != 0:
		n.resize(0)
	}
	return n, nil
}

// ReadFile returns what a program sees of a file.
func (d *Disk) ReadFile(name string) ([]byte, error) {
	if err := d.call(Call{Op: OpRead, Name: name}); err != nil {
		return nil, failure("read", name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.lookup(name)
	if err == nil && n.dir {
		err = syscall.EISDIR
	}
	if err != nil {
		return nil, failure("read", name, err)
	}
	return slices.Clone(n.data), nil
}

// Remove removes a file or an empty directory.
func (d *Disk) Remove(name string) error {
	if err := d.call(Call{Op: OpRemove, Name: name}); err != nil {
		return failure("remove", name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	parent, last, err := d.parent(name)
	if err != nil {
		return failure("remove", name, err)
	}
	n, ok := parent.entries[last]
	if !ok {
		return failure("remove", name, fs.ErrNotExist)
	}
	if n.dir && len(n.entries) > 0 {
		return failure("remove", name, syscall.ENOTEMPTY)
	}
	parent.change(entryChange{removed: last})
	return nil
}

// RemoveAll removes a name and what is below it; it need not exist. The whole
// removal is one change of the directory that holds it.
func (d *Disk) RemoveAll(name string) error {
	if err := d.call(Call{Op: OpRemove, Name: name}); err != nil {
		return failure("remove", name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	parent, last, err := d.parent(name)
	if err == nil && parent.entries[last] != nil {
		parent.change(entryChange{removed: last})
	}
	return nil
}

// Rename moves a file, replacing what has the new name.
func (d *Disk) Rename(from, to string) error {
	if err := d.call(Call{Op: OpRename, Name: from, To: to}); err != nil {
		return failure("rename", from, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	source, oldName, err := d.parent(from)
	if err != nil {
		return failure("rename", from, err)
	}
	target, newName, err := d.parent(to)
	if err != nil {
		return failure("rename", to, err)
	}
	n, ok := source.entries[oldName]
	if !ok {
		return failure("rename", from, fs.ErrNotExist)
	}
	if old := target.entries[newName]; old != nil && old.dir {
		return failure("rename", to, syscall.EISDIR)
	}
	if source == target {
		source.change(entryChange{removed: oldName, added: newName, node: n})
		return nil
	}
	source.change(entryChange{removed: oldName})
	target.change(entryChange{added: newName, node: n})
	return nil
}

// MkdirAll makes a directory and those above it.
func (d *Disk) MkdirAll(name string, _ fs.FileMode) error {
	if err := d.call(Call{Op: OpMkdir, Name: name}); err != nil {
		return failure("mkdir", name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.root
	for _, part := range split(name) {
		next, ok := n.entries[part]
		if !ok {
			next = d.newNode(true)
			n.change(entryChange{added: part, node: next})
		}
		if !next.dir {
			return failure("mkdir", name, syscall.ENOTDIR)
		}
		n = next
	}
	return nil
}

// SyncDir makes the changes of a directory durable.
func (d *Disk) SyncDir(name string) error {
	if err := d.call(Call{Op: OpSyncDir, Name: name}); err != nil {
		return failure("sync", name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.lookup(name)
	if err == nil && !n.dir {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return failure("sync", name, err)
	}
	for _, c := range n.pendingEntries {
		applyEntry(n.durableEntries, c)
	}
	n.pendingEntries = nil
	return nil
}

// Free returns the room that is left.
func (d *Disk) Free(name string) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.lookup(name); err != nil {
		return 0, failure("statfs", name, err)
	}
	return d.room(), nil
}

// ReadDir lists a directory, sorted by name.
func (d *Disk) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := d.call(Call{Op: OpReadDir, Name: name}); err != nil {
		return nil, failure("readdir", name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.lookup(name)
	if err == nil && !n.dir {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return nil, failure("readdir", name, err)
	}
	list := make([]fs.DirEntry, 0, len(n.entries))
	for child, m := range n.entries {
		list = append(list, fs.FileInfoToDirEntry(m.info(child)))
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return list, nil
}

// Stat describes a file.
func (d *Disk) Stat(name string) (fs.FileInfo, error) {
	if err := d.call(Call{Op: OpStat, Name: name}); err != nil {
		return nil, failure("stat", name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.lookup(name)
	if err != nil {
		return nil, failure("stat", name, err)
	}
	return n.info(path.Base(strings.TrimRight(name, "/"))), nil
}

func (n *node) info(name string) fs.FileInfo {
	return info{name: name, size: int64(len(n.data)), dir: n.dir}
}

// info describes a node; this disk keeps no times.
type info struct {
	name string
	size int64
	dir  bool
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.dir }
func (i info) Sys() any           { return nil }

func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o700
	}
	return 0o600
}

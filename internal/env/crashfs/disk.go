package crashfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/skeindb/skein/internal/env"
)

// ErrCrashed is what a file handle of before a crash gives afterwards.
var ErrCrashed = errors.New("the disk has crashed since this file was opened")

// SectorSize is the unit that a crash keeps or loses as one.
const SectorSize = 512

// Disk is a file system in memory. The zero Disk is not usable; see New.
type Disk struct {
	mu       sync.Mutex // guards everything below, and all nodes
	root     *node
	boot     int   // how many crashes there were; handles of older ones are dead
	capacity int64 // 0: without bound
	calls    int
	fault    func(Call) error
	nextID   uint64
}

var _ env.FS = (*Disk)(nil)

// New returns an empty disk.
func New() *Disk {
	d := &Disk{}
	d.root = d.newNode(true)
	return d
}

// node is a file or a directory.
type node struct {
	id  uint64
	dir bool

	// Of a file: what programs see, what is on the platter, and the changes
	// that are between the two.
	data      []byte
	durable   []byte
	pending   []change
	allocated int64

	// Of a directory: the same three.
	entries        map[string]*node
	durableEntries map[string]*node
	pendingEntries []entryChange
}

// change is one unsynced change of a file: a write, or with resize a change
// of its size alone.
type change struct {
	offset int64
	data   []byte
	resize bool
	size   int64 // of the file after the change
}

// entryChange is one unsynced change of a directory: removed goes, added comes.
type entryChange struct {
	removed string
	added   string
	node    *node
}

func (d *Disk) newNode(dir bool) *node {
	d.nextID++
	n := &node{id: d.nextID, dir: dir}
	if dir {
		n.entries, n.durableEntries = map[string]*node{}, map[string]*node{}
	}
	return n
}

func (n *node) change(c entryChange) {
	n.pendingEntries = append(n.pendingEntries, c)
	applyEntry(n.entries, c)
}

func applyEntry(m map[string]*node, c entryChange) {
	if c.removed != "" {
		delete(m, c.removed)
	}
	if c.added != "" {
		m[c.added] = c.node
	}
}

func split(name string) []string {
	clean := strings.Trim(path.Clean("/"+name), "/")
	if clean == "" {
		return nil
	}
	return strings.Split(clean, "/")
}

func failure(op, name string, err error) error { return &fs.PathError{Op: op, Path: name, Err: err} }

// lookup returns the node of a name.
func (d *Disk) lookup(name string) (*node, error) {
	n := d.root
	for _, part := range split(name) {
		if !n.dir {
			return nil, syscall.ENOTDIR
		}
		next, ok := n.entries[part]
		if !ok {
			return nil, fs.ErrNotExist
		}
		n = next
	}
	return n, nil
}

// parent returns the directory that holds name, and the last part of name.
func (d *Disk) parent(name string) (*node, string, error) {
	parts := split(name)
	if len(parts) == 0 {
		return nil, "", fs.ErrInvalid
	}
	n, err := d.lookup(strings.Join(parts[:len(parts)-1], "/"))
	if err != nil {
		return nil, "", err
	}
	if !n.dir {
		return nil, "", syscall.ENOTDIR
	}
	return n, parts[len(parts)-1], nil
}

// used returns how much room the files take.
func (d *Disk) used() int64 {
	var total int64
	seen := map[*node]bool{}
	var walk func(*node)
	walk = func(n *node) {
		if seen[n] {
			return
		}
		seen[n] = true
		total += max(int64(len(n.data)), n.allocated)
		for _, child := range n.entries {
			walk(child)
		}
	}
	walk(d.root)
	return total
}

// room says by how much the files may grow.
func (d *Disk) room() int64 {
	if d.capacity == 0 {
		return 1 << 40
	}
	return max(0, d.capacity-d.used())
}

// SetCapacity bounds the sum of the files' sizes; 0 means no bound.
func (d *Disk) SetCapacity(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.capacity = bytes
}

// Used returns the sum of the files' sizes.
func (d *Disk) Used() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.used()
}

// Damage changes stored bytes behind every program's back, in both images:
// each byte from offset on is combined by exclusive or with that of mask.
func (d *Disk) Damage(name string, offset int64, mask ...byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.lookup(name)
	if err != nil || n.dir || offset < 0 {
		return failure("damage", name, fs.ErrInvalid)
	}
	for i, m := range mask {
		at := offset + int64(i)
		if at < int64(len(n.data)) {
			n.data[at] ^= m
		}
		if at < int64(len(n.durable)) {
			n.durable[at] ^= m
		}
	}
	return nil
}

// Files returns the names of all files, sorted.
func (d *Disk) Files() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	var walk func(prefix string, n *node)
	walk = func(prefix string, n *node) {
		for name, child := range n.entries {
			if child.dir {
				walk(prefix+"/"+name, child)
			} else {
				names = append(names, prefix+"/"+name)
			}
		}
	}
	walk("", d.root)
	slices.Sort(names)
	return names
}

// String says how much the disk holds.
func (d *Disk) String() string {
	return fmt.Sprintf("crashfs: %d files, %d bytes", len(d.Files()), d.Used())
}

package crashfs

import (
	"errors"
	"io"
	"io/fs"
	"slices"
	"sync/atomic"
	"syscall"
)

// file is an open file.
type file struct {
	disk     *Disk
	node     *node
	name     string
	boot     int
	writable bool
	closed   atomic.Bool
}

// begin counts a call and takes the disk's lock unless it fails.
func (f *file) begin(c Call) error {
	if f.closed.Load() {
		return failure(string(c.Op), f.name, fs.ErrClosed)
	}
	c.Name = f.name
	if err := f.disk.call(c); err != nil {
		return failure(string(c.Op), f.name, err)
	}
	f.disk.mu.Lock()
	if f.boot != f.disk.boot {
		f.disk.mu.Unlock()
		return failure(string(c.Op), f.name, ErrCrashed)
	}
	return nil
}

// ReadAt reads what programs see.
func (f *file) ReadAt(p []byte, offset int64) (int, error) {
	if err := f.begin(Call{Op: OpRead, Offset: offset, Size: len(p)}); err != nil {
		return 0, err
	}
	defer f.disk.mu.Unlock()
	if offset < 0 {
		return 0, failure("read", f.name, fs.ErrInvalid)
	}
	if offset >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.node.data[offset:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt writes where programs see it. A write that a fault fails writes a
// part of p first, as a real one may; so does one that finds the disk full.
func (f *file) WriteAt(p []byte, offset int64) (int, error) {
	c := Call{Op: OpWrite, Offset: offset, Size: len(p)}
	if err := f.begin(c); err != nil {
		return f.writePart(p, offset, err)
	}
	defer f.disk.mu.Unlock()
	if !f.writable || offset < 0 {
		return 0, failure("write", f.name, fs.ErrInvalid)
	}
	n := f.fits(offset, len(p))
	f.node.write(p[:n], offset)
	if n < len(p) {
		return n, failure("write", f.name, syscall.ENOSPC)
	}
	return n, nil
}

// fits says how much of a write of size bytes at offset the disk has room for.
func (f *file) fits(offset int64, size int) int {
	if f.disk.capacity == 0 {
		return size
	}
	have := max(int64(len(f.node.data)), f.node.allocated)
	end := offset + int64(size)
	if end <= have {
		return size
	}
	return int(max(0, min(end, have+f.disk.room())-offset))
}

// writePart is what a failed write leaves behind: half of it.
func (f *file) writePart(p []byte, offset int64, err error) (int, error) {
	if errors.Is(err, ErrCrashed) || errors.Is(err, fs.ErrClosed) || !f.writable || offset < 0 {
		return 0, err
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.boot != f.disk.boot {
		return 0, err
	}
	n := f.fits(offset, len(p)/2)
	f.node.write(p[:n], offset)
	return n, err
}

// Sync makes the file durable. A sync that a fault fails loses dirty pages:
// some of them reach the platter, no later sync writes the others, and
// programs go on seeing all of them until a crash.
func (f *file) Sync() error {
	if err := f.begin(Call{Op: OpSync}); err != nil {
		if errors.Is(err, ErrCrashed) || errors.Is(err, fs.ErrClosed) {
			return err
		}
		f.disk.mu.Lock()
		defer f.disk.mu.Unlock()
		f.node.settle(uint64(f.disk.calls))
		return err
	}
	defer f.disk.mu.Unlock()
	for _, c := range f.node.pending {
		f.node.durable = c.apply(f.node.durable)
	}
	f.node.pending = nil
	return nil
}

// Truncate sets the size.
func (f *file) Truncate(size int64) error {
	if err := f.begin(Call{Op: OpTruncate, Offset: size}); err != nil {
		return err
	}
	defer f.disk.mu.Unlock()
	if !f.writable || size < 0 {
		return failure("truncate", f.name, fs.ErrInvalid)
	}
	if f.fits(0, int(size)) < int(size) {
		return failure("truncate", f.name, syscall.ENOSPC)
	}
	f.node.allocated = min(f.node.allocated, size)
	f.node.resize(size)
	return nil
}

// Allocate reserves room and grows the file to size when it is smaller.
func (f *file) Allocate(size int64) error {
	if err := f.begin(Call{Op: OpAllocate, Offset: size}); err != nil {
		return err
	}
	defer f.disk.mu.Unlock()
	if !f.writable || size < 0 {
		return failure("allocate", f.name, fs.ErrInvalid)
	}
	if f.fits(0, int(size)) < int(size) {
		return failure("allocate", f.name, syscall.ENOSPC)
	}
	f.node.allocated = max(f.node.allocated, size)
	if size > int64(len(f.node.data)) {
		f.node.resize(size)
	}
	return nil
}

// Size returns the size.
func (f *file) Size() (int64, error) {
	if err := f.begin(Call{Op: OpStat}); err != nil {
		return 0, err
	}
	defer f.disk.mu.Unlock()
	return int64(len(f.node.data)), nil
}

// Close ends the handle; it never fails but for a second time.
func (f *file) Close() error {
	if f.closed.Swap(true) {
		return failure("close", f.name, fs.ErrClosed)
	}
	return nil
}

func (n *node) write(p []byte, offset int64) {
	if len(p) == 0 {
		return
	}
	size := max(int64(len(n.data)), offset+int64(len(p)))
	n.record(change{offset: offset, data: slices.Clone(p), size: size})
}

func (n *node) resize(size int64) {
	n.record(change{resize: true, size: size})
}

func (n *node) record(c change) {
	n.pending = append(n.pending, c)
	n.data = c.apply(n.data)
}

// apply makes the change to an image and returns it. An image that a crash has
// left shorter than the change expects is grown with zeros.
func (c change) apply(image []byte) []byte {
	if c.resize {
		return sized(image, c.size, 0)
	}
	if end := c.offset + int64(len(c.data)); end > int64(len(image)) {
		image = sized(image, end, min(end, 1<<20))
	}
	copy(image[c.offset:], c.data)
	return image
}

// sized cuts an image or grows it with zeros, with room for some more.
func sized(image []byte, size, more int64) []byte {
	if size <= int64(len(image)) {
		return image[:size:size]
	}
	if size <= int64(cap(image)) {
		grown := image[:size]
		clear(grown[len(image):])
		return grown
	}
	grown := make([]byte, size, size+more)
	copy(grown, image)
	return grown
}

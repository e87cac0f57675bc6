package leader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/pageformat"
)

// Entries of pages don't say what was there before. Of those that may have to be
// undone, a replica keeps the pages as they were in a file beside the database,
// as entries of the same form and number. The file is no authority: it is not
// synced, and a tail that it can't undo has the replica copied.
const (
	maxImageBytes   = 64 << 20 // beyond that all are dropped: a tail as long is not undone
	reuseImageBytes = 1 << 20  // from which on the file begins anew, when all in it is safe
)

// images is the file, as one writer or applier uses it.
type images struct {
	replica *Replica
	file    env.File // nil until the first is kept
	size    int64
	last    base.Seq // of the newest image
	buffer  []byte
}

func (r *Replica) imagePath() string { return r.options.Dir + "/tail.pages" }

// keep keeps the pages that an entry is about to change. Without them, nothing
// that came before the entry can be gone back to.
func (i *images) keep(e *entry.Entry, before *pageformat.Pages) error {
	if err := i.open(); err != nil {
		return fmt.Errorf("keep pages as they were: %w", err)
	}
	anew := before == nil || i.size > reuseImageBytes && i.replica.safe.get() >= i.last
	i.buffer = i.buffer[:0]
	if before != nil {
		image := entry.Entry{Epoch: e.Epoch, First: e.First, Count: e.Count, Time: e.Time, Kind: entry.WAL, Body: pageformat.Append(nil, before)}
		if image.Check() == nil {
			i.buffer = entry.Append(i.buffer, &image)
		} else {
			anew = true
		}
	}
	if anew || i.size+int64(len(i.buffer)) > maxImageBytes {
		if err := i.file.Truncate(0); err != nil {
			return fmt.Errorf("keep pages as they were: %w", err)
		}
		i.size = 0
	}
	if _, err := i.file.WriteAt(i.buffer, i.size); err != nil {
		return fmt.Errorf("keep pages as they were: %w", err)
	}
	i.size, i.last = i.size+int64(len(i.buffer)), e.Last()
	return nil
}

// open opens the file behind what an earlier life has left in it.
func (i *images) open() error {
	if i.file != nil {
		return nil
	}
	f, err := i.replica.env.FS.OpenFile(i.replica.imagePath(), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	i.size = 0
	err = eachImage(f, func(e *entry.Entry, size int) {
		i.size += int64(size)
		i.last = max(i.last, e.Last())
	})
	if err == nil {
		err = f.Truncate(i.size)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	i.file = f
	return nil
}

func (i *images) close() error {
	if i.file == nil {
		return nil
	}
	f := i.file
	i.file = nil
	return f.Close()
}

// eachImage calls f with the images in a file, oldest first, up to its torn end.
func eachImage(file env.File, f func(e *entry.Entry, size int)) error {
	size, err := file.Size()
	if err != nil || size == 0 {
		return err
	}
	frames := make([]byte, min(size, 2*maxImageBytes))
	if _, err := file.ReadAt(frames, 0); err != nil {
		return err
	}
	for len(frames) > 0 {
		e, n, err := entry.Decode(frames)
		if err != nil {
			return nil
		}
		f(&e, n)
		frames = frames[n:]
	}
	return nil
}

// readImages returns the images of entries by their first number; the newest,
// where a number was used again.
func (r *Replica) readImages() (map[base.Seq]entry.Entry, error) {
	f, err := r.env.FS.OpenFile(r.imagePath(), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read pages as they were: %w", err)
	}
	all := make(map[base.Seq]entry.Entry)
	err = eachImage(f, func(e *entry.Entry, _ int) { all[e.First] = *e })
	return all, errors.Join(err, f.Close())
}

// pagesBefore returns the pages that take the file back to where it was before a
// tail, of which SQLite has what ends at or before executed. It is nil when there
// are no pages in the tail.
func (r *Replica) pagesBefore(tail []entry.Entry, executed base.Seq) (*pageformat.Pages, error) {
	var pages []*entry.Entry
	others := false
	for i := range tail {
		switch e := &tail[i]; {
		case e.Last() > executed || e.Kind == entry.EpochStart || e.Kind == entry.Format:
		case e.Kind == entry.WAL:
			pages = append(pages, e)
		default:
			others = true
		}
	}
	if len(pages) == 0 {
		return nil, nil
	}
	if others {
		return nil, fmt.Errorf("%w: it has entries of pages and others", row.ErrNotInvertible)
	}
	kept, err := r.readImages()
	if err != nil {
		return nil, err
	}
	var merged pageformat.Merge
	for _, e := range pages {
		image, ok := kept[e.First]
		if !ok || image.Epoch != e.Epoch {
			return nil, fmt.Errorf("entry %v: %w: its pages as they were are not kept", e.Position(), row.ErrNotInvertible)
		}
		p, err := pageformat.Decode(image.Body)
		if err != nil {
			return nil, fmt.Errorf("entry %v: %w: %w", e.Position(), row.ErrNotInvertible, err)
		}
		merged.AddOlderFirst(p)
	}
	return merged.Pages(), nil
}

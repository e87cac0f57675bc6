package sqlite

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/pageformat"
	"github.com/skeindb/skein/internal/sqlite/walformat"
)

// Capture runs commit, which commits the open transaction or is one by itself,
// and hands the pages that it changes to take: before any of them can be seen or
// found after a crash. before are the same pages as they were, without those
// that are new; nil when they are too many or could not be read. An error of take
// undoes the transaction. take is not called when the transaction has changed
// nothing, and with nil when it has changed more than pageformat.MaxBytes.
func (c *Conn) Capture(take func(after, before *pageformat.Pages) error, commit func() error) error {
	w, err := c.wal()
	if err != nil {
		return err
	}
	sums, err := hasChecksums(c.raw)
	if err != nil {
		return c.fail(err)
	}
	files, err := c.files() // The engine can't be asked for them in the middle of a commit.
	if err != nil {
		return err
	}
	var refused error
	w.capture(func(t *transaction) error {
		if t == nil {
			refused = take(nil, nil)
			return refused
		}
		if sums {
			sumPages(t.pages)
		}
		before, err := c.earlier.before(files, t.pages)
		if err != nil {
			before = nil
		}
		refused = take(t.pages, before)
		c.earlier.pending = t
		return refused
	})
	defer w.capture(nil)
	if !c.InTransaction() {
		w.begin()
	}
	if err = commit(); refused != nil {
		return errors.Join(refused, c.Rollback())
	}
	if err == nil {
		c.earlier.committed()
	}
	return err
}

// transaction is what the -wal has of one: its pages, and their last frames.
type transaction struct {
	pages  *pageformat.Pages
	frames map[uint32]uint32
	last   uint32
}

// files are what a connection reads and writes pages through.
type files struct {
	main   vfs.File
	wal    *walFile
	shared index
}

func (c *Conn) files() (f files, err error) {
	if f.wal, err = c.wal(); err != nil {
		return f, err
	}
	if f.shared, err = c.index(); err != nil {
		return f, err
	}
	main, err := c.raw.FileControl("main", sqlite3.FCNTL_FILE_POINTER)
	if err != nil {
		return f, c.fail(err)
	}
	f.main = main.(vfs.File)
	return f, nil
}

// earlier knows in which frame of the -wal each page lies, so that its contents
// can be read before it is changed.
type earlier struct {
	frames  map[uint32]uint32
	last    uint32
	salt    [8]byte
	pending *transaction // that is about to be committed
}

// maxBefore bounds how many pages are read before they are changed.
const maxBefore = 4096

// before reads the pages that a transaction is about to change.
func (k *earlier) before(f files, after *pageformat.Pages) (*pageformat.Pages, error) {
	k.pending = nil
	if len(after.Numbers) > maxBefore {
		return nil, nil
	}
	x, _, err := readIndex(f.shared)
	if err != nil {
		return nil, err
	}
	if k.frames == nil || k.last != x.Frames || k.salt != x.Salt {
		if k.frames, err = framesOf(f.shared, x.Frames); err != nil {
			return nil, err
		}
		k.last, k.salt = x.Frames, x.Salt
	}
	s := exactState{files: f, size: x.Pages, page: after.PageSize, overlay: k.frames}
	if s.size == 0 { // Nothing was written to this -wal yet.
		n, err := f.main.Size()
		if err != nil {
			return nil, err
		}
		s.size = uint32(n / int64(s.page))
	}
	numbers := slices.Clone(after.Numbers)
	if gone := int64(s.size) - int64(after.Size); gone > maxBefore {
		return nil, nil
	}
	for number := after.Size + 1; number <= s.size; number++ { // What is cut off was something, too.
		numbers = append(numbers, number)
	}
	return s.pages(numbers)
}

// committed goes on from the transaction that before was called for.
func (k *earlier) committed() {
	t := k.pending
	if k.pending = nil; t == nil || k.frames == nil {
		return
	}
	for page, frame := range t.frames {
		k.frames[page] = frame
	}
	k.last = t.last
}

// pages reads some pages, but those behind the end.
func (s *exactState) pages(numbers []uint32) (*pageformat.Pages, error) {
	p := &pageformat.Pages{PageSize: s.page, Size: s.size}
	for _, number := range numbers {
		if number > s.size {
			break
		}
		if at := int64(number-1) * int64(s.page); at <= lockByte && lockByte < at+int64(s.page) {
			continue
		}
		p.Numbers = append(p.Numbers, number)
		p.Data = append(p.Data, make([]byte, s.page)...)
		if err := s.read(number, p.Data[len(p.Data)-s.page:]); err != nil {
			return nil, err
		}
	}
	if len(p.Numbers) == 0 {
		return nil, nil
	}
	return p, nil
}

// wal is the connection's -wal.
func (c *Conn) wal() (*walFile, error) {
	if c.walFile != nil {
		return c.walFile, nil
	}
	f, err := c.raw.FileControl("main", sqlite3.FCNTL_JOURNAL_POINTER)
	if err != nil {
		return nil, c.fail(err)
	}
	w, ok := f.(*walFile)
	if !ok {
		return nil, base.Errorf(base.KindInternal, "the -wal is not open")
	}
	c.walFile = w
	return w, nil
}

// sumPages gives each page its checksum, as the file will have it: what lies in
// the -wal has that of an earlier state, or none.
func sumPages(p *pageformat.Pages) {
	for at := 0; at < len(p.Data); at += p.PageSize {
		page := p.Data[at : at+p.PageSize]
		copy(page[p.PageSize-checksumBytes:], pageChecksum(page[:p.PageSize-checksumBytes]))
	}
}

// pageChecksum is that of SQLite's cksumvfs.
func pageChecksum(b []byte) []byte {
	var s1, s2 uint32
	for ; len(b) >= 8; b = b[8:] {
		s1 += binary.LittleEndian.Uint32(b) + s2
		s2 += binary.LittleEndian.Uint32(b[4:]) + s1
	}
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, s1), s2)
}

// index is what connections share of the -wal, through this connection's file.
// The engine maps the same file into memory: what is written here is seen there.
type index interface {
	io.ReaderAt
	io.WriterAt
}

func (c *Conn) index() (index, error) {
	f, err := c.raw.FileControl("main", sqlite3.FCNTL_FILE_POINTER)
	if err != nil {
		return nil, c.fail(err)
	}
	if s, ok := f.(vfs.FileSharedMemory); ok {
		if x, ok := s.SharedMemory().(index); ok {
			return x, nil
		}
	}
	return nil, base.Errorf(base.KindUnsupported, "the index of the -wal can't be reached on this platform").
		WithHint("choose another log format than wal")
}

// readIndex reads the header of the index, and how many frames are copied.
func readIndex(x index) (h walformat.Index, backfilled uint32, err error) {
	var b [walformat.IndexSize]byte
	if _, err := x.ReadAt(b[:], 0); err != nil {
		return h, 0, diskError(sqlite3.IOERR_READ, fmt.Errorf("read the index of the -wal: %w", err))
	}
	h, ok := walformat.DecodeIndex(b[:])
	if !ok {
		return h, 0, errIndexMoves
	}
	return h, binary.LittleEndian.Uint32(b[walformat.BackfillOffset:]), nil
}

var errIndexMoves = base.Errorf(base.KindBusy, "the index of the -wal is being written")

// ApplyPages makes a transaction of pages that another replica has captured: the
// file becomes what it was there. Readers see all of it or nothing.
//
// SQLite has no call for that. The transaction is taken from SQLite, which locks
// the others out; the frames and their entries in the index are written here, as
// SQLite would have, and are seen when the header of the index says so. When
// SQLite ends its transaction, which for it was empty, it lets go of the lock;
// it notices that the header has changed, and forgets what it had cached.
//
// keep, which may be nil, is called first with the same pages as they were, as in
// Capture.
func (c *Conn) ApplyPages(p *pageformat.Pages, keep func(before *pageformat.Pages) error) error {
	if err := c.BeginImmediate(); err != nil {
		return err
	}
	schema, err := c.SchemaVersion()
	if err == nil {
		err = c.appendPages(p, keep)
	}
	if err != nil {
		return errors.Join(err, c.Rollback())
	}
	if p.Numbers[0] == 1 && int64(binary.BigEndian.Uint32(p.Data[40:])) != schema {
		c.schemaChanged = true
		c.forget()
	}
	return c.Commit()
}

func (c *Conn) appendPages(p *pageformat.Pages, keep func(before *pageformat.Pages) error) error {
	f, err := c.files()
	if err != nil {
		return err
	}
	x, _, err := readIndex(f.shared)
	if err != nil {
		return err
	}
	size, err := c.integer("PRAGMA page_size")
	if err != nil {
		return err
	}
	if size != int64(p.PageSize) {
		return base.Errorf(base.KindUnsupported, "pages of %d bytes for a database that has pages of %d", p.PageSize, size)
	}
	if keep != nil {
		before, err := c.earlier.before(f, p)
		if err != nil {
			before = nil
		}
		if err := keep(before); err != nil {
			return err
		}
	}
	first := x.Frames + 1
	frames, err := nextFrames(f.wal, &x, p)
	if err == nil {
		err = f.wal.append(frames, first, p.PageSize)
	}
	if err == nil {
		err = addEntries(f.shared, first, p.Numbers)
	}
	if err == nil {
		err = publishIndex(f.shared, x)
	}
	if err != nil {
		return c.fail(err)
	}
	if c.onFrames != nil {
		c.onFrames(int64(x.Frames))
	}
	return nil
}

// nextFrames returns the frames of a transaction, behind a header when the -wal
// begins with them.
func nextFrames(w *walFile, x *walformat.Index, p *pageformat.Pages) ([]byte, error) {
	frames := make([]byte, 0, walformat.HeaderSize+len(p.Numbers)*(walformat.FrameHeaderSize+p.PageSize))
	if x.Frames == 0 {
		var old [walformat.HeaderSize]byte
		if _, err := w.ReadAt(old[:], 0); err != nil && err != io.EOF { // A power cut leaves any part of one.
			return nil, diskError(sqlite3.IOERR_READ, err)
		}
		x.PageSize = p.PageSize
		if x.Salt == ([8]byte{}) { // The first of all: any will do that no earlier frame has.
			copy(x.Salt[:], pageChecksum(append(old[:], p.Data...)))
		}
		frames = walformat.AppendHeader(frames, x, binary.BigEndian.Uint32(old[12:])+1)
	}
	for i, number := range p.Numbers {
		commit := uint32(0)
		if i+1 == len(p.Numbers) {
			commit = p.Size
		}
		frames = walformat.AppendFrame(frames, x, number, p.Data[i*p.PageSize:(i+1)*p.PageSize], commit)
	}
	x.Pages = p.Size
	x.Change++
	return frames, nil
}

// addEntries tells the index which page each of the frames from first on holds.
func addEntries(x index, first uint32, numbers []uint32) error {
	region := make([]byte, walformat.RegionSize)
	for len(numbers) > 0 {
		number, entry := walformat.Place(first)
		at := int64(number) * walformat.RegionSize
		n, err := x.ReadAt(region, at)
		if err != nil && err != io.EOF {
			return diskError(sqlite3.IOERR_READ, fmt.Errorf("read the index of the -wal: %w", err))
		}
		clear(region[n:])
		walformat.Trim(number, region, entry-1)
		for len(numbers) > 0 {
			here, next := walformat.Place(first)
			if here != number {
				break
			}
			walformat.Insert(number, region, next, numbers[0])
			first, numbers = first+1, numbers[1:]
		}
		skip := 0
		if number == 0 {
			skip = walformat.IndexSize // Readers and checkpoints write there.
		}
		if _, err := x.WriteAt(region[skip:], at+int64(skip)); err != nil {
			return diskError(sqlite3.IOERR_WRITE, fmt.Errorf("write the index of the -wal: %w", err))
		}
	}
	return nil
}

// publishIndex lets everyone see what the header counts. The copy that is read
// last is written first.
func publishIndex(x index, h walformat.Index) error {
	b := h.Encode()
	if _, err := x.WriteAt(b, walformat.SecondCopy); err != nil {
		return diskError(sqlite3.IOERR_WRITE, fmt.Errorf("write the index of the -wal: %w", err))
	}
	if _, err := x.WriteAt(b, 0); err != nil {
		return diskError(sqlite3.IOERR_WRITE, fmt.Errorf("write the index of the -wal: %w", err))
	}
	return nil
}

// exactTries is how often a state is looked for that nobody changes while the
// look at it begins.
const exactTries = 100

// EachPage calls f with every page of one state of the database, in order, as it
// lies in the file once a checkpoint has copied everything. begun is called with
// the connection that sees the same state.
func (d *Database) EachPage(ctx context.Context, begun func(*Conn) error, f func(number, size uint32, page []byte) error) (err error) {
	s, err := d.Snapshot(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	state, err := s.conn.exactState(ctx)
	if err != nil {
		return err
	}
	if begun != nil {
		if err := begun(s.conn); err != nil {
			return err
		}
	}
	return state.each(ctx, f)
}

// ImageTo writes one state of the database to f, as EachPage reads it.
func (d *Database) ImageTo(ctx context.Context, f io.WriterAt, begun func(*Conn) error, progress func(done, total int64)) error {
	err := d.EachPage(ctx, begun, func(number, size uint32, page []byte) error {
		at := int64(number-1) * int64(len(page))
		if _, err := f.WriteAt(page, at); err != nil {
			return mapError(err, ctx)
		}
		if progress != nil && (number%copyPages == 0 || number == size) {
			progress(at+int64(len(page)), int64(size)*int64(len(page)))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("copy the file as it is: %w", err)
	}
	return nil
}

// Vacuum writes the file anew, without free pages. It must not be called in a
// transaction.
func (c *Conn) Vacuum() error {
	c.schemaChanged = true
	return c.vacuuming(func() error { return c.Exec("VACUUM") })
}

// exactState is one state of the file: the database file, and above it the
// frames of the -wal up to one.
type exactState struct {
	files
	size    uint32
	page    int
	sums    bool
	overlay map[uint32]uint32 // the frame of each page that has one
	fail    func(error) error // of the connection, which tells of damage
}

// exactState begins the read transaction anew until the index says the same
// before and after. It must be called in one.
func (c *Conn) exactState(ctx context.Context) (*exactState, error) {
	shared, err := c.index()
	if err != nil {
		return nil, err
	}
	for range exactTries {
		if ctx.Err() != nil {
			return nil, interrupted(ctx.Err(), ctx)
		}
		if err := c.Exec("COMMIT; BEGIN"); err != nil {
			return nil, err
		}
		before, _, err := readIndex(shared)
		if errors.Is(err, errIndexMoves) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if _, err := c.integer("SELECT count(*) FROM sqlite_schema"); err != nil {
			return nil, err
		}
		after, copied, err := readIndex(shared)
		if err == nil && before == after {
			return c.stateOf(shared, after, copied)
		}
	}
	return nil, base.Errorf(base.KindBusy, "the database was written to each time that a copy of it was begun").WithHint("try again")
}

// Header returns the first hundred bytes of the database. It must not be called
// while the connection has changed something that is not committed.
func (c *Conn) Header() ([]byte, error) {
	f, err := c.files()
	if err != nil {
		return nil, err
	}
	size, err := c.integer("PRAGMA page_size")
	if err != nil {
		return nil, err
	}
	x, _, err := readIndex(f.shared)
	if err != nil {
		return nil, err
	}
	frames, err := framesOf(f.shared, x.Frames)
	if err != nil {
		return nil, c.fail(err)
	}
	page := make([]byte, size)
	s := exactState{files: f, page: int(size), overlay: frames}
	if err := s.read(1, page); err != nil {
		return nil, c.fail(err)
	}
	return page[:100], nil
}

// stateOf is the state that the index describes. When everything was copied, the
// file alone has it, and the -wal may already begin anew; otherwise the reader's
// mark keeps both as they are.
func (c *Conn) stateOf(shared index, x walformat.Index, copied uint32) (*exactState, error) {
	pages, err := c.integer("PRAGMA page_count")
	if err != nil {
		return nil, err
	}
	size, err := c.integer("PRAGMA page_size")
	if err != nil {
		return nil, err
	}
	f, err := c.files()
	if err != nil {
		return nil, err
	}
	s := &exactState{files: f, size: uint32(pages), page: int(size), fail: c.fail}
	if s.sums, err = hasChecksums(c.raw); err != nil || copied >= x.Frames {
		return s, err
	}
	s.overlay, err = framesOf(shared, x.Frames)
	return s, err
}

// framesOf returns the last of the first frames that holds each page.
func framesOf(shared index, frames uint32) (map[uint32]uint32, error) {
	last := make(map[uint32]uint32)
	region, have := make([]byte, walformat.RegionSize), -1
	for frame := uint32(1); frame <= frames; frame++ {
		number, entry := walformat.Place(frame)
		if number != have {
			if n, err := shared.ReadAt(region, int64(number)*walformat.RegionSize); n < len(region) {
				return nil, diskError(sqlite3.IOERR_READ, fmt.Errorf("read the index of the -wal: %w", err))
			}
			have = number
		}
		last[walformat.Page(number, region, entry)] = frame
	}
	return last, nil
}

// lockByte is where SQLite puts its locks in a file: the page that holds it is
// never used.
const lockByte = 1 << 30

func (s *exactState) each(ctx context.Context, f func(number, size uint32, page []byte) error) error {
	page := make([]byte, s.page)
	for number := uint32(1); number <= s.size; number++ {
		if number%1024 == 0 && ctx.Err() != nil {
			return interrupted(ctx.Err(), ctx)
		}
		if err := s.read(number, page); err != nil {
			return fmt.Errorf("read page %d: %w", number, s.fail(err))
		}
		if err := f(number, s.size, page); err != nil {
			return err
		}
	}
	return nil
}

func (s *exactState) read(number uint32, page []byte) error {
	if frame, ok := s.overlay[number]; ok {
		if err := s.wal.readPage(frame, page); err != nil {
			return diskError(sqlite3.IOERR_READ, err)
		}
		if s.sums {
			sumPages(&pageformat.Pages{PageSize: s.page, Data: page})
		}
		return nil
	}
	at := int64(number-1) * int64(s.page)
	if at <= lockByte && lockByte < at+int64(s.page) {
		clear(page)
		return nil
	}
	n, err := s.main.ReadAt(page, at)
	switch {
	case n == len(page):
		return nil
	case err != nil && err.Error() == sqlite3.IOERR_DATA.Error(): // The driver's own type of it.
		return sqlite3.IOERR_DATA
	}
	return diskError(sqlite3.IOERR_READ, err)
}

// diskError gives an error of a file that the engine was not asked to read or
// write the code that it would have.
func diskError(code sqlite3.ExtendedErrorCode, err error) error {
	if err == nil {
		return nil
	}
	if strings.Contains(err.Error(), syscall.ENOSPC.Error()) { // The driver hides what it wraps.
		err = syscall.ENOSPC
	}
	return fmt.Errorf("%w: %w", code, err)
}

// gather makes pages of the frames of a transaction, which begin at an offset and
// of which the last commits it. Of a page that was written several times the
// last is what counts.
func gather(frames []byte, frameSize int, offset int64) *transaction {
	t := &transaction{frames: make(map[uint32]uint32)}
	t.last = uint32((offset - walHeaderSize) / int64(frameSize))
	last := make(map[uint32][]byte)
	for at := 0; at < len(frames); at += frameSize {
		number := binary.BigEndian.Uint32(frames[at:])
		t.last++
		last[number], t.frames[number] = frames[at+walFrameHeaderSize:at+frameSize], t.last
	}
	p := &pageformat.Pages{PageSize: frameSize - walFrameHeaderSize, Size: binary.BigEndian.Uint32(frames[len(frames)-frameSize+4:])}
	for number := range last {
		if number <= p.Size {
			p.Numbers = append(p.Numbers, number)
		}
	}
	slices.Sort(p.Numbers)
	contents := make([][]byte, len(p.Numbers))
	for i, number := range p.Numbers {
		contents[i] = last[number]
	}
	p.Data = bytes.Join(contents, nil)
	t.pages = p
	return t
}

// IsVacuum says that a statement is a VACUUM of the database in its place.
func IsVacuum(sql string) bool {
	words := leadingWords(sql, 3)
	if len(words) == 0 || words[0] != "VACUUM" || len(words) > 2 || len(words) == 2 && words[1] != "MAIN" {
		return false
	}
	l := lexer{text: sql}
	for seen := 0; ; {
		switch t := l.scan(); t.kind {
		case word:
			seen++
		case semicolon:
		case endOfText:
			return seen == len(words)
		default:
			return false
		}
	}
}

// SyncWAL makes what is committed survive a power cut.
func (c *Conn) SyncWAL() error {
	w, err := c.wal()
	if err != nil {
		return err
	}
	return c.fail(diskError(sqlite3.IOERR_FSYNC, w.Sync(vfs.SYNC_NORMAL)))
}

package sqlite

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"

	"github.com/skeindb/skein/internal/base"
)

// Options configure a Database. The zero value is usable.
type Options struct {
	// VFS names the engine's file system; "" is the operating system's.
	VFS string
	// Readers is how many readers may be in use at a time. The larger of 4
	// and twice the processors. They are opened when first needed, about
	// 0.4 MiB each, and grow by their cache.
	Readers int
	// CacheKiB bounds the page cache of a reader. 2048.
	CacheKiB int
	// WriterCacheKiB bounds the page cache of the writer, which takes what it uses. 32768.
	WriterCacheKiB int
	// StatementCache is how many idle statements a connection keeps. 256.
	StatementCache int
	// Descriptions is how many texts Describe remembers. 4096.
	Descriptions int
	// TempInMemory keeps sorts in memory instead of in temporary files.
	TempInMemory bool
	// BusyTimeout is how long to wait for a lock of the file. 5 s.
	BusyTimeout time.Duration
	// Limits on statements.
	Limits Limits
	// Damaged is told of every error of KindCorrupt that a connection of the
	// Database meets, and of every failed sync, whoever else gets it. It must
	// return quickly; it may be called from several goroutines. nil: nobody is told.
	Damaged func(error)
}

// Defaults of Options.
const (
	DefaultWriterCacheKiB = 32768
	DefaultDescriptions   = 4096
	pageSize              = 4096
)

func (o Options) withDefaults() Options {
	if o.Readers == 0 {
		o.Readers = max(4, 2*runtime.GOMAXPROCS(0))
	}
	if o.CacheKiB == 0 {
		o.CacheKiB = DefaultCacheKiB
	}
	if o.WriterCacheKiB == 0 {
		o.WriterCacheKiB = DefaultWriterCacheKiB
	}
	if o.Descriptions == 0 {
		o.Descriptions = DefaultDescriptions
	}
	o.Limits = o.Limits.withDefaults()
	return o
}

func (o Options) validate() error {
	if o.Readers < 0 || o.CacheKiB < 0 || o.WriterCacheKiB < 0 || o.StatementCache < 0 || o.Descriptions < 0 || o.BusyTimeout < 0 {
		return base.Errorf(base.KindInvalid, "database options: sizes and times must not be negative")
	}
	return o.Limits.validate()
}

// conn returns the options of a connection with a role.
func (o Options) conn(role Role) ConnOptions {
	c := ConnOptions{VFS: o.VFS, Role: role, stays: true, StatementCache: o.StatementCache, CacheKiB: o.CacheKiB,
		TempInMemory: o.TempInMemory, BusyTimeout: o.BusyTimeout, Limits: o.Limits}
	if role == RoleWriter || role == RoleApplier {
		c.CacheKiB = o.WriterCacheKiB
	}
	return c
}

// Database is a database file with at most one writer and a pool of readers.
// Its methods may be called from any goroutine.
type Database struct {
	path    string
	options Options

	// tool holds the connection for checkpoints while nobody uses it: taking
	// it out is owning it. nil in it means that it must be opened again.
	tool chan *Conn
	// walFile is the -wal as the tool has it open, for its size.
	walFile atomic.Pointer[vfs.File]
	// walFrames is how many frames the -wal holds that may have to be copied.
	walFrames atomic.Int64
	// failed says that writing, syncing or reading for it has failed: what is
	// in the -wal may not be on disk, and no later sync would tell. There are
	// no more checkpoints, not even in closing, until the file is opened anew.
	failed atomic.Bool
	// generation counts committed schema changes.
	generation   atomic.Int64
	descriptions *descriptionCache

	readers chan struct{} // a token for each reader in use; waiting senders are served in turn
	closing chan struct{} // closed by Close
	users   sync.WaitGroup

	state struct {
		sync.Mutex // guards the fields below
		closed     bool
		writer     *Conn
		idle       []*Conn // the most recently used last
		spare      int     // the fewest idle readers since the last TrimIdle
	}
}

// OpenDatabase opens or makes the file at path and puts it in WAL mode. It
// refuses, with a clear error, a file that is not a SQLite database, is
// encoded in UTF-16, or cannot be put in WAL mode.
func OpenDatabase(ctx context.Context, path string, o Options) (*Database, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	d := &Database{
		path: path, options: o,
		tool: make(chan *Conn, 1), readers: make(chan struct{}, o.Readers), closing: make(chan struct{}),
		descriptions: newDescriptionCache(o.Descriptions),
	}
	c, err := d.openTool(ctx, true)
	if err != nil {
		return nil, err
	}
	if n, err := d.WALSize(); err == nil { // What an earlier process has left.
		d.walFrames.Store(n / (walFrameHeaderSize + pageSize))
	}
	d.tool <- c
	return d, nil
}

// open opens a connection of the Database: what it finds damaged is told.
func (d *Database) open(ctx context.Context, o ConnOptions) (*Conn, error) {
	c, err := OpenConn(ctx, d.path, o)
	if err != nil {
		tellDamage(d.options.Damaged, err)
		return nil, err
	}
	c.damaged = d.options.Damaged
	return c, nil
}

// checkpointBusy bounds how long a checkpoint waits for readers, since it
// holds off the writer meanwhile.
const checkpointBusy = 100 * time.Millisecond

// openTool opens the connection for checkpoints and sees to the file's mode.
func (d *Database) openTool(ctx context.Context, create bool) (*Conn, error) {
	o := d.options.conn(RoleTool)
	o.create, o.bare, o.stays, o.CacheKiB = create, true, false, 256
	c, err := d.open(ctx, o)
	if err != nil {
		return nil, err
	}
	c.failed = &d.failed
	err = c.settle(d.path)
	if err == nil {
		err = c.fail(c.raw.BusyTimeout(checkpointBusy))
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if f, err := c.raw.FileControl("main", sqlite3.FCNTL_JOURNAL_POINTER); err == nil {
		if f, ok := f.(vfs.File); ok {
			d.walFile.Store(&f)
		}
	}
	return c, nil
}

// settle sees that the file is a database of ours to use: UTF-8, WAL.
func (c *Conn) settle(path string) error {
	if err := c.recognise(); err != nil {
		e := *base.AsError(err)
		e.Op = "open " + path
		return &e
	}
	mode, err := c.text("PRAGMA journal_mode=WAL")
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	if mode != "wal" {
		return &base.Error{Kind: base.KindUnsupported, Op: "open " + path, Message: "cannot use WAL mode; the journal mode stays " + mode,
			Hint: "The file system must support shared memory and locks."}
	}
	_, err = c.integer("SELECT count(*) FROM sqlite_schema") // opens the -wal
	return err
}

// recognise refuses what is not a database in UTF-8. A new one gets its page
// size.
func (c *Conn) recognise() error {
	pages, err := c.integer("PRAGMA page_count")
	if err == nil {
		_, err = c.integer("SELECT count(*) FROM sqlite_schema")
	}
	if errors.Is(err, sqlite3.NOTADB) {
		return &base.Error{Kind: base.KindCorrupt, Message: "not a SQLite database", Err: err,
			Hint: "The first page is not SQLite's: it is another kind of file, encrypted, or damaged."}
	}
	if err != nil {
		return err
	}
	if pages == 0 {
		if err := c.Exec(fmt.Sprintf("PRAGMA page_size=%d", pageSize)); err != nil {
			return err
		}
		return c.vacuuming(func() error { return c.raw.EnableChecksums("main") })
	}
	encoding, err := c.text("PRAGMA encoding")
	if err != nil {
		return err
	}
	if encoding != "UTF-8" {
		return base.Errorf(base.KindUnsupported, "the database is encoded in %s", encoding).
			WithHint("Only UTF-8 is supported: dump it and load it into a new file.")
	}
	return nil
}

// text runs a query of ours that returns one text.
func (c *Conn) text(sql string) (string, error) {
	s, err := c.prepare(sql, GuardOwn)
	if err != nil {
		return "", err
	}
	defer s.Close()
	if _, err := s.Step(); err != nil {
		return "", err
	}
	return string(s.Column(0).Bytes), nil
}

// enter counts a user of the database, which Close waits for.
func (d *Database) enter() error {
	d.state.Lock()
	defer d.state.Unlock()
	if d.state.closed {
		return errClosed()
	}
	d.users.Add(1)
	return nil
}

func errClosed() error { return base.Errorf(base.KindShutdown, "the database is closed") }

// OpenWriter opens the writing connection, as RoleWriter or RoleApplier. There
// is one at a time; close it before the next is opened.
func (d *Database) OpenWriter(ctx context.Context, role Role) (*Conn, error) {
	if role != RoleWriter && role != RoleApplier {
		return nil, base.Errorf(base.KindInvalid, "open writer: role %d does not write", role)
	}
	if err := d.claimWriter(); err != nil {
		return nil, err
	}
	c, err := d.open(ctx, d.options.conn(role))
	d.state.Lock()
	defer d.state.Unlock()
	d.state.writer = c
	if err != nil {
		d.users.Done()
		return nil, err
	}
	d.watch(c)
	c.onClose = func() { d.releaseWriter(c) }
	return c, nil
}

func (d *Database) watch(c *Conn) {
	c.failed = &d.failed
	c.onSchema = func() { d.generation.Add(1) }
	c.onFrames = d.walFrames.Store
	c.raw.WALHook(func(_ *sqlite3.Conn, _ string, frames int) error {
		d.walFrames.Store(int64(frames))
		return nil
	})
}

// OpenBeside opens another connection that writes, for the owner of the writer,
// who uses one of the two at a time and closes this one first.
func (d *Database) OpenBeside(ctx context.Context, role Role) (*Conn, error) {
	d.state.Lock()
	if d.state.closed || d.state.writer == nil {
		d.state.Unlock()
		return nil, base.Errorf(base.KindInternal, "open a connection beside the writer: there is no writer")
	}
	d.users.Add(1)
	d.state.Unlock()
	c, err := d.open(ctx, d.options.conn(role))
	if err != nil {
		d.users.Done()
		return nil, err
	}
	d.watch(c)
	c.onClose = d.users.Done
	return c, nil
}

// claimedWriter stands in the writer's place while it is being opened.
var claimedWriter = new(Conn)

func (d *Database) claimWriter() error {
	d.state.Lock()
	defer d.state.Unlock()
	if d.state.closed {
		return errClosed()
	}
	if d.state.writer != nil {
		return base.Errorf(base.KindBusy, "the database has a writer already")
	}
	d.state.writer = claimedWriter
	d.users.Add(1)
	return nil
}

func (d *Database) releaseWriter(c *Conn) {
	d.state.Lock()
	defer d.state.Unlock()
	if d.state.writer == c {
		d.state.writer = nil
		d.users.Done()
	}
}

// Close closes the idle connections and waits for the readers and snapshots
// that are in use; end their work first. It refuses to close under a writer.
// The last connection checkpoints, so that one plain file is left, unless the
// disk has failed.
func (d *Database) Close() error {
	d.state.Lock()
	if d.state.writer != nil {
		d.state.Unlock()
		return base.Errorf(base.KindBusy, "close %s: the writer is still open", d.path)
	}
	if d.state.closed {
		d.state.Unlock()
		return nil
	}
	d.state.closed = true
	close(d.closing)
	idle := d.state.idle
	d.state.idle = nil
	d.state.Unlock()
	err := closeAll(idle)
	d.users.Wait()
	c := <-d.tool
	if c == nil {
		return err
	}
	if d.failed.Load() {
		_, keep := c.raw.Config(sqlite3.DBCONFIG_NO_CKPT_ON_CLOSE, true)
		err = errors.Join(err, c.fail(keep))
	}
	return errors.Join(err, c.Close())
}

func closeAll(conns []*Conn) error {
	var err error
	for _, c := range conns {
		err = errors.Join(err, c.Close())
	}
	return err
}

// Checkpoint copies the -wal into the database file, on a connection of its
// own. It waits at most a short time for others; what it could not do it
// leaves for the next time. It returns the frames in the -wal and how many of
// them are copied.
func (d *Database) Checkpoint(ctx context.Context, mode CheckpointMode) (logFrames, checkpointed int, err error) {
	if err := d.enter(); err != nil {
		return 0, 0, err
	}
	defer d.users.Done()
	if d.failed.Load() {
		return 0, 0, base.Errorf(base.KindUnavailable, "checkpoint %s: the disk has failed; the file must be opened anew first", d.path)
	}
	c, err := d.takeTool(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer d.returnTool(c)
	c.SetInterrupt(ctx)
	defer c.SetInterrupt(context.Background())
	logFrames, checkpointed, err = c.Checkpoint(mode)
	if err == nil && logFrames == checkpointed {
		d.walFrames.CompareAndSwap(int64(logFrames), 0) // Unless more was committed meanwhile.
	}
	return logFrames, checkpointed, err
}

func (d *Database) takeTool(ctx context.Context) (*Conn, error) {
	select {
	case c := <-d.tool:
		if c != nil {
			return c, nil
		}
		c, err := d.openTool(ctx, false)
		if err != nil {
			d.tool <- nil
		}
		return c, err
	case <-ctx.Done():
		return nil, interrupted(ctx.Err(), ctx)
	}
}

func (d *Database) returnTool(c *Conn) {
	if c.Broken() {
		_ = c.Close() // it is lost whatever closing says
		c = nil
	}
	d.tool <- c
}

// WALSize returns the size of the -wal file in bytes, without a lock. It does
// not shrink when a checkpoint is complete, but the next write starts over at
// its beginning; CheckpointTruncate cuts it.
func (d *Database) WALSize() (int64, error) {
	f := d.walFile.Load()
	if f == nil {
		return 0, base.Errorf(base.KindUnavailable, "the -wal of %s is not open", d.path)
	}
	n, err := (*f).Size()
	if err != nil {
		return 0, fmt.Errorf("size of the -wal of %s: %w", d.path, err)
	}
	return n, nil
}

// Uncopied returns how many bytes of the -wal a checkpoint may still have to
// copy. Unlike the file it shrinks, when the -wal starts over.
func (d *Database) Uncopied() int64 {
	return d.walFrames.Load() * (walFrameHeaderSize + pageSize)
}

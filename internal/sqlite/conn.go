package sqlite

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/ext/fts5"
	"github.com/ncruces/go-sqlite3/ext/regexp"
	"github.com/ncruces/go-sqlite3/ext/rtree"

	"github.com/skeindb/skein/internal/base"
)

// Role is what a connection is for; it decides the engine's settings.
type Role uint8

// The roles.
const (
	// RoleWriter runs clients' statements on a leader: triggers and foreign
	// keys are on, the engine is defensive.
	RoleWriter Role = iota
	// RoleReader runs clients' queries; it cannot write.
	RoleReader
	// RoleApplier writes rows as another replica has written them: triggers,
	// foreign keys and CHECKs are off, since their effects arrive as rows, and
	// shadow tables and sqlite_sequence may be written.
	RoleApplier
	// RoleTool is for our own work: catalog, snapshots, checks.
	RoleTool
)

// ConnOptions configure a connection. The zero value is a writer with
// defaults.
type ConnOptions struct {
	// VFS names the engine's file system; "" is the operating system's.
	VFS string
	// Role of the connection.
	Role Role
	// StatementCache is how many idle prepared statements are kept. 256.
	StatementCache int
	// CacheKiB bounds the page cache. 2048.
	CacheKiB int
	// TempInMemory keeps sorts and materialised queries in memory; otherwise
	// large ones go to temporary files of the VFS.
	TempInMemory bool
	// BusyTimeout is how long to wait for a lock of the file. 5 s.
	BusyTimeout time.Duration
	// Limits on statements.
	Limits Limits
	// WithoutWAL shows the file as it is by itself, without what is in its
	// -wal, and nothing of the extensions. Nobody may write to it meanwhile.
	WithoutWAL bool

	create bool // make the file if there is none
	bare   bool // without extensions and guard: for checkpoints only
	stays  bool // closing it checkpoints nothing: another connection of its Database closes last
	plain  bool // without virtual tables: their shadow tables are tables like others
}

// Defaults of ConnOptions.
const (
	DefaultStatementCache = 256
	DefaultCacheKiB       = 2048
	DefaultBusyTimeout    = 5 * time.Second
)

func (o ConnOptions) withDefaults() ConnOptions {
	if o.StatementCache == 0 {
		o.StatementCache = DefaultStatementCache
	}
	if o.CacheKiB == 0 {
		o.CacheKiB = DefaultCacheKiB
	}
	if o.BusyTimeout == 0 {
		o.BusyTimeout = DefaultBusyTimeout
	}
	o.Limits = o.Limits.withDefaults()
	return o
}

func (o ConnOptions) validate() error {
	if o.StatementCache < 0 || o.CacheKiB < 0 || o.BusyTimeout < 0 {
		return base.Errorf(base.KindInvalid, "connection options: sizes and times must not be negative")
	}
	if o.Role > RoleTool {
		return base.Errorf(base.KindInvalid, "connection options: unknown role %d", o.Role)
	}
	return o.Limits.validate()
}

// Conn is a connection. It is used by one goroutine at a time.
type Conn struct {
	raw       *sqlite3.Conn
	role      Role
	limits    Limits
	guard     Guard       // of the statements prepared next
	enforced  Guard       // what the authorizer answers by now
	found     *findings   // filled by the authorizer while a client's or our statement compiles
	denied    *base.Error // why the authorizer last refused
	withheld  *base.Error // what it will have refused if the statement is found to write
	cache     statementCache
	inUse     int // statements handed out
	interrupt context.Context
	broken    error // set by a panic of the engine; the connection is only closed then

	transactions  int                      // how many BeginImmediate has started
	epoch         int                      // counts the changes of the schema that this connection has made or undone
	schemaChanged bool                     // the open transaction holds a schema change
	emit          func([]base.Value) error // answers EmitFunction; nil: nothing does
	onSchema      func()                   // called after a schema change has been committed
	onClose       func()                   // called when the connection has been closed
	onFrames      func(int64)              // called with the frames of the -wal after ApplyPages
	walFile       *walFile                 // nil until it is needed
	earlier       earlier                  // for pages as they were
	failed        *atomic.Bool             // of its Database: set when the disk has failed
	damaged       func(error)              // of its Database: told of damage to the file and of failed syncs; nil: nobody

	outside     *Outside // what the running statement sees of it, after FixOutside
	totalBefore int64    // TotalChanges when it began
	helper      *Conn    // computes times
}

// OpenConn opens a connection to an existing file, or as a writer or applier
// also to a new one. It does not set what is stored in the file, such as the
// journal mode; OpenDatabase does.
func OpenConn(ctx context.Context, path string, o ConnOptions) (*Conn, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	o.bare = o.bare || o.WithoutWAL
	o.create = !o.WithoutWAL && (o.create || o.Role == RoleWriter || o.Role == RoleApplier)
	limited := sqlite3.WithMaxMemory(ctx, int64(o.Limits.MemoryMiB)<<20)
	raw, err := sqlite3.OpenContext(limited, fileURI(path, o))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, mapError(err, ctx))
	}
	c := &Conn{raw: raw, role: o.Role, limits: o.Limits, cache: newStatementCache(o.StatementCache), interrupt: context.Background()}
	if err := c.configure(o); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("open %s: %w", path, mapError(err, ctx))
	}
	return c, nil
}

// OpenMemory opens an empty database of ours in memory, which goes away with
// the connection.
func OpenMemory(ctx context.Context) (*Conn, error) {
	return OpenConn(ctx, memoryPath, ConnOptions{Role: RoleTool, TempInMemory: true, CacheKiB: 256, create: true})
}

const memoryPath = ":memory:"

func fileURI(path string, o ConnOptions) string {
	if path == memoryPath {
		return "file::memory:"
	}
	escaped := (&url.URL{Path: path}).EscapedPath()
	if strings.HasPrefix(escaped, "//") {
		escaped = "//" + escaped
	}
	mode := "rw"
	if o.create {
		mode = "rwc"
	}
	if o.WithoutWAL {
		mode = "ro&immutable=1"
	}
	uri := "file:" + escaped + "?mode=" + mode
	return uri + "&vfs=" + url.QueryEscape(unmappedVFS(o.VFS))
}

// configure sets everything explicitly, since defaults differ between builds
// of the engine.
func (c *Conn) configure(o ConnOptions) error {
	if err := c.raw.BusyTimeout(o.BusyTimeout); err != nil {
		return err
	}
	if !o.bare {
		extensions := []func(*sqlite3.Conn) error{regexp.Register, fts5.Register, rtree.Register}
		if o.plain {
			extensions = extensions[:1]
		}
		for _, register := range extensions {
			if err := register(c.raw); err != nil {
				return err
			}
		}
	}
	if err := c.registerEmit(); err != nil {
		return err
	}
	if err := c.switches(o); err != nil {
		return err
	}
	if err := c.raw.Exec(pragmas(o)); err != nil {
		return err
	}
	o.Limits.apply(c.raw)
	if o.Role == RoleReader {
		c.guard = GuardRead
	}
	return c.raw.SetAuthorizer(c.authorize)
}

func (c *Conn) switches(o ConnOptions) error {
	applier := c.role == RoleApplier
	for _, s := range []struct {
		op sqlite3.DBConfig
		on bool
	}{
		{sqlite3.DBCONFIG_DEFENSIVE, !applier},
		{sqlite3.DBCONFIG_ENABLE_TRIGGER, !applier},
		{sqlite3.DBCONFIG_ENABLE_FKEY, c.role == RoleWriter || c.role == RoleReader},
		{sqlite3.DBCONFIG_ENABLE_VIEW, true},
		{sqlite3.DBCONFIG_TRUSTED_SCHEMA, false},
		{sqlite3.DBCONFIG_WRITABLE_SCHEMA, false},
		{sqlite3.DBCONFIG_ENABLE_LOAD_EXTENSION, false},
		{sqlite3.DBCONFIG_ENABLE_FTS3_TOKENIZER, false},
		{sqlite3.DBCONFIG_DQS_DML, false},
		{sqlite3.DBCONFIG_DQS_DDL, false},
		{sqlite3.DBCONFIG_LEGACY_ALTER_TABLE, false},
		{sqlite3.DBCONFIG_LEGACY_FILE_FORMAT, false},
		{sqlite3.DBCONFIG_ENABLE_QPSG, false},
		{sqlite3.DBCONFIG_REVERSE_SCANORDER, false},
		{sqlite3.DBCONFIG_NO_CKPT_ON_CLOSE, o.stays},
	} {
		if got, err := c.raw.Config(s.op, s.on); err != nil || got != s.on {
			return base.Errorf(base.KindInternal, "engine setting %d: got %v, want %v (%v)", s.op, got, s.on, err)
		}
	}
	return nil
}

func pragmas(o ConnOptions) string {
	p := fmt.Sprintf("PRAGMA synchronous=NORMAL; PRAGMA cache_size=-%d; PRAGMA wal_autocheckpoint=0; PRAGMA journal_size_limit=%d;"+
		"PRAGMA cell_size_check=ON; PRAGMA mmap_size=0; PRAGMA recursive_triggers=OFF;", o.CacheKiB, journalSizeLimit)
	if o.TempInMemory {
		p += "PRAGMA temp_store=MEMORY;"
	}
	switch o.Role {
	case RoleReader:
		p += "PRAGMA query_only=ON;"
	case RoleApplier:
		p += "PRAGMA ignore_check_constraints=ON;"
	}
	return p
}

// journalSizeLimit is what is left of the -wal when a checkpoint has reset it.
const journalSizeLimit = 64 << 20

// authorize answers the engine's authorizer, always under the guard that the
// running or compiling statement was prepared with.
func (c *Conn) authorize(code sqlite3.AuthorizerActionCode, third, fourth, schema, inner string) sqlite3.AuthorizerReturnCode {
	a := action{code: code, third: third, fourth: fourth, schema: schema, inner: inner}
	if c.found != nil {
		c.found.note(a)
	}
	if err := c.enforced.check(a); err != nil {
		if c.enforced.level() == GuardRead && a.changesRows() {
			// An R-tree compiles the statements that change it when it is first
			// read. Of the client's own statement the compiled form tells.
			c.withheld = err
			return sqlite3.AUTH_OK
		}
		if c.denied == nil {
			c.denied = err
		}
		return sqlite3.AUTH_DENY
	}
	return sqlite3.AUTH_OK
}

// SetGuard sets the guard of the statements prepared next. Readers start with
// GuardRead, the others with GuardOwn.
func (c *Conn) SetGuard(g Guard) { c.guard = g }

// SetInterrupt makes the end of ctx interrupt the statements that run; nil
// clears it. The error's kind follows the context's cause.
func (c *Conn) SetInterrupt(ctx context.Context) {
	if ctx == nil {
		ctx = context.Background()
	}
	c.interrupt = ctx
	c.raw.SetInterrupt(ctx)
}

// fail maps an error, preferring the guard's own words. Every error of the
// engine's that can come of the file passes here, so that its damage is told.
func (c *Conn) fail(err error) error { return c.failIn(err, c.interrupt) }

// failIn is fail for work that another context than the connection's interrupts.
func (c *Conn) failIn(err error, ctx context.Context) error {
	if err == nil {
		return nil
	}
	if d := c.denied; d != nil {
		c.denied = nil
		return d
	}
	if c.failed != nil && IsFatal(err) {
		c.failed.Store(true)
	}
	err = mapError(err, ctx)
	tellDamage(c.damaged, err)
	return err
}

func tellDamage(damaged func(error), err error) {
	if damaged != nil && (base.KindOf(err) == base.KindCorrupt || isFailedSync(err)) {
		damaged(err)
	}
}

// usable refuses a connection that the engine has panicked on.
func (c *Conn) usable() error {
	if c.broken != nil {
		return &base.Error{Kind: base.KindUnavailable, Message: "the connection is broken by an earlier error", Err: c.broken}
	}
	return nil
}

// Broken says that the connection can only be closed.
func (c *Conn) Broken() bool { return c.broken != nil }

// Exec runs our own SQL, of any number of statements, without cache or guard.
func (c *Conn) Exec(sql string) (err error) {
	if err := c.usable(); err != nil {
		return err
	}
	defer func() {
		if r := recover(); r != nil {
			err = c.recovered(r)
		}
	}()
	c.enforced, c.denied = GuardOwn, nil
	changes := mayChangeSchema(sql)
	c.schemaChanged = c.schemaChanged || changes
	err = c.fail(c.raw.Exec(sql))
	if changes {
		c.forget()
	}
	c.announceSchema()
	return err
}

// forget destroys the idle statements; those in use follow when they are closed.
func (c *Conn) forget() {
	c.epoch++
	c.cache.clear()
}

// SchemaChanging says that the open transaction holds a schema change.
func (c *Conn) SchemaChanging() bool { return c.schemaChanged }

// announceSchema reports a schema change once it is committed.
func (c *Conn) announceSchema() {
	if !c.schemaChanged || c.InTransaction() {
		return
	}
	c.schemaChanged = false
	if c.onSchema != nil {
		c.onSchema()
	}
}

// Begin starts a transaction that takes its locks when it needs them.
func (c *Conn) Begin() error { return c.RunOwn("BEGIN") }

// BeginImmediate starts a transaction that may write.
func (c *Conn) BeginImmediate() error {
	if err := c.RunOwn("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	c.transactions++
	if w, err := c.wal(); err == nil { // A database without one has nothing to be captured.
		w.begin()
	}
	return nil
}

// Transaction names the open transaction that BeginImmediate has started: no
// two of a connection have the same number. It is 0 when none is open. While it
// is open no other connection changes anything, the schema included.
func (c *Conn) Transaction() int {
	if !c.InTransaction() {
		return 0
	}
	return c.transactions
}

// Commit commits. Clear the interrupt first: a context that has ended refuses
// this too. After an error ask InTransaction whether it is still open.
func (c *Conn) Commit() error { return c.RunOwn("COMMIT") }

// Rollback undoes the open transaction, also when the connection has been
// interrupted; without a transaction it does nothing.
func (c *Conn) Rollback() error {
	if c.broken != nil || !c.InTransaction() {
		return nil
	}
	old := c.raw.SetInterrupt(context.Background())
	defer c.raw.SetInterrupt(old)
	return c.RunOwn("ROLLBACK")
}

// integer runs a query of ours that returns one integer.
func (c *Conn) integer(sql string) (int64, error) {
	s, err := c.prepare(sql, GuardOwn)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	row, err := s.Step()
	if err != nil {
		return 0, err
	}
	if !row {
		return 0, base.Errorf(base.KindInternal, "%s: no row", sql)
	}
	return s.Column(0).Int, nil
}

// InTransaction says that a transaction is open.
func (c *Conn) InTransaction() bool { return !c.raw.GetAutocommit() }

// Changes returns the rows changed by the last INSERT, UPDATE or DELETE,
// triggers and foreign key actions not counted.
func (c *Conn) Changes() int64 { return c.raw.Changes() }

// TotalChanges returns the rows changed since the connection was opened,
// triggers and foreign key actions counted.
func (c *Conn) TotalChanges() int64 { return c.raw.TotalChanges() }

// LastInsertRowID returns the rowid of the last insert.
func (c *Conn) LastInsertRowID() int64 { return c.raw.LastInsertRowID() }

// SchemaVersion returns the counter that every schema change raises.
func (c *Conn) SchemaVersion() (int64, error) { return c.integer("PRAGMA schema_version") }

// DataVersion returns a number that changes when another connection has
// committed.
func (c *Conn) DataVersion() (int64, error) { return c.integer("PRAGMA data_version") }

// CheckpointMode says how far a checkpoint goes.
type CheckpointMode uint8

// The checkpoint modes.
const (
	// CheckpointPassive copies what it can without waiting for anyone.
	CheckpointPassive CheckpointMode = iota
	// CheckpointFull waits for the writer, then copies everything.
	CheckpointFull
	// CheckpointRestart also waits for readers, so that the -wal starts anew.
	CheckpointRestart
	// CheckpointTruncate also cuts the -wal to nothing.
	CheckpointTruncate
)

// CheckForeignKeys returns the error that Commit would: a deferred foreign key
// that the open transaction violates.
func (c *Conn) CheckForeignKeys() error {
	violated, _, err := c.raw.Status(sqlite3.DBSTATUS_DEFERRED_FKS, false)
	if err != nil {
		return c.fail(err)
	}
	if violated != 0 {
		return &base.Error{Kind: base.KindSQL, SQLState: "23503", Message: "FOREIGN KEY constraint failed"}
	}
	return nil
}

// Checkpoint copies the -wal into the database file. It returns the frames in
// the -wal and how many of them are copied.
func (c *Conn) Checkpoint(mode CheckpointMode) (logFrames, checkpointed int, err error) {
	if err := c.usable(); err != nil {
		return 0, 0, err
	}
	defer func() {
		if r := recover(); r != nil {
			err = c.recovered(r)
		}
	}()
	logFrames, checkpointed, err = c.raw.WALCheckpoint("main", sqlite3.CheckpointMode(mode))
	return logFrames, checkpointed, c.fail(err)
}

// Close closes the connection; an open transaction is rolled back. Statements
// still in use are lost.
func (c *Conn) Close() (err error) {
	if c == nil || c.raw == nil {
		return nil
	}
	raw := c.raw
	c.raw = nil
	_ = c.helper.Close() // It is memory only.
	if c.onClose != nil {
		defer c.onClose()
	}
	if c.broken == nil {
		err = c.finish(raw)
	}
	if c.broken != nil {
		return mapError(abandon(raw), nil)
	}
	return err
}

// finish destroys every statement and closes the connection in good order.
func (c *Conn) finish(raw *sqlite3.Conn) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = c.recovered(r)
		}
	}()
	raw.SetInterrupt(context.Background())
	var open []*sqlite3.Stmt
	for s := range raw.Stmts() {
		open = append(open, s)
	}
	for _, s := range open {
		_ = s.Close() // it repeats the error that the statement has failed with
	}
	return mapError(raw.Close(), nil)
}

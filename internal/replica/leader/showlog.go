package leader

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/statementformat"
)

// LogQuery says which entries of a log are to be shown. The zero value is all.
type LogQuery struct {
	From, To base.Seq // entries that reach into this range; 0: no bound
	Tables   []string // only changes of these, and only entries that have some; case does not matter
	Limit    int      // at most so many entries; 0: all
	Mixed    bool     // only entries whose statements travel as rows
}

// LogEntry is an entry of the log, for people.
type LogEntry struct {
	Place     changelog.Place
	Position  base.Position // of its end
	First     base.Seq
	Time      int64
	Kind      string
	Operation string // "" when no client's operation is named
	Rows      int64  // that the operation has affected
	// Statements are what an entry of kind statement executes.
	Statements []LogStatement
	// Reason is why statements travel as rows.
	Reason string
	// Note tells what else there is to know of the entry.
	Note    string
	Changes []LogChange
	// Unsafe says that it is not as durable yet as the policy asks: a failover
	// may undo it.
	Unsafe bool
	Error  string // why it, or a part of it, could not be read
}

// LogStatement is a statement of an entry, and what it took from outside.
type LogStatement struct {
	SQL     string
	Args    []base.Value
	Outside string
}

// LogChange is one change of an entry.
type LogChange struct {
	Seq                base.Seq
	Op, Table, SQL     string
	Key, Before, After changefeed.Row
}

// ShowLog shows each the entries of this replica's log, and what else the
// files were found to hold up to the last one that was shown.
func (r *Replica) ShowLog(ctx context.Context, q LogQuery, each func(LogEntry) error) (*changelog.Examination, error) {
	s, err := newShower(ctx, q, r, each)
	if err != nil {
		return nil, err
	}
	defer s.namer.close()
	if err := r.commitApplied(ctx); err != nil { // It holds the names of the last entries.
		r.log.Debug("show log", "err", err)
	}
	s.safe = r.safe.get()
	return s.examine(r.changes.Examine)
}

// VerifyLog reads the whole log from disk and checks every checksum, that
// nothing is missing, and that each entry can be read.
func (r *Replica) VerifyLog(ctx context.Context) (*changelog.Examination, error) {
	return r.ShowLog(ctx, LogQuery{}, nil)
}

// ShowLogFolder is ShowLog for the folder of a replica that no process has
// open; it changes nothing. Without each it is VerifyLog.
func ShowLogFolder(ctx context.Context, e *env.Env, dir, name string, q LogQuery, each func(LogEntry) error) (*changelog.Examination, error) {
	h, done := folderHistory(ctx, e, dir+"/"+name+".sqlite")
	defer done()
	s, err := newShower(ctx, q, h, each)
	if err != nil {
		return nil, err
	}
	defer s.namer.close()
	s.safe = ^base.Seq(0) // What is safe nobody knows of a node that is stopped.
	return s.examine(func(ctx context.Context, visit changelog.Visit) (*changelog.Examination, error) {
		return changelog.Examine(ctx, e.FS, dir+"/log", visit)
	})
}

// folderHistory reads the schema's history from a file. Without it, columns
// have no names; that is no reason not to show a log.
func folderHistory(ctx context.Context, e *env.Env, path string) (history, func()) {
	if _, err := e.FS.Stat(path); err != nil {
		return folder{}, func() {}
	}
	conn, err := sqlite.OpenConn(ctx, path, sqlite.ConnOptions{VFS: e.VFS, Role: sqlite.RoleReader})
	if err != nil {
		return folder{}, func() {}
	}
	conn.SetGuard(sqlite.GuardOwn)
	return folder{conn}, func() { _ = conn.Close() }
}

// folder is the history in a file that no process has open.
type folder struct{ conn *sqlite.Conn } // nil when there is none

func (f folder) schemaAt(_ context.Context, seq base.Seq) (map[string]string, base.Seq, error) {
	if f.conn == nil {
		return nil, ^base.Seq(0), nil
	}
	tables, from, err := schemaAt(f.conn, seq)
	if err != nil {
		return nil, ^base.Seq(0), nil
	}
	return tables, from, nil
}

func (f folder) rows(_ context.Context, e *entry.Entry) ([]byte, bool, error) {
	if holdsRows(e) {
		return rowsOf(nil, e)
	}
	if f.conn == nil {
		return nil, false, nil
	}
	body, found, err := keptRows(f.conn, e.First)
	return body, found && err == nil, nil
}

// shower turns entries into what people read.
type shower struct {
	ctx   context.Context
	query LogQuery
	namer *namer
	each  func(LogEntry) error // nil: only verify
	safe  base.Seq
	shown int
	err   error // of each
}

func newShower(ctx context.Context, q LogQuery, h history, each func(LogEntry) error) (*shower, error) {
	n, err := newNamer(ctx, h)
	if err != nil {
		return nil, err
	}
	return &shower{ctx: ctx, query: q, namer: n, each: each}, nil
}

func (s *shower) examine(f func(context.Context, changelog.Visit) (*changelog.Examination, error)) (*changelog.Examination, error) {
	x, err := f(s.ctx, s.visit)
	return x, errors.Join(err, s.err)
}

func (s *shower) visit(at changelog.Place, e *entry.Entry) error {
	switch q := s.query; {
	case context.Cause(s.ctx) != nil:
		s.err = context.Cause(s.ctx)
		return changelog.ErrStop
	case e.Last() < q.From:
		return nil
	case q.To > 0 && e.First > q.To, q.Limit > 0 && s.shown >= q.Limit:
		return changelog.ErrStop
	}
	out := LogEntry{
		Place: at, Position: e.Position(), First: e.First, Time: e.Time, Kind: e.Kind.String(), Unsafe: e.Last() > s.safe,
	}
	if e.HasOperation {
		id, rows := unpackOperation(e.Operation)
		out.Operation, out.Rows = id.String(), rows
	}
	if fault := describeEntry(e, &out); fault != nil {
		out.Error = fault.Error()
		return s.show(out, fault)
	}
	fault := s.namer.read(s.ctx, e, func(c change) error {
		if s.each != nil && s.wants(c) {
			out.Changes = append(out.Changes, LogChange{c.seq, c.op, c.table, c.sql, c.key, c.before, c.after})
		}
		return nil
	})
	if errors.Is(fault, errNoRows) { // Not damage: the statements, or pages, are the entry.
		if out.Note != "" {
			out.Note += "; "
		}
		out.Note, fault = out.Note+errNoRows.Message, nil
		s.namer.stale = true
	}
	if fault == nil {
		fault = s.compare(e)
	}
	if fault != nil {
		out.Error = fault.Error()
		s.namer.stale = true
	}
	return s.show(out, fault)
}

func (s *shower) show(out LogEntry, fault error) error {
	if s.each == nil || s.query.Mixed && out.Reason == "" || len(s.query.Tables) > 0 && len(out.Changes) == 0 {
		return fault
	}
	s.shown++
	if s.err = s.each(out); s.err != nil {
		return changelog.ErrStop
	}
	return fault
}

// compare checks that the rows that are kept of statements are those that their
// leader has hashed.
func (s *shower) compare(e *entry.Entry) error {
	if e.Kind != entry.Statement || holdsRows(e) {
		return nil
	}
	b, err := statementformat.Decode(e.Body)
	if err != nil {
		return err
	}
	rows, found, err := s.namer.history.rows(s.ctx, e)
	if err == nil && found && statementformat.HashRows(rows) != b.Hash {
		err = base.Errorf(base.KindCorrupt, "the rows that are kept of it are not those that its leader has changed")
	}
	return err
}

// describeEntry fills in what an entry holds that is not rows.
func describeEntry(e *entry.Entry, out *LogEntry) error {
	switch e.Kind {
	case entry.Format:
		c, err := entry.DecodeFormatChange(e.Body)
		out.Note = "the log format is " + c.Name + " from here on"
		return err
	case entry.WAL:
		note, err := describePages(e)
		out.Note = note
		return err
	case entry.Statement:
		b, err := statementformat.Decode(e.Body)
		if err != nil {
			return err
		}
		out.Reason = b.Reason
		for i := range b.Statements {
			st := &b.Statements[i]
			shown := LogStatement{SQL: string(st.SQL), Outside: outsideText(st)}
			for _, v := range st.Args {
				shown.Args = append(shown.Args, v.Clone())
			}
			out.Statements = append(out.Statements, shown)
		}
	case entry.Trigger:
		note, err := describeSent(e)
		out.Note = note
		return err
	}
	return nil
}

func outsideText(s *statementformat.Statement) string {
	var list []string
	for _, part := range []struct {
		use  statementformat.Uses
		text string
	}{
		{statementformat.UsesClock, "time " + time.UnixMilli(s.Clock).UTC().Format("2006-01-02 15:04:05.000")},
		{statementformat.UsesSeed, fmt.Sprintf("seed %x", s.Seed)},
		{statementformat.UsesLastRowID, fmt.Sprintf("last_insert_rowid() %d", s.LastRowID)},
		{statementformat.UsesChanges, fmt.Sprintf("changes() %d", s.Changes)},
		{statementformat.UsesTotalChanges, fmt.Sprintf("total_changes() %d", s.TotalChanges)},
	} {
		if s.Uses&part.use != 0 {
			list = append(list, part.text)
		}
	}
	return strings.Join(list, ", ")
}

// wants says whether a change belongs to a table that is asked for. Schema
// changes belong to all: what they concern is in their text.
func (s *shower) wants(c change) bool {
	if len(s.query.Tables) == 0 {
		return true
	}
	if c.op == "schema" {
		return slices.ContainsFunc(s.query.Tables, func(t string) bool {
			return strings.Contains(strings.ToLower(c.sql), strings.ToLower(t))
		})
	}
	return slices.ContainsFunc(s.query.Tables, func(t string) bool { return strings.EqualFold(t, c.table) })
}

// FindFolder returns the folder of a database's replica below a node's data
// folder, by its name.
func FindFolder(fs env.FS, dataDir, name string) (string, error) {
	dir := dataDir + "/db"
	entries, err := fs.ReadDir(dir)
	if err != nil {
		return "", base.Errorf(base.KindNotFound, "%s is not the data folder of a node: %w", dataDir, err)
	}
	found := ""
	for _, e := range entries {
		if base, id, ok := strings.Cut(e.Name(), "."); ok && base == name && !strings.Contains(id, ".") {
			found = dir + "/" + e.Name() // The one with the highest id is the last that was made.
		}
	}
	if found == "" {
		return "", base.Errorf(base.KindNotFound, "the data folder %s holds no database %q", dataDir, name)
	}
	return found, nil
}

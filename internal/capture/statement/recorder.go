package statement

import (
	"fmt"
	"io"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/statementformat"
)

// maxReasons bounds the judgements that are remembered.
const maxReasons = 4096

// Mark is a place in what a Recorder has caught.
type Mark struct {
	rows row.Mark
	at   int
}

// executed is a statement that ran well.
type executed struct {
	statementformat.Statement
	reason string // why it can't be executed elsewhere
	schema bool   // it changes the schema
}

// Recorder catches statements and the rows that they change. The order of calls
// is that of row.Recorder, and Before comes before each statement of a client.
type Recorder struct {
	conn    *sqlite.Conn
	rows    *row.Recorder
	now     func() time.Time
	chance  io.Reader // it never fails
	outside *sqlite.Outside
	list    []executed
	bytes   int

	facts     *facts
	factsOf   int  // the schema that they are of, as the row recorder counts
	fixedTime bool // the functions of the clock are replaced
	reasons   map[string]string
	body      []byte
}

// Taken is a transaction.
type Taken struct {
	Changes int // of rows; 0: nothing has changed
	// Body is a statement body; nil when the transaction changes the schema and
	// travels as its rows. It is valid until the next Take.
	Body []byte
	Rows []byte // the row body; valid until the next Take
	// Replayed says that Body does not hold the rows.
	Replayed bool
}

// NewRecorder replaces what statements see of the outside, and starts to catch.
func NewRecorder(conn *sqlite.Conn, now func() time.Time, chance io.Reader) (*Recorder, error) {
	f, err := readFacts(conn)
	if err != nil {
		return nil, err
	}
	if err := conn.FixOutside(f.fixedTime); err != nil {
		return nil, err
	}
	rows, err := row.NewRecorder(conn)
	if err != nil {
		return nil, err
	}
	return &Recorder{
		conn: conn, rows: rows, now: now, chance: chance, facts: f, factsOf: rows.SchemasRead(),
		fixedTime: f.fixedTime, reasons: make(map[string]string),
	}, nil
}

// Close stops catching; the connection stays open.
func (r *Recorder) Close() { r.rows.Close() }

// Mark returns the present place.
func (r *Recorder) Mark() Mark { return Mark{rows: r.rows.Mark(), at: len(r.list)} }

// Rewind forgets what was caught after m.
func (r *Recorder) Rewind(m Mark) {
	r.conn.SetOutside(nil)
	r.rows.Rewind(m.rows)
	if m.at < len(r.list) {
		r.list = r.list[:m.at]
	}
	if len(r.list) == 0 {
		r.bytes = 0
	}
}

// Size returns the bytes that are held.
func (r *Recorder) Size() int { return r.rows.Size() + r.bytes }

// Err returns why a change could not be captured.
func (r *Recorder) Err() error { return r.rows.Err() }

// SchemasRead rises whenever the schema may have changed.
func (r *Recorder) SchemasRead() int { return r.rows.SchemasRead() }

// Stale says that the schema has changed so that another Recorder, on another
// connection, is needed before the next transaction.
func (r *Recorder) Stale() bool {
	return r.refresh() == nil && r.facts.fixedTime != r.fixedTime
}

func (r *Recorder) refresh() error {
	if r.factsOf == r.rows.SchemasRead() {
		return nil
	}
	f, err := readFacts(r.conn)
	if err != nil {
		return err
	}
	r.facts, r.factsOf = f, r.rows.SchemasRead()
	clear(r.reasons)
	return nil
}

// Before is called when a statement is about to run.
func (r *Recorder) Before(st *sqlite.Stmt) {
	o := &sqlite.Outside{Clock: r.now().UnixMilli(), RefuseNow: st.Info().Tag == "CREATE INDEX"}
	_, _ = r.chance.Read(o.Seed[:])
	r.conn.Left(o)
	r.conn.SetOutside(o)
	r.outside = o
}

// After is called when it ran well; an error means that it must be undone.
func (r *Recorder) After(st *sqlite.Stmt, sql string, args []base.Value) error {
	r.conn.SetOutside(nil)
	if err := r.rows.Statement(st.Info(), sql); err != nil {
		return err
	}
	if st.Info().ReadOnly {
		return nil
	}
	e := executed{Statement: taken(r.outside), schema: st.Info().Kind == session.Schema}
	e.SQL = []byte(sql)
	for _, v := range args {
		e.Args = append(e.Args, v.Clone())
	}
	reason, err := r.judge(st, sql)
	if err != nil {
		return err
	}
	if e.reason = reason; reason == "" {
		e.reason = local(r.outside)
	}
	r.list = append(r.list, e)
	r.bytes += e.Size()
	return nil
}

func (r *Recorder) judge(st *sqlite.Stmt, sql string) (string, error) {
	if err := r.refresh(); err != nil {
		return "", err
	}
	reason, known := r.reasons[sql]
	if !known {
		if len(r.reasons) >= maxReasons {
			clear(r.reasons)
		}
		reason = r.facts.reason(sql, st.Touches())
		r.reasons[sql] = reason
	}
	return reason, nil
}

// local says why what a statement has met when it ran is of this copy alone.
func local(o *sqlite.Outside) string {
	switch {
	case o.Local != "":
		return "it depends on " + o.Local
	case o.UsedChanges && o.Changes > sqlite.MaxChanges:
		return fmt.Sprintf("changes() after a statement that has changed %d rows", o.Changes)
	}
	return ""
}

// taken is what a statement took from outside.
func taken(o *sqlite.Outside) (s statementformat.Statement) {
	if o.UsedClock {
		s.Uses |= statementformat.UsesClock
		s.Clock = o.Clock
	}
	if o.UsedSeed {
		s.Uses |= statementformat.UsesSeed
		s.Seed = o.Seed
	}
	if o.UsedLastRowID {
		s.Uses |= statementformat.UsesLastRowID
		s.LastRowID = o.LastRowID
	}
	if o.UsedChanges {
		s.Uses |= statementformat.UsesChanges
		s.Changes = o.Changes
	}
	if o.UsedTotalChanges {
		s.Uses |= statementformat.UsesTotalChanges
		s.TotalChanges = o.TotalChanges
	}
	return s
}

// Take returns everything after m, and forgets it.
func (r *Recorder) Take(m Mark) (t Taken, err error) {
	t.Rows, t.Changes, err = r.rows.Take(m.rows)
	if err != nil {
		return t, err
	}
	list := r.list[min(m.at, len(r.list)):]
	defer func() {
		clear(list)
		r.list = r.list[:len(r.list)-len(list)]
	}()
	if t.Changes == 0 {
		return t, nil
	}
	b := statementformat.Body{Hash: statementformat.HashRows(t.Rows)}
	for i := range list {
		if list[i].schema {
			return t, nil
		}
		if b.Reason == "" {
			b.Reason = list[i].reason
		}
		b.Statements = append(b.Statements, list[i].Statement)
	}
	if len(list) == 0 {
		b.Reason = "the change was made by no statement of a client"
	}
	if t.Replayed = b.Reason == ""; !t.Replayed {
		b.Rows = t.Rows
	}
	r.body = statementformat.Append(r.body[:0], &b)
	t.Body = r.body
	return t, nil
}

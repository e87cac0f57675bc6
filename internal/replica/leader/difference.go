package leader

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/statementformat"
)

// RowsMethod is the call that ServeRows answers.
const RowsMethod = "replica.rows"

const (
	fetchRowsTime  = 10 * time.Second
	shownRows      = 8    // of a difference, on each side
	shownRowLength = 200  // bytes of one
	shownSQL       = 1000 // bytes of a statement
)

// difference is an entry whose statements have not done here what they did on
// the leader. It is healed with the leader's rows.
type difference struct {
	at    base.Position
	first base.Seq
	hash  statementformat.Hash
	sql   string
	own   []byte // the row body of what they did here; nil when they failed
	cause error
}

func newDifference(e *entry.Entry, b *statementformat.Body, own []byte, cause error) *difference {
	d := &difference{at: e.Position(), first: e.First, hash: b.Hash, own: bytes.Clone(own), cause: cause}
	var list []string
	for _, s := range b.Statements {
		list = append(list, string(s.SQL))
	}
	d.sql = strings.Join(list, "; ")
	d.sql = d.sql[:min(len(d.sql), shownSQL)]
	return d
}

func (d *difference) Error() string {
	return fmt.Sprintf("entry %v does not do here what it did on the leader: %s: %v", d.at, d.sql, d.cause)
}

func (d *difference) Unwrap() error { return d.cause }

// rowsRequest asks for the rows that an entry has changed.
type rowsRequest struct {
	Database base.DatabaseID `json:"database"`
	Epoch    base.Epoch      `json:"epoch"` // of the entry
	First    base.Seq        `json:"first"`
}

// RowsDatabase says which database a request of RowsMethod is about.
func RowsDatabase(request []byte) (base.DatabaseID, error) {
	var q rowsRequest
	if err := json.Unmarshal(request, &q); err != nil {
		return 0, base.Errorf(base.KindInvalid, "bad request for rows: %w", err)
	}
	return q.Database, nil
}

// ServeRows returns the row body that is kept of an entry, for a follower whose
// own rows differ.
func (r *Replica) ServeRows(ctx context.Context, request []byte) ([]byte, error) {
	var q rowsRequest
	if err := json.Unmarshal(request, &q); err != nil {
		return nil, base.Errorf(base.KindInvalid, "bad request for rows: %w", err)
	}
	if err := r.commitApplied(ctx); err != nil {
		return nil, err
	}
	if r.executed.get() < q.First || r.changes.EpochAt(q.First) != q.Epoch {
		return nil, base.Errorf(base.KindNotFound, "entry %d of epoch %d was not executed here", q.First, q.Epoch)
	}
	var body []byte
	found := false
	err := r.readOwn(ctx, func(conn *sqlite.Conn) (err error) {
		body, found, err = keptRows(conn, q.First)
		return err
	})
	if err == nil && !found {
		err = base.Errorf(base.KindNotFound, "the rows of entry %d are not kept any more", q.First)
	}
	return body, err
}

// readOwn calls f with a connection that may read our own tables.
func (r *Replica) readOwn(ctx context.Context, f func(conn *sqlite.Conn) error) error {
	file, err := r.useFile()
	if err != nil {
		return err
	}
	defer file.release()
	return withOwn(ctx, file.db, f)
}

// withOwn calls f with a reader of a file that may read our own tables, until it
// is given back.
func withOwn(ctx context.Context, db *sqlite.Database, f func(conn *sqlite.Conn) error) error {
	conn, err := db.Reader(ctx)
	if err != nil {
		return err
	}
	defer db.ReleaseReader(conn)
	conn.SetGuard(sqlite.GuardOwn)
	return f(conn)
}

// heal gets the rows of an entry that the applier could not execute equally, from
// the leader or another replica that has executed it: the applier then takes
// them for that entry. One that nobody has any more makes it row.ErrDiverged: the
// replica has to be copied.
func (a *applier) heal(ctx context.Context, d *difference) error {
	body, err := a.replica.fetchRows(ctx, d)
	a.replica.reportDifference(d, body, err)
	if err != nil {
		return err
	}
	a.fetched.first, a.fetched.epoch, a.fetched.body = d.first, d.at.Epoch, body
	return nil
}

// fetchedRows are the leader's rows of an entry that went wrong here.
func (a *applier) fetchedRows(e *entry.Entry) []byte {
	if a.fetched.body == nil || a.fetched.first != e.First || a.fetched.epoch != e.Epoch {
		return nil
	}
	return a.fetched.body
}

// fetchRows asks the leader first.
func (r *Replica) fetchRows(ctx context.Context, d *difference) ([]byte, error) {
	a := r.assignment()
	q, err := json.Marshal(rowsRequest{Database: r.options.Database, Epoch: d.at.Epoch, First: d.first})
	if err != nil {
		return nil, err
	}
	nodes := slices.Clone(a.Replicas)
	slices.SortStableFunc(nodes, func(x, y base.NodeID) int {
		switch a.Leader {
		case x:
			return -1
		case y:
			return 1
		}
		return 0
	})
	var failures []error
	// Nobody has them, if the leader has not, or nobody else when that is this one.
	gone := true
	for _, node := range nodes {
		if node == r.options.Transport.Self() {
			continue
		}
		asking, cancel := r.env.Clock.WithTimeout(ctx, fetchRowsTime, context.DeadlineExceeded)
		body, err := r.options.Transport.Call(asking, node, RowsMethod, q)
		cancel()
		if err == nil && statementformat.HashRows(body) == d.hash {
			return body, nil
		}
		if err == nil {
			err = fmt.Errorf("its rows are others")
		} else if base.KindOf(err) != base.KindNotFound && (node == a.Leader || a.Leader == r.options.Transport.Self()) {
			gone = false
		}
		failures = append(failures, fmt.Errorf("node %v: %w", node, err))
	}
	err = fmt.Errorf("no replica has given the rows of entry %v: %w", d.at, errors.Join(failures...))
	if gone {
		err = fmt.Errorf("%w: %w", row.ErrDiverged, err)
	}
	return nil, err
}

// reportDifference tells people: the log has both row sets, and the status shows
// that there was one.
func (r *Replica) reportDifference(d *difference, leaders []byte, err error) {
	here, there := showRows(d.own), showRows(leaders)
	outcome := "the leader's rows are taken"
	if err != nil {
		outcome = err.Error()
	}
	r.log.Error("a statement does not do here what it did on the leader", "entry", d.at, "sql", d.sql, "why", d.cause,
		"rows here", here, "rows there", there, "healing", outcome)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.difference.at != d.at {
		r.mu.differences++
	}
	r.mu.difference.at = d.at
	r.mu.difference.text = fmt.Sprintf("entry %v: %s; here: %s; there: %s; %s", d.at, d.sql, here, there, outcome)
}

// showRows writes the first changes of a row body for people.
func showRows(body []byte) string {
	if body == nil {
		return "none"
	}
	var list []string
	more := 0
	for c, err := range row.Describe(body) {
		if err != nil {
			return err.Error()
		}
		if len(list) == shownRows {
			more++
			continue
		}
		text := c.Op + " " + c.Table + " " + showValues(c.Key)
		if c.Old != nil {
			text += " old " + showValues(c.Old)
		}
		if c.New != nil {
			text += " new " + showValues(c.New)
		}
		list = append(list, text[:min(len(text), shownRowLength)])
	}
	text := strings.Join(list, ", ")
	if more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func showValues(values []base.Value) string {
	var list []string
	for _, v := range values {
		list = append(list, row.Show(v))
	}
	return "(" + strings.Join(list, ", ") + ")"
}

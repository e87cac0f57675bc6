package server

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/node"
	"github.com/skeindb/skein/internal/replica/leader"
	"github.com/skeindb/skein/internal/session"
)

// The outcomes of an orphaned write.
const (
	orphanReplayed  = "replayed"
	orphanDiscarded = "discarded"
	orphanConflict  = "conflict"
)

type settleRequest struct {
	Database string               `json:"database"`
	Which    httpapi.OrphanChoice `json:"which"`
	Replay   bool                 `json:"replay"`
}

func rowidName(o leader.Orphan) []string {
	if o.RowIDName == "" {
		return nil
	}
	return []string{o.RowIDName}
}

func acknowledgedText(v base.Value) string {
	switch {
	case v.Kind == base.Null:
		return "unknown"
	case v.Int != 0:
		return "yes"
	}
	return "no"
}

// SettleOrphans implements httpapi.Node.
func (s *Server) SettleOrphans(ctx context.Context, database string, which httpapi.OrphanChoice, replay bool) ([]httpapi.OrphanOutcome, error) {
	db, err := s.node.Database(database)
	if err != nil {
		return nil, err
	}
	q := settleRequest{Database: database, Which: which, Replay: replay}
	b, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	concerns := func(id base.NodeID) bool {
		return db.HasReplica(id) && (which.Node == "" || which.Node == id.String())
	}
	var all []httpapi.OrphanOutcome
	if concerns(s.node.ID()) {
		if all, err = settleLocal(ctx, s.node, q); err != nil {
			return all, err
		}
	}
	for _, a := range s.askAll(ctx, settleCall, b, hashTimeout, func(m catalog.Node) bool { return concerns(m.ID) }) {
		var list []httpapi.OrphanOutcome
		if a.err == nil {
			a.err = json.Unmarshal(a.reply, &list)
		}
		if a.err != nil {
			return all, fmt.Errorf("node %s: %w", a.node.Name, a.err)
		}
		all = append(all, list...)
	}
	return all, nil
}

// settleLocal settles what this node keeps, oldest first.
func settleLocal(ctx context.Context, n *node.Node, q settleRequest) ([]httpapi.OrphanOutcome, error) {
	r, err := n.Replica(q.Database)
	if err != nil {
		return nil, err
	}
	kept, err := r.Orphans(ctx, maxOrphans)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(kept, func(a, b leader.Orphan) int { return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Seq, b.Seq)) })
	var outcomes []httpapi.OrphanOutcome
	for _, o := range kept {
		if q.Which.Epoch != 0 && q.Which.Epoch != o.Epoch || q.Which.Seq != 0 && q.Which.Seq != o.Seq {
			continue
		}
		outcome := httpapi.OrphanOutcome{Node: n.ID().String(), Epoch: o.Epoch, Seq: o.Seq, Outcome: orphanDiscarded}
		if q.Replay {
			outcome.Outcome = orphanReplayed
			conflict, err := replayOrphan(ctx, n, q.Database, o)
			if err != nil {
				return outcomes, fmt.Errorf("replay %d/%d: %w", o.Epoch, o.Seq, err)
			}
			if conflict != "" {
				outcome.Outcome, outcome.Message = orphanConflict, conflict
				outcomes = append(outcomes, outcome)
				continue
			}
		}
		if err := r.DropOrphan(ctx, o.Epoch, o.Seq); err != nil {
			return outcomes, err
		}
		outcomes = append(outcomes, outcome)
	}
	return outcomes, nil
}

// replayOrphan writes one change again, named so that it is done once. It returns
// what is in its way, if anything is: then nothing was changed.
func replayOrphan(ctx context.Context, n *node.Node, database string, o leader.Orphan) (conflict string, err error) {
	sql, args, conflict := replaySQL(o)
	if sql == "" {
		return conflict, nil
	}
	s, err := n.Gateway().Open(ctx, session.Options{Trusted: true, Database: database, FrontEnd: "orphans"})
	if err != nil {
		return "", err
	}
	defer s.Close()
	if o.Operation != "schema" {
		// Those that say what is sent to partial replicas must run, and change nothing.
		triggers, err := queryCount(ctx, s, `SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE
			AND name NOT LIKE 'skein\_log\_%' ESCAPE '\'`, base.TextValue(o.Table))
		if err != nil {
			return "", err
		}
		if triggers > 0 {
			return "the table has triggers, which would run again; what they did is listed as changes of its own: write it by hand, then discard it", nil
		}
	}
	if err := s.Set("skein.operation", fmt.Sprintf("orphan %s %d/%d", n.ID(), o.Epoch, o.Seq)); err != nil {
		return "", err
	}
	rows, err := s.Query(ctx, sql, args)
	if err != nil {
		if e := base.AsError(err); e.Kind == base.KindSQL {
			return e.Error(), nil
		}
		return "", err
	}
	for rows.Next() {
	}
	if err := rows.Err(); err != nil {
		return "", err
	}
	result := rows.Result()
	if err := rows.Close(); err != nil {
		return "", err
	}
	if (o.Operation == "update" || o.Operation == "delete") && result.RowsAffected == 0 {
		return "the row is not as this change found it: it is gone, or was changed since", nil
	}
	return "", nil
}

func queryCount(ctx context.Context, s session.Session, sql string, args ...base.Value) (int64, error) {
	rows, err := s.Query(ctx, sql, args)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	if !rows.Next() {
		return 0, rows.Err()
	}
	return rows.Row()[0].Int, nil
}

// replaySQL is the statement that makes a change again if the row is as the
// change found it. Without one, conflict says why; if that is empty too, there is
// nothing to do.
func replaySQL(o leader.Orphan) (sql string, args []base.Value, conflict string) {
	switch o.Operation {
	case "sequence", "statistics":
		return "", nil, "" // Inserts raise sequences themselves, and ANALYZE is no data.
	case "statement":
		return "", nil, "what these statements have changed is not known: run them by hand, then discard this"
	case "pages":
		return "", nil, "what this transaction has changed is not known: write it by hand, then discard this"
	case "schema":
		if len(o.New) == 1 {
			return string(o.New[0].Bytes), nil, ""
		}
	}
	known := len(o.Columns) > 0 && (o.Old == nil || len(o.Old) == len(o.Columns)) && (o.New == nil || len(o.New) == len(o.Columns)) ||
		len(o.Columns) == 0 && o.RowIDName != ""
	if !known {
		return "", nil, "the table is not known any more, or has other columns"
	}
	b := statement{}
	switch o.Operation {
	case "insert":
		b.insert(o)
	case "update":
		b.update(o)
	case "delete":
		b.write("DELETE FROM " + quote(o.Table))
		b.where(o)
	default:
		return "", nil, "a change of this kind can't be replayed: write it by hand, then discard it"
	}
	return b.sql.String(), b.args, ""
}

// statement is SQL being written, with its arguments.
type statement struct {
	sql  strings.Builder
	args []base.Value
}

func (b *statement) write(text string) { b.sql.WriteString(text) }

func (b *statement) arg(v base.Value) {
	b.args = append(b.args, v)
	fmt.Fprintf(&b.sql, "?%d", len(b.args))
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func (b *statement) insert(o leader.Orphan) {
	names, values := o.Columns, o.New
	if o.RowIDName != "" {
		names, values = append([]string{o.RowIDName}, names...), append([]base.Value{o.Key[0]}, values...)
	}
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = quote(name)
	}
	b.write("INSERT INTO " + quote(o.Table) + " (" + strings.Join(quoted, ", ") + ") VALUES (")
	for i, v := range values {
		if i > 0 {
			b.write(", ")
		}
		b.arg(v)
	}
	b.write(")")
}

func (b *statement) update(o leader.Orphan) {
	b.write("UPDATE " + quote(o.Table) + " SET ")
	first := true
	for i, name := range o.Columns {
		if o.Old[i].Equal(o.New[i]) {
			continue
		}
		if !first {
			b.write(", ")
		}
		first = false
		b.write(quote(name) + " = ")
		b.arg(o.New[i])
	}
	if first {
		b.write(quote(o.Columns[0]) + " = " + quote(o.Columns[0]))
	}
	b.where(o)
}

// where picks the row as the change found it.
func (b *statement) where(o leader.Orphan) {
	b.write(" WHERE ")
	if o.RowIDName != "" {
		b.write(quote(o.RowIDName) + " = ")
		b.arg(o.Key[0])
		if len(o.Columns) > 0 {
			b.write(" AND ")
		}
	}
	for i, name := range o.Columns {
		if i > 0 {
			b.write(" AND ")
		}
		b.write(quote(name) + " IS ")
		b.arg(o.Old[i])
	}
}

package server

import (
	"context"
	"time"

	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/jsonvalue"
	"github.com/skeindb/skein/internal/node"
	"github.com/skeindb/skein/internal/replica/leader"
)

// ShowLog implements httpapi.Node.
func (s *Server) ShowLog(ctx context.Context, database string, q httpapi.LogQuery, each func(httpapi.LogEntry) error) (*httpapi.LogReport, error) {
	r, err := s.node.Replica(database)
	if err != nil {
		return nil, err
	}
	x, err := r.ShowLog(ctx, leader.LogQuery(q), func(e leader.LogEntry) error { return each(logEntry(e)) })
	return logReport(database, s.node.ID().String(), x), err
}

// VerifyLog implements httpapi.Node.
func (s *Server) VerifyLog(ctx context.Context, database string) (*httpapi.LogReport, error) {
	r, err := s.node.Replica(database)
	if err != nil {
		return nil, err
	}
	x, err := r.VerifyLog(ctx)
	return logReport(database, s.node.ID().String(), x), err
}

// ShowLogFolder shows the log of a database in the data folder of a node that
// does not run, and changes nothing in it; without each it only verifies.
func ShowLogFolder(ctx context.Context, e *env.Env, dataDir, database string, q httpapi.LogQuery, each func(httpapi.LogEntry) error) (report *httpapi.LogReport, err error) {
	dir, err := leader.FindFolder(e.FS, dataDir, database)
	if err != nil {
		return nil, err
	}
	lock, err := node.LockFolder(e.FS, dataDir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	var show func(leader.LogEntry) error
	if each != nil {
		show = func(e leader.LogEntry) error { return each(logEntry(e)) }
	}
	x, err := leader.ShowLogFolder(ctx, e, dir, database, leader.LogQuery(q), show)
	return logReport(database, "", x), err
}

func logEntry(e leader.LogEntry) httpapi.LogEntry {
	out := httpapi.LogEntry{
		Position: e.Position.String(), Epoch: e.Position.Epoch, First: e.First, Last: e.Position.Seq, Time: time.Unix(0, e.Time).UTC(),
		Kind: e.Kind, Operation: e.Operation, Segment: e.Place.Segment, Offset: e.Place.Offset, Bytes: e.Place.Bytes,
		Safe: !e.Unsafe, Changes: []httpapi.LogChange{}, Error: e.Error,
		Reason: e.Reason, Note: e.Note,
	}
	for _, s := range e.Statements {
		shown := httpapi.LogStatement{SQL: s.SQL, Outside: s.Outside}
		for _, v := range s.Args {
			shown.Args = append(shown.Args, jsonvalue.Value(v))
		}
		out.Statements = append(out.Statements, shown)
	}
	for _, c := range e.Changes {
		out.Changes = append(out.Changes, httpapi.LogChange{
			Seq: c.Seq, Op: c.Op, Table: c.Table, Key: c.Key, Old: c.Before, New: c.After, SQL: c.SQL,
		})
	}
	return out
}

func logReport(database, node string, x *changelog.Examination) *httpapi.LogReport {
	if x == nil {
		return nil
	}
	r := &httpapi.LogReport{
		Database: database, Node: node, Sound: x.Found == 0, Segments: x.Segments, Bytes: x.Bytes, Entries: x.Entries,
		First: x.First, End: x.End.String(), Faults: []httpapi.LogFault{}, Found: x.Found,
	}
	for _, f := range x.Faults {
		r.Faults = append(r.Faults, *logFault(&f))
	}
	if x.Torn != nil {
		r.Torn = logFault(x.Torn)
	}
	return r
}

func logFault(f *changelog.Fault) *httpapi.LogFault {
	return &httpapi.LogFault{Segment: f.Segment, Offset: f.Offset, After: f.After.String(), Reason: f.Reason}
}

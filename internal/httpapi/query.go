package httpapi

import (
	"context"
	"net/http"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/jsonvalue"
	"github.com/skeindb/skein/internal/session"
)

// TokenHeader carries the token of what a client has seen, in and out.
const TokenHeader = "Skein-Token"

// ReplicaHeader names the node whose replica reads of level sticky keep to, in and
// out.
const ReplicaHeader = "Skein-Replica"

// QueryRequest is the body of POST /v1/databases/{name}/query.
type QueryRequest struct {
	SQL        string            `json:"sql"`
	Args       []jsonvalue.Value `json:"args"`
	Token      string            `json:"token"`      // or the Skein-Token header
	Read       string            `json:"read"`       // skein.read
	Replica    string            `json:"replica"`    // skein.replica, or the Skein-Replica header
	Durability string            `json:"durability"` // skein.durability
	Operation  string            `json:"operation"`  // skein.operation
}

// QueryResult is its answer. Of a statement that returned no rows Columns and
// Rows are empty.
type QueryResult struct {
	Columns      []string            `json:"columns"`
	Rows         [][]jsonvalue.Value `json:"rows"`
	RowsAffected int64               `json:"rows_affected"`
	LastInsertID jsonvalue.Value     `json:"last_insert_id"` // exact, as every integer
	Tag          string              `json:"tag"`
	Position     string              `json:"position"` // "epoch/seq" that was read or written
	AgeSeconds   float64             `json:"age_seconds"`
	Token        string              `json:"token"`
	Asked        string              `json:"asked,omitempty"`   // durability asked of a commit
	Reached      string              `json:"reached,omitempty"` // durability reached
	Degraded     bool                `json:"degraded"`
}

func (a *API) query(w http.ResponseWriter, r *http.Request) (any, error) {
	var q QueryRequest
	if err := readJSON(w, r, a.options.MaxQueryBody, &q); err != nil {
		return nil, err
	}
	if q.Token == "" {
		q.Token = r.Header.Get(TokenHeader)
	}
	if q.Replica == "" {
		q.Replica = r.Header.Get(ReplicaHeader)
	}
	s, err := a.session(r)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := q.settings(s); err != nil {
		return nil, err
	}
	result, err := a.run(r.Context(), s, &q)
	// A failed statement may have seen something too, so the token goes out in
	// both cases.
	if token, tokenErr := s.Show(r.Context(), "skein.token"); tokenErr == nil {
		w.Header().Set(TokenHeader, token)
		if result != nil {
			result.Token = token
		}
	}
	if kept, keptErr := s.Show(r.Context(), "skein.replica"); keptErr == nil && kept != "" {
		w.Header().Set(ReplicaHeader, kept)
	}
	if err != nil {
		return nil, err
	}
	return result, nil
}

// OperationOutcome is what has become of a named write.
type OperationOutcome struct {
	Operation string `json:"operation"`
	Outcome   string `json:"outcome"` // "applied", "not applied" or "unknown"
}

// outcome tells what has become of a write that the client has named, or that an
// error of outcome indeterminate names.
func (a *API) outcome(_ http.ResponseWriter, r *http.Request) (any, error) {
	s, err := a.session(r)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	name := r.PathValue("operation")
	if err := s.Set("skein.operation", name); err != nil {
		return nil, err
	}
	outcome, err := s.Show(r.Context(), "skein.outcome")
	if err != nil {
		return nil, err
	}
	return OperationOutcome{Operation: name, Outcome: outcome}, nil
}

func (q *QueryRequest) settings(s session.Session) error {
	for _, setting := range [][2]string{
		{"skein.token", q.Token}, {"skein.read", q.Read}, {"skein.replica", q.Replica}, {"skein.durability", q.Durability},
		{"skein.operation", q.Operation},
	} {
		if setting[1] == "" {
			continue
		}
		if err := s.Set(setting[0], setting[1]); err != nil {
			return err
		}
	}
	return nil
}

func (a *API) run(ctx context.Context, s session.Session, q *QueryRequest) (*QueryResult, error) {
	args := make([]base.Value, len(q.Args))
	for i, v := range q.Args {
		args[i] = base.Value(v)
	}
	rows, err := s.Query(ctx, q.SQL, args)
	if err != nil {
		return nil, err
	}
	result, err := a.collect(rows)
	if err == nil {
		result.finish(rows.Result())
	}
	if closeErr := rows.Close(); err == nil {
		err = closeErr
	}
	if err == errResultTooLarge {
		return nil, a.tooLarge(ctx, s, q.SQL)
	}
	if err != nil {
		return nil, err
	}
	if s.TxStatus() != session.TxIdle {
		return nil, base.Errorf(base.KindUnsupported, "a transaction cannot outlive a request").
			WithHint("It was rolled back. Use one statement a request, or the PostgreSQL port for transactions.")
	}
	return result, nil
}

var errResultTooLarge = base.Errorf(base.KindTooLarge, "the result is too large")

// tooLarge says what a result that cannot be sent means for the data.
func (a *API) tooLarge(ctx context.Context, s session.Session, sql string) error {
	err := base.Errorf(base.KindTooLarge, "the result is larger than %d bytes", a.options.MaxResult).
		WithHint("Add a LIMIT, or read it over the PostgreSQL port, which has no such limit.")
	if d, describeErr := s.Describe(ctx, sql); describeErr != nil || d.Kind != session.Read {
		return err.WithOutcome(base.Done) // Query returns only after a write's commit.
	}
	return err
}

func (a *API) collect(rows session.Rows) (*QueryResult, error) {
	result := &QueryResult{Columns: []string{}, Rows: [][]jsonvalue.Value{}}
	for _, c := range rows.Columns() {
		result.Columns = append(result.Columns, c.Name)
	}
	room := a.options.MaxResult
	for rows.Next() {
		row := rows.Row()
		kept := make([]jsonvalue.Value, len(row))
		for i, v := range row {
			v.Bytes = append([]byte(nil), v.Bytes...) // Row is valid only until Next.
			kept[i] = jsonvalue.Value(v)
			room -= 8 + len(v.Bytes)
		}
		if room < 0 {
			return nil, errResultTooLarge
		}
		result.Rows = append(result.Rows, kept)
	}
	return result, rows.Err()
}

func (q *QueryResult) finish(r session.Result) {
	q.Tag, q.RowsAffected, q.LastInsertID = r.Tag, r.RowsAffected, jsonvalue.Value(base.IntValue(r.LastInsertID))
	q.Position, q.AgeSeconds = r.Position.String(), r.Age.Seconds()
	q.Reached, q.Degraded = r.Reached, r.Degraded
	if r.Asked.Level != "" {
		q.Asked = r.Asked.String()
	}
}

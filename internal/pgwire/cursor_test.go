package pgwire

import (
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
)

// watchedRows write down when they rest and wake.
type watchedRows struct {
	fakeRows
	events *[]string
}

func (r *watchedRows) Rest()        { *r.events = append(*r.events, "rest") }
func (r *watchedRows) Wake()        { *r.events = append(*r.events, "wake") }
func (r *watchedRows) Close() error { *r.events = append(*r.events, "close"); return nil }

func (r *watchedRows) Next() bool {
	*r.events = append(*r.events, "row")
	return r.fakeRows.Next()
}

// Between messages no statement runs, although a cursor is open: a time limit
// and a cancel request are for what a client waits for.
func TestOpenRowsRestBetweenMessages(t *testing.T) {
	var events []string
	f := &fake{query: func(sql string) (any, error) {
		if strings.HasPrefix(sql, "SELECT") {
			return &watchedRows{fakeRows{left: 3}, &events}, nil
		}
		return nil, nil
	}}
	s := serveFake(t, f, Options{})
	r := s.login(t)
	for _, sql := range []string{"BEGIN", "DECLARE c CURSOR FOR SELECT", "FETCH c", "UPDATE t", "FETCH ALL FROM c", "COMMIT"} {
		r.Send(&pgproto3.Query{String: sql})
		r.must(r.Flush())
		r.until('Z', 1)
		events = append(events, sql)
	}
	want := []string{"BEGIN", "row", "rest", "DECLARE c CURSOR FOR SELECT", "wake", "rest", "FETCH c",
		"wake", "row", "row", "row", "close", "UPDATE t", "FETCH ALL FROM c", "COMMIT"}
	if !slices.Equal(events, want) {
		t.Errorf("got  %q\nwant %q", events, want)
	}
}

// A driver reads with cursors in each of its modes.
func TestDriverReadsCursors(t *testing.T) {
	s := serve(t, Options{})
	mustExec(t, s.connect(t, pgx.QueryExecModeSimpleProtocol), "CREATE TABLE t(id INTEGER PRIMARY KEY, at TIMESTAMP, ok BOOLEAN); INSERT INTO t SELECT value, '2024-02-29 12:00:00', value % 2 FROM json_each('[1,2,3,4,5,6,7]')")
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		c := s.connect(t, mode)
		for range 2 {
			mustExec(t, c, "BEGIN")
			mustExec(t, c, "DECLARE c BINARY CURSOR FOR SELECT id, at, ok FROM t WHERE id > $1 ORDER BY id", 2)
			var got []int64
			for more := true; more; {
				rows, err := c.Query(ctx, "FETCH 3 FROM c")
				if err != nil {
					t.Fatal(err)
				}
				more = false
				for rows.Next() {
					values, err := rows.Values()
					if err != nil {
						t.Fatal(err)
					}
					got, more = append(got, values[0].(int64)), true
				}
				if rows.Err() != nil {
					t.Fatal(rows.Err())
				}
			}
			if !slices.Equal(got, []int64{3, 4, 5, 6, 7}) {
				t.Errorf("%v: %v", mode, got)
			}
			mustExec(t, c, "COMMIT")
		}
	}
}

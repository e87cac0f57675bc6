package statement_test

import (
	"fmt"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/statementformat"
)

// BenchmarkUpdateMany changes a thousand rows by one statement and executes it
// again: what the log gets of it, against the rows that it changes, and what the
// follower's part costs in either format.
func BenchmarkUpdateMany(b *testing.B) {
	const sql = "UPDATE accounts SET balance = balance + ?1 WHERE branch = ?2"
	for _, replay := range []bool{false, true} {
		name := "row"
		if replay {
			name = "statement"
		}
		b.Run(name, func(b *testing.B) {
			c := newCopies(b, 1)
			c.transaction("CREATE TABLE accounts(id INTEGER PRIMARY KEY, branch INT, balance INT, filler TEXT)", "CREATE INDEX accounts_branch ON accounts(branch)")
			c.transaction("WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM n WHERE i<9999) INSERT INTO accounts SELECT i, i % 10, 0, printf('%84s', '') FROM n")
			st, err := c.leader.Prepare(sql)
			must(b, err)
			defer st.Close()
			var bytes int
			b.ResetTimer()
			for i := range b.N {
				b.StopTimer()
				args := []base.Value{base.IntValue(int64(i) + 1), base.IntValue(int64(i) % 10)}
				must(b, c.leader.BeginImmediate())
				m := c.recorder.Mark()
				c.recorder.Before(st)
				must(b, st.BindAll(args))
				must(b, st.Run())
				must(b, c.recorder.After(st, sql, args))
				taken, err := c.recorder.Take(m)
				must(b, err)
				must(b, c.leader.Commit())
				if taken.Changes != 1000 || !taken.Replayed {
					b.Fatal(fmt.Sprint("changes: ", taken.Changes))
				}
				b.StartTimer()
				if replay {
					body, err := statementformat.Decode(taken.Body)
					must(b, err)
					c.execute(body, taken)
					bytes += len(taken.Body)
				} else {
					must(b, c.rows.BeginImmediate())
					must(b, c.applier.Apply(taken.Rows))
					must(b, c.rows.Commit())
					bytes += len(taken.Rows)
				}
			}
			b.ReportMetric(float64(bytes)/float64(b.N), "log-B/op")
		})
	}
}

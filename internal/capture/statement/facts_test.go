package statement

import "testing"

func TestLimitWithoutOrder(t *testing.T) {
	for sql, want := range map[string]bool{
		"DELETE FROM t": false,
		"DELETE FROM t WHERE a IN (SELECT a FROM t LIMIT 1)":                                                       true,
		"DELETE FROM t WHERE a IN (SELECT a FROM t ORDER BY a LIMIT 1)":                                            false,
		"INSERT INTO t SELECT a FROM t ORDER BY (SELECT b FROM u LIMIT 1) LIMIT 2":                                 true,
		"INSERT INTO t SELECT row_number() OVER (ORDER BY a) FROM t LIMIT 2":                                       true,
		"INSERT INTO t SELECT a FROM t UNION SELECT b FROM t ORDER BY 1 LIMIT 2":                                   false,
		"INSERT INTO t VALUES ('LIMIT 1') -- LIMIT":                                                                false,
		"CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1 ORDER BY 1; INSERT INTO u SELECT a FROM t LIMIT 1; END": true,
		`UPDATE "limit" SET a = 1`: false,
	} {
		if got := limitWithoutOrder(sql); got != want {
			t.Errorf("%s: %v", sql, got)
		}
	}
}

package pgwire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

var ctx = context.Background()

var modes = map[string]pgx.QueryExecMode{
	"cache statement": pgx.QueryExecModeCacheStatement,
	"cache describe":  pgx.QueryExecModeCacheDescribe,
	"describe exec":   pgx.QueryExecModeDescribeExec,
	"exec":            pgx.QueryExecModeExec,
	"simple":          pgx.QueryExecModeSimpleProtocol,
}

// stateOf returns the SQLSTATE of an error, "" for none.
func stateOf(err error) string {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return err.Error()
}

func TestEveryModeOfPgxWritesAndReads(t *testing.T) {
	s := serve(t, Options{})
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			c := s.connect(t, mode)
			mustExec(t, c, "DROP TABLE IF EXISTS t")
			mustExec(t, c, "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, v REAL, b BLOB, ok BOOLEAN, at TIMESTAMP, u)")
			at := time.Date(2024, 2, 29, 12, 30, 15, 250_000_000, time.UTC)
			tag, err := c.Exec(ctx, "INSERT INTO t(id, name, v, ok, at) VALUES ($1, $2, $3, $4, $5)", 7, "it's", 1.5, true, at)
			if err != nil || tag.String() != "INSERT 0 1" {
				t.Fatal(tag, err)
			}
			var id int64
			var who string
			var v float64
			var ok bool
			var back time.Time
			err = c.QueryRow(ctx, "SELECT id, name, v, ok, at FROM t WHERE id = $1", 7).Scan(&id, &who, &v, &ok, &back)
			if err != nil || id != 7 || who != "it's" || v != 1.5 || !ok || !back.Equal(at) {
				t.Fatal(id, who, v, ok, back, err)
			}
			var storage string
			var truth int
			err = c.QueryRow(ctx, "SELECT typeof(ok), count(*) FROM t WHERE ok = $1", true).Scan(&storage, &truth)
			want := "integer"
			if mode == pgx.QueryExecModeSimpleProtocol {
				want = "text" // a literal 't' is the client's own text, and stays
			}
			if err != nil || storage != want || truth != 1 {
				t.Fatal(storage, truth, err)
			}
			tag, err = c.Exec(ctx, "UPDATE t SET name = $1 WHERE id = $2", "x", 7)
			if err != nil || tag.RowsAffected() != 1 {
				t.Fatal(tag, err)
			}
			var n int
			var f float64
			var s string
			var null *string
			if err := c.QueryRow(ctx, "SELECT 1+1, 2.5, 'x' || name, NULL FROM t").Scan(&n, &f, &s, &null); err != nil || n != 2 || f != 2.5 || s != "xx" || null != nil {
				t.Fatal(n, f, s, null, err)
			}
			if _, err := c.Exec(ctx, "INSERT INTO t(id) VALUES (7)"); stateOf(err) != "23505" {
				t.Fatalf("duplicate key: %v", err)
			}
			if _, err := c.Exec(ctx, "SELEC 1"); stateOf(err) != "42601" {
				t.Fatalf("syntax error: %v", err)
			}
		})
	}
}

func TestTransactionsOfPgx(t *testing.T) {
	s := serve(t, Options{})
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			c := s.connect(t, mode)
			mustExec(t, c, "DROP TABLE IF EXISTS t")
			mustExec(t, c, "CREATE TABLE t(id INTEGER PRIMARY KEY)")
			tx, err := c.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.Serializable, AccessMode: pgx.ReadWrite})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(ctx, "INSERT INTO t VALUES ($1)", 1); err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(ctx, "INSERT INTO t VALUES ($1)", 1); stateOf(err) != "23505" {
				t.Fatal(err)
			}
			if _, err := tx.Exec(ctx, "INSERT INTO t VALUES ($1)", 2); stateOf(err) != "25P02" {
				t.Fatalf("in a failed block: %v", err)
			}
			if err := tx.Commit(ctx); !errors.Is(err, pgx.ErrTxCommitRollback) {
				t.Fatalf("commit of a failed block: %v", err)
			}
			if n := count(t, c, "SELECT count(*) FROM t"); n != 0 {
				t.Fatalf("%d rows after ROLLBACK", n)
			}
			err = pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, "INSERT INTO t VALUES ($1)", 1); err != nil {
					return err
				}
				sub, err := tx.Begin(ctx) // a savepoint
				if err != nil {
					return err
				}
				if _, err := sub.Exec(ctx, "INSERT INTO t VALUES ($1)", 1); stateOf(err) != "23505" {
					t.Error(err)
				}
				return sub.Rollback(ctx)
			})
			if err != nil {
				t.Fatal(err)
			}
			if n := count(t, c, "SELECT count(*) FROM t"); n != 1 {
				t.Fatalf("%d rows", n)
			}
			ro, err := c.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ro.Exec(ctx, "DELETE FROM t"); stateOf(err) != "25006" {
				t.Fatalf("write in a read-only transaction: %v", err)
			}
			ro.Rollback(ctx)
		})
	}
}

func count(t testing.TB, c *pgx.Conn, sql string, args ...any) int {
	t.Helper()
	var n int
	if err := c.QueryRow(ctx, sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

func TestABatchIsOneTransaction(t *testing.T) {
	s := serve(t, Options{})
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			c := s.connect(t, mode)
			mustExec(t, c, "DROP TABLE IF EXISTS t")
			mustExec(t, c, "CREATE TABLE t(id INTEGER PRIMARY KEY)")
			b := &pgx.Batch{}
			for i := range 5 {
				b.Queue("INSERT INTO t VALUES ($1)", i)
			}
			b.Queue("INSERT INTO t VALUES ($1)", 0)
			b.Queue("INSERT INTO t VALUES ($1)", 9)
			if err := c.SendBatch(ctx, b).Close(); stateOf(err) != "23505" {
				t.Fatal(err)
			}
			if n := count(t, c, "SELECT count(*) FROM t"); n != 0 {
				t.Fatalf("%d rows of a failed batch stayed", n)
			}
			b = &pgx.Batch{}
			for i := range 200 {
				b.Queue("INSERT INTO t VALUES ($1)", i)
			}
			b.Queue("SELECT count(*) FROM t").QueryRow(func(r pgx.Row) error {
				var n int
				if err := r.Scan(&n); err != nil || n != 200 {
					return fmt.Errorf("%d rows seen, %w", n, err)
				}
				return nil
			})
			if err := c.SendBatch(ctx, b).Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestCopyFromOfPgx(t *testing.T) {
	s := serve(t, Options{})
	c := s.connect(t, pgx.QueryExecModeCacheStatement)
	mustExec(t, c, "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, ok BOOLEAN, at TIMESTAMP, b BLOB, v REAL)")
	rows := make([][]any, 1234)
	for i := range rows {
		rows[i] = []any{int64(i), fmt.Sprint("name", i), i%2 == 0, time.Unix(int64(i), 0).UTC(), []byte{byte(i)}, float64(i) / 2}
	}
	n, err := c.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"id", "name", "ok", "at", "b", "v"}, pgx.CopyFromRows(rows))
	if err != nil || n != 1234 {
		t.Fatal(n, err)
	}
	var name, at, typ string
	var b []byte
	err = c.QueryRow(ctx, "SELECT name, CAST(at AS TEXT), b, typeof(ok) FROM t WHERE id = 61").Scan(&name, &at, &b, &typ)
	if err != nil || name != "name61" || at != "1970-01-01 00:01:01" || b[0] != 61 || typ != "integer" {
		t.Fatal(name, at, b, typ, err)
	}
	_, err = c.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"id"}, pgx.CopyFromRows([][]any{{int64(5000)}, {int64(7)}}))
	if e, ok := errors.AsType[*pgconn.PgError](err); !ok || e.Code != "23505" || e.Message[:14] != "COPY t, line 2" {
		t.Fatalf("duplicate key in COPY: %v", err)
	}
	if n := count(t, c, "SELECT count(*) FROM t"); n != 1234 {
		t.Fatalf("%d rows after a failed COPY", n)
	}
}

// What COPY TO writes in binary format, COPY FROM reads back, and any client of
// PostgreSQL reads as it documents the format.
func TestCopyInBinaryBothWays(t *testing.T) {
	s := serve(t, Options{})
	c := s.connect(t, pgx.QueryExecModeCacheStatement)
	const columns = "(id INTEGER PRIMARY KEY, small SMALLINT, name TEXT, ok BOOLEAN, at TIMESTAMP, day DATE, b BLOB, v REAL, n NUMERIC, j JSON)"
	mustExec(t, c, "CREATE TABLE t"+columns)
	mustExec(t, c, "CREATE TABLE again"+columns)
	mustExec(t, c, "INSERT INTO t VALUES (1, -2, 'a\tb', TRUE, '2024-02-29 12:30:15.25', '2024-02-29', x'00ff', 1.5, 12.25, '{}'), (2, NULL, '', FALSE, NULL, NULL, x'', -0.5, NULL, NULL)")
	for i := 3; i < 400; i++ {
		mustExec(t, c, "INSERT INTO t(id, name) VALUES ($1, $2)", i, strings.Repeat("x", i))
	}
	var data bytes.Buffer
	tag, err := c.PgConn().CopyTo(ctx, &data, "COPY t TO STDOUT WITH (FORMAT binary)")
	if err != nil || tag.String() != "COPY 399" {
		t.Fatal(tag, err)
	}
	tag, err = c.PgConn().CopyFrom(ctx, bytes.NewReader(data.Bytes()), "COPY again FROM STDIN (FORMAT binary)")
	if err != nil || tag.String() != "COPY 399" {
		t.Fatal(tag, err)
	}
	const all = "SELECT count(*) FROM (SELECT *, typeof(b), typeof(v), typeof(ok) FROM t EXCEPT SELECT *, typeof(b), typeof(v), typeof(ok) FROM again)"
	if n := count(t, c, all); n != 0 {
		t.Errorf("%d rows differ", n)
	}
	data.Reset()
	if _, err := c.PgConn().CopyTo(ctx, &data, "COPY (SELECT id, name FROM t WHERE id = 1) TO STDOUT BINARY"); err != nil {
		t.Fatal(err)
	}
	want := "PGCOPY\n\xff\r\n\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00" +
		"\x00\x02" + "\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x01" + "\x00\x00\x00\x03a\tb" + "\xff\xff"
	if data.String() != want {
		t.Errorf("got %q, want %q", data.String(), want)
	}
	mustExec(t, c, "CREATE TABLE odd(v INTEGER)")
	mustExec(t, c, "INSERT INTO odd VALUES (1), ('x')")
	_, err = c.PgConn().CopyTo(ctx, &data, "COPY odd TO STDOUT (FORMAT binary)")
	if e, ok := errors.AsType[*pgconn.PgError](err); !ok || e.Code != "22P03" {
		t.Errorf("a text in an integer column: %v", err)
	}
	if n := count(t, c, "SELECT count(*) FROM odd"); n != 2 {
		t.Errorf("the connection has lost its place: %d", n)
	}
}

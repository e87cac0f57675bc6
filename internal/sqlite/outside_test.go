package sqlite_test

import (
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/sqlite"
)

// fixedConn opens a connection whose view of the outside is given.
func fixedConn(t *testing.T) *sqlite.Conn {
	t.Helper()
	c, err := sqlite.OpenConn(t.Context(), t.TempDir()+"/x.db", sqlite.ConnOptions{Role: sqlite.RoleWriter})
	if err == nil {
		t.Cleanup(func() { c.Close() })
		err = c.FixOutside(true)
	}
	if err == nil {
		err = c.PrepareLeave()
	}
	if err == nil {
		err = c.Exec(`CREATE TABLE log(x);
			CREATE TABLE t(a, at DEFAULT CURRENT_TIMESTAMP, r DEFAULT (random()), b DEFAULT (randomblob(20)), l DEFAULT (last_insert_rowid()));
			CREATE TRIGGER tr AFTER INSERT ON t BEGIN
				INSERT INTO log VALUES (time('now', 'subsec') || changes()); UPDATE log SET x = x || changes() || total_changes(); END`)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// run runs a statement under o and returns its last row's values as text.
func runUnder(t *testing.T, c *sqlite.Conn, o *sqlite.Outside, sql string) string {
	t.Helper()
	if err := c.Leave(o); err != nil {
		t.Fatal(err)
	}
	c.SetOutside(o)
	defer c.SetOutside(nil)
	st, err := c.Prepare(sql)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	var last []string
	for {
		more, err := st.Step()
		if err != nil {
			return "error: " + err.Error()
		}
		if !more {
			return strings.Join(last, " ")
		}
		last = last[:0]
		for _, v := range st.AppendRow(nil) {
			last = append(last, string(v.Bytes))
		}
	}
}

// TestOutside gives the time, chance and what earlier statements left in every
// form in which SQL asks for them.
func TestOutside(t *testing.T) {
	c := fixedConn(t)
	for _, story := range []struct{ sql, want string }{
		{"SELECT CURRENT_TIMESTAMP, current_date, CURRENT_TIME", "2023-11-14 22:13:20 2023-11-14 22:13:20"},
		{"SELECT datetime(), date('NOW'), time('now', '+1 hour'), datetime('now', 'subsec')", "2023-11-14 22:13:20 2023-11-14 23:13:20 2023-11-14 22:13:20.123"},
		{"SELECT time('subsec'), time('subsecond', '+1 minute'), strftime('%Y'), strftime('%H', 'now')", "22:13:20.123 22:14:20.123 2023 22"},
		{"SELECT timediff('now', '2023-11-14'), timediff('2023-11-15', 'now')", "+0000-00-00 22:13:20.123 +0000-00-00 01:46:39.877"},
		{"SELECT date('2020-02-28', '+2 days'), date(0), hex(date(NULL)), strftime('%d', '2020-01-05')", "2020-03-01 -4713-11-24  05"},
		{"SELECT CAST(julianday('now') AS TEXT), CAST(unixepoch('now') AS TEXT), CAST(unixepoch('now', 'subsec') AS TEXT)", "2460263.4259273494 1700000000 1700000000.123"},
		{"SELECT CAST(changes() AS TEXT), CAST(total_changes() AS TEXT), CAST(last_insert_rowid() AS TEXT)", "77 1000 99"},
	} {
		o := &sqlite.Outside{Clock: 1_700_000_000_123, Changes: 77, UsedChanges: true, TotalChanges: 1000, LastRowID: 99, UsedLastRowID: true}
		if got := runUnder(t, c, o, story.sql); got != story.want {
			t.Errorf("%s: %q, want %q", story.sql, got, story.want)
		}
	}
	o := &sqlite.Outside{RefuseNow: true}
	if got := runUnder(t, c, o, "SELECT date()"); !strings.Contains(got, "non-deterministic") {
		t.Errorf("the time was not refused: %s", got)
	}
	o = &sqlite.Outside{}
	if runUnder(t, c, o, "SELECT date('2020-01-01', 'localtime')"); o.Local == "" {
		t.Error("the time zone was not noticed")
	}
}

// TestOutsideRepeats runs the same statement on two connections that have done
// other things before.
func TestOutsideRepeats(t *testing.T) {
	var contents []string
	for n := range 2 {
		c := fixedConn(t)
		for range 3 * n {
			runUnder(t, c, &sqlite.Outside{Seed: [16]byte{1}}, "INSERT INTO t(a) VALUES (1), (2)")
		}
		if err := c.Exec("DELETE FROM t; DELETE FROM log"); err != nil {
			t.Fatal(err)
		}
		o := &sqlite.Outside{Clock: 1e12, Seed: [16]byte{7}, Changes: 5, UsedChanges: true, TotalChanges: 50, LastRowID: -3, UsedLastRowID: true}
		if got := runUnder(t, c, o, "INSERT INTO t(a) VALUES (random()), (hex(randomblob(3)))"); got != "" {
			t.Fatal(got)
		}
		if !o.UsedClock || !o.UsedSeed || !o.UsedChanges || !o.UsedTotalChanges || !o.UsedLastRowID {
			t.Errorf("what the statement used was not noticed: %+v", o)
		}
		contents = append(contents, runUnder(t, c, &sqlite.Outside{},
			"SELECT group_concat(quote(a) || at || r || quote(b) || l), (SELECT group_concat(x) FROM log) FROM t"))
	}
	if contents[0] != contents[1] || !strings.Contains(contents[0], "2001-09-09 01:46:40") {
		t.Errorf("two runs differ:\n%s\n%s", contents[0], contents[1])
	}
}

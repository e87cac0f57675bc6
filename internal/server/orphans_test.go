package server_test

import (
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/jsonvalue"
	"github.com/skeindb/skein/internal/replica/leader"
	"github.com/skeindb/skein/internal/server"
	"github.com/skeindb/skein/internal/session"
)

func integers(list ...int64) (values []base.Value) {
	for _, n := range list {
		values = append(values, base.IntValue(n))
	}
	return values
}

// A replay is a new write: it is done once, and never over a newer value.
func TestOrphansAreReplayedWhereNothingNewerIs(t *testing.T) {
	s := open(t, t.TempDir(), "n1")
	eventually(t, "it serves", func() bool { return s.Ready(t.Context()).Ready })
	if err := s.CreateDatabase(t.Context(), "shop", base.DefaultPolicy()); err != nil {
		t.Fatal(err)
	}
	var client session.Session
	do := func(sql string) string {
		t.Helper()
		rows, err := client.Query(t.Context(), sql, nil)
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		defer rows.Close()
		var lines []string
		for rows.Next() {
			var line []string
			for _, v := range rows.Row() {
				line = append(line, string(jsonvalue.Append(nil, v)))
			}
			lines = append(lines, strings.Join(line, " "))
		}
		return strings.Join(lines, "; ")
	}
	eventually(t, "the database has a leader", func() bool {
		c, err := s.Node().Gateway().Open(t.Context(), session.Options{Trusted: true, Database: "shop"})
		client = c
		return err == nil
	})
	for _, sql := range []string{
		"CREATE TABLE item(id INTEGER PRIMARY KEY, n INTEGER, m INTEGER)", "CREATE TABLE pair(a INTEGER, b INTEGER, PRIMARY KEY (a)) WITHOUT ROWID",
		"CREATE TABLE plain(n INTEGER)", "CREATE TABLE watched(id INTEGER PRIMARY KEY)",
		"CREATE TRIGGER watch AFTER INSERT ON watched BEGIN INSERT INTO plain VALUES (new.id); END",
		"CREATE TABLE sent(id INTEGER PRIMARY KEY)", "CREATE TABLE seen(id INTEGER PRIMARY KEY)",
		"CREATE TRIGGER skein_log_sent_insert AFTER INSERT ON sent BEGIN SELECT skein_emit('insert', 'sent', new.id); END",
		"CREATE TRIGGER skein_log_seen_insert AFTER INSERT ON seen BEGIN SELECT skein_emit('insert', 'seen', new.id); END",
		"CREATE TRIGGER skeinXlogXseen AFTER INSERT ON SEEN BEGIN INSERT INTO plain VALUES (new.id); END",
		"INSERT INTO item VALUES (1, 1, 1), (2, 2, 2), (3, 3, 3)", "INSERT INTO pair VALUES (1, 1)",
	} {
		do(sql)
	}
	item := leader.Orphan{Epoch: 1, Table: "item", Columns: []string{"n", "m"}, RowIDName: "id"}
	pair := leader.Orphan{Epoch: 1, Table: "pair", Columns: []string{"a", "b"}}
	with := func(o leader.Orphan, seq base.Seq, op string, key, before, after []base.Value) leader.Orphan {
		o.Seq, o.Operation, o.Key, o.Old, o.New = seq, op, key, before, after
		return o
	}
	for _, c := range []struct {
		orphan   leader.Orphan
		conflict string // part of it; "" is none
		query    string
		want     string
	}{
		{with(item, 1, "insert", integers(9), nil, integers(9, 9)), "", "SELECT * FROM item WHERE id = 9", "9 9 9"},
		{with(item, 1, "insert", integers(9), nil, integers(9, 9)), "", "SELECT count(*) FROM item WHERE id = 9", "1"}, // Once.
		{with(item, 2, "insert", integers(1), nil, integers(5, 5)), "UNIQUE", "SELECT * FROM item WHERE id = 1", "1 1 1"},
		{with(item, 3, "update", integers(2), integers(2, 2), integers(7, 2)), "", "SELECT * FROM item WHERE id = 2", "2 7 2"},
		{with(item, 4, "update", integers(2), integers(2, 2), integers(8, 2)), "changed since", "SELECT * FROM item WHERE id = 2", "2 7 2"},
		{with(item, 5, "delete", integers(1), integers(0, 1), nil), "changed since", "SELECT count(*) FROM item WHERE id = 1", "1"},
		{with(item, 6, "delete", integers(1), integers(1, 1), nil), "", "SELECT count(*) FROM item WHERE id = 1", "0"},
		{with(pair, 7, "update", integers(1), integers(1, 1), integers(1, 4)), "", "SELECT * FROM pair", "1 4"},
		{with(leader.Orphan{Epoch: 1, Table: "plain", Columns: []string{"n"}}, 8, "insert", integers(77), nil, integers(6)), "", "SELECT * FROM plain", "6"},
		{with(leader.Orphan{Epoch: 1, Table: "watched", RowIDName: "id"}, 9, "insert", integers(3), nil, []base.Value{}), "triggers", "SELECT count(*) FROM watched", "0"},
		// Triggers that say what is sent are not in the way of a replay, others are.
		{with(leader.Orphan{Epoch: 1, Table: "sent", RowIDName: "id"}, 14, "insert", integers(3), nil, []base.Value{}), "", "SELECT count(*) FROM sent", "1"},
		{with(leader.Orphan{Epoch: 1, Table: "seen", RowIDName: "id"}, 15, "insert", integers(3), nil, []base.Value{}), "triggers", "SELECT count(*) FROM seen", "0"},
		{with(item, 10, "move", integers(1), integers(1, 1), integers(1, 1)), "of this kind", "SELECT 1", "1"},
		{with(leader.Orphan{Epoch: 1, Table: "gone"}, 11, "insert", integers(1), nil, integers(1)), "not known", "SELECT 1", "1"},
		{with(leader.Orphan{Epoch: 1}, 12, "schema", nil, nil, []base.Value{base.TextValue("CREATE TABLE later(id)")}), "", "SELECT count(*) FROM later", "0"},
		{with(leader.Orphan{Epoch: 1, Table: "sqlite_sequence"}, 13, "sequence", nil, nil, integers(4)), "", "SELECT 1", "1"},
	} {
		conflict, err := server.ReplayOrphan(t.Context(), s.Node(), "shop", c.orphan)
		if err != nil || (conflict == "") != (c.conflict == "") || !strings.Contains(conflict, c.conflict) {
			t.Errorf("%d %s: conflict %q, %v", c.orphan.Seq, c.orphan.Operation, conflict, err)
		}
		if got := do(c.query); got != c.want {
			t.Errorf("%d %s: %s gives %q, want %q", c.orphan.Seq, c.orphan.Operation, c.query, got, c.want)
		}
	}
}

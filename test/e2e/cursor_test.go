package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

const cursorRows = 10_000

// A long result is read in parts with cursors, at the leader and at a follower:
// by psql with FETCH_COUNT, and by a driver in a transaction that also writes.
func TestCursors(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	leader := c.leader("main")
	nodes := []*node{leader, c.others(leader)[0]}
	writer := leader.mustConnect("main")
	exec1(t, writer, "create table t(id integer primary key, name text not null)")
	exec1(t, writer, fmt.Sprintf(`with recursive n(i) as (select 1 union all select i + 1 from n where i < %d)
		insert into t select i, 'row ' || i from n`, cursorRows))
	token := value(t, writer, "show skein.token")
	var want strings.Builder
	for i := range cursorRows {
		fmt.Fprintf(&want, "%d|row %d\n", i+1, i+1)
	}
	for i, n := range nodes {
		t.Run([]string{"psql at the leader", "psql at a follower"}[i], func(t *testing.T) {
			tool(t, "psql")
			got := n.mustPsql("main", "set skein.token = '"+token+"';\n\\set FETCH_COUNT 100\nselect id, name from t order by id;")
			if got+"\n" != want.String() {
				t.Errorf("%d bytes, want %d:\n%.200s", len(got)+1, want.Len(), got)
			}
		})
	}
	for i, n := range nodes {
		t.Run([]string{"driver at the leader", "driver at a follower"}[i], func(t *testing.T) {
			conn := n.mustConnect("main")
			exec1(t, conn, "set skein.token = '"+token+"'")
			cursorBesideWrites(t, conn)
			token = value(t, conn, "show skein.token")
		})
	}
}

// cursorBesideWrites reads with a cursor, and changes every row that is still
// to come in the middle.
func cursorBesideWrites(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	ctx := background(t)
	tx, err := conn.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	before := value(t, conn, "select group_concat(name, ',') from (select name from t where id > 100 order by id)")
	mustTx(t, tx, "declare c cursor for select id, name from t where id > $1 order by id", 100)
	names := fetchNames(t, tx, "fetch 700 from c", 700)
	mustTx(t, tx, "update t set name = name || '!'")
	mustTx(t, tx, "declare changed cursor for select id, name from t where name like '%!'")
	for len(names) < cursorRows-100 {
		names = append(names, fetchNames(t, tx, "fetch 700 from c", min(700, cursorRows-100-len(names)))...)
	}
	fetchNames(t, tx, "fetch 700 from c", 0)
	if got := strings.Join(names, ","); got != before {
		t.Errorf("the cursor does not show what it was declared on: %.200s", got)
	}
	fetchNames(t, tx, "fetch all from changed", cursorRows)
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if got := value(t, conn, "select count(*) from t where name like '%!'"); got != fmt.Sprint(cursorRows) {
		t.Errorf("after the commit %s rows are changed", got)
	}
	_, err = conn.Exec(ctx, "fetch 700 from c")
	wantState(t, "a cursor after its transaction", err, "34000")
}

func fetchNames(t *testing.T, tx pgx.Tx, sql string, want int) []string {
	t.Helper()
	rows, err := tx.Query(background(t), sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	var names []string
	var id int64
	var name string
	tag, err := pgx.ForEachRow(rows, []any{&id, &name}, func() error {
		names = append(names, name)
		return nil
	})
	if err != nil || len(names) != want || tag.String() != fmt.Sprintf("FETCH %d", want) {
		t.Fatalf("%s: %d rows, %q, %v; want %d", sql, len(names), tag, err, want)
	}
	return names
}

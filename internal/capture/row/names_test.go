package row_test

import (
	"testing"

	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/rowformat"
)

// TestNames sees that names are those of the schema as it was, through schema
// changes, and that what does not fit is not guessed at.
func TestNames(t *testing.T) {
	n, err := row.NewNames(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	err = n.Load(map[string]string{
		"t": `CREATE TABLE "t"(a, id INTEGER PRIMARY KEY, g AS (a || 'x'), b)`,
		"w": `CREATE TABLE w(x, k TEXT, j INT, PRIMARY KEY (j, k)) WITHOUT ROWID`,
	})
	if err != nil {
		t.Fatal(err)
	}
	check := func(d rowformat.Table, names, key string) {
		t.Helper()
		c, ok, err := n.Table(&d)
		got, gotKey := "", ""
		if ok {
			for _, s := range c.Names {
				got += s + " "
			}
			for _, s := range c.Key {
				gotKey += s + " "
			}
		}
		if err != nil || got != names || gotKey != key {
			t.Errorf("%v: columns %q, key %q, %v; want %q, %q", d, got, gotKey, err, names, key)
		}
	}
	check(rowformat.Table{Name: "t", Columns: 2}, "a id b ", "id ")
	check(rowformat.Table{Name: "w", Columns: 3, Key: []int{2, 1}}, "x k j ", "j k ")
	check(rowformat.Table{Name: "t", Columns: 3}, "", "")
	for _, sql := range []string{"ALTER TABLE t RENAME COLUMN a TO z", "ALTER TABLE t ADD COLUMN c", "CREATE TABLE u(q)", "DROP TABLE w"} {
		if err := n.Follow(sql); err != nil {
			t.Fatal(err)
		}
	}
	check(rowformat.Table{Name: "t", Columns: 3}, "z id b c ", "id ")
	check(rowformat.Table{Name: "u", Columns: 1}, "q ", "")
	check(rowformat.Table{Name: "w", Columns: 3, Key: []int{2, 1}}, "", "")
	if err := n.Follow("DROP INDEX nowhere"); err == nil {
		t.Error("a change that does not fit was followed")
	}
}

package sqltext

import "testing"

func TestParseSavepoint(t *testing.T) {
	for _, c := range []struct {
		sql    string
		action SavepointAction
		name   string
	}{
		{"SAVEPOINT a", SavepointNew, "a"},
		{" savepoint \"A b\";", SavepointNew, "A b"},
		{"RELEASE a", SavepointRelease, "a"},
		{"release savepoint [x]", SavepointRelease, "x"},
		{"ROLLBACK TO a", SavepointBack, "a"},
		{"rollback transaction to savepoint a", SavepointBack, "a"},
		{"ROLLBACK", 0, ""},
		{"SELECT 1", 0, ""},
		{"SAVEPOINT", 0, ""},
	} {
		action, name := ParseSavepoint(c.sql)
		if action != c.action || name != c.name {
			t.Errorf("ParseSavepoint(%q) = %v, %q; want %v, %q", c.sql, action, name, c.action, c.name)
		}
	}
}

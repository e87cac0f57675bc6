package choice

import (
	"slices"
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/base"
)

// TestTriggers pins the texts: databases hold them, and a trigger that is as it
// was made is told from one that a user has changed by its text.
func TestTriggers(t *testing.T) {
	for _, c := range []struct {
		choice Choice
		want   []string
	}{
		{Choice{Table: "t", Key: []string{"rowid"}}, []string{
			`CREATE TRIGGER "skein_log_t_insert" AFTER INSERT ON "t" BEGIN SELECT skein_emit('insert', 't', NEW."rowid"); END`,
			`CREATE TRIGGER "skein_log_t_update" AFTER UPDATE ON "t" BEGIN SELECT skein_emit('delete', 't', OLD."rowid") WHERE OLD."rowid" COLLATE BINARY IS NOT NEW."rowid"; SELECT skein_emit('update', 't', NEW."rowid"); END`,
			`CREATE TRIGGER "skein_log_t_delete" AFTER DELETE ON "t" BEGIN SELECT skein_emit('delete', 't', OLD."rowid"); END`,
		}},
		{Choice{Table: `o'"o`, Key: []string{"b", "a"}, Columns: []string{"x'y"}, Where: "NEW.a > 'NEW.b' AND new . c"}, []string{
			`CREATE TRIGGER "skein_log_o'""o_insert" AFTER INSERT ON "o'""o" WHEN (NEW.a > 'NEW.b' AND new . c) BEGIN SELECT skein_emit('insert', 'o''"o', NEW."b", NEW."a", 'x''y', NEW."x'y"); END`,
			`CREATE TRIGGER "skein_log_o'""o_update" AFTER UPDATE ON "o'""o" WHEN (OLD.a > 'NEW.b' AND OLD . c) OR (NEW.a > 'NEW.b' AND new . c) BEGIN SELECT skein_emit('delete', 'o''"o', OLD."b", OLD."a") WHERE (OLD.a > 'NEW.b' AND OLD . c) IS TRUE AND (OLD."b" COLLATE BINARY IS NOT NEW."b" OR OLD."a" COLLATE BINARY IS NOT NEW."a" OR (NEW.a > 'NEW.b' AND new . c) IS NOT TRUE); SELECT skein_emit('update', 'o''"o', NEW."b", NEW."a", 'x''y', NEW."x'y") WHERE (NEW.a > 'NEW.b' AND new . c) IS TRUE; END`,
			`CREATE TRIGGER "skein_log_o'""o_delete" AFTER DELETE ON "o'""o" WHEN (OLD.a > 'NEW.b' AND OLD . c) BEGIN SELECT skein_emit('delete', 'o''"o', OLD."b", OLD."a"); END`,
		}},
	} {
		if err := c.choice.Check(); err != nil {
			t.Errorf("%+v: %v", c.choice, err)
		}
		for i, got := range c.choice.Triggers() {
			if got.SQL != c.want[i] || !IsName(got.Name, c.choice.Table) {
				t.Errorf("got  %s\nwant %s", got.SQL, c.want[i])
			}
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	for where, want := range map[string]string{
		"NEW.a IN (SELECT x FROM u)": "row alone",
		"NEW.a IN (VALUES(1))":       "row alone",
		"OLD.a = 1":                  "say it of NEW",
		"a = 1":                      "names no column",
		"NEW.a) OR (1":               "not one expression",
		"NEW.a; DROP TABLE t":        "not one expression",
		"(NEW.a":                     "not one expression",
		"NEW.a = ?1":                 "not one expression",
		"NEW.a -- x":                 "not one expression",
		"NEW.a /* x":                 "not one expression",
	} {
		c := Choice{Table: "t", Key: []string{"id"}, Where: where}
		if err := c.Check(); base.KindOf(err) != base.KindInvalid || !strings.Contains(err.Error(), want) {
			t.Errorf("where %s: %v, want %q", where, err, want)
		}
	}
	many := Choice{Table: "t", Key: []string{"id"}, Columns: slices.Repeat([]string{"x"}, 49)}
	if err := many.Check(); base.KindOf(err) != base.KindUnsupported {
		t.Errorf("49 columns: %v", err)
	}
	if many.Columns = many.Columns[:48]; many.Check() != nil {
		t.Errorf("48 columns: %v", many.Check())
	}
}

// TestRenamed: a table that has another name gets the triggers that it would
// have been given, and what is not its name stays.
func TestRenamed(t *testing.T) {
	from := Choice{Table: "t'1", Key: []string{"id"}, Columns: []string{"t'1", "x"}, Where: "NEW.x <> 't''1'"}
	to := from
	to.Table = `u "2"`
	for i, tr := range from.Triggers() {
		// The engine itself has put the new name behind ON.
		engine := strings.Replace(tr.SQL, `ON "t'1"`, `ON "u ""2"""`, 1)
		if got, want := Renamed(engine, from.Table, to.Table), to.Triggers()[i].SQL; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

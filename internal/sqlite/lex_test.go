package sqlite

import (
	"slices"
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/session"
)

func TestLeadingWords(t *testing.T) {
	for sql, want := range map[string]string{
		"": "", " ; /* x */ -- y\n select 1": "SELECT", "CREATE  unique index i on t(a)": "CREATE UNIQUE INDEX I ON T",
		"/* open": "", "--": "", "'select'": "", "(select 1)": "", "rollback to savepoint \"x\"": "ROLLBACK TO SAVEPOINT",
		"\ufeffselect": "\ufeffSELECT", "1 select": "", "values(1)": "VALUES",
	} {
		if got := strings.Join(leadingWords(sql, 6), " "); got != want {
			t.Errorf("%q: got %q, want %q", sql, got, want)
		}
	}
}

func TestKindOfStatements(t *testing.T) {
	for sql, want := range map[string]Info{
		"begin immediate":       {Kind: session.Begin, Tag: "BEGIN"},
		"START TRANSACTION":     {Kind: session.Begin, Tag: "BEGIN"},
		"end":                   {Kind: session.Commit, Tag: "COMMIT"},
		"commit;":               {Kind: session.Commit, Tag: "COMMIT"},
		"ROLLBACK TRANSACTION":  {Kind: session.Rollback, Tag: "ROLLBACK"},
		"rollback to x":         {Kind: session.Savepoint, Tag: "ROLLBACK"},
		"release savepoint x":   {Kind: session.Savepoint, Tag: "RELEASE"},
		"set skein.read TO any": {Kind: session.Setting, Tag: "SET"},
		"SHOW skein.token":      {Kind: session.Setting, Tag: "SHOW"},
		" -- only a comment":    {Kind: session.Empty},
		";;":                    {Kind: session.Empty},
	} {
		got, err := Limits{}.withDefaults().control(sql)
		if err != nil || got.Kind != want.Kind || got.Tag != want.Tag {
			t.Errorf("%q: got %+v, %v", sql, got, err)
		}
	}
	for _, sql := range []string{"BEGIN; DROP TABLE t", "COMMIT; x", "SET a TO b; SELECT 1"} {
		if _, err := (Limits{}.withDefaults().control(sql)); err == nil {
			t.Errorf("%q: no error", sql)
		}
	}
}

// FuzzLexer checks that tokens follow each other, make progress and cover all
// but white space and comments.
func FuzzLexer(f *testing.F) {
	for _, s := range []string{"SELECT 'a''b', \"c\", [d], `e` FROM t -- x\n;", "/* */", "'", "[", "\"", "/*", "\x00", "ß", "a;b", "''''", "$1 ?2 :a @b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		l := lexer{text: sql}
		end := 0
		for {
			tok := l.scan()
			if tok.start < end {
				t.Fatalf("token at %d before %d", tok.start, end)
			}
			if tok.kind == endOfText {
				break
			}
			if tok.text == "" || sql[tok.start:tok.start+len(tok.text)] != tok.text {
				t.Fatalf("token %q at %d", tok.text, tok.start)
			}
			end = tok.start + len(tok.text)
		}
		blank := isBlank(sql)
		if words := leadingWords(sql, 6); blank && len(words) > 0 {
			t.Fatalf("blank text with words %q", words)
		}
		_, _ = ownName(sql)
	})
}

// FuzzPrepare holds the lexer against the engine: both must agree on whether a
// text has a statement, and no text may get at our tables or break the
// connection.
func FuzzPrepare(f *testing.F) {
	for _, s := range []string{"SELECT 1", ";", "-- x", "SELECT 1; SELECT 2", "WITH x AS (SELECT 1) DELETE FROM t", "PRAGMA table_info(t)",
		"INSERT INTO t VALUES(1) RETURNING *", "SELECT * FROM _skein_m", "EXPLAIN SELECT * FROM t", "BEGIN", "REPLACE INTO t VALUES(?)"} {
		f.Add(s)
	}
	c, err := OpenConn(f.Context(), f.TempDir()+"/t.db", ConnOptions{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = c.Close() })
	if err := c.Exec("CREATE TABLE t(a); CREATE TABLE _skein_m(a); INSERT INTO _skein_m VALUES('secret')"); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		c.SetGuard(GuardRead)
		s, err := c.Prepare(sql)
		if c.Broken() {
			t.Fatal(err)
		}
		if err != nil {
			return
		}
		defer s.Close()
		if isBlank(sql) {
			t.Fatalf("a statement in blank text %q", sql)
		}
		info := s.Info()
		if !slices.Contains([]session.StatementKind{session.Read}, info.Kind) {
			t.Fatalf("%q passes GuardRead with kind %d", sql, info.Kind)
		}
		if info.Tag == "" {
			t.Fatalf("%q has no tag", sql)
		}
	})
}

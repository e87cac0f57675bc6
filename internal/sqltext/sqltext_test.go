package sqltext

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestFirstCutsWhereSQLiteWould(t *testing.T) {
	trigger := "CREATE TRIGGER a AFTER INSERT ON t BEGIN INSERT INTO u VALUES(1); SELECT CASE WHEN 1 THEN 2 END; END"
	for _, c := range []struct {
		sql  string
		want []string
	}{
		{"", nil},
		{" ; ;; -- nothing\n", nil},
		{"SELECT 1", []string{"SELECT 1"}},
		{"SELECT 1; SELECT 2 ;", []string{"SELECT 1", "SELECT 2"}},
		{"SELECT ';'; SELECT 2", []string{"SELECT ';'", "SELECT 2"}},
		{"SELECT 'it''s;'; x", []string{"SELECT 'it''s;'", "x"}},
		{`SELECT ";" , [a;b], ` + "`;`" + `; x`, []string{`SELECT ";" , [a;b], ` + "`;`", "x"}},
		{"SELECT 1 -- ; no\n; x", []string{"SELECT 1 -- ; no", "x"}},
		{"SELECT 1 /* ; */; x", []string{"SELECT 1 /* ; */", "x"}},
		{"SELECT /* never closed; x", []string{"SELECT /* never closed; x"}},
		{"SELECT 'never closed; x", []string{"SELECT 'never closed; x"}},
		{trigger + "; x", []string{trigger, "x"}},
		{strings.Replace(trigger, "CREATE", "create temp", 1) + ";\nx", []string{strings.Replace(trigger, "CREATE", "create temp", 1), "x"}},
		{"EXPLAIN QUERY PLAN " + trigger + "; x", []string{"EXPLAIN QUERY PLAN " + trigger, "x"}},
		{"CREATE TABLE trigger_log(a); x", []string{"CREATE TABLE trigger_log(a)", "x"}},
		{"/* c */ CREATE /* d */ TRIGGER a BEGIN SELECT 1; /* e */ END -- f\n ; x",
			[]string{"/* c */ CREATE /* d */ TRIGGER a BEGIN SELECT 1; /* e */ END -- f", "x"}},
		{"CREATE TRIGGER a BEGIN SELECT 1; END x; END; y", []string{"CREATE TRIGGER a BEGIN SELECT 1; END x; END", "y"}},
		{"BEGIN; END; x", []string{"BEGIN", "END", "x"}},
		{"SELECT x'3b'; x", []string{"SELECT x'3b'", "x"}},
		{"SELECT x'3z;'; x", []string{"SELECT x'3z;'", "x"}},
		{"SELECT $a(;); x", []string{"SELECT $a(;)", "x"}},
	} {
		if got := slices.Collect(Statements(c.sql)); !slices.Equal(got, c.want) {
			t.Errorf("%q:\n got %q\nwant %q", c.sql, got, c.want)
		}
	}
}

func TestComplete(t *testing.T) {
	for sql, want := range map[string]bool{
		"": true, "SELECT 1": false, "SELECT 1;": true, "SELECT 1; -- x": true, "SELECT ';": false,
		"SELECT 1; SELECT": false, "/* open": false, "SELECT 1; /* open": false, ";": true,
		"CREATE TRIGGER a BEGIN SELECT 1;": false, "CREATE TRIGGER a BEGIN SELECT 1; END;": true,
	} {
		if Complete(sql) != want {
			t.Errorf("Complete(%q) = %v", sql, !want)
		}
	}
}

func TestTokens(t *testing.T) {
	for _, c := range []struct {
		sql  string
		want string // kind:text of every token with meaning
	}{
		{"a$1 $1 $1::int", "W:a$1 P:$1 P:$1 I:: P::int"},
		{"$1a $a::b @x :y #z ?12 ?", "P:$1a P:$a::b P:@x P::y P:#z P:?12 P:?"},
		{"1.5e-3 .5 0x1F 1_000 1e 12ab 1.", "N:1.5e-3 N:.5 N:0x1F N:1_000 I:1e I:12ab N:1."},
		{"a->>'$.b'->c", "W:a O:->> S:'$.b' O:-> W:c"},
		{"a<>b<=c||d!=e==f<<g", "W:a O:<> W:b O:<= W:c O:|| W:d O:!= W:e O:== W:f O:<< W:g"},
		{"x'00' X'zz' x y", "B:x'00' I:X'zz' W:x W:y"},
		{"[a b] \"c\"\"d\" `e`", "Q:[a b] Q:\"c\"\"d\" Q:`e`"},
		{"a--b\nc-d", "W:a W:c O:- W:d"},
		{"\xef\xbb\xbfSELECT é", "W:SELECT W:é"},
		{"! \\ \x00", "I:! I:\\ I:\x00"},
	} {
		var got []string
		for _, tok := range Tokens(c.sql) {
			got = append(got, string("sCWQSBNPO;I"[tok.Kind])+":"+tok.Text(c.sql))
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%q:\n got %s\nwant %s", c.sql, s, c.want)
		}
	}
}

func TestNumberParams(t *testing.T) {
	for _, c := range []struct {
		sql, want string
		highest   int
	}{
		{"SELECT $1, $2", "SELECT ?1, ?2", 2},
		{"SELECT '$1', \"$2\", [$3], a$4, $name -- $5\n, $10", "SELECT '$1', \"$2\", [$3], a$4, $name -- $5\n, ?10", 10},
		{"SELECT $1::int", "SELECT ?1::int", 1},
		{"SELECT $0, $99999, $32767", "SELECT $0, $99999, $32767", 0},
		{"x'$1'$2", "x'$1'?2", 2},
		{"SELECT ?3", "SELECT ?3", 0},
	} {
		if got, n := NumberParams(c.sql); got != c.want || n != c.highest {
			t.Errorf("%q: got %q, %d", c.sql, got, n)
		}
	}
}

func TestKeyword(t *testing.T) {
	for sql, want := range map[string]string{
		"": "", "  select 1": "SELECT", "/* x */ -- y\n Begin": "BEGIN", "(SELECT 1)": "", "frobnicate x": "FROBNICATE",
		"selects": "SELECTS", "\"select\"": "",
	} {
		if got := Keyword(sql); got != want {
			t.Errorf("Keyword(%q) = %q, want %q", sql, got, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { Keyword(" UPDATE t SET a = 1") }); n != 0 {
		t.Errorf("Keyword allocates %v times", n)
	}
}

func TestParseSetting(t *testing.T) {
	for sql, want := range map[string]Setting{
		"SET a = 1":                                            {VerbSet, "a", "1", false},
		"set session A to 'x''y';":                             {VerbSet, "a", "x'y", false},
		"SET LOCAL skein.read TO session":                      {VerbSet, "skein.read", "session", true},
		"SET skein.durability = quorum applied":                {VerbSet, "skein.durability", "quorum applied", false},
		"SET skein.read = bounded(5s)":                         {VerbSet, "skein.read", "bounded(5s)", false},
		"SET search_path TO a, \"B\"":                          {VerbSet, "search_path", "a, B", false},
		"SET n = -1.5":                                         {VerbSet, "n", "-1.5", false},
		"SET a TO DEFAULT":                                     {VerbReset, "a", "", false},
		"SET TIME ZONE 'UTC'":                                  {VerbSet, "timezone", "UTC", false},
		"SET TIME ZONE -3":                                     {VerbSet, "timezone", "-3", false},
		"SET timezone = 'UTC'":                                 {VerbSet, "timezone", "UTC", false},
		"SET TIME ZONE LOCAL":                                  {VerbSet, "timezone", "LOCAL", false},
		"SET TRANSACTION ISOLATION LEVEL x, y":                 {VerbSet, "transaction", "ISOLATION LEVEL x, y", false},
		"SHOW transaction isolation level":                     {VerbShow, "transaction_isolation", "", false},
		"SHOW server_version":                                  {VerbShow, "server_version", "", false},
		"SHOW TIME ZONE":                                       {VerbShow, "timezone", "", false},
		"SHOW skein.token ;":                                   {VerbShow, "skein.token", "", false},
		"RESET ALL":                                            {VerbReset, "all", "", false},
		"SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY": {VerbSet, "session characteristics", "READ ONLY", false},
	} {
		if got, ok := ParseSetting(sql); !ok || got != want {
			t.Errorf("%q: got %+v %v, want %+v", sql, got, ok, want)
		}
	}
	for _, sql := range []string{"", "SET", "SET a", "SET a =", "SET a = $1", "SET a = 1,", "SET a = 1; x", "SHOW", "SHOW a b", "SELECT 1", "SET a = -"} {
		if got, ok := ParseSetting(sql); ok {
			t.Errorf("%q: got %+v, want a refusal", sql, got)
		}
	}
}

func TestNamesCatalog(t *testing.T) {
	for sql, want := range map[string]bool{
		"SELECT * FROM pg_class":                                true,
		"SELECT * FROM PG_CATALOG.pg_class":                     true,
		"SELECT * FROM \"pg_class\"":                            true,
		"SELECT * FROM information_schema.tables":               true,
		"SELECT 'pg_class' -- pg_class\n FROM pgbench_accounts": false,
		"SELECT apg_x FROM t":                                   false,
		"SELECT 1":                                              false,
	} {
		if NamesCatalog(sql, nil) != want {
			t.Errorf("NamesCatalog(%q) = %v", sql, !want)
		}
	}
	if NamesCatalog("SELECT * FROM pg_mine", func(n string) bool { return n == "pg_class" }) {
		t.Error("a user's own pg_mine counts as catalog")
	}
}

func TestUnquote(t *testing.T) {
	for in, want := range map[string]string{"'a''b'": "a'b", `"a""b"`: `a"b`, "[a]": "a", "`a`": "a", "a": "a", "'": "'"} {
		if got := Unquote(in); got != want {
			t.Errorf("Unquote(%s) = %s, want %s", in, got, want)
		}
	}
}

// fragments make texts that are hard to cut.
var fragments = []string{"'", "''", "\"", "`", "[", "]", "--", "\n", "/*", "*/", ";", " ", "$1", "$a", "::", "?", "x'", "0x", "1e", ".",
	"CREATE", "TEMP", "TRIGGER", "BEGIN", "END", "EXPLAIN", "SELECT", "a", "é", "\x00", "(", ")", "-", ">", "|", "=", "!", "#", ":", "_"}

func TestTokensCoverTheText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		checkText(t, strings.Join(rapid.SliceOfN(rapid.SampledFrom(fragments), 0, 30).Draw(t, "sql"), ""))
	})
}

// failer is what checkText needs of rapid's and testing's T.
type failer interface{ Fatalf(string, ...any) }

func checkText(t failer, sql string) {
	for at := 0; at < len(sql); {
		tok := Scan(sql, at)
		if tok.Start != at || tok.End <= at || tok.End > len(sql) {
			t.Fatalf("%q at %d: token %+v", sql, at, tok)
		}
		at = tok.End
	}
	for left := sql; left != ""; {
		_, rest := First(left)
		if len(rest) >= len(left) {
			t.Fatalf("First(%q) does not move on", left)
		}
		left = rest
	}
	Complete(sql)
	Keyword(sql)
	ParseSetting(sql)
	NamesCatalog(sql, nil)
	once, _ := NumberParams(sql)
	if twice, n := NumberParams(once); twice != once && n != 0 {
		t.Fatalf("NumberParams(%q) = %q, again %q", sql, once, twice)
	}
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"SELECT 1;", "CREATE TRIGGER a BEGIN SELECT 1; END;", "SET a = 1", "SELECT $1::int, 'x", "/*", "$a(", "x'"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, sql string) { checkText(t, sql) })
}

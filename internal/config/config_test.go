package config

import (
	"errors"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/base"
)

// sources has a file, an environment and flags.
func sources(file string, environment, flags map[string]string) Sources {
	s := Sources{Flags: flags, LookupEnv: func(k string) (string, bool) { v, ok := environment[k]; return v, ok }}
	if file != "" {
		s.File = "skein.toml"
		s.ReadFile = func(string) ([]byte, error) { return []byte(file), nil }
	}
	return s
}

type settings = map[string]string

// Every setting, one after another, is given in all places; the nearer wins.
func TestPrecedence(t *testing.T) {
	values := map[string][3]string{ // file, environment, flag
		"dir": {"/f", "/e", "/x"}, "name": {"f", "e", "x"}, "pg": {"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"},
		"http": {"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"}, "peer": {"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"},
		"advertise": {"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"}, "join": {"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"},
		"log-level": {"debug", "warn", "error"}, "log-format": {"json", "text", "json"},
		"trust-loopback": {"true", "false", "true"}, "open-metrics": {"true", "false", "true"},
		"insecure": {"true", "true", "true"}, "certs": {"", "", ""},
	}
	for _, s := range Settings() {
		v, ok := values[s.Flag]
		if !ok {
			t.Fatalf("the test knows no values of %s", s.Flag)
		}
		quoted := `"` + v[0] + `"`
		if s.Kind == "bool" {
			quoted = v[0]
		}
		base := "dir = \"/d\"\ninsecure = true\n"
		file := base
		if s.Flag != "dir" && s.Flag != "insecure" {
			file += s.Key() + " = " + quoted + "\n"
		} else if s.Flag == "dir" {
			file = "dir = " + quoted + "\ninsecure = true\n"
		}
		variable, flag := settings{s.Variable(): v[1]}, settings{s.Flag: v[2]}
		check := func(where string, from Sources, want string) {
			t.Helper()
			got, err := Load(from)
			if err != nil {
				t.Fatalf("%s from %s: %v", s.Flag, where, err)
			}
			expected := Serve{Dir: got.Dir, Insecure: true}
			if err := s.set(&expected, want); err != nil {
				t.Fatal(err)
			}
			if field := changedField(s); !reflect.DeepEqual(reflect.ValueOf(*got).FieldByName(field).Interface(), reflect.ValueOf(expected).FieldByName(field).Interface()) {
				t.Errorf("%s from %s: got %+v, want %q", s.Flag, where, got, want)
			}
		}
		check("file", sources(file, nil, nil), v[0])
		check("environment", sources(file, variable, nil), v[1])
		check("flag", sources(file, variable, flag), v[2])
		check("flag over file", sources(file, nil, flag), v[2])
	}
}

// changedField finds the field of Serve that a setting sets.
func changedField(s Setting) string {
	for _, probe := range []string{"true", "json", "error", "127.0.0.1:9"} {
		var changed Serve
		if s.set(&changed, probe) != nil {
			continue
		}
		v := reflect.ValueOf(changed)
		for i := range v.NumField() {
			if !v.Field(i).IsZero() {
				return v.Type().Field(i).Name
			}
		}
	}
	return ""
}

func TestDefaults(t *testing.T) {
	got, err := Load(sources("", nil, settings{"dir": "/data/n1", "insecure": "true"}))
	if err != nil {
		t.Fatal(err)
	}
	want := Serve{
		Dir: "/data/n1", Name: "n1", PG: "127.0.0.1:5441", HTTP: "127.0.0.1:8441", Peer: "127.0.0.1:6441",
		Advertise: "127.0.0.1:6441", Insecure: true, LogLevel: slog.LevelInfo, LogFormat: LogText,
	}
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("got %+v\nwant %+v", *got, want)
	}
}

func TestJoinIsAList(t *testing.T) {
	for _, file := range []string{`join = ["127.0.0.1:1", "127.0.0.1:2"]`, `join = "127.0.0.1:1, 127.0.0.1:2"`} {
		got, err := Load(sources(file, nil, settings{"dir": "/d", "insecure": "true"}))
		if err != nil || !reflect.DeepEqual(got.Join, []string{"127.0.0.1:1", "127.0.0.1:2"}) {
			t.Errorf("%s: %+v, %v", file, got, err)
		}
	}
}

func TestFileErrorsNameTheLine(t *testing.T) {
	for _, c := range []struct{ file, message, hint string }{
		{"dir = \"/d\"\n\n\n  insecur = true\n", "skein.toml:4: unknown key insecur", "Did you mean insecure?"},
		{"dir = \"/d\"\ntrust-loopback = true", "skein.toml:2: unknown key trust-loopback", "Did you mean trust_loopback?"},
		{"# dir\ncompression = 3", "skein.toml:2: unknown key compression", "Known keys: dir, name"},
		{"dir = \"/d\"\n[log]\nlevel = \"debug\"", "skein.toml:2: unknown key log", "Known keys"},
		{"dir = \"/d\"\nlog.level = \"debug\"", "skein.toml:2: unknown key log", "Known keys"},
		{"dir = \"/d\"\ndir = \"/e\"", "skein.toml:2:", ""},
		{"dir = \"/d", "skein.toml:1:", ""},
		{"dir = 5", "skein.toml:1: dir: want a string in quotes", ""},
		{"insecure = \"true\"", "skein.toml:1: insecure: want true or false, without quotes", ""},
		{"insecure = 1", "skein.toml:1: insecure: want true or false", ""},
		{"pg = [\"a\"]", "skein.toml:1: pg: want a string", ""},
		{"dir = \"/d\"\nlog_level = \"loud\"", "skein.toml:2: log_level: \"loud\": want debug, info, warn or error", ""},
	} {
		_, err := Load(sources(c.file, nil, settings{"insecure": "true"}))
		e := base.AsError(errors.Join(err))
		if err == nil || !strings.HasPrefix(err.Error(), c.message) || !strings.Contains(e.Hint, c.hint) {
			t.Errorf("%q:\n got %v (%s)\nwant %s (%s)", c.file, err, e.Hint, c.message, c.hint)
		}
	}
}

func TestSenselessCombinations(t *testing.T) {
	for want, flags := range map[string]settings{
		"no data folder":                         {},
		"none are given":                         {"dir": "/d"},
		"exclude each other":                     {"dir": "/d", "insecure": "true", "certs": "/c"},
		"10.0.0.1:6441 is not a loopback":        {"dir": "/d", "insecure": "true", "peer": "10.0.0.1:6441"},
		"0.0.0.0:6441 is not a loopback":         {"dir": "/d", "insecure": "true", "peer": "0.0.0.0:6441"},
		":6441 is not a loopback":                {"dir": "/d", "insecure": "true", "peer": ":6441"},
		"db1:6441 is not a loopback":             {"dir": "/d", "insecure": "true", "advertise": "db1:6441"},
		"db2:6441 is not a loopback":             {"dir": "/d", "insecure": "true", "join": "db2:6441"},
		"other nodes cannot dial 0.0.0.0:6441":   {"dir": "/d", "certs": "/c", "peer": "0.0.0.0:6441"},
		"other nodes cannot dial :6441":          {"dir": "/d", "certs": "/c", "peer": ":6441"},
		`pg "5441": want HOST:PORT`:              {"dir": "/d", "insecure": "true", "pg": "5441"},
		`join "db2": want HOST:PORT`:             {"dir": "/d", "certs": "/c", "join": "db2"},
		`flag --insecure: "maybe": want true or`: {"dir": "/d", "insecure": "maybe"},
		`flag --log-format: "xml": want text`:    {"dir": "/d", "insecure": "true", "log-format": "xml"},
	} {
		if _, err := Load(sources("", nil, flags)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want %q", flags, err, want)
		}
	}
	for _, flags := range []settings{
		{"dir": "/d", "certs": "/c", "peer": "0.0.0.0:6441", "advertise": "db1:6441"},
		{"dir": "/d", "insecure": "true", "pg": "0.0.0.0:5441"}, // Clients have passwords.
		{"dir": "/d", "insecure": "true", "peer": "[::1]:6441", "join": "localhost:1"},
	} {
		if _, err := Load(sources("", nil, flags)); err != nil {
			t.Errorf("%v: %v", flags, err)
		}
	}
}

func TestMissingFile(t *testing.T) {
	_, err := Load(Sources{File: "/nowhere/skein.toml"})
	if !errors.Is(err, os.ErrNotExist) || base.KindOf(err) != base.KindInvalid {
		t.Errorf("got %v", err)
	}
}

func FuzzFile(f *testing.F) {
	f.Add([]byte("dir = \"/d\"\n"))
	f.Add([]byte("[a.\"b\"]\nc=1"))
	f.Add([]byte("join = [[1]]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if values, err := parseFile("f", data); err == nil {
			for key, v := range values {
				if v.line < 1 || v.line > 1+strings.Count(string(data), "\n") {
					t.Fatalf("%s is on line %d", key, v.line)
				}
			}
		}
	})
}

package config

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"github.com/skeindb/skein/internal/base"
)

// Setting is one row of the table: a flag --log-level, a variable
// SKEIN_LOG_LEVEL and a key log_level.
type Setting struct {
	Flag    string
	Default string
	Help    string
	// Kind of value: "string", "list" (comma-separated, or a TOML array) or "bool".
	Kind string
	set  func(s *Serve, value string) error
}

// Key is the setting's name in the file.
func (s Setting) Key() string { return strings.ReplaceAll(s.Flag, "-", "_") }

// Variable is the setting's name in the environment.
func (s Setting) Variable() string { return "SKEIN_" + strings.ToUpper(s.Key()) }

// Settings is the table.
func Settings() []Setting {
	text := func(field func(*Serve) *string) func(*Serve, string) error {
		return func(s *Serve, v string) error { *field(s) = v; return nil }
	}
	flag := func(field func(*Serve) *bool) func(*Serve, string) error {
		return func(s *Serve, v string) (err error) {
			if *field(s), err = strconv.ParseBool(v); err != nil {
				err = fmt.Errorf("want true or false")
			}
			return err
		}
	}
	return []Setting{
		{"dir", "", "data folder; made when it is missing", "string", text(func(s *Serve) *string { return &s.Dir })},
		{"name", "", "name of the node, for people (default: the data folder's)", "string", text(func(s *Serve) *string { return &s.Name })},
		{"pg", "127.0.0.1:5441", "address for PostgreSQL clients", "string", text(func(s *Serve) *string { return &s.PG })},
		{"http", "127.0.0.1:8441", "address for HTTP: API, health, metrics", "string", text(func(s *Serve) *string { return &s.HTTP })},
		{"peer", "127.0.0.1:6441", "address for other nodes", "string", text(func(s *Serve) *string { return &s.Peer })},
		{"advertise", "", "peer address that other nodes dial (default: that of --peer)", "string", text(func(s *Serve) *string { return &s.Advertise })},
		{"join", "", "peer address of a member; an empty node joins its cluster. Several: comma-separated", "list", setJoin},
		{"certs", "", "folder with ca.crt and node.pem, and server.pem for TLS towards clients", "string", text(func(s *Serve) *string { return &s.Certs })},
		{"insecure", "false", "no certificates between nodes; only on loopback addresses", "bool", flag(func(s *Serve) *bool { return &s.Insecure })},
		{"trust-loopback", "false", "clients on this machine need no password and may do everything", "bool", flag(func(s *Serve) *bool { return &s.TrustLoopback })},
		{"open-metrics", "false", "show /metrics to everyone who can connect", "bool", flag(func(s *Serve) *bool { return &s.OpenMetrics })},
		{"log-level", "info", "debug, info, warn or error", "string", setLogLevel},
		{"log-format", "text", "text or json", "string", setLogFormat},
	}
}

func setJoin(s *Serve, v string) error {
	s.Join = nil
	for _, address := range strings.Split(v, ",") {
		if address = strings.TrimSpace(address); address != "" {
			s.Join = append(s.Join, address)
		}
	}
	return nil
}

func setLogLevel(s *Serve, v string) error {
	if s.LogLevel.UnmarshalText([]byte(v)) != nil {
		return fmt.Errorf("want debug, info, warn or error")
	}
	return nil
}

func setLogFormat(s *Serve, v string) error {
	switch s.LogFormat = LogFormat(v); s.LogFormat {
	case LogText, LogJSON:
		return nil
	}
	return fmt.Errorf("want text or json")
}

// Sources is where settings come from.
type Sources struct {
	// Flags given on the command line, by flag name.
	Flags map[string]string
	// LookupEnv is os.LookupEnv; nil is an empty environment.
	LookupEnv func(string) (string, bool)
	// File is the TOML file; "" means none.
	File string
	// ReadFile is os.ReadFile.
	ReadFile func(string) ([]byte, error)
}

// Load takes every setting from the first source that has it, and checks the
// whole.
func Load(from Sources) (*Serve, error) {
	file, err := readFile(from)
	if err != nil {
		return nil, err
	}
	s := &Serve{LogLevel: slog.LevelInfo}
	for _, setting := range Settings() {
		value, origin := setting.Default, "default"
		if v, ok := file[setting.Key()]; ok {
			value, origin = v.text, fmt.Sprintf("%s:%d: %s", from.File, v.line, setting.Key())
		}
		if from.LookupEnv != nil {
			if v, ok := from.LookupEnv(setting.Variable()); ok {
				value, origin = v, "variable "+setting.Variable()
			}
		}
		if v, ok := from.Flags[setting.Flag]; ok {
			value, origin = v, "flag --"+setting.Flag
		}
		if err := setting.set(s, value); err != nil {
			return nil, base.Errorf(base.KindInvalid, "%s: %q: %w", origin, value, err)
		}
	}
	return s, s.finish()
}

func readFile(from Sources) (map[string]fileValue, error) {
	if from.File == "" {
		return nil, nil
	}
	read := from.ReadFile
	if read == nil {
		read = os.ReadFile
	}
	data, err := read(from.File)
	if err != nil {
		return nil, base.Errorf(base.KindInvalid, "read configuration: %w", err)
	}
	return parseFile(from.File, data)
}

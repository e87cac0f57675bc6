package pgwire

import (
	"context"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/sqltext"
)

// known is one of PostgreSQL's settings that clients set or ask for. All but
// the few that check values refuse, or that the session acts on, are only
// remembered.
type known struct {
	name, value string
	report      bool // told to the client as a ParameterStatus when it changes
	fixed       bool // cannot be set
}

// knownSettings is sorted by lower-case name.
var knownSettings = sortSettings([]known{
	{name: "server_version", fixed: true, report: true},
	{name: "server_version_num", value: "150000", fixed: true},
	{name: "server_encoding", value: "UTF8", fixed: true, report: true},
	{name: "client_encoding", value: "UTF8", report: true},
	{name: "application_name", report: true},
	{name: "DateStyle", value: "ISO, MDY", report: true},
	{name: "IntervalStyle", value: "postgres", report: true},
	{name: "TimeZone", value: "UTC", report: true},
	{name: "integer_datetimes", value: "on", fixed: true, report: true},
	{name: "standard_conforming_strings", value: "on", report: true},
	{name: "is_superuser", value: "off", fixed: true, report: true},
	{name: "session_authorization", fixed: true, report: true},
	{name: "default_transaction_read_only", value: "off", report: true},
	{name: "in_hot_standby", value: "off", fixed: true, report: true},
	{name: "transaction_isolation", value: "serializable"},
	{name: "transaction_read_only", value: "off"},
	{name: "transaction_deferrable", value: "off"},
	{name: "default_transaction_isolation", value: "serializable"},
	{name: "default_transaction_deferrable", value: "off"},
	{name: "search_path", value: "public"},
	{name: "statement_timeout", value: "0"},
	{name: "lock_timeout", value: "0"},
	{name: "idle_in_transaction_session_timeout", value: "0"},
	{name: "idle_session_timeout", value: "0"},
	{name: "extra_float_digits", value: "1"},
	{name: "bytea_output", value: "hex"},
	{name: "xmlbinary", value: "base64"},
	{name: "xmloption", value: "content"},
	{name: "client_min_messages", value: "notice"},
	{name: "synchronous_commit", value: "on"},
	{name: "default_tablespace"},
	{name: "default_table_access_method", value: "heap"},
	{name: "temp_tablespaces"},
	{name: "check_function_bodies", value: "on"},
	{name: "row_security", value: "on"},
	{name: "session_replication_role", value: "origin"},
	{name: "backslash_quote", value: "safe_encoding"},
	{name: "escape_string_warning", value: "on"},
	{name: "array_nulls", value: "on"},
	{name: "quote_all_identifiers", value: "off"},
	{name: "synchronize_seqscans", value: "on"},
	{name: "lc_messages", value: "C"},
	{name: "lc_monetary", value: "C"},
	{name: "lc_numeric", value: "C"},
	{name: "lc_time", value: "C"},
	{name: "lc_collate", value: "C", fixed: true},
	{name: "lc_ctype", value: "C", fixed: true},
	{name: "work_mem", value: "4MB"},
	{name: "maintenance_work_mem", value: "64MB"},
	{name: "jit", value: "off"},
	{name: "geqo", value: "on"},
	{name: "plan_cache_mode", value: "auto"},
	{name: "force_parallel_mode", value: "off"},
	{name: "max_parallel_workers_per_gather", value: "0"},
	{name: "enable_seqscan", value: "on"},
	{name: "enable_nestloop", value: "on"},
	{name: "tcp_keepalives_idle", value: "0"},
	{name: "tcp_keepalives_interval", value: "0"},
	{name: "tcp_keepalives_count", value: "0"},
	{name: "tcp_user_timeout", value: "0"},
	{name: "max_index_keys", value: "32", fixed: true},
	{name: "max_identifier_length", value: "63", fixed: true},
	{name: "max_connections", value: "1000", fixed: true},
	{name: "block_size", value: "8192", fixed: true},
	{name: "wal_level", value: "replica", fixed: true},
	{name: "ssl", value: "off", fixed: true},
})

func sortSettings(k []known) []known {
	slices.SortFunc(k, func(a, b known) int { return strings.Compare(strings.ToLower(a.name), strings.ToLower(b.name)) })
	return k
}

func findSetting(name string) (known, bool) {
	i, ok := slices.BinarySearchFunc(knownSettings, name, func(k known, n string) int {
		return strings.Compare(strings.ToLower(k.name), n)
	})
	if !ok {
		return known{}, false
	}
	return knownSettings[i], true
}

// settings are one connection's. Names are in lower case.
type settings struct {
	initial map[string]string // what RESET goes back to, where not the default
	changed map[string]string
	local   map[string]string // values from before SET LOCAL
	session map[string]bool   // the session's own that are not at their default
	report  bool              // skein.report_token
}

// maxSettings bounds the settings with names of the client's own.
const maxSettings = 256

func newSettings(version, user, database string) settings {
	return settings{
		initial: map[string]string{"server_version": version, "session_authorization": user, "skein.database": database},
		changed: map[string]string{},
	}
}

// get returns a setting of the connection itself.
func (s *settings) get(name string) (string, bool) {
	if v, ok := s.changed[name]; ok {
		return v, true
	}
	if v, ok := s.initial[name]; ok {
		return v, true
	}
	k, ok := findSetting(name)
	return k.value, ok
}

// reported yields what a client is told when it has logged in.
func (s *settings) reported() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, k := range knownSettings {
			if v, _ := s.get(strings.ToLower(k.name)); k.report && !yield(k.name, v) {
				return
			}
		}
	}
}

// startupSettings yields the settings in a startup message's parameters.
func startupSettings(parameters map[string]string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for name, value := range optionSettings(parameters["options"]) {
			if !yield(name, value) {
				return
			}
		}
		for name, value := range parameters {
			switch name {
			case "user", "database", "options", "replication":
				continue
			}
			if !yield(strings.ToLower(name), value) {
				return
			}
		}
	}
}

// optionSettings reads "-c name=value --name=value"; a backslash keeps a space.
func optionSettings(options string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		words := splitOptions(options)
		for i := 0; i < len(words); i++ {
			word := words[i]
			switch {
			case word == "-c" && i+1 < len(words):
				i++
				word = words[i]
			case strings.HasPrefix(word, "-c"), strings.HasPrefix(word, "--"):
				word = word[2:]
			}
			name, value, _ := strings.Cut(word, "=")
			if !yield(strings.ToLower(strings.ReplaceAll(name, "-", "_")), value) {
				return
			}
		}
	}
}

func splitOptions(s string) []string {
	var words []string
	var word []byte
	open := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			word, open = append(word, s[i]), true
		case s[i] != ' ' && s[i] != '\t':
			word, open = append(word, s[i]), true
		case open:
			words, word, open = append(words, string(word)), nil, false
		}
	}
	if open {
		words = append(words, string(word))
	}
	return words
}

// setting carries out SET name TO value.
func (c *conn) setting(name, value string) error {
	if name == "skein.report_token" {
		on, err := parseBool(value)
		c.settings.report = on
		return err
	}
	if strings.HasPrefix(name, "skein.") {
		return c.setSession(name, value)
	}
	k, ok := findSetting(name)
	if !ok && !strings.Contains(name, ".") {
		return pgError("42704", "unrecognized configuration parameter %q", name)
	}
	if k.fixed {
		return pgError("55P02", "parameter %q cannot be changed", name)
	}
	value, err := c.checkSetting(name, value)
	if err != nil {
		return err
	}
	if _, had := c.settings.changed[name]; !had && len(c.settings.changed) >= maxSettings {
		return base.Errorf(base.KindTooLarge, "more than %d settings", maxSettings)
	}
	c.settings.changed[name] = value
	if k.report && c.greeted {
		c.reportSetting(k.name, value)
	}
	return nil
}

// checkSetting refuses values that would promise what is not so, and acts on
// those that have an effect here.
func (c *conn) checkSetting(name, value string) (string, error) {
	refuse := func(only string) (string, error) {
		return "", pgError("22023", "invalid value for parameter %q: %q", name, value).WithHint("only %s is supported", only)
	}
	lower := strings.ToLower(value)
	switch name {
	case "client_encoding":
		switch strings.NewReplacer("-", "", "_", "").Replace(lower) {
		case "utf8", "unicode":
			return "UTF8", nil
		}
		return refuse("UTF8")
	case "standard_conforming_strings":
		if on, err := parseBool(value); err != nil || !on {
			return refuse("on")
		}
		return "on", nil
	case "datestyle":
		if !strings.HasPrefix(lower, "iso") {
			return refuse("ISO")
		}
		return "ISO, MDY", nil
	case "bytea_output":
		if lower != "hex" {
			return refuse("hex")
		}
	case "statement_timeout":
		d, err := parseTimeout(value)
		if err != nil {
			return "", err
		}
		return value, c.setSession("skein.statement_timeout", d.String())
	case "default_transaction_read_only", "transaction_read_only":
		on, err := parseBool(value)
		if err != nil {
			return "", err
		}
		return c.setReadOnly(name, on), nil
	}
	return value, nil
}

func (c *conn) setReadOnly(name string, on bool) string {
	if name == "transaction_read_only" {
		c.readOnly = on
	}
	return onOff(on)
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// show returns a setting's value.
func (c *conn) show(ctx context.Context, name string) (string, error) {
	switch name {
	case "skein.report_token":
		return onOff(c.settings.report), nil
	case "transaction_read_only":
		return onOff(c.readOnly || c.readOnlyByDefault() || !c.sess.Leads()), nil
	case "in_hot_standby":
		return c.standby(), nil
	}
	if v, ok := c.settings.get(name); ok {
		return v, nil
	}
	if strings.HasPrefix(name, "skein.") {
		return c.sess.Show(ctx, name)
	}
	return "", pgError("42704", "unrecognized configuration parameter %q", name)
}

func (c *conn) readOnlyByDefault() bool {
	return len(c.settings.changed) > 0 && c.settings.changed["default_transaction_read_only"] == "on"
}

// apply carries out a parsed SET or RESET.
func (c *conn) applySetting(s sqltext.Setting) error {
	switch {
	case s.Name == "transaction", s.Name == "session characteristics":
		return c.transactionModes(s)
	case s.Verb == sqltext.VerbReset && s.Name == "all":
		return c.resetSettings()
	case s.Verb == sqltext.VerbReset:
		return c.resetSetting(s.Name)
	case s.Local:
		return c.setLocal(s.Name, s.Value)
	}
	return c.setting(s.Name, s.Value)
}

// transactionModes takes READ ONLY and READ WRITE; every isolation level is
// given what it asks for, because transactions are serializable.
func (c *conn) transactionModes(s sqltext.Setting) error {
	readOnly, said := readOnlyMode(s.Value)
	if !said {
		return nil
	}
	if s.Name == "transaction" {
		c.readOnly = readOnly
		return nil
	}
	return c.setting("default_transaction_read_only", strconv.FormatBool(readOnly))
}

// readOnlyMode looks for READ ONLY and READ WRITE among transaction modes.
func readOnlyMode(modes string) (readOnly, said bool) {
	s := sqltext.Scanner{SQL: modes}
	for {
		t, ok := s.Next()
		if !ok {
			return readOnly, said
		}
		if t.Is(modes, "READ") {
			switch {
			case s.Word("ONLY"):
				readOnly, said = true, true
			case s.Word("WRITE"):
				readOnly, said = false, true
			}
		}
	}
}

// setSession changes a setting of the session, which takes an empty value for
// its default, and remembers that for RESET.
func (c *conn) setSession(name, value string) error {
	if err := c.sess.Set(name, value); err != nil {
		return err
	}
	if c.settings.session == nil {
		c.settings.session = map[string]bool{}
	}
	c.settings.session[name] = true
	if value == "" {
		delete(c.settings.session, name)
	}
	return nil
}

// resetSession puts a setting of the session back, if it was changed.
func (c *conn) resetSession(name string) error {
	if !c.settings.session[name] {
		return nil
	}
	return c.setSession(name, "")
}

func (c *conn) resetSetting(name string) error {
	if name == "skein.report_token" {
		c.settings.report = false
		return nil
	}
	if strings.HasPrefix(name, "skein.") {
		return c.resetSession(name)
	}
	k, ok := findSetting(name)
	if _, own := c.settings.changed[name]; !ok && !own {
		return pgError("42704", "unrecognized configuration parameter %q", name)
	}
	delete(c.settings.changed, name)
	if name == "statement_timeout" {
		return c.resetSession("skein.statement_timeout")
	}
	if v, _ := c.settings.get(name); k.report {
		c.reportSetting(k.name, v)
	}
	return nil
}

func (c *conn) resetSettings() error {
	c.settings.report = false
	names := append(slices.Sorted(maps.Keys(c.settings.changed)), slices.Sorted(maps.Keys(c.settings.session))...)
	for _, name := range names {
		if err := c.resetSetting(name); err != nil {
			return err
		}
	}
	return nil
}

// setLocal keeps the old value until the transaction ends.
func (c *conn) setLocal(name, value string) error {
	if c.block == blockNone && !c.implicit {
		c.notice("WARNING", "25P01", "SET LOCAL can only be used in transaction blocks", "", "")
		return nil
	}
	old, err := c.show(c.ctx, name)
	if err != nil {
		return err
	}
	switch {
	case name == "transaction_read_only":
		old = onOff(c.readOnly) // not whether this node follows
	case strings.HasPrefix(name, "skein.") && name != "skein.report_token" && !c.settings.session[name]:
		old = "" // its default, which may change
	}
	if err := c.setting(name, value); err != nil {
		return err
	}
	if c.settings.local == nil {
		c.settings.local = map[string]string{}
	}
	if _, had := c.settings.local[name]; !had {
		c.settings.local[name] = old
	}
	return nil
}

// endLocal undoes SET LOCAL when a transaction has ended.
func (c *conn) endLocal() {
	for _, name := range slices.Sorted(maps.Keys(c.settings.local)) {
		if err := c.setting(name, c.settings.local[name]); err != nil {
			c.notice("WARNING", "01000", "setting "+name+" keeps its local value: "+err.Error(), "", "")
		}
	}
	c.settings.local = nil
}

func parseBool(value string) (bool, error) {
	switch strings.ToLower(value) {
	case "on", "true", "yes", "1", "t", "y":
		return true, nil
	case "off", "false", "no", "0", "f", "n":
		return false, nil
	}
	return false, pgError("22023", "%q is not a boolean: want on or off", value)
}

// parseTimeout reads PostgreSQL's times: a number of milliseconds, or one with
// us, ms, s, min, h or d.
func parseTimeout(value string) (time.Duration, error) {
	v := strings.ToLower(strings.TrimSpace(value))
	digits := strings.TrimRight(v, "abcdefghijklmnopqrstuvwxyz ")
	unit, ok := map[string]time.Duration{
		"": time.Millisecond, "us": time.Microsecond, "ms": time.Millisecond, "s": time.Second,
		"min": time.Minute, "h": time.Hour, "d": 24 * time.Hour,
	}[strings.TrimSpace(v[len(digits):])]
	n, err := strconv.ParseFloat(digits, 64)
	if !ok || err != nil || n < 0 || n*float64(unit) > float64(1<<62) {
		return 0, pgError("22023", "invalid time %q: want for example 500, '500ms', '5s' or '1min'", value)
	}
	return time.Duration(n * float64(unit)), nil
}

package gateway

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/sqltext"
	"github.com/skeindb/skein/internal/token"
)

// settings are what SET skein.* has changed in a session.
type settings struct {
	read             readLevel
	durability       base.Durability // zero: the database's
	statementTimeout time.Duration   // 0: none for reads, writeTimeout for writes
	operation        string          // the client's name for its next write; "": none
}

// describeHere recognises what never reaches a database.
func describeHere(sql string) *session.Description {
	switch word := sqltext.Keyword(sql); word {
	case "":
		if sqltext.Blank(sql) {
			return &session.Description{Kind: session.Empty}
		}
	case "BEGIN", "START":
		return &session.Description{Kind: session.Begin, Tag: "BEGIN"}
	case "COMMIT", "END":
		return &session.Description{Kind: session.Commit, Tag: "COMMIT"}
	case "SAVEPOINT", "RELEASE":
		return &session.Description{Kind: session.Savepoint, Tag: word}
	case "ROLLBACK":
		if action, _ := sqltext.ParseSavepoint(sql); action != 0 {
			return &session.Description{Kind: session.Savepoint, Tag: word}
		}
		return &session.Description{Kind: session.Rollback, Tag: word}
	case "SET", "RESET":
		return &session.Description{Kind: session.Setting, Tag: word}
	case "SHOW":
		name := "value"
		if set, ok := sqltext.ParseSetting(sql); ok {
			name = set.Name
		}
		return &session.Description{Kind: session.Setting, Tag: word, Columns: []session.Column{{Name: name, DeclType: "TEXT"}}}
	}
	return nil
}

// describeByKeyword tells reads from writes by their first word alone, where no
// replica but the transaction's own connection can compile the statement.
func describeByKeyword(sql string) *session.Description {
	d := &session.Description{Kind: session.Write, Tag: sqltext.Keyword(sql)}
	switch d.Tag {
	case "SELECT", "VALUES", "EXPLAIN", "PRAGMA":
		d.Kind = session.Read
	case "CREATE", "DROP", "ALTER", "REINDEX", "ANALYZE":
		d.Kind = session.Schema
	}
	_, d.Params = sqltext.NumberParams(sql)
	return d
}

// setting runs SET, RESET and SHOW as statements.
func (s *clientSession) setting(ctx context.Context, sql string) (session.Rows, error) {
	set, ok := sqltext.ParseSetting(sql)
	if !ok {
		e := base.Errorf(base.KindSQL, "this is no SET or SHOW that is understood").WithHint("SET skein.read = 'leader', SHOW skein.token")
		return nil, s.fail(e)
	}
	switch set.Verb {
	case sqltext.VerbShow:
		value, err := s.Show(ctx, set.Name)
		if err != nil {
			return nil, s.fail(err)
		}
		return &valueRows{column: set.Name, value: value}, nil
	case sqltext.VerbReset:
		if err := s.Set(set.Name, ""); err != nil {
			return nil, s.fail(err)
		}
		return done(session.Result{Tag: "RESET"}), nil
	}
	if err := s.Set(set.Name, set.Value); err != nil {
		return nil, s.fail(err)
	}
	return done(session.Result{Tag: "SET"}), nil
}

// Set implements session.Session. An empty value restores the default.
func (s *clientSession) Set(name, value string) error {
	var err error
	switch strings.ToLower(name) {
	case "skein.token":
		var t token.Token
		if t, err = token.Parse(value); err == nil {
			err = s.takeToken(t)
		}
	case "skein.read":
		var l readLevel
		if l, err = parseReadLevel(value); err == nil {
			s.settings.read = l
		}
	case "skein.replica":
		s.kept = value
	case "skein.durability":
		var d base.Durability
		if value != "" && !strings.EqualFold(value, "default") {
			d, err = base.ParseDurability(value)
		}
		if err == nil {
			s.settings.durability = d
		}
	case "skein.operation":
		if len(value) > replica.MaxOperationName {
			err = base.Errorf(base.KindInvalid, "skein.operation: a name has at most %d bytes, this one has %d", replica.MaxOperationName, len(value))
		} else {
			s.settings.operation = value
		}
	case "skein.statement_timeout":
		var d time.Duration
		if d, err = parseTimeout(value); err == nil {
			s.settings.statementTimeout = d
		}
	default:
		return noSetting(name)
	}
	return err
}

// takeToken goes on with another token, if that has room for what the session
// will see.
func (s *clientSession) takeToken(t token.Token) error {
	if db, ok := s.gateway.directory.Database(s.options.Database); ok {
		if _, err := t.With(db.ID, base.Position{Seq: 1}); err != nil {
			return err
		}
	}
	s.token = t
	return nil
}

func noSetting(name string) error {
	e := base.Errorf(base.KindInvalid, "there is no setting %q to set", name).
		WithHint("skein.token, skein.read, skein.replica, skein.durability, skein.operation and skein.statement_timeout can be set")
	e.SQLState = "42704"
	return e
}

// parseReadLevel reads any, bounded(duration), session, sticky, at(position),
// leader or linearizable.
func parseReadLevel(value string) (readLevel, error) {
	v := strings.ToLower(strings.TrimSpace(value))
	switch v {
	case "", "session", "default":
		return readLevel{kind: levelSession}, nil
	case "any":
		return readLevel{kind: levelAny}, nil
	case "sticky":
		return readLevel{kind: levelSticky}, nil
	case "leader", "linearizable":
		return readLevel{kind: levelLeader}, nil
	}
	if word, inner, ok := strings.Cut(v, "("); ok && strings.HasSuffix(inner, ")") {
		inner = strings.Trim(strings.TrimSuffix(inner, ")"), " '\"")
		switch word {
		case "bounded":
			if d, err := time.ParseDuration(inner); err == nil && d > 0 {
				return readLevel{kind: levelBounded, bound: d}, nil
			}
		case "at":
			if p, err := base.ParsePosition(inner); err == nil {
				return readLevel{kind: levelAt, at: p}, nil
			}
		}
	}
	return readLevel{}, base.Errorf(base.KindInvalid, "skein.read = %q: want any, bounded(500ms), session, sticky, at(2/88) or leader", value)
}

// String returns what parseReadLevel reads.
func (l readLevel) String() string {
	switch l.kind {
	case levelAny:
		return "any"
	case levelSticky:
		return "sticky"
	case levelBounded:
		return fmt.Sprintf("bounded(%v)", l.bound)
	case levelAt:
		return fmt.Sprintf("at(%v)", l.at)
	case levelLeader:
		return "leader"
	}
	return "session"
}

// parseTimeout reads a Go duration or, as PostgreSQL does, milliseconds.
func parseTimeout(value string) (time.Duration, error) {
	v := strings.TrimSpace(value)
	if v == "" || strings.EqualFold(v, "default") {
		return 0, nil
	}
	d, err := time.ParseDuration(v)
	if ms, atoi := strconv.Atoi(v); atoi == nil {
		d, err = time.Duration(ms)*time.Millisecond, nil
	}
	if err != nil || d < 0 || d > 24*time.Hour {
		return 0, base.Errorf(base.KindInvalid, "skein.statement_timeout = %q: want milliseconds or a duration such as 5s, at most 24h; 0 restores the default", value)
	}
	return d, nil
}

// Show implements session.Session.
func (s *clientSession) Show(ctx context.Context, name string) (string, error) {
	db, _ := s.gateway.directory.Database(s.options.Database)
	switch strings.ToLower(name) {
	case "skein.token":
		return s.token.String(), nil
	case "skein.read":
		return s.settings.read.String(), nil
	case "skein.replica":
		return s.kept, nil
	case "skein.durability":
		if s.settings.durability.Level == "" {
			return db.Policy.Durability.String(), nil
		}
		return s.settings.durability.String(), nil
	case "skein.statement_timeout":
		return s.settings.statementTimeout.String(), nil
	case "skein.operation":
		return s.settings.operation, nil
	case "skein.outcome":
		return s.outcome(ctx)
	case "skein.reached":
		return s.reached(), nil
	case "skein.last_read":
		return fmt.Sprintf("position %v, age %v", s.last.Position, s.last.Age.Round(time.Microsecond)), nil
	case "skein.leader":
		if db.Leader == 0 {
			return "none", nil
		}
		return s.gateway.directory.NodeName(db.Leader), nil
	case "skein.node":
		return s.gateway.directory.NodeName(s.gateway.directory.Self()), nil
	case "skein.epoch":
		return strconv.FormatUint(uint64(db.Epoch), 10), nil
	case "skein.database":
		return db.Name, nil
	}
	e := base.Errorf(base.KindInvalid, "there is no setting %q", name).
		WithHint("skein.token, read, replica, durability, operation, outcome, statement_timeout, reached, last_read, leader, node, epoch and database can be shown")
	e.SQLState = "42704"
	return "", e
}

// reached says how durable the last commit was when it was acknowledged.
func (s *clientSession) reached() string {
	switch {
	case s.commit.Reached == "":
		return "nothing committed yet"
	case s.commit.Degraded:
		return s.commit.Reached + " (degraded: fewer than the policy asks)"
	}
	return s.commit.Reached
}

// valueRows is one row with one text.
type valueRows struct {
	column, value string
	given         bool
}

func (v *valueRows) Columns() []session.Column {
	return []session.Column{{Name: v.column, DeclType: "TEXT"}}
}
func (v *valueRows) Row() []base.Value      { return []base.Value{base.TextValue(v.value)} }
func (v *valueRows) Err() error             { return nil }
func (v *valueRows) Result() session.Result { return session.Result{Tag: "SHOW", RowsAffected: 1} }
func (v *valueRows) Close() error           { return nil }

func (v *valueRows) Next() bool {
	first := !v.given
	v.given = true
	return first
}

package httpapi

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/choice"
	"github.com/skeindb/skein/internal/jsonvalue"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/sqltext"
)

// Choice says what a database sends of one table to partial replicas; the body
// of PUT /v1/databases/{name}/choice.
type Choice struct {
	Table string `json:"table"`
	// Columns beside the key; none is the whole row.
	Columns []string `json:"columns,omitempty"`
	// Where is an expression of NEW.column that chooses rows; "" is all rows.
	Where string `json:"where,omitempty"`
	// None sends nothing of the table.
	None bool `json:"none,omitempty"`
}

// ChosenTrigger is a trigger that says what is sent of a table.
type ChosenTrigger struct {
	Table   string `json:"table"`
	Trigger string `json:"trigger"`
	SQL     string `json:"sql"`
}

// showChoice lists the triggers that say what is sent.
func (a *API) showChoice(_ http.ResponseWriter, r *http.Request) (any, error) {
	s, err := a.session(r)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return a.chosenTriggers(r.Context(), s)
}

func (a *API) session(r *http.Request) (session.Session, error) {
	id := identityOf(r.Context())
	return a.options.Gateway.Open(r.Context(), session.Options{
		User: id.user, Trusted: id.trusted, Database: r.PathValue("name"), FrontEnd: "http", RemoteAddr: r.RemoteAddr,
	})
}

func (a *API) chosenTriggers(ctx context.Context, s session.Session) ([]ChosenTrigger, error) {
	result, err := a.run(ctx, s, &QueryRequest{SQL: `SELECT "table", "trigger", sql FROM ` + choice.View + ` ORDER BY 1, 2`})
	if err != nil {
		return nil, notSetUp(err)
	}
	list := make([]ChosenTrigger, len(result.Rows))
	for i, row := range result.Rows {
		list[i] = ChosenTrigger{string(row[0].Bytes), string(row[1].Bytes), string(row[2].Bytes)}
	}
	return list, nil
}

// notSetUp explains that there is no list of triggers.
func notSetUp(err error) error {
	if base.KindOf(err) != base.KindSQL || !strings.Contains(err.Error(), choice.View) {
		return err
	}
	return base.Errorf(base.KindInvalid, "this database has no triggers that say what is sent: its log format is not, and never was, trigger").
		WithHint("skein db alter NAME --log-format trigger")
}

// choose replaces the triggers of a table in one transaction: every write comes
// under the old choice or under the new one.
func (a *API) choose(w http.ResponseWriter, r *http.Request) (any, error) {
	var c Choice
	if err := readJSON(w, r, a.options.MaxQueryBody, &c); err != nil {
		return nil, err
	}
	if c.Table == "" || c.None && (c.Where != "" || len(c.Columns) > 0) {
		return nil, base.Errorf(base.KindInvalid, "a choice names a table, and with none neither columns nor where")
	}
	s, err := a.session(r)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if _, err := a.chosenTriggers(r.Context(), s); err != nil {
		return nil, err
	}
	if err := a.inTransaction(r.Context(), s, func() error { return a.replaceChoice(r.Context(), s, &c) }); err != nil {
		return nil, err
	}
	return a.chosenTriggers(r.Context(), s)
}

func (a *API) inTransaction(ctx context.Context, s session.Session, steps func() error) error {
	if err := a.exec(ctx, s, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	if err := steps(); err != nil {
		_ = a.exec(ctx, s, "ROLLBACK") // Closing the session does the same.
		return err
	}
	return a.exec(ctx, s, "COMMIT")
}

func (a *API) exec(ctx context.Context, s session.Session, sql string) error {
	_, err := a.rows(ctx, s, sql)
	return err
}

func (a *API) rows(ctx context.Context, s session.Session, sql string, args ...base.Value) ([][]jsonvalue.Value, error) {
	rows, err := s.Query(ctx, sql, args)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	result, err := a.collect(rows)
	if err != nil {
		return nil, err
	}
	return result.Rows, nil
}

func (a *API) replaceChoice(ctx context.Context, s session.Session, c *Choice) error {
	wanted := choice.Choice{Columns: c.Columns, Where: c.Where}
	var err error
	if wanted.Table, wanted.Key, err = a.tableKey(ctx, s, c.Table); err != nil {
		return err
	}
	if err := a.checkColumns(ctx, s, &wanted); err != nil {
		return err
	}
	for _, event := range choice.Events {
		if err := a.exec(ctx, s, "DROP TRIGGER IF EXISTS "+sqltext.QuoteName(choice.TriggerName(wanted.Table, event))); err != nil {
			return err
		}
	}
	if c.None {
		return nil
	}
	for _, t := range wanted.Triggers() {
		if err := a.exec(ctx, s, t.SQL); err != nil {
			return err
		}
	}
	return nil
}

func (a *API) checkColumns(ctx context.Context, s session.Session, c *choice.Choice) error {
	if err := c.Check(); err != nil {
		return err
	}
	rows, err := a.rows(ctx, s, "SELECT name FROM pragma_table_xinfo(?1)", base.TextValue(c.Table))
	if err != nil {
		return err
	}
	for i, wanted := range c.Columns {
		at := slices.IndexFunc(rows, func(row []jsonvalue.Value) bool { return strings.EqualFold(string(row[0].Bytes), wanted) })
		if at < 0 {
			return base.Errorf(base.KindInvalid, "table %q has no column %q", c.Table, wanted)
		}
		c.Columns[i] = string(rows[at][0].Bytes)
	}
	c.Columns = slices.DeleteFunc(c.Columns, func(name string) bool { return slices.Contains(c.Key, name) }) // It is sent anyway.
	return nil
}

// tableKey returns a table's name as it is spelled, and what names its rows.
func (a *API) tableKey(ctx context.Context, s session.Session, name string) (string, []string, error) {
	rows, err := a.rows(ctx, s, `SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND lower(name) = lower(?1)`, base.TextValue(name))
	if err != nil {
		return "", nil, err
	}
	if len(rows) == 0 {
		return "", nil, base.Errorf(base.KindNotFound, "there is no table %q that can have triggers", name).
			WithHint("views, virtual tables and what lies below them can't be sent")
	}
	table := rows[0][0]
	query := choice.RowIDSQL
	if rows[0][1].Int != 0 {
		query = choice.KeySQL
	}
	keys, err := a.rows(ctx, s, query, base.Value(table))
	if err != nil {
		return "", nil, err
	}
	var key []string
	for _, k := range keys {
		if !slices.Contains(key, string(k[0].Bytes)) {
			key = append(key, string(k[0].Bytes))
		}
	}
	if len(key) == 0 {
		return "", nil, base.Errorf(base.KindUnsupported, "table %q has nothing that names its rows", name)
	}
	return string(table.Bytes), key, nil
}

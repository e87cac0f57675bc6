package trigger_test

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/capturetest"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/capture/trigger"
	"github.com/skeindb/skein/internal/choice"
	"github.com/skeindb/skein/internal/rowformat"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/sqltext"
	"github.com/skeindb/skein/internal/triggerformat"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, name string, role sqlite.Role) *sqlite.Conn {
	t.Helper()
	c, err := sqlite.OpenConn(context.Background(), filepath.Join(t.TempDir(), name), sqlite.ConnOptions{Role: role})
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	must(t, c.Exec("PRAGMA synchronous=OFF; PRAGMA journal_mode=WAL"))
	return c
}

// TestRandomHistories runs random statements on a plain connection and on one
// whose triggers send what was chosen at random. The statements must do the
// same on both; a replica that applies the row changes must be equal to the
// leader; and one that applies only what was sent must hold exactly the chosen
// rows and columns.
func TestRandomHistories(t *testing.T) {
	var sum tally
	n := capturetest.Histories(t, 60, func(t *testing.T, g *capturetest.Generator, log *capturetest.Log) {
		h := newHistory(t, g, log)
		h.run()
		sum.add(h.tally)
	})
	t.Logf("%+v", sum)
	if n >= 60 && (sum.Bodies < 3*n || sum.Compared < n || sum.Filtered < n/2 || sum.Taken < n || sum.Unordered > n/20) {
		t.Error("the histories do not try enough")
	}
}

// tally counts what histories have tried: bodies applied, transactions without
// schema changes after which partial copies were compared, tables in them with
// a condition, rows that were taken back, and histories that ended early.
type tally struct{ Ran, Failed, Bodies, Compared, Filtered, Taken, Unordered int }

func (t *tally) add(u tally) {
	t.Ran += u.Ran
	t.Failed += u.Failed
	t.Bodies += u.Bodies
	t.Compared += u.Compared
	t.Filtered += u.Filtered
	t.Taken += u.Taken
	t.Unordered += u.Unordered
}

type history struct {
	t        *testing.T
	g        *capturetest.Generator
	plain    *sqlite.Conn
	leader   *sqlite.Conn
	recorder *trigger.Recorder
	follower *sqlite.Conn
	applier  *row.Applier
	choices  map[string]choice.Choice
	partial  map[string]map[string]string // by table and key: the columns
	schemas  int
	log      *capturetest.Log
	tally    tally
	dead     bool

	unordered bool // the transaction has an UPDATE, whose rows have no order
	over      bool // the copies differ for a good reason
}

func newHistory(t *testing.T, g *capturetest.Generator, log *capturetest.Log) *history {
	h := &history{t: t, g: g, log: log, choices: make(map[string]choice.Choice)}
	h.plain, h.leader = open(t, "plain.db", sqlite.RoleWriter), open(t, "leader.db", sqlite.RoleWriter)
	h.follower = open(t, "follower.db", sqlite.RoleApplier)
	var err error
	h.recorder, err = trigger.NewRecorder(context.Background(), h.leader)
	must(t, err)
	t.Cleanup(h.recorder.Close)
	h.applier = row.NewApplier(h.follower)
	t.Cleanup(h.applier.Close)
	return h
}

func (h *history) run() {
	early := h.g.IntN(2) == 0
	if early {
		h.setUp()
	}
	h.transaction(func() {
		for _, i := range h.g.Perm(len(capturetest.Families))[:2+h.g.IntN(3)] {
			for _, sql := range capturetest.Families[i] {
				h.statement(sql)
			}
		}
	}, true)
	if !early {
		h.setUp()
	}
	schemaRate := max(0, h.g.IntN(4)-1)
	for range 10 {
		if h.t.Failed() || h.over {
			return
		}
		if h.g.IntN(3) == 0 {
			h.transaction(h.choose, true)
		}
		h.transaction(func() { h.steps(schemaRate) }, h.g.IntN(6) > 0)
	}
}

func (h *history) setUp() {
	h.transaction(func() {
		if !h.recorder.NeedsSetUp() {
			h.t.Error("the triggers were there before they were made")
		}
		must(h.t, h.recorder.SetUp())
	}, true)
}

// choose replaces what is sent of one table.
func (h *history) choose() {
	if len(h.g.Tables) == 0 {
		return
	}
	r := h.g.Tables[h.g.IntN(len(h.g.Tables))]
	c := choice.Choice{Table: r.Name, Key: h.recorder.KeyNames(r.Name)}
	_, names, err := row.ColumnNames(h.leader, r.Name)
	must(h.t, err)
	if len(names) > 0 && h.g.IntN(2) == 0 {
		for _, n := range names {
			if h.g.IntN(2) == 0 {
				c.Columns = append(c.Columns, n)
			}
		}
	}
	if h.g.IntN(3) > 0 {
		column := "NEW." + sqltext.QuoteName(r.Columns[h.g.IntN(len(r.Columns))])
		c.Where = fmt.Sprintf([]string{"%s > 3", "%s IS NOT NULL", "%s = 'a'", "%s <> 1 AND length(%[1]s) < 4", "coalesce(%s, 0) %% 2 = 0 OR %[1]s LIKE 'a%%'"}[h.g.IntN(5)], column)
	}
	must(h.t, c.Check())
	for _, tr := range c.Triggers() {
		h.leaderOnly("DROP TRIGGER IF EXISTS " + sqltext.QuoteName(tr.Name))
		h.leaderOnly(tr.SQL)
	}
	h.choices[r.Name] = c
}

func (h *history) leaderOnly(sql string) {
	h.log.Add(sql)
	if err := h.runOn(h.leader, h.recorder, sql); err != nil {
		h.t.Errorf("%s: %v", sql, err)
	}
}

func (h *history) transaction(steps func(), commit bool) {
	h.t.Helper()
	h.look()
	h.log.Add("BEGIN IMMEDIATE")
	must(h.t, h.plain.BeginImmediate())
	must(h.t, h.leader.BeginImmediate())
	mark := h.recorder.Mark()
	h.dead, h.unordered = false, false
	choices := maps.Clone(h.choices)
	steps()
	if h.t.Failed() {
		return
	}
	if h.dead || !commit {
		h.log.Add("ROLLBACK")
		must(h.t, h.plain.Rollback())
		must(h.t, h.leader.Rollback())
		h.recorder.Rewind(mark)
		h.choices = choices
		h.compareAll("after a rollback")
		return
	}
	h.commit(mark)
}

func (h *history) look() {
	h.g.Look(slices.DeleteFunc(capturetest.Relations(h.t, h.leader), func(r capturetest.Relation) bool { return strings.HasPrefix(r.Name, "_skein_") }))
}

func (h *history) commit(mark row.Mark) {
	h.log.Add("COMMIT")
	data, count, err := h.recorder.Take(mark)
	if err != nil {
		h.t.Errorf("take: %v", err)
		return
	}
	plainErr, err := h.plain.Commit(), h.leader.Commit()
	if (plainErr == nil) != (err == nil) {
		h.t.Errorf("commit: plain %v, captured %v", plainErr, err)
	}
	if (data == nil) != (count == 0) {
		h.t.Errorf("%d in a body of %d bytes", count, len(data))
	}
	if data != nil {
		body, err := triggerformat.Decode(data)
		must(h.t, err)
		if body.Count() != count {
			h.t.Errorf("%d in the body, %d told", body.Count(), count)
		}
		h.apply(&body)
	}
	h.compareAll("after a commit")
}

// apply applies a body to both copies.
func (h *history) apply(body *triggerformat.Body) {
	h.tally.Bodies++
	if body.Rows != nil {
		must(h.t, h.follower.BeginImmediate())
		if err := h.applier.Apply(body.Rows); err != nil {
			h.t.Errorf("apply: %v", err)
			return
		}
		must(h.t, h.follower.Commit())
	}
	if h.applier.SchemasApplied() != h.schemas {
		h.schemas = h.applier.SchemasApplied()
		h.partial = h.expected() // A partial replica takes a new copy.
		return
	}
	h.tally.Compared++
	for table, rows := range h.applySent(body) {
		if c := h.choices[table]; c.Where != "" {
			h.tally.Filtered++
		}
		h.tally.Taken += rows
	}
	want := h.expected()
	for table := range want {
		if d := differenceOf(want[table], h.partial[table]); d != "" {
			h.t.Errorf("what was sent of %q (%+v) differs:\n%s", table, h.choices[table], d)
		}
	}
}

// applySent applies what was sent, by key, and counts rows taken back by table.
func (h *history) applySent(body *triggerformat.Body) map[string]int {
	taken := make(map[string]int)
	rows := recordsOf(h.t, body.Rows)
	for _, s := range body.Sent {
		if s.Change > 0 {
			s = h.ofRow(&rows[s.Change-1])
		}
		key := joined(s.Key)
		if s.Op == triggerformat.Delete {
			delete(h.partial[s.Table], key)
			taken[s.Table]++
			continue
		}
		taken[s.Table] += 0
		columns := make([]string, 0, len(s.Columns))
		for _, c := range s.Columns {
			columns = append(columns, c.Name+"="+capturetest.Exact(c.Value))
		}
		if h.partial[s.Table] == nil {
			h.partial[s.Table] = make(map[string]string)
		}
		h.partial[s.Table][key] = strings.Join(columns, ", ")
	}
	return taken
}

func recordsOf(t *testing.T, rows []byte) (list []rowformat.Record) {
	if rows == nil {
		return nil
	}
	r, err := rowformat.NewReader(rows)
	must(t, err)
	for r.Next() {
		rec := *r.Record()
		rec.Old, rec.New = slices.Clone(rec.Old), slices.Clone(rec.New)
		list = append(list, rec)
	}
	must(t, r.Err())
	return list
}

func (h *history) ofRow(rec *rowformat.Record) triggerformat.Sent {
	s := triggerformat.Sent{Op: "update", Table: rec.Table.Name, Key: []base.Value{base.IntValue(rec.NewRowID)}}
	if !rec.Table.HasRowID() {
		s.Key = nil
		for _, k := range rec.Table.Key {
			s.Key = append(s.Key, rec.New[k])
		}
	}
	_, names, err := row.ColumnNames(h.leader, rec.Table.Name)
	must(h.t, err)
	for i, n := range names {
		s.Columns = append(s.Columns, triggerformat.Column{Name: n, Value: rec.New[i]})
	}
	return s
}

func joined(key []base.Value) string {
	var parts []string
	for _, v := range key {
		parts = append(parts, capturetest.Exact(v))
	}
	return strings.Join(parts, "|")
}

// expected is what is chosen, asked of the leader's tables.
func (h *history) expected() map[string]map[string]string {
	want := make(map[string]map[string]string)
	triggers := make(map[string]bool)
	for _, r := range capturetest.Select(h.t, h.leader, "SELECT tbl_name FROM sqlite_schema WHERE name LIKE 'skein\\_log\\_%' ESCAPE '\\' AND type = 'trigger'") {
		triggers[string(r[0].Bytes)] = true
	}
	for _, r := range capturetest.Relations(h.t, h.leader) {
		if !triggers[r.Name] {
			continue
		}
		c := h.choices[r.Name]
		key := h.recorder.KeyNames(r.Name)
		_, columns, err := row.ColumnNames(h.leader, r.Name)
		must(h.t, err)
		if c.Columns != nil {
			columns = c.Columns
		}
		where := ""
		if c.Where != "" {
			// In triggers the engine compares columns without their affinity, but
			// with their collation; a plus does the same to a column elsewhere.
			where = " WHERE " + strings.ReplaceAll(c.Where, "NEW.", "+NEW.")
		}
		var names []string
		for _, n := range key {
			if n != "rowid" && n != "_rowid_" && n != "oid" {
				n = sqltext.QuoteName(n)
			}
			names = append(names, n)
		}
		for _, n := range columns {
			names = append(names, sqltext.QuoteName(n))
		}
		want[r.Name] = make(map[string]string)
		for _, values := range capturetest.Select(h.t, h.leader, "SELECT "+strings.Join(names, ", ")+" FROM "+sqltext.QuoteName(r.Name)+" AS NEW"+where) {
			var shown []string
			for i, n := range columns {
				shown = append(shown, n+"="+capturetest.Exact(values[len(key)+i]))
			}
			want[r.Name][joined(values[:len(key)])] = strings.Join(shown, ", ")
		}
	}
	return want
}

func differenceOf(want, got map[string]string) string {
	var out []string
	for k, v := range want {
		if g, ok := got[k]; !ok || g != v {
			out = append(out, fmt.Sprintf("%.80s: want %.200q, got %.200q (%v)", k, v, g, ok))
		}
	}
	for k, v := range got {
		if _, ok := want[k]; !ok {
			out = append(out, fmt.Sprintf("%.80s: not wanted: %.200q", k, v))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func (h *history) steps(schemaRate int) {
	for range 1 + h.g.IntN(7) {
		if h.dead || h.t.Failed() || len(h.g.Tables) == 0 {
			return
		}
		if h.g.IntN(12) < schemaRate {
			h.statement(h.g.SchemaChange())
			h.look()
		} else {
			h.statement(h.g.Change())
		}
	}
}

// statement runs one statement on both; both fail or neither does.
func (h *history) statement(sql string) {
	h.t.Helper()
	h.log.Add(sql)
	err := h.runOn(h.leader, h.recorder, sql)
	if base.KindOf(err) == base.KindUnsupported || err != nil && strings.Contains(err.Error(), "skein_log_") {
		h.log.Note("refused: " + err.Error())
		return
	}
	plainErr := h.runOn(h.plain, nil, sql)
	if fmt.Sprint(plainErr) != fmt.Sprint(err) {
		h.t.Errorf("%s: plain %v, captured %v", sql, plainErr, err)
	}
	h.tally.Ran++
	h.unordered = h.unordered || strings.HasPrefix(sql, "UPDATE")
	if err != nil {
		h.tally.Failed++
		h.log.Note(err.Error())
	} else {
		h.followChoice(sql)
	}
	h.dead = !h.leader.InTransaction()
}

// followChoice keeps the book of choices when a table gets another name, or a
// column of it does.
func (h *history) followChoice(sql string) {
	upper := strings.ToUpper(sql)
	if !strings.HasPrefix(upper, "ALTER TABLE") && !strings.HasPrefix(upper, "DROP TABLE") {
		return
	}
	have := make(map[string]bool)
	for _, r := range capturetest.Relations(h.t, h.leader) {
		have[r.Name] = true
	}
	for name, c := range h.choices {
		if !have[name] {
			delete(h.choices, name)
			if i := strings.Index(upper, " RENAME TO "); i > 0 {
				to := sqltext.Unquote(strings.TrimSpace(sql[i+len(" RENAME TO "):]))
				c.Table = to
				h.choices[to] = c
			}
		}
	}
	if strings.Contains(upper, " RENAME COLUMN ") {
		// What is sent goes on under the old name; the test's book does not.
		h.choices = make(map[string]choice.Choice)
		for _, r := range capturetest.Select(h.t, h.leader, "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'skein\\_log\\_%' ESCAPE '\\'") {
			h.leaderOnly("DROP TRIGGER " + sqltext.QuoteName(string(r[0].Bytes)))
		}
	}
}

// runOn runs a client's statement in its savepoint, as a leader does.
func (h *history) runOn(c *sqlite.Conn, r *trigger.Recorder, sql string) error {
	var m row.Mark
	must(h.t, c.Exec("SAVEPOINT statement"))
	if r != nil {
		m = r.Mark()
	}
	err := step(c, r, sql)
	switch {
	case err == nil:
		must(h.t, c.Exec("RELEASE statement"))
	case c.InTransaction():
		must(h.t, c.Exec("ROLLBACK TO statement; RELEASE statement"))
	}
	if err != nil && r != nil {
		r.Rewind(m)
	}
	return err
}

func step(c *sqlite.Conn, r *trigger.Recorder, sql string) error {
	c.SetGuard(sqlite.GuardAdmin | sqlite.AllowSavepoint)
	defer c.SetGuard(sqlite.GuardOwn)
	s, err := c.Prepare(sql)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Run(); err != nil || r == nil {
		return err
	}
	return r.Statement(s.Info(), sql)
}

// compareAll compares the leader with the full replica and with the plain copy.
func (h *history) compareAll(when string) {
	h.t.Helper()
	own := func(line string) bool {
		return strings.HasPrefix(line, "_skein_") || strings.HasPrefix(line, "table _skein_")
	}
	leader := slices.DeleteFunc(capturetest.Dump(h.t, h.leader), own)
	if d := capturetest.Difference(leader, slices.DeleteFunc(capturetest.Dump(h.t, h.follower), own)); d != "" {
		h.t.Errorf("%s, the full replica differs:\n%s", when, d)
	}
	rows := func(line string) bool {
		return strings.HasPrefix(line, "sqlite_stat") || strings.HasPrefix(line, "trigger ") || strings.HasPrefix(line, "view ")
	}
	d := capturetest.Difference(slices.DeleteFunc(capturetest.Dump(h.t, h.plain), rows), slices.DeleteFunc(leader, rows))
	switch {
	case d == "":
	case h.unordered:
		// Which of two rows an UPDATE makes collide first is the engine's choice,
		// and another when there are triggers.
		h.over = true
		h.tally.Unordered++
	default:
		h.t.Errorf("%s, the triggers have changed what statements do:\n%s", when, d)
	}
}

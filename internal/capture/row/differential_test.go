package row_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/capturetest"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/sqlite"
)

// TestRandomHistories runs the same random statements on a plain connection
// and on a captured one, applies what was captured to a copy, and compares all
// three; then it undoes what can be undone.
func TestRandomHistories(t *testing.T) {
	var sum tally
	n := capturetest.Histories(t, 80, func(t *testing.T, g *capturetest.Generator, log *capturetest.Log) {
		h := newHistory(t, g, log)
		h.run()
		sum.add(h.tally)
	})
	t.Logf("%d statements ran, %d failed; %d bodies applied, %d undone", sum.ran, sum.failed, sum.applied, sum.undone)
	if n >= 80 && (sum.failed > sum.ran || sum.failed < sum.ran/20 || sum.applied < 3*n || sum.undone < n) {
		t.Error("the histories do not try enough")
	}
}

// tally counts what histories have tried.
type tally struct{ ran, failed, applied, undone int }

func (t *tally) add(u tally) {
	t.ran += u.ran
	t.failed += u.failed
	t.applied += u.applied
	t.undone += u.undone
}

// history is one random run. Its states are dumps: states[i] before bodies[i].
type history struct {
	t      *testing.T
	g      *capturetest.Generator
	plain  *sqlite.Conn
	p      *pairOf
	log    *capturetest.Log
	bodies [][]byte
	states [][]string
	last   []string // the follower as it is

	tally tally
	saved []save // open savepoints of the client
	dead  bool   // the engine rolled everything back
}

type save struct {
	name string
	mark row.Mark
}

func newHistory(t *testing.T, g *capturetest.Generator, log *capturetest.Log) *history {
	h := &history{t: t, g: g, log: log, p: newPair(t)}
	h.plain = open(t, filepath.Join(t.TempDir(), "plain.db"), sqlite.RoleWriter)
	return h
}

func (h *history) run() {
	var setup []string
	for _, i := range h.g.Perm(len(capturetest.Families))[:2+h.g.IntN(3)] {
		setup = append(setup, capturetest.Families[i]...)
	}
	h.transaction(func() {
		for _, sql := range setup {
			h.statement(sql)
		}
	}, true)
	schemaRate := max(0, h.g.IntN(4)-1) // some histories have no schema changes, so that long tails can be undone
	for range 8 {
		if h.t.Failed() {
			return
		}
		h.transaction(func() { h.steps(schemaRate) }, h.g.IntN(6) > 0)
	}
	if !h.t.Failed() {
		h.checkIndexes(h.p.follower)
		h.undo()
	}
}

// transaction runs steps on both databases and ships what came of them.
func (h *history) transaction(steps func(), commit bool) {
	h.t.Helper()
	h.g.Look(capturetest.Relations(h.t, h.p.leader))
	h.log.Add("BEGIN IMMEDIATE")
	must(h.t, h.plain.BeginImmediate())
	must(h.t, h.p.leader.BeginImmediate())
	mark := h.p.recorder.Mark()
	h.saved, h.dead = nil, false
	steps()
	if h.t.Failed() {
		return
	}
	if h.dead || !commit {
		h.log.Add("ROLLBACK")
		if commit || h.g.IntN(2) == 0 {
			_, _, err := h.p.recorder.Take(mark) // A COMMIT that fails comes after Take.
			must(h.t, err)
		}
		must(h.t, h.plain.Rollback())
		must(h.t, h.p.leader.Rollback())
		h.p.recorder.Rewind(mark)
		h.compare(capturetest.Dump(h.t, h.plain), capturetest.Dump(h.t, h.p.leader), "after a rollback, the captured connection")
		return
	}
	h.commit(mark)
}

func (h *history) commit(mark row.Mark) {
	h.log.Add("COMMIT")
	body, changes, err := h.p.recorder.Take(mark)
	if err != nil {
		h.t.Errorf("take: %v", err)
		return
	}
	plainErr, err := h.plain.Commit(), h.p.leader.Commit()
	if (plainErr == nil) != (err == nil) {
		h.t.Errorf("commit: plain %v, captured %v", plainErr, err)
		return
	}
	if (body == nil) != (changes == 0) {
		h.t.Errorf("%d changes in a body of %d bytes", changes, len(body))
	}
	if body != nil {
		must(h.t, h.p.follower.BeginImmediate())
		if err := h.p.applier.Apply(body); err != nil {
			h.t.Errorf("apply: %v", err)
			return
		}
		must(h.t, h.p.follower.Commit())
		h.tally.applied++
		h.bodies, h.states = append(h.bodies, slices.Clone(body)), append(h.states, h.last)
	}
	leader := capturetest.Dump(h.t, h.p.leader)
	h.last = capturetest.Dump(h.t, h.p.follower)
	h.compare(leader, h.last, "the follower")
	// ANALYZE takes tables in the order of a hash table, which a refused statement shuffles.
	plain := slices.DeleteFunc(capturetest.Dump(h.t, h.plain), isStatistics)
	h.compare(plain, slices.DeleteFunc(leader, isStatistics), "the captured connection")
}

func (h *history) compare(want, got []string, who string) {
	h.t.Helper()
	if d := capturetest.Difference(want, got); d != "" {
		h.t.Errorf("%s differs:\n%s", who, d)
	}
}

func isStatistics(line string) bool { return strings.HasPrefix(line, "sqlite_stat") }

func (h *history) steps(schemaRate int) {
	for range 1 + h.g.IntN(7) {
		switch n := h.g.IntN(12); {
		case h.dead || h.t.Failed() || len(h.g.Tables) == 0:
			return
		case n == 0:
			h.savepoint()
		case n == 1 && len(h.saved) > 0:
			h.rollbackTo()
		case n == 2 && len(h.saved) > 0:
			h.both("RELEASE " + h.saved[len(h.saved)-1].name)
			h.saved = h.saved[:len(h.saved)-1]
		case n > 2 && n <= 2+schemaRate:
			h.statement(h.g.SchemaChange())
			h.g.Look(capturetest.Relations(h.t, h.p.leader))
		default:
			h.statement(h.g.Change())
		}
	}
}

// statement runs one statement on both; both fail or neither does.
func (h *history) statement(sql string) {
	h.t.Helper()
	h.log.Add(sql)
	err := run(h.p.leader, h.p.recorder, sql)
	if base.KindOf(err) == base.KindUnsupported {
		h.log.Note("refused: " + err.Error())
		return
	}
	plainErr := run(h.plain, nil, sql)
	if fmt.Sprint(plainErr) != fmt.Sprint(err) {
		h.t.Errorf("%s: plain %v, captured %v", sql, plainErr, err)
	}
	h.tally.ran++
	if err != nil {
		h.tally.ran--
		h.tally.failed++
		h.log.Note(err.Error())
	}
	h.dead = !h.p.leader.InTransaction()
}

func (h *history) both(sql string) {
	h.log.Add(sql)
	must(h.t, h.plain.Exec(sql))
	must(h.t, h.p.leader.Exec(sql))
}

// savepoint opens a savepoint of the client's. The mark may be set on either
// side of it.
func (h *history) savepoint() {
	s := save{name: fmt.Sprintf("s%d", len(h.saved))}
	if h.g.IntN(2) == 0 {
		s.mark = h.p.recorder.Mark()
		h.both("SAVEPOINT " + s.name)
	} else {
		h.both("SAVEPOINT " + s.name)
		s.mark = h.p.recorder.Mark()
	}
	h.saved = append(h.saved, s)
}

func (h *history) rollbackTo() {
	n := h.g.IntN(len(h.saved))
	h.both("ROLLBACK TO " + h.saved[n].name)
	h.p.recorder.Rewind(h.saved[n].mark)
	h.saved = h.saved[:n+1]
	h.g.Look(capturetest.Relations(h.t, h.p.leader))
}

// checkIndexes looks for rows that an index does not know, and the reverse. It
// asks a connection of its own: full-text tables of the one that applies rows
// remember what they have read.
func (h *history) checkIndexes(applier *sqlite.Conn) {
	h.t.Helper()
	path := string(capturetest.Select(h.t, applier, "PRAGMA database_list")[0][2].Bytes)
	c := open(h.t, path, sqlite.RoleTool)
	for _, r := range capturetest.Select(h.t, c, "PRAGMA integrity_check") {
		if string(r[0].Bytes) != "ok" && !strings.HasPrefix(string(r[0].Bytes), "NULL value in") && !strings.HasPrefix(string(r[0].Bytes), "CHECK constraint") {
			h.t.Errorf("integrity: %s", r[0].Bytes)
		}
	}
}

// undo takes bodies back on the follower, and on the leader's own file as a
// deposed leader does, until one cannot be.
func (h *history) undo() {
	h.p.recorder.Close()
	path := string(capturetest.Select(h.t, h.p.leader, "PRAGMA database_list")[0][2].Bytes)
	deposed := open(h.t, path, sqlite.RoleApplier)
	old := row.NewApplier(deposed)
	defer old.Close()
	for i := len(h.bodies) - 1; i >= 0 && !h.t.Failed(); i-- {
		err := h.undoOn(h.p.follower, h.p.applier, i)
		if other := h.undoOn(deposed, old, i); (err == nil) != (other == nil) {
			h.t.Errorf("undo of body %d: follower %v, leader %v", i, err, other)
		}
		if err != nil {
			if !errors.Is(err, row.ErrNotInvertible) {
				h.t.Errorf("undo of body %d: %v", i, err)
			}
			return
		}
		h.tally.undone++
	}
}

func (h *history) undoOn(c *sqlite.Conn, a *row.Applier, i int) error {
	must(h.t, c.BeginImmediate())
	err := a.Undo(h.bodies[i])
	must(h.t, c.Commit()) // also after an error: nothing must have been changed
	want := h.states[i]
	if err != nil {
		if i+1 == len(h.states) {
			return err
		}
		want = h.states[i+1]
	}
	if d := capturetest.Difference(want, capturetest.Dump(h.t, c)); d != "" {
		h.t.Errorf("undo of body %d (%v) differs:\n%s", i, err, d)
	}
	if err == nil {
		h.checkIndexes(c)
	}
	return err
}

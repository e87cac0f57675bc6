package sqlite_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/sqlite"
)

// The tests of this file pin facts of the engine that a leader relies on when
// it runs the statements of many clients in one transaction.

// inGroup runs a statement in its own savepoint within a transaction that has
// changed one row already, and returns its error.
func inGroup(t *testing.T, c *sqlite.Conn, sql string) error {
	t.Helper()
	must(t, c.BeginImmediate())
	must(t, run(c, "INSERT INTO t VALUES(1)"))
	must(t, run(c, "SAVEPOINT s"))
	return run(c, sql)
}

const uniqueTable = "CREATE TABLE t(a UNIQUE); CREATE TABLE log(a);"

func TestAbortUndoesItsStatementOnly(t *testing.T) {
	c := newConn(t, uniqueTable)
	captured := 0
	c.OnPreUpdate(func(sqlite.PreUpdate) { captured++ })
	before := c.TotalChanges()
	err := inGroup(t, c, "INSERT INTO t VALUES(2),(3),(1),(4)")
	if base.AsError(err).State() != "23505" || !c.InTransaction() {
		t.Fatalf("%v, in transaction: %v", err, c.InTransaction())
	}
	if n := count(t, c, "t"); n != 1 {
		t.Errorf("%d rows, want the first only", n)
	}
	if d := c.TotalChanges() - before; d != 1 {
		t.Errorf("TotalChanges rose by %d, want 1: rows of a failed statement do not count", d)
	}
	if captured < 3 {
		t.Errorf("hook fired %d times: it must fire for rows that are undone", captured)
	}
	must(t, run(c, "RELEASE s"))
	must(t, c.Commit())
}

func TestOrFailLeavesRows(t *testing.T) {
	c := newConn(t, uniqueTable)
	before := c.TotalChanges()
	err := inGroup(t, c, "INSERT OR FAIL INTO t VALUES(2),(3),(1),(4)")
	if base.AsError(err).State() != "23505" || !c.InTransaction() {
		t.Fatalf("%v, in transaction: %v", err, c.InTransaction())
	}
	if n := count(t, c, "t"); n != 3 {
		t.Errorf("%d rows, want 3: OR FAIL keeps what came before the error", n)
	}
	if d := c.TotalChanges() - before; d != 3 {
		t.Errorf("TotalChanges rose by %d, want 3", d)
	}
	must(t, run(c, "ROLLBACK TO s"))
	if n := count(t, c, "t"); n != 1 {
		t.Errorf("%d rows after ROLLBACK TO, want 1", n)
	}
}

func TestOrRollbackEndsTheTransaction(t *testing.T) {
	c := newConn(t, uniqueTable+"CREATE TRIGGER g BEFORE DELETE ON t BEGIN SELECT RAISE(ROLLBACK, 'no'); END;"+
		"CREATE TRIGGER f BEFORE UPDATE ON t BEGIN SELECT RAISE(ABORT, 'not so'); END")
	for _, sql := range []string{"INSERT OR ROLLBACK INTO t VALUES(2),(1)", "DELETE FROM t"} {
		if err := inGroup(t, c, sql); err == nil || c.InTransaction() {
			t.Errorf("%s: %v, in transaction: %v; want the whole transaction gone", sql, err, c.InTransaction())
		}
		if n := count(t, c, "t"); n != 0 {
			t.Errorf("%s: %d rows, want none", sql, n)
		}
	}
	err := inGroup(t, c, "UPDATE t SET a=5")
	if e := base.AsError(err); e.State() != "23000" || e.Message != "not so" || !c.InTransaction() {
		t.Errorf("RAISE(ABORT): %v", err)
	}
}

func TestDeferredForeignKeyFailsTheCommit(t *testing.T) {
	c := newConn(t, "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(p REFERENCES p DEFERRABLE INITIALLY DEFERRED)")
	must(t, c.Begin())
	must(t, run(c, "SAVEPOINT s"))
	must(t, run(c, "INSERT INTO c VALUES(1)"))
	must(t, run(c, "RELEASE s")) // not found out here
	if err := c.Commit(); base.AsError(err).State() != "23503" || !c.InTransaction() {
		t.Errorf("%v, in transaction: %v; want it still open", err, c.InTransaction())
	}
	must(t, c.Rollback())
	if c.InTransaction() {
		t.Error("still open after ROLLBACK")
	}
}

// slow counts far enough to be interrupted.
const slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<1000000000) "

func TestInterruptedWriteEndsTheTransaction(t *testing.T) {
	c := newConn(t, uniqueTable)
	ctx, cancel := context.WithCancelCause(context.Background())
	must(t, c.BeginImmediate())
	must(t, run(c, "INSERT INTO t VALUES(1)"))
	must(t, run(c, "SAVEPOINT s"))
	c.SetInterrupt(ctx)
	time.AfterFunc(5*time.Millisecond, func() { cancel(nil) })
	err := run(c, slow+"INSERT INTO log SELECT i FROM n")
	if base.KindOf(err) != base.KindCanceled {
		t.Errorf("got %v, want canceled", err)
	}
	if c.InTransaction() {
		t.Error("the transaction is still open")
	}
	c.SetInterrupt(context.Background())
	if n := count(t, c, "t"); n != 0 {
		t.Errorf("%d rows, want none: an interrupted write undoes the whole transaction, savepoints notwithstanding", n)
	}
}

func TestInterruptedReadLeavesTheTransaction(t *testing.T) {
	c := newConn(t, uniqueTable)
	must(t, c.BeginImmediate())
	must(t, run(c, "INSERT INTO t VALUES(1)"))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
	defer cancel()
	c.SetInterrupt(ctx)
	if err := run(c, slow+"SELECT count(*) FROM n"); base.KindOf(err) != base.KindTimeout {
		t.Errorf("got %v, want timeout", err)
	}
	if !c.InTransaction() {
		t.Error("the transaction is gone")
	}
	if err := run(c, "SELECT 1"); base.KindOf(err) != base.KindTimeout {
		t.Errorf("before it is cleared: %v, want timeout", err)
	}
	c.SetInterrupt(context.Background())
	must(t, c.Commit())
	if n := count(t, c, "t"); n != 1 {
		t.Errorf("%d rows, want 1", n)
	}
}

// A context that has ended already refuses the next statement before the
// engine sees it, so the transaction stands.
func TestInterruptBetweenStatementsLeavesTheTransaction(t *testing.T) {
	c := newConn(t, uniqueTable)
	must(t, c.BeginImmediate())
	must(t, run(c, "INSERT INTO t VALUES(1)"))
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(base.Errorf(base.KindShutdown, "stopping"))
	c.SetInterrupt(ctx)
	if err := run(c, "INSERT INTO t VALUES(2)"); base.KindOf(err) != base.KindShutdown {
		t.Errorf("got %v, want the context's own cause", err)
	}
	if !c.InTransaction() {
		t.Error("the transaction is gone")
	}
	must(t, c.Rollback()) // works although it is interrupted
	if c.InTransaction() {
		t.Error("not rolled back")
	}
}

func TestSavepointUndoesSchemaChanges(t *testing.T) {
	c := newConn(t, "")
	must(t, c.BeginImmediate())
	must(t, run(c, "SAVEPOINT s"))
	must(t, run(c, "CREATE TABLE x(a)"))
	must(t, run(c, "ROLLBACK TO s"))
	if _, err := c.Prepare("SELECT * FROM x"); base.AsError(err).State() != "42P01" {
		t.Errorf("got %v", err)
	}
}

// Commit fails while a writing statement is unfinished, so that rows of a
// RETURNING clause must be read to the end first.
func TestReturningMustBeReadToItsEnd(t *testing.T) {
	c := newConn(t, uniqueTable)
	must(t, c.BeginImmediate())
	s, err := c.Prepare("INSERT INTO t VALUES(1),(2) RETURNING a")
	must(t, err)
	row, err := s.Step()
	if !row || err != nil {
		t.Fatal(row, err)
	}
	if n := count(t, c, "t"); n != 2 {
		t.Errorf("%d rows at the first step: all changes are made before the first row", n)
	}
	if err := c.Commit(); base.KindOf(err) != base.KindBusy || !c.InTransaction() {
		t.Errorf("commit with rows unread: %v", err)
	}
	s.Close()
	must(t, c.Commit())
	if n := count(t, c, "t"); n != 2 {
		t.Errorf("%d rows", n)
	}
}

func TestOutOfMemoryBreaksTheConnectionOnly(t *testing.T) {
	c, err := sqlite.OpenConn(context.Background(), t.TempDir()+"/t.db", sqlite.ConnOptions{
		TempInMemory: true, Limits: sqlite.Limits{MemoryMiB: 16}})
	must(t, err)
	err = run(c, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<100) SELECT randomblob(1000000) AS b, i FROM n ORDER BY b")
	if base.KindOf(err) != base.KindTooLarge || !c.Broken() {
		t.Errorf("got %v, broken: %v", err, c.Broken())
	}
	if err := run(c, "SELECT 1"); base.KindOf(err) != base.KindUnavailable {
		t.Errorf("afterwards: %v", err)
	}
	must(t, c.Close())
}

func TestDiskFullIsKnown(t *testing.T) {
	c := newConn(t, "CREATE TABLE t(a); PRAGMA max_page_count=20")
	must(t, c.BeginImmediate())
	must(t, run(c, "SAVEPOINT s"))
	err := run(c, "INSERT INTO t VALUES(zeroblob(200000))")
	if base.KindOf(err) != base.KindDiskFull || sqlite.IsFatal(err) {
		t.Errorf("got %v", err)
	}
	if c.InTransaction() {
		t.Error("a full disk ends the transaction of a statement without a journal")
	}
	must(t, c.Rollback())
	if e, ok := errors.AsType[*base.Error](err); !ok || e.State() != "53100" {
		t.Errorf("got %v", err)
	}
}

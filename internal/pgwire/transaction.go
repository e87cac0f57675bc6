package pgwire

import (
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/session"
)

// blockState is where the client's transaction block stands in its own eyes.
// It differs from the session's state after an error, which fails the whole
// block in PostgreSQL and one statement in SQLite.
type blockState uint8

const (
	blockNone blockState = iota
	blockOpen
	blockFailed // until ROLLBACK or COMMIT
)

// status is what ReadyForQuery says.
func (c *conn) status() byte {
	switch c.block {
	case blockOpen:
		return byte(session.TxActive)
	case blockFailed:
		return byte(session.TxFailed)
	}
	return byte(session.TxIdle)
}

// follow takes over what a statement that succeeded did to the transaction.
func (c *conn) follow() {
	switch st := c.sess.TxStatus(); {
	case c.implicit:
	case st == session.TxIdle && c.block != blockNone:
		c.ended()
	case st == session.TxActive:
		c.block = blockOpen
	case st == session.TxFailed:
		c.block = blockFailed
	}
}

// ended forgets what lives as long as a transaction.
func (c *conn) ended() {
	c.block, c.implicit, c.readOnly, c.savepoints = blockNone, false, false, nil
	c.closePortals()
	if c.settings.local != nil {
		c.endLocal()
	}
}

// begin carries out BEGIN and START TRANSACTION.
func (c *conn) begin(st *statement) error {
	if c.block != blockNone {
		c.notice("WARNING", "25001", "there is already a transaction in progress", "", "")
		return nil
	}
	if !c.implicit {
		if _, err := c.control(st.sql); err != nil {
			return err
		}
	}
	c.implicit, c.block, c.readOnly = false, blockOpen, st.readOnly
	return nil
}

// commit carries out COMMIT and END. A failed block is rolled back, and the
// tag says so; so is one whose COMMIT fails, as the client expects.
func (c *conn) commit() (tag string, err error) {
	if c.block == blockFailed {
		return "ROLLBACK", c.rollback()
	}
	if c.block == blockNone && !c.implicit {
		c.notice("WARNING", "25P01", "there is no transaction in progress", "", "")
		return "COMMIT", nil
	}
	c.closePortals()
	result, err := c.control("COMMIT")
	if err != nil {
		if again := c.rollback(); again != nil {
			c.s.env.Log.Warn("roll back after a failed commit", "user", c.user, "error", again)
		}
		return "", err
	}
	c.committed(result)
	c.ended()
	return "COMMIT", nil
}

// rollback carries out ROLLBACK.
func (c *conn) rollback() error {
	if c.block == blockNone && !c.implicit {
		c.notice("WARNING", "25P01", "there is no transaction in progress", "", "")
		return nil
	}
	c.closePortals()
	var err error
	if c.sess.TxStatus() != session.TxIdle {
		_, err = c.control("ROLLBACK")
	}
	c.ended()
	return err
}

// beginImplicit opens a transaction around several statements that the client
// sent as one, when it has none of its own.
func (c *conn) beginImplicit() error {
	if c.implicit || c.block != blockNone {
		return nil
	}
	if _, err := c.control("BEGIN"); err != nil {
		return err
	}
	c.implicit = true
	return nil
}

// endImplicit commits it.
func (c *conn) endImplicit() error {
	if !c.implicit {
		return nil
	}
	_, err := c.commit()
	return err
}

// abandon rolls it back after an error that has been told.
func (c *conn) abandon() {
	if err := c.rollback(); err != nil {
		c.s.env.Log.Warn("roll back an implicit transaction", "user", c.user, "error", err)
	}
}

// control runs a statement without rows at the session.
func (c *conn) control(sql string) (session.Result, error) {
	if err := c.park(); err != nil {
		return session.Result{}, err
	}
	rows, err := c.sess.Query(c.ctx, sql, nil)
	if err != nil {
		return session.Result{}, err
	}
	return drain(rows)
}

// drain reads rows to their end and closes them.
func drain(rows session.Rows) (session.Result, error) {
	for rows.Next() {
	}
	err := rows.Err()
	if closed := rows.Close(); err == nil {
		err = closed
	}
	return rows.Result(), err
}

// committed tells the client when a commit is less durable than was asked.
func (c *conn) committed(r session.Result) {
	if r.Degraded {
		c.notice("WARNING", "01000", "the commit is less durable than was asked",
			"asked: "+r.Asked.String()+"; reached: "+r.Reached, "SHOW skein.reached tells it again; fewer replicas take part than the policy wants")
	}
}

// reportToken tells a client that asked for it what it has seen.
func (c *conn) reportToken() {
	if !c.settings.report || c.block != blockNone {
		return
	}
	token, err := c.sess.Show(c.ctx, "skein.token")
	if err != nil || token == c.reported {
		return
	}
	c.reported = token
	c.reportSetting("skein.token", token)
}

// reportStandby tells a client when this node begins or ceases to lead, as a
// standby of PostgreSQL's does when it is promoted.
func (c *conn) reportStandby() {
	if now := c.standby(); now != c.settings.initial["in_hot_standby"] {
		c.settings.initial["in_hot_standby"] = now
		c.reportSetting("in_hot_standby", now)
	}
}

// standby is what clients that look for a server of one kind among several go
// by. A node that follows is a standby to them, although it would take their
// writes and forward them.
func (c *conn) standby() string { return onOff(!c.sess.Leads()) }

func (c *conn) reportSetting(name, value string) {
	c.out.send(&pgproto3.ParameterStatus{Name: name, Value: clean(value)})
}

// mayRun refuses what the state of the transaction does not allow.
func (c *conn) mayRun(st *statement) error {
	if c.block == blockFailed && !st.endsBlock() {
		return pgError("25P02", "current transaction is aborted, commands ignored until end of transaction block")
	}
	if (c.readOnly || c.readOnlyByDefault()) && st.writes() {
		return &base.Error{Kind: base.KindForbidden, SQLState: "25006", Message: "cannot execute " + st.desc.Tag + " in a read-only transaction"}
	}
	return nil
}

package pgwire

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// A client that is given several servers finds the one that it wants by what
// pgx and libpq ask: a node that follows is a standby.
func TestTargetSessionAttributes(t *testing.T) {
	leader, follower := serve(t, Options{TrustLoopback: true}), serve(t, Options{TrustLoopback: true})
	follower.gateway.follows.Store(true)
	for want, server := range map[string]*served{
		"read-write": leader, "primary": leader, "read-only": follower, "standby": follower, "prefer-standby": follower, "any": follower,
	} {
		c, err := pgx.Connect(context.Background(), fmt.Sprintf("postgres://alice@127.0.0.1:%d,127.0.0.1:%d/main?sslmode=disable&target_session_attrs=%s",
			follower.port, leader.port, want))
		if err != nil {
			t.Errorf("%s: %v", want, err)
			continue
		}
		if at := c.PgConn().Conn().RemoteAddr(); at.(*net.TCPAddr).Port != server.port {
			t.Errorf("%s: connected to %v, want port %d", want, at, server.port)
		}
		c.Close(context.Background())
	}
}

// A connection survives that its node begins or ceases to lead, is told so, and
// writes all the time: a follower forwards.
func TestStandbyIsReported(t *testing.T) {
	s := serve(t, Options{TrustLoopback: true})
	s.gateway.follows.Store(true)
	c := s.connect(t, pgx.QueryExecModeSimpleProtocol)
	mustExec(t, c, "create table t(x)")
	for i, follows := range []bool{true, false, true} {
		s.gateway.follows.Store(follows)
		mustExec(t, c, "insert into t values(1)")
		want := map[bool]string{true: "on", false: "off"}[follows]
		var shown, hot string
		var recovering bool
		var count int
		for sql, into := range map[string]any{
			"show transaction_read_only": &shown, "show in_hot_standby": &hot,
			"select pg_catalog.pg_is_in_recovery()": &recovering, "select count(*) from t": &count,
		} {
			if err := c.QueryRow(context.Background(), sql).Scan(into); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
		}
		if told := c.PgConn().ParameterStatus("in_hot_standby"); told != want || shown != want || hot != want || recovering != follows || count != i+1 {
			t.Errorf("follows %v: told %s, transaction_read_only %s, in_hot_standby %s, recovering %v; %d rows", follows, told, shown, hot, recovering, count)
		}
		if c.PgConn().ParameterStatus("default_transaction_read_only") != "off" {
			t.Error("a follower takes writes; its default is not read-only")
		}
	}
	// What the client itself sets is not mixed up with it.
	mustExec(t, c, "begin")
	mustExec(t, c, "set local transaction_read_only = off")
	mustExec(t, c, "commit")
	mustExec(t, c, "insert into t values(1)")
	mustExec(t, c, "set transaction_read_only = on")
	if _, err := c.Exec(context.Background(), "insert into t values(1)"); err == nil || !strings.Contains(err.Error(), "25006") {
		t.Errorf("a write in a read-only transaction: %v", err)
	}
}

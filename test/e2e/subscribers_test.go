package e2e

import (
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/httpapi"
)

// told are the events that a webhook was delivered, for people: each when it came
// first, which must be in the order of positions.
func (s *hookServer) told(t *testing.T) (list []string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[string]string{}
	var last base.Position
	for line := range strings.Lines(s.output.String()) {
		e := changeOf(t, line)
		text := plain(e)
		if before, again := seen[e.ID]; again {
			if before != text {
				t.Errorf("%s was %s and is %s", e.ID, before, text)
			}
			continue
		}
		at, err := base.ParsePosition(e.Source.LSN)
		if err != nil || !last.Less(at) || e.ID != e.Source.LSN {
			t.Errorf("%s comes behind %s: %v", line, last, err)
		}
		seen[e.ID], last = text, at
		list = append(list, text)
	}
	return list
}

// What a subscriber is told does not depend on the format of the log: a webhook,
// whose destination fails at times, and the streams of the leader and of followers
// tell every change of a row, with the row before and after, through a failover.
func TestSubscribersInEveryFormat(t *testing.T) {
	full(t)
	tool(t, "psql")
	c := startCluster(t, 3)
	n := c.nodes[0]
	n.mustPsql("main", `create table account(id integer primary key, name text, balance); create table audit(what, whom);
		create trigger audited after update of balance on account begin insert into audit values ('balance', new.id)\; end;`)
	for _, format := range append(formats[:3:3], "row") {
		c.format("main", format)
		hook := &hookServer{t: t}
		server := httptest.NewServer(hook)
		defer server.Close()
		mustRun(t, n.url(), "cdc", "webhook", "add", "main", format, server.URL)
		tails := map[string]*child{}
		for _, n := range c.nodes {
			tails[n.name] = start(t, "tail", n.url(), "cdc", "tail", "main", "--now", "--json", "--heartbeat", "100ms")
			n.streams("main")
		}
		n.mustPsql("main", `begin; insert into account values (1, 'ann', 10), (2, 'bob', 20); update account set balance = 5 where id = 1; commit;
			replace into account values (2, 'robert', 21); update account set id = 7 where id = 1; delete from account where id = 2;
			begin; update account set balance = 0 where id = 7; select skein_emit('closed', 'account', 'id', 7, 'was', 5); commit;`)
		want := []string{
			"c account id=1,name=ann,balance=10", "c account id=2,name=bob,balance=20",
			"u account id=1,name=ann,balance=10 > id=1,name=ann,balance=5", "c audit what=balance,whom=1",
			"d account id=2,name=bob,balance=20 > ", "c account id=2,name=robert,balance=21",
			"u account id=1,name=ann,balance=5 > id=7,name=ann,balance=5", "d account id=2,name=robert,balance=21 > ",
			"u account id=7,name=ann,balance=5 > id=7,name=ann,balance=", "c audit what=balance,whom=7", "mclosed account id=7,was=5",
			"u account id=7,name=ann,balance= > id=7,name=anna,balance=", "d account id=7,name=anna,balance= > ",
			"d audit what=balance,whom=7 > ", "d audit what=balance,whom=1 > ",
		}
		if format != "trigger" { // In others skein_emit does nothing.
			want = slices.DeleteFunc(want, func(s string) bool { return strings.HasPrefix(s, "mclosed") })
		}
		compare := func(who string, told func() []string, want []string) {
			t.Helper()
			var got []string
			eventually(t, patience, who+" in format "+format, func() error {
				if got = told(); len(got) < len(want) {
					return fmt.Errorf("it was told\n%s", strings.Join(got, "\n"))
				}
				return nil
			})
			if !slices.Equal(got, want) {
				t.Errorf("in format %s %s was told\n%s\nwant\n%s", format, who, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
		all := func(want []string) {
			t.Helper()
			compare("the webhook", func() []string { return hook.told(t) }, want)
			for _, n := range c.nodes {
				compare("a stream of "+n.name, func() []string { return stories(t, tails[n.name]) }, want)
			}
		}
		all(want[:len(want)-4])
		old := c.leader("main")
		c.equal("main", 3)
		old.kill()
		c.others(old)[0].mustPsql("main", "update account set name = 'anna'; delete from account; delete from audit where whom = 7; delete from audit;")
		old.start()
		c.whole("main")
		all(want)
		for _, tail := range tails {
			tail.kill()
		}
		mustRun(t, n.url(), "cdc", "webhook", "drop", "main", format)
		if t.Failed() {
			t.FailNow()
		}
	}
}

// streams waits until somebody other than a webhook reads a node's stream.
func (n *node) streams(database string) {
	n.t.Helper()
	eventually(n.t, patience, "a reader at "+n.name, func() error {
		d, err := n.database(database)
		if err != nil {
			return err
		}
		for _, r := range d.Replicas {
			if r.NodeName == n.name && slices.ContainsFunc(r.Consumers, func(c httpapi.ConsumerStatus) bool { return !strings.HasPrefix(c.Name, "webhook ") }) {
				return nil
			}
		}
		return errNobody
	})
}
